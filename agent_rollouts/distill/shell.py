"""What a shell call ran: the script of a call of any agent, and the commands in a script.

`script` knows the agents' shell tools by name. `commands` reads Bourne shell far enough to tell which
programs ran, where, and whether reader and exit code were told the truth about them: quotes, here-documents,
`$(…)`, lists, pipelines, redirections, `cd`, and programs that run others (`uv run`, `npx`, `timeout 60`).
What it cannot read it does not guess: such a script has no commands.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_TOOLS = {
    "command": frozenset({
        "bash",  # Claude Code, Pi, SWE-agent
        "shell", "shell_command", "local_shell", "container.exec",  # Codex
        "terminal",  # Hermes, OpenHands from 1.0
        "execute_bash", "run_shell_command", "execute", "execute_command",  # OpenHands, Gemini and Qwen, Droid, Cline
        "run_terminal_cmd", "run_terminal_command", "run_in_terminal", "run_command", "exec",  # editors, OpenClaw
    }),
    "cmd": frozenset({"exec_command", "bash", "shell"}),
    "keystrokes": frozenset({"bash_command"}),  # Terminus, which presses Enter itself
}  # fmt: skip
_SHELLS = frozenset({"bash", "sh", "zsh", "dash", "ksh"})

# What takes one argument each, of programs that run another.
_VALUED = frozenset({
    "-C", "-E", "-c", "-e", "-k", "-n", "-p", "-s", "-u", "-w", "--directory", "--env-file", "--extra", "--filter",
    "--group", "--only-group", "--package", "--prefix", "--project", "--python", "--signal", "--with", "--workdir",
    "--with-requirements", "--kill-after", "--workspace", "--user", "--env", "--cwd", "--dir", "-v", "--volume",
    "--name", "--network", "--platform", "--mount", "--entrypoint", "--file",
})  # fmt: skip
_RUNNING = {
    "bundle": ("exec",), "bunx": (), "command": (), "conda": ("run",), "coverage": ("run",), "dotenv": (), "env": (),
    "exec": (), "hatch": ("run",), "mise": ("exec",), "nice": (), "nohup": (), "npx": (), "pdm": ("run",), "php": (),
    "pipenv": ("run",), "pixi": ("run",), "pnpx": (), "poetry": ("run",), "rye": ("run",), "stdbuf": (), "sudo": (),
    "time": (), "timeout": (), "uv": ("run",), "uvx": (), "xvfb-run": (),
}  # fmt: skip
_CONTAINERS = frozenset({"docker", "podman", "docker-compose"})
_SUBCOMMANDS = {("pnpm", "exec"), ("pnpm", "dlx"), ("yarn", "exec"), ("yarn", "dlx"), ("npm", "exec"), ("bun", "x")}
_OPENING = frozenset({"if", "then", "else", "elif", "while", "until", "do", "{", "!"})
_CLOSING = frozenset({"fi", "done", "esac", "}"})
_QUIET = frozenset(
    {"cd", "source", ".", "export", "set", "echo", "printf", "mkdir", "unset", "ulimit", "umask", "true"}
)
_DEPTH = 12
# Longer scripts than any are no use, and would take time.
_LONGEST, _MOST = 200_000, 300
_SPECIAL = re.compile(r"[\s'\"\\$`;&|<>()#]")
_IN_DOUBLE = re.compile(r'["\\$`]')
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_OPERATOR = re.compile(r"\|\||\|&|&&|;;|[;&|()\n]")
_REDIRECT = re.compile(r"(?:&>>?|<<<|<<-?|>>|>\||>&|<&|<>|[<>])")


class Command(NamedTuple):
    """A command of a script.

    Attributes:
        words: the program's bare name and its arguments; what ran it (`env`, `uv run`, `python -m`) is taken off.
        directory: where it ran, as far as `cd` tells.
        shown: how much of its output the script let through: `all`, `tail`, `part` or `none`.
        zero_tells: whether an exit code of 0 of the script means that this command ended with 0.
        other_tells: whether another exit code means that this command failed.
        sent_to: the file that its output went to instead of the screen.
    """

    words: tuple[str, ...]
    directory: str = ""
    shown: str = "all"
    zero_tells: bool = True
    other_tells: bool = True
    sent_to: str = ""


def script(name: str, arguments: Any) -> str | None:
    """What a call gave to a shell; None when the tool is no shell, or its arguments hold no script."""
    name = name.lower()
    if not isinstance(arguments, Mapping):
        return None
    for key, tools in _TOOLS.items():
        if name in tools and key in arguments:
            given = arguments[key]
            if isinstance(given, list) and all(isinstance(word, str) for word in given):
                return _of_words(given)
            return given.removesuffix("\n") if isinstance(given, str) else None
    return None


def directory(arguments: Any) -> str | None:
    """Where the call says that its script runs."""
    for key in ("workdir", "cwd", "working_directory", "dir_path", "directory"):
        if isinstance(arguments, Mapping) and isinstance(arguments.get(key), str):
            return str(arguments[key])
    return None


def commands(script: str, directory: str = "") -> list[Command]:
    """The commands of a script in the order in which they are written."""
    if len(script) > _LONGEST:
        return []
    try:
        return _commands(script, directory, 0)
    except _UnreadableError:
        return []


def last_directory(script: str, directory: str = "") -> str:
    """Where a shell stands after a script."""
    if "cd" not in script or len(script) > _LONGEST:
        return directory
    try:
        return _walk(_Reader(script).items(), directory)[1]
    except _UnreadableError:
        return directory


def subcommand(words: Sequence[str]) -> list[str]:
    """The words of `git` or `gh` without the options before their subcommand."""
    found = list(words)
    while len(found) > 1 and found[1].startswith("-"):
        del found[1 : 3 if found[1] in ("-C", "-c", "--git-dir", "--work-tree", "-R", "--repo") else 2]
    return found


class _UnreadableError(Exception):
    """A script that is no whole Bourne shell, or one that is too deep."""


class _Simple(NamedTuple):
    words: list[str]
    follows: str  # the operator behind it
    sent_to: str
    directory: str


def _of_words(words: list[str]) -> str:
    if len(words) > 2 and posixpath.basename(words[0]).removesuffix(".exe") in (*_SHELLS, "powershell", "pwsh", "cmd"):
        return words[-1]
    return shlex.join(words)


def _commands(text: str, directory: str, depth: int) -> list[Command]:
    if depth > _DEPTH:
        raise _UnreadableError
    simples, _ = _walk(_Reader(text).items(), directory)
    if len(simples) > _MOST:
        raise _UnreadableError
    options = [word for simple in simples if simple.words[:1] == ["set"] for word in simple.words[1:]]
    stops = any(word in ("errexit", "-e") or (word[:1] == "-" and len(word) < 6 and "e" in word) for word in options)
    has_pipefail = "pipefail" in options
    operators = [";" if s.follows == "\n" else s.follows for s in simples]
    if stops:
        operators = ["&&" if operator == ";" else operator for operator in operators]
    plain = not any(operator in ("||", ";;", "&") for operator in operators)
    plain = plain and not any(s.words[:1] and (s.words[0] in _OPENING | _CLOSING | {"for", "case"}) for s in simples)
    found: list[Command] = []
    for index, simple in enumerate(simples):
        end = index
        while end + 1 < len(simples) and operators[end] in ("|", "|&"):
            end += 1
        shown = "none" if simple.sent_to else _shown(simples[index + 1 : end + 1])
        tells = plain and (end == index or has_pipefail)
        rest = operators[end : len(simples) - 1]
        zero = tells and all(operator in ("&&", "|", "|&") for operator in rest)
        before = (s.words[:1] for s in simples[:index])
        other = tells and end == len(simples) - 1 and all(word and word[0] in _QUIET for word in before)
        words = _unwrapped(simple.words)
        if not words:
            continue
        if words[0] in _SHELLS and (inner := _inner(words)) is not None:
            for command in _commands(inner, simple.directory, depth + 1):
                seen = min(command.shown, shown, key=_SHOWN.index)
                found.append(
                    command._replace(
                        shown=seen, zero_tells=zero and command.zero_tells, other_tells=other and command.other_tells
                    )
                )
        else:
            found.append(Command(tuple(words), simple.directory, shown, zero, other, simple.sent_to))
    return found


_SHOWN = ["none", "part", "tail", "all"]


def _shown(filters: list[_Simple]) -> str:
    """What later commands of a pipeline let through."""
    shown = "all"
    for simple in filters:
        words = _unwrapped(simple.words)
        if simple.sent_to:
            return "none"
        if not words or words[0] in ("cat", "tee"):
            continue
        is_tail = words[0] == "tail" and not any(word.startswith("+") or "+" in word[:4] for word in words[1:])
        shown = "tail" if is_tail and shown != "part" else "part"
    return shown


def _walk(items: Iterator[tuple[str, str]], directory: str) -> tuple[list[_Simple], str]:
    found: list[_Simple] = []
    stack: list[str] = []
    words: list[str] = []
    sent_to = ""

    def close(operator: str) -> None:
        nonlocal words, sent_to, directory
        if not words:
            if operator in ("|", "|&", "&&", "||", ";", "&") and found and found[-1].follows == ")":
                found[-1] = found[-1]._replace(follows=operator)
            return
        found.append(_Simple(words, operator, sent_to, directory))
        # A part of a pipeline moves nobody; `cd` without a place goes home.
        if words[0] == "cd" and operator not in ("|", "|&", "&"):
            targets = [word for word in words[1:] if not word.startswith("-")]
            directory = posixpath.normpath(posixpath.join(directory, targets[0] if targets else "~"))
        words, sent_to = [], ""

    for kind, value in items:
        if kind == "word":
            words.append(value)
        elif kind == "file":
            sent_to = value
        elif value == "(":
            close(";")
            stack.append(directory)
        else:
            close(value)
            if value == ")" and stack:
                directory = stack.pop()
    close("")
    return [s._replace(follows=";") if s.follows == ")" else s for s in found], directory


def _inner(words: list[str]) -> str | None:
    for index, word in enumerate(words[1:-1], 1):
        if re.fullmatch(r"-\w*c", word):
            return words[index + 1]
        if not word.startswith("-"):
            return None
    return None


def _unwrapped(words: list[str]) -> list[str]:
    """Words without assignments and programs that run others; the program by its bare name."""
    words = list(words)
    for _ in range(_DEPTH):
        while words and (words[0] in _OPENING or words[0] in _CLOSING or _ASSIGNMENT.match(words[0])):
            del words[0]
        if not words:
            return []
        name = words[0] = re.sub(r"\.(?:exe|cmd|bat)$", "", posixpath.basename(words[0])) or words[0]
        if re.fullmatch(r"python[\d.]*|py", name):
            # Options before -m take no argument, but for two.
            at = 1
            while at < len(words) and re.fullmatch(r"-[bBdEiIOqsSuvxXWP]+", words[at]):
                at += 2 if words[at] in ("-X", "-W") else 1
            if words[at : at + 1] == ["-m"]:
                words = words[at + 1 :]
            elif at < len(words) and not words[at].startswith("-"):
                words = words[at:]
            else:
                return words
            continue
        under = _RUNNING.get(name)
        skipped = 0
        if tuple(words[:2]) in _SUBCOMMANDS:
            skipped = 2
        elif under == ():
            skipped = 1
        elif under and words[1:2] == [under[0]]:
            skipped = 2
        elif name in _CONTAINERS and (inside := {"exec", "run"} & set(words[1:3])):
            skipped = words.index(inside.pop()) + 1
        if not skipped:
            return words
        rest = words[skipped:]
        while rest and (rest[0].startswith("-") or _ASSIGNMENT.match(rest[0])):
            if rest[0] in ("-m", "--module"):
                del rest[0]
                break
            del rest[: 2 if rest[0] in _VALUED and "=" not in rest[0] else 1]
        if name == "timeout" or name in _CONTAINERS:
            del rest[:1]
        if not rest:
            return words
        words = rest
    return words


class _Reader:
    """The words and operators of a script."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.heredocs: list[str] = []

    def items(self, depth: int = 0) -> Iterator[tuple[str, str]]:
        """Pairs of `word`, `op` or `file` (where output goes) and its text; below depth 0 up to the closing `)`."""
        if depth > _DEPTH:
            raise _UnreadableError
        text, parens = self.text, 0
        while self.at < len(text):
            char = text[self.at]
            if char != "\n" and char.isspace():
                self.at += 1
            elif text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#":
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            elif redirect := _REDIRECT.match(text, self.at):
                yield from self._redirect(redirect.group(), "", depth)
            elif operator := _OPERATOR.match(text, self.at):
                self.at = operator.end()
                if operator.group() == "\n":
                    self._skip_heredocs()
                elif operator.group() == "(":
                    parens += 1
                elif operator.group() == ")":
                    if depth and not parens:
                        return
                    parens -= 1
                yield "op", operator.group()
            else:
                word = self._word(depth)
                redirect = _REDIRECT.match(text, self.at)
                if redirect and word.isdigit():
                    yield from self._redirect(redirect.group(), word, depth)
                else:
                    yield "word", word
        if depth:
            raise _UnreadableError

    def _redirect(self, operator: str, stream: str, depth: int) -> Iterator[tuple[str, str]]:
        self.at += len(operator)
        if self.text.startswith("(", self.at):  # <(…): a file that another command writes
            self.at += 1
            for _ in self.items(depth + 1):
                pass
            yield "word", "/dev/fd"
            return
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1
        target = self._word(depth)
        if operator in ("<<", "<<-"):
            self.heredocs.append(target)
        elif operator in (">", ">>", ">|", "&>", "&>>") and stream in ("", "1") and target not in _SCREENS:
            yield "file", target or "?"

    def _skip_heredocs(self) -> None:
        for delimiter in self.heredocs:
            while True:
                if self.at >= len(self.text):
                    break
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                line = self.text[self.at : end].strip("\t")
                self.at = end + 1
                if line == delimiter:
                    break
        self.heredocs = []

    def _word(self, depth: int) -> str:
        text, parts = self.text, []
        while True:
            special = _SPECIAL.search(text, self.at)
            parts.append(text[self.at : special.start() if special else len(text)])
            if not special:
                self.at = len(text)
                break
            self.at = special.start()
            char = text[self.at]
            if char == "'":
                parts.append(self._until("'"))
            elif char == '"':
                parts.append(self._double(depth))
            elif char == "\\":
                parts.append("" if text.startswith("\n", self.at + 1) else text[self.at + 1 : self.at + 2])
                self.at += 2
            elif char in "$`":
                parts.append(self._dollar(depth))
            elif char == "#":
                parts.append(char)
                self.at += 1
            else:
                break
        return "".join(parts)

    def _until(self, quote: str) -> str:
        end = self.text.find(quote, self.at + 1)
        if end < 0:
            raise _UnreadableError
        start, self.at = self.at + 1, end + 1
        return self.text[start:end]

    def _double(self, depth: int) -> str:
        text, parts = self.text, []
        self.at += 1
        while special := _IN_DOUBLE.search(text, self.at):
            parts.append(text[self.at : special.start()])
            self.at = special.start()
            char = text[self.at]
            if char == '"':
                self.at += 1
                return "".join(parts)
            if char == "\\":
                parts.append(text[self.at + 1 : self.at + 2])
                self.at += 2
            else:
                parts.append(self._dollar(depth))
        raise _UnreadableError

    def _dollar(self, depth: int) -> str:
        """What is put in for `$…` is not known: it stays as it is written."""
        start, text = self.at, self.text
        if text[start] == "`":
            self._until("`")
        elif text.startswith("$(", start):
            self.at += 2
            outer, self.heredocs = self.heredocs, []
            for _ in self.items(depth + 1):
                pass
            self.heredocs = outer
        else:
            self.at += 1
        return text[start : self.at]


_SCREENS = frozenset({"/dev/stdout", "/dev/stderr", "/dev/tty", "&1", "&2"})
