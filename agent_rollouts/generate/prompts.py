"""What the agent is asked: prompts from files, folders and datasets.

| source | prompts |
|---|---|
| `.txt` | one a line |
| `.jsonl`, `.json` | records: `prompt`, `input`, `question`, `task`, `query`, or the first user message of `messages`; or texts |
| `.md` | the whole file |
| a folder | its `.md` files, in the order of the numbers in their names |
| a dataset | a column |

A record may also hold `follow_ups` (what the user says when the agent has answered, one after the other), `folder` or
`git_bundle` (and `git_ref`): what its workspace starts from.
"""  # noqa: E501  (a table)

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import re2

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON, NOWHERE
from agent_rollouts.formats._chat import content
from agent_rollouts.generate.config import PromptOptions

_Test: TypeAlias = "Callable[[str], bool]"

KEYS = ("prompt", "input", "question", "task", "query")


@dataclass(frozen=True)
class Prompt:
    """One task: what is said, in order, and what the workspace starts from; `source` says where it came from."""

    text: str
    follow_ups: tuple[str, ...] = ()
    folder: str | None = None
    git_bundle: str | None = None
    git_ref: str | None = None
    source: str = ""

    @property
    def digest(self) -> str:
        """A hash of all that makes it this task, and not of where it was found."""
        made_of = [self.text, self.follow_ups, self.folder, self.git_bundle, self.git_ref]
        return hashlib.sha256(orjson.dumps(made_of)).hexdigest()


def load(options: PromptOptions, counts: Counter[str] | None = None) -> list[Prompt]:
    """The prompts of all sources, in order.

    Args:
        counts: takes what was left out, and why.

    Raises:
        AgentRolloutsError: no source, one that is not there or holds no prompt, or a record without one.
    """
    counts = Counter() if counts is None else counts
    if not options.source and options.dataset is None:
        raise AgentRolloutsError("no prompts: name files or folders (prompts.source) or a dataset (prompts.dataset)")
    found: Iterable[Prompt] = [prompt for source in options.source for prompt in of_file(Path(source))]
    if options.dataset is not None:
        found = [*found, *_of_dataset(options)]
    kept: list[Prompt] = []
    seen: set[str] = set()
    tests = _tests(options)
    for prompt in found:
        if options.limit is not None and len(kept) >= options.limit:
            counts["over the limit"] += 1
        elif why := next((why for why, test in tests if not test(prompt.text)), None):
            counts[why] += 1
        elif options.deduplicate and prompt.digest in seen:
            counts["duplicate"] += 1
        else:
            seen.add(prompt.digest)
            kept.append(prompt)
    if not kept:
        raise AgentRolloutsError(f"no prompt is left: {dict(counts) or 'the sources hold none'}")
    return kept


def of_file(path: Path) -> Iterator[Prompt]:
    """The prompts of one file or folder.

    Raises:
        AgentRolloutsError: see `load`.
    """
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix == ".md"), key=_numbered)
        if not files:
            raise AgentRolloutsError(f"prompts: {path} holds no .md files")
        for file in files:
            yield from of_file(file)
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AgentRolloutsError(f"prompts: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AgentRolloutsError(f"prompts: {path} is no UTF-8 text") from None
    match path.suffix:
        case ".txt":
            lines = (line.strip() for line in text.split("\n"))
            yield from (Prompt(line, source=f"{path}:{number}") for number, line in enumerate(lines, 1) if line)
        case ".md":
            if text.strip():
                yield Prompt(text.strip(), source=str(path))
        case ".jsonl":
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    yield _of_record(_parsed(line, f"{path}:{number}"), f"{path}:{number}")
        case ".json":
            value = _parsed(text, str(path))
            for number, record in enumerate(value if isinstance(value, list) else [value], 1):
                yield _of_record(record, f"{path}:{number}")
        case _:
            raise AgentRolloutsError(f"prompts: {path} is none of .txt, .jsonl, .json, .md, nor a folder")


def _of_dataset(options: PromptOptions) -> Iterator[Prompt]:
    import datasets

    name = str(options.dataset)
    rows = datasets.load_dataset(name, options.dataset_config, split=options.dataset_split, streaming=True)
    for number, row in enumerate(rows):
        place = f"{name}:{options.dataset_split}:{number}"
        if options.column is not None:
            if options.column not in row:
                raise AgentRolloutsError(f"prompts.column: {name} has no {options.column!r}, but {', '.join(row)}")
            value = row[options.column]
            row = {"messages" if isinstance(value, list) else "prompt": value}
        yield _of_record(row, place)


def _of_record(record: JSON, place: str) -> Prompt:
    if isinstance(record, str):
        record = {"prompt": record}
    text = _text(record) if isinstance(record, dict) else None
    if text is None:
        raise AgentRolloutsError(f"prompts: {place} has no text in {', '.join(KEYS)}, and no user message")
    follow_ups = record.get("follow_ups") or []
    if not isinstance(follow_ups, list) or not all(isinstance(said, str) and said for said in follow_ups):
        raise AgentRolloutsError(f"prompts: {place}: follow_ups must be a list of texts")
    start: dict[str, str | None] = {}
    for key in ("folder", "git_bundle", "git_ref"):
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            raise AgentRolloutsError(f"prompts: {place}: {key} must be text")
        start[key] = value
    return Prompt(text, tuple(follow_ups), source=place, **start)


def _text(record: dict[str, JSON]) -> str | None:
    for key in KEYS:
        if isinstance(value := record.get(key), str) and value.strip():
            return value
    messages = record.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and message.get("role") == "user":
            text = content(message.get("content"), NOWHERE)[0]
            return text if text.strip() else None
    return None


def _parsed(text: str, place: str) -> JSON:
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise AgentRolloutsError(f"prompts: {place} is no JSON: {error}") from None


def _numbered(path: Path) -> tuple[float, str]:
    number = re2.search(r"\d+", path.stem)
    return (int(number[0]) if number else float("inf"), path.name)


def _tests(options: PromptOptions) -> Sequence[tuple[str, _Test]]:
    tests: list[tuple[str, _Test]] = []
    if options.include is not None:
        included = _expression("include", options.include)
        tests.append(("not included", lambda text: included.search(text) is not None))
    if options.exclude is not None:
        excluded = _expression("exclude", options.exclude)
        tests.append(("excluded", lambda text: excluded.search(text) is None))
    if (least := options.min_chars) is not None:
        tests.append(("too short", lambda text: len(text) >= least))
    if (most := options.max_chars) is not None:
        tests.append(("too long", lambda text: len(text) <= most))
    return tests


def _expression(key: str, pattern: str) -> Any:
    try:
        return re2.compile(pattern)
    except re2.error as error:
        raise AgentRolloutsError(f"prompts.{key}: {error}") from None
