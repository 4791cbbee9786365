"""How fast rows are searched for evidence, and weighed.

    python benchmarks/evidence.py --rows 200

Invented rows: shell calls of every runner, red and green, and reads with results of `--text` bytes. Rows are made
beforehand; each stage is timed alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.weights import weigh
from tests.test_evidence import GREEN_AND_RED
from tests.tool_rows import GO, bash, edit, row, step, user


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--text", type=int, default=4000, help="bytes of each result")
    options = parser.parse_args()
    line = "the quick brown fox: 3 of 12 \u00fcber the lazy dog\n"
    text = line * (options.text // len(line))
    parts = [user(GO)]
    for script, green, red in GREEN_AND_RED.values():
        parts += [step("Read", {"file_path": "a.py"}, text), bash(f"cd src && {script}", text + red, exit_code=1)]
        parts += [edit(), bash(f"cd src && {script} 2>&1 | tail -50", text + green), bash("git diff", text)]
    rows = [row(*parts) for _ in range(options.rows)]
    size = sum(len(orjson.dumps(one)) for one in rows) / 1e6
    print(f"{len(rows)} rows of {len(rows[0]['messages'])} messages, {size:.0f} MB")
    for stage in (evidence, weigh):
        start = time.perf_counter()
        for one in rows:
            stage(one)
        spent = time.perf_counter() - start
        print(f"{stage.__name__}: {size / spent:.0f} MB/s")


if __name__ == "__main__":
    main()
