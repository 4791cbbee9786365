"""Sessions of Pi and of the agents that grew out of it: a tree of entries, one a line.

    {"type":"session","version":3,"id":"0199…","timestamp":"…Z","cwd":"/work"}
    {"type":"message","id":"a1b2c3d4","parentId":null,"timestamp":"…Z","message":{"role":"user","content":"Fix it"}}
    {"type":"message","id":"b1…","parentId":"a1…","timestamp":"…Z","message":{"role":"assistant","content":[
        {"type":"thinking","thinking":"…"},{"type":"toolCall","id":"c1","name":"read","arguments":{"path":"a"}}],
        "provider":"anthropic","model":"…","usage":{"input":9,"output":2,"cost":{"total":0.01}},"stopReason":"toolUse"}}
    {"type":"message",…,"message":{"role":"toolResult","toolCallId":"c1","toolName":"read","content":[…],"isError":false}}

* The conversation is the path from the last entry up to its root; an entry whose parent is not there is a
  root. Files of version 1 have no ids: every entry follows the one before it.
* `compaction` puts its `systemMessage` and its summary in place of all before `firstKeptEntryId`; only the
  last one on the path counts. `context_edit` changes what one entry says to the model, or drops it.
* `custom_message` is part of the context whether it is displayed or not, `custom` never is. `!command` of the
  user (`bashExecution`) is told to the model, `!!command` (`excludeFromContext`) is not.
* `system` messages patch the system prompt section by section, and add and remove tools.

Source of the rules: pi-coding-agent 0.73 and 1.5.2 (`core/session-manager`, `core/messages`; pi-ai
`utils/transcript`), whose own reading of 18 sessions the tests hold ours against.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

from agent_rollouts import jsontext
from agent_rollouts.events import (
    JSON,
    At,
    Branched,
    Called,
    Compacted,
    Edited,
    Event,
    Facts,
    Media,
    Returned,
    Said,
    Skipped,
    Thought,
    Used,
)
from agent_rollouts.formats import _chat
from agent_rollouts.formats._chat import arguments, text_or_none
from agent_rollouts.source import Head, Source
from agent_rollouts.transcript import is_earlier

PI, OPENCLAW, OH_MY_PI = "pi_coding_agent", "openclaw", "oh_my_pi"

# How much of a file is looked through for what only a descendant of Pi writes.
_LOOKED_AT = 64
_OPENCLAW_FOLDERS = (".openclaw", ".clawdbot", ".moltbot")
_OH_MY_PI_ENTRIES = frozenset({
    "title", "title_change", "session_init", "mode_change", "service_tier_change", "ttsr_injection", "model_usage",
    "credential_pin", "reset_boundary",
})  # fmt: skip
_OH_MY_PI_ROLES = frozenset({"developer", "pythonExecution", "fileMention"})
_ENTRIES = frozenset({"model_change", "thinking_level_change", "compaction", "branch_summary", "custom_message"})
_ROLES = frozenset({"toolResult", "bashExecution", "hookMessage"})

_USAGE = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cacheRead": "cache_read_tokens",
    "cacheWrite": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}
_WEIGHTLESS = {"error": "api_error", "aborted": "interrupted", "length": "truncated"}

# What is known of an entry, one bit each.
_SYSTEM, _BELOW_SYSTEM, _SAYS, _EDITABLE = 1, 2, 4, 8


def family(head: Head) -> str | None:
    """The format that this file is of: Pi's own where nothing tells of a descendant, None where it is of none."""
    if not any(_is_ours(record) for record in head.records):
        return None
    more = Head(head.name, head.data)
    more.limit = _LOOKED_AT
    found = None
    for record in more.records:
        if _is_foreign(record):
            return None
        if _is_ours(record) and record.get("type") != "title":
            found = found or PI
        if found != OH_MY_PI and _is_openclaw(record):
            found = OPENCLAW
        elif _is_oh_my_pi(record):
            found = OH_MY_PI
    # A title alone is no session.
    return found if any(record.get("type") != "title" for record in more.records) else None


def _is_ours(record: dict[str, JSON]) -> bool:
    match record:
        case {"type": "session", "id": str(), "cwd": str()} | {"type": "session", "id": str(), "version": int()}:
            return "payload" not in record and "data" not in record
        case {"type": "title", "v": 1, "title": str()}:
            return True
        case {"type": str(kind), "id": str(), "parentId": str() | None, "timestamp": str()} if kind in _ENTRIES:
            return True
        case {"type": "message", "id": str(), "parentId": str() | None, "message": {"role": str(role), **message}}:
            return role in _ROLES or (role == "assistant" and "provider" in message and "stopReason" in message)
    return False


def _is_foreign(record: dict[str, JSON]) -> bool:
    """Whether this is of the Session Trace Simple Format, which looks much the same."""
    match record:
        case {"type": "session", "harness": _}:
            return "cwd" not in record and "version" not in record
        case {"type": "message", "message": {"role": "tool"} | {"toolCalls": _}}:
            return True
    return False


def _is_openclaw(record: dict[str, JSON]) -> bool:
    match record:
        case {"type": "session", "cwd": str(cwd)}:
            folders = cwd.replace("\\", "/").split("/")
            return any(folder.startswith(_OPENCLAW_FOLDERS) or folder == "clawd" for folder in folders)
        case {"type": "custom" | "custom_message", "customType": str(kind)}:
            return kind.startswith("openclaw") or kind == "model-snapshot"
        case {"type": "message", "message": {"provider": "openclaw"} | {"__openclaw": _}}:
            return True
    return False


def _is_oh_my_pi(record: dict[str, JSON]) -> bool:
    match record:
        case {"type": str(kind)} if kind in _OH_MY_PI_ENTRIES:
            return True
        case {"type": "session", "titleSource": _} | {"type": "session", "additionalDirectories": _}:
            return True
        case {"type": "model_change", "model": str(), "id": str()} | {"type": "thinking_level_change", "configured": _}:
            return True
        case {"type": "message", "message": {"role": str(role)}}:
            return role in _OH_MY_PI_ROLES
    return False


class Session:
    """What must be remembered between the entries of one session."""

    compaction_text = (
        "The conversation history before this point was compacted into the following summary:\n\n<summary>\n",
        "\n</summary>",
    )
    branch_text = (
        "The following is a summary of a branch that this conversation came back from:\n\n<summary>\n",
        "</summary>",
    )
    drops_failures = False
    """Whether answers that failed are left out of what the model is sent next."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.id: str | None = None
        self.has_header = False
        self.is_linear = False
        self.nodes: dict[str, int] = {}
        self.parents = array("i")
        self.flags = bytearray()
        self.leaf = -1
        self.first: str | float | None = None
        self.last: str | float | None = None
        self.stamp: str | float | None = None
        self.models: dict[int, str] = {}
        # Entry, its system message, and whether that says all anew.
        self.systems: list[tuple[int, dict[str, JSON], bool]] = []
        self.name: str | None = None
        self.labels: dict[str, str] = {}
        self.thinking_levels: dict[int, str] = {}
        self.providers: dict[str, None] = {}
        self.stop_reasons: Counter[str] = Counter()
        self.custom_types: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.nested: dict[str, JSON] = {}

    def events(self) -> Iterator[Event]:
        """The events of the file; see the module's docstring for the rules."""
        for record in self.source.records():
            if record.get("type") in ("session", "title"):
                yield from self.header(record)
                continue
            node = self._place(record)
            yield from self.entry(record, node)
        yield from self._finish()

    # -- entries ---------------------------------------------------------------------------------

    def header(self, header: dict[str, JSON]) -> Iterable[Event]:
        """What the first line says of the session."""
        if header["type"] == "title":
            self.name = text_or_none(header.get("title")) or self.name
            return
        if self.has_header:
            yield Skipped("record: session again")
            return
        self.has_header = True
        self.id = text_or_none(header.get("id"))
        version = header.get("version", 1)
        self.is_linear = type(version) is int and version < 2
        self.name = text_or_none(header.get("title")) or self.name
        if level := text_or_none(header.get("thinkingLevel")):
            self.thinking_levels[-1] = level
        path = text_or_none(header.get("parentSession")) or text_or_none(header.get("branchedFrom"))
        parent = _id_of_path(path) if path else None
        values = {
            "trace_id": self.id,
            "root_session_id": parent or self.id,
            "parent_trace_id": parent,
            "cwd": text_or_none(header.get("cwd")),
        }
        meta = {"version": version, "parent_session": path, "harness": header.get("harness")}
        yield Facts(values, meta)

    def _place(self, record: dict[str, JSON]) -> int:
        """The node of an entry, which becomes the leaf."""
        node = len(self.parents)
        id = record.get("id")
        above = self.leaf
        # A program that knows nothing of the tree writes no parent: it means the entry before.
        if not self.is_linear and "parentId" in record:
            parent = record["parentId"]
            above = self.nodes.get(parent, -1) if type(parent) is str else -1
            if above < 0 and parent:
                self.counts["missing_parents"] += 1
        if type(id) is str:
            self.nodes[id] = node
        self.parents.append(above)
        self.flags.append(self.flags[above] & _BELOW_SYSTEM if above >= 0 else 0)
        if record.get("appendMode") != "side":
            self.leaf = node
        message = record.get("message")
        stamp = record.get("timestamp")
        if stamp is None and type(message) is dict:
            stamp = message.get("timestamp")
        self.stamp = stamp if type(stamp) in (str, int, float) else None
        self._see(self.stamp)
        return node

    def _see(self, stamp: str | float | None) -> None:
        last = self.last
        plain = type(stamp) is type(last) is str and len(stamp) == len(last) == 24
        # UTC with milliseconds, both: text order is time order.
        if plain and stamp[-1] == last[-1] == "Z" and last <= stamp:  # type: ignore[index,operator]
            self.last = stamp
            return
        # What is no instant lies before none.
        if stamp is None or not is_earlier(stamp, ""):
            return
        if self.first is None or self.last is None:
            self.first = self.last = stamp
        elif is_earlier(self.last, stamp):
            self.last = stamp
        elif is_earlier(stamp, self.first):
            self.first = stamp

    def entry(self, record: dict[str, JSON], node: int) -> Iterable[Event]:
        """The events of one entry."""
        match record:
            case {"type": "message", "message": dict(message)}:
                yield from self.message(message, record, node)
            case {"type": "custom_message"}:
                yield from self._custom(record, record, node, "reminder")
            case {"type": "branch_summary", "summary": str(summary)} if summary:
                yield from self._summary(self.branch_text, summary, record, node)
                yield from self._used(record, node)
            case {"type": "compaction", "summary": str(summary)}:
                yield from self._compaction(record, summary, node)
            case {"type": "reset"}:
                yield self.compacted(record, node, ())
            case {"type": "context_edit"}:
                yield from self._context_edit(record, node)
            case {"type": "usage" | "model_usage"}:
                yield from self._used(record, node)
            case {"type": "model_change"}:
                pass  # the answers name the model themselves
            case {"type": "thinking_level_change", "thinkingLevel": level}:
                if isinstance(level, str) and level:
                    self.thinking_levels[node] = level
            case {"type": "label", "targetId": str(target), **more}:
                self.labels.pop(target, None)
                if label := text_or_none(more.get("label")):
                    self.labels[target] = label
            case {"type": "session_info", **more}:
                self.name = text_or_none(more.get("name"))
            case {"type": "leaf", "targetId": str() | None as target}:
                self.leaf = self.nodes.get(target, -1) if target else -1
                if type(record.get("id")) is str:
                    self.nodes[record["id"]] = self.leaf
            case {"type": "custom", **more}:
                self.custom_types[str(more.get("customType"))] += 1
                yield Skipped("record: custom", self.stamp)
            case {"type": str(kind)}:
                yield Skipped(f"record: {kind}", self.stamp)
            case _:
                yield Skipped("record: without a type", self.stamp)

    def at(self, record: dict[str, JSON], node: int, origin: str | None = None, reason: str | None = None) -> At:
        """Where an entry's message comes from."""
        return At(text_or_none(record.get("id")), self.stamp, node, node, origin, reason)

    def message(self, message: dict[str, JSON], record: dict[str, JSON], node: int) -> Iterable[Event]:
        """The events of one message, as Pi's `convertToLlm` shows it to the model."""
        match message.get("role"):
            case "user":
                at = self.at(record, node)
                text, media, more = self.content(message.get("content"), at)
                # What `/skill:name` becomes: the skill's text, and what the user added.
                origin = "custom_command" if text.startswith('<skill name="') else None
                yield from self.said(at._replace(origin=origin), "user", text, media, more)
            case "assistant":
                yield from self._assistant(message, record, node)
            case "toolResult":
                yield from self._result(message, record, node)
            case "bashExecution":
                yield from self.aside(message, record, node, _bash_text(message), "bash")
            case "custom":
                yield from self._custom(message, record, node, "reminder")
            case "hookMessage":
                yield from self._custom(message, record, node, "hook")
            case "system":
                yield from self._system(message, record, node)
            case "branchSummary" | "compactionSummary" as role:
                frame = self.branch_text if role == "branchSummary" else self.compaction_text
                yield from self._summary(frame, message.get("summary"), record, node)
            case _:
                yield Skipped("message: unknown role", self.stamp)

    def content(self, value: JSON, at: At) -> tuple[str, list[Media], list[Event]]:
        """Text and media of a content, and what else there is in it."""
        return _chat.content(value, at)

    def said(self, at: At, role: str, text: str, media: list[Media], more: list[Event]) -> Iterable[Event]:
        """A message of another speaker than the model, which an edit may change."""
        self.flags[at.node] |= _SAYS | _EDITABLE
        yield Said(at, role, text, media)
        yield from more

    def aside(
        self, message: dict[str, JSON], record: dict[str, JSON], node: int, text: str, origin: str
    ) -> Iterable[Event]:
        """What the user ran beside the agent, unless it was kept from the model."""
        if message.get("excludeFromContext"):
            yield Skipped("message: kept from the model", self.stamp)
            return
        self.flags[node] |= _SAYS
        yield Said(self.at(record, node, origin), "user", text)

    def _custom(self, said: dict[str, JSON], record: dict[str, JSON], node: int, origin: str) -> Iterable[Event]:
        at = self.at(record, node, origin)
        yield from self.said(at, "user", *self.content(said.get("content"), at))

    def _summary(self, frame: tuple[str, str], summary: JSON, record: dict[str, JSON], node: int) -> Iterable[Event]:
        if not isinstance(summary, str):
            yield Skipped("message: summary without a text", self.stamp)
            return
        self.flags[node] |= _SAYS
        yield Said(self.at(record, node, "summary"), "user", frame[0] + summary + frame[1])

    # -- the model's turns -----------------------------------------------------------------------

    def is_model(self, message: dict[str, JSON]) -> bool:
        """Whether the model wrote an assistant message."""
        return True

    def _assistant(self, message: dict[str, JSON], record: dict[str, JSON], node: int) -> Iterable[Event]:
        self.flags[node] |= _SAYS | _EDITABLE
        stop = text_or_none(message.get("stopReason"))
        reason = _WEIGHTLESS.get(stop or "")
        at = self.at(record, node, None, reason)
        if self.is_model(message):
            if model := text_or_none(message.get("model")):
                self.models[node] = model
            if provider := text_or_none(message.get("provider")):
                self.providers[provider] = None
            if stop:
                self.stop_reasons[stop] += 1
        else:
            at = at._replace(weight_reason="synthetic")
        yield from self._used(message, node)
        texts: list[str] = []
        thoughts: list[str] = []
        media: list[Media] = []
        calls: list[Event] = []
        blocks = message.get("content")
        for position, block in enumerate(blocks if isinstance(blocks, list) else [blocks]):
            match block:
                case str(text) | {"type": "text", "text": str(text)}:
                    texts.append(text)
                case {"type": "thinking", "thinking": str(text), **more} if text.strip() and not more.get("redacted"):
                    thoughts.append(text)
                case {"type": "thinking" | "redactedThinking" as kind, **more}:
                    hidden = kind != "thinking" or more.get("redacted") or more.get("thinkingSignature")
                    if hidden:
                        self.counts["redacted_thinking"] += 1
                    yield Skipped("reasoning: encrypted" if hidden else "reasoning: empty", self.stamp)
                case {"type": "toolCall", "name": str(name), **more} if name:
                    given = arguments(self._exact(position, more.get("arguments")))
                    calls.append(Called(at, text_or_none(more.get("id")), name, given))
                case {"type": "toolCall"}:
                    yield Skipped("tool_call: without a name", self.stamp)
                case {"type": "image"} if found := self.content([block], at)[1]:
                    media += found
                case None:
                    pass
                case _:
                    yield Skipped("media: unknown content part", self.stamp)
        if thoughts:
            yield Thought(at, "\n\n".join(thoughts))
        if (text := "\n".join(filter(None, texts))) or media:
            yield Said(at, "assistant", text, media)
        yield from calls
        if not (thoughts or text or media or calls):
            yield Skipped("message: empty answer", self.stamp)
        if self.drops_failures and stop in ("error", "aborted"):
            yield Edited(at, node)

    def _exact(self, position: int, value: JSON) -> JSON:
        """Arguments of the record that is at hand, with their long integers as they were written."""
        if type(value) is dict and not jsontext.is_exact(value):
            try:
                return self.source.exact()["message"]["content"][position]["arguments"]
            except (ValueError, TypeError, KeyError, IndexError):
                return value
        return value

    def _result(self, message: dict[str, JSON], record: dict[str, JSON], node: int) -> Iterable[Event]:
        self.flags[node] |= _SAYS | _EDITABLE
        at = self.at(record, node)
        call_id, failed = text_or_none(message.get("toolCallId")), message.get("isError")
        text, media, more = self.content(message.get("content"), at)
        yield Returned(at, call_id, text, media, failed if isinstance(failed, bool) else None)
        yield from more
        yield from self._used(message, node)
        match message.get("nestedCalls"):
            case {"calls": list(calls)} if calls:
                self.nested[call_id or ""] = calls

    def _used(self, owner: dict[str, JSON], node: int) -> Iterable[Event]:
        match owner.get("usage"):
            case dict(usage) if usage:
                cost = usage.get("cost")
                total = cost.get("total") if isinstance(cost, dict) else cost
                yield Used(node, {**{ours: usage.get(theirs) for theirs, ours in _USAGE.items()}, "cost_usd": total})

    # -- the context -----------------------------------------------------------------------------

    def _system(self, message: dict[str, JSON], record: dict[str, JSON], node: int) -> Iterable[Event]:
        is_later = self.flags[node] & _BELOW_SYSTEM
        self.flags[node] |= _SYSTEM | _BELOW_SYSTEM
        self.systems.append((node, message, False))
        text = _update_text(message) if is_later else _prompt_text(message)
        if text:
            yield Said(self.at(record, node), "system", text)

    def _compaction(self, record: dict[str, JSON], summary: str, node: int) -> Iterable[Event]:
        yield from self._used(record, node)
        self.flags[node] |= _SAYS
        context: list[Event] = []
        match record.get("systemMessage"):
            case dict(system):
                self.systems.append((node, system, True))
                self.flags[node] |= _BELOW_SYSTEM
                if text := _prompt_text(system):
                    context.append(Said(At(None, self.stamp, None, node), "system", text))
        text = summary.join(self.frame(record))
        context.append(Said(self.at(record, node, "summary"), "user", text))
        yield self.compacted(record, node, context)

    def frame(self, record: dict[str, JSON]) -> tuple[str, str]:
        """What stands before and behind the summary of a compaction."""
        return self.compaction_text

    def compacted(self, record: dict[str, JSON], node: int, context: Iterable[Event]) -> Event:
        """The context begins anew with `context` and what is kept."""
        note = {
            "id": record.get("id"),
            "at": self.stamp,
            "summary": record.get("summary"),
            "tokens_before": record.get("tokensBefore"),
            "first_kept": record.get("firstKeptEntryId", record.get("firstKeptEntryIndex")),
            "method": record.get("method"),
            "by_extension": record.get("fromHook") or record.get("fromExtension") or None,
            "details": record.get("details") or None,
        }
        kept = self._kept(self._first_kept(record), node)
        return Compacted(
            {key: value for key, value in note.items() if value is not None}, tuple(context), kept, node=node
        )

    def _first_kept(self, record: dict[str, JSON]) -> int | None:
        index, id = record.get("firstKeptEntryIndex"), record.get("firstKeptEntryId")
        if self.is_linear and type(index) is int:
            # Counted in lines of the file, the header being one.
            return index - self.has_header
        return self.nodes.get(id) if type(id) is str else None

    def _kept(self, first: int | None, node: int) -> frozenset[int]:
        """The entries from the first kept one on; none where it is not above the compaction."""
        kept = []
        above = self.parents[node]
        while first is not None and above >= 0:
            if not self.flags[above] & _SYSTEM:
                kept.append(above)
            if above == first:
                return frozenset(kept)
            above = self.parents[above]
        return frozenset()

    def _context_edit(self, record: dict[str, JSON], node: int) -> Iterable[Event]:
        id, replacement = record.get("targetId"), record.get("replacement")
        target = self.nodes.get(id) if type(id) is str else None
        at = self.at(record, node, None, "superseded")
        if target is None:
            yield Skipped("record: context_edit without its entry", self.stamp)
        elif replacement is None:
            yield Edited(at, target)
        elif isinstance(replacement, dict) and self.flags[target] & _EDITABLE:
            text, media, more = self.content(replacement.get("content"), at)
            yield Edited(at, target, text, media)
            yield from more
        else:
            yield Skipped("record: context_edit of what cannot be changed", self.stamp)

    # -- the end ---------------------------------------------------------------------------------

    def _path(self, leaf: int) -> list[int]:
        path = []
        # A parent always has the smaller number, so that there are no cycles.
        while leaf >= 0:
            path.append(leaf)
            leaf = self.parents[leaf]
        return path[::-1]

    def _hidden(self, leaf: int) -> frozenset[int]:
        return frozenset(range(len(self.parents))).difference(self._path(leaf))

    def _leaves(self) -> list[int]:
        """The entries that say something and that nothing was said after."""
        leaves = []
        is_above = bytearray(len(self.parents))
        for node in reversed(range(len(self.parents))):
            if self.flags[node] & _SAYS and not is_above[node]:
                leaves.append(node)
                is_above[node] = 1
            if is_above[node] and self.parents[node] >= 0:
                is_above[self.parents[node]] = 1
        return leaves[::-1]

    def _finish(self) -> Iterator[Event]:
        path = self._path(self.leaf)
        leaves = self._leaves()
        if hidden := self._hidden(self.leaf):
            yield Branched(hidden, (self._hidden(leaf) for leaf in leaves))
        for model in dict.fromkeys(self.models.values()):
            yield Facts({"model": model})
        if (last := _last(self.models, path)) is not None:
            yield Facts({"model": last})
        on_path = set(path)
        if systems := [(message, is_all) for node, message, is_all in self.systems if node in on_path]:
            yield _replayed(systems)
        meta = {
            "session_name": self.name,
            "leaf_count": len(leaves),
            "has_branches": len(leaves) > 1,
            "providers": list(self.providers),
            "thinking_levels": list(dict.fromkeys(self.thinking_levels.values())),
            "thinking_level": _last(self.thinking_levels, [-1, *path]),
            "stop_reasons": dict(self.stop_reasons),
            "labels": self.labels,
            "custom_entries": dict(self.custom_types),
            "nested_calls": self.nested,
            **self.counts,
        }
        values = {"started_at": self.first, "ended_at": self.last}
        yield Facts(values, {key: value for key, value in meta.items() if value not in (None, [], {})})


def _last(values: dict[int, str], path: list[int]) -> str | None:
    """The value of the last entry on the path that has one."""
    return next((values[node] for node in reversed(path) if node in values), None)


def _id_of_path(path: str) -> str:
    """The session that a file name names: `<time>_<id>.jsonl`, or `<id>.jsonl`."""
    stem = path.replace("\\", "/").rpartition("/")[2].removesuffix(".jsonl")
    time, bar, id = stem.partition("_")
    return id if bar and "T" in time and time[:4].isdigit() else stem


def _bash_text(message: dict[str, JSON]) -> str:
    """What the model is told of a command of the user (`bashExecutionToText`)."""
    output, code = message.get("output"), message.get("exitCode")
    text = f"Ran `{message.get('command', '')}`\n"
    text += f"```\n{output}\n```" if output else "(no output)"
    if message.get("cancelled"):
        text += "\n\n(command cancelled)"
    elif code is not None and code != 0:
        text += f"\n\nCommand exited with code {code}"
    if message.get("truncated") and message.get("fullOutputPath"):
        text += f"\n\n[Output truncated. Full output: {message['fullOutputPath']}]"
    return text


# -- system messages ---------------------------------------------------------------------------------


def _sections(message: dict[str, JSON]) -> dict[str, JSON]:
    sections = message.get("sections")
    return sections if isinstance(sections, dict) else {}


def _prompt_text(message: dict[str, JSON]) -> str:
    """A system message as a whole prompt (`getSystemMessageText`)."""
    parts = [_text(message.get("content")), *_sections(message).values()]
    return "\n\n".join(part for part in parts if isinstance(part, str) and part)


def _update_text(message: dict[str, JSON]) -> str:
    """A later system message, as it stands in the conversation (`renderSystemMessageUpdate`)."""
    parts = [_text(message.get("content"))]
    for name, section in _sections(message).items():
        if section is None:
            parts.append(f'Removed system prompt section "{name}".')
        else:
            parts.append(f'Updated system prompt section "{name}":\n\n{section}')
    return "\n\n".join(filter(None, parts))


def _text(value: JSON) -> str:
    return _chat.content(value, At())[0]


def _replayed(systems: list[tuple[dict[str, JSON], bool]]) -> Facts:
    """Tools and system prompt after all system messages; what they were at first where that differs."""
    texts: list[str] = []
    sections: dict[str, JSON] = {}
    tools: dict[str, JSON] = {}
    first: tuple[str, list[str]] | None = None
    prompt = ""
    for message, is_all in systems:
        if is_all:
            texts, sections, tools = [], {}, {}
        texts.append(_text(message.get("content")))
        for name, section in _sections(message).items():
            sections[name] = section
        for name in _names(message.get("toolsRemoved")):
            tools.pop(name, None)
        for tool in _tools(message.get("toolsAdded")):
            tools[tool["name"]] = tool
        parts = ["\n\n".join(filter(None, texts)), *sections.values()]
        prompt = "\n\n".join(part for part in parts if isinstance(part, str) and part)
        first = first or (prompt, list(tools))
    schemas = [
        {
            "type": "function",
            "function": {key: tool[key] for key in ("name", "description", "parameters") if key in tool},
        }
        for tool in tools.values()
    ]
    meta: dict[str, JSON] = {}
    if first and first[0] != prompt:
        meta["system_prompt_at_end"] = prompt
    if first and first[1] != list(tools):
        meta["tools_at_start"] = first[1]
    return Facts({"tools": schemas}, meta)


def _tools(value: JSON) -> list[dict[str, JSON]]:
    tools = value if isinstance(value, list) else []
    return [tool for tool in tools if isinstance(tool, dict) and isinstance(tool.get("name"), str)]


def _names(value: JSON) -> list[str]:
    return [tool["name"] for tool in _tools(value)]
