"""The manifest of a dataset: which files are ours, and what must never come back; `.agent_rollouts/manifest.json`.

    {
      "version": 1,
      "files": {"messages/train-00000-of-00001.parquet": {"sha256": "…", "rows": 12, "policy": ["1.ab…+pii"]}},
      "tombstones": ["<hash of a trace or family>"]
    }

It lies in the repository beside the dataset and may be as public as that: names stand in it as hashes only. It is the
same for the same dataset, so that an unchanged one makes no commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from agent_rollouts.distill.state import FOLDER
from agent_rollouts.errors import AgentRolloutsError

PATH = f"{FOLDER}/manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What is known of a dataset.

    Attributes:
        files: by path the hash of each file that we wrote, and of a Parquet file the rows and redaction policies.
        tombstones: traces and families whose rows were revoked, as `state.digest` gives them.
    """

    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
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
            manifest = cls(found["files"], frozenset(found["tombstones"]))
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
            "tombstones": sorted(self.tombstones),
        }
        return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"

    def with_files(self, files: Mapping[str, Mapping[str, Any]], gone: Iterable[str]) -> Manifest:
        """The manifest with these files, and without others."""
        gone = set(gone)
        left = {name: file for name, file in self.files.items() if name not in gone}
        return replace(self, files={**left, **files})


def describe(path: Path, sha256: str) -> dict[str, Any]:
    """What the manifest says of a file."""
    if path.suffix != ".parquet":
        return {"sha256": sha256}
    with pq.ParquetFile(path) as file:
        policies = set()
        if "redaction_policy" in file.schema_arrow.names:
            policies.update(file.read(["redaction_policy"]).column(0).unique().to_pylist())
        return {"sha256": sha256, "rows": file.metadata.num_rows, "policy": sorted(policies - {None})}
