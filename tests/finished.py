"""Finished datasets for tests of publishing: folders as `distill` writes them, with invented rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Features, Json, List, Value
from datasets.info import DatasetInfo

from agent_rollouts import card

FEATURES = Features(
    {
        "messages": List(Json()),
        "trace_id": Value("string"),
        "family_id": Value("string"),
        "source_kind": Value("string"),
    }
)


def row(name: str, text: str | None = None) -> dict[str, Any]:
    """A rollout of its own family."""
    words = " ".join(f"{name}{number}" for number in range(30))
    messages = [{"role": "user", "content": f"Do {name}"}, {"role": "assistant", "content": text or f"Done {words}"}]
    return {"messages": messages, "trace_id": f"trace-{name}", "family_id": f"family-{name}", "source_kind": "codex"}


TRAIN, TEST = [row("a"), row("b"), row("c")], [row("d")]
ROWS = {"messages": {"train": TRAIN, "test": TEST}, "openai": {"train": TRAIN, "test": TEST}}


def finished(
    folder: Path,
    configs: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]],
    *,
    shards: int = 1,
    text: str = "About it.",
    **header: Any,
) -> Path:
    """Write a folder with these rows by config and split."""
    infos, entries = [], []
    for number, (config, splits) in enumerate(configs.items()):
        (folder / config).mkdir(parents=True, exist_ok=True)
        counts = []
        for split, rows in splits.items():
            count = min(shards, len(rows))
            for shard in range(count):
                path = folder / config / f"{split}-{shard:05d}-of-{count:05d}.parquet"
                pq.write_table(_table(rows[shard::count]), path, compression="zstd")
            counts.append({"name": split, "num_bytes": 1000 * len(rows), "num_examples": len(rows)})
        files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
        entries.append({"config_name": config, "data_files": files} | ({} if number else {"default": True}))
        sizes = {"splits": counts, "download_size": 1, "dataset_size": 1}
        infos.append({"config_name": config, **DatasetInfo(features=FEATURES)._to_yaml_dict(), **sizes})
    data = {
        "configs": entries,
        "dataset_info": infos,
        "tags": ["agent-rollouts"],
        "size_categories": ["n<1K"],
        **header,
    }
    yaml_text = yaml.safe_dump(data, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{yaml_text}---\n{card.BEGIN}\n# Rollouts\n\n{text}\n{card.END}\n")
    (folder / "funnel.json").write_bytes(orjson.dumps({"rows": 1}))
    return folder


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    schema = FEATURES.arrow_schema
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if field.name == "messages":
            texts = [[orjson.dumps(message).decode() for message in value] for value in values]
            arrays.append(pa.array(texts, pa.list_(pa.string())).cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
