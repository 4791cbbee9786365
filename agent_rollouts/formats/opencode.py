r"""opencode: `~/.local/share/opencode/opencode.db`, or what `opencode export` prints, one JSON object.

    {"info": {"id": "ses_1", "directory": "/work", "parentID": "ses_0", "title": "…", "version": "1.2.0", "time": {…}},
     "messages": [
      {"info": {"id": "msg_1", "role": "user", "time": {"created": 1772442000000}, …},
       "parts": [{"id": "prt_1", "type": "text", "text": "Fix it"}]},
      {"info": {"id": "msg_2", "role": "assistant", "modelID": "m", "tokens": {…}, "finish": "tool-calls", …},
       "parts": [{"type": "step-start"}, {"type": "reasoning", "text": "…"},
                 {"type": "tool", "callID": "c1", "tool": "bash", "state": {
                     "status": "completed", "input": {"command": "ls"}, "output": "README.md", "time": {…}}},
                 {"type": "step-finish", "reason": "tool-calls", "tokens": {…}, "cost": 0.01}]}]}

The database has the same objects without their ids in the column `data` of its tables `message` and `part`;
the server's `GET /session/:id/message` gives the list of messages alone.

* A step is one response of the model: it becomes one assistant message, its results behind it. A message of
  older versions holds several.
* An assistant message without a step is a tool that the program ran: a shell line or a command of the user's.
* Once a message with `summary` is finished, the context is that, then the messages from `tail_start_id` of
  the `compaction` part it answers. The request that it answers is not in the log.
* `revert` of the session withdraws everything from a message, or part, on.
* The system prompt is in the answers of versions of 2025 (`system`), later not in the log.
* Ignored texts are not sent; text files are sent as the texts beside them; failed answers are not sent again.

Source of the rules: opencode's sources (`message-v2`, `prompt`, `processor`, `compaction`, `revert`), the types
of `@opencode-ai/sdk` 1.19.3, and sessions and databases written by opencode 1.18.33.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import orjson

from agent_rollouts import jsontext
from agent_rollouts.errors import FormatError
from agent_rollouts.events import (
    JSON,
    At,
    Branched,
    Called,
    Compacted,
    End,
    Event,
    Facts,
    Media,
    Returned,
    Said,
    Skipped,
    Start,
    Thought,
    Used,
)
from agent_rollouts.formats._chat import arguments, text_or_none
from agent_rollouts.formats._media import of_url
from agent_rollouts.formats._sqlite import MAGIC, columns, database
from agent_rollouts.jsontext import as_dict, as_list
from agent_rollouts.source import Head, Source

_TABLES = (b"CREATE TABLE `session`", b"CREATE TABLE `message`", b"CREATE TABLE `part`")
# Put into user messages as text, so that the file itself is not sent.
_AS_TEXT = ("text/plain", "application/x-directory")
# Before what the program ran for the user: a shell line, or a command that is a sub-agent's task.
_RAN_BY_USER = "The following tool was executed by the user"
_RECORDS = frozenset({"patch", "snapshot", "agent", "retry", "subtask"})


def claims(head: Head) -> bool:
    """Whether this is a database with opencode's tables, an export, or a session's list of messages."""
    if head.data.startswith(MAGIC):
        # Where many migrations moved them, the tables are described beyond the head.
        return all(table in head.data for table in _TABLES) or head.name.startswith("opencode")
    match head.document:
        case {"info": {"id": str(), **info}, **rest}:
            # Of a session with large diffs the head does not reach the messages.
            return ("projectID" in info or "directory" in info) and ("messages" in rest or not rest)
        case [{"info": {"sessionID": str(), "role": str()}, "parts": list()}, *_]:
            return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """One rollout per session; see the module's docstring for the rules.

    Raises:
        FormatError: JSON that holds no session.
        sqlite3.DatabaseError: a damaged database.
    """
    if source.head.data.startswith(MAGIC):
        with database(source) as connection:
            yield from _stored(connection)
        return
    match source.document():
        case {"info": dict(info), **rest}:
            if rest.get("todos"):
                yield Skipped("record: todos")
            yield from _Session(info).events(as_list(rest.get("messages")))
        case [{"info": {"sessionID": str(id)}}, *_] as messages:
            yield from _Session({"id": id}).events(messages)
        case _:
            raise FormatError(f"{source.path} holds no session with its messages")


# -- the database -----------------------------------------------------------------------------------


def _stored(connection: sqlite3.Connection) -> Iterator[Event]:
    sessions = connection.execute("SELECT * FROM session ORDER BY time_created, id").fetchall()
    parents = {row["id"]: row["parent_id"] for row in sessions}
    has_second = "data" in columns(connection, "session_message")
    for row in sessions:
        known = set(row.keys())
        info = {ours: row[name] for name, ours in _COLUMNS.items() if name in known and row[name] is not None}
        info |= {name: _json(row[name]) for name in ("revert", "model") if name in known and row[name]}
        info["time"] = {"created": row["time_created"], "updated": row["time_updated"]}
        if row["summary_files"] is not None:
            info["summary"] = {name: row[f"summary_{name}"] for name in ("additions", "deletions", "files")}
        yield Start(row["id"])
        messages, lost = _messages(connection, row["id"])
        yield from lost
        if has_second and not messages:
            # What the next version writes, instead of messages with parts.
            query = "SELECT count(*) FROM session_message WHERE session_id = ?"
            if count := connection.execute(query, (row["id"],)).fetchone()[0]:
                yield Skipped("message: of the table session_message", count=count)
        yield from _Session(info, _root(row["id"], parents)).events(messages)
        yield End()


_COLUMNS = {
    "id": "id",
    "project_id": "projectID",
    "parent_id": "parentID",
    "directory": "directory",
    "title": "title",
    "version": "version",
    "agent": "agent",
}


def _messages(connection: sqlite3.Connection, session: str) -> tuple[list[JSON], list[Event]]:
    """The messages of a session, as an export has them, and what of them cannot be read."""
    lost: Counter[str] = Counter()
    found: dict[str, dict[str, JSON]] = {}
    query = "SELECT id, data FROM message WHERE session_id = ? ORDER BY time_created, id"
    for row in connection.execute(query, (session,)):
        if isinstance(data := _json(row["data"]), dict):
            found[row["id"]] = {"info": {**data, "id": row["id"]}, "parts": []}
        else:
            lost["message: not JSON"] += 1
    query = "SELECT id, message_id, data FROM part WHERE session_id = ? ORDER BY message_id, id"
    for row in connection.execute(query, (session,)):
        if not isinstance(data := _json(row["data"]), dict):
            lost["record: part that is not JSON"] += 1
        elif row["message_id"] not in found:
            lost["record: part without its message"] += 1
        else:
            found[row["message_id"]]["parts"].append({**data, "id": row["id"]})
    return list(found.values()), [Skipped(what, count=count) for what, count in lost.items()]


def _json(text: JSON) -> JSON:
    """The value of a JSON column, with integers of any length; None where it is none."""
    try:
        value = orjson.loads(text)
        if jsontext.is_exact(value):
            return value
    except (ValueError, TypeError):
        pass
    try:
        return jsontext.tolerant(str(text))[0]
    except ValueError:
        return None


def _root(id: str, parents: dict[str, str | None]) -> str:
    seen = {id}
    while (above := parents.get(id)) and above not in seen:
        seen.add(id := above)
    return id


# -- a session --------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """One response of the model: its parts, and the `step-finish` that says that it is whole."""

    id: str | None
    parts: list[dict[str, JSON]]
    finish: dict[str, JSON] | None


class _Session:
    """What must be remembered between the messages of one session."""

    def __init__(self, info: dict[str, JSON], root: str | None = None) -> None:
        self.info = info
        self.root = root
        self.node = 0
        self.ids: set[str] = set()
        self.first_nodes: dict[str, int] = {}
        self.markers: dict[str, tuple[int, dict[str, JSON]]] = {}
        self.systems: dict[str, None] = {}
        self.path: dict[str, JSON] | None = None
        self.model: str | None = None
        self.completed: bool | None = None
        self.last: float = 0
        self.lists: dict[str, dict[str, None]] = {"agents": {}, "providers": {}, "variants": {}}
        self.counts: dict[str, Counter[str]] = {"errors": Counter(), "retries": Counter()}
        self.children: dict[str, str] = {}
        self.cleared = 0
        self.files: dict[str, None] = {}
        self.hidden: set[int] = set()
        revert = as_dict(info.get("revert"))
        self.revert = text_or_none(revert.get("messageID"))
        self.revert_part = text_or_none(revert.get("partID"))
        self.is_reverted = False

    def events(self, messages: list[JSON]) -> Iterator[Event]:
        yield self._facts()
        # The answers of older versions have the prompt that stood before everything.
        first: dict[str, JSON] = next((message["info"] for message in messages if _is_answer(message)), {})
        yield from self._system(At(), as_list(first.get("system")))
        for message in messages:
            match message:
                case {"info": {"role": "user" | "assistant" as role} as info, "parts": list(parts)}:
                    yield from self._message(role, info, parts)
                case {"info": {"role": str()}}:
                    yield Skipped("message: without parts")
                case _:
                    yield Skipped("message: of unknown shape")
        if self.is_reverted:
            self.completed = None
        if self.hidden:
            yield Branched(frozenset(self.hidden), [frozenset()])
        yield self._closing()

    def _facts(self) -> Facts:
        info = self.info
        id, parent = text_or_none(info.get("id")), text_or_none(info.get("parentID"))
        values = {
            "trace_id": id,
            "root_session_id": self.root or parent or id,
            "parent_trace_id": parent,
            "is_sidechain": parent is not None,
            "cwd": text_or_none(info.get("directory")),
            "started_at": _time(as_dict(info.get("time")).get("created")),
        }
        if parent:
            values["agent_id"] = text_or_none(info.get("agent"))
        meta = {name: text_or_none(info.get(name)) for name in ("title", "version", "projectID", "slug")}
        changed = as_dict(info.get("summary"))
        diff = {name: changed[name] for name in ("additions", "deletions", "files") if name in changed}
        return Facts(values, meta | {"diff": diff or None, "reverted_from": self.revert})

    def _closing(self) -> Facts:
        meta: dict[str, JSON] = {name: list(seen) for name, seen in self.lists.items() if seen}
        meta |= {name: dict(count) for name, count in self.counts.items() if count}
        if self.children:
            meta["subagents"] = self.children
        if self.cleared:
            meta["outputs_cleared_later"] = self.cleared
        if self.files:
            meta["changed_files"] = list(self.files)
        values: dict[str, JSON] = {"completed": self.completed, "ended_at": self.last or None}
        if self.info.get("parentID"):
            values["agent_id"] = next(iter(self.lists["agents"]), None)
        return Facts(values, meta)

    # -- messages --------------------------------------------------------------------------------

    def _message(self, role: str, info: dict[str, JSON], raw: list[JSON]) -> Iterator[Event]:
        parts = [part for part in raw if isinstance(part, dict) and isinstance(part.get("type"), str)]
        if len(parts) < len(raw):
            yield Skipped("record: part without a type", count=len(raw) - len(parts))
        id = text_or_none(info.get("id"))
        if id is not None and id in self.ids:
            yield Skipped("id: repeated message id")
            id = None
        elif id is not None:
            self.ids.add(id)
            self.first_nodes[id] = self.node
        if self.revert is not None and id == self.revert:
            self.is_reverted = self.revert_part is None
            if self.revert_part is not None:
                place = next((i for i, part in enumerate(parts) if part.get("id") == self.revert_part), 0)
                yield from _withdrawn(parts[place:])
                parts = parts[:place]
        first = self.node
        created = _time(as_dict(info.get("time")).get("created"))
        self._see(created)
        yield from self._note(info, parts)
        at = At(id, created)
        yield from self._user(at, info, parts) if role == "user" else self._assistant(at, info, parts)
        if self.is_reverted:
            self.hidden.update(range(first, self.node))
        elif self.revert is not None and id == self.revert:
            self.is_reverted = True  # after that part

    def _note(self, info: dict[str, JSON], parts: list[dict[str, JSON]]) -> Iterator[Event]:
        """What a message says about the session, and its parts that are neither said nor shown."""
        for name, key in (("agents", "agent"), ("providers", "providerID"), ("variants", "variant")):
            if value := text_or_none(info.get(key) or (info.get("mode") if key == "agent" else None)):
                self.lists[name][value] = None
        for part in parts:
            kind = part["type"]
            if kind == "patch":
                self.files |= dict.fromkeys(name for name in as_list(part.get("files")) if isinstance(name, str))
            elif kind == "retry":
                self.counts["retries"][_error_name(part.get("error"))] += 1
            if kind in _RECORDS:
                yield Skipped(f"record: {kind}")
            elif kind not in _PARTS:
                yield Skipped(f"record: part {kind[:40]}")

    def _next(self, at: At) -> At:
        """`at` as a message of its own."""
        at = at._replace(node=self.node, turn=self.node)
        self.node += 1
        return at

    def _system(self, at: At, texts: list[JSON]) -> Iterator[Event]:
        """What is new in the system prompt."""
        for text in texts:
            if isinstance(text, str) and text and text not in self.systems:
                self.systems[text] = None
                yield Said(self._next(At(timestamp=at.timestamp)), "system", text)

    # -- the user's ------------------------------------------------------------------------------

    def _user(self, at: At, info: dict[str, JSON], parts: list[dict[str, JSON]]) -> Iterator[Event]:
        self.completed = None
        # Put behind the program's own instructions, which newer versions do not log.
        yield from self._system(at, [info.get("system")])
        marker = next((part for part in parts if part["type"] == "compaction"), None)
        if marker is not None and at.id is not None:
            self.markers[at.id] = (self.node, marker)
        has_file = any(part["type"] == "file" for part in parts)
        said: list[tuple[str | None, str | None, Media | None]] = []
        for part in parts:
            if part["type"] == "text" and isinstance(part.get("text"), str):
                if part.get("ignored") is True:
                    yield Skipped("text: not shown to the model")
                elif part["text"]:
                    said.append((_origin(part, has_file), part["text"], None))
            elif part["type"] == "text":
                yield Skipped("record: text part without text")
            elif part["type"] == "file":
                if part.get("mime") in _AS_TEXT:
                    yield Skipped("media: shown as text")
                elif (medium := _medium(part)) is not None:
                    said.append((said[-1][0] if said else None, None, medium))
                else:
                    yield Skipped("media: of unknown shape")
        if not said and marker is None and not any(part["type"] == "subtask" for part in parts):
            yield Skipped("message: empty")
        # What the program adds to a prompt stands in the same message; here each has one of its own.
        for origin, group in groupby(said, key=lambda one: one[0]):
            found = list(group)
            texts = [text for _, text, _ in found if text is not None]
            media = [medium for _, _, medium in found if medium is not None]
            yield Said(self._next(at._replace(origin=origin)), "user", "\n".join(texts), media)

    # -- the model's -----------------------------------------------------------------------------

    def _assistant(self, at: At, info: dict[str, JSON], parts: list[dict[str, JSON]]) -> Iterator[Event]:
        if self.path is None:
            self.path = as_dict(info.get("path"))
            root = text_or_none(self.path.get("root"))
            # Where there is no repository, opencode says that the project is `/`.
            yield Facts({"cwd": text_or_none(self.path.get("cwd")), "project_path": root if root != "/" else None})
        error = _error_name(info.get("error")) if info.get("error") else None
        time = as_dict(info.get("time"))
        self._see(time.get("completed"))
        steps = list(_steps(parts))
        if error is not None:
            self.counts["errors"][error] += 1
        self.completed = False if error else True if info.get("finish") == "stop" else None
        if not steps:
            yield Skipped(f"message: no answer ({error})" if error else "message: no answer")
            return
        if _ran_by_program(info, parts):
            at = at._replace(origin="synthetic", weight_reason="synthetic")
        else:
            model = text_or_none(info.get("modelID"))
            if model is not None and model != self.model:
                self.model = model
                yield Facts({"model": model})
        if info.get("summary") is not True:
            yield from self._system(at, as_list(info.get("system")))
        is_whole = error is None and bool(info.get("finish") or _time(time.get("completed")))
        is_summary = is_whole and info.get("summary") is True
        has_finish = any(step.finish is not None for step in steps)
        if is_summary:
            at = at._replace(origin="summary", weight_reason="request_not_in_log")
        events: list[Event] = []
        for number, step in enumerate(steps):
            # Only the first step has the id of the message, as each becomes one.
            begun = at if number == 0 else at._replace(id=step.id, timestamp=_begun(step) or at.timestamp)
            is_last = step is steps[-1]
            # One that was begun anew is torn, too.
            is_torn = step.finish is None and (has_finish or not is_whole)
            if is_torn or (error is not None and is_last):
                failed = error not in (None, "MessageAbortedError")
                begun = begun._replace(weight_reason="api_error" if failed else "interrupted")
            events += self._step(self._next(begun), step)
            counted = step.finish or (info if is_last and not has_finish else {})
            if usage := _usage(counted):
                events.append(Used(self.node, usage))
        if is_summary and not self.is_reverted:
            yield self._compacted(info, events)
        else:
            yield from events

    def _compacted(self, info: dict[str, JSON], events: list[Event]) -> Compacted:
        place, marker = self.markers.get(info.get("parentID") or "", (0, {}))
        note = {name: marker[name] for name in ("auto", "overflow") if isinstance(marker.get(name), bool)}
        tail = self.first_nodes.get(marker.get("tail_start_id") or "", place)
        again = [Said(At(replayed=True), "system", text) for text in self.systems]
        return Compacted(note, [*again, *events], frozenset(range(tail, place)))

    def _step(self, at: At, step: _Step) -> Iterator[Event]:
        texts: list[tuple[bool, str]] = []
        thoughts: list[str] = []
        media: list[Media] = []
        calls: list[Event] = []  # each with its result behind it
        for part in step.parts:
            match part:
                case {"type": "text", "text": str(text)}:
                    texts += [(part.get("synthetic") is True, text)] if text else []
                case {"type": "reasoning", "text": str(text)} if text:
                    thoughts.append(text)
                case {"type": "reasoning"}:
                    yield Skipped("reasoning: encrypted" if part.get("metadata") else "reasoning: empty")
                case {"type": "tool", "tool": str(name), "state": dict(state)} if name:
                    call_id = text_or_none(part.get("callID"))
                    given = state.get("input") or text_or_none(state.get("raw"))
                    calls.append(Called(at, call_id, name, arguments(given)))
                    calls += self._result(at, call_id, state)
                case {"type": "tool"}:
                    yield Skipped("tool_call: of unknown shape")
                case {"type": "file"} if (medium := _medium(part)) is not None:
                    media.append(medium)
                case {"type": "file"}:
                    yield Skipped("media: of unknown shape")
                case _:
                    yield Skipped("record: text part without text")
        if texts and all(synthetic for synthetic, _ in texts) and not (calls or thoughts):
            at = at._replace(origin="synthetic", weight_reason="synthetic")
        if any(text.startswith("[redacted:") and text.endswith("]") for _, text in texts):
            # `export --sanitize` leaves these in place of what was said.
            at = at._replace(weight_reason="redacted")
        # Equal parts of one response are all said: put together here, none is taken for another's copy.
        if thoughts:
            yield Thought(at, "\n".join(thoughts))
        if texts or media:
            yield Said(at, "assistant", "\n".join(text for _, text in texts), media)
        yield from (call._replace(at=at) if isinstance(call, Called) else call for call in calls)
        if not (texts or thoughts or media or calls):
            yield Skipped("message: no answer")

    def _result(self, at: At, call_id: str | None, state: dict[str, JSON]) -> Iterator[Event]:
        """What a call came to; nothing where it is still pending or running."""
        time, meta = as_dict(state.get("time")), as_dict(state.get("metadata"))
        self._see(time.get("end"))
        if call_id and (child := text_or_none(meta.get("sessionId"))):
            self.children[call_id] = child
        done = At(timestamp=_time(time.get("end")), node=at.node)
        match state:
            case {"status": "completed", "output": str(text)}:
                # Put out of the context later, when room was needed.
                self.cleared += bool(time.get("compacted"))
                media: list[Media] = []
                for file in as_list(state.get("attachments")):
                    if (medium := _medium(file)) is not None:
                        media.append(medium)
                    else:
                        yield Skipped("media: of unknown shape")
                yield Returned(done, call_id, text, media, False)
            case {"status": "error", "metadata": {"interrupted": True, "output": str(text)}}:
                yield Returned(done, call_id, text, (), True)
            case {"status": "error", "error": str(text)}:
                yield Returned(done, call_id, text, (), True)
            case {"status": "pending" | "running"}:
                pass
            case _:
                yield Skipped("tool_result: of unknown shape")

    def _see(self, moment: JSON) -> None:
        self.last = max(self.last, _time(moment) or 0)


_PARTS = _RECORDS | {"text", "reasoning", "tool", "file", "step-start", "step-finish", "compaction"}


def _steps(parts: list[dict[str, JSON]]) -> Iterator[_Step]:
    """The responses in a message; what stands before the first `step-start`, or without one, is a response too."""
    id: str | None = None
    held: list[dict[str, JSON]] = []
    finish: dict[str, JSON] | None = None
    for part in parts:
        if part["type"] == "step-start":
            if held or finish:
                yield _Step(id, held, finish)
            id, held, finish = text_or_none(part.get("id")), [], None
        elif part["type"] == "step-finish":
            finish = part
        elif part["type"] in ("text", "reasoning", "tool", "file"):
            held.append(part)
    if held or finish:
        yield _Step(id, held, finish)


def _is_answer(message: JSON) -> bool:
    match message:
        case {"info": {"role": "assistant", **info}}:
            return info.get("summary") is not True
    return False


def _ran_by_program(info: dict[str, JSON], parts: list[dict[str, JSON]]) -> bool:
    """Whether no model answered: there is nothing but calls, no step, and no token."""
    kinds = {part["type"] for part in parts}
    return "tool" in kinds and not kinds & {"step-start", "step-finish", "text", "reasoning"} and not _usage(info)


def _withdrawn(parts: list[dict[str, JSON]]) -> Iterator[Event]:
    """The parts behind the one that a session was reverted to."""
    for part in parts:
        kind = {"tool": "tool_call", "file": "media", "text": "text", "reasoning": "reasoning"}.get(part["type"])
        yield Skipped(f"{kind or 'record'}: reverted")
        state = as_dict(part.get("state"))
        if part["type"] == "tool" and state.get("status") in ("completed", "error"):
            yield Skipped("tool_result: reverted")
            yield from (Skipped("media: reverted") for _ in as_list(state.get("attachments")))


def _origin(part: dict[str, JSON], has_file: bool) -> str | None:
    if part.get("synthetic") is not True:
        return None
    if part["text"] == _RAN_BY_USER:
        return "bash"
    return "attachment" if has_file else "reminder"


def _medium(part: JSON) -> Media | None:
    """The content of a file part, or where it lies."""
    part = as_dict(part)
    mime = text_or_none(part.get("mime"))
    kind = (mime or "").partition("/")[0]
    medium = of_url(kind if kind in ("image", "audio") else "document", part.get("url"))
    return medium and medium._replace(media_type=mime or medium.media_type)


def _usage(counted: dict[str, JSON]) -> dict[str, JSON]:
    """The counts of a response; none where nothing was counted."""
    tokens, cache = as_dict(counted.get("tokens")), as_dict(as_dict(counted.get("tokens")).get("cache"))
    found = {
        "input_tokens": tokens.get("input"),
        "output_tokens": tokens.get("output"),
        "reasoning_tokens": tokens.get("reasoning"),
        "cache_read_tokens": cache.get("read"),
        "cache_write_tokens": cache.get("write"),
        "cost_usd": counted.get("cost"),
    }
    usage: dict[str, JSON] = {name: count for name, count in found.items() if _is_count(count)}
    return usage if any(usage.values()) else {}


def _is_count(value: JSON) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63


def _begun(step: _Step) -> float | None:
    """When the first of a step's parts began, which has no time of its own."""
    times = [as_dict(part.get("time")) or as_dict(as_dict(part.get("state")).get("time")) for part in step.parts]
    return min(filter(None, (_time(time.get("start")) for time in times)), default=None)


def _time(value: JSON) -> float | None:
    """Milliseconds since 1970, or None."""
    return value if _is_count(value) and 0 < value < 1e14 else None


def _error_name(error: JSON) -> str:
    return str(as_dict(error).get("name") or "unknown")[:60]
