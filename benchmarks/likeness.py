"""How fast rows are split, audited and held against benchmarks, and in how much memory.

    python benchmarks/likeness.py --megabytes 100 --rows 200000

Invented rows of `--text` bytes, mostly tool results, as they are in the pipeline: messages as objects. The
fingerprints are of `--instances` invented instances of 200 + 500 words; every hundredth row shows one.
"""

from __future__ import annotations

import argparse
import base64
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent_rollouts.distill import shingles
from agent_rollouts.distill.decontaminate import Benchmarks, N
from agent_rollouts.distill.splits import Splits, identify, leaks

_CHANCE = random.Random(0)
_LETTERS = "etaoinshrdlucmfgpbvk"
_WORDS = ["".join(_CHANCE.choices(_LETTERS, k=_CHANCE.randint(2, 10))) for _ in range(30_000)]
_MARKS = [" ", " ", " ", " ", " ", "\n", "\n    ", "(", ") ", "_", ".", ": ", "/", " 12 ", " é "]


def prose(seed: int, size: int) -> str:
    chance = random.Random(seed)
    parts = chance.choices(_WORDS, k=size // 8)
    return "".join(word + mark for word, mark in zip(parts, chance.choices(_MARKS, k=len(parts)), strict=True))


def row(number: int, size: int) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": prose(-number, 100)}]
    for step in range(max(size // 5000, 1)):
        seed = number * 10_000 + step
        call = {"id": "c", "type": "function", "function": {"name": "run", "arguments": {"command": prose(seed, 200)}}}
        messages.append({"role": "assistant", "content": prose(seed + 1, 400), "tool_calls": [call]})
        messages.append({"role": "tool", "content": prose(seed + 2, 4400), "tool_call_id": "c", "name": "run"})
    path = f"/home/user/p{number % 5000}"
    return {
        "trace_id": f"t{number}", "source_kind": "codex", "source_path": f"{number}.jsonl", "source_meta": {},
        "family_id": f"f{number // 2}", "project_path": path, "messages": messages,
    }  # fmt: skip


def statement(number: int) -> str:
    return prose(10**12 + number, 1600)


def records(instances: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(instances):
        texts = {"statement": statement(number), "tests": prose(10**13 + number, 4000)}
        hashes = {name: shingles.grams(shingles.words(text), N) for name, text in texts.items()}
        packed = {name: base64.b64encode(found.tobytes()).decode() for name, found in hashes.items()}
        yield "invented", {"instance": f"owner__name-{number}", **packed}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--text", type=int, default=100_000, help="bytes of a row")
    parser.add_argument("--rows", type=int, default=100_000, help="rows that are settled")
    parser.add_argument("--instances", type=int, default=10_000)
    options = parser.parse_args()

    before, began = peak(), time.perf_counter()
    benchmarks = Benchmarks(records(options.instances))
    print(
        f"fingerprints: {options.instances:,} instances, {peak() - before:,.0f} MB, {time.perf_counter() - began:.1f} s"
    )

    splits = Splits({"train": 0.98, "test": 0.02})
    spent = {"match": 0.0, "add": 0.0}
    size = shown = found = 0
    kept = []
    for number in range(options.megabytes * 1_000_000 // options.text):
        one = row(number, options.text)
        if number % 100 == 0:
            one["messages"].append({"role": "user", "content": statement(number)})
            shown += 1
        size += len(orjson.dumps(one["messages"]))
        began = time.perf_counter()
        found += bool(benchmarks.match(one))
        spent["match"] += time.perf_counter() - began
        began = time.perf_counter()
        splits.add(one)
        spent["add"] += time.perf_counter() - began
        kept.append({**identify(one), "messages": [orjson.dumps(message).decode() for message in one["messages"]]})
        kept[-1].pop("source_meta")
    for what, seconds in spent.items():
        print(f"{what}: {size / 1e6 / seconds:,.0f} MB/s")
    print(f"matches: {found} of {shown} rows that show an instance")

    with tempfile.TemporaryDirectory() as folder:
        assignment = splits.settle()
        files = {}
        for split in assignment.counts:
            files[split] = [Path(folder) / f"{split}.parquet"]
            pq.write_table(pa.Table.from_pylist([r for r in kept if assignment.split_of(r) == split]), files[split][0])
        began = time.perf_counter()
        leaked = leaks(files, by=assignment.by)
        print(f"audit: {size / 1e6 / (time.perf_counter() - began):,.0f} MB/s, {len(leaked)} leaks")

    splits = Splits({"train": 0.98, "test": 0.02})
    before = peak()
    for number in range(options.rows):
        bands = [hash((number, band)) % 2**64 for band in range(16)]
        evidence = {"family": [number // 2], "project": [number % 5000], "task": [number], "near_duplicate": bands}
        splits.add({"family_id": f"f{number // 2}"}, evidence)
    noted, began = peak(), time.perf_counter()
    assignment = splits.settle()
    seconds = time.perf_counter() - began
    print(
        f"settle: {options.rows:,} rows in {seconds:.1f} s; {(noted - before) * 1e6 / options.rows:,.0f} bytes a row "
        f"kept, {peak() - noted:,.0f} MB more to settle; reached {assignment.reached}"
    )


if __name__ == "__main__":
    main()
