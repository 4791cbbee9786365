"""Conversations: `messages` and `prompt_completion`, as TRL and most other trainers take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from datasets import Features, Json, List, Value

from agent_rollouts.chat import Message
from agent_rollouts.distill import weights
from agent_rollouts.distill.evidence import moved
from agent_rollouts.distill.shapes.shape import (
    Record,
    Row,
    Shape,
    ShapeOptions,
    Tally,
    chat,
    chat_options,
    is_target,
    texts,
    with_text_arguments,
)
from agent_rollouts.features import USAGE

_AS_THEY_ARE = (
    "tool_error_count", "loop_count", "completed", "reward", "usage", "window_from", "token_count",
    "token_count_is_estimate",
)  # fmt: skip


def _messages(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    # ms-swift drops what it does not know of a message.
    swift = {"reasoning": "inline"} if options.weights_as == "loss" else {}
    found = chat(row, tally, **(chat_options(options) | swift))
    if found is None:
        return
    messages = found.messages
    if options.arguments == "text":
        messages = with_text_arguments(messages, row)
    yield {
        "messages": texts(_WEIGHTS[options.weights_as](messages)),
        "tools": texts(row.get("tools")),
        "owned_from": found.owned_from(row.get("owned_from")),
        **moved(row, found.places),
        **{name: row.get(name) for name in _AS_THEY_ARE},
    }


_WEIGHTS: dict[str, Callable[[list[Message]], list[Message]]] = {
    "weight": list,
    "train": weights.to_axolotl,
    "loss": weights.to_ms_swift,
}

MESSAGES = Shape(
    about="whole conversations with tools, for TRL, Axolotl, ms-swift, Unsloth",
    columns=Features(
        {
            "messages": List(Json()),
            "tools": List(Json()),
            "owned_from": Value("int64"),
            "outcome_evidence": List(
                {"kind": Value("string"), "message_index": Value("int64"), "value": Value("string")}
            ),
            "error_recoveries": List({"failed": Value("int64"), "recovered": Value("int64")}),
            "tool_error_count": Value("int64"),
            "loop_count": Value("int64"),
            "completed": Value("bool"),
            "reward": Value("float64"),
            "usage": USAGE,
            "window_from": Value("int64"),
            "token_count": Value("int64"),
            "token_count_is_estimate": Value("bool"),
        }
    ),
    make=_messages,
)


def _prompt_completion(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    found = chat(row, tally, **chat_options(options))
    if found is None:
        return
    messages = found.messages
    # Nothing to answer stands before a first message.
    targets = [index for index, message in enumerate(messages) if index and is_target(message)]
    if not targets:
        tally.without["no answer to train on"] += 1
        return
    if options.arguments == "text":
        messages = with_text_arguments(messages, row)
    written = texts({key: part for key, part in message.items() if key != "weight"} for message in messages)
    assert written is not None
    tools = texts(row.get("tools"))
    for index in targets if options.completion == "every" else targets[-1:]:
        yield {"prompt": written[:index], "completion": [written[index]], "tools": tools, "message_index": index}


PROMPT_COMPLETION = Shape(
    about="an answer and what came before it, for trainers that train on completions",
    columns=Features(
        {
            "prompt": List(Json()),
            "completion": List(Json()),
            "tools": List(Json()),
            "message_index": Value("int64"),
        }
    ),
    make=_prompt_completion,
)
