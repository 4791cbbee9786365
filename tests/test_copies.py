"""One session in several files: which of them is read, and what the option keeps."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent_rollouts import load_rollouts
from agent_rollouts.cli import main
from agent_rollouts.copies import Copies
from agent_rollouts.formats import detect, read
from agent_rollouts.source import Source, find

SESSION = "20260301_080000_c0ffee"


def message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


SAID = [message("user", "Water the beds."), message("assistant", "All watered."), message("user", "Thanks.")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A session as a gateway's transcript, as a shorter snapshot, and in the database; another one only as JSON."""
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    gateway = [{"role": "session_meta", "tools": [], "model": "m", "platform": "cli"}, *SAID]
    (sessions / f"{SESSION}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in gateway))
    for name, said in ((SESSION, SAID[:2]), ("20260301_090000_abcdef", SAID)):
        about = {"session_id": name, "session_start": "2026-03-01T08:00:00", "system_prompt": "Be brief.", "model": "m"}
        (sessions / f"session_{name}.json").write_text(json.dumps({**about, "messages": said}))
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.executescript(
            """
            CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (4);
            CREATE TABLE sessions (id TEXT PRIMARY KEY, source TEXT, model TEXT, system_prompt TEXT,
                parent_session_id TEXT, started_at REAL, ended_at REAL, end_reason TEXT, message_count INTEGER);
            CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT, role TEXT, content TEXT,
                tool_call_id TEXT, tool_calls TEXT, tool_name TEXT, timestamp REAL, finish_reason TEXT, reasoning TEXT);
            """
        )
        database.execute("INSERT INTO sessions (id, source, started_at) VALUES (?, 'cli', 1)", (SESSION,))
        for said in SAID:
            database.execute(
                "INSERT INTO messages (session_id, role, content) VALUES (?, ?, ?)",
                (SESSION, said["role"], said["content"]),
            )
    database.close()
    return tmp_path


def sources(rows: Any, home: Path) -> list[tuple[str, str]]:
    return sorted((row["trace_id"], row["source_path"].removeprefix(f"{home}/")) for row in rows)


@pytest.mark.parametrize("format", ["auto", "hermes_agent"])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_database_comes_first(home: Path, format: str, streaming: bool) -> None:
    rows = load_rollouts(format, home, streaming=streaming)
    assert sources(rows, home) == [
        (SESSION, "state.db"),
        ("20260301_090000_abcdef", "sessions/session_20260301_090000_abcdef.json"),
    ]


def test_then_the_longer_one(home: Path) -> None:
    (home / "state.db").unlink()
    assert sources(load_rollouts("auto", home, num_proc=2), home)[0] == (SESSION, f"sessions/{SESSION}.jsonl")


def test_all_of_them_on_request(home: Path) -> None:
    assert set(sources(load_rollouts("hermes_agent", home, copies=True), home)) == {
        (SESSION, "state.db"),
        (f"{SESSION}@{SESSION}.jsonl", f"sessions/{SESSION}.jsonl"),
        (f"{SESSION}@session_{SESSION}.json", f"sessions/session_{SESSION}.json"),
        ("20260301_090000_abcdef", "sessions/session_20260301_090000_abcdef.json"),
    }


def test_an_archive_of_all(home: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed" / "hermes.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in (home / "state.db", *(home / "sessions").iterdir()):
            archive.write(path, path.relative_to(home))
    found = sorted(load_rollouts("auto", packed)["source_path"])
    assert [path.rpartition("::")[2] for path in found] == [
        "sessions/session_20260301_090000_abcdef.json",
        "state.db",
    ]


def test_what_is_left_out_is_counted(home: Path) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(home)]).output
    assert "hermes_agent: 2 without messages, 2 rollouts" in shown
    assert "rollout: read from another file 2" in shown


def test_without_telling_names_nothing_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()  # cannot be opened
    assert Copies([str(tmp_path / "a.jsonl")]).elsewhere(Source("a.jsonl")) == frozenset()


def test_batches_and_what_was_made_of_them(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "<think>\n</think>\nHello"}]
    row = {"prompt_index": 3, "conversations": turns, "completed": True, "tool_stats": {}, "api_calls": 1}
    for name in ("batch_0.jsonl", "trajectories.jsonl"):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    rows = load_rollouts("hermes_trajectory", tmp_path)
    assert sources(rows, tmp_path) == [("trajectories:3", "trajectories.jsonl")]


def test_a_database_is_told_by_tables_far_behind(home: Path) -> None:
    """Where it grew before its tables were described; whatever it is called."""
    grown = home / "grown.bin"
    with sqlite3.connect(grown) as database:
        database.execute("CREATE TABLE padding (text TEXT)")
        database.executemany("INSERT INTO padding VALUES (?)", [("x" * 3000,)] * 100)
        names = [f"filler_{number}" for number in range(400)]
        for name in names:
            database.execute(f"CREATE TABLE {name} (a TEXT, b TEXT, c TEXT, d TEXT)")
        with sqlite3.connect(home / "state.db") as original:
            for (sql,) in original.execute("SELECT sql FROM sqlite_master WHERE name IN ('sessions', 'messages')"):
                database.execute(sql)
            for table in ("sessions", "messages"):
                for line in original.execute(f"SELECT * FROM {table}"):
                    database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(line))})", line)
        original.close()
    database.close()
    source = Source(str(grown))
    assert b"CREATE TABLE messages" not in source.head.data
    assert detect(source) == "hermes_agent"
    assert [rollout.trace_id for rollout in read(Source(str(grown)), "hermes_agent")] == [SESSION]


def test_a_named_file_is_read_alone(home: Path) -> None:
    path = find(home / "sessions" / f"session_{SESSION}.json")[0]
    assert [row["trace_id"] for row in load_rollouts("auto", path)] == [SESSION]
    shutil.rmtree(home / "sessions")
