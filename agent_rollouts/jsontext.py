"""JSON where orjson is too strict (NaN, lone surrogates) or too loose (integers beyond 64 bits, doubled keys)."""

from __future__ import annotations

import json
from typing import Any

import orjson

from agent_rollouts.events import JSON

_LARGEST = 2.0**63
_DECODER = json.JSONDecoder()


def tolerant(text: str) -> tuple[JSON, int]:
    """Parse what orjson refuses but Python reads; lone surrogates become U+FFFD.

    Returns the value and the number of strings that were changed.

    Raises:
        ValueError: not JSON for Python either (also when it is nested too deep).
    """
    try:
        return _without_surrogates(_DECODER.decode(text))
    except RecursionError:
        raise ValueError("nested too deep") from None


def objects(text: str) -> tuple[list[JSON], int]:
    """The JSON values that stand one behind the other at the start of `text`, and the length of what is left.

    A crash between a record and its newline puts two objects on a line.
    """
    try:
        if type(value := orjson.loads(text)) is dict:
            return [value], 0
    except ValueError:
        pass
    found: list[JSON] = []
    at = 0
    while at < len(text):
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        found.append(_without_surrogates(value)[0])
        at = end
        while at < len(text) and text[at].isspace():
            at += 1
    return found, len(text) - at


def opening(text: str) -> JSON:
    """An object or list as far as its text goes: its first members or items; None where the text begins otherwise.

    Of a value that is cut off there is what stands before the cut; for telling what a file is.
    """
    if text[:1] not in ("{", "["):
        return None
    members: dict[str, JSON] = {}
    items: list[JSON] = []
    at = _token(text, 1)
    while at < len(text) and text[at] not in "]}":
        key: JSON = None
        try:
            if text[0] == "{":
                key, at = _DECODER.raw_decode(text, at)
                at = _token(text, text.index(":", at) + 1)
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = opening(text[at:]), len(text)
        if text[0] == "[":
            items.append(value)
        elif isinstance(key, str):
            members[key] = "" if value is None and end == len(text) else value
        at = _token(text, end)
        if text[at : at + 1] != ",":
            break
        at = _token(text, at + 1)
    return items if text[0] == "[" else members


def _token(text: str, at: int) -> int:
    """Where the next character stands that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def arguments(text: str) -> dict[str, JSON] | str:
    """Tool arguments as the object they are, or `text` itself where an object would not say the same.

    That is so for what is not a JSON object, integers beyond 64 bits, NaN and doubled keys.
    """
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    # No more colons than members: none is doubled, and there is nothing within them.
    if text.count(":") == len(value) and is_exact(value):
        return value
    try:
        if orjson.dumps(value) == text.encode():
            return value
    except (TypeError, UnicodeEncodeError):
        return text
    return value if _keeps_keys(text) and is_exact(value) else text


def is_exact(value: JSON) -> bool:
    """Whether a value that orjson parsed surely says what its text said: no float that may have been a long integer.

    A value nested deeper than Python recurses is said to be inexact, so that its text is kept.
    """
    try:
        return _is_exact(value)
    except RecursionError:
        return False


def _is_exact(value: JSON) -> bool:
    if type(value) is float:
        return -_LARGEST < value < _LARGEST
    if type(value) is dict:
        for item in value.values():
            kind = type(item)
            if (kind is dict or kind is list or kind is float) and not _is_exact(item):
                return False
    elif type(value) is list:
        for item in value:
            kind = type(item)
            if (kind is dict or kind is list or kind is float) and not _is_exact(item):
                return False
    return True


def loads_exactly(text: str) -> JSON:
    """The value of JSON text with integers of any length, or the text itself when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def exact_text(value: JSON) -> str:
    """JSON text of a value that orjson cannot write; nested too deep for Python as well, it becomes null."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "null"


def as_dict(value: JSON) -> dict[str, JSON]:
    """The object, or an empty one where it is none."""
    return value if isinstance(value, dict) else {}


def as_list(value: JSON) -> list[JSON]:
    """The list, or an empty one where it is none."""
    return value if isinstance(value, list) else []


def _keeps_keys(text: str) -> bool:
    doubled = False

    def pairs(items: list[tuple[str, Any]]) -> None:
        nonlocal doubled
        doubled = doubled or len({key for key, _ in items}) < len(items)

    try:
        json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return False
    return not doubled


def _without_surrogates(value: JSON) -> tuple[JSON, int]:
    changed = 0

    def fix(item: JSON) -> JSON:
        nonlocal changed
        if isinstance(item, str):
            fixed = item.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            changed += fixed != item
            return fixed
        if isinstance(item, list):
            return [fix(part) for part in item]
        if isinstance(item, dict):
            return {fix(key): fix(part) for key, part in item.items()}
        return item

    return fix(value), changed
