"""The redactor: what was found in one row is replaced in all of it, by placeholders that agree in all rows."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

from agent_rollouts.distill.redact.escapes import ALNUM, decoded, encoded, starts_word
from agent_rollouts.distill.redact.judging import is_wordy
from agent_rollouts.distill.redact.numbers import PERSONAL, Numbers, mark_of, marked, name_of, numbered
from agent_rollouts.distill.redact.personal import is_distinctive
from agent_rollouts.distill.redact.rows import Row, walk_row
from agent_rollouts.distill.redact.rules import RULES, denied, shipped
from agent_rollouts.distill.redact.scan import spans_named
from agent_rollouts.distill.redact.spans import Span, settled

Key: TypeAlias = "tuple[str, str | None]"

_VERSION = "1"  # of the code beside the rules
_PASSES = 8


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
        self.pii, self.hosts, self.deny = pii, hosts, denied(tuple(deny))
        self._words = tuple(deny)
        self._numbers = Numbers(state)
        self._salt = part or self._numbers.salt
        self._mark = mark_of(part) if part else None
        self._found: dict[tuple[str, str], int] = {}

    @property
    def policy(self) -> str:
        """Version of rules, code and options."""
        return policy(pii=self.pii, hosts=self.hosts, deny=self._words)

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


class _Placed(NamedTuple):
    start: int
    end: int
    kind: str
    name: str


class Pass:
    """One text or row: what was found in it, so that it is replaced wherever else it stands."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self.counts: Counter[str] = Counter()
        self.known: dict[bytes, str] = {}
        self.texts: dict[Key, None] = {}
        self.found: dict[Key, list[Span]] = {}
        self._numbers: Counter[str] = Counter()
        self._placeholders: dict[str, tuple[str, bytes]] = {}

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
        data = encoded(text)
        placed: list[_Placed] = []
        for number in range(_PASSES):
            if number:
                redactor = self.redactor
                spans = spans_named(data, context, redactor.pii, redactor.hosts, redactor.deny)
            spans = settled([*spans, *self._again(data)])
            if not spans:
                break
            self._learn(data, spans)
            data, placed = self._put(data, spans, placed)
        return self._numbered(data, placed) if placed else text

    def _learn(self, data: bytes, spans: list[Span]) -> None:
        for span in spans:
            value = data[span.start : span.end]
            if span.kind == "USER":
                if is_distinctive(value):
                    self.known.setdefault(value, span.kind)
                    # As Claude Code names a project's folder.
                    self.known.setdefault(value.replace(b".", b"-").replace(b"_", b"-"), span.kind)
            elif span.kind not in PERSONAL and len(value) >= 8 and not is_wordy(value):
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

    def _put(self, data: bytes, spans: list[Span], placed: list[_Placed]) -> tuple[bytes, list[_Placed]]:
        """The text with this row's own placeholders, and where all of them are.

        What is found next hangs on the row alone, so that a dataset is the same however it is cut into parts.
        """
        stay = [old for old in placed if all(old.end <= span.start or old.start >= span.end for span in spans)]
        parts: list[bytes] = []
        at = length = 0
        now = []
        items: list[Span | _Placed] = [*spans, *stay]
        for item in sorted(items, key=lambda item: item.start):
            if isinstance(item, Span):
                name = self.redactor.name(item.kind, self._value(data, item, placed))
                self.counts[item.kind] += 1
            else:
                name = item.name
            kind, text = self._own(item.kind, name)
            parts += [data[at : item.start], text]
            length += item.start - at
            now.append(_Placed(length, length + len(text), kind, name))
            length += len(text)
            at = item.end
        return b"".join([*parts, data[at:]]), now

    def _value(self, data: bytes, span: Span, placed: list[_Placed]) -> bytes:
        value = self._named(data, span.start, span.end, placed)
        if span.kind == "USER" and b"-" in value:  # a folder's name says the same of someone known
            return next((name for name in self.known if _folder_name(name) == value and name != value), value)
        return value

    def _named(self, data: bytes, start: int, end: int, placed: list[_Placed]) -> bytes:
        """A value; for placeholders in it the names of what they stand for, which are the same in every row."""
        parts = []
        for old in placed:
            if start <= old.start and old.end <= end:
                parts += [data[start : old.start], old.name.encode()]
                start = old.end
        return b"".join([*parts, data[start:end]])

    def _own(self, kind: str, name: str) -> tuple[str, bytes]:
        if name not in self._placeholders:
            self._numbers[kind] += 1
            self._placeholders[name] = kind, numbered(kind, self._numbers[kind]).encode()
        return self._placeholders[name]

    def _numbered(self, data: bytes, placed: list[_Placed]) -> str:
        parts = []
        at = 0
        for old in placed:
            parts += [decoded(data[at : old.start]), self.redactor.placeholder(old.kind, old.name)]
            at = old.end
        return "".join([*parts, decoded(data[at:])])


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
