"""ATIF, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of
from agent_rollouts.events import JSON
from agent_rollouts.source import Source

_ROLES = {"agent": "answer", "assistant": "answer"}


def raw(source: Source) -> Iterator[Raw]:
    """The steps of the trajectory and of those within it."""
    document = source.document()
    if isinstance(document, dict):
        yield from _trajectory(document, "")


def _trajectory(document: dict[str, JSON], within: str) -> Iterator[Raw]:
    known: set[str] = set()
    for number, step in enumerate(_objects(document.get("steps"))):
        yield from _step(step, f"{within}{number}", known)
    for number, embedded in enumerate(_objects(document.get("subagent_trajectories"))):
        yield from _trajectory(embedded, f"{within}{number}.")


def _step(step: dict[str, JSON], key: str, known: set[str]) -> Iterator[Raw]:
    source = str(step.get("source"))
    yield from _content(step.get("message"), _ROLES.get(source, "prompt"), key)
    match step.get("reasoning_content"):
        case str(thought) if thought.strip():
            yield Raw("reasoning", key, thought)
        case None | str():
            pass
        case _:
            yield Raw("reasoning", key, "")
    ids: list[str | None] = []
    calls = step.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        call = call if isinstance(call, dict) else {}
        given = call.get("arguments")
        blank = given is None or (isinstance(given, str) and not given.strip())
        yield Raw("tool_call", id_of(call.get("tool_call_id")), (call.get("function_name"), {} if blank else given))
        if source in _ROLES and isinstance(call.get("function_name"), str) and call["function_name"]:
            ids.append(id_of(call.get("tool_call_id")))
    match step.get("observation"):
        case {"results": list(results)}:
            yield from _results([one for one in results if isinstance(one, dict)], ids, key, known)
    known.update(id for id in ids if id)


def _results(results: list[dict[str, JSON]], ids: list[str | None], key: str, known: set[str]) -> Iterator[Raw]:
    """Results of calls; what answers none is text, and of several for one call plain reading tells the number only."""
    # Where only a sub-agent is named, what it said stands in its own trajectory.
    results = [one for one in results if one.get("content") is not None or not one.get("subagent_trajectory_ref")]
    named = [one for one in results if id_of(one.get("source_call_id"))]
    loose = [one for one in results if one not in named and one.get("content") is not None]
    free = list(ids)
    for result in named:
        call = id_of(result["source_call_id"])
        media = list(_content(result.get("content"), "tool_result", key))
        if call in ids or call in known:
            is_further = call in ids and call not in free
            if call in free:
                free.remove(call)
            if not is_further:
                sharing = [one for one in named if one["source_call_id"] == call]
                yield Raw("tool_result", call, _text(media) if len(sharing) == 1 else None)
        else:
            yield from (one._replace(kind="prompt") if one.kind == "tool_result" else one for one in media)
            continue
        yield from (one for one in media if one.kind == "media")
    for number, result in enumerate(loose):
        found = list(_content(result.get("content"), "tool_result", key))
        yield from (one for one in found if one.kind == "media")
        if len(loose) == len(free):
            yield Raw("tool_result", free[number], _text(found))
        elif not free:
            yield from (one._replace(kind="prompt") for one in found if one.kind == "tool_result")
    if loose and free and len(loose) != len(free):
        yield Raw("tool_result", free[-1], None)


def _content(content: JSON, kind: str, key: str) -> Iterator[Raw]:
    """One text of all text parts, and a medium for every other part."""
    texts: list[str] = []
    for part in content if isinstance(content, list) else [] if content is None else [content]:
        match part:
            case str(text) | {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "text"}:
                pass
            case _:
                yield Raw("media", None, None)
    if any(texts):
        yield Raw(kind, key, "\n".join(texts))


def _text(found: list[Raw]) -> str:
    return next((str(one.value) for one in found if one.kind != "media"), "")


def _objects(value: JSON) -> list[dict[str, JSON]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
