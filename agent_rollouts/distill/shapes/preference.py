"""Preference pairs: `prompt`, `chosen` and `rejected` as TRL's DPOTrainer takes them, with `tools`.

* Of one row (`records`): what the user corrected against what the model did then. `rejected` are the turns since the
  prompt before the correction, `chosen` those behind it up to the next prompt, `prompt` is what came before both; the
  correction itself is in none of them. Where the next prompt corrects again, or the rollout then failed or was broken
  off, there is no pair.
* Of two (`candidate`, `pairs`, `pair`): rollouts of one `task_id`, a success and a failure, both whole and from their
  first prompt on. Each is used once.

Trained is all that stands in `chosen` and `rejected`: TRL 1.16 scores every token behind the prompt, so the results of
tools, and prompts between, as well as the model's words, and knows no weights (0 stays in the messages, for those
that do). Turns that are not this model's own are in no pair: another row's, the program's, errors of the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datasets import Features, Json, List, Value

from agent_rollouts.chat import Message
from agent_rollouts.distill.calls import prompts
from agent_rollouts.distill.evidence import corrections
from agent_rollouts.distill.shapes.shape import (
    LINEAGE,
    Chat,
    Record,
    Row,
    Shape,
    ShapeOptions,
    Tally,
    chat,
    chat_options,
    is_target,
    lineage,
    texts,
    with_text_arguments,
)

_ITS_OWN = frozenset({None, "failed_call", "refused_call", "loop"})
_REJECTED = ("trace_id", "source_path", "family_id", "outcome")


def _corrected(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    messages = row["messages"]
    wrong = [index for index in corrections(messages) if index in prompts(messages)[1:]]
    if not wrong:
        tally.without["no answer that the user corrected"] += 1
        return
    found = chat(row, Tally(), **chat_options(options))
    assert found is not None, "a prompt is a user turn"
    parts = [_parts(row, found, index, set(wrong)) for index in wrong]
    records = [part for part in parts if not isinstance(part, str)]
    if not records:
        tally.without[next(part for part in parts if isinstance(part, str))] += 1
    written = with_text_arguments(found.messages, row) if options.arguments == "text" else found.messages
    for prompt, rejected, chosen in records:
        yield {
            "kind": "user_corrected",
            "prompt": texts(written[prompt]),
            "chosen": texts(written[chosen]),
            "rejected": texts(written[rejected]),
            "tools": texts(row.get("tools")),
            **{f"rejected_{name}": row.get(name) for name in _REJECTED},
        }


def _parts(row: Row, found: Chat, at: int, wrong: set[int]) -> tuple[slice, slice, slice] | str:
    """Where prompt, rejected and chosen turns of the correction at a message stand, or why there is no pair."""
    asked = prompts(row["messages"])
    place = asked.index(at)
    following = asked[place + 1] if place + 1 < len(asked) else None
    if following in wrong or (following is None and row.get("outcome") in ("failure", "interrupted")):
        return "the corrected answer did not end well either"
    start, correction = (found.places.get(index) for index in (asked[place - 1], at))
    end = len(found.messages) if following is None else found.places.get(following)
    if start is None or correction is None or end is None or not start < correction < end:
        return "the correction is one message with the prompt before it"
    rejected, chosen = _ended(found.messages, start + 1, correction), _ended(found.messages, correction + 1, end)
    if not rejected or not any(is_target(message) for message in chosen):
        return "no answer before the correction, or none behind it"
    if not all(_is_its_own(row, found.sources[index]) for index in range(start + 1, end)):
        return "turns that are not the model's own"
    return (
        slice(0, start + 1),
        slice(start + 1, start + 1 + len(rejected)),
        slice(correction + 1, correction + 1 + len(chosen)),
    )


def _ended(messages: Sequence[Message], begin: int, end: int | None) -> list[Message]:
    """The messages from `begin` up to the last answer."""
    part = list(messages[begin:end])
    while part and part[-1]["role"] != "assistant":
        part.pop()
    return part


def _is_its_own(row: Row, indices: Iterable[int]) -> bool:
    messages = (row["messages"][index] for index in indices)
    return all(message["role"] != "assistant" or message.get("weight_reason") in _ITS_OWN for message in messages)


def candidate(row: Row, options: ShapeOptions) -> Record | None:
    """What `pairs` and `pair` need of a row that may become half of a pair; None if it may not.

    `task_id`, `outcome` and `key` are the index, of some 200 bytes; the rest is the row's part of a record, as text.
    """
    asked = prompts(row["messages"])
    is_whole = (row.get("windows") or 1) == 1 and not row.get("window_from")
    if not (row.get("task_id") and row.get("outcome") in ("success", "failure") and asked and is_whole):
        return None
    found = chat(row, Tally(), **chat_options(options))
    assert found is not None, "a prompt is a user turn"
    start = found.places.get(asked[0])
    if start is None:
        return None
    turns = _ended(found.messages, start + 1, None)
    own = all(_is_its_own(row, made_of) for made_of in found.sources[start + 1 : start + 1 + len(turns)])
    if not own or not any(map(is_target, turns)):
        return None
    messages = with_text_arguments(found.messages, row) if options.arguments == "text" else found.messages
    return {
        "task_id": row["task_id"],
        "outcome": row["outcome"],
        "key": [str(row.get(name)) for name in ("source_kind", "source_path", "trace_id")],
        "prompt": texts(messages[: start + 1]),
        "turns": texts(messages[start + 1 : start + 1 + len(turns)]),
        "tools": texts(row.get("tools")),
        "lineage": lineage(row),
    }


def pairs(candidates: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Places of a success and a failure at the same task, whatever the order in which they came.

    Only `task_id`, `outcome` and `key` are read and kept.
    """
    tasks: dict[str, dict[str, list[tuple[list[str], int]]]] = {}
    for place, one in enumerate(candidates):
        tasks.setdefault(one["task_id"], {}).setdefault(one["outcome"], []).append((one["key"], place))
    for _, outcomes in sorted(tasks.items()):
        both = zip(sorted(outcomes.get("success", ())), sorted(outcomes.get("failure", ())), strict=False)
        yield from ((success, failure) for (_, success), (_, failure) in both)


def pair(success: Mapping[str, Any], failure: Mapping[str, Any]) -> Record:
    """The record of two candidates: with the success's prompt, tools and lineage."""
    return {
        "kind": "same_task",
        "prompt": success["prompt"],
        "chosen": success["turns"],
        "rejected": failure["turns"],
        "tools": success["tools"],
        **{f"rejected_{name}": failure["lineage"][name] for name in _REJECTED},
        **success["lineage"],
    }


PREFERENCE = Shape(
    about="a better and a worse way on from the same prompt, for TRL's DPOTrainer",
    columns=Features(
        {
            "prompt": List(Json()),
            "chosen": List(Json()),
            "rejected": List(Json()),
            "tools": List(Json()),
            "kind": Value("string"),
            **{f"rejected_{name}": LINEAGE[name] for name in _REJECTED},
        }
    ),
    make=_corrected,
)
