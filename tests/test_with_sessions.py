"""Whole sessions beside the shapes, and on the Hub in a repository of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import load_dataset

from agent_rollouts.distill import Options, distill
from agent_rollouts.distill.sessions import is_session
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.formats import read
from agent_rollouts.source import Source

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": {"path": ".", "depth": 2}}},
    {"id": "c2", "type": "function", "function": {"name": "cat", "arguments": f'{{"n": {2**70}}}'}},
]
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Look é \u2028 there.", "timestamp": "2026-07-01T15:00:00.250Z"},
    {"role": "assistant", "content": "", "reasoning_content": "First look.", "tool_calls": CALLS},
    {"role": "tool", "content": "README.md", "tool_call_id": "c1", "name": "ls"},
    {"role": "tool", "content": "", "tool_call_id": "c2", "name": "cat"},
    {"role": "assistant", "content": "One file.\n"},
    {"role": "assistant", "content": "Done."},
]


def row(name: str, messages: list[dict[str, Any]] = MESSAGES) -> dict[str, Any]:
    about = {"source_kind": "garden", "source_path": "a.jsonl", "trace_id": name, "model": "m"}
    return {**about, "messages": messages, "source_meta": {"title": "Looking"}, "skipped": {}}


def test_our_reader_reads_them_back(tmp_path: Path) -> None:
    long = [*MESSAGES, *({"role": "user" if n % 2 else "assistant", "content": f"{n} " * 90} for n in range(1, 9))]
    out = tmp_path / "out"
    options = Options(with_sessions=True, max_tokens=400, weights=False)
    for _ in range(2):  # the folder of before is known as ours
        distill([row("t1"), row("t2", [{"role": "user", "content": "hm"}, *long[2:]])], options, output=out)
    paths = sorted((out / "sessions").iterdir())
    assert len(paths) == 2
    assert all(is_session(path.relative_to(out).as_posix()) for path in paths)
    assert all(orjson.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    found = {one.trace_id: one for path in paths for one in read(Source(str(path)))}
    keys = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
    for name, wanted in (("t1", MESSAGES), ("t2", [{"role": "user", "content": "hm"}, *long[2:]])):
        told = [{key: message[key] for key in keys if key in message} for message in found[name].messages]
        assert told == [{key: message[key] for key in keys if key in message} for message in wanted]
        assert found[name].source_kind == "sts"
        assert found[name].source_meta["title"] == "Looking"
        assert found[name].model == "m"
    assert found["t1"].started_at == "2026-07-01T15:00:00.250Z"
    assert len(load_dataset(str(out), split="train")) > 2


def test_only_when_asked_for_and_in_a_split(tmp_path: Path) -> None:
    distill([row("t1")], Options(), output=tmp_path / "out")
    assert not (tmp_path / "out" / "sessions").exists()
    (tmp_path / "out" / "sessions").mkdir()
    (tmp_path / "out" / "sessions" / "diary.jsonl").write_text("{}")
    with pytest.raises(AgentRolloutsError, match="holds more"):
        distill([row("t1")], Options(with_sessions=True), output=tmp_path / "out")


def test_they_are_redacted(tmp_path: Path) -> None:
    key = "AKIA" + "Q3EGRJ7T" + "2XWPL4UN"
    calls = [{"id": key, "type": "function", "function": {"name": "sh", "arguments": {"env": f'K="{key}"'}}}]
    messages = [
        {"role": "user", "content": f"Use {key}"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    distill([row("t1", messages)], Options(with_sessions=True), output=tmp_path / "out")
    (path,) = (tmp_path / "out" / "sessions").iterdir()
    header, *lines = map(orjson.loads, path.read_bytes().splitlines())
    assert header["redaction_policy"]
    assert header["family_id"]
    assert key not in lines[0]["message"]["content"]
    assert key not in lines[1]["message"]["toolCalls"][0]["function"]["arguments"]
