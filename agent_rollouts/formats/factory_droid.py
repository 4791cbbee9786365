r"""Factory Droid: `~/.factory/sessions/<cwd with dashes>/<session>.jsonl`, one record a line.

    {"type":"session_start","id":"439a…","title":"Fix it","owner":"me","version":2,"cwd":"/work","hostId":"f154…"}
    {"type":"message","id":"u1","timestamp":"…Z","message":{"role":"user","content":[{"type":"text","text":"Fix it"}]}}
    {"type":"message","id":"a1","parentId":"u1","timestamp":"…Z","message":{"role":"assistant","content":[{"type":"thinking","thinking":"…"},{"type":"tool_use","id":"t1","name":"Read","input":{…}}],"modelId":"…"}}

Beside it lies `<session>.settings.json` with the model and the tokens of the whole session. Droid's program is
closed; the rules come from sessions that versions 0.213 and 0.226 wrote, as published with two other readers
(inference-sh/agentprotocol, marmutapp/superbased-observer), and from teich 0.3.6.

* Messages are in the order in which the model is sent them; `parentId` adds nothing to that.
* `visibility` is `llm_only` for what Droid slips in, and `user_only` for hooks and notices that the model never sees.
* After a `compaction_state` the context is its summary, and what came after its `anchorMessage`, if it has one.
  `/compress` begins a new session, whose `session_start` names its `parent`, with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.events import JSON, At, Compacted, Event, Facts, Said, Skipped, Thought
from agent_rollouts.formats._chat import message_events, text_or_none
from agent_rollouts.source import Head, Source

_USAGE = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cacheReadTokens": "cache_read_tokens",
    "cacheCreationTokens": "cache_write_tokens",
    "thinkingTokens": "reasoning_tokens",
}
_PHASES = {"commentary": "commentary", "final_answer": "final_answer"}
_SETTINGS = ("reasoningEffort", "autonomyMode", "interactionMode", "providerLock")


def claims(head: Head) -> bool:
    """A header `session_start` with id and title, or a record that only Droid writes."""
    for record in head.records:
        match record:
            case {"type": "session_start", "id": str(), "title": _}:
                return True
            case {"type": "compaction_state", "summaryText": str()} | {"type": "agent_turn_outcome", "reason": _}:
                return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The one session of a file."""
    return _Session(source).events()


class _Session:
    """What must be remembered between the records of a session."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes: dict[str, int] = {}
        self.count = 0
        self.model: str | None = None
        self.completed: bool | None = None

    def events(self) -> Iterator[Event]:
        for record in self.source.records():
            stamp = text_or_none(record.get("timestamp"))
            match record:
                case {"type": "session_start"}:
                    yield self.header(record)
                case {"type": "message", "message": dict()}:
                    yield from self.message(record, record["message"], stamp)
                case {"type": "compaction_state", "summaryText": str(summary)}:
                    yield from self.compaction(record, summary, stamp)
                case {"type": "agent_turn_outcome", "reason": str(reason)}:
                    self.completed = {"completed": True, "error": False}.get(reason)
                case {"type": "todo_state"}:
                    yield Skipped("record: todo_state, for the screen", stamp)
                case _:
                    yield Skipped("record: unknown", stamp)
        yield Facts({"completed": self.completed})
        yield from self.settings()

    def header(self, record: dict[str, JSON]) -> Facts:
        id, caller = text_or_none(record.get("id")), text_or_none(record.get("callingSessionId"))
        parent = caller or text_or_none(record.get("parent"))
        values: dict[str, JSON] = {
            "trace_id": id,
            "root_session_id": parent or id,
            "parent_trace_id": parent,
            "agent_id": id if caller else None,
            "is_sidechain": caller is not None,
            "cwd": record.get("cwd"),
        }
        title = record.get("sessionTitle") or record.get("title")
        return Facts(values, {"title": title, "spawned_by_call": record.get("callingToolUseId")})

    def settings(self) -> Iterator[Event]:
        """The facts that only stand in the file of settings."""
        settings = self.source.sibling(f"{self.source.stem}.settings.json")
        if not isinstance(settings, dict):
            return
        if self.model is None:
            yield Facts({"model": settings.get("model")})
        tokens = settings.get("tokenUsage")
        usage = {name: tokens.get(key) for key, name in _USAGE.items()} if isinstance(tokens, dict) else {}
        counts = {name: count for name, count in usage.items() if type(count) is int and abs(count) < 2**63}
        yield Facts({"usage": counts or None}, {key: settings.get(key) for key in _SETTINGS})

    def message(self, record: dict[str, JSON], message: dict[str, JSON], stamp: str | None) -> Iterator[Event]:
        id = text_or_none(record.get("id"))
        visibility = message.get("visibility") or record.get("visibility")
        if message.get("hookEventName"):
            yield Skipped("record: hook, for the screen", stamp)
            return
        if visibility == "user_only":
            yield from _unseen(message, stamp)
            return
        if id is not None and id in self.nodes:
            yield Skipped("id: repeated", stamp)
            id = None
        self.count += 1
        if id is not None:
            self.nodes[id] = self.count
        at = At(id, stamp, self.count, self.count, "reminder" if visibility == "llm_only" else None)
        if message.get("role") == "assistant":
            model = text_or_none(message.get("modelId")) or text_or_none(message.get("model"))
            if model and model != self.model:
                self.model = model
                yield Facts({"model": model})
            # Blocks of thinking have it too, where there are any.
            thought = message.get("chatCompletionReasoningContent") or message.get("openaiReasoningSummary")
            message = {**message, "reasoning_content": thought}
            at = at._replace(phase=_PHASES.get(str(message.get("openaiPhase"))))
        elif at.origin is None:
            self.completed = None
            message, reminders = _without_reminders(message)
            yield from (Said(at._replace(id=None, origin="reminder"), "user", text) for text in reminders)
            if reminders and not message["content"]:
                return
        thinks = False
        for event in message_events(message, at):
            thinks = thinks or type(event) is Thought
            yield event
        if message.get("openaiEncryptedContent") and not thinks:
            yield Skipped("reasoning: encrypted", stamp)

    def compaction(self, record: dict[str, JSON], summary: str, stamp: str | None) -> Iterator[Event]:
        at = At(text_or_none(record.get("id")), stamp, origin="summary")
        context: list[Event] = [Said(at, "user", summary)]
        if system := text_or_none(record.get("systemInfoText")):
            context.append(Said(At(timestamp=stamp, origin="environment"), "user", system))
        note = {key: record.get(key) for key in ("summaryKind", "summaryTokens", "removedCount") if record.get(key)}
        if not self.count:
            yield Facts(meta={"continues_after": note})
            yield from context
            return
        anchor = record.get("anchorMessage")
        last = self.nodes.get(str(anchor.get("id")), self.count) if isinstance(anchor, dict) else self.count
        yield Compacted({"timestamp": stamp, **note}, context, frozenset(range(last + 1, self.count + 1)))


def _unseen(message: dict[str, JSON], stamp: str | None) -> Iterator[Event]:
    """A message that only the user was shown, and what else it holds."""
    yield Skipped("message: for the user only", stamp)
    kinds = {"tool_use": "tool_call", "tool_result": "tool_result", "thinking": "reasoning", "image": "media"}
    content = message.get("content")
    for part in content if isinstance(content, list) else []:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in kinds:
            yield Skipped(f"{kinds[kind]}: for the user only", stamp)


def _without_reminders(message: dict[str, JSON]) -> tuple[dict[str, JSON], list[str]]:
    """A user message and the parts of it that Droid slipped in."""
    content = message.get("content")
    if not isinstance(content, list):
        return message, []
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    slipped = [isinstance(text, str) and _is_reminder(text) for text in texts]
    kept = [part for part, is_slipped in zip(content, slipped, strict=True) if not is_slipped]
    reminders = [str(text) for text, is_slipped in zip(texts, slipped, strict=True) if is_slipped]
    return {**message, "content": kept}, reminders


def _is_reminder(text: str) -> bool:
    return text.lstrip().startswith("<system-reminder>") and text.rstrip().endswith("</system-reminder>")
