"""The redactor: what was found in one row is replaced in all of it, by placeholders that agree in all rows."""

from __future__ import annotations

import hashlib
import os
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from agent_rollouts.distill.redact.escapes import ALNUM, decoded, encoded, starts_word
from agent_rollouts.distill.redact.judging import is_wordy
from agent_rollouts.distill.redact.personal import is_distinctive
from agent_rollouts.distill.redact.rows import Row, walk_row
from agent_rollouts.distill.redact.rules import RULES, denied, shipped
from agent_rollouts.distill.redact.scan import spans_named
from agent_rollouts.distill.redact.spans import Span, settled
from agent_rollouts.errors import AgentRolloutsError

Key: TypeAlias = "tuple[str, str | None]"

_VERSION = "1"  # of the code beside the rules
_PASSES = 8
_PERSONAL = frozenset({"USER", "EMAIL", "IP", "HOST"})


class Redactor:
    """Redacts rows so that a value has one placeholder in all rows that it sees.

    Args:
        pii: home folders, e-mail and public IP addresses.
        hosts: names of machines in private domains (`db1.corp`, `x.internal`).
        deny: the user's own words, replaced wherever they stand as whole words, in any case.
        state: what an earlier run saved (`Redactor.state`); numbers go on from there.
    """

    def __init__(
        self,
        *,
        pii: bool = True,
        hosts: bool = False,
        deny: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.pii, self.hosts, self.deny = pii, hosts, denied(tuple(deny))
        self._words = tuple(deny)
        if state is None:
            state = {"salt": secrets.token_hex(16), "numbers": {}, "values": {}}
        try:
            self._salt = bytes.fromhex(state["salt"])
            self._numbers: Counter[str] = Counter(state["numbers"])
            self._values: dict[str, str] = dict(state["values"])
        except (KeyError, TypeError, ValueError):
            raise AgentRolloutsError("this is no state of a redactor; remove it to begin with new numbers") from None

    @property
    def policy(self) -> str:
        """Version of rules, code and options."""
        return policy(pii=self.pii, hosts=self.hosts, deny=self._words)

    @property
    def state(self) -> dict[str, Any]:
        """What a later run needs to go on: salted hashes and their placeholders, no value in clear.

        Short values (a user name, an address) could be guessed by whoever has it: keep it as private as the logs.
        """
        return {"salt": self._salt.hex(), "numbers": dict(self._numbers), "values": dict(self._values)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that only its owner may read."""
        new = f"{os.fspath(path)}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(self.state, option=orjson.OPT_INDENT_2))
        os.replace(new, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Redactor:
        """A redactor that goes on from a saved state, or begins anew where there is no file.

        Raises:
            AgentRolloutsError: the file holds something else.
        """
        try:
            state = orjson.loads(Path(path).read_bytes())
        except FileNotFoundError:
            state = None
        except ValueError:
            raise AgentRolloutsError(f"{path} is no state of a redactor; remove it to begin with new numbers") from None
        return cls(**options, state=state)

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """The text redacted, and how many of each kind were replaced."""
        pass_ = Pass(self)
        pass_.note(text, None)
        pass_.scan()
        return pass_.replace(text, None), dict(pass_.counts)

    def row(self, row: Row) -> dict[str, Any]:
        """The row with every text redacted; messages, tools and the like may be objects or their JSON text."""
        pass_ = Pass(self)
        walk_row(row, pass_.note)
        pass_.scan()
        found = walk_row(row, pass_.replace)
        return {**found, "redactions": dict(sorted(pass_.counts.items())), "redaction_policy": self.policy}

    def placeholder(self, kind: str, value: bytes) -> str:
        """What stands for a value: the one that it has, or a new one of this kind."""
        if kind in ("EMAIL", "HOST", "DENIED"):
            value = value.lower()
        name = hashlib.blake2b(
            value, key=self._salt, digest_size=12, person=kind[:16].encode() if kind in _PERSONAL else b""
        ).hexdigest()
        if name not in self._values:
            self._numbers[kind] += 1
            number = self._numbers[kind]
            if kind == "USER":
                self._values[name] = "user" if number == 1 else f"user{number}"
            else:
                self._values[name] = f"[{kind}_{number}]"
        return self._values[name]


def policy(*, pii: bool = True, hosts: bool = False, deny: Sequence[str] = ()) -> str:
    """Version of rules, code and options; rows of another version may be redacted anew.

    Of the deny list only its length is in it: a hash of few words could be guessed.
    """
    options = [name for name, on in (("pii", pii), ("hosts", hosts), (f"deny={len(deny)}", bool(deny))) if on]
    return "+".join([f"{_VERSION}.{_digest()}", *options])


@lru_cache(1)
def _digest() -> str:
    return hashlib.sha256(RULES.read_bytes()).hexdigest()[:12]


class Pass:
    """One text or row: what was found in it, so that it is replaced wherever else it stands."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self.counts: Counter[str] = Counter()
        self.known: dict[bytes, str] = {}
        self.texts: dict[Key, None] = {}
        self.found: dict[Key, list[Span]] = {}

    def note(self, text: str, context: str | None) -> str:
        """Remember a text to be scanned."""
        self.texts[text, context] = None
        return text

    def scan(self) -> None:
        """Look through all that was noted."""
        redactor = self.redactor
        texts = Texts(self.texts)
        self.found = texts.spans(redactor.pii, redactor.hosts, redactor.deny)
        self.learn()
        for value in self.known:
            for key in texts.holding(value):
                self.found.setdefault(key, [])

    def learn(self) -> None:
        """Remember the values that were found."""
        for (text, _), spans in self.found.items():
            self._learn(encoded(text), spans)

    def replace(self, text: str, context: str | None) -> str:
        """The text with placeholders, looked through again until nothing more is found."""
        spans = self.found.get((text, context))
        if spans is None:
            return text
        data = before = encoded(text)
        for number in range(_PASSES):
            if number:
                redactor = self.redactor
                spans = spans_named(data, context, redactor.pii, redactor.hosts, redactor.deny)
            spans = settled([*spans, *self._again(data)])
            if not spans:
                break
            self._learn(data, spans)
            data = self._put(data, spans)
        return text if data == before else decoded(data)

    def _learn(self, data: bytes, spans: list[Span]) -> None:
        for span in spans:
            value = data[span.start : span.end]
            if span.kind == "USER":
                if is_distinctive(value):
                    self.known.setdefault(value, span.kind)
                    # As Claude Code names a project's folder.
                    self.known.setdefault(value.replace(b".", b"-").replace(b"_", b"-"), span.kind)
            elif span.kind not in _PERSONAL and len(value) >= 8 and not is_wordy(value):
                self.known.setdefault(value, span.kind)

    def _again(self, data: bytes) -> list[Span]:
        spans = []
        for value, kind in self.known.items():
            at = data.find(value)
            while at >= 0:
                end = at + len(value)
                if starts_word(data, at) and (end == len(data) or data[end] not in ALNUM):
                    spans.append(Span(at, end, kind, 9))
                at = data.find(value, end)
        return spans

    def _put(self, data: bytes, spans: list[Span]) -> bytes:
        parts = []
        at = 0
        for span in spans:
            value = data[span.start : span.end]
            if span.kind == "USER" and b"-" in value:  # a folder's name says the same of someone known
                value = next((name for name in self.known if _folder_name(name) == value and name != value), value)
            parts += [data[at : span.start], self.redactor.placeholder(span.kind, value).encode()]
            self.counts[span.kind] += 1
            at = span.end
        return b"".join([*parts, data[at:]])


class Texts:
    """Texts (each with what names it), one behind the other, so that one scan tells which need a closer look."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = list(keys)
        parts = [encoded(text) for text, _ in self.keys]
        self.data = b"\0".join(parts)
        self.starts = list(accumulate((len(part) + 1 for part in parts), initial=0))

    def spans(self, pii: bool, hosts: bool, deny: Any) -> dict[Key, list[Span]]:
        """What is found, by text; only those with something."""
        gated = deny is None and not hosts
        wanted = self._hits(shipped().any.search) if gated else range(len(self.keys))
        named = (index for index, (_, context) in enumerate(self.keys) if context is not None)
        found = {}
        for index in sorted({*wanted, *named}):
            data = self.data[self.starts[index] : self.starts[index + 1] - 1]
            if spans := spans_named(data, self.keys[index][1], pii, hosts, deny):
                found[self.keys[index]] = spans
        return found

    def holding(self, value: bytes) -> Iterator[Key]:
        """Texts that hold a value."""
        at = self.data.find(value)
        while at >= 0:
            index = bisect_right(self.starts, at) - 1
            yield self.keys[index]
            at = self.data.find(value, self.starts[index + 1])

    def _hits(self, search: Callable[[bytes, int], Any]) -> Iterator[int]:
        match = search(self.data, 0)
        while match is not None:
            index = bisect_right(self.starts, match.start()) - 1
            yield index
            match = search(self.data, self.starts[index + 1]) if index + 1 < len(self.keys) else None


def _folder_name(name: bytes) -> bytes:
    return name.replace(b".", b"-").replace(b"_", b"-")
