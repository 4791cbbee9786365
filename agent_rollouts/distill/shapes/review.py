"""Records to be looked at, by people or a model: `tool_interactions` and `sampled_turn`.

Messages are the row's own, with all their keys. What another record shows as its own (`copied_context`) is not shown
again, so that no result is judged twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from datasets import Features, Json, List, Value
from xxhash import xxh3_64_intdigest

from agent_rollouts.distill.calls import Call, calls, prompts
from agent_rollouts.distill.shapes.shape import Record, Row, Shape, ShapeOptions, Tally, text, texts

_OUTCOMES = {"ok": "success", "failed": "failure", "refused": "failure", "interrupted": "failure"}


def _tool_interactions(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    messages = row["messages"]
    results = [index for index, message in enumerate(messages) if message["role"] == "tool"]
    own = [index for index in results if not _is_copied(row, index)]
    if not own:
        tally.without["no tool result" if not results else "its tool results are another record's"] += 1
        return
    tally.lost["tool results that are another record's"] += len(results) - len(own)
    found = {call.result: call for call in calls(row) if call.result is not None}
    by_id = {call["id"]: call for message in messages for call in message.get("tool_calls") or ()}
    task = next(iter(prompts(messages)), len(messages))
    written = texts(messages)
    assert written is not None
    for index in own:
        first = max(0, index + 1 - options.context_messages)
        call = by_id.get(messages[index].get("tool_call_id")) if index in found else None
        yield {
            "tool_interaction_context": [*([written[task]] if task < first else []), *written[first : index + 1]],
            "context_from": first,
            "tool_call": None if call is None else text(call),
            "tool_response": written[index],
            "tool_name": call["function"]["name"] if call else messages[index].get("name"),
            "tool_outcome": _outcome(found.get(index)),
            "tool_state": found[index].state if index in found else None,
            "exit_code": found[index].exit_code if index in found else None,
            "message_index": index,
        }


def _outcome(call: Call | None) -> str:
    # Red tests are what a run of tests was for.
    return "unclear" if call is None or call.reported else _OUTCOMES.get(call.state, "unclear")


def _is_copied(row: Row, index: int) -> bool:
    return index < (row.get("owned_from") or 0) or row["messages"][index].get("weight_reason") == "copied_context"


TOOL_INTERACTIONS = Shape(
    about="each tool result with its call, what came before it and how it ended, for review",
    columns=Features(
        {
            "tool_interaction_context": List(Json()),
            "context_from": Value("int64"),
            "tool_call": Json(),
            "tool_response": Json(),
            "tool_name": Value("string"),
            "tool_outcome": Value("string"),
            "tool_state": Value("string"),
            "exit_code": Value("int64"),
            "message_index": Value("int64"),
        }
    ),
    make=_tool_interactions,
)


def _sampled_turn(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    messages = row["messages"]
    own = [index for index in range(len(messages)) if not _is_copied(row, index)]
    if not own:
        tally.without["its messages are another record's"] += 1
        return
    name = [options.seed, *(row.get(key) for key in ("source_kind", "source_path", "trace_id", "window"))]
    index = own[xxh3_64_intdigest(text(name).encode()) % len(own)]
    yield {"sampled_turn": text(messages[index]), "role": messages[index]["role"], "message_index": index}


SAMPLED_TURN = Shape(
    about="one message of each rollout, by chance that a seed fixes, for review",
    columns=Features({"sampled_turn": Json(), "role": Value("string"), "message_index": Value("int64")}),
    make=_sampled_turn,
)
