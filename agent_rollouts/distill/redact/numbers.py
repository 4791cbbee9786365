"""The numbers of placeholders: dataset-wide, from run to run, and put together from parts that are redacted apart.

    numbers = Numbers()                                   # one for the dataset
    redactor = Redactor(part=numbers.salt)                # one for each part, in whatever process
    rows = [redactor.row(row) for row in part]            # texts hold marks where placeholders will stand
    final = numbers.add(redactor.found)                   # the parts in order
    text = final_numbers(text, final)                     # of all that was written of that part

The text is the same as that of one `Redactor` over all rows in order. No value leaves a part: what `found` and a
saved state hold of it is a hash (BLAKE2b, 12 bytes) under a random key, `salt`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, AnyStr, NamedTuple

import orjson

from agent_rollouts.errors import AgentRolloutsError

PERSONAL = frozenset({"USER", "EMAIL", "IP", "HOST"})
_CASELESS = frozenset({"EMAIL", "HOST", "DENIED"})
_EDGE = "\ufdd0"  # a noncharacter: no text means anything by it


class Final(NamedTuple):
    """The placeholders of one part: what `final_numbers` puts in for its marks."""

    mark: str
    placeholders: tuple[str, ...]


class Numbers:
    """Placeholders of a dataset: what stands for a value, by the value's hash.

    Args:
        state: what an earlier run saved (`Numbers.state`); numbers go on from there.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        if state is None:
            state = {"salt": secrets.token_hex(16), "numbers": {}, "values": {}}
        try:
            self.salt = bytes.fromhex(state["salt"])
            self._numbers: Counter[str] = Counter(state["numbers"])
            self._values: dict[str, str] = dict(state["values"])
        except (KeyError, TypeError, ValueError):
            raise AgentRolloutsError("this is no state of a redactor; remove it to begin with new numbers") from None

    @property
    def state(self) -> dict[str, Any]:
        """What a later run needs to go on: keyed hashes and their placeholders, no value in clear.

        The key is in it. Short values (a user name, an address) could be guessed by whoever has it: keep it as
        private as the logs.
        """
        return {"salt": self.salt.hex(), "numbers": dict(self._numbers), "values": dict(self._values)}

    @property
    def highest(self) -> dict[str, int]:
        """The highest number of each kind."""
        return dict(self._numbers)

    def begin_above(self, highest: Mapping[str, int]) -> None:
        """Give new values numbers above these, so that none stands for two."""
        for kind, number in highest.items():
            self._numbers[kind] = max(self._numbers[kind], number)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that only its owner may read."""
        new = f"{os.fspath(path)}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(self.state, option=orjson.OPT_INDENT_2))
        os.replace(new, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Numbers:
        """Numbers that go on from a saved state, or begin anew where there is no file.

        Raises:
            AgentRolloutsError: the file holds something else.
        """
        try:
            return cls(orjson.loads(Path(path).read_bytes()))
        except FileNotFoundError:
            return cls()
        except (ValueError, AgentRolloutsError):
            raise AgentRolloutsError(f"{path} is no state of a redactor; remove it to begin with new numbers") from None

    def placeholder(self, kind: str, name: str) -> str:
        """What stands for the value of this name: what it has, or a new number of this kind."""
        if name not in self._values:
            self._numbers[kind] += 1
            self._values[name] = numbered(kind, self._numbers[kind])
        return self._values[name]

    def add(self, found: Iterable[tuple[str, str]]) -> Final:
        """The placeholders of a part, from its `Redactor.found`; parts are added in their order."""
        return Final(mark_of(self.salt), tuple(self.placeholder(kind, name) for kind, name in found))


def final_numbers(text: AnyStr, final: Final) -> AnyStr:
    """A text or JSON text (or its UTF-8) of a part, with placeholders in the place of its marks."""
    if isinstance(text, bytes):
        mark = final.mark.encode()
        if mark not in text:
            return text
        return b"".join(_filled(text.split(mark), _EDGE.encode(), [name.encode() for name in final.placeholders]))
    if final.mark not in text:
        return text
    return "".join(_filled(text.split(final.mark), _EDGE, final.placeholders))


def _filled(parts: list[AnyStr], edge: AnyStr, placeholders: Iterable[AnyStr]) -> Iterable[AnyStr]:
    names = list(placeholders)
    yield parts[0]
    for part in parts[1:]:
        number, _, rest = part.partition(edge)
        yield names[int(number)]
        yield rest


def numbered(kind: str, number: int) -> str:
    """A placeholder: `[EMAIL_2]`; for names of home folders `user`, `user2`, …"""
    if kind == "USER":
        return "user" if number == 1 else f"user{number}"
    return f"[{kind}_{number}]"


def name_of(kind: str, value: bytes, salt: bytes) -> str:
    """The keyed hash of a value; personal data is told apart by kind, a secret is the same one by whatever rule."""
    value = value.lower() if kind in _CASELESS else value
    person = kind.encode() if kind in PERSONAL else b""
    return hashlib.blake2b(value, key=salt, digest_size=12, person=person).hexdigest()


def mark_of(salt: bytes) -> str:
    """How a mark of this dataset begins. It follows from the key, so that no source text can hold one."""
    return _EDGE + hashlib.blake2b(b"mark", key=salt, digest_size=8).hexdigest() + ":"


def marked(mark: str, number: int) -> str:
    """The mark of the value that was found as the one with this number, from 0."""
    return f"{mark}{number}{_EDGE}"
