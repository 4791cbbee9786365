"""How long it takes to cut long rows into windows, and to label them.

    python benchmarks/windows.py --tokenizer Qwen/Qwen3-0.6B

One invented row of one prompt and `--steps` steps: without a tokenizer by estimate alone; with one (transformers,
and trl for its training templates) counted, cut and tokenized. MB are of the texts of the row.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent_rollouts.distill.windows import Tokens, Windows, windows
from benchmarks.sessions import WORDS


def row(steps: int) -> dict[str, Any]:
    chance = random.Random(0)

    def text(words: int) -> str:
        return " ".join(chance.choices(WORDS, k=words))

    messages: list[dict[str, Any]] = [{"role": "user", "content": text(50)}]
    for number in range(steps):
        call = {"id": f"c{number}", "type": "function"}
        call["function"] = {"name": "Bash", "arguments": {"command": text(10), "timeout": number}}
        messages.append({"role": "assistant", "content": text(20), "reasoning_content": text(30), "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": text(chance.choice([10, 100, 1000]))})
    return {"messages": messages, "tools": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--max-tokens", type=int, default=32_000)
    parser.add_argument("--tokenizer", help="name or folder")
    options = parser.parse_args()
    long = row(options.steps)
    size = sum(len(message["content"].encode()) for message in long["messages"]) / 1e6
    print(f"{options.steps:,} steps, {size:.1f} MB, windows of {options.max_tokens:,} tokens")
    cut("windows, estimate", long, options.max_tokens, Tokens.estimate(), size)
    if not options.tokenizer:
        return
    from transformers import AutoTokenizer

    from agent_rollouts.distill.labels import tokenize

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    found = cut("windows, tokenizer", long, options.max_tokens, Tokens.of(tokenizer), size)
    began = time.perf_counter()
    made = [tokenize(window, None, tokenizer) for window in found.rows]
    told("tokenize windows", size, began, f"{sum(len(one['input_ids']) for one in made):,} tokens")


def cut(what: str, long: dict[str, Any], max_tokens: int, tokens: Tokens, size: float) -> Windows:
    began = time.perf_counter()
    found = windows(long, max_tokens, tokens)
    told(what, size, began, f"{len(found.rows):,} windows, {found.removed_turns.total()} turns left out")
    return found


def told(what: str, size: float, began: float, more: str) -> None:
    spent = time.perf_counter() - began
    print(f"{what:20} {spent:7.2f} s {size / spent:8.1f} MB/s   {more}")


if __name__ == "__main__":
    main()
