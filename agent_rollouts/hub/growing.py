"""Distilling to the Hub: the first time all files, then what is new, added to the dataset that is there.

    distill_to_hub(files, Options(), "me/my-rollouts")

What was distilled is known by the state that lies in the repository; the key of its hashes, and what stands for which
secret, are known on this machine alone (`redaction_state`, as private as the logs). That file is written before a push
as `<file>.pending`, and takes its place when the push is known to be done: a placeholder that nobody saw may stand for
something else later, one that was published never does.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml
from filelock import FileLock

from agent_rollouts import card
from agent_rollouts.distill.funnel import Funnel
from agent_rollouts.distill.inputs import Files
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.redact import Numbers, Redactor
from agent_rollouts.distill.sessions import name_of
from agent_rollouts.distill.state import FOLDER, State, changed, key_of
from agent_rollouts.distill.write import Written, public_names, write_dataset
from agent_rollouts.errors import AgentRolloutsError, MovedError, SessionsError
from agent_rollouts.hub.again import stale_files
from agent_rollouts.hub.append import Append
from agent_rollouts.hub.bucket import is_bucket, place
from agent_rollouts.hub.finished import OPTIONS, STATE, STATES, placed
from agent_rollouts.hub.outbox import Outbox
from agent_rollouts.hub.push import Published, publish
from agent_rollouts.hub.repository import Head, Repository, tried
from agent_rollouts.hub.sessions import Changed, told

_ATTEMPTS = 8


class Distilled(NamedTuple):
    """What was distilled and pushed.

    Attributes:
        funnel: the account of the files that were read; None where nothing was new.
        added: whether it was added to a dataset that was there.
    """

    published: Published
    funnel: Funnel | None
    added: bool


def distill_to_hub(
    files: Iterable[str],
    options: Options,
    repo_id: str,
    *,
    output: Path | None = None,
    rebuild: bool = False,
    name_of: Callable[[str], str] = str,
    command: str = "agent_rollouts.hub.distill_to_hub",
    private: bool = True,
    dry_run: bool = False,
    revision: str | None = None,
    config_name: str | None = None,
    token: str | None = None,
    **more: Any,
) -> Distilled:
    """Distill files, and push what is new of them.

    Args:
        output: where a dataset that is pushed whole is left, too.
        rebuild: push all anew, in the place of what is there.
        more: as of `publish`, as are all that are not told here.

    Raises:
        AgentRolloutsError: as of `write_dataset` and `publish`; or what is there cannot be added to.
    """
    if not options.families:
        raise AgentRolloutsError(
            "what is new on the Hub is told by families; leave --no-families out, or push a folder"
        )
    paths = list(files)
    with tempfile.TemporaryDirectory(prefix="agent-rollouts-") as folder:
        room = Path(folder)
        repository = place(repo_id, token, revision, private, room)
        tried(repository.resolve, repository)
        options = _with_key(options, repository)
        push = dict(private=private, dry_run=dry_run, revision=revision, config_name=config_name, token=token, **more)
        run = _Growing(paths, {path: name_of(path) for path in paths}, options, repository, config_name, room)
        with _locked(run.key, dry_run):
            for _ in range(_ATTEMPTS):
                head = tried(lambda: repository.head(create=False), repository)
                with suppress(MovedError):
                    return run.once(head, rebuild, output, command, push)
    raise AgentRolloutsError(f"others keep adding to {repository.id}; nothing was lost, run the same command again")


def _with_key(options: Options, repository: Repository) -> Options:
    if not options.redact or options.redaction_state is not None or is_bucket(repository.place):
        return options
    # Written with ~, the options of the dataset are those of every machine.
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return replace(options, redaction_state=f"{home}/agent_rollouts/{repository.id.replace('/', '--')}.json")


def _locked(key: Path | None, dry_run: bool) -> Any:
    if key is None or dry_run:
        return nullcontext()
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileLock(f"{key}.lock", mode=0o600)


class _Growing:
    def __init__(
        self, paths: list[str], names: Mapping[str, str], options: Options, repository: Repository,
        config_name: str | None, room: Path,
    ) -> None:  # fmt: skip
        self.paths, self.names, self.options, self.repository = paths, names, options, repository
        self.config_name, self.room = config_name, room
        self.key = Path(options.redaction_state).expanduser() if options.redaction_state else None
        self.outbox = Outbox(self.key, repository, config_name) if self.key else None

    def once(
        self, head: Head | None, rebuild: bool, output: Path | None, command: str, push: dict[str, Any]
    ) -> Distilled:
        """One attempt, on top of a head."""
        options, dry_run = self.options, push["dry_run"]
        state = self._state(head)
        self._settle_pending(state, dry_run)
        sent, dropped = self._settle_outbox(head, state, push)
        numbers = self._numbers(state is not None and not rebuild, dry_run)
        earlier = None if rebuild else self._earlier(head, state, numbers)
        paths = self.paths
        if earlier is not None and head is not None:
            numbers.begin_above(earlier.numbers)
            paths = list(changed(paths, public_names(self._files(paths), options, numbers), earlier.sources))
            if not paths and not self._stale(head):
                done = Published(
                    self.repository.url, head.commit, head.private, dry_run=dry_run, sessions=sent, notices=dropped
                )
                return Distilled(done, None, True)
        with tempfile.TemporaryDirectory(dir=self.room) as folder:
            target = output if output is not None and earlier is None else Path(folder) / "dataset"
            written = write_dataset(
                self._files(paths), options, target, command=command, earlier=earlier, numbers=numbers
            )
            published = self._push(target, numbers, state, written if earlier is not None else None, rebuild, push)
        published = replace(published, notices=(*dropped, *published.notices))
        return Distilled(published, written.funnel, earlier is not None)

    def _push(
        self, folder: Path, numbers: Numbers, state: bytes | None, added: Written | None, rebuild: bool,
        push: dict[str, Any],
    ) -> Published:  # fmt: skip
        options = self.options
        about: dict[str, Any] = {"pii": options.pii, "hosts": options.redact_hosts, "deny": options.deny}
        redactor = Redactor(**about, state=numbers.state) if options.redact and added is not None else None
        append = None
        if added is not None or (self.key is not None and not rebuild and not is_bucket(self.repository.place)):
            append = Append(state or b"", added.replaced if added else (), redactor, is_first=added is None)
        new = folder / FOLDER / STATE
        if self.key is not None and not push["dry_run"]:
            self._keep(f"{self.key}.pending", {"state": _hash(new.read_bytes()), **numbers.state})
            if self.outbox and not is_bucket(self.repository.place):
                gone = [name_of(*row[:3]) for row in added.replaced] if added else []
                self.outbox.put(folder, options.shape, gone, _hash(new.read_bytes()), is_whole=added is None)
        try:
            published = publish(folder, self.repository.place, append=append, **about, **push)
        except SessionsError as error:
            if self.key is None:
                raise AgentRolloutsError(f"{error}, with --rebuild") from None
            self._take_over(redactor.state if redactor else numbers.state)
            raise
        if self.key is not None and not push["dry_run"]:
            self._take_over(redactor.state if redactor else numbers.state)
            if self.outbox:
                self.outbox.clear()
        return published

    def _take_over(self, state: Mapping[str, Any]) -> None:
        """Keep what the dataset is known to have been pushed with."""
        self._keep(str(self.key), state)
        Path(f"{self.key}.pending").unlink()
        if self.outbox:
            self.outbox.mark()

    def _files(self, paths: list[str]) -> Files:
        return Files(paths, self.options, self.names)

    def _state(self, head: Head | None) -> bytes | None:
        """The `state.json` that is there, beside which lies the rest, fetched."""
        name = placed(f"{FOLDER}/{STATE}", self.config_name)
        if head is None or name not in head.files or is_bucket(self.repository.place):
            return None
        folder = self.room / FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for part in STATES:
            if (there := placed(f"{FOLDER}/{part}", self.config_name)) in head.files:
                path = tried(lambda there=there: self.repository.path(there, head.commit), self.repository)  # type: ignore[misc]
                shutil.copyfile(path, folder / part)
        return (folder / STATE).read_bytes()

    def _earlier(self, head: Head | None, state: bytes | None, numbers: Numbers) -> State | None:
        """What is known of the dataset that is there; None where there is none.

        Raises:
            AgentRolloutsError: nothing can be added to it.
        """
        options, name = self.options, self.repository.place
        again = "or say --rebuild, which makes it anew of the files that are here"
        there = set(card.patterns(head.card)) if head else set()
        own = {self.config_name} if self.config_name else set(options.shape)
        made = placed(OPTIONS, self.config_name)
        if state is None:
            if both := sorted(there & own):
                raise AgentRolloutsError(
                    f"{name} has {', '.join(both)} already, and no state by which it could grow; choose another "
                    f"--config-name, {again}"
                )
            return None
        if self.key is None:
            raise AgentRolloutsError(f"{name} was redacted, and nothing was sent; leave --no-redact out, {again}")
        earlier = State.load(self.room)
        if earlier.key != key_of(numbers.salt):
            raise AgentRolloutsError(f"{self.key} is not the key of {name}; copy the one that is, {again}")
        if head and made in head.files and not self.config_name:
            path = tried(lambda: self.repository.path(made, head.commit), self.repository)
            there |= set(yaml.safe_load(path.read_bytes())["shape"])  # those without records, too
        if missing := sorted(own - there):
            raise AgentRolloutsError(
                f"{name} has no {', '.join(missing)}, and rows are only added; leave it out, {again}"
            )
        if bool(earlier.by) != (options.splits is not None):
            has = "has splits" if earlier.by else "has no splits"
            raise AgentRolloutsError(f"{name} {has}; give the same --splits as before, {again}")
        return earlier

    def _stale(self, head: Head) -> list[str]:
        """Files with rows of another redaction policy."""
        if not self.options.redact:
            return []
        options = self.options
        policy = Redactor(pii=options.pii, hosts=options.redact_hosts, deny=options.deny).policy
        own = {self.config_name} if self.config_name else set(options.shape)
        configs = {name: splits for name, splits in card.patterns(head.card).items() if name in own}
        return stale_files(self.repository.manifest(head), configs, head.files, policy)

    # The key

    def _numbers(self, must_be: bool, dry_run: bool) -> Numbers:
        """The placeholders so far, of a file that is begun where there may be none."""
        if self.key is None:
            return Numbers()
        if must_be and not self.key.exists():
            raise AgentRolloutsError(
                f"{self.repository.place} was made with a key that is not here: copy {self.key} from the machine that "
                "has it, or say --rebuild, which makes the dataset anew of the files that are here"
            )
        if not self.key.exists() and not dry_run:
            self._keep(str(self.key), {"salt": secrets.token_hex(16), "numbers": {}, "values": {}})
        return Numbers.load(self.key)

    def _settle_pending(self, state: bytes | None, dry_run: bool) -> None:
        """Take over what a push that did not come to its end has left, where what it sent is there."""
        pending = Path(f"{self.key}.pending")
        if self.key is None or dry_run or not pending.exists():
            return
        said = orjson.loads(pending.read_bytes())
        if state is not None and said["state"] == _hash(state):
            os.replace(pending, self.key)
        else:
            pending.unlink()

    def _settle_outbox(
        self, head: Head | None, state: bytes | None, push: Mapping[str, Any]
    ) -> tuple[Changed | None, tuple[str, ...]]:
        """Send the sessions of a dataset whose push did not come to its end; what was sent, and what to tell."""
        if self.outbox is None or head is None or push["dry_run"]:
            return None, ()
        options = self.options
        about: dict[str, Any] = {"pii": options.pii, "hosts": options.redact_hosts, "deny": options.deny}
        policy = Redactor(**about).policy if options.redact else None
        now = _hash(state) if state is not None else None
        sent, dropped = self.outbox.send(now, policy, about, push["private"], head.private)
        return sent, (*dropped, *told(sent))

    def _keep(self, path: str, state: Mapping[str, Any]) -> None:
        new = f"{path}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(state, option=orjson.OPT_INDENT_2))
        os.replace(new, path)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
