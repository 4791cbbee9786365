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
    texts: list[str] = []
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        match part:
            case {"type": "thinking" | "reasoning", **thought}:
                found = thought.get("thinking") or thought.get("reasoning") or thought.get("text")
                yield Raw("reasoning", key, found if isinstance(found, str) else "")
            case (
                str(text) | {"type": "text" | "input_text" | "output_text", "text": str(text)} | {"refusal": str(text)}
            ):
                texts.append(text)
            case {"type": "tool_use", **call}:
                yield Raw("tool_call", id_of(call.get("id")), (call.get("name"), call.get("input") or {}))
            case {"type": "tool_result", **result}:
                yield Raw("tool_result", id_of(result.get("tool_use_id")), None)
            case dict():
                yield Raw("media", None, None)
    if role in ("tool", "function"):
        yield Raw("tool_result", id_of(message.get("tool_call_id")), "\n".join(texts))
        return
    if any(texts):
        yield Raw("answer" if answers else "prompt", key, "\n".join(texts))
    if not answers:
        return
    thoughts = [message.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
    if said := next((text for text in thoughts if isinstance(text, str) and text.strip()), None):
        yield Raw("reasoning", key, said)
    calls = message.get("tool_calls") or []
    if not calls and isinstance(message.get("function_call"), dict):
        calls = [{"function": message["function_call"]}]
    for one in calls if isinstance(calls, list) else []:
        one = one if isinstance(one, dict) else {}
        function = one.get("function", one)
        function = function if isinstance(function, dict) else {}
        given = function.get("arguments")
        blank = given is None or (isinstance(given, str) and not given.strip())
        yield Raw("tool_call", id_of(one.get("id")), (function.get("name"), {} if blank else given))
