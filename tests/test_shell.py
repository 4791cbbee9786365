from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_rollouts.distill import shell


@pytest.mark.parametrize(
    ("name", "arguments", "script"),
    [
        ("Bash", {"command": "ls"}, "ls"),
        ("shell", {"command": ["bash", "-lc", "cd a && ls"]}, "cd a && ls"),
        ("shell", {"command": ["ls", "a b"]}, "ls 'a b'"),
        ("local_shell", {"type": "exec", "command": ["ls"]}, "ls"),
        ("exec_command", {"cmd": "ls"}, "ls"),
        ("terminal", {"command": "ls"}, "ls"),
        ("execute_bash", {"command": "ls"}, "ls"),
        ("run_shell_command", {"command": "ls"}, "ls"),
        ("bash_command", {"keystrokes": "ls\n", "duration": 1}, "ls"),
        ("bash", {"cmd": "ls"}, "ls"),
        ("str_replace_editor", {"command": "view", "path": "a"}, None),
        ("Read", {"file_path": "a"}, None),
        ("Bash", '{"command": "ls', None),
        ("Bash", {"command": 3}, None),
        ("Bash", {}, None),
    ],
)
def test_scripts_of_the_agents(name: str, arguments: Any, script: str | None) -> None:
    assert shell.script(name, arguments) == script


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("pytest -q", ["pytest -q"]),
        ("cd a && FOO=1 .venv/bin/pytest", ["cd a", "pytest"]),
        ("uv run --with hypothesis pytest -x", ["pytest -x"]),
        ("uv run python -m pytest", ["pytest"]),
        ("timeout -k 5 60 npx --yes jest a", ["jest a"]),
        ("sudo env A=b coverage run -m pytest", ["pytest"]),
        ("docker compose exec -T web pytest -q", ["pytest -q"]),
        ("docker exec -w /app web go test ./...", ["go test ./..."]),
        ("bash -c 'cd x; pytest'", ["cd x", "pytest"]),
        ("(source a && pytest) | tail -5", ["source a", "pytest", "tail -5"]),
        ("if true; then pytest; fi", ["true", "pytest"]),
        ("echo 'a && pytest'", ["echo a && pytest"]),
        ("cat <<'EOF' > a.sh\npytest 'it\nEOF\nls # pytest", ["cat", "ls"]),
        ('git commit -m "$(cat <<\'EOF\'\nIt\'s (a) "b"\nEOF\n)" && ls', None),
        ("echo 'open", []),
        ("echo $(open", []),
        ("", []),
    ],
)
def test_programs_of_a_script(script: str, words: list[str] | None) -> None:
    found = [" ".join(command.words) for command in shell.commands(script)]
    if words is None:
        assert found[-1] == "ls"
        assert found[0].startswith("git commit -m $(cat")
    else:
        assert found == words


@pytest.mark.parametrize(
    ("script", "shown", "zero", "other"),
    [
        ("pytest", "all", True, True),
        ("cd a && pytest", "all", True, True),
        ("ls && pytest", "all", True, False),
        ("pytest && ls", "all", True, False),
        ("pytest; ls", "all", False, False),
        ("set -e\npytest\nls", "all", True, False),
        ("pytest || true", "all", False, False),
        ("pytest | tail -3", "tail", False, False),
        ("pytest 2>&1 | tail -n +3", "part", False, False),
        ("pytest | tail | grep x", "part", False, False),
        ("pytest | head", "part", False, False),
        ("pytest | tee log", "all", False, False),
        ("set -o pipefail; pytest | tee log", "all", True, True),
        ("pytest > log", "none", True, True),
        ("pytest > log 2>&1; tail log", "none", False, False),
        ("pytest 2>&1", "all", True, True),
        ("! pytest", "all", False, False),
        ("for x in a; do pytest $x; done", "all", False, False),
        ("pytest &", "all", False, False),
    ],
)
def test_what_a_script_lets_through(script: str, shown: str, zero: bool, other: bool) -> None:
    [command] = [command for command in shell.commands(script) if command.words[0] == "pytest"]
    assert (command.shown, command.zero_tells, command.other_tells) == (shown, zero, other)


def test_where_a_command_runs() -> None:
    found = shell.commands("cd a && (cd ../b; pytest) && ls && cd /c; ls", "/w")
    assert [(c.words[0], c.directory) for c in found if c.words[0] != "cd"] == [
        ("pytest", "/w/b"),
        ("ls", "/w/a"),
        ("ls", "/c"),
    ]
    assert shell.last_directory("cd a && ls", "/w") == "/w/a"
    assert shell.last_directory("cd 'open", "/w") == "/w"


PIECES = st.sampled_from(
    ["pytest", "cd a", " && ", " | ", "\n", ";", "'", '"', "$(", ")", "`", "(", "<<EOF\n", "EOF\n", "\\", "> f",
     "bash -c ", "#", "&", "||", "uv run ", "2>&1", "-", "=", "é", "for x in", "do ", "\x00", "tail -3"]
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=4), max_size=20).map("".join))
def test_any_text_is_read_or_left(script: str) -> None:
    for command in shell.commands(script, "/w"):
        assert command.words
    shell.last_directory(script, "/w")


def test_deep_and_long_scripts_are_left() -> None:
    assert shell.commands("echo " + "$(" * 5000 + ")" * 5000) == []
    assert shell.commands("x" * 300_000) == []
    assert shell.commands("set -" + "e" * 100_000 + "!\npytest")[-1].words == ("pytest",)
