"""Session Trace Simple Format, read plainly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import orjson

from agent_rollouts.audit.raw import Raw, chat_message, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source

_NAMES = {"reasoningContent": "reasoning_content", "toolCalls": "tool_calls", "toolCallId": "tool_call_id"}


def raw(source: Source) -> Iterator[Raw]:
    """Messages by the names that the chat completions API has for their keys, and what was attached to them."""
    for number, record in enumerate(records(source)):
        message = record.get("message")
        if record.get("type") != "message" or not isinstance(message, dict):
            continue
        if isinstance(message.get("toolCalls"), str):
            with suppress(ValueError):
                message["toolCalls"] = orjson.loads(message["toolCalls"])
        named: dict[str, JSON] = {str(_NAMES.get(key, key)): value for key, value in message.items()}
        found = list(chat_message(named, str(number)))
        attached = message.get("extra")
        for one in attached if isinstance(attached, list) else []:
            images = one.get("images") if isinstance(one, dict) and one.get("processedAsImages") else None
            if isinstance(images, list):
                found += [Raw("media", None, None) for _ in images]
            elif isinstance(one, dict) and isinstance(one.get("content"), str):
                found.append(Raw("prompt", str(number), one["content"]))
            else:
                found.append(Raw("media", None, None))
        yield from found
