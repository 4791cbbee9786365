"""STS beyond the goldens: whose file it is, strictness, and input of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import read, sts
from agent_rollouts.rollout import assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

STS = FIXTURES / "sts"
CORPUS = Path("/work/shared/corpus/pi")
HEADER = {"type": "session", "harness": "h", "id": "i"}


def said(role: str, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "message": {"role": role, "content": "", **fields}}


CLAIMED = {
    "header": lines(HEADER),
    "header with further keys": lines({**HEADER, "model": "m", "currNode": ""}),
    "calls without a header": lines(said("assistant", toolCalls=[])),
    "result without a header": lines(said("tool", toolCallId="t")),
    "header with a folder, then a result": lines({**HEADER, "cwd": "/w"}, said("tool")),
}
NOT_CLAIMED = {
    "Pi": lines({"type": "session", "version": 3, "id": "i", "cwd": "/w"}),
    "Pi with a harness": lines({**HEADER, "version": 3, "cwd": "/w"}),
    "Pi's first version": lines({"type": "session", "id": "i", "cwd": "/w", "provider": "p"}),
    "Pi's entry": lines({**said("toolResult", toolCallId="t"), "id": "a", "parentId": None}),
    "chat message": lines({"role": "tool", "content": "", "tool_call_id": "t"}),
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert sts.claims(Head("x", CLAIMED[name]))


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not sts.claims(Head("x.jsonl", NOT_CLAIMED[name]))


@pytest.mark.skipif(not CORPUS.exists(), reason="needs the corpus")
def test_claims_the_one_sts_file_among_sessions_of_pi() -> None:
    claimed = [path.name for path in CORPUS.rglob("*.jsonl") if sts.claims(Source(str(path)).head)]
    assert claimed == ["16_sts_format.jsonl"]


BREACHES = {
    "before any header": [said("user")],
    "without harness or id": [{"type": "session", "harness": "h"}],
    "neither session nor message": [HEADER, {"type": "note"}],
    "without a known role": [HEADER, said("narrator")],
}


@pytest.mark.parametrize("breach", BREACHES)
def test_strict_names_the_breach(breach: str) -> None:
    data = lines(*BREACHES[breach], said("tool", toolCallId="t"))
    list(read(Source("x.jsonl", data), "sts"))
    with pytest.raises(FormatError, match=breach):
        list(read(Source("x.jsonl", data), "sts", strict=True))


def test_an_answer_without_a_way_to_the_root_is_shown() -> None:
    records = [said("user", id="a", parent="b", content="A"), said("user", id="b", parent="a", content="B")]
    (found,) = assemble(sts.decode(Source("x.jsonl", lines(HEADER, *records))))
    assert [message["content"] for message in found.messages] == ["A", "B"]


RECORDS = fixture_records(STS)


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    sts.claims(Head("x", data))
    for branches in ("active", "all"):
        for found in assemble(sts.decode(Source("x.jsonl", data)), branches=branches):
            for message in row(found)["messages"]:
                check_message(message)
