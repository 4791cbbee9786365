"""What a dataset knows of itself, so that it can grow: `OUT/.agent_rollouts/`.

    state.json          hashes of the source files and of their content, numbers of placeholders, splits
    families.parquet    who said which turn (`Families.save`), and which rows are published in which family
    published.parquet
    evidence.parquet    what families are evidence of (`Splits`), where there are splits

It goes where the dataset goes. Paths stand in it as they stand in the rows, redacted; of what was said there are hashes
under a key that stays with its owner (in the file of `redaction_state`), of source files hashes of path and content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from agent_rollouts.distill.families import Families, Key
from agent_rollouts.distill.splits import Splits
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.source import stamped

FOLDER = ".agent_rollouts"
_VERSION = 1
_HASH = b"agent-rollouts"


class Published(NamedTuple):
    """A row that is in the dataset, by the columns that are written there."""

    source_kind: str
    source_path: str
    trace_id: str
    family_id: str


@dataclass
class State:
    """What is known of a dataset.

    Attributes:
        families: of all rows that were ever read.
        published: of each row that is in the dataset.
        sources: hash of the content by hash of the path, of all source files.
        numbers: the highest number of a placeholder by kind, above which later ones begin.
        splits: split by family, and `by`, the evidence that was used; none where there is one split.
        evidence: the evidence of all families, as `Splits.evidence` has it.
        key: which key the hashes are made with, as `key_of` tells it.
    """

    families: Families = field(default_factory=Families)
    published: dict[Key, Published] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    by: tuple[str, ...] = ()
    evidence: pa.Table | None = None
    key: str = ""

    def save(self, output: Path) -> None:
        """Write it into the folder of a dataset."""
        folder = output / FOLDER
        folder.mkdir(exist_ok=True)
        self.families.save(folder / "families.parquet")
        published = [
            {**name._asdict(), "written_path": row.source_path, "written_id": row.trace_id, "family_id": row.family_id}
            for name, row in sorted(self.published.items())
        ]
        pq.write_table(pa.Table.from_pylist(published, _PUBLISHED), folder / "published.parquet", compression="zstd")
        if self.evidence is not None:
            pq.write_table(self.evidence, folder / "evidence.parquet", compression="zstd")
        said = {
            "version": _VERSION, "sources": self.sources, "numbers": self.numbers, "splits": self.splits, "by": self.by,
            "key": self.key,
        }  # fmt: skip
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (folder / "state.json").write_bytes(orjson.dumps(said, option=option))

    @classmethod
    def load(cls, output: Path) -> State:
        """What `save` wrote.

        Raises:
            AgentRolloutsError: there is none, or of another version.
        """
        folder = output / FOLDER
        try:
            said = orjson.loads((folder / "state.json").read_bytes())
            if said["version"] != _VERSION:
                raise AgentRolloutsError(f"{folder} was written by another version of agent-rollouts; distill anew")
            rows = pq.read_table(folder / "published.parquet").to_pylist()
            evidence = folder / "evidence.parquet"
            return cls(
                families=Families.load(folder / "families.parquet"),
                published={
                    Key(row["source_kind"], row["source_path"], row["trace_id"]): Published(
                        row["source_kind"], row["written_path"], row["written_id"], row["family_id"]
                    )
                    for row in rows
                },
                sources=said["sources"],
                numbers=said["numbers"],
                splits=said["splits"],
                by=tuple(said["by"]),
                evidence=pq.read_table(evidence) if evidence.exists() else None,
                key=said["key"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AgentRolloutsError(
                f"{folder} does not say how the dataset was made ({error}); distill anew"
            ) from error

    def begin_splits(self, splits: Splits) -> None:
        """Give splits the evidence of the families that are placed."""
        if self.evidence is not None:
            splits.extend(self.evidence)


_PUBLISHED = pa.schema([(name, pa.string()) for name in (*Key._fields, "written_path", "written_id", "family_id")])


def changed(files: Iterable[str], names: Mapping[str, str], sources: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The files that are new, or not as they were, each with the hashes of its name and content."""
    stamps = {path: (digest(names[path]), stamp(path)) for path in files}
    return {path: (name, content) for path, (name, content) in stamps.items() if sources.get(name) != content}


def key_of(salt: bytes) -> str:
    """What tells a key from others, and nothing of it."""
    return hashlib.blake2b(b"key", key=salt, digest_size=16, person=_HASH).hexdigest()


def digest(name: str) -> str:
    """What stands for a name."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16, person=_HASH).hexdigest()


def stamp(path: str) -> str:
    """What stands for the content of a local file; of one elsewhere, for what its store says of it."""
    if "://" in path:
        return digest(stamped(path)[1])
    found = hashlib.blake2b(digest_size=16, person=_HASH)
    # What a running agent has added to its database lies beside it until it is merged.
    for part in (path, f"{path}-wal"):
        if part == path or os.path.isfile(part):
            with open(part, "rb") as file:
                while data := file.read(1 << 20):
                    found.update(data)
    return found.hexdigest()
