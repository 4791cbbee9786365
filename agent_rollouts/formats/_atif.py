"""What Harbor's own validator refuses in an ATIF trajectory; for `strict`.

It says of a value where it breaks the specification (v1.8, `harbor.models.trajectories`, harbor 0.25.0) and how.
Whether pictures are there is not checked, as a trajectory may be read without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeAlias

from agent_rollouts.events import JSON

Check: TypeAlias = Callable[[JSON, str], Iterator[str]]

_VERSIONS = frozenset(f"ATIF-v1.{minor}" for minor in range(9))
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_SOUNDS = frozenset(
    f"audio/{kind}" for kind in ("wav", "mpeg", "mp4", "aac", "ogg", "flac", "webm", "aiff", "mp3", "mpga", "x-mpeg",
    "x-wav", "wave", "vnd.wave", "x-m4a", "m4a", "x-aac", "x-flac", "x-aiff")
)  # fmt: skip
_AGENT_ONLY = ("model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics")


def breaches(trajectory: JSON) -> Iterator[str]:
    """Each breach of the specification as `place: what is wrong`."""
    return _trajectory(trajectory, "")


def _is(what: str, fits: Callable[[JSON], bool]) -> Check:
    def check(value: JSON, at: str) -> Iterator[str]:
        if not fits(value):
            yield f"{at}: {what} expected"

    return check


def _float(value: JSON) -> float | None:
    """A number, also one written as text: Harbor's models accept it."""
    try:
        return float(value) if isinstance(value, (int, float, str)) else None
    except (ValueError, OverflowError):
        return None


def _whole(value: JSON, least: float = -math.inf) -> bool:
    if isinstance(value, int):
        return value >= least
    number = _float(value)
    return number is not None and number.is_integer() and number >= least


_TEXT = _is("a string", lambda value: isinstance(value, str))
_NUMBER = _is("a number", lambda value: _float(value) is not None)
_WHOLE = _is("an integer", _whole)
_COUNT = _is("an integer of 0 or more", lambda value: _whole(value, 0))
_FLAG = _is("true or false", lambda value: value in (0, 1) or value in ("true", "false"))
_OBJECT = _is("an object", lambda value: isinstance(value, dict))


def _list(item: Check, least: int = 0) -> Check:
    def check(value: JSON, at: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{at}: a list expected"
            return
        if len(value) < least:
            yield f"{at}: at least {least} expected"
        for number, one in enumerate(value):
            yield from item(one, f"{at}[{number}]")

    return check


def _model(required: str, rule: Check | None = None, /, **fields: Check) -> Check:
    """An object of these fields, of which those not `required` may be null or left out."""
    needed = required.split()

    def check(value: JSON, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at or 'trajectory'}: an object expected"
            return
        inner = f"{at}." if at else ""
        missing = [name for name in needed if name not in value]
        yield from (f"{inner}{name}: is missing" for name in missing)
        found = bool(missing)
        for name, one in value.items():
            if name not in fields:
                yield f"{inner}{name}: no field of ATIF"
            elif one is not None or name in needed:
                for breach in fields[name](one, f"{inner}{name}"):
                    found = True
                    yield breach
        # The rules of the whole take its parts for granted.
        if rule is not None and not found:
            yield from rule(value, at)

    return check


def _timestamp(value: JSON, at: str) -> Iterator[str]:
    try:
        datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        yield f"{at}: no ISO 8601 instant"


def _part(part: JSON, at: str) -> Iterator[str]:
    if part["type"] == "text":
        if part.get("text") is None or part.get("source") is not None:
            yield f"{at}: a text part has a text and no source"
        return
    about = part.get("source")
    if about is None or part.get("text") is not None:
        yield f"{at}: a part of type {part['type']} has a source and no text"
        return
    kind = str(about.get("media_type"))
    known = kind in _IMAGES if part["type"] == "image" else kind.strip().lower() in _SOUNDS
    if not known or ("duration_sec" in about and part["type"] == "image"):
        yield f"{at}.source: {kind} is no {part['type']}"


def _reference(reference: JSON, at: str) -> Iterator[str]:
    if reference.get("trajectory_id") is None and reference.get("trajectory_path") is None:
        yield f"{at}: neither trajectory_id nor trajectory_path"


def _step_rules(step: JSON, at: str) -> Iterator[str]:
    if step.get("source") != "agent":
        for name in _AGENT_ONLY:
            if step.get(name) is not None:
                yield f"{at}.{name}: only steps of the agent have it"
    elif step.get("llm_call_count") == 0:
        for name in ("metrics", "reasoning_content"):
            if step.get(name) is not None:
                yield f"{at}.{name}: must be absent where llm_call_count is 0"
    calls = {call.get("tool_call_id") for call in step.get("tool_calls") or ()}
    for number, result in enumerate((step.get("observation") or {}).get("results") or ()):
        call = result.get("source_call_id")
        if call is not None and call not in calls:
            yield f"{at}.observation.results[{number}].source_call_id: {call!r} is no call of this step"


def _trajectory_rules(trajectory: JSON, at: str) -> Iterator[str]:
    inner = f"{at}." if at else ""
    if "schema_version" in trajectory and trajectory["schema_version"] is None:
        yield f"{inner}schema_version: is null"
    for number, step in enumerate(trajectory.get("steps") or (), 1):
        if _float(step["step_id"]) != number:
            yield f"{inner}steps[{number - 1}].step_id: {number} expected, got {step.get('step_id')}"
    seen: set[JSON] = set()
    for number, embedded in enumerate(trajectory.get("subagent_trajectories") or ()):
        name = embedded.get("trajectory_id")
        if name is None or name in seen:
            why = "is missing" if name is None else f"{name!r} is there twice"
            yield f"{inner}subagent_trajectories[{number}].trajectory_id: {why}"
        seen.add(name)


_media_source = _model("media_type path", media_type=_TEXT, path=_TEXT, duration_sec=_NUMBER)
_content_part = _model(
    "type", _part, type=_is("text, image or audio", lambda kind: kind in ("text", "image", "audio")),
    text=_TEXT, source=_media_source,
)  # fmt: skip


def _content(value: JSON, at: str) -> Iterator[str]:
    return (_list(_content_part) if isinstance(value, list) else _TEXT)(value, at)


_subagent_ref = _model("", _reference, trajectory_id=_TEXT, session_id=_TEXT, trajectory_path=_TEXT, extra=_OBJECT)
_result = _model(
    "", source_call_id=_TEXT, content=_content, subagent_trajectory_ref=_list(_subagent_ref), extra=_OBJECT
)
_call = _model(
    "tool_call_id function_name arguments", tool_call_id=_TEXT, function_name=_TEXT, arguments=_OBJECT, extra=_OBJECT
)
_metrics = _model(
    "", prompt_tokens=_WHOLE, completion_tokens=_WHOLE, cached_tokens=_WHOLE, cost_usd=_NUMBER,
    prompt_token_ids=_list(_WHOLE), completion_token_ids=_list(_WHOLE), logprobs=_list(_NUMBER), extra=_OBJECT,
)  # fmt: skip
_step = _model(
    "step_id source message", _step_rules, step_id=_WHOLE, timestamp=_timestamp,
    source=_is("system, user or agent", lambda source: source in ("system", "user", "agent")), model_name=_TEXT,
    reasoning_effort=_is("a string or a number", lambda effort: isinstance(effort, (str, int, float))),
    message=_content, reasoning_content=_TEXT, tool_calls=_list(_call),
    observation=_model("results", results=_list(_result)), metrics=_metrics, is_copied_context=_FLAG,
    llm_call_count=_COUNT, extra=_OBJECT,
)  # fmt: skip
_trajectory: Check = _model(
    "agent steps", _trajectory_rules,
    schema_version=_is("ATIF-v1.0 to ATIF-v1.8", lambda version: isinstance(version, str) and version in _VERSIONS),
    session_id=_TEXT, trajectory_id=_TEXT,
    agent=_model(
        "name version", name=_TEXT, version=_TEXT, model_name=_TEXT, tool_definitions=_list(_OBJECT), extra=_OBJECT
    ),
    steps=_list(_step, 1), notes=_TEXT,
    final_metrics=_model(
        "", total_prompt_tokens=_WHOLE, total_completion_tokens=_WHOLE, total_cached_tokens=_WHOLE,
        total_cost_usd=_NUMBER, total_steps=_COUNT, extra=_OBJECT,
    ),
    continued_trajectory_ref=_TEXT, extra=_OBJECT,
    subagent_trajectories=_list(lambda value, at: _trajectory(value, at)),
)  # fmt: skip
