"""What `agent-rollouts generate` is told: seven sections, from a YAML file, flags above it.

The fields below are the one source of the file's keys, of the flags, and of the commented example that `--init` writes.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.generate.sandbox import KINDS
from agent_rollouts.generate.tools import TOOLS

SYSTEM_PROMPT = (
    "You are a coding agent. You work in a folder, with tools that read, write and search its files and run commands "
    "in it. Paths are relative to that folder. Look before you change things, check what you did, and when the task "
    "is done, answer without calling a tool."
)


@dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """The model, and where it is."""

    model: Annotated[str, "Name of the model"] = ""
    base_url: Annotated[str | None, "Any OpenAI-compatible address, up to /v1; without one OPENAI_BASE_URL"] = None
    api_key_env: Annotated[str | None, "Environment variable (or line of .env) that holds the key; null sends none"] = (
        "OPENAI_API_KEY"
    )
    env_file: Annotated[str, "File of NAME=value lines; what is in the environment already goes before it"] = ".env"
    timeout: Annotated[float, "Seconds that an answer may take"] = 600.0
    attempts: Annotated[int, "How often a request is made while the server refuses it for the moment"] = 8
    temperature: Annotated[float | None, "Sampling temperature; null leaves it to the server"] = None
    top_p: Annotated[float | None, "Nucleus sampling; null leaves it to the server"] = None
    max_tokens: Annotated[int | None, "Tokens of one answer; null leaves it to the server"] = None
    parameters: Annotated[Mapping[str, JSON], "Whatever else a request holds, such as reasoning_effort"] = field(
        default_factory=dict
    )
    input_price: Annotated[float | None, "US dollars for a million input tokens; null takes the server's word"] = None
    output_price: Annotated[float | None, "US dollars for a million output tokens"] = None
    send_reasoning: Annotated[bool, "Send the model its reasoning of earlier turns, as many reasoning models need"] = (
        True
    )


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What the agent is asked."""

    source: Annotated[tuple[str, ...], "Files (.txt, .jsonl, .json, .md) and folders of numbered .md files"] = ()
    dataset: Annotated[str | None, "A dataset of the Hub, or a folder of one"] = None
    dataset_config: Annotated[str | None, "Its configuration"] = None
    dataset_split: Annotated[str, "Its split"] = "train"
    column: Annotated[str | None, "Its column; without one prompt, input, question, task, query or messages"] = None
    limit: Annotated[int | None, "At most so many prompts, the first ones"] = None
    deduplicate: Annotated[bool, "Leave out prompts that were there already"] = True
    min_chars: Annotated[int | None, "Only prompts of at least so many characters"] = None
    max_chars: Annotated[int | None, "Only prompts of at most so many characters"] = None
    include: Annotated[str | None, "Only prompts in which this regular expression finds something"] = None
    exclude: Annotated[str | None, "Only prompts in which this regular expression finds nothing"] = None


@dataclass(frozen=True, kw_only=True)
class WorkspaceOptions:
    """The folder that each session has, and how commands run in it."""

    root: Annotated[str | None, "Where the folders are made; null makes OUTPUT-workspaces"] = None
    folder: Annotated[str | None, "Folder that every session starts from, unless its prompt names one"] = None
    git_bundle: Annotated[str | None, "Git bundle that every session starts from, unless its prompt names one"] = None
    git_ref: Annotated[str | None, "What to check out of it; null is its HEAD"] = None
    keep_on_success: Annotated[bool, "Keep the folder of a session that completed"] = False
    keep_on_error: Annotated[bool, "Keep the folder of one that did not"] = True
    sandbox: Annotated[str, f"What commands run in: {', '.join(KINDS)}"] = "auto"
    image: Annotated[str | None, "Image of the container"] = None
    network: Annotated[bool, "Let commands use the network"] = False
    readable: Annotated[tuple[str, ...], "Folders that commands may read, beside the system's (a toolchain)"] = ()
    command_seconds: Annotated[float, "Time limit of a command"] = 30.0
    output_chars: Annotated[int, "How much of a tool's result the model sees"] = 30_000


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """What the agent is and may do."""

    system_prompt: Annotated[str | None, "The system message; null sends none"] = SYSTEM_PROMPT
    tools: Annotated[
        tuple[str, ...], "Tools to offer; your own as file.py:function. web_search needs search_index or search"
    ] = tuple(TOOLS)
    search_index: Annotated[str | None, "Documents that web_search finds: a .jsonl of {title, url, text}, a folder"] = (
        None
    )
    search: Annotated[str | None, "Function that searches, as file.py:function: (query, count) -> list of Page"] = None
    max_turns: Annotated[int, "Answers of the model in a session"] = 50
    max_seconds: Annotated[float | None, "Time of a session, looked at between turns"] = None
    max_session_tokens: Annotated[int | None, "Tokens of a session, input and output, looked at between turns"] = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where sessions are written."""

    folder: Annotated[str, "Holds sessions.jsonl, and failed.jsonl with those that did not complete"] = "rollouts"
    hermes: Annotated[
        str | None, "Folder for the sessions as Hermes Agent's batch runner writes them, at the end of the run"
    ] = None
    hermes_only_reasoning: Annotated[bool, "Leave sessions without any reasoning out of that"] = False


@dataclass(frozen=True, kw_only=True)
class ProcessingOptions:
    """How the run goes."""

    concurrency: Annotated[int, "Sessions at once"] = 4
    max_cost: Annotated[float | None, "Stop when so many US dollars are spent in this run"] = None


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """What is told while it goes; keys never are."""

    level: Annotated[str, "debug, info, warning or error"] = "warning"
    file: Annotated[str | None, "File to write it to; null writes to standard error"] = None
    progress: Annotated[bool, "Show a progress bar"] = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections."""

    api: ApiOptions = ApiOptions()
    prompts: PromptOptions = PromptOptions()
    workspace: WorkspaceOptions = WorkspaceOptions()
    agent: AgentOptions = AgentOptions()
    output: OutputOptions = OutputOptions()
    processing: ProcessingOptions = ProcessingOptions()
    logging: LoggingOptions = LoggingOptions()


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration of a YAML file.

    Raises:
        AgentRolloutsError: no such file, no YAML, an unknown key, or a value of the wrong type; the key is named.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AgentRolloutsError(f"{path}: {error.strerror}; `agent-rollouts generate --init` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AgentRolloutsError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    config = _made(Config, {} if data is None else data, str(path))
    return typing.cast(Config, config)


def changed(config: Config, values: Mapping[str, JSON]) -> Config:
    """The configuration with values such as `{"api.model": …}` in place of its own.

    Raises:
        AgentRolloutsError: as `load`.
    """
    for key, value in values.items():
        section, _, name = key.partition(".")
        part = getattr(config, section)
        kinds = {f.name: hint for f, hint, _ in described(type(part))}
        config = replace(config, **{section: replace(part, **{name: _checked(kinds[name], value, key)})})
    return config


def described(of: type) -> Iterator[tuple[Any, Any, str]]:
    """Field, type and help of every option of a section."""
    hints = typing.get_type_hints(of, include_extras=True)
    for item in fields(of):
        hint, *notes = typing.get_args(hints[item.name])
        yield item, hint, notes[0]


def example() -> str:
    """A YAML file with every key, its default and what it is for."""
    lines = ["# For `agent-rollouts generate`. Every key may be left out, except api.model and a source of prompts."]
    for section in fields(Config):
        options = getattr(Config(), section.name)
        lines += ["", f"# {(type(options).__doc__ or '').strip()}", f"{section.name}:"]
        for item, _, note in described(type(options)):
            value = getattr(options, item.name)
            value = list(value) if isinstance(value, tuple) else value
            text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
            lines += [f"  # {note}.", f"  {item.name}: {text.removesuffix('...' + chr(10)).strip()}"]
    return "\n".join(lines) + "\n"


def read_env(path: str) -> dict[str, str]:
    """The NAME=value lines of a file, `export` and quotes taken off; nothing where there is none."""
    found = {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for line in text.split("\n"):
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        value = value.strip()
        if not equals or name.lstrip().startswith("#"):
            continue
        if value[:1] in ('"', "'") and value.endswith(value[:1]) and len(value) > 1:
            value = value[1:-1]
        elif " #" in value:
            value = value.partition(" #")[0].rstrip()
        found[name.strip()] = value
    return found


def _made(of: type, data: JSON, place: str) -> Any:
    if not isinstance(data, dict):
        raise AgentRolloutsError(f"{place}: must hold keys ({', '.join(f.name for f in fields(of))})")
    known = {f.name: f for f in fields(of)}
    if unknown := [key for key in data if key not in known]:
        raise AgentRolloutsError(f"{place}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    if not issubclass(of, Config):
        kinds = {item.name: hint for item, hint, _ in described(of)}
        return of(**{key: _checked(kinds[key], value, f"{place}.{key}") for key, value in data.items()})
    sections = {}
    for name, value in data.items():
        kind = known[name].default.__class__
        assert is_dataclass(kind)
        sections[name] = _made(kind, {} if value is None else value, f"{place}: {name}")
    return of(**sections)


def _checked(hint: Any, value: JSON, place: str) -> Any:
    """The value, if its type is that of the option."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        if kind is type(None) and value is None:
            return None
        if kind is float and type(value) in (int, float):
            return float(value)
        if kind in (str, int, bool) and type(value) is kind:
            return value
        if typing.get_origin(kind) is tuple:
            listed = [value] if isinstance(value, str) else value
            if isinstance(listed, (list, tuple)) and all(isinstance(item, str) for item in listed):
                return tuple(listed)
        if kind not in (str, int, bool, float, type(None)) and isinstance(value, dict):
            return value
    names = {type(None): "null", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    wanted = [names.get(kind, "a list of texts" if typing.get_origin(kind) is tuple else "keys") for kind in kinds]
    raise AgentRolloutsError(f"{place}: must be {' or '.join(wanted)}, not {value!r:.80}")
