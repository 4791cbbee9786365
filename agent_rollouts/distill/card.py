"""The card of a dataset: `dataset_card.md` filled in, which says what is in it, how it was made, and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow.parquet as pq
import yaml
from datasets.info import DatasetInfo

from agent_rollouts.distill.funnel import Funnel, most_first
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.shapes import SHAPES

if TYPE_CHECKING:
    from agent_rollouts.distill.pipeline import Work

_INSTALLED = Path(__file__).parent.parent / "dataset_card.md"
_CARD = _INSTALLED if _INSTALLED.is_file() else Path(__file__).parent.parent.parent / "dataset_card.md"
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))

MARK = "<!-- made by agent-rollouts -->"
"""By this a card is known to be ours."""

Shards: TypeAlias = Mapping[str, Mapping[str, Sequence[Path]]]


def card(folder: Path, shards: Shards, funnel: Funnel, work: Work, about: Mapping[str, str]) -> str:
    """The text of the card.

    Args:
        folder: the dataset's.
        shards: Parquet files by shape and split.
        about: `version`, `command`, `place` and `config` (what `load_dataset` is given).
    """
    counts, options = funnel.counts, work.options
    rows = counts.get("rows", Counter())
    values = {
        "header": yaml.safe_dump(_header(shards, work), sort_keys=False, allow_unicode=True).strip(),
        "rows": f"{rows.get('rows', 0):,}",
        "rollouts": f"{rows.get('rollouts', 0):,}",
        "facts": _facts(funnel, options),
        "configs": _configs(shards),
        "redaction": _redaction(funnel, options),
        "funnel": funnel.markdown(),
        "weights": _bullets(counts.get("weights", {})),
        "outcomes": _bullets(counts.get("outcomes", {})) if options.evidence else "- not asked for",
        "tokens": _bullets(counts.get("tokens", {}), by_count=False),
        "formats": _bullets(counts.get("formats", {})),
        "models": _bullets(counts.get("models", {})),
        "tools": _bullets(counts.get("tools", {}), most=20),
        "skipped": _bullets(counts.get("skipped", {})),
        "lost": _lost(shards, funnel),
        "recipe": _recipe(funnel),
        "notices": "".join(f"\n> {notice}\n" for notice in funnel.notices[:20]),
    }
    return Template(_CARD.read_text(encoding="utf-8")).substitute(values | dict(about))


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
    most = max((sum(split["num_examples"] for split in info["splits"]) for info in infos), default=0)
    return {
        "configs": configs,
        "dataset_info": infos,
        "tags": ["agent-traces", "agent-rollouts"],
        "task_categories": ["text-generation"],
        "size_categories": [next((name for name, limit in _SIZES if most < limit), "n>10M")],
    }


def _uncompressed(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _facts(funnel: Funnel, options: Options) -> str:
    rows = funnel.counts.get("rows", Counter())
    tokens = f"tokens, as `{options.tokenizer}` counts them" if options.tokenizer else "tokens, estimated as bytes / 4"
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


def _configs(shards: Shards) -> str:
    rows = [
        f"| `{shape}` | {', '.join(f'{split} {_examples(paths):,}' for split, paths in splits.items()) or 'none'} "
        f"| {SHAPES[shape].about} |"
        for shape, splits in shards.items()
    ]
    return "\n".join(["| config | records | |", "|---|---|---|", *rows])


def _examples(paths: Sequence[Path]) -> int:
    return sum(int(pq.read_metadata(path).num_rows) for path in paths)


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


def _lost(shards: Shards, funnel: Funnel) -> str:
    lines = []
    for shape in shards:
        for what, count in sorted(funnel.counts.get(f"not in {shape}", {}).items()):
            if count:
                lines.append(f"- `{shape}`: {what}, {count:,}")
    return "\n".join(lines) or "- nothing"


def _bullets(counts: Mapping[str, int], *, by_count: bool = True, most: int | None = None) -> str:
    items = [(name, count) for name, count in most_first(counts) if count]
    if not by_count:
        items.sort(key=lambda item: int(item[0].split()[0].replace(",", "")))
    lines = [f"- {name}: {count:,}" for name, count in items[:most]]
    if most is not None and len(items) > most:
        lines.append(f"- {len(items) - most:,} more")
    return "\n".join(lines) or "- nothing"
