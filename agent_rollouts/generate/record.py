"""Sessions on disk: one line each, whole, as the format `agentic_datagen` reads it.

    {"prompt": "…", "tools": […], "messages": [{"role": "system", …}, {"role": "user", …}, {"role": "assistant",
     "content": "…", "reasoning_content": "…", "tool_calls": [{"id": …, "function": {"name": …, "arguments": {…}}}]},
     {"role": "tool", "content": "…", "tool_call_id": …, "name": …, "is_error": false}, …],
     "metadata": {"prompt_id": …, "run_id": …, "session_id": …, "turns": 3, "completed": true, "tool_calls_count": 2,
     "error": null, "retryable": false, "stop": "answered", "model": …, …}, "usage": {"prompt_tokens": …, "cost": …}}

`sessions.jsonl` holds those that completed, `failed.jsonl` the others. `run_id` is a hash of model and configuration,
`session_id` one of the prompt: what is on disk tells what is done, and nothing else does. A line is written at once
and is on disk when `write` returns; what a kill tore is cut off by the next run. A retryable failure is asked again,
and its line goes then.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import re2

from agent_rollouts import jsontext
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import read
from agent_rollouts.generate.agent import Session
from agent_rollouts.generate.config import Config
from agent_rollouts.generate.prompts import Prompt
from agent_rollouts.generate.tools import Tool
from agent_rollouts.source import Source

logger = logging.getLogger(__name__)

SESSIONS, FAILED = "sessions.jsonl", "failed.jsonl"
_LOCK = ".lock"
_FORMAT = "agentic_datagen"

# Options that change how a run goes, and not what a session is.
_OUTSIDE = frozenset(
    {
        *(f"api.{name}" for name in ("base_url", "api_key_env", "env_file", "timeout", "attempts")),
        *(f"api.{name}" for name in ("input_price", "output_price")),
        *(f"workspace.{name}" for name in ("root", "keep_on_success", "keep_on_error")),
    }
)
_SECRET = re2.compile(r"(?i)key|token|secret|passw|credential|auth|cookie")
_MARK = ".agent-rollouts"


def run_id(config: Config, tools: Sequence[Tool]) -> str:
    """A hash of all that makes sessions of the same prompts the same: model, configuration, tools."""
    made_of: list[JSON] = [[tool.schema for tool in tools]]
    for section in ("api", "workspace", "agent"):
        options = asdict(getattr(config, section))
        made_of.append({key: value for key, value in options.items() if f"{section}.{key}" not in _OUTSIDE})
    return _id(orjson.dumps(made_of, option=orjson.OPT_SORT_KEYS))


def session_ids(prompts: Iterable[Prompt]) -> Iterator[tuple[str, Prompt]]:
    """Each prompt with a hash of it, and of its number among those like it."""
    seen: dict[str, int] = {}
    for prompt in prompts:
        number = seen[prompt.digest] = seen.get(prompt.digest, 0) + 1
        made_of = prompt.digest if number == 1 else f"{prompt.digest} {number}"
        yield _id(made_of.encode()), prompt


def record(
    prompt: Prompt, session: Session, tools: Sequence[Tool], *, run: str, name: str, **more: JSON
) -> dict[str, JSON]:
    """The line of a session, which is held against the format before it is given.

    Args:
        more: further metadata.
    """
    usage = session.usage
    line: dict[str, JSON] = {
        "prompt": prompt.text,
        "tools": [tool.schema for tool in tools],
        "messages": session.messages,
        "metadata": {
            "prompt_id": _id(prompt.digest.encode()),
            "run_id": run,
            "session_id": name,
            "turns": session.turns,
            "completed": session.stop == "answered",
            "tool_calls_count": session.calls,
            "error": session.error,
            "retryable": session.retryable,
            "stop": session.stop,
            **more,
        },
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "cost": session.cost,
        },
    }
    try:
        check(line)
    except ValueError as error:
        logger.error("session %s is recorded as failed, as it is not valid: %s", name, error)
        line["metadata"] |= {"completed": False, "stop": "error", "error": f"not valid: {error}"}
    return line


def check(line: Mapping[str, JSON]) -> None:
    """Hold a line against the format: calls and results are paired, and our decoder reads the very messages.

    Raises:
        AgentRolloutsError: what is wrong.
    """
    messages: list[dict[str, JSON]] = line["messages"]
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if not open_calls or message["tool_call_id"] != open_calls.pop(0):
                raise AgentRolloutsError("a result without its call")
            continue
        if open_calls:
            raise AgentRolloutsError("a call without a result")
        open_calls = [call["id"] for call in message.get("tool_calls", ())]
    if open_calls:
        raise AgentRolloutsError("a call without a result")
    (rollout,) = list(read(Source("line.jsonl", _bytes(line)), _FORMAT))
    if rollout.skipped:
        raise AgentRolloutsError(f"the decoder skips {dict(rollout.skipped)}")
    found = row(rollout)["messages"]
    if [m["role"] for m in found] != [m["role"] for m in messages]:
        raise AgentRolloutsError("the decoder reads other messages")
    for ours, theirs in zip(messages, found, strict=True):
        check_message(theirs)
        for key in ("tool_call_id", "tool_calls", "is_error"):
            if ours.get(key) != theirs.get(key):
                raise AgentRolloutsError(f"the decoder reads other {key}")


class Recorder:
    """The files of a run, which one process may write at a time.

    Args:
        folder: made if it is not there.
        clean: takes secrets out of a line.

    Raises:
        AgentRolloutsError: another run writes there.
    """

    def __init__(self, folder: str | os.PathLike[str], *, clean: Secrets | None = None) -> None:
        self.folder = Path(folder)
        self._clean = clean or Secrets({})
        self._mutex = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise AgentRolloutsError(
                f"another run writes to {self.folder}; wait for it, or name another folder"
            ) from None
        for name in (SESSIONS, FAILED):
            _heal(self.folder / name)
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._lock.close()

    def done(self, run: str) -> set[str]:
        """Ids of the sessions of a run that need not be asked again; lines of those that do are removed."""
        found = {metadata["session_id"] for metadata in _metadata(self.folder / SESSIONS) if metadata["run_id"] == run}
        again: set[str] = set()
        for metadata in _metadata(self.folder / FAILED):
            if metadata["run_id"] == run:
                (again if metadata.get("retryable") else found).add(metadata["session_id"])
        if again:
            self._forget(run, again)
        return found

    def write(self, line: Mapping[str, JSON]) -> None:
        """Append a session to its file; it is on disk when this returns."""
        name = SESSIONS if line["metadata"]["completed"] else FAILED
        metadata = line["metadata"]
        said = {key: self._clean.of_value(line[key]) for key in ("prompt", "messages")}
        noted = {key: self._clean.of_value(metadata[key]) for key in ("error", "prompt_source") if key in metadata}
        data = _bytes({**line, **said, "metadata": {**metadata, **noted}}) + b"\n"
        with self._mutex:
            if name not in self._files:
                self._files[name] = (self.folder / name).open("ab", buffering=0)
            file = self._files[name]
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())

    def _forget(self, run: str, sessions: set[str]) -> None:
        path = self.folder / FAILED
        part = path.with_suffix(".part")
        with path.open("rb") as old, part.open("wb") as new:
            for line in old:
                metadata = _parsed(line)
                if metadata is None or metadata["run_id"] != run or metadata["session_id"] not in sessions:
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
            new_size = new.tell()
        if new_size:
            part.replace(path)
        else:
            part.unlink()
            path.unlink()


class Secrets:
    """Values that must not get out, and the names to put in their place.

    Args:
        environ: variables; taken are those that are called like a secret (key, token, password, …) and look like one.
        always: names of variables to take whatever they look like.
    """

    def __init__(self, environ: Mapping[str, str], always: Iterable[str | None] = ()) -> None:
        self.values: dict[str, str] = {}
        for name, value in environ.items():
            looks_like_one = len(value) >= 12 or (len(value) >= 8 and any(letter.isdigit() for letter in value))
            is_secret = _SECRET.search(name) and looks_like_one and not os.path.isabs(value)
            if is_secret or (name in always and value):
                self.values[value] = f"[{name}]"
        # The longer first, as one may hold another.
        self._ordered = sorted(self.values.items(), key=lambda item: -len(item[0]))

    def of(self, text: str) -> str:
        """The text with names in the place of values."""
        for value, name in self._ordered:
            text = text.replace(value, name)
        return text

    def of_value(self, value: JSON) -> JSON:
        """The same for every text in a value."""
        if isinstance(value, str):
            return self.of(value)
        if isinstance(value, list):
            return [self.of_value(item) for item in value]
        if isinstance(value, dict):
            return {self.of(key): self.of_value(item) for key, item in value.items()}
        return value


def write_hermes(
    folder: str | os.PathLike[str], target: str | os.PathLike[str], tools: Sequence[Tool], *, only_reasoning: bool
) -> dict[str, int]:
    """Write the sessions of `folder` as Hermes Agent's batch runner does, in place of what was written there before.

    Raises:
        AgentRolloutsError: see `check_hermes`.
    """
    # One place, as the writer is not needed where nobody asks for it.
    from agent_rollouts.distill.shapes.hermes import FAILED as HERMES_FAILED
    from agent_rollouts.distill.shapes.hermes import SAMPLES, write_trajectories

    check_hermes(target)
    place = Path(target)
    place.mkdir(parents=True, exist_ok=True)
    (place / _MARK).touch()
    for name in (SAMPLES, HERMES_FAILED):
        (place / name).unlink(missing_ok=True)
    rows: Iterator[dict[str, Any]] = (
        row(rollout)
        for name in (SESSIONS, FAILED)
        if (path := Path(folder, name)).exists() and path.stat().st_size
        for rollout in read(Source(str(path)), _FORMAT)
    )
    names = [tool.name for tool in tools]
    return dict(write_trajectories(rows, place, known_tools=names, drop_without_reasoning=only_reasoning))


def check_hermes(target: str | os.PathLike[str]) -> None:
    """Make sure that nothing but our own files is written over.

    Raises:
        AgentRolloutsError: the folder holds something else.
    """
    place = Path(target)
    if place.is_dir() and any(place.iterdir()) and not (place / _MARK).exists():
        raise AgentRolloutsError(f"{place} holds files that this program did not write; name another folder")


def _id(data: bytes) -> str:
    """A hash that looks like an id and not, as redaction has it, like a secret."""
    return str(uuid.UUID(hashlib.sha256(data).hexdigest()[:32], version=5))


def _heal(path: Path) -> None:
    """Cut off what stands behind the last line break: a line that was being written when the program was killed."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = at = file.seek(0, os.SEEK_END)
        while at:
            start = max(0, at - (1 << 16))
            file.seek(start)
            found = file.read(at - start).rfind(b"\n")
            at = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        if at < end:
            logger.warning("%s: %d bytes of a line that was cut off are removed", path, end - at)
            file.truncate(at)
            os.fsync(file.fileno())
    if not at:
        path.unlink()  # an empty file would be of no format


def _metadata(path: Path) -> Iterator[dict[str, JSON]]:
    with suppress(FileNotFoundError), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if (found := _parsed(line)) is None:
                raise AgentRolloutsError(f"{path}:{number} is no session of ours; name another folder")
            yield found


def _parsed(line: bytes) -> dict[str, JSON] | None:
    try:
        metadata = orjson.loads(line)["metadata"]
        return metadata if {"run_id", "session_id"} <= set(metadata) else None
    except (ValueError, TypeError, KeyError):
        return None


def _bytes(line: Mapping[str, JSON]) -> bytes:
    try:
        return orjson.dumps(line)
    except TypeError:  # lone surrogates, and integers beyond 64 bits
        return jsontext.exact_text(line).encode("utf-8", "replace")
