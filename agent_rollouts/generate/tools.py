"""The tools that an agent is offered: one table, `TOOLS`, and functions of the user's own.

A tool is a function with type hints and a docstring, of which its schema is made (`schema.py`). Ours take the `Bench`
they work at as their first argument; the user's own, named `file.py:function` or `package.module:function`, may do so.
What a tool returns goes to the model as text (other values as JSON); what it raises goes back, too, as an error.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import re2

from agent_rollouts import jsontext
from agent_rollouts.errors import AgentRolloutsError, ToolError
from agent_rollouts.events import JSON
from agent_rollouts.formats._chat import shown_text
from agent_rollouts.generate import schema
from agent_rollouts.generate.sandbox import Limits, Sandbox, run
from agent_rollouts.generate.search import Search
from agent_rollouts.generate.workspace import Workspace

_MAX_MATCHES = 200
_MAX_LINE = 500


@dataclass(frozen=True)
class Bench:
    """What the tools of a session work with."""

    workspace: Workspace
    sandbox: Sandbox | None = None
    limits: Limits = field(default_factory=Limits)
    search: Search | None = None
    output_chars: int = 30_000


class Tool(NamedTuple):
    """A function that the model may call, and its schema; `takes_bench` for those whose first argument is a `Bench`."""

    name: str
    function: Callable[..., Any]
    schema: dict[str, JSON]
    takes_bench: bool


class Result(NamedTuple):
    """What goes back to the model, and whether the call failed."""

    text: str
    is_error: bool


def read_file(bench: Bench, path: str, offset: int = 1, limit: int = 2000) -> str:
    """Read a text file of the workspace.

    Args:
        path: relative to the workspace
        offset: number of the first line, from 1
        limit: number of lines
    """
    lines = _text(bench.workspace.read(path), path).splitlines(keepends=True)
    if offset < 1 or limit < 1:
        raise ToolError("offset and limit are 1 or more")
    if lines and offset > len(lines):
        raise ToolError(f"{path} has {len(lines)} lines")
    found = "".join(lines[offset - 1 : offset - 1 + limit])
    more = len(lines) - (offset - 1 + limit)
    return f"{found}\n[{more} more lines]" if more > 0 else found


def write_file(bench: Bench, path: str, content: str) -> str:
    """Create or overwrite a file of the workspace; folders are made as needed.

    Args:
        path: relative to the workspace
        content: the whole text of the file
    """
    data = _bytes(content)
    is_new = bench.workspace.write(path, data)
    return f"{'Created' if is_new else 'Overwrote'} {path} ({len(data)} bytes)"


def edit_file(bench: Bench, path: str, old_text: str, new_text: str, replace_all: bool = False) -> str:
    """Replace text in a file of the workspace.

    Args:
        path: relative to the workspace
        old_text: what to replace, exactly as it stands in the file; must stand there once unless replace_all is true
        new_text: what to put in its place
        replace_all: replace it wherever it stands
    """
    if not old_text:
        raise ToolError("old_text is empty; write_file writes whole files")
    text = _text(bench.workspace.read(path), path)
    count = text.count(old_text)
    if not count:
        raise ToolError(f"old_text is not in {path}")
    if count > 1 and not replace_all:
        raise ToolError(f"old_text stands {count} times in {path}; give more of the text around it, or replace_all")
    bench.workspace.write(path, _bytes(text.replace(old_text, new_text)))
    return f"Replaced {count} {'place' if count == 1 else 'places'} in {path}"


def list_directory(bench: Bench, path: str = ".") -> str:
    """List a folder of the workspace, one entry a line; folders end with a slash.

    Args:
        path: relative to the workspace
    """
    lines = []
    for name, kind, size in bench.workspace.entries(path):
        lines.append({"folder": f"{name}/", "file": f"{name} ({size} bytes)"}.get(kind, f"{name} ({kind})"))
    return "\n".join(lines) or "(empty)"


def search_code(bench: Bench, pattern: str, path: str = ".", file_pattern: str = "*") -> str:
    """Find lines that match a regular expression in the files of the workspace, as path:line: text.

    Args:
        pattern: regular expression (RE2 syntax)
        path: folder or file to search, relative to the workspace
        file_pattern: only files whose name fits, such as *.py
    """
    try:
        expression = re2.compile(pattern, _quiet())
    except re2.error as error:
        raise ToolError(f"pattern is no regular expression: {error}") from None
    found: list[str] = []
    for name, data in bench.workspace.files(path):
        if b"\0" in data[:8192] or not fnmatch.fnmatch(name.rpartition("/")[2], file_pattern):
            continue
        for number, line in enumerate(data.decode(errors="replace").split("\n"), start=1):
            if expression.search(line):
                found.append(f"{name}:{number}: {line.rstrip()[:_MAX_LINE]}")
                if len(found) == _MAX_MATCHES:
                    return "\n".join([*found, f"[stopped at {_MAX_MATCHES} lines]"])
    return "\n".join(found) or "No matches."


def run_command(bench: Bench, command: str) -> str:
    """Run a shell command in the workspace; returns what it prints, and its exit code when that is not 0.

    Args:
        command: for /bin/sh; cannot ask for input, and nothing of it runs on in the background
    """
    assert bench.sandbox is not None
    if "\0" in command:
        raise ToolError("a command holds no NUL")
    outcome = run(bench.sandbox, command, bench.workspace.root, bench.limits)
    if outcome.exit_code is None:
        said = f"{outcome.output}\n" if outcome.output else ""
        raise ToolError(f"{said}Command timed out after {bench.limits.seconds:g} seconds")
    if outcome.exit_code:
        return f"{outcome.output.rstrip()}\nCommand exited with code {outcome.exit_code}".lstrip("\n")
    return outcome.output or "(no output)"


def web_search(bench: Bench, query: str, count: int = 5) -> str:
    """Search the web.

    Args:
        query: words to look for
        count: number of results, at most 20
    """
    assert bench.search is not None
    found = bench.search(query, max(1, min(count, 20)))
    return "\n\n".join(f"{number}. {r.title}\n{r.url}\n{r.text}" for number, r in enumerate(found, 1)) or "No results."


TOOLS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (read_file, write_file, edit_file, list_directory, search_code, run_command, web_search)
}


def offered(names: Sequence[str], *, has_search: bool) -> list[Tool]:
    """The tools of these names, in that order; `web_search` only when there is something to search.

    Raises:
        AgentRolloutsError: an unknown tool, two of one name, or a function that no schema can be made of.
    """
    found: dict[str, Tool] = {}
    for given in names:
        if given == "web_search" and not has_search:
            continue
        function = TOOLS.get(given) or function_of(given)
        name = function.__name__
        if name in found:
            raise AgentRolloutsError(f"two tools are called {name}; rename one of them")
        takes_bench = _takes_bench(function)
        found[name] = Tool(name, function, schema.schema(function, name, skip=int(takes_bench)), takes_bench)
    return list(found.values())


def call(bench: Bench, tools: Sequence[Tool], name: str, arguments: str) -> Result:
    """Do what the model asked for; every failure is a result.

    Args:
        arguments: the JSON text that the model wrote; none at all means no arguments.
    """
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        return Result(f"Error: there is no tool {name!r}; there are {', '.join(t.name for t in tools)}", True)
    given: JSON = jsontext.loads_exactly(arguments) if arguments.strip() else {}
    if not isinstance(given, dict):
        return Result("Error: the arguments are not a JSON object", True)
    if wrong := schema.fault(given, tool.schema["function"]):
        return Result(f"Error: {wrong}", True)
    try:
        value = tool.function(bench, **given) if tool.takes_bench else tool.function(**given)
        text = shown_text(value)
    except AgentRolloutsError as error:
        return Result(_clipped(f"Error: {error}", bench.output_chars), True)
    except Exception as error:  # a user's function may raise anything, and the session goes on
        return Result(_clipped(f"Error: {type(error).__name__}: {error}", bench.output_chars), True)
    return Result(_clipped(text, bench.output_chars), False)


def function_of(given: str) -> Callable[..., Any]:
    """The user's function `file.py:function` or `package.module:function`.

    Raises:
        AgentRolloutsError: there is none.
    """
    place, colon, name = given.rpartition(":")
    if not colon:
        raise AgentRolloutsError(
            f"unknown tool {given!r}; known: {', '.join(TOOLS)}, or a function of yours as file.py:function"
        )
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"agent_rollouts_tool_{Path(place).stem}", place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        function = getattr(module, name)
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        raise AgentRolloutsError(f"tool {given}: {error}") from error
    if not callable(function):
        raise AgentRolloutsError(f"tool {given} is no function")
    return typing.cast("Callable[..., Any]", function)


def _takes_bench(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters), None)
    return first is not None and typing.get_type_hints(function).get(first) is Bench


def _quiet() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


def _clipped(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[len(text) - half :]}"


def _text(data: bytes, path: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ToolError(f"{path} is no UTF-8 text") from None
    if "\0" in text:
        raise ToolError(f"{path} is no text")
    return text


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ToolError("the text has lone surrogates, which no file can hold") from None
