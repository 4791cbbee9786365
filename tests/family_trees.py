"""Invented families whose truth is known: sessions that are resumed, forked, saved every turn, copied and delegated."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import Any

PROMPTS = ["Fix the tests.", "Write a parser.", "hi"]
"""Few, so that unrelated sessions begin alike."""


@dataclass
class Forest:
    """Rows, and of each the turns that it holds and the family that it is of."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    turns: list[list[tuple[int, int]]] = field(default_factory=list)
    families: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


@dataclass
class _Session:
    messages: list[dict[str, Any]]
    turns: list[tuple[int, int]]
    trace_id: str
    steps: list[int]
    """Where each exchange ends."""


class _Family:
    def __init__(self, number: int, chance: random.Random, format: str, text: str, exchanges: int) -> None:
        self.number, self.chance, self.format, self.text = number, chance, format, text
        self.exchanges = exchanges
        self.made = 0

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    def exchange(self, first: bool) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
        """A prompt, an answer with a call, its result and a last word."""
        self.made += 1
        turn = f"family {self.number}, turn {self.made}"
        prompt = self.chance.choice(PROMPTS) if first else f"Now {turn}."
        call = f"call_{self.made}"
        arguments = {"path": f"{turn}.py"}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": prompt},
            {
                "role": "assistant",
                "content": turn,
                "tool_calls": [{"id": call, "type": "function", "function": {"name": "read", "arguments": arguments}}],
            },
            {"role": "tool", "tool_call_id": call, "name": "read", "content": turn + self.text},
            {"role": "assistant", "content": f"Done with {turn}."},
        ]
        if self.format == "claude_code":
            for message in messages:
                message["id"] = f"msg_{self.uuid()}" if message["role"] == "assistant" else self.uuid()
        elif self.format == "pi_coding_agent":
            for message in messages:
                message["id"] = self.uuid()[:8]
        return messages, [(self.number, 2 * self.made), (self.number, 2 * self.made + 1)]

    def grown(self, messages: list[dict[str, Any]], turns: list[tuple[int, int]], steps: list[int]) -> _Session:
        session = _Session(list(messages), list(turns), self.uuid(), list(steps))
        for _ in range(self.chance.randint(1, self.exchanges)):
            more, said = self.exchange(first=not session.messages)
            session.messages += more
            session.turns += said
            session.steps.append(len(session.messages))
        return session


FORMATS = ("claude_code", "pi_coding_agent", "codex", "chat_completions")


def forest(
    seed: int,
    families: int,
    copies: int = 4,
    formats: tuple[str, ...] = FORMATS,
    *,
    first: int = 0,
    text: str = "",
    exchanges: int = 3,
) -> Forest:
    """Families of up to `copies` rows beside their first, each going on for up to `exchanges`.

    They are numbered from `first`; every result ends with `text`.
    """
    chance = random.Random(seed)
    found = Forest()
    for number in range(first, first + families):
        family = _Family(number, chance, chance.choice(formats), text, exchanges)
        root = family.grown([], [], [])
        _put(found, family, root, "root", None)
        sessions = [root]
        for _ in range(chance.randint(0, copies)):
            earlier = chance.choice(sessions)
            kind = chance.choice(["resumed", "forked", "snapshot", "duplicate", "subagent"])
            at = earlier.steps[-1] if kind in ("resumed", "duplicate") else chance.choice(earlier.steps)
            turns = earlier.turns[: at // 2]
            linked = chance.random() < 0.5 and kind in ("resumed", "forked")
            if kind == "subagent":
                _put(found, family, family.grown([], [], []), kind, earlier.trace_id)
            elif kind in ("snapshot", "duplicate"):
                copy = _Session(earlier.messages[:at], turns, family.uuid(), [])
                _put(found, family, copy, kind, None)
            else:
                steps = [step for step in earlier.steps if step <= at]
                session = family.grown(earlier.messages[:at], turns, steps)
                _put(found, family, session, kind, earlier.trace_id if linked else None)
                sessions.append(session)
    return found


def _put(found: Forest, family: _Family, session: _Session, kind: str, parent: str | None) -> None:
    number = len(found.rows)
    system = [{"role": "system", "content": f"You are agent {number}."}] if family.chance.random() < 0.3 else []
    found.rows.append(
        {
            "trace_id": session.trace_id,
            "source_kind": family.format,
            "source_path": f"folder{number % 3}/{number}.jsonl",
            "root_session_id": session.trace_id,
            "parent_trace_id": parent,
            "is_sidechain": kind == "subagent",
            "started_at": f"2026-01-01T00:{number % 60:02d}:00Z",
            "source_meta": {"spawned_by": "call_1", "agent_type": "explorer"} if kind == "subagent" else {},
            "messages": [dict(message) for message in system + session.messages],
        }
    )
    found.turns.append(session.turns)
    found.families.append(family.number)
    found.kinds.append(kind)
