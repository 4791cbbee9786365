"""Sessions of Hermes Agent as its database and its export have them: one record each, and where each comes from.

A compaction goes on in a new session (`end_reason` of the old one is `compression`), or in place: the old rows
become `active=0, compacted=1`, and new ones are written, of which the first and the last repeat old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from agent_rollouts.events import JSON, Branched, Compacted, End, Event, Facts, Skipped, Start
from agent_rollouts.features import USAGE
from agent_rollouts.formats._chat import json_text, text_or_none
from agent_rollouts.formats._hermes_messages import Conversation, first_text, is_summary, parsed

_META_KEYS = (
    "source", "title", "display_name", "session_key", "chat_type", "end_reason", "parent_session_id", "profile_name",
    "model_config", "billing_provider", "billing_base_url", "billing_mode", "estimated_cost_usd", "actual_cost_usd",
    "cost_status", "cost_source", "pricing_version", "api_call_count", "rewind_count", "archived", "git_repo_root",
    "handoff_state", "handoff_platform", "lineage_session_ids",
    "schema_version",
)  # fmt: skip
_CURATOR = "curates skills"


class Origin(NamedTuple):
    """Where a session comes from: its parent, and whether it is marked as a `delegate` or `branch` of it."""

    parent: str | None
    marks: frozenset[str]
    end_reason: str | None


class Turn(NamedTuple):
    """A message, as far as it must be known to find copies.

    `key` tells it from others; `part` is the session that it was written in, of several in one, or whether a
    compaction has archived it.
    """

    key: int
    is_summary: bool
    part: str | bool | None


def origin(session: Mapping[str, JSON]) -> Origin:
    """What a session says of its parent."""
    config = session.get("model_config")
    config = config if isinstance(config, dict) else parsed(config)
    config = config if isinstance(config, dict) else {}
    delegated, branched = text_or_none(config.get("_delegate_from")), text_or_none(config.get("_branched_from"))
    parent = text_or_none(session.get("parent_session_id")) or branched or delegated
    marks = {"delegate": delegated or session.get("source") == "subagent", "branch": branched}
    # A marker that stands for a parent which was deleted.
    parent = None if parent == "__orphaned__" else parent
    return Origin(parent, frozenset(k for k, v in marks.items() if v), text_or_none(session.get("end_reason")))


def kind_of(id: str, origins: Mapping[str, Origin]) -> str | None:
    """How a session came from its parent: `delegate`, `branch`, `compression` or `child`; None where it has none."""
    own = origins[id]
    if own.marks:
        return "delegate" if "delegate" in own.marks else "branch"
    if own.parent is None:
        return None
    reason = origins[own.parent].end_reason if own.parent in origins else None
    return {"compression": "compression", "branched": "branch"}.get(reason or "", "child")


def copied_from(id: str, origins: Mapping[str, Origin]) -> str | None:
    """The session whose messages a session begins with; a delegate begins with none."""
    parent = origins[id].parent
    return parent if parent in origins and kind_of(id, origins) in ("branch", "compression") else None


def relatives(origins: Mapping[str, Origin]) -> set[str]:
    """The sessions that begin with copies, and those that these are of."""
    return {id for child in origins if (parent := copied_from(child, origins)) for id in (child, parent)}


def root_of(id: str, origins: Mapping[str, Origin]) -> str:
    """The eldest session that is known of a lineage."""
    seen = {id}
    while id in origins and (parent := origins[id].parent) is not None and parent not in seen:
        id = parent
        seen.add(id)
    return id


def facts(id: str, session: Mapping[str, JSON], origins: Mapping[str, Origin]) -> Facts:
    """The columns of a session's row and what else is known of it."""
    kind = kind_of(id, origins)
    values: dict[str, JSON] = {
        "trace_id": id,
        "identity": id,
        "root_session_id": root_of(id, origins),
        "parent_trace_id": origins[id].parent,
        "is_sidechain": kind == "delegate",
        "agent_id": id if kind == "delegate" else None,
        "project_path": text_or_none(session.get("git_repo_root")),
        "usage": usage(session),
        "internal": _CURATOR if session.get("source") == "curator" else None,
        **{key: session.get(key) for key in ("cwd", "git_branch", "model")},
    }
    meta = {key: session[key] for key in _META_KEYS if session.get(key)}
    if isinstance(meta.get("model_config"), str):
        meta["model_config"] = parsed(meta["model_config"]) or meta["model_config"]
    return Facts(values, {**meta, "lineage": kind})


def usage(counts: Mapping[str, JSON]) -> dict[str, JSON] | None:
    """Token counts and cost; None where nothing was counted."""
    found = {key: counts.get(key) for key in USAGE}
    found["cost_usd"] = next((c for k in ("actual", "estimated") if (c := counts.get(f"{k}_cost_usd"))), None)
    return found if any(found.values()) else None


def events(
    session: Mapping[str, JSON],
    messages: Iterable[JSON],
    origins: Mapping[str, Origin],
    turns_of: Callable[[str], Sequence[Turn]],
) -> Iterator[Event]:
    """One session.

    Args:
        messages: in the order of their ids.
        origins: of all sessions in the file.
        turns_of: what a session of several parts, or one that another was made of, holds; for finding copies.
    """
    id = session["id"]
    yield Start(id)
    conversation = Conversation(session.get("system_prompt"))
    conversation.see(session.get("started_at"))
    conversation.see(session.get("ended_at"))
    yield facts(id, session, origins)
    yield from conversation.opening()
    starts, copies, inherited = _copies(id, origins, turns_of)
    withdrawn: list[int] = []
    runs = place = 0
    for message in messages:
        if not isinstance(message, dict):
            yield Skipped("message: no object")
            continue
        number = conversation.number
        if not is_shown(message):
            runs += number - 1 not in withdrawn[-1:]
            withdrawn.append(number)
            yield from conversation.events(message)
            continue
        if message.get("role") == "session_meta":
            yield Skipped("record: session_meta")
            place += 1
            continue
        if place in starts:
            yield Compacted({"message_id": message.get("id")}, list(conversation.opening(replayed=True)))
        reason = "copied_context" if place in inherited else None
        yield from conversation.events(message, reason, replayed=place in copies)
        place += 1
    if withdrawn:
        yield Branched(
            frozenset(withdrawn), _branches(withdrawn, conversation.number, runs == session.get("rewind_count"))
        )
    yield conversation.times()
    yield End()


def is_shown(message: Mapping[str, JSON]) -> bool:
    """Whether a message was not taken back by the user; older databases do not say."""
    return message.get("active") in (None, 1, True) or message.get("compacted") in (1, True)


def turn(message: Mapping[str, JSON], part: str | bool | None) -> Turn:
    """What tells a message from others. Copies keep the ids of calls, though their results may be cut."""
    role, content = message.get("role"), message.get("content")
    said = [message.get("tool_call_id")] if role == "tool" else [content, message.get("tool_calls")]
    return Turn(hash(json_text([role, *said])), role in ("user", "assistant") and is_summary(first_text(content)), part)


def _branches(withdrawn: Sequence[int], count: int, is_told: bool) -> list[frozenset[int]]:
    """What the other leaves do not hold, where there are as many rewinds as gaps: else some gap is of several."""
    gone = set(withdrawn)
    ends = [number for number in withdrawn if number + 1 not in gone] if is_told else []
    found = []
    for end in ends:
        begin = end
        while begin - 1 in gone:
            begin -= 1
        found.append(frozenset(gone.difference(range(begin, end + 1)).union(range(end + 1, count))))
    return found


def _copies(
    id: str, origins: Mapping[str, Origin], turns_of: Callable[[str], Sequence[Turn]]
) -> tuple[set[int], set[int], set[int]]:
    """Which messages begin a new context, which repeat one of this session, and which one of its parent."""
    turns = turns_of(id)
    parent = copied_from(id, origins)
    before = turns_of(parent) if parent is not None else ()
    # The parent's context at its end: what was compacted before has another part.
    before = [turn for turn in before if turn.part == before[-1].part]
    inherited = _repeated(turns, 0, before)
    # The summary that a session begins with is not one that was made in it.
    known = {turn.key for turn in turns[: max(inherited, default=0) + 2] if turn.is_summary} if before else set()
    starts: set[int] = set()
    copies: set[int] = set()
    window = 0
    for place, turn in enumerate(turns):
        begin = None
        if place and turn.part != turns[place - 1].part:
            begin = place
        elif turn.is_summary and turn.part is True and turn.key not in known:
            begin = place - _head(turns[window:place])
        known |= {turn.key} if turn.is_summary else set()
        if begin is not None and begin > window:
            starts.add(begin)
            copies |= _repeated(turns, begin, turns[window:begin])
            window = begin
    return starts, copies, inherited


def _head(turns: Sequence[Turn]) -> int:
    """How many of the last turns repeat the first ones."""
    keys = [turn.key for turn in turns]
    return next((n for n in range(len(keys) // 2, 0, -1) if keys[-n:] == keys[:n]), 0)


def _repeated(turns: Sequence[Turn], begin: int, before: Sequence[Turn]) -> set[int]:
    """Which turns from `begin` on repeat the beginning and, behind a summary, the end of the window before."""
    keys, old = [turn.key for turn in turns[begin:]], [turn.key for turn in before]
    head = next((n for n, (a, b) in enumerate(zip(keys, old, strict=False)) if a != b), min(len(keys), len(old)))
    found = set(range(begin, begin + head))
    if head < len(turns) - begin and turns[begin + head].is_summary:
        tail = keys[head + 1 :]
        n = next((n for n in range(min(len(tail), len(old)), 0, -1) if tail[:n] == old[-n:]), 0)
        found |= set(range(begin + head + 1, begin + head + 1 + n))
    return found
