"""Zip archives that are one log; their members may be compressed with zstd, which Python reads from 3.14 on."""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from agent_rollouts.errors import FormatError, SourceError
from agent_rollouts.source import Source

# What reading a damaged member raises, a FormatError among it.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_ZSTD = 93
_LOCAL_HEADER = 30


def first_name(data: bytes) -> str:
    """The name of the first member of the archive that begins like this, "" where it is none."""
    if not data.startswith(b"PK\x03\x04") or len(data) < _LOCAL_HEADER:
        return ""
    size: int = struct.unpack_from("<H", data, 26)[0]
    return data[_LOCAL_HEADER : _LOCAL_HEADER + size].decode("utf-8", "replace")


@contextmanager
def archive(source: Source) -> Iterator[zipfile.ZipFile]:
    """The archive; of one that cannot be sought in (itself compressed, or within an archive) a copy.

    Raises:
        FormatError: it is cut off.
    """
    with source.open() as stream, tempfile.TemporaryFile() as copy:
        if not stream.seekable():
            shutil.copyfileobj(stream, copy)
        try:
            opened = zipfile.ZipFile(stream if stream.seekable() else copy)
        except zipfile.BadZipFile as error:
            raise FormatError(f"{source.path} is no whole zip archive: {error}") from None
        with opened:
            yield opened


def member(opened: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member; of several of one name the last.

    Raises:
        SourceError: it is compressed with zstd, and zstandard is not installed.
        DAMAGE: it is damaged.
    """
    info = opened.getinfo(name)
    if info.compress_type != _ZSTD:
        return opened.read(info)
    try:
        import zstandard
    except ImportError:
        what = f"{opened.filename or 'the log'} is compressed with zstd"
        raise SourceError(f"{what}; reading it needs zstandard: pip install 'agent-rollouts[zstd]'") from None
    stream = opened.fp
    if stream is None:
        raise FormatError("the archive was closed")
    stream.seek(info.header_offset)
    header = stream.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER:
        raise FormatError(f"{name} lies beyond the end of the archive")
    # The name and the extra field stand between the header and the data, and may differ from the directory's.
    stream.seek(sum(struct.unpack_from("<HH", header, 26)), 1)
    packed = stream.read(info.compress_size)
    try:
        data: bytes = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read()
    except zstandard.ZstdError as error:
        raise FormatError(f"{name} is damaged: {error}") from error
    if zlib.crc32(data) != info.CRC:
        raise FormatError(f"{name} is damaged: its checksum differs")
    return data
