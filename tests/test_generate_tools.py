"""Tools: what they do and say, the schemas made of functions, and calls that models get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.generate.sandbox import Limits, choose
from agent_rollouts.generate.schema import fault, schema
from agent_rollouts.generate.search import local_index
from agent_rollouts.generate.tools import TOOLS, Bench, Result, call, offered
from agent_rollouts.generate.workspace import Workspace, create

ALL = offered(tuple(TOOLS), has_search=True)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    create(tmp_path / "w")
    workspace = Workspace(tmp_path / "w")
    limits = Limits(seconds=20)
    yield Bench(workspace, choose("none", limits), limits, local_index(str(documents(tmp_path))), 2000)
    workspace.close()


def documents(folder: Path) -> Path:
    pages = [
        {"title": "Sorting", "url": "https://example.org/sort", "text": "Lists are sorted with sorted()."},
        {"title": "Reading", "url": "https://example.org/read", "text": "Files are read with open()."},
    ]
    path = folder / "pages.jsonl"
    path.write_text("\n".join(map(json.dumps, pages)) + "\n")
    return path


def use(bench: Bench, name: str, **arguments: Any) -> Result:
    return call(bench, ALL, name, json.dumps(arguments))


def test_files(bench: Bench) -> None:
    assert use(bench, "list_directory") == ("(empty)", False)
    assert use(bench, "write_file", path="src/ü.py", content="a = 1\nb = 2\na = 1\n") == (
        "Created src/ü.py (18 bytes)",
        False,
    )
    assert use(bench, "read_file", path="src/ü.py").text == "a = 1\nb = 2\na = 1\n"
    assert use(bench, "read_file", path="src/ü.py", offset=2, limit=1).text == "b = 2\n\n[1 more lines]"
    assert use(bench, "edit_file", path="src/ü.py", old_text="b = 2", new_text="b = 3") == (
        "Replaced 1 place in src/ü.py",
        False,
    )
    assert use(
        bench, "edit_file", path="src/ü.py", old_text="a = 1", new_text="a = 9", replace_all=True
    ).text.startswith("Replaced 2 places")
    assert use(bench, "list_directory").text == "src/"
    assert use(bench, "list_directory", path="src").text == "ü.py (18 bytes)"
    assert use(bench, "search_code", pattern="= [39]$", file_pattern="*.py").text == (
        "src/ü.py:1: a = 9\nsrc/ü.py:2: b = 3\nsrc/ü.py:3: a = 9"
    )
    assert use(bench, "search_code", pattern="9", path="src/ü.py").text.count("\n") == 1
    assert use(bench, "search_code", pattern="9", file_pattern="*.c").text == "No matches."
    assert use(bench, "write_file", path="src/ü.py", content="").text == "Overwrote src/ü.py (0 bytes)"
    assert use(bench, "read_file", path="src/ü.py") == ("", False)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("read_file", '{"path": "gone"}', "gone: No such file or directory"),
        ("read_file", '{"path": "../x"}', "outside the workspace"),
        ("read_file", '{"path": "binary"}', "is no text"),
        ("read_file", '{"path": "latin"}', "no UTF-8 text"),
        ("read_file", '{"path": "text", "offset": 9}', "has 2 lines"),
        ("read_file", '{"path": "text", "limit": 0}', "1 or more"),
        ("read_file", "{}", "argument path is missing"),
        ("read_file", "", "argument path is missing"),
        ("read_file", '{"path": 1}', "argument path must be string"),
        ("read_file", '{"path": "text", "lines": 3}', "unknown argument lines; read_file takes path, offset, limit"),
        ("read_file", '{"path": "text"', "not a JSON object"),
        ("read_file", '["text"]', "not a JSON object"),
        ("edit_file", '{"path": "text", "old_text": "x", "new_text": ""}', "stands 2 times"),
        ("edit_file", '{"path": "text", "old_text": "y", "new_text": ""}', "is not in text"),
        ("edit_file", '{"path": "text", "old_text": "", "new_text": ""}', "is empty"),
        ("write_file", '{"path": "a", "content": "\\ud800"}', "lone surrogates"),
        ("search_code", '{"pattern": "("}', "no regular expression"),
        ("run_command", '{"command": "a\\u0000b"}', "no NUL"),
        ("launch", "{}", "there is no tool 'launch'; there are read_file, write_file"),
    ],
)
def test_what_goes_wrong_is_a_result(bench: Bench, name: str, arguments: str, said: str) -> None:
    bench.workspace.write("text", b"x\nx\n")
    bench.workspace.write("binary", b"\0\1")
    bench.workspace.write("latin", b"\xe9\xe9")
    result = call(bench, ALL, name, arguments)
    assert result.is_error
    assert result.text.startswith("Error: ")
    assert said in result.text


@given(st.sampled_from(sorted(TOOLS)), st.text())
def test_no_arguments_stop_a_session(name: str, arguments: str) -> None:
    no_bench: Any = None
    if arguments.strip():
        assert call(no_bench, ALL, name, arguments).is_error


def test_commands(bench: Bench) -> None:
    assert use(bench, "run_command", command="echo hi > f; cat f") == ("hi\n", False)
    assert use(bench, "run_command", command="true") == ("(no output)", False)
    assert use(bench, "run_command", command="echo no >&2; exit 4") == ("no\nCommand exited with code 4", False)
    assert use(bench, "run_command", command="exit 4").text == "Command exited with code 4"
    long = use(bench, "run_command", command="seq 100000").text
    assert len(long) < 2100
    assert long.startswith("1\n2\n")
    assert long.endswith("100000\n")
    assert "left out]" in long


def test_search(bench: Bench, tmp_path: Path) -> None:
    found = use(bench, "web_search", query="how are lists sorted?", count=1)
    assert found == ("1. Sorting\nhttps://example.org/sort\nLists are sorted with sorted().", False)
    assert use(bench, "web_search", query='") OR * NEAR(').text == "No results."
    assert use(bench, "web_search", query="NOT AND").text == "No results."
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Cats\nThey purr.")
    assert local_index(str(tmp_path / "docs"))("purr", 3)[0].url == "a.md"
    with pytest.raises(AgentRolloutsError, match="not there"):
        local_index(str(tmp_path / "gone"))
    (tmp_path / "pages.jsonl").write_text("{}\n")
    with pytest.raises(AgentRolloutsError, match=r"pages\.jsonl:1 is no document"):
        local_index(str(tmp_path / "pages.jsonl"))


def test_web_search_is_offered_only_with_something_to_search() -> None:
    assert [tool.name for tool in offered(tuple(TOOLS), has_search=False)] == list(TOOLS)[:-1]
    assert ALL[-1].name == "web_search"


# -- schemas -------------------------------------------------------------------------------------


def lookup(
    word: str, language: Literal["en", "de"] = "en", limits: list[int] | None = None, exact: bool | None = None
) -> dict[str, int]:
    """Look a word up.

    Twice, if need be.

    Args:
        word: the word
        language (str): of the dictionary,
            two letters
        limits: least and most
    """
    return {word: len(limits or ())}


def test_schemas_are_made_of_functions() -> None:
    assert schema(lookup, "lookup") == {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look a word up.\n\nTwice, if need be.",
            "parameters": {
                "type": "object",
                "properties": {
                    "word": {"type": "string", "description": "the word"},
                    "language": {
                        "type": "string",
                        "enum": ["en", "de"],
                        "description": "of the dictionary, two letters",
                        "default": "en",
                    },
                    "limits": {"type": "array", "items": {"type": "integer"}, "description": "least and most"},
                    "exact": {"type": "boolean"},
                },
                "required": ["word"],
            },
        },
    }


def no_hint(word):  # type: ignore[no-untyped-def]
    """Look."""


def no_docstring(word: str) -> str:
    return word


def no_json(word: bytes) -> str:
    """Look."""
    return ""


def no_names(*words: str) -> str:
    """Look."""
    return ""


@pytest.mark.parametrize("function", [no_hint, no_docstring, no_json, no_names], ids=lambda f: f.__name__)
def test_no_schema_is_guessed(function: Any) -> None:
    with pytest.raises(AgentRolloutsError, match="tool t"):
        schema(function, "t")


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"word": "a", "language": "de", "limits": [1, 2], "exact": None}, None),
        ({"word": None}, "argument word must be string"),
        ({"word": "a", "language": "fr"}, "argument language must be en or de"),
        ({"word": "a", "limits": ["1"]}, "argument limits must be array"),
        ({"word": "a", "exact": 1}, "argument exact must be boolean"),
    ],
)
def test_arguments_are_held_against_the_schema(arguments: dict[str, Any], wrong: str | None) -> None:
    assert fault(arguments, schema(lookup, "lookup")["function"]) == wrong


def test_a_tool_of_the_users_own(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from agent_rollouts.generate.tools import Bench\n"
        "def shout(text: str, times: int = 1) -> list:\n    '''Say it louder.'''\n    return [text.upper()] * times\n"
        "def here(bench: Bench) -> str:\n    '''Names of files.'''\n    return str(len(bench.workspace.entries()))\n"
        "def broken(text: str) -> str:\n    '''Breaks.'''\n    raise KeyError(text)\n"
        "def read_file(path: str) -> str:\n    '''Another.'''\n    return path\n"
    )
    names = [f"{tmp_path / 'mine.py'}:{name}" for name in ("shout", "here", "broken")]
    tools = offered(["read_file", *names], has_search=False)
    assert [tool.name for tool in tools] == ["read_file", "shout", "here", "broken"]
    assert tools[2].schema["function"]["parameters"]["properties"] == {}
    assert call(bench, tools, "shout", '{"text": "ü", "times": 2}') == ('["Ü","Ü"]', False)
    assert call(bench, tools, "here", "{}") == ("0", False)
    assert call(bench, tools, "broken", '{"text": "x"}') == ("Error: KeyError: 'x'", True)
    assert [tool.name for tool in offered(["json:dumps"] if False else ["read_file"], has_search=False)] == [
        "read_file"
    ]
    for wrong, said in {
        "read_fil": "known: read_file, write_file",
        "gone.py:f": "gone.py",
        "json:nope": "nope",
        "json:__doc__": "no function",
        f"{tmp_path / 'mine.py'}:read_file": "two tools are called read_file",
    }.items():
        with pytest.raises(AgentRolloutsError, match=said):
            offered(["read_file", wrong], has_search=False)
