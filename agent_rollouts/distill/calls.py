"""Tool calls with what came of them: `calls(row)` pairs each call with its result and reads how it ended.

Every agent says in its own words that a call failed, was refused or ran on in the background; those words are
known here, by their place in the result, and nowhere else. `evidence` and `weights` ask this module.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from agent_rollouts.distill import runners, shell
from agent_rollouts.features import PROMPT_ORIGINS

Row: TypeAlias = Mapping[str, Any]

STATES = {
    "ok": "the result says so: no error flag where the agent sets one, exit code 0, `success: true`",
    "failed": "error flag, exit code other than 0, `success: false`, or the agent's words for it",
    "refused": "the user, or the rules that the user set, did not let it run",
    "interrupted": "the user stopped it while it ran",
    "running": "it went on in the background",
    "unanswered": "the log holds no result",
    "unknown": "there is a result, which does not say",
}

# Agents that flag a shell call as an error exactly when it exits with something other than 0; with
# whether a result without a flag is one without an error. (Claude Code; Pi's `bash` tool throws.)
_FLAGGED = {"claude_code": True, "pi_coding_agent": False, "oh_my_pi": False, "openclaw": False}

_REFUSED = (
    "The user doesn't want to proceed with this tool use",
    "The user doesn't want to take this action right now",
    "Permission prompt was aborted",
    "Permission for this action has been denied",
    "Permission to use ",
    "Claude requested permissions to ",
    "This command requires approval",
    "This Bash command contains multiple operations. The following part",
    "patch rejected by user",
    "exec command rejected by user",
    "rejected by user",
    "Action rejected: ",  # OpenHands
    "[Operation Cancelled] Reason: User did not allow",  # Gemini CLI, Qwen Code
    "The user denied this operation",  # Cline
    "The user rejected permission to use this specific tool call",  # OpenCode
    "The user has specified a rule which prevents you from using this specific tool call",
)
_INTERRUPTED = ("[Request interrupted by user", "aborted by user", "Operation aborted", "[Operation Cancelled]")
# Codex marks no result as an error; these are the words of its tools, at the start of the result.
_CODEX_FAILED = (
    "failed in sandbox", "execution error: ", "failed to parse function arguments", "unsupported call: ",
    "unsupported custom tool call: ", "apply_patch verification failed", "apply_patch handler received",
    "exec_command failed", "write_stdin failed", "command timed out after ", "unable to locate image",
)  # fmt: skip
_CODEX_DONE = "Success. Updated the following files:"

_CODEX_FRAME = re.compile(
    r"(?:Chunk ID: [^\n]*\n)?(?:Exit code: (-?\d+)\n)?(?:Wall time: [^\n]*\n)"
    r"(?:Process exited with code (-?\d+)\n|Process running with session ID (\d+)\n)?"
    r"(?:(?:Original token count|Total output lines): \d+\n)*(?:Output:\n|Output:$|$)?"
)
_EXIT_FIRST = re.compile(
    r"failed in sandbox \w+ with execution error: sandbox denied exec error, exit code: (\d+)"
    r"|(?:Error: )?Exit code (\d+)(?:\n|$)|<returncode>(-?\d+)</returncode>\n?"
)
_EXIT_LAST = re.compile(
    r"(?:^|\n)\[?(?:The command completed|Command finished|Process exited|Command exited) with (?:exit )?code"
    r" (-?\d+)\.?\]?(?:\n|$)|(?:^|\n)(?:Exit Code: |\(exit code: )(-?\d+)\)?(?:\n|$)"
)
_EXIT_TAG = re.compile(r"<exit_code>(-?\d+)</exit_code>")
_IN_BACKGROUND = re.compile(r"Command (?:running in background|was moved to the background|is still running).*")
_BACKGROUND_ID = re.compile(r"with ID: (\w+)")
_TAIL = 600

# Their exit code 1 is an answer: nothing found, not equal, not there.
_ASKING = frozenset(
    {"grep", "egrep", "rg", "diff", "cmp", "test", "[", "[[", "which", "command", "type", "pgrep", "ag"}
)
_POLLS = {"write_stdin": "session_id", "bashoutput": "bash_id", "taskoutput": "task_id"}


@dataclass(slots=True)
class Call:
    """A tool call and its result.

    Attributes:
        message, result: indices of the assistant message and of the tool message, None when there is none.
        state: one of `STATES`.
        script, directory: of a shell call: what was run, and where.
        exit_code: of a shell call, None when the result does not tell.
        output: the result without what its agent put around it.
    """

    message: int
    name: str
    arguments: Any
    result: int | None = None
    content: str = ""
    state: str = "unanswered"
    script: str | None = None
    directory: str = ""
    exit_code: int | None = None
    output: str = ""
    _runs: list[runners.Run] | None = field(default=None, repr=False)

    @property
    def commands(self) -> list[shell.Command]:
        """The commands of its script."""
        return shell.commands(self.script, self.directory) if self.script else []

    @property
    def runs(self) -> list[runners.Run]:
        """Its runs of tests, builds and linters, and how they ended."""
        if self._runs is None:
            worth = self.script and self.result is not None and self.state not in ("refused", "interrupted")
            is_run = worth and runners.MENTIONS.search(runners.plain(self.script or ""))
            self._runs = runners.runs(self.commands, self.output, self.exit_code) if is_run else []
        return self._runs

    @property
    def reported(self) -> bool:
        """Whether it did what it was for although it ended with an error: red tests, findings of a linter."""
        return self.state == "failed" and any(run.passed is False for run in self.runs)

    @property
    def identity(self) -> tuple[str, str]:
        """Name and arguments as text."""
        try:
            return self.name, json.dumps(self.arguments, sort_keys=True)
        except (RecursionError, TypeError, ValueError):
            return self.name, f"unique {id(self)}"


def calls(row: Row) -> list[Call]:
    """The tool calls of a row in their order, each with how it ended.

    Uses `messages`, `source_kind` and `cwd`.
    """
    kind = str(row.get("source_kind") or "")
    found: list[Call] = []
    open_calls: dict[str, Call] = {}
    for index, message in enumerate(row["messages"]):
        for call in message.get("tool_calls") or ():
            function = call["function"]
            found.append(Call(index, function["name"], function["arguments"]))
            open_calls[call["id"]] = found[-1]
        if message["role"] == "tool" and (answered := open_calls.pop(message.get("tool_call_id") or "", None)):
            answered.result = index
            answered.content = answered.output = message["content"]
    where = str(row.get("cwd") or "")
    running: dict[str, Call] = {}
    for call in found:
        call.script = shell.script(call.name, call.arguments)
        if call.script is not None:
            call.directory = shell.directory(call.arguments) or where
        if call.result is not None:
            flag = row["messages"][call.result].get("is_error")
            _read(call, flag if isinstance(flag, bool) else None, kind, running)
        # Claude Code, OpenHands and Hermes keep one shell; Codex, Pi and Gemini start where they are told to.
        if call.script and call.state == "ok" and call.name in ("Bash", "execute_bash", "terminal"):
            where = shell.last_directory(call.script, call.directory)
    return found


def prompts(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the user's prompts."""
    return [i for i, m in enumerate(messages) if m["role"] == "user" and m.get("origin") in PROMPT_ORIGINS]


def repeated(found: Sequence[Call], prompts: Sequence[int]) -> dict[int, int]:
    """Loops: of calls that only repeat, place in `found` to how often it has now been made.

    Counted is a call that was made before, with the same result, since the last prompt. Whenever a call is new, or
    an old one has a new result, counting begins again: looking at the state after every step is no loop, nor is
    waiting for something that runs.
    """
    times: dict[int, int] = {}
    seen: dict[Any, tuple[int, int]] = {}  # when counting began, and how often since
    begun = since = 0
    for place, call in enumerate(found):
        if (now := bisect(prompts, call.message)) > begun:
            begun, seen = now, {}
        if call.result is None or call.state == "running" or call.name.lower() in _POLLS:
            continue
        same = (call.identity, call.output if call.script is not None else call.content, call.exit_code, call.state)
        if same in seen:
            before = seen[same]
            times[place] = before[1] + 1 if before[0] == since else 2
            seen[same] = since, times[place]
        else:
            since += 1
            seen[same] = since, 1
    return times


def _read(call: Call, flag: bool | None, kind: str, running: dict[str, Call]) -> None:
    content = call.content
    if flag is not False and content.startswith(_REFUSED):
        call.state = "refused"
        return
    if flag is not False and (content.startswith(_INTERRUPTED) or content == "aborted"):
        call.state = "interrupted"
        return
    begun = None
    if (poll := _POLLS.get(call.name.lower())) and isinstance(call.arguments, Mapping):
        begun = running.get(str(call.arguments.get(poll)))
        if begun:
            call.script, call.directory = begun.script, begun.directory
    # What Codex makes of its patches has the shape of a shell's result.
    if call.script is not None or call.name == "apply_patch":
        _read_shell(call, flag, kind)
        if call.state == "interrupted":
            return
        if begun:
            call.output = begun.output + call.output
        if call.state == "running" and (session := _session(content)):
            running[session] = call
            return
    if flag is True or (call.exit_code or 0) != 0:
        call.state = "failed"
        if call.exit_code == 1 and (last := call.commands[-1:]) and last[0].words[0] in _ASKING:
            call.state = "ok"
    elif call.state == "running":
        pass
    elif flag is False or call.exit_code == 0:
        call.state = "ok"
    else:
        call.state = _said(call, kind)


def _said(call: Call, kind: str) -> str:
    """How a call ended of which neither a flag nor an exit code tells."""
    content = call.content
    if kind == "codex":
        if content.startswith(_CODEX_FAILED):
            return "failed"
        return "ok" if content.startswith(_CODEX_DONE) else "unknown"
    if content.startswith('{"'):
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError:
            value = {}
        if isinstance(value.get("success"), bool):
            return "ok" if value["success"] else "failed"
        if set(value) == {"error"}:
            return "failed"
    # The Messages API leaves `is_error` away where it is false.
    return "ok" if kind == "claude_code" else "unknown"


def _read_shell(call: Call, flag: bool | None, kind: str) -> None:
    """Exit code and output of a shell call."""
    content = call.content
    if content.startswith('{"') and _read_object(call):
        return
    if (frame := _CODEX_FRAME.match(content)) and any(frame.groups()):
        call.output = content[frame.end() :]
        if frame[3] is not None:
            call.state = "running"
        else:
            call.exit_code = _integer(frame[1] or frame[2])
        return
    if flag is not False and (first := _EXIT_FIRST.match(content)):
        call.exit_code = _integer(first[1] or first[2] or first[3])
        call.output = content[first.end() :]
        return
    tail = content[-_TAIL:]
    if flag is True and tail.rstrip().endswith(("Command aborted", "[Request interrupted by user for tool use]")):
        call.state = "interrupted"
    elif _IN_BACKGROUND.match(content):
        call.state = "running"
    elif call.name.lower() in _POLLS and "<exit_code>" in content:
        call.exit_code = _integer(found[1]) if (found := _EXIT_TAG.search(content)) else None
    elif ends := list(_EXIT_LAST.finditer(tail)):
        call.exit_code = _integer(ends[-1][1] or ends[-1][2])
        call.output = content[: len(content) - len(tail) + ends[-1].start()]
    elif kind in _FLAGGED and call.name.lower() == "bash" and (flag is False or (flag is None and _FLAGGED[kind])):
        call.exit_code = 0


def _read_object(call: Call) -> bool:
    """An object: `{"output", "metadata": {"exit_code"}}` of Codex, `{"output", "exit_code"}` of Hermes."""
    try:
        value = orjson.loads(call.content)
    except orjson.JSONDecodeError:
        return False
    metadata = value.get("metadata")
    code = metadata.get("exit_code") if isinstance(metadata, dict) else value.get("exit_code", value.get("returncode"))
    output = value.get("output", value.get("stdout"))
    if type(code) is not int or not isinstance(output, str):
        return False
    call.output, call.exit_code = output, code
    return True


def _session(content: str) -> str | None:
    if frame := _CODEX_FRAME.match(content):
        return frame[3]
    found = _BACKGROUND_ID.search(content[:300])
    return found[1] if found else None


def _integer(digits: str) -> int:
    return int(digits[:12])
