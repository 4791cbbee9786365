"""Codex beyond the goldens: compressed files, what is and is not a rollout, and input of any shape."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.features import check_message, prompt_count, row
from agent_rollouts.formats import codex
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source, find
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

CODEX = FIXTURES / "codex"
BASIC = (CODEX / "basic" / "input.jsonl").read_bytes()
HISTORIES = ("full", "segments", "context")


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"timestamp": "2026-03-02T09:00:01.000Z", "type": "response_item", "payload": {"type": kind, **fields}}


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"timestamp": "2026-03-02T09:00:02.000Z", "type": "event_msg", "payload": {"type": kind, **fields}}


def text(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return item("message", role=role, content=[{"type": kind, "text": text} for text in texts])


def rollout(data: bytes | Path, history: str = "full") -> Rollout:
    source = Source(str(data)) if isinstance(data, Path) else Source("rollout.jsonl", data)
    (found,) = assemble(codex.decode(source), history=history)
    return found


# -- compressed files (E2) -----------------------------------------------------------------------


def test_compressed_files_read_the_same(tmp_path: Path) -> None:
    plain = list(rollout(BASIC).messages)
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(BASIC))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(BASIC))
    for path in find(tmp_path, patterns=("*.jsonl",)):
        assert list(rollout(Path(path)).messages) == plain
        assert codex.claims(Source(path).head)


def test_plain_file_wins_over_its_compressed_copy(tmp_path: Path) -> None:
    (tmp_path / "rollout-1.jsonl").write_bytes(BASIC)
    (tmp_path / "rollout-1.jsonl.zst").write_bytes(b"never opened")
    (tmp_path / "rollout-2.jsonl.zst").write_bytes(zstandard.compress(BASIC))
    found = [Path(path).name for path in find(tmp_path, patterns=("*.jsonl",))]
    assert found == ["rollout-1.jsonl", "rollout-2.jsonl.zst"]


# -- told by content (E53) -----------------------------------------------------------------------

ALONE = {
    "renamed file": BASIC,
    "session_meta": lines({"timestamp": "t", "type": "session_meta", "payload": {"id": "a"}}),
    "turn_context": lines({"timestamp": "t", "type": "turn_context", "payload": {"model": "m"}}),
    "compacted": lines({"timestamp": "t", "type": "compacted", "payload": {"message": ""}}),
    "event": lines(event("agent_message", message="Hi")),
    "item": lines(text("user", "Hi")),
    "bare header": lines({"id": "a", "timestamp": "t", "instructions": None}),
    "bare header with git": lines({"id": "a", "timestamp": "t", "git": {}}),
    "bare message": lines(text("user", "Hi")["payload"]),
    "bare call": lines({"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "c"}),
    "bare result": lines({"type": "function_call_output", "output": "", "call_id": "c"}),
    "bare reasoning": lines({"type": "reasoning", "summary": []}),
    "bare state": lines({"record_type": "state"}),
    "meta beyond the head": lines(
        {"type": "session_meta", "payload": {"id": "a", "base_instructions": {"text": "x" * 100_000}}}
    ),
    "TypeScript object": (CODEX / "bare" / "input" / "typescript.json").read_bytes(),
    "TypeScript object on a line": lines({"session": {"id": "a"}, "items": []}),
}

NOT_CODEX = {
    "prompt history": lines({"session_id": "a", "ts": 1, "text": "Hi"}),
    "session index": lines({"id": "a", "thread_name": "n", "updated_at": "t"}),
    "exec events": lines({"type": "thread.started", "thread_id": "a"}, {"type": "item.completed", "item": {}}),
    "Claude Code": lines(
        {"type": "user", "uuid": "u", "sessionId": "s", "message": {"role": "user", "content": "Hi"}},
        {"type": "assistant", "uuid": "a", "message": {"id": "m", "content": [{"type": "text", "text": "Hi"}]}},
    ),
    "Claude Code summary": lines({"type": "summary", "summary": "s", "leafUuid": "u"}),
    "chat messages": lines({"role": "user", "content": "Hi"}),
    "header of another kind": lines({"type": "session", "id": "a", "timestamp": "t", "cwd": "/"}),
    "empty": b"",
    "text": b"hello\n",
}


@pytest.mark.parametrize("name", ALONE)
def test_claims(name: str) -> None:
    assert codex.claims(Head("anything.txt", ALONE[name][: 64 * 1024]))


@pytest.mark.parametrize("name", NOT_CODEX)
def test_does_not_claim(name: str) -> None:
    assert not codex.claims(Head("rollout-x.jsonl", NOT_CODEX[name]))


# -- details -------------------------------------------------------------------------------------


def test_completion_is_that_of_the_last_turn() -> None:
    done, stopped = event("task_complete"), event("turn_aborted", reason="interrupted")
    turn = [text("user", "Go."), text("assistant", "Went.")]
    assert rollout(lines(*turn)).completed is None
    assert rollout(lines(*turn, done)).completed is True
    assert rollout(lines(*turn, stopped)).completed is False
    assert rollout(lines(*turn, stopped, *turn)).completed is None
    assert rollout(lines(*turn, done, event("thread_rolled_back", num_turns=1))).completed is None


def test_abort_spares_the_answer_before_it() -> None:
    messages = rollout(
        lines(text("user", "Go."), text("assistant", "Went."), text("user", "More."), event("turn_aborted"))
    ).messages
    assert not any("weight" in message for message in messages)


def test_pending_reasoning_stays_before_the_next_prompt() -> None:
    thought = item("reasoning", summary=[{"type": "summary_text", "text": "Hm."}])
    messages = rollout(lines(text("user", "A"), thought, text("user", "B"), text("assistant", "C"))).messages
    assert [message.get("reasoning_content") for message in messages] == [None, "Hm.", None, None]


def test_fragments_are_no_prompts() -> None:
    messages = rollout(CODEX / "fragments" / "input.jsonl").messages
    assert prompt_count(messages) == 2


def test_usage_from_before_a_restart_is_kept() -> None:
    def count(tokens: int) -> dict[str, Any]:
        return event("token_count", info={"total_token_usage": {"input_tokens": tokens, "output_tokens": 1}})

    found = rollout(lines(text("user", "Go."), count(5), count(9), count(2)))
    assert found.usage == {"input_tokens": 2, "output_tokens": 1}
    assert found.source_meta["usage_before_restart"] == [{"input_tokens": 9, "output_tokens": 1}]


def test_copies_with_their_old_timestamps_are_copies() -> None:
    def at(clock: str, record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "timestamp": f"2026-03-02T{clock}.000Z"}

    def meta(id: str) -> dict[str, Any]:
        return {"type": "session_meta", "payload": {"id": id}}

    data = lines(
        at("12:00:00", meta("child")),
        at("09:00:00", meta("parent")),
        at("09:10:00", text("user", "Old.")),
        at("09:20:00", text("assistant", "Copied.")),
        at("12:05:00", text("user", "New.")),
        at("12:05:09", text("assistant", "Own.")),
    )
    weights = {message["content"]: message.get("weight", 1) for message in rollout(data).messages}
    assert weights == {"Old.": 0, "Copied.": 0, "New.": 1, "Own.": 1}


def test_instructions_stand_at_the_head_of_every_segment() -> None:
    windows = list(assemble(codex.decode(Source(str(CODEX / "compaction" / "input.jsonl"))), history="segments"))
    assert len(windows) == 3
    assert len({window.messages[0]["content"] for window in windows}) == 1


# -- input of any shape --------------------------------------------------------------------------

RECORDS = fixture_records(CODEX)


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    codex.claims(Head("x", data))
    for history in HISTORIES:
        for found in assemble(codex.decode(Source("x.jsonl", data)), history=history):
            for message in row(found)["messages"]:
                check_message(message)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BASIC)))
def test_any_prefix_of_a_file_can_be_read(length: int) -> None:
    data = BASIC[:length]
    codex.claims(Head("x", data))
    found = rollout(data)
    assert len(found.messages) <= len(rollout(BASIC).messages)
