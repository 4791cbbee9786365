r"""Hermes Agent: `~/.hermes/state.db`, and in `~/.hermes/sessions` what it wrote before, or still does when asked to.

    state.db                        SQLite, of schema 4 to 22: tables `sessions` and `messages`
    *.jsonl of `sessions export`    {"id":"2026…","source":"cli","model":"…","system_prompt":"…","started_at":1770000000.0,…,"messages":[…]}
    session_<id>.json               {"session_id":"2026…","model":"…","session_start":"2026-02-03T10:00:00","system_prompt":"…","tools":[…],"messages":[…]}
    <id>.jsonl of the gateway       {"role":"session_meta","tools":[…],"model":"…","platform":"telegram","timestamp":"…"}
                                    {"role":"user","content":"Hi","timestamp":"…"}

`sessions.json` beside the last two tells which chat a session belongs to; `request_dump_*` holds requests that failed,
with their headers, and is never opened.

* Messages stand in the order of their ids: clocks run backwards. Rows that the user took back are `active=0`.
* A session may be in several of these files; `held` tells which are worth more.

Source of the rules: hermes-agent 0.19.0 (`hermes_state.py`, `run_agent.py`, `gateway/session.py`).
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from agent_rollouts import jsontext
from agent_rollouts.errors import FormatError
from agent_rollouts.events import JSON, Event, Facts, Skipped
from agent_rollouts.formats import _hermes_sessions as sessions
from agent_rollouts.formats._chat import text_or_none
from agent_rollouts.formats._hermes_messages import Conversation, dicts
from agent_rollouts.formats._sqlite import MAGIC, columns, database
from agent_rollouts.source import HEAD_RECORDS, Head, Source

MAY_REPEAT = ("state.db", "session_*.json", "[0-9]*_[0-9]*_*.jsonl")
"""Names of files that tell that sessions in a folder may be there several times."""

_SCHEMA = (b"CREATE TABLE", b"sessions", b"messages", b"parent_session_id", b"end_reason", b"tool_call_id")
_ORIGIN_COLUMNS = ("id", "source", "parent_session_id", "end_reason", "model_config")
_ROLES = ("user", "assistant", "tool", "system")
# What no other program's rows of `role`, `content` and `timestamp` have.
_OWN_KEYS = frozenset({
    "finish_reason", "reasoning_details", "codex_reasoning_items", "codex_message_items", "mirror", "mirror_source",
    "observed", "effect_disposition", "api_content", "platform_message_id",
})  # fmt: skip
_ENTRY_KEYS = (
    "session_key", "platform", "chat_type", "display_name", "created_at", "updated_at", "estimated_cost_usd",
    "cost_status", "last_prompt_tokens", "suspended", "was_auto_reset", "auto_reset_reason",
)  # fmt: skip


def claims(head: Head) -> bool:
    """Whether this is one of the four kinds of files."""
    return _kind(head) is not None


def decode(source: Source) -> Iterator[Event]:
    """The sessions of a file; see the module's docstring for the rules."""
    match _whole_kind(source):
        case "database":
            return _database_sessions(source)
        case "export":
            return _exported_sessions(source)
        case "snapshot":
            return _snapshot(source)
    return _transcript(source)


def held(source: Source) -> Iterator[tuple[str, int, int]]:
    """The sessions of a file: identity, rank (the higher is the better record) and number of messages.

    Raises:
        FormatError, sqlite3.DatabaseError, OSError: the file cannot be read.
    """
    match _whole_kind(source):
        case "database":
            with database(source) as connection:
                counts = dict(map(tuple, connection.execute("SELECT session_id, count(*) FROM messages GROUP BY 1")))
                for (id,) in connection.execute("SELECT id FROM sessions UNION SELECT session_id FROM messages"):
                    if isinstance(id, str):
                        yield id, 3, counts.get(id, 0)
        case "export":
            for record in filter(_is_session, _records(source)):
                yield record["id"], 2, len(record["messages"])
        case "snapshot":
            match source.head.document:
                case {"session_id": str(id), "message_count": int(count)} if id:
                    yield id, 1, count
                case _:
                    document = source.document()
                    if isinstance(document, dict):
                        yield _snapshot_id(document, source), 1, len(dicts(document.get("messages")))
        case "transcript":
            yield source.stem, 1, sum(record.get("role") in _ROLES for record in source.records())


def _whole_kind(source: Source) -> str | None:
    source.head.limit = HEAD_RECORDS
    return _kind(source.head)


def _kind(head: Head) -> str | None:
    """What the beginning of a file shows it to be, None where it is not of this format."""
    if head.data.startswith(MAGIC):
        # The schema of an old database, which has grown, may lie far behind the beginning.
        is_hidden = b"CREATE TABLE" not in head.data and head.name == "state.db"
        return "database" if is_hidden or all(mark in head.data for mark in _SCHEMA) else None
    match head.document:
        case {"session_id": str(), "session_start": str(), "model": _}:
            return "snapshot"
    records = list(head.records)
    if any(_is_session_head(record) for record in (head.document, *records)):
        return "export"
    if any(record.get("role") == "session_meta" for record in records):
        return "transcript"
    rows = [record for record in records if _is_row(record)]
    if rows and (_is_session_id(head.name.rsplit(".", 1)[0]) or any(not _OWN_KEYS.isdisjoint(row) for row in rows)):
        return "transcript"
    return None


def _is_session_head(record: JSON) -> bool:
    match record:
        case {"id": str(), "source": str(), "model_config": _, "system_prompt": _}:
            return "messages" in record or "user_id" in record
        case {"id": str(), "source": str(), "started_at": int() | float(), "messages": list()}:
            return True
    return False


def _is_row(record: dict[str, JSON]) -> bool:
    """Whether this could be a row of a transcript of the gateway."""
    return record.get("role") in _ROLES and "content" in record and "timestamp" in record and "type" not in record


def _is_session_id(name: str) -> bool:
    """Whether a name reads like `20260203_101500_ab12cd34`."""
    date, time, *rest = name.split("_")[:3] if name.count("_") == 2 else ("", "", "")
    return len(date) == 8 and len(time) == 6 and date.isdigit() and time.isdigit() and bool(rest[0])


# -- the database -----------------------------------------------------------------------------------


def _database_sessions(source: Source) -> Iterator[Event]:
    with database(source) as connection:
        known = columns(connection, "sessions")
        if "id" not in known or not {"id", "session_id", "role", "content"} <= columns(connection, "messages"):
            raise FormatError(f"{source.path} has no tables of Hermes Agent's sessions")
        names = ", ".join(name for name in _ORIGIN_COLUMNS if name in known)
        origins = {
            row["id"]: sessions.origin(_plain(row)) for row in connection.execute(f"SELECT {names} FROM sessions")
        }
        store = _Store(connection, origins)
        for row in connection.execute("SELECT * FROM sessions ORDER BY rowid"):
            if isinstance(row["id"], str):
                yield from store.events(_plain(row))
            else:
                yield Skipped("record: session without an id")
        # A session whose row could not be written was still written to.
        lost = "SELECT DISTINCT session_id FROM messages WHERE session_id NOT IN (SELECT id FROM sessions)"
        for (id,) in connection.execute(lost):
            if isinstance(id, str):
                origins[id] = sessions.origin({})
                yield from store.events({"id": id})


class _Store:
    """The messages of a database, read session by session."""

    def __init__(self, connection: sqlite3.Connection, origins: dict[str, sessions.Origin]) -> None:
        self.connection = connection
        self.origins = origins
        self.meta = {"schema_version": _scalar(connection, "SELECT version FROM schema_version")}
        archived = "SELECT DISTINCT session_id FROM messages WHERE compacted = 1"
        has_archive = "compacted" in columns(connection, "messages")
        self.archived = {id for (id,) in connection.execute(archived)} if has_archive else set()
        self.compared = self.archived | sessions.relatives(origins)

    def events(self, session: dict[str, JSON]) -> Iterator[Event]:
        rows = self._rows(session["id"])
        yield from sessions.events({**session, **self.meta}, rows, self.origins, self._turns)

    def _rows(self, id: str) -> Iterator[dict[str, JSON]]:
        # Ids first: whole rows would be sorted otherwise.
        chosen = "SELECT * FROM messages WHERE id IN (SELECT id FROM messages WHERE session_id = ?) ORDER BY id"
        return map(_plain, self.connection.execute(chosen, (id,)))

    def _turns(self, id: str) -> list[sessions.Turn]:
        rows = filter(sessions.is_shown, self._rows(id)) if id in self.compared else ()
        return [sessions.turn(row, id in self.archived and row["active"] == 0) for row in rows]


def _plain(row: sqlite3.Row) -> dict[str, JSON]:
    """A row as JSON would have it: a column may hold any bytes, too."""
    cells = dict(row).items()
    return {key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for key, value in cells}


def _scalar(connection: sqlite3.Connection, query: str) -> JSON:
    try:
        row = connection.execute(query).fetchone()
    except sqlite3.OperationalError:  # no such table
        return None
    return row[0] if row else None


# -- `hermes sessions export` -----------------------------------------------------------------------


def _exported_sessions(source: Source) -> Iterator[Event]:
    """Read beforehand for what is a copy: children stand before their parents."""
    origins: dict[str, sessions.Origin] = {}
    compared: set[str] = set()
    for record in filter(_is_session, _records(source)):
        origins[record["id"]] = sessions.origin(record)
        # With `--lineage logical` a line holds all sessions that were compacted into its own.
        if len({text_or_none(message.get("session_id")) for message in dicts(record["messages"])}) > 1:
            compared.add(record["id"])
        for segment in filter(_is_session, dicts(record.get("segments"))):
            origins.setdefault(segment["id"], sessions.origin(segment))
    turns: dict[str, list[sessions.Turn]] = {}
    if compared := compared | sessions.relatives(origins):
        for record in filter(_is_session, _records(source)):
            if record["id"] in compared:
                shown = filter(sessions.is_shown, dicts(record["messages"]))
                turns[record["id"]] = [sessions.turn(m, text_or_none(m.get("session_id"))) for m in shown]
    source.damage.clear()
    for record in _records(source):
        if not _is_session(record):
            yield Skipped("record: no session")
            continue
        yield from sessions.events(record, record["messages"], origins, lambda id: turns.get(id, []))


def _is_session(record: dict[str, JSON]) -> bool:
    return isinstance(record.get("id"), str) and isinstance(record.get("messages"), list)


def _records(source: Source) -> Iterator[dict[str, JSON]]:
    """The objects of a file of lines, or the one that is written over several."""
    if next(source.head.records, None):
        for record in source.records():
            yield record if jsontext.is_exact(record) else source.exact()
    elif isinstance(document := source.document(), dict):
        yield document


# -- `sessions/` ------------------------------------------------------------------------------------


def _snapshot(source: Source) -> Iterator[Event]:
    """A whole session as one JSON object, with prompt and tools of the model; what `/save` writes has neither."""
    document = source.document()
    if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
        raise FormatError(f"{source.path} has no messages")
    id = _snapshot_id(document, source)
    conversation = Conversation(document.get("system_prompt"))
    conversation.see(document.get("session_start"))
    conversation.see(document.get("last_updated"))
    yield Facts(
        {
            "trace_id": text_or_none(document.get("session_id")) or source.stem,
            "root_session_id": id,
            "identity": id,
            "model": document.get("model"),
        },
        {key: document[key] for key in ("platform", "base_url") if document.get(key)},
    )
    yield from _tools(document)
    yield from _chat_of(id, source, conversation)
    yield from conversation.opening()
    for message in document["messages"]:
        if isinstance(message, dict):
            yield from conversation.events(message)
        else:
            yield Skipped("message: no object")
    yield conversation.times()


def _snapshot_id(document: dict[str, JSON], source: Source) -> str:
    return text_or_none(document.get("session_id")) or source.stem.removeprefix("session_")


def _transcript(source: Source) -> Iterator[Event]:
    """What the gateway wrote line by line, `session_meta` wherever it began anew."""
    conversation = Conversation()
    yield Facts({"identity": source.stem, "root_session_id": source.stem})
    yield from _chat_of(source.stem, source, conversation)
    has_meta = False
    for record in _records(source):
        if record.get("role") != "session_meta":
            yield from conversation.events(record)
            continue
        conversation.see(record.get("timestamp"))
        yield Facts({"model": record.get("model")}, {"platform": record.get("platform") or None})
        if has_meta:
            yield Skipped("record: session_meta again")
        else:
            yield from _tools(record)
        has_meta = True
    yield conversation.times()


def _tools(record: dict[str, JSON]) -> Iterator[Event]:
    if not isinstance(record.get("tools"), list):
        return
    tools = []
    for tool in record["tools"]:
        match tool:
            case {"function": {"name": str()}}:
                tools.append(tool)
            case {"name": str()}:
                tools.append({"type": "function", "function": tool})
            case _:
                yield Skipped("record: tool without a name")
    yield Facts({"tools": tools})


def _chat_of(id: str, source: Source, conversation: Conversation) -> Iterator[Event]:
    """What `sessions.json` says of the chat that a session is, or was, the current one of."""
    index = source.sibling("sessions.json")
    for key, entry in index.items() if isinstance(index, dict) else ():
        if entry == id:
            yield Facts(meta={"session_key": key})
        elif isinstance(entry, dict) and entry.get("session_id") == id:
            conversation.see(entry.get("created_at"))
            conversation.see(entry.get("updated_at"))
            meta = {name: entry[name] for name in _ENTRY_KEYS if entry.get(name)}
            yield Facts({"usage": sessions.usage(entry)}, {"session_key": key, **meta})
