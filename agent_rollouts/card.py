"""The card of a dataset on the Hub: our configs and text put into it, all else kept as it was written.

    text = merge(on_the_hub, ours, kept_bytes={})

A card is YAML between two lines `---`, and text. Of the YAML only the fields that change are written anew, whole; the
others stay letter by letter, comments and all. Of the text only the section between our marks is ours:

    <!-- agent-rollouts: begin messages,openai -->
    …
    <!-- agent-rollouts: end -->

Behind `begin` stand the configs that it tells of. A section takes the place of one that tells of the same, and comes
after all other text where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from agent_rollouts.errors import AgentRolloutsError

BEGIN, END = "<!-- agent-rollouts: begin -->", "<!-- agent-rollouts: end -->"
"""What stands around our text in a card; `begin` is followed by the configs on the Hub."""

Patterns: TypeAlias = "dict[str, dict[str, tuple[str, ...]]]"
"""By config and split the files, as the card names them."""

_HEADER = re.compile(r"\A---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_SECTION = re.compile(
    r"<!-- agent-rollouts: begin(?: (?P<names>[^\n>]*?))? -->\n(?P<text>.*?)<!-- agent-rollouts: end -->\n?", re.DOTALL
)
# A field of the first level, and what belongs to it: lines that do not begin another.
_FIELD = re.compile(r"^(?P<name>[^\s#\-\[\]{}][^:\n]*):(?:[ \t].*)?$")
_BLANK = " \t\r\n"
# By far the faster one, where it was built.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))


def size_category(rows: int) -> str:
    """How the Hub calls a dataset of so many rows."""
    return next((name for name, limit in _SIZES if rows < limit), "10M<n<100M" if rows < 10**8 else "100M<n<1B")


def split_card(text: str) -> tuple[str, str]:
    """The YAML of a card, without the lines around it, and the text behind."""
    match = _HEADER.match(text)
    return (match["yaml"], text[match.end() :]) if match else ("", text)


def fields(text: str) -> dict[str, Any]:
    """What the YAML of a card says.

    Raises:
        AgentRolloutsError: it is no YAML of names and values.
    """
    try:
        found = yaml.load(split_card(text)[0], Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark else ""
        raise AgentRolloutsError(f"the YAML of the card (README.md) cannot be read{where}; mend it first") from None
    if not isinstance(found or {}, dict):
        raise AgentRolloutsError("the YAML of the card (README.md) holds no names and values; mend it first")
    return found or {}


def patterns(text: str) -> Patterns:
    """The files of each config and split, as `configs` of a card names them."""
    return {entry["config_name"]: _splits(entry) for entry in _entries(fields(text))}


def matches(path: str, names: Iterable[str]) -> bool:
    """Whether a path is one of these names, with `*` within a folder and `**` for any."""
    return any(_compiled(name).fullmatch(path) for name in names)


def renamed(text: str, name: str) -> str:
    """The card with its only config under another name, its files in a folder of that name.

    Raises:
        AgentRolloutsError: it has several configs.
    """
    data = fields(text)
    entries = _entries(data)
    if len(entries) != 1:
        names = ", ".join(entry["config_name"] for entry in entries) or "none"
        raise AgentRolloutsError(
            f"a name of your own is for one config, and this dataset has {len(entries)} ({names}); leave it out"
        )
    (entry,) = entries
    files = _as_files({split: [in_folder(path, name) for path in paths] for split, paths in _splits(entry).items()})
    others = {key: value for key, value in entry.items() if key not in ("config_name", "data_files")}
    infos = [{**info, "config_name": name} for info in _infos(data).values()]
    return _written(text, {"configs": [{"config_name": name, **others, "data_files": files}], **_as_field(infos)})


def with_files(text: str, files: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """The card with other files by config and split."""
    entries = []
    for entry in _entries(fields(text)):
        wanted = {split: tuple(paths) for split, paths in files.get(entry["config_name"], _splits(entry)).items()}
        entries.append(entry if wanted == _splits(entry) else {**entry, "data_files": _as_files(wanted)})
    return _written(text, {"configs": entries})


def replaced(configs: Patterns, names: Mapping[str, str | None]) -> Patterns:
    """The patterns with other names for files that they name; None where a file is no more."""
    return {
        config: {
            split: tuple(new for path in paths if (new := names.get(path, path)) is not None)
            for split, paths in splits.items()
        }
        for config, splits in configs.items()
    }


def in_folder(path: str, config: str) -> str:
    """Where a file of a config lies in the repository when the config has another name."""
    return f"{'data' if config == 'default' else config}/{path.rpartition('/')[2]}"


def merge(old: str, new: str, kept_bytes: Mapping[str, int]) -> str:
    """The card `old` of a repository (empty: none) with the configs and text of `new`.

    Args:
        kept_bytes: by config the size of files of its splits that only `old` has.

    Raises:
        AgentRolloutsError: `old` cannot be read, or what is the default could not be told.
    """
    ours, theirs = fields(new), fields(old)
    names = [entry["config_name"] for entry in _entries(ours)]
    changes = {
        **{key: value for key, value in ours.items() if key not in ("configs", "dataset_info")},
        **{key: _united(theirs[key], value) for key, value in ours.items() if _is_list(value, theirs.get(key))},
        "configs": _merged_configs(_entries(theirs), _entries(ours)),
        **_as_field(_merged_infos(theirs, ours, kept_bytes)),
    }
    rows = [
        sum(split["num_examples"] for split in info.get("splits") or ()) for info in _as_list(changes["dataset_info"])
    ]
    if "size_categories" in ours and rows:
        changes["size_categories"] = [size_category(max(rows))]
    text = _written(old or f"---\n{split_card(new)[0]}---\n", changes)
    header = text[: len(text) - len(split_card(text)[1])]
    return header + _merged_body(split_card(old)[1] if old else "", split_card(new)[1], names)


def lines_of(config: str, split: str) -> str:
    """The file of JSON Lines beside the shards of a split, the same rows in the same order."""
    return in_folder(f"{split}.jsonl", config)


def records(text: str, configs: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many records the card tells of, by config and split."""
    infos = _infos(fields(text))
    return {
        name: {split["name"]: split["num_examples"] for split in infos.get(name, {}).get("splits") or ()}
        for name in configs
    }


def grown(old: str, new: str, names: Iterable[str]) -> str:
    """The card `new` with what `old` counts of the configs of these names in addition; `merge` puts it into `old`.

    Raises:
        AgentRolloutsError: they have other columns.
    """
    wanted = set(names)
    before, after = _infos(fields(old)), _infos(fields(new))
    infos = {name: info for name, info in before.items() if name in wanted}
    for name, info in after.items():
        past = infos.get(name, {"features": info["features"]})
        if past["features"] != info["features"]:
            raise AgentRolloutsError(
                f"config {name!r} on the Hub has other columns than what is new (other options, or another version "
                "made them); make all of it anew, or give what is new a config name of its own"
            )
        splits: dict[str, dict[str, Any]] = {split["name"]: dict(split) for split in past.get("splits") or ()}
        for split in info["splits"]:
            more = splits.setdefault(split["name"], {"name": split["name"], "num_bytes": 0, "num_examples": 0})
            more["num_bytes"] += split["num_bytes"]
            more["num_examples"] += split["num_examples"]
        sizes = {key: past.get(key, 0) + info[key] for key in ("download_size", "dataset_size")}
        infos[name] = {"config_name": name, **info, "splits": list(splits.values()), **sizes}
    entries = {entry["config_name"]: entry for entry in _entries(fields(old)) if entry["config_name"] in wanted}
    for entry in _entries(fields(new)):
        past = entries.get(entry["config_name"]) or {k: v for k, v in entry.items() if k != "default" or not entries}
        files = _as_files({**_splits(entry), **_splits(past)})
        entries[entry["config_name"]] = {**past, "data_files": files}
    listed = [{**info, "config_name": name} for name, info in infos.items()]
    return _written(new, {"configs": list(entries.values()), **_as_field(listed)})


def with_section(text: str, section: str, names: Iterable[str]) -> str:
    """The card with another text between the marks that tell of these configs (or of none)."""
    mine, wanted = _SECTION.search(section), set(names)
    assert mine
    parts, at = [], 0
    for found in _SECTION.finditer(text):
        if not found["names"] or wanted & set(found["names"].split(",")):
            parts += [text[at : found.start("text")], mine["text"]]
            at = found.end("text")
    return "".join([*parts, text[at:]])


def shrunk(text: str, gone: Mapping[tuple[str, str], Mapping[str, int]]) -> str:
    """The card when rows have gone: by config and split how many `rows`, bytes in `memory` and bytes on `disk`.

    A split without rows is no longer named; nor is a config without splits.
    """
    data = fields(text)
    infos = _infos(data)
    empty: set[tuple[str, str]] = set()
    for (name, split), less in gone.items():
        info = infos.get(name, {})
        for entry in info.get("splits") or ():
            if entry["name"] == split:
                entry["num_examples"] -= less["rows"]
                entry["num_bytes"] = max(0, entry.get("num_bytes", 0) - less["memory"])
                empty |= {(name, split)} if entry["num_examples"] <= 0 else set()
        info["download_size"] = max(0, info.get("download_size", 0) - less["disk"])
        info["splits"] = [entry for entry in info.get("splits") or () if (name, entry["name"]) not in empty]
        info["dataset_size"] = sum(entry.get("num_bytes", 0) for entry in info["splits"])
    configs = []
    for entry in _entries(data):
        name = entry["config_name"]
        splits = {split: paths for split, paths in _splits(entry).items() if (name, split) not in empty}
        if splits and len(splits) < len(_splits(entry)):
            entry = {**entry, "data_files": _as_files(splits)}
        configs += [entry] if splits else []
    left = [{"config_name": name, **info} for name, info in infos.items() if info.get("splits")]
    return _written(text, {"configs": configs, **_as_field(left)})


# configs and dataset_info


def _entries(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = data.get("configs") or []
    if not all(isinstance(entry, dict) and isinstance(entry.get("config_name"), str) for entry in entries):
        raise AgentRolloutsError("the card (README.md) has a config without config_name; mend it first")
    return list(entries)


def _splits(entry: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Files by split in any of the ways that `datasets` reads."""
    files = entry.get("data_files")
    if files is None:
        return {"train": (f"{str(entry['data_dir']).strip('/')}/**",)} if entry.get("data_dir") else {}
    if isinstance(files, str):
        return {"train": (files,)}
    if all(isinstance(file, str) for file in files):
        return {"train": tuple(files)}
    return {file["split"]: tuple(_as_list(file["path"])) for file in files}


def _merged_configs(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    mine = {entry["config_name"]: entry for entry in ours}
    others = [entry for entry in theirs if entry["config_name"] not in mine]
    # Two defaults make a dataset that cannot be loaded; a config called default is one.
    default = next((e["config_name"] for e in others if e.get("default") or e["config_name"] == "default"), None)
    if default is not None and default != "default" and "default" in mine:
        raise AgentRolloutsError(
            f"config {default!r} is the default on the Hub, and one that is called 'default' cannot stand beside it; "
            "give the dataset a config name of its own"
        )
    known = {entry["config_name"]: entry for entry in theirs}
    merged = {}
    for name, entry in mine.items():
        old = known.get(name, {})
        new = {**old, **entry} | ({} if "data_files" not in old else {"data_files": _merged_files(old, entry)})
        if default is not None:
            new.pop("default", None)
        merged[name] = new
    return [merged.pop(entry["config_name"], entry) for entry in theirs] + list(merged.values())


def _merged_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _as_files({**_splits(old), **_splits(new)})


def _as_files(splits: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {"split": split, "path": list(paths) if len(paths) > 1 else paths[0]}
        for split, paths in splits.items()
        if paths
    ]


def _infos(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    names = [entry["config_name"] for entry in _entries(data)]
    # One that does not say of which config it is, is of the only one.
    only = names[0] if len(names) == 1 else "default"
    return {info.get("config_name", only): dict(info) for info in _as_list(data.get("dataset_info") or [])}


def _merged_infos(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], kept_bytes: Mapping[str, int]
) -> list[dict[str, Any]]:
    old, new = _infos(theirs), _infos(ours)
    for name, info in new.items():
        mine = {split["name"]: split for split in info.get("splits") or ()}
        kept = {split["name"]: split for split in old.get(name, {}).get("splits") or ()}
        if set(kept) - set(mine):
            if info.get("features") != old[name].get("features"):
                raise AgentRolloutsError(
                    f"config {name!r} has splits on the Hub that stay ({', '.join(sorted(set(kept) - set(mine)))}), "
                    "with other columns than those to be pushed; give it a config name of its own, or delete them"
                )
            splits = list({**kept, **mine}.values())
            size = sum(split.get("num_bytes", 0) for split in splits)
            download = info.get("download_size", 0) + kept_bytes.get(name, 0)
            new[name] = {**info, "splits": splits, "download_size": download, "dataset_size": size}
    return [{"config_name": name, **(new.get(name) or old[name])} for name in dict.fromkeys([*old, *new])]


def _as_field(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """`dataset_info` as `datasets` writes it: one object, or a list of those that tell their config."""
    return {"dataset_info": infos[0] if len(infos) == 1 else infos}


# YAML


def _written(text: str, changes: Mapping[str, Any]) -> str:
    """The card with other values for some fields (none: without); what says the same stays as it is written."""
    header, body = split_card(text)
    said = fields(text)
    changes = {n: value for n, value in changes.items() if said.get(n) != value and (n in said or not _is_empty(value))}
    if not changes:
        return text
    parts: list[tuple[str | None, list[str]]] = [(None, [])]
    for line in header.splitlines():
        match = _FIELD.match(line)
        if match:
            parts.append((match["name"].strip("\"'"), []))
        parts[-1][1].append(line)
    lines: list[str] = []
    wanted = {name: value for name, value in {**said, **changes}.items() if name not in changes or not _is_empty(value)}
    left = {name: value for name, value in changes.items() if name in wanted}
    for name, block in parts:
        if name in changes:
            tail = [line for line in block if line.startswith("#")]
            block = [*_dumped({name: left.pop(name)} if name in left else {}), *tail]
        lines += block
    new = "\n".join(["---", *lines, *_dumped(left), "---", ""]) + body
    if not _says(new, wanted):  # written in a way that the lines do not tell
        new = "\n".join(["---", *_dumped(wanted), "---", ""]) + body
    return new


def _says(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return fields(text) == wanted
    except AgentRolloutsError:
        return False


def _dumped(data: Mapping[str, Any]) -> list[str]:
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=1000)).splitlines() if data else []


def _is_empty(value: Any) -> bool:
    return value is None or value == []


def _is_list(ours: Any, theirs: Any) -> bool:
    return isinstance(ours, list) and isinstance(theirs, list)


def _united(theirs: list[Any], ours: list[Any]) -> list[Any]:
    return theirs + [one for one in ours if one not in theirs]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


# Text


def _merged_body(old: str, new: str, names: list[str]) -> str:
    match = _SECTION.search(new)
    ours = match["text"] if match else new.strip("\n") + "\n"
    section = f"{BEGIN.removesuffix('-->')}{','.join(names)} -->\n{ours}{END}\n"
    told = [found for found in _SECTION.finditer(old) if set((found["names"] or "").split(",")) & set(names)]
    if not told:
        around = new[: match.start()] if match and not old.strip(_BLANK) else old
        return (around.rstrip("\n") + "\n\n" if around.strip(_BLANK) else "") + section
    parts, at = [], 0
    for number, found in enumerate(told):
        parts += [old[at : found.start()], section if number == 0 else ""]
        at = found.end()
    return "".join([*parts, old[at:]])


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.removeprefix("./"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))
