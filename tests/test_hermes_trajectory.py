"""Hermes' trajectories beyond the goldens: told by content, compressed files, copies, and input of any shape."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.audit import audit
from agent_rollouts.distill.shapes.hermes import system
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import detect, hermes_trajectory, read
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source, find
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, lines
from tests.test_shapes_hermes import TURNS, batch_row, cli_row, turns_of

CASES = FIXTURES / "hermes_trajectory"
BASIC = (CASES / "basic" / "input.jsonl").read_bytes()


def rollouts(data: bytes, name: str = "t.jsonl") -> list[Rollout]:
    return list(assemble(hermes_trajectory.decode(Source(name, data))))


def said(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


# -- told by content -----------------------------------------------------------------------------

PLAIN = [said("human", "Hi"), said("gpt", "<think>\n</think>\nHello")]
BLOCK = '<tool_call>\n{"name": "ls", "arguments": {}}\n</tool_call>'
LONG = [{"function": {"name": "ls", "description": "x" * 70_000}}]

CLAIMED = {
    "the template": lines({"conversations": [said("system", system([])), *PLAIN]}),
    "the template, traces": lines({"id": "a", "traces": [said("system", system([])), *PLAIN]}),
    "the template, cut off": lines({"prompt_index": 0, "conversations": [said("system", system(LONG)), *PLAIN]}),
    "a call": lines({"conversations": [*PLAIN, said("gpt", BLOCK)]}),
    "results": lines({"conversations": [*PLAIN, said("tool", "<tool_response>\n{}\n</tool_response>")]}),
    "the CLI's keys": lines({"conversations": PLAIN, "timestamp": "t", "completed": True}),
    "the batch runner's keys": lines({"conversations": PLAIN, "tool_stats": {}}),
    "an indented sample": json.dumps({"conversations": [said("system", system([])), *PLAIN]}, indent=2).encode(),
}

NOT_CLAIMED = {
    "plain ShareGPT": lines({"conversations": PLAIN}),
    "plain ShareGPT with a timestamp": lines({"conversations": PLAIN, "timestamp": "t", "id": "a"}),
    "chat messages": lines(
        {"messages": [{"role": "system", "content": system([])}], "completed": True, "timestamp": 1}
    ),
    "a session that quotes it": lines({"type": "user", "message": {"role": "user", "content": system([])}}),
    "no turns": lines({"conversations": [], "completed": True, "timestamp": "t"}),
    "conversations of another kind": lines({"conversations": ["Hi"], "tool_stats": {}}),
    "empty": b"",
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert hermes_trajectory.claims(Head("anything.txt", CLAIMED[name][: 64 * 1024]))
    assert detect(Source("x", CLAIMED[name])) == "hermes_trajectory"


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not hermes_trajectory.claims(Head("trajectory_samples.jsonl", NOT_CLAIMED[name]))


# -- compressed files ----------------------------------------------------------------------------


def members(count: int) -> bytes:
    """A file to which a compressed member was appended for every row."""
    return b"".join(
        gzip.compress(lines(cli_row(turns_of([("user", f"Prompt {n}"), ("assistant", "Yes.")])))) for n in range(count)
    )


def test_members_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "trajectory_samples.jsonl.gz").write_bytes(members(3))
    (path,) = find(tmp_path, patterns=("trajectory_samples*.jsonl",))
    found = list(read(Source(path)))
    assert [rollout.trace_id for rollout in found] == [f"trajectory_samples:{n}" for n in range(3)]
    assert sum((rollout.skipped for rollout in found), start=found[0].skipped).total() == 0


def test_a_torn_member_costs_only_its_rows(tmp_path: Path) -> None:
    data = members(3)
    for length in range(len(members(1)), len(data), 7):
        path = tmp_path / f"{length}.jsonl.gz"
        path.write_bytes(data[:length])
        found = [rollout for rollout in read(Source(str(path))) if rollout]
        prompts = [rollout.messages[0]["content"] for rollout in found]
        assert prompts == ["Prompt 0", "Prompt 1", "Prompt 2"][: len(prompts)]
        assert len(prompts) >= length // len(members(1)) - 1
    assert len(prompts) >= 2


# -- rows ----------------------------------------------------------------------------------------


def test_copies_in_the_combined_file_have_one_identity() -> None:
    folder = CASES / "batch" / "input"
    batch = list(hermes_trajectory.held(Source(str(folder / "batch_0.jsonl"))))
    combined = list(hermes_trajectory.held(Source(str(folder / "trajectories.jsonl"))))
    assert [(rank, turns) for _, rank, turns in batch + combined] == [(1, 5), (1, 3), (2, 5)]
    assert batch[0][0] == combined[0][0] != batch[1][0]
    assert all(len(identity) == 32 for identity, _, _ in batch)
    for name, held in (("batch_0", batch), ("trajectories", combined)):
        found = list(read(Source(str(folder / f"{name}.jsonl"))))
        assert [rollout.identity for rollout in found] == [identity for identity, _, _ in held]


def test_prompt_index_makes_another_identity() -> None:
    turns = turns_of([("user", "Hi"), ("assistant", "Yes.")])
    found = rollouts(lines(batch_row(turns, 1), batch_row(turns, 2), cli_row(turns)))
    assert len({rollout.identity for rollout in found}) == 3
    assert [rollout.trace_id for rollout in found] == ["t:1", "t:2", "t:2"]


def test_trace_ids_are_unique_in_a_file() -> None:
    turns = turns_of([("user", "Hi"), ("assistant", "Yes.")])
    found = list(read(Source("t.jsonl", lines(batch_row(turns, 1), batch_row(turns, 1)))))
    assert [rollout.trace_id for rollout in found] == ["t:1", "t:1#1"]


def test_a_long_list_of_tools_is_read() -> None:
    (found,) = read(Source("t.jsonl", CLAIMED["the template, cut off"]))
    assert found.tools is not None
    assert len(found.tools[0]["function"]["description"]) == 70_000


def test_no_tools_are_not_unknown_tools() -> None:
    known, unknown = rollouts(lines({"conversations": [said("system", system([])), *PLAIN]}, {"conversations": PLAIN}))
    assert (known.tools, unknown.tools) == ([], None)


def test_lone_surrogates_within_blocks() -> None:
    call = '<tool_call>\n{"name": "l\\ud800s", "arguments": {"a": "\\ud800"}}\n</tool_call>'
    result = '<tool_response>\n{"tool_call_id": "\\udfff", "name": "ls", "content": ["\\ud800"]}\n</tool_response>'
    (found,) = rollouts(lines({"conversations": [said("human", "Hi"), said("gpt", call), said("tool", result)]}))
    assert [message["role"] for message in found.messages] == ["user", "assistant", "tool"]
    assert found.messages[2]["content"] == '["\ufffd"]'


def test_a_turn_for_each_result() -> None:
    results = [f'<tool_response>\n{{"name": "ls", "content": "{text}"}}\n</tool_response>' for text in "ab"]
    turns = [said("human", "Hi"), said("gpt", f"{BLOCK}\n{BLOCK}"), *(said("tool", text) for text in results)]
    (found,) = rollouts(lines({"conversations": turns}))
    assert [message["content"] for message in found.messages[2:]] == ["a", "b"]
    assert audit(Source("t.jsonl", lines({"conversations": turns}))).problems == []


def test_deep_nesting_is_kept_as_text() -> None:
    deep = "[" * 100_000
    turn = said("gpt", f'<tool_call>\n{{"name": "ls", "arguments": {deep}\n</tool_call>')
    (found,) = rollouts(lines({"conversations": [said("human", "Hi"), turn]}))
    assert deep in found.messages[1]["content"]
    assert found.skipped["record: tool_call in the text"] == 1


# -- input of any shape --------------------------------------------------------------------------

RECORDS = [
    json.loads(line)
    for path in sorted(CASES.glob("*/input.jsonl"))
    if path.parent.name != "messy"
    for line in path.read_bytes().splitlines()
]


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=6))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    hermes_trajectory.claims(Head("x", data))
    list(hermes_trajectory.held(Source("x.jsonl", data)))
    for found in rollouts(data):
        for message in row(found)["messages"]:
            check_message(message)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BASIC)))
def test_any_prefix_of_a_file_can_be_read(length: int) -> None:
    hermes_trajectory.claims(Head("x", BASIC[:length]))
    assert sum(map(bool, rollouts(BASIC[:length]))) <= 2


@settings(max_examples=150, deadline=None)
@given(TURNS)
def test_audit_agrees(messages: list[dict[str, Any]]) -> None:
    row = cli_row([said("system", system([])), *turns_of(messages)])
    data = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    assert audit(Source("t.jsonl", data)).problems == []
