"""Hermes Agent beyond the goldens: databases as they lie on disk, what is claimed, what is held, input of any shape."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.audit import audit
from agent_rollouts.configs import file_rules, formats
from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import detect, hermes_agent, read
from agent_rollouts.formats._sqlite import MAGIC
from agent_rollouts.loading import default_roots, load_rollouts
from agent_rollouts.rollout import Rollout, assemble
from agent_rollouts.source import Head, Source, each, find, open_sources
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, lines
from tests.test_audit import CORPUS

HERMES = FIXTURES / "hermes_agent"
FILES = sorted(
    path
    for path in [*HERMES.glob("*/input.*"), *HERMES.glob("*/input/*")]
    if path.name != "sessions.json" and not path.name.startswith("request_dump_")
)
DATABASES = ("database", "database_old", "compaction")
SCHEMA = (HERMES / "database" / "database.sql").read_text(encoding="utf-8").partition("INSERT INTO sessions")[0]
HISTORIES = ("full", "segments", "context")
SNAPSHOT = {"session_id": "a", "model": "m", "session_start": "2026-02-03T10:00:00", "messages": []}


def texts(rollout: Rollout) -> list[str]:
    return [message["content"] for message in rollout.messages]


def rollouts(data: bytes, name: str = "20260203_101500_ab12cd.jsonl") -> list[Rollout]:
    return list(assemble(hermes_agent.decode(Source(name, data))))


def snapshot(*messages: dict[str, Any], **fields: Any) -> Rollout:
    (found,) = rollouts(json.dumps({**SNAPSHOT, **fields, "messages": messages}).encode(), "session_a.json")
    return found


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- databases as they lie on disk (17) ----------------------------------------------------------


@pytest.mark.parametrize("case", DATABASES)
def test_databases_are_those_of_their_sql(case: str, tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "made.db")) as made,
        closing(sqlite3.connect(f"file:{HERMES / case / 'input.db'}?mode=ro&immutable=1", uri=True)) as kept,
    ):
        made.executescript((HERMES / case / "database.sql").read_text(encoding="utf-8"))
        assert list(made.iterdump()) == list(kept.iterdump())


def live_database(path: Path) -> sqlite3.Connection:
    """A database whose agent still runs: its last message is only in the `-wal` file."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(SCHEMA)
    connection.execute("INSERT INTO sessions (id, source, started_at) VALUES ('s', 'cli', 1770000000.0)")
    connection.execute("INSERT INTO messages (session_id, role, content, timestamp) VALUES ('s', 'user', 'old', 1.0)")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("INSERT INTO messages (session_id, role, content, timestamp) VALUES ('s', 'user', 'new', 2.0)")
    connection.commit()
    return connection


def test_what_is_only_in_the_log_is_read_and_nothing_is_written(tmp_path: Path) -> None:
    with closing(live_database(tmp_path / "state.db")):
        before = listing(tmp_path)
        assert before["state.db-wal"]
        (found,) = read(Source(str(tmp_path / "state.db")))
        assert texts(found) == ["old", "new"]
        assert listing(tmp_path) == before


def test_a_cache_is_not_taken_when_only_the_log_has_grown(tmp_path: Path) -> None:
    def messages() -> list[int]:
        place = str(tmp_path / "state.db")
        return list(load_rollouts("hermes_agent", place, cache_dir=str(tmp_path / "cache"))["message_count"])

    with closing(live_database(tmp_path / "state.db")) as connection:
        assert messages() == [2]
        connection.execute("INSERT INTO messages (session_id, role, content, timestamp) VALUES ('s', 'user', 'x', 3.0)")
        connection.commit()
        assert messages() == [3]


def test_a_database_whose_schema_is_only_in_the_log(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA)
        connection.execute("INSERT INTO messages (session_id, role, content, timestamp) VALUES ('s', 'user', 'a', 1.0)")
        connection.commit()
        (found,) = read(Source(str(tmp_path / "state.db")))
        assert texts(found) == ["a"]


def test_a_database_at_rest_is_read_in_its_place(tmp_path: Path) -> None:
    live_database(tmp_path / "state.db").close()
    before = listing(tmp_path)
    assert set(before) == {"state.db"}
    (found,) = read(Source(str(tmp_path / "state.db")))
    assert texts(found) == ["old", "new"]
    assert listing(tmp_path) == before


def test_a_database_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "backup.zip", "w") as archive:
        archive.write(HERMES / "database" / "input.db", "hermes/state.db")
    found = [list(map(row, read(source))) for source in open_sources(str(tmp_path / "backup.zip"))]
    plain = list(map(row, read(Source(str(HERMES / "database" / "input.db")))))
    assert found == [[{**one, "source_path": f"{tmp_path / 'backup.zip'}::hermes/state.db"} for one in plain]]


@pytest.mark.parametrize("damage", ["cut", "scrambled", "no tables"])
def test_a_damaged_database_is_one_bad_file(damage: str, tmp_path: Path) -> None:
    data = (HERMES / "database" / "input.db").read_bytes()
    if damage == "cut":
        data = data[:3000]
    elif damage == "scrambled":
        data = data[:1024] + bytes(len(data) - 1024)
    else:
        data = MAGIC + b"\0" * 2000
    (tmp_path / "state.db").write_bytes(data)
    (tmp_path / "session_a.json").write_text(json.dumps({**SNAPSHOT, "messages": [{"role": "user", "content": "Hi"}]}))
    reported: list[str] = []
    found = [
        rollout
        for path in find(tmp_path, **file_rules("hermes_agent"))
        for rollout in each(path, read, lambda path, error: reported.append(Path(path).name))
    ]
    assert [texts(rollout) for rollout in found if rollout] == [["Hi"]]
    assert reported == ["state.db"]


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute("CREATE TABLE sessions (id TEXT)")
    assert detect(Source(str(tmp_path / "state.db"))) is None
    (tmp_path / "state.db").unlink()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(FormatError, match="has no tables"):
        list(read(Source(str(tmp_path / "state.db"))))


def test_the_database_is_a_default_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".hermes" / "sessions").mkdir(parents=True)
    live_database(tmp_path / ".hermes" / "state.db").close()
    assert formats()["hermes_agent"].existing_roots() == [
        str(tmp_path / ".hermes" / "sessions"),
        str(tmp_path / ".hermes" / "state.db"),
    ]
    assert default_roots("hermes_agent") == [str(tmp_path / ".hermes" / "state.db")]


# -- which files (12), and whose -----------------------------------------------------------------


def test_dumps_and_the_index_are_not_among_the_files() -> None:
    found = [Path(path).name for path in find(HERMES / "basic" / "input", **file_rules("hermes_agent"))]
    assert found == ["20260204_090000_0a1b2c3d.jsonl", "session_20260203_101500_a1b2c3.json"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERMES)))
def test_only_this_format_claims(path: Path) -> None:
    assert detect(Source(str(path))) == "hermes_agent"


ROW = {"role": "user", "content": "Hi", "timestamp": "2026-02-03T10:00:00"}
EXPORT = {"id": "a", "source": "cli", "user_id": None, "model_config": None, "system_prompt": "x" * 100_000}

ALONE = {
    "session_meta": ("x.jsonl", lines({"role": "session_meta", "tools": []})),
    "transcript by its name": ("20260203_101500_ab12cd34.jsonl", lines(ROW)),
    "transcript by its keys": ("x.jsonl", lines(ROW, {**ROW, "role": "assistant", "finish_reason": "stop"})),
    "snapshot": ("x.json", json.dumps(SNAPSHOT, indent=2).encode()),
    "snapshot with a long prompt": (
        "x.json",
        json.dumps({**SNAPSHOT, "system_prompt": "x" * 100_000, "messages": []}, indent=2).encode(),
    ),
    "/save": ("x.json", json.dumps({"model": "m", "session_id": "a", "session_start": "t", "messages": []}).encode()),
    "export": ("x.jsonl", lines({"id": "a", "source": "cli", "started_at": 1.5, "messages": []})),
    "export with a long prompt": ("x.jsonl", lines({**EXPORT, "messages": []})),
    "database with a far schema": ("state.db", MAGIC + bytes(100_000)),
}

NOT_HERMES = {
    "chat message": ("x.jsonl", lines({"role": "user", "content": "Hi"})),
    "chat message with a time": ("chat.jsonl", lines(ROW)),
    "chat row": ("x.jsonl", lines({"messages": [{"role": "user", "content": "Hi"}]})),
    "chat row with an id": ("x.jsonl", lines({"id": "a", "source": "web", "messages": []})),
    "Gemini": ("x.json", b'{"sessionId": "a", "startTime": "t", "messages": []}'),
    "another database": ("sessions.db", MAGIC + b"CREATE TABLE sessions(id) CREATE TABLE messages(session_id, role)"),
    "a database of unknown schema": ("notes.db", MAGIC + bytes(100_000)),
    "routing index": ("sessions.json", b'{"agent:main": {"session_id": "a", "created_at": "t"}}'),
    "empty": ("x.jsonl", b""),
}


@pytest.mark.parametrize("name", ALONE)
def test_claims(name: str) -> None:
    file, data = ALONE[name]
    assert hermes_agent.claims(Head(file, data[: 64 * 1024]))


@pytest.mark.parametrize("name", NOT_HERMES)
def test_does_not_claim(name: str) -> None:
    file, data = NOT_HERMES[name]
    assert not hermes_agent.claims(Head(file, data))


# -- the same session in several files (15) ------------------------------------------------------


def test_held_names_every_rollout() -> None:
    for path in FILES:
        if path.parent.parent.name == "messy":
            continue
        held = list(hermes_agent.held(Source(str(path))))
        assert sorted(id for id, _, _ in held) == sorted(
            str(found.identity) for found in read(Source(str(path))) if found
        )
        rank = {".db": 3, ".jsonl": 2 if path.parent.name == "export" else 1, ".json": 1}[path.suffix]
        assert {r for _, r, _ in held} == {rank}


def test_held_counts_messages() -> None:
    def counts(path: str) -> list[int]:
        return sorted(count for _, _, count in hermes_agent.held(Source(str(HERMES / path))))

    assert counts("basic/input/session_20260203_101500_a1b2c3.json") == [7]
    assert counts("synthetic/input.json") == [26]
    assert counts("basic/input/20260204_090000_0a1b2c3d.jsonl") == [8]
    assert counts("database_old/input.db") == [4]
    assert counts("export/input.jsonl") == [4, 4, 8]


def test_names_that_tell_of_repetition() -> None:
    def fits(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in hermes_agent.MAY_REPEAT)

    assert all(map(fits, ("state.db", "session_20260203_101500_a1b2c3.json", "20260203_101500_a1b2c3.jsonl")))
    assert not any(map(fits, ("rollout-2026.jsonl", "trajectory.json")))


# -- times (14) ----------------------------------------------------------------------------------


def test_the_end_is_not_before_the_beginning() -> None:
    found = snapshot(
        {"role": "user", "content": "Hi", "timestamp": "2026-02-03T09:00:00"},
        last_updated="2026-02-03T08:00:00",
    )
    assert (found.started_at, found.ended_at) == ("2026-02-03T08:00:00", "2026-02-03T10:00:00")
    assert found.source_meta["naive_timestamps"] is True


def test_local_times_do_not_mix_with_others() -> None:
    found = snapshot({"role": "user", "content": "Hi", "timestamp": 1770112800.0})
    assert found.started_at == found.ended_at == "2026-02-03T10:00:00.000Z"
    found = snapshot({"role": "user", "content": "Hi", "timestamp": "2026-02-03T12:00:00+01:00"})
    assert found.started_at == found.ended_at == "2026-02-03T12:00:00+01:00"


@pytest.mark.parametrize("odd", [True, -5, 0, 1e300, "soon", "", [], None])
def test_what_is_no_time_is_left_out(odd: Any) -> None:
    found = snapshot({"role": "user", "content": "Hi", "timestamp": odd}, session_start="x")
    assert found.started_at is None
    assert "timestamp" not in found.messages[0]


# -- reasoning (13) ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "thought"),
    [
        ({"reasoning_content": " "}, None),
        ({"reasoning_content": " ", "reasoning": "b"}, "b"),
        ({"reasoning_content": "a", "reasoning": "b"}, "a"),
        ({"reasoning_details": [{"thinking": "c"}, {"summary": "d"}]}, "c\nd"),
        ({"reasoning_details": '[{"text": "c"}]'}, "c"),
        ({"codex_reasoning_items": '[{"summary": [{"text": "e"}, {"text": "f"}]}]'}, "e\n\nf"),
        ({"content": "<think>g</think>\nx"}, "g"),
        ({"content": "<think> </think>x"}, None),
        ({"content": "<think>unclosed"}, None),
        ({"content": "See <think>h</think>"}, None),
        ({"content": "<REASONING_SCRATCHPAD>i</REASONING_SCRATCHPAD>x"}, "i"),
    ],
)
def test_where_reasoning_is_found(fields: dict[str, Any], thought: str | None) -> None:
    found = snapshot({"role": "assistant", "content": "x", **fields})
    assert found.messages[0].get("reasoning_content") == thought


# -- input of any shape --------------------------------------------------------------------------

MESSAGES = [
    message
    for path in (HERMES / "synthetic" / "input.json", *(HERMES / "basic" / "input").glob("session_*.json"))
    for message in json.loads(path.read_text(encoding="utf-8"))["messages"]
]
SESSIONS = [json.loads(line) for line in (HERMES / "export" / "input.jsonl").read_bytes().splitlines()]


def hold_any(source: Source) -> None:
    hermes_agent.claims(source.head)
    for history in HISTORIES:
        for branches in ("active", "all"):
            for found in assemble(hermes_agent.decode(source), history=history, branches=branches):
                for message in row(found)["messages"]:
                    check_message(message)
    list(hermes_agent.held(source))


@settings(max_examples=100, deadline=None)
@given(st.lists(damaged(MESSAGES) | VALUES, max_size=12))
def test_no_message_stops_the_decoder(messages: list[Any]) -> None:
    hold_any(Source("20260203_101500_ab12cd.jsonl", lines({"role": "session_meta"}, *messages)))
    hold_any(Source("session_a.json", json.dumps({**SNAPSHOT, "messages": messages}).encode()))


@settings(max_examples=100, deadline=None)
@given(st.lists(damaged(SESSIONS) | VALUES, max_size=4))
def test_no_session_stops_the_decoder(sessions: list[Any]) -> None:
    hold_any(Source("export.jsonl", lines(SESSIONS[0], *sessions)))


COLUMNS = ("session_id", "role", "content", "tool_calls", "tool_call_id", "timestamp", "active", "compacted")
CELLS = st.none() | st.integers(-3, 3) | st.floats() | st.binary(max_size=4) | st.sampled_from(
    ["s", "t", "user", "assistant", "tool", "\x00json:[1", '[{"name": "ls"}]', "[CONTEXT COMPACTION", "{}", "\ud7ff"]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[CELLS] * len(COLUMNS)), max_size=10),
    st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=4),
)
def test_no_row_stops_the_decoder(
    tmp_path_factory: pytest.TempPathFactory, messages: list[Any], sessions: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "state.db"
    with closing(sqlite3.connect(path)) as connection:
        # Without rules for what a column may hold.
        connection.execute("CREATE TABLE sessions (id, parent_session_id, end_reason, model_config)")
        connection.execute(f"CREATE TABLE messages (id INTEGER PRIMARY KEY, {', '.join(COLUMNS)})")
        connection.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?)", sessions)
        marks = ", ".join("?" * len(COLUMNS))
        connection.executemany(f"INSERT INTO messages ({', '.join(COLUMNS)}) VALUES ({marks})", messages)
        connection.commit()
    hold_any(Source(str(path)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERMES)))
def test_nothing_is_lost_in_the_fixtures(path: Path) -> None:
    assert audit(Source(str(path))).problems == []


@pytest.mark.parametrize(("name", "count"), [("state.db", 7), ("sessions_export.jsonl", 7), ("lineage_export.json", 1)])
def test_files_of_the_program(name: str, count: int) -> None:
    path = CORPUS / "hermes" / "generated" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = audit(Source(str(path)))
    assert (found.rollouts, found.problems) == (count, [])
