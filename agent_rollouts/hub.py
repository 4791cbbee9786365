"""Publishing a dataset on the Hub: private unless told otherwise, checked before a byte leaves, all or nothing.

    published = publish("my-rollouts", "me/my-rollouts")

This is the only module that writes to the network. A push is one commit on top of the head that it was planned for;
when somebody else was faster, it is planned again for theirs. Other configs, other splits, other files and the text
that others wrote in the card stay. Files of a split that are no longer part of it go in the same commit.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, DatasetDict
from datasets.features.features import require_storage_embed
from datasets.info import DatasetInfo
from datasets.table import embed_table_storage, table_cast
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from agent_rollouts import card
from agent_rollouts.distill.redact import Place, audit_files, audit_rows, find, masked
from agent_rollouts.distill.splits import EVIDENCE, Leak, leaks
from agent_rollouts.errors import AgentRolloutsError

_TYPE = "dataset"
_CARD = "README.md"
_BESIDES = ("funnel.json", "options.yaml", "splits.json")
"""Files of a finished dataset that are of no config."""
_ATTEMPTS, _LONGEST_WAIT = 12, 20.0
# What passes: conflicts with another publisher, too many requests, and the server's own troubles.
_PASSING = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
_SHOWN = 5
_SHARD_BYTES, _GROUP_BYTES = 500 << 20, 16 << 20
# httpx's or httpx2's, as the installed huggingface_hub has it; also of connections that broke.
_HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
_ERRORS = (_HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, HFValidationError, OSError)
_TOKENS = re.compile(r"hf_\w{8,}|Bearer \S+|(?<=[?&])X-Amz-[^\s'\"]*")


@dataclass(frozen=True)
class Published:
    """What a push did, or would do.

    Attributes:
        url: where the dataset is to be seen; of a pull request, where that is.
        commit: what was made; the head where nothing had changed; None where nothing was sent.
        private: whether only its owner sees it; None where it is not there yet.
        uploaded: bytes by path in the repository.
        deleted: paths that are no longer part of what was pushed.
        unchanged: paths that were there already, the very same.
        dry_run: whether this is only what would be done.
    """

    url: str
    commit: str | None
    private: bool | None
    uploaded: Mapping[str, int] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def uploaded_bytes(self) -> int:
        """Size of all files that were uploaded."""
        return sum(self.uploaded.values())


def publish(
    source: str | os.PathLike[str] | Dataset | DatasetDict,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    config_name: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
    pii: bool = True,
    hosts: bool = False,
    deny: Sequence[str] = (),
    by: Sequence[str] | None = None,
) -> Published:
    """Push a finished dataset to the Hub in one commit, once it has been found to hold no secret and no leak.

    Args:
        source: a folder that `agent-rollouts distill` wrote, or a dataset with its splits.
        repo_id: `user/name` (of oneself: `name`).
        private: whether a new repository is; one that is there is never changed, and refused if it is public.
        token: instead of the one that `hf auth login` keeps.
        revision: branch or pull request (`refs/pr/1`); a branch that is not there is made.
        create_pr: open a pull request.
        config_name: another name for the config; only of a dataset with one.
        dry_run: only tell what would be sent.
        pii, hosts, deny: what the audit looks for, see `redact.Redactor`.
        by: the evidence of which splits may share none; that of `splits.json` or all.

    Raises:
        AgentRolloutsError: a secret or leak was found, or the Hub refuses; the message is one line.
    """
    with _folder(source) as folder:
        build = Build.read(folder, config_name)
        stamps = build.stamps()
        check(build, pii=pii, hosts=hosts, deny=deny, by=by)
        push = _Push(build, stamps, _Repository(repo_id, token, revision, private), create_pr, build.by(by))
        message = commit_message or f"Publish {', '.join(build.configs)} with agent-rollouts"
        return push.run(message, dry_run)


# What is pushed


@dataclass(frozen=True)
class Build:
    """A finished dataset on disk: its card, and its files by their path in the repository."""

    folder: Path
    readme: str
    files: Mapping[str, Path]
    configs: card.Patterns

    @classmethod
    def read(cls, folder: str | os.PathLike[str], config_name: str | None = None) -> Build:
        """What is in a folder.

        Raises:
            AgentRolloutsError: it is no finished dataset, or holds other files besides.
        """
        root = Path(folder)
        if not (root / _CARD).is_file():
            raise AgentRolloutsError(f"{root} is no finished dataset: there is no {_CARD} in it")
        text = (root / _CARD).read_text(encoding="utf-8")
        configs = card.patterns(text)
        if not configs:
            raise AgentRolloutsError(f"{root / _CARD} names no configs; is it a dataset that agent-rollouts made?")
        found = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
        found = {name: path for name, path in found.items() if not name.startswith(".") and "/." not in name}
        del found[_CARD]
        names = [*_all_names(configs), *_BESIDES]
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
            text = card.renamed(text, config_name)
            found = {card.in_folder(name, config_name): path for name, path in found.items()}
        return cls(root, text, found, card.patterns(text))

    def stamps(self) -> dict[Path, tuple[int, int, int]]:
        """What tells that a file is still the one that was looked at."""
        every = {path: path.stat() for path in (*self.files.values(), self.folder / _CARD)}
        return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in every.items()}

    def of(self, config: str) -> dict[str, list[Path]]:
        """The Parquet files of a config by split."""
        return {
            split: [path for name, path in self.files.items() if card.matches(name, names) and _is_parquet(name)]
            for split, names in self.configs[config].items()
        }

    def by(self, by: Sequence[str] | None) -> tuple[str, ...]:
        """The evidence that the splits were made by."""
        file = next((path for name, path in self.files.items() if name.rpartition("/")[2] == "splits.json"), None)
        if by is None and file is not None:
            return tuple(orjson.loads(file.read_bytes())["by"])
        return tuple(EVIDENCE if by is None else by)


def _all_names(configs: card.Patterns) -> Iterator[str]:
    for config, splits in configs.items():
        for split, names in splits.items():
            yield from names
            yield _lines_of(config, split)


def _lines_of(config: str, split: str) -> str:
    """The file of JSON Lines beside the shards, for those who read no Parquet."""
    return card.in_folder(f"{split}.jsonl", config)


def _is_parquet(name: str) -> bool:
    return name.endswith(".parquet")


@contextmanager
def _folder(source: str | os.PathLike[str] | Dataset | DatasetDict) -> Iterator[Path]:
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
    (folder / _CARD).write_text(f"---\n{text}---\n{card.BEGIN}\n\n{about}\n\n{card.END}\n", encoding="utf-8")


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
    build: Build, *, pii: bool = True, hosts: bool = False, deny: Sequence[str] = (), by: Sequence[str] | None = None
) -> None:
    """Look through every file that would be pushed for what must not leave.

    Raises:
        AgentRolloutsError: a secret was found, or evidence that two splits share.
    """
    options: dict[str, Any] = {"pii": pii, "hosts": hosts, "deny": deny}
    for name, path in build.files.items():
        if _is_parquet(name):
            _check_readable(name, path)
    if found := list(islice(_findings(build, options), _SHOWN)):
        places = "; ".join(
            f"{place.file} row {place.row}, {place.column}: {place.kind} {place.masked}" for place in found
        )
        raise AgentRolloutsError(
            f"nothing was sent: the audit found what must not leave: {places}"
            f"{'; and perhaps more' if len(found) == _SHOWN else ''}. Distil with redaction, or look there"
        )
    for config in build.configs:
        files = build.of(config)
        _refuse_leaks(config, leaks(files, by=build.by(by)) if len(files) > 1 else [])


def _check_readable(name: str, path: Path) -> None:
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise AgentRolloutsError(f"{name} cannot be read, and nothing was sent: {_line(str(error))}") from None
    if not rows:  # datasets would not load it
        raise AgentRolloutsError(f"{name} has no rows, and nothing was sent; leave the split out")


def _refuse_leaks(config: str, found: Sequence[Leak]) -> None:
    if found:
        told = "; ".join(
            f"{' and '.join(leak.splits)} share {leak.evidence} in {leak.rows} row(s), as "
            + " and ".join(leak.examples[0])
            for leak in found[:_SHOWN]
        )
        raise AgentRolloutsError(f"nothing was sent: splits of config {config} are not apart: {told}")


def _findings(build: Build, options: dict[str, Any]) -> Iterator[Place]:
    yield from _in_text(_CARD, build.readme, options)
    for name, path in build.files.items():
        if _is_parquet(name):
            places: Iterable[Place] = audit_files([path], **options)
        elif name.endswith(".jsonl"):
            places = _in_lines(path, options)
        else:
            places = _in_text(name, path.read_text(encoding="utf-8", errors="replace"), options)
        for place in places:
            yield place._replace(file=name)


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
    for number, line in enumerate(text.splitlines()):
        for found in find(line, **options):
            yield Place(name, number, "text", found.kind, masked(line[found.start : found.end]))


# The repository


class _Head(NamedTuple):
    """What a revision holds: of each file its size, and the hash by which the Hub knows its content."""

    commit: str
    private: bool
    files: Mapping[str, tuple[int, str]]
    card: str


class _Repository:
    """A repository of a dataset on the Hub, as its owner sees it."""

    def __init__(self, repo_id: str, token: str | None, revision: str | None, private: bool) -> None:
        # Imported late, since the package imports us.
        from agent_rollouts import __version__

        self.token = token
        self.api = HfApi(token=token, library_name="agent-rollouts", library_version=__version__)
        self.id, self.revision, self.private = repo_id, revision or "main", private

    @property
    def url(self) -> str:
        return f"{self.api.endpoint}/datasets/{self.id}"

    def head(self, *, create: bool) -> _Head | None:
        """What is there now; None where nothing is and nothing is to be made."""
        if "/" not in self.id:
            self.id = f"{self.api.whoami()['name']}/{self.id}"
        try:
            info = self.api.repo_info(self.id, repo_type=_TYPE)
        except RepositoryNotFoundError:
            if not create:
                return None
            self.api.create_repo(self.id, repo_type=_TYPE, private=self.private, exist_ok=True)
            info = self._created()
        if self.private and not info.private:
            raise AgentRolloutsError(
                f"{self.url} is public, and nothing was sent; say that it may be public, or make it private there first"
            )
        if self.revision != "main":
            try:
                info = self.api.repo_info(self.id, repo_type=_TYPE, revision=self.revision)
            except RevisionNotFoundError:
                if self.revision.startswith("refs/"):
                    raise AgentRolloutsError(f"{self.url} has no revision {self.revision}") from None
                if create:
                    self.api.create_branch(self.id, repo_type=_TYPE, branch=self.revision, exist_ok=True)
                    info = self.api.repo_info(self.id, repo_type=_TYPE, revision=self.revision)
        return self._read(str(info.sha), bool(info.private))

    def _created(self) -> Any:
        try:
            return self.api.repo_info(self.id, repo_type=_TYPE)
        except RepositoryNotFoundError:
            raise AgentRolloutsError(
                f"{self.id} is taken, and the token may not see it; choose another name or another token"
            ) from None

    def _read(self, commit: str, private: bool) -> _Head:
        files = {
            entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in self.api.list_repo_tree(self.id, repo_type=_TYPE, revision=commit, recursive=True)
            if isinstance(entry, RepoFile)
        }
        text = self.path(_CARD, commit).read_bytes().decode("utf-8", "replace") if _CARD in files else ""
        return _Head(commit, private, files, text)

    def path(self, name: str, commit: str) -> Path:
        """A file of a commit, in the cache of the Hub's client."""
        return Path(self.api.hf_hub_download(self.id, name, repo_type=_TYPE, revision=commit))

    def commit(self, operations: list[Any], message: str, parent: str, create_pr: bool) -> tuple[str, str]:
        """One commit on top of `parent`: what it is called, and where it is to be seen."""
        revision = None if self.revision == "main" else self.revision
        try:
            done = self.api.create_commit(
                self.id, operations, commit_message=message, repo_type=_TYPE, parent_commit=parent,
                create_pr=create_pr, revision=revision,
            )  # fmt: skip
        except _ERRORS:
            raise
        except (RuntimeError, ValueError) as error:  # how the client wraps what happened to an upload
            if isinstance(error.__cause__, _ERRORS):
                raise error.__cause__ from None
            raise OSError(str(error)) from None
        return str(done.oid), str(done.pr_url or self.url)


# The push


class _Push:
    def __init__(
        self, build: Build, stamps: Mapping[Path, Any], repository: _Repository, create_pr: bool, by: tuple[str, ...]
    ) -> None:
        self.build, self.stamps, self.repository, self.create_pr, self.by = build, stamps, repository, create_pr, by
        self.hashes: dict[Path, tuple[str, str]] = {}
        self.checked: set[str] = set()

    def run(self, message: str, dry_run: bool) -> Published:
        for attempt in range(_ATTEMPTS):
            try:
                return self._try(message, dry_run)
            except _ERRORS as error:
                self._give_up(error, attempt)
        raise AssertionError  # the last attempt raises

    def _give_up(self, error: BaseException, attempt: int) -> None:
        """Wait before the next attempt, if what happened passes.

        Raises:
            AgentRolloutsError: it does not, or there were enough attempts.
        """
        broken = isinstance(error, _HTTPError) and not isinstance(error, HfHubHTTPError)
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        # Whether a pull request was opened before the connection broke is not known; a second would be.
        if attempt + 1 == _ATTEMPTS or not (status in _PASSING or (broken and not self.create_pr)):
            raise AgentRolloutsError(_scrubbed(_refusal(error, self.repository), self.repository.token)) from None
        asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
        wait = float(asked) if asked.isdecimal() else 0.25 * 2**attempt * random.uniform(0.5, 1.5)
        time.sleep(min(wait, _LONGEST_WAIT))

    def _try(self, message: str, dry_run: bool) -> Published:
        repository = self.repository
        head = repository.head(create=not dry_run)
        operations, uploaded, deleted, unchanged = self._plan(head)
        private = head.private if head else None
        if dry_run or not operations:
            commit = None if dry_run or head is None else head.commit
            return Published(repository.url, commit, private, uploaded, deleted, unchanged, dry_run)
        assert head is not None
        if self.build.stamps() != self.stamps:
            raise AgentRolloutsError(f"{self.build.folder} has changed while it was checked, and nothing was sent")
        commit, url = repository.commit(operations, message, head.commit, self.create_pr)
        return Published(url, commit, private, uploaded, deleted, unchanged)

    def _plan(self, head: _Head | None) -> tuple[list[Any], dict[str, int], tuple[str, ...], tuple[str, ...]]:
        """What makes the revision hold the dataset."""
        theirs = head.files if head else {}
        stays, goes = self._sides(head)
        self._check_stays(head, stays)
        kept = {
            config: sum(theirs[name][0] for names in splits.values() for name in names)
            for config, splits in stays.items()
        }
        text = card.merge(head.card if head else "", self.build.readme, kept).encode()
        operations: list[Any] = []
        uploaded, unchanged = {}, []
        for name, path in self.build.files.items():
            if name in theirs and theirs[name][1] in self._hashes(path):
                unchanged.append(name)
                continue
            operations.append(CommitOperationAdd(name, str(path)))
            operations[-1].upload_info.sha256 = bytes.fromhex(self._hashes(path)[0])
            uploaded[name] = path.stat().st_size
        if head is None or text.decode() != head.card:
            operations.append(CommitOperationAdd(_CARD, text))
            uploaded[_CARD] = len(text)
        operations += [CommitOperationDelete(name, is_folder=False) for name in goes]
        return operations, uploaded, goes, tuple(unchanged)

    def _sides(self, head: _Head | None) -> tuple[dict[str, dict[str, list[str]]], tuple[str, ...]]:
        """Files on the Hub that stay, by config and split beside those of ours; and ours of old, which go.

        Raises:
            AgentRolloutsError: a file of ours would become part of something else, or the other way round.
        """
        if head is None:
            return {}, ()
        theirs = card.patterns(head.card)
        if not theirs and "default" in self.build.configs:  # as push_to_hub wrote before cards had configs
            theirs = {"default": {split: (f"data/{split}-*",) for split in self.build.configs["default"]}}
        stays: dict[str, dict[str, list[str]]] = {}
        others: dict[str, tuple[str, ...]] = {}
        old: list[str] = []
        for config, splits in theirs.items():
            for split, names in splits.items():
                if split in self.build.configs.get(config, {}):
                    old += [*names, _lines_of(config, split)]
                    continue
                others[f"{config}/{split}"] = names
                if config in self.build.configs:
                    found = [name for name in head.files if card.matches(name, names)]
                    stays.setdefault(config, {})[split] = found
        for name in self.build.files:
            if part := next((part for part, names in others.items() if card.matches(name, names)), None):
                raise AgentRolloutsError(
                    f"{name} would become part of {part}, which is on the Hub already; choose a config name of its own"
                )
        kept = list(chain.from_iterable(others.values()))
        left = [name for name in head.files if name not in self.build.files and name != _CARD]
        goes = [name for name in left if card.matches(name, old) and not card.matches(name, kept)]
        ours = [name for splits in self.build.configs.values() for names in splits.values() for name in names]
        if strange := [name for name in left if card.matches(name, ours) and name not in goes]:
            raise AgentRolloutsError(
                f"{strange[0]} on the Hub would become part of this dataset; choose a config name, or remove it there"
            )
        return stays, tuple(goes)

    def _check_stays(self, head: _Head | None, stays: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Hold splits that stay on the Hub against those to be pushed: they must share nothing, either."""
        for config, splits in stays.items():
            for split, names in splits.items():
                files = {head.files[name][1]: name for name in names if head and _is_parquet(name)}
                if not head or not set(files) - self.checked:
                    continue
                paths = [self.repository.path(name, head.commit) for name in files.values()]
                for mine, shards in self.build.of(config).items():
                    _refuse_leaks(config, leaks({mine: shards, f"{split} (on the Hub)": paths}, by=self.by))
                self.checked |= set(files)

    def _hashes(self, path: Path) -> tuple[str, str]:
        """The hashes by which the Hub knows a file: SHA-256 of a large one, git's of another."""
        if path not in self.hashes:
            sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
            with path.open("rb") as file:
                while data := file.read(1 << 20):
                    sha256.update(data)
                    git.update(data)
            self.hashes[path] = sha256.hexdigest(), git.hexdigest()
        return self.hashes[path]


# Refusals


def _refusal(error: BaseException, repository: _Repository) -> str:
    """One line that says what the Hub refuses and what to do."""
    name = repository.id
    again = "the dataset on disk is whole, run the same command again"
    if isinstance(error, LocalTokenNotFoundError):
        return "the Hub wants a token: run `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so nothing can be pushed to {name}"
    if isinstance(error, HFValidationError):
        return f"{name!r} is no name of a dataset on the Hub: wanted user/name"
    if not isinstance(error, HfHubHTTPError):
        if isinstance(error, _HTTPError):
            return f"{repository.api.endpoint} cannot be reached ({type(error).__name__}); {again}"
        return f"the upload to {name} failed: {_line(str(error))}; {again}"
    status, said = error.response.status_code, _line(error.server_message or "")
    told = f" ({said})" if said else ""
    if isinstance(error, GatedRepoError):
        return f"{name} is gated, and the token has no access{told}: ask for it at {repository.url}"
    if status == 401:
        return f"the Hub does not accept the token{told}: run `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"the token may not write to {name}{told}: use one with write access, or another name"
    if isinstance(error, RepositoryNotFoundError):
        return f"{name} cannot be found with this token{told}"
    if status in (402, 413, 507):
        return f"there is no space for {name} on the Hub{told}; {again} when there is"
    if status in (409, 412):
        return f"others keep changing {name}{told}; {again}"
    if status == 429:
        return f"the Hub has had too many requests{told}; {again} later"
    return f"the Hub answered {status} for {name}{told}; {again if status >= 500 else 'nothing was changed'}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _scrubbed(text: str, token: str | None) -> str:
    """The text without any token."""
    known = token
    with suppress(Exception):
        known = known or get_token()
    text = text.replace(known, "…") if known else text
    return _TOKENS.sub("…", text)
