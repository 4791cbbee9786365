"""A repository of a dataset on the Hub: its head, a commit on top of it, and what the Hub refuses in one line."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow.parquet as pq
from huggingface_hub import HfApi, HfFileSystem, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import manifest
from agent_rollouts.hub.finished import CARD, Finished
from agent_rollouts.hub.manifest import Manifest

_TYPE = "dataset"
_ATTEMPTS, _LONGEST_WAIT = 12, 20.0
# What passes: conflicts with another publisher, too many requests, and the server's own troubles.
_PASSING = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
# httpx's or httpx2's, as the installed huggingface_hub has it; also of connections that broke.
_HTTPError: type[Exception] = HfHubHTTPError.__mro__[1]
_ERRORS = (_HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, HFValidationError, OSError)
_TOKENS = re.compile(r"hf_\w{8,}|Bearer \S+|(?<=[?&])X-Amz-[^\s'\"]*")


_AGAIN = "the dataset on disk is whole, run the same command again"


class Overtaken(OSError):
    """Somebody else was faster, where the Hub does not tell."""


class Head(NamedTuple):
    """What a revision holds: of each file its size, and the hash by which the Hub knows its content."""

    commit: str
    private: bool
    files: Mapping[str, tuple[int, str]]
    card: str


class Repository:
    """A repository of a dataset on the Hub, as its owner sees it."""

    def __init__(self, repo_id: str, token: str | None, revision: str | None, private: bool) -> None:
        # Imported late, since the package imports us.
        from agent_rollouts import __version__

        self.token = token
        self.api = HfApi(token=token, library_name="agent-rollouts", library_version=__version__)
        self.id, self.revision, self.private = repo_id, revision or "main", private

    @property
    def url(self) -> str:
        """Where it is to be seen."""
        return f"{self.api.endpoint}/datasets/{self.id}"

    @property
    def place(self) -> str:
        """What `load_dataset` is given."""
        return self.id

    def resolve(self) -> None:
        """Find out whose it is, where that was not said."""
        if "/" not in self.id:
            self.id = f"{self.api.whoami()['name']}/{self.id}"

    def head(self, *, create: bool) -> Head | None:
        """What is there now; None where nothing is and nothing is to be made."""
        self.resolve()
        try:
            info = self.api.repo_info(self.id, repo_type=_TYPE)
        except RepositoryNotFoundError:
            if not create:
                return None
            self.api.create_repo(self.id, repo_type=_TYPE, private=self.private, exist_ok=True)
            info = self._created()
        self._check_private(bool(info.private))
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

    def _check_private(self, is_private: bool) -> None:
        if self.private and not is_private:
            raise AgentRolloutsError(
                f"{self.url} is public, and nothing was sent; say that it may be public, or make it private there first"
            )

    def _created(self) -> Any:
        try:
            return self.api.repo_info(self.id, repo_type=_TYPE)
        except RepositoryNotFoundError:
            raise AgentRolloutsError(
                f"{self.id} is taken, and the token may not see it; choose another name or another token"
            ) from None

    def _read(self, commit: str, private: bool) -> Head:
        files = self._files(commit)
        text = self.path(CARD, commit).read_bytes().decode("utf-8", "replace") if CARD in files else ""
        return Head(commit, private, files, text)

    def _files(self, commit: str) -> dict[str, tuple[int, str]]:
        return {
            entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in self.api.list_repo_tree(self.id, repo_type=_TYPE, revision=commit, recursive=True)
            if isinstance(entry, RepoFile)
        }

    def path(self, name: str, commit: str) -> Path:
        """A file of a commit, in the cache of the Hub's client."""
        try:
            return Path(self.api.hf_hub_download(self.id, name, repo_type=_TYPE, revision=commit))
        except LocalEntryNotFoundError as error:  # the client looks in its cache when the Hub does not answer
            raise (error.__cause__ if isinstance(error.__cause__, _ERRORS) else error) from None

    def parquet(self, name: str, commit: str) -> pq.ParquetFile:
        """A Parquet file of a commit, of which only what is asked for is fetched."""
        return pq.ParquetFile(self.remote.open(f"datasets/{self.id}@{commit}/{name}"))

    @property
    def remote(self) -> HfFileSystem:
        """All files of the Hub, as they are now."""
        return HfFileSystem(endpoint=self.api.endpoint, token=self.token, skip_instance_cache=True)

    def manifest(self, head: Head | None) -> Manifest:
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

    def new_names(self, files: Mapping[str, Path]) -> dict[str, str]:
        """What files are called when their content is new; the same, since a commit takes their place at once."""
        return {name: name for name in files}

    def named(self, dataset: Finished) -> Finished:
        """The dataset with files as they are called here."""
        return dataset

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
            said = f"the upload to {self.id} failed: {_line(str(error))}; {_AGAIN}"
            raise AgentRolloutsError(_scrubbed(said, self.token)) from None
        return str(done.oid), str(done.pr_url or self.url)


def hashes(path: Path) -> tuple[str, str]:
    """The hashes by which the Hub knows a file: SHA-256 of a large one, git's of another."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            sha256.update(data)
            git.update(data)
    return sha256.hexdigest(), git.hexdigest()


def digests(data: bytes) -> tuple[str, str]:
    """The hashes by which the Hub knows content, as `hashes`."""
    return hashlib.sha256(data).hexdigest(), hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# Attempts


_T = TypeVar("_T")


def tried(attempt: Callable[[], _T], repository: Repository, *, is_repeatable: bool = True) -> _T:
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
            status = answer.status_code if answer is not None else 0
            passes = status in _PASSING or isinstance(error, Overtaken)
            if number + 1 == _ATTEMPTS or not (passes or (is_broken and is_repeatable)):
                raise AgentRolloutsError(_scrubbed(_refusal(error, repository), repository.token)) from None
            asked = answer.headers.get("Retry-After", "") if answer is not None else ""
        wait = float(asked) if asked.isdecimal() else 0.25 * 2**number * random.uniform(0.5, 1.5)
        time.sleep(min(wait, _LONGEST_WAIT))
    raise AssertionError  # the last attempt raises


# Refusals


def _refusal(error: BaseException, repository: Repository) -> str:
    """One line that says what the Hub refuses and what to do."""
    name = repository.id
    again = _AGAIN
    if isinstance(error, Overtaken):
        return f"others keep changing {name}; {again}"
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
