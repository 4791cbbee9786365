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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, get_token
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

from agent_rollouts import card, manifest
from agent_rollouts.distill.splits import leaks
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.finished import CARD, Finished, check, is_parquet, opened, refuse_leaks
from agent_rollouts.manifest import Manifest
from agent_rollouts.revocation import find_rows

_TYPE = "dataset"
_ATTEMPTS, _LONGEST_WAIT = 12, 20.0
# What passes: conflicts with another publisher, too many requests, and the server's own troubles.
_PASSING = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
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
        revoked: rows that were left out, since they were revoked there.
        dry_run: whether this is only what would be done.
    """

    url: str
    commit: str | None
    private: bool | None
    uploaded: Mapping[str, int] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    revoked: int = 0
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
    with opened(source) as folder, tempfile.TemporaryDirectory(prefix="agent-rollouts-") as room:
        dataset = Finished.read(folder, config_name)
        stamps = dataset.stamps()
        check(dataset, pii=pii, hosts=hosts, deny=deny, by=by)
        repository = _Repository(repo_id, token, revision, private)
        push = _Push(dataset, stamps, repository, create_pr, dataset.by(by), Path(room))
        message = commit_message or f"Publish {', '.join(dataset.configs)} with agent-rollouts"
        return _tried(lambda: push.run(message, dry_run), repository, is_repeatable=not create_pr)


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
        files = self._files(commit)
        text = self.path(CARD, commit).read_bytes().decode("utf-8", "replace") if CARD in files else ""
        return _Head(commit, private, files, text)

    def _files(self, commit: str) -> dict[str, tuple[int, str]]:
        return {
            entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in self.api.list_repo_tree(self.id, repo_type=_TYPE, revision=commit, recursive=True)
            if isinstance(entry, RepoFile)
        }

    def path(self, name: str, commit: str) -> Path:
        """A file of a commit, in the cache of the Hub's client."""
        return Path(self.api.hf_hub_download(self.id, name, repo_type=_TYPE, revision=commit))

    def parquet(self, name: str, commit: str) -> pq.ParquetFile:
        """A Parquet file of a commit, of which only what is asked for is fetched."""
        files = HfFileSystem(endpoint=self.api.endpoint, token=self.token)
        return pq.ParquetFile(files.open(f"datasets/{self.id}@{commit}/{name}"))

    def manifest(self, head: _Head | None) -> Manifest:
        """The manifest; an empty one where there is none."""
        if head is None or manifest.PATH not in head.files:
            return Manifest()
        return Manifest.parse(self.path(manifest.PATH, head.commit).read_bytes())

    def erase_history(self) -> None:
        """Make the head the only commit of the branch, and delete large files that no head holds any more."""
        self.api.super_squash_history(self.id, branch=self.revision, repo_type=_TYPE)
        refs = self.api.list_repo_refs(self.id, repo_type=_TYPE, include_pull_requests=True)
        heads = {ref.target_commit for ref in (*refs.branches, *refs.tags, *(refs.pull_requests or ()))}
        held = {oid for commit in heads for _, oid in self._files(commit).values()}
        every = self.api.list_lfs_files(self.id, repo_type=_TYPE)
        old = [file for file in every if file.oid not in held and file.file_oid not in held]
        self.api.permanently_delete_lfs_files(self.id, old, repo_type=_TYPE)

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
        self, dataset: Finished, stamps: Mapping[Path, Any], repository: _Repository, create_pr: bool,
        by: tuple[str, ...], room: Path,
    ) -> None:  # fmt: skip
        self.dataset, self.stamps, self.repository, self.create_pr, self.by = dataset, stamps, repository, create_pr, by
        self.room = room
        self.hashes: dict[Path, tuple[str, str]] = {}
        self.shards: dict[Path, dict[str, Any]] = {}
        self.checked: set[str] = set()

    def run(self, message: str, dry_run: bool) -> Published:
        repository = self.repository
        head = repository.head(create=not dry_run)
        operations, published = self._plan(head)
        published = replace(published, url=repository.url, dry_run=dry_run)
        if dry_run or not operations:
            return replace(published, commit=None if dry_run or head is None else head.commit)
        assert head is not None
        if self.dataset.stamps() != self.stamps:
            raise AgentRolloutsError(f"{self.dataset.folder} has changed while it was checked, and nothing was sent")
        commit, url = repository.commit(operations, message, head.commit, self.create_pr)
        return replace(published, commit=commit, url=url)

    def _plan(self, head: _Head | None) -> tuple[list[Any], Published]:
        """What makes the revision hold the dataset, without what was revoked there."""
        theirs = head.files if head else {}
        known = self.repository.manifest(head)
        dataset, revoked = self._without(known.tombstones)
        stays, goes = self._sides(dataset, head)
        self._check_stays(dataset, head, stays)
        kept = {
            config: sum(theirs[name][0] for name in chain.from_iterable(splits.values()))
            for config, splits in stays.items()
        }
        text = card.merge(head.card if head else "", dataset.readme, kept).encode()
        shards = {name: self._shard(path) for name, path in dataset.files.items() if is_parquet(name)}
        texts = {CARD: text, manifest.PATH: known.with_shards(shards, goes).dump()}
        operations: list[Any] = []
        uploaded, unchanged = {}, []
        for name, path in dataset.files.items():
            if name in theirs and theirs[name][1] in self._hashes(path):
                unchanged.append(name)
                continue
            operations.append(CommitOperationAdd(name, str(path)))
            operations[-1].upload_info.sha256 = bytes.fromhex(self._hashes(path)[0])
            uploaded[name] = path.stat().st_size
        for name, data in texts.items():
            if name not in theirs or theirs[name][1] not in _digests(data):
                operations.append(CommitOperationAdd(name, data))
                uploaded[name] = len(data)
        operations += [CommitOperationDelete(name, is_folder=False) for name in goes]
        private = head.private if head else None
        return operations, Published("", None, private, uploaded, goes, tuple(unchanged), revoked)

    def _without(self, tombstones: frozenset[str]) -> tuple[Finished, int]:
        """The dataset without the rows of what was revoked, and how many these are."""
        files = self.dataset.files
        removal = find_rows(self.dataset.configs, files, lambda name: pq.ParquetFile(files[name]), tombstones)
        if not removal.rows:
            return self.dataset, 0
        room = Path(tempfile.mkdtemp(dir=self.room))
        cut = removal.cut(lambda name: files[name], room)
        left = {name: path for name, path in {**files, **cut}.items() if path is not None}
        text = card.shrunk(self.dataset.readme, removal.shrinkage)
        configs = card.patterns(text)
        if not configs:
            raise AgentRolloutsError(f"all rows of {self.dataset.folder} were revoked in {self.repository.id}")
        return replace(self.dataset, readme=text, files=left, configs=configs), removal.count

    def _shard(self, path: Path) -> dict[str, Any]:
        if path not in self.shards:
            self.shards[path] = manifest.describe(path, self._hashes(path)[0])
        return self.shards[path]

    def _sides(self, dataset: Finished, head: _Head | None) -> tuple[dict[str, dict[str, list[str]]], tuple[str, ...]]:
        """Files on the Hub that stay, by config and split beside those of ours; and ours of old, which go.

        Raises:
            AgentRolloutsError: a file of ours would become part of something else, or the other way round.
        """
        if head is None:
            return {}, ()
        theirs = card.patterns(head.card)
        if not theirs and "default" in dataset.configs:  # as push_to_hub wrote before cards had configs
            theirs = {"default": {split: (f"data/{split}-*",) for split in dataset.configs["default"]}}
        stays: dict[str, dict[str, list[str]]] = {}
        others: dict[str, tuple[str, ...]] = {}
        old: list[str] = []
        for config, splits in theirs.items():
            for split, names in splits.items():
                if split in dataset.configs.get(config, {}):
                    old += [*names, card.lines_of(config, split)]
                    continue
                others[f"{config}/{split}"] = names
                if config in dataset.configs:
                    found = [name for name in head.files if card.matches(name, names)]
                    stays.setdefault(config, {})[split] = found
        for name in dataset.files:
            if part := next((part for part, names in others.items() if card.matches(name, names)), None):
                raise AgentRolloutsError(
                    f"{name} would become part of {part}, which is on the Hub already; choose a config name of its own"
                )
        kept = list(chain.from_iterable(others.values()))
        left = [name for name in head.files if name not in dataset.files and name != CARD]
        goes = [name for name in left if card.matches(name, old) and not card.matches(name, kept)]
        ours = [name for splits in dataset.configs.values() for names in splits.values() for name in names]
        if strange := [name for name in left if card.matches(name, ours) and name not in goes]:
            raise AgentRolloutsError(
                f"{strange[0]} on the Hub would become part of this dataset; choose a config name, or remove it there"
            )
        return stays, tuple(goes)

    def _check_stays(self, dataset: Finished, head: _Head | None, stays: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Hold splits that stay on the Hub against those to be pushed: they must share nothing, either."""
        for config, splits in stays.items():
            for split, names in splits.items():
                files = {head.files[name][1]: name for name in names if head and is_parquet(name)}
                if not head or not set(files) - self.checked:
                    continue
                paths = [self.repository.path(name, head.commit) for name in files.values()]
                for mine, shards in dataset.of(config).items():
                    refuse_leaks(config, leaks({mine: shards, f"{split} (on the Hub)": paths}, by=self.by))
                self.checked |= set(files)

    def _hashes(self, path: Path) -> tuple[str, str]:
        if path not in self.hashes:
            self.hashes[path] = _hashes(path)
        return self.hashes[path]


def _hashes(path: Path) -> tuple[str, str]:
    """The hashes by which the Hub knows a file: SHA-256 of a large one, git's of another."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            sha256.update(data)
            git.update(data)
    return sha256.hexdigest(), git.hexdigest()


def _digests(data: bytes) -> tuple[str, str]:
    return hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# Revoking


@dataclass(frozen=True)
class Revoked:
    """What was taken out, or would be.

    Attributes:
        rows: by file the number of rows that went.
        related: rows that stay, of families from which rows went: they may repeat their turns.
        notices: what the user should know, each one sentence.
    """

    url: str
    commit: str | None
    rows: Mapping[str, int]
    related: int = 0
    notices: tuple[str, ...] = ()
    dry_run: bool = False


def revoke(
    names: Sequence[str],
    repo_id: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    erase_history: bool = False,
    dry_run: bool = False,
) -> Revoked:
    """Take all rows of traces and families out of a dataset on the Hub, and keep them out of every later push.

    Args:
        names: `trace_id` (with all its windows and branches, and the sessions below it) or `family_id`.
        erase_history: earlier commits go, too, for everybody and for good; else they still hold the rows.

    Raises:
        AgentRolloutsError: nothing is there to be revoked, or the Hub refuses.
    """
    repository = _Repository(repo_id, token, revision, private=False)
    message = commit_message or f"Revoke {len(names)} trace(s) or families with agent-rollouts"
    tombstones = frozenset(map(manifest.digest, names))

    def attempt() -> Revoked:
        with tempfile.TemporaryDirectory(prefix="agent-rollouts-") as room:
            return _revoke(repository, tombstones, message, dry_run, Path(room))

    found = _tried(attempt, repository)
    notices = []
    if found.related:
        notices.append(f"{found.related} row(s) of the same families stay and may repeat it; revoke the family as well")
    if erase_history and not dry_run:
        _tried(repository.erase_history, repository)
        notices.append("other branches and pull requests are as they were")
    else:
        notices.append(
            "earlier commits, other branches and pull requests still hold the rows, unless history is erased"
        )
    return replace(found, notices=tuple(notices))


def _revoke(repository: _Repository, tombstones: frozenset[str], message: str, dry_run: bool, room: Path) -> Revoked:
    head = repository.head(create=False)
    if head is None:
        raise AgentRolloutsError(f"{repository.id} cannot be found with this token")
    known = repository.manifest(head)
    configs = card.patterns(head.card)
    removal = find_rows(configs, head.files, lambda name: repository.parquet(name, head.commit), tombstones)
    rows = {name: len(removal.rows[name]) for name in removal.parts}
    found = Revoked(repository.url, None if dry_run else head.commit, rows, removal.related, dry_run=dry_run)
    if dry_run or (not rows and tombstones <= known.tombstones):
        return found
    cut = removal.cut(lambda name: repository.path(name, head.commit), room)
    left = {name: path for name, path in cut.items() if path is not None}
    gone = set(cut) - set(left)
    shards = {name: manifest.describe(path, _hashes(path)[0]) for name, path in left.items() if is_parquet(name)}
    known = replace(known.with_shards(shards, gone), tombstones=known.tombstones | tombstones)
    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in left.items()]
    operations += [CommitOperationDelete(name, is_folder=False) for name in sorted(gone)]
    operations.append(CommitOperationAdd(manifest.PATH, known.dump()))
    if rows:
        operations.append(CommitOperationAdd(CARD, card.shrunk(head.card, removal.shrinkage).encode()))
    commit, url = repository.commit(operations, message, head.commit, create_pr=False)
    return replace(found, commit=commit, url=url)


# Attempts


_T = TypeVar("_T")


def _tried(attempt: Callable[[], _T], repository: _Repository, *, is_repeatable: bool = True) -> _T:
    """What an attempt gives, made again while what goes wrong passes.

    Args:
        is_repeatable: whether it may be made again when it is not known whether the Hub has done it.

    Raises:
        AgentRolloutsError: what went wrong does not pass, or there were enough attempts; one line says what it is.
    """
    for number in range(_ATTEMPTS):
        try:
            return attempt()
        except _ERRORS as error:
            answer = error.response if isinstance(error, HfHubHTTPError) else None
            is_broken = answer is None and isinstance(error, _HTTPError)
            passes = answer is not None and answer.status_code in _PASSING
            if number + 1 == _ATTEMPTS or not (passes or (is_broken and is_repeatable)):
                raise AgentRolloutsError(_scrubbed(_refusal(error, repository), repository.token)) from None
            asked = answer.headers.get("Retry-After", "") if answer is not None else ""
        wait = float(asked) if asked.isdecimal() else 0.25 * 2**number * random.uniform(0.5, 1.5)
        time.sleep(min(wait, _LONGEST_WAIT))
    raise AssertionError  # the last attempt raises


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
