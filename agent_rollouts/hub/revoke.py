"""Revoking: rows of traces and families out of a dataset on the Hub, for good."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from agent_rollouts import card
from agent_rollouts.distill.state import digest
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import manifest
from agent_rollouts.hub.bucket import is_bucket, place
from agent_rollouts.hub.finished import CARD, FUNNEL, OPTIONS, placed
from agent_rollouts.hub.repository import Head, Repository, hashes, tried
from agent_rollouts.hub.revocation import Removal, find_rows, revoked
from agent_rollouts.hub.sessions import Change, Sessions
from agent_rollouts.hub.telling import REVOKED, retold, together


@dataclass(frozen=True)
class Revoked:
    """What was taken out, or would be.

    Attributes:
        rows: by file the number of rows that went.
        related: rows that stay, of families from which rows went: they may repeat their turns.
        sessions: how many sessions went from the repository beside it.
        notices: what the user should know, each one sentence.
    """

    url: str
    commit: str | None
    rows: Mapping[str, int]
    related: int = 0
    sessions: int = 0
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
    message = commit_message or f"Revoke {len(names)} trace(s) or families with agent-rollouts"
    tombstones = frozenset(map(digest, names))
    with tempfile.TemporaryDirectory(prefix="agent-rollouts-") as folder:
        room = Path(folder)
        repository = place(repo_id, token, revision, False, room)
        found = tried(lambda: _revoke(repository, tombstones, message, dry_run, room), repository)
    notices = []
    if not is_bucket(repository.place) and not repository.revision.startswith("refs/"):
        found = replace(found, sessions=_sessions(repository, tombstones, message, dry_run, erase_history))
    if found.sessions:
        where = f"from {repository.id}-sessions"
        notices.append(f"{found.sessions} session(s) {'would go' if dry_run else 'are gone'} {where}, too")
    if not found.rows:
        notices.append("no row of it is there; none will be in what is pushed later")
    if found.related:
        notices.append(f"{found.related} row(s) of the same families stay and may repeat it; revoke the family as well")
    if erase_history and not dry_run:
        tried(repository.erase_history, repository)
        notices.append("other branches and pull requests are as they were")
    elif found.rows:
        notices.append(
            "earlier commits, other branches and pull requests still hold the rows, unless history is erased"
        )
    return replace(found, notices=tuple(notices))


def _sessions(
    repository: Repository, tombstones: frozenset[str], message: str, dry_run: bool, erase_history: bool
) -> int:
    """Take the sessions out of the repository beside it; how many went."""
    there = Sessions(repository, private=False)
    try:
        changed = tried(lambda: there.change(Change(revoked=tombstones), message, dry_run=dry_run), there)
        if changed is not None and erase_history and not dry_run:
            tried(there.erase_history, there)
    except AgentRolloutsError as error:
        raise AgentRolloutsError(
            f"the rows are gone from {repository.id}, but not its sessions: {error}; running the same command again "
            "finishes it"
        ) from None
    return len(changed.deleted) if changed else 0


def _revoke(repository: Repository, tombstones: frozenset[str], message: str, dry_run: bool, room: Path) -> Revoked:
    head = repository.head(create=False)
    if head is None:
        raise AgentRolloutsError(f"{repository.id} cannot be found with this token")
    known = repository.manifest(head)
    configs = card.patterns(head.card)
    removal = find_rows(configs, head.files, lambda name: repository.parquet(name, head.commit), revoked(tombstones))
    rows = {name: len(removal.rows[name]) for name in removal.parts}
    found = Revoked(repository.url, None if dry_run else head.commit or None, rows, removal.related, dry_run=dry_run)
    if dry_run or (not rows and tombstones <= known.tombstones):
        return found
    cut = removal.cut(lambda name: repository.path(name, head.commit), Path(tempfile.mkdtemp(dir=room)))
    new = repository.new_names({name: path for name, path in cut.items() if path is not None})
    left = {new[name]: path for name, path in cut.items() if path is not None}
    gone = set(cut) - set(left)
    files = {name: manifest.describe(path, hashes(path)[0]) for name, path in left.items()}
    # A family may get another name when a longer version is read; its traces keep theirs.
    traces = {digest(trace) for trace, family in removal.traces if trace and family and digest(family) in tombstones}
    known = replace(known.with_files(files, gone), tombstones=known.tombstones | tombstones | traces)
    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in left.items()]
    operations += [CommitOperationDelete(name, is_folder=False) for name in sorted(gone)]
    operations.append(CommitOperationAdd(manifest.PATH, known.dump()))
    if rows:
        text = card.with_files(head.card, card.replaced(configs, {name: new.get(name) for name in cut}))
        text, accounts = _told(card.shrunk(text, removal.shrinkage), removal, repository, head)
        operations.append(CommitOperationAdd(CARD, text.encode()))
        operations += [CommitOperationAdd(name, data) for name, data in accounts.items()]
    commit, url = repository.commit(operations, message, head.commit, create_pr=False)
    return replace(found, commit=commit or None, url=url)


def _told(text: str, removal: Removal, repository: Repository, head: Head) -> tuple[str, dict[str, bytes]]:
    """The card and accounts of the datasets that lose rows."""
    accounts: dict[str, bytes] = {}
    for config, count in removal.by_config.items():
        name = config if placed(FUNNEL, config) in head.files else None
        funnel, options = placed(FUNNEL, name), placed(OPTIONS, name)
        if funnel not in head.files or options not in head.files or funnel in accounts:
            continue
        data = together(repository.path(funnel, head.commit).read_bytes(), None, {REVOKED: count})
        if data is not None:
            accounts[funnel] = data
        configs = [config] if name else [one for one in card.patterns(text) if placed(FUNNEL, one) not in head.files]
        options_text = repository.path(options, head.commit).read_bytes()
        text = retold(text, configs, data, options_text, repository.place, name)
    return text, accounts
