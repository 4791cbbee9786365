"""Filters: which rollouts are left out, each with the reason.

    filters = Filters(FilterOptions(since="2026-03-01", agent_model=("claude-*", "!*haiku*"), outcome=("success",)))
    filters.why_not(row)              # None, or a constant phrase to count: "began before --since"
    rows.filter(filters.keeps)        # map-style and streaming

Always left out is what has no prompt, only commands of the agent's program, no answer, or none that may be trained on.

Globs are shell patterns for a whole name, in either case; `*` crosses slashes, and `\\` is `/`. Of several, one must
fit; none that begins with `!` may. What a row does not say fits no glob and lies within no bounds: who asks for a
model, a date or a reward gets rows that have one, and who excludes a model loses only rows that name it.

Dates are instants, UTC where no zone is named. A rollout without a beginning is dated by its end.

Redaction changes paths, so the filters come in two parts: `early` reads only what the log says of a rollout as a whole
and is best asked before it, which also saves the work; `late` reads messages, weights, outcome and the rest.

The language is that of the prose in the user's prompts (`prose`), as ISO 639-1, told by eldc (extra `lang`), or none
where that is not sure. Of 136 invented prompts of a line in 15 languages 95 % were told, and none of them wrongly.
Always answering, eldc 0.4 was wrong for 1 %, lingua 2.1 for 4 %, py3langid 0.4 for 8 %; the last two are slower.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, TypeAlias

import re2

from agent_rollouts.configs import formats
from agent_rollouts.distill.evidence import OUTCOMES
from agent_rollouts.distill.shingles import messages, metadata
from agent_rollouts.distill.splits import repositories
from agent_rollouts.distill.windows import Tokens
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import PROMPT_ORIGINS, prompt_count
from agent_rollouts.transcript import instant

Row: TypeAlias = Mapping[str, Any]
Messages: TypeAlias = Sequence[Mapping[str, Any]]
Test: TypeAlias = Callable[[Row], "str | None"]

TASK_ORIGINS = frozenset({"summary", "agent_message"})
"""Origins of messages that set a task where the user does not: a context that was compacted at work, a sub-agent."""

COMMAND_ORIGINS = frozenset({"command", "command_output", "bash"})
"""Origins of what the user asked of the agent's program or the shell, not of the model."""


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """What to keep; see the module on globs, dates and what a row does not say."""

    since: Annotated[str | None, "Only rollouts that began at this date or instant, or later (ISO 8601; else UTC)"] = (
        None
    )
    until: Annotated[str | None, "Only rollouts that began on this date or earlier, or before this instant"] = None
    project: Annotated[
        tuple[str, ...], "Only these projects: globs for path, folder name or owner/name; `!` excludes"
    ] = ()
    branch: Annotated[tuple[str, ...], "Only these git branches: globs; `!` excludes"] = ()
    source_kind: Annotated[tuple[str, ...], "Only rollouts of these formats: globs; `!` excludes"] = ()
    agent_model: Annotated[tuple[str, ...], "Only rollouts in which one of these answered: globs; `!` excludes"] = ()
    outcome: Annotated[tuple[str, ...], f"Only these outcomes: {', '.join(OUTCOMES)}"] = ()
    min_reward: Annotated[float | None, "Only rollouts with this reward or more"] = None
    max_reward: Annotated[float | None, "Only rollouts with this reward or less"] = None
    min_messages: Annotated[int | None, "Only rollouts of this many messages or more"] = None
    max_messages: Annotated[int | None, "Only rollouts of this many messages or less"] = None
    min_rollout_tokens: Annotated[int | None, "Only rollouts of this many tokens or more, estimated from bytes"] = None
    max_rollout_tokens: Annotated[int | None, "Only rollouts of this many tokens or less, estimated from bytes"] = None
    min_prompts: Annotated[int | None, "Only rollouts with this many prompts of the user or more"] = None
    max_prompts: Annotated[int | None, "Only rollouts with this many prompts of the user or less"] = None
    min_calls: Annotated[int | None, "Only rollouts with this many tool calls or more"] = None
    max_calls: Annotated[int | None, "Only rollouts with this many tool calls or less"] = None
    sidechains: Annotated[bool, "Keep the work of sub-agents as rollouts of their own"] = True
    language: Annotated[
        tuple[str, ...], "Only rollouts whose user writes in these languages: ISO 639-1; `!` excludes (extra `lang`)"
    ] = ()
    where: Annotated[
        str | None, "Only rows for which this Python is true: an expression over `row`, or module:function; it is run"
    ] = None


class Filters:
    """`FilterOptions` made ready. May be pickled, as workers and `datasets` do."""

    def __init__(self, options: FilterOptions | None = None) -> None:
        """Compile what the options say.

        Raises:
            AgentRolloutsError: an option that says nothing possible (a date that is none, an unknown outcome, format or
                language, a least above the most, Python that cannot be compiled), or eldc is missing.
        """
        self.options = options = options or FilterOptions()
        self._early: list[Test] = [
            *_globs("source_kind", options.source_kind, "format", lambda row: [row.get("source_kind")], _kinds()),
            *_dates(options.since, options.until),
            *_globs("project", [_expanded(p) for p in options.project], "project", _projects),
            *_globs("branch", options.branch, "branch", lambda row: [row.get("git_branch")]),
            *_globs("agent_model", options.agent_model, "model", _models),
            *([] if options.sidechains else [lambda row: "work of a sub-agent" if row.get("is_sidechain") else None]),
            *_bounds(options, "reward", lambda row: row.get("reward")),
        ]
        self._late: list[Test] = [
            lambda row: why_empty(list(messages(row))),
            *_outcomes(options.outcome),
            *_bounds(options, "messages", lambda row: len(row.get("messages") or ())),
            *_bounds(options, "prompts", lambda row: prompt_count(list(messages(row)))),
            *_bounds(options, "calls", lambda row: sum(len(m.get("tool_calls") or ()) for m in messages(row))),
            *_bounds(options, "rollout_tokens", _tokens),
            *_languages(options.language),
            *([_where(options.where)] if options.where is not None else []),
        ]

    def __reduce__(self) -> tuple[type[Filters], tuple[FilterOptions]]:
        return Filters, (self.options,)

    def early(self, row: Row) -> str | None:
        """Why a row is left out by what the log says of it as a whole: format, date, project, model and the like."""
        return next((why for test in self._early if (why := test(row))), None)

    def late(self, row: Row) -> str | None:
        """Why a row is left out by its messages, their weights, its outcome, or the user's own Python.

        Raises:
            AgentRolloutsError: an outcome is asked for and was never looked for, or the user's Python fails.
        """
        return next((why for test in self._late if (why := test(row))), None)

    def why_not(self, row: Row) -> str | None:
        """Why a row is left out, or None where it is kept; raises as `late` does."""
        return self.early(row) or self.late(row)

    def keeps(self, row: Row) -> bool:
        """Whether a row is kept."""
        return self.why_not(row) is None


def why_empty(messages: Messages) -> str | None:
    """Why there is nothing to learn from messages: nothing was asked of the model, or it answered nothing of use."""
    origins = {message.get("origin") for message in messages if message["role"] == "user"}
    if not origins & PROMPT_ORIGINS and not any(message.get("origin") in TASK_ORIGINS for message in messages):
        return "only commands" if origins & COMMAND_ORIGINS else "no prompt"
    answers = [m for m in messages if m["role"] == "assistant" and (m["content"] or m.get("tool_calls"))]
    if not answers:
        return "no answer"
    if all(answer.get("weight") == 0 for answer in answers):
        return "no answer that may be trained on"
    return None


# -- columns ----------------------------------------------------------------------------------------


def _globs(
    option: str,
    patterns: Sequence[str],
    noun: str,
    names: Callable[[Row], Iterable[str | None]],
    known: Sequence[str] | None = None,
) -> list[Test]:
    if not patterns:
        return []
    for pattern in patterns:
        if not pattern.removeprefix("!"):
            raise AgentRolloutsError(f"{option}: {pattern!r} is no glob; `*` fits everything, `!name` excludes")
        if known is not None and not any(map(_compiled([pattern.removeprefix("!")]), known)):
            raise AgentRolloutsError(f"{option}: {pattern!r} fits nothing; known: {', '.join(known)}")
    wanted = _compiled([p for p in patterns if not p.startswith("!")])
    unwanted = _compiled([p[1:] for p in patterns if p.startswith("!")])
    takes_all = all(p.startswith("!") for p in patterns)

    def test(row: Row) -> str | None:
        found = [name.replace("\\", "/") for name in names(row) if name]
        if any(map(unwanted, found)):
            return f"{noun} excluded"
        if takes_all or any(map(wanted, found)):
            return None
        return f"{noun} not asked for" if found else f"no {noun} named"

    return [test]


def _compiled(globs: Iterable[str]) -> Callable[[str], re.Match[str] | None]:
    # What fnmatch writes needs `re`, and does not backtrack; it is held against names, never against texts.
    patterns = [fnmatch.translate(glob.replace("\\", "/")) for glob in globs]
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE).match


def _kinds() -> list[str]:
    return list(formats())


def _expanded(pattern: str) -> str:
    mark = "!" if pattern.startswith("!") else ""
    return mark + os.path.expanduser(pattern.removeprefix("!"))


def _projects(row: Row) -> list[str]:
    path = (row.get("project_path") or row.get("cwd") or "").rstrip("/\\")
    return [path, re.split(r"[/\\]", path)[-1], *repositories(row)]


def _models(row: Row) -> list[str | None]:
    return [row.get("model"), *(metadata(row).get("models") or ())]


def _dates(since: str | None, until: str | None) -> list[Test]:
    if since is None and until is None:
        return []
    first = float("-inf") if since is None else _date("since", since)
    last = float("inf") if until is None else _date("until", until, of_whole_day=True)
    if first >= last:
        raise AgentRolloutsError(f"since {since} is not before until {until}: no rollout can be")

    def test(row: Row) -> str | None:
        begun = instant(row.get("started_at") or row.get("ended_at") or "")
        if begun is None:
            return "no date"
        return "began before --since" if begun < first else "began after --until" if begun >= last else None

    return [test]


def _date(option: str, text: str, *, of_whole_day: bool = False) -> float:
    try:
        if of_whole_day and len(text) == len("2026-03-01"):
            text = (date.fromisoformat(text) + timedelta(days=1)).isoformat()
    except (ValueError, OverflowError):
        pass
    if (found := instant(text)) is None:
        raise AgentRolloutsError(f"{option}: {text!r} is no date; write 2026-03-01 or 2026-03-01T09:30:00+01:00")
    return found


def _outcomes(wanted: Sequence[str]) -> list[Test]:
    if unknown := set(wanted) - set(OUTCOMES):
        raise AgentRolloutsError(f"unknown outcome {', '.join(sorted(unknown))}; known: {', '.join(OUTCOMES)}")

    def test(row: Row) -> str | None:
        if (outcome := row.get("outcome")) is None:
            raise AgentRolloutsError(f"{_place(row)} has no outcome to filter by: let `evidence` look for it first")
        return None if outcome in wanted else "outcome not asked for"

    return [test] if wanted else []


def _bounds(options: FilterOptions, name: str, measure: Callable[[Row], float | None]) -> list[Test]:
    least, most = getattr(options, f"min_{name}"), getattr(options, f"max_{name}")
    if least is None and most is None:
        return []
    flag = name.replace("_", "-")
    if least != least or most != most or (least is not None and most is not None and least > most):
        raise AgentRolloutsError(f"min_{name} {least} and max_{name} {most}: no rollout can be between them")

    def test(row: Row) -> str | None:
        value = measure(row)
        if value is None or value != value:
            return f"no {name}"
        if least is not None and value < least:
            return f"below --min-{flag}"
        return f"above --max-{flag}" if most is not None and value > most else None

    return [test]


def _tokens(row: Row) -> int:
    return Tokens.estimate().whole(list(messages(row)), row.get("tools"))


# -- language ---------------------------------------------------------------------------------------

_FENCED = re2.compile(r"(?s)```.*?(?:```|\z)|~~~.*?(?:~~~|\z)|`[^`\n]*`|<[^<>\n]*>|https?://\S+")
# Options, paths and names with a sign in them, camelCase, capitals and numbers. Letters are ASCII here, so that
# prose without spaces (Chinese, Japanese) loses the names in it and nothing else.
_SIGNS = r"_/\\@#$%&=+*~^|<>(){}\[\]:."
_CODE = re2.compile(
    rf"--?[A-Za-z][\w-]*|[A-Za-z0-9{_SIGNS}-]*[{_SIGNS}][A-Za-z0-9_(){{}}\[\]][A-Za-z0-9{_SIGNS}-]*"
    r"|\b[a-z]+[A-Z]\w*\b|\b[A-Z]{2,}\b|[0-9\pC]+"
)
# What is pasted mostly follows the question.
_OF_PROMPT, _OF_ROW = 400, 4000
# From this many characters on what eldc calls unreliable was right all the same, below it was not.
_TELLING = 20
_UNDETERMINED = "und"


def prose(text: str) -> str:
    """What a person wrote in a prompt, without code blocks, tags, addresses, paths and names from code."""
    plain = text[: 20 * _OF_PROMPT].encode("utf-8", "replace").decode()
    return " ".join(_CODE.sub(" ", _FENCED.sub(" ", plain)).split())


def _languages(wanted: Sequence[str]) -> list[Test]:
    if not wanted:
        return []
    try:
        eldc = importlib.import_module("eldc")
    except ImportError:
        raise AgentRolloutsError("telling languages needs eldc: pip install 'agent-rollouts[lang]'") from None
    eldc.init()

    def language(row: Row) -> list[str | None]:
        text = _prompts(list(messages(row)))
        found = eldc.detect_details(text)
        is_told = found.language != _UNDETERMINED and (found.reliable or len(text) >= _TELLING)
        return [found.language if is_told else None]

    return _globs("language", wanted, "language", language, eldc.LANGUAGES)


def _prompts(messages: Messages) -> str:
    asked = [m for m in messages if m["role"] == "user" and m.get("origin") in PROMPT_ORIGINS]
    parts, size = [], 0
    for message in asked or [m for m in messages if m.get("origin") in TASK_ORIGINS]:
        parts.append(prose(message["content"])[:_OF_PROMPT])
        size += len(parts[-1])
        if size >= _OF_ROW:
            break
    return "\n".join(parts)


# -- the user's own ---------------------------------------------------------------------------------

_REFERENCE = re.compile(r"([\w.]+):([\w.]+)")


def _where(text: str) -> Test:
    function = _referenced(*found.groups()) if (found := _REFERENCE.fullmatch(text.strip())) else _expression(text)

    def test(row: Row) -> str | None:
        try:
            return None if function(row) else "not as --where asks"
        # It is the user's code: it can fail in any way.
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
            raise AgentRolloutsError(f"where {text!r} failed on {_place(row)}: {failed}") from error

    return test


def _expression(text: str) -> Callable[[Row], Any]:
    try:
        code = compile(text.strip(), "<where>", "eval")
    except (SyntaxError, ValueError) as error:
        raise AgentRolloutsError(
            f"where {text!r} is no Python expression ({error}); write one over `row`, or module:function"
        ) from None
    return lambda row: eval(code, {"row": row})


def _referenced(module: str, name: str) -> Callable[[Row], Any]:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise AgentRolloutsError(
            f"where {module}:{name} was not found ({error}); PYTHONPATH=FOLDER adds the folder it lies in"
        ) from error
    if not callable(found):
        raise AgentRolloutsError(f"where {module}:{name} is a {type(found).__name__}; it must be a function of a row")
    return found  # type: ignore[no-any-return]


def _place(row: Row) -> str:
    return f"{row.get('trace_id')!r} of {row.get('source_path')!r}"
