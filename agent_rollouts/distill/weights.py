"""Weights: which of the model's turns are worth imitating, message by message.

    row = weigh(row)        # weight 0 with a weight_reason on the others; absent means 1

The unit is the message. One with several calls gets weight 0 for its calls only when none of them is worth
imitating; the reason is then the first of refused_call, failed_call, loop, interrupted that one of them has. What it
said beside such calls shares their weight. A weight that is there already stays, and no text is ever changed.

A call that ended with an error has not failed when it did what it was for: tests that ran and were red, findings
of a compiler or linter, a search without a hit. Calls that were stopped on the way are interrupted.

Uses `messages`, `source_kind` and `cwd`; results are read anew, since the places that `evidence` noted may have moved.
Trainers call the weight differently: `to_axolotl`, `to_ms_swift`, `to_openai`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent_rollouts.distill.calls import Call, Row, calls, prompts, repeated
from agent_rollouts.distill.evidence import is_api_error, is_limit

REASONS = {
    "copied_context": "stands in another row too, or was repeated by a compaction (reading, `families`)",
    "superseded": "the source says that another answer took its place (reading)",
    "synthetic": "the program said it, not the model (reading)",
    "injected": "an assistant message that has an origin: it is not the model's",
    "api_error": "an error of the model's service, or a limit, in the place of an answer",
    "interrupted": "the user stopped it, or all of its calls on the way",
    "refused_call": "the user, or the user's rules, did not let its calls run",
    "failed_call": "its calls failed",
    "loop": "its calls were made for the third time or more, with the same results and nothing new in between",
}
"""Why a message has weight 0. Formats have further reasons of their own, which are kept."""

_OF_CALLS = ("refused_call", "failed_call", "loop", "interrupted")
_STOPPED = {"refused": "refused_call", "interrupted": "interrupted"}


def weigh(row: Row, *, keep_failed_calls: bool = False) -> dict[str, Any]:
    """The row with weight 0 and a reason on the assistant messages that are not worth imitating.

    Args:
        keep_failed_calls: whether failed calls are trained on, as one wants who trains on recoveries.
    """
    messages = row["messages"]
    found = calls(row)
    loops = repeated(found, prompts(messages))
    reasons: dict[int, list[str | None]] = {}
    for place, call in enumerate(found):
        reasons.setdefault(call.message, []).append(_reason(call, loops.get(place, 1)))
    kept = {"failed_call"} if keep_failed_calls else set()
    weighed = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and "weight" not in message:
            reason = _of_message(message) or _of_calls(reasons.get(index, ()), kept)
            if reason:
                message = {**message, "weight": 0, "weight_reason": reason}
        weighed.append(message)
    return {**row, "messages": weighed}


def to_axolotl(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with Axolotl's `train` (true or false) on every one, for `message_field_training: train`.

    Without it Axolotl decides by `roles_to_train` and `train_on_inputs`; `train_on_eos` must not be `all`
    (axolotl 0.19, `prompt_strategies/chat_template.py`).
    """
    return [_renamed(message, "train", _is_target(message)) for message in messages]


def to_ms_swift(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with ms-swift's `loss` (true or false) on the assistant's.

    It overrules ms-swift's own choice of turns (`loss_scale`) and holds for a message's calls, too. What the template
    puts behind an answer is trained on all the same (ms-swift 4.6, `loss_scale/base.py`, `template_inputs.py`).
    """
    return [
        _renamed(message, "loss", _is_target(message) if message["role"] == "assistant" else None)
        for message in messages
    ]


def to_openai(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with OpenAI's `weight` (0 or 1), which only an assistant's may have, without our reason for it."""
    return [
        _renamed(message, "weight", int(_is_target(message)) if message["role"] == "assistant" else None)
        for message in messages
    ]


def _is_target(message: Mapping[str, Any]) -> bool:
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def _renamed(message: Mapping[str, Any], key: str, value: int | None) -> dict[str, Any]:
    kept = {name: part for name, part in message.items() if name not in ("weight", "weight_reason")}
    return kept if value is None else {**kept, key: value}


def _reason(call: Call, times: int) -> str | None:
    if call.state in _STOPPED:
        return _STOPPED[call.state]
    if times >= 3:
        return "loop"
    return "failed_call" if call.state == "failed" and not call.reported else None


def _of_message(message: Mapping[str, Any]) -> str | None:
    if is_api_error(message) or is_limit(message):
        return "api_error"
    return "injected" if message.get("origin") is not None else None


def _of_calls(reasons: Iterable[str | None], kept: set[str]) -> str | None:
    found = [None if reason in kept else reason for reason in reasons]
    if not found or None in found:
        return None
    return next(reason for reason in _OF_CALLS if reason in found)
