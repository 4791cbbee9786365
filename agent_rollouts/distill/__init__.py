"""Distilling: from rollouts to training data that its owner can trust.

    from agent_rollouts.distill import Options, distill

    rows = agent_rollouts.load_rollouts("auto", "sessions/", history="segments")
    dataset, funnel = distill(rows, Options(max_tokens=32768, splits="train=0.98,test=0.02"))

Each turn is given to one of the rows that hold it, secrets and names of people are taken out, what the log proves of
the outcome is noted, turns that are not worth imitating get weight 0, rollouts without a prompt or an answer are left
out, long ones are cut into windows, what belongs together goes into one split, and rows are put in the shapes that
trainers take. Every stage can be switched off, and is a module of this package, usable alone.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset

from agent_rollouts.chat import exact
from agent_rollouts.distill.funnel import Funnel
from agent_rollouts.distill.inputs import Files, Given
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.spool import ROWS, Spool, batches, from_json, to_json
from agent_rollouts.distill.write import write_dataset
from agent_rollouts.errors import AgentRolloutsError

__all__ = ["Funnel", "Options", "distill", "distill_files"]

Rows: TypeAlias = "Dataset | IterableDataset | Iterable[Mapping[str, Any]]"

_ROWS_PER_PART = 1000


def distill(
    rows: Rows, options: Options | None = None, *, output: str | os.PathLike[str] | None = None
) -> tuple[DatasetDict, Funnel]:
    """Curated splits of rows, and the account of all that was removed.

    Memory does not grow with the rows: they go through files. Options that say which files are read (`format`,
    `history`, …) have no meaning here. With `num_proc` call it under `if __name__ == "__main__":`.

    Args:
        rows: of `FEATURES` (`load_rollouts`; read them with `history="segments"` where contexts were compacted): a
            dataset, a streamed one, or any iterable. What can be iterated once only is kept in a file meanwhile.
        options: the defaults make a dataset that its owner can publish. One shape, since splits of one are returned.
        output: also leave the dataset there, as the command does; else it lives as long as the process.

    Returns:
        The splits, with JSON columns that are read exactly (`chat.exact`); and the funnel.

    Raises:
        AgentRolloutsError: an option that cannot be, no row left, a secret that redaction would still find in what was
            written, or splits that share something.
    """
    options = options or Options()
    if len(options.shape) != 1:
        raise AgentRolloutsError(f"distill gives one shape, and {', '.join(options.shape)} were asked for; see output=")
    place = Path(output) if output is not None else _kept_until_exit() / "dataset"
    with tempfile.TemporaryDirectory() as folder:
        made = write_dataset(Given(_parts(rows, Path(folder))), options, place, command="agent_rollouts.distill")
    found = {
        split: Dataset.from_parquet([str(path) for path in shards], cache_dir=str(_kept_until_exit()))
        for split, shards in made.shards[options.shape[0]].items()
    }
    return exact(DatasetDict(found)), made.funnel


def distill_files(
    files: Iterable[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    *,
    name_of: Callable[[str], str] = str,
    command: str = "agent_rollouts.distill_files",
) -> Funnel:
    """Write a dataset of the rollouts in files (`source.find`) to a folder: what `agent-rollouts distill` does.

    The folder appears when everything is written and checked; one that this tool made before is replaced then.

    Args:
        name_of: what to write as `source_path` for a path.
        command: what the card says that it was made with.

    Raises:
        AgentRolloutsError: see `distill`; or `output` holds something else.
    """
    options = options or Options()
    paths = list(files)
    names = {path: name_of(path) for path in paths}
    return write_dataset(Files(paths, options, names), options, Path(output), command=command).funnel


def _parts(rows: Rows, folder: Path) -> list[Callable[[], Iterable[Mapping[str, Any]]]]:
    """Functions that give the rows of each part, as often as they are called."""
    if isinstance(rows, Dataset):
        rows = exact(rows)
        starts = range(0, len(rows), _ROWS_PER_PART)
        return [partial(_selected, rows, start, min(start + _ROWS_PER_PART, len(rows))) for start in starts]
    if isinstance(rows, IterableDataset):
        return [partial(iter, rows)]
    if isinstance(rows, Mapping):
        raise AgentRolloutsError(f"distill takes the rows of one split; name it: {', '.join(map(repr, rows))}")
    if iter(rows) is not rows:
        return [partial(iter, rows)]
    path = folder / "rows.arrow"
    with Spool(path, ROWS) as spool:
        for row in rows:
            # Pictures are in no shape.
            media = [{**medium, "bytes": None} for medium in row.get("media") or ()]
            text = to_json({**row, "media": media})
            spool.add({"row": text}, len(text))
    return [partial(_spooled, path)]


def _selected(rows: Dataset, start: int, end: int) -> Iterable[Mapping[str, Any]]:
    selected: Iterable[Mapping[str, Any]] = rows.select(range(start, end))
    return selected


def _spooled(path: Path) -> Iterable[Mapping[str, Any]]:
    for batch in batches([path]):
        for text in batch.column("row"):
            yield from_json(text.as_py())


@functools.cache
def _home() -> Path:
    folder = tempfile.mkdtemp(prefix="agent-rollouts-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _kept_until_exit() -> Path:
    """A new folder, which is there as long as the process."""
    return Path(tempfile.mkdtemp(dir=_home()))


class _Callable(types.ModuleType):
    """This package, which is a function as well: `agent_rollouts.distill(rows, options)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[DatasetDict, Funnel]:
        return distill(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
