"""Evidence: what the log itself proves of how a rollout ended.

    row = evidence(row)     # + outcome, outcome_evidence, tool_error_count, error_recoveries, loop_count

`RULES` is the whole of it: which call, column or words a rule understands, and what it says. A rule reads the
result of a call that it understands (`calls`, `shell`, `runners`), or the last words of the user, or a column;
none searches the transcript. Later counts more than earlier: of a run of tests only its last state is kept
(red, then green, is green), a green run that was followed by an edit proves nothing of the result, and what the
user calls wrong is not proved right by what came before. Where evidence is missing or disagrees, the outcome is
unknown.

Uses `messages`, `source_kind`, `cwd`, `reward` and `completed` of a row, and no other stage's columns.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import re2
from datasets import Features, List, Value

from agent_rollouts.distill import runners, shell
from agent_rollouts.distill.calls import Call, Row, calls, prompts, repeated

OUTCOMES = ("success", "failure", "interrupted", "unknown")

EVIDENCE_FEATURES = Features(
    {
        "outcome": Value("string"),
        "outcome_evidence": List({"kind": Value("string"), "message_index": Value("int64"), "value": Value("string")}),
        "tool_error_count": Value("int64"),
        "error_recoveries": List({"failed": Value("int64"), "recovered": Value("int64")}),
        "loop_count": Value("int64"),
    }
)
"""The columns that `evidence` adds."""

COLUMNS = {
    "outcome": "what the log proves of the end: success, failure, interrupted; else unknown",
    "outcome_evidence": "what that rests on: kind (see the rules), message index (null for a column), value",
    "tool_error_count": "calls whose result says that they failed; refused ones are not among them",
    "error_recoveries": "from a failed call's message to the result with which the same goal was reached",
    "loop_count": "calls made three times or more with the same result and nothing new in between",
}


class Rule(NamedTuple):
    """What a kind of evidence rests on, and what it says of the outcome."""

    kind: str
    accepts: str
    says: str


_LAST = "the last run of these tests: its totals"

RULES = (
    Rule("reward", "the row's `reward`, of a verifier", "success from 1 on, failure at 0 and below; it decides"),
    Rule("completed", "the row's `completed`", "failure when false (Codex: interrupted); true proves no success"),
    Rule(
        "user_interrupted",
        "the note that the user stopped the agent, or a call stopped while it ran, and no answer after it",
        "interrupted",
    ),
    Rule("call_refused", "the calls of the last answer, all refused by the user", "interrupted"),
    Rule("api_error", "an error of the model's service in the place of the last answer", "interrupted"),
    Rule("limit", "a limit of usage or context in the place of the last answer", "interrupted"),
    Rule("user_accepted", "the last prompt, all of it: thanks, lgtm, works now …; no call after it", "success"),
    Rule(
        "user_corrected",
        "the last prompt, from its start: still fails, that is wrong, doesn't work, you broke, revert …",
        "failure when it was not answered; what was proved before no longer counts",
    ),
    Rule(
        "tests_passed",
        _LAST,
        "success when code was edited, repaired or committed before it, none edited after it, and nothing else is red",
    ),
    Rule(
        "tests_failed", _LAST, "failure when code was so before it, none edited after it, and it is the last run of all"
    ),
    Rule("build_passed", "the last such build: its last words, or its exit code", "as tests_passed, if committed then"),
    Rule("build_failed", "the last such build: its last words, or its exit code", "as tests_failed"),
    Rule("lint_passed", "the last such run of a linter or type checker", "as build_passed"),
    Rule("lint_failed", "the last such run of a linter or type checker", "no success"),
    Rule("edited_after", "an edit of code, after the last green run", "that run proves nothing of the result"),
    Rule("commit", "`git commit`, and git's line `[branch hash] …` in the result", "see build_passed"),
    Rule("pull_request", "`gh pr create` or `glab mr create`, and the address in the result", "see build_passed"),
    Rule("unanswered_call", "calls of the last answer without a result, but for those that end a run", "no success"),
    Rule("loop", "a call made three times with the same result and nothing new in between", "nothing"),
)
"""Every kind of evidence, in the order in which they are weighed."""

_EDITING = re2.compile(r"(?i)edit|write|patch|str_?replace|^replace|create_?file|^create$|insert|apply_?diff")
_NO_EDITING = frozenset({"todowrite", "todo_write", "write_todos", "write_stdin", "edit_plan"})
_LOOKING = ("view", "undo_edit")
_PATHS = ("file_path", "path", "notebook_path", "target_file", "filename", "file", "url")
_SCRATCH = ("/tmp/", "/dev/", "/var/tmp/")
_PROSE = (".md", ".rst", ".txt", ".mdx", ".adoc")
_PATCHED = re.compile(r"^\*\*\* (?:Add|Update|Delete) File: (.+)$", re.MULTILINE)
_ENDING = frozenset({
    "finish", "submit", "mark_task_complete", "complete_task", "attempt_completion", "exit", "exitplanmode",
    "askuserquestion", "web_search", "image_generation", "exit_plan_mode", "ask_user", "think",
})  # fmt: skip

_COMMITTED = re2.compile(r"(?m)^\[[^\]\n]{1,200} ([0-9a-f]{7,40})\] ")
_REQUESTED = re2.compile(r"https?://\S+/(?:pull|merge_requests)/(\d+)")

_API_ERROR = re.compile(r"API Error: (?:\d{3}\b|Connection error|Request timed out)|API Error \(")
_LIMIT = re.compile(
    r"(?:Claude (?:AI )?usage limit reached|You've (?:hit|reached) your .{0,30}limit|\d-hour limit reached"
    r"|Credit balance is too low|Prompt is too long)"
)
_LONGEST_NOTICE = 600

_PRAISE = (
    r"perfect|thank you|thanks|thx|ty|lgtm|looks good(?: to me)?|well done|good job|great job|nice work|great work"
)
_WORKS = r"(?:(?:it|that|this|everything) )?(?:all )?(?:now )?works?(?: now| perfectly| great| fine| well)?"
_FILLER = (
    r"ok|okay|yes|yep|yeah|cool|great|awesome|excellent|amazing|nice|good|fantastic|wonderful|brilliant"
    r"|so much|very much|a lot|that's|that is|it|all|and|now|very"
)
_ACCEPTS = re2.compile(
    rf"(?i)(?:(?:{_FILLER})[\s,.!-]*)*\b(?:{_PRAISE}|{_WORKS})[\s,.!-]*(?:(?:{_PRAISE}|{_WORKS}|{_FILLER})[\s,.!-]*)*"
)
_CORRECTS = re2.compile(
    r"(?i)(?:(?:no|nope|hmm+|sorry|unfortunately|but)[\s,.!-]+){0,2}"
    r"(?:(?:that|this|it)(?:'s| is) (?:wrong|incorrect|not (?:right|correct|what i|working|fixed))"
    r"|(?:(?:that|this|it|the \w+) )?(?:still )?(?:does ?n[o']t|did ?n[o']t|does not|did not|is ?n[o']t|is not) work"
    r"|(?:(?:that|this|it) )?(?:is )?still (?:not|fail|broken|getting|the same|doesn't|does not|isn't|happen)"
    r"|not working|you (?:broke|forgot|missed|misunderstood|didn't|did not)|wrong[\s,.!-]"
    r"|revert (?:that|this|it|your)|undo (?:that|this|it|your))"
)


def evidence(row: Row) -> dict[str, Any]:
    """The row with the columns of `EVIDENCE_FEATURES`; indices are places in its `messages`."""
    found = calls(row)
    reading = _Reading(row, found)
    loops = repeated(found, reading.prompts)
    items = [
        *reading.columns(),
        *reading.end(),
        *reading.runs(),
        *reading.handed_over(),
        *(_item("loop", found[place].message, found[place].name) for place, times in loops.items() if times == 3),
    ]
    items.sort(key=lambda item: (item["message_index"] is None, item["message_index"] or 0))
    return {
        **row,
        "outcome": reading.outcome(items),
        "outcome_evidence": items,
        "tool_error_count": sum(call.state == "failed" for call in found),
        "error_recoveries": recoveries(found, reading.prompts),
        "loop_count": sum(times == 3 for times in loops.values()),
    }


def recoveries(found: Sequence[Call], prompts: Sequence[int] = ()) -> list[dict[str, int]]:
    """Spans from the message of a failed call to the result with which the same goal was reached.

    The same goal is: a run that covers the red one; and, before the user's next prompt, the same script, whatever cut
    its output; the same tool for the same file or address; else the same call.
    """
    spans: list[dict[str, int]] = []
    failed: dict[Any, int] = {}
    red = runners.Ledger()
    begun = 0
    for call in found:
        if (now := bisect(prompts, call.message)) > begun:
            begun, failed = now, {}
        if call.result is None or call.state in ("refused", "interrupted", "running"):
            continue
        told = [run for run in call.runs if run.passed is not None]
        starts: list[int] = []
        for run in told:
            covered = red.covered(run)
            if run.passed:
                starts += [red.entries[key][1] for key in covered]
                for key in covered:
                    red.drop(key)
            elif not any(red.entries[key][0].covers(run) for key in covered):
                red.add(run, call.message)
        if not told and call.state in ("ok", "failed"):
            goal = _goal(call)
            if call.state == "failed":
                failed.setdefault(goal, call.message)
            elif goal in failed:
                starts.append(failed.pop(goal))
        spans += [{"failed": start, "recovered": call.result} for start in dict.fromkeys(starts)]
    return spans


def moved(row: Row, places: Mapping[int, int]) -> dict[str, Any]:
    """`outcome_evidence` and `error_recoveries` when the row's messages have moved, null where one is gone.

    Args:
        places: the new index of each message that is left, by its old one.
    """
    return {
        "outcome_evidence": [
            {**item, "message_index": places.get(item["message_index"])} for item in row.get("outcome_evidence") or ()
        ],
        "error_recoveries": [
            {end: places.get(index) for end, index in span.items()} for span in row.get("error_recoveries") or ()
        ],
    }


def corrections(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Places of the prompts that call the answer before them wrong, by the rule of `user_corrected`."""
    return [index for index in prompts(messages) if _is_correction(_judgement(messages, index))]


def _judgement(messages: Sequence[Mapping[str, Any]], index: int) -> str:
    """What a prompt says of the answer before it; nothing where that was a question, or there was none."""
    before = (m["content"].rstrip() for m in reversed(messages[:index]) if m["role"] == "assistant")
    answer = next((text for text in before if text), "?")
    if answer.endswith("?"):
        return ""
    return runners.plain(messages[index]["content"]).strip().replace("\u2019", "'")


def _is_correction(text: str) -> bool:
    return len(text) <= 1000 and _CORRECTS.match(text) is not None


def is_api_error(message: Mapping[str, Any]) -> bool:
    """Whether an assistant message is an error of the model's service, as the source says or in Claude Code's words."""
    return message.get("weight_reason") == "api_error" or _API_ERROR.match(_notice(message)) is not None


def is_limit(message: Mapping[str, Any]) -> bool:
    """Whether an assistant message is Claude Code's note that a limit of usage or context is reached."""
    return _LIMIT.match(_notice(message)) is not None


def _notice(message: Mapping[str, Any]) -> str:
    text: str = message["content"]
    return "" if len(text) > _LONGEST_NOTICE or message.get("tool_calls") else text


def rules_table() -> str:
    """`RULES` as a Markdown table."""
    return _markdown(("evidence", "accepts", "says"), ((f"`{r.kind}`", r.accepts, r.says) for r in RULES))


def runners_table() -> str:
    """What is understood of test runners, builds and linters, as a Markdown table."""
    rows = (
        (r.kind, ", ".join(f"`{c}`" for c in r.commands), "totals" if r.totals else "exit code")
        for r in runners.RUNNERS
    )
    return _markdown(("kind", "commands", "told by"), rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


class _Reading:
    """A row with its calls, read once."""

    def __init__(self, row: Row, found: Sequence[Call]) -> None:
        self.row = row
        self.calls = found
        self.messages: Sequence[Mapping[str, Any]] = row["messages"]
        self.prompts = prompts(self.messages)
        spoken = [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]
        self.last_said = spoken[-1] if spoken else -1
        own = [i for i in spoken if self.messages[i].get("origin") is None]
        self.last_answer = next((i for i in reversed(own) if self._is_answer(self.messages[i])), -1)
        self.edits = sorted(c.result for c in found if c.result is not None and _edits_code(c))
        self.repaired = False

    @staticmethod
    def _is_answer(message: Mapping[str, Any]) -> bool:
        return (
            bool(message["content"] or message.get("tool_calls"))
            and not is_api_error(message)
            and not is_limit(message)
        )

    def columns(self) -> list[dict[str, Any]]:
        reward, completed = self.row.get("reward"), self.row.get("completed")
        return [
            *([_item("reward", None, f"{reward:g}")] if reward is not None else []),
            *([_item("completed", None, "true" if completed else "false")] if completed is not None else []),
        ]

    def end(self) -> list[dict[str, Any]]:
        """How it ended: broken off, unanswered, or with the user's word for it."""
        found = []
        messages = self.messages
        last = [call for call in self.calls if call.message == self.last_answer]
        if self.last_said >= 0:
            said = messages[self.last_said]
            if is_limit(said):
                found.append(_item("limit", self.last_said, ""))
            elif is_api_error(said):
                found.append(_item("api_error", self.last_said, ""))
        stops = [i for i in range(self.last_answer + 1, len(messages)) if messages[i].get("origin") == "interrupt"]
        stops += [call.message for call in last if call.state == "interrupted"]
        if self.last_answer >= 0 and messages[self.last_answer].get("weight_reason") == "interrupted":
            stops.append(self.last_answer)
        if stops:
            found.append(_item("user_interrupted", stops[0], ""))
        if last and all(call.state == "refused" for call in last):
            found.append(_item("call_refused", last[-1].result, last[-1].name))
        open_calls = [c for c in last if c.state == "unanswered" and c.name.lower() not in _ENDING]
        if open_calls:
            found.append(_item("unanswered_call", self.last_answer, open_calls[0].name))
        return found + self._last_words()

    def _last_words(self) -> list[dict[str, Any]]:
        if not self.prompts:
            return []
        index = self.prompts[-1]
        text = _judgement(self.messages, index)
        if len(text) <= 80 and _ACCEPTS.fullmatch(text):
            is_last = not any(call.message > index for call in self.calls)
            return [_item("user_accepted", index, text)] if is_last else []
        return [_item("user_corrected", index, "")] if _is_correction(text) else []

    def runs(self) -> list[dict[str, Any]]:
        """The last state of each run, and whether code was edited behind the last green one."""
        last = runners.Ledger()
        for call in self.calls:
            for run in call.runs:
                assert call.result is not None
                for key in last.covered(run):
                    old, index = last.entries[key]
                    self.repaired = self.repaired or (run.passed is True and not old.passed)
                    # What a run came to that cannot be read is not known; without an edit it is what it was.
                    if run.passed is not None or bisect(self.edits, index) < bisect(self.edits, call.result):
                        last.drop(key)
                if run.passed is not None:
                    last.add(run, call.result)
        states = list(last.entries.values())
        found = [_item(f"{run.kind}_{'passed' if run.passed else 'failed'}", i, run.label) for run, i in states]
        greens = [index for run, index in states if run.passed]
        if greens and (later := [index for index in self.edits if index > max(greens)]):
            found.append(_item("edited_after", later[0], ""))
        return found

    def handed_over(self) -> list[dict[str, Any]]:
        """Commits and pull requests."""
        found = []
        for call in self.calls:
            if not call.script or call.result is None or call.state in ("refused", "interrupted"):
                continue
            if "commit" not in call.script and "create" not in call.script:
                continue
            output = runners.plain(call.output)
            for command in call.commands:
                words = shell.subcommand(command.words)
                if words[:2] == ["git", "commit"] and (made := _COMMITTED.search(output)):
                    found.append(_item("commit", call.result, made[1]))
                    break
                is_request = words[:3] in (["gh", "pr", "create"], ["glab", "mr", "create"])
                if is_request and call.state != "failed" and (asked := _REQUESTED.search(output)):
                    found.append(_item("pull_request", call.result, f"#{asked[1]}"))
                    break
        return found

    def outcome(self, items: Sequence[Mapping[str, Any]]) -> str:
        """What the items prove together; see `RULES`."""
        at: dict[str, list[int]] = {}
        for item in items:
            at.setdefault(item["kind"], []).append(-1 if item["message_index"] is None else item["message_index"])
        reward = self.row.get("reward")
        if reward is not None:
            return "success" if reward >= 1 else "failure" if reward <= 0 else "unknown"
        if not at.keys().isdisjoint({"user_interrupted", "call_refused", "api_error", "limit"}):
            return "interrupted"
        if self.row.get("completed") is False:
            # Codex says so of a turn that was aborted.
            return "interrupted" if self.row.get("source_kind") == "codex" else "failure"
        if "user_accepted" in at:
            return "success"
        wrong = max(at.get("user_corrected", [-1]))
        if wrong > self.last_answer:
            return "failure"
        checks = {kind: max(at[kind]) for kind in at if kind.endswith(("_passed", "_failed"))}
        latest = max(checks, key=lambda kind: checks[kind]) if checks else ""
        edited = max(self.edits, default=-1)
        # What was not worked on is as it was found.
        if not self.edits and not self.repaired and "commit" not in at:
            return "unknown"
        proves = {kind: index > max(edited, wrong) for kind, index in checks.items()}
        if latest in ("tests_failed", "build_failed") and proves[latest]:
            return "failure"
        if any(kind.endswith("_failed") for kind in checks) or "unanswered_call" in at:
            return "unknown"
        if proves.get("tests_passed"):
            return "success"
        handed = max(at.get("commit", [-1]) + at.get("pull_request", [-1]))
        checked = max((checks[kind] for kind in ("build_passed", "lint_passed") if proves.get(kind)), default=None)
        return "success" if checked is not None and handed >= checked else "unknown"


def _item(kind: str, message_index: int | None, value: str) -> dict[str, Any]:
    return {"kind": kind, "message_index": message_index, "value": value[:200]}


def _edits_code(call: Call) -> bool:
    """Whether a call changed a file that is neither prose nor scratch."""
    if call.state not in ("ok", "unknown"):
        return False
    if call.script is not None:
        paths = _written(call)
    elif call.name.lower() not in _NO_EDITING and _EDITING.search(runners.plain(call.name)):
        if not isinstance(call.arguments, Mapping) or call.arguments.get("command") in _LOOKING:
            return not isinstance(call.arguments, Mapping)
        paths = [call.arguments[key] for key in _PATHS if isinstance(call.arguments.get(key), str)]
        for text in call.arguments.values():
            if isinstance(text, str) and "*** " in text:
                paths += _PATCHED.findall(text)
        paths = paths or ["?"]
    else:
        return False
    return any(not path.strip().lower().endswith(_PROSE) and not path.startswith(_SCRATCH) for path in paths)


def _written(call: Call) -> list[str]:
    """The files that a script edits: with a patch, in place, or from a text that stands in it."""
    script = call.script or ""
    if "apply_patch" in script and (paths := _PATCHED.findall(script)):
        return paths
    if not any(sign in script for sign in ("<<", "sed -", "perl -", "git apply", "patch -", ">")):
        return []
    found = []
    for command in call.commands:
        words = command.words
        if words[0] in ("cat", "echo", "printf") and command.sent_to:
            found.append(command.sent_to)
        elif words[0] in ("sed", "perl") and any(re.match(r"-\w*i", word) for word in words[1:]):
            found.append(words[-1])
        elif words[0] == "patch" or words[:2] == ("git", "apply"):
            found.append("?")
        elif words[0] == "tee" and "<<" in script:
            found += [word for word in words[1:] if not word.startswith("-")]
    return found


_CUT = re2.compile(r"(?:\s*2>&1|\s*\|\s*(?:tail|head)(?:\s+-\S+(?:\s+\d+)?)*)+\s*$")


def _goal(call: Call) -> Any:
    if call.script is not None:
        return call.directory, _CUT.sub("", runners.plain(call.script).strip())
    if isinstance(call.arguments, Mapping):
        for key in _PATHS:
            if isinstance(path := call.arguments.get(key), str):
                return call.name, str(call.arguments.get("command")), posixpath.normpath(path)
        for text in call.arguments.values():
            if isinstance(text, str) and (paths := _PATCHED.findall(text)):
                return call.name, tuple(paths)
    return call.identity
