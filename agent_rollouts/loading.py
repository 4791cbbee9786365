"""The front door: `load_rollouts`, and the registration for `load_dataset("agent_rollouts", …)`."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import datasets.load
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from huggingface_hub import HfApi

from agent_rollouts.configs import FOLDER, file_rules, selected
from agent_rollouts.errors import SourceError
from agent_rollouts.source import find

NAME = "agent_rollouts"
_MODULE = "agent_rollouts.agent_rollouts"


def load_rollouts(
    format: str = "auto",
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    *,
    split: str = "train",
    streaming: bool = False,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset | datasets.IterableDataset:
    """Rollouts on disk, in an archive or behind an address, as a dataset.

    Args:
        format: a format's name, or `auto` to tell each file by its content.
        source: files, folders, globs, `.zip` archives, `hf://…`, `s3://…` or other fsspec addresses,
            one or several; None reads the format's default folders (`agent-rollouts formats` shows them).
        split: the split to return; all files are in `train`.
        streaming: rows as they are read, without a cache.
        num_proc: processes that read, each its share of the files.
        options: fields of `RolloutConfig` (`recursive`, `file_pattern`, `history`, `branches`, `internal`,
            `strict`, `on_bad_files`) and arguments of `datasets.load_dataset` such as `cache_dir`. Credentials for
            addresses come from where `hf auth login` and fsspec keep them.

    Raises:
        SourceError: nothing to read there.
        FormatError: an unknown format.
    """
    places = default_roots(format) if source is None else source
    listed = [places] if isinstance(places, (str, os.PathLike)) else list(places)
    if not listed:
        raise SourceError("no source given; name files, folders or addresses, or None for the default folders")
    files = [_pinned(os.fspath(place)) for place in listed]
    return datasets.load_dataset(
        NAME, format, data_files=files, split=split, streaming=streaming, num_proc=num_proc, **options
    )


def default_roots(format: str = "auto") -> list[str]:
    """The default folders of a format that are there on this machine and hold files of it.

    Raises:
        SourceError: none does.
        FormatError: an unknown format.
    """
    chosen = selected(format)
    roots = [root for config in chosen for root in config.existing_roots() if _holds_files(root, config.name)]
    if not roots:
        looked = ", ".join(root for config in chosen for root in config.roots)
        raise SourceError(f"none of the default folders holds sessions ({looked or 'there is none'}); name a source")
    return roots


def _holds_files(root: str, format: str) -> bool:
    try:
        rules = file_rules(format)
        return bool(find(root, patterns=rules["patterns"], ignored=rules["ignored"]))
    except SourceError:
        return False


def register() -> None:
    """Make `load_dataset("agent_rollouts", …)` work in this process.

    `datasets` has no plug-ins. Entering the builder among its packaged modules is what other packages
    do; the hash covers our code and YAML, so that a cache made by other code is not taken.
    """
    _PACKAGED_DATASETS_MODULES[NAME] = (_MODULE, code_hash())
    if datasets.load.PackagedDatasetModuleFactory is not _Factory:
        datasets.load.PackagedDatasetModuleFactory = _Factory


class _Factory(datasets.load.PackagedDatasetModuleFactory):  # type: ignore[misc]  # untyped base
    """Hands what the user named to our builder as it is.

    The factory of `datasets` would search by itself: the current folder when nothing is named, and a
    folder by split names otherwise. Other builders are left to it.
    """

    def get_module(self) -> datasets.load.DatasetModule:
        if self.name != NAME:
            return super().get_module()
        module, code = _PACKAGED_DATASETS_MODULES[NAME]
        # Something that is not None keeps load_dataset from refusing before the builder can say what is missing.
        return datasets.load.DatasetModule(module, code, {"data_files": self.data_files or [], "dataset_name": NAME})


@functools.cache
def code_hash() -> str:
    """What our code and YAML are, as part of the cache's key: rows made by other code are not taken."""
    digest = hashlib.sha256()
    for path in sorted([*Path(__file__).parent.rglob("*.py"), *FOLDER.glob("*.yaml")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _pinned(place: str) -> str:
    """A Hub address with the commit it means now, as `datasets` does not notice a change behind a branch name."""
    head, slash, rest = place.partition("hf://datasets/")
    parts = rest.split("/", 2)
    if head or not slash or len(parts) < 2 or "@" in parts[1]:
        return place
    sha = HfApi().dataset_info("/".join(parts[:2])).sha
    return "/".join([f"hf://datasets/{parts[0]}", f"{parts[1]}@{sha}", *parts[2:]])
