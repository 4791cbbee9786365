"""agentic-datagen, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, chat_message, id_of, records
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The messages of every session; results that are no text tell nothing to compare with."""
    for number, record in enumerate(records(source)):
        metadata = record.get("metadata")
        if not isinstance(metadata, dict) or not {"turns", "tool_calls_count"} & set(metadata):
            continue
        messages = record.get("messages")
        for index, message in enumerate(messages if isinstance(messages, list) else ()):
            if not isinstance(message, dict):
                continue
            content = message.get("content")
            if message.get("role") == "tool":
                text = content if isinstance(content, str) else "" if content is None else None
                yield Raw("tool_result", id_of(message.get("tool_call_id")), text)
                continue
            thinks = isinstance(content, str) and content.startswith("<think>") and "</think>" in content
            said = [message.get(name) for name in ("reasoning_content", "reasoning", "thinking")]
            if (
                message.get("role") == "assistant"
                and thinks
                and not any(isinstance(t, str) and t.strip() for t in said)
            ):
                before, after = str(content).split("</think>", 1)
                message = {**message, "content": after.removeprefix("\n"), "thinking": before[len("<think>") :]}
            yield from chat_message(message, f"{number}.{index}")
