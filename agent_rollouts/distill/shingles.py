"""Texts as numbers: the words of a row and the runs of n words in it (shingles, n-grams), for what looks for likeness.

`WORDS` and `GRAMS` say how; files of fingerprints repeat them, since a file says nothing to a reader with other rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
from xxhash import xxh3_64_digest

Hashes: TypeAlias = npt.NDArray[np.uint64]

WORDS = (
    "lower case; n, r and t behind a backslash separate, as does all that is no letter or digit; "
    "a letter or digit from U+2E80 on is a word of its own; words of ASCII digits alone do not count"
)
"""White space, quoting, diff marks, line numbers and escapes in JSON make no difference then; `identifiers` are
several words."""
GRAMS = "sum of xxh3_64(word i as UTF-8, seed 0) * 0x9e3779b97f4a7c15 ** (n - 1 - i) for i in 0..n-1, modulo 2**64"

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# From here on writing puts no spaces between words (Han, kana, hangul with them, emoji).
_UNSPACED = 0x2E80
_LETTERS = bytes(
    ord(chr(code).lower()) if code < 0x80 and chr(code).isalnum() else code if code >= 0x80 else 0x20
    for code in range(256)
)
_CHUNK = 1 << 20
_LONGEST, _MOST = 40, 1 << 18


class _Words(dict[bytes, bytes]):
    """The hashes (eight bytes each) of the words that a run of letters is made of, made when they are asked for."""

    def __missing__(self, run: bytes) -> bytes:
        if run.isascii():
            found = b"" if run.isdigit() else xxh3_64_digest(run)
        else:
            text = "".join(
                letter if letter.isalnum() and ord(letter) < _UNSPACED else f" {letter} " if letter.isalnum() else " "
                for letter in run.decode().lower()
            )
            found = b"".join(xxh3_64_digest(word) for word in text.encode().split() if not word.isdigit())
        # What is longer is data, and seldom comes again.
        if len(run) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[run] = found
        return found


_KNOWN = _Words()


def words(text: str) -> Hashes:
    """The hashes of the words of a text, in order."""
    data = text.encode("utf-8", "replace")
    if b"\\" in data:
        data = data.replace(b"\\n", b" ").replace(b"\\r", b" ").replace(b"\\t", b" ")
    runs = data.translate(_LETTERS).split()
    # The digest is big-endian.
    return np.frombuffer(b"".join(map(_KNOWN.__getitem__, runs)), dtype=">u8").astype(np.uint64)


def grams(words: Hashes, n: int) -> Hashes:
    """The hashes of all runs of `n` words, in order; none where there are fewer words."""
    count = max(len(words) - n + 1, 0)
    found = np.zeros(count, dtype=np.uint64)
    for index in range(n if count else 0):
        found *= _FACTOR
        found += words[index : index + count]
    return found


def gram_chunks(texts: Iterable[str], n: int) -> Iterator[Hashes]:
    """The n-grams of texts put one behind the other, some megabytes at a time."""
    before = np.empty(0, dtype=np.uint64)
    for chunk in chunks(texts):
        found = np.concatenate([before, words(chunk)])
        yield grams(found, n)
        before = found[max(len(found) - n + 1, 0) :]


def chunks(texts: Iterable[str]) -> Iterator[str]:
    """Texts joined by line feeds, and cut at white space into pieces of about a megabyte."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size < _CHUNK:
            continue
        whole = "\n".join(held)
        at = 0
        while len(whole) - at > 2 * _CHUNK:
            end = max(whole.rfind(mark, at + _CHUNK, at + 2 * _CHUNK) for mark in "\n ")
            end = end if end > 0 else at + 2 * _CHUNK
            yield whole[at:end]
            at = end
        yield whole[at:]
        held, size = [], 0
    if size:
        yield "\n".join(held)


def messages(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The messages of a row, which may be objects or their JSON text."""
    for message in row.get("messages") or ():
        yield message if isinstance(message, Mapping) else orjson.loads(message)


def texts(row: Mapping[str, Any]) -> Iterator[str]:
    """All that is said, thought, called and returned in a row, in order."""
    for message in messages(row):
        yield message.get("reasoning_content") or ""
        yield from said(message)


def said(message: Mapping[str, Any]) -> Iterator[str]:
    """The content of a message, and the strings within the arguments of its calls."""
    yield from leaves(message.get("content"))
    for call in message.get("tool_calls") or ():
        yield from leaves(call["function"].get("arguments"))


def leaves(value: Any) -> Iterator[str]:
    """The strings within a JSON value, in order; keys are none of them."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            left.extend(reversed(list(value.values())))
        elif isinstance(value, (list, tuple)):
            left.extend(reversed(value))


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """All names and values within a JSON value, at any depth."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            left.extend(value.values())
        elif isinstance(value, (list, tuple)):
            left.extend(value)


def metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row's `source_meta`, which may be an object, its JSON text or missing."""
    found = row.get("source_meta") or {}
    return orjson.loads(found) if isinstance(found, str) else found
