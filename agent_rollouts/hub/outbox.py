"""Sessions on their way: kept beside the key from before a push until they are known to be on the Hub.

A run that adds what is new reads it once; were they not kept, sessions whose commit failed after that of the dataset
would not be made again. They are as private as the key, and no more than what is to be sent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from agent_rollouts import card
from agent_rollouts.distill.sessions import SESSIONS, audit
from agent_rollouts.distill.state import digest
from agent_rollouts.hub.finished import CARD
from agent_rollouts.hub.repository import Repository
from agent_rollouts.hub.sessions import Change, Changed, finish


class Outbox:
    """A folder of sessions, and what is to become of them, for one revision and config."""

    def __init__(self, key: Path, repository: Repository, config_name: str | None) -> None:
        self.repository, self.config_name = repository, config_name
        name = digest(f"{repository.place}@{repository.revision}/{config_name or ''}")[:12]
        self.folder = Path(f"{key}.{name}.sessions")
        self._about = self.folder / "change.json"

    def put(self, dataset: Path, shapes: Sequence[str], gone: Sequence[str], state: str, *, is_whole: bool) -> None:
        """Keep the sessions of a finished dataset; `state` tells whether its push came to its end."""
        self.clear()
        self.folder.mkdir(mode=0o700, parents=True)
        if (dataset / SESSIONS).is_dir():
            shutil.copytree(dataset / SESSIONS, self.folder / SESSIONS)
        configs = [self.config_name] if self.config_name else list(shapes)
        license = card.fields((dataset / CARD).read_text(encoding="utf-8")).get("license")
        said = {"state": state, "sent": False, "configs": configs, "is_whole": is_whole, "gone": gone}
        self._write({**said, "license": license})

    def mark(self) -> None:
        """Note that the dataset was pushed."""
        if self._about.exists():
            self._write({**orjson.loads(self._about.read_bytes()), "sent": True})

    def clear(self) -> None:
        """Forget what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def send(
        self, state: str | None, policy: str | None, about: Mapping[str, Any], private: bool, is_private: bool
    ) -> tuple[Changed | None, tuple[str, ...]]:
        """Send what is in it, where its dataset is on the Hub; what was changed there, and what the user should know.

        Args:
            state: what the dataset on the Hub is now.
            policy, about: of redaction; sessions that hold what it would take out stay behind.

        Raises:
            SessionsError: the Hub refuses.
        """
        if not self._about.exists():
            return None, ()
        said = orjson.loads(self._about.read_bytes())
        changed, notices = None, []
        if said["sent"] or said["state"] == state:
            files = {f"{SESSIONS}/{path.name}": path for path in sorted((self.folder / SESSIONS).glob("*.jsonl"))}
            clean = {name: path for name, path in files.items() if next(audit(path, **about), None) is None}
            if len(clean) < len(files):
                notices.append(f"{len(files) - len(clean)} session(s) of the last run hold what must not leave now")
            # Where others have pushed since, the rest is theirs.
            is_whole = said["is_whole"] and said["state"] == state
            change = Change(
                clean, said["configs"], is_whole, gone=said["gone"], policy=policy, license=said["license"]
            )  # fmt: skip
            message = "Publish sessions with agent-rollouts"
            changed = finish(self.repository, change, message, private, is_private)
        self.clear()
        return changed, tuple(notices)

    def _write(self, said: Mapping[str, Any]) -> None:
        new = self._about.with_suffix(".new")
        new.write_bytes(orjson.dumps(said))
        os.replace(new, self._about)
