r"""Harbor's ATIF: `<job>/<trial>/agent/trajectory.json`, one JSON object per trajectory, also written by other programs.

    {"schema_version": "ATIF-v1.7", "session_id": "S", "agent": {"name": "terminus-2", "version": "2.0.0", "model_name": "openai/gpt-4o"},
     "steps": [
      {"step_id": 1, "source": "user", "message": "Fix it"},
      {"step_id": 2, "source": "agent", "message": "Looking.", "metrics": {"prompt_tokens": 9, "completion_tokens": 2},
       "tool_calls": [{"tool_call_id": "c1", "function_name": "bash", "arguments": {"cmd": "ls"}}],
       "observation": {"results": [{"source_call_id": "c1", "content": "README.md"}]}}]}

Beside lie continuations (`trajectory.cont-1.json`), sub-agents (`trajectory.summarization-1-summary.json`) and
pictures (`images/…`), above the trial's `result.json` (reward, exception). Since v1.7 sub-agents may be embedded.

* A step is one whole message. `is_copied_context` repeats what another trajectory holds: weight 0.
* Results need not name their call. As many as there are calls answer them in order; otherwise they are one merged
  output, which stands behind the last call. Without a call they are what the environment answers: a user message.
* Ids of calls are unique within a step only.
* Converters write placeholders where the model wrote nothing (`[tool call]`); these are no content.
* Claude Code's converter sorts the steps of sub-agents into the main ones by time (`extra.is_sidechain`).

Sources: the specification and agents of harbor 0.25.0. What its validator refuses is in `_atif.py` and refused here
with `strict` only.
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from datetime import date
from typing import NamedTuple

from agent_rollouts.errors import FormatError
from agent_rollouts.events import (
    JSON,
    At,
    Called,
    Compacted,
    End,
    Event,
    Facts,
    Media,
    Returned,
    Said,
    Skipped,
    Start,
    Thought,
    Used,
)
from agent_rollouts.formats._atif import breaches
from agent_rollouts.formats._chat import arguments, text_or_none
from agent_rollouts.formats._media import image_type, of_url
from agent_rollouts.source import Head, Source

_ROLES = {"system": "system", "user": "user", "agent": "assistant", "assistant": "assistant"}
_USAGE = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cached_tokens": "cache_read_tokens",
    "cost_usd": "cost_usd",
}
# In `metrics.extra`, by whose converter writes it: Pi and OpenCode, Codex, Claude Code.
_MORE_USAGE = {
    "cache_write_tokens": "cache_write_tokens",
    "cache_write_input_tokens": "cache_write_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "reasoning_output_tokens": "reasoning_tokens",
}
_TOKEN_LISTS = ("prompt_token_ids", "completion_token_ids", "logprobs")

# What the converters of Hermes, Goose, Kimi, MiMo and OpenClaw write for a message without text.
_PLACEHOLDERS = frozenset({
    "[tool call]", "(tool use)", "(no assistant text)", "(no assistant text in JSON output)",
})  # fmt: skip
_EMPTY_PROMPT = "(empty user message)"  # OpenClaw's
# Pi's converter makes agent steps of the summaries with which Pi replaces its context.
_SUMMARIES = frozenset({"compaction", "branch_summary"})
_ERROR_FLAGS = ("is_error", "tool_result_is_error")
_USED_EXTRA = {*_ERROR_FLAGS, "is_sidechain"}
_STOPPED = {"error": "api_error", "aborted": "interrupted"}

_TRAJECTORY_KEYS = frozenset({
    "schema_version", "session_id", "trajectory_id", "agent", "steps", "notes", "final_metrics",
    "continued_trajectory_ref", "extra", "subagent_trajectories",
})  # fmt: skip
_STEP_KEYS = frozenset({
    "step_id", "timestamp", "source", "model_name", "reasoning_effort", "message", "reasoning_content", "tool_calls",
    "observation", "metrics", "is_copied_context", "llm_call_count", "extra",
})  # fmt: skip
_CALL_KEYS = frozenset({"tool_call_id", "function_name", "arguments", "extra"})
_RESULT_KEYS = frozenset({"source_call_id", "content", "subagent_trajectory_ref", "extra"})

Object = dict[str, JSON]


def claims(head: Head) -> bool:
    """Whether the file is an object that names a version of ATIF, or one with steps like ATIF's."""
    match head.document:
        case {"schema_version": str(version)} if version.startswith("ATIF"):
            return True
        case {"steps": [{"step_id": _, "source": "system" | "user" | "agent"}, *_]}:
            return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The trajectory of a file, then its sub-agents; see the module's docstring for the rules.

    Raises:
        FormatError: the file is no JSON object; with `source.strict`, what in it breaks the specification.
    """
    document = source.document()
    if not isinstance(document, dict):
        raise FormatError(f"{source.path} is no ATIF trajectory: not a JSON object")
    if source.strict and (found := list(breaches(document))):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise FormatError(f"{source.path}: {found[0]}{more}")
    yield from _trajectory(source, document, _identity(source, document), "")


# -- who it is ---------------------------------------------------------------------------------------


def _kind(source: Source) -> tuple[str, str]:
    """The main trajectory's file name, and what this one's has more than that: `cont-1`, `summarization-1-summary`."""
    before, found, after = source.stem.rpartition("trajectory")
    return f"{before}{found}.json", after.strip("._-") if found else ""


def _trace_id(source: Source, document: Object) -> str:
    """The session, with what tells the file from others of the same session."""
    trace = _text(document, "session_id") or _text(document, "trajectory_id") or source.stem
    for part in (_step_name(source), _kind(source)[1]):
        if part and not trace.endswith((f"-{part}", f":{part}", f".{part}")):
            trace += f":{part}"
    return trace


def _identity(source: Source, document: Object) -> Facts:
    """Who speaks in this file: the main agent, its continuation, or a sub-agent of a trajectory beside."""
    main, kind = _kind(source)
    own = _trace_id(source, document)
    facts = Facts({"trace_id": own, "root_session_id": _text(document, "session_id") or own})
    if not kind:
        return facts
    what, _, rest = kind.partition("-")
    number = rest.partition("-")[0]
    # The first segment is the main file, and the n-th summary was made at the end of segment n - 1.
    segment = f"{main.removesuffix('.json')}.cont-{int(number) - 1}.json" if number.isdecimal() else main
    place = segment if _beside(source, segment) else main
    parent = _beside(source, place)
    references = [one for one in _references(parent) if one.get("trajectory_path") == source.name]
    if what == "summarization" or references:
        facts.values |= {"is_sidechain": True, "agent_id": _text(document, "trajectory_id") or kind}
        facts.meta["spawned_by"] = references[0] if references else None
    elif what != "cont" or not number.isdecimal():
        return facts
    found = source.beside(place)
    if parent and found:
        facts.values["parent_trace_id"] = _trace_id(found, parent)
    else:
        facts.values["parent_trace_id"] = _text(_object(document, "agent", "extra"), "parent_session_id")
    root = _text(_beside(source, main), "session_id") or facts.values["parent_trace_id"]
    facts.values["root_session_id"] = root or facts.values["root_session_id"]
    return facts


def _beside(source: Source, name: str) -> Object:
    found = source.sibling(name)
    return found if isinstance(found, dict) else {}


def _step_name(source: Source) -> str | None:
    """The step of a multi-step trial: `<trial>/steps/<step>/agent/trajectory.json`."""
    match source.path.replace("\\", "/").split("/"):
        case [*_, "steps", step, "agent" | "user-agent", _]:
            return step
    return None


def _references(trajectory: Object) -> Iterator[Object]:
    """The references to sub-agents, each with the step and the call that it came with."""
    for step in _objects(trajectory, "steps"):
        for result in _objects(_object(step, "observation"), "results"):
            for reference in _objects(result, "subagent_trajectory_ref"):
                found = {"step_id": step.get("step_id"), "call_id": result.get("source_call_id"), **reference}
                yield {name: value for name, value in found.items() if value is not None}


# -- the trial ---------------------------------------------------------------------------------------


def _trial(source: Source, document: Object, *, is_main: bool) -> Iterator[Event]:
    """Names, reward and completion, from a trial's `result.json`; a job's, a folder higher, has none of these."""
    step = _step_name(source)
    places = ["result.json", "../result.json", *(["../../../result.json"] if step else [])]
    results = (_beside(source, place) for place in places)
    if (result := next((one for one in results if "trial_name" in one or "verifier_result" in one), None)) is None:
        return
    yield Facts(meta={key: result.get(key) for key in ("task_name", "trial_name")})
    if not is_main or "user-agent" in source.path.replace("\\", "/").split("/"):
        return  # neither a sub-agent nor the simulated user was judged
    own = next((one for one in _objects(result, "step_results") if one.get("step_name") == step), result)
    found = Facts()
    if rewards := _object(own, "verifier_result", "rewards"):
        numbers = {name: value for name, value in rewards.items() if type(value) in (int, float)}
        only = next(iter(numbers.values())) if len(numbers) == 1 else None
        found.values["reward"] = numbers.get("reward", only)
        found.meta["rewards"] = rewards
    failure = _object(own, "exception_info")
    if reported := failure or _object(result, "exception_info"):
        names = ("exception_type", "exception_message", "occurred_at")
        found.meta["exception"] = {name.removeprefix("exception_"): reported.get(name) for name in names}
    if failure:
        # What fails after the agent is done is no failure of the agent's.
        of_verifier = str(failure.get("exception_type")).startswith(("Verifier", "Reward"))
        found.values["completed"] = None if of_verifier else False
    elif not document.get("continued_trajectory_ref"):
        times = _text(own, "finished_at") or _text(_object(own, "agent_execution"), "finished_at")
        found.values["completed"] = True if times else None
    yield found


# -- trajectories ------------------------------------------------------------------------------------


def _trajectory(source: Source, document: Object, facts: Facts, key: str) -> Iterator[Event]:
    agent, steps = _object(document, "agent"), _ordered(document)
    extra, root_extra = _object(agent, "extra"), _object(document, "extra")
    first = next((one for one in steps if _text(_object(one, "extra"), "cwd")), {})
    about = Facts(
        {
            "cwd": _text(extra, "cwd") or _text(_object(first, "extra"), "cwd"),
            "project_path": _text(root_extra, "project_path") or _text(extra, "project_path"),
            "git_branch": _text(extra, "git_branch") or _text(_object(extra, "git"), "branch"),
        },
        {
            "schema_version": document.get("schema_version"),
            "agent_name": agent.get("name"),
            "agent_version": agent.get("version"),
        },
    )
    if isinstance(agent.get("tool_definitions"), list):
        about.values["tools"] = [_schema(tool) for tool in agent["tool_definitions"] if isinstance(tool, dict)]
    references = list(_references(document))
    unknown = {name: value for name, value in document.items() if name not in _TRAJECTORY_KEYS}
    details = {
        **{name: document.get(name) for name in ("session_id", "trajectory_id", "notes", "final_metrics")},
        "continued_trajectory_ref": document.get("continued_trajectory_ref"),
        "agent_extra": extra or None,
        "extra": {**unknown, **root_extra} or None,
        "steps_ordered_by": "step_id" if steps != list(_objects(document, "steps")) else None,
        "subagent_refs": references or None,
    }
    # Sub-agents whose steps were sorted in among those of the main one.
    threads: dict[str, list[Object]] = {"": []}
    for step in steps:
        threads.setdefault(_sidechain(step), []).append(step)
    for name, own in threads.items():
        yield Start(f"{key}/{name}")
        yield facts if not name else _spawned(facts, name)
        yield about
        if name:
            yield from _Thread(source, agent, own).events({})
        else:
            yield Facts(meta=details)
            yield from _trial(source, document, is_main=not facts.values.get("is_sidechain"))
            yield from _misshapen(document)
            thread = _Thread(source, agent, own)
            thread.noted = {"unknown_fields": list(unknown)} if unknown else {}
            yield from thread.events(_object(document, "final_metrics"))
        yield End()
    for number, embedded in enumerate(_objects(document, "subagent_trajectories"), 1):
        name = _text(embedded, "trajectory_id") or str(number)
        spawned = _spawned(facts, name, [one for one in references if one.get("trajectory_id") == name])
        yield from _trajectory(source, embedded, spawned, f"{key}/{number}")


def _misshapen(document: Object) -> Iterator[Event]:
    """What is no object where the format has objects."""
    results = [_items(_object(step, "observation"), "results") for step in _objects(document, "steps")]
    for what, items in (
        ("step", _items(document, "steps")),
        ("result", [one for found in results for one in found]),
        ("tool definition", _items(_object(document, "agent"), "tool_definitions")),
        ("sub-agent", _items(document, "subagent_trajectories")),
    ):
        if count := sum(not isinstance(one, dict) for one in items):
            yield Skipped(f"record: {what} of unexpected shape", count=count)


def _spawned(parent: Facts, name: str, references: Sequence[Object] = ()) -> Facts:
    """Who a sub-agent in the same file is, and which call of the parent made it."""
    values = {
        "trace_id": f"{parent.values['trace_id']}:{name}",
        "root_session_id": parent.values["root_session_id"],
        "parent_trace_id": parent.values["trace_id"],
        "agent_id": name,
        "is_sidechain": True,
    }
    return Facts(values, {"spawned_by": references[0] if references else None})


def _sidechain(step: Object) -> str:
    extra = _object(step, "extra")
    return (_text(extra, "agent_id") or "sidechain") if extra.get("is_sidechain") is True else ""


def _ordered(document: Object) -> list[Object]:
    """The steps, by their ids where these are numbers that tell an order."""
    steps = list(_objects(document, "steps"))
    ids = [step.get("step_id") for step in steps]
    if all(type(one) is int for one in ids) and len(set(ids)) == len(ids):
        steps.sort(key=lambda step: int(step["step_id"]))
    return steps


def _replacement(step: Object) -> Object | None:
    """What a step tells of a compaction: Harbor's agents mark it, older ones of terminus-2 only name who summed up."""
    note = _object(step, "extra", "context_management")
    if note.get("boundary") == "replace":
        return note
    paths = (str(one.get("trajectory_path")) for one in _references({"steps": [step]}))
    return {"type": "compaction"} if any(".summarization-" in path for path in paths) else None


def _schema(tool: Object) -> Object:
    """A function schema as OpenAI writes it, of one that lacks the envelope or has Anthropic's `input_schema`."""
    if isinstance(tool.get("function"), dict) or not isinstance(tool.get("name"), str):
        return tool
    names = {"input_schema": "parameters", "inputSchema": "parameters"}
    return {"type": "function", "function": {names.get(k, k): v for k, v in tool.items() if k != "type"}}


# -- steps -------------------------------------------------------------------------------------------


class _Call(NamedTuple):
    id: str | None
    name: str
    arguments: Object | str


class _Content(NamedTuple):
    text: str
    media: list[Media]
    lost: list[Event]


class _Thread:
    """The steps of one agent, and what must be remembered between them."""

    def __init__(self, source: Source, agent: Object, steps: list[Object]) -> None:
        self.source = source
        self.agent = _text(agent, "name") or ""
        self.model = _text(agent, "model_name")
        self.steps = steps
        self.calls: set[str] = set()
        self.ids: set[str] = set()
        self.opening: set[int] = set()
        self.has_answer = self.has_usage = self.is_replaced = False
        # What goes to source_meta: lists of step ids, and the extras by step or call.
        self.noted: dict[str, list[JSON]] = {}
        self.extras: dict[str, dict[str, Object]] = {}

    def events(self, final: Object) -> Iterator[Event]:
        for number, step in enumerate(self.steps):
            yield from self._step(number, step)
        if not self.steps:
            yield Skipped("record: trajectory without steps")
        if not self.has_answer and self.model:
            yield Facts({"model": self.model})
        if not self.has_usage and final:
            totals = {name: final.get(f"total_{name}") for name in _USAGE}
            yield Used("final", {_USAGE[name]: value for name, value in totals.items() if value is not None})
        yield Facts(meta={**self.noted, **self.extras})

    def _step(self, number: int, step: Object) -> Iterator[Event]:
        id, extra = step.get("step_id"), _object(step, "extra")
        yield from self._extra("step", str(id), step, _STEP_KEYS)
        name = str(id) if type(id) is int and str(id) not in self.ids else None
        self.ids.add(str(id))
        copied = step.get("is_copied_context") is True
        if copied:
            self._note("copied_context_steps", id)
        at = At(name, turn=number, node=number, weight_reason="copied_context" if copied else None)
        if (stamp := step.get("timestamp")) is not None:
            at = at._replace(timestamp=_instant(stamp))
            if at.timestamp is None:
                yield Skipped("record: timestamp that is none")
        role = _ROLES.get(str(step.get("source")))
        said = self._content(step.get("message"))
        yield from said.lost
        if role == "assistant":
            yield from self._answer(at, step, said, extra)
        else:
            if role is None:
                yield Skipped("message: unknown source", at.timestamp)
                if said.media:
                    yield Skipped("media: unknown source", count=len(said.media))
            else:
                yield from self._prompt(at, role, said)
            yield from self._not_of_agent(step)
            yield from self._observed(at, [], step, role or "user")
        self.is_replaced = False
        # Where a continuation follows in another file, there is no context here to replace.
        if (note := _replacement(step)) and number + 1 < len(self.steps):
            self.is_replaced = True
            yield Compacted({**note, "step_id": id}, kept=frozenset(self.opening))
        yield from self._used(number, step, copied)

    def _prompt(self, at: At, role: str, said: _Content) -> Iterator[Event]:
        if role == "system" and len(self.opening) < at.node:
            # Not the system prompt but a note, of which the model may have seen nothing.
            at = at._replace(origin="reminder")
        elif role == "user" and self.is_replaced:
            at = at._replace(origin="summary")
        if said.text in ("", _EMPTY_PROMPT) and not said.media:
            yield Skipped("text: placeholder" if said.text else "message: empty prompt", at.timestamp)
            return
        yield Said(at, role, said.text, said.media)
        # terminus-2 keeps its first prompt when it sums up; with others the summary is the next prompt.
        is_kept = role == "system" or (at.node == 0 and self.agent.startswith("terminus"))
        if is_kept and len(self.opening) == at.node:
            self.opening.add(at.node)

    def _answer(self, at: At, step: Object, said: _Content, extra: Object) -> Iterator[Event]:
        calls = []
        for call in _items(step, "tool_calls"):
            if isinstance(call, dict) and (name := _text(call, "function_name")):
                calls.append(_Call(_text(call, "tool_call_id"), name, arguments(call.get("arguments"))))
                yield from self._extra("call", str(calls[-1].id), call, _CALL_KEYS)
            else:
                yield Skipped("tool_call: without a name", at.timestamp)
        count, stop = step.get("llm_call_count"), str(extra.get("stop_reason"))
        if type(count) is int and count == 0:
            at = at._replace(origin="synthetic", weight_reason=at.weight_reason or "synthetic")
        elif str(extra.get("pi_event_type")) in _SUMMARIES:
            at = at._replace(origin="summary", weight_reason=at.weight_reason or "summary")
        elif self.agent == "openclaw" and said.text.startswith("(error) "):
            at = at._replace(weight_reason=at.weight_reason or "api_error")
        elif stop in _STOPPED:
            at = at._replace(weight_reason=at.weight_reason or _STOPPED[stop])
        elif not at.weight_reason and (model := _text(step, "model_name") or self.model):
            self.has_answer = True
            yield Facts({"model": model})
        if type(count) is int and count > 1:
            self._note("aggregated_steps", step.get("step_id"))
        if (effort := step.get("reasoning_effort")) and effort not in self.noted.get("reasoning_efforts", ()):
            self._note("reasoning_efforts", effort)
        thought = step.get("reasoning_content")
        if not isinstance(thought, str | None):
            yield Skipped("reasoning: unexpected shape", at.timestamp)
        thought = thought if isinstance(thought, str) and thought.strip() else ""
        if thought:
            yield Thought(at, thought)
        text = said.text
        if text in _PLACEHOLDERS or any(
            text in (f"Executed {c.name}", f"Executed {c.name} (no result)") for c in calls
        ):
            yield Skipped("text: placeholder", at.timestamp)
            text = ""
        if text or said.media:
            yield Said(at, "assistant", text, said.media)
        elif not calls and not thought:
            yield Skipped("message: empty answer", at.timestamp)
        yield from self._observed(at, calls, step, "user")

    def _not_of_agent(self, step: Object) -> Iterator[Event]:
        """What only steps of the agent may have."""
        if calls := len(_items(step, "tool_calls")):
            yield Skipped("tool_call: not of the agent", count=calls)
        if step.get("reasoning_content") not in (None, ""):
            yield Skipped("reasoning: not of the agent")

    # -- calls and results -----------------------------------------------------------------------

    def _observed(self, at: At, calls: list[_Call], step: Object, role: str) -> Iterator[Event]:
        """The calls, each followed by its results, so that those of an id that comes again find their own."""
        for result in _objects(_object(step, "observation"), "results"):
            name = _text(result, "source_call_id") or str(step.get("step_id"))
            yield from self._extra("result", name, result, _RESULT_KEYS)
        answers, late, loose = self._bound(calls, step)
        plain = At(weight_reason=at.weight_reason, node=at.node)
        for number, call in enumerate(calls):
            yield Called(at, *call)
            if results := answers.get(number):
                yield from self._returned(plain, call.id, results)
        self.calls |= {call.id for call in calls if call.id}
        for result in late:
            yield from self._returned(plain, _text(result, "source_call_id"), [result])
        found = [self._content(result.get("content")) for result in loose]
        for content in found:
            yield from content.lost
        text = "\n".join(content.text for content in found if content.text)
        media = [medium for content in found for medium in content.media]
        if text or media:
            yield Said(plain._replace(timestamp=at.timestamp, origin="environment"), role, text, media)

    def _bound(self, calls: list[_Call], step: Object) -> tuple[dict[int, list[Object]], list[Object], list[Object]]:
        """Which results answer which calls; those of calls of earlier steps; and those of no call."""
        answers: dict[int, list[Object]] = {}
        late: list[Object] = []
        loose: list[Object] = []
        unknown: list[Object] = []
        for result in _objects(_object(step, "observation"), "results"):
            call = _text(result, "source_call_id")
            own = [number for number, one in enumerate(calls) if call and one.id == call]
            if result.get("content") is None and result.get("subagent_trajectory_ref"):
                answers |= {
                    number: [] for number in own if number not in answers
                }  # what the sub-agent said is elsewhere
            elif own:
                answers.setdefault(next((n for n in own if n not in answers), own[-1]), []).append(result)
            elif call in self.calls:
                late.append(result)
                self._note("late_results", step.get("step_id"))
            elif call:
                unknown.append(result)
                self._note("results_of_unknown_calls", step.get("step_id"))
            elif result.get("content") is not None:
                loose.append(result)
        free = [number for number in range(len(calls)) if number not in answers]
        if loose and len(loose) == len(free):
            answers |= {number: [result] for number, result in zip(free, loose, strict=True)}
            loose = []
        elif loose and free:
            answers[free[-1]] = loose
            loose = []
            self._note("merged_observations", step.get("step_id"))
        return answers, late, unknown + loose

    def _returned(self, at: At, call: str | None, results: list[Object]) -> Iterator[Event]:
        texts: list[str] = []
        media: list[Media] = []
        flags: set[JSON] = set()
        for result in results:
            content = self._content(result.get("content"))
            yield from content.lost
            if content.text and content.text not in texts:
                texts.append(content.text)
            media += content.media
            extra = _object(result, "extra")
            flags |= {extra[key] for key in _ERROR_FLAGS if type(extra.get(key)) is bool}
        yield Returned(at, call, "\n".join(texts), media, max(flags) if flags else None)

    # -- content, extras, tokens -----------------------------------------------------------------

    def _content(self, value: JSON) -> _Content:
        """The text of a content, its parts joined by a newline, and its media."""
        found = _Content("", [], [])
        texts: list[str] = []
        for part in value if isinstance(value, list) else [] if value is None else [value]:
            match part:
                case str(text) | {"type": "text", "text": str(text)}:
                    texts.append(text)
                case {"type": "image" | "audio" as kind, "source": {"path": str(path)}} if path:
                    found.media.append(self._medium(kind, path, _text(part["source"], "media_type")))
                case {"type": "text"}:
                    found.lost.append(Skipped("text: unexpected shape"))
                case _:
                    found.lost.append(Skipped("media: unknown content part"))
        return found._replace(text="\n".join(texts))

    def _medium(self, kind: str, path: str, media_type: str | None) -> Media:
        if "://" in path or path.startswith("data:"):
            medium = of_url(kind, path) or Media(kind, None, None, path)
            return medium._replace(media_type=media_type or medium.media_type)
        place = posixpath.normpath(path.replace("\\", "/"))
        data = None
        # A log must not bring in files of the reader's machine that are none of its own.
        if not place.startswith(("/", "../")) and place != "..":
            try:
                if found := self.source.beside(place):
                    with found.open() as stream:
                        data = stream.read()
            except (OSError, ValueError):
                pass
        if data is None:
            self._note("missing_media", path)
        elif kind == "image":
            media_type = media_type or image_type(data)
        return Media(kind, media_type, data, posixpath.join(posixpath.dirname(self.source.path), place))

    def _extra(self, kind: str, name: str, value: Object, known: frozenset[str]) -> Iterator[Event]:
        """Keep what a producer added, as far as it is short: it may repeat whole results."""
        unknown = {key: more for key, more in value.items() if key not in known}
        for key in unknown:
            if (field := f"{kind}.{key}") not in self.noted.get("unknown_fields", ()):
                self._note("unknown_fields", field)
        for key, more in {**unknown, **_object(value, "extra")}.items():
            if isinstance(more, (list, dict)) and more:
                if key != "context_management":
                    yield Skipped(f"record: nested extra of a {kind}")
            elif more not in (None, "", [], {}) and key not in _USED_EXTRA:
                self.extras.setdefault(f"{kind}_extra", {}).setdefault(name, {})[key] = more

    def _used(self, number: int, step: Object, copied: bool) -> Iterator[Event]:
        metrics = _object(step, "metrics")
        if any(metrics.get(name) for name in _TOKEN_LISTS):
            yield Skipped("usage: token ids and log probabilities")
        if copied or not metrics:
            return
        self.has_usage = True
        usage = {_USAGE[name]: metrics[name] for name in _USAGE if metrics.get(name) is not None}
        extra = _object(metrics, "extra")
        for name, column in _MORE_USAGE.items():
            if name in extra:
                usage.setdefault(column, extra[name])
        yield Used(number, usage)

    def _note(self, what: str, value: JSON) -> None:
        self.noted.setdefault(what, []).append(value)


# -- shapes ------------------------------------------------------------------------------------------


def _instant(value: JSON) -> str | float | None:
    """A timestamp as it stands, None where it tells no day."""
    if isinstance(value, str):
        try:
            date.fromisoformat(value[:10])
        except ValueError:
            return None
        return value
    return value if type(value) in (int, float) else None


def _text(value: Object, key: str) -> str | None:
    return text_or_none(value.get(key))


def _object(value: Object, *keys: str) -> Object:
    """The object at the end of the keys, empty where there is none."""
    for key in keys:
        inner = value.get(key)
        value = inner if isinstance(inner, dict) else {}
    return value


def _items(value: Object, key: str) -> list[JSON]:
    inner = value.get(key)
    return inner if isinstance(inner, list) else []


def _objects(value: Object, key: str) -> Iterator[Object]:
    return (one for one in _items(value, key) if isinstance(one, dict))
