"""Options of distilling: one flat dataclass, of which the command's flags, a YAML file's keys and the docs are made.

    options = Options.load("distill.yaml", max_tokens=32768)     # the file, and what is said beside it

A field's annotation is its help text. Names are the same everywhere: `max_tokens`, `max_tokens:`, `--max-tokens`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

import yaml

from agent_rollouts.distill.card import CardOptions
from agent_rollouts.distill.filters import FilterOptions, Filters
from agent_rollouts.distill.recipe import ROLLOUT, RecipeOptions, load
from agent_rollouts.distill.sessions import SessionOptions
from agent_rollouts.distill.shapes import ShapeOptions, chosen
from agent_rollouts.distill.splits import EVIDENCE, check_partition, parse_splits
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.rollout import HISTORIES

_SHORTEST_CANARY = 16


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Which files are read, and how."""

    format: Annotated[str, "auto tells each file by its content; or a format's name (see `formats`)"] = "auto"
    history: Annotated[
        str, "segments: a row per context window; full: the whole session in one row; context: only the last window"
    ] = "segments"
    internal: Annotated[bool, "Keep the agents' own housekeeping, such as summary writers"] = False
    file_pattern: Annotated[str | None, "Names to read in folders, with * wildcards, not the format's own"] = None
    recursive: Annotated[bool, "Search folders below a folder"] = True


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which of the rollouts are taken, and in which order."""

    limit: Annotated[int | None, "Take only so many rollouts, the first ones or (with --shuffle) any"] = None
    shuffle: Annotated[bool, "Put rows in an order that is random, and the same for the same --seed"] = False
    partition_index: Annotated[int | None, "Take only this part of the families, counted from 0"] = None
    num_partitions: Annotated[int | None, "How many parts there are"] = None


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What is done with them."""

    families: Annotated[bool, "Train on a turn that several sessions hold in one of them (reads twice)"] = True
    redact: Annotated[bool, "Put placeholders in the place of secrets and names"] = True
    pii: Annotated[bool, "Take out names in paths, e-mail and IP addresses, too"] = True
    redact_hosts: Annotated[bool, "Take out names of machines in private domains, too"] = False
    deny: Annotated[tuple[str, ...], "A word of your own to take out"] = ()
    redaction_state: Annotated[str | None, "File that keeps which placeholder stands for what, for later runs"] = None
    evidence: Annotated[bool, "Note the outcome that the log proves"] = True
    weights: Annotated[bool, "Give weight 0 to turns not worth imitating"] = True
    keep_failed_calls: Annotated[bool, "Train on calls that failed, too"] = False
    decontaminate: Annotated[tuple[str, ...], "A file of a benchmark's fingerprints (see `fingerprint`)"] = ()
    canary: Annotated[tuple[str, ...], "A benchmark's canary GUID"] = ()
    contamination_share: Annotated[float, "How much of a statement's or test's 13-grams a row must show to match"] = 0.5
    max_tokens: Annotated[int | None, "Cut longer rows into windows of so many tokens, between steps"] = None
    overlap_steps: Annotated[int, "How many steps before its own a window shows at most, as context"] = 4
    shorten: Annotated[int | None, "Tokens a tool output keeps where a row is too long [an eighth of all]"] = None
    splits: Annotated[str | None, "Names and shares, as in train=0.98,test=0.02; without, all is in train"] = None
    split_by: Annotated[
        tuple[str, ...], f"What keeps rows in one split, of {', '.join(EVIDENCE)} [all that leave no split empty]"
    ] = ()
    splits_from: Annotated[str | None, "An earlier dataset, whose families stay where they are"] = None
    num_proc: Annotated[int, "Processes that work side by side; what is written is the same"] = 1


@dataclass(frozen=True, kw_only=True)
class Options(
    ReadingOptions, SampleOptions, FilterOptions, StageOptions, ShapeOptions, RecipeOptions, CardOptions, SessionOptions
):
    """All options. Every stage has its own fields; the defaults make a dataset that its owner can publish.

    Raises:
        AgentRolloutsError: a value that cannot be.
    """

    def __post_init__(self) -> None:
        if not self.shape or len(set(self.shape)) < len(self.shape):
            raise AgentRolloutsError(f"shape is {', '.join(self.shape) or 'empty'}; name one, or several once each")
        chosen(self)
        Filters(self)
        if self.recipe is not None:
            self._check_recipe(self.recipe)
        elif given := [f.name for f in dataclasses.fields(RecipeOptions) if getattr(self, f.name) != f.default]:
            raise AgentRolloutsError(f"{given[0]} says how a recipe is run; name the recipe")
        if self.outcome and not self.evidence:
            raise AgentRolloutsError("outcome asks for what evidence would tell, and evidence is off")
        if self.history not in HISTORIES:
            raise AgentRolloutsError(f"unknown history {self.history!r}; known: {', '.join(HISTORIES)}")
        check_partition(self.partition_index, self.num_partitions)
        if self.splits is not None:
            parse_splits(self.splits)
        if not self.redact and (self.deny or self.redact_hosts or self.redaction_state):
            raise AgentRolloutsError(
                "deny, redact_hosts and redaction_state say what is taken out and how, and redact is off"
            )
        if not 0 < self.contamination_share <= 1:
            raise AgentRolloutsError(
                f"contamination_share is {self.contamination_share}; it must be above 0 and at most 1"
            )
        if short := [canary for canary in self.canary if len(canary) < _SHORTEST_CANARY]:
            raise AgentRolloutsError(
                f"canary {short[0]!r} is no GUID: texts that are of no benchmark would hold it, too"
            )
        if self.keep_failed_calls and not self.weights:
            raise AgentRolloutsError("keep_failed_calls says how turns are weighed, and weights is off")
        for name in ("limit", "max_tokens", "shorten", "num_proc", "num_partitions"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise AgentRolloutsError(f"{name} is {value}; it must be 1 or more")
        if self.overlap_steps < 0:
            raise AgentRolloutsError(f"overlap_steps is {self.overlap_steps}; it must be 0 or more")
        if unknown := set(self.split_by) - set(EVIDENCE):
            raise AgentRolloutsError(f"unknown split_by {', '.join(sorted(unknown))}; known: {', '.join(EVIDENCE)}")
        if (self.split_by or self.splits_from) and self.splits is None:
            raise AgentRolloutsError("split_by and splits_from say how rows are split; give splits, too")

    def _check_recipe(self, name: str) -> None:
        self.check()
        recipe = load(name).with_options(self.recipe_option)
        if recipe.shape != ROLLOUT and recipe.shape not in self.shape:
            raise AgentRolloutsError(f"the recipe {name} runs over records of {recipe.shape}; add it to shape")
        if not self.redact and not self.send_unredacted:
            raise AgentRolloutsError(f"the recipe {name} sends rows to a model, and redact is off; or send_unredacted")

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, **given: Any) -> Options:
        """The options of a YAML file, and what is given beside it, which comes first.

        Raises:
            AgentRolloutsError: an unknown key, or a value of the wrong kind.
        """
        values: Any = {}
        if path is not None:
            try:
                values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise AgentRolloutsError(f"{path} is no YAML: {error}") from error
            if not isinstance(values, dict):
                raise AgentRolloutsError(f"{path}: wanted options as `key: value`, found a {type(values).__name__}")
        return cls.of(values, str(path)) if not given else cls.of({**values, **given}, str(path or "options"))

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "options") -> Options:
        """The options of a mapping, as a YAML file has them."""
        known = fields()
        if unknown := sorted(set(map(str, values)) - set(known)):
            raise AgentRolloutsError(f"{where}: unknown option {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**{name: _value(known[name], value, where) for name, value in values.items()})

    def to_yaml(self) -> str:
        """All options as YAML, the words of `deny` left out: they are what nobody is to read."""
        said = {name: getattr(self, name) for name in fields()}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}
        note = f"# {len(self.deny)} words of deny are not written here; give them again\n" if self.deny else ""
        return note + yaml.safe_dump({**values, "deny": []}, sort_keys=False, allow_unicode=True)


class Field(NamedTuple):
    """An option: its name, type (of the items, where it may be given again), default and help."""

    name: str
    type: type
    may_repeat: bool
    is_optional: bool
    default: Any
    help: str


@functools.cache
def fields() -> dict[str, Field]:
    """All options, in the order of their stages."""
    hints = typing.get_type_hints(Options, include_extras=True)
    found = {}
    groups = (
        ReadingOptions, SampleOptions, FilterOptions, StageOptions, ShapeOptions, RecipeOptions, CardOptions,
        SessionOptions,
    )  # fmt: skip
    for group in groups:
        for field in dataclasses.fields(group):
            annotated, help = typing.get_args(hints[field.name])
            kind, *others = sorted(_kinds(annotated), key=lambda one: one is type(None))
            may_repeat = typing.get_origin(kind) is tuple
            kind = typing.get_args(kind)[0] if may_repeat else kind
            found[field.name] = Field(field.name, kind, may_repeat, bool(others), field.default, help)
    return found


def _kinds(annotated: Any) -> tuple[Any, ...]:
    return typing.get_args(annotated) if typing.get_origin(annotated) in (Union, types.UnionType) else (annotated,)


def _value(field: Field, value: Any, where: str) -> Any:
    """A value as YAML has it, as the option wants it."""
    if value is None and field.is_optional:
        return None
    if field.may_repeat:
        listed = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
        return tuple(_one(field, one, where) for one in listed)
    return _one(field, value, where)


def _one(field: Field, value: Any, where: str) -> Any:
    if field.name == "splits" and isinstance(value, dict):
        return ",".join(f"{name}={share}" for name, share in value.items())
    if field.type is str and isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # True is an int to Python.
    if not isinstance(value, field.type) or (field.type is int and isinstance(value, bool)):
        wanted = f"{'a list of ' if field.may_repeat else ''}{field.type.__name__}"
        raise AgentRolloutsError(f"{where}: {field.name} is {value!r}; wanted {wanted}")
    return value
