"""A run: prompts, N sessions at once, until all are done, the money is spent, or somebody stops it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

from datasets.utils import tqdm

from agent_rollouts.errors import AgentRolloutsError, EndpointError, HaltedError
from agent_rollouts.generate import prompts, workspace
from agent_rollouts.generate.agent import Agent, Session
from agent_rollouts.generate.config import Config, read_env
from agent_rollouts.generate.prompts import Prompt
from agent_rollouts.generate.record import (
    Recorder,
    Secrets,
    check_hermes,
    record,
    run_id,
    session_ids,
    write_hermes,
)
from agent_rollouts.generate.sandbox import Limits, Sandbox, choose
from agent_rollouts.generate.search import Search, local_index
from agent_rollouts.generate.tools import Bench, Tool, function_of, offered
from agent_rollouts.llm import Endpoint, Meter, Prices

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted"
"""Why a run was halted, where its user did it."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        ends: how the sessions of this run ended, by `agent.STOPS`.
        already: sessions that were on disk before; left: those that were not begun, or are to be asked again.
        prompts: prompts left out, by reason; hermes: counts of the Hermes writer.
        kept: folders that were kept.
    """

    sandbox: str
    already: int = 0
    left: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    kept: list[str] = field(default_factory=list)
    hermes: dict[str, int] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    halted: str | None = None


def generate(config: Config, *, unsandboxed: bool = False) -> Summary:
    """Work on all prompts of a configuration that are not done yet, and record the sessions.

    Args:
        config: see `config.Config`.
        unsandboxed: let commands do all that the user may do.

    Raises:
        AgentRolloutsError: the configuration cannot be followed: no model, key, prompt or sandbox.
        EndpointError: the model cannot be asked; what was recorded stays.
    """
    for name, value in read_env(config.api.env_file).items():
        os.environ.setdefault(name, value)
    run = _Run(config, unsandboxed)
    with closing(run.agent.endpoint), Recorder(config.output.folder, clean=run.secrets) as recorder:
        summary = run.work(recorder)
        if config.output.hermes is not None:
            only = config.output.hermes_only_reasoning
            summary.hermes = write_hermes(config.output.folder, config.output.hermes, run.tools, only_reasoning=only)
    if run.broken is not None:
        raise run.broken
    return summary


class _Run:
    """What the sessions of a run share."""

    def __init__(self, config: Config, unsandboxed: bool) -> None:
        self.config = config
        if not config.api.model:
            raise AgentRolloutsError("no model: name one (api.model, --model)")
        if config.processing.concurrency < 1 or config.agent.max_turns < 1:
            raise AgentRolloutsError("processing.concurrency and agent.max_turns are 1 or more")
        if config.output.hermes is not None:
            check_hermes(config.output.hermes)
        self.secrets = Secrets(os.environ, always=[config.api.api_key_env])
        self.search = _search(config)
        self.tools: list[Tool] = offered(config.agent.tools, has_search=self.search is not None)
        self.limits = _limits(config)
        self.sandbox: Sandbox | None = None
        if any(tool.name == "run_command" for tool in self.tools):
            self.sandbox = choose("none" if unsandboxed else _sandboxed(config.workspace.sandbox), self.limits)
        self.counts: Counter[str] = Counter()
        self.prompts = list(session_ids(prompts.load(config.prompts, self.counts)))
        self.id = run_id(config, self.tools)
        self.meter = Meter(config.processing.max_cost)
        self.agent = Agent(
            _endpoint(config, self.meter), self.tools, config.agent, config.api.send_reasoning, self.secrets.of
        )
        # Not within the output: who reads that must not find what a model has written.
        self.folders = Path(config.workspace.root or f"{config.output.folder.rstrip('/')}-workspaces").absolute()
        output = Path(config.output.folder).absolute()
        if self.folders == output or output in self.folders.parents:
            raise AgentRolloutsError(f"workspace.root must not be within output.folder ({output})")
        self.broken: EndpointError | None = None
        self._counting = threading.Lock()

    def work(self, recorder: Recorder) -> Summary:
        done = recorder.done(self.id)
        todo = [(name, prompt) for name, prompt in self.prompts if name not in done]
        name = self.sandbox.name if self.sandbox else "no commands"
        summary = Summary(name, already=len(self.prompts) - len(todo), prompts=self.counts, meter=self.meter)
        logger.info("%d sessions to do, %d done; sandbox: %s", len(todo), summary.already, name)
        self.folders.mkdir(parents=True, exist_ok=True)
        shows = self.config.logging.progress and sys.stderr.isatty()
        with (
            tqdm(total=len(self.prompts), initial=summary.already, unit=" sessions", disable=not shows) as bar,
            ThreadPoolExecutor(self.config.processing.concurrency, thread_name_prefix="session") as pool,
        ):
            running = {pool.submit(self._session, name, prompt, recorder, summary) for name, prompt in todo}
            try:
                while running:
                    ended, running = wait(running, timeout=0.5)
                    for future in ended:
                        future.result()
                    bar.update(summary.already + sum(summary.ends.values()) - bar.n)
                    bar.set_postfix_str(self._spent())
            except BaseException as error:
                # Sessions end at their next step, and are asked again by the next run.
                self.meter.halt(INTERRUPTED if isinstance(error, KeyboardInterrupt) else f"failed: {error}")
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, KeyboardInterrupt):
                    raise
        with suppress(OSError):
            self.folders.rmdir()  # if none was kept
        summary.halted = self.meter.halted
        summary.left = len(todo) - sum(summary.ends.values())
        return summary

    def _spent(self) -> str:
        tokens = self.meter.input_tokens + self.meter.output_tokens
        return f"{tokens:,} tokens, ${self.meter.cost:.4f}{'+' if self.meter.unpriced else ''}"

    def _session(self, name: str, prompt: Prompt, recorder: Recorder, summary: Summary) -> None:
        """One session from its folder to its line; a fault of its own ends it alone."""
        if self.meter.halted:
            return
        session = Session()
        root = self.folders / name
        began = _now()
        is_begun = True
        try:
            self._run(prompt, root, session)
        except (EndpointError, HaltedError) as error:
            if isinstance(error, EndpointError):
                self.broken = self.broken or error
            is_begun = session.turns > 0
        except (AgentRolloutsError, OSError) as error:
            session.stop, session.error = "error", str(error)
        except Exception as error:
            logger.exception("session %s", name)
            session.stop, session.error, session.retryable = "error", f"{type(error).__name__}: {error}", True
        if session.error is not None:
            session.error = self.secrets.of(session.error)
        if is_begun:
            facts = {
                "model": session.models[-1] if session.models else self.config.api.model,
                "models": session.models,
                "sandbox": summary.sandbox,
                "prompt_source": prompt.source,
                "started_at": began,
                "ended_at": _now(),
            }
            line = record(prompt, session, self.tools, run=self.id, name=name, **facts)
            recorder.write(line)
            if not session.retryable:
                with self._counting:
                    summary.ends[line["metadata"]["stop"]] += 1
            logger.info("session %s: %s, %d turns %s", name, session.stop, session.turns, session.error or "")
        if is_begun and self._keeps(session):
            summary.kept.append(str(root))
        elif root.exists() and not workspace.remove(root):
            logger.warning("%s cannot be removed", root)
            summary.kept.append(str(root))

    def _run(self, prompt: Prompt, root: Path, session: Session) -> None:
        options = self.config.workspace
        start = prompt
        if prompt.folder is None and prompt.git_bundle is None:
            start = replace(prompt, folder=options.folder, git_bundle=options.git_bundle, git_ref=options.git_ref)
        workspace.create(root, folder=start.folder, git_bundle=start.git_bundle, git_ref=start.git_ref)
        place = workspace.Workspace(root, shown=self.sandbox.shown if self.sandbox else None)
        try:
            bench = Bench(place, self.sandbox, self.limits, self.search, options.output_chars)
            self.agent.run(prompt, bench, session)
        finally:
            place.close()

    def _keeps(self, session: Session) -> bool:
        options = self.config.workspace
        return options.keep_on_success if session.stop == "answered" else options.keep_on_error


def _sandboxed(kind: str) -> str:
    if kind == "none":
        raise AgentRolloutsError(
            "workspace.sandbox: none lets commands do all that you may do; say so with --unsandboxed"
        )
    return kind


def _limits(config: Config) -> Limits:
    options = config.workspace
    readable = tuple(os.path.abspath(os.path.expanduser(place)) for place in options.readable)
    return Limits(
        seconds=options.command_seconds,
        output_bytes=options.output_chars,
        network=options.network,
        readable=readable,
        image=options.image,
    )


def _endpoint(config: Config, meter: Meter) -> Endpoint:
    api = config.api
    if (api.input_price is None) != (api.output_price is None):
        raise AgentRolloutsError("api.input_price and api.output_price are given together")
    prices = None
    if api.input_price is not None and api.output_price is not None:
        prices = Prices(api.input_price, api.output_price)
    given = {"temperature": api.temperature, "top_p": api.top_p, "max_tokens": api.max_tokens}
    parameters = {**{key: value for key, value in given.items() if value is not None}, **api.parameters}
    return Endpoint(
        api.model,
        base_url=api.base_url,
        api_key_env=api.api_key_env,
        prices=prices,
        parameters=parameters,
        meter=meter,
        timeout=api.timeout,
        attempts=api.attempts,
    )


def _search(config: Config) -> Search | None:
    options = config.agent
    if "web_search" not in options.tools:
        return None
    if options.search is not None:
        return function_of(options.search)
    return local_index(options.search_index) if options.search_index is not None else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def require_openai() -> None:
    """Say at the start, and not in the first session, that the extra is missing.

    Raises:
        AgentRolloutsError: openai is not installed.
    """
    try:
        import_module("openai")
    except ImportError:
        raise AgentRolloutsError("generating needs openai: pip install 'agent-rollouts[llm]'") from None
