"""Writing a distilled dataset to a folder: Parquet shards, a card and the funnel, all at once or not at all.

    OUT/README.md  OUT/funnel.json  OUT/options.yaml  OUT/splits.json
    OUT/<shape>/<split>-00000-of-00001.parquet
    OUT/<shape>/<split>.jsonl                             for shapes whose trainers read JSON Lines
"""

from __future__ import annotations

import fnmatch
import glob
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agent_rollouts.distill.funnel import Size
from agent_rollouts.distill.pipeline import TRAIN, Run
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.distill.spool import Gathered
from agent_rollouts.errors import AgentRolloutsError

MARK = "<!-- made by agent-rollouts -->"
FILES = ("README.md", "funnel.json", "options.yaml", "splits.json")
_OURS = (*FILES, "*/*-?????-of-?????.parquet", "*/*.jsonl")
_OLD = "old"
_SHARD_BYTES = 500 << 20
# As the Hub's viewer likes them: small enough to be read for one page of rows.
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 1000


def write_records(made: Run, folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Write the records of a run as Parquet, and give the shards by shape and split."""
    found: dict[str, dict[str, list[Path]]] = {}
    names = list(made.assignment.asked) if made.assignment else [TRAIN]
    for shape in made.work.options.shape:
        schema = SHAPES[shape].features.arrow_schema
        records = Gathered(made.spools(shape), made.spool_schema(shape))
        split_of = np.asarray(records.column("_split").to_numpy(zero_copy_only=False), dtype=object)
        sizes = records.column("_bytes").to_numpy()
        found[shape] = {}
        for split in names:
            order = np.flatnonzero(split_of == split)
            if made.work.options.shuffle:
                order = order[np.argsort(records.column("_order").to_numpy()[order], kind="stable")]
            if not len(order):
                continue
            tables = records.tables(order, schema.names, sizes, _GROUP_BYTES, _GROUP_ROWS)
            shards = _write_shards(tables, folder / shape, split, schema)
            found[shape][split] = shards
            made.funnel.count(f"records: {shape}", {split: len(order)})
            if SHAPES[shape].jsonl is not None:
                _write_lines(shards, shape, folder / shape / f"{split}.jsonl")
    return found


def _write_shards(tables: Iterable[pa.Table], folder: Path, split: str, schema: pa.Schema) -> list[Path]:
    folder.mkdir(exist_ok=True)
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    try:
        for table in tables:
            if writer is None or written >= _SHARD_BYTES:
                if writer is not None:
                    writer.close()
                shards.append(folder / f"{len(shards):05d}.parquet")
                writer, written = _writer(shards[-1], schema), 0
            written += table.nbytes
            writer.write_table(table.cast(schema), row_group_size=len(table))
    finally:
        if writer is not None:
            writer.close()
    names = [shard.with_name(f"{split}-{number:05d}-of-{len(shards):05d}.parquet") for number, shard in enumerate(shards)]
    return [shard.rename(name) for shard, name in zip(shards, names, strict=True)]


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # As the Hub likes it: chunks that survive an insertion, and an index of pages for its viewer.
    return pq.ParquetWriter(path, schema, compression="zstd", use_content_defined_chunking=True, write_page_index=True)


def _write_lines(shards: Iterable[Path], shape: str, path: Path) -> None:
    """The records of shards as their trainer's JSON Lines."""
    as_line = SHAPES[shape].jsonl
    assert as_line is not None
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for shard in shards:
            with pq.ParquetFile(shard) as parquet:
                for batch in parquet.iter_batches(batch_size=16):
                    for record in batch.to_pylist():
                        file.write(as_line(record) + "\n")


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
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir())
    if others := [name for name in files if not any(fnmatch.fnmatch(name, ours) for ours in _OURS)]:
        raise AgentRolloutsError(
            f"{target} would be replaced, but holds more than the dataset that agent-rollouts made: "
            f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}; choose another --output"
        )


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
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
