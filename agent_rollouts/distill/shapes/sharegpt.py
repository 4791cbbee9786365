"""ShareGPT as LLaMA-Factory reads it: turns of `from` and `value`, in strict alternation.

    {"conversations": [{"from": "human", "value": …}, {"from": "function_call", "value": …},
                       {"from": "observation", "value": …}, {"from": "gpt", "value": …}], "system": …, "tools": …}

human and observation stand at even places, gpt and function_call at odd ones, gpt or function_call is last; of
anything else LLaMA-Factory makes an example without words, and a warning. So neighbours of one side become one turn:
results are parted by LLaMA-Factory's own `</tool_response>`, a prompt behind results follows them in their
observation. Conversations end with the last answer that is trained on, and begin with a prompt.

A function_call is `{"name", "arguments"}`, or a list of them for parallel calls; where there is reasoning
(`<think>`) or text beside, it stands behind them in `<tool_call>` tags, as LLaMA-Factory 0.9.5 takes it for all of its
templates but lfm's, which have other tags; glm4's take one call a turn at most. Turns have a `weight` (0 or 1; null
for what the model reads) for trainers that know one. LLaMA-Factory does not: it trains on every gpt and function_call
turn, with `mask_history` on the last.

Its `dataset_info.json`, which takes the JSON Lines file (the Parquet files have a type of column that the `datasets`
which it asks for cannot read):

    {"rollouts": {"file_name": "OUT/sharegpt/train.jsonl", "formatting": "sharegpt",
                  "columns": {"messages": "conversations", "system": "system", "tools": "tools"}}}

Source: LLaMA-Factory 0.9.5, `data/converter.py`, `data/formatter.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from datasets import Features, List, Value

from agent_rollouts.chat import Message
from agent_rollouts.distill.shapes.shape import (
    Record,
    Row,
    Shape,
    ShapeOptions,
    Tally,
    chat,
    is_target,
    text,
    up_to_last_answer,
)

_BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
# What LLaMA-Factory looks for in a function_call, before it reads the JSON.
_SOUGHT = ("think>", "tool_call>", "<|", "|>")


def _sharegpt(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    found = chat(row, tally)
    if found is None:
        return
    messages = found.messages
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
    first = next(index for index, message in enumerate(messages) if message["role"] == "user")
    kept = up_to_last_answer(messages[first:], tally)
    if not kept:
        return
    tally.lost["messages before the first prompt"] += first
    sides = groupby(kept, key=lambda message: message["role"] == "assistant")
    turns = [(_answer if is_answer else _asked)(list(side), tally) for is_answer, side in sides]
    tally.lost["answers of weight 0, which LLaMA-Factory trains on"] += sum(turn["weight"] == 0 for turn in turns)
    yield {"conversations": turns, "system": system, "tools": text(row["tools"]) if row.get("tools") else None}


def _asked(messages: Sequence[Message], tally: Tally) -> Record:
    results = [message["content"] for message in messages if message["role"] == "tool"]
    prompts = [message["content"] for message in messages if message["role"] == "user"]
    if results:
        tally.lost["prompts within the results before them"] += len(prompts)
    value = "\n\n".join([*([_BETWEEN_RESULTS.join(results)] if results else []), *prompts])
    return {"from": "observation" if results else "human", "value": value, "weight": None}


def _answer(messages: Sequence[Message], tally: Tally) -> Record:
    tally.lost["answers within the one before them"] += len(messages) - 1
    thought = "\n\n".join(message["reasoning_content"] for message in messages if "reasoning_content" in message)
    said = "\n\n".join(message["content"] for message in messages if message["content"])
    value = f"<think>\n{thought}\n</think>\n\n{said}" if thought else said
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    if calls:
        if _OPEN in value:
            tally.lost["reasoning and text beside calls that hold <tool_call>"] += 1
            value = ""
        json = _escaped(text(calls if len(calls) > 1 else calls[0]))
        value = f"{value}\n{_OPEN}\n{json}\n{_CLOSE}" if value else json
    return {
        "from": "function_call" if calls else "gpt",
        "value": value,
        "weight": int(all(map(is_target, messages))),
    }


def _escaped(json: str) -> str:
    return json.replace("<", "\\u003c") if any(word in json for word in _SOUGHT) else json


def _line(record: Mapping[str, Any]) -> str:
    turns = [{"from": turn["from"], "value": turn["value"]} for turn in record["conversations"]]
    return text({"conversations": turns, "system": record["system"] or "", "tools": record["tools"] or ""})


SHAREGPT = Shape(
    about="turns of human, gpt, function_call and observation, for LLaMA-Factory; JSON Lines beside the Parquet files",
    columns=Features(
        {
            "conversations": List({"from": Value("string"), "value": Value("string"), "weight": Value("int64")}),
            "system": Value("string"),
            "tools": Value("string"),
        }
    ),
    make=_sharegpt,
    jsonl=_line,
)
