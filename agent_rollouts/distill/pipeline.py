"""The stages in order, over parts of the input, each of which may be another process's.

    note      what families need to know of every row; then they are settled, and the sample is chosen
    curate    read → select → own → redact → evidence → weigh → filter → look for benchmarks → spool
    window    final placeholders → drop what is contaminated → windows → spool; then splits are settled
    shape     records of every shape → spool; `write` makes Parquet files of them

Parts do not depend on the number of processes, and all that is decided for the whole (families, sample, numbers of
placeholders, splits) is decided by the parent, in the order of the parts: the same input makes the same bytes.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
import orjson

from agent_rollouts.distill.asking import ask_records, ask_rows
from agent_rollouts.distill.families import Key, Verdict
from agent_rollouts.distill.funnel import Funnel, Size
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.recipe import ROLLOUT
from agent_rollouts.distill.redact import Final, Numbers, final_numbers
from agent_rollouts.distill.shapes.preference import pair, pairs
from agent_rollouts.distill.splits import (
    Assignment,
    Splits,
    in_partition,
    parse_splits,
    read_splits,
    shuffled,
)
from agent_rollouts.distill.spool import Gathered, Spool, from_json
from agent_rollouts.distill.state import Published, State
from agent_rollouts.distill.work import (
    BEYOND_LIMIT,
    CANDIDATE,
    CANDIDATES,
    KNOWN,
    OTHER_PARTITION,
    PAIRED,
    Work,
    record_bytes,
)
from agent_rollouts.errors import AgentRolloutsError

Row: TypeAlias = dict[str, Any]


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


def _pair(made: Run) -> None:
    """Put the records that are made of two rows into a spool of their own, behind those of the parts."""
    work, funnel = made.work, made.funnel
    halves = Gathered([work.path(CANDIDATES, part) for part in range(work.source.parts)], CANDIDATE)
    index = halves.columns(["task_id", "outcome", "key", "_split", "_order", "why"]).to_pylist()
    stage = funnel.stage(f"shape: {PAIRED}")
    with Spool(work.path(PAIRED, work.source.parts), work.schema(PAIRED)) as spool:
        for split in sorted({one["_split"] for one in index}):
            places = [place for place, one in enumerate(index) if one["_split"] == split]
            for success, failure in pairs([index[place] for place in places]):
                both = [places[success], places[failure]]
                record = pair(*(from_json(text) for text in halves.take(both)["half"].to_pylist()))
                bytes = record_bytes(record)
                spool.add({**record, "_split": split, "_order": index[both[0]]["_order"], "_bytes": bytes}, bytes)
                for why in (index[place]["why"] for place in both if index[place]["why"]):
                    # It gave no record by itself.
                    stage.remove(why, Size(-1))
                    stage.went = stage.went.plus(Size(1))
