"""How long it takes to find out who owns what, and in how much memory; beside the truth.

    python benchmarks/families.py --messages 10_000_000

Invented families of every kind (resumed, forked, saved again, copied, delegated; four formats), results of
`--text` bytes. Rows are made, noted and dropped; only the noting and the settling are timed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent_rollouts.distill.families import Families
from tests.family_trees import forest

AT_ONCE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--text", type=int, default=1000, help="bytes of each tool result")
    parser.add_argument("--copies", type=int, default=8, help="rows of a family beside its first, at the most")
    parser.add_argument("--exchanges", type=int, default=12, help="how far a row goes on from its first, at the most")
    options = parser.parse_args()
    families = Families()
    messages = rows = turns = size = made = 0
    spent = 0.0
    forest(0, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while messages < options.messages:
        found = forest(made, AT_ONCE, options.copies, first=made, text="x" * options.text, exchanges=options.exchanges)
        made += AT_ONCE
        turns += len({turn for held in found.turns for turn in held})
        rows += len(found.rows)
        messages += sum(len(row["messages"]) for row in found.rows)
        for row in found.rows:
            # As they lie in a dataset: JSON text.
            row["messages"] = [orjson.dumps(message) for message in row["messages"]]
            size += sum(map(len, row["messages"]))
        began = time.perf_counter()
        for row in found.rows:
            families.add(row)
        spent += time.perf_counter() - began
    noted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    verdicts = families.settle()
    settled = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    owned = sum(verdict.turns for verdict in verdicts.values())
    ids = len({verdict.family_id for verdict in verdicts.values()})
    print(f"{messages:,} messages in {rows:,} rows of {made:,} families, {size / 1e6:,.0f} MB")
    print(f"noting   {spent:8.1f} s   {messages / spent:12,.0f} messages/s   {size / 1e6 / spent:8.1f} MB/s")
    print(f"settling {settled:8.1f} s   {messages / settled:12,.0f} messages/s")
    noted, peak = ((kilobytes - before) * 1024 / messages for kilobytes in (noted, peak))
    print(f"memory   {noted:8.0f} bytes a message noted, {peak:.0f} at the peak")
    print(f"turns owned {owned:,} of {turns:,}; families found {ids:,} of {made:,}")
    if owned != turns or ids != made:
        sys.exit("that is not the truth")


if __name__ == "__main__":
    main()
