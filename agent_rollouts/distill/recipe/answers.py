"""Answers of a form: asked for by JSON schema where a server can, read tolerantly, held against the schema.

A server that refuses a schema is asked for JSON, one that refuses that too for nothing in particular; what an endpoint
can is learned from the first answer and kept. The prompt names the schema in all three, so that it stays the same.
An answer that does not hold is sent back with the reason, twice at most.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import orjson

from agent_rollouts.errors import AgentRolloutsError, AnswerError
from agent_rollouts.events import JSON
from agent_rollouts.llm import Completion, Endpoint

REPAIRS = 2
"""How often an answer that does not hold is sent back."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_KEYWORDS = frozenset({
    "type", "description", "enum", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minimum", "maximum", "minLength", "maxLength", "x-max-words", "x-without",
})  # fmt: skip
_FORMS = ("json_schema", "json_object", None)
_SHOWN = 6000  # characters of a wrong answer that go back
_LOOSE = json.JSONDecoder(strict=False)  # line breaks within strings, as weak models write them
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


class Answer(NamedTuple):
    """A value, or null and why; and how often it was sent back."""

    value: Any
    reason: str | None = None
    repairs: int = 0


class Asker:
    """Asks one endpoint for answers of a form; may be shared by threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._form = 0
        self._proven: set[str] = set()
        self._proving = threading.Lock()

    def ask(
        self, name: str, system: str, prompt: str, schema: Mapping[str, JSON] | None, parameters: Mapping[str, JSON]
    ) -> Answer:
        """The answer to a prompt: a value of the schema, or without a schema its text.

        Raises:
            EndpointError, HaltedError: as `Endpoint.complete`.
        """
        asked: list[dict[str, JSON]] = [{"role": "system", "content": system}] if system else []
        asked.append({"role": "user", "content": prompt.strip() + ("" if schema is None else _wanted(schema))})
        messages, why = asked, ""
        for attempt in range(REPAIRS + 1):
            # The same wrong answer twice makes the same prompt twice, and must not find the same answer.
            step = f"{name}#{attempt}" if attempt else name
            try:
                got = self._complete(name, step, messages, schema, parameters)
            except AnswerError as error:
                return Answer(None, str(error), attempt)
            if refusal := got.message.get("refusal"):
                return Answer(None, f"refused: {refusal}", attempt)
            text = str(got.message.get("content") or "")
            value, why = read(text, schema)
            if not why:
                return Answer(value, None, attempt)
            if got.finish_reason == "length":
                why = "it was cut off at the limit of tokens; be shorter"
            back = f"That answer cannot be used: {why}. Give the whole answer again, and nothing besides."
            messages = [
                *asked,
                {"role": "assistant", "content": text[:_SHOWN] or "(empty)"},
                {"role": "user", "content": back},
            ]
        return Answer(None, f"no valid answer: {why}", REPAIRS)

    def _complete(
        self,
        name: str,
        step: str,
        messages: Sequence[Mapping[str, JSON]],
        schema: Mapping[str, JSON] | None,
        parameters: Mapping[str, JSON],
    ) -> Completion:
        # What the user says counts more than what the recipe says.
        parameters = {**parameters, **self.endpoint.parameters}
        if schema is None:
            return self.endpoint.complete(messages, step=step, **parameters)
        # Until one was answered, one at a time: what is learned once need not be learned by each.
        with nullcontext() if name in self._proven else self._proving:
            form = self._form
            while True:
                asked = _response_format(_FORMS[form], name, schema)
                try:
                    got = self.endpoint.complete(messages, response_format=asked, step=step, **parameters)
                except AnswerError as error:
                    if error.status not in (400, 422) or name in self._proven or form == len(_FORMS) - 1:
                        raise
                    form += 1
                    continue
                if not got.cached:
                    self._form = max(form, self._form)
                    self._proven.add(name)
                return got


def read(text: str, schema: Mapping[str, JSON] | None) -> tuple[Any, str]:
    """The value in an answer, and what is wrong with it ('' when nothing is).

    Thoughts before it, a fence around it, trailing commas and line breaks in strings are overlooked; numbers in quotes,
    another case in an enum, and members nobody asked for are put right. Nothing is filled in.
    """
    text = text.rpartition("</think>")[2].strip()
    if schema is None:
        return (text, "") if text else (None, "it is empty")
    why = ""
    for value in _values(text):
        fitted = _fitted(value, schema)
        problem = problems(fitted, schema)
        if not problem:
            return fitted, ""
        why = why or problem
    return None, why or ("it holds no JSON object" if text else "it is empty")


def problems(value: JSON, schema: Mapping[str, Any], at: str = "") -> str:
    """The first thing that is wrong with a value, with its place; '' when nothing is."""
    where = at or "the answer"
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(_is(value, name) for name in names):
        return f"{where} must be {' or '.join(names)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        return _object_problems(value, schema, at)
    if isinstance(value, list):
        if problem := _size_problem(len(value), schema, "Items", where, "items"):
            return problem
        inner = (problems(item, schema.get("items", {}), f"{where}[{i}]") for i, item in enumerate(value))
        return next(filter(None, inner), "")
    if isinstance(value, str):
        return _text_problems(value, schema, where)
    if isinstance(value, (int, float)):
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            return f"{where} must be between {low} and {high}"
    return ""


def check_schema(schema: Mapping[str, JSON], where: str) -> dict[str, JSON]:
    """The schema with what is understood by itself: all members of an object are wanted, and no others.

    Raises:
        AgentRolloutsError: it uses what `problems` does not know.
    """
    if unknown := set(schema) - _KEYWORDS:
        raise AgentRolloutsError(
            f"{where}: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(_KEYWORDS))}"
        )
    names = schema.get("type", [])
    if unknown := {str(name) for name in ([names] if isinstance(names, str) else names)} - set(_TYPES):
        raise AgentRolloutsError(f"{where}: unknown type {', '.join(unknown)}; known: {', '.join(_TYPES)}")
    done = dict(schema)
    if "properties" in schema:
        done["properties"] = {k: check_schema(v, f"{where}.{k}") for k, v in schema["properties"].items()}
        done = {"required": list(done["properties"]), "additionalProperties": False} | done
    if "items" in schema:
        done["items"] = check_schema(schema["items"], f"{where}[]")
    return done


def _object_problems(value: Mapping[str, JSON], schema: Mapping[str, Any], at: str) -> str:
    known = schema.get("properties", {})
    if missing := [name for name in schema.get("required", ()) if name not in value]:
        return f"{at or 'the answer'} lacks {', '.join(missing)}"
    if schema.get("additionalProperties") is False and (more := set(value) - set(known)):
        return f"{at or 'the answer'} must not have {', '.join(sorted(more))}"
    inner = (problems(value[name], known[name], f"{at}.{name}".lstrip(".")) for name in known if name in value)
    return next(filter(None, inner), "")


def _text_problems(value: str, schema: Mapping[str, Any], where: str) -> str:
    if not value.strip() and schema.get("minLength", 1):
        return f"{where} is empty"
    words = schema.get("x-max-words")
    if words is not None and len(value.split()) > words:
        return f"{where} has {len(value.split())} words, {words} are allowed"
    if found := [part for part in schema.get("x-without", ()) if part in value]:
        return f"{where} must not contain {found[0]!r}"
    return _size_problem(len(value), schema, "Length", where, "characters")


def _size_problem(size: int, schema: Mapping[str, Any], kind: str, where: str, unit: str) -> str:
    least, most = schema.get(f"min{kind}", 0), schema.get(f"max{kind}")
    if size < least or (most is not None and size > most):
        return (
            f"{where} has {size} {unit}; {f'{least} to {most}' if most is not None else f'{least} or more'} are allowed"
        )
    return ""


def _is(value: JSON, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name in ("boolean", "null") or not isinstance(value, bool))


def _values(text: str) -> Iterator[JSON]:
    """The JSON values that an answer may mean, the whole of it first, then the last object in it, and so on."""
    try:
        yield orjson.loads(text)
        return
    except orjson.JSONDecodeError:
        pass
    found: list[JSON] = []
    for mended in (text, _TRAILING_COMMA.sub(r"\1", text)):
        at = mended.find("{")
        while at >= 0:
            try:
                value, end = _LOOSE.raw_decode(mended, at)
                found.append(value)
            except (ValueError, RecursionError):
                end = at + 1
            at = mended.find("{", end)
        if found:
            break
    # One that thinks aloud comes to its answer in the end.
    yield from reversed(found)


def _fitted(value: JSON, schema: Mapping[str, Any]) -> JSON:
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        is_closed = schema.get("additionalProperties") is False
        return {k: _fitted(v, known.get(k, {})) for k, v in value.items() if k in known or not is_closed}
    if isinstance(value, list):
        return [_fitted(item, schema.get("items", {})) for item in value]
    if isinstance(value, str):
        same = [option for option in schema.get("enum", ()) if str(option).lower() == value.strip().lower()]
        if same:
            return same[0]
        if schema.get("type") == "integer" and re.fullmatch(r"\s*-?\d{1,15}\s*", value):
            return int(value)
    if isinstance(value, float) and schema.get("type") == "integer" and value.is_integer():
        return int(value)
    return value


def _wanted(schema: Mapping[str, JSON]) -> str:
    text = orjson.dumps(_public(schema)).decode()
    return f"\n\nAnswer with one JSON object, and nothing besides, that follows this JSON schema:\n{text}"


def _response_format(form: str | None, name: str, schema: Mapping[str, JSON]) -> dict[str, JSON] | None:
    if form == "json_schema":
        return {"type": form, "json_schema": {"name": name, "schema": _public(schema), "strict": True}}
    return {"type": form} if form else None


def _public(schema: JSON) -> JSON:
    """The schema without keywords of our own."""
    if isinstance(schema, dict):
        return {key: _public(value) for key, value in schema.items() if not key.startswith("x-")}
    return [_public(item) for item in schema] if isinstance(schema, list) else schema
