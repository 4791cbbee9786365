"""Rows written as Hermes Agent writes its trajectories; see `formats.hermes_trajectory`.

The rules are those of Hermes' own converter:

* The system turn is Hermes' prompt for function calling with the row's tools; no other instructions are written.
* Every answer has a `<think>` block, empty where nothing was thought; scratchpads in a text become one.
* Calls are JSON between tags, without ids; arguments that are no JSON become `{}`.
* The results of an answer are one `tool` turn; a content that is JSON stands in it as JSON. They are named after the
  calls by position, or by their ids where a call has none.

A row that was read from such a file is written as it was, byte for byte (numbers included, if its dataset went through
`exact`). What a trajectory cannot hold is counted.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from datasets import Features, Json, List, Value

from agent_rollouts import jsontext
from agent_rollouts.distill.shapes.shape import Record, Row, Shape, ShapeOptions, Tally, is_target
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.formats.hermes_trajectory import NO_THOUGHT, NOTICE, SCREENSHOT, SYSTEM, THINK

logger = logging.getLogger(__name__)

SAMPLES = "trajectory_samples.jsonl"
FAILED = "failed_trajectories.jsonl"

_SCRATCHPAD = "<REASONING_SCRATCHPAD>"


def write_trajectories(
    rows: Iterable[Mapping[str, JSON]],
    folder: str | os.PathLike[str],
    *,
    known_tools: Sequence[str] | None = None,
    drop_without_reasoning: bool = False,
) -> Counter[str]:
    """Write rows to `trajectory_samples.jsonl`, those that did not complete to `failed_trajectories.jsonl`.

    The files appear when all rows are written. A row whose source does not say whether it completed is a sample.

    Args:
        known_tools: asks for the batch runner's rows, whose statistics name all of these; see `trajectory`.
        drop_without_reasoning: leave out rows in which no answer has reasoning, as the batch runner does.

    Returns:
        Rows by file, rows left out by reason, and what was not or not quite written.

    Raises:
        AgentRolloutsError: one of the files is there already; it may be a Hermes agent's own.
    """
    target = Path(folder)
    if there := [name for name in (SAMPLES, FAILED) if (target / name).exists()]:
        raise AgentRolloutsError(f"{target} has {' and '.join(there)} already; choose another folder")
    target.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    parts = {name: target / f".{name}.incomplete" for name in (SAMPLES, FAILED)}
    try:
        with ExitStack() as stack:
            files: dict[str, TextIO] = {}
            for number, row in enumerate(rows):
                if drop_without_reasoning and not has_reasoning(row["messages"]):
                    counts["left out: no reasoning"] += 1
                    continue
                line = json.dumps(
                    trajectory(row, known_tools=known_tools, prompt_index=number, counts=counts), ensure_ascii=False
                )
                name = FAILED if row.get("completed") is False else SAMPLES
                if name not in files:
                    files[name] = stack.enter_context(parts[name].open("w", encoding="utf-8", newline="\n"))
                files[name].write(f"{line}\n")
                counts[name] += 1
        for name in files:
            parts[name].rename(target / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return +counts


def trajectory(
    row: Mapping[str, JSON],
    *,
    known_tools: Sequence[str] | None = None,
    prompt_index: int = 0,
    counts: Counter[str] | None = None,
) -> dict[str, JSON]:
    """One line of a trajectory file.

    A row that was read from such a file has the keys it had there; others have those of the CLI's rows.

    Args:
        row: a row of the dataset.
        known_tools: makes it a row of the batch runner, its statistics counted anew: zeros for each of these tools
            that was not called, and behind them the called ones that are not known.
        prompt_index: of a batch runner's row that has none yet.
        counts: see `to_sharegpt`.
    """
    meta: Mapping[str, JSON] = row.get("source_meta") or {}
    messages: Sequence[Mapping[str, JSON]] = row["messages"]
    turns = to_sharegpt(messages, row.get("tools"), source_meta=meta, counts=counts)
    before: Mapping[str, JSON] = meta.get("row", {})
    moment, model, completed = row.get("ended_at") or row.get("started_at"), row.get("model"), row.get("completed")
    stats = None if known_tools is None else tool_stats(messages, known_tools)
    errors = None if stats is None else {name: stats[name]["failure"] for name in stats}
    if before and (stats is None or "tool_stats" in before):
        again = dict(before)
        again["conversations" if "conversations" in before else "traces"] = turns
        if completed is not None:
            again["completed"] = completed
        return again if stats is None else {**again, "tool_stats": stats, "tool_error_counts": errors}
    if stats is None:
        return {"conversations": turns, "timestamp": moment, "model": model, "completed": completed}
    return {
        "prompt_index": prompt_index,
        "conversations": turns,
        "metadata": {"batch_num": 0, "timestamp": moment, "model": model},
        "completed": completed,
        "partial": False,
        "api_calls": sum(message["role"] == "assistant" for message in messages),
        "toolsets_used": [],
        "tool_stats": stats,
        "tool_error_counts": errors,
    }


def to_sharegpt(
    messages: Sequence[Mapping[str, JSON]],
    tools: Sequence[Mapping[str, JSON]] | None,
    *,
    source_meta: Mapping[str, JSON] | None = None,
    counts: Counter[str] | None = None,
) -> list[dict[str, JSON]]:
    """The turns of a trajectory.

    Args:
        messages: messages of a row.
        tools: function schemas; null is written as none.
        source_meta: that of a row which was read from a trajectory, and tells how its turns were spelt.
        counts: takes what a trajectory cannot hold.
    """
    meta = source_meta or {}
    counts = Counter() if counts is None else counts
    turns: list[dict[str, JSON]] = []
    # Turns that no message stands for.
    layouts: Mapping[str, Sequence[str]] = meta.get("think", {})
    extra = {
        number: {"from": "gpt", "value": "".join(layouts.get(str(number), NO_THOUGHT)).strip()}
        for number in meta.get("empty_turns", ())
    }
    if moved := meta.get("misplaced_prompt"):
        extra[1] = {"from": "human", "value": ""}

    def add(speaker: str, value: JSON) -> None:
        turns.append({"from": speaker, "value": value})
        while len(turns) in extra:
            turns.append(extra[len(turns)])

    is_own = "row" in meta
    if meta.get("system_template") == "hermes" or not is_own:
        add("system", system(tools or ()) + (NOTICE if meta.get("summary_notice") else ""))
    for message, results in _answered(messages, counts):
        number = str(len(turns))
        role, content = message["role"], message["content"]
        counts["pictures not written"] += len(message.get("media") or ())
        if role == "assistant":
            counts["answers of weight 0, written like others"] += message.get("weight") == 0
            said = content if is_own else _without_scratchpad(content)
            add("gpt", _answer(message, said, layouts.get(number), counts))
            if results:
                add("tool", _tool_turn(message, results, meta.get("result_ids", {})))
        elif role == "user":
            add("human", _with_parts(content, meta.get("parts", {}).get(number)))
        elif is_own:
            add("system", content)
        else:
            counts["system messages not written"] += 1
    if moved and moved < len(turns):
        extra[1]["value"] = turns[moved]["value"]
    return turns


def system(tools: Iterable[Mapping[str, JSON]]) -> str:
    """Hermes' system turn for these function schemas."""
    listed = []
    for tool in tools:
        function = tool.get("function") or tool
        listed.append(
            {
                "name": function.get("name"),
                "description": function.get("description", ""),
                "parameters": function.get("parameters", {}),
                "required": None,
            }
        )
    return SYSTEM[0] + json.dumps(listed, ensure_ascii=False) + SYSTEM[1]


def has_reasoning(messages: Iterable[Mapping[str, JSON]]) -> bool:
    """Whether an answer has reasoning, or a scratchpad in its text."""
    return any(
        (message.get("reasoning_content") or "").strip() or _SCRATCHPAD in message["content"]
        for message in messages
        if message["role"] == "assistant"
    )


def tool_stats(messages: Iterable[Mapping[str, JSON]], known_tools: Iterable[str] = ()) -> dict[str, dict[str, int]]:
    """How often each tool was called, and how often with and without success, as Hermes judges results.

    Known tools come first, zeros where they were not called.
    """
    stats = {name: {"count": 0, "success": 0, "failure": 0} for name in known_tools}
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            name = call["function"]["name"]
            stats.setdefault(name, {"count": 0, "success": 0, "failure": 0})["count"] += 1
            names[call["id"]] = name
        if message["role"] == "tool" and (called := names.get(message.get("tool_call_id", ""))) is not None:
            has_failed = message.get("is_error") is True or _tells_failure(message["content"])
            stats[called]["failure" if has_failed else "success"] += 1
    return stats


def _tells_failure(content: str) -> bool:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return not content or content.strip().lower().startswith("error:")
    if not isinstance(value, dict):
        return False
    inner = value.get("content")
    inner_error = inner.get("error") if isinstance(inner, dict) else None
    # Exit codes other than 0 are no failures: the model can correct itself.
    return value.get("error") is not None or inner_error is not None or value.get("success") is False


def _answered(
    messages: Iterable[Mapping[str, JSON]], counts: Counter[str]
) -> list[tuple[Mapping[str, JSON], list[Mapping[str, JSON]]]]:
    """Messages that are no results, each with the results that follow its calls."""
    groups: list[tuple[Mapping[str, JSON], list[Mapping[str, JSON]]]] = []
    for message in messages:
        if message["role"] != "tool":
            groups.append((message, []))
        elif groups and groups[-1][0].get("tool_calls"):
            groups[-1][1].append(message)
        else:
            counts["results without a call before them, not written"] += 1
    return groups


def _without_scratchpad(text: str) -> str:
    if _SCRATCHPAD not in text:
        return text
    return text.replace(_SCRATCHPAD, "<think>").replace("</REASONING_SCRATCHPAD>", "</think>")


def _answer(message: Mapping[str, JSON], said: str, layout: Sequence[str] | None, counts: Counter[str]) -> str:
    thought = message.get("reasoning_content") or ""
    calls = [_call(call["function"], counts) for call in message.get("tool_calls") or ()]
    if calls:
        said = f"{said}\n" if said.strip() else ""
    rest = said + "\n".join(calls)
    if layout:
        value = layout[0] + thought + layout[1] + rest
    elif thought.strip():
        value = THINK[0] + thought + THINK[1] + rest
    else:
        value = rest if "<think>" in rest else NO_THOUGHT + rest
    return value.rstrip() if calls else value.strip()


def _call(function: Mapping[str, JSON], counts: Counter[str]) -> str:
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = jsontext.tolerant(arguments)[0]
        except ValueError:
            logger.warning("arguments of %s are no JSON, {} is written: %.100s", function["name"], arguments)
            counts["arguments that are no JSON, written as {}"] += 1
            arguments = {}
    return f"<tool_call>\n{_dumps({'name': function['name'], 'arguments': arguments})}\n</tool_call>"


def _tool_turn(
    message: Mapping[str, JSON], results: Sequence[Mapping[str, JSON]], original_ids: Mapping[str, str]
) -> str:
    calls = message["tool_calls"]
    names = [call["function"]["name"] for call in calls]
    by_id = {call.get("id"): name for call, name in zip(calls, names, strict=True)}
    written = []
    for place, result in enumerate(results):
        id = result.get("tool_call_id", "")
        name = names[place] if place < len(names) else "unknown"
        if len(results) < len(calls) == len(by_id):
            name = by_id.get(id, name)
        value = {"tool_call_id": original_ids.get(id, id), "name": name, "content": _content(result["content"])}
        written.append(f"<tool_response>\n{_dumps(value)}\n</tool_response>")
    return "\n".join(written)


def _content(text: str) -> JSON:
    """The JSON that a result is, or its text."""
    if text.strip().startswith(("{", "[")):
        try:
            value, changed = jsontext.tolerant(text)
        except ValueError:
            return text
        return text if changed else value
    return text


def _with_parts(text: str, lengths: Sequence[int | None] | None) -> JSON:
    """The content parts that a prompt was read from, unless its text was changed since."""
    if lengths is None:
        return text
    texts, at = [], 0
    for length in lengths:
        texts.append(SCREENSHOT if length is None else text[at : at + length])
        at += 0 if length is None else length + 1
    joined = "\n".join(text for text, length in zip(texts, lengths, strict=True) if length is not None)
    return [{"type": "text", "text": text} for text in texts] if joined == text else text


def _dumps(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hermes(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    if (row.get("windows") or 1) > 1 or row.get("window_from"):
        # It tells how turns were spelt by their numbers in the whole conversation.
        row = {**row, "source_meta": {}}
    line = trajectory(row, counts=tally.lost)
    del tally.lost["pictures not written"]  # counted for every shape
    name = _turns_of(line)
    empty = (row.get("source_meta") or {}).get("empty_turns", ())
    answers = (message for message in row["messages"] if message["role"] == "assistant")
    yield {
        "conversations": [_dumps(turn) for turn in line[name]],
        "weights": [
            None if turn["from"] != "gpt" else int(number not in empty and is_target(next(answers)))
            for number, turn in enumerate(line[name])
        ],
        "trajectory": _dumps({**line, name: None}),
    }


def _turns_of(line: Mapping[str, JSON]) -> str:
    return "conversations" if "conversations" in line else "traces"


def _line(record: Mapping[str, Any]) -> str:
    line = json.loads(record["trajectory"])
    return _dumps(line | {_turns_of(line): [json.loads(turn) for turn in record["conversations"]]})


HERMES = Shape(
    about="Hermes Agent's trajectories (ShareGPT with calls as XML); JSON Lines beside the Parquet files",
    # Hermes has no weights: they stand beside its turns, one for each. `trajectory` is the line without its turns.
    columns=Features({"conversations": List(Json()), "weights": List(Value("int64")), "trajectory": Json()}),
    make=_hermes,
    jsonl=_line,
)
