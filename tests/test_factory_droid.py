"""Factory Droid beyond the goldens: whose file it is, completion, and input of any shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.features import check_message, row
from agent_rollouts.formats import factory_droid
from agent_rollouts.rollout import assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

DROID = FIXTURES / "factory_droid"
START = {"type": "session_start", "id": "d", "title": "t", "version": 2, "cwd": "/w"}


def said(role: str) -> dict[str, Any]:
    return {"type": "message", "message": {"role": role, "content": [{"type": "text", "text": "Hi"}]}}


CLAIMED = {
    "header": lines(START),
    "compaction without a header": lines({"type": "compaction_state", "summaryText": "s"}),
    "outcome without a header": lines(said("user"), {"type": "agent_turn_outcome", "reason": "completed"}),
}
NOT_CLAIMED = {
    "another program's start": lines({"type": "session_start", "id": "s", "model": "m", "cwd": "/w", "resumed": False}),
    "Pi": lines({"type": "session", "version": 3, "id": "i", "cwd": "/w"}, {**said("user"), "id": "a"}),
    "messages alone": lines(said("user")),
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert factory_droid.claims(Head("x", CLAIMED[name]))


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not factory_droid.claims(Head("x.jsonl", NOT_CLAIMED[name]))


def test_completion_is_that_of_the_last_turn() -> None:
    def completed(*records: dict[str, Any]) -> bool | None:
        (found,) = assemble(factory_droid.decode(Source("x", lines(START, *records))))
        return found.completed

    done, failed = ({"type": "agent_turn_outcome", "reason": reason} for reason in ("completed", "error"))
    turn = [said("user"), said("assistant")]
    assert completed(*turn) is None
    assert completed(*turn, done) is True
    assert completed(*turn, failed) is False
    assert completed(*turn, done, *turn) is None


RECORDS = fixture_records(DROID)


@settings(max_examples=200, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    factory_droid.claims(Head("x", data))
    for history in ("full", "segments", "context"):
        for found in assemble(factory_droid.decode(Source("x.jsonl", data)), history=history):
            for message in row(found)["messages"]:
                check_message(message)
