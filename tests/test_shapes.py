"""Rows in every shape: what a record holds, what is counted as lost, and what becomes of weights and indices."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.chat import CHOICES, exact, to_chat
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.shapes import LINEAGE, SHAPES, ShapeOptions, Tally, chosen
from agent_rollouts.distill.weights import weigh
from agent_rollouts.errors import AgentRolloutsError
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
    assert tally.lost["calls without result, results without call, empty answers"] == 2
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
    ],
)
def test_options_that_are_refused(options: Record, complaint: str) -> None:
    with pytest.raises(AgentRolloutsError, match=complaint):
        chosen(ShapeOptions(**options))
    assert list(chosen(ShapeOptions(shape=("openai", "messages")))) == ["openai", "messages"]
