"""The command line: what it says of itself, what it shows of sessions, and how it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import agent_rollouts
from agent_rollouts import __version__
from agent_rollouts.cli import DEMO, main
from agent_rollouts.configs import formats
from agent_rollouts.distill import card
from tests.sessions import claude, claude_agent, claude_records, codex, lines, put
from tests.test_decontaminate import instance

COMMANDS = list(main.commands.items())


def run(*words: str | os.PathLike[str]) -> Result:
    return CliRunner().invoke(main, [os.fspath(word) for word in words], prog_name="agent-rollouts")


# -- what it says of itself -------------------------------------------------------------------------


def test_help_lists_all_commands() -> None:
    text = run("--help").stdout
    listed = dict(re.findall(r"^  ([a-z]+)  +(\S.*)$", text.partition("Commands:")[2], re.M))
    assert list(listed) == sorted(main.commands) == [
        "audit", "distill", "families", "fingerprint", "formats", "generate", "inspect", "push", "redact", "revoke",
    ]  # fmt: skip
    assert all(summary.endswith((".", "...")) for summary in listed.values())


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_option_has_help(name: str, command: click.Command) -> None:
    assert command.help
    text = run(name, "--help").stdout
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.opts[0] in text


def test_help_mentions_only_what_exists() -> None:
    """Also what help texts, errors and the card say of other commands and options."""
    known = {option for _, command in COMMANDS for p in command.params for option in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--version"}
    texts = [run(*words, "--help").stdout for words in ([], *([name] for name in main.commands))]
    package = Path(agent_rollouts.__file__).parent
    # Other modules read other programs' commands.
    telling = ("__init__", "options", "filters", "splits", "funnel", "pipeline", "write", "card", "shapes/shape")
    for path in (package / "cli.py", *(package / "distill" / f"{name}.py" for name in telling)):
        texts.append(path.read_text(encoding="utf-8"))
    texts.append(card._CARD.read_text(encoding="utf-8"))
    for text in texts:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])", text)) <= known
        assert set(re.findall(r"`agent-rollouts ([a-z]+)", text)) <= set(main.commands)


def test_version() -> None:
    assert run("--version").stdout == f"agent-rollouts, version {__version__}\n"


def test_as_a_module(tmp_path: Path) -> None:
    """Errors too, in a process of their own: one line, no traceback, status 1."""
    words = [sys.executable, "-m", "agent_rollouts", "inspect", str(tmp_path / "nothing")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {tmp_path / 'nothing'} does not exist")
    assert len(done.stderr.splitlines()) == 1


# -- formats ----------------------------------------------------------------------------------------


def test_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".codex" / "sessions").mkdir(parents=True)
    lines = run("formats").stdout.splitlines()
    for config in formats().values():
        start = lines.index(f"{config.name}: {config.title}, {config.homepage}") + 1
        shown = lines[start : start + len(config.roots) + 1]
        for root, line in zip(config.roots, shown, strict=False):
            here = "is here" if root == "~/.codex/sessions" else "not here"
            assert line == f"  {root} ({here}), {' '.join(config.patterns)}"
        assert shown[-1] == f"  told by {config.recognised_by}"
    assert len(lines) == sum(len(config.roots) + 2 for config in formats().values())


@pytest.mark.parametrize("command", ["inspect", "audit", "distill", "redact"])
def test_default_folders(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / ".claude/projects/garden/s1.jsonl", claude("s1"))
    put(tmp_path / ".codex/sessions/2026/rollout-t1.jsonl", codex("t1"))
    put(tmp_path / ".codex/sessions/2026/notes.txt", b"")
    put(tmp_path / "elsewhere.jsonl", codex("t2"))
    monkeypatch.chdir(tmp_path)
    output = ["--output", "dataset"] if command == "distill" else []
    result = run(command, *output)
    assert result.exit_code == 0, result.output
    shown = {
        "inspect": "claude_code: 1 rollouts",
        "audit": "2 files, 2 rollouts",
        "distill": "2 files: 2 with rollouts\n2 rows of 2 rollouts",
        "redact": "2 rollouts: nothing found",
    }
    assert shown[command] in result.stdout
    result = run(command, "--format", "codex", *output)
    shown = {
        "inspect": "codex: 1 rollouts",
        "audit": "1 files, 1 rollouts",
        "distill": "1 files: 1 with rollouts\n1 rows of 1 rollouts",
        "redact": "1 rollouts: nothing found",
    }
    assert shown[command] in result.stdout


# -- inspect ----------------------------------------------------------------------------------------


def test_inspect_demo() -> None:
    result = run("inspect", DEMO)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "claude_code: 2 rollouts, 1 sub-agents, 17 messages, 7 tool calls",
        "codex: 1 rollouts, 13 messages, 5 tool calls",
        "dates: 2026-03-02 to 2026-03-03",
        "models: claude-sonnet-4-5-20250929 2, gpt-5.3-codex 1",
        "tools with results: exec_command 4, Bash 2, Read 1, Task 1, Write 1, Edit 1, Grep 1, apply_patch 1",
        "not used: record: event_msg token_count 2, record: file-history-snapshot 1, record: system turn_duration 1, "
        "record: summary 1, record: event_msg user_message 1, record: event_msg agent_message 1, "
        "record: event_msg task_complete 1",
    ]


def test_families(tmp_path: Path) -> None:
    put(tmp_path / "s1.jsonl", claude("s1"))
    put(tmp_path / "copy" / "s1.jsonl", claude("s1"))
    agent = [{**record, "isSidechain": True, "agentId": "a1"} for record in claude_records("s1", key="a1")]
    put(tmp_path / "agent-a1.jsonl", lines(*agent))
    put(tmp_path / "other.jsonl", codex("t1"))
    shown = run("families", tmp_path).stdout.splitlines()
    assert shown[-1] == "2 families, 4 rows, 1 of them copies; 6 turns owned"
    assert [line.split(" ")[0] for line in shown if not line.startswith(" ")][:-1] == [
        f"{record['family_id']}:" for record in families(tmp_path) if record["family_role"] == "root"
    ]
    assert {(record["family_role"], record["owned_from"]) for record in families(tmp_path)} == {
        ("root", 0),
        ("duplicate", None),
        ("subagent", 0),
    }


def families(*words: str | os.PathLike[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("families", "--json", *words).stdout.splitlines()]


def test_families_with_a_state_read_only_what_is_new(tmp_path: Path) -> None:
    folder, state = tmp_path / "in", tmp_path / "families.parquet"
    put(folder / "s1.jsonl", claude("s1"))
    first = families(folder, "--state", state)
    put(folder / "t1.jsonl", codex("t1"))
    status = (folder / "s1.jsonl").stat()
    # The same size and time: taken for the file that is known.
    (folder / "s1.jsonl").write_bytes(b"x" * status.st_size)
    os.utime(folder / "s1.jsonl", ns=(status.st_atime_ns, status.st_mtime_ns))
    second = families(folder, "--state", state)
    assert second == first + families(folder / "t1.jsonl")
    put(folder / "t1.jsonl", codex("t2"))
    third = families(folder, "--state", state)
    assert third[0] == first[0]
    assert third[1]["family_id"] != second[1]["family_id"]
    (folder / "s1.jsonl").unlink()
    assert families(folder, "--state", state) == third


def test_inspect_says_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", b'{"type": "summary", "summary": "Tulips", "leafUuid": "x"}\n')
    put(tmp_path / "agent-acompact-1.jsonl", claude_agent("s", "acompact-1"))
    lines = run("inspect", tmp_path, "--file-pattern", "a.*").stdout.splitlines()
    assert lines == ["claude_code: 1 without messages", "dates: none", "not used: record: summary 1"]
    lines = run("inspect", tmp_path, "--file-pattern", "agent-*").stdout.splitlines()
    assert lines[0] == "claude_code: 1 rollouts, 1 sub-agents, 1 internal, 4 messages, 1 tool calls"


def test_folders_and_patterns(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", codex("a"))
    put(tmp_path / "below" / "b.jsonl", codex("b"))
    put(tmp_path / "below" / "c.log", codex("c"))

    def rollouts(*words: str | Path) -> int:
        return int(re.findall(r"codex: (\d+) rollouts", run("inspect", *words).stdout)[0])

    assert rollouts(tmp_path) == 2
    assert rollouts(tmp_path, "--no-recursive") == 1
    assert rollouts(tmp_path, "--file-pattern", "*.log") == 1
    assert rollouts(tmp_path / "below" / "c.log", tmp_path / "a.jsonl") == 2
    assert rollouts(f"{tmp_path}/*/*") == 2


# -- redact -----------------------------------------------------------------------------------------

# Put together here, so that scanners stay quiet.
TOKEN = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0hL3nR6"
EMAIL = "rosalinda@" + "greenhouse.com"


def test_redact_shows_kinds_and_places_and_no_value(tmp_path: Path) -> None:
    path = put(tmp_path / "s.jsonl", claude(prompt=f"Use {TOKEN} for Project Plum", answer=f"Ask {EMAIL}."))
    put(tmp_path / "torn.jsonl", b"tulips\n")
    before = path.read_bytes()
    result = run("redact", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["1 rollouts: EMAIL 2, GITHUB_TOKEN 1"]
    assert result.stderr.startswith(f"left out: {tmp_path / 'torn.jsonl'} is not of ")
    places = run("redact", tmp_path, "--report", "--deny", "project plum", "--no-pii").stdout
    assert places.splitlines() == [
        f"{path}: s1, message 0: GITHUB_TOKEN gh…R6 (40)",
        f"{path}: s1, message 0: DENIED … (12)",
        "1 rollouts: GITHUB_TOKEN 1, DENIED 1",
    ]
    assert run("redact", tmp_path, "--no-pii", "--file-pattern", "none*").exit_code == 1
    for text in (result.output, places):
        assert TOKEN not in text
        assert EMAIL not in text
        assert "plum" not in text.lower()
    assert path.read_bytes() == before
    assert run("redact", put(tmp_path / "clean" / "c.jsonl", codex())).stdout == "1 rollouts: nothing found\n"


# -- fingerprint ------------------------------------------------------------------------------------


def test_fingerprint(tmp_path: Path) -> None:
    put(tmp_path / "bench" / "a.jsonl", lines(instance(), instance(2, problem_statement="Boil.", test_patch=None)))
    result = run("fingerprint", tmp_path / "bench", "-o", tmp_path / "prints.jsonl", "--benchmark", "kettles")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'prints.jsonl'}: instances 2, no statement 1, no tests 1\n"
    header, *records = map(json.loads, (tmp_path / "prints.jsonl").read_text(encoding="utf-8").splitlines())
    assert header["benchmark"] == "kettles"
    assert [record["instance"] for record in records] == ["tea__kettle-1", "tea__kettle-2"]
    (tmp_path / "empty").mkdir()
    result = run("fingerprint", tmp_path / "empty", "-o", tmp_path / "none.jsonl")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith(f"Error: no instance in {tmp_path / 'empty'}; wanted ")
    assert not (tmp_path / "none.jsonl").exists()
    result = run("distill", "--demo", "--decontaminate", tmp_path / "bench" / "a.jsonl", "--output", tmp_path / "d")
    assert result.stderr.startswith(f"Error: {tmp_path / 'bench' / 'a.jsonl'} holds no fingerprints")


# -- distill: preview and configuration -------------------------------------------------------------


def test_preview_prints_a_record_of_each_shape_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = run("distill", "--demo", "--preview", "--shape", "messages", "--shape", "preference", "--shape", "openai")
    assert result.exit_code == 0
    assert list(tmp_path.iterdir()) == []
    messages, _, rest = result.stdout.removeprefix("messages:\n").partition("\npreference: ")
    record = json.loads(messages)
    assert record["messages"][0]["role"] == "user"
    assert record["source_path"].startswith("demo/claude_code/")
    nothing, _, openai = rest.partition("\nopenai:\n")
    assert nothing == "no record of the first 20 rollouts"
    assert json.loads(openai)["messages"][0] == {"role": "user", "content": record["messages"][0]["content"]}
    none = run("distill", "--demo", "--preview", "--agent-model", "none*")
    assert (none.exit_code, none.stdout) == (1, "")
    assert none.stderr.startswith("Error: no row to write: 3 file(s), 3 rollout(s); model not asked for: 3")


def test_a_file_of_options_and_flags_that_come_first(tmp_path: Path) -> None:
    config = put(tmp_path / "distill.yaml", b"max_tokens: 300\nshape: [openai]\nsplits: {train: 0.5, test: 0.5}\n")
    words = ["distill", "--demo", "--config", config, "--output"]
    assert run(*words, tmp_path / "a").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir()) == ["openai"]
    assert run(*words, tmp_path / "b", "--shape", "messages", "--no-redact").exit_code == 0
    written = yaml.safe_load((tmp_path / "b" / "options.yaml").read_text(encoding="utf-8"))
    assert (written["shape"], written["max_tokens"], written["redact"]) == (["messages"], 300, False)
    # What was written beside the data makes the same data again.
    again = run("distill", "--demo", "--config", tmp_path / "a" / "options.yaml", "--output", tmp_path / "c")
    assert again.exit_code == 0
    assert (tmp_path / "a" / "options.yaml").read_bytes() == (tmp_path / "c" / "options.yaml").read_bytes()
    for name in ("openai/train.jsonl", "openai/test.jsonl", "funnel.json", "splits.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_a_file_of_options_that_is_none(tmp_path: Path) -> None:
    config = put(tmp_path / "distill.yaml", b"max_token: 300\n")
    result = run("distill", "--demo", "--config", config, "--output", tmp_path / "d")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith(f"Error: {config}: unknown option max_token; known: format, history, ")
    assert run("distill", "--demo", "--config", tmp_path / "none", "--output", tmp_path / "d").exit_code == 2
    assert not (tmp_path / "d").exists()


def test_what_was_denied_is_in_nothing_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "s.jsonl", claude(prompt="Which tulips for Project Plum?"))
    canary = "-".join(("a0b1c2d3", "0000", "4111", "8222", "333344445555"))
    words = ["distill", tmp_path / "s.jsonl", "--deny", "Project Plum", "--deny=tulips", f"--canary={canary}"]
    words += ["--output", tmp_path / "d"]
    monkeypatch.setattr("sys.argv", ["agent-rollouts", *map(str, words)])
    assert run(*words).exit_code == 0
    card = (tmp_path / "d" / "README.md").read_text(encoding="utf-8")
    assert "--deny ... --deny=... --canary=... --output" in card
    for path in (tmp_path / "d").rglob("*.*"):
        if path.suffix in (".md", ".json", ".yaml"):
            text = path.read_text(encoding="utf-8").lower()
            assert "plum" not in text
            assert "tulips" not in text
            assert canary not in text or path.name == "options.yaml"


# -- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["inspect", "audit", "distill", "redact"])
def test_errors_are_one_line(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "here" / "a.jsonl", codex("a"))
    names = ", ".join(formats())
    roots = ", ".join(root for known in formats().values() for root in known.roots)
    cases = {
        ("here", "--format", "codx"): f"unknown format 'codx'; known: auto, {names}",
        ("--format", "codx"): f"unknown format 'codx'; known: auto, {names}",
        ("nothing",): "nothing does not exist; name a file, a folder, a glob or an address such as hf://…",
        (): f"none of the default folders holds sessions ({roots}); name a source",
        ("here", "--file-pattern", "*.log"): "no file in here matches *.log; name another folder or set file_pattern",
    }
    for words, message in cases.items():
        result = run(command, *words, *(["--output", "dataset"] if command == "distill" else []))
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")
    assert not (tmp_path / "dataset").exists()


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    put(tmp_path / "file", b"")
    result = run("distill", "--demo", "--output", tmp_path / "file" / "dataset")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: [Errno ")
    assert str(tmp_path / "file") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_wrong_use(tmp_path: Path) -> None:
    assert "give --output or --push-to-hub, or --preview instead" in run("distill", "--demo").stderr
    both = run("distill", "--demo", "--preview", "--output", tmp_path / "dataset")
    assert (both.exit_code, "give --output or --push-to-hub, or --preview instead" in both.stderr) == (2, True)
    assert "leave SOURCE out" in run("distill", tmp_path, "--demo", "--output", tmp_path / "dataset").stderr
    assert "'old' is not one of 'full', 'segments', 'context'" in run("families", "--history", "old").stderr
    result = run("distill", "--demo", "--history", "old", "--output", tmp_path / "dataset")
    assert result.stderr == "Error: unknown history 'old'; known: full, segments, context\n"
    assert "'many' is not a valid integer" in run("distill", "--limit", "many").stderr
    assert list(tmp_path.iterdir()) == []
    assert run("distil").exit_code == 2


@pytest.mark.parametrize("command", ["inspect", "audit", "distill", "redact"])
def test_broken_files_are_named(command: str, tmp_path: Path) -> None:
    """On stderr, and the others are read all the same."""
    put(tmp_path / "a.jsonl", codex("a"))
    other = put(tmp_path / "b.jsonl", claude("b"))
    stranger = put(tmp_path / "c.jsonl", b'{"garden": "tulips"}\n')
    words = [command, tmp_path, "--format", "codex"]
    result = run(*words, *(["--output", tmp_path / "dataset"] if command == "distill" else []))
    assert result.exit_code == 0
    assert "1 rollouts" in result.stdout
    wrong, unknown = result.stderr.splitlines()
    assert wrong.startswith(f"left out: {other} is ")
    assert "claude_code" in wrong
    assert unknown.startswith(f"left out: {stranger} is not of ")


def test_many_broken_files_are_summed_up(tmp_path: Path) -> None:
    for number in range(25):
        put(tmp_path / f"{number:02d}.jsonl", b"tulips\n")
    lines = run("inspect", tmp_path).stderr.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "left out: 15 more files"


def test_audit_fails_for_files_that_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", codex("a"))
    torn = put(tmp_path / "b.jsonl.gz", b"\x1f\x8b torn")
    result = run("audit", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith(f"{torn}: cannot be read: ")
    assert result.stdout.splitlines()[1] == "2 files, 1 rollouts, 1 files with problems"
