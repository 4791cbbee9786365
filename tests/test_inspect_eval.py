"""Inspect beyond the goldens: how archives are wrapped and torn, what a log is, and input of any shape."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from agent_rollouts.errors import FormatError, SourceError
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import detect, inspect_eval, read
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source, open_sources
from tests.conftest import FIXTURES
from tests.strategies import damaged

FOLDER = FIXTURES / "inspect_eval"
BASIC = FOLDER / "basic" / "input.eval"
LOGS = [json.loads(path.read_bytes()) for path in (FOLDER / "json" / "input.json", FOLDER / "messy/input/log.json")]
SPEC = {"task": "t", "eval_id": "e", "model": "m"}


def shown(rollouts: list[Rollout]) -> list[Any]:
    return [(found.trace_id, list(found.messages), found.reward, found.usage, found.tools) for found in rollouts]


def sample(number: int = 1, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"Hi {number}"}
    return {"id": f"s{number}", "epoch": 1, "messages": [message], **more}


def archive(*samples: dict[str, Any], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as opened:
        opened.writestr("header.json", json.dumps({"version": 2, "eval": SPEC}))
        for one in samples:
            opened.writestr(f"samples/{one['id']}_epoch_1.json", json.dumps(one))
    return stream.getvalue()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/input*/*")) + sorted(FOLDER.glob("*/input.*")), ids=str)
def test_fixtures_are_detected(path: Path) -> None:
    assert detect(Source(str(path))) == "inspect_eval"


def test_a_sample_in_parts_reads_the_same() -> None:
    assert shown(list(read(Source(str(BASIC))))) == shown(list(read(Source(str(FOLDER / "parts" / "input.eval")))))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_every_compression(compression: int) -> None:
    found = list(read(Source("a.eval", archive(sample(1), sample(2), compression=compression))))
    assert [(one.trace_id, len(one.messages)) for one in found] == [("s1_epoch_1", 1), ("s2_epoch_1", 1)]


def test_log_within_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "logs.zip", "w") as outer:
        outer.write(BASIC, "run/basic.eval")
    found = [one for source in open_sources(str(tmp_path / "logs.zip")) for one in read(source)]
    assert shown(found) == shown(list(read(Source(str(BASIC)))))


def test_without_zstandard_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(SourceError, match=r"agent-rollouts\[zstd\]"):
        list(read(Source(str(BASIC))))


def test_damage_within_zstd_costs_one_sample() -> None:
    data = bytearray(BASIC.read_bytes())
    with zipfile.ZipFile(BASIC) as opened:
        at = opened.getinfo("samples/s1_epoch_1.json").header_offset
    data[at + 200 : at + 260] = bytes(60)
    found = list(read(Source("a.eval", bytes(data))))
    assert [len(one.messages) for one in found] == [0, 5]
    assert found[0].skipped["record: sample that cannot be read"] == 1


def test_archive_that_is_cut_off() -> None:
    with pytest.raises(FormatError, match="no whole zip archive"):
        list(read(Source("a.eval", archive(sample())[:-30])))


def test_rewards() -> None:
    def reward(**scores: Any) -> float | None:
        (found,) = read(Source("a.eval", archive(sample(scores={k: {"value": v} for k, v in scores.items()}))))
        return found.reward

    assert [reward(a="C"), reward(a="I"), reward(a=0.25), reward(a=True), reward(a=1, b="C")] == [1, 0, 0.25, 1, 1]
    assert [reward(), reward(a="P"), reward(a="C", b=0.5), reward(a=[1]), reward(a=None)] == [None] * 5
    assert reward(a=float("nan")) is None


def test_usage_of_all_models_where_none_is_the_evaluated_one() -> None:
    usage = {"x/a": {"input_tokens": 1}, "x/b": {"input_tokens": 2}}
    (found,) = read(Source("a.eval", archive(sample(model_usage=usage))))
    assert found.usage == {"input_tokens": 3}


CLAIMED: dict[str, bytes] = {
    "archive": archive(sample()),
    "object": json.dumps({"version": 2, "status": "started", "eval": SPEC}).encode(),
    "object, cut off": json.dumps({"version": 2, "eval": SPEC, "samples": [sample()] * 9}).encode()[:400],
}
NOT_CLAIMED: dict[str, bytes] = {
    "another archive": b"PK\x03\x04" + bytes(22) + b"\x05\x00\x00\x00a.txt",
    "short archive": b"PK\x03\x04",
    "eval set": json.dumps({"eval_set_id": "a", "tasks": []}).encode(),
    "configuration": json.dumps({"version": 1, "eval": {"dataset": "d"}}).encode(),
    "messages": json.dumps({"messages": []}).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert inspect_eval.claims(Head("x", CLAIMED[name]))


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not inspect_eval.claims(Head("x.eval", NOT_CLAIMED[name]))


@settings(max_examples=150, deadline=None)
@given(damaged(LOGS))
def test_no_log_stops_the_decoder(log: dict[str, Any]) -> None:
    data = json.dumps(log).encode()
    inspect_eval.claims(Head("x", data))
    for found in assemble(inspect_eval.decode(Source("x.json", data))):
        for message in row(found)["messages"]:
            check_message(message)
