"""A place in a text, and which of several that overlap hold."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """Bytes `start` to `end` hold a secret of this kind."""

    start: int
    end: int
    kind: str
    rank: int  # a vendor's token before a header before an assignment before personal data


def settled(spans: list[Span]) -> list[Span]:
    """Spans in order; of those that overlap the one of the lower rank, then the longer, and what it leaves of others.

    What is left over is found by the next pass where it tells itself.
    """
    if len(spans) < 2:
        return spans
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.rank, span.start - span.end)):
        # A longer one of a higher rank takes over what lies in it: a token in the password of an address does not.
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept)
