"""Where a recipe takes part in a run: it sees whole rollouts before they are cut, or the records of a shape.

One process asks, in the order of the rows; what is asked at once, and what was answered before, is the recipe's affair.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets

from agent_rollouts.distill.funnel import Funnel
from agent_rollouts.distill.recipe import Report, run
from agent_rollouts.distill.redact import Final
from agent_rollouts.distill.spool import ROWS, Spool, batches, stored, to_json

if TYPE_CHECKING:
    from agent_rollouts.distill.work import Work

TOLD = "told"
"""The spool of rows that a recipe has seen."""

_PART = "_part"


def ask_rows(work: Work, finals: Sequence[Final | None], contaminated: frozenset[str], funnel: Funnel) -> None:
    """Let the recipe see every row that is kept so far, and spool what it gives back."""
    seen = work.funnel()
    total = funnel.stages["filters"].went.rows

    def rows() -> Iterator[dict[str, Any]]:
        for part, final in enumerate(finals):
            for row in work.clean(part, final, contaminated, seen):
                yield {**row, _PART: part}

    told = _asked(work, rows(), total, funnel)
    row = next(told, None)
    for part in range(len(finals)):
        with Spool(work.path(TOLD, part), ROWS) as spool:
            while row is not None and row[_PART] == part:
                text = to_json({name: value for name, value in row.items() if name != _PART})
                spool.add({"row": text}, len(text))
                row = next(told, None)
    funnel.merge(seen)


def ask_records(work: Work, paths: Sequence[Path], funnel: Funnel) -> None:
    """Let the recipe see the records of its shape, which get its columns."""
    assert work.recipe is not None
    shape, features = work.recipe.shape, work.recipe.features
    total = sum(len(batch) for batch in batches(paths))

    def records() -> Iterator[dict[str, Any]]:
        for part, path in enumerate(paths):
            for batch in batches([path]):
                for record in batch.to_pylist():
                    yield {**record, _PART: part}

    told = _asked(work, records(), total, funnel)
    record = next(told, None)
    for part, path in enumerate(paths):
        new = path.with_suffix(".told")
        with Spool(new, work.schema(shape)) as spool:
            while record is not None and record[_PART] == part:
                spool.add({**record, **stored(record, features)}, record["_bytes"])
                record = next(told, None)
        new.replace(path)


def _asked(work: Work, rows: Iterable[Mapping[str, Any]], total: int, funnel: Funnel) -> Iterator[dict[str, Any]]:
    assert work.options.recipe is not None
    assert work.recipe is not None
    report = Report(total=total)
    # What tqdm would say before it, rows and time, `line` says too; both leave no room for tokens and cost.
    form = "{desc}{postfix} {bar}"
    bar = datasets.utils.tqdm(total=total, desc=f"Asking for {work.recipe.name}", bar_format=form, file=sys.stderr)

    def show(now: Report) -> None:
        bar.set_postfix_str(now.line(), refresh=False)
        bar.update(now.rows - bar.n)

    with bar:
        yield from run(rows, work.options.recipe, work.options, report=report, progress=show)
    funnel.recipe = {"recipe": work.options.recipe, "model": work.options.model, **report.as_dict()}
