"""Gemini CLI beyond the goldens: whose file it is, and input of any shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.features import check_message, row
from agent_rollouts.formats import detect, gemini_cli, read
from agent_rollouts.rollout import assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

GEMINI = FIXTURES / "gemini_cli"
CORPUS = Path("/work/shared/corpus/atif/not_atif")
HEADER = {"sessionId": "s", "projectHash": "p"}
CONTENT = {"role": "user", "parts": [{"text": "Hi"}]}

CLAIMED = {
    "header": lines(HEADER),
    "message without a header": lines({"id": "g", "type": "gemini", "content": ""}),
    "rewind": lines({"$rewindTo": "g"}),
    "document": json.dumps({**HEADER, "messages": []}, indent=2).encode(),
    "contents": json.dumps([CONTENT]).encode(),
    "saved chat": json.dumps({"history": [CONTENT]}, indent=2).encode(),
}
NOT_CLAIMED = {
    "Claude Code": lines({"type": "user", "sessionId": "s", "uuid": "u", "message": {"role": "user", "content": "Hi"}}),
    "Qwen Code": lines({"type": "user", "sessionId": "s", "uuid": "u", "message": CONTENT}),
    "chat": lines({"messages": [{"role": "user", "content": "Hi"}]}),
    "prompt history": json.dumps([{"sessionId": "s", "messageId": 0, "type": "user", "message": "Hi"}]).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert gemini_cli.claims(Head("x", CLAIMED[name]))
    list(read(Source("x", CLAIMED[name]), "gemini_cli"))


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not gemini_cli.claims(Head("session-x.jsonl", NOT_CLAIMED[name]))


@pytest.mark.skipif(not CORPUS.exists(), reason="needs the corpus")
def test_reads_the_one_session_among_other_trajectories() -> None:
    found = [Source(str(path)) for path in sorted(CORPUS.glob("*.json"))]
    (source,) = [source for source in found if gemini_cli.claims(source.head)]
    assert detect(source) == "gemini_cli"
    (rollout,) = read(source)
    assert [message["role"] for message in rollout.messages] == ["user", "assistant"]


def test_a_document_on_one_line_reads_like_one_on_many() -> None:
    message = {"id": "u", "type": "user", "content": "Hi"}
    document = {**HEADER, "messages": [message]}
    texts = [json.dumps(document), json.dumps(document, indent=2), json.dumps(HEADER) + "\n" + json.dumps(message)]
    rollouts = [next(assemble(gemini_cli.decode(Source("x", text.encode())))) for text in texts]
    assert [list(rollout.messages) for rollout in rollouts] == [list(rollouts[0].messages)] * 3


def test_a_rewind_to_an_unknown_message_withdraws_all() -> None:
    records = [{"id": id, "type": "user", "content": id} for id in ("a", "b", "c")]
    data = lines(HEADER, *records[:2], {"$rewindTo": "x"}, records[2])
    (rollout,) = assemble(gemini_cli.decode(Source("x", data)))
    assert [message["content"] for message in rollout.messages] == ["c"]
    assert rollout.skipped == {"message: withdrawn": 2}


RECORDS = fixture_records(GEMINI)


@settings(max_examples=200, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(HEADER, *records)
    gemini_cli.claims(Head("x", data))
    for history in ("full", "segments", "context"):
        for found in assemble(gemini_cli.decode(Source("x.jsonl", data)), history=history):
            for message in row(found)["messages"]:
                check_message(message)
