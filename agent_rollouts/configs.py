"""What is known of each format apart from how it is decoded: `builder_configs/<name>.yaml`, as data."""

from __future__ import annotations

import fnmatch
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from agent_rollouts.errors import FormatError

_INSTALLED = Path(__file__).parent / "builder_configs"
_CHECKOUT = Path(__file__).parent.parent / "builder_configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


@dataclass(frozen=True)
class FormatConfig:
    """One format: where its files lie by default, which of them are rollouts, and what it was tested on,
    and where each column comes from."""

    name: str
    title: str
    homepage: str
    patterns: tuple[str, ...]
    recognised_by: str
    tested: str
    roots: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)

    def existing_roots(self) -> list[str]:
        """The default folders and files that are there on this machine, `~` expanded."""
        return [root for root in map(os.path.expanduser, self.roots) if os.path.exists(root)]


@functools.cache
def formats() -> dict[str, FormatConfig]:
    """All formats by name, in order of name."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        found[path.stem] = FormatConfig(**{**values, **lists, "name": path.stem})
    return found


def selected(name: str) -> list[FormatConfig]:
    """The formats that a name stands for: one, or all for `auto`.

    Raises:
        FormatError: an unknown name.
    """
    if name == "auto":
        return list(formats().values())
    if name not in formats():
        raise FormatError(f"unknown format {name!r}; known: auto, {', '.join(formats())}")
    return [formats()[name]]


def file_rules(name: str, file_pattern: str | None = None) -> dict[str, tuple[str, ...]]:
    """Which files of a folder to read for a format: `patterns` and `ignored`, as `source.find` takes them."""
    chosen = selected(name)
    named = (file_pattern,) if file_pattern else tuple(dict.fromkeys(p for c in chosen for p in c.patterns))
    # `session-*.jsonl` says nothing beside `*.jsonl`.
    patterns = tuple(p for p in named if not any(p != wider and fnmatch.fnmatchcase(p, wider) for wider in named))
    return {"patterns": patterns, "ignored": tuple(dict.fromkeys(i for c in chosen for i in c.ignored))}
