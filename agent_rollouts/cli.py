"""The command line: `agent-rollouts distill | push | revoke | generate | inspect | families | redact | audit | …`.

Thin over the library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click
import datasets
import orjson
import pyarrow.parquet as pq

from agent_rollouts import __version__
from agent_rollouts.audit import KINDS, FileAudit, audit
from agent_rollouts.configs import file_rules, formats
from agent_rollouts.copies import reader
from agent_rollouts.distill import distill_files
from agent_rollouts.distill.decontaminate import write_fingerprints
from agent_rollouts.distill.families import Families, records, tree
from agent_rollouts.distill.funnel import Funnel
from agent_rollouts.distill.options import Field, Options, fields
from agent_rollouts.distill.redact import report
from agent_rollouts.distill.write import check_output
from agent_rollouts.errors import AgentRolloutsError, FormatError
from agent_rollouts.features import row
from agent_rollouts.generate.cli import command as generate
from agent_rollouts.loading import default_roots
from agent_rollouts.rollout import HISTORIES
from agent_rollouts.source import each, find, reason, stamped

if TYPE_CHECKING:
    from agent_rollouts.hub import Published

DEMO = Path(__file__).parent / "demo"
_PREVIEWED = 20

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


# As other tools call it.
_ALSO = {"limit": ("--num-records",)}


def _distilling(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for every option of distilling. One that is not given is None, so that a file's comes through."""
    for field in reversed(fields().values()):
        name = field.name.replace("_", "-")
        shown = f" [default: {_default(field)}]" if _default(field) else ""
        help = f"{field.help}{'; may be given again' if field.may_repeat else ''}.{shown}"
        if field.type is bool:
            command = click.option(f"--{name}/--no-{name}", default=None, help=help)(command)
        else:
            names = [f"--{name}", *_ALSO.get(field.name, ())]
            command = click.option(*names, field.name, type=field.type, multiple=field.may_repeat, help=help)(command)
    return command


def _default(field: Field) -> str:
    if field.type is bool and field.default is not None:
        return f"{'' if field.default else 'no-'}{field.name.replace('_', '-')}"
    return ", ".join(field.default) if field.may_repeat else "" if field.default is None else str(field.default)


def _pushing(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of a push."""
    for names, options in reversed(
        (
            (["--private/--public"], {"default": True, "help": "Who sees a new repository.  [default: private]"}),
            (["--create-pr"], {"is_flag": True, "help": "Open a pull request instead of changing the branch."}),
            (["--revision"], {"help": "Branch or pull request (refs/pr/1).  [default: main]"}),
            (["--config-name"], {"help": "Name of the config, where that is not to be its shape's."}),
            (["--commit-message"], {"help": "Message of the commit."}),
            (["--dry-run"], {"is_flag": True, "help": "Do all but send, and tell what would be sent."}),
        )
    ):
        command = click.option(*names, **options)(command)
    return command


@main.command("distill")
@_sources
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the dataset.")
@click.option("--push-to-hub", metavar="REPO", help="Dataset on the Hub (user/name): begin it, or add what is new.")
@click.option("--rebuild", is_flag=True, help="Push all anew, in the place of the dataset that is there.")
@_pushing
@click.option("--demo", is_flag=True, help="Read the invented sessions that come with the package.")
@click.option(
    "--preview", is_flag=True, help="Print one record of each shape, of the first rollouts, and write nothing."
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with any of the options below, as in `max_tokens: 32768`; flags come first.",
)
@_distilling
def _distill(
    source: Sequence[str],
    output: Path | None,
    push_to_hub: str | None,
    rebuild: bool,
    private: bool,
    create_pr: bool,
    revision: str | None,
    config_name: str | None,
    commit_message: str | None,
    dry_run: bool,
    demo: bool,
    preview: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Write sessions as a dataset that trainers take as it is.

    OUTPUT/<shape>/<split>-*.parquet holds the records, OUTPUT/README.md a card, OUTPUT/funnel.json the account of
    all that was removed; `load_dataset("OUTPUT")` reads them. The folder appears when everything is written and
    checked, so that an interrupted run leaves no half dataset.

    With --push-to-hub the dataset goes to the Hub, private unless --public is said. Run again, the command reads new
    and changed sessions alone and adds their rows; what is there stays, also when its files are gone here.
    """
    if demo and source:
        raise click.UsageError("--demo reads sessions of its own; leave SOURCE out")
    if (output is None and push_to_hub is None) != preview or (preview and push_to_hub):
        raise click.UsageError("give --output or --push-to-hub, or --preview instead")
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    options = Options.load(config, **given)
    if output is not None:
        check_output(output.absolute())
    files = _files((str(DEMO),) if demo else source, options.format, options.file_pattern, options.recursive)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if push_to_hub is not None:
        from agent_rollouts.hub import distill_to_hub

        done = distill_to_hub(
            files, options, push_to_hub, output=output, rebuild=rebuild, name_of=_shown, command=_command_line(),
            private=private, create_pr=create_pr, revision=revision, config_name=config_name,
            commit_message=commit_message, dry_run=dry_run,
        )  # fmt: skip
        if done.funnel is not None:
            _summary(done.funnel, options, None if done.added else output)
        if done.added and output is not None:
            click.echo(f"note: {output} is as it was; rows were added on the Hub alone", err=True)
        _published(done.published)
        return
    if output is None:
        _preview(files, options)
        return
    funnel = distill_files(files, output, options, name_of=_shown, command=_command_line())
    _summary(funnel, options, output)


@main.command("push")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("repo")
@_pushing
@click.option(
    "--pii/--no-pii", default=True, help="The audit looks for names, e-mail and IP addresses.  [default: pii]"
)
@click.option("--redact-hosts", is_flag=True, help="The audit looks for names of machines in private domains, too.")
@click.option("--deny", multiple=True, metavar="WORD", help="The audit looks for this word; may be given again.")
def _push(
    folder: Path,
    repo: str,
    private: bool,
    create_pr: bool,
    revision: str | None,
    config_name: str | None,
    commit_message: str | None,
    dry_run: bool,
    pii: bool,
    redact_hosts: bool,
    deny: tuple[str, ...],
) -> None:
    """Push a dataset that `distill` wrote to FOLDER to REPO on the Hub, in one commit, when no secret is found in it.

    Its splits take the place of those of the same name there; other configs, files and the text of others stay.
    """
    from agent_rollouts.hub import publish

    _published(
        publish(
            folder,
            repo,
            private=private,
            create_pr=create_pr,
            revision=revision,
            config_name=config_name,
            commit_message=commit_message,
            dry_run=dry_run,
            pii=pii,
            hosts=redact_hosts,
            deny=deny,
        )
    )


@main.command("revoke")
@click.argument("name", nargs=-1, required=True)
@click.option("--repo", required=True, help="Dataset on the Hub (user/name).")
@click.option("--revision", help="Branch or pull request (refs/pr/1).  [default: main]")
@click.option("--commit-message", help="Message of the commit.")
@click.option("--erase-history", is_flag=True, help="Earlier commits go, too, for everybody and for good.")
@click.option("--dry-run", is_flag=True, help="Only tell which rows would go.")
def _revoke(
    name: Sequence[str],
    repo: str,
    revision: str | None,
    commit_message: str | None,
    erase_history: bool,
    dry_run: bool,
) -> None:
    """Take all rows of traces or families (NAME: trace_id or family_id) out of a dataset on the Hub, for good.

    Later pushes leave them out, too.
    """
    from agent_rollouts.hub import revoke

    done = revoke(
        name, repo, revision=revision, commit_message=commit_message, erase_history=erase_history, dry_run=dry_run
    )
    for file, count in done.rows.items():
        click.echo(f"{'would go' if dry_run else 'gone'}: {count:,} rows of {file}")
    for notice in done.notices:
        click.echo(f"note: {notice}", err=True)
    click.echo(done.url)


def _published(done: Published) -> None:
    """What was sent, and where it is to be seen."""
    beside = done.sessions
    uploaded, deleted = dict(done.uploaded), list(done.deleted)
    if beside is not None:
        uploaded |= {f"{beside.repo_id}/{file}": size for file, size in beside.uploaded.items()}
        deleted += (f"{beside.repo_id}/{file}" for file in beside.deleted)
    for file, size in uploaded.items():
        click.echo(f"{'would be sent' if done.dry_run else 'sent'}: {file}, {size:,} bytes")
    for file in deleted:
        click.echo(f"{'would go' if done.dry_run else 'gone'}: {file}")
    for notice in done.notices:
        click.echo(f"note: {notice}", err=True)
    if done.revoked:
        click.echo(f"left out, since it was revoked there: {done.revoked:,} rows")
    if not uploaded and not deleted:
        click.echo("nothing is new: nothing was sent")
    seen = {True: ", private", False: ", public", None: ""}[done.private]
    click.echo(f"{done.url}{seen}{f', commit {done.commit[:7]}' if done.commit else ''}")


_SECRET_FLAGS = ("--deny", "--canary")


def _command_line() -> str:
    """The command as it was given, but for what nobody is to read."""
    words = ["agent-rollouts", *sys.argv[1:]]
    for place, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if flag in _SECRET_FLAGS and equals:
            words[place] = f"{flag}=..."
        elif place and words[place - 1] in _SECRET_FLAGS:
            words[place] = "..."
    return shlex.join(words)


def _preview(files: Sequence[str], options: Options) -> None:
    if options.limit is None:
        options = dataclasses.replace(options, limit=_PREVIEWED)
    with tempfile.TemporaryDirectory() as folder:
        funnel = distill_files(files, Path(folder) / "preview", options, name_of=_shown)
        for shape in options.shape:
            shards = sorted((Path(folder) / "preview" / shape).glob("*.parquet"))
            click.echo(f"{shape}:" if shards else f"{shape}: no record of the first {options.limit} rollouts")
            if shards:
                record = next(pq.ParquetFile(shards[0]).iter_batches(batch_size=1)).to_pylist()[0]
                told = {name: _told(value) for name, value in record.items()}
                click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    _bad_files(list(funnel.bad_files.values()))


def _told(value: object) -> object:
    """A stored value for the eye: JSON text as what it says."""
    if isinstance(value, list):
        return [_told(one) for one in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        with contextlib.suppress(ValueError):
            return orjson.loads(value)
    return value


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


@main.command("redact")
@_sources
@_format
@click.option("--report", "is_report", is_flag=True, help="Name each place, with the value masked.")
@click.option("--pii/--no-pii", default=True, help="Names in paths, e-mail and IP addresses, too.  [default: pii]")
@click.option("--redact-hosts", is_flag=True, help="Names of machines in private domains, too.")
@click.option("--deny", multiple=True, metavar="WORD", help="A word of your own; may be given again.")
@_pattern
@_flat
def _redact(
    source: Sequence[str],
    format: str,
    is_report: bool,
    pii: bool,
    redact_hosts: bool,
    deny: tuple[str, ...],
    file_pattern: str | None,
    recursive: bool,
) -> None:
    """Show what redaction would replace in sessions: kinds and counts, and no value in the clear.

    Nothing is written; `distill` redacts by itself.
    """
    files = _files(source, format, file_pattern, recursive)
    bad: list[str] = []
    read = reader(files, format)
    counts: Counter[str] = Counter()
    rows = 0
    for path in files:
        for rollout in each(path, read, _noting(bad), **file_rules(format, file_pattern)):
            rows += 1
            for place in report([row(rollout)], pii=pii, hosts=redact_hosts, deny=deny):
                counts[place.kind] += 1
                if is_report:
                    where = place.column if place.message is None else f"message {place.message}"
                    click.echo(f"{place.file}: {rollout.trace_id}, {where}: {place.kind} {place.masked}")
    _counts(f"{rows:,} rollouts", counts)
    if not counts:
        click.echo(f"{rows:,} rollouts: nothing found")
    _bad_files(bad)


@main.command("fingerprint")
@click.argument("benchmark_path", metavar="PATH", type=click.Path(exists=True))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="File for the fingerprints.")
@click.option("--benchmark", help="Its name in reports, instead of the path's last part.")
def _fingerprint(benchmark_path: str, output: Path, benchmark: str | None) -> None:
    """Make a file of fingerprints from a local copy of a benchmark, for `distill --decontaminate`.

    PATH holds Parquet, Arrow or JSON Lines files with columns as SWE-bench has them, or task folders. No text of
    the benchmark is in the file.
    """
    counts = write_fingerprints(benchmark_path, output, benchmark=benchmark)
    _counts(str(output), counts)


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


main.add_command(generate)


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


def _summary(funnel: Funnel, options: Options, output: Path | None) -> None:
    click.echo(funnel.text())
    files = funnel.counts.get("files", Counter())
    click.echo(f"{funnel.files:,} files: " + ", ".join(f"{count:,} {what}" for what, count in files.most_common()))
    rows = funnel.counts.get("rows", Counter())
    about, how = ("", "") if options.tokenizer else ("about ", " (estimated)")
    click.echo(
        f"{rows['rows']:,} rows of {rows['rollouts']:,} rollouts: {rows['messages']:,} messages, "
        f"{rows['tool calls']:,} tool calls, {about}{rows['tokens']:,} tokens{how}; "
        f"{rows['answers to train on']:,} answers to train on"
    )
    _counts("answers with weight 0", funnel.counts.get("weights", Counter()))
    _counts("parts of files not used", funnel.counts.get("skipped", Counter()))
    if rows["media"]:
        click.echo(f"{rows['media']:,} images and documents are not in these rows, which are text")
    _bad_files(list(funnel.bad_files.values()))
    if options.redact:
        _counts("replaced by placeholders", funnel.counts.get("redactions", Counter()))
    else:
        click.echo(f"NOT REDACTED: whatever paths, names and keys the sessions hold is in {output or 'the dataset'}")
    _counts("outcomes", funnel.counts.get("outcomes", Counter()))
    if told := funnel.recipe:
        cost = "at a cost that is not known" if told["cost_usd"] is None else f"for ${told['cost_usd']:.4f}"
        click.echo(f"recipe {told['recipe']}: {told['asked']:,} asked, {told['cached']:,} known before, {cost}")
        _counts("without an answer", Counter(told["failed"]))
    for shape in options.shape:
        _counts(f"records of {shape}", funnel.counts.get(f"records: {shape}", Counter()))
    for notice in funnel.notices[:10]:
        click.echo(f"note: {notice}", err=True)
    if output is not None:
        click.echo(f'written: {output}; load it with load_dataset("{output}")')


def _counts(title: str, counts: Counter[str]) -> None:
    if counts:
        click.echo(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.most_common()))


def _bad_files(bad: list[str]) -> None:
    for why in bad[:10]:
        click.echo(f"left out: {why}", err=True)
    if len(bad) > 10:
        click.echo(f"left out: {len(bad) - 10} more files", err=True)
