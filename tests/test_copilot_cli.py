"""Copilot CLI beyond the goldens: what is and is not a log of its, and input of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.features import check_message, row
from agent_rollouts.formats import copilot_cli, detect
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

COPILOT = FIXTURES / "copilot_cli"
BASIC = (COPILOT / "basic" / "input.jsonl").read_bytes()


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data, "id": "e", "timestamp": "2026-03-02T09:00:00.000Z", "parentId": None}


def rollout(*records: dict[str, Any], history: str = "full") -> Rollout:
    (found,) = assemble(copilot_cli.decode(Source("s.jsonl", lines(*records))), history=history)
    return found


# -- told by content -----------------------------------------------------------------------------

ALONE = {
    "renamed file": BASIC,
    "start": lines(event("session.start", sessionId="a")),
    "torn start": b'{"type":"session.st\n' + lines(event("user.message", content="Hi")),
    "abort": lines(event("abort", reason="user_initiated")),
}
NOT_COPILOT = {
    "pi": {"type": "custom", "customType": "x", "data": {}, "id": "a", "parentId": None, "timestamp": "t"},
    "pi session": {"type": "session", "id": "a", "timestamp": "t", "cwd": "/"},
    "codex": {"type": "session_meta", "payload": {"id": "a"}, "timestamp": "t"},
    "no envelope": {"type": "session.start", "data": {}},
    "wire": {"type": "session.updated", "properties": {}},
}


@pytest.mark.parametrize("name", ALONE)
def test_claims(name: str) -> None:
    assert detect(Source("anything.txt", ALONE[name])) == "copilot_cli"


@pytest.mark.parametrize("name", NOT_COPILOT)
def test_does_not_claim(name: str) -> None:
    assert not copilot_cli.claims(Head("events.jsonl", lines(NOT_COPILOT[name])))


# -- details -------------------------------------------------------------------------------------


def test_folder_names_a_log_without_its_start(tmp_path: Path) -> None:
    path = tmp_path / "ded0c580" / "events.jsonl"
    path.parent.mkdir()
    path.write_bytes(lines(event("user.message", content="Hi")))
    (found,) = assemble(copilot_cli.decode(Source(str(path))))
    assert found.trace_id == "ded0c580"


def test_system_prompt_stands_before_the_prompts_that_it_follows() -> None:
    found = rollout(
        event("user.message", content="One"),
        event("user.message", content="Two"),
        event("system.message", role="system", content="Be brief."),
        event("system.message", role="developer", content="And kind."),
        event("assistant.turn_start", turnId="0"),
        event("assistant.message", messageId="m", content="Yes."),
    )
    assert [message["content"] for message in found.messages] == ["Be brief.", "And kind.", "One", "Two", "Yes."]


def test_prompt_without_an_answer_is_kept() -> None:
    found = rollout(event("user.message", content="Hi"), event("system.message", role="system", content="Be brief."))
    assert [message["role"] for message in found.messages] == ["system", "user"]


def test_context_begins_with_the_system_prompt_though_it_is_not_said_again() -> None:
    records = [
        event("user.message", content="Hi"),
        event("system.message", role="system", content="Be brief."),
        event("assistant.message", messageId="m", content="Yes."),
        event("session.compaction_complete", success=True, summaryContent="They said hi."),
        event("assistant.message", messageId="n", content="Well."),
    ]
    found = rollout(*records, history="context")
    assert [message["content"] for message in found.messages] == ["Be brief.", "They said hi.", "Well."]
    assert found.messages[0]["weight_reason"] == "copied_context"


def test_only_logs_that_mark_answers_tell_which_the_program_made() -> None:
    plain = event("assistant.message", messageId="m", content="Hi.")
    marked = event("assistant.message", messageId="n", content="Hi.", apiCallId="a", model="m-1")
    assert "weight" not in rollout(plain).messages[0]
    assert [message.get("weight_reason") for message in rollout(marked, plain).messages] == [None, "synthetic"]


# -- input of any shape --------------------------------------------------------------------------

RECORDS = fixture_records(COPILOT)


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    copilot_cli.claims(Head("x", data))
    for history in ("full", "segments", "context"):
        for found in assemble(copilot_cli.decode(Source("x.jsonl", data)), history=history):
            for message in row(found)["messages"]:
                check_message(message)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BASIC)))
def test_any_prefix_of_a_log_can_be_read(length: int) -> None:
    for found in assemble(copilot_cli.decode(Source("x.jsonl", BASIC[:length]))):
        assert len(found.messages) <= 16
