"""Rollouts, and `assemble`, which makes them of a decoder's events.

With `agent_rollouts.transcript` this is the one place where the parts of a message are joined, results
placed behind their calls, withdrawn turns removed, turns weighed and losses counted; it knows no vendor.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from agent_rollouts.events import (
    JSON,
    At,
    Branched,
    Called,
    Compacted,
    Edited,
    End,
    Event,
    Facts,
    Interrupted,
    Media,
    Returned,
    Rewound,
    Said,
    Skipped,
    Start,
    Thought,
    Used,
)
from agent_rollouts.features import USAGE
from agent_rollouts.transcript import (
    Messages,
    Slot,
    Transcript,
    instant_text,
    is_earlier,
    mark_copied,
    put_apart,
    spans,
    within,
    without,
)

HISTORIES = ("full", "segments", "context")
BRANCHES = ("active", "all")
_AHEAD = 256


@dataclass
class Rollout:
    """One conversation of one agent: a row before it becomes Arrow. Fields are the row's columns."""

    trace_id: str = ""
    source_kind: str = ""
    source_path: str = ""
    root_session_id: str | None = None
    parent_trace_id: str | None = None
    agent_id: str | None = None
    is_sidechain: bool = False
    cwd: str | None = None
    project_path: str | None = None
    git_branch: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    model: str | None = None
    messages: Messages = field(default_factory=Messages)
    tools: list[JSON] | None = None
    media: list[Media] = field(default_factory=list)
    usage: dict[str, int | float] | None = None
    completed: bool | None = None
    reward: float | None = None
    tool_call_count: int = 0
    final_assistant_message: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    source_meta: dict[str, JSON] = field(default_factory=dict)
    internal: str | None = None
    """Why this is the agent's own housekeeping and no work of its user; such rollouts are left out by default."""
    identity: str | None = None
    """What names it in every file that its agent writes it to; see `agent_rollouts.copies`."""

    def __bool__(self) -> bool:
        return len(self.messages) > 0


def assemble(events: Iterable[Event], *, history: str = "full", branches: str = "active") -> Iterator[Rollout]:
    """Fold a decoder's events into rollouts, in the order in which they began.

    Rollouts without a message are yielded too: their `skipped` says what the file held instead.

    Args:
        history: `full` has every message once; `segments` one rollout per context window, each
            beginning with what replaced the context (what it repeats has weight 0, reason
            `copied_context`); `context` only what the agent would send now.
        branches: `active` or `all` (one rollout per leaf; what it shares with the active one has weight 0).

    Raises:
        ValueError: unknown `history` or `branches`.
    """
    if history not in HISTORIES:
        raise ValueError(f"unknown history {history!r}; known: {', '.join(HISTORIES)}")
    if branches not in BRANCHES:
        raise ValueError(f"unknown branches {branches!r}; known: {', '.join(BRANCHES)}")
    drafts: dict[str, _Draft] = {}
    draft: _Draft | None = None
    source = iter(events)
    # Taken from the decoder some at a time: 8 % faster than one by one.
    while some := list(islice(source, _AHEAD)):
        for event in some:
            kind = type(event)
            if kind is Start:
                key = event.key  # type: ignore[union-attr]  # mypy does not narrow by `type(...) is`
                draft = drafts.get(key) or drafts.setdefault(key, _Draft(history, branches))
                continue
            if draft is None:
                draft = drafts.setdefault("", _Draft(history, branches))
            if kind is End:
                drafts = {key: other for key, other in drafts.items() if other is not draft}
                yield from draft.finish()
                draft = None
            else:
                draft.take(kind, event)
    for draft in drafts.values():
        yield from draft.finish()


class _Mark(NamedTuple):
    """A compaction within a conversation tree, and which slots of which window it put into the context."""

    event: Compacted
    window: Transcript
    slots: slice


@dataclass
class _View:
    """A row in the making: its messages, which of them another row owns or an edit withdrew, and the compactions."""

    slots: list[Slot]
    copied: set[int] = field(default_factory=set)
    edited: dict[int, str] = field(default_factory=dict)
    notes: list[dict[str, JSON]] | None = None


class _Draft:
    """A rollout in the making: its facts, its counts and its context windows."""

    def __init__(self, history: str, branches: str) -> None:
        self.history = history
        self.branches = branches
        self.values: dict[str, JSON] = {}
        self.meta: dict[str, JSON] = {}
        self.models: list[str] = []
        self.usage: dict[str | int, dict[str, JSON]] = {}
        self.skipped: Counter[str] = Counter()
        self.first: str | float | None = None
        self.last: str | float | None = None
        self.compactions: list[tuple[dict[str, JSON], int]] = []
        self.branched = Branched(frozenset())
        self.marks: list[_Mark] = []
        self.edits: list[Edited] = []
        self.transcript = Transcript(self.skipped)
        self.windows = [self.transcript]
        self.seen: str | float | None = None

    def take(self, kind: type, event: Any) -> None:
        if (part := _PARTS.get(kind)) is None:
            _OTHERS[kind](self, event)
            return
        at: At = event[0]
        if at[1] is not self.seen:
            self._see(at[1])
        if at[6]:  # replayed
            if self.history == "full":
                self.skipped[f"{_NAMES[kind]}: repeated after a compaction"] += 1
                return
            event = event._replace(at=at._replace(weight_reason=at.weight_reason or "copied_context"))
        part(self.transcript, event)

    def _see(self, timestamp: str | float | None) -> None:
        self.seen = timestamp
        if timestamp is None:
            return
        last = self.last
        plain = type(last) is type(timestamp) is str and len(last) == len(timestamp) == 24
        # UTC with milliseconds, both: text order is time order.
        if plain and last[-1] == timestamp[-1] == "Z" and last <= timestamp:  # type: ignore[index,operator]
            self.last = timestamp
            return
        if last is None or self.first is None:
            self.first = self.last = timestamp
        elif is_earlier(last, timestamp):
            self.last = timestamp
        elif is_earlier(timestamp, self.first):
            self.first = timestamp

    def _facts(self, event: Facts) -> None:
        model = event.values.pop("model", None)
        if isinstance(model, str):
            self.values["model"] = model
            if model not in self.models:
                self.models.append(model)
        for target, found in ((self.values, event.values), (self.meta, event.meta)):
            for key, value in found.items():
                if value is not None and (event.replace or key not in target):
                    target[key] = value

    def _used(self, event: Used) -> None:
        self.usage[event.turn] = event.usage

    def _skip(self, event: Skipped) -> None:
        if event.timestamp is not self.seen:
            self._see(event.timestamp)
        self.skipped[event.what] += event.count

    def _branch(self, event: Branched) -> None:
        self.branched = event

    def _edit(self, event: Edited) -> None:
        self.edits.append(event)

    def _compact(self, event: Compacted) -> None:
        transcript = self.transcript
        transcript.close_turn()
        if event.node >= 0:
            first = len(transcript.slots)
            for inner in event.context if self.history != "full" else ():
                self.take(type(inner), inner)
            transcript.close_turn()
            self.marks.append(_Mark(event, transcript, slice(first, len(transcript.slots))))
            return
        kept = within(transcript.placed(), event.kept) if event.kept else []
        head = within(transcript.placed(), event.head) if event.head else []
        self.compactions.append((event.note, len(transcript.slots)))
        if self.history != "full":
            self.transcript = Transcript(self.skipped, transcript)
            self.windows.append(self.transcript)
            if head:
                self.transcript.adopt(transcript, head)
        for inner in event.context:
            self.take(type(inner), inner)
        if self.history != "full" and kept:
            self.transcript.adopt(transcript, kept)

    def _rewind(self, event: Rewound) -> None:
        """Withdraw turns; one that was compacted on its way takes its compaction with it, as Codex does."""
        window = self.transcript
        window.close_turn()
        own = sum(slot.is_prompt and not slot.is_copy for slot in window.slots)
        if len(self.windows) > 1 and event.user_turns > own:
            window.lose((slot for slot in window.placed() if not slot.is_copy), "withdrawn")
            self.windows.pop()
            self.compactions.pop()
            self.transcript = self.windows[-1]
            self._rewind(Rewound(event.user_turns - own))
            return
        window.rewind(event)
        if self.history == "full":
            self.compactions = [(note, place) for note, place in self.compactions if place <= len(window.slots)]

    def finish(self) -> Iterator[Rollout]:
        for window in self.windows:
            window.close_turn()
        if self.history == "context":
            for window in self.windows[:-1]:
                window.lose(window.placed(), "before a compaction")
            del self.windows[:-1]
        rows: list[tuple[Transcript, _View, bool, bool]] = []
        for window in self.windows:
            slots = window.placed()
            shown: set[int] = set()
            lost: dict[int, str] = {}
            others: Iterable[frozenset[int]] = self.branched.others if self.branches == "all" else ()
            for line, hidden in enumerate(chain((self.branched.hidden,), others)):
                views = self._views(window, without(slots, hidden), hidden, lost)
                again = set(shown)
                for view in views:
                    found = {id(slot) for slot in view.slots}
                    if line == 0 or found - shown:
                        view.copied |= shown
                        last = window is self.windows[-1] and line == 0 and view is views[-1]
                        only = len(self.windows) == len(views) == 1
                        rows.append((window, view, last, (last or only) and not again))
                        shown |= found
            # All losses are counted before the first rollout is given away.
            for slot in slots:
                if id(slot) not in shown:
                    window.lose((slot,), lost.get(id(slot), "withdrawn"))
        for number, (window, view, last, has_usage) in enumerate(rows):
            yield self._rollout(window, view, number, last=last, has_usage=has_usage)

    def _views(self, window: Transcript, line: list[Slot], hidden: frozenset[int], lost: dict[int, str]) -> list[_View]:
        """The rows of one line of a window: one, but for the segments of a conversation tree that was compacted."""
        if not self.marks and not self.edits:
            return [_View(line)]
        here = [mark for mark in self.marks if mark.window is window]
        marks = sorted((mark for mark in here if mark.event.node not in hidden), key=lambda mark: mark.event.node)
        edits = [edit for edit in self.edits if edit.at.node not in hidden]
        heads, line = put_apart(line, [window.slots[mark.slots] for mark in marks])
        parts = spans(line, [mark.event.node for mark in marks])
        reasons = {edit.target: edit.at.weight_reason or "superseded" for edit in edits}
        edited = {id(slot): reasons[node] for slot in line for node in slot.nodes if node in reasons}
        if self.history == "full":
            places = [sum(map(len, parts[: k + 1])) for k in range(len(marks))]
            notes = [{**mark.event.note, "message_index": place} for mark, place in zip(marks, places, strict=True)]
            return [_View(line, edited=edited, notes=notes)]
        notes = [{**mark.event.note, "segment": k} for k, mark in enumerate(marks, 1)]
        views = []
        for k, part in enumerate(parts):
            if self.history == "context":
                if k < len(marks):
                    continue
                lost |= {id(slot): "before a compaction" for slot in chain(line, *heads)}
                part = window.edited(part, edits, lost)
            kept: list[Slot] = []
            if k:
                event = marks[k - 1].event
                done = edits if self.history == "context" else [e for e in edits if e.at.node < event.node]
                kept = window.edited(within(list(chain(*parts[:k])), event.kept), done, lost)
            views.append(
                _View([*(heads[k - 1] if k else ()), *kept, *part], {id(slot) for slot in kept}, edited, notes)
            )
        return views

    def _rollout(self, window: Transcript, view: _View, number: int, *, last: bool, has_usage: bool) -> Rollout:
        slots, copied, edited = view.slots, view.copied, view.edited

        def mark(slot: Slot, message: dict[str, JSON]) -> None:
            if id(slot) in copied:
                mark_copied(message)
            elif id(slot) in edited:
                message |= {"weight": 0, "weight_reason": edited[id(slot)]}

        messages, media = window.messages(slots, mark if copied or edited else None)
        first = number == 0
        columns: dict[str, Any] = {
            key: value for key, value in self.values.items() if key in _FACTS and isinstance(value, _FACTS[key])
        }
        if "cwd" in columns:
            columns.setdefault("project_path", columns["cwd"])
        meta = dict(self.meta)
        if self.models:
            meta["models"] = self.models
        if view.notes:
            meta["compactions"] = view.notes
        elif self.compactions:
            arrivals = window.arrivals(slots) if self.history == "full" else []
            meta["compactions"] = [
                {**note, "message_index": bisect_left(arrivals, place)}
                if self.history == "full"
                else {**note, "segment": segment}
                for segment, (note, place) in enumerate(self.compactions, 1)
            ]
        calls = sum(slot.calls for slot in slots)
        answered = sum(slot.role == "tool" for slot in slots)
        if calls > answered:
            meta["unanswered_calls"] = calls - answered
        rollout = Rollout(
            **columns,
            messages=messages,
            media=media,
            tool_call_count=calls,
            final_assistant_message=_final(messages, slots),
            skipped=self.skipped if first else Counter(),
            source_meta=meta,
            started_at=_moment(self.values.get("started_at"), self.first),
            ended_at=_moment(self.values.get("ended_at"), self.last),
        )
        if rollout.usage is None and self.usage and has_usage:
            rollout.usage = _sum(self.usage.values(), self.skipped)
        elif not (last and has_usage):
            rollout.usage = None
        if number:
            rollout.trace_id += f"#{number}"
        return rollout


_PARTS: dict[type, Callable[[Transcript, Any], None]] = {
    Said: Transcript.say,
    Thought: Transcript.think,
    Called: Transcript.call,
    Returned: Transcript.result,
}

_OTHERS: dict[type, Callable[[_Draft, Any], None]] = {
    Facts: _Draft._facts,
    Used: _Draft._used,
    Skipped: _Draft._skip,
    Branched: _Draft._branch,
    Compacted: _Draft._compact,
    Edited: _Draft._edit,
    Rewound: _Draft._rewind,
    Interrupted: lambda draft, event: draft.transcript.interrupt(event),
}

_NAMES = {Said: "message", Thought: "reasoning", Called: "tool_call", Returned: "tool_result"}

# What the sources call it, and the row.
_USAGE = {
    **{name: name for name in USAGE},
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}

_FACTS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("trace_id", "root_session_id", "parent_trace_id", "agent_id", "cwd", "project_path", "git_branch", "model"),
        str,
    ),
    "is_sidechain": bool,
    "tools": list,
    "usage": dict,
    "completed": bool,
    "reward": (int, float),
    "internal": str,
    "identity": str,
}


def _final(messages: Messages, slots: list[Slot]) -> str | None:
    for index in reversed(range(len(slots))):
        if slots[index].role == "assistant":
            message = messages[index]
            if message["content"] and message.get("origin") != "synthetic":
                return str(message["content"])
    return None


def _moment(said: JSON, seen: str | float | None) -> str | None:
    moment = said or seen
    return instant_text(moment) if isinstance(moment, (str, int, float)) else None


def _sum(usages: Iterable[dict[str, JSON]], skipped: Counter[str]) -> dict[str, int | float]:
    total: dict[str, int | float] = {}
    for usage in usages:
        for key, name in _USAGE.items():
            value = usage.get(key)
            if type(value) is int or type(value) is float:
                total[name] = total.get(name, 0) + value
    for name in [name for name, value in total.items() if not abs(value) < 2**63]:
        skipped["usage: beyond 64 bits"] += 1
        del total[name]
    return total
