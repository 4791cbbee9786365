"""Adding to a dataset on the Hub: new shards beside the old ones, which lose rows of which there are longer versions.

messages/train-00000-of-00001.parquet             of the first push
messages/train-a00001-00000-of-00001.parquet      of the first append: behind it, as lines are in train.jsonl
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow.parquet as pq

from agent_rollouts import card
from agent_rollouts.distill.redact import Redactor
from agent_rollouts.distill.state import FOLDER
from agent_rollouts.distill.state import Published as Row
from agent_rollouts.errors import MovedError
from agent_rollouts.hub.again import redacted_again
from agent_rollouts.hub.finished import FUNNEL, STATE, Finished, is_parquet, placed
from agent_rollouts.hub.manifest import Manifest
from agent_rollouts.hub.repository import Head, Repository, digests
from agent_rollouts.hub.revocation import find_rows
from agent_rollouts.hub.telling import REPLACED, together

_APPENDED = re.compile(r"-a(\d{5})-")


@dataclass(frozen=True)
class Append:
    """What a folder is to a dataset on the Hub to which it is added.

    Attributes:
        onto: the `state.json` that it was distilled from; None: the one that is there, whatever it is.
        replaced: rows there, of which the folder has longer versions.
        redactor: redacts rows there anew whose policy is another.
        is_first: whether nothing may be there yet: the folder is the whole.
    """

    onto: bytes | None = None
    replaced: Collection[Row] = ()
    redactor: Redactor | None = None
    is_first: bool = False


class Joined(NamedTuple):
    """What an append makes of what is there: the `card` without rows that go, files to write, and those that go."""

    card: str
    dataset: Finished
    goes: tuple[str, ...]


def is_done(append: Append, dataset: Finished, head: Head | None, config_name: str | None) -> bool:
    """Whether the append has been done already, as when the answer to it was lost.

    Raises:
        MovedError: the head is not what the append was made for.
    """
    name = placed(f"{FOLDER}/{STATE}", config_name)
    there = head.files.get(name, (0, ""))[1] if head else ""
    if append.onto is None:
        return False
    if there in digests(append.onto) or (not append.onto and not there):
        return False
    new = dataset.files.get(name)
    if new is not None and there in digests(new.read_bytes()):
        return True
    raise MovedError("the dataset on the Hub has changed since what is new was found out; run the same command again")


def joined(
    append: Append, dataset: Finished, head: Head, repository: Repository, known: Manifest, room: Path
) -> Joined:
    """The files that make the head hold the dataset as well."""
    room = Path(tempfile.mkdtemp(dir=room))
    configs = {name: splits for name, splits in card.patterns(head.card).items() if name in dataset.own}

    def fetched(name: str) -> Path:
        return repository.path(name, head.commit)

    changed: dict[str, Path] = {}
    if append.redactor:
        changed = redacted_again(append.redactor, configs, head.files, known, dataset.shape_of, fetched, room)
    rows = frozenset((row.source_path, row.trace_id) for row in append.replaced)
    belongs = partial(_of, rows=rows) if rows else None
    removal = find_rows(configs, head.files, lambda name: repository.parquet(name, head.commit), belongs)
    cut = removal.cut(lambda name: changed.get(name) or fetched(name), room)
    files: dict[str, Path | None] = {**changed, **cut}
    number = 1 + max((int(found[1]) for name in head.files if (found := _APPENDED.search(name))), default=0)
    for name, path in dataset.files.items():
        if is_parquet(name) and not name.startswith(FOLDER):
            folder, _, file = name.rpartition("/")
            split, _, rest = file.partition("-")
            files[f"{folder}/{split}-a{number:05d}-{rest}"] = path
        elif not name.endswith(".jsonl"):
            files[name] = path
        elif name in head.files and files.get(name, path) is not None:
            files[name] = _after(files.get(name) or fetched(name), path, room)
        else:
            files[name] = path
    if append.redactor and changed:
        name = placed(f"{FOLDER}/{STATE}", dataset.config_name)
        files[name] = _with_numbers(dataset.files[name], append.redactor, room / STATE)
    old = placed(FUNNEL, dataset.config_name)
    before = fetched(old).read_bytes() if old in head.files else None
    new = dataset.beside(FUNNEL)
    whole = together(before, new.read_bytes() if new else None, {REPLACED: max(removal.by_config.values(), default=0)})
    if whole is not None:
        (room / FUNNEL).write_bytes(whole)
        files[old] = room / FUNNEL
    base = card.shrunk(head.card, removal.shrinkage)
    text = card.grown(base, dataset.readme, dataset.own)
    left = {name: path for name, path in files.items() if path is not None}
    goes = tuple(name for name, path in files.items() if path is None)
    return Joined(base, replace(dataset, readme=text, files=left, configs=card.patterns(text)), goes)


def _of(file: pq.ParquetFile, rows: frozenset[tuple[str, str]]) -> set[int]:
    """The records of a file that were made of these rows; of two, where one is of these."""
    found: set[int] = set()
    for prefix in ("", "rejected_"):
        columns = [f"{prefix}{name}" for name in ("source_path", "trace_id")]
        if set(columns) <= set(file.schema_arrow.names):
            table = file.read(columns)
            names = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
            found |= {number for number, name in enumerate(names) if name in rows}
    return found


def _with_numbers(state: Path, redactor: Redactor, target: Path) -> Path:
    """The state with the placeholders that redacting anew has brought."""
    said = orjson.loads(state.read_bytes())
    said["numbers"] = redactor.state["numbers"]
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    target.write_bytes(orjson.dumps(said, option=option))
    return target


def _after(old: Path, new: Path, room: Path) -> Path:
    target = Path(tempfile.mkdtemp(dir=room)) / new.name
    shutil.copyfile(old, target)
    with target.open("ab") as out, new.open("rb") as more:
        shutil.copyfileobj(more, out)
    return target
