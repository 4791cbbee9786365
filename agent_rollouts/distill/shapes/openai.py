"""Rows for OpenAI's fine-tuning: `{"messages", "tools", "parallel_tool_calls"}`, one a line.

The API checks a file as it does a request, and one bad line is a bad file. So: arguments are JSON strings; calls that
no result answers and results that answer no call go, but for the calls of the last answer, with which a line may end;
so do answers that say nothing and what stands behind the last answer that is trained on; `weight` (0 or 1) stands on
answers alone; an empty content beside calls is left out, as is `tools` where it is empty, and `parallel_tool_calls`
with it; names are of 64 letters, digits, `_` and `-` at most. Reasoning and pictures have no place. Source:
platform.openai.com/docs/api-reference/fine-tuning and /chat, read from the web, not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Features, Json, List, Value

from agent_rollouts.chat import Message, without_unanswered
from agent_rollouts.distill import weights
from agent_rollouts.distill.shapes.shape import (
    Record,
    Row,
    Shape,
    ShapeOptions,
    Tally,
    chat,
    is_target,
    texts,
    with_text_arguments,
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _openai(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    found = chat(row, options, tally)
    if found is None:
        return
    messages = found.messages
    last = max((index for index, message in enumerate(messages) if _says(message) and is_target(message)), default=-1)
    if last < 1:
        tally.without["no answer to train on"] += 1
        return
    tools = row.get("tools") or None
    kept = _answered(messages[:last]) + messages[last : last + 1]
    if not all(_NAME.fullmatch(name) for name in _names(kept, tools)):
        tally.without["a tool whose name OpenAI refuses"] += 1
        return
    tally.lost["messages behind the last answer"] += len(messages) - last - 1
    tally.lost["calls without result, results without call, empty answers"] += _parts(messages[: last + 1]) - _parts(
        kept
    )
    tally.lost["reasoning"] += sum("reasoning_content" in message for message in kept)
    written = weights.to_openai(_plain(message) for message in with_text_arguments(kept, row))
    yield {"messages": texts(written), "tools": texts(tools), "parallel_tool_calls": True if tools else None}


def _answered(messages: list[Message]) -> list[Message]:
    """Messages in which every call has its result right behind, and every result its call."""
    kept: list[Message] = []
    asked: set[str] = set()
    for message in without_unanswered(messages):
        if message["role"] == "tool":
            if (id := message.get("tool_call_id")) not in asked:
                continue
            asked.remove(id)
        else:
            asked = {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] != "assistant" or _says(message):
            kept.append(message)
    return kept


def _says(message: Message) -> bool:
    return bool(message["content"] or message.get("tool_calls"))


def _parts(messages: list[Message]) -> int:
    return sum(len(message.get("tool_calls", ())) or 1 for message in messages)


def _names(messages: list[Message], tools: list[Mapping[str, Any]] | None) -> Iterator[str]:
    for tool in tools or ():
        yield str((tool.get("function") or tool).get("name"))
    for message in messages:
        yield from (call["function"]["name"] for call in message.get("tool_calls", ()))


def _plain(message: Message) -> Message:
    gone = {"reasoning_content"}
    if message["role"] == "tool":
        gone.add("name")
    if "tool_calls" in message and not message["content"]:
        gone.add("content")
    return {key: part for key, part in message.items() if key not in gone}


def _line(record: Mapping[str, Any]) -> str:
    line = f'{{"messages":[{",".join(record["messages"])}]'
    if record["tools"]:
        line += f',"tools":[{",".join(record["tools"])}],"parallel_tool_calls":true'
    return line + "}"


OPENAI = Shape(
    about="OpenAI's fine-tuning rows; JSON Lines beside the Parquet files",
    columns=Features({"messages": List(Json()), "tools": List(Json()), "parallel_tool_calls": Value("bool")}),
    make=_openai,
    jsonl=_line,
)
