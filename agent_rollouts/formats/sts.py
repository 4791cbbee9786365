r"""Session Trace Simple Format (STS-Format) of the Hugging Face Hub: a header, then one message a line.

    {"type":"session","harness":"my-agent","id":"abc123","name":"what time is it"}
    {"type":"message","message":{"role":"assistant","content":"","reasoningContent":"…","toolCalls":[{"id":"t1","function":{"name":"get_time","arguments":"{}"}}]}}
    {"type":"message","message":{"role":"tool","toolCallId":"t1","content":"2026-07-01T15:00:00Z"}}

Source of the rules: https://huggingface.co/docs/hub/session-traces-format (2026-07). A message may have a
`timestamp` (milliseconds since 1970) and a `model`; a header may have any further keys.

The one harness that the Hub knows by name, `llama.app` (llama.cpp's web page), exports more, and by its source:

* several sessions in a file, each behind its header;
* all messages of a conversation tree by time, with `id` and `parent`; `currNode` of the header is the
  tip of the line that is shown, else the latest message is. System messages come first.
* `extra`, what the user attached, and `timings`, token counts of the answer.

The Hub shows sessions in Pi's own format as well when their header has a `harness`; those are Pi's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import orjson

from agent_rollouts.errors import FormatError
from agent_rollouts.events import JSON, At, Branched, End, Event, Facts, Skipped, Start, Used
from agent_rollouts.formats._chat import message_events, text_or_none
from agent_rollouts.source import Head, Source

# What Pi's entries have beside `type` and `message`.
_PI_ENTRY = frozenset({"id", "parentId", "timestamp"})
_OWN_KEYS = frozenset({"toolCalls", "toolCallId", "reasoningContent"})
_ROLES = ("system", "user", "assistant", "tool")
_USAGE = {"prompt_n": "input_tokens", "predicted_n": "output_tokens", "cache_n": "cache_read_tokens"}
# Attachments that llama.app sends as text, and how it calls them.
_TEXTS = {
    "TEXT": "File",
    "context": "File",
    "PDF": "PDF File",
    "MCP_PROMPT": "MCP Prompt",
    "MCP_RESOURCE": "MCP Resource",
}


def claims(head: Head) -> bool:
    """A header with a harness and without what Pi's have, or a message with keys or the tool role of this format."""
    for record in head.records:
        match record:
            case {"type": "session", "harness": str()} if not record.keys() & {"cwd", "version"}:
                return True
            case {"type": "message", "message": dict(message)} if not _PI_ENTRY & record.keys():
                if message.get("role") == "tool" or _OWN_KEYS & message.keys():
                    return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The sessions of a file, in order.

    Raises:
        FormatError: with `source.strict`, a record that the specification does not allow.
    """
    session = _Session("")
    for number, record in enumerate(source.records()):
        match record:
            case {"type": "session"}:
                if number:
                    yield from session.end()
                session = _Session(str(number))
                yield from session.begin(record)
                breach = "a header without harness or id" if not (record.get("harness") and record.get("id")) else ""
            case {"type": "message", "message": dict(message)}:
                yield from session.message(message)
                breach = "a message before any header" if not session.header else _breach(message)
            case _:
                yield Skipped("record: unknown")
                breach = "a record that is neither session nor message"
        if breach and source.strict:
            raise FormatError(f"{source.path}: record {number + 1} is {breach}")
    yield from session.end()


def _breach(message: dict[str, JSON]) -> str:
    if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
        return "a message without a known role or without text content"
    return ""


class _Session:
    """One session: messages of a tree wait for its end, all others go their way at once."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.header: dict[str, JSON] = {}
        self.model: str | None = None
        self.turn = 0
        self.ids: set[str | None] = set()
        self.tree: list[dict[str, JSON]] = []

    def begin(self, header: dict[str, JSON]) -> Iterator[Event]:
        self.header = header
        yield Start(self.key)
        known = {"type", "id", "harness", "name", "cwd", "model", "timestamp"}
        meta = {
            "harness": text_or_none(header.get("harness")),
            "title": text_or_none(header.get("name")),
            "header": {key: value for key, value in header.items() if key not in known} or None,
        }
        id = text_or_none(header.get("id"))
        parent = text_or_none(header.get("forkedFromConversationId"))
        values = {"trace_id": id, "root_session_id": id, "parent_trace_id": parent, "cwd": header.get("cwd")}
        yield Facts({**values, "started_at": header.get("timestamp"), "model": text_or_none(header.get("model"))}, meta)

    def message(self, message: dict[str, JSON]) -> Iterator[Event]:
        if message.get("type") == "root" and not message.get("content"):
            yield Skipped("record: root of the tree")
        elif isinstance(message.get("id"), str) and "parent" in message:
            self.tree.append(message)
        else:
            yield from self.events(message, -1)

    def end(self) -> Iterator[Event]:
        if self.tree:
            # Python's sorting keeps the order of what is equal.
            messages = sorted(self.tree, key=lambda message: message.get("role") != "system")
            for node, message in enumerate(messages):
                yield from self.events(message, node)
            yield _branches(messages, self.header.get("currNode"))
        yield End()

    def events(self, message: dict[str, JSON], node: int) -> Iterator[Event]:
        self.turn += 1
        stamp = message.get("timestamp")
        known = isinstance(stamp, (str, int, float)) and not isinstance(stamp, bool)
        id = text_or_none(message.get("id"))
        if id is not None and id in self.ids:
            yield Skipped("id: repeated")
            id = None
        self.ids.add(id)
        at = At(id, stamp if known else None, turn=self.turn, node=node)
        model = message.get("model")
        if isinstance(model, str) and model and model != self.model and message.get("role") == "assistant":
            self.model = model
            yield Facts({"model": model})
        calls = message.get("toolCalls")
        if isinstance(calls, str) and calls:  # as llama.app keeps them
            with suppress(ValueError):
                calls = orjson.loads(calls)
        if calls and not isinstance(calls, list):
            yield Skipped("tool_call: not a list", at.timestamp)
        attached = list(_attachments(message.get("extra")))
        content: JSON = message.get("content")
        if parts := [part for part in attached if isinstance(part, dict)]:
            content = [*([content] if content else []), *parts]
        named = {
            "role": message.get("role"),
            "content": content,
            "reasoning_content": message.get("reasoningContent") or message.get("thinking"),
            "tool_calls": calls if isinstance(calls, list) else None,
            "tool_call_id": message.get("toolCallId"),
        }
        yield from message_events(named, at)
        yield from (part for part in attached if isinstance(part, Skipped))
        timings = message.get("timings")
        if isinstance(timings, dict):
            yield Used(self.turn, {name: timings[key] for key, name in _USAGE.items() if key in timings})


def _branches(messages: Sequence[dict[str, JSON]], tip: JSON) -> Branched:
    """What the line to the tip leaves out, and the same for every other leaf, latest last."""
    nodes = {message["id"]: node for node, message in enumerate(messages)}
    parents = [nodes.get(parent) if isinstance(parent := m.get("parent"), str) else None for m in messages]
    everything = frozenset(range(len(messages)))

    def hidden(leaf: int) -> frozenset[int]:
        line: set[int] = set()
        node: int | None = leaf
        while node is not None and node not in line:
            line.add(node)
            node = parents[node]
        return everything - line

    shown = nodes.get(tip) if isinstance(tip, str) else None
    if shown is None:
        shown = max(everything, key=lambda node: (_instant(messages[node].get("timestamp")), node))
    leaves = sorted(everything - {parent for parent in parents if parent is not None} - {shown})
    return Branched(hidden(shown), [hidden(leaf) for leaf in leaves])


def _instant(stamp: JSON) -> float:
    return stamp if isinstance(stamp, (int, float)) else -1.0


def _attachments(extra: JSON) -> Iterator[JSON | Skipped]:
    """What llama.app sends along with a message, as content parts; the order of the kinds is not in the log."""
    for one in extra if isinstance(extra, list) else []:
        match one:
            case {"type": "IMAGE" | "imageFile", "base64Url": str(url)}:
                yield {"type": "image_url", "image_url": {"url": url}}
            case {"type": "PDF" | "pdfFile", "processedAsImages": True, "images": list(urls)}:
                yield from ({"type": "image_url", "image_url": {"url": url}} for url in urls)
            case {"type": "AUDIO" | "audioFile", "base64Data": str(data), **more}:
                kind = str(more.get("mimeType") or "").rpartition("/")[2]
                yield {"type": "input_audio", "input_audio": {"data": data, "format": kind or "wav"}}
            case {"type": str(kind), "content": str(text), **more} if kind in _TEXTS:
                name = str(more.get("name") or "")
                name += f" ({more['serverName']})" if more.get("serverName") else ""
                yield {"type": "text", "text": f"\n\n--- {_TEXTS[kind]}: {name} ---\n{text}"}
            case _:
                yield Skipped("media: unknown attachment")
