"""ATIF beyond the goldens: what is and is not a trajectory, files beside, strict, and input of any shape."""

from __future__ import annotations

import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.configs import file_rules
from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, prompt_count, row
from agent_rollouts.formats import DECODERS, atif, detect, read
from agent_rollouts.rollout import HISTORIES, Rollout, assemble
from agent_rollouts.source import Head, Source, find, open_sources
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged
from tests.test_audit import CORPUS

ATIF = FIXTURES / "atif"
BASIC = json.loads((ATIF / "basic" / "input.json").read_bytes())
PNG = b"\x89PNG\r\n\x1a\n"


def trajectory(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    agent = {"name": "ag", "version": "1"}
    numbered = [{"step_id": number, "message": "", **step} for number, step in enumerate(steps, 1)]
    return {"schema_version": "ATIF-v1.7", "session_id": "s", "agent": agent, "steps": numbered, **fields}


def user(message: Any = "Go.", **fields: Any) -> dict[str, Any]:
    return {"source": "user", "message": message, **fields}


def agent(message: Any = "Went.", **fields: Any) -> dict[str, Any]:
    return {"source": "agent", "message": message, **fields}


def put(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path


def rollouts(document: Any, **options: Any) -> list[Rollout]:
    path = str(document) if isinstance(document, Path) else "trajectory.json"
    data = None if isinstance(document, Path) else json.dumps(document).encode()
    return list(read(Source(path, data), "atif", **options))


# -- told by content (10) ----------------------------------------------------------------------------

ALONE = {
    "indented": json.dumps(BASIC, indent=2).encode(),
    "empty": b'{"schema_version": "ATIF-v1.0"}',
    "steps first": json.dumps({"steps": trajectory(user())["steps"], "agent": {}}).encode(),
    "step beyond the head": json.dumps(trajectory(user("x" * 100_000))).encode(),
    "no version, and cut off": json.dumps({"steps": [{"step_id": 1, **user("x" * 100_000)}]}).encode(),
}
NOT_ATIF = {
    "gemini": b'{"sessionId": "a", "projectHash": "b", "messages": [{"id": "1", "type": "user", "content": "Hi"}]}',
    "mini-swe-agent": b'{"info": {}, "messages": [], "trajectory_format": "mini-swe-agent-1"}',
    "openhands": b'[{"id": 0, "source": "agent", "message": "Hi", "action": "system"}]',
    "result": b'{"task_name": "t", "trial_name": "t1", "steps": [], "agent_info": {"name": "ag"}}',
    "recipe": b'{"agent": {"name": "ag"}, "steps": [{"step_id": 1, "run": "ls"}]}',
    "list of trajectories": json.dumps([BASIC]).encode(),
    "chat": b'{"messages": [{"role": "user", "content": "Hi"}]}',
    "nothing": b"",
}


@pytest.mark.parametrize("name", ALONE)
def test_claims(name: str) -> None:
    assert detect(Source("anything.txt", ALONE[name])) == "atif"


@pytest.mark.parametrize("name", NOT_ATIF)
def test_does_not_claim(name: str) -> None:
    assert not atif.claims(Head("trajectory.json", NOT_ATIF[name]))


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"atif"}))
def test_claims_no_file_of_another_format(name: str) -> None:
    for path in find(sorted((FIXTURES / name).glob("*/input*")), ignored=file_rules(name)["ignored"]):
        assert not any(atif.claims(source.head) for source in open_sources(path))


def test_no_object_is_an_error() -> None:
    with pytest.raises(FormatError, match=r"trajectory\.json is no ATIF trajectory"):
        list(atif.decode(Source("trajectory.json", b"[]")))
    with pytest.raises(FormatError, match="not whole JSON"):
        list(atif.decode(Source("trajectory.json", b'{"schema_version": "ATIF-v1.7", "steps": [')))


def test_finds_trajectories_and_not_what_lies_beside(tmp_path: Path) -> None:
    names = {
        "agent/trajectory.json", "agent/trajectory.cont-1.json", "agent/trajectory.summarization-1-summary.json",
        "a.trajectory.json", "hermes-atif-1.json",
    }  # fmt: skip
    for name in names | {"result.json", "config.json", "verifier/reward.json", "lock.json"}:
        put(tmp_path / name, b"{}")
    rules = file_rules("atif")
    assert {Path(path).relative_to(tmp_path).as_posix() for path in find(tmp_path, **rules)} == names
    assert rules["ignored"][:4] == ("result.json", "results.json", "config.json", "lock.json")


# -- files beside (6) --------------------------------------------------------------------------------


def picture(path: str, kind: str = "image", media_type: str = "image/png") -> dict[str, Any]:
    return {"type": kind, "source": {"media_type": media_type, "path": path}}


def test_media_are_read_from_beside(tmp_path: Path) -> None:
    put(tmp_path / "agent" / "images" / "a.png", PNG)
    parts = [picture("images/a.png"), picture("images/b.png"), picture("audio/a.mp3", "audio", "audio/mp3")]
    path = put(tmp_path / "agent" / "trajectory.json", trajectory(user(parts), agent()))
    (found,) = rollouts(path)
    assert [(m.type, m.media_type, m.data, m.path) for m in found.media] == [
        ("image", "image/png", PNG, f"{path.parent}/images/a.png"),
        ("image", "image/png", None, f"{path.parent}/images/b.png"),
        ("audio", "audio/mp3", None, f"{path.parent}/audio/a.mp3"),
    ]
    assert found.messages[0]["media"] == [0, 1, 2]
    assert found.source_meta["missing_media"] == ["images/b.png", "audio/a.mp3"]


@pytest.mark.parametrize("place", ["../key.pem", "images/../../key.pem", "{}/key.pem", "a\0b", ".."])
def test_a_trajectory_cannot_bring_in_other_files(tmp_path: Path, place: str) -> None:
    put(tmp_path / "key.pem", b"secret")
    name = place.format(tmp_path)
    (found,) = rollouts(put(tmp_path / "agent" / "trajectory.json", trajectory(user([picture(name)]))))
    assert found.media[0].data is None
    assert found.source_meta["missing_media"] == [name]


def test_an_archive_has_no_files_beside(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("trial/agent/trajectory.json", json.dumps(trajectory(user([picture("a.png")]), agent())))
    rows = [one for source in open_sources(str(tmp_path / "a.zip")) for one in read(source)]
    assert [one.media[0].data for one in rows] == [None]


# -- the trial ---------------------------------------------------------------------------------------


def of_trial(tmp_path: Path, result: Any, place: str = "result.json") -> Rollout:
    put(tmp_path / place, result)
    (found,) = rollouts(put(tmp_path / "agent" / "trajectory.json", trajectory(user(), agent())))
    return found


def test_an_exception_of_the_verifier_is_not_the_agents(tmp_path: Path) -> None:
    failure = {"exception_type": "VerifierTimeoutError", "exception_message": "m", "exception_traceback": "t"}
    found = of_trial(tmp_path, {"trial_name": "t", "exception_info": failure})
    assert (found.reward, found.completed) == (None, None)
    assert found.source_meta["exception"] == {"type": "VerifierTimeoutError", "message": "m", "occurred_at": None}


@pytest.mark.parametrize(
    ("rewards", "reward"),
    [({"reward": 0}, 0), ({"score": 0.5}, 0.5), ({"a": 1, "b": 2}, None), ({"reward": "1"}, None), (None, None)],
)
def test_reward(tmp_path: Path, rewards: Any, reward: float | None) -> None:
    assert of_trial(tmp_path, {"trial_name": "t", "verifier_result": {"rewards": rewards}}).reward == reward


@pytest.mark.parametrize("result", [b"{", b"[]", {"stats": {"evals": {}}, "id": "job"}])
def test_what_is_no_trials_result_says_nothing(tmp_path: Path, result: Any) -> None:
    found = of_trial(tmp_path, result)
    assert (found.reward, found.completed, found.source_meta.get("trial_name")) == (None, None, None)


def test_result_directly_beside(tmp_path: Path) -> None:
    found = of_trial(tmp_path, {"trial_name": "t", "finished_at": "2026-01-01T00:00:00"}, "agent/result.json")
    assert found.completed is True


# -- who it is (2) -----------------------------------------------------------------------------------


def test_trace_ids() -> None:
    assert rollouts(trajectory(user()))[0].trace_id == "s"
    assert rollouts(trajectory(user(), trajectory_id="t"))[0].trace_id == "s"
    assert rollouts(trajectory(user(), session_id=None, trajectory_id="t"))[0].trace_id == "t"
    assert rollouts(trajectory(user(), session_id=None))[0].trace_id == "trajectory"


def test_a_referenced_file_is_a_sub_agent_whatever_its_name(tmp_path: Path) -> None:
    reference = {"trajectory_path": "trajectory.worker.json", "session_id": "w"}
    results = {"results": [{"source_call_id": "c", "content": "ok", "subagent_trajectory_ref": [reference]}]}
    calls = [{"tool_call_id": "c", "function_name": "task", "arguments": {}}]
    put(tmp_path / "trajectory.json", trajectory(user(), agent(tool_calls=calls, observation=results)))
    (found,) = rollouts(put(tmp_path / "trajectory.worker.json", trajectory(user(), session_id="w")))
    assert (found.trace_id, found.parent_trace_id, found.root_session_id) == ("w:worker", "s", "s")
    assert (found.is_sidechain, found.agent_id) == (True, "worker")
    assert found.source_meta["spawned_by"] == {"step_id": 2, "call_id": "c", **reference}
    (other,) = rollouts(put(tmp_path / "trajectory.other.json", trajectory(user())))
    assert (other.trace_id, other.parent_trace_id, other.is_sidechain) == ("s:other", None, False)


def test_a_summary_without_its_trajectory_beside(tmp_path: Path) -> None:
    about = {"name": "ag", "version": "1", "extra": {"parent_session_id": "p"}}
    path = put(tmp_path / "trajectory.summarization-1-summary.json", trajectory(user(), agent=about))
    (found,) = rollouts(path)
    assert (found.trace_id, found.parent_trace_id, found.root_session_id) == ("s:summarization-1-summary", "p", "p")


def test_what_the_environment_answers_is_no_prompt() -> None:
    (found,) = rollouts(trajectory(user(), agent(observation={"results": [{"content": "$ "}]})))
    assert prompt_count(found.messages) == 1


# -- strict (8) --------------------------------------------------------------------------------------

CALL = {"tool_call_id": "c", "function_name": "f", "arguments": {}}
BREACHES = {
    "schema_version: ATIF-v1.0 to ATIF-v1.8 expected": trajectory(user(), schema_version="ATIF-v2.0"),
    "custom: no field of ATIF": trajectory(user(), custom=1),
    "agent: is missing": {key: value for key, value in trajectory(user()).items() if key != "agent"},
    "steps: at least 1 expected": trajectory(),
    "steps[0].step_id: 1 expected, got 0": trajectory(user(step_id=0)),
    "steps[1].step_id: 2 expected, got 3": trajectory(user(), agent(step_id=3)),
    "steps[0].foo: no field of ATIF": trajectory(user(foo=1)),
    "steps[0].metrics: only steps of the agent have it": trajectory(user(metrics={})),
    "steps[0].message: a string expected": trajectory(agent(None)),
    "steps[0].timestamp: no ISO 8601 instant": trajectory(user(timestamp="<redacted>")),
    "steps[0].tool_calls[0].arguments: an object expected": trajectory(agent(tool_calls=[CALL | {"arguments": "{}"}])),
    "steps[1].observation.results[0].source_call_id: 'c' is no call of this step": trajectory(
        agent(tool_calls=[CALL]), agent(observation={"results": [{"source_call_id": "c"}]})
    ),
    "steps[0].metrics: must be absent where llm_call_count is 0": trajectory(agent(llm_call_count=0, metrics={})),
    "steps[0].observation.results[0].subagent_trajectory_ref[0]: neither trajectory_id nor trajectory_path": trajectory(
        agent(observation={"results": [{"subagent_trajectory_ref": [{"session_id": "x"}]}]})
    ),
    "steps[0].message[0].source: audio/mp3 is no image": trajectory(user([picture("a", media_type="audio/mp3")])),
    "subagent_trajectories[1].trajectory_id: 't' is there twice": trajectory(
        user(), subagent_trajectories=[trajectory(user(), trajectory_id="t")] * 2
    ),
    "subagent_trajectories[0].steps[0].step_id: 1 expected, got 7": trajectory(
        user(), subagent_trajectories=[trajectory(user(step_id=7), trajectory_id="t")]
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_strict(breach: str) -> None:
    with pytest.raises(FormatError, match=re.escape(f"trajectory.json: {breach}")):
        rollouts(BREACHES[breach], strict=True)
    assert rollouts(BREACHES[breach])


@pytest.mark.parametrize("path", sorted(ATIF.rglob("input*/**/trajectory*.json")) + sorted(ATIF.glob("*/input.json")))
def test_strict_takes_what_is_in_order(path: Path) -> None:
    if path.parent.name in ("messy", "results"):
        with pytest.raises(FormatError):
            rollouts(path, strict=True)
    else:
        assert rollouts(path, strict=True)


# -- the corpus --------------------------------------------------------------------------------------

FILES = sorted((CORPUS / "atif").glob("*.json"))
# Harbor's exports, the files that they were made of, and the row that has all of a file. Others were made of runs
# that wrote the raw answers, of which the corpus has no trajectory.
EXPORTED = {
    "hello-world": ("hello-world.trajectory", -1),
    "hello-world-no_function_calling": ("hello-world.trajectory.no_function_calling", -1),
    "hello-world-context-summarization.summarization-1-questions": (
        "hello-world-context-summarization.trajectory.summarization-1-questions",
        -1,
    ),
    "hello-world-context-summarization": (
        "hello-world-context-summarization-linear-history.trajectory.cont-1",
        -1,
    ),
    "hello-world-context-summarization main": ("hello-world-context-summarization-linear-history.trajectory", 2),
}
needs_corpus = pytest.mark.skipif(not FILES, reason=f"no {CORPUS / 'atif'}")


@needs_corpus
def test_corpus_is_strictly_right_but_for_what_is_named_bad() -> None:
    edges = sorted((CORPUS / "atif" / "edge").glob("*.json"))
    refused = set()
    for path in [*FILES, *edges]:
        try:
            rollouts(path, strict=True)
        except FormatError:
            refused.add(path)
    assert refused == {path for path in edges if path.name.startswith("bad_")}


@needs_corpus
def test_corpus_claims_no_other_trajectory() -> None:
    for path in (CORPUS / "atif" / "not_atif").iterdir():
        assert detect(Source(str(path))) != "atif"


@pytest.mark.parametrize("export", EXPORTED)
def test_corpus_answers_are_those_that_harbor_exports(export: str) -> None:
    """An answer of Harbor's is reasoning, text and calls of one step."""
    name, number = EXPORTED[export]
    if not FILES:
        pytest.skip(f"no {CORPUS / 'atif'}")
    (path,) = (CORPUS / "atif").glob(f"*__{name}.json")
    (exported,) = (CORPUS / "atif" / "harbor_traces_export_expected").glob(f"*__{export.partition(' ')[0]}.traces.json")
    (found,) = rollouts(path)
    ours = []
    for message in found.messages:
        if message["role"] == "assistant":
            thought = [f"<think>{message['reasoning_content']}</think>"] if "reasoning_content" in message else []
            calls = [call["function"] for call in message.get("tool_calls", ())]
            tags = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
            ours.append("\n".join([*thought, *([message["content"]] if message["content"] else []), *tags]))
    theirs = json.loads(exported.read_bytes())[number]["conversations"]
    assert ours == [one["content"] for one in theirs if one["role"] == "assistant"]


# -- input of any shape --------------------------------------------------------------------------------

DOCUMENTS = [json.loads(path.read_bytes()) for path in sorted(ATIF.glob("*/input.json"))]


@settings(max_examples=150, deadline=None)
@given(damaged(DOCUMENTS).flatmap(lambda document: damaged([document])) | st.dictionaries(st.text(), VALUES))
def test_no_document_stops_the_decoder(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    atif.claims(Head("x", data))
    for history in HISTORIES:
        for found in assemble(atif.decode(Source("x.json", data)), history=history):
            for message in row(found)["messages"]:
                check_message(message)
    source = Source("x.json", data)
    source.strict = True
    with suppress(FormatError):
        list(atif.decode(source))
