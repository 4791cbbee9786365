"""Qwen Code, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The parts of messages, of compressed histories and of what a forked agent begins with."""
    for number, record in enumerate(records(source)):
        payload = record.get("systemPayload")
        message = record.get("message")
        if record.get("type") in ("user", "assistant", "tool_result") and isinstance(message, dict):
            is_answer = record["type"] == "assistant"
            yield from _parts(message.get("parts"), str(record.get("uuid") or number), is_answer=is_answer)
        elif record.get("type") == "system" and isinstance(payload, dict):
            if record.get("subtype") == "chat_compression":
                yield from _contents(payload.get("compressedHistory"), str(number))
            elif record.get("subtype") == "agent_bootstrap":
                system = payload.get("systemInstruction")
                yield from _contents([system if isinstance(system, dict) else {"parts": [{"text": system}]}], "system")
                yield from _contents(payload.get("history"), str(number))


def _contents(contents: JSON, key: str) -> Iterator[Raw]:
    for place, content in enumerate(contents if isinstance(contents, list) else []):
        if isinstance(content, dict):
            yield from _parts(content.get("parts"), f"{key} {place}", is_answer=content.get("role") == "model")


def _parts(parts: JSON, key: str, *, is_answer: bool) -> Iterator[Raw]:
    texts: list[str] = []
    is_result = False
    for part in parts if isinstance(parts, list) else []:
        match part:
            case {"functionCall": dict(call)}:
                yield Raw("tool_call", id_of(call.get("id")), (call.get("name"), call.get("args") or {}))
            case {"functionResponse": dict(response)}:
                is_result = True
                yield Raw("tool_result", id_of(response.get("id")), None)
                inner = response.get("parts")
                yield from (Raw("media", None, None) for _ in (inner if isinstance(inner, list) else []))
            case {"text": str(text), "thought": True} if text:
                yield Raw("reasoning", key, text)
            case {"text": str(text)} | str(text):
                texts += [] if is_result else [text]
            case dict() if not {"thought", "thoughtSignature"} & part.keys():
                yield Raw("media", None, None)
    if any(texts):
        yield Raw("answer" if is_answer else "prompt", key, "".join(texts))
