"""What the plain readers of the audit yield, and what they share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from agent_rollouts import jsontext
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


class Raw(NamedTuple):
    """One thing in a file.

    `kind` is one of `KINDS`, text being `prompt` or `answer`. `key` is the id of a call (or of the one that a
    result answers), else that of the message. `value` is the name and arguments of a call, or the text; None
    where plain reading does not tell, and "" for reasoning that the log does not show.
    """

    kind: str
    key: str | None
    value: JSON


def records(source: Source) -> Iterator[dict[str, JSON]]:
    """Records with integers of any length as they were written."""
    for record in source.records():
        if not jsontext.is_exact(record):
            # Not a line of its own, or nested too deep: as good as it was read.
            with contextlib.suppress(ValueError):
                record = source.exact()
        yield record


def id_of(value: JSON) -> str | None:
    """An id, None where it is empty or none."""
    return value if isinstance(value, str) and value else None


def chat_message(message: dict[str, JSON], key: str) -> Iterator[Raw]:
    """A message of the chat completions API; `key` names the message."""
    role = message.get("role")
    answers = role in ("assistant", "model", "ai")
    content = message.get("content")
    is_result = role in ("tool", "function")
    if is_result and not _is_text(content):
        yield Raw("tool_result", id_of(message.get("tool_call_id")), None)
        return
    parts, texts = chat_parts(content, key)
    if is_result:
        yield Raw("tool_result", id_of(message.get("tool_call_id")), "\n".join(texts))
        yield from parts
        return
    yield from parts
    if answers and not any(texts) and isinstance(message.get("refusal"), str):
        texts = [message["refusal"]]
    if any(texts):
        yield Raw("answer" if answers else "prompt", key, "\n".join(texts))
    if not answers:
        return
    thoughts = [message.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
    details = message.get("reasoning_details")
    if any(part.kind == "reasoning" and part.value for part in parts):
        pass  # the fields repeat the parts
    elif said := next((text for text in thoughts if isinstance(text, str) and text.strip()), None):
        yield Raw("reasoning", key, said)
    elif isinstance(details, list) and details:
        pieces = [d.get(name) for d in details if isinstance(d, dict) for name in ("text", "thinking", "summary")]
        yield Raw("reasoning", key, "\n".join(text for text in pieces if isinstance(text, str) and text.strip()))
    calls = message.get("tool_calls") or []
    if not calls and isinstance(message.get("function_call"), dict):
        calls = [{"function": message["function_call"]}]
    if isinstance(calls, str):
        calls = jsontext.loads_exactly(calls) if calls.strip() else []
    for one in calls if isinstance(calls, list) else [calls]:
        one = one if isinstance(one, dict) else {}
        function = one.get("function", one.get("custom", one))
        function = function if isinstance(function, dict) else {}
        given = {"input": function.get("input")} if "custom" in one else function.get("arguments")
        yield Raw("tool_call", id_of(one.get("id")), (function.get("name"), {} if is_blank(given) else given))


def chat_parts(content: JSON, key: str) -> tuple[list[Raw], list[str]]:
    """What the parts of a content hold beside text, and the texts."""
    texts: list[str] = []
    found: list[Raw] = []
    for part in content if isinstance(content, list) else [] if content is None else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        match part:
            case {"type": "thinking" | "reasoning" | "redacted_thinking"}:
                said = [part.get(name) for name in ("thinking", "reasoning", "text", "content", "summary")]
                lists = [
                    [p.get("text") for p in s if isinstance(p, dict)] if isinstance(s, list) else [s] for s in said
                ]
                whole = ("\n".join(t for t in texts if isinstance(t, str) and t.strip()) for texts in lists)
                found.append(Raw("reasoning", key, next(filter(None, whole), "")))
            case str(text) | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"text": str(text)} if kind in (None, "text", "input_text", "output_text"):
                texts.append(text)
            case {"type": "tool_use"}:
                given = part.get("input")
                found.append(
                    Raw("tool_call", id_of(part.get("id")), (part.get("name"), {} if is_blank(given) else given))
                )
            case {"type": "tool_result"}:
                found.append(Raw("tool_result", id_of(part.get("tool_use_id")), None))
                found += chat_parts(part.get("content"), key)[0]
            case _:
                found.append(Raw("media", None, None))
    return found, texts


def _is_text(content: JSON) -> bool:
    """Whether a result is text and parts, and no value of the tool's own."""
    if isinstance(content, list):
        return all(part is not None and not isinstance(part, list) and _is_text(part) for part in content)
    if isinstance(content, dict):
        return "type" in content or isinstance(content.get("text"), str)
    return content is None or isinstance(content, str)


def is_blank(given: JSON) -> bool:
    """Whether arguments are none at all."""
    return given is None or (isinstance(given, str) and not given.strip())
