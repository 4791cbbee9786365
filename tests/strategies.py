"""Hypothesis strategies for logs of any shape, shared by the tests of the formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def lines(*records: Any) -> bytes:
    """JSON values as the lines of a file."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def fixture_records(format_folder: Path) -> list[dict[str, Any]]:
    """The records of all fixtures of a format whose lines are whole."""
    return [
        json.loads(line)
        for path in sorted(format_folder.glob("*/input*")) + sorted(format_folder.glob("*/input/**/*.jsonl"))
        if path.is_file() and path.parent.name != "messy"
        for line in path.read_bytes().splitlines()
    ]


@st.composite
def damaged(draw: st.DrawFn, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One of `records` with one of its values replaced."""
    record: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(records))))
    place: Any = record
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.booleans()):
            place[key] = draw(VALUES)
            return record
        place = place[key]
