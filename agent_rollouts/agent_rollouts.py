"""The `datasets` builder: one configuration per format, one fixed schema, one row per rollout.

The module has the name of its builder because `datasets` takes the builder's name, and that of its
cache folder, from the last part of the module's name, and keeps one builder to a module.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.exceptions import DatasetGenerationError

from agent_rollouts.configs import FormatConfig, file_rules, formats, selected
from agent_rollouts.copies import Copies
from agent_rollouts.errors import AgentRolloutsError, BadFileError, SourceError
from agent_rollouts.features import FEATURES, encoded_row, table
from agent_rollouts.formats import detect, read
from agent_rollouts.loading import code_hash
from agent_rollouts.rollout import BRANCHES, HISTORIES, Rollout
from agent_rollouts.source import Source, each, find, open_sources, reason, stamped

logger = datasets.utils.logging.get_logger(__name__)

ON_BAD_FILES = ("warn", "error", "skip")
_TABLE_BYTES = 16 << 20
_TABLE_ROWS = 256


@dataclass
class RolloutConfig(datasets.BuilderConfig):  # type: ignore[misc]  # untyped base
    """How rollouts of one format are read.

    Attributes:
        recursive: whether folders below a given folder are searched.
        file_pattern: names to read instead of the format's own, with `*` wildcards.
        history: `full`, `segments` or `context`; see `agent_rollouts.rollout.assemble`.
        branches: `active`, or `all` for withdrawn branches as rows of their own.
        internal: whether rollouts of the agent's own housekeeping become rows.
        copies: whether a session that several files of the source hold becomes a row from each of them.
        strict: whether damage, or a breach of the format's specification where there is one, makes a file a bad file.
        on_bad_files: `warn`, `error` or `skip` for files that cannot be read or are of no known format.
    """

    recursive: bool = True
    file_pattern: str | None = None
    history: str = "full"
    branches: str = "active"
    internal: bool = False
    copies: bool = False
    strict: bool = False
    on_bad_files: str = "warn"

    def __post_init__(self) -> None:
        """Refuse what is not known, before anything is read."""
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Refuse unknown options; `datasets` sets those of a call on a finished configuration.

        Raises:
            FormatError: an unknown format.
            AgentRolloutsError: an unknown value of another option.
        """
        selected(self.name)
        for option, value, known in (
            ("history", self.history, HISTORIES),
            ("branches", self.branches, BRANCHES),
            ("on_bad_files", self.on_bad_files, ON_BAD_FILES),
        ):
            if value not in known:
                raise AgentRolloutsError(f"unknown {option} {value!r}; known: {', '.join(known)}")


def _config(format: FormatConfig) -> RolloutConfig:
    return RolloutConfig(name=format.name, description=f"{format.title} ({format.homepage})")


class AgentRollouts(datasets.ArrowBasedBuilder, datasets.GeneratorBasedBuilder):  # type: ignore[misc]  # untyped bases
    """Coding-agent rollouts as rows of `agent_rollouts.features.FEATURES`.

    A generator of rows, which are handed to `datasets` as Arrow tables: given as Python objects,
    GeneratorBasedBuilder's writer would parse every JSON text once more.
    """

    BUILDER_CONFIG_CLASS = RolloutConfig
    BUILDER_CONFIGS = [  # noqa: RUF012  (datasets' own name and kind)
        RolloutConfig(name="auto", description="every known format, told by content"),
        *map(_config, formats().values()),
    ]
    DEFAULT_CONFIG_NAME = "auto"

    def __init__(
        self,
        *args: Any,
        config_name: str | None = None,
        data_files: str | Iterable[str] | Mapping[str, Any] | None = None,
        data_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not data_files and not data_dir:
            raise SourceError(_no_source(config_name or self.DEFAULT_CONFIG_NAME))
        for name in ("token", "storage_options"):
            if kwargs.get(name):
                raise SourceError(
                    f"{name}= does not reach the addresses that are read here: log in with `hf auth login` or set "
                    "HF_TOKEN; for s3:// and others use environment variables or fsspec's configuration (FSSPEC_…)"
                )
        if not isinstance(data_files, DataFilesDict):
            rules: dict[str, Any] = file_rules(config_name or self.DEFAULT_CONFIG_NAME, kwargs.get("file_pattern"))
            data_files = _resolved(data_files, data_dir, rules | {"recursive": kwargs.get("recursive", True)})
        # Without it a cache made by older code would be taken.
        kwargs["hash"] = kwargs.get("hash") or code_hash()
        super().__init__(*args, config_name=config_name, data_files=data_files, **kwargs)
        self.config.check()

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.config.description, features=FEATURES)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        # Files are opened where they lie, and read once: a download would only be one more copy.
        return [
            datasets.SplitGenerator(
                name=split, gen_kwargs={"files": list(files), "copies": Copies(files, self.config.name)}
            )
            for split, files in self.config.data_files.items()
        ]

    def _generate_shards(self, files: list[str], copies: Copies) -> Iterator[str]:
        yield from files

    def _generate_examples(self, files: list[str], copies: Copies) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Rows, with their JSON columns as the text that is stored."""
        for number, (shard, rollout) in enumerate(self._rollouts(files, copies)):
            yield Key(shard, number), encoded_row(rollout)

    def _generate_tables(self, files: list[str], copies: Copies) -> Iterator[tuple[Key, pa.Table]]:
        """The same rows as tables of about 16 MB, so that no batch comes near Arrow's limit of 2 GB."""
        waiting: list[Rollout] = []
        number = size = first = 0
        for shard, rollout in self._rollouts(files, copies):
            size += len(rollout.messages.data) + sum(len(media.data or b"") for media in rollout.media)
            first = first if waiting else shard
            waiting.append(rollout)
            if size >= _TABLE_BYTES or len(waiting) >= _TABLE_ROWS:
                del rollout
                for ready in self._tables(waiting):
                    yield Key(first, number), ready
                    number += 1
                waiting.clear()
                size = 0
        for ready in self._tables(waiting):
            yield Key(first, number), ready
            number += 1

    def _tables(self, rollouts: list[Rollout]) -> Iterator[pa.Table]:
        if not rollouts:
            return
        try:
            ready = table(rollouts)
        except Exception as error:  # one row that Arrow cannot hold must not cost the others
            if len(rollouts) == 1:
                self._report(rollouts[0].source_path, error)
            else:
                for rollout in rollouts:
                    yield from self._tables([rollout])
            return
        yield ready
        if len(rollouts) == 1:
            # datasets holds tables of one row back until it has a thousand; the next table, though empty, flushes them.
            yield ready.slice(0, 0)

    def _rollouts(self, files: list[str], copies: Copies) -> Iterator[tuple[int, Rollout]]:
        rules = file_rules(self.config.name, self.config.file_pattern)
        reader = functools.partial(self._read, copies)
        for shard, path in enumerate(files):
            for rollout in each(path, reader, self._report, **rules):
                if rollout and (self.config.internal or rollout.internal is None):
                    yield shard, rollout

    def _read(self, copies: Copies, source: Source) -> Iterator[Rollout]:
        config = self.config
        return read(
            source,
            config.name,
            history=config.history,
            branches=config.branches,
            strict=config.strict,
            elsewhere=copies.elsewhere(source),
            copies=config.copies,
        )

    def _report(self, path: str, error: Exception) -> None:
        if self.config.on_bad_files == "error":
            raise BadFileError(f"{reason(path, error)}; on_bad_files='skip' or 'warn' goes on without it") from error
        if self.config.on_bad_files == "warn":
            logger.warning(f"left out: {reason(path, error)}")

    def _prepare_split(self, split_generator: datasets.SplitGenerator, **kwargs: Any) -> None:
        super()._prepare_split(split_generator, **kwargs)
        if split_generator.split_info.num_examples == 0:
            raise SourceError(_nothing_in(split_generator.gen_kwargs["files"], self.config))

    def _prepare_split_single(self, **kwargs: Any) -> Iterator[tuple[int, bool, Any]]:
        try:
            yield from super()._prepare_split_single(**kwargs)
        except DatasetGenerationError as error:
            # Its text says nothing, and what caused it does not come through from another process.
            if isinstance(error.__cause__, AgentRolloutsError):
                raise error.__cause__ from None
            raise


def _resolved(
    data_files: str | Iterable[str] | Mapping[str, Any] | None, data_dir: str | None, rules: Mapping[str, Any]
) -> DataFilesDict:
    """Every file of every split with its change time and size, which make the cache key.

    Done here and not by `datasets`, whose own search takes folders called `test` or `dev` for splits
    and drops all others.
    """
    base = os.path.expanduser(data_dir) if data_dir else ""
    if not data_files:
        splits: Mapping[str, Any] = {"train": base}
    elif isinstance(data_files, Mapping):
        splits = data_files
    else:
        splits = {"train": data_files}
    resolved = {}
    for split, named in splits.items():
        places = [named] if isinstance(named, (str, os.PathLike)) else list(named)
        if base and data_files:
            places = [os.path.join(base, os.fspath(place)) for place in places]
        files = find(places, **rules)
        resolved[str(split)] = DataFilesList(files, [stamped(path) for path in files])
    return DataFilesDict(resolved)


def _no_source(name: str) -> str:
    roots = [root for config in selected(name) for root in config.roots]
    return (
        f"no source given for agent_rollouts/{name}: pass data_dir= or data_files=, or call "
        f"agent_rollouts.load_rollouts({name!r}), which reads {', '.join(roots) or 'the source that you name'}"
    )


def _nothing_in(files: list[str], config: RolloutConfig) -> str:
    """Why a split is empty, with the first few reasons."""
    reasons = []
    rules = file_rules(config.name, config.file_pattern)
    for path in files[:3]:
        try:
            found = {detect(source) for source in open_sources(path, **rules)}
            told = ", ".join(sorted(str(one) for one in found if one))
            what = f"{told} without messages" if told == config.name or config.name == "auto" else told
            reasons.append(f"{path} is {what if told else 'of no known format'}")
        except Exception as error:  # the reason is all that is wanted here
            reasons.append(str(error) if path in str(error) else f"{path}: {type(error).__name__}: {error}")
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return (
        f"no rollout of format {config.name!r} in {len(files)} file(s): {'; '.join(reasons)}{more}. "
        "`agent-rollouts inspect` shows what was skipped and why; format 'auto' tries every known format"
    )
