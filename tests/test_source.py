"""Files are found wherever they lie, opened whatever wraps them, and read in spite of their damage."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard

from agent_rollouts.errors import SourceError
from agent_rollouts.formats import detect, read
from agent_rollouts.source import HEAD_BYTES, HEAD_RECORDS, Source, find, open_sources
from tests.sessions import claude, claude_records, codex, lines, put

RULES: dict[str, Any] = {"patterns": ("*.jsonl",), "ignored": ("history.jsonl", "*.meta.json", "tool-results/")}


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty before and after."""
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/", recursive=True) if fs.ls("/") else None


def names(tmp_path: Path, source: Any = None, **rules: Any) -> list[str]:
    found = find(tmp_path if source is None else source, **(RULES | rules))
    return [os.path.relpath(path, tmp_path).replace(os.sep, "/") for path in found]


# -- find: folders -------------------------------------------------------------------------------


def test_folder_is_searched_in_depth_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/10.jsonl", "a/x.jsonl", "top.jsonl", ".hidden/in/h.jsonl", "notes.txt"):
        put(tmp_path / name, b"{}\n")
    expected = [".hidden/in/h.jsonl", "a/x.jsonl", "b/10.jsonl", "b/2.jsonl", "top.jsonl"]
    assert names(tmp_path) == expected == names(tmp_path, f"{tmp_path}/")
    assert names(tmp_path, recursive=False) == ["top.jsonl"]


def test_ignored_names_and_folders(tmp_path: Path) -> None:
    kept = ("s.jsonl", "tool-results.jsonl", "my-tool-results/a.jsonl")
    left = ("history.jsonl", "deep/history.jsonl.gz", "tool-results/a.jsonl", "s/tool-results/deep/b.jsonl")
    never = (".git/a.jsonl", "x/node_modules/a.jsonl", "__pycache__/a.jsonl", "__MACOSX/a.jsonl", ".venv/lib/a.jsonl")
    for name in kept + left + never:
        put(tmp_path / name, b"{}\n")
    assert names(tmp_path) == sorted(kept)
    # Whoever names a file means it.
    assert names(tmp_path, [tmp_path / "history.jsonl"]) == ["history.jsonl"]


@pytest.mark.parametrize(
    "folder", ["train", "test", "dev/x", "eval", "validation", "-home-me-test", "a [old]", "sp ace", "ü"]
)
def test_no_folder_name_matters(tmp_path: Path, folder: str) -> None:
    put(tmp_path / folder / "s.jsonl", b"{}\n")
    put(tmp_path / folder / "notes.txt", b"")
    assert names(tmp_path) == [f"{folder}/s.jsonl"]
    assert names(tmp_path, tmp_path / folder) == [f"{folder}/s.jsonl"]
    assert names(tmp_path, str(tmp_path / folder / "s.jsonl")) == [f"{folder}/s.jsonl"]


def test_brackets_in_a_file_name_are_no_wildcard(tmp_path: Path) -> None:
    for name in ("a[1].jsonl", "a1.jsonl", "b?.jsonl", "c*.jsonl", "cc.jsonl"):
        put(tmp_path / name, b"{}\n")
    for name in ("a[1].jsonl", "b?.jsonl", "c*.jsonl"):
        assert names(tmp_path, tmp_path / name) == [name]


def test_plain_file_beats_its_compressed_copies(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "b.jsonl.zst", "deep/a.jsonl.gz"):
        put(tmp_path / name, b"")
    assert names(tmp_path) == ["a.jsonl", "b.jsonl.zst", "deep/a.jsonl.gz"]
    assert names(tmp_path, tmp_path / "*.jsonl*") == ["a.jsonl", "b.jsonl.zst"]


def test_file_pattern_replaces_the_names_of_the_format(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.log", "b.log.gz", "c.zip"):
        put(tmp_path / name, b"")
    assert names(tmp_path, patterns=("*.log",)) == ["a.log", "b.log.gz", "c.zip"]


@pytest.mark.parametrize("glob", ["", "**", "**/*.jsonl"])
def test_links_in_circles_end_and_give_each_file_once(tmp_path: Path, glob: str) -> None:
    put(tmp_path / "a/s.jsonl", b"{}\n")
    # Two of them: with two to follow at each level, a search that goes round never ends.
    for link in ("again", "once_more"):
        (tmp_path / "a" / link).symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path, tmp_path / glob) == ["a/s.jsonl"]


def test_linked_folders_and_files_are_read(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/s.jsonl", b"{}\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "home/file.jsonl").symlink_to(tmp_path / "elsewhere/s.jsonl")
    assert names(tmp_path, tmp_path / "home") == ["home/file.jsonl", "home/folder/s.jsonl"]


def test_only_files_are_found(tmp_path: Path) -> None:
    put(tmp_path / "s.jsonl", b"{}\n")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "dead.jsonl").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for source in (tmp_path, tmp_path / "*.jsonl", tmp_path / "**/*.jsonl"):
        assert names(tmp_path, source) == ["s.jsonl"]


def test_a_folder_that_may_not_be_listed_is_told(open_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(open_folder / "s.jsonl", b"{}\n")
    (open_folder / "closed").mkdir(mode=0)
    with caplog.at_level(logging.WARNING):
        assert names(open_folder) == ["s.jsonl"]
    assert f"{open_folder}/closed: PermissionError" in caplog.text


# -- find: globs, lists, addresses ---------------------------------------------------------------


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = ("a/1.jsonl", "a/deep/2.jsonl", "b/3.jsonl", "b/.h/4.jsonl", "a/5.txt", "a/tool-results/6.jsonl")
    for name in every:
        put(tmp_path / name, b"{}\n")
    session = [name for name in sorted(every) if "tool-results" not in name]
    assert names(tmp_path, tmp_path / "*/*.jsonl") == ["a/1.jsonl", "b/3.jsonl"]
    assert names(tmp_path, tmp_path / "?/*") == ["a/1.jsonl", "a/5.txt", "b/3.jsonl"], "a glob names its files itself"
    assert names(tmp_path, tmp_path / "**/*.jsonl") == [name for name in session if name.endswith("l")]
    assert names(tmp_path, tmp_path / "**") == session
    assert names(tmp_path, tmp_path / "[a]/**/*.jsonl") == ["a/1.jsonl", "a/deep/2.jsonl"]
    assert names(tmp_path, tmp_path / "**/deep/**/*") == ["a/deep/2.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert find("**/[23].jsonl") == ["a/deep/2.jsonl", "b/3.jsonl"]
    assert find("b/**/*.jsonl", **RULES) == ["b/.h/4.jsonl", "b/3.jsonl"]
    assert find("b/*.jsonl") == ["b/3.jsonl"]
    assert find(["b", "a/1.jsonl", "b/3.jsonl"], **RULES) == ["b/.h/4.jsonl", "b/3.jsonl", "a/1.jsonl"]


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "x/s.jsonl", b"{}\n")
    for source in ("~/x", "~/x/*.jsonl", "~/**/s.jsonl", "~/x/s.jsonl", Path("~/x")):
        assert names(tmp_path, source) == ["x/s.jsonl"]


@pytest.mark.parametrize(
    ("source", "rules", "told"),
    [
        ("gone", {}, "/gone does not exist; name a file, a folder, a glob or an address"),
        ("*.nothing", {}, r"no file matches .*/\*.nothing; name another folder or set file_pattern"),
        ("**/*.nothing", {}, r"no file matches .*/\*\*/\*.nothing"),
        ("empty", {}, r"no file in .*/empty matches \*.jsonl; name another folder or set file_pattern"),
        ("deep", {"recursive": False}, r"recursive=False: folders below it were not searched"),
        ("deep", {"patterns": ("*.a", "*.b")}, r"no file in .*/deep matches \*.a or \*.b"),
        ("a [old]", {}, r"no file in .*/a \[old\] matches \*.jsonl"),
    ],
)
def test_nothing_there(tmp_path: Path, source: str, rules: dict[str, Any], told: str) -> None:
    for folder in ("empty", "a [old]"):
        (tmp_path / folder).mkdir()
    put(tmp_path / "deep/er/s.jsonl", b"")
    with pytest.raises(SourceError, match=told):
        names(tmp_path, tmp_path / source, **rules)


def test_no_source_at_all() -> None:
    with pytest.raises(SourceError, match="no source given"):
        find([])


def test_addresses(memory: Any) -> None:
    for name in (
        "/d/a.jsonl",
        "/d/x/b.jsonl",
        "/d/x/c.jsonl.gz",
        "/d/x/c.jsonl",
        "/d/notes.txt",
        "/d/tool-results/t.jsonl",
    ):
        memory.pipe(name, b"{}\n")
    every = ["memory://d/a.jsonl", "memory://d/x/b.jsonl", "memory://d/x/c.jsonl"]
    assert find("memory://d", **RULES) == find("memory://d/", **RULES) == find("memory:///d", **RULES) == every
    assert find("memory://d/**/*.jsonl", **RULES) == every
    assert find("memory://d", **RULES, recursive=False) == every[:1]
    assert find(["memory://d/x/b.jsonl", "memory://d/notes.txt"]) == ["memory://d/x/b.jsonl", "memory://d/notes.txt"]
    with pytest.raises(SourceError, match="memory://gone does not exist"):
        find("memory://gone")
    with pytest.raises(SourceError, match=r"no file matches memory://d/\*.txt.gz"):
        find("memory://d/*.txt.gz")


def test_unknown_address() -> None:
    with pytest.raises(SourceError, match="nosuch://x cannot be opened: Protocol not known: nosuch"):
        find("nosuch://x")


def test_addresses_within_addresses(memory: Any) -> None:
    memory.pipe("/a.zip", zipped({"in/1.jsonl": b'{"a":1}\n', "in/2.jsonl": b"{}\n", "in/x.txt": b""}))
    found = ["zip://in/1.jsonl::memory://a.zip", "zip://in/2.jsonl::memory://a.zip"]
    assert find("zip://in::memory://a.zip", **RULES) == find("zip://in/*.jsonl::memory://a.zip") == found
    source = Source(found[0])
    assert list(source.records()) == [{"a": 1}]
    assert source.stem == "1"
    assert source.sibling("2.jsonl") is None


# -- opening -------------------------------------------------------------------------------------

DATA = b'{"n":1}\n{"n":2}\n'
WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "s.jsonl": bytes,
    "s.jsonl.gz": gzip.compress,
    "s.jsonl.zst": zstandard.compress,
}


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize("name", WRAPPED)
def test_compressed_files(tmp_path: Path, name: str, memory: Any) -> None:
    data = WRAPPED[name](DATA)
    memory.pipe(f"/{name}", data)
    for path in (str(put(tmp_path / name, data)), f"memory://{name}"):
        source = Source(path)
        assert (source.name, source.stem) == ("s.jsonl", "s")
        assert source.head.data == DATA
        assert list(source.records()) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("size", [1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 1_000_000])
def test_several_frames_behind_one_another(tmp_path: Path, wrap: Callable[[bytes], bytes], size: int) -> None:
    suffix = ".gz" if wrap is gzip.compress else ".zst"
    large = lines({"text": "x" * size})
    path = put(tmp_path / f"s.jsonl{suffix}", wrap(large) + wrap(b"") + wrap(large[:10]) + wrap(large[10:]))
    assert [len(record["text"]) for record in Source(str(path)).records()] == [size, size]


def test_zip_members(tmp_path: Path) -> None:
    members = {
        "b/s.jsonl": DATA,
        "a/deep/s.jsonl.gz": gzip.compress(DATA),
        "a/plain.jsonl": DATA,
        "a/plain.jsonl.gz": b"a copy",
        "a/s.jsonl.zst": zstandard.compress(DATA),
        "a/history.jsonl": DATA,
        "a/tool-results/x.jsonl": DATA,
        "__MACOSX/a/s.jsonl": DATA,
        "a/README.md": b"",
        "empty/": b"",
    }
    path = str(put(tmp_path / "all.zip", zipped(members)))
    read = {source.path: list(source.records()) for source in open_sources(path, **RULES)}
    expected = ["a/deep/s.jsonl.gz", "a/plain.jsonl", "a/s.jsonl.zst", "b/s.jsonl"]
    assert read == {f"{path}::{name}": [{"n": 1}, {"n": 2}] for name in expected}
    every = [source.path.partition("::")[2] for source in open_sources(path)]
    assert every == sorted({*members} - {"__MACOSX/a/s.jsonl", "a/plain.jsonl.gz", "empty/"})


def test_zip_member_has_a_name_and_no_neighbours(tmp_path: Path, memory: Any) -> None:
    data = zipped({"x/s.jsonl.gz": gzip.compress(DATA), "x/s.meta.json": b"{}"})
    memory.pipe("/d/all.zip", data)
    for path in (str(put(tmp_path / "all.zip", data)), "memory://d/all.zip"):
        (source,) = open_sources(path, **RULES)
        assert (source.name, source.stem, source.path) == ("s.jsonl", "s", f"{path}::x/s.jsonl.gz")
        assert source.sibling("s.meta.json") is None


def test_zip_without_sessions(tmp_path: Path) -> None:
    path = str(put(tmp_path / "photos.zip", zipped({"a.png": b"", "b.png": b""})))
    with pytest.raises(SourceError, match=r"photos.zip: none of its 2 members matches \*.jsonl"):
        list(open_sources(path, **RULES))


def test_large_zip_member_is_not_held_in_memory(tmp_path: Path) -> None:
    large = lines({"text": "x" * 1000}) * 60_000
    path = str(put(tmp_path / "all.zip", zipped({"s.jsonl": large})))
    tracemalloc.start()
    (count,) = [sum(1 for _ in source.records()) for source in open_sources(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak < 5_000_000


# -- damaged lines -------------------------------------------------------------------------------

SEPARATOR = "a\u2028b\u2029c\x85d"
DAMAGED: dict[str, tuple[bytes, list[Any], dict[str, int]]] = {
    "nothing": (b"", [], {}),
    "blank lines": (b'\n{"n":1}\n  \n\r\n\t\n{"n":2}\n\n', [{"n": 1}, {"n": 2}], {}),
    "no newline at the end": (b'{"n":1}\n{"n":2}', [{"n": 1}, {"n": 2}], {}),
    "byte order mark": (b'\xef\xbb\xbf{"n":1}\n{"n":2}\n', [{"n": 1}, {"n": 2}], {}),
    "CRLF": (b'{"n":1}\r\n{"n":"a\\r\\nb"}\r\n', [{"n": 1}, {"n": "a\r\nb"}], {}),
    "separators of Unicode": (f'{{"n":"{SEPARATOR}"}}\n'.encode(), [{"n": SEPARATOR}], {}),
    "two objects on a line": (
        b'{"n":1}{"n":2}\n{"n":3}\n',
        [{"n": 1}, {"n": 2}, {"n": 3}],
        {"line: several objects": 1},
    ),
    "three, with spaces": (b'{"n":1} {"n":2}\t{"n":3}\n', [{"n": 1}, {"n": 2}, {"n": 3}], {"line: several objects": 1}),
    "object behind a torn one": (
        b'{"n":1}{"n":"to\n{"n":3}\n',
        [{"n": 1}, {"n": 3}],
        {"line: not JSON behind its first object": 1},
    ),
    "torn last line": (b'{"n":1}\n{"n":"to', [{"n": 1}], {"line: not JSON": 1}),
    "torn within a character": ('{"n":1}\n{"n":"ü'.encode()[:-1], [{"n": 1}], {"line: not JSON": 1}),
    "NUL tail": (b'{"n":1}\n' + b"\x00" * 3772, [{"n": 1}], {"line: NUL bytes": 1}),
    "NUL before an object": (b'{"n":1}\n\x00\x00{"n":2}\n', [{"n": 1}, {"n": 2}], {"line: NUL bytes": 1}),
    "no objects": (b'"s"\n[1]\n1\nnull\n{"n":1}\n', [{"n": 1}], {"line: not an object": 4}),
    "no JSON": (b"hello\n{'n': 1}\n{\"n\":1}\n", [{"n": 1}], {"line: not JSON": 2}),
    "binary": (bytes(range(1, 256)) + b'\n{"n":1}\n', [{"n": 1}], {"line: not JSON": 2}),
    "lone surrogate": (b'{"n":"a\\ud83d"}\n', [{"n": "a\ufffd"}], {"text: not valid UTF-8": 1}),
    "surrogate in a key": (b'{"\\udc00":1}\n', [{"\ufffd": 1}], {"text: not valid UTF-8": 1}),
    "surrogate pair": (b'{"n":"\\ud83d\\ude00"}\n', [{"n": "😀"}], {}),
    "invalid UTF-8": (b'{"n":"a\xffb"}\n', [{"n": "a\ufffdb"}], {"text: not valid UTF-8": 1}),
    "CESU-8": (b'{"n":"\xed\xa0\xbd"}\n', [{"n": "\ufffd\ufffd\ufffd"}], {"text: not valid UTF-8": 1}),
    "long integers on a line of two": (
        b'{"n":123456789012345678901234}{"n":1}\n',
        [{"n": 123456789012345678901234}, {"n": 1}],
        {"line: several objects": 1},
    ),
    "control characters": (b'{"n":"a\tb"}\n{"n":1}\n', [{"n": 1}], {"line: not JSON": 1}),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_costs_no_more_than_its_line(kind: str) -> None:
    data, records, damage = DAMAGED[kind]
    source = Source("s.jsonl", data)
    assert list(source.records()) == records
    assert source.damage == damage


def test_not_a_number(tmp_path: Path) -> None:
    source = Source("s.jsonl", b'{"a":NaN,"b":Infinity,"c":-Infinity}\n')
    (record,) = source.records()
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)


def test_exact_gives_long_integers_as_they_stand() -> None:
    source = Source("s.jsonl", b'{"n":123456789012345678901234}\n{"n":18446744073709551616,"m":"\\ud83d"}\n')
    exact = [source.exact() for _ in source.records()]
    assert exact == [{"n": 123456789012345678901234}, {"n": 18446744073709551616, "m": "\ufffd"}]


def test_exact_of_what_python_cannot_parse_again_is_the_record_itself() -> None:
    deep = b"[" * 990 + b"]" * 990
    data = b'{"n":1e30}{"n":123456789012345678901234}\n{"n":' + deep + b'}\n\x00{"n":123456789012345678901234}\n'
    source = Source("s.jsonl", data)
    pairs = [(record, source.exact()) for record in source.records()]
    assert (
        [record["n"] for record, _ in pairs[:2]]
        == [exact["n"] for _, exact in pairs[:2]]
        == [1e30, 123456789012345678901234]
    )
    assert pairs[2][0] is pairs[2][1]
    assert pairs[3][1] == {"n": 123456789012345678901234}


@pytest.mark.parametrize(
    "value", [b"1e30", b"1e400", b"1" + b"0" * 5000, b"-" + b"9" * 30, b"[" * 990 + b"]" * 990, b'"\\ud83d"', b"NaN"]
)
@pytest.mark.parametrize("behind", [b"\n", b"", b"\x00\n"])
@pytest.mark.parametrize("session", [claude(), codex()])
def test_no_value_costs_more_than_its_line(value: bytes, behind: bytes, session: bytes) -> None:
    before, quote, after = session.partition(b'"share\\":0.7' if b'"share\\":0.7' in session else b'"share":0.7')
    inner = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') if b"\\" in quote else value
    damaged = before + quote.replace(b"0.7", inner) + after.replace(b"\n", behind, 1)
    for options in ({}, {"history": "segments"}):
        (rollout,) = read(Source("s.jsonl", damaged), **options)
        assert len(rollout.messages) + sum(rollout.skipped.values()) >= 4


@pytest.mark.parametrize("depth", [600, 900, 1500, 100_000])
@pytest.mark.parametrize("behind", [b"", b'{"n":2}'])
def test_deep_nesting_costs_no_more_than_its_line(depth: int, behind: bytes) -> None:
    deep = b'{"n":' + b"[" * depth + b"]" * depth + b"}"
    source = Source("s.jsonl", b'{"n":1}\n' + deep + behind + b'\n{"n":3}\n')
    records = list(source.records())
    assert (records[0], records[-1]) == ({"n": 1}, {"n": 3})
    assert len(records) > 2 or source.damage["line: not JSON"] == 1


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_any_beginning_of_a_file_reads(cut: int) -> None:
    whole = claude() + codex()
    at = cut * len(whole) // 400
    source = Source("s.jsonl", whole[:at])
    records = list(source.records())
    assert records == [json.loads(line) for line in whole[:at].splitlines(keepends=True) if line.endswith(b"\n")]
    assert sum(source.damage.values()) == (not whole[:at].endswith(b"\n") and at > 0)


# -- torn compression ----------------------------------------------------------------------------

TORN = "file: ends in the middle of its compression"
# Of ten kinds of random letters, so that little is compressed and the tear lies deep in the text.
MANY = [{"n": n, "text": (os.urandom(500)).hex()} for n in range(2000)]


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("part", [0.15, 0.5, 0.999])
def test_torn_file_gives_what_stands_before_the_tear(
    tmp_path: Path, wrap: Callable[[bytes], bytes], part: float
) -> None:
    suffix = ".gz" if wrap is gzip.compress else ".zst"
    data = wrap(lines(*MANY))
    source = Source(str(put(tmp_path / f"s.jsonl{suffix}", data[: int(len(data) * part)])))
    assert next(source.head.records) == MANY[0]
    records = list(source.records())
    # A decompressor works by blocks of up to 128 KiB, and may have no more of the last one.
    assert abs(len(records) - part * len(MANY)) <= 150
    assert records == MANY[: len(records)]
    assert source.damage == {TORN: 1}


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress])
def test_damage_in_the_middle(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    suffix = ".gz" if wrap is gzip.compress else ".zst"
    data = bytearray(wrap(lines(*MANY)) + wrap(DATA))
    data[len(data) // 2 : len(data) // 2 + 64] = b"\xff" * 64
    source = Source(str(put(tmp_path / f"s.jsonl{suffix}", bytes(data))))
    records = [record for record in source.records() if record in MANY]
    assert len(records) > 500
    assert source.damage[TORN] == 1


@pytest.mark.parametrize("wrap", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("kept", [3, 20, 60])
def test_torn_before_the_first_line_is_an_error(tmp_path: Path, wrap: Callable[[bytes], bytes], kept: int) -> None:
    suffix = ".gz" if wrap is gzip.compress else ".zst"
    source = Source(str(put(tmp_path / f"s.jsonl{suffix}", wrap(lines({"text": os.urandom(5000).hex()}))[:kept])))
    with pytest.raises(EOFError):
        list(source.records())
    assert not source.damage


@pytest.mark.parametrize(("name", "error"), [("s.jsonl.gz", OSError), ("s.jsonl.zst", EOFError)])
def test_not_compressed_at_all(tmp_path: Path, name: str, error: type[Exception]) -> None:
    source = Source(str(put(tmp_path / name, DATA)))
    with pytest.raises(error):
        list(source.records())
    with pytest.raises(error):
        _ = source.head


def test_damaged_zip_member_gives_what_stands_before(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.jsonl": lines(*MANY), "b.jsonl": DATA}))
    data[len(data) // 2] ^= 0xFF
    read = {}
    for source in open_sources(str(put(tmp_path / "all.zip", bytes(data)))):
        read[source.name] = sum(record in MANY for record in source.records()), dict(source.damage)
    assert read["a.jsonl"][0] > 500
    assert read["a.jsonl"][1][TORN] == 1
    assert read["b.jsonl"] == (0, {})


# -- head ----------------------------------------------------------------------------------------


def test_head_is_the_beginning() -> None:
    data = lines(*({"n": n, "text": "x" * 10_000} for n in range(20)))
    head = Source("s.jsonl", data).head
    assert (head.name, head.data) == ("s.jsonl", data[:HEAD_BYTES])
    # The seventh line is cut off, and told as far as it goes.
    assert [record["n"] for record in head.records] == [0, 1, 2, 3, 4, 5, 6]
    assert len(list(Source("s.jsonl", lines(*({"n": n} for n in range(20)))).head.records)) == HEAD_RECORDS
    assert list(Source("s.jsonl", b"").head.records) == []


def test_head_of_a_damaged_beginning() -> None:
    data = b'\xef\xbb\xbf{"n":1}{"n":2}\n\n\x00\x00\nnot JSON\n[1]\n{"n":3}\n'
    assert [record["n"] for record in Source("s.jsonl", data).head.records] == [1, 2, 3]


@pytest.mark.parametrize("size", [HEAD_BYTES, 5_000_000])
def test_format_is_told_by_a_first_line_longer_than_the_head(size: int, tmp_path: Path) -> None:
    record = claude_records("s1", prompt="x" * size)[0]
    claude_line = lines({**{key: record[key] for key in record if key != "message"}, "message": record["message"]})
    meta = json.loads(codex().splitlines()[0])
    codex_line = lines({**meta, "payload": {**meta["payload"], "base_instructions": {"text": "y" * size}}})
    for expected, data in (("claude_code", claude_line), ("codex", codex_line)):
        for name, wrap in WRAPPED.items():
            assert detect(Source(str(put(tmp_path / name, wrap(data))))) == expected


def test_large_file_is_read_from_its_beginning_after_its_head(tmp_path: Path) -> None:
    source = Source(str(put(tmp_path / "s.jsonl", lines(*MANY))))
    assert len(source.head.data) == HEAD_BYTES
    assert list(source.records()) == list(source.records()) == MANY


# -- neighbours ----------------------------------------------------------------------------------


def test_siblings(tmp_path: Path, memory: Any) -> None:
    for name, data in (("p/s.jsonl", DATA), ("p/index.json", b'{"a":1}'), ("top.json", b"[2]"), ("p/bad.json", b"{")):
        put(tmp_path / name, data)
        memory.pipe(f"/r/{name}", data)
    for path in (str(tmp_path / "p/s.jsonl"), "memory://r/p/s.jsonl"):
        source = Source(path)
        assert source.sibling("index.json") == {"a": 1}
        assert source.sibling("../top.json") == [2]
        assert source.sibling("../p/index.json") == {"a": 1}
        assert source.sibling("bad.json") is None
        assert source.sibling("gone.json") is None
        assert source.beside("gone.jsonl") is None
        beside = source.beside("../p/s.jsonl")
        assert beside is not None
        assert beside.path == path
        assert list(beside.records()) == [{"n": 1}, {"n": 2}]
        assert source.stamp is not None
        assert Source(path + ".gone").stamp is None
    assert Source("s.jsonl", DATA).beside("s.jsonl") is None


def test_changed_sibling_is_read_again(tmp_path: Path) -> None:
    source = Source(str(put(tmp_path / "s.jsonl", DATA)))
    index = put(tmp_path / "index.json", b'{"a":1}')
    assert source.sibling("index.json") == {"a": 1}
    index.write_bytes(b'{"a":2}')
    os.utime(index, (1, 1))
    assert source.sibling("index.json") == {"a": 2}
