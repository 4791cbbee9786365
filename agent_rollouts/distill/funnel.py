"""The funnel: what came into each stage, what went on, and why the rest did not, exactly.

    came == went + all that was removed        at every stage, for rows, messages and bytes of text
    came == what went on from the stage before

`Funnel.check` holds that, on every run. Tokens are bytes of text / 4, an estimate, since no tokenizer has counted what
was removed. A stage that writes text anew (`redact`: placeholders; `windows`: shortened outputs; shapes) has the
difference among what it removed, which is below zero where text became longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

BYTES_PER_TOKEN = 4
"""For an estimate without a tokenizer; code and English lie between 3 and 4.5."""

_SHAPE = "shape: "
REWRITTEN = "text written anew (difference)"


class Size(NamedTuple):
    """Rows, their messages, and the bytes (UTF-8) of what those say: content, reasoning, calls."""

    rows: int = 0
    messages: int = 0
    text_bytes: int = 0

    def plus(self, other: Size) -> Size:
        """Both together."""
        return Size(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Size) -> Size:
        """What is left of it."""
        return Size(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def tokens(self) -> int:
        """Estimated."""
        return self.text_bytes // BYTES_PER_TOKEN


def size(messages: Iterable[Mapping[str, JSON]], rows: int = 1) -> Size:
    """The size of a row, or of some messages of one."""
    sizes = [text_bytes(message) for message in messages]
    return Size(rows, len(sizes), sum(sizes))


def text_bytes(message: Mapping[str, JSON]) -> int:
    """Bytes of what a message says."""
    total = _bytes(message["content"]) + _bytes(message.get("reasoning_content") or "")
    for call in message.get("tool_calls") or ():
        total += _bytes(call["function"]["name"]) + _json_bytes(call["function"]["arguments"])
    return total


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _json_bytes(value: JSON) -> int:
    if isinstance(value, str):
        return _bytes(value)
    try:
        return len(orjson.dumps(value))
    except TypeError:
        return _bytes(exact_text(value))


@dataclass
class Stage:
    """What a stage did with what came."""

    came: Size = field(default_factory=Size)
    went: Size = field(default_factory=Size)
    removed: dict[str, Size] = field(default_factory=dict)

    def remove(self, why: str, what: Size) -> None:
        """Count something as removed."""
        if what != Size():
            self.removed[why] = self.removed.get(why, Size()).plus(what)


@dataclass
class Funnel:
    """What came in, what went out, and why the rest did not.

    Attributes:
        files: files that were read, or tried.
        bad_files: what is wrong with a file that could not be used, by its path.
        stages: by name, in order; `shape: NAME` for what shapes make of the rows. Their rows are records.
        counts: what is in the rows that were kept, by kind: formats, models, tools, outcomes, redactions, weights
            (reasons of weight 0, of assistant messages), splits, and `skipped`: parts of files that were not used.
        copies: each row that owns nothing, and the row that owns its turns; both (source_path, trace_id).
        contaminated: what `decontaminate` reports of the rows that it removed.
        notices: what the user should know, each one sentence.
        recipe: what a language model was asked, see `recipe.Report`.
        runs: `version` and `command` of each run whose account this is.
    """

    files: int = 0
    bad_files: dict[str, str] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    copies: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    contaminated: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    recipe: dict[str, Any] | None = None
    runs: list[dict[str, str]] = field(default_factory=list)

    def stage(self, name: str) -> Stage:
        """The stage of a name, new where there was none."""
        return self.stages.setdefault(name, Stage())

    def count(self, kind: str, names: Iterable[str] | Mapping[str, int]) -> None:
        """Add to `counts`."""
        self.counts.setdefault(kind, Counter()).update(names)

    def took(self, name: str, came: Size, went: Size | None = None, why: str = REWRITTEN) -> None:
        """Note that a stage took a row and gave it on; the difference is removed for this reason."""
        stage = self.stage(name)
        went = came if went is None else went
        stage.came = stage.came.plus(came)
        stage.went = stage.went.plus(went)
        if went != came:
            stage.remove(why, came.minus(went))

    def merge(self, other: Funnel) -> None:
        """Add what another part of the work has counted."""
        self.files += other.files
        self.bad_files |= other.bad_files
        for name, theirs in other.stages.items():
            mine = self.stage(name)
            mine.came, mine.went = mine.came.plus(theirs.came), mine.went.plus(theirs.went)
            for why, what in theirs.removed.items():
                mine.remove(why, what)
        for kind, counts in other.counts.items():
            self.count(kind, counts)
        self.copies |= other.copies
        self.contaminated += other.contaminated
        self.runs += other.runs
        self.notices += [notice for notice in other.notices if notice not in self.notices]

    def check(self) -> None:
        """Hold every stage against the law above.

        Raises:
            AgentRolloutsError: something was lost without a reason, which is a fault of this package.
        """
        before: tuple[str, Size] | None = None
        for name, stage in self.stages.items():
            total = stage.went
            for what in stage.removed.values():
                total = total.plus(what)
            if total != stage.came:
                raise AgentRolloutsError(
                    f"the funnel does not add up at {name}: {stage.came} came, {stage.went} went on and "
                    f"{total.minus(stage.went)} were removed. Please report this"
                )
            # Shapes count rows alone, windows each by itself.
            if name.startswith(_SHAPE):
                continue
            if before and stage.came != before[1]:
                raise AgentRolloutsError(
                    f"the funnel does not add up: {before[1]} went on from {before[0]}, {stage.came} came to {name}. "
                    "Please report this"
                )
            before = name, stage.went

    # -- what is shown -----------------------------------------------------------------------------

    @property
    def read(self) -> Size:
        """What was read."""
        return next(iter(self.stages.values())).came if self.stages else Size()

    @property
    def kept(self) -> Size:
        """What went into shapes."""
        stages = [stage for name, stage in self.stages.items() if not name.startswith(_SHAPE)]
        return stages[-1].went if stages else Size()

    @property
    def removed(self) -> Counter[str]:
        """Rows that were removed, by reason, of all stages before shapes."""
        found: Counter[str] = Counter()
        for name, stage in self.stages.items():
            if not name.startswith(_SHAPE):
                found.update({why: what.rows for why, what in stage.removed.items() if what.rows > 0})
        return found

    def lines(self) -> list[tuple[str, str, Size]]:
        """The table: (stage, reason, size); reason is empty for what went on from a stage."""
        if not self.stages:
            return []
        found = [("read", "", self.read)]
        for name, stage in self.stages.items():
            if name.startswith(_SHAPE) or stage.removed:
                found += [(name, why, what) for why, what in _largest_first(stage.removed)]
                found.append((name if name.startswith(_SHAPE) else f"after {name}", "", stage.went))
        return found

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "files": {"read": self.files, "bad": dict(sorted(self.bad_files.items()))},
            "stages": [
                {
                    "stage": name,
                    "came": stage.came._asdict(),
                    "removed": [{"reason": why, **what._asdict()} for why, what in _largest_first(stage.removed)],
                    "went": stage.went._asdict(),
                }
                for name, stage in self.stages.items()
            ],
            "counts": {kind: dict(most_first(counts)) for kind, counts in sorted(self.counts.items())},
            "copies": [
                {"source_path": row[0], "trace_id": row[1], "owner": {"source_path": owner[0], "trace_id": owner[1]}}
                for row, owner in sorted(self.copies.items())
            ],
            "contaminated": self.contaminated,
            "notices": self.notices,
            "recipe": self.recipe,
            "runs": self.runs,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Funnel:
        """The account that `to_json` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        stages = {
            stage["stage"]: Stage(
                Size(**stage["came"]),
                Size(**stage["went"]),
                {what["reason"]: Size(*(what[name] for name in Size._fields)) for what in stage["removed"]},
            )
            for stage in said["stages"]
        }
        copies = {
            (one["source_path"], one["trace_id"]): (one["owner"]["source_path"], one["owner"]["trace_id"])
            for one in said["copies"]
        }
        counts = {kind: Counter(found) for kind, found in said["counts"].items()}
        read, bad = said["files"]["read"], dict(said["files"]["bad"])
        more = (said["contaminated"], said["notices"], said["recipe"], said["runs"])
        return cls(read, bad, stages, counts, copies, *more)

    def followed_by(self, other: Funnel) -> Funnel:
        """The account of two runs together; what went through a stage that only one had went through unchanged."""
        for one, another in ((self, other), (other, self)):
            one.stages = dict(_aligned(one.stages, another.stages))
        self.merge(other)
        return self

    def _shown(self) -> Iterator[tuple[str, str, tuple[str, str, str]]]:
        """`lines` in words; tokens are rounded so that they add up."""
        left = 0
        for name, why, what in self.lines():
            before, left = left, left - what.text_bytes if why else what.text_bytes
            tokens = before // BYTES_PER_TOKEN - left // BYTES_PER_TOKEN if why else what.tokens
            yield name, why, _numbers((what.rows, what.messages, tokens), why)

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = ["| stage | removed | rows | messages | tokens (bytes / 4) |", "|---|---|---:|---:|---:|"]
        for name, why, numbers in self._shown():
            lines.append(f"| {' | '.join(['' if why else f'**{name}**', why, *numbers])} |")
        return "\n".join(lines)

    def text(self) -> str:
        """The table for a terminal."""
        rows = [("", "rows", "messages", "tokens")]
        rows += [(f"  - {why}" if why else name, *numbers) for name, why, numbers in self._shown()]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        shown = []
        for name, *numbers in rows:
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
            shown.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
        return "\n".join(shown)


def _aligned(mine: Mapping[str, Stage], others: Mapping[str, Stage]) -> Iterator[tuple[str, Stage]]:
    """These stages, and between them those that only the others have."""
    order, before = list(mine), ""
    for name in others:
        if name not in mine:
            order.insert(order.index(before) + 1 if before else 0, name)
        before = name
    passed = Size()
    for name in order:
        is_shape = name.startswith(_SHAPE)
        stage = mine.get(name) or (Stage() if is_shape else Stage(passed, passed))
        yield name, stage
        passed = passed if is_shape else stage.went


def _numbers(told: tuple[int, int, int], why: str) -> tuple[str, str, str]:
    """What went on as it is; what was removed below zero, and what was added above."""
    rows, messages, tokens = (f"{-number:+,}" if why and number else f"{number:,}" if number else "" for number in told)
    return rows, messages, tokens


def _largest_first(removed: Mapping[str, Size]) -> list[tuple[str, Size]]:
    return sorted(removed.items(), key=lambda item: (*(-number for number in item[1]), item[0]))


def most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names and counts, the largest first, equals by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
