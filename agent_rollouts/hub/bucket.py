"""A folder of a bucket on the Hub (`buckets/user/name/path`): storage without commits.

So that nobody loads half a push, shards have names of their own by their content, and the card, which comes last, names
each; only then the shards of before go. There is no telling whether somebody else has pushed meanwhile: where two push
to one folder at once, the card of one may be lost, and a push that finds its card gone begins again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from agent_rollouts import card
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import manifest
from agent_rollouts.hub.finished import CARD, Finished, is_parquet
from agent_rollouts.hub.manifest import Manifest
from agent_rollouts.hub.repository import Head, Overtaken, Repository, digests, hashes

_PREFIX = "buckets/"
_HASH = re.compile("-[0-9a-f]{16}$")


def is_bucket(name: str) -> bool:
    """Whether a name is that of a folder in a bucket."""
    return name.startswith(_PREFIX)


def place(name: str, token: str | None, revision: str | None, private: bool, room: Path) -> Repository:
    """The repository or folder of a bucket of this name; files of a bucket are fetched to `room`."""
    if is_bucket(name):
        return Bucket(name, token, revision, private, room)
    return Repository(name, token, revision, private)


def _by_content(name: str, path: Path) -> str:
    if not is_parquet(name):
        return name
    return f"{_HASH.sub('', name.removesuffix('.parquet'))}-{hashes(path)[0][:16]}.parquet"


class Bucket(Repository):
    """A folder of a bucket, as if it were a repository with one revision."""

    def __init__(self, path: str, token: str | None, revision: str | None, private: bool, room: Path) -> None:
        if revision is not None:
            raise AgentRolloutsError(f"{path} is in a bucket, which has no revisions and no pull requests")
        namespace, _, rest = path.removeprefix(_PREFIX).partition("/")
        name, _, folder = rest.partition("/")
        if not namespace or not name:
            raise AgentRolloutsError(f"{path!r} is no place in a bucket: wanted buckets/user/name/path")
        super().__init__(f"{namespace}/{name}", token, None, private)
        self.folder = folder.strip("/")
        self._room = room

    @property
    def url(self) -> str:
        """Where it is to be seen."""
        return f"{self.api.endpoint}/buckets/{self.id}{f'/tree/{self.folder}' if self.folder else ''}"

    @property
    def place(self) -> str:
        """What `load_dataset` is given."""
        return f"{_PREFIX}{self.id}/{self.folder}".rstrip("/")

    def head(self, *, create: bool) -> Head | None:
        """What is there now; None where nothing is and nothing is to be made."""
        # The first releases of huggingface_hub know no buckets.
        from huggingface_hub.errors import BucketNotFoundError

        try:
            info = self.api.bucket_info(self.id)
        except BucketNotFoundError:
            if not create:
                return None
            self.api.create_bucket(self.id, private=self.private, exist_ok=True)
            info = self.api.bucket_info(self.id)
        self._check_private(info.private)
        entries = self.api.list_bucket_tree(self.id, self.folder or None, recursive=True)
        sizes = {self._inside(entry.path): entry.size for entry in entries if hasattr(entry, "size")}
        texts = {name: self.path(name, "").read_bytes() for name in (CARD, manifest.PATH) if name in sizes}
        known = Manifest.parse(texts[manifest.PATH]) if manifest.PATH in texts else Manifest()
        told = {name: str(file["sha256"]) for name, file in known.files.items()}
        told |= {name: digests(data)[1] for name, data in texts.items()}
        files = {name: (size, told.get(name, "")) for name, size in sizes.items()}
        return Head("", bool(info.private), files, texts.get(CARD, b"").decode("utf-8", "replace"))

    def path(self, name: str, commit: str) -> Path:
        """A file, in the room that was given."""
        target = Path(tempfile.mkdtemp(dir=self._room)) / "file"
        self.api.download_bucket_files(self.id, [(self._outside(name), target)], raise_on_missing_files=True)
        return target

    def parquet(self, name: str, commit: str) -> pq.ParquetFile:
        """A Parquet file, of which only what is asked for is fetched."""
        return pq.ParquetFile(self.remote.open(f"{_PREFIX}{self.id}/{self._outside(name)}"))

    def new_names(self, files: Mapping[str, Path]) -> dict[str, str]:
        """What files are called when their content is new: by their content."""
        return {name: _by_content(name, path) for name, path in files.items()}

    def named(self, dataset: Finished) -> Finished:
        """The dataset with files that are named by their content, and a card that names each."""
        names = self.new_names(dataset.files)
        configs = {
            config: {
                split: [new for name, new in names.items() if card.matches(name, old)] for split, old in splits.items()
            }
            for config, splits in dataset.configs.items()
        }
        text = card.with_files(dataset.readme, configs)
        files = {names[name]: path for name, path in dataset.files.items()}
        return replace(dataset, readme=text, configs=card.patterns(text), files=files)

    def commit(self, operations: Sequence[Any], message: str, parent: str, create_pr: bool) -> tuple[str, str]:
        """First what nobody sees yet, then the card, then what nobody sees any more."""
        added = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
        gone = [operation.path_in_repo for operation in operations if isinstance(operation, CommitOperationDelete)]
        last = [operation for operation in added if operation.path_in_repo in (CARD, manifest.PATH)]
        self._send([operation for operation in added if operation not in last])
        self._send(last)
        for operation in last:
            if self.path(operation.path_in_repo, "").read_bytes() != operation.path_or_fileobj:
                raise Overtaken
        if gone:
            self.api.batch_bucket_files(self.id, delete=[self._outside(name) for name in gone])
        return "", self.url

    def erase_history(self) -> None:
        """Nothing: a bucket has no earlier commits."""

    def _send(self, operations: Sequence[CommitOperationAdd]) -> None:
        if operations:
            files = [(op.path_or_fileobj, self._outside(op.path_in_repo)) for op in operations]
            self.api.batch_bucket_files(self.id, add=files)  # type: ignore[arg-type]

    def _outside(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name

    def _inside(self, path: str) -> str:
        return path.removeprefix(f"{self.folder}/") if self.folder else path
