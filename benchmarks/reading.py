"""How fast sessions are read, and in how much memory, beside what is there already.

    python benchmarks/reading.py --quick

Every measurement is a fresh process of this interpreter that does one thing to one set of files.
CPU time (user and system, children too) is the best of several runs in that process, on one core;
memory is the highest resident size of the process after its first run. MB are 10^6 bytes of source.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sessions

Paths = list[str]
Run = Callable[[], "Counts"]


@dataclass
class Counts:
    """What a run produced: shows that a fast step did its work."""

    rows: int = 0
    messages: int = 0
    remark: str = ""


@dataclass
class Measured:
    """A step on a set; speeds are 0 and `failure` says what happened where it did not finish."""

    set: str
    format: str
    step: str
    files: int
    megabytes: float
    cpu: float = 0.0
    wall: float = 0.0
    peak: float = 0.0
    counts: Counts = field(default_factory=Counts)
    failure: str = ""

    @property
    def speed(self) -> float:
        """MB per second: of CPU time, or of the clock where two processes share the work."""
        seconds = self.wall if self.step == "builder, num_proc=2" else self.cpu
        return self.megabytes / seconds if seconds else 0.0


# -- steps: each imports what it needs, which is not measured, and gives back what is --------------


def _read_bytes(paths: Paths, format: str) -> Run:
    def run() -> Counts:
        for path in paths:
            with open(path, "rb") as stream:
                while stream.read(1 << 20):
                    pass
        return Counts()

    return run


def _parse_lines(paths: Paths, format: str) -> Run:
    import orjson

    def run() -> Counts:
        rows = bad = 0
        for path in paths:
            with open(path, "rb") as stream:
                for line in stream:
                    try:
                        orjson.loads(line)
                    except ValueError:
                        bad += 1
                    rows += 1
        return Counts(rows, 0, f"{bad} bad lines" if bad else "")

    return run


def _decode(paths: Paths, format: str) -> Run:
    from agent_rollouts import formats
    from agent_rollouts.errors import FormatError
    from agent_rollouts.source import open_sources

    def run() -> Counts:
        counts, refused = Counts(), 0
        for path in paths:
            for source in open_sources(path):
                try:
                    for rollout in formats.read(source, format):
                        counts.rows += bool(rollout)
                        counts.messages += len(rollout.messages)
                except FormatError:
                    refused += 1
        counts.remark = f"{refused} files are no sessions" if refused else ""
        return counts

    return run


def _builder(paths: Paths, format: str, num_proc: int | None = None) -> Run:
    from datasets import load_dataset

    import agent_rollouts  # noqa: F401  # registers the builder

    def run() -> Counts:
        with tempfile.TemporaryDirectory() as cache:
            rows = load_dataset(
                "agent_rollouts", format, data_files=paths, split="train", cache_dir=cache, num_proc=num_proc
            )
            return Counts(len(rows), sum(rows["message_count"]))

    return run


def _builder_of_two(paths: Paths, format: str) -> Run:
    return _builder(paths, format, 2)


def _streaming(paths: Paths, format: str) -> Run:
    from datasets import load_dataset

    import agent_rollouts  # noqa: F401  # registers the builder

    def run() -> Counts:
        counts = Counts()
        for row in load_dataset("agent_rollouts", format, data_files=paths, split="train", streaming=True):
            counts.rows += 1
            counts.messages += row["message_count"]
        return counts

    return run


def _data_designer(paths: Paths, format: str) -> Run:
    import logging

    from data_designer.config.seed_source import AgentRolloutFormat
    from data_designer.engine.resources.agent_rollout.registry import get_format_handler
    from data_designer.engine.resources.agent_rollout.types import AgentRolloutSeedParseError

    logging.disable(logging.CRITICAL)
    handler = get_format_handler(AgentRolloutFormat(format))

    def run() -> Counts:
        counts, refused = Counts(), 0
        for path in map(Path, paths):
            try:
                found = handler.parse_file(root_path=path.parent, relative_path=path.name)
            # Its own caller skips such a file; other errors end the run, as they do there.
            except (AgentRolloutSeedParseError, UnicodeDecodeError):
                refused += 1
                continue
            counts.rows += len(found)
            counts.messages += sum(record.message_count for record in found)
        counts.remark = f"{refused} of {len(paths)} files refused" if refused else ""
        return counts

    return run


def _native(paths: Paths, format: str) -> Run:
    from datasets import load_dataset

    def run() -> Counts:
        with tempfile.TemporaryDirectory() as cache:
            rows = load_dataset("json", data_files=paths, split="train", cache_dir=cache)
            if "harness" not in rows.column_names:
                raise ValueError(f"not taken for traces: {len(rows)} raw records of columns {rows.column_names}")
            return Counts(len(rows), sum(len(messages) for messages in _lists(rows, "messages")))

    return run


def _lists(rows: Any, column: str) -> Any:
    """A list column without decoding it, for counting."""
    for chunk in rows.data.column(column).chunks:
        yield from (range(length.as_py() or 0) for length in chunk.value_lengths())


STEPS: dict[str, Callable[[Paths, str], Run]] = {
    "bytes": _read_bytes,
    "orjson.loads": _parse_lines,
    "decode+assemble": _decode,
    "builder": _builder,
    "builder, num_proc=2": _builder_of_two,
    "builder, streaming": _streaming,
    "data-designer": _data_designer,
    "datasets native": _native,
}
PEERS = {"data-designer": "data_designer.engine", "datasets native": "teich"}


# -- one measurement ---------------------------------------------------------------------------------


def _cpu() -> float:
    of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in of)


def _peak() -> float:
    """MB of this process, or of its largest child where that is more."""
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most * (1 if sys.platform == "darwin" else 1024) / sessions.MB


def child() -> None:
    """Do the job that stands on stdin and print what was measured."""
    warnings.simplefilter("ignore")
    job = json.load(sys.stdin)
    if job["step"] != "builder, num_proc=2" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        found = _repeat(STEPS[job["step"]](job["paths"], job["format"]), job["repeat"])
    except Exception as error:  # any failure of any peer is a result
        found = {"failure": _said(error)}
    print("\n" + json.dumps(found))


def _repeat(run: Run, times: int) -> dict[str, Any]:
    found: dict[str, Any] = {"cpu": float("inf"), "wall": float("inf")}
    for number in range(times):
        gc.collect()
        cpu, wall = _cpu(), time.perf_counter()
        counts = run()
        found["cpu"] = min(found["cpu"], _cpu() - cpu)
        found["wall"] = min(found["wall"], time.perf_counter() - wall)
        if number == 0:
            found |= {"peak": _peak(), "counts": asdict(counts)}
    return found


def _said(error: BaseException) -> str:
    """What went wrong in one line, by the first cause: `datasets` wraps it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def measure(set: str, format: str, step: str, paths: Sequence[Path], repeat: int) -> Measured:
    """Run one step on one set of files in a process of its own."""
    measured = Measured(set, format, step, len(paths), sum(path.stat().st_size for path in paths) / sessions.MB)
    job = {"step": step, "format": format, "paths": [str(path) for path in paths], "repeat": repeat}
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, __file__, "--child"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, **quiet},
    )
    found: dict[str, Any]
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        found = {"failure": f"killed by signal {-done.returncode}" if done.returncode < 0 else last}
    else:
        found = json.loads(done.stdout.splitlines()[-1])
    measured.counts = Counts(**found.pop("counts", {}))
    for name, value in found.items():
        setattr(measured, name, value)
    return measured


# -- the report --------------------------------------------------------------------------------------


class Report:
    """All measurements so far; each is printed as soon as it is there."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat
        self.all: list[Measured] = []

    def take(self, set: str, format: str, step: str, paths: Sequence[Path]) -> Measured:
        measured = measure(set, format, step, paths, self.repeat)
        self.all.append(measured)
        told = f"{set:10} {format:12} {step:20} {measured.files:5} {measured.megabytes:7.1f}"
        if measured.failure:
            print(f"{told}  FAILS: {measured.failure[:200]}", flush=True)
        else:
            counts = measured.counts
            told += f" {measured.cpu:8.2f} {measured.wall:8.2f} {measured.speed:8.0f} {measured.peak:8.0f}"
            print(f"{told} {counts.rows:7} {counts.messages:8} {counts.remark}", flush=True)
        return measured

    def of(self, set: str, format: str, step: str) -> Measured | None:
        """A measurement that did finish."""
        named = (m for m in self.all if (m.set, m.format, m.step) == (set, format, step) and not m.failure)
        return next(named, None)

    def head(self) -> None:
        print(
            f"{'set':10} {'format':12} {'step':20} {'files':>5} {'MB':>7} {'CPU s':>8} {'wall s':>8} {'MB/s':>8} "
            f"{'peak MB':>8} {'rows':>7} {'messages':>8}"
        )


@dataclass(frozen=True)
class Ratio:
    """A speed divided by another, and what it is to reach."""

    name: str
    over: str
    under: str
    least: float | None = None
    most: float | None = None

    def line(self, report: Report, set: str, format: str) -> str:
        a, b = report.of(set, format, self.over), report.of(set, format, self.under)
        if a is None or b is None:
            missing = " and ".join(name for name, found in ((self.over, a), (self.under, b)) if found is None)
            return f"{set:10} {format:12} {self.name:34} not to be had: no result of {missing}"
        value = a.speed / b.speed
        reached = value >= self.least if self.least is not None else value <= (self.most or 0)
        target = f">= {self.least}" if self.least is not None else f"<= {self.most}"
        return f"{set:10} {format:12} {self.name:34} {value:6.2f}  {target:7} {'yes' if reached else 'NO'}"


RATIOS = (
    Ratio("decode+assemble / data-designer", "decode+assemble", "data-designer", least=1),
    Ratio("builder / datasets native", "builder", "datasets native", least=5),
    # Times are the other way round than speeds.
    Ratio("builder time / orjson.loads time", "orjson.loads", "builder", most=3.5),
)
MOST_MEMORY = 400
FLAT = 1.1
LINEAR = 1.3


def print_ratios(report: Report, formats: Sequence[str]) -> None:
    print("\nRatios of CPU time")
    for format in formats:
        names = dict.fromkeys(m.set for m in report.all if m.format == format)
        for name in names:
            if not name.startswith("growth") and name != "a quarter":
                for ratio in RATIOS:
                    print(ratio.line(report, name, format))


def print_memory(report: Report, formats: Sequence[str]) -> None:
    print("\nPeak memory of the builder")
    for format in formats:
        for step in ("builder", "builder, streaming"):
            if one := report.of("one", format, step):
                reached = "yes" if one.peak < MOST_MEMORY else "NO"
                what = f"one file of {one.megabytes:.0f} MB, {step}"
                print(f"{format:12} {what:40} {one.peak:6.0f} MB  < {MOST_MEMORY} MB  {reached}")
        few, many = report.of("a quarter", format, "builder"), report.of("small", format, "builder")
        if few and many:
            what = f"{many.files} files / {few.files} files, builder"
            flat = many.peak / few.peak
            print(f"{format:12} {what:40} {flat:6.2f}     <= {FLAT}    {'yes' if flat <= FLAT else 'NO'}")


def print_growth(report: Report, formats: Sequence[str]) -> None:
    print(f"\nGrowth: CPU seconds per 100 MB of session; linear when the last is at most {LINEAR} times the first")
    for format in formats:
        for step in GROWING:
            found = [m for m in report.all if m.format == format and m.step == step and m.set.startswith("growth")]
            found = [m for m in found if not m.failure]
            if len(found) > 1:
                costs = [100 * m.cpu / m.megabytes for m in found]
                told = "  ".join(f"{m.megabytes:.0f} MB: {cost:.2f}" for m, cost in zip(found, costs, strict=True))
                growth = costs[-1] / costs[0]
                verdict = "" if step in PEERS or step == "orjson.loads" else "yes" if growth <= LINEAR else "NO"
                print(f"{format:12} {step:20} {told}   {growth:.2f} {verdict}")


GROWING = ("orjson.loads", "decode+assemble", "builder", "data-designer")


def run(options: argparse.Namespace) -> Report:
    steps = [step for step in options.steps if step not in PEERS or _installed(PEERS[step])]
    for step in set(options.steps) - set(steps):
        print(f"{step}: not measured, {PEERS[step]} is not installed in {sys.prefix}")
    report = Report(options.repeat)
    plans = sessions.QUICK if options.quick else sessions.FULL
    report.head()
    for format in options.formats:
        for name, plan in plans.items():
            if name.split("-")[0] in options.sets:
                paths = sessions.make(format, plan, options.cache)
                measure_set(report, name, format, paths, [s for s in steps if s in GROWING or "growth" not in name])
        real = sessions.corpus(format, options.corpus)
        if "corpus" in options.sets and real:
            measure_set(report, "corpus", format, real, steps)
    return report


def measure_set(report: Report, name: str, format: str, paths: Sequence[Path], steps: Sequence[str]) -> None:
    for step in steps:
        # datasets cannot divide one file among two processes.
        if step != "builder, num_proc=2" or len(paths) > 1:
            report.take(name, format, step, paths)
    if name == "small" and "builder" in steps:
        report.take("a quarter", format, "builder", paths[: len(paths) // 4])


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def print_versions() -> None:
    from importlib.metadata import PackageNotFoundError, version

    names = ("agent-rollouts", "datasets", "pyarrow", "orjson", "data-designer-engine", "teich")
    told = []
    for name in names:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            told.append(f"{name} -")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores; {', '.join(told)}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    sets = ("small", "large", "one", "growth", "corpus")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="small sets, one run each: about a minute")
    parser.add_argument("--repeat", type=int, metavar="N", help="runs per measurement, best counts (3; 1 with --quick)")
    parser.add_argument(
        "--formats", nargs="+", choices=sessions.WRITERS, default=list(sessions.WRITERS), metavar="NAME"
    )
    parser.add_argument("--sets", nargs="+", choices=sets, default=list(sets), metavar="NAME", help=", ".join(sets))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="NAME", help="; ".join(STEPS))
    parser.add_argument(
        "--corpus", type=Path, default=sessions.default_corpus(), help="folder of real sessions (%(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=sessions.default_cache(), help="folder of generated sessions (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.repeat = options.repeat or (1 if options.quick else 3)
    return options


def main() -> None:
    options = parse()
    if options.child:
        child()
        return
    print_versions()
    if options.quick:
        print(
            "These sets are small: load_dataset alone costs a tenth of a second, so the builder's ratios mean nothing."
        )
    report = run(options)
    for section in (print_ratios, print_memory, print_growth):
        section(report, options.formats)
    if options.json:
        options.json.write_text(json.dumps([asdict(measured) for measured in report.all], indent=1) + "\n")


if __name__ == "__main__":
    main()
