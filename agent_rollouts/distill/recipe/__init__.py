"""Recipes: columns that a language model writes, on any OpenAI-compatible endpoint.

    rows = run(rows, "sft", RecipeOptions(model="some-model", base_url="http://127.0.0.1:8000/v1"), report=report)

A recipe is data (`plan`); `sft`, `tool_interactions` and `sampled_turn` are there. Rows keep their order, and memory
holds a few times as many as are asked for at once. What a step could not get is null, and `recipe_errors` says why.
Only redacted rows are sent. Every answer is on disk before it is used: a run that was stopped goes on where it was, and
a second run asks nothing.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from agent_rollouts.distill.calls import Row
from agent_rollouts.distill.recipe.answers import Answer, Asker
from agent_rollouts.distill.recipe.plan import (
    MODELS,
    REASONS,
    ROLLOUT,
    Recipe,
    Step,
    built_in,
    load,
    lookup,
    made,
    render,
    scope,
    skipped,
)
from agent_rollouts.distill.recipe.view import LEAST, view
from agent_rollouts.errors import AgentRolloutsError, HaltedError
from agent_rollouts.llm import Cache, Endpoint, Meter, Prices, in_order

__all__ = ["ROLLOUT", "Recipe", "RecipeOptions", "Report", "built_in", "load", "run", "view"]

_KIND = re.compile(r"\d{3}\b|[^:]*")


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Options of a recipe."""

    recipe: Annotated[str | None, "Let a model write columns: sft, tool_interactions, sampled_turn, or a YAML file"] = (
        None
    )
    recipe_option: Annotated[tuple[str, ...], "An option of the recipe, as NAME=VALUE"] = ()
    model: Annotated[str | None, "The model that writes"] = None
    base_url: Annotated[str | None, "Its OpenAI-compatible address, up to /v1 (else OPENAI_BASE_URL, else OpenAI)"] = (
        None
    )
    api_key_env: Annotated[str, "The environment variable that holds its key"] = "OPENAI_API_KEY"
    judge_model: Annotated[str | None, "The model that judges, if another"] = None
    judge_base_url: Annotated[str | None, "Its address, if another; it then gets no key but its own"] = None
    judge_api_key_env: Annotated[str | None, "The environment variable that holds its key"] = None
    parameter: Annotated[tuple[str, ...], "A parameter of every request, as NAME=VALUE (temperature=0)"] = ()
    digest_tokens: Annotated[int, "Tokens of a whole rollout as the model is shown it"] = 6000
    concurrency: Annotated[int, "Requests at once"] = 8
    max_cost: Annotated[float | None, "Ask no more when this is spent, in US dollars; 0 takes what the cache has"] = (
        None
    )
    price_input: Annotated[float | None, "US dollars for a million tokens read; else what the server says"] = None
    price_output: Annotated[float | None, "US dollars for a million tokens written"] = None
    judge_price_input: Annotated[float | None, "The same of a judge that is another model"] = None
    judge_price_output: Annotated[float | None, "The same of a judge that is another model"] = None
    answers_file: Annotated[
        str | None, "File of the answers so far (else answers.sqlite in the user's cache folder)"
    ] = None
    send_unredacted: Annotated[bool, "Send rows that were not redacted"] = False

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            AgentRolloutsError: something does not.
        """
        if self.model is None:
            raise AgentRolloutsError("a recipe needs a model (model, and base_url unless it is OpenAI's)")
        if self.digest_tokens < LEAST:
            raise AgentRolloutsError(
                f"digest_tokens is {self.digest_tokens}; {LEAST} are the least that says something"
            )
        if self.concurrency < 1:
            raise AgentRolloutsError(f"concurrency is {self.concurrency}; it must be positive")
        of_judge = ("judge_api_key_env", "judge_price_input", "judge_price_output")
        given = [name for name in of_judge if getattr(self, name) is not None]
        if given and self.judge_model is None and self.judge_base_url is None:
            raise AgentRolloutsError(f"{given[0]} is for a judge of its own; name judge_model or judge_base_url")
        for prefix in ("", "judge_"):
            names = (f"{prefix}price_input", f"{prefix}price_output")
            if sum(getattr(self, name) is None for name in names) == 1:
                raise AgentRolloutsError(f"{' and '.join(names)} go together")


@dataclass
class Report:
    """What a run did; filled while rows are made.

    Attributes:
        rows, total: done, and to be done where that is known.
        answered, decided: answers by step, of a model, and by the recipe's rules without one.
        repaired: answers that were right only when they were sent back.
        failed: `step: reason` to count, of answers that are null.
        meter: requests, tokens and cost; answers from the cache cost nothing.
    """

    rows: int = 0
    total: int | None = None
    answered: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    meter: Meter = field(default_factory=Meter)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """At the pace until now."""
        if not self.total or not self.rows:
            return None
        return (time.monotonic() - self.began) / self.rows * max(0, self.total - self.rows)

    def as_dict(self) -> dict[str, Any]:
        """What is worth keeping."""
        meter = self.meter
        return {
            "rows": self.rows,
            "asked": meter.requests,
            "cached": meter.cached,
            "repaired": self.repaired,
            "answered": dict(self.answered),
            "decided_without_a_model": dict(self.decided),
            "failed": dict(self.failed),
            "tried_again": dict(meter.tries),
            "input_tokens": meter.input_tokens,
            "output_tokens": meter.output_tokens,
            "cost_usd": None if meter.unpriced else meter.cost,
            "stopped": meter.halted,
        }

    def line(self) -> str:
        """How far it is, for a progress bar."""
        meter, left = self.meter, self.seconds_left
        cost = f"${meter.cost:.4f}" if not meter.unpriced else "cost not known"
        parts = [
            f"{self.rows}/{self.total or '?'} rows",
            f"{meter.requests} asked, {meter.cached} cached",
            f"{meter.input_tokens:,}+{meter.output_tokens:,} tokens",
            cost,
            *([f"{sum(self.failed.values())} without an answer"] if self.failed else []),
            *([f"{left / 60:.0f} min left"] if left is not None else []),
        ]
        return ", ".join(parts)


def run(
    rows: Iterable[Row],
    recipe: Recipe | str,
    options: RecipeOptions,
    *,
    report: Report | None = None,
    progress: Callable[[Report], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """The rows in their order, each with the columns of `recipe.features`.

    Args:
        rows: of the recipe's shape (`Recipe.shape`), redacted.
        progress: called after each answer and each row, by several threads but one at a time.

    Raises:
        AgentRolloutsError: an option or the recipe is wrong, or a row is not redacted.
        EndpointError: an endpoint cannot be asked. What was answered is kept.
    """
    options.check()
    chosen = load(recipe) if isinstance(recipe, str) else recipe
    chosen = chosen.with_options(options.recipe_option, digest_tokens=options.digest_tokens)
    with closing(Cache(options.answers_file or default_cache())) as cache:
        work = _Work(chosen, options, cache, report or Report(), progress)
        with closing(work):
            yield from in_order(
                work.row,
                _sendable(rows, options),
                concurrency=options.concurrency,
                stop=lambda: work.meter.halt("stopped"),
            )


def default_cache() -> Path:
    """Where answers are kept unless it is said."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "agent-rollouts" / "answers.sqlite"


class _Work:
    """A recipe with its endpoints."""

    def __init__(
        self,
        recipe: Recipe,
        options: RecipeOptions,
        cache: Cache,
        report: Report,
        progress: Callable[[Report], None],
    ) -> None:
        self.recipe, self.report, self.progress = recipe, report, progress
        self.meter = report.meter
        self.meter.max_cost = options.max_cost
        self.askers = self._askers(options, cache)
        self._lock = threading.Lock()

    def close(self) -> None:
        for asker in self.askers.values():
            asker.endpoint.close()

    def row(self, row: Row) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        shown = functools.cache(functools.partial(view, row))
        for step in self.recipe.steps:
            answer = self._answer(step, scope(row, answers, shown))
            answers[step.name] = answer.value
            if answer.reason is not None:
                reasons[step.name] = answer.reason
            with self._lock:
                self.report.repaired += answer.reason is None and answer.repairs > 0
                self.progress(self.report)
        names = {**row, **answers}
        for name, column in self.recipe.columns.items():
            names[name] = made(column, names, self.recipe.options)
        with self._lock:
            self.report.rows += 1
            self.progress(self.report)
        return {**names, REASONS: reasons}

    def _answer(self, step: Step, names: Mapping[str, Any]) -> Answer:
        report, options = self.report, self.recipe.options
        if rule := skipped(step, names, options):
            with self._lock:
                report.decided[step.name] += 1
            return Answer(rule.answer)
        steps = {each.name for each in self.recipe.steps}
        if missing := sorted(p for p in step.paths if p.split(".")[0] in steps and lookup(names, p) is None):
            return self._failed(step, f"needs {', '.join(missing)}", "needs another answer")
        try:
            answer = self.askers[step.model].ask(
                step.name,
                render(step.system, names, options),
                render(step.prompt, names, options),
                step.schema,
                step.parameters,
            )
        except HaltedError as error:
            return self._failed(step, f"not asked: {error}", f"not asked: {error}")
        if answer.reason is not None:
            # The rest is the server's or the validator's own words, of which there are many.
            self._failed(step, answer.reason, _KIND.match(answer.reason)[0])  # type: ignore[index]
        else:
            with self._lock:
                report.answered[step.name] += 1
        return answer

    def _failed(self, step: Step, reason: str, kind: str) -> Answer:
        with self._lock:
            self.report.failed[f"{step.name}: {kind}"] += 1
        return Answer(None, reason)

    def _askers(self, options: RecipeOptions, cache: Cache) -> dict[str, Asker]:
        assert options.model is not None
        shared: dict[str, Any] = {
            "cache": cache,
            "meter": self.meter,
            "parameters": _parameters(options.parameter),
        }
        writer = Endpoint(
            options.model,
            base_url=options.base_url,
            api_key_env=options.api_key_env,
            prices=_prices(options.price_input, options.price_output),
            **shared,
        )
        if options.judge_model is None and options.judge_base_url is None:
            # One asker: what the endpoint can is learned once.
            return dict.fromkeys(MODELS, Asker(writer))
        # A key is for the address that it was given for.
        is_same = options.judge_base_url in (None, options.base_url)
        own_key = options.judge_api_key_env or (options.api_key_env if is_same else None)
        judge = Endpoint(
            options.judge_model or options.model,
            base_url=options.judge_base_url or options.base_url,
            api_key_env=own_key,
            prices=_prices(options.judge_price_input, options.judge_price_output),
            **shared,
        )
        return {"writer": Asker(writer), "judge": Asker(judge)}


def _sendable(rows: Iterable[Row], options: RecipeOptions) -> Iterator[Row]:
    for row in rows:
        if not row.get("redaction_policy") and not options.send_unredacted:
            raise AgentRolloutsError(
                f"row {row.get('trace_id')} of {row.get('source_path')} is not redacted; nothing of it was sent. "
                "Redact, or say send_unredacted"
            )
        yield row


def _prices(input: float | None, output: float | None) -> Prices | None:
    return None if input is None or output is None else Prices(input, output)


def _parameters(given: Iterable[str]) -> dict[str, Any]:
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise AgentRolloutsError(f"a parameter is NAME=VALUE, not {text!r}")
        found[name] = yaml.safe_load(value)
    return found
