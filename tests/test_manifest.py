"""The manifest, and rows that must go, without a Hub."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.distill.state import digest
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub.manifest import Manifest, describe
from agent_rollouts.hub.revocation import belonging, find_rows, revoked
from tests.finished import finished, row

NAMES = st.text(max_size=8)


@given(
    files=st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(0, 9))),
    tombstones=st.frozensets(NAMES),
)
def test_what_is_written_is_read(files: dict[str, dict[str, int]], tombstones: frozenset[str]) -> None:
    manifest = Manifest(files, tombstones)
    assert Manifest.parse(manifest.dump()) == manifest
    assert Manifest.parse(manifest.dump()).dump() == manifest.dump()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": 1, "files": {}}', b"\xff"])
def test_a_damaged_one_is_refused(data: bytes) -> None:
    with pytest.raises(AgentRolloutsError, match="is damaged"):
        Manifest.parse(data)


def test_a_later_version_is_refused() -> None:
    with pytest.raises(AgentRolloutsError, match="of version 2"):
        Manifest.parse(Manifest().dump().replace(b'"version": 1', b'"version": 2'))


def test_files(tmp_path: Path) -> None:
    folder = finished(tmp_path / "out", {"messages": {"train": [row("a"), row("b")]}})
    told = describe(folder / "messages" / "train-00000-of-00001.parquet", "ab")
    assert told == {"sha256": "ab", "rows": 2, "policy": []}
    manifest = Manifest({"x": told, "y": told}).with_files({"z": {"sha256": "cd"}}, ["y"])
    assert orjson.loads(manifest.dump())["files"] == {"x": told, "z": {"sha256": "cd"}}


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
    gone=st.sets(st.sampled_from("abcde")),
    shards=st.integers(1, 4),
)
def test_exactly_the_rows_of_what_is_revoked_go(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], gone: set[str], shards: int
) -> None:
    folder = finished(
        tmp_path_factory.mktemp("out"), {"messages": {"train": [row(name) for name in ids]}}, shards=shards
    )
    files = {f"messages/{path.name}": path for path in (folder / "messages").iterdir()}
    configs = {"messages": {"train": ("messages/train-*",)}}
    tombstones = frozenset(digest(f"trace-{name}") for name in gone)
    removal = find_rows(configs, files, lambda name: pq.ParquetFile(files[name]), revoked(tombstones))
    room = tmp_path_factory.mktemp("room")
    cut = removal.cut(lambda name: files[name], room)
    left = [path for path in {**files, **cut}.values() if path is not None]
    kept = [name[6:] for path in left for name in pq.read_table(path).column("trace_id").to_pylist()]
    assert sorted(kept) == sorted(name for name in ids if name not in gone)
    assert removal.count == sum(name in gone for name in ids)
    assert not any(belonging(pq.ParquetFile(path), tombstones) for path in left)
