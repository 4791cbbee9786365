"""Writing a distilled dataset to a folder: Parquet shards and a card, all at once or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Features
from datasets.info import DatasetInfo

from agent_rollouts.distill import Report
from agent_rollouts.errors import AgentRolloutsError

_OLD = "old"
MARK = "<!-- made by agent-rollouts -->"
_SHARD_BYTES = 500 << 20
_GROUP_BYTES = 16 << 20
_INSTALLED = Path(__file__).parent.parent / "dataset_card.md"
_CARD = _INSTALLED if _INSTALLED.is_file() else Path(__file__).parent.parent.parent / "dataset_card.md"
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))


def write_dataset(
    rows: Iterable[dict[str, Any]],
    output: str | os.PathLike[str],
    features: Features,
    report: Report,
    *,
    check: Callable[[list[Path]], None] = lambda shards: None,
    **card: str,
) -> None:
    """Write rows as `output/data/train-*.parquet` with `output/README.md`.

    The folder appears when everything is written; one that this tool made before is replaced then.

    Args:
        rows: rows of `features`, JSON columns as text.
        report: read for the card when all rows have been taken.
        check: reads the written shards, and raises where they must not be kept.
        card: further values of the card's template.

    Raises:
        AgentRolloutsError: `output` holds something else, or there is no row.
    """
    target = Path(output).resolve()
    check_output(target)
    with _replacing(target) as folder:
        (folder / "data").mkdir()
        shards = _write_shards(rows, folder / "data", features)
        if not shards:
            raise AgentRolloutsError(_empty(report))
        check(shards)
        for number, shard in enumerate(shards):
            shard.rename(shard.with_name(f"train-{number:05d}-of-{len(shards):05d}.parquet"))
        (folder / "README.md").write_text(_card(folder, features, report, card), encoding="utf-8")


def check_output(target: Path) -> None:
    """Refuse a folder that holds anything but a dataset of ours.

    Raises:
        AgentRolloutsError: it does.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    card = target / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise AgentRolloutsError(f"{target} exists and is no dataset made by agent-rollouts; choose another --output")
    ours = {card, target / "data", *target.glob("data/train-*.parquet")}
    if others := sorted(str(path.relative_to(target)) for path in target.rglob("*") if path not in ours):
        raise AgentRolloutsError(
            f"{target} would be replaced, but holds more than the dataset that agent-rollouts made: "
            f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}; choose another --output"
        )


def _empty(report: Report) -> str:
    why = "; ".join(f"{reason}: {count}" for reason, count in report.removed.most_common())
    bad = f"; {len(report.bad_files)} file(s) could not be used" if report.bad_files else ""
    return (
        f"no row to write: {report.files} file(s), {report.rollouts} rollout(s)"
        f"{'; ' + why if why else ''}{bad}. `agent-rollouts inspect` shows what the files hold"
    )


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end; what an interrupted run left is swept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.incomplete-"
    _sweep(target, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private
        if target.exists():
            target.rename(Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent)) / _OLD)
        folder.rename(target)
    finally:
        _sweep(target, prefix)


def _sweep(target: Path, prefix: str) -> None:
    """Remove half datasets beside `target`, and put back the earlier one if nothing took its place."""
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        if (left / _OLD).is_dir() and not target.exists():
            (left / _OLD).rename(target)
        shutil.rmtree(left, ignore_errors=True)


def _write_shards(rows: Iterable[dict[str, Any]], folder: Path, features: Features) -> list[Path]:
    schema = features.arrow_schema
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    try:
        for group in _groups(rows):
            if writer is None or written >= _SHARD_BYTES:
                if writer is not None:
                    writer.close()
                shards.append(folder / f"{len(shards):05d}.parquet")
                writer, written = _writer(shards[-1], schema), 0
            table = _table(group, schema)
            written += table.nbytes
            writer.write_table(table, row_group_size=len(table))
    finally:
        if writer is not None:
            writer.close()
    return shards


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # As the Hub likes it: chunks that survive an insertion, and an index of pages for its viewer.
    return pq.ParquetWriter(path, schema, compression="zstd", use_content_defined_chunking=True, write_page_index=True)


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(map(len, row["messages"]))
        if size >= _GROUP_BYTES or len(group) >= 1000:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type):
            arrays.append(pa.array(values, pa.list_(pa.string())).cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _card(folder: Path, features: Features, report: Report, more: dict[str, str]) -> str:
    shards = sorted((folder / "data").glob("*.parquet"))
    on_disk = sum(shard.stat().st_size for shard in shards)
    in_memory = sum(_uncompressed(pq.read_metadata(shard)) for shard in shards)
    info = DatasetInfo(features=features)._to_yaml_dict()
    split = {"name": "train", "num_bytes": in_memory, "num_examples": report.rows}
    header = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {**info, "splits": [split], "download_size": on_disk, "dataset_size": in_memory},
        "tags": ["agent-traces", "agent-rollouts"],
        "task_categories": ["text-generation"],
        "size_categories": [next((name for name, limit in _SIZES if report.rows < limit), "n>10M")],
    }
    values = {
        "header": yaml.safe_dump(header, sort_keys=False).strip(),
        "mark": MARK,
        "rows": f"{report.rows:,}",
        "rollouts": f"{report.rollouts:,}",
        "files": f"{report.files:,}",
        "messages": f"{report.messages:,}",
        "tool_calls": f"{report.tool_calls:,}",
        "tokens": f"{report.tokens:,}",
        "untrained": f"{report.untrained:,}",
        "redaction": _redaction(report),
        "outcomes": _bullets(report.outcomes),
        "formats": _bullets(report.formats),
        "models": _bullets(report.models),
        "removed": _bullets(report.removed),
        "skipped": _bullets(report.skipped),
        "media": f"{report.media:,}",
    }
    return Template(_CARD.read_text(encoding="utf-8")).substitute(values | more)


def _redaction(report: Report) -> str:
    if not report.redacted:
        return (
            "**Nothing was redacted.** What the sessions held (paths, names, keys) may be in these rows. "
            "Look before you share."
        )
    counts = ", ".join(f"{kind} {count:,}" for kind, count in report.redactions.most_common()) or "nothing was found"
    return (
        "Secrets, e-mail addresses, public IP addresses and names in home folders were replaced by placeholders "
        f"(`redactions` counts them row by row, `redaction_policy` names the rules): {counts}. Rules miss what they "
        "do not know. Look before you share."
    )


def _uncompressed(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def _bullets(counts: dict[str, int]) -> str:
    lines = [f"- {name}: {count:,}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return "\n".join(lines) or "- nothing"
