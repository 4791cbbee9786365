"""One row: what is found in any of its texts is replaced in all of them, until nothing more is found."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from agent_rollouts.distill.redact.escapes import ALNUM, decoded, encoded, starts_word
from agent_rollouts.distill.redact.judging import is_wordy
from agent_rollouts.distill.redact.numbers import PERSONAL, numbered
from agent_rollouts.distill.redact.personal import is_distinctive
from agent_rollouts.distill.redact.rows import Key, texts_of
from agent_rollouts.distill.redact.scan import Scope, look
from agent_rollouts.distill.redact.spans import Span, settled

_PASSES = 8


class _Placed(NamedTuple):
    start: int
    end: int
    kind: str
    name: str


class _Text:
    """A text on its way: its bytes, and the placeholders that stand in it."""

    def __init__(self, text: str) -> None:
        self.data = encoded(text)
        self.placed: list[_Placed] = []
        self.counts: Counter[str] = Counter()


class Pass:
    """The texts of one row.

    Placeholders have the row's own numbers until `replace`: what is found next hangs on the row alone, so that a
    dataset is the same however it is cut into parts.

    Args:
        scope: what is looked for.
        name: the name of a value (kind, value), the same in all rows.
    """

    def __init__(self, scope: Scope, name: Callable[[str, bytes], str]) -> None:
        self.counts: Counter[str] = Counter()
        self._scope, self._name = scope, name
        self._known: dict[bytes, str] = {}
        self._texts: dict[Key, _Text | None] = {}
        self._changed: set[Key] = set()
        self._numbers: Counter[str] = Counter()
        self._placeholders: dict[str, tuple[str, bytes]] = {}

    def note(self, text: str, context: str | None) -> None:
        """Take a text in, with what names it."""
        self._texts[text, context] = None

    def noted(self, column: str, value: Any) -> list[Key]:
        """Take the texts of a part of a row in."""
        keys = texts_of(column, value)
        self._texts.update(dict.fromkeys(keys))
        return keys

    def touched(self, keys: Iterable[Key]) -> bool:
        """Whether `replace` changes one of these."""
        return not self._changed.isdisjoint(keys)

    def run(self) -> None:
        """Find and replace in all that was noted."""
        keys = list(self._texts)
        data = [encoded(text) for text, _ in keys]
        wanted: Sequence[int] = range(len(keys))
        for _ in range(_PASSES):
            looked = look([(data[index], keys[index][1]) for index in wanted], self._scope)
            found = {wanted[place]: spans for place, spans in looked.items()}
            new = self._learned(data, found)
            self._again(data, wanted, self._known, found)
            self._again(data, sorted({*range(len(keys))}.difference(wanted)), new, found)
            if not found:
                break
            for index in sorted(found):
                text = self._texts[keys[index]] or _Text(keys[index][0])
                self._texts[keys[index]] = text
                self._changed.add(keys[index])
                self._put(text, settled(found[index]))
                data[index] = text.data
            wanted = sorted(found)

    def replace(self, text: str, context: str | None, placeholder: Callable[[str, str], str]) -> str:
        """A text as it is now, with `placeholder(kind, name)` in its places."""
        now = self._texts[text, context]
        if now is None:
            return text
        self.counts.update(now.counts)
        parts = []
        at = 0
        for old in now.placed:
            parts += [decoded(now.data[at : old.start]), placeholder(old.kind, old.name)]
            at = old.end
        return "".join([*parts, decoded(now.data[at:])])

    def _learned(self, data: list[bytes], found: dict[int, list[Span]]) -> dict[bytes, str]:
        """The values that are new: they are replaced wherever else they stand."""
        new: dict[bytes, str] = {}
        for index, spans in found.items():
            for span in spans:
                for value in _telling(span.kind, data[index][span.start : span.end]):
                    if value not in self._known:
                        new[value] = self._known[value] = span.kind
        return new

    def _again(
        self, data: list[bytes], indexes: Sequence[int], values: Iterable[bytes], found: dict[int, list[Span]]
    ) -> None:
        if not values or not indexes:
            return
        texts = [data[index] for index in indexes]
        joined = b"\0".join(texts)
        starts = list(accumulate((len(text) + 1 for text in texts), initial=0))
        for value in values:
            for start in _places(joined, value):
                place = bisect_right(starts, start) - 1
                first = starts[place]
                span = Span(start - first, start - first + len(value), self._known[value], 9)
                found.setdefault(indexes[place], []).append(span)

    def _put(self, text: _Text, spans: list[Span]) -> None:
        data, placed = text.data, text.placed
        items: list[Span | _Placed] = [*spans]
        items += (old for old in placed if all(old.end <= span.start or old.start >= span.end for span in spans))
        parts: list[bytes] = []
        at = length = 0
        text.placed = []
        for item in sorted(items, key=lambda item: item.start):
            if isinstance(item, Span):
                name = self._name(item.kind, self._value(data, item, placed))
                text.counts[item.kind] += 1
            else:
                name = item.name
            kind, put = self._own(item.kind, name)
            length += item.start - at
            text.placed.append(_Placed(length, length + len(put), kind, name))
            parts += [data[at : item.start], put]
            length += len(put)
            at = item.end
        text.data = b"".join([*parts, data[at:]])

    def _value(self, data: bytes, span: Span, placed: list[_Placed]) -> bytes:
        value = self._named(data, span.start, span.end, placed)
        if span.kind == "USER" and b"-" in value:  # a folder's name says the same of someone known
            return next((name for name in self._known if _folder_name(name) == value and name != value), value)
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


def _telling(kind: str, value: bytes) -> Iterator[bytes]:
    """How a value that was found may stand elsewhere, where it is distinctive enough to be looked for."""
    if kind == "USER":
        if is_distinctive(value):
            yield value
            yield _folder_name(value)
    elif kind not in PERSONAL and len(value) >= 8 and not is_wordy(value):
        yield value


def _folder_name(name: bytes) -> bytes:
    """As Claude Code names a project's folder."""
    return name.replace(b".", b"-").replace(b"_", b"-")


def _places(data: bytes, value: bytes) -> Iterator[int]:
    """Where a value stands as a whole word."""
    at = data.find(value)
    while at >= 0:
        end = at + len(value)
        if starts_word(data, at) and (end == len(data) or data[end] not in ALNUM):
            yield at
        at = data.find(value, end)
