"""A finished dataset on disk, as it is published: its files, and the gate that they must pass.

OUT/README.md                                   the card, whose `configs` name the files
OUT/<config>/<split>-00000-of-00001.parquet     shards; also <split>.jsonl, the same rows for those who read lines
OUT/funnel.json  options.yaml  splits.json      of no config
OUT/.agent_rollouts/*                           what it must know to grow, see `state`
OUT/sessions/*.jsonl                            whole sessions, which go to a repository of their own
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, DatasetDict
from datasets.features.features import require_storage_embed
from datasets.info import DatasetInfo
from datasets.table import embed_table_storage, table_cast

from agent_rollouts import card
from agent_rollouts.distill.redact import Place, audit_files, audit_rows, find, masked
from agent_rollouts.distill.sessions import audit, is_session
from agent_rollouts.distill.splits import EVIDENCE, SPLITS_FILE, Leak, leaks
from agent_rollouts.distill.state import FOLDER
from agent_rollouts.errors import AgentRolloutsError

CARD = "README.md"
FUNNEL, OPTIONS = "funnel.json", "options.yaml"
_BESIDES = (FUNNEL, OPTIONS, SPLITS_FILE)
STATE = "state.json"
STATES = (STATE, "families.parquet", "published.parquet", "evidence.parquet")
_SHOWN = 5
_SHARD_BYTES, _GROUP_BYTES = 500 << 20, 16 << 20


@dataclass(frozen=True)
class Finished:
    """A finished dataset on disk: its card, and its files by their path in the repository.

    Attributes:
        config_name: the name of its only config, where that is not as it was made.
        sessions: whole sessions by their path, which are of no config.
    """

    folder: Path
    readme: str
    files: Mapping[str, Path]
    configs: card.Patterns
    config_name: str | None = None
    sessions: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(
        cls, folder: str | os.PathLike[str], config_name: str | None = None, *, may_be_empty: bool = False
    ) -> Finished:
        """What is in a folder.

        Args:
            may_be_empty: whether it may have no rows.

        Raises:
            AgentRolloutsError: it is no finished dataset, or holds other files besides.
        """
        root = Path(folder)
        if not (root / CARD).is_file():
            raise AgentRolloutsError(f"{root} is no finished dataset: there is no {CARD} in it")
        text = (root / CARD).read_text(encoding="utf-8")
        configs = card.patterns(text)
        if not configs and not may_be_empty:
            raise AgentRolloutsError(f"{root / CARD} names no configs; is it a dataset that agent-rollouts made?")
        found = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
        state = {name: found[name] for name in (f"{FOLDER}/{part}" for part in STATES) if name in found}
        found = {name: path for name, path in found.items() if not name.startswith(".") and "/." not in name} | state
        del found[CARD]
        of_configs = list(_all_names(configs))
        sessions = {n: path for n, path in found.items() if is_session(n) and not card.matches(n, of_configs)}
        found = {name: path for name, path in found.items() if name not in sessions}
        names = [*of_configs, *_BESIDES, *state]
        if strange := sorted(name for name in found if not card.matches(name, names)):
            raise AgentRolloutsError(
                f"{root} holds files that are no part of its dataset, and nothing was sent: "
                f"{', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}; put them elsewhere"
            )
        for config, splits in configs.items():
            for split, paths in splits.items():
                if not any(card.matches(name, paths) for name in found):
                    raise AgentRolloutsError(f"{root} has no file of config {config}, split {split}; make it again")
        if config_name is not None:
            text = card.renamed(text, config_name) if configs else text
            found = {placed(name, config_name): path for name, path in found.items()}
        return cls(root, text, found, card.patterns(text), config_name, sessions)

    def beside(self, name: str) -> Path | None:
        """A file of no config."""
        return self.files.get(placed(name, self.config_name))

    def shape_of(self, config: str) -> str:
        """The shape of a config."""
        path = self.beside(OPTIONS)
        if self.config_name is None or path is None:
            return config
        return str(yaml.safe_load(path.read_bytes())["shape"][0])

    @property
    def own(self) -> tuple[str, ...]:
        """The configs of it that there may be, also those without rows."""
        path = self.beside(OPTIONS)
        if self.config_name is not None:
            return (self.config_name,)
        if path is None:
            return tuple(self.configs)
        return tuple(yaml.safe_load(path.read_bytes())["shape"])

    def stamps(self) -> dict[Path, tuple[int, int, int]]:
        """What tells that a file is still the one that was looked at."""
        every = {path: path.stat() for path in (*self.files.values(), *self.sessions.values(), self.folder / CARD)}
        return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in every.items()}

    def of(self, config: str) -> dict[str, list[Path]]:
        """The Parquet files of a config by split."""
        return {
            split: [path for name, path in self.files.items() if card.matches(name, names) and is_parquet(name)]
            for split, names in self.configs[config].items()
        }

    def by(self, by: Sequence[str] | None) -> tuple[str, ...]:
        """The evidence that the splits were made by."""
        file = self.beside(SPLITS_FILE)
        if by is None and file is not None:
            return tuple(orjson.loads(file.read_bytes())["by"])
        return tuple(EVIDENCE if by is None else by)


def placed(name: str, config_name: str | None) -> str:
    """Where a file lies in the repository of a dataset whose config has this name."""
    if config_name is None:
        return name
    return name.replace("/", f"/{config_name}/") if name.startswith(FOLDER) else card.in_folder(name, config_name)


def _all_names(configs: card.Patterns) -> Iterator[str]:
    for config, splits in configs.items():
        for split, names in splits.items():
            yield from names
            yield card.lines_of(config, split)


def is_parquet(name: str) -> bool:
    """Whether a file holds rows as Parquet."""
    return name.endswith(".parquet")


@contextmanager
def opened(source: str | os.PathLike[str] | Dataset | DatasetDict) -> Iterator[Path]:
    """The folder of a dataset; one in memory is written to a folder for as long as it is needed."""
    if isinstance(source, Dataset):
        source = DatasetDict({str(source.split or "train"): source})
    if not isinstance(source, DatasetDict):
        if not isinstance(source, str | os.PathLike):
            raise AgentRolloutsError(
                f"a {type(source).__name__} cannot be published; give a folder, a Dataset or a DatasetDict"
            )
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="agent-rollouts-") as folder:
        _write(source, Path(folder))
        yield Path(folder)


def _write(dataset: DatasetDict, folder: Path) -> None:
    """A dataset as a finished folder with one config."""
    (folder / "data").mkdir()
    splits: list[dict[str, Any]] = []
    on_disk = 0
    for split, rows in dataset.items():
        shards = max(1, -(-rows.data.nbytes // _SHARD_BYTES))
        in_memory = 0
        for number in range(shards):
            path = folder / "data" / f"{split}-{number:05d}-of-{shards:05d}.parquet"
            in_memory += _write_shard(rows.shard(shards, number, contiguous=True), path)
            on_disk += path.stat().st_size
        splits.append({"name": str(split), "num_bytes": in_memory, "num_examples": len(rows)})
    features = next(iter(dataset.values())).features
    if any(rows.features != features for rows in dataset.values()):
        raise AgentRolloutsError("the splits have different columns; they cannot be one config")
    info = DatasetInfo(features=features)._to_yaml_dict()
    size = sum(split["num_bytes"] for split in splits)
    files = [{"split": split["name"], "path": f"data/{split['name']}-*"} for split in splits]
    header = {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {**info, "splits": splits, "download_size": on_disk, "dataset_size": size},
        "tags": ["agent-rollouts"],
        "size_categories": [card.size_category(sum(split["num_examples"] for split in splits))],
    }
    text = yaml.safe_dump(header, sort_keys=False)
    about = "\n".join(f"- {split['name']}: {split['num_examples']:,} rows" for split in splits)
    (folder / CARD).write_text(f"---\n{text}---\n{card.BEGIN}\n\n{about}\n\n{card.END}\n", encoding="utf-8")


def _write_shard(rows: Dataset, path: Path) -> int:
    """Write rows as one file; returns their size in memory."""
    schema = rows.features.arrow_schema
    embed = any(require_storage_embed(feature) for feature in rows.features.values())
    group = max(1, _GROUP_BYTES * len(rows) // max(1, rows.data.nbytes))
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_content_defined_chunking=True, write_page_index=True
    ) as writer:
        for table in rows.with_format("arrow").iter(group):
            table = table_cast(table, schema)
            writer.write_table(embed_table_storage(table) if embed else table, row_group_size=group)
    metadata = pq.read_metadata(path)
    return sum(int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups))


# The gate


def check(
    finished: Finished,
    *,
    pii: bool = True,
    hosts: bool = False,
    deny: Sequence[str] = (),
    by: Sequence[str] | None = None,
) -> None:
    """Look through every file that would be pushed for what must not leave.

    Raises:
        AgentRolloutsError: a secret was found, or evidence that two splits share.
    """
    options: dict[str, Any] = {"pii": pii, "hosts": hosts, "deny": deny}
    refuse_findings(_findings(finished, options))
    for config in finished.configs:
        files = finished.of(config)
        refuse_leaks(config, leaks(files, by=finished.by(by)) if len(files) > 1 else [])


def refuse_findings(found: Iterable[Place]) -> None:
    """Raise when there is something that must not leave."""
    if first := list(islice(found, _SHOWN)):
        places = "; ".join(
            f"{place.file} row {place.row}, {place.column}: {place.kind} {place.masked}" for place in first
        )
        raise AgentRolloutsError(
            f"nothing was sent: the audit found what must not leave: {places}"
            f"{'; and perhaps more' if len(first) == _SHOWN else ''}. Distil with redaction, or look there"
        )


def refuse_leaks(config: str, found: Sequence[Leak]) -> None:
    """Raise when splits share something."""
    if found:
        told = "; ".join(
            f"{' and '.join(leak.splits)} share {leak.evidence} in {leak.rows} row(s), as "
            + " and ".join(leak.examples[0])
            for leak in found[:_SHOWN]
        )
        raise AgentRolloutsError(f"nothing was sent: splits of config {config} are not apart: {told}")


def _findings(finished: Finished, options: dict[str, Any]) -> Iterator[Place]:
    yield from _in_text(CARD, finished.readme, options)
    for name, path in finished.files.items():
        if is_parquet(name):
            places: Iterable[Place] = _in_rows(name, path, options)
        elif name.endswith(".jsonl"):
            places = _in_lines(path, options)
        else:
            places = _in_text(name, path.read_text(encoding="utf-8", errors="replace"), options)
        for place in places:
            yield place._replace(file=name)
    for name, path in finished.sessions.items():
        for place in audit(path, **options):
            yield place._replace(file=name)


def _in_rows(name: str, path: Path, options: dict[str, Any]) -> Iterator[Place]:
    try:
        if not pq.read_metadata(path).num_rows and not name.startswith(FOLDER):  # datasets would not load it
            raise AgentRolloutsError(f"{name} has no rows, and nothing was sent; leave the split out")
        yield from audit_files([path], **options)
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise AgentRolloutsError(f"{name} cannot be read, and nothing was sent: {said}") from None


def _in_lines(path: Path, options: dict[str, Any]) -> Iterator[Place]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                row = orjson.loads(line)
            except ValueError:
                row = line.decode("utf-8", "replace")
            for place in audit_rows([row if isinstance(row, dict) else {"line": row}], **options):
                yield place._replace(row=number)


def _in_text(name: str, text: str, options: dict[str, Any]) -> Iterator[Place]:
    for found in find(text, **options):
        yield Place(name, text.count("\n", 0, found.start), "text", found.kind, masked(text[found.start : found.end]))
