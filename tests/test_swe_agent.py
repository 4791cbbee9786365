"""SWE-agent beyond the goldens: what is and is not a run, and input of any shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from agent_rollouts.audit import audit
from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, prompt_count, row
from agent_rollouts.formats import detect, read, swe_agent
from agent_rollouts.rollout import assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import damaged

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus"
FILES = sorted(path for path in (FIXTURES / "swe_agent").glob("*/input*/**/*") if path.is_file()) + sorted(
    (FIXTURES / "swe_agent").glob("*/input.traj")
)
RUNS = [json.loads(path.read_bytes()) for path in FILES]
CHAT = {"role": "user", "content": "Hi"}

CLAIMED: dict[str, Any] = {
    "mini without its version": {"info": {"exit_status": "Submitted", "submission": ""}, "messages": [CHAT]},
    "mini, format first": {"trajectory_format": "mini-swe-agent-1", "messages": []},
    "history alone": {"history": [{**CHAT, "agent": "main"}]},
    "steps alone": {"trajectory": [{"action": "ls", "observation": "", "state": "{}"}]},
    "stopped at once": {"environment": "main", "trajectory": [], "history": [], "info": {}},
    "first attempt goes on": {"attempts": [{"trajectory": [{"action": "ls", "observation": "", "response": ""}]}]},
}
NOT_CLAIMED: dict[str, Any] = {
    "list of messages": [CHAT],
    "messages": {"messages": [CHAT]},
    "OpenCode export": {"info": {"id": "ses_1", "title": "t"}, "messages": [{"info": {}, "parts": []}]},
    "ATIF": {"schema_version": "ATIF-v1.4", "agent": {"name": "mini-swe-agent"}, "steps": [], "info": {}},
    "history of no agent": {"history": [CHAT]},
    "trajectory of messages": {"instance_id": "a", "trajectory": [{"role": "ai", "text": "Hi"}], "exit_status": ""},
    "steps of another": {"trajectory": [{"action": 1, "observation": [0.5], "reward": 1}]},
    "empty": {},
    "number": 3,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_fixtures_are_detected(path: Any) -> None:
    assert detect(Source(str(path))) == "swe_agent"


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert swe_agent.claims(Head("x.json", json.dumps(CLAIMED[name]).encode()))


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not swe_agent.claims(Head("x.traj", json.dumps(NOT_CLAIMED[name]).encode()))


def test_long_first_step_is_claimed() -> None:
    step = {"action": "ls", "observation": "x", "response": "y", "query": [{**CHAT, "content": "x" * 100_000}]}
    data = json.dumps({"trajectory": [step], "history": [], "info": {}}).encode()
    assert swe_agent.claims(Head("x", data[: 64 * 1024]))


def test_torn_file_is_an_error() -> None:
    data = json.dumps(RUNS[-1]).encode()[:-5]
    with pytest.raises(FormatError, match="not whole JSON"):
        list(read(Source("x.traj", data), "swe_agent"))


def test_only_the_task_is_a_prompt() -> None:
    for path in (FIXTURES / "swe_agent").glob("[bdl]*/input.traj"):
        (found,) = read(Source(str(path)))
        assert prompt_count(found.messages) == 1, path


@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the corpus")
def test_real_run_of_mini_swe_agent() -> None:
    source = Source(str(CORPUS / "atif/not_atif/sachiny0106__xelron__mini-swe-agent-trajectory.json"))
    found = audit(source)
    assert (found.format, found.rollouts, found.problems) == ("swe_agent", 1, [])
    (rollout,) = read(source)
    assert (len(rollout.messages), rollout.completed, prompt_count(rollout.messages)) == (7, True, 1)


@settings(max_examples=150, deadline=None)
@given(damaged(RUNS))
def test_no_run_stops_the_decoder(run: Any) -> None:
    data = json.dumps(run).encode()
    swe_agent.claims(Head("x", data))
    if isinstance(run, dict):
        for found in assemble(swe_agent.decode(Source("x.traj", data))):
            for message in row(found)["messages"]:
                check_message(message)
