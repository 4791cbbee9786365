"""Claude Code beyond the goldens: what is and is not a session, files that miss each other, input of any shape."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.features import check_message, prompt_count, row
from agent_rollouts.formats import claude_code, read
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source, find
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

CLAUDE = FIXTURES / "claude_code"
BASIC = (CLAUDE / "basic" / "input.jsonl").read_bytes()
SUBAGENTS = CLAUDE / "subagents" / "input"
SESSION = "5e551000-0000-4000-8000-000000000008"
ABOUT = yaml.safe_load((Path(__file__).parents[1] / "builder_configs" / "claude_code.yaml").read_text(encoding="utf-8"))


class Session:
    """Records of one session, each the child of the one before."""

    def __init__(self, session: str = "s") -> None:
        self.session = session
        self.records: list[dict[str, Any]] = []

    def add(self, kind: str, **fields: Any) -> Session:
        parent = self.records[-1]["uuid"] if self.records else None
        number = len(self.records)
        record = {"type": kind, "uuid": f"{self.session}-{number}", "parentUuid": parent, "sessionId": self.session}
        self.records.append({**record, "timestamp": f"2026-03-02T09:00:{number:02}.000Z", **fields})
        return self

    def user(self, content: Any, **fields: Any) -> Session:
        return self.add("user", message={"role": "user", "content": content}, **fields)

    def answer(self, id: str, *blocks: Any, **fields: Any) -> Session:
        content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
        return self.add("assistant", message={"id": id, "model": "claude", "content": content}, **fields)

    def bytes(self) -> bytes:
        return lines(*self.records)


def rollouts(data: bytes | Path | Session, **options: str) -> Iterator[Rollout]:
    if isinstance(data, Session):
        data = data.bytes()
    source = Source(str(data)) if isinstance(data, Path) else Source("session.jsonl", data)
    return read(source, "claude_code", **options)


def rollout(data: bytes | Path | Session, **options: str) -> Rollout:
    (found,) = rollouts(data, **options)
    return found


# -- told by content (E53) -----------------------------------------------------------------------

MESSAGE = {"role": "user", "content": "Hi"}
ALONE = {
    "renamed file": BASIC,
    "user": lines({"type": "user", "uuid": "u", "parentUuid": None, "sessionId": "s", "message": MESSAGE}),
    "user of another writer": lines({"type": "user", "sessionId": "s", "message": "Hi"}),
    "assistant": lines({"type": "assistant", "parentUuid": "u", "message": {"id": "m", "content": []}}),
    "summary": lines({"type": "summary", "summary": "s", "leafUuid": "u"}),
    "snapshot": lines({"type": "file-history-snapshot", "messageId": "m", "snapshot": {}}),
    "queue": lines({"type": "queue-operation", "operation": "enqueue", "sessionId": "s", "content": "x"}),
    "last prompt": lines({"type": "last-prompt", "lastPrompt": "x", "sessionId": "s"}),
    "system": lines({"type": "system", "subtype": "init", "uuid": "u", "sessionId": "s"}),
    "progress": lines({"type": "progress", "uuid": "u", "sessionId": "s", "data": {}}),
    "attachment": lines({"type": "attachment", "uuid": "u", "sessionId": "s", "attachment": {}}),
    "unknown record first": lines({"type": "mode", "mode": "plan"}) + BASIC,
    "broken line first": b"{broken\n" + BASIC,
    "picture beyond the head": lines(
        {"type": "user", "parentUuid": None, "sessionId": "s", "message": {"role": "user", "content": "x" * 100_000}}
    ),
}

NOT_CLAUDE = {
    "prompt history": lines({"display": "Hi", "pastedContents": {}, "timestamp": 1, "project": "/p", "sessionId": "s"}),
    "sessions index": (SUBAGENTS / "sessions-index.json").read_bytes(),
    "meta of a sub-agent": lines({"agentType": "Explore", "description": "d", "toolUseId": "toolu_1"}),
    "Codex": (FIXTURES / "codex" / "basic" / "input.jsonl").read_bytes(),
    "bare Codex": (FIXTURES / "codex" / "bare" / "input" / "plain.jsonl").read_bytes(),
    "chat messages": lines({"role": "user", "content": "Hi"}),
    "spilled output": b"total 0\n",
    "empty": b"",
}


@pytest.mark.parametrize("name", ALONE)
def test_claims(name: str) -> None:
    assert claude_code.claims(Head("anything.txt", ALONE[name][: 64 * 1024]))


@pytest.mark.parametrize("name", NOT_CLAUDE)
def test_does_not_claim(name: str) -> None:
    assert not claude_code.claims(Head("session.jsonl", NOT_CLAUDE[name]))


# -- files ---------------------------------------------------------------------------------------


def test_compressed_files_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(BASIC))
    (path,) = find(tmp_path, patterns=ABOUT["patterns"])
    assert list(rollout(Path(path)).messages) == list(rollout(BASIC).messages)


def test_neighbours_are_not_sessions(tmp_path: Path) -> None:
    home = tmp_path / "projects"
    shutil.copytree(SUBAGENTS, home)
    spilled = home / SESSION / "tool-results"
    spilled.mkdir()
    (spilled / "toolu_1.jsonl").write_bytes(BASIC)
    (home / "history.jsonl").write_bytes(NOT_CLAUDE["prompt history"])
    found = find(home, patterns=ABOUT["patterns"], ignored=ABOUT["ignored"])
    assert len(found) == 9
    assert all(Path(path).name.startswith(("agent-", SESSION)) for path in found)
    flat = find(home, patterns=ABOUT["patterns"], ignored=ABOUT["ignored"], recursive=False)
    assert sorted(Path(path).parent for path in flat) == [home] * len(flat)


def test_sub_agent_without_its_parent_file(tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    name = "agent-a0000002.jsonl"
    shutil.copy(SUBAGENTS / SESSION / "subagents" / name, folder / name)
    found = rollout(folder / name)
    assert (found.trace_id, found.parent_trace_id) == (f"{SESSION}:a0000002", SESSION)
    assert found.agent_id == "a0000002"
    assert found.is_sidechain
    assert "spawned_by" not in found.source_meta


def test_meta_file_alone_links_a_sub_agent(tmp_path: Path) -> None:
    for name in ("agent-a0000001.jsonl", "agent-a0000001.meta.json"):
        shutil.copy(SUBAGENTS / SESSION / "subagents" / name, tmp_path / name)
    assert rollout(tmp_path / "agent-a0000001.jsonl").source_meta["spawned_by"] == "toolu_1"


@pytest.mark.parametrize("content", ["", "[]", "{broken", '{"entries": 7}', '{"entries": [null, {}]}'])
def test_bad_neighbours_cost_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "agent-x1.jsonl").write_bytes(Session().user("Hi", isSidechain=True).bytes())
    (tmp_path / "sessions-index.json").write_text(content)
    (tmp_path / "agent-x1.meta.json").write_text(content)
    (tmp_path / "s.jsonl").write_text(content)
    found = rollout(tmp_path / "agent-x1.jsonl")
    # A record that does not name its agent is the agent's whose file it is.
    assert (found.trace_id, found.agent_id) == ("s:x1", "x1")


def test_each_index_is_read_for_its_own_session(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(Session("a").user("Hi").bytes())
    (tmp_path / "b.jsonl").write_bytes(Session("b").user("Hi").bytes())
    (tmp_path / "sessions-index.json").write_bytes(
        lines({"entries": [{"sessionId": "b", "summary": "B", "firstPrompt": "Hi", "projectPath": "/b"}]})
    )
    assert rollout(tmp_path / "a.jsonl").project_path is None
    found = rollout(tmp_path / "b.jsonl")
    assert (found.project_path, found.source_meta["summary"], found.source_meta["first_prompt"]) == ("/b", "B", "Hi")


# -- details -------------------------------------------------------------------------------------


def test_a_file_named_as_its_session_keeps_that_name() -> None:
    data = lines({"type": "file-history-snapshot", "snapshot": {}}) + Session().user("Hi").bytes()
    (found,) = read(Source("s.jsonl", data))
    assert found.trace_id == "s"
    assert found.skipped == {"record: file-history-snapshot": 1}


def test_damage_before_the_first_record_is_counted_once() -> None:
    found = rollout(b"{broken\n" + Session().user("Hi").bytes())
    assert found.skipped == {"line: not JSON": 1}


@pytest.mark.parametrize("note", ["[Request interrupted by user]", "[Request interrupted by user for tool use]"])
def test_a_prompt_stopped_at_once_spares_the_answer_before_it(note: str) -> None:
    messages = rollout(Session().user("A").answer("m1", "B").user("C").user([{"type": "text", "text": note}])).messages
    assert [m.get("weight_reason") for m in messages if m["role"] == "assistant"] == [None]


def test_stopped_between_a_result_and_the_next_answer() -> None:
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "fine"}
    session = Session().user("A").answer("m1", call).user([result])
    plain = rollout(session.user("[Request interrupted by user]")).messages
    assert "weight" not in plain[1]
    session.records.pop()
    stopped = rollout(session.user("[Request interrupted by user for tool use]")).messages
    assert stopped[1]["weight_reason"] == "interrupted"


def test_the_same_words_may_be_queued_twice() -> None:
    def queued() -> dict[str, Any]:
        return {"attachment": {"type": "queued_command", "prompt": "go on", "commandMode": "prompt"}}

    session = Session().user("A").answer("m1", "B").add("attachment", **queued())
    session.answer("m2", "C").add("attachment", **queued()).answer("m3", "D").user("go on")
    messages = rollout(session).messages
    assert [m["content"] for m in messages if m["role"] == "user"] == ["A", "go on", "go on", "go on"]
    assert prompt_count(messages) == 4


def test_text_of_other_hooks_is_not_for_the_model() -> None:
    def hook(event: str) -> dict[str, Any]:
        return {"attachment": {"type": "hook_success", "hookEvent": event, "content": event}}

    session = Session().user("A").add("attachment", **hook("PostToolUse"))
    session.add("attachment", **hook("SessionStart"))
    assert [m["content"] for m in rollout(session).messages] == ["A", "SessionStart"]


def test_command_logged_as_system_record() -> None:
    session = Session().user("A").add("system", subtype="local_command", content="<command-name>/mcp</command-name>")
    session.add("system", subtype="local_command", content="<local-command-stdout>none</local-command-stdout>")
    origins = [m.get("origin") for m in rollout(session).messages]
    assert origins == [None, "command", "command_output"]


def test_synthetic_notice_is_not_the_final_answer() -> None:
    session = Session().user("A").answer("m1", "B").answer("m2", "No response requested.")
    session.records[-1]["message"]["model"] = "<synthetic>"
    assert rollout(session).final_assistant_message == "B"
    assert rollout(session).model == "claude"


def test_losses_of_all_segments_are_known_with_the_first() -> None:
    session = Session().user("A").answer("m1", "B").add("system", subtype="compact_boundary", compactMetadata={})
    session.user("This session is being continued…", isCompactSummary=True).answer("m2", "C")
    fork = session.records[-1]["uuid"]
    session.user("withdrawn").answer("m3", "D").user("E", parentUuid=fork).answer("m4", "F")
    first = next(rollouts(session, history="segments"))
    assert first.skipped["message: withdrawn"] == 2


def test_usage_counts_each_answer_once() -> None:
    found = rollout(CLAUDE / "merge" / "input.jsonl")
    assert found.usage is not None
    # msg_1 30, msg_2 9, msg_3 7, and four records without message id, two of them of one request: 3 times 7.
    assert found.usage["output_tokens"] == 30 + 9 + 7 + 3 * 7


# -- input of any shape --------------------------------------------------------------------------

RECORDS = fixture_records(CLAUDE)
OPTIONS: tuple[dict[str, str], ...] = ({}, {"history": "segments"}, {"history": "context"}, {"branches": "all"})


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(RECORDS) | VALUES, max_size=12))
def test_no_record_stops_the_decoder(records: list[Any]) -> None:
    data = lines(*records)
    claude_code.claims(Head("x", data))
    for options in OPTIONS:
        for found in assemble(claude_code.decode(Source("x.jsonl", data)), **options):
            for message in row(found)["messages"]:
                check_message(message)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BASIC)))
def test_any_prefix_of_a_file_can_be_read(length: int) -> None:
    data = BASIC[:length]
    claude_code.claims(Head("x", data))
    for found in assemble(claude_code.decode(Source("x.jsonl", data))):
        assert len(found.messages) <= len(rollout(BASIC).messages)


def test_agents_in_files_with_one_prompt_are_not_guessed(tmp_path: Path) -> None:
    calls = [
        {"type": "tool_use", "id": i, "name": "Task", "input": {"prompt": "dig", "subagent_type": "x"}} for i in "ab"
    ]
    parent = {"type": "assistant", "uuid": "p", "sessionId": "s", "message": {"id": "m", "content": calls}}
    (tmp_path / "s.jsonl").write_bytes(lines(parent))
    asked = {"type": "user", "uuid": "q", "sessionId": "s", "isSidechain": True, "message": {"content": "dig"}}
    for agent in ("a1", "a2"):
        (tmp_path / f"agent-{agent}.jsonl").write_bytes(lines({**asked, "agentId": agent}))
    for _ in range(2):  # what was read of the parent is kept, and must not be used up
        for agent in ("a1", "a2"):
            assert "spawned_by" not in rollout(tmp_path / f"agent-{agent}.jsonl").source_meta
