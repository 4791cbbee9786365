"""The card of a dataset: `dataset_card.md` filled in, which says what is in it, how it was made, and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import pyarrow.parquet as pq
import yaml
from datasets.info import DatasetInfo

from agent_rollouts.card import BEGIN, size_category
from agent_rollouts.distill.funnel import Funnel, most_first
from agent_rollouts.distill.recipe import ROLLOUT, load
from agent_rollouts.distill.shapes import SHAPES

if TYPE_CHECKING:
    from agent_rollouts.distill.options import Options
    from agent_rollouts.distill.work import Work

_INSTALLED = Path(__file__).parent.parent / "dataset_card.md"
_CARD = _INSTALLED if _INSTALLED.is_file() else Path(__file__).parent.parent.parent / "dataset_card.md"

MARK = BEGIN
"""By this a card is known to be ours."""
SINCE = "since"
"""Kind of `Funnel.counts`: rows that are counted there, and have gone since."""

Shards: TypeAlias = Mapping[str, Mapping[str, Sequence[Path]]]
Records: TypeAlias = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class CardOptions:
    """What the card says beside what is known."""

    license: Annotated[str | None, "License of the dataset, as the Hub names it (cc-by-4.0, apache-2.0, other)"] = None


def card(shards: Shards, funnel: Funnel, work: Work, place: str) -> str:
    """The text of the card.

    Args:
        shards: Parquet files by shape and split.
        place: what `load_dataset` is given.
    """
    header = yaml.safe_dump(_header(shards, work), sort_keys=False, allow_unicode=True)
    records = {
        shape: {split: sum(int(pq.read_metadata(path).num_rows) for path in paths) for split, paths in splits.items()}
        for shape, splits in shards.items()
    }
    return f"---\n{header}---\n{section(records, funnel, work.options, place)}"


def section(records: Records, funnel: Funnel, options: Options, place: str, name: str | None = None) -> str:
    """The text that is ours, from mark to mark.

    Args:
        records: how many there are by shape and split.
        name: what the only config is called, if not as its shape.
    """
    counts = funnel.counts
    rows = counts.get("rows", Counter())
    first, last = funnel.runs[0], funnel.runs[-1]
    config = next((shape for shape, splits in records.items() if splits), options.shape[0])
    values = {
        **last,
        "command": first["command"],
        "more": f", and {len(funnel.runs) - 1:,} times since to add what was new" if len(funnel.runs) > 1 else "",
        "place": place,
        "config": name or config,
        "rows": f"{rows.get('rows', 0):,}",
        "rollouts": f"{rows.get('rollouts', 0):,}",
        "since": "".join(f"\n> {count:,} {what}\n" for what, count in counts.get(SINCE, {}).items() if count),
        "facts": _facts(funnel, options),
        "configs": _configs(records, name),
        "columns": "\n".join(f"- `{shape}`: {_own_columns(shape, options)}" for shape in records),
        "redaction": _redaction(funnel, options),
        "funnel": funnel.markdown(),
        "weights": _bullets(counts.get("weights", {})),
        "outcomes": _bullets(counts.get("outcomes", {})) if options.evidence else "- not asked for",
        "tokens": _histogram(counts.get("tokens", {})),
        "formats": _bullets(counts.get("formats", {})),
        "models": _bullets(counts.get("models", {})),
        "tools": _bullets(counts.get("tools", {}), most=20),
        "skipped": _bullets(counts.get("skipped", {})),
        "lost": _lost(records, funnel),
        "recipe": _recipe(funnel),
        "notices": "".join(f"\n> {notice}\n" for notice in funnel.notices[:20]),
        "train": "\n".join(
            _TRAIN[shape].format(place=place) for shape, splits in records.items() if splits and shape in _TRAIN
        )
        or "Every trainer that reads Parquet or JSON Lines takes a config of its shape.\n",
    }
    return Template(_CARD.read_text(encoding="utf-8")).substitute(values)


# What was run, and no more: TRL's by tests/test_hub_card.py, LLaMA-Factory's rows by its own converter.
_TRAIN = {
    "messages": """With TRL, on all text, or with `assistant_only_loss=True` on every answer:

```python
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

rows = load_dataset("{place}", "messages", split="train").select_columns(["messages", "tools"])
trainer = SFTTrainer("Qwen/Qwen3-0.6B", SFTConfig("out", max_length=32768), train_dataset=rows)
trainer.train()
```
""",
    "tokenized": """With TRL, on the answers of weight 1 alone:

```python
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

rows = load_dataset("{place}", "tokenized", split="train").select_columns(["input_ids", "labels"])
trainer = SFTTrainer("MODEL", SFTConfig("out", max_length=32768), train_dataset=rows)
trainer.train()
```
""",
    "sharegpt": """With LLaMA-Factory, whose converter (0.9.5) was run on such rows. Download `sharegpt/train.jsonl`,
and put this into `dataset_info.json`:

```json
{{"rollouts": {{"file_name": "sharegpt/train.jsonl", "formatting": "sharegpt",
              "columns": {{"messages": "conversations", "system": "system", "tools": "tools"}}}}}}
```
""",
}


def _header(shards: Shards, work: Work) -> dict[str, Any]:
    configs: list[dict[str, Any]] = []
    infos: list[dict[str, Any]] = []
    for shape, splits in shards.items():
        # `load_dataset` refuses a config without files.
        if not splits:
            continue
        files = [{"split": split, "path": f"{shape}/{split}-*"} for split in splits]
        configs.append({"config_name": shape, "data_files": files, **({} if configs else {"default": True})})
        told = {split: [pq.read_metadata(path) for path in paths] for split, paths in splits.items()}
        sizes = {split: sum(_uncompressed(one) for one in metadata) for split, metadata in told.items()}
        infos.append(
            {
                "config_name": shape,
                **DatasetInfo(features=work.features(shape))._to_yaml_dict(),
                "splits": [
                    {"name": split, "num_bytes": sizes[split], "num_examples": sum(one.num_rows for one in metadata)}
                    for split, metadata in told.items()
                ],
                "download_size": sum(path.stat().st_size for paths in splits.values() for path in paths),
                "dataset_size": sum(sizes.values()),
            }
        )
    languages = [name for name in work.options.language if not name.startswith("!")]
    most = max((sum(split["num_examples"] for split in info["splits"]) for info in infos), default=0)
    return {
        "configs": configs,
        "dataset_info": infos,
        "tags": ["agent-traces", "agent-rollouts"],
        "task_categories": ["text-generation"],
        "size_categories": [size_category(most)],
        **({"license": work.options.license} if work.options.license else {}),
        **({"language": languages} if languages else {}),
    }


def _uncompressed(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _facts(funnel: Funnel, options: Options) -> str:
    rows = funnel.counts.get("rows", Counter())
    tokens = (
        f"tokens, as `{options.tokenizer}` counts them"
        if options.tokenizer
        else "tokens, estimated: bytes / 4, and what a chat template adds"
    )
    facts = {
        "files read": funnel.files,
        "rollouts found": funnel.read.rows,
        "rollouts kept": rows.get("rollouts", 0),
        "rows (a rollout may give several windows)": rows.get("rows", 0),
        "messages in them": rows.get("messages", 0),
        "answers to train on": rows.get("answers to train on", 0),
        "tool calls": rows.get("tool calls", 0),
        tokens: rows.get("tokens", 0),
        "images and documents, which are not in these rows": rows.get("media", 0),
    }
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value:,} |" for name, value in facts.items())])


def _configs(records: Records, name: str | None) -> str:
    rows = [
        f"| `{name or shape}` | {', '.join(f'{split} {count:,}' for split, count in splits.items()) or 'none'} "
        f"| {SHAPES[shape].about} |"
        for shape, splits in records.items()
    ]
    return "\n".join(["| config | records | |", "|---|---|---|", *rows])


def _own_columns(shape: str, options: Options) -> str:
    recipe = load(options.recipe) if options.recipe else None
    told = recipe.features if recipe and recipe.shape in (ROLLOUT, shape) else {}
    return ", ".join(f"`{name}`" for name in (*SHAPES[shape].columns, *told))


def _redaction(funnel: Funnel, options: Options) -> str:
    if not options.redact:
        return (
            "**Nothing was redacted.** What the sessions held (paths, names, keys) may be in these rows. "
            "Look before you share."
        )
    found = funnel.counts.get("redactions", Counter())
    counts = ", ".join(f"{kind} {count:,}" for kind, count in most_first(found))
    personal = ", e-mail addresses, public IP addresses and names in home folders" if options.pii else ""
    return (
        f"Secrets{personal} were replaced by placeholders (`redactions` counts them row by row, `redaction_policy` "
        f"names the rules): {counts or 'nothing was found'}. Rules miss what they do not know. Look before you share."
    )


def _recipe(funnel: Funnel) -> str:
    """What a model was asked; nothing where none was."""
    if funnel.recipe is None:
        return ""
    told = funnel.recipe
    cost = "at a cost that is not known" if told["cost_usd"] is None else f"for ${told['cost_usd']:.4f}"
    failed = ", ".join(f"{why} {count:,}" for why, count in most_first(told["failed"])) or "none"
    return (
        f"\nThe recipe `{told['recipe']}` was answered by `{told['model']}`: {told['asked']:,} requests and "
        f"{told['cached']:,} answers that were there before, {told['input_tokens']:,} tokens read and "
        f"{told['output_tokens']:,} written {cost}. Without an answer: {failed}; such columns are null, and "
        "`recipe_errors` says why.\n"
    )


def _lost(records: Records, funnel: Funnel) -> str:
    lines = []
    for shape in records:
        for what, count in sorted(funnel.counts.get(f"not in {shape}", {}).items()):
            if count:
                lines.append(f"- `{shape}`: {what}, {count:,}")
    return "\n".join(lines) or "- nothing"


def _histogram(counts: Mapping[str, int]) -> str:
    items = sorted(counts.items(), key=lambda item: int(item[0].split()[0].replace(",", "")))
    return "\n".join(["| tokens | rows |", "|---:|---:|", *(f"| {name} | {count:,} |" for name, count in items)])


def _bullets(counts: Mapping[str, int], *, most: int | None = None) -> str:
    items = [(name, count) for name, count in most_first(counts) if count]
    lines = [f"- {name}: {count:,}" for name, count in items[:most]]
    if most is not None and len(items) > most:
        lines.append(f"- {len(items) - most:,} more")
    return "\n".join(lines) or "- nothing"
