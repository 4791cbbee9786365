"""The manifest of a dataset: what it was made of, and what must never come back; `.agent_rollouts/manifest.json`.

    {
      "version": 1,
      "files": {"messages/train-00000-of-00001.parquet": {"sha256": "…", "rows": 12, "policy": ["1.ab…+pii"]}},
      "sources": {"<hash of a path>": "<hash of its content>"},
      "tombstones": ["<hash of a trace or family>"]
    }

It lies in the repository beside the dataset and may be as public as that: names stand in it as hashes only. It is the
same for the same dataset, so that an unchanged one makes no commit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from agent_rollouts.errors import AgentRolloutsError

PATH = ".agent_rollouts/manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What is known of a dataset.

    Attributes:
        files: by path the hash of each file that we wrote, and of a Parquet file the rows and redaction policies.
        sources: content by source file, both as `digest` gives them.
        tombstones: traces and families whose rows were revoked, as `digest` gives them.
    """

    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    tombstones: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """What `dump` gave.

        Raises:
            AgentRolloutsError: it is something else, or of a later version.
        """
        try:
            found = orjson.loads(data)
            version = found["version"]
            manifest = cls(found["files"], found["sources"], frozenset(found["tombstones"]))
        except (ValueError, KeyError, TypeError):
            # Going on would bring back what was revoked.
            raise AgentRolloutsError(f"{PATH} on the Hub is damaged; restore it from an earlier commit") from None
        if version != _VERSION:
            raise AgentRolloutsError(f"{PATH} on the Hub is of version {version}; a newer agent-rollouts reads it")
        return manifest

    def dump(self) -> bytes:
        """The manifest as its file holds it."""
        found = {
            "version": _VERSION,
            "files": self.files,
            "sources": self.sources,
            "tombstones": sorted(self.tombstones),
        }
        return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"

    def with_files(self, files: Mapping[str, Mapping[str, Any]], gone: Iterable[str]) -> Manifest:
        """The manifest with these files, and without others."""
        gone = set(gone)
        left = {name: file for name, file in self.files.items() if name not in gone}
        return replace(self, files={**left, **files})

    def changed(self, sources: Mapping[str, str]) -> set[str]:
        """Those of these source files that are new, or not as they were."""
        return {name for name, content in sources.items() if self.sources.get(name) != content}


def digest(name: str) -> str:
    """What stands for the name of a trace, a family or a source file."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16, person=b"agent-rollouts").hexdigest()


def stamp(path: str | os.PathLike[str]) -> str:
    """What stands for the content of a source file."""
    found = hashlib.blake2b(digest_size=16, person=b"agent-rollouts")
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def describe(path: Path, sha256: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    if path.suffix != ".parquet":
        return {"sha256": sha256}
    with pq.ParquetFile(path) as file:
        policies = set()
        if "redaction_policy" in file.schema_arrow.names:
            policies.update(file.read(["redaction_policy"]).column(0).unique().to_pylist())
        return {"sha256": sha256, "rows": file.metadata.num_rows, "policy": sorted(policies - {None})}
