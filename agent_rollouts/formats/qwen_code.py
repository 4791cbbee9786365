r"""Qwen Code: `~/.qwen/projects/<cwd with dashes>/chats/<session>.jsonl`, one record a line.

    {"uuid":"u1","parentUuid":null,"sessionId":"S","timestamp":"…Z","type":"user","cwd":"/work","version":"0.15.10","gitBranch":"main","message":{"role":"user","parts":[{"text":"Fix it"}]}}
    {"uuid":"a1","parentUuid":"u1",…,"type":"assistant","model":"qwen3-…","message":{"role":"model","parts":[{"text":"…","thought":true},{"functionCall":{…}}]},"usageMetadata":{…}}
    {"uuid":"r1","parentUuid":"a1",…,"type":"tool_result","message":{"role":"user","parts":[{"functionResponse":{…}}]},"toolCallResult":{"callId":"…","status":"success"}}

The records look like Claude Code's, the messages are the Gemini API's. Sub-agents in the background lie in
`subagents/<session>/agent-<id>.jsonl`, with `agent-<id>.meta.json`, and write text and calls of one answer apart.

* The line from the last record up to the root counts. A rewind goes on from an earlier record, so that
  what it withdraws lies on a branch. Records with one uuid are one message.
* A fork copies the records of its parent, with `forkedFrom`.
* A system record is for the screen, but for `chat_compression`, whose `compressedHistory` is what the model
  is sent from now on, and `agent_bootstrap`, what a forked agent begins with.

Source of the rules: `ChatRecordingService`, `SessionService` and `attachJsonlTranscriptWriter` of
@qwen-code/qwen-code 0.15.10 and 0.24.4.
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent_rollouts.events import JSON, At, Branched, Compacted, Event, Facts, Said, Skipped, Used
from agent_rollouts.formats._chat import text_or_none
from agent_rollouts.formats._gemini import Seen, has, message_events, parts_of, text_of
from agent_rollouts.source import Head, Source

_USAGE = {
    "promptTokenCount": "input_tokens",
    "candidatesTokenCount": "output_tokens",
    "cachedContentTokenCount": "cache_read_tokens",
    "thoughtsTokenCount": "reasoning_tokens",
}
_FAILED = {"success": False, "error": True, "cancelled": True}
_MESSAGES = ("user", "assistant", "tool_result")
_ORIGINS = {
    "notification": "notification",
    "cron": "queued",
    "mid_turn_user_message": "queued",
    "goal_runtime": "reminder",
}
# What the program says in the user's place at the start of a session.
_ENVIRONMENT = "This is the Qwen Code. "
_META_KEYS = ("agentType", "description", "status", "parentAgentId", "subagentName")


def claims(head: Head) -> bool:
    """Records with uuid and session, and either a message of `parts` or a system record's `systemPayload`."""
    for record in head.records:
        match record:
            case {"uuid": str(), "sessionId": str(), "type": "system", "systemPayload": _}:
                return True
            case {"sessionId": str(), "type": str(kind), "message": {"parts": list()}} if kind in _MESSAGES:
                return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The one session of a file, or the one agent."""
    return _Session(source).events()


class _Session:
    """The tree of a file, and what was said in it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes: dict[str, int] = {}
        self.parents: list[int] = []
        self.seen = Seen()
        self.turn: str | None = None
        self.model: str | None = None
        self.is_agent = False
        self.known = False

    def events(self) -> Iterator[Event]:
        for record in self.source.records():
            kind = record.get("type")
            node = self.place(record)
            if not self.known and isinstance(record.get("sessionId"), str):
                self.known = True
                yield self.facts(record)
            if kind == "system":
                self.turn = None
                yield from self.system(record, node)
            elif kind in _MESSAGES:
                yield from self.message(record, node)
            else:
                yield Skipped("record: unknown", text_or_none(record.get("timestamp")))
        yield self.branches()

    def place(self, record: dict[str, JSON]) -> int:
        """The node of a record. One whose parent was lost goes on from the record before it."""
        uuid, parent = record.get("uuid"), record.get("parentUuid")
        last = len(self.parents) - 1
        if not isinstance(uuid, str):
            uuid = f"record {last}"
        if uuid not in self.nodes:
            self.nodes[uuid] = len(self.parents)
            is_root = parent is None and "parentUuid" in record
            self.parents.append(-1 if is_root else self.nodes.get(parent, last) if isinstance(parent, str) else last)
        return self.nodes[uuid]

    def branches(self) -> Branched:
        everything = frozenset(range(len(self.parents)))

        def hidden(leaf: int) -> frozenset[int]:
            line = set()
            while leaf >= 0 and leaf not in line:
                line.add(leaf)
                leaf = self.parents[leaf]
            return everything - line

        leaves = sorted(everything - {*self.parents})
        return Branched(hidden(len(self.parents) - 1), [hidden(leaf) for leaf in leaves[:-1]])

    def facts(self, record: dict[str, JSON]) -> Facts:
        session, agent = record.get("sessionId"), text_or_none(record.get("agentId"))
        self.is_agent = record.get("isSidechain") is True
        fork = record.get("forkedFrom")
        parent = text_or_none(fork.get("sessionId")) if isinstance(fork, dict) else None
        about = self.source.sibling(f"{self.source.stem}.meta.json") if self.is_agent else None
        values = {
            "trace_id": f"{session}:{agent}" if self.is_agent and agent else session,
            "root_session_id": parent or session,
            "parent_trace_id": session if self.is_agent else parent,
            "agent_id": agent,
            "is_sidechain": self.is_agent,
            "cwd": record.get("cwd"),
            "git_branch": record.get("gitBranch"),
        }
        meta = {key: about.get(key) for key in _META_KEYS} if isinstance(about, dict) else {}
        return Facts(values, {"version": record.get("version"), "agentName": record.get("agentName"), **meta})

    # -- messages --------------------------------------------------------------------------------

    def message(self, record: dict[str, JSON], node: int) -> Iterator[Event]:
        kind, message = record["type"], record.get("message")
        stamp = text_or_none(record.get("timestamp"))
        parts = parts_of(message.get("parts")) if isinstance(message, dict) else []
        self.seen.add(parts)
        uuid = text_or_none(record.get("uuid"))
        reason = "copied_context" if isinstance(record.get("forkedFrom"), dict) else None
        if kind == "assistant":
            yield from self.answer(record, parts, At(uuid, stamp, None, node, None, reason))
            return
        self.turn = None
        at = At(uuid, stamp, node=node, origin=_origin(record, parts), weight_reason=reason)
        if message is None:
            yield Skipped("record: without a message", stamp)
            return
        result = record.get("toolCallResult")
        status = result.get("status") if isinstance(result, dict) else None
        failed = _FAILED.get(status) if isinstance(status, str) else None
        at = at._replace(origin=None) if has(parts, "functionResponse") else at
        yield from message_events(parts, "user", at, is_error=failed)

    def answer(self, record: dict[str, JSON], parts: list[JSON], at: At) -> Iterator[Event]:
        # The parts of an agent's answer are records of their own.
        self.turn = self.turn if self.is_agent and self.turn else at.id or f"record {at.node}"
        at = at._replace(turn=self.turn)
        model, usage = record.get("model"), record.get("usageMetadata")
        if isinstance(model, str) and model and model != self.model:
            self.model = model
            yield Facts({"model": model})
        if isinstance(usage, dict) and at.weight_reason is None:
            yield Used(self.turn, {name: usage[key] for key, name in _USAGE.items() if key in usage})
        yield from message_events(parts, "assistant", at)

    # -- system records --------------------------------------------------------------------------

    def system(self, record: dict[str, JSON], node: int) -> Iterator[Event]:
        stamp = text_or_none(record.get("timestamp"))
        match record:
            case {"subtype": "chat_compression", "systemPayload": {"compressedHistory": list(history)}}:
                info = record["systemPayload"].get("info")
                counts = {key: n for key, n in info.items() if isinstance(n, int)} if isinstance(info, dict) else {}
                yield Compacted({"timestamp": stamp, **counts}, list(self.compressed(history, node)))
            case {"subtype": "agent_bootstrap", "systemPayload": dict()}:
                yield from self.bootstrap(record["systemPayload"], node)
            case {"subtype": "custom_title", "systemPayload": {"customTitle": str(title)}}:
                yield Facts(meta={"title": title}, replace=True)
            case {"subtype": str()}:
                yield Skipped("record: system, for the screen", stamp)
            case _:
                yield Skipped("record: unknown", stamp)

    def compressed(self, history: Sequence[JSON], node: int) -> Iterator[Event]:
        """The context after a compression: a summary with the program's own answer to it, and kept messages."""
        found: str | None = None
        for place, content in enumerate(history):
            content = content if isinstance(content, dict) else {}
            parts = parts_of(content.get("parts"))
            is_answer = content.get("role") == "model"
            at = At(turn=f"compression {node}.{place}", node=node)
            if self.seen.has(parts):
                at = at._replace(replayed=True)
            elif is_answer and found in ("environment", "summary"):
                at, found = at._replace(origin="synthetic", weight_reason="synthetic"), f"{found} answered"
            elif text_of(parts).startswith(_ENVIRONMENT):
                at, found = at._replace(origin="environment"), "environment"
            elif not is_answer and (found is None or found.startswith("environment")):
                at, found = at._replace(origin="summary"), "summary"
            yield from message_events(parts, "assistant" if is_answer else "user", at)

    def bootstrap(self, payload: dict[str, JSON], node: int) -> Iterator[Event]:
        """What a forked agent begins with: the instructions, the tools, and the conversation of its parent."""
        system = payload.get("systemInstruction")
        text = text_of(parts_of(system.get("parts") if isinstance(system, dict) else system))
        if text:
            yield Said(At(node=node), "system", text)
        if tools := list(_tools(payload.get("tools"))):
            yield Facts({"tools": tools})
        for place, content in enumerate(_dicts(payload.get("history"))):
            parts = parts_of(content.get("parts"))
            self.seen.add(parts)
            role = "assistant" if content.get("role") == "model" else "user"
            at = At(turn=f"bootstrap {place}", node=node, weight_reason="copied_context")
            yield from message_events(parts, role, at)


def _dicts(value: JSON) -> list[dict[str, JSON]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _tools(tools: JSON) -> Iterator[dict[str, JSON]]:
    """Function declarations, some of them only named, as schemas."""
    for tool in tools if isinstance(tools, list) else []:
        match tool:
            case {"functionDeclarations": list(inner)}:
                yield from _tools(inner)
            case str(name):
                yield {"type": "function", "function": {"name": name}}
            case {"name": str(name), **more}:
                said = {"description": more.get("description")}
                said["parameters"] = more.get("parametersJsonSchema") or more.get("parameters")
                told = {key: value for key, value in said.items() if value is not None}
                yield {"type": "function", "function": {"name": name, **told}}


def _origin(record: dict[str, JSON], parts: Sequence[JSON]) -> str | None:
    if record.get("externalInputKind"):
        return "agent_message"
    subtype = record.get("subtype")
    if isinstance(subtype, str) and subtype in _ORIGINS:
        return _ORIGINS[subtype]
    text = text_of(parts).strip()
    if text.startswith("<system-reminder>") and text.endswith("</system-reminder>"):
        return "reminder"
    return "environment" if text.startswith(_ENVIRONMENT) else None
