"""agentic-datagen beyond the goldens: what is and is not one of its datasets, identities, and input of any shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.cli import main
from agent_rollouts.features import check_message, row, table
from agent_rollouts.formats import agentic_datagen, chat_completions, detect, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Head, Source, find
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

DATAGEN = FIXTURES / "agentic_datagen"
BASIC = (DATAGEN / "basic" / "input.jsonl").read_bytes()
CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus" / "agentic_datagen"
SESSION = json.loads(BASIC)


def rollouts(*records: Any, path: str = "dataset.jsonl") -> list[Rollout]:
    return list(read(Source(path, lines(*records)), "agentic_datagen"))


def result(content: Any) -> dict[str, Any]:
    """The message made of one result."""
    call = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "run", "arguments": "{}"}}]}
    messages = [call, {"role": "tool", "content": content, "tool_call_id": "c", "name": "run"}]
    (rollout,) = rollouts({"messages": messages, "metadata": {"turns": 1}})
    return rollout.messages[1]


# -- told by content -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(DATAGEN.glob("*/input*/*")) + sorted(DATAGEN.glob("*/input.jsonl")), ids=str)
def test_claims(path: Path) -> None:
    assert detect(Source(str(path))) == "agentic_datagen"


def test_claims_what_is_longer_than_the_head() -> None:
    """Metadata stands last: of a long session only the start is there to be told by."""
    long = json.loads(json.dumps(SESSION))
    long["messages"][-1]["content"] = "x" * 100_000
    early = {key: long[key] for key in ("messages", "metadata", "usage", "tools")}
    bare = json.loads(json.dumps(long))
    for message in bare["messages"]:
        if message["role"] == "tool":
            message["content"] = "unwrapped"
    for session in (long, early, bare):
        assert detect(Source("d.jsonl", lines(session))) == "agentic_datagen"
    # Neither key order nor wrapping is that of the program.
    for other in ({"messages": bare["messages"]}, {"tools": [], "messages": long["messages"]}):
        assert detect(Source("d.jsonl", lines(other))) == "chat_completions"


@pytest.mark.parametrize("missing", ["messages", "metadata"])
def test_does_not_claim(missing: str) -> None:
    assert not agentic_datagen.claims(Head("d.jsonl", lines({k: v for k, v in SESSION.items() if k != missing})))


def test_is_not_generic() -> None:
    assert not chat_completions.claims(Head("d.jsonl", BASIC))


# -- one schema, identities (33, 35) -------------------------------------------------------------


def test_eras_have_one_schema() -> None:
    found = [
        rollout
        for path in find(DATAGEN / "eras" / "input")
        for rollout in read(Source(path), "agentic_datagen")
        if rollout
    ]
    assert len(found) == 4
    assert table(found).num_rows == 4


def test_identities_last() -> None:
    """A session keeps its id in every file that holds it, wherever it stands; another run's session has its own."""
    again = [json.loads(line) for line in (DATAGEN / "sessions_again" / "input.jsonl").read_text().splitlines()]
    ids = [rollout.trace_id for rollout in rollouts(*again)]
    assert len(set(ids)) == len(again)
    assert ids == [rollout.trace_id for rollout in rollouts(*again)]
    assert ids[::-1] == [rollout.trace_id for rollout in rollouts(*again[::-1], path="other.jsonl")]


# -- results (34) ----------------------------------------------------------------------------------

RESULTS: dict[str, tuple[Any, str, bool | None]] = {
    "succeeded": ('{"success": true, "result": "a"}', '{"success": true, "result": "a"}', False),
    "failed": ('{"success": false, "error": "b"}', '{"success": false, "error": "b"}', True),
    "unknown tool": ('{"error": "Unknown tool: x"}', '{"error": "Unknown tool: x"}', True),
    "unwrapped": ("a", "a", None),
    "unwrapped list": (["ü", 1], '["ü", 1]', None),
    "unwrapped object": ({"a": None}, '{"a": null}', None),
    "failed, not as text": ({"success": False, "error": "b"}, '{"success": false, "error": "b"}', True),
    "a tool's own report": ('{"success": false, "tests": 3}', '{"success": false, "tests": 3}', None),
    "cut": ('{"success": false, "err', '{"success": false, "err', None),
    "nothing": (None, "", None),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str) -> None:
    content, text, failed = RESULTS[name]
    message = result(content)
    assert (message["content"], message.get("is_error")) == (text, failed)


# -- real files, and input of any shape -----------------------------------------------------------


def test_corpus() -> None:
    if not CORPUS.is_dir():
        pytest.skip(f"no {CORPUS}")
    found = CliRunner().invoke(main, ["audit", str(CORPUS)])
    assert found.exit_code == 0, found.stdout
    assert found.stdout.startswith("2 files, 80 rollouts, 0 files with problems\n")


RECORDS = fixture_records(DATAGEN)


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=6))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    agentic_datagen.claims(Head("x", data))
    # The line before them is whole, so that the file is one.
    found = list(read(Source("x.jsonl", BASIC + data), "agentic_datagen"))
    table(found)
    for rollout in found:
        for message in row(rollout)["messages"]:
            check_message(message)
