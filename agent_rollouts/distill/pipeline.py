"""The stages in order, over parts of the input, each of which may be another process's.

    note      what families need to know of every row; then they are settled, and the sample is chosen
    curate    read → select → own → redact → evidence → weigh → filter → look for benchmarks → spool
    window    final placeholders → drop what is contaminated → windows → spool; then splits are settled
    shape     records of every shape → spool; `write` makes Parquet files of them

Parts do not depend on the number of processes, and all that is decided for the whole (families, sample, numbers of
placeholders, splits) is decided by the parent, in the order of the parts: the same input makes the same bytes.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
import orjson
import pyarrow as pa
from datasets import Features

from agent_rollouts.chat import to_chat
from agent_rollouts.distill.asking import TOLD, ask_records, ask_rows
from agent_rollouts.distill.decontaminate import Benchmarks
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.families import Families, Key, Verdict, key, own
from agent_rollouts.distill.filters import Filters
from agent_rollouts.distill.funnel import REWRITTEN, Funnel, Size, Stage, size
from agent_rollouts.distill.inputs import Input
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.recipe import ROLLOUT, Recipe, load
from agent_rollouts.distill.redact import Final, Numbers, Redactor, final_numbers
from agent_rollouts.distill.sessions import SCHEMA, SESSIONS, session
from agent_rollouts.distill.shapes import SHAPES, Tally
from agent_rollouts.distill.shapes.preference import candidate, pair, pairs
from agent_rollouts.distill.shapes.shape import chat_options
from agent_rollouts.distill.splits import (
    EVIDENCE,
    Assignment,
    Splits,
    family,
    identify,
    in_partition,
    parse_splits,
    read_splits,
    shuffled,
    traits,
)
from agent_rollouts.distill.spool import ROWS, Gathered, Spool, batches, from_json, stored, to_json
from agent_rollouts.distill.state import Published, State
from agent_rollouts.distill.weights import weigh
from agent_rollouts.distill.windows import Tokens, counted, windows
from agent_rollouts.errors import AgentRolloutsError

Row: TypeAlias = dict[str, Any]

_ROUTE = {"_split": pa.string(), "_order": pa.uint64(), "_bytes": pa.int64()}
PAIRED = "preference"
_CANDIDATES = "candidates"
_CANDIDATE = pa.schema(
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


# -- what every process does ------------------------------------------------------------------------


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
                spools[_CANDIDATES] = stack.enter_context(Spool(self.path(_CANDIDATES, part), _CANDIDATE))
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
                    bytes = _bytes(record)
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
                spools[_CANDIDATES].add({**index, **route, "half": text, "why": why}, len(text))

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


def _pair(made: Run) -> None:
    """Put the records that are made of two rows into a spool of their own, behind those of the parts."""
    work, funnel = made.work, made.funnel
    halves = Gathered([work.path(_CANDIDATES, part) for part in range(work.source.parts)], _CANDIDATE)
    index = halves.columns(["task_id", "outcome", "key", "_split", "_order", "why"]).to_pylist()
    stage = funnel.stage(f"shape: {PAIRED}")
    with Spool(work.path(PAIRED, work.source.parts), work.schema(PAIRED)) as spool:
        for split in sorted({one["_split"] for one in index}):
            places = [place for place, one in enumerate(index) if one["_split"] == split]
            for success, failure in pairs([index[place] for place in places]):
                both = [places[success], places[failure]]
                record = pair(*(from_json(text) for text in halves.take(both)["half"].to_pylist()))
                bytes = _bytes(record)
                spool.add({**record, "_split": split, "_order": index[both[0]]["_order"], "_bytes": bytes}, bytes)
                for why in (index[place]["why"] for place in both if index[place]["why"]):
                    # It gave no record by itself.
                    stage.remove(why, Size(-1))
                    stage.went = stage.went.plus(Size(1))


def _bytes(record: Mapping[str, Any]) -> int:
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


# -- the whole --------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What a run has made: spools of records, how it came to that, and who is in which split."""

    work: Work
    funnel: Funnel
    assignment: Assignment | None
    state: State
    replaced: frozenset[Published] = frozenset()

    def spools(self, shape: str) -> list[Path]:
        """The files of a shape's records (or of sessions), in order."""
        parts = self.work.source.parts + (shape == PAIRED)
        return [self.work.path(shape, part) for part in range(parts)]


def run(work: Work, numbers: Numbers, earlier: State | None = None) -> Run:
    """All phases but writing.

    Args:
        numbers: of placeholders; they go on.
        earlier: what is known of a dataset that these rows are added to. Of rows that it has, too, those given now are
            longer versions (`Run.replaced`); all others own their turns, and stay in their splits.

    Raises:
        AgentRolloutsError: an option that does not fit the rows, or a process that was killed.
    """
    options, source, funnel = work.options, work.source, work.funnel()
    parts = range(source.parts)
    work.check()
    work.salt = numbers.salt
    state = State() if earlier is None else earlier
    replaced: set[Key] = set()
    with _Team(work) as team:
        keys: list[list[Key]] = [[] for _ in parts]
        stays: list[dict[Key, str]] = [{} for _ in parts]
        verdicts: dict[Key, Verdict] = {}
        refused: dict[Key, str] = {}
        if options.families or "sample" in work.stages:
            known: dict[Key, Any] = {}
            for part, found in enumerate(team.each("note", [() for _ in parts], "Finding families")):
                # A file with many sessions changes with each; one that became shorter takes nothing away.
                for name in found.rows.keys() & state.published.keys():
                    if len(found.rows[name].turns) <= len(state.families.rows[name].turns):
                        stays[part][name] = KNOWN
                new = {name: row for name, row in found.rows.items() if name not in known and name not in stays[part]}
                keys[part] = list(new)
                known |= new
            replaced = known.keys() & state.published.keys()
            state.families.rows |= known
            fixed = {name: row.family_id for name, row in state.published.items() if name not in replaced}
            verdicts = state.families.settle(fixed)
            refused = _refused([name for names in keys for name in dict.fromkeys(names)], verdicts, options)
        asked = [
            ({name: verdicts[name] for name in names}, {**why, **{n: refused[n] for n in names if n in refused}})
            for names, why in zip(keys, stays, strict=True)
        ]
        finals: list[Final | None] = []
        contaminated: set[str] = set()
        for curated in team.each("curate", asked, "Curating"):
            final = numbers.add(curated.found) if curated.found else None
            finals.append(final)
            report = curated.funnel.contaminated
            if final and report:
                curated.funnel.contaminated = orjson.loads(final_numbers(orjson.dumps(report), final))
            funnel.merge(curated.funnel)
            contaminated |= curated.contaminated
        splits = _splits(options, state)
        families: list[list[str]] = []
        placed_rows: dict[Key, Published] = {}
        if work.recipe is not None and work.recipe.shape == ROLLOUT:
            ask_rows(work, finals, frozenset(contaminated), funnel)
        todo: list[tuple[Any, ...]] = [(final, frozenset(contaminated)) for final in finals]
        for windowed in team.each("window", todo, "Cutting" if options.max_tokens else "Measuring"):
            funnel.merge(windowed.funnel)
            families.append(list(dict.fromkeys(row.written.family_id for row in windowed.rows)))
            for row in windowed.rows:
                placed_rows[row.key] = row.written
                if splits:
                    splits.add({"family_id": row.written.family_id}, row.evidence)
        assignment = splits.settle() if splits else None
        placed = assignment.families if assignment else {}
        left_out = assignment.left_out if assignment else frozenset()
        todo = [({one: placed[one] for one in names if one not in left_out and one in placed},) for names in families]
        for shaped in team.each("shape", todo, "Shaping"):
            funnel.merge(shaped)
    if assignment:
        funnel.notices += assignment.notices
    gone = frozenset(state.published.pop(name) for name in sorted(replaced))
    state.published |= {name: row for name, row in placed_rows.items() if row.family_id not in left_out}
    state.numbers = numbers.highest
    if splits and assignment:
        state.splits, state.by, state.evidence = assignment.families, assignment.by, splits.evidence
    made = Run(work, funnel, assignment, state, gone)
    if PAIRED in options.shape:
        _pair(made)
    if work.recipe is not None and work.recipe.shape != ROLLOUT:
        ask_records(work, made.spools(work.recipe.shape), funnel)
    return made


def _refused(names: Sequence[Key], verdicts: Mapping[Key, Verdict], options: Options) -> dict[Key, str]:
    """Why rows are not in the sample, of those that own turns."""
    found: dict[Key, str] = {}
    left = []
    for name in names:
        if options.families and verdicts[name].owned_from is None:
            continue
        row = {**name._asdict(), "family_id": verdicts[name].family_id}
        index, number = options.partition_index, options.num_partitions
        if index is not None and number is not None and not in_partition(row, index, number):
            found[name] = OTHER_PARTITION
        else:
            left.append(name)
    if options.limit is not None:
        if options.shuffle:
            left.sort(key=lambda name: shuffled(name._asdict(), options.seed))
        found |= dict.fromkeys(left[options.limit :], BEYOND_LIMIT)
    return found


def _splits(options: Options, state: State) -> Splits | None:
    if options.splits is None:
        return None
    fixed, by = state.splits, state.by
    if options.splits_from:
        earlier = read_splits(options.splits_from)
        fixed, by = {**earlier.families, **fixed}, by or earlier.by
    splits = Splits(parse_splits(options.splits), seed=options.seed, by=options.split_by or by or None, fixed=fixed)
    state.begin_splits(splits)
    return splits


_WORK: Work


def _begin(work: Work) -> None:
    global _WORK
    _WORK = work
    datasets.utils.disable_progress_bars()


def _call(phase: str, part: int, more: tuple[Any, ...]) -> Any:
    return getattr(_WORK, phase)(part, *more)


class _Team:
    """Runs a phase for all parts: here, or in `num_proc` processes."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.pool: ProcessPoolExecutor | None = None
        if work.options.num_proc > 1:
            # Arrow and tokenizers have threads, which a fork would leave behind.
            spawn = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(work.options.num_proc, spawn, initializer=_begin, initargs=(work,))

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def each(self, phase: str, more: Sequence[tuple[Any, ...]], title: str) -> Iterator[Any]:
        """What a phase gives for each part, in their order."""
        weights = [self.work.source.weight(part) for part in range(len(more))]
        bar = datasets.utils.tqdm(total=sum(weights), desc=title, unit=" files")
        results = (
            self.pool.map(_call, [phase] * len(more), range(len(more)), more)
            if self.pool
            else (getattr(self.work, phase)(part, *one) for part, one in enumerate(more))
        )
        with bar:
            try:
                for weight, result in zip(weights, results, strict=True):
                    yield result
                    bar.update(weight)
            except BrokenProcessPool as error:
                raise AgentRolloutsError(
                    "a process was killed, perhaps for want of memory; run again with a smaller num_proc"
                ) from error
