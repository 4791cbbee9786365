"""Files: finding them, opening them whatever wraps them, and reading lines that may be damaged."""

from __future__ import annotations

import fnmatch
import functools
import glob
import gzip
import io
import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import fsspec
import orjson

from agent_rollouts import jsontext
from agent_rollouts.errors import SourceError
from agent_rollouts.events import JSON

HEAD_BYTES = 64 * 1024
HEAD_RECORDS = 8
_SUFFIXES = (".gz", ".zst", ".zip")
_BLOCK = 1 << 17
# Nobody's sessions, and costly to walk.
_IGNORED_FOLDERS = frozenset({".git", "node_modules", "__pycache__", "__MACOSX", ".venv"})


class Source:
    """One file to decode.

    `path` is what the user knows it by (`archive.zip::member` inside an archive); `damage` counts
    what could not be read as a record.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        self.path = path
        self.damage: Counter[str] = Counter()
        self._whole = data
        self._is_member = data is not None
        self._line = b""

    @property
    def name(self) -> str:
        """File name without folders and without the suffix of its compression."""
        name = posixpath.basename(self.path.split("::")[-1].replace("\\", "/"))
        return name[: -len(_suffix(name))] if _suffix(name) else name

    @property
    def stem(self) -> str:
        return self.name.rsplit(".", 1)[0]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content as a binary stream, decompressed."""
        if self._whole is not None:
            yield io.BytesIO(self._whole)
            return
        with _open_raw(self.path) as raw:
            yield _decompressed(raw, _suffix(self.path))

    @functools.cached_property
    def head(self) -> Head:
        """What the first 64 KiB tell; for finding out whose file this is."""
        with self.open() as stream:
            data = stream.read(HEAD_BYTES)
        if len(data) < HEAD_BYTES:
            self._whole = data  # a small file need not be opened again
        return Head(self.name, data)

    def lines(self) -> Iterator[bytes]:
        with self.open() as stream:
            yield from stream

    def records(self) -> Iterator[dict[str, JSON]]:
        """The JSON objects of a JSON Lines file, read line by line.

        A damaged line costs that line and is counted in `damage`; two objects on a line are two records.
        """
        loads = orjson.loads
        with self.open() as stream:
            for line in stream:
                try:
                    record = loads(line)
                except ValueError:
                    yield from self._salvage(line)
                    continue
                if type(record) is dict:
                    self._line = line
                    yield record
                else:
                    self.damage["line: not an object"] += 1

    def exact(self) -> JSON:
        """The record that was read last, parsed again with integers of any length."""
        return jsontext.tolerant(self._line.decode("utf-8", "replace"))[0]

    def sibling(self, name: str) -> JSON:
        """The JSON of a file beside this one (`name` may climb with `..`), or None when there is none."""
        found = self.beside(name)
        return _read_json(found.path, found.stamp) if found else None

    def beside(self, name: str) -> Source | None:
        """The file beside this one, or None when there is none (never beside a member of an archive)."""
        if self._is_member:
            return None
        found = Source(posixpath.normpath(posixpath.join(posixpath.dirname(self.path), name)))
        if "://" in self.path:
            found.path = f"{self.path.partition('://')[0]}://{found.path.partition(':/')[2].lstrip('/')}"
        return found if found.stamp is not None else None

    @functools.cached_property
    def stamp(self) -> float | None:
        """When the file was changed last (0 where an address does not tell), None when there is no such file."""
        try:
            if "://" not in self.path:
                return os.stat(self.path).st_mtime
            fs, path = fsspec.url_to_fs(self.path)
            return 0.0 if fs.exists(path) else None
        except OSError:
            return None

    def _salvage(self, line: bytes) -> Iterator[dict[str, JSON]]:
        text = line.decode("utf-8", "replace").lstrip("\ufeff")
        stripped = text.strip("\x00 \t\r\n")
        if not stripped:
            if "\x00" in text:
                self.damage["line: NUL bytes"] += 1
            return
        self._line = stripped.encode("utf-8", "replace")
        found, left = jsontext.objects(stripped)
        yield from found
        if found and "\ufffd" in stripped or any(not _encodable(item) for item in found):
            self.damage["text: not valid UTF-8"] += 1
        if left:
            self.damage["line: not JSON" if not found else "line: not JSON behind its first object"] += 1
        elif len(found) > 1:
            self.damage["line: several objects"] += 1


class Head:
    """The beginning of a file: `data` as it is, `records` the JSON objects found on its first lines.

    A first line longer than the head is given as far as its members can be read, so that a record
    with a large picture can still be told.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self._lines = io.BytesIO(data)
        self._parsed: list[dict[str, JSON]] = []

    @property
    def records(self) -> Iterator[dict[str, JSON]]:
        """The JSON objects on the first lines, parsed as they are asked for, `HEAD_RECORDS` at the most."""
        for position in range(HEAD_RECORDS):
            while position >= len(self._parsed):
                line = self._lines.readline()
                if not line:
                    return
                self._parsed += self._objects(line)
            yield self._parsed[position]

    def _objects(self, line: bytes) -> list[dict[str, JSON]]:
        try:
            record = orjson.loads(line)
        except ValueError:
            text = line.decode("utf-8", "replace").strip("\ufeff\x00 \t\r\n")
            cut = not line.endswith(b"\n") and len(self.data) >= HEAD_BYTES
            found = [] if cut else jsontext.objects(text)[0]
            # A damaged line may still tell whose file this is.
            return found or ([jsontext.opening(text)] if text.startswith("{") else [])
        return [record] if type(record) is dict else []


def find(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    patterns: Iterable[str] = ("*",),
    ignored: Iterable[str] = (),
    recursive: bool = True,
) -> list[str]:
    """The files that a source names, sorted; no file's content is read.

    Args:
        source: folders, files, globs and fsspec addresses, one or several. A folder gives the files
            whose names match `patterns` and not `ignored` (`*` wildcards, an `ignored` with `/` at its
            end is a folder); a named file is taken whatever its name. Of a file and its compressed
            copies in one folder only the plain one is taken.

    Raises:
        SourceError: a file or folder that is not there, or nothing found in it.
    """
    wanted, unwanted = tuple(patterns), tuple(ignored)
    found: dict[str, None] = {}
    for one in [source] if isinstance(source, (str, os.PathLike)) else source:
        place = os.path.expanduser(os.fspath(one))
        below = _find_remote(place, recursive) if "://" in place else _find_local(place, recursive)
        if below is None:
            paths = [place]
        else:
            # A glob of the user's own says by itself which names are meant.
            names = ("*",) if glob.has_magic(place) else wanted
            paths = [path for path, base in below if _matches(path[len(base) :], names, unwanted)]
            paths = _without_copies(sorted(paths))
        if not paths:
            raise SourceError(
                f"no file {'matches' if glob.has_magic(place) else 'in'} {place}"
                + ("" if glob.has_magic(place) else f" matches {' or '.join(wanted)}")
                + ("" if recursive else " (recursive=False: folders below it were not searched)")
                + "; name another folder or set file_pattern"
            )
        found |= dict.fromkeys(paths)
    if not found:
        raise SourceError("no source given; name files, folders or addresses")
    return list(found)


def open_sources(path: str) -> Iterator[Source]:
    """The files behind one path: itself, or the members of a `.zip`."""
    if _suffix(path) != ".zip":
        yield Source(path)
        return
    with _open_raw(path) as raw, zipfile.ZipFile(raw) as archive:
        for member in sorted(archive.infolist(), key=lambda info: info.filename):
            parts = member.filename.split("/")
            if not member.is_dir() and not _IGNORED_FOLDERS & set(parts):
                content = archive.read(member)
                with io.BytesIO(content) as inner:
                    yield Source(f"{path}::{member.filename}", _decompressed(inner, _suffix(parts[-1])).read())


def _find_local(place: str, recursive: bool) -> list[tuple[str, str]] | None:
    """Paths below a folder or of a glob, each with its base; None for a file."""
    if os.path.isfile(place):
        return None
    if os.path.isdir(place):
        base = place.rstrip(os.sep)
        found = []
        for folder, folders, names in os.walk(base, followlinks=True):
            folders[:] = sorted(set(folders) - _IGNORED_FOLDERS) if recursive else []
            found += [(os.path.join(folder, name), base) for name in names]
        return found
    if glob.has_magic(place):
        base = os.path.dirname(place[: min(place.find(c) for c in "*?[" if c in place)])
        matched = glob.glob(place, recursive=True, include_hidden=True) if _HIDDEN_GLOB else glob.glob(place, recursive=True)
        return [(path, base) for path in matched if os.path.isfile(path)]
    raise SourceError(f"{place} does not exist; name a file, a folder, a glob or an address such as hf://…")


_HIDDEN_GLOB = "include_hidden" in (glob.glob.__kwdefaults__ or {})


def _find_remote(place: str, recursive: bool) -> list[tuple[str, str]] | None:
    fs, path = fsspec.url_to_fs(place)
    if glob.has_magic(path):
        paths, base = fs.glob(path), path[: min(path.find(c) for c in "*?[" if c in path)].rpartition("/")[0]
    elif fs.isdir(path):
        paths, base = fs.find(path, maxdepth=None if recursive else 1), path.rstrip("/")
    elif fs.exists(path):
        return None
    else:
        raise SourceError(f"{place} does not exist, or may not be read with the credentials at hand")
    prefix = place[: place.index("://") + 3]
    return [(prefix + found.lstrip("/") if "://" not in found else found, prefix + base) for found in paths]


def _matches(relative: str, patterns: tuple[str, ...], ignored: tuple[str, ...]) -> bool:
    folders, _, name = relative.replace(os.sep, "/").rpartition("/")
    plain = name[: -len(_suffix(name))] if _suffix(name) in (".gz", ".zst") else name
    if not any(fnmatch.fnmatchcase(candidate, p) for p in patterns for candidate in (name, plain)):
        if not name.endswith(".zip"):
            return False
    parts = folders.split("/")
    return not any(
        any(fnmatch.fnmatchcase(part, rule[:-1]) for part in parts)
        if rule.endswith("/")
        else fnmatch.fnmatchcase(plain, rule)
        for rule in ignored
    )


def _without_copies(paths: list[str]) -> list[str]:
    """Codex's own rule, good for all: where the plain file exists, its compressed copy is not read."""
    known = set(paths)
    return [path for path in paths if not (_suffix(path) in (".gz", ".zst") and path[: -len(_suffix(path))] in known)]


def _suffix(path: str) -> str:
    return next((suffix for suffix in _SUFFIXES if path.endswith(suffix)), "")


@contextmanager
def _open_raw(path: str) -> Iterator[BinaryIO]:
    if "://" in path:
        with fsspec.open(path, "rb") as remote:
            yield cast(BinaryIO, remote)
    else:
        with open(path, "rb", buffering=_BLOCK) as local:
            yield local


def _decompressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise SourceError("reading .zst files needs zstandard: pip install 'agent-rollouts[zstd]'") from None
        # The stream of zstandard cannot be iterated by lines itself.
        return cast(BinaryIO, io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True), _BLOCK))
    return raw


@functools.lru_cache(maxsize=16)
def _read_json(path: str, stamp: float | None) -> JSON:
    try:
        with _open_raw(path) as stream:
            return orjson.loads(stream.read())
    except (OSError, ValueError):
        return None


def _encodable(value: JSON) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
