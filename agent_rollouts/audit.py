"""Whether rows hold what their files hold: raw counts against row counts, file by file.

`RAW` reads the records of a format in the plainest way there is, without the decoder: what calls,
results, reasoning and media they hold. Everything must be in a row or counted in its `skipped`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent_rollouts import jsontext
from agent_rollouts.events import JSON
from agent_rollouts.features import check_message
from agent_rollouts.formats import detect, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Source

KINDS = ("tool_call", "tool_result", "reasoning", "media")

Raw = tuple[str, JSON, JSON]
"""Kind, the source's id (of a call, or of the call that a result answers), and the value: arguments, or text."""


@dataclass
class FileAudit:
    """The audit of one file: counts by kind, and what is wrong (nothing, when all is well)."""

    path: str
    format: str
    rollouts: int = 0
    raw: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def audit(source: Source) -> FileAudit:
    """Compare the records of one file with its rows.

    Raises:
        FormatError: no format, or several, claim the file.
    """
    name = detect(source) or "none"
    rollouts = list(read(source))
    found = FileAudit(source.path, name, rollouts=sum(map(bool, rollouts)))
    calls: dict[str, JSON] = {}
    thoughts: set[str] = set()
    for kind, key, value in RAW[name](source):
        found.raw[kind] += 1
        if kind == "tool_call" and key:
            calls.setdefault(key, value)
        elif kind == "reasoning":
            thoughts.add(value)
            found.raw["reasoning characters"] += len(value)
    for rollout in rollouts:
        found.skipped += rollout.skipped
        _check_row(rollout, calls, thoughts, found)
    _compare(found, thoughts)
    if len({rollout.trace_id for rollout in rollouts}) < len(rollouts):
        found.problems.append("two rollouts share a trace_id")
    return found


def _check_row(rollout: Rollout, calls: dict[str, JSON], thoughts: set[str], found: FileAudit) -> None:
    open_calls: list[str] = []
    before: JSON = {}
    for index, message in enumerate(rollout.messages):
        where = f"{rollout.trace_id}, message {index}"
        try:
            check_message(message)
        except ValueError as error:
            found.problems.append(f"{where}: {error}")
        if message["role"] == "tool":
            found.rows["tool_result"] += 1
            # Results stand behind their call, in its order; a call may have none.
            while open_calls and open_calls[0] != message["tool_call_id"]:
                open_calls.pop(0)
            if not open_calls:
                found.problems.append(f"{where}: result without its call before it")
            else:
                open_calls.pop(0)
        else:
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
        if message["role"] == before.get("role") == "assistant" and message.get("id") == before.get("id") is not None:
            found.problems.append(f"{where}: one response in two messages")
        before = message
        found.rows["media"] += len(message.get("media", ()))
        _check_calls(message, calls, where, found)
        if reasoning := message.get("reasoning_content"):
            found.rows["reasoning"] += 1
            found.rows["reasoning characters"] += len(reasoning)
            if reasoning in thoughts:
                thoughts.remove(reasoning)
            else:  # several parts of one response
                thoughts -= {thought for thought in thoughts if thought in reasoning}


def _check_calls(message: JSON, calls: dict[str, JSON], where: str, found: FileAudit) -> None:
    for call in message.get("tool_calls", ()):
        found.rows["tool_call"] += 1
        raw = calls.get(call["id"].partition("#")[0], call["function"]["arguments"])
        arguments = call["function"]["arguments"]
        if raw != arguments and not (isinstance(arguments, str) and jsontext.loads_exactly(arguments) == raw):
            if call["id"] in calls:
                found.problems.append(f"{where}: arguments of call {call['id']} differ from the source's")


def _compare(found: FileAudit, thoughts: set[str]) -> None:
    for kind in ("tool_call", "tool_result", "media"):
        counted = sum(count for what, count in found.skipped.items() if what.startswith(f"{kind}:"))
        if found.raw[kind] != found.rows[kind] + counted:
            found.problems.append(f"{kind}: {found.raw[kind]} in the file, {found.rows[kind]} in rows, {counted} skipped")
    excused = any(what.startswith("reasoning:") and "empty" not in what for what in found.skipped)
    if thoughts and not excused:
        found.problems.append(f"reasoning: {len(thoughts)} of {found.raw['reasoning']} in no row")
    # Parts of one response are joined by at most two characters.
    if found.rows["reasoning characters"] > found.raw["reasoning characters"] + 2 * found.raw["reasoning"]:
        found.problems.append("reasoning: more of it in rows than in the file")


def _claude_code(source: Source) -> Iterator[Raw]:
    """Blocks of user and assistant records; a record that stands twice (same uuid) is read once."""
    seen: set[str] = set()
    for record in source.records():
        uuid = record.get("uuid")
        message = record.get("message")
        if record.get("type") not in ("user", "assistant") or uuid in seen:
            continue
        if isinstance(uuid, str):
            seen.add(uuid)
        content = message.get("content") if isinstance(message, dict) else message
        for block in content if isinstance(content, list) else ():
            match block:
                case {"type": "tool_use" | "server_tool_use" | "mcp_tool_use", **call}:
                    yield "tool_call", call.get("id"), call.get("input")
                case {"type": "tool_result", **result}:
                    yield "tool_result", result.get("tool_use_id"), None
                    inner = result.get("content")
                    for part in inner if isinstance(inner, list) else ():
                        if isinstance(part, dict) and part.get("type") in ("image", "document"):
                            yield "media", None, None
                case {"type": "thinking", "thinking": str(text)} if text:
                    yield "reasoning", None, text
                case {"type": "image" | "document"}:
                    yield "media", None, None
                case {"type": str(kind), "tool_use_id": str(call_id)} if kind.endswith("_result"):
                    yield "tool_result", call_id, None


_CODEX_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "web_search_call": "action",
    "tool_search_call": "arguments",
    "image_generation_call": "revised_prompt",
}


def _codex(source: Source) -> Iterator[Raw]:
    """Response items, enveloped or bare, and those that a compaction put in their place.

    Files that hold nothing but events for the screen are read by these.
    """
    has_items = False
    for record in source.records():
        payload = record.get("payload")
        if record.get("type") == "compacted" and isinstance(payload, dict):
            for item in payload.get("replacement_history") or ():
                yield from _codex_item(item)
        elif "payload" in record:
            if record.get("type") == "response_item":
                has_items = True
                yield from _codex_item(payload)
            elif not has_items:
                match payload:
                    case {"type": "agent_reasoning", "text": str(text)} if text:
                        yield "reasoning", None, text
        else:
            yield from _codex_item(record)


def _codex_item(item: JSON) -> Iterator[Raw]:
    if not isinstance(item, dict):
        return
    kind = item.get("type")
    if kind in _CODEX_CALLS:
        value = item.get(_CODEX_CALLS[kind])
        if kind == "custom_tool_call":
            value = {"input": value}
        elif kind in ("function_call", "tool_search_call") and isinstance(value, str):
            value = jsontext.arguments(value)
        elif kind == "image_generation_call":
            value = None
            yield from [("media", None, None)] if item.get("result") else []
        # Of what ran at the provider the log has no output; its result is an empty one.
        yield "tool_call", item.get("call_id") if value is not None else None, value
        if kind in ("web_search_call", "image_generation_call"):
            yield "tool_result", None, None
    elif kind in ("function_call_output", "custom_tool_call_output", "tool_search_output"):
        yield "tool_result", item.get("call_id"), None
        yield from _codex_media(item.get("output"))
    elif kind == "message":
        yield from _codex_media(item.get("content"))
    elif kind == "reasoning":
        parts = item.get("content") or item.get("summary") or ()
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and part.get("text"):
                yield "reasoning", None, part["text"]


def _codex_media(parts: JSON) -> Iterator[Raw]:
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and part.get("type") in ("input_image", "input_audio"):
            yield "media", None, None


RAW: dict[str, Callable[[Source], Iterator[Raw]]] = {"claude_code": _claude_code, "codex": _codex}
