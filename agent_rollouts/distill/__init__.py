"""Distilling: from rollouts to a dataset on disk that trainers take as it is.

Rows are read, each turn is given to one of the rows that hold it, secrets and names of people are taken
out, what the log proves of the outcome is noted, turns that are not worth imitating get weight 0, rollouts
without a prompt or an answer are left out, messages are brought into the shape that chat templates accept,
and everything is written at once as Parquet with a card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from datasets import Features, Json, List, Value

from agent_rollouts.chat import to_chat
from agent_rollouts.configs import file_rules
from agent_rollouts.copies import reader
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.families import Families, Key, Verdict, key, own
from agent_rollouts.distill.redact import COLUMNS as REDACTION_COLUMNS
from agent_rollouts.distill.redact import Redactor
from agent_rollouts.distill.weights import weigh
from agent_rollouts.features import prompt_count
from agent_rollouts.features import row as as_row
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import each, reason

SFT_FEATURES = Features(
    {
        "messages": List(Json()),
        "tools": List(Json()),
        "trace_id": Value("string"),
        "source_kind": Value("string"),
        "source_path": Value("string"),
        "root_session_id": Value("string"),
        "parent_trace_id": Value("string"),
        "agent_id": Value("string"),
        "is_sidechain": Value("bool"),
        "project_path": Value("string"),
        "git_branch": Value("string"),
        "model": Value("string"),
        "started_at": Value("string"),
        "ended_at": Value("string"),
        "family_id": Value("string"),
        "family_role": Value("string"),
        "owned_from": Value("int64"),
        "outcome": Value("string"),
        "tool_error_count": Value("int64"),
        "loop_count": Value("int64"),
        **REDACTION_COLUMNS,
    }
)
"""The rows of a distilled dataset: TRL's conversational shape, and where each row comes from."""

BYTES_PER_TOKEN = 4
"""For an estimate without a tokenizer; code and English lie between 3 and 4.5."""

_TASKS = ("summary", "agent_message")
"""Origins of messages that set a task where the user does not: a context that was compacted at work, a sub-agent."""


@dataclass
class Report:
    """What came in, what went out, and why the rest did not. All are counts, but for three.

    `copies` names, by source_path and trace_id, each row that owns nothing and the row that owns its turns;
    `bad_files` says what is wrong with a file; `redacted` whether a redactor was at work.
    """

    files: int = 0
    rollouts: int = 0
    rows: int = 0
    messages: int = 0
    tool_calls: int = 0
    text_bytes: int = 0
    copies: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    redacted: bool = False
    redactions: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    untrained: int = 0
    media: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    bad_files: dict[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of all messages, estimated from their bytes."""
        return self.text_bytes // BYTES_PER_TOKEN


def distill(
    files: Iterable[str],
    *,
    format: str = "auto",
    history: str = "segments",
    internal: bool = False,
    families: bool = True,
    redactor: Redactor | None = None,
    judge: bool = True,
    keep_failed_calls: bool = False,
    report: Report | None = None,
    name_of: Callable[[str], str] = str,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Iterator[dict[str, Any]]:
    """Rows of `SFT_FEATURES`, JSON columns as text, from the rollouts of files.

    Args:
        format: a format's name, or `auto`.
        history: `segments` conditions every answer on what the model saw; see `rollout.assemble`.
        internal: whether the agent's own housekeeping is kept.
        families: whether a turn that several rows hold is trained on in one of them only; files are read twice then.
        redactor: takes secrets and names out; None leaves them in.
        judge: whether the outcome is noted (`evidence`) and turns not worth imitating get weight 0 (`weights`).
        keep_failed_calls: whether calls that failed are trained on.
        report: filled while rows are made; complete when they are.
        name_of: what to write as `source_path` for a path.
        progress: put around the files, to show how far they are.
    """
    report = report if report is not None else Report()
    report.redacted = redactor is not None
    files = list(files)
    verdicts = _families(files, format, history, internal, progress) if families else None

    def note(path: str, error: Exception) -> None:
        report.bad_files[path] = reason(path, error)

    for rollout in _rollouts(_counted(progress(files), report), files, format, history, note):
        report.skipped += rollout.skipped
        if not rollout:
            continue
        report.rollouts += 1
        if rollout.internal and not internal:
            report.removed[f"the agent's own: {rollout.internal}"] += 1
            continue
        row = as_row(rollout)
        if verdicts is not None:
            verdict = verdicts[key(row)]
            if verdict.owned_from is None:
                report.removed[f"all of its turns are in another row ({verdict.family_role})"] += 1
                if verdict.owner is not None:
                    report.copies[key(row)[1:]] = verdict.owner[1:]
                continue
            row = own(row, verdict)
        row = {**row, "source_path": name_of(rollout.source_path)}
        if redactor is not None:
            row = redactor.row(row)
        if judge:
            row = weigh(evidence(row), keep_failed_calls=keep_failed_calls)
        messages = list(row["messages"])
        if why := _why_not(messages):
            report.removed[why] += 1
            continue
        chat = to_chat(messages)
        texts = [orjson.dumps(message) for message in chat]
        report.rows += 1
        report.redactions.update(row.get("redactions") or {})
        report.outcomes.update([row["outcome"]] if judge else [])
        report.messages += len(chat)
        report.tool_calls += sum(len(message.get("tool_calls", ())) for message in chat)
        report.text_bytes += sum(map(len, texts))
        report.untrained += sum(message["role"] == "assistant" and message.get("weight") == 0 for message in chat)
        report.media += len(rollout.media)
        report.formats[rollout.source_kind] += 1
        report.models[rollout.model or "not said"] += 1
        tools = None if row["tools"] is None else [orjson.dumps(tool).decode() for tool in row["tools"]]
        columns = {name: row.get(name) for name in SFT_FEATURES if name not in ("messages", "tools")}
        columns |= {"messages": [text.decode() for text in texts], "tools": tools}
        if redactor is not None:
            columns["redactions"] = orjson.dumps(row["redactions"]).decode()
        # Messages were joined and moved on the way: what stood before is counted in the new ones.
        if before := columns["owned_from"]:
            columns["owned_from"] = len(to_chat(messages[:before]))
        yield columns


def _families(
    files: list[str], format: str, history: str, internal: bool, progress: Callable[[Iterable[str]], Iterable[str]]
) -> dict[Key, Verdict]:
    known = Families()
    # What is wrong with a file is reported when its rows are made.
    for rollout in _rollouts(progress(files), files, format, history, lambda *_: None):
        if rollout and (internal or rollout.internal is None):
            known.add(vars(rollout))
    return known.settle()


def _counted(files: Iterable[str], report: Report) -> Iterator[str]:
    for path in files:
        report.files += 1
        yield path


def _rollouts(
    paths: Iterable[str], files: list[str], format: str, history: str, note: Callable[[str, Exception], None]
) -> Iterator[Rollout]:
    read = reader(files, format, history=history)
    for path in paths:
        yield from each(path, read, note, **file_rules(format))


def _why_not(messages: list[dict[str, Any]]) -> str | None:
    if not prompt_count(messages) and not any(message.get("origin") in _TASKS for message in messages):
        return "no prompt"
    answers = [m for m in messages if m["role"] == "assistant" and (m["content"] or m.get("tool_calls"))]
    if not answers:
        return "no answer"
    if all(answer.get("weight") == 0 for answer in answers):
        return "no answer that may be trained on"
    return None
