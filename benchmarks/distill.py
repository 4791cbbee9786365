"""How fast rows are distilled: every stage by itself, and the command whole.

    python benchmarks/distill.py                      # 40 MB of invented Claude Code sessions
    python benchmarks/distill.py --source SESSIONS    # your own

MB are 10^6 bytes of what the rows say (text, reasoning, calls), as they come into a stage; the command's are of the
files. Stages run one after the other in this process on the rows of the stage before; the command writes Parquet, and
runs its second pass over it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent_rollouts import features
from agent_rollouts.configs import file_rules
from agent_rollouts.copies import reader
from agent_rollouts.distill import distill_files
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.families import Families, key, own
from agent_rollouts.distill.filters import Filters
from agent_rollouts.distill.funnel import size
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.redact import Redactor
from agent_rollouts.distill.shapes import SHAPES, Tally
from agent_rollouts.distill.splits import identify, traits
from agent_rollouts.distill.weights import weigh
from agent_rollouts.distill.windows import Tokens, windows
from agent_rollouts.source import each, find
from benchmarks.sessions import write_claude

Row = dict[str, Any]

_READABLE = ("messages", "prompt_completion", "sharegpt", "hermes", "openai", "tool_interactions", "sampled_turn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a folder of sessions instead of invented ones")
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--num-proc", type=int, default=2, help="for the second run of the command")
    given = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        source = given.source or _invented(Path(folder) / "sessions", given.megabytes)
        files = find([str(source)], **file_rules("auto"))
        _stages(files)
        _command(files, Path(folder), given.num_proc)


def _invented(folder: Path, megabytes: float) -> Path:
    folder.mkdir()
    sizes = [8.0, 4.0, 2.0, 1.0, *[0.25] * 20]
    for number, one in enumerate(sizes):
        write_claude(folder / f"{number:03d}.jsonl", one * megabytes / sum(sizes), number)
    return folder


def _stages(files: list[str]) -> None:
    read = reader(files, "auto", history="segments")
    begun = time.process_time()
    rollouts = [one for path in files for one in each(path, read, lambda *_: None, **file_rules("auto")) if one]
    rows = [features.row(rollout) for rollout in rollouts]
    _told("read", rows, begun)
    begun = time.process_time()
    families = Families()
    for row in rows:
        families.add(row)
    verdicts = families.settle()
    owned = [own(row, verdicts[key(row)]) for row in rows if verdicts[key(row)].owned_from is not None]
    _told("families", rows, begun)
    redactor = Redactor()
    rows = _timed("redact", redactor.row, owned)
    rows = _timed("evidence", evidence, rows)
    rows = _timed("weights", weigh, rows)
    filters = Filters()
    _timed("filters", filters.why_not, rows)
    rows = [row for row in rows if filters.keeps(row)]
    rows = _timed("identify", identify, rows)
    _timed("traits (splits)", traits, rows)
    tokens = Tokens.estimate()
    cut = _timed("windows of 16,000 tokens", lambda row: windows(row, 16_000, tokens).rows, rows)
    shown = [window for one in cut for window in one]
    options = Options()
    for name in _READABLE:
        _timed(f"shape {name}", lambda row, name=name: list(SHAPES[name].records(row, options, Tally())), shown)


def _timed(name: str, stage: Callable[[Any], Any], rows: list[Row]) -> list[Any]:
    begun = time.process_time()
    made = [stage(row) for row in rows]
    _told(name, rows, begun)
    return made


def _told(name: str, rows: Iterable[Row], begun: float) -> None:
    spent = time.process_time() - begun
    total = sum(size(row["messages"]).text_bytes for row in rows) / 1e6
    print(f"{name:28} {total:8.1f} MB {spent:7.2f} s {total / spent:8.1f} MB/s")


def _command(files: list[str], folder: Path, num_proc: int) -> None:
    total = sum(Path(path).stat().st_size for path in files) / 1e6
    for processes in (1, num_proc):
        begun = time.perf_counter()
        options = Options(num_proc=processes, max_tokens=16_000, splits="train=0.9,test=0.1")
        distill_files(files, folder / f"dataset{processes}", options)
        spent = time.perf_counter() - begun
        print(f"{f'the command, num_proc={processes}':28} {total:8.1f} MB {spent:7.2f} s {total / spent:8.1f} MB/s")


if __name__ == "__main__":
    main()
