"""opencode beyond the goldens: databases, what is and is not of it, and input of any shape."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.audit import audit
from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import detect, opencode, read
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged

OPENCODE = FIXTURES / "opencode"
EXPORTS = {
    path.parent.name: json.loads(path.read_bytes())
    for path in sorted(OPENCODE.glob("*/input.json"))
    if path.parent.name not in ("message_list", "messy")
}
# As opencode 1.18.33 makes them, without the columns that say nothing of the conversation.
TABLES = """
CREATE TABLE `session` (`id` text PRIMARY KEY, `project_id` text NOT NULL, `parent_id` text, `slug` text NOT NULL,
 `directory` text NOT NULL, `title` text NOT NULL, `version` text NOT NULL, `summary_additions` integer,
 `summary_deletions` integer, `summary_files` integer, `revert` text, `agent` text, `model` text,
 `time_created` integer NOT NULL, `time_updated` integer NOT NULL);
CREATE TABLE `message` (`id` text PRIMARY KEY, `session_id` text NOT NULL, `time_created` integer NOT NULL,
 `time_updated` integer NOT NULL, `data` text NOT NULL);
CREATE TABLE `part` (`id` text PRIMARY KEY, `message_id` text NOT NULL, `session_id` text NOT NULL,
 `time_created` integer NOT NULL, `time_updated` integer NOT NULL, `data` text NOT NULL);
CREATE TABLE `session_message` (`id` text PRIMARY KEY, `session_id` text NOT NULL, `type` text NOT NULL,
 `seq` integer NOT NULL, `time_created` integer NOT NULL, `time_updated` integer NOT NULL, `data` text NOT NULL);
"""


def database(path: Path, *exports: dict[str, Any]) -> Path:
    """A database with the sessions of exports; ids of messages and parts are made unique, in order."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
        for export in exports:
            info = export["info"]
            times = (info["time"]["created"], info["time"]["updated"])
            changed = info.get("summary") or {}
            revert = dict(info["revert"]) if "revert" in info else None
            counts = [changed.get(name) for name in ("additions", "deletions", "files")]
            if revert:
                revert["messageID"] = f"{info['id']}/{revert['messageID']}"
                if "partID" in revert:
                    revert["partID"] = f"{info['id']}/{int(revert['partID'][4:]):03}"
            values = [info["id"], info["projectID"], info.get("parentID"), info["slug"], info["directory"]]
            values += [info["title"], info["version"], *counts, json.dumps(revert) if revert else None]
            connection.execute(f"INSERT INTO session VALUES ({', '.join('?' * 15)})", [*values, None, None, *times])
            for message in export["messages"]:
                key = f"{info['id']}/{message['info']['id']}"
                data = {k: f"{info['id']}/{v}" if k == "parentID" else v for k, v in message["info"].items()}
                del data["id"]
                created = data["time"]["created"]
                connection.execute(
                    "INSERT INTO message VALUES (?, ?, ?, ?, ?)", (key, info["id"], created, created, json.dumps(data))
                )
                for part in message["parts"]:
                    data = {k: v for k, v in part.items() if k != "id"}
                    if "tail_start_id" in data:
                        data["tail_start_id"] = f"{info['id']}/{data['tail_start_id']}"
                    place = (f"{info['id']}/{int(part['id'][4:]):03}", key, info["id"], created, created)
                    connection.execute("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?)", (*place, json.dumps(data)))
        connection.commit()
    return path


def shown(rollout: Rollout) -> dict[str, Any]:
    """What a row says, without what an export has more or names otherwise."""
    found = row(rollout)
    found["skipped"].pop("record: todos", None)
    found["source_meta"].pop("slug", None)
    found["source_meta"].pop("reverted_from", None)
    for name in ("source_path", "root_session_id"):
        del found[name]
    for message in found["messages"]:
        message.pop("id", None)
    return found


# -- databases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("history", ["full", "segments", "context"])
@pytest.mark.parametrize("name", EXPORTS)
def test_database_gives_the_rows_of_its_exports(name: str, history: str, tmp_path: Path) -> None:
    source = Source(str(database(tmp_path / "x.db", EXPORTS[name])))
    exported = Source(str(OPENCODE / name / "input.json"))
    wanted = [shown(rollout) for rollout in read(exported, history=history)]
    assert [shown(rollout) for rollout in read(source, history=history)] == wanted
    assert audit(source).problems == []


def test_database_knows_the_session_at_the_top(tmp_path: Path) -> None:
    grandchild = {"info": EXPORTS["subagent"]["info"] | {"id": "ses_d", "parentID": "ses_b"}, "messages": []}
    path = database(tmp_path / "opencode.db", EXPORTS["basic"], EXPORTS["subagent"], grandchild)
    found = list(read(Source(str(path))))
    assert [rollout.trace_id for rollout in found] == ["ses_a", "ses_b", "ses_d"]
    assert {rollout.root_session_id for rollout in found} == {"ses_a"}
    assert [rollout.parent_trace_id for rollout in found] == [None, "ses_a", "ses_b"]


def test_what_a_database_holds_beyond_messages_is_counted(tmp_path: Path) -> None:
    path = database(tmp_path / "opencode.db", {"info": EXPORTS["basic"]["info"], "messages": []})
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            INSERT INTO session_message VALUES ('a', 'ses_a', 'user', 1, 0, 0, '{}');
            INSERT INTO message VALUES ('m', 'ses_b', 0, 0, 'torn');
            INSERT INTO session SELECT 'ses_b', project_id, parent_id, slug, directory, title, version, 0, 0, 0,
                'torn', agent, '{', time_created, time_updated FROM session;
            INSERT INTO part VALUES ('p', 'm', 'ses_b', 0, 0, '{"type": "text", "text": "lost"}');
            INSERT INTO part VALUES ('q', 'm', 'ses_b', 0, 0, '[');
        """)
    first, second = read(Source(str(path)))
    assert first.skipped == {"message: of the table session_message": 1}
    assert second.skipped == {
        "message: not JSON": 1,
        "record: part without its message": 1,
        "record: part that is not JSON": 1,
    }


# -- told by content -----------------------------------------------------------------------------

INFO = {"id": "ses_a", "directory": "/work", "title": "t"}
ALONE = {
    "export": {"info": INFO, "messages": []},
    "diffs beyond the head": {"info": {**INFO, "summary": {"diffs": ["x" * 100_000]}}, "messages": []},
    "messages": [{"info": {"id": "msg_1", "sessionID": "s", "role": "user"}, "parts": []}],
}
NOT_OPENCODE = {
    "mini-swe-agent": {"info": {"config": {}}, "messages": [], "trajectory_format": "mini-swe-agent-1"},
    "SWE-agent": {"info": {"id": "x"}, "trajectory": [], "history": []},
    "chat": {"messages": [{"role": "user", "content": "Hi"}]},
    "Gemini history": [{"role": "user", "parts": [{"text": "Hi"}]}],
    "a session without its messages": {"id": "ses_a", "projectID": "p", "directory": "/work"},
}


@pytest.mark.parametrize("name", ALONE)
def test_claims(name: str) -> None:
    assert detect(Source("anything.txt", json.dumps(ALONE[name]).encode())) == "opencode"


@pytest.mark.parametrize("name", NOT_OPENCODE)
def test_does_not_claim(name: str) -> None:
    assert not opencode.claims(Head("session.json", json.dumps(NOT_OPENCODE[name]).encode()))


def test_database_is_told_by_its_tables_or_its_name(tmp_path: Path) -> None:
    path = database(tmp_path / "x.db", EXPORTS["steps"])
    assert detect(Source(str(path))) == "opencode"
    with closing(sqlite3.connect(tmp_path / "y.db")) as connection:
        connection.execute("CREATE TABLE `session` (id)")
    assert detect(Source(str(tmp_path / "y.db"))) is None
    # A fresh one has all that it holds in the log beside it.
    assert opencode.claims(Head("opencode.db", b"SQLite format 3\x00"))


def test_torn_export_is_an_error() -> None:
    data = (OPENCODE / "basic" / "input.json").read_bytes()
    with pytest.raises(FormatError, match="not whole JSON"):
        list(read(Source("x.json", data[:-40])))


# -- input of any shape --------------------------------------------------------------------------

MESSAGES = [message for export in EXPORTS.values() for message in export["messages"]]
INFOS = [export["info"] for export in EXPORTS.values()]


@settings(max_examples=150, deadline=None)
@given(damaged(INFOS) | st.sampled_from(INFOS), st.lists(damaged(MESSAGES) | VALUES, max_size=12))
def test_no_message_stops_the_decoder(info: dict[str, Any], messages: list[Any]) -> None:
    data = json.dumps({"info": info, "messages": messages}).encode()
    opencode.claims(Head("x", data))
    for history in ("full", "segments", "context"):
        for found in assemble(opencode.decode(Source("x.json", data)), history=history):
            for message in row(found)["messages"]:
                check_message(message)
