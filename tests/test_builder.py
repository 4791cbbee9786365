"""The builder against the real `datasets`: every session becomes a row, whatever surrounds it."""

from __future__ import annotations

import builtins
import functools
import gzip
import http.server
import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import orjson
import pyarrow as pa
import pytest
import zstandard
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_dataset_builder
from datasets.distributed import split_dataset_by_node

import agent_rollouts
from agent_rollouts import FEATURES, AgentRolloutsError, BadFileError, FormatError, SourceError, load_rollouts
from agent_rollouts.agent_rollouts import AgentRollouts
from agent_rollouts.configs import formats
from agent_rollouts.copies import Copies
from agent_rollouts.features import encoded_row
from agent_rollouts.formats import read
from agent_rollouts.loading import default_roots
from agent_rollouts.source import Source
from tests.sessions import (
    claude,
    claude_agent,
    claude_records,
    claude_rewound,
    claude_sidechains,
    codex,
    codex_compacted,
    codex_large,
    lines,
    put,
)

JSON_COLUMNS = ("messages", "tools", "skipped", "source_meta")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test, and no word to the Hub that a dataset was loaded."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files, seven rows, in folders that `datasets` itself would take for splits."""
    put(tmp_path / "s/-home-me-test/1.jsonl", claude("s1"))
    put(tmp_path / "s/dev/2.jsonl", claude_sidechains("s2", 4))
    put(tmp_path / "s/train/rollout-3.jsonl", codex("t3"))
    put(tmp_path / "s/plain/rollout-4.jsonl.gz", gzip.compress(codex("t4")))
    return tmp_path / "s"


IDS = ["s1", "s2", "s2:bed0001", "s2:bed0002", "s2:bed0003", "t4", "t3"]


def ids(rows: Any) -> list[str]:
    return [row["trace_id"] for row in rows]


def load(source: Any, format: str = "auto", **options: Any) -> Dataset:
    rows = load_dataset("agent_rollouts", format, data_files=source, split="train", **options)
    assert isinstance(rows, Dataset)
    return rows


def stream(source: Any, format: str = "auto", **options: Any) -> IterableDataset:
    return load_dataset("agent_rollouts", format, data_files=source, split="train", streaming=True, **options)


def stored(rows: Dataset) -> list[dict[str, Any]]:
    """Rows with their JSON columns as the text that is stored."""
    table = rows.data.table
    return [
        dict(zip(table.column_names, values, strict=True))
        for values in zip(*(_storage(table[name]).to_pylist() for name in table.column_names), strict=True)
    ]


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    plain = {pa.list_(pa.json_()): pa.list_(pa.string()), pa.json_(): pa.string()}
    return column.cast(plain[column.type]) if column.type in plain else column


# -- every session, whatever its folder is called ------------------------------------------------


def test_every_session_is_a_row(folder: Path) -> None:
    rows = load_dataset("agent_rollouts", "auto", data_dir=str(folder))
    assert isinstance(rows, DatasetDict)
    assert {name: ids(split) for name, split in rows.items()} == {"train": IDS}
    assert rows["train"].features == FEATURES


@pytest.mark.parametrize(
    "name", ["test", "dev", "train", "eval", "validation", "-home-me-test-x", "a [old]", "default"]
)
def test_no_folder_name_makes_a_split(tmp_path: Path, name: str) -> None:
    put(tmp_path / name / "1.jsonl", claude("s1"))
    put(tmp_path / "other" / "2.jsonl", claude("s2"))
    put(tmp_path / "other" / f"{name}.jsonl", claude("s3"))
    rows = load_dataset("agent_rollouts", "claude_code", data_dir=str(tmp_path))
    assert list(rows) == ["train"]
    assert sorted(ids(rows["train"])) == ["s1", "s2", "s3"]
    assert ids(load_dataset("agent_rollouts", "claude_code", data_dir=tmp_path / name, split="train")) == ["s1"]


def test_data_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    first, third = folder / "-home-me-test/1.jsonl", folder / "train/rollout-3.jsonl"
    assert ids(load(str(first))) == ids(load(first)) == ids(load("~/-home-me-test/1.jsonl")) == ["s1"]
    assert ids(load([str(third), first])) == ["t3", "s1"]
    assert ids(load(f"{folder}/*/*.jsonl")) == [name for name in IDS if name != "t4"]
    assert ids(load("~/**/rollout-*")) == ["t4", "t3"]
    assert ids(load(folder)) == ids(load("~")) == IDS
    assert ids(load("train/*", data_dir=str(folder))) == ids(load(["train"], data_dir="~")) == ["t3"]
    splits = load_dataset("agent_rollouts", data_files={"a": str(first), "b": [third, folder / "plain"]})
    assert {name: ids(rows) for name, rows in splits.items()} == {"a": ["s1"], "b": ["t3", "t4"]}
    assert ids(load_dataset("agent_rollouts", data_files={"a": first, "b": third}, split="a+b")) == ["s1", "t3"]


def test_one_format_and_every_other_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ids(load(folder, "codex")) == ["t4", "t3"]
    assert "1.jsonl is not of codex, it looks like claude_code" in caplog.text


def test_recursive_and_file_pattern(folder: Path) -> None:
    put(folder / "top.jsonl", claude("s0"))
    put(folder / "deep/x.log", claude("s9"))
    assert ids(load(folder, recursive=False)) == ["s0"]
    assert ids(load(folder, file_pattern="*.log")) == ["s9"]


def test_options_reach_the_rows(tmp_path: Path) -> None:
    put(tmp_path / "codex/rollout-1.jsonl", codex_compacted("t"))
    put(tmp_path / "claude/1.jsonl", claude_rewound("s"))
    put(tmp_path / "claude/agent-acompact-1.jsonl", claude_agent("s", "acompact-1"))
    assert ids(load(tmp_path)) == ["s", "t"]
    assert ids(load(tmp_path, history="segments")) == ["s", "t", "t#1"]
    assert [len(row["messages"]) for row in load(tmp_path, "codex", history="context")] == [4]
    assert ids(load(tmp_path, branches="all")) == ["s", "s#1", "t"]
    assert ids(load(tmp_path, internal=True)) == ["s", "s:acompact-1", "t"]
    assert ids(stream(tmp_path, history="segments", branches="all", internal=True)) == [
        "s",
        "s#1",
        "s:acompact-1",
        "t",
        "t#1",
    ]


# -- nothing to read, or nonsense ----------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_bare_call_does_not_look_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    listed: list[Any] = []
    monkeypatch.chdir(put(tmp_path / "full/1.jsonl", claude()).parent)
    for function in ("scandir", "listdir", "walk"):
        monkeypatch.setattr(os, function, functools.partial(listed.append))
    for call in ({}, {"data_files": None, "data_dir": None}, {"data_dir": ""}):
        with pytest.raises(SourceError, match=r"no source given .* data_dir= or data_files=.*~/.claude/projects"):
            load_dataset("agent_rollouts", "claude_code", streaming=streaming, **call)
    with pytest.raises(SourceError, match=r"agent_rollouts/auto.*load_rollouts\('auto'\)"):
        load_dataset("agent_rollouts", streaming=streaming)
    with pytest.raises(SourceError):
        AgentRollouts()
    assert listed == []


def test_bare_call_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no source given"):
        load_dataset("agent_rollouts")
    with pytest.raises(SourceError, match="no source given"):
        load_rollouts("codex", [])
    with pytest.raises(ValueError, match="Empty 'data_files'"):  # the words of datasets itself
        load_dataset("agent_rollouts", data_files=[])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("gone", r"/gone does not exist; name a file, a folder"),
        ("gone.jsonl", r"/gone.jsonl does not exist"),
        ("*.nothing", r"no file matches .*/\*.nothing"),
        ("empty", r"no file in .*/empty matches .*\*\.json\*.*; name another folder"),
    ],
)
def test_nothing_there(tmp_path: Path, source: str, told: str, streaming: bool) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=told):
        load_dataset("agent_rollouts", data_files=str(tmp_path / source), streaming=streaming)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_every_file_bad(tmp_path: Path, num_proc: int | None) -> None:
    for name, data in BAD.items():
        put(tmp_path / name, data)
    with pytest.raises(SourceError, match=rf"no rollout of format 'auto' in {len(BAD)} file\(s\): .*bad.*and .* more"):
        load(tmp_path, num_proc=num_proc)
    assert cached() == []


def test_all_files_of_another_format(folder: Path) -> None:
    with pytest.raises(
        SourceError,
        match=r"'codex' in 2 file\(s\): .*2.jsonl is claude_code; .*1.jsonl is claude_code\. .* 'auto' tries every",
    ):
        load([folder / "dev", folder / "-home-me-test"], "codex")


def test_session_without_messages(tmp_path: Path) -> None:
    put(tmp_path / "1.jsonl", lines({"type": "summary", "summary": "Tulips", "leafUuid": "u"}))
    with pytest.raises(SourceError, match=r"1.jsonl is claude_code without messages"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("format", "options", "error", "told"),
    [
        ("codx", {}, FormatError, "unknown format 'codx'; known: auto, .*claude_code, codex, "),
        ("auto", {"history": "all"}, AgentRolloutsError, "unknown history 'all'; known: full, segments, context"),
        ("auto", {"branches": "some"}, AgentRolloutsError, "unknown branches 'some'; known: active, all"),
        (
            "codex",
            {"on_bad_files": "raise"},
            AgentRolloutsError,
            "unknown on_bad_files 'raise'; known: warn, error, skip",
        ),
        ("auto", {"colour": "red"}, ValueError, "doesn't have a 'colour' key"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_options(
    folder: Path, format: str, options: dict[str, str], error: type[Exception], told: str, streaming: bool
) -> None:
    with pytest.raises(error, match=told):
        load_dataset("agent_rollouts", format, data_dir=str(folder), streaming=streaming, **options)
    if "on_bad_files" not in options:
        with pytest.raises(error, match=told):
            load_rollouts(format, folder, streaming=streaming, **options)
    assert cached() == []


# -- one bad file among good ones ----------------------------------------------------------------


def _zip(**members: bytes) -> bytes:
    with io.BytesIO() as data:
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name + ".jsonl", content)
        return data.getvalue()


BAD = {
    "bad-binary.jsonl": bytes(range(256)) * 300,
    "bad-empty.jsonl": b"",
    "bad-prose.jsonl": b"It was a dark night.\n",
    "bad-gzip.jsonl.gz": b"no gzip",
    "bad-gzip-torn.jsonl.gz": gzip.compress(claude())[:9],
    "bad-zstd.jsonl.zst": b"no zstd",
    "bad-zstd-torn.jsonl.zst": zstandard.compress(claude())[:20],
    "bad-zip.zip": b"PK\x03\x04 no zip",
    "bad-zip-torn.zip": _zip(a=claude())[:-30],
    "bad-zip-empty.zip": _zip(),
    "bad-other.jsonl": lines({"type": "pi", "name": "nobody's"}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_costs_only_itself(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = put(folder / "dev" / name, BAD[name])
    assert ids(load(folder)) == ids(stream(folder)) == IDS
    assert caplog.text.count(f"left out: {path}") == 2
    caplog.clear()
    assert ids(load(folder, on_bad_files="skip")) == ids(stream(folder, on_bad_files="skip")) == IDS
    assert caplog.text == ""
    told = rf"{name}.*; on_bad_files='skip' or 'warn' goes on without it"
    for num_proc in (None, 2):
        with pytest.raises(BadFileError, match=told):
            load(folder, on_bad_files="error", num_proc=num_proc)
    with pytest.raises(BadFileError, match=told):
        list(stream(folder, on_bad_files="error"))


def test_torn_file_gives_its_beginning(folder: Path) -> None:
    many = claude_sidechains("s5", 300)
    put(folder / "plain/5.jsonl", many[:-100])
    put(folder / "plain/6.jsonl.gz", gzip.compress(many)[:-100])
    put(folder / "plain/7.jsonl.zst", zstandard.compress(many)[:-100])
    rows = load(folder, on_bad_files="error")
    # The last line of its last rollout is missing, or its last rollouts are.
    counts = Counter(row["root_session_id"] for row in rows)
    assert {"s1": 1, "s2": 4, "t3": 1, "t4": 1}.items() < counts.items()
    assert counts["s5"] > 600
    damage = Counter(reason for row in rows for reason in row["skipped"] or () if reason.startswith(("file", "line")))
    assert damage == {"line: not JSON": 1, "file: ends in the middle of its compression": 2}


def test_file_that_may_not_be_read(open_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(open_folder / "s/1.jsonl", claude("s1"))
    closed = put(open_folder / "s/2.jsonl", claude("s2"))
    closed.chmod(0)
    options = {"cache_dir": str(open_folder / "cache")}
    assert ids(load(open_folder / "s", **options)) == ["s1"]
    assert "Permission denied" in caplog.text
    assert str(closed) in caplog.text
    with pytest.raises(BadFileError, match=r"Permission denied: .*2.jsonl"):
        load(open_folder / "s", on_bad_files="error", **options)


def test_file_that_is_gone_when_it_is_read(folder: Path) -> None:
    rows = stream(folder)
    builder = AgentRollouts(data_dir=str(folder))
    (folder / "dev/2.jsonl").unlink()
    builder.download_and_prepare()
    assert ids(rows) == ids(builder.as_dataset("train")) == ["s1", "t4", "t3"]


def test_file_that_cannot_be_read_to_its_end(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Reading a process's memory at 0 is an input/output error.
    (folder / "dev/3.jsonl").symlink_to("/proc/self/mem")
    assert ids(load(folder)) == IDS
    assert "3.jsonl: OSError: [Errno 5]" in caplog.text


@pytest.mark.parametrize("tokens", [2**63, 2**64 - 1])
def test_number_that_arrow_cannot_hold_costs_only_itself(folder: Path, tokens: int) -> None:
    records = claude_records("x")
    records[-1]["message"]["usage"] = {"input_tokens": tokens, "output_tokens": 3}
    put(folder / "dev/3.jsonl", lines(*records))
    found = next(row for row in load(folder) if row["trace_id"] == "x")
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (None, 3 + 5)
    assert found["skipped"] == {"usage: beyond 64 bits": 1}


# -- archives and addresses ----------------------------------------------------------------------


def test_zip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, data in {
            "projects/test/1.jsonl": claude("s1"),
            "projects/dev/2.jsonl.gz": gzip.compress(claude("s2")),
            "sessions/rollout-3.jsonl.zst": zstandard.compress(codex("t3")),
            "sessions/rollout-4.jsonl": b"nothing of the kind",
            "history.jsonl": b'{"display":"a"}\n',
            "README.md": b"# Mine",
            "__MACOSX/projects/1.jsonl": b"\x00\x05",
        }.items():
            archive.writestr(name, data)
    path = f"{tmp_path}/all.zip"
    rows = load(tmp_path)
    assert ids(rows) == ids(stream(path)) == ids(load(path, num_proc=2)) == ["s2", "s1", "t3"]
    assert rows["source_path"][0] == f"{path}::projects/dev/2.jsonl.gz"
    assert caplog.text.count("left out") == caplog.text.count("all.zip::sessions/rollout-4.jsonl is not of any") > 0
    with pytest.raises(BadFileError, match=r"rollout-4.jsonl"):
        load(path, on_bad_files="error")


def test_bad_member_costs_only_itself(tmp_path: Path) -> None:
    data = bytearray(_zip(a=claude_sidechains("s1", 500), b=b"x", c=codex("t2")))
    # In the deflated text of the first member.
    data[60:90] = bytes(30)
    put(tmp_path / "all.zip", bytes(data))
    assert ids(load(tmp_path))[-1] == "t2"


def test_addresses_in_memory(folder: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.put(str(folder), "/memory-test", recursive=True)
    try:
        rows = load("memory://memory-test")
        assert (
            ids(rows)
            == ids(stream("memory://memory-test/**"))
            == ids(load_rollouts(source="memory://memory-test"))
            == IDS
        )
        assert rows["source_path"][0] == "memory://memory-test/-home-me-test/1.jsonl"
        fs.pipe("/memory-test/-home-me-test/1.jsonl", claude("s1") + b"\n")
        assert load("memory://memory-test").cache_files != rows.cache_files
        with pytest.raises(SourceError, match="memory://nowhere does not exist"):
            load("memory://nowhere")
    finally:
        fs.rm("/memory-test", recursive=True)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_addresses_on_the_web(address: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec needs it for http")
    one = f"{address}/dev/2.jsonl"
    rows = load(one)
    assert ids(rows) == ids(stream(one)) == IDS[1:5]
    assert rows["source_path"][0] == one
    assert ids(load([f"{address}/plain/rollout-4.jsonl.gz", f"{address}/train/rollout-3.jsonl?v=1"])) == ["t4", "t3"]
    assert ids(load(f"{address}/")) == IDS
    with pytest.raises(SourceError, match=r"gone.jsonl does not exist"):
        load(f"{address}/gone.jsonl")


# -- load_rollouts -------------------------------------------------------------------------------


def test_default_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        SourceError, match=r"none of the default folders holds sessions \(~/.claude/projects, .*name a source"
    ):
        load_rollouts()
    put(tmp_path / ".claude/projects/-home-me-test/1.jsonl", claude("s1"))
    put(tmp_path / ".claude/projects/-home-me-test/sessions-index.json", b"{}")
    put(tmp_path / ".claude/history.jsonl", b"{}")
    assert default_roots() == [f"{tmp_path}/.claude/projects"]
    assert ids(load_rollouts()) == ids(load_rollouts("claude_code")) == ["s1"]
    with pytest.raises(SourceError, match=r"~/.codex/sessions"):
        load_rollouts("codex")
    put(tmp_path / ".codex/sessions/2026/03/02/rollout-2.jsonl", codex("t2"))
    assert ids(load_rollouts()) == ids(load_rollouts(streaming=True)) == ["s1", "t2"]
    with pytest.raises(FormatError, match="unknown format 'codx'"):
        load_rollouts("codx")


def test_load_rollouts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    for source in (folder, str(folder), "~", ".", [folder / "-home-me-test", "~/dev", "plain", "train/*.jsonl"]):
        assert ids(load_rollouts(source=source)) == IDS
    assert ids(load_rollouts("codex", folder, split="train[:1]", num_proc=2, on_bad_files="skip")) == ["t4"]
    assert isinstance(load_rollouts("auto", (folder,), streaming=True), IterableDataset)


# -- rows ----------------------------------------------------------------------------------------


def test_stored_text_is_that_of_the_rollouts(folder: Path) -> None:
    put(folder / "verbatim.jsonl", codex("v", prompt='0.7 "\u2028" ü 😀 \\ud83d {"a": 1}', answer=" 42 \n"))
    rows = load(folder)
    rollouts = [rollout for path in sorted(set(rows["source_path"])) for rollout in read(Source(path))]
    assert stored(rows) == [encoded_row(rollout) for rollout in rollouts]
    for row, rollout in zip(stored(rows), rollouts, strict=True):
        assert row["messages"] == [orjson.dumps(message).decode() for message in rollout.messages]
    assert '"share":0.7' in stored(rows)[0]["messages"][1]


def test_examples_and_tables_are_the_same_rows(folder: Path) -> None:
    builder = AgentRollouts(data_dir=str(folder))
    files = list(builder.config.data_files["train"])
    rows = [row for _, row in builder._generate_examples(files, Copies(files))]
    tables = [table for _, table in builder._generate_tables(files, Copies(files))]
    assert {table.schema for table in tables} == {FEATURES.arrow_schema}
    assert stored(Dataset(pa.concat_tables(tables))) == rows
    assert list(builder._generate_shards(files, Copies(files))) == files


def test_decoded_rows(folder: Path) -> None:
    rows = load(folder)
    assert rows.data.table.schema.remove_metadata() == FEATURES.arrow_schema.remove_metadata()
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert rows[0]["usage"]["output_tokens"] == 10
    assert rows[0]["tools"] is None
    assert list(stream(folder)) == list(rows)


def test_number_of_processes_changes_nothing(folder: Path) -> None:
    one, two = load(folder), load(folder, num_proc=2, on_bad_files="skip")
    assert stored(one) == stored(two)
    assert len(two.cache_files) == 2


def test_large_rows_are_written_one_by_one(tmp_path: Path) -> None:
    size = 17 << 20
    for name in ("1", "2", "3"):
        put(tmp_path / f"rollout-{name}.jsonl", codex_large(name, text=name * size))
    put(tmp_path / "small.jsonl", claude_sidechains("s", 700))
    for number in range(8):
        # What a row weighs is its pictures too.
        picture = b"AAAA" * (1 << 20)
        put(tmp_path / f"with-picture-{number}.jsonl", codex_large(f"p{number}", pictures=[picture, picture]))
    rows = load(tmp_path)
    (cached_file,) = [file["filename"] for file in rows.cache_files]
    with pa.memory_map(cached_file) as source:
        batches = list(pa.ipc.open_stream(source))
    # datasets divides tables into batches of 100.
    assert [batch.num_rows for batch in batches] == [1, 1, 1, 100, 100, 56, 100, 100, 56, 100, 91, 3, 2]
    assert max(batch.nbytes for batch in batches) < 2.1 * (16 << 20)
    assert [len(row["messages"][2]["content"]) for row in rows.select(range(3))] == [size] * 3
    assert ids(rows.select_columns("trace_id")) == ids(stream(tmp_path).select_columns("trace_id"))


def test_many_rows_in_a_file(tmp_path: Path) -> None:
    put(tmp_path / "s.jsonl", claude_sidechains("s", 1000))
    assert ids(load(tmp_path)) == ids(stream(tmp_path)) == ["s", *(f"s:bed{number:04d}" for number in range(1, 1000))]


def test_parquet_straight_from_the_builder(folder: Path, tmp_path: Path) -> None:
    builder = load_dataset_builder("agent_rollouts", data_dir=str(folder))
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    assert stored(load_dataset(str(tmp_path / "out"), split="train")) == stored(load(folder))


# -- streaming: shards, workers, nodes, resuming -------------------------------------------------


def test_one_shard_is_one_file(folder: Path) -> None:
    rows = stream(folder)
    assert rows.num_shards == 4
    assert [ids(rows.shard(4, index)) for index in range(4)] == [["s1"], IDS[1:5], ["t4"], ["t3"]]
    assert sorted(ids(rows.shuffle(seed=1, buffer_size=2))) == sorted(IDS)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_see_each_row_once(folder: Path, workers: int) -> None:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(stream(folder), num_workers=workers, batch_size=None)
    assert sorted(ids(loader)) == sorted(IDS)


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_nodes_see_each_row_once(folder: Path, nodes: int) -> None:
    parts = [ids(split_dataset_by_node(stream(folder), rank, nodes)) for rank in range(nodes)]
    assert sorted(name for part in parts for name in part) == sorted(IDS)
    assert all(parts)


@pytest.mark.parametrize("taken", range(len(IDS) + 1))
def test_resuming_is_exact(folder: Path, taken: int) -> None:
    rows = stream(folder)
    iterator = iter(rows)
    first = [next(iterator)["trace_id"] for _ in range(taken)]
    state = pickle.loads(pickle.dumps(rows.state_dict()))
    fresh = stream(folder)
    fresh.load_state_dict(state)
    assert first + ids(fresh) == IDS


def test_resuming_beyond_the_first_table_of_a_file(tmp_path: Path) -> None:
    put(tmp_path / "s.jsonl", claude_sidechains("s", 600))
    rows, fresh = stream(tmp_path), stream(tmp_path)
    iterator = iter(rows)
    first = [next(iterator)["trace_id"] for _ in range(300)]
    fresh.load_state_dict(rows.state_dict())
    assert first + ids(fresh) == ids(stream(tmp_path))


# -- what datasets can do with the rows ----------------------------------------------------------


def test_operations_on_a_dataset(folder: Path, tmp_path: Path) -> None:
    rows = load(folder)
    assert rows.with_format("arrow")[:].num_rows == 7
    assert len(rows.to_pandas()) == 7
    assert ids(rows.filter(lambda row: row["source_kind"] == "codex")) == ["t4", "t3"]
    assert ids(rows.select_columns(["trace_id"])) == IDS
    shouted = rows.map(lambda row: {"messages": [{**m, "content": m["content"].upper()} for m in row["messages"]]})
    assert shouted.features == FEATURES
    assert shouted[0]["messages"][-1]["content"] == "THE RED ONES."
    same = rows.map(lambda row: row)
    assert list(same) == list(rows)
    rows.to_parquet(tmp_path / "rows.parquet")
    again = Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    assert again.features == FEATURES
    assert stored(again) == stored(rows)
    rows.save_to_disk(str(tmp_path / "saved"))
    assert stored(datasets.load_from_disk(str(tmp_path / "saved"))) == stored(rows)
    parts = rows.train_test_split(test_size=2, seed=1)
    assert sorted(ids(parts["train"]) + ids(parts["test"])) == sorted(IDS)
    assert len(datasets.concatenate_datasets([rows, rows])) == 14


def test_operations_on_a_stream(folder: Path, tmp_path: Path) -> None:
    assert ids(stream(folder).filter(lambda row: row["source_kind"] == "codex")) == ["t4", "t3"]
    assert list(stream(folder).select_columns(["trace_id"])) == [{"trace_id": name} for name in IDS]
    counted = stream(folder).map(lambda row: {"n": len(row["messages"])}, remove_columns="messages")
    assert [row["n"] for row in counted] == [4] * 7
    assert ids(stream(folder).skip(2).take(2)) == IDS[2:4]
    assert [len(batch["trace_id"]) for batch in stream(folder).batch(3)] == [3, 3, 1]
    tables = list(stream(folder).with_format("arrow").iter(2))
    assert sum(table.num_rows for table in tables) == 7
    stream(folder).to_parquet(tmp_path / "rows.parquet")
    assert stored(Dataset.from_parquet(str(tmp_path / "rows.parquet"))) == stored(load(folder))
    both = datasets.concatenate_datasets([stream(folder), stream(folder)])
    assert ids(both) == IDS * 2


@pytest.mark.xfail(raises=pa.ArrowInvalid, reason="datasets 5.2 makes Arrow of mapped streams without their features")
@pytest.mark.parametrize("change", ["map", "filter"])
def test_changed_stream_to_parquet(folder: Path, tmp_path: Path, change: str) -> None:
    rows = stream(folder)
    changed = rows.map(lambda row: row, features=FEATURES) if change == "map" else rows.filter(bool)
    changed.to_parquet(tmp_path / "rows.parquet")


# -- the cache -----------------------------------------------------------------------------------


def cached() -> list[Path]:
    """What lies in the cache, without the lock files."""
    root = Path(datasets.config.HF_DATASETS_CACHE)
    return [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_the_same_call_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder)
    with watched(monkeypatch) as opened:
        second = load(folder)
    assert [path for path in opened if str(folder) in path] == []
    assert first.cache_files == second.cache_files


def test_what_makes_the_cache_stale(folder: Path) -> None:
    path = folder / "-home-me-test/1.jsonl"
    seen = [load(folder).cache_files]

    def is_fresh(**options: Any) -> bool:
        files = load(folder, **options).cache_files
        seen.append(files)
        return files not in seen[:-1]

    assert not is_fresh()
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert is_fresh(), "touched"
    path.write_bytes(claude("s1", answer="The yellow ones."))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert is_fresh(), "as old, of another size"
    assert load(folder)[0]["final_assistant_message"] == "The yellow ones."
    put(folder / "more.jsonl", claude("s9"))
    assert is_fresh(), "one more file"
    for options in ({"history": "segments"}, {"branches": "all"}, {"internal": True}, {"on_bad_files": "skip"}):
        assert is_fresh(**options)
        assert not is_fresh(**options)


def test_changed_code_reads_again(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, as code is loaded once."""
    package = Path(agent_rollouts.__file__).parent
    copy = tmp_path / "code/agent_rollouts"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package.parent / "builder_configs", copy.parent / "builder_configs")
    program = (
        "import sys, agent_rollouts, datasets\n"
        "for way in ('load_dataset', 'builder'):\n"
        "    if way == 'builder':\n"
        "        from agent_rollouts.agent_rollouts import AgentRollouts\n"
        "        builder = AgentRollouts(data_dir=sys.argv[1])\n"
        "    else:\n"
        "        builder = datasets.load_dataset_builder('agent_rollouts', data_dir=sys.argv[1])\n"
        "    print(builder.cache_dir)\n"
    )

    def caches() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(copy.parent), "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-c", program, str(folder)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.split()

    before = caches()
    assert before[0] == before[1]
    seen = {before[0]}
    for changed in (copy / "formats/codex.py", copy.parent / "builder_configs/codex.yaml"):
        changed.write_text(changed.read_text() + "# changed\n")
        seen.add(caches()[0])
    assert len(seen) == 3


def test_a_failing_build_leaves_nothing(folder: Path) -> None:
    put(folder / "zz.jsonl", b"not a session\n")
    for num_proc in (None, 2):
        with pytest.raises(BadFileError):
            load(folder, on_bad_files="error", num_proc=num_proc)
        assert cached() == []
    (folder / "zz.jsonl").write_bytes(claude("s9"))
    assert ids(load(folder, on_bad_files="error")) == [*IDS, "s9"]


class watched:
    """All paths that Python code opens, in the order in which it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.opened: list[str] = []

    def __enter__(self) -> list[str]:
        real = builtins.open

        def watching(file: Any, *args: Any, **kwargs: Any) -> Any:
            self.opened.append(str(file))
            return real(file, *args, **kwargs)

        self.monkeypatch.setattr(builtins, "open", watching)
        self.monkeypatch.setattr(io, "open", watching)
        return self.opened

    def __exit__(self, *error: Any) -> None:
        self.monkeypatch.undo()


def test_looking_for_files_reads_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "all.zip", _zip(a=claude()))
    with watched(monkeypatch) as opened:
        builder = load_dataset_builder("agent_rollouts", data_dir=str(folder))
        assert len(builder.config.data_files["train"]) == 5
        rows = builder.as_streaming_dataset("train")
        assert rows.num_shards == 5
        assert rows.features == FEATURES
        assert [path for path in opened if str(folder) in path] == []
        assert next(iter(rows))["trace_id"] == "s1"
        assert {path for path in opened if str(folder) in path} == {str(folder / "-home-me-test/1.jsonl")} | {
            path for path in opened if path.endswith(("sessions-index.json", ".zip"))
        }, "nor is a file opened before its rows are asked for, apart from the names within archives"


# -- the builder itself --------------------------------------------------------------------------


def test_direct_use(folder: Path) -> None:
    builder = AgentRollouts(config_name="codex", data_dir=str(folder), on_bad_files="skip")
    assert builder.config.name == "codex"
    assert builder.info.features == FEATURES
    builder.download_and_prepare()
    assert ids(builder.as_dataset("train")) == ids(builder.as_streaming_dataset("train")) == ["t4", "t3"]
    assert AgentRollouts(data_files=str(folder)).config.name == "auto"


def test_one_configuration_per_format() -> None:
    assert set(AgentRollouts.builder_configs) == {"auto", *formats()}
    assert set(datasets.get_dataset_config_names("agent_rollouts", data_files="x")) == {"auto", *formats()}


def test_builders_and_streams_are_pickled(folder: Path) -> None:
    builder = pickle.loads(pickle.dumps(AgentRollouts(data_dir=str(folder), history="segments")))
    builder.download_and_prepare()
    assert ids(builder.as_dataset("train")) == IDS
    assert ids(pickle.loads(pickle.dumps(stream(folder)))) == IDS


def test_other_builders_still_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "j/a.jsonl", b'{"n":1}\n{"n":2}\n')
    put(tmp_path / "d/a.csv", b"n\n4\n")
    put(tmp_path / "d/test/b.csv", b"n\n3\n")
    assert load_dataset("json", data_files=str(tmp_path / "j/a.jsonl"), split="train")["n"][:] == [1, 2]
    assert load_dataset("csv", data_dir=str(tmp_path / "d"), split="test")["n"][:] == [3]
    assert load_dataset(str(tmp_path / "j"), split="train")["n"][:] == [1, 2]
    monkeypatch.chdir(tmp_path / "d")
    assert load_dataset("csv", split="test")["n"][:] == [3]


@pytest.mark.parametrize("option", [{"token": "hf_x"}, {"storage_options": {"key": "x"}}])
def test_credentials_that_would_not_be_used_are_refused(folder: Path, option: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="HF_TOKEN"):
        load(folder, **option)
