"""Pushing a finished dataset: what makes a revision hold it, as one commit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from agent_rollouts import card
from agent_rollouts.distill.sessions import name_of
from agent_rollouts.distill.splits import leaks
from agent_rollouts.distill.state import FOLDER
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import manifest
from agent_rollouts.hub.append import Append, is_done, joined
from agent_rollouts.hub.bucket import is_bucket, place
from agent_rollouts.hub.finished import (
    CARD,
    FUNNEL,
    OPTIONS,
    STATES,
    Finished,
    check,
    is_parquet,
    opened,
    placed,
    refuse_leaks,
)
from agent_rollouts.hub.repository import Head, Repository, digests, hashes, tried
from agent_rollouts.hub.revocation import find_rows
from agent_rollouts.hub.revocation import revoked as gone_of
from agent_rollouts.hub.sessions import Change, Changed, Sessions, finish, told
from agent_rollouts.hub.telling import retold


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
        sessions: the same of the repository of its sessions; None where there is none.
        notices: what the user should know, each one sentence.
    """

    url: str
    commit: str | None
    private: bool | None
    uploaded: Mapping[str, int] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    revoked: int = 0
    dry_run: bool = False
    sessions: Changed | None = None
    notices: tuple[str, ...] = ()

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
    append: Append | None = None,
) -> Published:
    """Push a finished dataset to the Hub in one commit, once it has been found to hold no secret and no leak.

    Its sessions, where it has any, follow in one commit to the repository beside it (see `hub.sessions`).

    Args:
        source: a folder that `agent-rollouts distill` wrote, or a dataset with its splits.
        repo_id: `user/name` (of oneself: `name`), or `buckets/user/name/path`.
        private: whether a new repository is; one that is there is never changed, and refused if it is public.
        token: instead of the one that `hf auth login` keeps.
        revision: branch or pull request (`refs/pr/1`); a branch that is not there is made.
        create_pr: open a pull request.
        config_name: another name for the config; only of a dataset with one.
        dry_run: only tell what would be sent.
        pii, hosts, deny: what the audit looks for, see `redact.Redactor`.
        by: the evidence of which splits may share none; that of `splits.json` or all.
        append: add the folder to what is there; else its splits take the place of those there.

    Raises:
        MovedError: what is there is not what is to be appended to.
        SessionsError: the dataset was pushed, and its sessions were not.
        AgentRolloutsError: a secret or leak was found, or the Hub refuses; the message is one line.
    """
    with opened(source) as folder, tempfile.TemporaryDirectory(prefix="agent-rollouts-") as room:
        adds = append is not None and not append.is_first
        dataset = Finished.read(folder, config_name, may_be_empty=adds)
        stamps = dataset.stamps()
        check(dataset, pii=pii, hosts=hosts, deny=deny, by=by)
        if append is not None and is_bucket(repo_id):
            raise AgentRolloutsError(f"{repo_id} is in a bucket, which has no commits; nothing can be added there")
        place_revision = "a pull request" if create_pr and is_bucket(repo_id) else revision
        repository = place(repo_id, token, place_revision, private, Path(room))
        push = _Push(dataset, stamps, repository, create_pr, dataset.by(by), Path(room), append)
        message = commit_message or f"Publish {', '.join(dataset.configs)} with agent-rollouts"
        change = _change(dataset, append, repository, create_pr)
        if dataset.sessions:  # what is refused there is so before anything is sent
            tried(repository.resolve, repository)
            beside = Sessions(repository, private)
            tried(lambda: beside.head(create=False), beside)
        published = tried(lambda: push.run(message, dry_run), repository, is_repeatable=not create_pr)
        if change is None:
            return published
        push.check_unchanged()
        if dry_run:
            beside = Sessions(repository, private)
            changed = tried(lambda: beside.change(change, message, dry_run=True), beside)
        else:
            is_private = private if published.private is None else published.private
            changed = finish(repository, change, message, private, is_private)
        return replace(published, sessions=changed, notices=told(changed))


def _change(dataset: Finished, append: Append | None, repository: Repository, create_pr: bool) -> Change | None:
    """What is to become of the sessions beside a dataset.

    Raises:
        AgentRolloutsError: there can be none where it goes.
    """
    if is_bucket(repository.place) or create_pr or repository.revision.startswith("refs/"):
        if dataset.sessions:
            raise AgentRolloutsError(
                f"sessions go to a branch of a repository alone, and nothing was sent to {repository.place}; leave "
                "--with-sessions or the pull request out"
            )
        return None
    adds = append is not None and not append.is_first
    if not (dataset.sessions or adds or dataset.beside(OPTIONS)):  # what was not distilled says nothing of sessions
        return None
    redactor = append.redactor if append else None
    return Change(
        dataset.sessions,
        dataset.own,
        is_whole=not adds,
        gone=frozenset(name_of(*row[:3]) for row in append.replaced) if append else (),
        policy=redactor.policy if redactor else None,
        license=card.fields(dataset.readme).get("license"),
    )


class _Push:
    def __init__(
        self, dataset: Finished, stamps: Mapping[Path, Any], repository: Repository, create_pr: bool,
        by: tuple[str, ...], room: Path, append: Append | None,
    ) -> None:  # fmt: skip
        self.dataset, self.stamps, self.repository, self.create_pr, self.by = dataset, stamps, repository, create_pr, by
        self.room, self.append = room, append
        self.hashes: dict[Path, tuple[str, str]] = {}
        self.described: dict[Path, dict[str, Any]] = {}
        self.checked: set[str] = set()

    def run(self, message: str, dry_run: bool) -> Published:
        repository = self.repository
        head = repository.head(create=not dry_run)
        operations, published = self._plan(head)
        published = replace(published, url=repository.url, dry_run=dry_run)
        if dry_run or not operations:
            return replace(published, commit=None if dry_run or head is None else head.commit or None)
        assert head is not None
        self.check_unchanged()
        commit, url = repository.commit(operations, message, head.commit, self.create_pr)
        return replace(published, commit=commit or None, url=url)

    def check_unchanged(self) -> None:
        """Raise when the files are no longer those that were looked at."""
        if self.dataset.stamps() != self.stamps:
            raise AgentRolloutsError(f"{self.dataset.folder} has changed while it was checked, and nothing was sent")

    def _plan(self, head: Head | None) -> tuple[list[Any], Published]:
        """What makes the revision hold the dataset, without what was revoked there."""
        theirs = head.files if head else {}
        known = self.repository.manifest(head)
        private = head.private if head else None
        if self.append and is_done(self.append, self.dataset, head, self.dataset.config_name):
            return [], Published("", None, private)
        dataset, revoked = self._without(known.tombstones)
        base, kept = head.card if head else "", {}
        if self.append and head and not self.append.is_first:
            base, dataset, goes = joined(self.append, dataset, head, self.repository, known, self.room)
        else:
            dataset = self.repository.named(dataset)
            stays, goes = self._sides(dataset, head)
            self._check_stays(dataset, head, stays)
            kept = {
                config: sum(theirs[name][0] for name in chain.from_iterable(splits.values()))
                for config, splits in stays.items()
            }
        text = self._told(card.merge(base, dataset.readme, kept), dataset).encode()
        files = {name: self._described(path) for name, path in dataset.files.items()}
        texts = {CARD: text, manifest.PATH: known.with_files(files, goes).dump()}
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
            if name not in theirs or theirs[name][1] not in digests(data):
                operations.append(CommitOperationAdd(name, data))
                uploaded[name] = len(data)
        operations += [CommitOperationDelete(name, is_folder=False) for name in goes]
        return operations, Published("", None, private, uploaded, goes, tuple(unchanged), revoked)

    def _told(self, text: str, dataset: Finished) -> str:
        """The card, with what its files tell of the whole dataset."""
        funnel, options = (path.read_bytes() if path else None for path in map(dataset.beside, (FUNNEL, OPTIONS)))
        return retold(text, list(dataset.configs), funnel, options, self.repository.place, dataset.config_name)

    def _without(self, tombstones: frozenset[str]) -> tuple[Finished, int]:
        """The dataset without the rows of what was revoked, and how many these are."""
        files = self.dataset.files
        removal = find_rows(self.dataset.configs, files, lambda name: pq.ParquetFile(files[name]), gone_of(tombstones))
        if not removal.rows:
            return self.dataset, 0
        room = Path(tempfile.mkdtemp(dir=self.room))
        cut = removal.cut(lambda name: files[name], room)
        left = {name: path for name, path in {**files, **cut}.items() if path is not None}
        text = card.shrunk(self.dataset.readme, removal.shrinkage)
        configs = card.patterns(text)
        if not configs and (self.append is None or self.append.is_first):
            raise AgentRolloutsError(f"all rows of {self.dataset.folder} were revoked in {self.repository.id}")
        return replace(self.dataset, readme=text, files=left, configs=configs), removal.count

    def _described(self, path: Path) -> dict[str, Any]:
        if path not in self.described:
            self.described[path] = manifest.describe(path, self._hashes(path)[0])
        return self.described[path]

    def _sides(self, dataset: Finished, head: Head | None) -> tuple[dict[str, dict[str, list[str]]], tuple[str, ...]]:
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
        # What an earlier dataset knew of itself is not true of this one.
        states = {placed(f"{FOLDER}/{name}", dataset.config_name) for name in STATES}
        goes = [name for name in left if name in states or (card.matches(name, old) and not card.matches(name, kept))]
        ours = [name for splits in dataset.configs.values() for names in splits.values() for name in names]
        if strange := [name for name in left if card.matches(name, ours) and name not in goes]:
            raise AgentRolloutsError(
                f"{strange[0]} on the Hub would become part of this dataset; choose a config name, or remove it there"
            )
        return stays, tuple(goes)

    def _check_stays(self, dataset: Finished, head: Head | None, stays: Mapping[str, Mapping[str, list[str]]]) -> None:
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
            self.hashes[path] = hashes(path)
        return self.hashes[path]
