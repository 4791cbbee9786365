"""Sessions of a dataset on the Hub, in a repository of their own beside it, `REPO-sessions`, which its viewer shows.

`datasets` reads all configs of a repository as its first one is read, so that JSON Lines cannot lie beside Parquet
there. What lies here follows the dataset: it is changed after it, one commit for one, and holds nothing that was
revoked there. The manifest says of each file to what it belongs, so that none is fetched for that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from agent_rollouts import card
from agent_rollouts.distill.sessions import LINKS, SESSIONS, header
from agent_rollouts.errors import AgentRolloutsError, SessionsError
from agent_rollouts.hub import manifest
from agent_rollouts.hub.again import is_stale
from agent_rollouts.hub.finished import CARD
from agent_rollouts.hub.repository import Head, Repository, digests, hashes, tried
from agent_rollouts.hub.revocation import belongs_to

SUFFIX = "-sessions"
_TEXT = """# Sessions of {place}

Whole sessions of coding agents, of which the rows of [{place}]({url}) were made, one a file, for the trace viewer. They
are redacted as those rows are, and in the Hub's session format (STS). To train on them take the dataset.

Made with `agent-rollouts distill --with-sessions`; what is revoked there (`agent-rollouts revoke NAME --repo {place}`)
goes from here, too.
"""


@dataclass(frozen=True)
class Change:
    """What is to become of the sessions of some configs.

    Attributes:
        files: sessions by their path, to be added or to take the place of what is there.
        configs: the configs of the dataset that they are of.
        is_whole: whether all others of these configs go.
        gone: paths of sessions that go.
        revoked: tombstones besides those of the dataset.
        license: of the dataset.
        policy: sessions that were redacted by an earlier one go, too, since only rows are redacted anew.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    configs: Sequence[str] = ()
    is_whole: bool = False
    gone: Collection[str] = ()
    policy: str | None = None
    revoked: frozenset[str] = frozenset()
    license: str | None = None


class Changed(NamedTuple):
    """What was sent, or would be: bytes by file, and files that went; `stale` of them for their redaction."""

    repo_id: str
    commit: str | None
    uploaded: Mapping[str, int]
    deleted: tuple[str, ...]
    stale: int


class Sessions(Repository):
    """The repository beside that of a dataset."""

    def __init__(self, dataset: Repository, private: bool) -> None:
        revision = None if dataset.revision == "main" else dataset.revision
        super().__init__(f"{dataset.id}{SUFFIX}", dataset.token, revision, private)
        self.dataset = dataset

    def change(
        self,
        change: Change,
        message: str,
        *,
        is_private: bool = True,
        dry_run: bool = False,
    ) -> Changed | None:
        """One commit that makes it so; None where there is nothing, and nothing to come.

        Args:
            is_private: whether the repository is, where it is made.
        """
        head = self.head(create=False) if self._is_there() else None
        if head is None and not change.files:
            return None
        if head is None and not dry_run:
            self.private = self.private or is_private
            head = self.head(create=True)
        beside = self.dataset.head(create=False)
        operations, changed = self._plan(change, head, self.dataset.manifest(beside).tombstones | change.revoked)
        if dry_run or not operations or head is None:
            return changed
        commit, _ = self.commit(operations, message, head.commit, create_pr=False)
        return changed._replace(commit=commit)

    def _is_there(self) -> bool:
        return self.revision == "main" or self.api.revision_exists(self.id, self.revision, repo_type="dataset")

    def _plan(self, change: Change, head: Head | None, tombstones: frozenset[str]) -> tuple[list[Any], Changed]:
        theirs = head.files if head else {}
        known = self.manifest(head)
        ours = {name: said for name, said in known.files.items() if name in theirs}
        new = {name: _described(path, change.configs, ours.get(name, {})) for name, path in change.files.items()}
        stale = sum(_lags(said, change) for said in new.values())
        new = {name: said for name, said in new.items() if not _is_gone(said, tombstones) and not _lags(said, change)}
        goes, left = set(), dict(new)
        for name, said in ours.items():
            if name in new:
                continue
            others = sorted(set(said["configs"]) - set(change.configs))
            lags = _lags(said, change)
            if _is_gone(said, tombstones) or lags or name in change.gone or (change.is_whole and not others):
                goes.add(name)
                stale += lags
            elif change.is_whole:
                left[name] = {**said, "configs": others}
        whole = replace(known, files={**{name: said for name, said in ours.items() if name not in goes}, **left})
        text = self._card(head.card if head else "", change.license)
        texts = {manifest.PATH: whole.dump(), CARD: text.encode()}
        operations: list[Any] = []
        uploaded = {}
        for name in new:
            if name not in theirs or theirs[name][1] not in hashes(change.files[name]):
                operations.append(CommitOperationAdd(name, str(change.files[name])))
                uploaded[name] = change.files[name].stat().st_size
        if not (head is None or ours or new):  # nothing of ours is there
            return [], Changed(self.id, head.commit, {}, (), 0)
        for name, data in texts.items():
            if name not in theirs or theirs[name][1] not in digests(data):
                operations.append(CommitOperationAdd(name, data))
                uploaded[name] = len(data)
        operations += [CommitOperationDelete(name, is_folder=False) for name in sorted(goes)]
        return operations, Changed(self.id, head.commit if head else None, uploaded, tuple(sorted(goes)), stale)

    def _card(self, old: str, license: str | None) -> str:
        files = [{"split": "train", "path": f"{SESSIONS}/*.jsonl"}]
        data: dict[str, Any] = {"configs": [{"config_name": SESSIONS, "data_files": files}], "tags": ["agent-rollouts"]}
        if license is not None:
            data["license"] = license
        text = _TEXT.format(place=self.dataset.place, url=self.dataset.url)
        new = f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n{card.BEGIN}\n{text}{card.END}\n"
        return card.merge(old, new, {})


def finish(dataset: Repository, change: Change, message: str, private: bool, is_private: bool) -> Changed | None:
    """Change the sessions of a dataset that was pushed.

    Raises:
        SessionsError: they are as they were; one line says why, and what to do.
    """
    there = Sessions(dataset, private and bool(change.files))
    try:
        return tried(lambda: there.change(change, message, is_private=is_private), there)
    except AgentRolloutsError as error:
        raise SessionsError(
            f"{dataset.id} is pushed, but its sessions are not: {error}; running the same command again finishes it"
        ) from None


def told(changed: Changed | None) -> tuple[str, ...]:
    """What the user should know of a change."""
    if changed is None or not changed.stale:
        return ()
    return (
        f"{changed.stale} session(s) of {changed.repo_id} were redacted by an earlier policy and go; only rows are "
        "redacted anew (--rebuild brings back those whose files are here)",
    )


def _described(path: Path, configs: Sequence[str], old: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a session."""
    said = header(path)
    names = [said[name] for name in LINKS if isinstance(said.get(name), str)]
    return {
        "sha256": hashes(path)[0],
        "names": sorted(belongs_to(names)),
        "policy": said.get("redaction_policy"),
        "configs": sorted({*configs, *old.get("configs", ())}),
    }


def _is_gone(said: Mapping[str, Any], tombstones: frozenset[str]) -> bool:
    return not tombstones.isdisjoint(said["names"])


def _lags(said: Mapping[str, Any], change: Change) -> bool:
    """Whether a session lacks what the policy takes out of those of its config."""
    if change.policy is None or not set(said["configs"]) & set(change.configs):
        return False
    return said["policy"] is None or is_stale(said["policy"], change.policy)
