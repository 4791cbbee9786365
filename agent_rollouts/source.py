"""Files: finding them, opening them whatever wraps them, and reading lines that may be damaged."""

from __future__ import annotations

import fnmatch
import functools
import glob
import gzip
import io
import logging
import os
import posixpath
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import BinaryIO, NamedTuple, TypeVar, cast

import fsspec
import orjson

from agent_rollouts import jsontext
from agent_rollouts.errors import BadFileError, FormatError, SourceError
from agent_rollouts.events import JSON

logger = logging.getLogger(__name__)

T = TypeVar("T")

HEAD_BYTES = 64 * 1024
HEAD_RECORDS = 8
_SUFFIXES = (".gz", ".zst", ".zip")
_BLOCK = 1 << 17
# Nobody's sessions, and costly to walk.
_IGNORED_FOLDERS = frozenset({".git", "node_modules", "__pycache__", "__MACOSX", ".venv"})
# What reading a compressed file raises where it is cut off or damaged.
_TORN = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


class Source:
    """One file to decode.

    `path` is what the user knows it by (`archive.zip::member` inside an archive); `damage` counts
    what could not be read as a record; `strict` asks a decoder not to make do with what breaks its
    format's specification.
    """

    strict = False

    def __init__(self, path: str, data: bytes | None = None, *, member: Callable[[], BinaryIO] | None = None) -> None:
        self.path = path
        self.damage: Counter[str] = Counter()
        self._whole = data
        self._member = member
        self._is_alone = data is not None or member is not None
        self._line = b""
        self._record: JSON = None

    @property
    def name(self) -> str:
        """File name without folders and without the suffix of its compression."""
        first, _, last = self.path.partition("::")
        # In `a.zip::member`, which is ours, the member comes last, in fsspec's `zip://member::a.zip` first.
        is_chained = "://" in first and self._member is None
        name = posixpath.basename((first if is_chained else last or first).replace("\\", "/"))
        return name[: -len(_suffix(name))] if _suffix(name) else name

    @property
    def stem(self) -> str:
        """`name` without what follows its last dot."""
        return self.name.rsplit(".", 1)[0]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content as a binary stream, decompressed."""
        if self._whole is not None:
            yield io.BytesIO(self._whole)
            return
        if self._member is not None:
            with self._member() as member:
                yield _decompressed(_stepwise(member), _suffix(self.path.rpartition("::")[2]))
            return
        with _open_raw(self.path) as raw:
            yield _decompressed(raw, _suffix(self.path))

    @functools.cached_property
    def head(self) -> Head:
        """What the first 64 KiB tell; for finding out whose file this is."""
        data, is_whole = b"", False
        with self.open() as stream:
            # In steps, as one large read would lose what stands before a tear.
            read = getattr(stream, "read1", stream.read)
            try:
                while len(data) < HEAD_BYTES and not is_whole:
                    part = read(HEAD_BYTES - len(data))
                    data += part
                    is_whole = not part
            except _TORN:
                if not data:
                    raise
        if is_whole:
            self._whole = data  # a small file need not be opened again
        return Head(self.name, data)

    def lines(self) -> Iterator[bytes]:
        """The lines; of a compressed file that is cut off or damaged those before the damage, which is counted.

        Raises:
            OSError, EOFError, zlib.error: the file cannot be read, not even its first line.
        """
        with self.open() as stream:
            yield from self._untorn(stream)

    def _untorn(self, stream: BinaryIO) -> Iterator[bytes]:
        line = None
        try:
            for line in stream:
                yield line
        except _TORN:
            if line is None:
                raise
            self.damage["file: ends in the middle of its compression"] += 1

    def records(self) -> Iterator[dict[str, JSON]]:
        """The JSON objects of a JSON Lines file, read line by line.

        A damaged line costs that line and is counted in `damage`; two objects on a line are two records.
        """
        loads = orjson.loads
        with self.open() as stream:
            # Plain files have no tears to look out for, and a generator less between them and their reader.
            for line in stream if self.is_plain() else self._untorn(stream):
                try:
                    record = loads(line)
                except ValueError:
                    yield from self._salvage(line)
                    continue
                if type(record) is dict:
                    self._line, self._record = line, record
                    yield record
                else:
                    self.damage["line: not an object"] += 1

    def document(self) -> JSON:
        """The whole file as one JSON value, with integers of any length.

        Raises:
            FormatError: it is not JSON, with the place at which that shows.
        """
        with self.open() as stream:
            text = stream.read().decode("utf-8", "replace").lstrip("\ufeff").rstrip("\x00 \t\r\n")
        try:
            value = orjson.loads(text)
            if jsontext.is_exact(value):
                return value
        except ValueError:
            pass
        try:
            value, changed = jsontext.tolerant(text)
        except ValueError as error:
            raise FormatError(f"{self.path} is not whole JSON: {error}") from None
        if changed:
            self.damage["text: not valid UTF-8"] += changed
        return value

    def is_plain(self) -> bool:
        """Whether the file lies there as it is, neither compressed nor within an archive."""
        return self._member is None and not _suffix(self.path)

    def exact(self) -> JSON:
        """The record that was read last, parsed again with integers of any length where Python can."""
        if self._line:
            with suppress(ValueError):  # nested too deep, or thousands of digits
                return jsontext.tolerant(self._line.decode("utf-8", "replace"))[0]
        return self._record

    def sibling(self, name: str) -> JSON:
        """The JSON of a file beside this one (`name` may climb with `..`), or None when there is none."""
        found = self.beside(name)
        return _read_json(found.path, found.stamp) if found else None

    def beside(self, name: str) -> Source | None:
        """The file beside this one, or None when there is none (never beside a member of an archive)."""
        if self._is_alone or "::" in self.path:
            return None
        scheme, separator, path = self.path.rpartition("://")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        if separator and place.partition("/")[0] != path.partition("/")[0]:
            return None  # above the host or bucket there is nothing
        found = Source(scheme + separator + place)
        return found if found.stamp is not None else None

    def names_beside(self) -> list[str]:
        """The names in this file's folder, its own among them, sorted; none for a member of an archive."""
        if self._is_alone or "::" in self.path:
            return []
        if "://" not in self.path:
            return sorted(os.listdir(os.path.dirname(self.path) or os.curdir))
        fs, path = fsspec.url_to_fs(self.path)
        return sorted(posixpath.basename(found) for found in fs.ls(posixpath.dirname(path), detail=False))

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
        if "\x00" in text:
            self.damage["line: NUL bytes"] += 1
        if not stripped:
            return
        found, left = _objects(stripped)
        is_one = len(found) == 1 and not left
        for item in found:
            # Of several on a line none is the line; Python has parsed them, and exactly.
            self._line, self._record = stripped.encode("utf-8", "replace") if is_one else b"", item
            yield item
        if any("\ufffd" in jsontext.exact_text(item) for item in found):
            self.damage["text: not valid UTF-8"] += 1
        if left:
            self.damage["line: not JSON" if not found else "line: not JSON behind its first object"] += 1
        elif len(found) > 1:
            self.damage["line: several objects"] += 1


class Head:
    """The beginning of a file: `data` as it is, `records` the JSON objects found on its first lines.

    `document` is the file as one JSON value, as far as the head goes: an object with its first members,
    or a list with its first items; what is cut off is empty. Of JSON Lines it is the first line.

    A first line longer than the head is given as far as its members can be read, so that a record
    with a large picture can still be told.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.limit = HEAD_RECORDS
        self._lines = io.BytesIO(data)
        self._parsed: list[dict[str, JSON]] = []

    @functools.cached_property
    def document(self) -> JSON:
        """The first JSON value, object or list, as far as it goes; None where there is none."""
        # Most files are lines, and the first of them is whole.
        with suppress(ValueError):
            value = orjson.loads(self.data[: self.data.find(b"\n") + 1])
            return value if isinstance(value, dict | list) else None
        return jsontext.opening(self.data.decode("utf-8", "replace").lstrip("\ufeff\x00 \t\r\n"))

    @property
    def records(self) -> Iterator[dict[str, JSON]]:
        """The JSON objects on the first lines, parsed as they are asked for, `limit` at the most."""
        for position in range(self.limit):
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
            found = [] if cut else _objects(text)[0]
            # A damaged line may still tell whose file this is.
            return found or ([jsontext.opening(text) or {}] if text.startswith("{") else [])
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
        below = _below_address(place, recursive) if "://" in place else _below(place, recursive)
        if below is None:
            found[place] = None
            continue
        # A glob of the user's own says by itself which names are meant.
        names = ("*",) if below.is_glob else wanted
        paths = [path for path in below.paths if _matches(path[len(below.base) :], names, unwanted)]
        if not paths:
            raise SourceError(_nothing_at(place, () if below.is_glob else wanted, recursive))
        found |= dict.fromkeys(path + below.further for path in _without_copies(sorted(paths)))
    if not found:
        raise SourceError("no source given; name files, folders or addresses")
    return list(found)


def open_sources(path: str, *, patterns: Iterable[str] = ("*",), ignored: Iterable[str] = ()) -> Iterator[Source]:
    """The files behind one path: itself, or the members of a `.zip`, chosen as `find` chooses the files of a folder.

    Members are opened as they are read, so they must be read before the next one is asked for.

    Raises:
        SourceError: an archive without such a member.
        OSError, zipfile.BadZipFile: an archive that cannot be read.
    """
    if _suffix(path) != ".zip":
        yield Source(path)
        return
    wanted, unwanted = tuple(patterns), tuple(ignored)
    with _open_raw(path) as raw, zipfile.ZipFile(raw) as archive:
        names = [member.filename for member in archive.infolist() if not member.is_dir()]
        chosen = [
            name
            for name in _without_copies(sorted(names))
            if not _IGNORED_FOLDERS & set(name.split("/")) and _matches(f"/{name}", wanted, unwanted)
        ]
        if not chosen:
            raise SourceError(f"{path}: none of its {len(names)} members matches {' or '.join(wanted)}")
        for name in chosen:
            opened = cast(Callable[[], BinaryIO], functools.partial(archive.open, name))
            yield Source(f"{path}::{name}", member=opened)


def each(
    path: str,
    use: Callable[[Source], Iterable[T]],
    report: Callable[[str, Exception], None],
    *,
    patterns: Iterable[str] = ("*",),
    ignored: Iterable[str] = (),
) -> Iterator[T]:
    """What `use` gives of each file behind one path; whatever is wrong with one costs that one, and is reported.

    Args:
        use: makes something of a source; what it gave before it failed is kept.
        report: takes the file's path and the error; it may raise `BadFileError` to stop.
        patterns, ignored: see `open_sources`.
    """
    try:
        for source in open_sources(path, patterns=patterns, ignored=ignored):
            try:
                yield from use(source)
            except Exception as error:
                report(source.path, error)
    except BadFileError:
        raise
    except Exception as error:
        report(path, error)


def reason(path: str, error: Exception) -> str:
    """One line on what is wrong with a file."""
    return str(error) if path in str(error) else f"{path}: {type(error).__name__}: {error}"


def stamped(path: str) -> tuple[str, str]:
    """A path with what tells that its file has changed: time and size, or the tag that its address gives."""
    if "://" not in path:
        # What a running agent has added to its database lies beside it until it is merged.
        written = [os.stat(part) for part in (path, f"{path}-wal") if part == path or os.path.isfile(part)]
        return path, "-".join(f"{status.st_mtime_ns}-{status.st_size}" for status in written)
    fs, inner = fsspec.url_to_fs(path)
    info = fs.info(inner)
    changed = next((info[key] for key in ("ETag", "etag", "LastModified", "mtime", "last_modified") if key in info), "")
    return path, f"{changed}-{info.get('size')}"


class _Below(NamedTuple):
    """Files below a folder, or those a glob matches.

    `base` is the folder that all begin with, `further` what stands behind each in a chained address.
    """

    paths: list[str]
    base: str
    is_glob: bool = False
    further: str = ""


def _below(place: str, recursive: bool) -> _Below | None:
    """What a local folder or glob holds; None for a file."""
    if os.path.isfile(place):
        return None
    if os.path.isdir(place):
        base = place.rstrip(os.sep)
        return _Below(_walk(base or os.sep, recursive), base)
    if not glob.has_magic(place):
        raise SourceError(f"{place} does not exist; name a file, a folder, a glob or an address such as hf://…")
    return _Below(_deep_glob(place) if "**" in place else _glob(place), _fixed(place), is_glob=True)


def _glob(pattern: str) -> list[str]:
    if sys.version_info >= (3, 11):
        found = glob.glob(pattern, include_hidden=True)
    else:
        found = glob.glob(pattern)
    return [path for path in found if os.path.isfile(path)]


def _deep_glob(pattern: str) -> list[str]:
    """The files that a glob with `**` matches; Python's own glob follows links in circles there."""
    parts = pattern.replace(os.sep, "/").split("/")
    if "**" not in parts:
        return _glob(pattern)
    before, after = os.path.join("/".join(parts[: parts.index("**")]), ""), parts[parts.index("**") :]
    found = set()
    for folder in glob.glob(before) if before else [""]:
        for path in _walk(folder or os.curdir, recursive=True):
            relative = path[len(folder or os.curdir) :].lstrip(os.sep)
            if _fits(relative.replace(os.sep, "/").split("/"), after):
                found.add(os.path.join(folder, relative))
    return list(found)


def _walk(base: str, recursive: bool) -> list[str]:
    """The files below a folder, also through links, each folder once."""
    found = []
    seen = set()
    for folder, folders, names in os.walk(base, followlinks=True, onerror=_unlisted):
        status = os.stat(folder)
        if (identity := (status.st_dev, status.st_ino)) in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(set(folders) - _IGNORED_FOLDERS) if recursive else []
        # A pipe would be waited for, and a link may lead nowhere.
        found += [path for path in (os.path.join(folder, name) for name in names) if os.path.isfile(path)]
    return found


def _unlisted(error: OSError) -> None:
    logger.warning(f"left out: {error.filename}: {type(error).__name__}: {error.strerror}")


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob, `**` standing for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (bool(parts) and _fits(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _fixed(pattern: str) -> str:
    """The folder before the first wildcard of a glob."""
    return os.path.dirname(pattern[: min(pattern.find(c) for c in "*?[" if c in pattern)])


def _below_address(place: str, recursive: bool) -> _Below | None:
    """What an fsspec address names; None for a file."""
    try:
        fs, path = fsspec.url_to_fs(place)
    except (ImportError, ValueError) as error:  # an unknown kind of address, or a library that it needs
        raise SourceError(f"{place} cannot be opened: {error}") from error
    # `zip://*.jsonl::s3://bucket/a.zip`: what is found lies behind the same further address.
    prefix, rest = place[: place.index("://") + 3], place[place.index("://") :]
    further = rest[rest.index("::") :] if "::" in rest else ""
    # On the web `?` begins a query, and whether there are links in it could only be told by loading the file.
    web = path.startswith(("http://", "https://"))
    is_glob = glob.has_magic(path.replace("?", "") if web else path) and not fs.exists(path)
    if is_glob:
        paths, base = fs.glob(path), _fixed(path)
    elif path.endswith("/") if web else fs.isdir(path):
        paths, base = fs.find(path, maxdepth=None if recursive else 1), path.rstrip("/")
    elif fs.exists(path):
        return None
    else:
        raise SourceError(f"{place} does not exist, or may not be read with the credentials at hand")

    def address(inner: str) -> str:
        # Of local files the slash at the start is a part of the path.
        return inner if "://" in inner else prefix + (inner if "file" in fs.protocol else inner.lstrip("/"))

    return _Below([address(found) for found in paths], address(base), is_glob, further)


def _nothing_at(place: str, patterns: Sequence[str], recursive: bool) -> str:
    folder = f" matches {' or '.join(patterns)}" if patterns else ""
    depth = "" if recursive else " (recursive=False: folders below it were not searched)"
    return f"no file {'in' if folder else 'matches'} {place}{folder}{depth}; name another folder or set file_pattern"


def _matches(relative: str, patterns: tuple[str, ...], ignored: tuple[str, ...]) -> bool:
    folders, _, name = relative.replace(os.sep, "/").rpartition("/")
    plain = name[: -len(_suffix(name))] if _suffix(name) in (".gz", ".zst") else name
    fits = any(fnmatch.fnmatchcase(candidate, p) for p in patterns for candidate in (name, plain))
    if not fits and not name.endswith(".zip"):
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
    if "://" in path.partition("::")[0]:
        path = path.partition("::")[0]  # `zip://a.jsonl::b.zip` is the file a.jsonl
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
        return _stepwise(cast(BinaryIO, gzip.GzipFile(fileobj=raw)))
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise SourceError("reading .zst files needs zstandard: pip install 'agent-rollouts[zstd]'") from None
        return cast(BinaryIO, io.BufferedReader(_Zstd(raw, zstandard), _BLOCK))
    return raw


def _stepwise(stream: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Steps(stream), _BLOCK))


class _Steps(io.RawIOBase):
    """What a decompressing stream has ready; asked for a whole block, it would lose what stands before a tear."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read = cast(io.BufferedReader, stream).read1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # typeshed's name for it is no class
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Zstd(io.RawIOBase):
    """A stream of zstd frames, decompressed. The reader of zstandard takes a frame that is cut off for a whole one."""

    def __init__(self, raw: BinaryIO, zstandard: ModuleType) -> None:
        self._raw = raw
        self._zstandard = zstandard
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_within = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # as above
        while not self._ready:
            if not (data := self._frame.unused_data or self._raw.read(_BLOCK)):
                if self._is_within:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            if self._frame.eof:
                self._frame = self._zstandard.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._zstandard.ZstdError as error:
                raise EOFError(f"damaged zstd frame: {error}") from error
            self._is_within = not self._frame.eof
        size = min(len(self._ready), len(buffer))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def _objects(text: str) -> tuple[list[JSON], int]:
    try:
        return jsontext.objects(text)
    except RecursionError:  # deeper than Python recurses, though its parser does
        return [], len(text)


@functools.lru_cache(maxsize=16)
def _read_json(path: str, stamp: float | None) -> JSON:
    try:
        with _open_raw(path) as stream:
            return orjson.loads(stream.read())
    except (OSError, ValueError):
        return None
