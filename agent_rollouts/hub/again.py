"""Redacting anew what is on the Hub already, where the policy has changed: more may go, nothing comes back."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from agent_rollouts import card
from agent_rollouts.distill.redact import Redactor
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.distill.spool import table
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub.manifest import Manifest


def is_stale(old: str, new: str) -> bool:
    """Whether rows of a policy (`redact.policy`) lack what another one takes out.

    Of words of one's own only their number is in it: other words, as many as before, are not told apart.
    """
    (version, *had), (current, *wanted) = old.split("+"), new.split("+")
    counts = [
        {name: int(count or 0) for name, _, count in (one.partition("=") for one in ones)} for ones in (had, wanted)
    ]
    return version != current or any(name not in counts[0] or counts[0][name] < n for name, n in counts[1].items())


def stale_files(known: Manifest, configs: card.Patterns, names: Iterable[str], policy: str) -> list[str]:
    """The Parquet files of a dataset with rows of an earlier policy, or without any."""
    patterns = [name for splits in configs.values() for paths in splits.values() for name in paths]
    return [
        name
        for name in sorted(names)
        if "policy" in known.files.get(name, {})
        and card.matches(name, patterns)
        and (not (policies := known.files[name]["policy"]) or any(is_stale(old, policy) for old in policies))
    ]


def redacted_again(
    redactor: Redactor,
    configs: card.Patterns,
    names: Iterable[str],
    known: Manifest,
    shape_of: Callable[[str], str],
    fetched: Callable[[str], Path],
    room: Path,
) -> dict[str, Path]:
    """The files whose rows are of an earlier policy, redacted by this one; and the lines beside them.

    Args:
        shape_of: the shape of a config.
        fetched: gives a file that is there.

    Raises:
        AgentRolloutsError: they hold token ids, in which nothing can be found.
    """
    names = set(names)
    made: dict[str, Path] = {}
    for config, splits in configs.items():
        for split, patterns in splits.items():
            shards = sorted(name for name in names if name.endswith(".parquet") and card.matches(name, patterns))
            stale = stale_files(known, {config: {split: patterns}}, shards, redactor.policy)
            if stale and shape_of(config) == "tokenized":
                raise AgentRolloutsError(
                    f"config {config} holds token ids of rows that were redacted by another policy; make it anew"
                )
            for name in stale:
                made[name] = Path(tempfile.mkdtemp(dir=room)) / Path(name).name
                _rewrite(fetched(name), redactor, made[name])
            lines, as_line = card.lines_of(config, split), SHAPES[shape_of(config)].jsonl
            if stale and lines in names and as_line is not None:
                made[lines] = Path(tempfile.mkdtemp(dir=room)) / Path(lines).name
                with made[lines].open("w", encoding="utf-8", newline="\n") as out:
                    for name in shards:
                        with pq.ParquetFile(made.get(name) or fetched(name)) as file:
                            for batch in file.iter_batches(batch_size=16):
                                out.writelines(as_line(record) + "\n" for record in batch.to_pylist())
    return made


def _rewrite(path: Path, redactor: Redactor, target: Path) -> None:
    with (
        pq.ParquetFile(path) as file,
        pq.ParquetWriter(
            target, file.schema_arrow, compression="zstd", use_content_defined_chunking=True, write_page_index=True
        ) as writer,
    ):
        for group in range(file.num_row_groups):
            rows = [_redacted(row, redactor) for row in file.read_row_group(group).to_pylist()]
            writer.write_table(table(rows, file.schema_arrow), row_group_size=len(rows))


def _redacted(row: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    before = Counter(orjson.loads(row["redactions"]) if row["redactions"] else {})
    found = redactor.row(row)
    before.update(found["redactions"])
    return {**found, "redactions": orjson.dumps(dict(sorted(before.items()))).decode()}
