"""What a decoder may yield: a closed union, in the order the model saw.

A decoder turns the records of one file into these events and nothing else. Joining the parts of a
message, placing results behind their calls, withdrawing, weighing and counting is done once for all
formats, in `agent_rollouts.rollout.assemble`.

    Start      a rollout begins, or goes on (a file may interleave several)
    Facts      what is known of the rollout itself
    Said       text of a system, user or assistant message
    Thought    reasoning that led to an assistant message
    Called     a tool call of an assistant message
    Returned   the result of a call
    Used       token counts of one model response
    Rewound    the last user turns were withdrawn
    Branched   which records lie on withdrawn branches of a conversation tree
    Interrupted  the user stopped the assistant turn that came last
    Compacted  the model's context was replaced
    Edited     a message was changed or dropped in the model's context
    Skipped    something was not used
    End        the rollout is complete
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

JSON: TypeAlias = Any  # raw JSON, as orjson gives it


class At(NamedTuple):
    """Where an event comes from and how its message is to be treated.

    `id` is the source's own id of the message. Parts with the same `turn` (else the same `id`) are
    one assistant message, wherever they stand; parts without either join their neighbour until a
    result or another speaker comes between. `node` is the decoder's number for the record, used by
    `Branched`. `replayed` marks what this very file already holds (kept context after a compaction).
    """

    id: str | None = None
    timestamp: str | float | None = None
    turn: str | int | None = None
    node: int = -1
    origin: str | None = None
    weight_reason: str | None = None
    replayed: bool = False
    phase: str | None = None


NOWHERE = At()


class Media(NamedTuple):
    """An image, document or sound: `data` holds its bytes, or `path` says where it lies."""

    type: str
    media_type: str | None
    data: bytes | None
    path: str | None = None


@dataclass(slots=True)
class Start:
    """What follows belongs to the rollout `key`, which begins here if it is new."""

    key: str = ""


@dataclass(slots=True)
class Facts:
    """Columns of the row (`values`) and format-specific `meta`; the first value of a fact wins.

    `model` is different: the last one wins, and all are kept in `source_meta.models`. The key
    `internal` (a reason) marks a rollout that is the agent's own housekeeping; `identity` names one that
    the agent writes to several files.
    """

    values: dict[str, JSON] = field(default_factory=dict)
    meta: dict[str, JSON] = field(default_factory=dict)
    replace: bool = False


class Said(NamedTuple):
    """Text, and media that go with it; `joiner` stands before it when the message has text already."""

    at: At
    role: str
    text: str
    media: Sequence[Media] = ()
    joiner: str = "\n"


class Thought(NamedTuple):
    """Reasoning; several parts of one message are joined by a newline."""

    at: At
    text: str


class Called(NamedTuple):
    """`arguments` is the object, or the source's text where that is not exactly a JSON object."""

    at: At
    id: str | None
    name: str
    arguments: dict[str, JSON] | str


class Returned(NamedTuple):
    """The result of a call; without `call_id` that of the first call that has none."""

    at: At
    call_id: str | None
    text: str
    media: Sequence[Media] = ()
    is_error: bool | None = None


class Used(NamedTuple):
    """Token counts of the response `turn`; reported again, the last report of a turn counts."""

    turn: str | int
    usage: dict[str, JSON]


class Rewound(NamedTuple):
    """Everything from the n-th last prompt on was withdrawn."""

    user_turns: int


class Branched(NamedTuple):
    """Nodes that the active line does not hold, and the same for every other leaf."""

    hidden: frozenset[int]
    others: Iterable[frozenset[int]] = ()


class Interrupted(NamedTuple):
    """The last assistant message gets weight 0 for this reason."""

    reason: str = "interrupted"


class Compacted(NamedTuple):
    """The context became `context`: summary and kept messages, the latter marked as `replayed`.

    `kept` names nodes of this rollout that stayed in the context without being written again;
    they follow `context`, those in `head` stand before it. `node` is the record's own, where a compaction is
    part of a conversation tree: only lines that hold it were compacted, and `context` is no part of the
    full history.
    """

    note: dict[str, JSON]
    context: Sequence[Event] = ()
    kept: frozenset[int] = frozenset()
    head: frozenset[int] = frozenset()
    node: int = -1


class Edited(NamedTuple):
    """From `at.node` on the context has `text` in place of what the record `target` said, or, with None, nothing.

    The full history keeps what was said, with weight 0 for `at.weight_reason`.
    """

    at: At
    target: int
    text: str | None = None
    media: Sequence[Media] = ()


@dataclass(slots=True)
class Skipped:
    """`what` reads `kind: why`, kind being line, record, message, tool_call, tool_result, reasoning or media."""

    what: str
    timestamp: str | float | None = None
    count: int = 1


@dataclass(slots=True)
class End:
    """Nothing more comes for the current rollout, so that its memory can be given back."""


Event: TypeAlias = (
    Start
    | Facts
    | Said
    | Thought
    | Called
    | Returned
    | Used
    | Rewound
    | Branched
    | Interrupted
    | Compacted
    | Edited
    | Skipped
    | End
)
