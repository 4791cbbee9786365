"""Rows in every shape: what a record holds, what is counted as lost, and what becomes of weights and indices."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.chat import CHOICES, exact, to_chat
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.shapes import LINEAGE, SHAPES, ShapeOptions, Tally, chosen, preference
from agent_rollouts.distill.shapes.hermes import FAILED, SAMPLES, write_trajectories
from agent_rollouts.distill.weights import weigh
from agent_rollouts.distill.windows import Tokens, windows
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import row as row_of
from agent_rollouts.formats import read
from agent_rollouts.source import Source
from tests.conftest import FIXTURES
from tests.tool_rows import GO, bash, edit, row, said, step, together, user

Record = dict[str, Any]
SKIPPED = {"weight": 0, "weight_reason": "failed_call"}
TOOL = {"type": "function", "function": {"name": "Bash", "description": "Runs.", "parameters": {"type": "object"}}}


def system(text: str) -> Record:
    return {"role": "system", "content": text}


def made(name: str, given: Record, **options: Any) -> tuple[list[Record], Tally]:
    """Records as a dataset gives them back, after what they are was held against the columns."""
    tally = Tally()
    records = list(SHAPES[name].records(given, ShapeOptions(**options), tally))
    features = SHAPES[name].features
    assert all(list(record) and set(record) == set(features) for record in records)
    assert tally.rows == bool(records) + tally.without.total()
    assert tally.records == len(records)
    table = exact(Dataset.from_list(records, features=features)) if records else []
    return [dict(record) for record in table], tally


def one(name: str, given: Record, **options: Any) -> Record:
    (record,), _ = made(name, given, **options)
    return record


WORK = row(
    system("You mend."),
    system("Be brief."),
    user(GO),
    said("I look.", reasoning_content="Where?", tool_calls=step("Bash", {"command": "ls"}, None)[0]["tool_calls"]),
    {"role": "tool", "content": "total.py", "tool_call_id": f"call_{step.count - 1}", "name": "Bash"},
    {**bash("pytest", None)[0], **SKIPPED},
    system("The clock was changed."),
    together(edit(), bash("pytest -q", "1 passed in 0.10s")),
    said("Mended."),
    user("Thanks."),
    tools=[TOOL],
    family_id="f",
    source_path="a.jsonl",
    redactions={"EMAIL": 1},
)


def test_every_shape_says_where_its_records_come_from() -> None:
    for name, shape in SHAPES.items():
        assert list(shape.features)[-len(LINEAGE) :] == list(LINEAGE), name
        assert not set(shape.columns) & set(LINEAGE), name
        # What trl takes for something else: see the column names that SFTTrainer knows.
        assert not set(LINEAGE) & {"prompt", "completion", "images", "image", "labels", "input_ids", "text", "messages"}


def test_messages() -> None:
    record = one("messages", WORK)
    assert record["messages"] == to_chat(WORK["messages"])
    assert record["tools"] == [TOOL]
    assert record["family_id"] == "f"
    assert record["redactions"] == {"EMAIL": 1}
    assert record["agent_rollouts_version"]


def test_ways_to_say_a_weight() -> None:
    def assistants(**options: Any) -> list[Record]:
        return [m for m in one("messages", WORK, **options)["messages"] if m["role"] == "assistant"]

    assert [m.get("weight") for m in assistants()] == [None, 0, None, None]
    assert [m["train"] for m in assistants(weights_as="train")] == [True, False, True, True]
    swift = assistants(weights_as="loss")
    assert [m["loss"] for m in swift] == [True, False, True, True]
    assert swift[0]["content"] == "<think>\nWhere?\n</think>\n\nI look."
    assert not any("reasoning_content" in m for m in swift)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ({"n": 0.7}, '{"n":0.7}'),
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("*** Begin Patch", '{"input":"*** Begin Patch"}'),
        ("[1, 2]", '{"input":"[1, 2]"}'),
        ("{no", '{"input":"{no"}'),
    ],
)
def test_arguments_as_text(arguments: Any, written: str) -> None:
    given = row(user(GO), step("patch", arguments))
    (message,) = [m for m in one("messages", given, arguments="text")["messages"] if m["role"] == "assistant"]
    assert message["tool_calls"][0]["function"]["arguments"] == written


OPTIONS = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(words) for name, words in CHOICES.items()} | {"parallel_calls": st.booleans()}
)
MESSAGE = st.sampled_from(["system", "user", "said", "call", "two calls", "unanswered", "nothing"])


def conversation(kinds: list[str]) -> list[Record]:
    """Messages of which each says its place."""
    messages: list[Record] = []
    for kind in kinds:
        n = len(messages)
        if kind in ("system", "user"):
            messages.append({"role": kind, "content": f"<{n}>"})
        elif kind == "said":
            messages.append(said(f"<{n}>", reasoning_content="x"))
        elif kind == "nothing":
            messages.append(said(""))
        else:
            calls = [
                {"id": f"{n}.{k}", "type": "function", "function": {"name": "f", "arguments": {"at": f"<{n}>"}}}
                for k in range(1 + (kind == "two calls"))
            ]
            messages.append(said("", tool_calls=calls))
            for call in calls if kind != "unanswered" else ():
                messages.append({"role": "tool", "content": f"<{len(messages)}>", "tool_call_id": call["id"]})
    return messages


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGE, max_size=9), OPTIONS)
def test_sources_name_the_messages_that_one_was_made_of(kinds: list[str], options: Record) -> None:
    messages = conversation(["user", *kinds])
    sources: list[tuple[int, ...]] = []
    chat = to_chat(messages, **options, sources=sources)
    assert chat == to_chat(messages, **options)
    assert len(chat) == len(sources)
    for message, made_of in zip(chat, sources, strict=True):
        shown = json.dumps(message)
        assert {n for n in range(len(messages)) if f"<{n}>" in shown} <= set(made_of)
        for index in made_of:
            if messages[index]["content"]:
                assert any(f"<{index}>" in json.dumps(chat[p]) for p, m in enumerate(sources) if index in m)


def test_indices_follow_their_messages() -> None:
    given = weigh(evidence(WORK)) | {"owned_from": 3}
    record = one("messages", given)
    assert record["owned_from"] == 2
    (green,) = [item for item in record["outcome_evidence"] if item["kind"] == "tests_passed"]
    assert record["messages"][green["message_index"]]["content"] == "1 passed in 0.10s"
    given |= {"outcome_evidence": [{"kind": "reward", "message_index": None, "value": "1"}]}
    given |= {"error_recoveries": [{"failed": 3, "recovered": 99}]}
    record = one("messages", given, template="gemma")
    assert record["outcome_evidence"][0]["message_index"] is None
    # The system prompt became part of the first prompt.
    assert record["error_recoveries"] == [{"failed": 1, "recovered": None}]
    assert record["owned_from"] == 1


def test_rows_without_a_user_turn_are_counted() -> None:
    records, tally = made("messages", row(said("Hello.")))
    assert (records, tally.without) == ([], {"no user turn": 1})


def test_prompt_and_completion() -> None:
    chat = to_chat(WORK["messages"], weights=False)
    record = one("prompt_completion", WORK)
    assert record["completion"] == [{"role": "assistant", "content": "Mended."}]
    assert record["prompt"] == chat[: record["message_index"]]
    every, tally = made("prompt_completion", WORK, completion="every")
    # Not the one of weight 0.
    assert [record["completion"][0] for record in every] == [chat[index] for index in (2, 6, 9)]
    assert [record["message_index"] for record in every] == [2, 6, 9]
    assert tally.records == 3
    _, tally = made("prompt_completion", row(user(GO), said("No.", **SKIPPED)))
    assert tally.without == {"no answer to train on": 1}


def test_openai() -> None:
    given = WORK | {"messages": [*WORK["messages"][:3], {**said("")}, *WORK["messages"][3:], *bash("late", None)]}
    tally = Tally()
    (record,) = SHAPES["openai"].records(given, ShapeOptions(), tally)
    assert SHAPES["openai"].jsonl
    line = json.loads(SHAPES["openai"].jsonl(record))
    assert list(line) == ["messages", "tools", "parallel_tool_calls"]
    assert line["tools"] == [TOOL]
    known = {"role", "content", "tool_calls", "tool_call_id", "weight"}
    assert all(set(message) <= known for message in line["messages"])
    assert [m["weight"] for m in line["messages"] if m["role"] == "assistant"] == [1, 1, 1, 1]
    assert isinstance(line["messages"][2]["tool_calls"][0]["function"]["arguments"], str)
    # A line may end with calls.
    assert line["messages"][-1]["tool_calls"][0]["function"]["arguments"] == '{"command":"late"}'
    assert tally.lost["reasoning"] == 1
    assert tally.lost["calls without result, results without call, answers without words"] == 2
    answered = one("openai", WORK)
    assert answered["messages"][-1] == {"role": "assistant", "content": "Mended.", "weight": 1}
    _, tally = made("openai", row(user(GO), step("web.search", {})))
    assert tally.without == {"a tool whose name OpenAI refuses": 1}


def test_weights_of_openai() -> None:
    given = row(user(GO), said("No.", **SKIPPED), user("So?"), said("So."), user("Thanks."))
    tally = Tally()
    (record,) = SHAPES["openai"].records(given, ShapeOptions(), tally)
    line = json.loads(SHAPES["openai"].jsonl(record))  # type: ignore[misc]
    assert list(line) == ["messages"]
    assert [message.get("weight") for message in line["messages"]] == [None, 0, None, 1]
    assert tally.lost["messages behind the last answer"] == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"shape": ("mesages",)}, "unknown shape 'mesages'; known: messages, "),
        ({"arguments": "str"}, "unknown arguments 'str'; known: object, text"),
        ({"template": "qwen"}, "unknown template 'qwen'"),
        ({"context_messages": 0}, "must be positive"),
        ({"shape": ("tokenized",)}, "give --tokenizer"),
    ],
)
def test_options_that_are_refused(options: Record, complaint: str) -> None:
    with pytest.raises(AgentRolloutsError, match=complaint):
        chosen(ShapeOptions(**options))
    assert list(chosen(ShapeOptions(shape=("openai", "messages")))) == ["openai", "messages"]


# -- ShareGPT ---------------------------------------------------------------------------------------


def align(conversations: list[Record]) -> list[Record]:
    """The turns as LLaMA-Factory 0.9.5 takes them (`data/converter.py`), none if it would make an empty example."""
    accepted = (("human", "observation"), ("gpt", "function_call"))
    is_broken = any(turn["from"] not in accepted[n % 2] for n, turn in enumerate(conversations))
    return [] if is_broken or len(conversations) % 2 else conversations


def functions(value: str) -> tuple[str, list[Record]]:
    """Text and calls of a function_call, as LLaMA-Factory 0.9.5 reads it (`data/formatter.py`)."""
    if found := re.search("<tool_call>(.*?)</tool_call>", value, re.DOTALL):
        beside, value = value.replace(found[0], ""), found[1]
    else:
        thought = re.search("<think>\n(.*?)\n</think>\n\n", value, re.DOTALL)
        beside = thought[0] if thought else ""
        value = value.replace(beside, "")
    calls = json.loads(value)
    return beside, calls if isinstance(calls, list) else [calls]


def test_sharegpt() -> None:
    record, tally = made("sharegpt", WORK)[0][0], made("sharegpt", WORK)[1]
    assert record["system"] == "You mend.\n\nBe brief."
    assert json.loads(record["tools"]) == [TOOL]
    turns = align(record["conversations"])
    assert [(turn["from"], turn["weight"]) for turn in turns] == [
        ("human", None),
        ("function_call", 1),
        ("observation", None),
        ("function_call", 1),
        ("observation", None),
        ("gpt", 1),
    ]
    beside, calls = functions(turns[1]["value"])
    assert beside == "<think>\nWhere?\n</think>\n\nI look.\n"
    assert calls == [{"name": "Bash", "arguments": {"command": "ls"}}]
    assert len(functions(turns[3]["value"])[1]) == 2
    assert turns[4]["value"].count("</tool_response>\n<tool_response>") == 1
    assert "The clock was changed." in turns[2]["value"]
    assert tally.lost == {
        "calls without result, results without call, answers without words": 1,
        "messages behind the last answer": 1,
        "prompts within the results before them": 1,
    }
    line = json.loads(SHAPES["sharegpt"].jsonl(record))  # type: ignore[misc]
    assert list(line) == ["conversations", "system", "tools"]
    assert [list(turn) for turn in line["conversations"]] == [["from", "value"]] * 6


ODD_TEXT = st.sampled_from(
    ["", "ok", "<tool_call>", "</tool_call>", "<think>\na\n</think>\n\n", "{}", "</think>", "<|x|>"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGE, min_size=1, max_size=9), st.lists(ODD_TEXT, min_size=4, max_size=4), st.booleans())
def test_no_example_becomes_empty_in_llama_factory(kinds: list[str], odd: list[str], thinks: bool) -> None:
    """Turns alternate, and every call can be read again, whatever stands in it or beside it."""
    messages = conversation(kinds)
    for message in messages:
        if message["role"] == "assistant":
            message["content"] = message["content"] and odd[0] + message["content"]
            if thinks:
                message["reasoning_content"] = odd[1] + "so"
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"]["odd"] = odd[2] + odd[3]
    records, tally = made("sharegpt", row(*messages))
    if not records:
        assert set(tally.without) <= {"no user turn", "no answer to train on"}
        return
    turns = align(records[0]["conversations"])
    assert turns
    written = [call for turn in turns if turn["from"] == "function_call" for call in functions(turn["value"])[1]]
    known = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    assert all(call in known for call in written)
    last = max((n for n, m in enumerate(messages) if m["role"] == "assistant" and (m["content"] or "tool_calls" in m)))
    first = min(n for n, m in enumerate(messages) if m["role"] in ("user", "system") and n < last)
    answered = {m["tool_call_id"] for m in messages if m["role"] == "tool"}
    assert len(written) <= len(known)
    if first == 0 and messages[0]["role"] == "user":
        kept = [
            c["function"] for n, m in enumerate(messages[: last + 1]) for c in m.get("tool_calls", ())
            if n == last or c["id"] in answered
        ]  # fmt: skip
        assert written == kept


# -- Hermes -----------------------------------------------------------------------------------------


def test_hermes(tmp_path: Path) -> None:
    path = FIXTURES / "hermes_trajectory" / "basic" / "input.jsonl"
    rows = [WORK, *(row_of(rollout) for rollout in read(Source(str(path))))]
    shape = SHAPES["hermes"]
    records = [record for given in rows for record in shape.records(given, ShapeOptions(), Tally())]
    lines = [shape.jsonl(record) for record in records]  # type: ignore[misc]
    counts = write_trajectories(rows, tmp_path)
    written = [
        line for name in (SAMPLES, FAILED) if counts[name] for line in (tmp_path / name).read_text().splitlines()
    ]
    assert sorted(lines) == sorted(written)
    assert len(lines) == len(rows)
    turns = [json.loads(turn)["from"] for turn in records[0]["conversations"]]
    assert [weight for turn, weight in zip(turns, records[0]["weights"], strict=True) if turn == "gpt"] == [1, 0, 1, 1]
    assert len(made("hermes", rows[1])[0]) == 1


# -- for review -------------------------------------------------------------------------------------


def test_tool_interactions() -> None:
    given = row(
        user(GO),
        bash("ls", "a"),
        bash("cat x", "no", exit_code=2),
        bash("pytest", "== 1 failed in 0.1s ==", exit_code=1),
        step("Bash", {"command": "rm x"}, "The user doesn't want to proceed with this tool use", error=True),
        {"role": "tool", "content": "lost", "tool_call_id": "?", "name": "f"},
    )
    records, tally = made("tool_interactions", given, context_messages=2)
    assert tally.records == 5
    assert [record["tool_outcome"] for record in records] == ["success", "failure", "unclear", "failure", "unclear"]
    assert [record["tool_state"] for record in records] == ["ok", "failed", "failed", "refused", None]
    assert [record["exit_code"] for record in records][:3] == [0, 2, 1]
    assert [record["tool_name"] for record in records] == ["Bash"] * 4 + ["f"]
    assert records[0]["tool_interaction_context"] == given["messages"][:3]
    third = records[2]
    assert third["tool_interaction_context"] == [given["messages"][0], *given["messages"][5:7]]
    assert (third["context_from"], third["message_index"]) == (5, 6)
    assert third["tool_call"] == given["messages"][5]["tool_calls"][0]
    assert third["tool_response"] == given["messages"][6]
    assert records[4]["tool_call"] is None
    _, tally = made("tool_interactions", given | {"owned_from": 5})
    assert (tally.records, tally.lost) == (3, {"tool results that are another record's": 2})
    _, tally = made("tool_interactions", row(user(GO), said("No.")))
    assert tally.without == {"no tool result": 1}


def test_context_is_linear() -> None:
    given = row(user(GO), [message for n in range(300) for message in bash(f"echo {n}", "x" * 100)])
    records, _ = made("tool_interactions", given)
    assert max(len(record["tool_interaction_context"]) for record in records) == 21
    assert all(record["tool_interaction_context"][0]["content"] == GO for record in records[15:])


def test_a_sampled_turn_depends_on_seed_and_row_alone() -> None:
    drawn = [one("sampled_turn", WORK | {"trace_id": str(n)}, seed=seed) for seed in (0, 1) for n in range(30)]
    again = [one("sampled_turn", WORK | {"trace_id": str(n), "outcome": "success"}) for n in range(30)]
    chosen_indices = [record["message_index"] for record in drawn]
    assert chosen_indices[:30] == [record["message_index"] for record in again]
    assert chosen_indices[:30] != chosen_indices[30:]
    assert len(set(chosen_indices)) > 6
    for record in drawn:
        assert record["sampled_turn"] == WORK["messages"][record["message_index"]]
        assert record["role"] == record["sampled_turn"]["role"]


# -- preference -------------------------------------------------------------------------------------

CORRECTED = [
    user(GO),
    edit(),
    said("Mended."),
    user("That is wrong, the total is still off."),
    edit("other.py"),
    bash("pytest", "1 passed in 0.1s"),
    said("Now it is right."),
    user("Thanks."),
]


def test_what_the_user_corrected() -> None:
    for parts in (CORRECTED[:-1], CORRECTED, [*CORRECTED, said("You are welcome.")]):
        given = weigh(evidence(row(*parts, tools=[TOOL])))
        assert given["outcome"] == "success"
        record = one("preference", given)
        chat = to_chat(given["messages"])
        assert record["prompt"] == chat[:1]
        assert record["rejected"] == chat[1:4]
        assert record["chosen"] == chat[5:10]
    assert record["kind"] == "user_corrected"
    assert record["tools"] == [TOOL]
    assert record["rejected_trace_id"] == record["trace_id"]


@pytest.mark.parametrize(
    ("parts", "columns", "why"),
    [
        ([*CORRECTED[:3], user("Now the tax."), said("Done.")], {}, "no answer that the user corrected"),
        (CORRECTED[:4], {}, "the corrected answer did not end well either"),
        (
            [*CORRECTED[:-1], user("It is still broken.")],
            {"outcome": None},
            "the corrected answer did not end well either",
        ),
        (CORRECTED[:-1], {"outcome": "failure"}, "the corrected answer did not end well either"),
        (
            [*CORRECTED[:4], said("x", **SKIPPED)],
            {"outcome": None},
            "no answer before the correction, or none behind it",
        ),
        (
            [*CORRECTED[:4], said("API Error: 500 x"), said("So.")],
            {"outcome": None},
            "turns that are not the model's own",
        ),
    ],
)
def test_rows_without_a_pair(parts: list[Any], columns: Record, why: str) -> None:
    records, tally = made("preference", weigh(evidence(row(*parts))) | columns)
    assert (records, tally.without) == ([], {why: 1})


def tried(trace_id: str, outcome: str, *parts: Any, **columns: Any) -> Record:
    return row(
        system("You mend."), user(GO), *(parts or (edit(), said(outcome))), user("Bye."),
        trace_id=trace_id, outcome=outcome, task_id="t", tools=[TOOL], **columns,
    )  # fmt: skip


def test_pairs_of_two_rollouts() -> None:
    rows = [
        tried("a", "failure"),
        tried("b", "success"),
        tried("c", "failure"),
        tried("d", "failure") | {"task_id": "other"},
        tried("e", "success"),
        tried("f", "success"),
    ]
    candidates = [preference.candidate(given, ShapeOptions()) for given in rows]
    assert None not in candidates
    found = list(preference.pairs(candidates))  # type: ignore[arg-type]
    assert found == [(1, 0), (4, 2)]
    assert len(list(preference.pairs(reversed(candidates)))) == 2  # type: ignore[arg-type]
    record = preference.pair(candidates[1], candidates[0])  # type: ignore[arg-type]
    assert set(record) == set(SHAPES["preference"].features)
    table = exact(Dataset.from_list([record], features=SHAPES["preference"].features))[0]
    chat = to_chat(rows[1]["messages"])
    assert (table["prompt"], table["chosen"]) == (chat[:2], chat[2:-1])
    assert table["rejected"] == to_chat(rows[0]["messages"])[2:-1]
    assert (table["trace_id"], table["rejected_trace_id"]) == ("b", "a")


@pytest.mark.parametrize(
    "given",
    [
        tried("a", "unknown"),
        tried("a", "success") | {"task_id": None},
        tried("a", "success", windows=2),
        tried("a", "success", said("x", weight=0, weight_reason="copied_context")),
        tried("a", "success", said("x", **SKIPPED)),
    ],
)
def test_what_cannot_be_half_of_a_pair(given: Record) -> None:
    assert preference.candidate(given, ShapeOptions()) is None


def test_options_travel_between_processes() -> None:
    assert pickle.loads(pickle.dumps(ShapeOptions(tokenizer="x"))) == ShapeOptions(tokenizer="x")


# -- windows ----------------------------------------------------------------------------------------


def test_windows_say_where_evidence_stands_in_them() -> None:
    given = evidence(row(user(GO), [m for n in range(20) for m in bash(f"echo {n}", "x" * 400)], edit(),
                         bash("pytest", "1 passed in 0.1s"), said("Mended.")))  # fmt: skip
    (green,) = [item["message_index"] for item in given["outcome_evidence"] if item["kind"] == "tests_passed"]
    cut = windows(given, 800, Tokens.estimate()).rows
    assert len(cut) > 2
    shown = []
    for window in cut:
        record = one("messages", window)
        assert (record["window"], record["windows"]) == (window["window"], len(cut))
        (index,) = [item["message_index"] for item in record["outcome_evidence"] if item["kind"] == "tests_passed"]
        if index is not None:
            shown.append(record["messages"][index]["content"])
    assert shown == [given["messages"][green]["content"]]
