"""Plain conversations beyond the goldens: what is claimed, there and back again, and input of any shape."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, row, table
from agent_rollouts.formats import chat_completions, detect, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, lines

CHAT = FIXTURES / "chat_completions"
BASIC = (CHAT / "basic" / "input.jsonl").read_bytes()
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello."}


def read_chat(data: bytes, name: str = "chat.jsonl") -> list[Rollout]:
    return [rollout for rollout in read(Source(name, data), "chat_completions") if rollout]


def messages(*records: Any) -> list[dict[str, Any]]:
    (rollout,) = read_chat(lines(*records))
    return list(rollout.messages)


# -- told by content -----------------------------------------------------------------------------

OURS: dict[str, Any] = {
    "messages": {"messages": [HI]},
    "messages, one damaged": {"messages": [None, HI]},
    "message": HI,
    "message with calls alone": {"role": "assistant", "tool_calls": [{"function": {"name": "ls"}}]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hi"}]},
    "prompt and response": {"prompt": "Hi", "response": "Hello."},
    "prompt and completion": {"prompt": [HI], "completion": [HELLO]},
    "Alpaca": {"instruction": "Translate.", "input": "", "output": "b"},
    "Responses": {"input": "Hi", "output": [{"type": "message", "role": "assistant", "content": []}]},
    "Responses, items": {"input": [HI], "output": [{"type": "function_call", "name": "ls", "arguments": "{}"}]},
    "behind a longer head": {"tools": [{"type": "function", "function": {"name": "x" * 70_000}}], "messages": [HI]},
    "a longer prompt": {"prompt": "x" * 70_000, "response": "Hello."},
    "a longer message": {"id": "a", "messages": [{"role": "user", "content": "x" * 70_000}]},
}
NOT_OURS: dict[str, Any] = {
    "an input": {"input": "Hi"},
    "input and output of something": {"input": "a.txt", "output": "b.txt"},
    "lists of something": {"input": ["a"], "output": [{"type": "file"}]},
    "a prompt": {"prompt": "Hi"},
    "prompt and response of something": {"prompt": {"id": 1}, "response": {"status": 200}},
    "response without text": {"prompt": "Hi", "response": None},
    "messages of something": {"messages": [{"id": 1, "text": "Hi"}]},
    "no messages": {"messages": []},
    "messages in a table": {"messages": {"role": ["user"], "content": ["Hi"]}},
    "unknown role": {"role": "admin", "content": "Hi"},
    "role alone": {"role": "user", "name": "Ann"},
    "Gemini": [{"role": "user", "parts": [{"text": "Hi"}]}],
    "OpenAI's preferences": {"input": {"messages": [HI]}, "preferred_output": [HELLO], "non_preferred_output": [HELLO]},
    "TRL's preferences": {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"},
    "agentic-datagen": {"messages": [HI], "metadata": {"turns": 1}},
    "long list of something": {"tools": ["x" * 70_000]},
}


@pytest.mark.parametrize("name", OURS)
def test_claims(name: str) -> None:
    data = lines(OURS[name])
    for content in (data, lines(OURS[name], HI), lines([OURS[name]]), json.dumps(OURS[name], indent=1).encode()):
        if len(content) < 64 * 1024 or content is data:
            assert chat_completions.claims(Source("x", content).head), content[:100]
            assert read_chat(content)
    assert detect(Source("x", data)) == "chat_completions"


@pytest.mark.parametrize("name", NOT_OURS)
def test_does_not_claim(name: str) -> None:
    assert not chat_completions.claims(Source("x", lines(NOT_OURS[name])).head)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"hello", b"[]", b"[1, 2]", b"{", b"[", b'"messages"', b"\x00" * 10])
def test_does_not_claim_what_has_no_record(data: bytes) -> None:
    assert not chat_completions.claims(Source("x", data).head)


@pytest.mark.parametrize("name", ["claude_code", "codex", "agentic_datagen"])
def test_agents_own_formats_are_asked_first(name: str) -> None:
    assert detect(Source(str(FIXTURES / name / "basic" / "input.jsonl"))) == name


def test_files_of_an_agent_are_refused() -> None:
    call = '<tool_call>\n{"name": "ls", "arguments": {}}\n</tool_call>'
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": f"<think>\nHm.\n</think>\n{call}"}]
    row = {"conversations": turns, "timestamp": "2026-01-01T00:00:00", "tool_stats": {"ls": {"count": 1}}}
    with pytest.raises(FormatError, match="looks like hermes_trajectory"):
        messages(row)


# -- whole documents, damage -----------------------------------------------------------------------


def test_a_list_is_its_lines(tmp_path: Path) -> None:
    records = [json.loads(line) for line in BASIC.splitlines()]
    expected = [list(rollout.messages) for rollout in read_chat(BASIC)]
    for content in (lines(records), json.dumps(records, indent=2).encode(), b"\xef\xbb\xbf" + lines(records)):
        assert [list(rollout.messages) for rollout in read_chat(content)] == expected
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(lines(records)))
    assert len(list(read(Source(str(tmp_path / "a.json.gz"))))) == len(records)


def test_torn_documents_are_refused_and_torn_lines_counted() -> None:
    torn = json.dumps([{"messages": [HI, HELLO]}] * 3, indent=1).encode()[:-20]
    with pytest.raises(FormatError, match="not whole JSON"):
        read_chat(torn)
    (rollout,) = read_chat(b'{"messages": [{"role": "user", "cont\n' + lines({"messages": [HI]}))
    assert rollout.skipped == {"line: not JSON": 1}


# -- columns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "trace_id"),
    [
        ({}, "chat:0"),
        ({"id": "a", "session_id": "b"}, "a"),
        ({"id": "", "session_id": "b"}, "b"),
        ({"trace_id": "c", "conversation_id": "d"}, "c"),
        ({"conversation_id": 0}, "chat:0"),
        ({"id": 7}, "chat:7"),
        ({"id": True}, "chat:0"),
    ],
)
def test_trace_id(fields: dict[str, Any], trace_id: str) -> None:
    (rollout,) = read_chat(lines({**fields, "messages": [HI]}))
    assert rollout.trace_id == trace_id


def test_columns_take_only_what_they_can_hold() -> None:
    odd = {"reward": 10**400, "completed": 1, "usage": {"prompt_tokens": 2**70}, "model": 7, "tools": 7}
    (rollout,) = read_chat(lines({"messages": [HI], **odd}))
    assert table([rollout]).num_rows == 1
    assert (rollout.reward, rollout.completed, rollout.usage, rollout.model, rollout.tools) == (None,) * 5
    assert rollout.source_meta["extra"]["completed"] == 1


def test_conversations_of_lines_may_be_mixed() -> None:
    mixed = [{"session_id": str(n % 3), "role": "user", "content": str(n)} for n in range(9)]
    found = {rollout.trace_id: [m["content"] for m in rollout.messages] for rollout in read_chat(lines(*mixed))}
    assert found == {"0": ["0", "3", "6"], "1": ["1", "4", "7"], "2": ["2", "5", "8"]}


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
@pytest.mark.parametrize("value", [0, 0.0, False])
def test_weight_is_honoured(key: str, value: Any) -> None:
    said, turn = messages({"messages": [HELLO, {**HELLO, key: value}]})
    assert (said.get("weight"), turn["weight"], turn["weight_reason"]) == (None, 0, "source")
    (turned,) = messages({"conversations": [{"from": "gpt", "value": "Hello.", key: value}]})
    assert turned["weight_reason"] == "source"


@pytest.mark.parametrize("value", [1, True, None, "0", [], 0.5])
def test_weight_that_is_not_zero(value: Any) -> None:
    assert messages({"messages": [{**HELLO, "weight": value}]}) == [HELLO]


# -- there and back again --------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# A text that begins as reasoning is read as that.
ANSWER = TEXT.filter(lambda text: not text.startswith("<think>"))
ARGUMENTS = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT, max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages as rows have them, apart from media."""
    found: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        role = draw(st.sampled_from(["system", "user", "assistant"]))
        message: dict[str, Any] = {"role": role, "content": draw(ANSWER)}
        found.append(message)
        if draw(st.booleans()):
            message["id"] = f"m{number}"
        if draw(st.booleans()):
            message["timestamp"] = f"2026-01-01T00:00:0{number}Z"
        if draw(st.booleans()):
            message |= {"weight": 0, "weight_reason": draw(st.sampled_from(["source", "copied_context"]))}
        if role == "user" and draw(st.booleans()):
            message["origin"] = "queued"
        if role != "assistant":
            continue
        if thought := draw(TEXT.filter(lambda text: not text or text.strip())):
            message["reasoning_content"] = thought
        calls = [
            {"id": f"c{number}.{k}", "type": "function", "function": {"name": "f", "arguments": draw(ARGUMENTS)}}
            for k in range(draw(st.integers(0 if message["content"] or thought else 1, 2)))
        ]
        if calls:
            message["tool_calls"] = calls
        for call in calls:
            result = {"role": "tool", "content": draw(TEXT), "tool_call_id": call["id"], "name": "f"}
            found.append(result | draw(st.sampled_from([{}, {"is_error": True}, {"is_error": False}])))
    return found


def written(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Messages as a line of the chat completions API: arguments as JSON text."""
    copy = json.loads(json.dumps(found))
    for message in copy:
        for call in message.get("tool_calls", ()):
            if not isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return {"messages": copy}


def by_content(message: dict[str, Any]) -> dict[str, Any]:
    """Arguments as they are meant: those beyond 64 bits stay text."""
    for call in message.get("tool_calls", ()):
        if isinstance(call["function"]["arguments"], str):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return message


@settings(max_examples=200, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=3))
def test_rows_written_and_read_again_are_the_same(found: list[list[dict[str, Any]]]) -> None:
    once = read_chat(lines(*map(written, found)))
    assert [[by_content(message) for message in rollout.messages] for rollout in once] == found
    again = read_chat(lines(*(written(list(rollout.messages)) for rollout in once)))
    assert [rollout.messages.data for rollout in again] == [rollout.messages.data for rollout in once]


@pytest.mark.parametrize("case", ["basic", "legacy", "sharegpt", "lines", "pairs", "responses", "weights"])
def test_what_was_read_is_read_again_the_same(case: str) -> None:
    rollouts = read_chat((CHAT / case / "input.jsonl").read_bytes())
    again = read_chat(lines(*(written(list(rollout.messages)) for rollout in rollouts)))
    expected = [[{**m, "media": None} for m in rollout.messages] for rollout in rollouts]
    assert [[{**m, "media": None} for m in rollout.messages] for rollout in again] == expected


# -- input of any shape --------------------------------------------------------------------------

RECORDS: list[dict[str, Any]] = [
    orjson.loads(line)
    for path in sorted(CHAT.glob("*/input.jsonl"))
    if path.parent.name != "messy"
    for line in path.read_bytes().splitlines()
]


@settings(max_examples=300, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=6))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    for data in (lines(HI, *records), lines([HI, *records])):
        found = list(read(Source("x.jsonl", data), "chat_completions"))
        table(found)
        for rollout in found:
            for message in row(rollout)["messages"]:
                check_message(message)
