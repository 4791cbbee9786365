"""The command line: `agent-rollouts distill | inspect | families | audit | formats`. Thin over the library."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import click
import datasets

from agent_rollouts import __version__
from agent_rollouts.audit import KINDS, FileAudit, audit
from agent_rollouts.configs import file_rules, formats
from agent_rollouts.copies import reader
from agent_rollouts.distill import SFT_FEATURES, Report, distill
from agent_rollouts.distill.families import Families, records, tree
from agent_rollouts.distill.redact import Redactor, audit_files
from agent_rollouts.distill.write import check_output, write_dataset
from agent_rollouts.errors import AgentRolloutsError, FormatError
from agent_rollouts.loading import default_roots
from agent_rollouts.rollout import HISTORIES
from agent_rollouts.source import each, find, reason, stamped

DEMO = Path(__file__).parent / "demo"

_sources = click.argument("source", nargs=-1)
_format = click.option(
    "--format",
    default="auto",
    show_default=True,
    help=f"auto tells each file by its content; or {', '.join(formats())}.",
)
_pattern = click.option(
    "--file-pattern", help="Names to read in folders, with * wildcards, instead of the format's own."
)
_flat = click.option(
    "--recursive/--no-recursive", default=True, show_default=True, help="Search folders below a folder."
)


class _Group(click.Group):
    """Turns errors that are to be expected (ours, and what the system refuses) into one line and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (AgentRolloutsError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agent-rollouts")
def main() -> None:
    """Coding-agent logs on disk become training data.

    SOURCE is a file, a folder, a glob, a .zip archive or an address (hf://, s3://, …). Without one, the
    default folders of the format are read, as far as they exist here (see `agent-rollouts formats`).
    """


@main.command("distill")
@_sources
@_format
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for the dataset.")
@click.option("--demo", is_flag=True, help="Read the invented sessions that come with the package.")
@click.option(
    "--history",
    default="segments",
    show_default=True,
    type=click.Choice(HISTORIES),
    help="A row per context window, the whole session in one row, or only the last context.",
)
@click.option("--internal", is_flag=True, help="Keep the agents' own housekeeping, such as summary writers.")
@click.option(
    "--families/--no-families",
    default=True,
    show_default=True,
    help="Train on a turn that several sessions hold in one of them only (files are read twice).",
)
@click.option(
    "--redact/--no-redact", default=True, show_default=True, help="Put placeholders in the place of secrets and names."
)
@click.option("--pii/--no-pii", default=True, show_default=True, help="Names in paths, e-mail and IP addresses too.")
@click.option("--redact-hosts", is_flag=True, help="Names of machines in private domains too.")
@click.option("--deny", multiple=True, metavar="WORD", help="A word of your own to take out; may be given again.")
@click.option(
    "--judge/--no-judge",
    default=True,
    show_default=True,
    help="Note the outcome that the log proves, and give weight 0 to turns not worth imitating.",
)
@click.option("--keep-failed-calls", is_flag=True, help="Train on calls that failed, too.")
@_pattern
@_flat
def _distill(
    source: Sequence[str],
    format: str,
    output: Path,
    demo: bool,
    history: str,
    internal: bool,
    families: bool,
    redact: bool,
    pii: bool,
    redact_hosts: bool,
    deny: tuple[str, ...],
    judge: bool,
    keep_failed_calls: bool,
    file_pattern: str | None,
    recursive: bool,
) -> None:
    """Write sessions as a dataset that TRL can train on.

    OUTPUT/data holds Parquet shards, OUTPUT/README.md a card; `load_dataset("OUTPUT")` reads them. The
    folder appears when everything is written, so that an interrupted run leaves no half dataset.
    """
    if demo and source:
        raise click.UsageError("--demo reads sessions of its own; leave SOURCE out")
    check_output(output)
    files = _files((str(DEMO),) if demo else source, format, file_pattern, recursive)
    report = Report()
    progress = functools.partial(datasets.utils.tqdm, unit=" files", desc="Distilling", disable=not sys.stderr.isatty())
    rows = distill(
        files,
        format=format,
        history=history,
        internal=internal,
        families=families,
        redactor=Redactor(pii=pii, hosts=redact_hosts, deny=deny) if redact else None,
        judge=judge,
        keep_failed_calls=keep_failed_calls,
        report=report,
        name_of=_shown,
        progress=progress,
    )

    def check(shards: Sequence[Path]) -> None:
        """Rules that still find something in what was written stop the run."""
        found = next(audit_files(shards, pii=pii, hosts=redact_hosts, deny=deny), None) if redact else None
        if found is not None:
            where = f"row {found.row}, column {found.column}: {found.kind} {found.masked}"
            raise AgentRolloutsError(f"redaction left something behind, and nothing was written: {where}")

    command = shlex.join(["agent-rollouts", *sys.argv[1:]])
    place = Path(os.path.abspath(output)).name  # `.` has a name too
    write_dataset(rows, output, SFT_FEATURES, report, version=__version__, command=command, place=place, check=check)
    _summary(report, output)


@main.command("inspect")
@_sources
@_format
@_pattern
@_flat
def _inspect(source: Sequence[str], format: str, file_pattern: str | None, recursive: bool) -> None:
    """Show what is in sessions: counts by format, dates, models, tools, and what is not used and why."""
    by_format: dict[str, Counter[str]] = {}
    models: Counter[str] = Counter()
    tools: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    dates: list[str] = []
    bad: list[str] = []
    rules = file_rules(format, file_pattern)
    files = _files(source, format, file_pattern, recursive)
    read = reader(files, format)
    for path in files:
        for rollout in each(path, read, _noting(bad), **rules):
            counts = by_format.setdefault(rollout.source_kind, Counter())
            skipped += rollout.skipped
            if not rollout:
                counts["without messages"] += 1
                continue
            counts["rollouts"] += 1
            counts["sub-agents"] += rollout.is_sidechain
            counts["internal"] += rollout.internal is not None
            counts["messages"] += len(rollout.messages)
            counts["tool calls"] += rollout.tool_call_count
            models.update(rollout.source_meta.get("models") or ["not said"])
            dates += [date[:10] for date in (rollout.started_at, rollout.ended_at) if date]
            tools.update(m["name"] for m in rollout.messages if m["role"] == "tool")
    for name, counts in sorted(by_format.items()):
        click.echo(f"{name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))
    click.echo(f"dates: {min(dates)} to {max(dates)}" if dates else "dates: none")
    for title, counted in (("models", models), ("tools with results", tools), ("not used", skipped)):
        _counts(title, counted)
    _bad_files(bad)


@main.command("audit")
@_sources
@_format
@click.option("-v", "--verbose", is_flag=True, help="Show the counts of each file, also of those in order.")
@_pattern
@_flat
def _audit(source: Sequence[str], format: str, verbose: bool, file_pattern: str | None, recursive: bool) -> None:
    """Compare rows with their files: every call, result, thought, picture and text is in a row or counted.

    One line for each thing that is not in order, and the totals. Exit status 1 when there is one, or a file that
    cannot be read.
    """
    total = FileAudit("", "")
    problems = files = 0
    bad: list[str] = []
    unread: list[FileAudit] = []

    def note(path: str, error: Exception) -> None:
        if isinstance(error, FormatError):
            bad.append(str(error))
        else:
            unread.append(FileAudit(path, "", problems=[f"cannot be read: {type(error).__name__}: {error}"]))

    for path in _files(source, format, file_pattern, recursive):
        audited = each(path, lambda found: [audit(found, format)], note, **file_rules(format, file_pattern))
        for found in chain(audited, unread):
            files += 1
            total.rollouts += found.rollouts
            total.raw += found.raw
            total.rows += found.rows
            total.skipped += found.skipped
            problems += bool(found.problems)
            for problem in found.problems:
                click.echo(f"{found.path}: {problem}")
            if verbose:
                click.echo(f"{found.path}: {found.rollouts:,} rollouts; {'; '.join(_balance(found))}")
        unread.clear()
    click.echo(f"{files:,} files, {total.rollouts:,} rollouts, {problems:,} files with problems")
    for line in _balance(total):
        click.echo(f"  {line}")
    _bad_files(bad)
    if problems:
        sys.exit(1)


@main.command("families")
@_sources
@_format
@click.option(
    "--history",
    default="full",
    show_default=True,
    type=click.Choice(HISTORIES),
    help="A whole session in one row, a row per context window, or only the last context.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that keeps what is known: only new and changed files are read, gone ones stay known.",
)
@_pattern
@_flat
def _families(
    source: Sequence[str],
    format: str,
    history: str,
    as_json: bool,
    state: Path | None,
    file_pattern: str | None,
    recursive: bool,
) -> None:
    """Show which sessions belong together, and which row owns which turns.

    Agents copy history into new files when a session is resumed, forked, branched or saved again. Each turn is
    owned by one row: the one that produced it, where the files tell, else the longest. The others keep it as
    context (messages before `owned_from`); rows that own nothing are left out of training data.
    """
    files = _files(source, format, file_pattern, recursive)
    known = Families.load(state) if state and state.exists() else Families()
    bad: list[str] = []
    read = reader(files, format, history=history)
    for path in files:
        # The rows of a file depend on how it is read.
        stamp = f"{history} {stamped(path)[1]}"
        if known.files.get(path) == stamp:
            continue
        known.forget(path)
        known.files[path] = stamp
        for rollout in each(path, read, _noting(bad), **file_rules(format, file_pattern)):
            if rollout and rollout.internal is None:
                known.add(vars(rollout))
    if state:
        known.save(state)
    verdicts = known.settle()
    if as_json:
        for record in records(verdicts):
            click.echo(json.dumps(record, ensure_ascii=False))
    else:
        for line in tree(verdicts):
            click.echo(line)
        removed = sum(verdict.owned_from is None for verdict in verdicts.values())
        click.echo(
            f"{len({verdict.family_id for verdict in verdicts.values()}):,} families, {len(verdicts):,} rows, "
            f"{removed:,} of them copies; {sum(verdict.turns for verdict in verdicts.values()):,} turns owned"
        )
    _bad_files(bad)


@main.command("formats")
def _formats() -> None:
    """List the formats, where their files lie by default, and whether that is so here."""
    for config in formats().values():
        click.echo(f"{config.name}: {config.title}, {config.homepage}")
        here = config.existing_roots()
        for root in config.roots:
            there = str(Path(root).expanduser()) in here
            click.echo(f"  {root} ({'is here' if there else 'not here'}), {' '.join(config.patterns)}")
        click.echo(f"  told by {config.recognised_by}")


def _files(source: Sequence[str], format: str, pattern: str | None, recursive: bool) -> list[str]:
    return find(list(source) or default_roots(format), **file_rules(format, pattern), recursive=recursive)


def _balance(found: FileAudit) -> list[str]:
    return [
        f"{kind}: {found.raw[kind]:,} in files, {found.rows[kind]:,} in rows, {found.counted(kind):,} skipped"
        for kind in KINDS
    ]


def _noting(bad: list[str]) -> Callable[[str, Exception], None]:
    return lambda path, error: bad.append(reason(path, error))


def _shown(path: str) -> str:
    """Paths of the demo as they lie in the package, so that its dataset is the same everywhere."""
    return path.replace(str(DEMO), "demo")


def _summary(report: Report, output: Path) -> None:
    click.echo(
        f"{report.files:,} files, {report.rollouts:,} rollouts -> {report.rows:,} rows: {report.messages:,} messages, "
        f"{report.tool_calls:,} tool calls, about {report.tokens:,} tokens (UTF-8 bytes / 4)"
    )
    _counts("rollouts left out", report.removed)
    _counts("parts of files not used", report.skipped)
    if report.untrained:
        click.echo(
            f"{report.untrained:,} assistant messages have weight 0; TRL trains on them all the same (see the card)"
        )
    if report.media:
        click.echo(f"{report.media:,} images and documents are not in these rows, which are text")
    _bad_files(list(report.bad_files.values()))
    if report.redacted:
        _counts("replaced by placeholders", report.redactions)
    else:
        click.echo(f"NOT REDACTED: whatever paths, names and keys the sessions hold is in {output}")
    _counts("outcomes", report.outcomes)
    click.echo(f'written: {output}; load it with load_dataset("{output}")')


def _counts(title: str, counts: Counter[str]) -> None:
    if counts:
        click.echo(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.most_common()))


def _bad_files(bad: list[str]) -> None:
    for why in bad[:10]:
        click.echo(f"left out: {why}", err=True)
    if len(bad) > 10:
        click.echo(f"left out: {len(bad) - 10} more files", err=True)
