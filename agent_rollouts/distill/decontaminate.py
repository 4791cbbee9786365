"""Decontamination: rows that show a benchmark's instances are found by its fingerprints, and removed.

A fingerprint file is made once, from a local copy of the benchmark, and holds none of its text:

    write_fingerprints("SWE-bench_Verified/", "verified.jsonl")      # Parquet, JSON Lines, Arrow or task folders
    benchmarks = Benchmarks.load(["verified.jsonl"])
    benchmarks.match(row)     # [Match(benchmark='SWE-bench_Verified', instance='…', evidence='statement', share=0.93)]

What is evidence (`EVIDENCE`):

    statement     the 13-grams of the problem statement, at least half of them anywhere in the row
    tests         the 13-grams of the lines that the test patch adds (or of the task's test files): half, or 100 of them
    instance_id   an id that tells by itself (`owner__name-123`) in text, path or metadata; any other id of eight
                  letters or more only where the log names its task
    base_commit   the commit that the log names is the instance's; an abbreviated one with the same repository
    canary        the benchmark's canary GUID in any text

The same repository at another commit is none. Of a text with fewer than `LEAST` n-grams all must be found; one of tests
with fewer is not looked for. N-grams that more than four instances share are a form that issues are written in, and
count for nothing.
"""

from __future__ import annotations

import base64
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from xxhash import xxh3_128_digest

from agent_rollouts.distill import shingles
from agent_rollouts.distill.families import key
from agent_rollouts.distill.shingles import Hashes
from agent_rollouts.distill.splits import family, repositories
from agent_rollouts.errors import AgentRolloutsError

Row: TypeAlias = Mapping[str, Any]

EVIDENCE = ("statement", "tests", "instance_id", "base_commit", "canary")
N = 13
"""Words in an n-gram: the measure of the GPT-3 paper (Brown et al. 2020, appendix C), used since by most."""
LEAST = 8
VERSION = 1
HEADER = {
    "fingerprints": "agent_rollouts",
    "version": VERSION,
    "n": N,
    "words": shingles.WORDS,
    "grams": shingles.GRAMS,
}
"""The first line of a file, with the benchmark's name. All others are {instance, repo, base_commit, statement, tests}
(the last two distinct n-grams in order, as base64 of little-endian 64-bit integers) or {canary}."""

_SHARED = 4
_ENOUGH = 100
_TASK_NAMES = frozenset({"instance_id", "task_id", "task_name", "task", "problem_id"})
_COMMIT_NAMES = frozenset({"commit_hash", "base_commit", "commit", "commit_sha", "git_commit"})
_COLUMNS = ("instance_id", "repo", "base_commit", "problem_statement", "test_patch")
_THREE, _SEVEN = np.uint64(3), np.uint64(7)
_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)
_FULL_COMMIT, _SHORT_COMMIT = 40, 7
_ID_LETTERS = bytes(code if (chr(code).isalnum() and code < 0x80) or code in b"_-." else 0x20 for code in range(256))


class Match(NamedTuple):
    """What a row shows of a benchmark. `share` is the part of the n-grams that was found, 1 for other evidence."""

    benchmark: str
    instance: str
    evidence: str
    share: float


# -- looking ----------------------------------------------------------------------------------------


class Benchmarks:
    """Fingerprints of benchmarks, made to be looked for in many rows. Some 25 bytes an n-gram are kept."""

    def __init__(
        self, records: Iterable[tuple[str, Mapping[str, Any]]] = (), *, by: Sequence[str] = EVIDENCE, share: float = 0.5
    ) -> None:
        """Take in `records`, each with the name of its benchmark.

        Args:
            by: which evidence counts.
            share: the part of a text's n-grams that must be found.

        Raises:
            AgentRolloutsError: an unknown kind of evidence, or a share that is none.
        """
        if unknown := set(by) - set(EVIDENCE):
            raise AgentRolloutsError(f"unknown evidence {', '.join(sorted(unknown))}; known: {', '.join(EVIDENCE)}")
        if not 0 < share <= 1:
            raise AgentRolloutsError(f"share is {share}; it must be above 0 and at most 1")
        self.by, self.share = tuple(by), share
        self._canaries: dict[str, str] = {}
        self._commits: defaultdict[str, list[tuple[str, str, str | None]]] = defaultdict(list)
        self._ids: dict[str, tuple[str, str]] = {}
        self._texts: list[tuple[str, str, str]] = []
        held: list[Hashes] = []
        known: set[bytes] = set()
        for benchmark, record in records:
            if canary := record.get("canary"):
                self._canaries.setdefault(canary.lower(), benchmark)
                continue
            instance = record["instance"]
            # The same instance stands in several selections of one benchmark; two benchmarks may call theirs alike.
            same = xxh3_128_digest(f"{instance} {record.get('statement')} {record.get('tests')}".encode())
            if same in known:
                continue
            known.add(same)
            self._ids.setdefault(instance.lower(), (benchmark, instance))
            if commit := record.get("base_commit"):
                self._commits[commit.lower()[:_SHORT_COMMIT]].append((benchmark, instance, record.get("repo")))
                self._commits[commit.lower()].append((benchmark, instance, None))
            for evidence in ("statement", "tests"):
                if evidence in self.by and (text := record.get(evidence)):
                    self._texts.append((benchmark, instance, evidence))
                    held.append(np.frombuffer(base64.b64decode(text), dtype="<u8").astype(np.uint64))
        self._index(held)
        self._need()

    def _index(self, held: list[Hashes]) -> None:
        every = np.concatenate(held) if held else np.empty(0, dtype=np.uint64)
        owners = np.repeat(np.arange(len(held), dtype=np.int32), [len(one) for one in held])
        held.clear()
        order = np.argsort(every)
        every, owners = every[order], owners[order]
        del order
        starts = np.flatnonzero(np.append(True, every[1:] != every[:-1])[: len(every)])
        count = np.diff(np.append(starts, len(every)))
        keep = count <= _SHARED
        self._grams = every[starts[keep]]
        self._owners = owners[np.repeat(keep, count)]
        self._starts = np.append(0, np.cumsum(count[keep]))
        self._totals = np.bincount(self._owners, minlength=len(self._texts))
        # Most n-grams of a row are in no benchmark: a table of bits tells that without a search.
        bits = max(16, (32 * len(self._grams)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._may = np.zeros(1 << (bits - 3), dtype=np.uint8)
        place = self._grams >> self._shift
        np.bitwise_or.at(self._may, place >> _THREE, _BIT[place & _SEVEN])

    def _likely(self, hashes: Hashes) -> Hashes:
        """Those that may be a benchmark's, in order: all that are, and some of the others."""
        place = hashes >> self._shift
        return np.unique(hashes[self._may[place >> _THREE] & _BIT[place & _SEVEN] > 0])

    def _need(self) -> None:
        """How many n-grams of each text must be found."""
        is_tests = np.array([text[2] == "tests" for text in self._texts], dtype=bool)
        needed = np.maximum(np.ceil(self._totals * self.share), np.minimum(self._totals, LEAST))
        needed[is_tests] = np.minimum(needed[is_tests], _ENOUGH)
        self._needed = np.where((self._totals == 0) | (is_tests & (self._totals < LEAST)), np.inf, needed)

    @classmethod
    def load(
        cls, paths: Iterable[str | os.PathLike[str]], *, by: Sequence[str] = EVIDENCE, share: float = 0.5,
        canaries: Iterable[str] = (),
    ) -> Benchmarks:  # fmt: skip
        """Fingerprints that `write_fingerprints` wrote, and GUIDs that are given beside them.

        Raises:
            AgentRolloutsError: a file holds something else, or was made by other rules.
        """
        given = (("canary", {"canary": canary}) for canary in canaries)
        return cls((*given, *(record for path in paths for record in _records(Path(path)))), by=by, share=share)

    def __len__(self) -> int:
        return len(self._ids)

    def match(self, row: Row) -> list[Match]:
        """What a row (columns of `features.FEATURES`) shows of the benchmarks; cost grows with its text alone."""
        found = {*self._named(row), *self._told(row)}
        if len(self._grams):
            found |= set(self._quoted(row))
        return sorted(match for match in found if match.evidence in self.by)

    def _named(self, row: Row) -> Iterator[Match]:
        """What the log's metadata names."""
        values = [
            (name, value.lower()) for name, value in shingles.members(shingles.metadata(row)) if isinstance(value, str)
        ]
        mine = {name.lower() for name in repositories(row)}
        for name, value in values:
            # Harbor puts the benchmark's name before the task's.
            instance = value if value in self._ids else value.rpartition("/")[2]
            if name in _TASK_NAMES and len(instance) >= LEAST and instance in self._ids:
                yield Match(*self._ids[instance], "instance_id", 1.0)
            if name in _COMMIT_NAMES and len(value) >= _SHORT_COMMIT:
                short = len(value) < _FULL_COMMIT
                for benchmark, instance, repo in self._commits.get(value[:_SHORT_COMMIT] if short else value, ()):
                    if not short or repo in mine:
                        yield Match(benchmark, instance, "base_commit", 1.0)

    def _told(self, row: Row) -> Iterator[Match]:
        """Ids and canaries anywhere."""
        about = ("trace_id", "root_session_id", "source_path", "cwd", "project_path", "git_branch")
        names = [row.get(name) or "" for name in about]
        for text in shingles.chunks([*names, *shingles.leaves(shingles.metadata(row)), *shingles.texts(row)]):
            text = text.lower()
            for canary, benchmark in self._canaries.items():
                if canary in text:
                    yield Match(benchmark, "", "canary", 1.0)
            # Docker images of SWE-bench write _1776_ for two underscores, which names of images may not have.
            text = text.replace("_1776_", "__")
            if "__" in text and "instance_id" in self.by:
                for name in set(text.encode("utf-8", "replace").translate(_ID_LETTERS).split()):
                    if b"__" in name:
                        yield from self._ids_in(name.decode())

    def _ids_in(self, name: str) -> Iterator[Match]:
        # `sweb.eval.x86_64.<id>`, `<id>.traj`: an id may have points itself.
        parts = name.strip(".-_").split(".")
        for begin in range(len(parts)):
            for end in range(begin + 1, min(len(parts), begin + 4) + 1):
                part = ".".join(parts[begin:end])
                if tells_by_itself(part) and part in self._ids:
                    yield Match(*self._ids[part], "instance_id", 1.0)

    def _quoted(self, row: Row) -> Iterator[Match]:
        """Statements and tests that stand in its text."""
        places: list[Any] = []
        for hashes in shingles.gram_chunks(shingles.texts(row), N):
            likely = self._likely(hashes)
            at = np.minimum(np.searchsorted(self._grams, likely), len(self._grams) - 1)
            places.append(at[self._grams[at] == likely])
        seen = np.unique(np.concatenate(places)) if places else np.empty(0, dtype=np.int64)
        owners = [self._owners[self._starts[at] : self._starts[at + 1]] for at in seen]
        if not owners:
            return
        text_of, count = np.unique(np.concatenate(owners), return_counts=True)
        for text, found in zip(text_of.tolist(), count.tolist(), strict=True):
            if found >= self._needed[text]:
                benchmark, instance, evidence = self._texts[text]
                yield Match(benchmark, instance, evidence, round(found / int(self._totals[text]), 3))


def tells_by_itself(instance: str) -> bool:
    """Whether an id means its instance wherever it stands, as `owner__name-123` does and `hello-world` does not."""
    return "__" in instance.strip("_") and any(letter.isdecimal() for letter in instance)


def decontaminate(
    rows: Callable[[], Iterable[Row]], benchmarks: Benchmarks, report: list[dict[str, Any]]
) -> Iterator[Row]:
    """The rows of families in which no row matches.

    What a sub-agent or a later context window does for a benchmark's instance need not show its text.

    Args:
        rows: gives the same rows each time it is called (twice), such as a dataset's `__iter__`.
        report: is given one record for each row that is left out: its key, family and matches; no matches of its own
            where another row of its family has them.
    """
    matches: dict[int, list[Match]] = {}
    families: set[str] = set()
    for index, row in enumerate(rows()):
        if found := benchmarks.match(row):
            matches[index] = found
            families.add(family(row))
    for index, row in enumerate(rows()):
        if (name := family(row)) in families:
            shown = [match._asdict() for match in matches.get(index, ())]
            report.append({**key(row)._asdict(), "family_id": name, "matches": shown})
        else:
            yield row


# -- making -----------------------------------------------------------------------------------------


def write_fingerprints(
    path: str | os.PathLike[str], output: str | os.PathLike[str], *, benchmark: str | None = None
) -> Counter[str]:
    """Make a file of fingerprints from a local copy of a benchmark.

    Args:
        path: see `fingerprint`.
        benchmark: its name in reports, else the path's last part.

    Returns:
        Counts of instances, and of what they lack: `no statement`, `no tests` (or fewer words than one n-gram).

    Raises:
        AgentRolloutsError: there is no instance.
    """
    counts: Counter[str] = Counter()
    lines: list[bytes] = [orjson.dumps({**HEADER, "benchmark": benchmark or Path(path).resolve().stem})]
    for record in fingerprint(path):
        lines.append(orjson.dumps(record))
        if "canary" in record:
            counts["canaries"] += 1
            continue
        counts["instances"] += 1
        counts["no statement"] += not record["statement"]
        counts["no tests"] += not record["tests"]
    if not counts["instances"]:
        raise AgentRolloutsError(
            f"no instance in {path}; wanted .parquet, .arrow, .jsonl or .json files with the columns "
            f"{', '.join(_COLUMNS)} (all but the first may lack), or folders with task.yaml or instruction.md"
        )
    Path(output).write_bytes(b"\n".join(lines) + b"\n")
    return counts


def fingerprint(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The fingerprints of a benchmark's instances, as they stand in a file: hashes, no text.

    Args:
        path: a Parquet, Arrow, JSON or JSON Lines file in SWE-bench's columns; a folder of them (as a data set lies
            in a clone or in `save_to_disk`'s folder); or a folder of Terminal-Bench's tasks (`task.yaml`, or
            `instruction.md` beside `task.toml`; all files in `tests`).

    Raises:
        AgentRolloutsError: there is no such path.
    """
    path = Path(path)
    if not path.exists():
        raise AgentRolloutsError(f"{path} does not exist; give a file or folder of a local copy of the benchmark")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    canaries: set[str] = set()
    tasks = {file.parent for file in files if file.name in ("task.yaml", "instruction.md")}
    for task in sorted(tasks):
        yield from _task(task, canaries)
    for file in files:
        # Tasks have data of their own.
        if (read := _READERS.get(file.suffix)) and tasks.isdisjoint(file.parents):
            for instance in read(file):
                if isinstance(name := instance.get("instance_id"), str):
                    yield _record(
                        name,
                        instance.get("problem_statement"),
                        _added(instance.get("test_patch") or ""),
                        instance.get("repo"),
                        instance.get("base_commit"),
                    )


def _task(folder: Path, canaries: set[str]) -> Iterator[dict[str, Any]]:
    """The canaries that a task is the first to hold, and its record."""
    held = {}
    for file in (folder / "instruction.md", folder / "task.yaml", folder / "task.toml", *(folder / "tests").rglob("*")):
        # Compiled tests and pictures have no words.
        if file.is_file() and b"\0" not in (data := file.read_bytes()):
            lines = data.decode("utf-8", "replace").splitlines()
            new = {canary for line in lines for canary in _canaries(line)} - canaries
            canaries |= new
            yield from ({"canary": canary} for canary in sorted(new))
            held[file] = "\n".join(line for line in lines if not _canaries(line))
    statement = held.pop(folder / "instruction.md", None)
    held.pop(folder / "task.toml", None)
    if text := held.pop(folder / "task.yaml", None):
        loaded = yaml.safe_load(text)
        statement = statement or (loaded.get("instruction") if isinstance(loaded, dict) else None)
    yield _record(folder.name, statement, "\n".join(held[file] for file in sorted(held)))


def _canaries(line: str) -> list[str]:
    """The GUIDs on a line that speaks of a canary."""
    words = line.lower().split() if "canary" in line.lower() else []
    found = [word.strip("\"'`.,;:()[]{}<>*#") for word in words]
    return [word for word in found if [len(part) for part in word.split("-")] == [8, 4, 4, 4, 12]]


def _record(
    instance: str, statement: str | None, tests: str, repo: str | None = None, base_commit: str | None = None
) -> dict[str, Any]:
    return {
        "instance": instance,
        "repo": repo.lower() if repo else None,
        "base_commit": base_commit.lower() if base_commit else None,
        "statement": _packed(statement or ""),
        "tests": _packed(tests),
    }


def _packed(text: str) -> str:
    found, first = np.unique(shingles.grams(shingles.words(text), N), return_index=True)
    return base64.b64encode(found[np.argsort(first)].astype("<u8").tobytes()).decode()


def _added(patch: str) -> str:
    """What a patch adds; all else is in the repository for everyone to see."""
    return "\n".join(line[1:] for line in patch.splitlines() if line.startswith("+") and not line.startswith("+++ "))


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=100, columns=columns) if columns else ():
        yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[dict[str, Any]]:
    with pa.memory_map(str(path)) as source:
        for batch in pa.ipc.open_stream(source):
            columns = [name for name in _COLUMNS if name in batch.schema.names]
            yield from batch.select(columns).to_pylist()


def _json(path: Path) -> Iterator[dict[str, Any]]:
    """Objects on lines, or a list of them; a line that is none is none of the benchmark's."""
    data = path.read_bytes()
    try:
        whole: Any = orjson.loads(data)
    except ValueError:
        whole = (_loaded(line) for line in data.splitlines())
    yield from (one for one in (whole if not isinstance(whole, dict) else [whole]) if isinstance(one, dict))


def _loaded(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    ".parquet": _parquet, ".arrow": _arrow, ".jsonl": _json, ".json": _json,
}  # fmt: skip


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file of fingerprints, with their benchmark's name."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise AgentRolloutsError(f"{path}: no fingerprints can be read ({error.strerror})") from error
    with file as lines:
        header = _loaded(next(lines, b""))
        if not isinstance(header, dict) or header.get("fingerprints") != HEADER["fingerprints"]:
            raise AgentRolloutsError(f"{path} holds no fingerprints; `agent-rollouts fingerprint` makes them")
        if other := [name for name, value in HEADER.items() if header.get(name) != value]:
            raise AgentRolloutsError(f"{path} was made by other rules ({', '.join(other)}); make it anew")
        for number, line in enumerate(lines, 2):
            record = _loaded(line)
            if not isinstance(record, dict) or not ({"canary", "instance"} & record.keys()):
                raise AgentRolloutsError(f"{path}, line {number}: no fingerprint; make the file anew")
            yield header["benchmark"], record
