"""Rows for OpenAI's fine-tuning: `{"messages", "tools", "parallel_tool_calls"}`, one a line.

The API checks a file as it does a request, and one bad line is a bad file. So: arguments are JSON strings; calls that
no result answers and results that answer no call go, but for the calls of the last answer, with which a line may end;
so do answers that say nothing and what stands behind the last answer that is trained on; `weight` (0 or 1) stands on
answers alone; an empty content beside calls is left out, as is `tools` where it is empty, and `parallel_tool_calls`
with it; names are of 64 letters, digits, `_` and `-` at most. Reasoning and pictures have no place. Source:
platform.openai.com/docs/api-reference/fine-tuning and /chat, as they are known here, not tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Features, Json, List, Value

from agent_rollouts.chat import Message
from agent_rollouts.distill import weights
from agent_rollouts.distill.shapes.shape import (
    Record,
    Row,
    Shape,
    ShapeOptions,
    Tally,
    chat,
    texts,
    up_to_last_answer,
    with_text_arguments,
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _openai(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    found = chat(row, tally)
    if found is None or not (messages := up_to_last_answer(found.messages, tally)):
        return
    tools = row.get("tools") or None
    if not all(_NAME.fullmatch(name) for name in _names(messages, tools)):
        tally.without["a tool whose name OpenAI refuses"] += 1
        return
    tally.lost["reasoning"] += sum("reasoning_content" in message for message in messages)
    written = weights.to_openai(_plain(message) for message in with_text_arguments(messages, row))
    yield {"messages": texts(written), "tools": texts(tools), "parallel_tool_calls": True if tools else None}


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
