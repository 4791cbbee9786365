"""OpenHands beyond the goldens: what is an event, the files of a conversation, and input of any shape."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.audit import audit
from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, prompt_count, row
from agent_rollouts.formats import detect, openhands, read
from agent_rollouts.rollout import assemble
from agent_rollouts.source import Head, Source, find, open_sources
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus"
FOLDER = FIXTURES / "openhands"
LISTS = sorted(FOLDER.glob("*/input.json"))
FILES = sorted(FOLDER.glob("*/input/*/events/*.json"))
EVENTS = [event for path in LISTS for event in json.loads(path.read_bytes()) if isinstance(event, dict)] + [
    json.loads(path.read_bytes()) for path in FILES
]
ACTION = {"id": 0, "timestamp": "t", "source": "user", "action": "message", "args": {"content": "Hi"}}
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}


@pytest.mark.parametrize("path", LISTS + FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_fixtures_are_detected(path: Path) -> None:
    assert detect(Source(str(path))) == "openhands"


CLAIMED: dict[str, Any] = {
    "list": [ACTION],
    "list without ids": [{key: value for key, value in ACTION.items() if key != "id"}],
    "one action": ACTION,
    "one observation": {"id": 1, "source": "environment", "observation": "run", "content": "", "extras": {}},
    "one event": {"id": "a", "source": "user", "kind": "MessageEvent", "llm_message": MESSAGE},
    "list of events": [{"id": "a", "source": "user", "kind": "MessageEvent", "llm_message": MESSAGE}],
}
NOT_CLAIMED: dict[str, Any] = {
    "empty list": [],
    "messages": [{"role": "user", "content": "Hi"}],
    "steps": [{"action": "ls", "observation": "a.py"}],
    "another's source": [{**ACTION, "source": "cli"}],
    "another's event": {"id": "a", "source": "user", "kind": "Deployment"},
    "Gemini history": [{"role": "user", "parts": [{"text": "Hi"}]}],
    "state": {"id": "a", "agent": {"kind": "Agent"}, "execution_status": "idle"},
}


@pytest.mark.parametrize("name", CLAIMED)
def test_claims(name: str) -> None:
    assert openhands.claims(Head("x.json", json.dumps(CLAIMED[name]).encode()))


@pytest.mark.parametrize("name", NOT_CLAIMED)
def test_does_not_claim(name: str) -> None:
    assert not openhands.claims(Head("event-00000-a.json", json.dumps(NOT_CLAIMED[name]).encode()))


# -- a file for each event -----------------------------------------------------------------------


def conversation(folder: Path, texts: list[str]) -> Path:
    """A conversation of files named as before 1.0."""
    (folder / "events").mkdir(parents=True)
    for number, text in enumerate(texts):
        event = {**ACTION, "id": number, "args": {"content": text}}
        (folder / "events" / f"{number}.json").write_text(json.dumps(event))
    return folder / "events"


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    events = conversation(tmp_path / "abc", [str(number) for number in range(12)])
    (found,) = read(Source(str(events / "0.json")))
    assert found.trace_id == "abc"
    assert [message["content"] for message in found.messages] == [str(number) for number in range(12)]


def test_other_files_than_the_first_are_counted(tmp_path: Path) -> None:
    events = conversation(tmp_path / "abc", ["a", "b"])
    (found,) = read(Source(str(events / "1.json")))
    assert (len(found.messages), dict(found.skipped)) == (
        0,
        {"file: event that is read with the first of its conversation": 1},
    )


def test_damaged_event_costs_that_event(tmp_path: Path) -> None:
    events = conversation(tmp_path / "abc", ["a", "b", "c"])
    (events / "1.json").write_text("{torn")
    (found,) = read(Source(str(events / "0.json")))
    assert [message["content"] for message in found.messages] == ["a", "c"]
    assert found.skipped["file: event that cannot be read"] == 1


def test_files_at_an_address(tmp_path: Path) -> None:
    events = conversation(tmp_path / "abc", ["a", "b"])
    (found,) = read(Source(f"file://{events}/0.json"))
    assert len(found.messages) == 2


def test_event_within_an_archive_is_an_error(tmp_path: Path) -> None:
    events = conversation(tmp_path / "abc", ["a", "b"])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(events / "0.json", "abc/events/0.json")
    for source in open_sources(str(tmp_path / "a.zip")):
        with pytest.raises(FormatError, match="unpack the archive"):
            list(read(source))


def test_folder_gives_one_file_a_conversation(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "sdk" / "input" / "conv", tmp_path / "one")
    patterns = ("event-00000-*.json", "0.json")
    assert len(find(tmp_path, patterns=patterns)) == 1


# -- details -------------------------------------------------------------------------------------


def test_a_later_finish_counts() -> None:
    def action(number: int, kind: str, **args: Any) -> dict[str, Any]:
        return {"id": number, "timestamp": "t", "source": "agent", "action": kind, "args": args}

    def completed(*events: dict[str, Any]) -> bool | None:
        (found,) = read(Source("x.json", json.dumps([ACTION, *events]).encode()))
        return found.completed

    assert completed() is None
    assert completed(action(1, "finish", thought="Done.")) is True
    assert completed(action(1, "finish", thought="", task_completed="false")) is False
    assert completed(action(1, "reject", outputs={})) is False
    assert completed(action(1, "finish", thought="Done."), {**ACTION, "id": 2}) is None


def test_plumbing_is_no_prompt() -> None:
    (found,) = read(Source(str(FOLDER / "basic" / "input.json")))
    assert prompt_count(found.messages) == 2


@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the corpus")
def test_real_list() -> None:
    source = Source(str(CORPUS / "atif/not_atif/sachiny0106__xelron__openhands_trajectory.json"))
    found = audit(source)
    assert (found.format, found.rollouts, found.problems) == ("openhands", 1, [])
    (rollout,) = read(source)
    assert (len(rollout.messages), rollout.completed, len(rollout.tools or [])) == (5, True, 6)


@settings(max_examples=200, deadline=None)
@given(st.lists(damaged(EVENTS) | VALUES, max_size=10))
def test_no_event_stops_the_decoder(events: list[Any]) -> None:
    data = json.dumps(events).encode()
    openhands.claims(Head("x", data))
    for history in ("full", "segments", "context"):
        for branches in ("active", "all"):
            for found in assemble(openhands.decode(Source("x.json", data)), history=history, branches=branches):
                for message in row(found)["messages"]:
                    check_message(message)


@settings(max_examples=60, deadline=None)
@given(damaged(EVENTS[-9:]), VALUES)
def test_no_state_stops_the_decoder(event: dict[str, Any], value: Any) -> None:
    state = {"agent": value, "stats": {"usage_to_metrics": {"a": value}}, "leaf_event_id": value, "workspace": value}
    list(assemble(openhands._Conversation([event], state, "x").events()))
