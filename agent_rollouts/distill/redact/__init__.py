"""Redaction: secrets and personal data out of every text of a row, the same value always by the same placeholder.

    text, counts = redact_text(text)              # one text
    rows = rows.map(redact)                       # rows, each by itself
    redactor = Redactor(deny=["Project Falcon"])  # rows of one dataset: placeholders agree in all of them
    rows = map(redactor.row, rows)

`[AWS_ACCESS_KEY_1]` stands for a secret, `[EMAIL_1]` and `[IP_1]` for an address, `/home/user` and `/home/user2` for
home folders. What is looked for is data: `secret_rules.toml`. Three scans by google-re2, linear in the bytes, find
where something may begin: tokens of known vendors, `NAME = VALUE`, personal data; only there is anything looked at
more closely. Patterns alone would touch code, so a value is judged: one that consists of words, names something
(`process.env.X`, `getKey()`, `${TOKEN}`), or is an example stays. Escaped text (JSON within JSON) is read as it
lies: a value ends at the quote that is as deep as the one that opened it, and no escape is torn apart.

Redacted text is stable: `redact_text(redact_text(x)[0])[0] == redact_text(x)[0]`, and `find` finds nothing in it.
A value that was found once is replaced wherever else it stands in the row. Uses no columns of other stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from datasets import Features, Json, Value

from agent_rollouts.distill.redact.audit import Place, audit_files, audit_rows, masked, report
from agent_rollouts.distill.redact.escapes import decoded, encoded
from agent_rollouts.distill.redact.numbers import Final, Numbers, final_numbers
from agent_rollouts.distill.redact.redactor import Redactor, policy
from agent_rollouts.distill.redact.rows import Row
from agent_rollouts.distill.redact.rules import RULES, denied
from agent_rollouts.distill.redact.scan import Scope, is_clean, look

__all__ = [
    "COLUMNS",
    "RULES",
    "Final",
    "Finding",
    "Numbers",
    "Place",
    "Redactor",
    "audit_files",
    "audit_rows",
    "features",
    "final_numbers",
    "find",
    "masked",
    "policy",
    "redact",
    "redact_text",
    "report",
]

COLUMNS = {"redactions": Json(), "redaction_policy": Value("string")}
"""The columns that a redacted row has more."""


class Finding(NamedTuple):
    """A place in a text: characters `start` to `end` hold a secret of this kind."""

    kind: str
    start: int
    end: int


def redact_text(text: str, *, pii: bool = True) -> tuple[str, dict[str, int]]:
    """The text with placeholders for its secrets, and how many of each kind were replaced.

    Equal values have equal placeholders within the text; nothing is remembered from call to call.

    Args:
        pii: whether home folders, e-mail and public IP addresses are replaced, too.
    """
    data = encoded(text)
    if is_clean(data) or not look([(data, None)], Scope(pii)):
        return text, {}
    return Redactor(pii=pii).text(text)


def redact(row: Row) -> dict[str, Any]:
    """The row redacted by itself, with `redactions` and `redaction_policy`; for `rows.map(redact)`."""
    return Redactor().row(row)


def find(text: str, *, pii: bool = True, hosts: bool = False, deny: Sequence[str] = ()) -> list[Finding]:
    """The secrets of a text in order, as positions in it."""
    data = encoded(text)
    spans = look([(data, None)], Scope(pii, hosts, denied(tuple(deny)))).get(0, [])
    if len(data) == len(text):
        return [Finding(span.kind, span.start, span.end) for span in spans]
    return [Finding(span.kind, len(decoded(data[: span.start])), len(decoded(data[: span.end]))) for span in spans]


def features(of: Features) -> Features:
    """Features of rows when they are redacted: `rows.map(redact, features=features(rows.features))`."""
    return Features({**of, **COLUMNS})
