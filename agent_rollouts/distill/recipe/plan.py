"""A recipe as data: steps that ask a model, and columns made of the answers. One YAML file; see those beside this one.

    about: what it makes
    shape: rollout                    # what it runs over: rollout (whole rows), or the name of a shape's records
    options: {least: 3}               # may be changed from outside, NAME=VALUE
    steps:
      - name: verdict                 # also the column with the whole answer
        model: judge                  # or writer, as without it
        skip: [{when: {call_state: [ok]}, answer: {score: 4}}]
        prompt: "Judge this: {{ rollout | digest_tokens }}"
        schema: {type: object, properties: {score: {type: integer, minimum: 0, maximum: 4}}}
    columns:
      score: {type: int, value: verdict.score, default: 0}
      good: {type: bool, all: [{value: score, at_least: least}]}

`{{ path }}` is a column, an earlier answer or a part of one; `{{ path | tokens }}` cuts it to so many, given as a
number or as the name of an option. `rollout` is the whole row within those tokens (`view`), `call_state` what the
result says of a tool call (`calls.STATES`, or `reported`: it failed, and did what it was for). A step that names an
answer which is null is not asked. Without a schema the answer is text. In a schema all members are required unless it
says otherwise; `x-max-words` and `x-without` (a list of texts) are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import yaml
from datasets import Features, Json, List, Value

from agent_rollouts.distill.calls import calls
from agent_rollouts.distill.recipe.answers import check_schema, problems
from agent_rollouts.distill.recipe.view import LEAST, clip, conversation
from agent_rollouts.distill.windows import BYTES_PER_TOKEN
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

FOLDER = Path(__file__).parent
MODELS = ("writer", "judge")
ROLLOUT = "rollout"
"""The shape of a recipe that runs over whole rows."""
REASONS = "recipe_errors"
"""The column that says, by step, why there is no answer."""

TYPES: Mapping[str, Any] = {
    "string": Value("string"), "int": Value("int64"), "float": Value("float64"), "bool": Value("bool"),
    "strings": List(Value("string")), "json": Json(),
}  # fmt: skip

_FIELD = re.compile(r"\{\{\s*([\w.]+)\s*(?:\|\s*(\w+)\s*)?\}\}")
_CLOSING = re.compile(r"</(\w+)>")
_TESTS = ("at_least", "one_of")


@dataclass(frozen=True)
class Skip:
    """Where nothing is asked: each path of `when` has one of its values. The texts of `answer` are templates."""

    when: Mapping[str, Sequence[JSON]]
    answer: JSON = None


@dataclass(frozen=True)
class Step:
    """One question."""

    name: str
    prompt: str
    system: str = ""
    model: str = "writer"
    schema: Mapping[str, JSON] | None = None
    skip: Sequence[Skip] = ()
    parameters: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def paths(self) -> set[str]:
        """What its templates name."""
        return {found[1] for found in _FIELD.finditer(self.system + self.prompt)}


@dataclass(frozen=True)
class Column:
    """A column: a path with a default where that is null, or whether all of some conditions hold."""

    type: str
    value: str | None = None
    default: JSON = None
    all: Sequence[Mapping[str, JSON]] = ()


@dataclass(frozen=True)
class Recipe:
    """Steps in their order, then columns in theirs."""

    name: str
    about: str
    shape: str
    steps: Sequence[Step]
    columns: Mapping[str, Column] = field(default_factory=dict)
    options: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def features(self) -> Features:
        """The columns that it adds: the steps' answers, its columns, and why there is no answer."""
        answers = {step.name: Value("string") if step.schema is None else Json() for step in self.steps}
        columns = {name: TYPES[column.type] for name, column in self.columns.items()}
        return Features({**answers, **columns, REASONS: Json()})

    def with_options(self, given: Sequence[str], **more: JSON) -> Recipe:
        """The recipe with other options, each as `NAME=VALUE`, the value as YAML.

        Raises:
            AgentRolloutsError: it has no such option, or the value is of another kind.
        """
        options = dict(self.options)
        for text in given:
            name, sign, value = text.partition("=")
            if not sign or name not in self.options:
                raise AgentRolloutsError(f"recipe {self.name} has no option {text!r}; NAME=VALUE of: {_list(options)}")
            options[name] = yaml.safe_load(value)
            if type(self.options[name]) is float and type(options[name]) is int:
                options[name] = float(options[name])
            if type(options[name]) is not type(self.options[name]):
                raise AgentRolloutsError(f"{text!r}: {name} is {type(self.options[name]).__name__}")
        return replace(self, options=options | more)


def built_in() -> list[str]:
    """The names of the recipes that come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Recipe:
    """A recipe by its name, or from a YAML file.

    Raises:
        AgentRolloutsError: there is none, or it does not hold together; the message says where.
    """
    path = FOLDER / f"{name}.yaml" if name in built_in() else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise AgentRolloutsError(f"no recipe {name!r}; known: {', '.join(built_in())}, or a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AgentRolloutsError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise AgentRolloutsError(f"{path}: a recipe is a mapping with steps")
    parts = _known(values, {"about", "shape", "steps", "columns", "options"}, str(path))
    if not isinstance(parts.get("steps"), list):
        raise AgentRolloutsError(f"{path}: steps must be a list of them")
    steps = [_step(value, f"{path}: step {i + 1}") for i, value in enumerate(parts["steps"])]
    columns = {
        column: Column(**_known(value, {"type", "value", "default", "all"}, f"{path}: column {column}", {"type"}))
        for column, value in (parts.get("columns") or {}).items()
    }
    recipe = Recipe(
        path.stem, parts.get("about", ""), parts.get("shape", ROLLOUT), steps, columns, parts.get("options") or {}
    )
    _check(recipe, str(path))
    return recipe


def scope(row: Mapping[str, Any], answers: Mapping[str, JSON], shown: Callable[[int], str]) -> dict[str, Any]:
    """What templates of a row may name; `shown` makes its view of so many tokens."""
    return {**row, **answers, "rollout": shown, "call_state": _call_state(row)}


def lookup(names: Mapping[str, Any], path: str) -> Any:
    """The value at a path, null where a part of it is null or lacks the member.

    Raises:
        AgentRolloutsError: its first part is neither a column nor a step.
    """
    first, *rest = path.split(".")
    if first not in names:
        raise AgentRolloutsError(f"the recipe names {path!r}, which rows do not have; they have {_list(names)}")
    value = names[first]
    for name in rest:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def render(template: str, names: Mapping[str, Any], options: Mapping[str, JSON]) -> str:
    """The template with its fields filled in.

    What is filled in cannot close a tag that the template closes, nor bring fields of its own.
    """
    closed = _CLOSING.findall(template)

    def put(found: re.Match[str]) -> str:
        path, tokens = found[1], found[2]
        limit = None if tokens is None else int(tokens) if tokens.isdigit() else options[tokens]
        text = _text(lookup(names, path), limit)
        for tag in closed:
            text = text.replace(f"</{tag}", f"<\\/{tag}")
        # The escapes are not counted: they are rare, and shorter than what the estimate is off.
        return text if limit is None else clip(text, limit * BYTES_PER_TOKEN)

    return _FIELD.sub(put, template).encode("utf-8", "replace").decode()


def skipped(step: Step, names: Mapping[str, Any], options: Mapping[str, JSON]) -> Skip | None:
    """The rule by which nothing is asked, its answer filled in."""
    for skip in step.skip:
        if all(lookup(names, path) in values for path, values in skip.when.items()):
            return replace(skip, answer=_filled(skip.answer, names, options))
    return None


def made(column: Column, names: Mapping[str, Any], options: Mapping[str, JSON]) -> JSON:
    """The value of a column."""
    if column.value is not None:
        value = lookup(names, column.value)
        return column.default if value is None else value
    return all(_holds(test, names, options) for test in column.all)


def _holds(test: Mapping[str, Any], names: Mapping[str, Any], options: Mapping[str, JSON]) -> bool:
    value = lookup(names, test["value"])
    kind = next(kind for kind in _TESTS if kind in test)
    against = options[test[kind]] if isinstance(test[kind], str) else test[kind]
    return value is not None and bool(value >= against if kind == "at_least" else value in against)


def _filled(value: JSON, names: Mapping[str, Any], options: Mapping[str, JSON]) -> JSON:
    if isinstance(value, dict):
        return {key: _filled(item, names, options) for key, item in value.items()}
    return render(value, names, options) if isinstance(value, str) else value


def _text(value: Any, tokens: int | None) -> str:
    if callable(value):
        return str(value(tokens if tokens is not None else LEAST))
    if value is None:
        return "(not known)"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and tokens is not None:
        messages = [_object(item) for item in value]
        if messages and all("role" in message for message in messages):
            return conversation(messages, tokens)
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    except TypeError:
        return exact_text(value)


def _call_state(row: Mapping[str, Any]) -> str | None:
    """What the result of a `tool_interactions` record says of its call; null for other rows."""
    call, result = _object(row.get("tool_call")), _object(row.get("tool_response"))
    if "function" not in call or "content" not in result:
        return None
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    found = calls({**row, "messages": [asked, {**result, "tool_call_id": call.get("id")}]})[0]
    return "reported" if found.reported else found.state


def _object(value: Any) -> dict[str, Any]:
    """The object, also where it is JSON text; an empty one where it is none."""
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}


# -- checking --------------------------------------------------------------------------------------


def _step(value: JSON, where: str) -> Step:
    names = {"name", "prompt", "system", "model", "schema", "skip", "parameters"}
    parts = _known(value, names, where, {"name", "prompt"})
    if parts.get("schema") is not None:
        parts["schema"] = check_schema(parts["schema"], f"{where}: schema")
    parts["skip"] = [
        Skip(**_known(skip, {"when", "answer"}, f"{where}: skip", {"when"})) for skip in parts.get("skip") or ()
    ]
    for skip in parts["skip"]:
        if skip.answer is not None and (wrong := problems(skip.answer, parts.get("schema") or {"type": "string"})):
            raise AgentRolloutsError(f"{where}: skip: {wrong}")
    if parts.get("model", "writer") not in MODELS:
        raise AgentRolloutsError(f"{where}: unknown model {parts['model']!r}; known: {', '.join(MODELS)}")
    return Step(**parts)


def _check(recipe: Recipe, where: str) -> None:
    """Hold names against each other."""
    if not recipe.steps:
        raise AgentRolloutsError(f"{where}: a recipe needs steps")
    later = [step.name for step in recipe.steps]
    if doubled := {name for name in [*later, *recipe.columns] if [*later, *recipe.columns].count(name) > 1}:
        raise AgentRolloutsError(f"{where}: {', '.join(sorted(doubled))} is there twice")
    options = {*recipe.options, "digest_tokens"}
    for step in recipe.steps:
        for path, tokens in _fields(step):
            if path.partition(".")[0] in later:
                raise AgentRolloutsError(f"{where}: step {step.name} names {path}, which is not answered before it")
            if tokens and not tokens.isdigit() and tokens not in options:
                raise AgentRolloutsError(f"{where}: step {step.name}: no option {tokens}; known: {_list(options)}")
        later.remove(step.name)
    for name, column in recipe.columns.items():
        if column.type not in TYPES or (column.value is None) == (not column.all):
            raise AgentRolloutsError(
                f"{where}: column {name} needs a type ({', '.join(TYPES)}) and either a value or all of some conditions"
            )
        for test in column.all:
            kinds = [kind for kind in _TESTS if kind in test]
            if set(test) != {"value", *kinds} or len(kinds) != 1:
                raise AgentRolloutsError(
                    f"{where}: column {name}: a condition is a value and one of {', '.join(_TESTS)}"
                )
            if isinstance(test[kinds[0]], str) and test[kinds[0]] not in options:
                raise AgentRolloutsError(f"{where}: column {name}: no option {test[kinds[0]]}; known: {_list(options)}")


def _fields(step: Step) -> Iterator[tuple[str, str | None]]:
    for found in _FIELD.finditer(step.system + step.prompt):
        yield found[1], found[2]
    for skip in step.skip:
        yield from ((path, None) for path in skip.when)


def _known(value: Any, names: set[str], where: str, needed: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise AgentRolloutsError(f"{where} must be a mapping of {_list(names)}")
    if unknown := set(value) - names:
        raise AgentRolloutsError(f"{where}: unknown {_list(unknown)}; known: {_list(names)}")
    if missing := (needed or set()) - set(value):
        raise AgentRolloutsError(f"{where} lacks {_list(missing)}")
    return dict(value)


def _list(names: Any) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
