"""The folder that a session works in, and the only one that its file tools can reach.

Every path is walked from the folder's own descriptor, one part at a time and without following links, so that nothing
that changes meanwhile (a link put in the place of a folder, a folder in the place of a file) leads outside. Links are
read and walked like any other part: those that stay inside work. `..` goes back to the folder that was walked
through, never to what the file system says is above.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from agent_rollouts.errors import AgentRolloutsError, ToolError

SHOWN = "/workspace"
"""Where a sandbox that can do so mounts the folder."""

MAX_FILE = 8 * 1024 * 1024
"""The largest file that the tools read or write, in bytes."""

_MAX_LINKS = 40  # as Linux
_MAX_DEPTH = 100  # each folder on the way is an open file
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe in the place of a file must not stop the session.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GIT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


class Entry(NamedTuple):
    """What a folder holds: `kind` is file, folder, link or other; `size` in bytes."""

    name: str
    kind: str
    size: int


class Workspace:
    """One session's folder; file operations are relative to it.

    Args:
        root: the folder, which exists.
        shown: an absolute path under which commands see it; taken for the folder in paths, too.
    """

    def __init__(self, root: Path, *, shown: str | None = None) -> None:
        self.root = root
        self.shown = shown or str(root)
        self._fd = os.open(root, _FOLDER)

    def close(self) -> None:
        """Give the descriptor back; the folder stays."""
        os.close(self._fd)

    def read(self, path: str) -> bytes:
        """The bytes of a file.

        Raises:
            ToolError: outside, not there, no file, or larger than `MAX_FILE`.
        """
        with self._walked(path) as (folder, name), _told(path):
            fd = os.open(name, _FILE, dir_fd=folder)
            with os.fdopen(fd, "rb") as file:
                found = os.fstat(fd)
                if stat.S_ISDIR(found.st_mode):
                    raise ToolError(f"{path} is a folder")
                if not stat.S_ISREG(found.st_mode):
                    raise ToolError(f"{path} is no ordinary file")
                data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ToolError(f"{path} is larger than {MAX_FILE} bytes")
        return data

    def write(self, path: str, data: bytes) -> bool:
        """Put a file in place at once, with the folders above it; says whether it is new.

        Raises:
            ToolError: outside, a folder, or more than `MAX_FILE`.
        """
        if len(data) > MAX_FILE:
            raise ToolError(f"{path} would be larger than {MAX_FILE} bytes")
        with self._walked(path, create=True) as (folder, name), _told(path):
            if name == ".":
                raise ToolError(f"{path} is a folder")
            try:
                mode: int | None = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            except FileNotFoundError:
                mode = None
            if mode is not None and not stat.S_ISREG(mode):
                raise ToolError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no ordinary file'}")
            # A new file in its place: what else is linked to the old one keeps its content.
            part = f".{secrets.token_hex(8)}.part"
            fd = os.open(
                part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=folder
            )
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    if mode is not None:
                        os.fchmod(fd, stat.S_IMODE(mode) & 0o777)
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
        return mode is None

    def entries(self, path: str = ".") -> list[Entry]:
        """What a folder holds, by name.

        Raises:
            ToolError: outside, not there, or no folder.
        """
        with self._walked(path) as (folder, name), _told(path):
            fd = os.open(name, _FOLDER, dir_fd=folder)
            try:
                with os.scandir(fd) as found:
                    return sorted(_entry(entry) for entry in found)
            finally:
                os.close(fd)

    def files(self, path: str = ".") -> Iterator[tuple[str, bytes]]:
        """Path and content of every ordinary file below a folder (or of the one file), in order; `.git` is left out.

        Links are not followed, and files larger than `MAX_FILE` not read.
        """
        with self._walked(path) as (folder, name), _told(path):
            is_folder = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            if is_folder:
                start = path.rstrip("/")
                for place, folders, names, fd in os.fwalk(name, dir_fd=folder, follow_symlinks=False):
                    inner = os.path.normpath(os.path.join(start, os.path.relpath(place, name)))
                    is_deep = inner.count("/") >= _MAX_DEPTH
                    folders[:] = [] if is_deep else sorted(set(folders) - {".git"})
                    for file in sorted(names):
                        if (data := _content(file, fd)) is not None:
                            yield os.path.normpath(os.path.join(inner, file)), data
        if not is_folder:
            yield path, self.read(path)

    @contextmanager
    def _walked(self, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Descriptor of the folder that holds `path`, and the name in it (`.` for the workspace or after `..`)."""
        with ExitStack() as closing:
            stack = [self._fd]

            def enter(fd: int) -> None:
                closing.callback(os.close, fd)
                stack.append(fd)

            with _told(path):
                pending = deque(self._parts(path, path))
                links = 0
                name = "."
                while pending:
                    part = pending.popleft()
                    if part == "..":
                        if len(stack) == 1:
                            raise ToolError(f"{path} is outside the workspace")
                        stack.pop()
                        continue
                    try:
                        mode = os.stat(part, dir_fd=stack[-1], follow_symlinks=False).st_mode
                    except FileNotFoundError:
                        if not pending:
                            name = part
                            break
                        if not create:
                            raise
                        if len(stack) > _MAX_DEPTH:
                            raise ToolError(f"{path} is more than {_MAX_DEPTH} folders deep") from None
                        with suppress(FileExistsError):
                            os.mkdir(part, dir_fd=stack[-1])
                        mode = stat.S_IFDIR
                    if stat.S_ISLNK(mode):
                        links += 1
                        if links > _MAX_LINKS:
                            raise ToolError(f"{path} has too many links")
                        target = os.readlink(part, dir_fd=stack[-1])
                        parts = self._parts(target, path)
                        if target.startswith("/"):
                            del stack[1:]
                        pending.extendleft(reversed(parts))
                    elif pending:
                        if len(stack) > _MAX_DEPTH:
                            raise ToolError(f"{path} is more than {_MAX_DEPTH} folders deep")
                        enter(os.open(part, _FOLDER, dir_fd=stack[-1]))
                    else:
                        name = part
            yield stack[-1], name

    def _parts(self, path: str, asked: str) -> list[str]:
        if path.startswith("/"):
            inside = next((p for p in (self.shown, str(self.root)) if path == p or path.startswith(f"{p}/")), None)
            if inside is None:
                raise ToolError(f"{asked} is outside the workspace; paths are relative to it")
            path = path[len(inside) :]
        return [part for part in path.split("/") if part not in ("", ".")]


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What the system says of a path, without the folders above the workspace."""
    try:
        yield
    except (ValueError, UnicodeError) as error:
        if isinstance(error, ToolError):
            raise
        raise ToolError(f"{path!r} is no path") from None
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror or error}") from None


def _entry(entry: os.DirEntry[str]) -> Entry:
    name = os.fsencode(entry.name).decode(errors="replace")
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return Entry(name, "other", 0)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return Entry(name, kinds.get(stat.S_IFMT(found.st_mode), "other"), found.st_size)


def _content(name: str, folder: int) -> bytes | None:
    """The bytes of an ordinary file that is not too large, else None."""
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
            return None
        try:
            return file.read(MAX_FILE)
        except OSError:
            return None


def create(root: Path, *, folder: str | None = None, git_bundle: str | None = None, git_ref: str | None = None) -> None:
    """Make a session's folder, empty or with what it starts from; what an earlier try left there goes.

    Args:
        root: the folder to be, of which the one above exists.
        folder: a folder to copy; links in it are copied as links.
        git_bundle: a bundle (`git bundle create`) to clone.
        git_ref: what to check out of it, the bundle's HEAD by default.

    Raises:
        AgentRolloutsError: there is no such folder or bundle, or git cannot read it.
    """
    remove(root)
    if folder is not None and git_bundle is not None:
        raise AgentRolloutsError("a session starts from a folder or from a git bundle, not from both")
    if folder is not None:
        if not Path(folder).is_dir():
            raise AgentRolloutsError(f"starting folder {folder} is not there")
        shutil.copytree(folder, root, symlinks=True)
        root.chmod(0o700)
        return
    root.mkdir(mode=0o700)
    if git_bundle is not None:
        _clone(Path(git_bundle), git_ref, root)


def _clone(bundle: Path, ref: str | None, root: Path) -> None:
    if not bundle.is_file():
        raise AgentRolloutsError(f"git bundle {bundle} is not there")
    if ref is not None and ref.startswith("-"):
        raise AgentRolloutsError(f"{ref!r} is no git ref")
    steps = [
        ["git", "clone", "--quiet", "--no-hardlinks", "--template=", "--", str(bundle.resolve()), str(root)],
        ["git", "-C", str(root), "checkout", "--quiet", ref or "HEAD", "--"],
        # The path of the bundle is nothing for the model.
        ["git", "-C", str(root), "remote", "remove", "origin"],
    ]
    environ = {**_GIT, "PATH": os.environ.get("PATH", os.defpath)}
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, errors="replace", env=environ, timeout=600)
        except FileNotFoundError:
            raise AgentRolloutsError("git bundles need git, which is not on the PATH") from None
        if done.returncode:
            raise AgentRolloutsError(f"git bundle {bundle}: {done.stderr.strip()[:300]}")


def remove(root: Path) -> bool:
    """Remove a session's folder; False if something of it stays (files of another user, made in a container)."""
    if not os.path.lexists(root):
        return True
    if root.is_symlink() or not root.is_dir():
        raise AgentRolloutsError(f"{root} is no folder; move it away")
    # Neither follows links, and unlike Python's own they take folders of any depth. A session may have made folders
    # without permissions.
    subprocess.run(["chmod", "-R", "u+rwx", "--", str(root)], capture_output=True)
    subprocess.run(["rm", "-rf", "--", str(root)], capture_output=True)
    return not root.exists()
