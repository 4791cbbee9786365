"""Windows: none over the budget, calls and results together, every turn trained once or counted."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.distill.windows import (
    _PRINTED,
    _TASKS,
    NO_ROOM,
    NOTHING_TO_TRAIN,
    TOO_LARGE,
    Tokens,
    Windows,
    shortened,
    windows,
)
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import check_message

Message = dict[str, Any]
Row = dict[str, Any]
ESTIMATE = Tokens.estimate()


class Heavier(Tokens):
    """A template that writes half as much again as the parts let one think, and something at the start."""

    is_estimate = False

    def whole(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> int:
        return super().whole(messages, tools) * 3 // 2 + 5


def user(text: str, **more: Any) -> Message:
    return {"role": "user", "content": text, **more}


def step(number: int, output: int = 200, calls: int = 1, **more: Any) -> list[Message]:
    """An answer with calls, and their results of so many letters."""
    made = [
        {"id": f"c{number}.{k}", "type": "function", "function": {"name": "run", "arguments": {"n": number}}}
        for k in range(calls)
    ]
    results = [
        {"role": "tool", "content": "0123456789abcde\n" * (output // 16), "tool_call_id": call["id"]} for call in made
    ]
    return [{"role": "assistant", "content": f"Step {number}.", "tool_calls": made, **more}, *results]


def row(*messages: Message | list[Message], **columns: Any) -> Row:
    flat = [one for part in messages for one in (part if isinstance(part, list) else [part])]
    return {"trace_id": "t", "messages": flat, "tools": None, **columns}


SYSTEM = {"role": "system", "content": "You work."}


def trained(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] == "assistant" and message.get("weight") != 0]


def hold(given: Row, found: Windows, max_tokens: int, tokens: Tokens) -> None:
    """The laws."""
    messages = given["messages"]
    known = {message["id"]: index for index, message in enumerate(messages)}
    shown: set[int] = set()
    turns: Counter[int] = Counter()
    calls = {call["id"]: i for i, message in enumerate(messages) for call in message.get("tool_calls", ())}
    parted = [{i, calls[m["tool_call_id"]]} for i, m in enumerate(messages) if m.get("tool_call_id") in calls]
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    task = next((i for i in users if messages[i].get("origin") in _TASKS), users[0] if users else None)
    for number, window in enumerate(found.rows):
        places = [known[message["id"]] for message in window["messages"]]
        assert places == sorted(set(places))
        assert window["token_count"] == tokens.whole(window["messages"], given["tools"]) <= max_tokens
        assert window["token_count_is_estimate"] == tokens.is_estimate
        assert (window["window"], window["windows"]) == (number, len(found.rows))
        assert all(pair <= set(places) or not pair & set(places) for pair in parted)
        assert task is None or task in places
        assert set(range(len([*takewhile(lambda m: m["role"] == "system", messages)]))) <= set(places)
        assert window["message_count"] == len(window["messages"])
        own = [i for i, m in zip(places, window["messages"], strict=True) if m.get("weight_reason") != "copied_context"]
        assert own[:1] == [window["window_from"]][: len(own)]
        for place, message in zip(places, window["messages"], strict=True):
            check_message(message)
            before = messages[place]
            if message["role"] == "assistant" and message.get("weight") != 0:
                assert message == before
                turns[place] += 1
            if message["content"] != before["content"]:
                assert before["role"] == "tool" or before.get("origin") in _PRINTED
                assert len(message["content"]) < len(before["content"])
                assert " characters cut …]" in message["content"]
        shown |= set(places)
        assert len(found.rows) == 1 or trained(window["messages"])
    wanted = {i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0}
    assert set(turns) <= wanted
    assert set(turns.values()) <= {1}
    assert len(wanted) == len(turns) + found.removed_turns.total()
    assert len(messages) == len(shown) + found.removed_messages.total()


@st.composite
def rows(draw: st.DrawFn) -> Row:
    messages: list[Message] = []
    sizes = st.sampled_from([0, 3, 20, 100, 400, 3000])
    for number in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(["user", "step", "step", "step", "late", "system", "reminder", "attachment"]))
        if kind in ("user", "system"):
            messages.append({"role": kind, "content": "w " * draw(sizes)})
        elif kind in ("reminder", "attachment"):
            messages.append(user("r\n" * draw(sizes), origin=kind))
        else:
            more = {"weight": 0, "weight_reason": "failed_call"} if draw(st.booleans()) else {}
            one = step(number, draw(sizes), draw(st.integers(0, 3)), **more)
            if kind == "late" and len(one) > 1:
                one.insert(draw(st.integers(1, len(one) - 1)), user("meanwhile", origin="queued"))
            messages += one
    if draw(st.booleans()):
        messages.insert(0, user("Please do it."))
    if draw(st.booleans()):
        messages.insert(0, SYSTEM)
    found = row([{**message, "id": f"m{i}"} for i, message in enumerate(messages)], message_count=0)
    found["message_count"] = len(messages)
    return found


@settings(max_examples=300, deadline=None)
@given(rows(), st.integers(1, 1500), st.integers(0, 5), st.sampled_from([ESTIMATE, Heavier()]))
def test_laws(given: Row, max_tokens: int, overlap: int, tokens: Tokens) -> None:
    before = copy.deepcopy(given)
    found = windows(given, max_tokens, tokens, overlap_steps=overlap)
    assert given == before
    hold(given, found, max_tokens, tokens)


def texts(found: Windows) -> list[list[str]]:
    return [[message["content"] for message in window["messages"]] for window in found.rows]


def test_a_row_that_fits_stays() -> None:
    given = row(SYSTEM, user("Go."), step(0), owned_from=1, media=None)
    found = windows(given, 1000, ESTIMATE)
    assert found == Windows(
        [
            {
                **given,
                "window": 0,
                "windows": 1,
                "window_from": 0,
                "token_count": ESTIMATE.whole(given["messages"], None),
                "token_count_is_estimate": True,
            }
        ],
        [[0, 1, 2, 3]],
        [frozenset(range(4))],
        {},
        Counter(),
    )


def test_one_prompt_and_five_hundred_steps() -> None:
    given = row(SYSTEM, user("Do all of it."), *[step(n, 800) for n in range(500)])
    found = windows(given, 4000, ESTIMATE)
    assert not found.removed_messages
    assert 30 < len(found.rows) < 60
    for window in found.rows:
        assert [message["content"] for message in window["messages"][:2]] == ["You work.", "Do all of it."]
        assert window["token_count"] > 3000 or window["window"] == len(found.rows) - 1
    assert sum(len(trained(window["messages"])) for window in found.rows) == 500


def test_what_goes_before_is_context() -> None:
    given = row(SYSTEM, user("Go."), *[step(n) for n in range(30)], user("And now?"), step(30))
    second = windows(given, 1200, ESTIMATE, overlap_steps=2).rows[1]
    weights = [
        (message["role"][0], message.get("weight"), message.get("weight_reason")) for message in second["messages"]
    ]
    copied = (0, "copied_context")
    assert weights[:6] == [
        ("s", *copied),
        ("u", *copied),
        ("a", *copied),
        ("t", *copied),
        ("a", *copied),
        ("t", *copied),
    ]
    assert weights[6:8] == [("a", None, None), ("t", None, None)]
    number = int(second["messages"][6]["content"][5:-1])
    assert second["messages"][4]["content"] == f"Step {number - 1}."
    assert second["window_from"] == 2 + 2 * number


def test_outputs_are_shortened_before_steps_are_parted() -> None:
    given = row(user("Go."), step(0, 40_000), step(1))
    found = windows(given, 2000, ESTIMATE)
    assert len(found.rows) == 1
    assert found.shortened == 1
    long = found.rows[0]["messages"][2]["content"]
    assert long.startswith("0123456789abcde\n")
    assert long.endswith("0123456789abcde\n")
    assert " of 40,000 characters cut …]" in long
    assert ESTIMATE.texts([long])[0] <= 250
    kept = windows(given, 2000, ESTIMATE, shorten=1500).rows[0]["messages"][2]["content"]
    assert 5000 < len(kept) < 6100


def test_a_step_that_is_too_large_is_squeezed_or_counted() -> None:
    given = row(
        user("Go."), step(0), step(1, 4000, calls=6), step(2), {"role": "assistant", "content": "x" * 4000}, step(3)
    )
    found = windows(given, 500, ESTIMATE)
    assert found.removed_messages == found.removed_turns == {TOO_LARGE: 1}
    assert sum(len(trained(window["messages"])) for window in found.rows) == 4
    assert windows(row(user("Go. " * 500), step(0)), 300, ESTIMATE).removed_messages == {NO_ROOM: 3}


def test_what_trains_nothing_makes_no_window() -> None:
    copied = [step(n, weight=0, weight_reason="copied_context") for n in range(50)]
    given = row(user("Go."), *copied, step(50), owned_from=101)
    found = windows(given, 1500, ESTIMATE, overlap_steps=3)
    assert len(found.rows) == 1
    assert found.removed_turns == {}
    assert found.removed_messages == {NOTHING_TO_TRAIN: 2 * (50 - 3)}
    (only,) = found.rows
    assert only["owned_from"] == 7
    assert only["messages"][7]["content"] == "Step 50."


@pytest.mark.parametrize(
    ("head", "pinned"),
    [
        ([user("Files.", origin="environment"), user("Go.")], ["Files.", "Go."]),
        ([user("Files.\n" * 400, origin="environment"), user("Go.")], ["Go."]),
        ([user("So far.", origin="summary"), user("Go.")], ["So far.", "Go."]),
        ([user("So far.", origin="summary"), user("Go. " * 300)], ["So far."]),
        ([user("Find it.", origin="agent_message")], ["Find it."]),
        ([user("Only a note.", origin="reminder")], ["Only a note."]),
    ],
)
def test_what_is_pinned(head: list[Message], pinned: list[str]) -> None:
    found = windows(row(SYSTEM, head, *[step(n) for n in range(60)]), 1000, ESTIMATE, overlap_steps=0)
    for window in texts(found)[1:]:
        assert window[: len(pinned) + 1] == ["You work.", *pinned]
        assert window[len(pinned) + 1].startswith("Step")


def test_media_go_with_their_messages() -> None:
    media = [{"type": "image", "bytes": bytes([n])} for n in range(40)]
    given = row(user("Go."), *[[*step(n), user("See.", media=[n])] for n in range(40)], media=media)
    given |= {"message_count": 0, "tool_call_count": 0, "final_assistant_message": "Step 39."}
    found = windows(given, 1000, ESTIMATE, overlap_steps=0).rows
    assert len(found) > 2
    for window in found:
        assert len(window["media"]) < 40
        for message in window["messages"]:
            if "media" in message:
                (image,) = [window["media"][index] for index in message["media"]]
                assert given["messages"][image["bytes"][0] * 3 + 3]["media"] == list(image["bytes"])
        assert window["final_assistant_message"] == trained(window["messages"])[-1]["content"]
        assert window["tool_call_count"] == len([m for m in window["messages"] if m["role"] == "assistant"])


@given(st.text(alphabet="ab\nü", max_size=300), st.integers(0, 300))
def test_shortened(text: str, keep: int) -> None:
    short = shortened(text, keep)
    if short == text:
        return
    assert len(short) < len(text)
    head, said, tail = short.partition("\n[… ")[0], short.partition("[… ")[2], short.partition("cut …]\n")[2]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + len(tail) <= keep
    assert f"{len(text) - len(head) - len(tail)} of {len(text)} " in said


def test_budget_must_be_positive() -> None:
    with pytest.raises(AgentRolloutsError, match="max_tokens is 0"):
        windows(row(user("Go.")), 0, ESTIMATE)
