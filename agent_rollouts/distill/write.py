"""Writing a distilled dataset to a folder: Parquet shards, a card and the funnel, all at once or not at all.

OUT/README.md  OUT/funnel.json  OUT/options.yaml  OUT/splits.json
OUT/<shape>/<split>-00000-of-00001.parquet
OUT/<shape>/<split>.jsonl                             for shapes whose trainers read JSON Lines
OUT/sessions/*.jsonl                                  whole sessions, where they are asked for
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from agent_rollouts.distill.card import MARK, card
from agent_rollouts.distill.funnel import Funnel
from agent_rollouts.distill.inputs import Files, Input
from agent_rollouts.distill.options import Options
from agent_rollouts.distill.pipeline import Run, run
from agent_rollouts.distill.redact import Numbers, Redactor, audit_files, final_numbers
from agent_rollouts.distill.sessions import SESSIONS, audit, is_session
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.distill.splits import SPLITS_FILE, leaks
from agent_rollouts.distill.spool import Gathered, batches
from agent_rollouts.distill.state import FOLDER, Published, State, digest, key_of, stamp
from agent_rollouts.distill.work import TRAIN, Work
from agent_rollouts.errors import AgentRolloutsError

FILES = ("README.md", "funnel.json", "options.yaml", SPLITS_FILE)
_SHARDS = "-?????-of-?????.parquet"
_OLD = "old"
_SHARD_BYTES = 500 << 20
# As the Hub's viewer likes them: small enough to be read for one page of rows.
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 1000


class Written(NamedTuple):
    """A dataset that was written: its Parquet files by shape and split, and the account of what is not in it.

    Attributes:
        replaced: rows of the dataset that it is to be added to, of which these are longer versions.
    """

    shards: dict[str, dict[str, list[Path]]]
    funnel: Funnel
    replaced: frozenset[Published] = frozenset()


def write_dataset(
    source: Input,
    options: Options,
    output: Path,
    *,
    command: str,
    earlier: State | None = None,
    numbers: Numbers | None = None,
) -> Written:
    """Distill rows into a folder, which appears when everything is written and checked.

    Args:
        command: what the card says that it was made with.
        earlier: of the dataset that the rows will be added to, see `run`; then it is fine if no row is left.
        numbers: of placeholders, which the caller keeps; else those of `redaction_state`.

    Raises:
        AgentRolloutsError: `output` holds something else, no row is left, redaction would still find something in what
            was written, or splits share something.
    """
    target = Path(os.path.realpath(output))  # `.` has a name too, and a link stays one
    check_output(target)
    with replacing(target) as folder:
        work = Work(source, options, folder / ".work")
        work.folder.mkdir()
        kept = os.path.expanduser(options.redaction_state or "") if numbers is None else None
        numbers = numbers or (Numbers.load(kept) if kept else Numbers())
        if earlier is not None:
            if earlier.key != key_of(numbers.salt):
                raise AgentRolloutsError("the dataset was made with the key of another file of redaction_state")
            numbers.begin_above(earlier.numbers)
        if isinstance(source, Files):
            source.names = public_names(source, options, numbers)
        made = run(work, numbers, earlier)
        shards = _write_records(made, folder)
        sessions = _write_sessions(made, folder)
        made.funnel.check()
        shutil.rmtree(work.folder)
        if not any(shards.values()) and earlier is None:
            raise AgentRolloutsError(_nothing_left(made.funnel))
        _check_redaction(shards, sessions, options)
        _check_splits(shards, made)
        _write_about(folder, shards, made, command, target.name)
    if options.redact and kept:
        numbers.save(kept)
    moved = {
        shape: {split: [target / path.relative_to(folder) for path in paths] for split, paths in splits.items()}
        for shape, splits in shards.items()
    }
    return Written(moved, made.funnel, made.replaced)


def public_names(source: Files, options: Options, numbers: Numbers) -> dict[str, str]:
    """The names of files as they may be seen: rows go by them from the beginning, and the state of the dataset too."""
    names = {path: source.names.get(path, path) for path in source.files}
    if not options.redact:
        return names
    redactor = Redactor(pii=options.pii, hosts=options.redact_hosts, deny=options.deny, part=numbers.salt)
    marked = {path: redactor.text(name)[0] for path, name in names.items()}
    final = numbers.add(redactor.found)
    return {path: final_numbers(name, final) for path, name in marked.items()}


def _nothing_left(funnel: Funnel) -> str:
    why = "; ".join(f"{reason}: {count}" for reason, count in funnel.removed.most_common())
    bad = f"; {len(funnel.bad_files)} file(s) could not be used" if funnel.bad_files else ""
    return (
        f"no row to write: {funnel.files} file(s), {funnel.read.rows} rollout(s){'; ' + why if why else ''}{bad}. "
        "`agent-rollouts inspect` shows what the files hold"
    )


def _check_redaction(shards: dict[str, dict[str, list[Path]]], sessions: list[Path], options: Options) -> None:
    """The second pass: what redaction would still find in what was written stops the run."""
    if not options.redact:
        return
    paths = [path for splits in shards.values() for paths in splits.values() for path in paths]
    about: dict[str, Any] = {"pii": options.pii, "hosts": options.redact_hosts, "deny": options.deny}
    places = chain(audit_files(paths, **about), *(audit(path, **about) for path in sessions))
    found = next(places, None)
    if found is not None:
        place = f"{Path(found.file).parent.name}, row {found.row}, column {found.column}: {found.kind} {found.masked}"
        raise AgentRolloutsError(f"redaction left something behind, and nothing was written: {place}")


def _check_splits(shards: dict[str, dict[str, list[Path]]], made: Run) -> None:
    """What two splits share, read anew from the files, stops the run."""
    if made.assignment is None:
        return
    for shape, splits in shards.items():
        # Only messages that are written as they were judged are as alike as they were.
        as_judged = shape == "messages" and made.work.options.arguments == "object"
        by = [kind for kind in made.assignment.by if as_judged or kind != "near_duplicate"]
        for leak in leaks(splits, by=by):
            examples = "; ".join(" and ".join(pair) for pair in leak.examples[:1])
            raise AgentRolloutsError(
                f"the splits {' and '.join(leak.splits)} of {shape} share {leak.evidence} in {leak.rows} row(s), and "
                f"nothing was written: {examples}"
            )


def _write_about(folder: Path, shards: dict[str, dict[str, list[Path]]], made: Run, command: str, place: str) -> None:
    """Card, options, funnel and splits."""
    from agent_rollouts import __version__

    options = made.work.options
    redactor = Redactor(pii=options.pii, hosts=options.redact_hosts, deny=options.deny) if options.redact else None

    def safe(text: str) -> str:
        return redactor.text(text)[0] if redactor else text

    made.funnel.runs.append({"version": __version__, "command": safe(command)})
    funnel = orjson.dumps(made.funnel.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    (folder / "funnel.json").write_text(safe(funnel), encoding="utf-8")
    (folder / "options.yaml").write_text(safe(options.to_yaml()), encoding="utf-8")
    (folder / "README.md").write_text(safe(card(shards, made.funnel, made.work, place)), encoding="utf-8")
    if made.assignment and options.splits:
        made.assignment.save(folder / SPLITS_FILE)
    if isinstance(made.work.source, Files) and made.work.may_grow:
        names = made.work.source.names
        made.state.sources |= {digest(names[path]): stamp(path) for path in made.work.source.files}
        made.state.key = key_of(made.work.salt)
        made.state.save(folder)


def _write_records(made: Run, folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Write the records of a run as Parquet, and give the shards by shape and split."""
    found: dict[str, dict[str, list[Path]]] = {}
    names = list(made.assignment.asked) if made.assignment else [TRAIN]
    for shape in made.work.options.shape:
        schema = made.work.features(shape).arrow_schema
        records = Gathered(made.spools(shape), made.work.schema(shape))
        route = records.columns(["_split", "_order", "_bytes"])
        split_of, sizes = route["_split"].to_numpy(), route["_bytes"].to_numpy()
        found[shape] = {}
        for split in names:
            order = np.flatnonzero(split_of == split)
            if made.work.options.shuffle:
                order = order[np.argsort(route["_order"].to_numpy()[order], kind="stable")]
            if not len(order):
                continue
            tables = records.tables(order, schema.names, sizes, bytes=_GROUP_BYTES, rows=_GROUP_ROWS)
            shards = _write_shards(tables, folder / shape, split, schema)
            found[shape][split] = shards
            made.funnel.count(f"records: {shape}", {split: len(order)})
            if SHAPES[shape].jsonl is not None:
                _write_lines(shards, shape, folder / shape / f"{split}.jsonl")
    return found


def _write_sessions(made: Run, folder: Path) -> list[Path]:
    """Write the sessions of a run that are of families in a split."""
    found: dict[str, Path] = {}
    if not made.work.options.with_sessions:
        return []
    (folder / SESSIONS).mkdir()
    placed = made.assignment.families.keys() - made.assignment.left_out if made.assignment else None
    for batch in batches(made.spools(SESSIONS)):
        for one in batch.to_pylist():
            if placed is not None and one["family_id"] not in placed:
                continue
            if one["name"] in found:
                made.funnel.count("not in sessions", ["another row has its names"])
                continue
            found[one["name"]] = folder / one["name"]
            found[one["name"]].write_text(one["text"], encoding="utf-8", newline="\n")
    if not found:
        (folder / SESSIONS).rmdir()
    return list(found.values())


def _write_shards(tables: Iterable[pa.Table], folder: Path, split: str, schema: pa.Schema) -> list[Path]:
    folder.mkdir(exist_ok=True)
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    try:
        for table in tables:
            if writer is None or written >= _SHARD_BYTES:
                if writer is not None:
                    writer.close()
                shards.append(folder / f"{len(shards):05d}.parquet")
                writer, written = _writer(shards[-1], schema), 0
            written += table.nbytes
            writer.write_table(table.cast(schema), row_group_size=len(table))
    finally:
        if writer is not None:
            writer.close()
    return [
        shard.rename(shard.with_name(f"{split}-{number:05d}-of-{len(shards):05d}.parquet"))
        for number, shard in enumerate(shards)
    ]


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # As the Hub likes it: chunks that survive an insertion, and an index of pages for its viewer.
    return pq.ParquetWriter(path, schema, compression="zstd", use_content_defined_chunking=True, write_page_index=True)


def _write_lines(shards: Iterable[Path], shape: str, path: Path) -> None:
    """The records of shards as their trainer's JSON Lines."""
    as_line = SHAPES[shape].jsonl
    assert as_line is not None
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for shard in shards:
            with pq.ParquetFile(shard) as parquet:
                for batch in parquet.iter_batches(batch_size=16):
                    for record in batch.to_pylist():
                        file.write(as_line(record) + "\n")


def check_output(target: Path) -> None:
    """Refuse a folder that holds anything but a dataset of ours.

    Raises:
        AgentRolloutsError: it does.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    card = target / "README.md"
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise AgentRolloutsError(f"{target} exists and is no dataset made by agent-rollouts; choose another --output")
    files = sorted(path.relative_to(target) for path in target.rglob("*") if not path.is_dir())
    if others := [str(name) for name in files if not _is_ours(name, target)]:
        raise AgentRolloutsError(
            f"{target} would be replaced, but holds more than the dataset that agent-rollouts made: "
            f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}; choose another --output"
        )


def _is_ours(name: Path, target: Path) -> bool:
    """Whether a file in a dataset of ours is what this tool writes there."""
    match name.parts:
        case [folder, _] if folder == FOLDER:
            return True
        case [file]:
            return file in FILES
        case [folder, _] if folder == SESSIONS:
            return is_session(name.as_posix())
        case [shape, file] if shape in SHAPES:
            if fnmatch.fnmatch(file, f"*{_SHARDS}"):
                return True
            # JSON Lines stand beside their split's shards.
            is_lines = SHAPES[shape].jsonl is not None and name.suffix == ".jsonl"
            return is_lines and any((target / shape).glob(f"{glob.escape(name.stem)}{_SHARDS}"))
    return False


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place at the end; what an interrupted run left is swept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.incomplete-"
    _sweep(target, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp makes it private
        if target.exists():
            target.rename(Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent)) / _OLD)
        folder.rename(target)
    finally:
        _sweep(target, prefix)


def _sweep(target: Path, prefix: str) -> None:
    """Remove half datasets beside `target`, and put back the earlier one if nothing took its place."""
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        if (left / _OLD).is_dir() and not target.exists():
            (left / _OLD).rename(target)
        shutil.rmtree(left, ignore_errors=True)
