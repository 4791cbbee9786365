"""What all shapes have in common: options, the columns that say where a record comes from, and the count of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, NamedTuple, TypeAlias

import orjson
from datasets import Features, Value

from agent_rollouts import __version__
from agent_rollouts.chat import TEMPLATE_OPTIONS, Message, to_chat, without_unanswered
from agent_rollouts.distill.redact import COLUMNS as REDACTION_COLUMNS
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

Row: TypeAlias = Mapping[str, Any]
Record: TypeAlias = dict[str, Any]

LINEAGE = Features(
    {
        "trace_id": Value("string"),
        "source_kind": Value("string"),
        "source_path": Value("string"),
        "root_session_id": Value("string"),
        "parent_trace_id": Value("string"),
        "agent_id": Value("string"),
        "is_sidechain": Value("bool"),
        "project_path": Value("string"),
        "git_branch": Value("string"),
        "repository": Value("string"),
        "model": Value("string"),
        "started_at": Value("string"),
        "ended_at": Value("string"),
        "family_id": Value("string"),
        "family_role": Value("string"),
        "task_id": Value("string"),
        "window": Value("int64"),
        "windows": Value("int64"),
        "outcome": Value("string"),
        **REDACTION_COLUMNS,
        "agent_rollouts_version": Value("string"),
    }
)
"""The columns behind a shape's own, the same for all: where a record comes from, and what made it."""


@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """Options of shapes; which shape reads which, the help texts say."""

    shape: Annotated[tuple[str, ...], "Shape of the records; several become configs of one dataset"] = ("messages",)
    template: Annotated[
        str | None,
        "A chat template that cannot show all of a conversation, named as trl's file; messages are made to fit",
    ] = None
    arguments: Annotated[
        str, "Tool arguments in messages: `object`, or `text` (JSON strings, the model's own to the letter)"
    ] = "object"
    weights_as: Annotated[
        str, "The key of the weight in messages: `weight` (0), `train` (Axolotl), `loss` (ms-swift, reasoning inline)"
    ] = "weight"
    completion: Annotated[
        str, "prompt_completion: the `last` turn that is to be trained on, or one record for `every` such turn"
    ] = "last"
    context_messages: Annotated[int, "tool_interactions: messages up to the result, besides the task"] = 20
    tokenizer: Annotated[
        str | None, "Name on the Hub, or folder: counts tokens (else bytes / 4), and makes the labels of tokenized"
    ] = None
    seed: Annotated[int, "Of everything that is chosen by chance: order, splits, sampled turns"] = 0


def check(options: ShapeOptions) -> None:
    """Refuse values that no shape knows.

    Raises:
        AgentRolloutsError: there is one.
    """
    choices = {
        "arguments": ("object", "text"),
        "weights_as": ("weight", "train", "loss"),
        "completion": ("last", "every"),
    }
    for name, known in choices.items():
        if (value := getattr(options, name)) not in known:
            raise AgentRolloutsError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    if options.template is not None and _family(options.template) is None:
        raise AgentRolloutsError(
            f"unknown template {options.template!r}; those that need options: {', '.join(TEMPLATE_OPTIONS)}. "
            "All others take messages as they are"
        )
    if options.context_messages < 1:
        raise AgentRolloutsError(f"context_messages is {options.context_messages}; it must be positive")
    if "tokenized" in options.shape and options.tokenizer is None:
        raise AgentRolloutsError("the shape tokenized needs a tokenizer: give --tokenizer NAME_OR_FOLDER")


def chat_options(options: ShapeOptions) -> dict[str, JSON]:
    """The options of `to_chat` that the template needs."""
    return dict(TEMPLATE_OPTIONS[_family(options.template) or ""]) if options.template else {}


def _family(template: str) -> str | None:
    names = (template, template.removesuffix("_training"))
    return next((name for name in names if name in TEMPLATE_OPTIONS), None)


@dataclass
class Tally:
    """What became of the rows that were put in a shape: `rows` is those with records and those `without`.

    Attributes:
        rows, records: rows in, records out.
        without: rows of which no record was made, by reason; all others have some.
        lost: what the shape cannot hold, by kind; it is missing in records that were written.
    """

    rows: int = 0
    records: int = 0
    without: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Shape:
    """A kind of training data.

    Attributes:
        about: what it is and who reads it, in a line.
        columns: its own columns.
        make: records of a row with these columns, JSON columns as text; or none, and a reason in `Tally.without`.
        jsonl: the line that stands for a record in a JSON Lines file, where its trainer reads such files.
    """

    about: str
    columns: Features
    make: Callable[[Row, ShapeOptions, Tally], Iterator[Record]]
    jsonl: Callable[[Mapping[str, Any]], str] | None = None

    @cached_property
    def features(self) -> Features:
        """All columns: its own, then `LINEAGE`."""
        return Features({**self.columns, **LINEAGE})

    def records(self, row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
        """The records of a row, of `features`, JSON columns as text; it is counted when all are taken."""
        columns = lineage(row)
        found = Tally()
        for record in self.make(row, options, found):
            found.records += 1
            yield record | columns
        assert found.without.total() == (not found.records), "a row has records, or one reason to have none"
        tally.rows += 1
        tally.records += found.records
        tally.without += found.without
        if found.records:
            found.lost["pictures and other media"] += sum(
                len(message.get("media") or ()) for message in row["messages"]
            )
            tally.lost += found.lost


class Chat(NamedTuple):
    """Messages as `to_chat` gives them, and for each the indices of the row's messages that it was made of."""

    messages: list[Message]
    sources: list[tuple[int, ...]]

    @property
    def places(self) -> dict[int, int]:
        """The index of each message of the row that is left."""
        return {old: new for new, made_of in reversed(list(enumerate(self.sources))) for old in made_of}

    def owned_from(self, before: int | None) -> int | None:
        """The index behind the last message that shows something of the row's first `before`, which others own."""
        if before is None:
            return None
        return 1 + max((new for new, made_of in enumerate(self.sources) if min(made_of) < before), default=-1)


def chat(row: Row, tally: Tally, **options: JSON) -> Chat | None:
    """The row's messages for chat templates; None, with the reason counted, where there is no user turn.

    Args:
        options: of `to_chat`.
    """
    sources: list[tuple[int, ...]] = []
    try:
        messages = to_chat(row["messages"], **options, sources=sources)
    except AgentRolloutsError:
        if any(message["role"] == "user" for message in row["messages"]):
            raise
        tally.without["no user turn"] += 1
        return None
    return Chat(messages, sources)


def up_to_last_answer(messages: Sequence[Message], tally: Tally) -> list[Message]:
    """The messages up to the last answer to train on, with each call its result and each result its call.

    The last answer's calls stay without results. What is left out is counted; of messages without an answer to train
    on nothing is left, and that is the reason.
    """
    says = [bool(message["content"] or message.get("tool_calls")) for message in messages]
    targets = (index for index in range(1, len(messages)) if says[index] and is_target(messages[index]))
    last = max(targets, default=None)
    if last is None:
        tally.without["no answer to train on"] += 1
        return []
    tally.lost["messages behind the last answer"] += len(messages) - last - 1
    kept: list[Message] = []
    asked: set[str] = set()
    for message in without_unanswered(messages[:last]):
        if message["role"] != "tool":
            asked = {call["id"] for call in message.get("tool_calls", ())}
        elif message.get("tool_call_id") in asked:
            asked.remove(message["tool_call_id"])
        else:
            continue
        if message["role"] != "assistant" or message["content"] or message.get("tool_calls"):
            kept.append(message)
    left_out = _parts(messages[:last]) - _parts(kept)
    tally.lost["calls without result, results without call, answers without words"] += left_out
    return [*kept, messages[last]]


def _parts(messages: Sequence[Message]) -> int:
    return sum(len(message.get("tool_calls", ())) or 1 for message in messages)


def lineage(row: Row) -> Record:
    """The columns of `LINEAGE`."""
    columns = {name: row.get(name) for name in LINEAGE}
    columns["agent_rollouts_version"] = __version__
    if columns["redactions"] is not None:
        columns["redactions"] = text(columns["redactions"])
    return columns


def is_target(message: Mapping[str, JSON]) -> bool:
    """Whether a message is to be trained on."""
    return bool(message["role"] == "assistant" and message.get("weight") != 0)


def text(value: JSON) -> str:
    """A value as JSON text."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return exact_text(value)


def texts(values: Any) -> list[str] | None:
    """JSON texts of values; of no list none."""
    return None if values is None else [text(value) for value in values]


def with_text_arguments(messages: list[Message], row: Row) -> list[Message]:
    """Messages with tool arguments as JSON strings: the model's own text where the row has kept it, as it does where an
    object would say another thing, and it is an object's."""
    kept = {
        call["id"]: call["function"]["arguments"]
        for message in row["messages"]
        for call in message.get("tool_calls") or ()
        if isinstance(call["function"]["arguments"], str) and call["function"]["arguments"].lstrip().startswith("{")
    }

    def as_text(call: Message) -> Message:
        function = call["function"]
        own = kept.get(call["id"])
        arguments = own if own is not None and _is_object(own) else text(function["arguments"])
        return {**call, "function": {**function, "arguments": arguments}}

    return [
        {**message, "tool_calls": [as_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _is_object(value: str) -> bool:
    try:
        return isinstance(orjson.loads(value), dict)
    except ValueError:
        return False
