"""Hermes' trajectories, read plainly: line by line, as no JSON that Hermes writes has a line break in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from agent_rollouts import jsontext
from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.errors import FormatError
from agent_rollouts.events import JSON
from agent_rollouts.source import Source

_TEMPLATE = "You are a function calling AI model. You are provided with function signatures within <tools> </tools>"
_CALL = ("<tool_call>", "</tool_call>")
_RESPONSE = ("<tool_response>", "</tool_response>")


def raw(source: Source) -> Iterator[Raw]:
    """Turns of all rows. Calls are the blocks that a turn ends with, else all of them where results follow."""
    for row in _rows(source):
        turns = row.get("conversations", row.get("traces"))
        turns = (
            [t for t in turns if isinstance(t, dict) and {"from", "value"} <= set(t)] if isinstance(turns, list) else []
        )
        for place, turn in enumerate(turns):
            follows = turns[place + 1]["from"] if place + 1 < len(turns) else None
            text, pictures = _text(turn["value"])
            yield from (Raw("media", None, None) for _ in range(pictures))
            match turn["from"]:
                case "gpt" | "assistant" | "model" | "ai":
                    yield from _answer(text, is_followed=follows in ("tool", "function", "observation"))
                case "tool" | "function" | "observation":
                    yield from _results(turn["value"])
                case str(role) if text and not (role == "system" and place == 0 and text.startswith(_TEMPLATE)):
                    yield Raw("prompt", None, text)


def _rows(source: Source) -> Iterator[dict[str, JSON]]:
    if source.name.endswith(".json"):
        with suppress(FormatError):
            yield source.document()
            return
    yield from records(source)


def _text(value: JSON) -> tuple[str, int]:
    """The text of a value, and how many pictures are among its parts."""
    if isinstance(value, str):
        return value, 0
    texts = [p.get("text", p) if isinstance(p, dict) else p for p in value] if isinstance(value, list) else []
    said = [text for text in texts if isinstance(text, str) and text != "[screenshot]"]
    return "\n".join(said), len(texts) - len(said)


def _answer(text: str, *, is_followed: bool) -> Iterator[Raw]:
    lines = text.split("\n")
    calls: list[JSON] = []
    while len(lines) > 2 and (lines[-3], lines[-1]) == _CALL and (call := _plain_call(lines[-2])):
        calls.insert(0, call)
        del lines[-3:]
    if not calls and is_followed:
        left: list[str] = []
        while lines:
            end = lines.index(_CALL[1]) if lines[0] == _CALL[0] and _CALL[1] in lines else 0
            call = jsontext.loads_exactly("\n".join(lines[1:end]))
            if end and isinstance(call, dict) and isinstance(call.get("name"), str):
                calls.append(call)
            else:
                left += lines[: end + 1]
            del lines[: end + 1]
        lines = left
    thought, said = _parted("\n".join(lines))
    if thought.strip():
        yield Raw("reasoning", None, thought)
    if said.strip():
        yield Raw("answer", None, said)
    yield from (Raw("tool_call", None, (call["name"], _dumps(call.get("arguments", {})))) for call in calls)


def _plain_call(line: str) -> JSON:
    call = jsontext.loads_exactly(line)
    is_call = isinstance(call, dict) and list(call) == ["name", "arguments"] and isinstance(call["name"], str)
    return call if is_call and _dumps(call) == line else None


def _parted(text: str) -> tuple[str, str]:
    """The thought that a text begins with, and the rest."""
    if not text.lstrip().startswith("<think>"):
        return "", text
    inner = text.lstrip().removeprefix("<think>") + "\n"
    for tag in ("\n</think>\n", "</think>"):
        thought, found, rest = inner.partition(tag)
        if found:
            return thought.removeprefix("\n"), rest.removesuffix("\n")
    return "", text


def _results(value: JSON) -> Iterator[Raw]:
    lines = value.split("\n") if isinstance(value, str) else [_dumps(value)]
    starts = [at for at, line in enumerate(lines) if line == _RESPONSE[0]] or [0]
    for start in starts:
        result = jsontext.loads_exactly(lines[start + 1]) if lines[start + 2 : start + 3] == [_RESPONSE[1]] else None
        if not isinstance(result, dict):
            # Pretty-printed ones are results, too; what else it may be is kept as it is.
            yield Raw("tool_result", None, None)
            continue
        content = result.get("content")
        text = content or "" if isinstance(content, str | None) else _dumps(content)
        yield Raw("tool_result", id_of(result.get("tool_call_id")), text)


def _dumps(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)
