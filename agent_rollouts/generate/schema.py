"""Function schemas of tools, made of type hints and docstrings, and calls held against them.

    def lookup(word: str, language: Literal["en", "de"] = "en") -> str:
        '''Look a word up.

        Args:
            word: the word
            language: of the dictionary
        '''

The first paragraph of the docstring describes the tool, the lines of `Args:` its arguments.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

import re2

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON

_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}
_ARGUMENT = re2.compile(r"^(\s+)\*{0,2}(\w+)(?: \([^)]*\))?: *(.*)$")
_HEADING = re2.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples|Note):\s*$")


def schema(function: Callable[..., Any], name: str, *, skip: int = 0) -> dict[str, JSON]:
    """The OpenAI function schema of a tool.

    Args:
        function: has a type hint for every argument, and a docstring.
        name: of the tool.
        skip: leading arguments that the model does not give.

    Raises:
        AgentRolloutsError: a hint or the docstring is missing, or a type has no JSON.
    """
    text, described = _described(function, name)
    hints = typing.get_type_hints(function)
    properties: dict[str, JSON] = {}
    required = []
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        place = f"tool {name}, argument {parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise AgentRolloutsError(f"{place}: a tool's arguments are named, one by one")
        if parameter.name not in hints:
            raise AgentRolloutsError(f"{place} has no type hint")
        value = json_type(hints[parameter.name], place)
        if parameter.name in described:
            value["description"] = described[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif parameter.default is not None:
            value["default"] = parameter.default
        properties[parameter.name] = value
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": text, "parameters": parameters}}


def json_type(hint: Any, place: str) -> dict[str, JSON]:
    """The JSON schema of a type hint: str, int, float, bool, list, dict, Literal, and unions of them with None."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if origin is Literal:
        return {"type": _SIMPLE[type(inner[0])], "enum": list(inner)}
    if origin in (Union, types.UnionType):
        kinds = [json_type(kind, place) for kind in inner if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if origin is list:
        return {"type": "array", "items": json_type(inner[0], place)}
    if origin is dict:
        return {"type": "object"}
    raise AgentRolloutsError(f"{place}: {hint!r} has no JSON schema; use str, int, float, bool, list, dict or Literal")


def fault(arguments: Mapping[str, JSON], function: Mapping[str, JSON]) -> str | None:
    """What is wrong with the arguments of a call, for the model to read."""
    known: Mapping[str, JSON] = function["parameters"]["properties"]
    if unknown := [name for name in arguments if name not in known]:
        return f"unknown argument {', '.join(unknown)}; {function['name']} takes {', '.join(known) or 'none'}"
    if missing := [name for name in function["parameters"]["required"] if name not in arguments]:
        return f"argument {', '.join(missing)} is missing"
    for name, value in arguments.items():
        if value is None and name not in function["parameters"]["required"]:
            continue
        if not any(_fits(value, kind) for kind in known[name].get("anyOf", [known[name]])):
            wanted = known[name].get("enum") or [kind["type"] for kind in known[name].get("anyOf", [known[name]])]
            return f"argument {name} must be {' or '.join(map(str, wanted))}"
    return None


def _fits(value: JSON, kind: Mapping[str, JSON]) -> bool:
    if "enum" in kind:
        return value in kind["enum"]
    match kind["type"]:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list) and all(_fits(item, kind["items"]) for item in value if "items" in kind)
    return isinstance(value, dict)


def _described(function: Callable[..., Any], name: str) -> tuple[str, dict[str, str]]:
    """The docstring before its sections, and what `Args:` says of each argument."""
    text = inspect.getdoc(function)
    if not text:
        raise AgentRolloutsError(f"tool {name} has no docstring, which would tell the model what it does")
    lead: list[str] = []
    arguments: dict[str, str] = {}
    section, indent, last = "", 0, ""
    for line in text.split("\n"):
        if heading := _HEADING.match(line):
            section = heading[1]
        elif not section:
            lead.append(line)
        elif section in ("Args", "Arguments", "Parameters"):
            found = _ARGUMENT.match(line)
            if found and (not indent or len(found[1]) == indent):
                indent, last = len(found[1]), found[2]
                arguments[last] = found[3].strip()
            elif last and line.strip():
                arguments[last] += f" {line.strip()}"
    return "\n".join(lead).strip(), arguments
