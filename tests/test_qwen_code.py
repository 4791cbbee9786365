"""Qwen Code beyond the goldens: whose file it is, and input of any shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.features import check_message, row
from agent_rollouts.formats import claude_code, detect, qwen_code
from agent_rollouts.rollout import assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

QWEN = FIXTURES / "qwen_code"
BASE = {"uuid": "u", "parentUuid": None, "sessionId": "s"}
SAID = {"role": "user", "parts": [{"text": "Hi"}]}

CLAIMED = {
    "prompt": lines({**BASE, "type": "user", "message": SAID}),
    "answer": lines({**BASE, "type": "assistant", "message": {"role": "model", "parts": []}}),
    "result": lines({**BASE, "type": "tool_result", "message": SAID}),
    "system record": lines({**BASE, "type": "system", "subtype": "ui_telemetry", "systemPayload": {}}),
}
NOT_CLAIMED = {
    "Claude Code": lines({**BASE, "type": "user", "message": {"role": "user", "content": "Hi"}}),
    "Claude Code's system record": lines({**BASE, "type": "system", "subtype": "init", "content": ""}),
    "Gemini CLI": lines({"id": "u", "type": "user", "content": [{"text": "Hi"}]}),
    "contents": lines(SAID),
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    source = Source("x", CLAIMED[name])
    assert qwen_code.claims(source.head)
    assert not claude_code.claims(source.head)
    assert detect(source) == "qwen_code"


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not qwen_code.claims(Head("x.jsonl", NOT_CLAIMED[name]))


RECORDS = fixture_records(QWEN)


@settings(max_examples=200, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    qwen_code.claims(Head("x", data))
    for options in ({}, {"branches": "all"}, {"history": "segments"}):
        for found in assemble(qwen_code.decode(Source("x.jsonl", data)), **options):
            for message in row(found)["messages"]:
                check_message(message)
