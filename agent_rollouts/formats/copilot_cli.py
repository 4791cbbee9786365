r"""Copilot CLI: `~/.copilot/session-state/<session id>/events.jsonl` (before 1.0.11 `<session id>.jsonl`), one event a line.

    {"type":"session.start","data":{"sessionId":"ded0…","copilotVersion":"1.0.102","context":{"cwd":"/work","branch":"main"},…},"id":"…","timestamp":"…Z","parentId":null}
    {"type":"user.message","data":{"content":"Fix it","transformedContent":"<current_datetime>…</current_datetime>\n\nFix it"},"id":"…",…}
    {"type":"assistant.message","data":{"messageId":"7ffc…","content":"Listing.","reasoningText":"…","toolRequests":[{"toolCallId":"c1","name":"bash","arguments":{"command":"ls"}}]},…}
    {"type":"tool.execution_complete","data":{"toolCallId":"c1","success":true,"result":{"content":"README.md"}},…}

VS Code writes transcripts of the same events, without results.

* The model is sent `transformedContent`, and of a call that failed the message of its error.
* `system.message` stands behind the prompt that it precedes; it is the whole system prompt each time.
* Events of a sub-agent have its `agentId` (older ones the `parentToolCallId` of the call that made it) and lie
  between those of the others.
* An `assistant.message` that names no model, turn or request, in a log whose others do, is a call that the
  program made after a notification.
* After a compaction the model is sent the prompts so far and `summaryContent` in a fixed frame; the log has the summary.

Source of the rules: the event types of `@github/copilot-sdk` 1.0.14, and sessions of Copilot CLI 1.0.102 beside the
requests that it sent to a model of our own.
"""  # noqa: E501  (the events are shown as they stand)

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agent_rollouts import jsontext
from agent_rollouts.events import (
    JSON,
    At,
    Called,
    Compacted,
    Event,
    Facts,
    Interrupted,
    Media,
    Returned,
    Said,
    Skipped,
    Start,
    Thought,
    Used,
)
from agent_rollouts.formats._chat import arguments, text_or_none
from agent_rollouts.formats._media import decoded
from agent_rollouts.jsontext import as_dict, as_list
from agent_rollouts.source import Head, Source

_FAMILIES = (
    "session.",
    "user.message",
    "assistant.",
    "tool.",
    "system.",
    "subagent.",
    "skill.",
    "hook.",
    "permission.",
)
# What a message of the model's has, and one of the program's has not.
_MARKS = ("model", "turnId", "interactionId", "apiCallId")
_USAGE = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cacheReadTokens": "cache_read_tokens",
    "cacheWriteTokens": "cache_write_tokens",
    "reasoningTokens": "reasoning_tokens",
}
_PHASES = frozenset({"commentary", "final_answer"})


def claims(head: Head) -> bool:
    """Whether one of the first records is an event of Copilot's."""
    return any(_is_event(record) for record in head.records)


def _is_event(record: dict[str, JSON]) -> bool:
    match record:
        case {"type": str(kind), "data": dict(), "id": str(), "timestamp": str()}:
            return kind.startswith(_FAMILIES) or kind == "abort"
    return False


def decode(source: Source) -> Iterator[Event]:
    """One rollout per agent; see the module's docstring for the rules."""
    return _Session(source).events()


@dataclass
class _Agent:
    """What must be remembered of one agent: the main one, whose key is empty, or a sub-agent.

    `held` are prompts whose system prompt may yet come, `systems` the prompts it was given, by role and name,
    those in `fresh` not said yet.
    """

    key: str
    held: list[Said] = field(default_factory=list)
    systems: dict[tuple[JSON, JSON], str] = field(default_factory=dict)
    fresh: set[tuple[JSON, JSON]] = field(default_factory=set)
    is_compacted: bool = False
    is_answering: bool = False
    is_marked: bool = False
    chunk: str | int | None = None
    model: str | None = None
    completed: bool | None = None
    calls: int = 0
    outputs: dict[str | int, int] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


class _Session:
    """What must be remembered between the events of one log."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.agents: dict[str, _Agent] = {}
        self.agent = _Agent("")
        self.values: dict[str, JSON] = {}
        self.assets: dict[str, Media] = {}
        self.skills: dict[str, str] = {}
        self.shutdown: JSON = None
        self.number = 0

    def events(self) -> Iterator[Event]:
        handlers = {
            "session.start": self._start,
            "session.resume": self._resume,
            "session.model_change": self._model_change,
            "session.error": self._error,
            "session.truncation": self._truncation,
            "session.compaction_complete": self._compaction,
            "session.context_cleared": self._cleared,
            "session.task_complete": self._task_complete,
            "session.usage_record": self._usage_record,
            "session.binary_asset": self._asset,
            "session.shutdown": self._shut_down,
            "system.message": self._system,
            "system.notification": self._notification,
            "user.message": self._user,
            "skill.invoked": self._skill,
            "skill.context_delivered_ref": self._skill_context,
            "assistant.turn_start": self._turn_start,
            "assistant.turn_end": self._turn_end,
            "assistant.usage": self._usage_record,
            "assistant.message": self._assistant,
            "tool.execution_complete": self._result,
            "tool.user_requested": self._user_requested,
            "abort": self._abort,
            "subagent.started": self._subagent,
            "subagent.completed": self._subagent,
            "subagent.failed": self._subagent,
        }
        for record in self.source.records():
            match record:
                case {"type": str(kind), "data": dict(data)}:
                    pass
                case _:
                    yield Skipped("record: of unknown shape")
                    continue
            if (handler := handlers.get(kind)) is None:
                yield Skipped(f"record: {kind[:60]}")
                continue
            yield from self._enter(record, kind, data)
            yield from handler(At(text_or_none(record.get("id")), text_or_none(record.get("timestamp"))), data)
        for agent in self.agents.values():
            yield Start(agent.key)
            self.agent = agent
            yield from self._flush()
            yield from self._closing()

    def _enter(self, record: dict[str, JSON], kind: str, data: dict[str, JSON]) -> Iterator[Event]:
        """Go to the agent that an event belongs to."""
        key = record.get("agentId") or data.get("parentToolCallId")
        if key is None and kind.startswith("subagent."):
            key = data.get("toolCallId")
        key = key if isinstance(key, str) else ""
        if key != self.agent.key or not self.agents:
            self.agent = self.agents.setdefault(key, _Agent(key))
            yield Start(key)

    def _flush(self) -> Iterator[Event]:
        """What was held back: system prompts first, and again at the head of a new context."""
        agent = self.agent
        if not agent.held and not agent.fresh and not agent.is_compacted:
            return
        stamp = agent.held[0].at.timestamp if agent.held else None
        for key, text in agent.systems.items():
            if key in agent.fresh or agent.is_compacted:
                yield Said(At(timestamp=stamp, replayed=key not in agent.fresh), "system", text)
        yield from agent.held
        agent.held, agent.fresh, agent.is_compacted = [], set(), False

    def _closing(self) -> Iterator[Event]:
        """The facts of an agent, known when all was read."""
        agent = self.agent
        name = self.source.name
        folder = posixpath.basename(posixpath.dirname(self.source.path.replace("\\", "/")))
        session = self.values.get("trace_id") or (folder if name == "events.jsonl" and folder else self.source.stem)
        values = self.values | {"trace_id": session, "root_session_id": session, "completed": agent.completed}
        if agent.key:
            values |= {"trace_id": f"{session}:{agent.key}", "parent_trace_id": session, "agent_id": agent.key}
            values |= {"is_sidechain": True, "started_at": None}
        if not agent.calls:
            for turn, count in agent.outputs.items():
                yield Used(turn, {"output_tokens": count})
            if self.shutdown and not agent.key:
                agent.meta["usage_at_shutdown"] = self.shutdown
        meta = {key: dict(value) if isinstance(value, Counter) else value for key, value in agent.meta.items()}
        yield Facts(values, meta)

    # -- the session -----------------------------------------------------------------------------

    def _start(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        if "trace_id" in self.values:
            yield Skipped("record: session.start again", at.timestamp)
            return
        context = as_dict(data.get("context"))
        values = {
            "trace_id": text_or_none(data.get("sessionId")),
            "parent_trace_id": text_or_none(data.get("detachedFromSpawningParentSessionId")),
            "cwd": text_or_none(context.get("cwd")),
            "project_path": text_or_none(context.get("gitRoot")),
            "git_branch": text_or_none(context.get("branch")),
            "started_at": text_or_none(data.get("startTime")),
        }
        self.values |= {key: value for key, value in values.items() if value is not None}
        for place, names in (
            (data, ("copilotVersion", "vscodeVersion", "producer", "reasoningEffort")),
            (context, _GIT),
        ):
            self.agent.meta |= {name: place[name] for name in names if text_or_none(place.get(name))}
        yield from self._model(data.get("selectedModel"))

    def _resume(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        self.agent.meta["resumed"] = self.agent.meta.get("resumed", 0) + 1
        yield from self._model(data.get("selectedModel"))

    def _model_change(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._model(data.get("newModel"))

    def _model(self, model: JSON) -> Iterator[Event]:
        # It counts once it answers.
        self.agent.model = text_or_none(model) or self.agent.model
        yield from ()

    def _error(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        self.agent.completed = False
        self.agent.meta.setdefault("errors", Counter())[str(data.get("errorType"))[:60]] += 1
        yield Skipped("record: session.error", at.timestamp)

    def _truncation(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        self.agent.meta["truncations"] = self.agent.meta.get("truncations", 0) + 1
        yield Skipped("record: session.truncation", at.timestamp)

    def _task_complete(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        self.agent.completed = data.get("success") is not False
        yield Skipped("record: session.task_complete", at.timestamp)

    def _shut_down(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        metrics = as_dict(data.get("accountingSnapshot") or data).get("modelMetrics")
        self.shutdown = {
            model: as_dict(found).get("usage") for model, found in as_dict(metrics).items()
        } or self.shutdown
        yield Skipped("record: session.shutdown", at.timestamp)

    def _usage_record(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        if usage := _usage(as_dict(data.get("usage")) or data):
            self.agent.calls += 1
            yield Used(f"request {self.agent.calls}", usage)

    def _asset(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        id, medium = text_or_none(data.get("assetId")), self._medium(data)
        if id is not None and isinstance(medium, Media):
            self.assets[id] = medium
        else:
            yield Skipped("record: session.binary_asset of unknown shape", at.timestamp)

    def _subagent(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        names = ("agentName", "agentDisplayName", "toolCallId", "executionMode", "error", "totalTokens", "durationMs")
        self.agent.meta |= {name: data[name] for name in names if data.get(name)}
        if "durationMs" in data or "error" in data:
            self.agent.completed = "error" not in data
        yield from self._model(data.get("model"))

    # -- contexts --------------------------------------------------------------------------------

    def _compaction(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._flush()
        summary = text_or_none(data.get("summaryContent"))
        if data.get("success") is not True or summary is None:
            yield Skipped("record: compaction that failed", at.timestamp)
            return
        names = ("trigger", "preCompactionTokens", "postCompactionTokens", "customInstructions")
        yield Compacted({name: data[name] for name in names if data.get(name) is not None})
        if usage := _usage(as_dict(data.get("compactionTokensUsed"))):
            yield Used(f"compaction {at.id}", usage)
        self.agent.is_compacted = True
        self.agent.held.append(Said(at._replace(origin="summary"), "user", summary))

    def _cleared(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._flush()
        yield Compacted({"cleared": True})
        self.agent.is_compacted = True
        if text := text_or_none(data.get("initialMessage")):
            self.agent.held.append(Said(at, "user", text))

    # -- what the model was sent -----------------------------------------------------------------

    def _system(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        key, text = (str(data.get("role")), str(data.get("name"))), text_or_none(data.get("content"))
        if text is None or self.agent.systems.get(key) == text:
            yield Skipped("message: system prompt again" if text else "message: empty", at.timestamp)
            return
        self.agent.systems[key] = text
        self.agent.fresh.add(key)

    def _user(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        agent = self.agent
        agent.is_answering, agent.completed = False, None
        text = text_or_none(data.get("transformedContent")) or text_or_none(data.get("content"))
        media: list[Media] = []
        for attached in as_list(data.get("attachments")):
            # The others are written into the text.
            if isinstance(attached, dict) and attached.keys() & {"data", "assetId", "omittedReason"}:
                medium = self._medium(attached)
                if isinstance(medium, Media):
                    media.append(medium)
                else:
                    yield medium
        if text is None and not media:
            yield Skipped("message: empty", at.timestamp)
            return
        agent.held.append(Said(at._replace(origin=_origin(data)), "user", text or "", media))

    def _notification(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._flush()
        if text := text_or_none(data.get("content")):
            yield Said(at._replace(origin="notification"), "user", text)
        else:
            yield Skipped("message: empty", at.timestamp)

    def _skill(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        # Its text is sent where a message with its source or a reference to it says so.
        self.skills[f"skill-{data.get('name')}"] = text_or_none(data.get("content")) or ""
        yield Skipped("record: skill.invoked", at.timestamp)

    def _skill_context(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._flush()
        match data:
            case {"source": str(source), "prefix": str(before), "suffix": str(after)} if source in self.skills:
                yield Said(at._replace(origin="skill"), "user", before + self.skills[source] + after)
            case _:
                yield Skipped("message: skill that is not in the log", at.timestamp)

    # -- what it answered ------------------------------------------------------------------------

    def _turn_start(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        self.agent.is_answering = False
        yield from self._flush()

    def _turn_end(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        self.agent.is_answering = False
        yield from ()

    def _abort(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._flush()
        self.agent.completed = False
        # Stopped while it was written, an answer is not in the log.
        if self.agent.is_answering:
            yield Interrupted()
        self.agent.meta.setdefault("aborts", Counter())[str(data.get("reason"))[:60]] += 1

    def _assistant(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield from self._flush()
        agent = self.agent
        agent.is_answering = True
        self.number += 1
        id = text_or_none(data.get("messageId"))
        # A response may be split at its thoughts; parts with one id are one message, too.
        first = not data.get("chunkIndex")
        agent.chunk = turn = (id or self.number) if first or agent.chunk is None else agent.chunk
        phase = data.get("phase")
        at = At(id, at.timestamp, turn, phase=phase if phase in _PHASES else None)
        if agent.is_marked and not any(data.get(name) for name in _MARKS):
            at = at._replace(origin="synthetic", weight_reason="synthetic")
        else:
            agent.is_marked = agent.is_marked or bool(data.get("apiCallId"))
            yield from self._model(data.get("model"))
            if agent.model is not None:
                yield Facts({"model": agent.model})
        if isinstance(count := data.get("outputTokens"), int):
            agent.outputs[turn] = count
        said = text_or_none(data.get("content"))
        thought = text_or_none(data.get("reasoningText"))
        requests = as_list(data.get("toolRequests"))
        if thought is not None:
            yield Thought(at, thought)
        elif any(data.get(name) for name in ("reasoningOpaque", "encryptedContent", "reasoningBlocks")):
            yield Skipped("reasoning: encrypted", at.timestamp)
        if said is not None:
            yield Said(at, "assistant", said)
        for place, request in enumerate(requests):
            match request:
                case {"name": str(name)} if name:
                    given = self._arguments(request.get("arguments"), place)
                    yield Called(at, text_or_none(request.get("toolCallId")), name, given)
                case _:
                    yield Skipped("tool_call: without a name", at.timestamp)
        if said is None and thought is None and not requests:
            yield Skipped("message: empty answer", at.timestamp)

    def _arguments(self, value: JSON, place: int) -> dict[str, JSON] | str:
        if isinstance(value, dict) and not jsontext.is_exact(value):
            value = self.source.exact()["data"]["toolRequests"][place]["arguments"]
        return arguments(value)

    def _result(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        if data.get("isUserRequested") is True:
            yield Skipped("tool_result: of a call of the user's", at.timestamp)
            return
        success, call_id = data.get("success"), text_or_none(data.get("toolCallId"))
        result = as_dict(data.get("result"))
        media: list[Media] = []
        for found in as_list(result.get("binaryResultsForLlm")):
            medium = self._medium(found)
            if isinstance(medium, Media):
                media.append(medium)
            else:
                yield medium
        text = result.get("content", as_dict(data.get("error")).get("message"))
        if not isinstance(text, str):
            yield Skipped("tool_result: not in the log", at.timestamp)
            yield from (Skipped("media: of a result that is not in the log") for _ in media)
            return
        is_error = not success if isinstance(success, bool) else None
        yield Returned(At(timestamp=at.timestamp), call_id, text, media, is_error)

    def _user_requested(self, at: At, data: dict[str, JSON]) -> Iterator[Event]:
        yield Skipped("tool_call: of the user's", at.timestamp)

    def _medium(self, found: JSON) -> Media | Skipped:
        """What a reference to bytes, or the bytes themselves, stand for."""
        match found:
            case {"assetId": str(id)} if id in self.assets:
                return self.assets[id]
            case {"data": str(data), "mimeType": str(mime)}:
                family = mime.partition("/")[0]
                kind = family if family in ("image", "audio") else "document"
                return decoded(kind, mime, data) or Skipped("media: not base64")
            case {"omittedReason": str(reason)}:
                return Skipped(f"media: left out by the log ({reason[:40]})")
        return Skipped("media: not in the log")


_GIT = ("repository", "repositoryHost", "headCommit", "baseCommit")


def _origin(data: dict[str, JSON]) -> str | None:
    """Who wrote a user message, as its source and delivery say."""
    source = text_or_none(data.get("source"))
    if data.get("isAutopilotContinuation") is True:
        return "reminder"
    if source is None or source == "user":
        return "queued" if data.get("delivery") in ("queued", "steering") else None
    if source.startswith("agent-"):
        return "agent_message"
    return "skill" if source.startswith("skill-") else "reminder"


def _usage(found: dict[str, JSON]) -> dict[str, JSON]:
    counts = {ours: found.get(theirs) for theirs, ours in _USAGE.items()}
    return {name: n for name, n in counts.items() if isinstance(n, int) and 0 <= n < 2**63}
