"""Factory Droid, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The blocks of all messages but the records of hooks, and the summaries of compactions."""
    for number, record in enumerate(records(source)):
        message = record.get("message")
        if record.get("type") == "compaction_state":
            for key in ("summaryText", "systemInfoText"):
                if isinstance(record.get(key), str):
                    yield Raw("prompt", f"{number} {key}", record[key])
        elif record.get("type") == "message" and isinstance(message, dict) and not message.get("hookEventName"):
            is_answer = message.get("role") == "assistant"
            found = list(_blocks(message.get("content"), "answer" if is_answer else "prompt", str(number)))
            yield from found
            thought = message.get("chatCompletionReasoningContent") or message.get("openaiReasoningSummary")
            has_block = any(one.kind == "reasoning" and one.value for one in found)
            if is_answer and isinstance(thought, str) and thought.strip() and not has_block:
                yield Raw("reasoning", str(number), thought)
            elif is_answer and message.get("openaiEncryptedContent") and not has_block:
                yield Raw("reasoning", str(number), "")


def _blocks(content: JSON, said: str, key: str) -> Iterator[Raw]:
    for block in content if isinstance(content, list) else [content]:
        match block:
            case str(text) | {"type": "text", "text": str(text)} if text:
                yield Raw(said, key, text)
            case {"type": "thinking", "thinking": str(text)}:
                yield Raw("reasoning", key, text)
            case {"type": "tool_use", **call}:
                yield Raw("tool_call", id_of(call.get("id")), (call.get("name"), call.get("input") or {}))
            case {"type": "tool_result", **result}:
                inner = result.get("content")
                parts = inner if isinstance(inner, list) else [inner or ""]
                texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
                value = "\n".join(text for text in texts if isinstance(text, str))
                yield Raw("tool_result", id_of(result.get("tool_use_id")), value)
                yield from (Raw("media", None, None) for part in parts if isinstance(part, dict) and "text" not in part)
            case dict() if block.get("type") not in ("text", "thinking"):
                yield Raw("media", None, None)
