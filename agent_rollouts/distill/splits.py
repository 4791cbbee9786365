"""Splits: nothing in one that the other shows.

    splits = Splits(parse_splits("train=0.98,test=0.02"), seed=0)
    for row in rows: splits.add(row)          # some 300 bytes a row are kept, no text
    assignment = splits.settle()
    assignment.split_of(row)                  # "train", "test", or None: left out, see below

What is split is families (`family_id`; without it root_session_id or trace_id, and the parent). Those that share
evidence (`EVIDENCE`) make a component, and no component is in two splits:

    project         the repository that the log names (`owner/name` of its URL), and the project's path, if it tells: a
                    home directory or a folder at the root (`/testbed`, `/workspace`) does not
    task            the first prompt, of 20 letters or more, letter case and white space aside
    near_duplicate  5-word shingles of what the model said and called, of 20 words or more: a MinHash of 128 values in
                    16 bands; rows with an equal band are alike (95 % of the pairs with a Jaccard index of 0.8, 0.1 % of
                    those with 0.3)

Components are put in order by a hash of seed, split and component, each split but the largest takes what brings it
nearest to its share, the largest takes the rest. A component is known by the one of its families with the smallest
hash, so that few change place when data is added. None does with `fixed`, the `families` of an earlier assignment:

- A family of `fixed` stays where it was; others that share evidence with it go there, too.
- What shares evidence with fixed families of two splits, and would make them one, is left out.
- Where fixed families of two splits have come to share evidence themselves, those with fewer rows are left out.

Each is counted in `conflicts`, so that there is never a leak. A split would often be empty where all rows are of one
project: then, unless `by` is given, projects are not used, and a notice says so.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from agent_rollouts.distill.families import key
from agent_rollouts.distill.shingles import Hashes, gram_chunks, members, messages, metadata, said
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import PROMPT_ORIGINS

Row: TypeAlias = Mapping[str, Any]

EVIDENCE = ("family", "project", "task", "near_duplicate")
"""What makes rows belong together; the first always does."""

_NAME = re.compile(r"\w+(\.\w+)*")
_ROUNDING = 0.002
# How much of all rows a split may get beyond its share rather than be empty.
_MORE = 0.1
_SHORTEST_TASK = 20
_SHINGLE, _FEWEST_WORDS = 5, 20
_BANDS, _BAND_ROWS = 16, 8
_FACTORS = np.random.default_rng(0).integers(1 << 63, dtype=np.uint64, size=_BANDS * _BAND_ROWS) * 2 + 1
_BAND_FACTORS = np.random.default_rng(1).integers(1 << 63, dtype=np.uint64, size=_BAND_ROWS) * 2 + 1
_REPOSITORY_NAMES = frozenset({"repository_url", "repository", "repo", "repo_url", "repo_name", "git_remote"})
_HOMES = ("/home/", "/users/")


# -- what a row is evidence of ----------------------------------------------------------------------


def family(row: Row) -> str:
    """The family of a row: `family_id`, else the session that it belongs to."""
    return str(row.get("family_id") or row.get("root_session_id") or _base(row.get("trace_id")))


def identify(row: Row) -> dict[str, Any]:
    """The row with `repository` and `task_id`, by which splits are audited when its messages were put in a shape."""
    return {**row, "repository": next(iter(repositories(row)), None), "task_id": task_id(row)}


def repositories(row: Row) -> list[str]:
    """The repositories that the row's log names, as `owner/name` in lower case."""
    if row.get("repository"):
        return [str(row["repository"])]
    named = {value for name, value in members(metadata(row)) if name.lower() in _REPOSITORY_NAMES}
    return sorted({found for value in named if isinstance(value, str) and (found := _repository(value))})


def _repository(url: str) -> str | None:
    parts = url.lower().replace(":", "/").rstrip("/").removesuffix(".git").split("/")
    return "/".join(parts[-2:]) if len(parts) > 1 and all(parts[-2:]) else None


def task_id(row: Row) -> str | None:
    """A hash of the first prompt, the same for all rows that were given the same task; None without one that tells."""
    if "task_id" in row:
        return None if row["task_id"] is None else str(row["task_id"])
    for message in messages(row):
        if message["role"] == "user" and message.get("origin") in PROMPT_ORIGINS:
            text = " ".join(message["content"].lower().split())
            return f"{_digest(text):016x}" if len(text) >= _SHORTEST_TASK else None
    return None


def traits(row: Row, by: Iterable[str] = EVIDENCE) -> dict[str, list[int]]:
    """What the row is evidence of, each kind as hashes: rows with one in common belong together.

    Uses trace_id, family_id, root_session_id, parent_trace_id, project_path, cwd, source_meta, repository, task_id and
    messages, where they are there.
    """
    return {kind: _TRAITS[kind](row) for kind in by}


def _families(row: Row) -> list[int]:
    links = () if row.get("family_id") else ("trace_id", "parent_trace_id")
    return [_digest(name) for name in (family(row), *(_base(row[link]) for link in links if row.get(link)))]


def _projects(row: Row) -> list[int]:
    # Both, since not every log of a project names its repository.
    path = _telling(row.get("project_path") or row.get("cwd") or "")
    return [_digest(name) for name in (*repositories(row), path) if name]


def _tasks(row: Row) -> list[int]:
    return [_digest(task)] if (task := task_id(row)) else []


def _telling(path: str) -> str | None:
    """A project's path without letter case and worktree, None where all kinds of work are done in it."""
    path = path.replace("\\", "/").lower()
    # Claude Code puts them there: code.claude.com/docs/en/common-workflows.
    path = path.partition("/.claude/worktrees/")[0].rstrip("/")
    below = path[2:] if path[1:2] == ":" else path
    depth = below.count("/") - below.startswith(_HOMES) + below.startswith("~/")
    return path if depth > 1 or ("/" not in path and len(below) > 1) else None


def _bands(row: Row) -> list[int]:
    answers = itertools.chain.from_iterable(said(m) for m in messages(row) if m["role"] == "assistant")
    least = np.full(_BANDS * _BAND_ROWS, np.iinfo(np.uint64).max, dtype=np.uint64)
    count = 0
    for grams in gram_chunks(answers, _SHINGLE):
        count += len(grams)
        if len(grams):
            # To multiply by an odd number puts all 64-bit numbers in another order.
            np.minimum(least, [(grams * factor).min() for factor in _FACTORS], out=least)
    if count <= _FEWEST_WORDS - _SHINGLE:
        return []
    bands = (least.reshape(_BANDS, _BAND_ROWS) * _BAND_FACTORS).sum(axis=1, dtype=np.uint64)
    return [_digest(f"{number} {band}") for number, band in enumerate(bands.tolist())]


_TRAITS = {"family": _families, "project": _projects, "task": _tasks, "near_duplicate": _bands}


def _base(trace_id: Any) -> str:
    """The name without the number of a window or branch."""
    name, mark, number = str(trace_id or "").rpartition("#")
    return name if mark and number.isdecimal() else number


def _digest(*names: object) -> int:
    return xxh3_64_intdigest("\0".join(map(str, names)).encode("utf-8", "replace"))


# -- parts and order --------------------------------------------------------------------------------


def check_partition(index: int | None, number: int | None) -> None:
    """Refuse a partition that is none.

    Raises:
        AgentRolloutsError: one is given without the other, or the index is not below the number.
    """
    if (index is None) != (number is None):
        raise AgentRolloutsError("a partition needs both its index and the number of partitions, or neither")
    if index is not None and number is not None and not 0 <= index < number:
        raise AgentRolloutsError(f"partition {index} of {number}: the index goes from 0 to {number - 1}")


def in_partition(row: Row, index: int, number: int) -> bool:
    """Whether a row is of the `index`-th of `number` partitions; a family is in one. Uses `family_id`, see `family`."""
    check_partition(index, number)
    return _digest("partition", family(row)) % number == index


def shuffled(row: Row, seed: int) -> int:
    """The key to sort rows by for an order that is random, and the same for the same seed."""
    return _digest(seed, *key(row))


def parse_splits(text: str) -> dict[str, float]:
    """Names and shares of splits: `train=0.98,test=0.02`.

    Raises:
        AgentRolloutsError: a name that `datasets` does not accept, a share that is none, or shares whose sum is not 1.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, mark, share = (word.strip() for word in part.partition("="))
        try:
            value = float(share)
        except ValueError:
            value = float("nan")
        if not mark or not value == value:
            raise AgentRolloutsError(
                f"split {part.strip()!r} in {text!r}: wanted name=share, as in train=0.98,test=0.02"
            )
        if name in found:
            raise AgentRolloutsError(f"split {name!r} is named twice in {text!r}")
        found[name] = value
    return _checked(found)


def _checked(ratios: Mapping[str, float]) -> dict[str, float]:
    for name, ratio in ratios.items():
        # As datasets.naming has it; `all` means all of them there.
        if not _NAME.fullmatch(name) or name.lower() == "all":
            raise AgentRolloutsError(
                f"{name!r} cannot name a split: letters, digits, _ and . between them, and not all"
            )
        if not 0 < ratio <= 1:
            raise AgentRolloutsError(f"the share of split {name!r} is {ratio}; it must be above 0 and at most 1")
    if abs((total := sum(ratios.values())) - 1) > _ROUNDING:
        raise AgentRolloutsError(f"the shares of {', '.join(ratios) or 'no splits'} sum up to {total:.6g}, not to 1")
    return {name: ratio / total for name, ratio in ratios.items()}


# -- which split ------------------------------------------------------------------------------------


@dataclass
class Assignment:
    """Which family is in which split.

    Attributes:
        families: split by family, with those of `fixed` that are not in the data: the `fixed` of the next run.
        left_out: families that are in no split, since they would tie two together.
        counts: rows by split.
        asked: share by split.
        components: how many there are that share nothing.
        by: the evidence that was used.
        conflicts: pairs of splits that evidence would have made one, as `evidence: a, b`, to how often.
        notices: what the user should know, each one sentence.
    """

    families: dict[str, str]
    left_out: frozenset[str]
    counts: dict[str, int]
    asked: dict[str, float]
    components: int
    by: tuple[str, ...]
    conflicts: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)

    @property
    def reached(self) -> dict[str, float]:
        """Share of the rows by split."""
        total = sum(self.counts.values()) or 1
        return {name: count / total for name, count in self.counts.items()}

    def split_of(self, row: Row) -> str | None:
        """The split of a row, None where its family is left out.

        Raises:
            AgentRolloutsError: the row was not added.
        """
        name = family(row)
        if name in self.left_out:
            return None
        if name not in self.families:
            raise AgentRolloutsError(f"{'/'.join(key(row))}: family {name} was not among the rows that were split")
        return self.families[name]

    def save(self, path: str | Path) -> None:
        """Write what a later run needs, so that families stay where they are."""
        said = {"by": self.by, "asked": self.asked, "families": dict(sorted(self.families.items()))}
        Path(path).write_bytes(orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


class Earlier(NamedTuple):
    """What an earlier run decided: its evidence, and the split of each family."""

    by: tuple[str, ...]
    families: dict[str, str]


SPLITS_FILE = "splits.json"


def read_splits(path: str | Path) -> Earlier:
    """What `Assignment.save` wrote, from its file or the folder that holds it.

    Raises:
        AgentRolloutsError: there is none, or it is something else.
    """
    file = Path(path) / SPLITS_FILE if Path(path).is_dir() else Path(path)
    try:
        said = orjson.loads(file.read_bytes())
        return Earlier(tuple(said["by"]), {str(name): str(split) for name, split in said["families"].items()})
    except OSError as error:
        raise AgentRolloutsError(f"{file}: no splits of an earlier run ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentRolloutsError(f"{file} holds no splits that agent-rollouts wrote") from error


class Splits:
    """What is known of all rows seen so far."""

    def __init__(
        self, ratios: Mapping[str, float], *, seed: int = 0, by: Sequence[str] | None = None,
        fixed: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Begin without rows.

        Args:
            ratios: share by split, see `parse_splits`.
            seed: another gives other splits.
            by: evidence that makes families belong together, of `EVIDENCE`; all when not given, without projects where
                a split would be empty with them.
            fixed: the splits of families of an earlier run; give its `by`, too.

        Raises:
            AgentRolloutsError: ratios that are none, or evidence or fixed splits that are unknown.
        """
        self.ratios = _checked(ratios)
        if unknown := set(by or ()) - set(EVIDENCE):
            raise AgentRolloutsError(f"unknown evidence {', '.join(sorted(unknown))}; known: {', '.join(EVIDENCE)}")
        if unknown := set((fixed or {}).values()) - set(ratios):
            raise AgentRolloutsError(
                f"an earlier run has the splits {', '.join(sorted(unknown))}, this one {', '.join(ratios)}; "
                "name them, too, or begin without the earlier run"
            )
        self.seed, self.fixed = seed, dict(fixed or {})
        self.by = None if by is None else tuple(kind for kind in EVIDENCE if kind == "family" or kind in by)
        self._families: dict[str, int] = {}
        self._rows = array("Q")
        self._hashes = {kind: array("Q") for kind in EVIDENCE}
        self._holders = {kind: array("I") for kind in EVIDENCE}

    def add(self, row: Row, evidence: Mapping[str, Iterable[int]] | None = None) -> None:
        """Take note of a row; `evidence` is what `traits` said of it, where that was asked elsewhere."""
        index = self._families.setdefault(family(row), len(self._families))
        if index == len(self._rows):
            self._rows.append(0)
        self._rows[index] += 1
        for kind, hashes in (traits(row, self.by or EVIDENCE) if evidence is None else evidence).items():
            for one in hashes:
                self._hashes[kind].append(one)
                self._holders[kind].append(index)

    @property
    def evidence(self) -> pa.Table:
        """All that was noted: for each family the hashes of each kind of evidence; its rows as those of kind `rows`."""
        names = np.array(list(self._families), dtype=object)
        tables = [_noted("rows", names, np.arange(len(names)), np.frombuffer(self._rows, dtype=np.uint64))]
        for kind, hashes in self._hashes.items():
            holders = np.frombuffer(self._holders[kind], dtype=f"u{self._holders[kind].itemsize}")
            tables.append(_noted(kind, names, holders, np.frombuffer(hashes, dtype=np.uint64)))
        return pa.concat_tables(tables)

    def extend(self, evidence: pa.Table) -> None:
        """Take note of the families of an earlier run, from its `evidence`."""
        for kind, name, value in zip(*(evidence[column].to_pylist() for column in _EVIDENCE.names), strict=True):
            index = self._families.setdefault(name, len(self._families))
            if index == len(self._rows):
                self._rows.append(0)
            if kind == "rows":
                self._rows[index] += value
            else:
                self._hashes[kind].append(value)
                self._holders[kind].append(index)

    def settle(self) -> Assignment:
        """The split of every family, the same in whatever order the rows were added."""
        found = self._settle(self.by or EVIDENCE)
        empty = [name for name, count in found.counts.items() if not count]
        if self.by is None and empty and len(self._families) > 1:
            without = self._settle(tuple(kind for kind in EVIDENCE if kind != "project"))
            if all(without.counts.values()):
                without.notices.insert(
                    0,
                    f"{' and '.join(empty)} would be empty without rows of the projects that other splits hold: "
                    f"projects were not kept apart, and the splits do not show how a model does in a new project",
                )
                return without
        return found

    def _settle(self, by: Sequence[str]) -> Assignment:
        names = sorted(self._families)
        place = np.empty(len(names), dtype=np.int64)
        place[[self._families[name] for name in names]] = np.arange(len(names))
        rows = np.zeros(len(names), dtype=np.int64)
        rows[place] = np.frombuffer(self._rows, dtype=np.uint64) if len(names) else 0
        sides = {name: number for number, name in enumerate(self.ratios)}
        # -1: in no split yet; -2: left out.
        side = np.array([sides[self.fixed[name]] if name in self.fixed else -1 for name in names], dtype=np.int64)
        conflicts: Counter[str] = Counter()
        shared = [(kind, *group) for kind in by for group in self._groups(kind, place)]
        self._part(shared, rows, side, conflicts)
        heads, claims = self._join(shared, side)
        clusters: defaultdict[int, list[int]] = defaultdict(list)
        for index in np.flatnonzero(side == -1).tolist():
            clusters[heads[index]].append(index)
        free: list[list[int]] = []
        for cluster in clusters.values():
            claimed = {number: kind for index in cluster for number, kind in claims.get(index, {}).items()}
            if len(claimed) > 1:
                conflicts[self._conflict(max(claimed.values(), key=EVIDENCE.index), claimed)] += 1
            side[cluster] = -2 if len(claimed) > 1 else next(iter(claimed), -1)
            if not claimed:
                free.append(cluster)
        notices = self._fill(free, names, rows, side)
        counts = {name: int(rows[side == number].sum()) for name, number in sides.items()}
        order = list(self.ratios)
        placed = {name: order[number] for name, number in zip(names, side.tolist(), strict=True) if number >= 0}
        left_out = frozenset(name for name, number in zip(names, side.tolist(), strict=True) if number == -2)
        if left_out:
            notices.append(
                f"{len(left_out)} families ({int(rows[side == -2].sum())} rows) are left out, since they would tie "
                f"splits together that an earlier run has set apart: "
                + "; ".join(f"{why} ({count})" for why, count in sorted(conflicts.items()))
            )
        return Assignment(
            families={**self.fixed, **placed}, left_out=left_out, counts=counts, asked=dict(self.ratios),
            components=len(self._components(shared, len(names))), by=tuple(by), conflicts=conflicts, notices=notices,
        )  # fmt: skip

    def _groups(self, kind: str, place: npt.NDArray[np.int64]) -> list[tuple[list[int]]]:
        """The families that have a hash in common, each group sorted, in the order of their hashes."""
        hashes = np.frombuffer(self._hashes[kind], dtype=np.uint64)
        # Most stand alone: they are put aside before anything is copied.
        order = np.argsort(hashes)
        same = hashes[order[1:]] == hashes[order[:-1]]
        if not same.any():
            return []
        order = order[np.append(same, False) | np.append(False, same)]
        hashes, held = hashes[order], np.frombuffer(self._holders[kind], dtype=f"u{self._holders[kind].itemsize}")
        holders = place[held[order]]
        order = np.lexsort((holders, hashes))
        hashes, holders = hashes[order], holders[order]
        fresh = np.append(True, (hashes[1:] != hashes[:-1]) | (holders[1:] != holders[:-1]))
        hashes, holders = hashes[fresh], holders[fresh]
        begins = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
        ends = np.append(begins[1:], len(hashes))
        return [(holders[a:b].tolist(),) for a, b in zip(begins.tolist(), ends.tolist(), strict=True) if b - a > 1]

    def _part(
        self, shared: Sequence[tuple[str, list[int]]], rows: npt.NDArray[np.int64], side: npt.NDArray[np.int64],
        conflicts: Counter[str],
    ) -> None:  # fmt: skip
        """Leave out the smaller side where fixed families of two splits share evidence."""
        if not self.fixed:
            return
        for kind, group in shared:
            weights: Counter[int] = Counter()
            for index in group:
                if side[index] >= 0:
                    weights[int(side[index])] += int(rows[index])
            if len(weights) > 1:
                conflicts[self._conflict(kind, weights)] += 1
                stays = max(weights, key=lambda number: (weights[number], -number))
                for index in group:
                    if side[index] >= 0 and side[index] != stays:
                        side[index] = -2

    def _join(
        self, shared: Sequence[tuple[str, list[int]]], side: npt.NDArray[np.int64]
    ) -> tuple[list[int], dict[int, dict[int, str]]]:
        """Heads of the clusters of families in no split yet, and which splits each family shares what evidence with."""
        loose: list[list[int]] = []
        claims: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for kind, group in shared:
            taken = {int(side[index]) for index in group if side[index] >= 0}
            free = [index for index in group if side[index] == -1]
            # Who shares it with a split goes there, and need not go with others who do.
            for index in free if taken else ():
                claims[index] |= dict.fromkeys(taken, kind)
            if not taken:
                loose.append(free)
        return _heads(loose, len(side)), claims

    def _components(self, shared: Sequence[tuple[str, list[int]]], count: int) -> set[int]:
        return set(_heads([group for _, group in shared], count))

    def _conflict(self, kind: str, sides: Iterable[int]) -> str:
        order = list(self.ratios)
        return f"{kind}: {', '.join(order[number] for number in sorted(sides))}"

    def _fill(
        self, free: list[list[int]], names: Sequence[str], rows: npt.NDArray[np.int64], side: npt.NDArray[np.int64]
    ) -> list[str]:
        """Put components in splits, smaller splits first; what could not be met is returned in words."""
        order = list(self.ratios)
        total = int(rows[side != -2].sum())
        rest = max(order, key=lambda name: self.ratios[name])
        sizes = [int(rows[cluster].sum()) for cluster in free]
        anchors = [min(_digest(self.seed, names[index]) for index in cluster) for cluster in free]
        left = set(range(len(free)))
        notices = []
        for name in sorted(order, key=lambda name: (self.ratios[name], order.index(name))):
            number, wanted = order.index(name), self.ratios[name] * total
            held = int(rows[side == number].sum())
            if name == rest:
                for one in left:
                    side[free[one]] = number
                continue
            in_order = sorted(left, key=lambda one: (_digest(name, anchors[one]), anchors[one]))
            for one in in_order:
                if held + sizes[one] / 2 < wanted:
                    side[free[one]] = number
                    held += sizes[one]
                    left.discard(one)
            if not held and len(left) > 1:
                smallest = min(in_order, key=lambda one: sizes[one])
                if sizes[smallest] <= wanted + _MORE * total:
                    side[free[smallest]] = number
                    left.discard(smallest)
        for number, name in enumerate(order):
            share = int(rows[side == number].sum()) / (total or 1)
            # Half a percent, or half of what was asked: nobody minds less.
            if abs(share - self.ratios[name]) > max(0.005, self.ratios[name] / 2) or not share:
                notices.append(
                    f"{name} has {share:.2%} of the rows where {self.ratios[name]:.2%} were asked: there were "
                    f"{len(free)} components to place, the largest with {max(sizes, default=0)} of all {total} rows"
                )
        return notices


_EVIDENCE = pa.schema([("kind", pa.string()), ("family", pa.string()), ("value", pa.uint64())])


def _noted(kind: str, names: npt.NDArray[Any], holders: npt.NDArray[Any], values: npt.NDArray[np.uint64]) -> pa.Table:
    kinds = pa.array([kind]).take(pa.array(np.zeros(len(values), dtype=np.int32)))
    held = pa.array(names[holders.astype(np.int64)] if len(values) else [], pa.string())
    return pa.Table.from_arrays([kinds, held, pa.array(values, pa.uint64())], schema=_EVIDENCE)


def _heads(groups: Iterable[Sequence[int]], count: int) -> list[int]:
    """For each of `count` things the first of those that groups join it with."""
    heads = list(range(count))

    def head(index: int) -> int:
        while heads[index] != index:
            heads[index] = heads[heads[index]]
            index = heads[index]
        return index

    for group in groups:
        for index in group[1:]:
            a, b = head(group[0]), head(index)
            heads[max(a, b)] = min(a, b)
    return [head(index) for index in range(count)]


# -- the audit --------------------------------------------------------------------------------------

_READ = (
    "trace_id", "source_kind", "source_path", "family_id", "root_session_id", "parent_trace_id", "project_path", "cwd",
    "source_meta", "repository", "task_id", "messages",
)  # fmt: skip


class Leak(NamedTuple):
    """Evidence that two splits share: how many of the second's rows, and pairs of rows (their keys) that show it."""

    evidence: str
    splits: tuple[str, str]
    rows: int
    examples: tuple[tuple[str, str], ...]


def leaks(files: Mapping[str, Iterable[str | Path]], *, by: Sequence[str] = EVIDENCE) -> list[Leak]:
    """What the written splits share, read anew from their Parquet files and judged row by row.

    Only the columns of `_READ` are read, whichever are there; `identify` gives two of them. Rows should have been added
    to `Splits` with the messages that are written: one that had its calls put into its text since then, say, may have
    become the like of another.

    Args:
        files: Parquet files by split.
        by: the evidence that the splits were made by.

    Returns:
        Nothing if all is well.
    """
    kinds = [kind for kind in EVIDENCE if kind == "family" or kind in by]
    read = {split: _evidence([Path(path) for path in paths], kinds) for split, paths in files.items()}
    found = []
    for (a, (mine, names)), (b, (theirs, others)) in itertools.combinations(read.items(), 2):
        for kind in kinds:
            if pairs := _pairs(mine[kind], theirs[kind]):
                examples = tuple((names[left], others[right]) for left, right in pairs[:3])
                found.append(Leak(kind, (a, b), len(pairs), examples))
    return found


_Held: TypeAlias = tuple[Hashes, npt.NDArray[np.int64]]


def _evidence(paths: Sequence[Path], by: Sequence[str]) -> tuple[dict[str, _Held], list[str]]:
    """Hashes and the rows that have them, by kind; and the names of the rows."""
    hashes = {kind: array("Q") for kind in EVIDENCE}
    holders = {kind: array("q") for kind in EVIDENCE}
    names: list[str] = []
    for path in paths:
        file = pq.ParquetFile(path)
        columns = [name for name in _READ if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=16, columns=columns):
            for row in batch.to_pylist():
                for kind, found in traits(row, by).items():
                    hashes[kind].extend(found)
                    holders[kind].extend([len(names)] * len(found))
                names.append("/".join(str(row.get(name)) for name in ("source_kind", "source_path", "trace_id")))
    held = {}
    for kind in EVIDENCE:
        every, of = np.frombuffer(hashes[kind], dtype=np.uint64), np.frombuffer(holders[kind], dtype=np.int64)
        order = np.argsort(every, kind="stable")
        held[kind] = every[order], of[order]
    return held, names


def _pairs(mine: _Held, theirs: _Held) -> list[tuple[int, int]]:
    """Each row of theirs that has a hash in common with one of mine, behind that."""
    shared = np.flatnonzero(np.isin(theirs[0], mine[0]))
    rows, first = np.unique(theirs[1][shared], return_index=True)
    at = np.searchsorted(mine[0], theirs[0][shared[first]])
    return list(zip(mine[1][at].tolist(), rows.tolist(), strict=True))
