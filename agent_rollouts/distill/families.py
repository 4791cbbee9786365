"""Families: which row owns which turn, where agents have copied history into new files.

A session that is resumed, forked, branched, exported or saved every turn stands in several rows. Each
turn is owned by one of them; the others keep it as context, with weight 0. Three steps:

    families = Families()
    for row in rows: families.add(row)          # some 17 bytes a message are kept, no text
    verdicts = families.settle()                # who owns what
    rows = (own(row, verdicts[key(row)]) for row in rows if verdicts[key(row)].owned_from is not None)

Two messages are the same turn by their source's id (answers by a long one alone), else by
exact equality of all that was said up to them since the last message with an id (role, text, calls,
results; not ids, not times, not system prompts). Rows are of one family when one names the other
(parent, root session, the session ids that a Claude Code file copies, the same id in two files), when they
share an id, or when they share a model turn and one of them is of a kind that has no ids: bare Codex,
ShareGPT, chat JSON Lines. (Two sessions with ids of their own that say the same were said twice.) A turn
belongs to the row that produced it, where a chain of parents tells; else to the row with most messages;
else to the first by trace_id.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.transcript import mark_copied

Row: TypeAlias = Mapping[str, Any]

ROLES = ("root", "resumed", "forked", "continued", "subagent", "snapshot", "duplicate")
"""`family_role`: the eldest row; one that copies all of another and goes on; one that leaves another's line;
one that goes on without copying; a sub-agent; and rows that own nothing: part of another, or all of it."""

# A name of this length with this many digits was made by a machine, and means one session wherever it stands.
_LONG, _DIGITS = 16, 6
# Shorter numbers are counted from one; of this length they may be random hexadecimal digits.
_RANDOM = 8
# What a message is, as bits of a byte; one that tells makes those who share it a family.
_MODEL, _TELLS, _COPY, _SYSTEM = 1, 2, 4, 8
# Written anew at each turn or export, under any id.
_NAMELESS = frozenset({"chat_completions", "hermes_trajectory"})
_VERSION = b"1"


class Key(NamedTuple):
    """What tells a row from all others."""

    source_kind: str
    source_path: str
    trace_id: str


@dataclass(slots=True)
class Verdict:
    """What is known of a row among its family.

    Attributes:
        owned_from: index of the first message that the row owns, None when it owns none.
        lent: messages behind it that another row owns all the same.
        lifted: messages that the source calls copies, but of which this is the only one left to own them.
        owner: the row that owns the last message of a row that owns nothing.
        parent, children: rows by the links of the source.
        depth: how many sub-agents stand above it, itself included.
    """

    family_id: str
    family_role: str
    owned_from: int | None
    turns: int = 0
    lent: tuple[int, ...] = ()
    lifted: tuple[int, ...] = ()
    owner: Key | None = None
    parent: Key | None = None
    children: tuple[Key, ...] = ()
    depth: int = 0
    spawned_by: str | None = None
    agent_type: str | None = None


@dataclass(slots=True)
class _Kept:
    """What is kept of a row: its links, and for each message what names it and what kind it is."""

    key: Key
    root: str | None
    parent: str | None
    is_sidechain: bool
    is_window: bool
    is_nameless: bool
    started_at: str
    spawned_by: str | None
    agent_type: str | None
    turns: array[int]
    chain: array[int]
    kinds: bytes


def key(row: Row) -> Key:
    """What tells a row from all others: format, file and trace_id."""
    return Key(row["source_kind"] or "", row["source_path"] or "", row["trace_id"] or "")


def own(row: Row, verdict: Verdict) -> dict[str, Any]:
    """The row with its family's columns, and weight 0 on the messages that another row owns.

    `messages` may be objects or their JSON text, and stay what they are.
    """
    found = {**row, "family_id": verdict.family_id, "family_role": verdict.family_role}
    found["owned_from"] = verdict.owned_from
    lent = {*range(verdict.owned_from or 0), *verdict.lent}
    if lent or verdict.lifted:
        found["messages"] = [
            _marked(message, index in lent) if index in lent or index in verdict.lifted else message
            for index, message in enumerate(row["messages"])
        ]
    return found


def resolve(rows: Callable[[], Iterable[Row]]) -> Iterator[dict[str, Any]]:
    """Rows with their family's columns; those that own nothing are left out.

    Args:
        rows: gives the same rows each time it is called (twice), such as a dataset's `__iter__`.
    """
    families = Families()
    for row in rows():
        families.add(row)
    verdicts = families.settle()
    for row in rows():
        verdict = verdicts[key(row)]
        if verdict.owned_from is not None:
            yield own(row, verdict)


class Families:
    """What is known of all rows seen so far. `files` may hold a stamp for each file that was read."""

    def __init__(self) -> None:
        self.rows: dict[Key, _Kept] = {}
        self.files: dict[str, str] = {}

    def add(self, row: Row) -> None:
        """Take note of a row; one with the same key takes the place of the earlier one."""
        name = key(row)
        meta = row.get("source_meta") or {}
        meta = orjson.loads(meta) if isinstance(meta, str) else meta
        is_nameless = _is_nameless(name, meta)
        turns, chain, kinds = _turns(row["messages"], name.source_kind, is_nameless)
        chain = turns if turns == chain else chain
        # A Claude Code file that begins with another session's records says whose they are.
        copied = [one for one in meta.get("session_ids") or () if one != name.trace_id.partition("#")[0]]
        self.rows[name] = _Kept(
            key=name,
            root=row.get("root_session_id"),
            parent=row.get("parent_trace_id") or (copied[-1] if copied and not row.get("is_sidechain") else None),
            is_sidechain=bool(row.get("is_sidechain")),
            is_window=any("segment" in note for note in meta.get("compactions") or ()),
            is_nameless=is_nameless,
            started_at=row.get("started_at") or "",
            spawned_by=meta.get("spawned_by") if isinstance(meta.get("spawned_by"), str) else None,
            agent_type=next((meta[k] for k in ("agent_type", "agent_role") if isinstance(meta.get(k), str)), None),
            turns=turns,
            chain=chain,
            kinds=kinds,
        )

    def keyed(self, key: bytes) -> Families:
        """The same under hashes that say nothing to who has not the key: those of texts could be guessed.

        Args:
            key: of 64 bytes at most. What is put together must have the same.
        """
        found = Families()
        found.files = dict(self.files)
        for name, row in self.rows.items():
            turns = _keyed(row.turns, key)
            found.rows[name] = replace(
                row, turns=turns, chain=turns if row.chain is row.turns else _keyed(row.chain, key)
            )
        return found

    def forget(self, source_path: str) -> None:
        """Take the rows of a file (of an archive all members) out, which has changed or must not count any more."""
        if source_path in self.files:
            self.rows = {
                name: row for name, row in self.rows.items() if name.source_path.partition("::")[0] != source_path
            }
        self.files.pop(source_path, None)

    def settle(self, fixed: Mapping[Key, str] | None = None) -> dict[Key, Verdict]:
        """Who owns what: a verdict for every row, the same in whatever order they were added.

        Args:
            fixed: rows that are published with the turns they own, and the family_id that they have there: they own
                before all others, and their family keeps its name.
        """
        rows = [self.rows[name] for name in sorted(self.rows)]
        return _Settlement(rows, fixed or {}).verdicts() if rows else {}

    def save(self, path: str | Path) -> None:
        """Write what is known to one Parquet file, to be extended later."""
        kept = list(self.rows.values())
        table = pa.table(
            {
                **{name: [getattr(row.key, name) for row in kept] for name in Key._fields},
                **{name: [getattr(row, name) for row in kept] for name in _SAVED},
                "turns": pa.array([row.turns for row in kept], pa.list_(pa.uint64())),
                "chain": pa.array([row.chain for row in kept], pa.list_(pa.uint64())),
                "kinds": pa.array([row.kinds for row in kept], pa.binary()),
            }
        )
        about = {b"agent_rollouts.families": _VERSION, b"files": json.dumps(self.files).encode()}
        pq.write_table(table.replace_schema_metadata(about), path, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> Families:
        """What `save` wrote.

        Raises:
            AgentRolloutsError: the file is something else, or of another version.
        """
        table = pq.read_table(path)
        about = table.schema.metadata or {}
        if about.get(b"agent_rollouts.families") != _VERSION:
            raise AgentRolloutsError(
                f"{path} holds no families of this version; delete it, and all files are read again"
            )
        found = cls()
        found.files = json.loads(about[b"files"])
        for row in table.to_pylist():
            name = Key(*(row.pop(field) for field in Key._fields))
            turns, chain = array("Q", row.pop("turns")), array("Q", row.pop("chain"))
            found.rows[name] = _Kept(key=name, turns=turns, chain=turns if turns == chain else chain, **row)
        return found


def records(verdicts: Mapping[Key, Verdict]) -> Iterator[dict[str, Any]]:
    """Each verdict as one JSON object, families together and in the order of their first row."""
    for family in _by_family(verdicts):
        for name in family:
            verdict = verdicts[name]
            yield {
                **name._asdict(),
                "family_id": verdict.family_id,
                "family_role": verdict.family_role,
                "owned_from": verdict.owned_from,
                "owned_turns": verdict.turns,
                "owner": verdict.owner and verdict.owner._asdict(),
                "parent_trace_id": verdict.parent and verdict.parent.trace_id,
                "children": [child.trace_id for child in verdict.children],
                "depth": verdict.depth,
                "spawned_by": verdict.spawned_by,
                "agent_type": verdict.agent_type,
            }


def tree(verdicts: Mapping[Key, Verdict]) -> Iterator[str]:
    """The families as lines: every row below the one that it comes from."""
    for family in _by_family(verdicts):
        names = set(family)
        turns = sum(verdicts[name].turns for name in family)
        yield f"{verdicts[family[0]].family_id}: {len(family):,} rows, {turns:,} turns"
        below: defaultdict[Key | None, list[Key]] = defaultdict(list)
        for name in family:
            above = verdicts[name].owner or verdicts[name].parent
            below[above if above in names and above != name else None].append(name)
        shown: set[Key] = set()
        # What comes from each other in a circle has no first: it is shown where it is met.
        for name in (*below[None], *family):
            yield from _branch(name, below, verdicts, shown, 1)


def _branch(
    name: Key, below: Mapping[Key | None, list[Key]], verdicts: Mapping[Key, Verdict], shown: set[Key], depth: int
) -> Iterator[str]:
    if name in shown:
        return
    shown.add(name)
    verdict = verdicts[name]
    if verdict.owned_from is None:
        what = "owns nothing"
    else:
        what = f"owns {verdict.turns:,} turns from message {verdict.owned_from}"
    about = [
        f"{verdict.agent_type}" if verdict.agent_type else "",
        f"call {verdict.spawned_by}" if verdict.spawned_by else "",
    ]
    told = f" ({', '.join(filter(None, about))})" if any(about) else ""
    yield f"{'  ' * depth}{verdict.family_role} {name.trace_id}{told}: {what}, {name.source_path}"
    for child in below.get(name, ()):
        yield from _branch(child, below, verdicts, shown, depth + 1)


def _by_family(verdicts: Mapping[Key, Verdict]) -> list[list[Key]]:
    families: defaultdict[str, list[Key]] = defaultdict(list)
    for name, verdict in verdicts.items():
        families[verdict.family_id].append(name)
    # The root first; then as they are sorted.
    return [sorted(names, key=lambda name: (verdicts[name].family_role != "root", name)) for names in families.values()]


_SAVED = ("root", "parent", "is_sidechain", "is_window", "is_nameless", "started_at", "spawned_by", "agent_type")


def _keyed(values: array[int], key: bytes) -> array[int]:
    """0 is no turn, and stays."""
    return array(
        "Q",
        (
            int.from_bytes(hashlib.blake2b(value.to_bytes(8, "little"), digest_size=8, key=key).digest(), "little")
            if value
            else 0
            for value in values
        ),
    )


# -- what names a message ---------------------------------------------------------------------------


def _turns(messages: Iterable[Any], kind: str, is_nameless: bool) -> tuple[array[int], array[int], bytes]:
    """For each message what names its turn, what names all that was said up to it, and its bits."""
    turns, chain, kinds = array("Q"), array("Q"), bytearray()
    turn = said = asked = results = 0
    for message in messages:
        if not isinstance(message, Mapping):
            message = orjson.loads(message)
        role = message["role"]
        if role == "system":
            turns.append(0)
            chain.append(0)
            kinds.append(_SYSTEM)
            continue
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        text = orjson.dumps([role, message["content"], [[call["name"], call["arguments"]] for call in calls]])
        said = xxh3_64_intdigest(text, seed=said)
        id = message.get("id")
        bits = _COPY if message.get("weight_reason") == "copied_context" else 0
        if role == "tool" and asked:
            # Results have no id in some formats, and one of their own record in others.
            results += 1
            turn = xxh3_64_intdigest(results.to_bytes(4, "little"), seed=asked)
        elif isinstance(id, str) and len(id) >= _LONG:
            # An answer may have grown since it was copied, a prompt has not.
            turn = _digest(kind, id) if role == "assistant" else xxh3_64_intdigest(text, seed=_digest(kind, id))
            bits |= _TELLS
        elif isinstance(id, str) and (len(id) >= _RANDOM or not id.isdecimal()):
            turn = xxh3_64_intdigest(text, seed=_digest(kind, id))
            bits |= _TELLS if role == "assistant" else 0
        else:
            id = None
            turn = xxh3_64_intdigest(text, seed=turn)
            bits |= _TELLS if role == "assistant" and is_nameless else 0
        if role != "tool":
            asked, results = (turn, 0) if id is not None and role == "assistant" else (0, 0)
        turns.append(turn)
        chain.append(said)
        kinds.append(bits | (_MODEL if role == "assistant" else 0))
    return turns, chain, bytes(kinds)


def _digest(*names: str) -> int:
    return xxh3_64_intdigest("\0".join(names).encode("utf-8", "replace"))


def _is_nameless(name: Key, meta: Mapping[str, Any]) -> bool:
    """Whether the row has no id of its source's: none of a kind that has them, and its file's name instead."""
    if name.source_kind == "codex":
        return not meta.get("cli_version")
    stem = _stem(name)
    return name.source_kind in _NAMELESS or bool(stem and name.trace_id.startswith(stem))


def _stem(name: Key) -> str:
    return posixpath.basename(name.source_path.replace("\\", "/")).split(".")[0]


def _marked(message: Any, is_copy: bool) -> Any:
    found: dict[str, Any] = dict(message) if isinstance(message, Mapping) else orjson.loads(message)
    if is_copy:
        mark_copied(found)
    else:
        del found["weight"], found["weight_reason"]
    return found if isinstance(message, Mapping) else orjson.dumps(found).decode()


# -- who owns what ----------------------------------------------------------------------------------


class _Settlement:
    """All rows side by side, in the order of their keys."""

    def __init__(self, rows: Sequence[_Kept], fixed: Mapping[Key, str]) -> None:
        self.rows, self.fixed = rows, fixed
        lengths = np.array([len(row.turns) for row in rows])
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.row_of = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
        self.kinds = np.frombuffer(b"".join(row.kinds for row in rows), dtype=np.uint8)
        self.turns = _joined(row.turns for row in rows)
        self._join_exports(lengths)
        self.places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            # Some name a parent by its file.
            for name in {row.key.trace_id, _stem(row.key)} if _base(row) == row.key.trace_id else ():
                self.places[row.key.source_kind, name].append(index)
        self.links = [self._parent(index) for index in range(len(rows))]
        self.family = self._families()
        self.owner_of, self.owned = self._owners()

    def _join_exports(self, lengths: npt.NDArray[Any]) -> None:
        """Rows without any id take the names of equal prefixes of rows with ids: they are exports of them."""
        chain = _joined(row.chain for row in self.rows)
        # Where no message has an id, a turn is named by all that was said up to it.
        bare = np.array([row.is_nameless and row.turns is row.chain for row in self.rows])
        is_bare = np.repeat(bare, lengths)
        named = np.flatnonzero(~is_bare & (self.kinds & _SYSTEM == 0))
        if not len(named) or not bare.any():
            return
        known, first = np.unique(chain[named], return_index=True)
        places = np.flatnonzero(is_bare)
        at = np.minimum(np.searchsorted(known, chain[places]), len(known) - 1)
        same = known[at] == chain[places]
        self.turns[places[same]] = self.turns[named[first[at[same]]]]

    def _parent(self, index: int) -> int | None:
        """The row that a row names as the one it comes from, the first of a file's windows and branches."""
        row = self.rows[index]
        base = _base(row)
        if base != row.key.trace_id and (own := self._named(index, base)) is not None and own != index:
            return own
        return self._named(index, row.parent) if row.parent else None

    def _named(self, index: int, name: str) -> int | None:
        row = self.rows[index]
        found = [one for one in self.places.get((row.key.source_kind, name), ()) if one != index]
        found = [one for one in found if self.rows[one].key.trace_id == name] or found
        near = [one for one in found if _folder(self.rows[one]) == _folder(row)]
        # Of copies in several folders the one beside is meant; a name that people give may mean any of them.
        found = near or (found if len(found) == 1 or _is_long(name) else [])
        return max(found, key=lambda one: (len(self.rows[one].turns), self.rows[one].key), default=None)

    def _families(self) -> npt.NDArray[np.int32]:
        """For each row the number of its family."""
        heads = list(range(len(self.rows)))

        def head(index: int) -> int:
            while heads[index] != index:
                heads[index] = heads[heads[index]]
                index = heads[index]
            return index

        for index, parent in enumerate(self.links):
            if parent is not None:
                heads[head(index)] = head(parent)
        names: dict[tuple[str, str], int] = {}
        for index, row in enumerate(self.rows):
            for name in (_base(row), row.root, row.parent):
                if name:
                    scope = row.key.source_kind + ("" if _is_long(name) else f"\0{_folder(row)}")
                    # What people name alike in one folder may still be different; a root or parent is meant.
                    if _is_long(name) or name != _base(row) or row.root == name:
                        heads[head(index)] = head(names.setdefault((scope, name), index))
        asked = np.flatnonzero(self.kinds & (_MODEL | _TELLS))
        order = asked[np.argsort(self.turns[asked], kind="stable")]
        same = self.turns[order[1:]] == self.turns[order[:-1]]
        if len(order):
            # Of those who share a turn one must tell.
            begins = np.flatnonzero(np.concatenate([[True], ~same]))
            tells = np.maximum.reduceat(self.kinds[order] & _TELLS, begins) > 0
            same &= np.repeat(tells, np.diff([*begins, len(order)]))[1:]
        pairs = np.stack([self.row_of[order[1:]][same], self.row_of[order[:-1]][same]], axis=1)
        for a, b in np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).tolist():
            heads[head(a)] = head(b)
        return np.array([head(index) for index in range(len(self.rows))], dtype=np.int32)

    def _owners(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """For each message the row that owns its turn (-1: none may), and whether it is this one."""
        rows = self.rows
        order = sorted(range(len(rows)), key=self._precedence)
        rank = np.empty(len(rows), dtype=np.int32)
        rank[order] = np.arange(len(rows), dtype=np.int32)
        is_copy = (self.kinds & _COPY) > 0
        barred = [i for i, row in enumerate(rows) if self._may_not_own_copies(i, row)]
        never = (is_copy & np.isin(self.row_of, barred)) | (self.kinds & _SYSTEM > 0)
        family = self.family[self.row_of]
        by_turn = np.lexsort((rank[self.row_of], is_copy, never, self.turns, family))
        begins = np.ones(len(by_turn), dtype=bool)
        begins[1:] = (self.turns[by_turn[1:]] != self.turns[by_turn[:-1]]) | (
            family[by_turn[1:]] != family[by_turn[:-1]]
        )
        first = by_turn[np.flatnonzero(begins)][np.cumsum(begins) - 1]
        owner = np.empty(len(by_turn), dtype=np.int32)
        owner[by_turn] = np.where(never[first], -1, self.row_of[first])
        return owner, (owner == self.row_of) & ~never

    def _precedence(self, index: int) -> tuple[Any, ...]:
        row = self.rows[index]
        return row.key not in self.fixed, self._age(index), -len(row.turns), row.key.trace_id, index

    def _may_not_own_copies(self, index: int, row: _Kept) -> bool:
        # The base of a window or branch has what is copied; ATIF forbids to train on it, whoever has it.
        if _base(row) != row.key.trace_id or row.key.source_kind == "atif":
            return True
        parent = self.links[index]
        if parent is None or not any(bits & _COPY for bits in row.kinds):
            return False
        # A parent that is there and has none of it was written otherwise: it will not do to own it twice.
        theirs = set(self.turns[self.starts[parent] : self.starts[parent + 1]].tolist())
        mine = self.turns[self.starts[index] : self.starts[index + 1]].tolist()
        return not any(bits & _COPY and turn in theirs for turn, bits in zip(mine, row.kinds, strict=True))

    def _age(self, index: int) -> int:
        """How many rows stand before it in its chain of parents."""
        seen = {index}
        parent = self.links[index]
        while parent is not None and parent not in seen:
            seen.add(parent)
            parent = self.links[parent]
        return len(seen) - 1

    def verdicts(self) -> dict[Key, Verdict]:
        """The verdict on every row."""
        rows = self.rows
        members: defaultdict[int, list[int]] = defaultdict(list)
        for index in range(len(rows)):
            members[int(self.family[index])].append(index)
        found: dict[Key, Verdict] = {}
        for family in members.values():
            root = min(family, key=self._eldest)
            name = self._family_id(root)
            for index in family:
                found[rows[index].key] = self._verdict(index, name, root)
        for index, row in enumerate(rows):
            verdict = found[row.key]
            if verdict.parent is not None:
                above = found[verdict.parent]
                above.children = (*above.children, row.key)
            seen: set[int] = set()
            up: int | None = index
            while up is not None and up not in seen:
                verdict.depth += rows[up].is_sidechain and _base(rows[up]) == rows[up].key.trace_id
                seen.add(up)
                up = self.links[up]
        return found

    def _eldest(self, index: int) -> tuple[Any, ...]:
        row = self.rows[index]
        owned = self.owned[self.starts[index] : self.starts[index + 1]]
        spoken = self.kinds[self.starts[index] : self.starts[index + 1]] & _SYSTEM == 0
        begins = bool(owned[spoken][:1].any())
        age = (self._age(index), row.parent is not None, row.started_at, row.key.trace_id, row.key)
        return (row.key not in self.fixed, not owned.any(), row.is_sidechain, not begins, *age)

    def _family_id(self, root: int) -> str:
        """Made of the root's first own turn that tells it from others, so that a copy of the root says the same."""
        row = self.rows[root]
        if row.key in self.fixed:
            return self.fixed[row.key]
        first = next((i for i, bits in enumerate(row.kinds) if bits & _TELLS), None)
        if first is not None:
            return f"{int(self.turns[self.starts[root] + first]):016x}"
        scope = "" if _is_long(_base(row)) else row.key.source_path
        return f"{_digest(row.key.source_kind, scope, _base(row)):016x}"

    def _verdict(self, index: int, family_id: str, root: int) -> Verdict:
        row = self.rows[index]
        place = slice(self.starts[index], self.starts[index + 1])
        kinds, owned = self.kinds[place], self.owned[place]
        parent = self.links[index]
        verdict = Verdict(
            family_id, "", None, spawned_by=row.spawned_by, agent_type=row.agent_type,
            parent=None if parent is None else self.rows[parent].key,
        )  # fmt: skip
        mine = np.flatnonzero(owned)
        spoken = np.flatnonzero(kinds & _SYSTEM == 0)
        if not len(mine):
            verdict.family_role, verdict.owner = self._nothing(index, spoken)
            return verdict
        first = int(mine[0])
        # System messages go with what follows them.
        while first and kinds[first - 1] & _SYSTEM:
            first -= 1
        verdict.owned_from = first
        verdict.turns = int((kinds[mine] & _MODEL > 0).sum())
        verdict.lent = tuple(int(i) for i in spoken if i > first and not owned[i])
        verdict.lifted = tuple(int(i) for i in mine if kinds[i] & _COPY)
        verdict.family_role = self._role(index, root, first, spoken)
        return verdict

    def _nothing(self, index: int, spoken: npt.NDArray[Any]) -> tuple[str, Key | None]:
        """Role and owner of a row that owns nothing."""
        if not len(spoken):
            return "snapshot", None
        last = int(self.starts[index] + spoken[-1])
        owner = int(self.owner_of[last])
        if owner < 0:
            parent = self.links[index]
            owner = index if parent is None else parent
        theirs = slice(self.starts[owner], self.starts[owner + 1])
        ends = self.turns[theirs][self.kinds[theirs] & _SYSTEM == 0]
        whole = len(ends) > 0 and ends[-1] == self.turns[last] and len(ends) == len(spoken)
        return "duplicate" if whole and owner != index else "snapshot", self.rows[owner].key

    def _role(self, index: int, root: int, first: int, spoken: npt.NDArray[Any]) -> str:
        row = self.rows[index]
        if index == root:
            return "root"
        if row.is_sidechain:
            return "subagent"
        # Equal prompts make no fork.
        telling = [int(self.starts[index] + i) for i in spoken if i < first]
        before = [int(self.owner_of[i]) for i in telling if self.kinds[i] & (_MODEL | _TELLS)]
        lenders = {owner for owner in before if owner >= 0}
        if row.is_window and _base(row) != row.key.trace_id:
            return "continued"
        if not lenders:
            return "forked" if _base(row) != row.key.trace_id else "continued"
        # All of the last lender's messages stand before the first own one: nothing of it was left.
        lender = before[-1] if before[-1] >= 0 else max(lenders)
        theirs = slice(self.starts[lender], self.starts[lender + 1])
        whole = set(self.turns[theirs][self.kinds[theirs] & _SYSTEM == 0].tolist())
        mine = {int(self.turns[self.starts[index] + i]) for i in spoken if i < first}
        return "resumed" if whole <= mine else "forked"


def _joined(arrays: Iterable[array[int]]) -> npt.NDArray[np.uint64]:
    found = [np.frombuffer(one, dtype=np.uint64) for one in arrays]
    return np.concatenate(found) if found else np.empty(0, dtype=np.uint64)


def _base(row: _Kept) -> str:
    """The name without the number of a window or branch."""
    name, mark, number = row.key.trace_id.rpartition("#")
    return name if mark and number.isdecimal() else row.key.trace_id


def _folder(row: _Kept) -> str:
    return posixpath.dirname(row.key.source_path.replace("\\", "/"))


def _is_long(name: str) -> bool:
    return len(name) >= _LONG and sum(letter.isdecimal() for letter in name) >= _DIGITS
