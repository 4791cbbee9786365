"""Texts as bytes, and where the letters of an escape end and a word begins."""

from __future__ import annotations

QUOTES = b"\"'`"
WORD = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
NAME = WORD + b".-"
ALNUM = frozenset(WORD[:-1])


def encoded(text: str) -> bytes:
    """UTF-8, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """Back from `encoded`."""
    return data.decode("utf-8", "surrogatepass")


def after_escape(data: bytes, at: int) -> int:
    r"""The place behind the letters that belong to an escape: `\nname` begins at `name`."""
    if at and data[at - 1] == 92 and at < len(data):
        if data[at] in b"nrtbf":
            return at + 1
        if data[at] == 117 and len(data) > at + 5:
            return at + 5
    return at


def starts_word(data: bytes, at: int) -> bool:
    """Whether a word may begin here: no letter or digit is before it, but that of an escape."""
    if not at or data[at - 1] not in ALNUM:
        return True
    return at >= 2 and data[at - 2] == 92 and data[at - 1] in b"nrtbf"
