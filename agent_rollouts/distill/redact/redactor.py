"""The redactor: what was found in one row is replaced in all of it, by placeholders that agree in all rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from agent_rollouts.distill.redact.numbers import Numbers, mark_of, marked, name_of
from agent_rollouts.distill.redact.passes import Pass
from agent_rollouts.distill.redact.rows import Row, parts_of, walk_part
from agent_rollouts.distill.redact.rules import RULES, denied
from agent_rollouts.distill.redact.scan import Scope

_VERSION = "3"  # of the code beside the rules


class Redactor:
    """Redacts rows so that a value has one placeholder in all rows that it sees.

    Args:
        pii: home folders, e-mail and public IP addresses.
        hosts: names of machines in private domains (`db1.corp`, `x.internal`).
        deny: the user's own words, replaced wherever they stand as whole words, in any case.
        state: what an earlier run saved (`Redactor.state`); numbers go on from there.
        part: `Numbers.salt`, where these rows are a part of a dataset: marks take the place of placeholders until
            `final_numbers` (see `numbers.py`), and `found` tells of what.
    """

    def __init__(
        self,
        *,
        pii: bool = True,
        hosts: bool = False,
        deny: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
        part: bytes | None = None,
    ) -> None:
        self.policy = policy(pii=pii, hosts=hosts, deny=deny)
        """Version of rules, code and options."""
        self._scope = Scope(pii, hosts, denied(tuple(deny)))
        self._numbers = Numbers(state)
        self._salt = part or self._numbers.salt
        self._mark = mark_of(part) if part else None
        self._found: dict[tuple[str, str], int] = {}

    @property
    def found(self) -> list[tuple[str, str]]:
        """Of a part: kind and keyed hash of each value, in order of first appearance; for `Numbers.add`."""
        return list(self._found)

    @property
    def state(self) -> dict[str, Any]:
        """What a later run needs to go on (`Numbers.state`): no value in clear, yet as private as the logs."""
        return self._numbers.state

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that only its owner may read."""
        self._numbers.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Redactor:
        """A redactor that goes on from a saved state, or begins anew where there is no file.

        Raises:
            AgentRolloutsError: the file holds something else.
        """
        return cls(**options, state=Numbers.load(path).state)

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """The text redacted, and how many of each kind were replaced."""
        pass_ = Pass(self._scope, self.name)
        pass_.note(text, None)
        pass_.run()
        return pass_.replace(text, None, self.placeholder), dict(pass_.counts)

    def row(self, row: Row) -> dict[str, Any]:
        """The row with every text redacted; messages, tools and the like may be objects or their JSON text."""
        pass_ = Pass(self._scope, self.name)
        parts = []
        for column, value in parts_of(row):
            parts.append((column, value, pass_.noted(column, value)))
        pass_.run()

        def replace(text: str, context: str | None) -> str:
            return pass_.replace(text, context, self.placeholder)

        found = dict(row)
        if messages := found.get("messages"):
            found["messages"] = messages = []
        for column, value, keys in parts:
            new = walk_part(column, value, replace) if pass_.touched(keys) else value
            if column == "messages" and messages is not None:
                messages.append(new)
            else:
                found[column] = new
        return {**found, "redactions": dict(sorted(pass_.counts.items())), "redaction_policy": self.policy}

    def name(self, kind: str, value: bytes) -> str:
        """The keyed hash of a value."""
        return name_of(kind, value, self._salt)

    def placeholder(self, kind: str, name: str) -> str:
        """What stands for the value of this name, or marks where that will stand."""
        if self._mark is None:
            return self._numbers.placeholder(kind, name)
        return marked(self._mark, self._found.setdefault((kind, name), len(self._found)))


def policy(*, pii: bool = True, hosts: bool = False, deny: Sequence[str] = ()) -> str:
    """Version of rules, code and options; rows of another version may be redacted anew.

    Of the deny list only its length is in it: a hash of few words could be guessed.
    """
    options = [name for name, on in (("pii", pii), ("hosts", hosts), (f"deny={len(deny)}", bool(deny))) if on]
    return "+".join([f"{_VERSION}.{_digest()}", *options])


@lru_cache(1)
def _digest() -> str:
    return hashlib.sha256(RULES.read_bytes()).hexdigest()[:12]
