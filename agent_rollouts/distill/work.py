"""The work on a part of the input, as every process does it: one method for each phase of `pipeline`.

Rows go from phase to phase in spools. What is decided for the whole comes in as arguments; what that takes goes back in
the result.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
from datasets import Features

from agent_rollouts.chat import to_chat
from agent_rollouts.distill.asking import TOLD
from agent_rollouts.distill.decontaminate import Benchmarks
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.families import Families, Key, Verdict, key, own
from agent_rollouts.distill.filters import Filters
from agent_rollouts.distill.funnel import REWRITTEN, Funnel, Size, Stage, size
from agent_rollouts.distill.inputs import Input
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.recipe import ROLLOUT, Recipe, load
from agent_rollouts.distill.redact import Final, Redactor, final_numbers
from agent_rollouts.distill.sessions import SCHEMA, SESSIONS, session
from agent_rollouts.distill.shapes import SHAPES, Tally
from agent_rollouts.distill.shapes.preference import candidate
from agent_rollouts.distill.shapes.shape import chat_options
from agent_rollouts.distill.splits import (
    EVIDENCE,
    family,
    identify,
    read_splits,
    shuffled,
    traits,
)
from agent_rollouts.distill.spool import ROWS, Spool, batches, from_json, stored, to_json
from agent_rollouts.distill.state import Published
from agent_rollouts.distill.weights import weigh
from agent_rollouts.distill.windows import Tokens, counted, windows
from agent_rollouts.errors import AgentRolloutsError

Row: TypeAlias = dict[str, Any]

_ROUTE = {"_split": pa.string(), "_order": pa.uint64(), "_bytes": pa.int64()}
PAIRED = "preference"
CANDIDATES = "candidates"
CANDIDATE = pa.schema(
    {
        "task_id": pa.string(),
        "outcome": pa.string(),
        "key": pa.list_(pa.string()),
        "half": pa.large_string(),
        "why": pa.string(),
        "_split": pa.string(),
        "_order": pa.uint64(),
    }
)
TRAIN = "train"
"""The split of all rows where no others are asked for."""

COPIES = "all of its turns are in another row"
OTHER_PARTITION = "another partition's"
BEYOND_LIMIT = "beyond the limit"
CONTAMINATED = "of a family that shows a benchmark"
SHORTENED = "tool outputs shortened"
NOT_RENDERED = "the chat template refuses it"
TIES = "would tie splits together that an earlier run has set apart"
KNOWN = "is in the dataset already, with as many turns or more"
ANOTHER = "another row has its names, or it came while others were read"
_FAULT = "a stage failed on it"
# What is no fault of the row.
_STOPS = (AgentRolloutsError, OSError, MemoryError)

_MAGNITUDES = (1_000, 4_000, 16_000, 64_000, 256_000)


class Curated(NamedTuple):
    """What came of phase A for a part."""

    funnel: Funnel
    found: list[tuple[str, str]]
    contaminated: set[str]


class Placed(NamedTuple):
    """A row in the spool of windows: its key when it was read, what is written of it, and what it is evidence of."""

    key: Key
    written: Published
    evidence: dict[str, list[int]]


class Windowed(NamedTuple):
    """What came of phase B for a part."""

    funnel: Funnel
    rows: list[Placed]


@dataclass
class Work:
    """The phases for one part, and what every process must know for them."""

    source: Input
    options: Options
    folder: Path
    salt: bytes = b""
    stages: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        off = {
            "families": not options.families,
            "sample": options.limit is None and options.num_partitions is None,
            "redact": not options.redact,
            "decontaminate": not (options.decontaminate or options.canary),
            "windows": options.max_tokens is None and options.tokenizer is None,
            "splits": options.splits is None,
        }
        every = ("read", "selection", "families", "sample", "redact", "filters", "decontaminate", "windows", "splits")
        self.stages = tuple(name for name in every if not off.get(name))

    def funnel(self) -> Funnel:
        """One that knows the stages in their order."""
        funnel = Funnel()
        for name in self.stages:
            funnel.stage(name)
        return funnel

    def path(self, what: str, part: int) -> Path:
        """The spool of a part."""
        return self.folder / f"{what}-{part:05d}.arrow"

    @property
    def may_grow(self) -> bool:
        """Whether the dataset keeps a state by which others can be added to it: the key is in the redactor's."""
        return self.options.redaction_state is not None

    @functools.cached_property
    def filters(self) -> Filters:
        """Which rows are kept."""
        return Filters(self.options)

    @functools.cached_property
    def recipe(self) -> Recipe | None:
        """What a model is asked."""
        if self.options.recipe is None:
            return None
        return load(self.options.recipe).with_options(self.options.recipe_option)

    def features(self, shape: str) -> Features:
        """The columns of a shape's records as they are written: with the recipe's, where it has seen them."""
        told = self.recipe.features if self.recipe and self.recipe.shape in (ROLLOUT, shape) else {}
        return Features({**SHAPES[shape].features, **told})

    def schema(self, shape: str) -> pa.Schema:
        """These columns, and by which records are put in a split and in order."""
        schema = self.features(shape).arrow_schema.remove_metadata()
        for name, type in _ROUTE.items():
            schema = schema.append(pa.field(name, type))
        return schema

    @functools.cached_property
    def benchmarks(self) -> Benchmarks | None:
        """What is looked for."""
        if "decontaminate" not in self.stages:
            return None
        return Benchmarks.load(
            self.options.decontaminate, share=self.options.contamination_share, canaries=self.options.canary
        )

    @functools.cached_property
    def tokens(self) -> Tokens:
        """How tokens are counted."""
        return (
            Tokens.of(self.options.tokenizer, **chat_options(self.options))
            if self.options.tokenizer
            else Tokens.estimate()
        )

    def check(self) -> None:
        """Open what options name, so that a wrong name does not cost the work of the stages before."""
        _ = self.benchmarks, self.tokens
        if self.options.splits_from:
            read_splits(self.options.splits_from)

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens it by itself.
        opened = ("filters", "recipe", "benchmarks", "tokens")
        return {name: value for name, value in vars(self).items() if name not in opened}

    def redactor(self) -> Redactor | None:
        """The redactor of a part."""
        options = self.options
        if not options.redact:
            return None
        return Redactor(pii=options.pii, hosts=options.redact_hosts, deny=options.deny, part=self.salt)

    # -- phase 0

    def note(self, part: int) -> Families:
        """What families need to know of a part."""
        known = Families()
        for row in self.source.noted(part):
            # Turns are given to rows that are wanted; of rows with the same names to the first.
            if self.filters.early(row) is None and key(row) not in known.rows:
                known.add(row)
        return known.keyed(self.salt) if self.may_grow else known

    # -- phase A

    def curate(self, part: int, verdicts: dict[Key, Verdict], refused: Mapping[Key, str]) -> Curated:
        """The rows of a part that are kept so far, in its spool; verdicts are taken by the rows that they are of."""
        funnel = self.funnel()
        redactor = self.redactor()
        contaminated: set[str] = set()
        with Spool(self.path("rows", part), ROWS) as spool:
            for row in self.source.rows(part, funnel):
                name = key(row)
                came = size(row["messages"])
                owned = self._owned(row, name, came, verdicts, refused, funnel)
                if owned is None:
                    continue
                try:
                    curated, why = self._curated(owned, redactor)
                    matches = self.benchmarks.match(curated) if self.benchmarks is not None and not why else ()
                    text = "" if why else to_json(curated)
                except _STOPS:
                    raise
                except Exception as error:
                    # Odd content of one row must not stop a build; and nothing of a half redacted one is kept.
                    if redactor is not None:
                        funnel.took("redact", came)
                    funnel.took("filters", came, Size(), _fault(error, name, funnel))
                    continue
                now = Size(*curated["_size"])
                if redactor is not None:
                    funnel.took("redact", came, now)
                funnel.took("filters", now, Size() if why else now, why or "")
                if matches:
                    contaminated.add(family(curated))
                    about = {**key(curated)._asdict(), "family_id": family(curated)}
                    funnel.contaminated.append({**about, "matches": [match._asdict() for match in matches]})
                if not why:
                    spool.add({"row": text}, len(text))
        return Curated(funnel, redactor.found if redactor else [], contaminated)

    def _owned(
        self,
        row: Row,
        name: Key,
        came: Size,
        verdicts: dict[Key, Verdict],
        refused: Mapping[Key, str],
        funnel: Funnel,
    ) -> Row | None:
        # Before redaction, which changes paths, and without the work for what is not wanted.
        why = self.filters.early(row)
        funnel.took("selection", came, Size() if why else came, why or "")
        if why:
            return None
        if self.options.families:
            verdict = verdicts.pop(name, None)
            if verdict is None:
                funnel.took("families", came, Size(), refused.get(name, ANOTHER))
                return None
            if verdict.owned_from is None:
                funnel.took("families", came, Size(), f"{COPIES} ({verdict.family_role})")
                if verdict.owner is not None:
                    funnel.copies[name[1:]] = verdict.owner[1:]
                return None
            funnel.took("families", came)
            row = own(row, verdict)
        if "sample" in self.stages:
            if why := refused.get(name):
                funnel.took("sample", came, Size(), why)
                return None
            funnel.took("sample", came)
        return row

    def _curated(self, row: Row, redactor: Redactor | None) -> tuple[Row, str | None]:
        """The row redacted, noted and weighed, and why it is left out."""
        options = self.options
        order = shuffled(row, options.seed)
        name = key(row)
        if redactor is not None:
            row = redactor.row(row)
        if options.evidence:
            row = evidence(row)
        if options.weights:
            row = weigh(row, keep_failed_calls=options.keep_failed_calls)
        # Pictures stay behind: no shape shows them.
        media = [{**medium, "bytes": None} for medium in row.get("media") or ()]
        # As lists, since orjson takes no tuple with names.
        row = {**row, "media": media, "_order": order, "_size": [*size(row["messages"])], "_key": [*name]}
        return row, self.filters.late(row)

    # -- phase B

    def clean(self, part: int, numbers: Final | None, contaminated: frozenset[str], funnel: Funnel) -> Iterator[Row]:
        """The rows of a part with the final placeholders, without families that show a benchmark."""
        for row in self._spooled("rows", part, numbers):
            if self._is_clean(row, contaminated, funnel):
                yield row

    def window(self, part: int, numbers: Final | None, contaminated: frozenset[str]) -> Windowed:
        """The rows of a part that fit the budget, in another spool; those that a recipe has seen, where one is."""
        windowed = Windowed(self.funnel(), [])
        has_told = self.recipe is not None and self.recipe.shape == ROLLOUT
        rows = self._spooled(TOLD, part) if has_told else self.clean(part, numbers, contaminated, windowed.funnel)
        with Spool(self.path("windows", part), ROWS) as spool, ExitStack() as stack:
            wants = self.options.with_sessions
            sessions = stack.enter_context(Spool(self.path(SESSIONS, part), SCHEMA)) if wants else None
            for row in rows:
                counts = Funnel()
                try:
                    made = [(one, self._evidence(one), to_json(one)) for one in self._windows(identify(row), counts)]
                    whole = session(row) if made and sessions else None
                except _STOPS:
                    raise
                except Exception as error:
                    came = size(row["messages"])
                    self._after(came, windowed.funnel).remove(_fault(error, key(row), windowed.funnel), came)
                    continue
                windowed.funnel.merge(counts)
                if sessions and whole:
                    sessions.add(whole, len(whole["text"]))
                for window, evidence, text in made:
                    windowed.rows.append(
                        Placed(Key(*window["_key"]), Published(*key(window), family(window)), evidence)
                    )
                    spool.add({"row": text}, len(text))
        return windowed

    def _evidence(self, window: Row) -> dict[str, list[int]]:
        """What a row is evidence of, by the messages that are written."""
        if "splits" not in self.stages:
            return {}
        try:
            chat = to_chat(window["messages"])
        except AgentRolloutsError:  # no user turn: no shape takes it
            chat = []
        return traits({**window, "messages": chat}, self.options.split_by or EVIDENCE)

    def _after(self, came: Size, funnel: Funnel) -> Stage:
        """The stage in which a row was when cutting failed, which it does not leave."""
        if "windows" in self.stages:
            stage = funnel.stage("windows")
            stage.came = stage.came.plus(came)
        else:
            stage = funnel.stage("decontaminate" if "decontaminate" in self.stages else "filters")
            stage.went = stage.went.minus(came)
        return stage

    def _spooled(self, what: str, part: int, numbers: Final | None = None) -> Iterator[Row]:
        path = self.path(what, part)
        for batch in batches([path]):
            for text in batch.column("row"):
                yield from_json(final_numbers(text.as_py(), numbers) if numbers else text.as_py())
        path.unlink()

    def _is_clean(self, row: Row, contaminated: frozenset[str], funnel: Funnel) -> bool:
        before, now = Size(*row.pop("_size")), size(row["messages"])
        if now != before:
            # The numbers of placeholders: what was counted before was counted with provisional ones.
            more = now.minus(before)
            redacted, filtered = funnel.stage("redact"), funnel.stage("filters")
            redacted.went = redacted.went.plus(more)
            redacted.remove(REWRITTEN, Size().minus(more))
            filtered.came, filtered.went = filtered.came.plus(more), filtered.went.plus(more)
        if "decontaminate" not in self.stages:
            return True
        if family(row) in contaminated:
            funnel.took("decontaminate", now, Size(), CONTAMINATED)
            return False
        funnel.took("decontaminate", now)
        return True

    def _windows(self, row: Row, funnel: Funnel) -> Iterator[Row]:
        """The windows of a row, with `_own`, the size of what is their own."""
        options = self.options
        came = size(row["messages"])
        if "windows" not in self.stages:
            yield {**counted(row, self.tokens), "_own": [*came]}
            return
        try:
            if options.max_tokens is None:
                yield {**counted(row, self.tokens), "_own": [*came]}
                funnel.took("windows", came)
                return
            cut = windows(
                row, options.max_tokens, self.tokens, overlap_steps=options.overlap_steps, shorten=options.shorten
            )
        except AgentRolloutsError as error:
            funnel.took("windows", came, Size(), NOT_RENDERED)
            funnel.notices.append(f"{'/'.join(key(row))}: {error}")
            return
        stage = funnel.stage("windows")
        stage.came = stage.came.plus(came)
        shown = Size(1 if cut.rows else 0)
        for number, (window, indices, first) in enumerate(zip(cut.rows, cut.indices, cut.first, strict=True)):
            mine = [place for place, index in enumerate(indices) if index in first]
            before = size((row["messages"][indices[place]] for place in mine), 0)
            now = size((window["messages"][place] for place in mine), 0)
            shown = shown.plus(now)
            stage.remove(SHORTENED, before.minus(now))
            yield {**window, "_own": [*now.plus(Size(0 if number else 1))]}
        stage.went = stage.went.plus(shown)
        for index, why in cut.removed.items():
            stage.remove(why, size([row["messages"][index]], 0))
        if not cut.rows:
            stage.remove(Counter(cut.removed.values()).most_common(1)[0][0], Size(1))
        if len(cut.rows) > 1:
            funnel.count("windows", {"rows that were cut": 1, "windows of them": len(cut.rows)})
        funnel.count("windows", {"tool outputs shortened": cut.shortened})

    # -- phase C

    def shape(self, part: int, splits: Mapping[str, str]) -> Funnel:
        """The records of a part, in a spool for every shape.

        Args:
            splits: the split of each family; one that is not among them is in none.
        """
        funnel = self.funnel()
        with ExitStack() as stack:
            spools = {
                name: stack.enter_context(Spool(self.path(name, part), self.schema(name)))
                for name in self.options.shape
            }
            if PAIRED in spools:
                spools[CANDIDATES] = stack.enter_context(Spool(self.path(CANDIDATES, part), CANDIDATE))
            for row in self._spooled("windows", part):
                own = Size(*row.pop("_own"))
                split = splits.get(family(row)) if "splits" in self.stages else TRAIN
                if "splits" in self.stages:
                    funnel.took("splits", own, own if split else Size(), TIES)
                if split:
                    self._count(row, split, own, funnel)
                    self._records(row, split, spools, funnel)
        return funnel

    def _records(self, row: Row, split: str, spools: Mapping[str, Spool], funnel: Funnel) -> None:
        del row["_key"]
        route = {"_split": split, "_order": row.pop("_order")}
        for name in self.options.shape:
            tally = Tally()
            wrote = False
            try:
                told = self._told(row)
                for record in SHAPES[name].records(row, self.options, tally):
                    bytes = record_bytes(record)
                    spools[name].add({**record, **told, **route, "_bytes": bytes}, bytes)
                    wrote = True
            except (OSError, MemoryError):
                raise
            except Exception as error:
                is_ours = isinstance(error, AgentRolloutsError)
                why = NOT_RENDERED if is_ours else _fault(error, key(row), funnel)
                if is_ours:
                    funnel.notices.append(f"{'/'.join(key(row))}: {error}")
                (tally.lost if wrote else tally.without)[why] += 1
            why = next(iter(tally.without), "")
            funnel.took(f"shape: {name}", Size(1), Size(0 if why else 1), why)
            funnel.count(f"not in {name}", tally.lost)
            if name == PAIRED and (half := candidate(row, self.options)):
                text = to_json(half)
                index = {name: half[name] for name in ("task_id", "outcome", "key")}
                spools[CANDIDATES].add({**index, **route, "half": text, "why": why}, len(text))

    def _told(self, row: Row) -> Row:
        """What a recipe has said of a row, as it is stored."""
        if self.recipe is None or self.recipe.shape != ROLLOUT:
            return {}
        return stored(row, self.recipe.features)

    def _count(self, row: Row, split: str, own: Size, funnel: Funnel) -> None:
        messages = row["messages"]
        funnel.count("splits", [split])
        calls = sum(len(message.get("tool_calls", ())) for message in messages)
        funnel.count("rows", {"rows": 1, "messages": len(messages), "tool calls": calls, "tokens": row["token_count"]})
        answers = [message for message in messages if message["role"] == "assistant"]
        funnel.count("weights", (message["weight_reason"] for message in answers if message.get("weight") == 0))
        funnel.count("rows", {"answers to train on": sum(message.get("weight") != 0 for message in answers)})
        funnel.count("tokens", [_magnitude(row["token_count"])])
        if not own.rows:
            return
        # Of a rollout once, not of each of its windows.
        funnel.count("formats", [row["source_kind"] or "not said"])
        funnel.count("models", [row["model"] or "not said"])
        funnel.count("tools", (m["name"] for m in messages if m["role"] == "tool" and m.get("name")))
        funnel.count("rows", {"rollouts": 1, "media": len(row.get("media") or ())})
        if self.options.evidence:
            funnel.count("outcomes", [row["outcome"]])
        funnel.count("redactions", row.get("redactions") or {})


def _fault(error: Exception, name: Key, funnel: Funnel) -> str:
    """Why a row on which a stage failed is left out; the user is told more."""
    funnel.notices.append(f"{'/'.join(name)}: {type(error).__name__}: {error}. Please report this")
    return f"{_FAULT} ({type(error).__name__})"


def record_bytes(record: Mapping[str, Any]) -> int:
    """About how large a record is."""
    return sum(
        sum(len(one) if isinstance(one, str) else 8 for one in value) if isinstance(value, list)
        else len(value) if isinstance(value, str) else 8
        for value in record.values()
    )  # fmt: skip


def _magnitude(tokens: int) -> str:
    least = 0
    for most in _MAGNITUDES:
        if tokens < most:
            return f"{least:,} to {most - 1:,}"
        least = most
    return f"{least:,} and more"
