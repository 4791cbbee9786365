r"""Gemini CLI: `~/.gemini/tmp/<project>/chats/session-<time>-<id>.jsonl`, one record a line.

    {"sessionId":"0b1c…","projectHash":"414e…","startTime":"…Z","lastUpdated":"…Z","kind":"main"}
    {"id":"u1","timestamp":"…Z","type":"user","content":[{"text":"Fix it"}]}
    {"id":"g1","timestamp":"…Z","type":"gemini","content":"","thoughts":[{"subject":"Plan","description":"…"}],"tokens":{"input":9,…},"model":"gemini-…","toolCalls":[{"id":"ls-1","name":"ls","args":{…},"result":[{"functionResponse":{…}}],"status":"success"}]}
    {"$set":{"lastUpdated":"…Z"}}

Until 0.39 a session was one document `session-….json`, the header with `messages`. A sub-agent lies in
`chats/<session>/<id>.jsonl`. `/chat save` writes `checkpoint-<tag>.json`, a list of Gemini API contents
`{"role","parts"}`, alone or as `history`.

* A message is appended again as it grows: the last record with its id counts.
* `$rewindTo` withdraws the message with that id and all behind it (all, when there is none).
* `$set.messages` is what the model is sent from now on. Without the last turns it withdraws them; with others in
  their place it is a compaction, whose kept messages come again under new ids.
* Messages of type info, warning and error are for the screen, but for binary content of a tool (a list).
* The responses that a user message brings are those of the `toolCalls` before it.

Source of the rules: `ChatRecordingService`, `GeminiChat` and `convertSessionToClientHistory` of
@google/gemini-cli-core 0.61.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

from agent_rollouts.events import JSON, At, Branched, Compacted, Event, Facts, Returned, Skipped, Used
from agent_rollouts.formats._chat import text_or_none
from agent_rollouts.formats._gemini import SYNTHETIC_SIGNATURE, Seen, has, message_events, parts_of, responses, text_of
from agent_rollouts.source import Head, Source

_USAGE = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cache_read_tokens",
    "thoughts": "reasoning_tokens",
}
_FAILED = {"success": False, "error": True, "cancelled": True}
_ORIGINS = {"<session_context>": "environment", "<hook_context>": "hook"}
_INTERRUPTED = "[The previous response was interrupted before it completed.]"
_ROLES = {"user": "user", "gemini": "assistant", "model": "assistant"}


def claims(head: Head) -> bool:
    """A header with `sessionId` and `projectHash`, a message of type gemini, or a list of contents."""
    match head.document:
        case {"sessionId": str(), "projectHash": str()}:
            return True
        case [{"role": "user" | "model", "parts": list()}, *_]:
            return True
        case {"history": [{"role": "user" | "model", "parts": list()}, *_]}:
            return True
    for record in head.records:
        match record:
            case {"sessionId": str(), "projectHash": str()} | {"$rewindTo": str()}:
                return True
            case {"id": str(), "type": "gemini", "content": _}:
                return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The one session of a file."""
    if not _is_document(source.head):
        return _Session(source, source.records()).events()
    document = source.document()
    contents = document.get("history") if isinstance(document, dict) else document
    if isinstance(contents, list):
        return _contents(contents)
    return _Session(source, [document]).events()


def _is_document(head: Head) -> bool:
    """Whether the file is one JSON value over several lines, and not one a line."""
    line, end, _ = head.data.lstrip(b"\xef\xbb\xbf\x00 \t\r\n").partition(b"\n")
    document = head.document
    try:
        return not isinstance(orjson.loads(line), dict)
    except ValueError:
        is_open = bool(end) and isinstance(document, dict) and not document.keys().isdisjoint(("messages", "history"))
        return isinstance(document, list) or is_open


def _contents(contents: Sequence[JSON]) -> Iterator[Event]:
    """Contents as the API has them."""
    for turn, content in enumerate(contents):
        match content:
            case {"role": "user" | "model" as role, "parts": list(parts)}:
                yield from message_events(parts, _ROLES[role], At(turn=turn, origin=_origin(parts, role)))
            case _:
                yield Skipped("message: unknown shape")


class _Session:
    """The messages of a file by id, as they are at its end, and in which order they came."""

    def __init__(self, source: Source, records: Iterable[dict[str, JSON]]) -> None:
        self.source = source
        self.records = records
        self.facts: dict[str, JSON] = {}
        self.messages: dict[str, dict[str, JSON]] = {}
        self.order: list[str | tuple[str | None, list[str]]] = []  # ids, and compactions: their time and context
        self.current: dict[str, None] = {}
        self.withdrawn: set[str] = set()
        self.lost: list[Event] = []
        self.answered: set[str | None] = set()
        self.model: str | None = None

    # -- from records to messages ----------------------------------------------------------------

    def fold(self) -> None:
        for record in self.records:
            match record:
                case {"$rewindTo": str(id)}:
                    known = list(self.current)
                    self.withdraw(known[known.index(id) :] if id in self.current else known)
                case {"id": str()}:
                    self.put(record)
                case {"$set": dict(facts)}:
                    if isinstance(facts.get("messages"), list):
                        self.replace(facts["messages"], text_or_none(facts.get("lastUpdated")))
                    self.facts |= {key: value for key, value in facts.items() if key != "messages"}
                case {"sessionId": str()}:
                    messages = record.get("messages")
                    for message in messages if isinstance(messages, list) else []:
                        self.put(message)
                    self.facts |= {key: value for key, value in record.items() if key != "messages"}
                case _:
                    self.lost.append(Skipped("record: unknown"))

    def put(self, message: JSON) -> str | None:
        """Take a message over, in its old place when there is one."""
        id = message.get("id") if isinstance(message, dict) else None
        if not isinstance(id, str):
            self.lost.append(Skipped("message: without an id"))
            return None
        if id not in self.messages:
            self.order.append(id)
        self.messages[id] = message
        self.current[id] = None
        self.withdrawn.discard(id)
        return id

    def withdraw(self, ids: Iterable[str]) -> None:
        for id in list(ids):
            del self.current[id]
            self.withdrawn.add(id)

    def replace(self, messages: Sequence[JSON], stamp: str | None) -> None:
        """A checkpoint. What it repeats stands in the file as it was first, with its reasoning and results."""
        given = {m["id"]: m for m in messages if isinstance(m, dict) and isinstance(m.get("id"), str)}
        if len(given) < len(messages):
            self.lost += [Skipped("message: without an id")] * (len(messages) - len(given))
        spoken = [id for id in self.current if _is_spoken(self.messages[id])]
        missing = [id for id in spoken if id not in given]
        new = [id for id in given if id not in self.messages]
        if missing == spoken[len(spoken) - len(missing) :] and (len(missing) < len(spoken) or not given):
            self.withdraw(missing)
        elif missing:
            for id in new:
                self.messages[id] = given[id]
            self.order.append((stamp, list(given)))
            self.current = dict.fromkeys(given)
            return
        for id in new:
            self.put(given[id])

    # -- from messages to events -----------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        self.fold()
        yield from self.lost
        yield self.session_facts()
        nodes = {id: node for node, id in enumerate(self.messages)}
        said: list[str] = []
        for one in self.order:
            if isinstance(one, str):
                said.append(one)
                yield from self.message(self.messages[one], nodes[one])
            else:
                yield self.compaction(one, said, nodes)
                said += one[1]
        if self.withdrawn:
            yield Branched(frozenset(nodes[id] for id in self.withdrawn))

    def session_facts(self) -> Facts:
        facts = self.facts
        id = text_or_none(facts.get("sessionId"))
        parent = self.parent() if facts.get("kind") == "subagent" else None
        agents: dict[str, JSON] = {
            call["id"]: call["agentId"]
            for message in self.messages.values()
            for call in _list(message.get("toolCalls"))
            if isinstance(call.get("id"), str) and isinstance(call.get("agentId"), str)
        }
        values: dict[str, JSON] = {
            "trace_id": id,
            "identity": id,
            "root_session_id": parent or id,
            "parent_trace_id": parent,
            "agent_id": id if facts.get("kind") == "subagent" else None,
            "is_sidechain": facts.get("kind") == "subagent",
            "cwd": self.project(),
            "started_at": text_or_none(facts.get("startTime")),
        }
        meta = {key: facts.get(key) or None for key in ("projectHash", "summary", "directories")}
        return Facts(values, {**meta, "subagents": agents or None})

    def parent(self) -> str | None:
        """The session that a sub-agent works for: its file lies in a folder of that name."""
        match self.source.path.replace("\\", "/").split("/")[-3:]:
            case ["chats", str(session), _]:
                return session
        return None

    def project(self) -> str | None:
        """The working directory, which Gemini CLI notes beside the folder of the chats."""
        for place in ("../.project_root", "../../.project_root"):
            if (found := self.source.beside(place)) is not None:
                with found.open() as stream:
                    return stream.read(4096).decode("utf-8", "replace").strip() or None
        return None

    def compaction(self, one: tuple[str | None, list[str]], said: Sequence[str], nodes: dict[str, int]) -> Compacted:
        stamp, ids = one
        known = {*said}
        seen = Seen()
        for id in said:
            calls: list[JSON] = [{"functionCall": call} for call in _list(self.messages[id].get("toolCalls"))]
            seen.add(parts_of(self.messages[id].get("content")) + calls)
        context: list[Event] = []
        kept: set[int] = set()
        previous = None
        for id in ids:
            message = self.messages[id]
            parts = parts_of(message.get("content"))
            origin = _origin(parts, message.get("type"))
            if id in known and origin is None:
                kept.add(nodes[id])
            elif id in known or (origin is None and seen.has(parts)):
                context += self.message(message, nodes[id], replayed=True)
            elif origin is None and message.get("type") == "user" and previous is None:
                previous = origin = "summary"
                context += self.message(message, nodes[id], origin="summary")
            elif previous == "summary":
                # The program answers the summary itself.
                previous = "answer"
                context += self.message(message, nodes[id], origin="synthetic")
            else:
                context += self.message(message, nodes[id], origin=origin)
        return Compacted({"timestamp": stamp} if stamp else {}, context, frozenset(kept))

    def message(
        self, message: dict[str, JSON], node: int, *, replayed: bool = False, origin: str | None = None
    ) -> Iterator[Event]:
        kind = message.get("type")
        content = message.get("content")
        parts = parts_of(content)
        stamp = text_or_none(message.get("timestamp"))
        origin = origin or _origin(parts, kind)
        reason = "synthetic" if origin == "synthetic" else None
        at = At(text_or_none(message.get("id")), stamp, node, node, origin, reason, replayed)
        if kind == "user":
            for event in message_events(parts, "user", at):
                if type(event) is Returned and event.call_id in self.answered and not replayed:
                    yield Skipped("tool_result: stands with its call", stamp)
                    yield from (Skipped("media: of a result that stands with its call", stamp) for _ in event.media)
                else:
                    yield event
        elif kind == "gemini":
            yield from self.answer(message, parts, at)
        elif kind == "info" and isinstance(content, list):
            yield from message_events(parts, "user", at._replace(origin="attachment"))
        else:
            yield Skipped(
                f"record: {kind}, for the screen" if kind in ("info", "warning", "error") else "record: unknown"
            )

    def answer(self, message: dict[str, JSON], parts: list[JSON], at: At) -> Iterator[Event]:
        model = text_or_none(message.get("model"))
        if model and model != self.model:
            self.model = model
            yield Facts({"model": model})
        calls = _list(message.get("toolCalls"))
        if not any(isinstance(part, dict) and part.get("thought") is True for part in parts):
            parts = [{"text": _thought(thought), "thought": True} for thought in _list(message.get("thoughts"))] + parts
        yield from message_events(_with_calls(parts, calls), "assistant", at)
        for call in calls:
            for event in _result(call, at):
                self.answered |= {event.call_id} if type(event) is Returned else set()
                yield event
        tokens = message.get("tokens")
        if isinstance(tokens, dict):
            yield Used(at.node, {name: tokens[key] for key, name in _USAGE.items() if key in tokens})


def _list(value: JSON) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _is_spoken(message: dict[str, JSON]) -> bool:
    """Whether Gemini CLI keeps a message in the history when it reads a session again."""
    parts = parts_of(message.get("content"))
    text = text_of(parts).strip()
    match message.get("type"):
        case "user":
            return bool(text) and not text.startswith(("/", "?", *_ORIGINS)) and not has(parts, "functionResponse")
        case "gemini":
            return bool(text or _list(message.get("toolCalls")) or _list(message.get("thoughts")))
    return False


def _origin(parts: Sequence[JSON], kind: JSON) -> str | None:
    first = parts[0] if parts and isinstance(parts[0], dict) else {}
    text = first.get("text")
    if _ROLES.get(kind if isinstance(kind, str) else "") == "assistant":
        is_written = text == _INTERRUPTED or (
            first.get("thoughtSignature") == SYNTHETIC_SIGNATURE and not first.get("functionCall")
        )
        return "synthetic" if is_written else None
    start = text.lstrip() if isinstance(text, str) else ""
    return next((origin for tag, origin in _ORIGINS.items() if start.startswith(tag)), None)


def _thought(thought: dict[str, JSON]) -> str:
    """A thought as Gemini CLI puts it together again."""
    subject, description = (thought.get(key) or "" for key in ("subject", "description"))
    return f"**{subject}** {description}" if subject else str(description)


def _with_calls(parts: list[JSON], calls: Sequence[dict[str, JSON]]) -> list[JSON]:
    """The parts, with the calls that only `toolCalls` has; a call without id there is the next of that name here."""
    left = list(calls)
    found: list[JSON] = []
    for part in parts:
        call = part.get("functionCall") if isinstance(part, dict) else None
        if isinstance(call, dict):
            id = call.get("id")
            same = next((c for c in left if (c.get("id") == id if id else c.get("name") == call.get("name"))), None)
            if same is not None:
                left.remove(same)
                part = {"functionCall": {**call, "id": same.get("id")}}
        found.append(part)
    return found + [{"functionCall": call} for call in left]


def _result(call: dict[str, JSON], at: At) -> Iterator[Event]:
    """What came of a call; a result may hold the responses of all calls of its answer."""
    id = text_or_none(call.get("id"))
    result = call.get("result")
    status = call.get("status")
    failed = _FAILED.get(status) if isinstance(status, str) else None
    at = At(timestamp=text_or_none(call.get("timestamp")), node=at.node, replayed=at.replayed)
    if isinstance(result, str):
        yield Returned(at, id, result, (), failed)
        return
    found = list(responses(parts_of(result)))
    own = [response for response in found if response.id == id] or found[:1]
    for response in own:
        yield Returned(at, id, response.text, response.media, response.is_error if failed is None else failed)
        yield from (Skipped("media: unknown part", at.timestamp) for _ in range(response.unknown))
    if result and not own:
        yield Skipped("tool_result: not a response", at.timestamp)
