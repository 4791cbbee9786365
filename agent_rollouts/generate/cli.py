"""`agent-rollouts generate`: the command line of generating. Thin over `runner.generate`."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.generate import config as configuration
from agent_rollouts.generate.runner import INTERRUPTED, Summary, generate, require_openai
from agent_rollouts.generate.sandbox import KINDS

_FLAGS = {
    "base_url": "api.base_url",
    "model": "api.model",
    "api_key_env": "api.api_key_env",
    "prompts": "prompts.source",
    "limit": "prompts.limit",
    "output": "output.folder",
    "tool": "agent.tools",
    "max_turns": "agent.max_turns",
    "sandbox": "workspace.sandbox",
    "image": "workspace.image",
    "concurrency": "processing.concurrency",
    "max_cost": "processing.max_cost",
}


@click.command("generate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--init", is_flag=True, help="Write a commented example to CONFIG (generate.yaml) and stop.")
@click.option("--base-url", help="Any OpenAI-compatible address, up to /v1.")
@click.option("--model", help="Name of the model.")
@click.option("--api-key-env", help="Environment variable, or line of .env, that holds the key.")
@click.option("--prompts", multiple=True, metavar="PATH", help="File or folder of prompts; may be given again.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many prompts.")
@click.option("--output", help="Folder for the sessions.")
@click.option("--tool", multiple=True, help="A tool to offer, in place of all; may be given again.")
@click.option("--max-turns", type=click.IntRange(min=1), help="Answers of the model in a session.")
@click.option("--sandbox", type=click.Choice(KINDS[:-1]), help="What commands run in.")
@click.option("--image", help="Image of the container.")
@click.option("--unsandboxed", is_flag=True, help="Let commands of the model do all that you may do.")
@click.option("--concurrency", type=click.IntRange(min=1), help="Sessions at once.")
@click.option("--max-cost", type=float, help="Stop when so many US dollars are spent.")
def command(config: Path | None, init: bool, unsandboxed: bool, **flags: object) -> None:
    """Let an agent work on prompts, and record its sessions whole.

    CONFIG is a YAML file; flags go before it. OUTPUT/sessions.jsonl holds what was completed, OUTPUT/failed.jsonl the
    rest. Run it again to go on where it stopped: what is on disk is not asked again.
    """
    if init:
        _init(config or Path("generate.yaml"))
        return
    require_openai()
    given = {_FLAGS[name]: value for name, value in flags.items() if value not in (None, ())}
    loaded = configuration.changed(configuration.load(config) if config else configuration.Config(), given)
    if unsandboxed:
        click.echo("NOT SANDBOXED: commands of the model can do all that you may do", err=True)
    with _logging(loaded.logging):
        try:
            summary = generate(loaded, unsandboxed=unsandboxed)
        except KeyboardInterrupt:
            os._exit(130)  # Python would wait for the threads, which wait for answers; lines are on disk
    _tell(summary, loaded)
    if summary.halted == INTERRUPTED:
        sys.exit(130)  # as shells say it


def _init(path: Path) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(configuration.example())
    except FileExistsError:
        raise AgentRolloutsError(f"{path} is there already") from None
    click.echo(f"written: {path}; set api.model and prompts.source, then: agent-rollouts generate {path}")


class _logging:
    """The package's log at a level, to a file or standard error, while a run goes."""

    def __init__(self, options: configuration.LoggingOptions) -> None:
        level = logging.getLevelName(options.level.upper())
        if not isinstance(level, int):
            raise AgentRolloutsError(
                f"logging.level: unknown level {options.level!r}; known: debug, info, warning, error"
            )
        self.logger = logging.getLogger("agent_rollouts")
        self.handler = logging.FileHandler(options.file) if options.file else logging.StreamHandler()
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.before, self.level = self.logger.level, level

    def __enter__(self) -> None:
        self.logger.setLevel(self.level)
        self.logger.addHandler(self.handler)

    def __exit__(self, *_: object) -> None:
        self.logger.removeHandler(self.handler)
        self.logger.setLevel(self.before)
        self.handler.close()


def _tell(summary: Summary, config: configuration.Config) -> None:
    meter = summary.meter
    click.echo(f"commands ran in: {summary.sandbox}")
    if summary.prompts:
        click.echo("prompts left out: " + ", ".join(f"{why} {count:,}" for why, count in summary.prompts.items()))
    ends = ", ".join(f"{stop} {count:,}" for stop, count in summary.ends.most_common()) or "none"
    click.echo(f"sessions: {ends}; {summary.already:,} were there already, {summary.left:,} left to do")
    cost = f"${meter.cost:.4f}" + (f" and {meter.unpriced:,} answers of unknown cost" if meter.unpriced else "")
    click.echo(f"{meter.requests:,} requests, {meter.input_tokens:,} + {meter.output_tokens:,} tokens, {cost}")
    for place in summary.kept[:5]:
        click.echo(f"kept: {place}")
    if len(summary.kept) > 5:
        click.echo(f"kept: {len(summary.kept) - 5:,} more folders")
    if config.output.hermes is not None:
        click.echo(f"written: {config.output.hermes} ({summary.hermes})")
    if summary.halted:
        click.echo(f"stopped: {summary.halted}; run it again to go on", err=True)
    click.echo(f'written: {config.output.folder}; load_rollouts("agentic_datagen", "{config.output.folder}")')
