"""Running a command of the model: in the best sandbox that this machine has, with limits of time and output.

| sandbox | what a command sees | what it needs |
|---|---|---|
| `bubblewrap` | the workspace as /workspace, system folders read-only, its own /tmp and processes, no network | `bwrap` on the PATH, user namespaces |
| `sandlock` | the workspace at its own path, system folders read-only, no /tmp, no network | the package `sandlock`, Linux 6.12 (Landlock ABI 6) |
| `container` | the workspace as /workspace in a container of `image`, no network | docker or podman |
| `none` | everything that the user may see | `--unsandboxed` |

A sandbox is tried before it is trusted: a command in it must not read a file beside the workspace, nor write one. All
of them get an environment made anew, which holds no variable of ours; their whole process group is killed at the end.
`container` is never chosen, only asked for, as it needs an image.
"""  # noqa: E501  (a table)

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.generate.workspace import SHOWN

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
"""Folders that every sandbox can read. Of /etc there is what programs need to start, and no configuration."""

_ETC = tuple(
    f"/etc/{name}"
    for name in (
        "alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
        "mime.types", "nsswitch.conf", "passwd", "pki", "protocols", "resolv.conf", "services", "ssl",
    )
)  # fmt: skip
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the clients of containers need to find their service; none of it is handed on into the container.
_CLIENT = ("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST")


class Outcome(NamedTuple):
    """What became of a command; `exit_code` is negative for a signal, None where its time ran out."""

    output: str
    exit_code: int | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a command may have: a time in seconds, bytes of output, and folders to read beside the system's."""

    seconds: float = 30.0
    output_bytes: int = 30_000
    network: bool = False
    readable: tuple[str, ...] = ()
    image: str | None = None


@dataclass(frozen=True)
class Sandbox:
    """A way to run a command in a folder.

    `argv` makes the words to start from the command, the folder and the seconds; `shown` is where the command finds
    the folder, None for its own place; `stop` ends what killing the process group does not reach.
    """

    name: str
    argv: Callable[[str, Path, float], list[str]]
    environ: dict[str, str]
    shown: str | None = None
    stop: Callable[[list[str]], None] | None = None


def choose(kind: str, limits: Limits) -> Sandbox:
    """The sandbox of that kind, or the best there is (`auto`), tried out.

    Raises:
        AgentRolloutsError: it does not work here, or none does.
    """
    if kind not in _KINDS and kind != "auto":
        raise AgentRolloutsError(f"unknown sandbox {kind!r}; known: auto, {', '.join(_KINDS)}")
    failed = {}
    for name in ("bubblewrap", "sandlock") if kind == "auto" else (kind,):
        sandbox, why = _KINDS[name](limits)
        if sandbox is not None and name != "none":
            why = _flaw(sandbox, limits)
        if sandbox is not None and not why:
            return sandbox
        failed[name] = why
    raise AgentRolloutsError(
        "run_command has no sandbox here ("
        + "; ".join(f"{name}: {why}" for name, why in failed.items())
        + "): install bubblewrap or `pip install sandlock` on Linux, name a container with `sandbox: container` and "
        "`image`, leave run_command out of the tools, or let commands do what you may do with --unsandboxed"
    )


def run(sandbox: Sandbox, command: str, folder: Path, limits: Limits) -> Outcome:
    """Run a shell command; standard output and error are one text, whose middle is left out when it is too long."""
    argv = sandbox.argv(command, folder, limits.seconds)
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env=sandbox.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = _Clipped(limits.output_bytes)
    deadline = time.monotonic() + limits.seconds
    try:
        with process.stdout as stream:
            _collect(stream, process, output, deadline)
    finally:
        in_time = process.poll() is not None
        if not in_time and sandbox.stop is not None:
            sandbox.stop(argv)
        # Also what it left running in the background.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Outcome(output.text(), process.returncode if in_time else None)


def _collect(stream: IO[bytes], process: subprocess.Popen[bytes], output: _Clipped, deadline: float) -> None:
    """Read until the process ends or its time does; a background process may hold the pipe open beyond its end."""
    os.set_blocking(stream.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            has_ended = process.poll() is not None
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if selector.select(0 if has_ended else min(left, 0.05)):
                try:
                    data = os.read(stream.fileno(), 1 << 16)
                except BlockingIOError:
                    continue
                if not data:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, left))
                    return
                output.add(data)
            elif has_ended:
                return


class _Clipped:
    """Bytes of which the first and the last are kept."""

    def __init__(self, limit: int) -> None:
        self.half = max(1, limit // 2)
        self.head = bytearray()
        self.tail = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        room = self.half - len(self.head)
        self.head += data[:room]
        self.tail += data[room:] if room > 0 else data
        if (over := len(self.tail) - self.half) > 0:
            self.dropped += over
            del self.tail[:over]

    def text(self) -> str:
        if not self.dropped:
            return bytes(self.head + self.tail).decode(errors="replace")
        head, tail = self.head.decode(errors="ignore"), self.tail.decode(errors="ignore")
        return f"{head}\n[{self.dropped} bytes left out]\n{tail}"


def _flaw(sandbox: Sandbox, limits: Limits) -> str:
    """Why a sandbox is not to be trusted, or nothing."""
    with tempfile.TemporaryDirectory(prefix="agent-rollouts-") as place:
        folder, beside = Path(place, "inside"), Path(place, "beside")
        folder.mkdir()
        word = secrets.token_hex(16)
        beside.write_text(word)
        there = shlex.quote(str(beside))
        probe = f"cat {there} /proc/{os.getpid()}/environ; echo {word[:8]} > {there}; echo ok > made && echo ready"
        try:
            outcome = run(sandbox, probe, folder, Limits(seconds=60.0))
        except OSError as error:
            return f"does not start: {error}"
        if word in outcome.output or beside.read_text() != word or "PATH=" in outcome.output:
            return "does not keep commands inside the workspace"
        if "ready" not in outcome.output or not (folder / "made").exists():
            return f"does not work: {outcome.output.strip()[-200:] or 'no output'}"
    return ""


def _environ(home: str, limits: Limits, path: str = _PATH) -> dict[str, str]:
    """An environment that holds nothing of ours."""
    own = [place for folder in limits.readable if (place := os.path.join(folder, "bin")) and os.path.isdir(place)]
    return {"PATH": ":".join([*own, path]), "HOME": home, "LANG": "C.UTF-8", "TERM": "dumb", "PYTHONUNBUFFERED": "1"}


def _bubblewrap(limits: Limits) -> tuple[Sandbox | None, str]:
    program = shutil.which("bwrap")
    if program is None:
        return None, "bwrap is not on the PATH"
    environ = _environ(SHOWN, limits)
    # --new-session keeps a command from typing into our terminal; --die-with-parent holds when we are killed.
    words = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    words += ["--share-net"] if limits.network else []
    for name, value in environ.items():
        words += ["--setenv", name, value]
    for place in SYSTEM:
        if os.path.islink(place):
            words += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            words += ["--ro-bind", place, place]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/dev/shm"]
    for place in (*_ETC, *limits.readable):  # behind /tmp, which may hold them
        words += ["--ro-bind-try", place, place]

    def argv(command: str, folder: Path, seconds: float) -> list[str]:
        return [*words, "--bind", str(folder), SHOWN, "--chdir", SHOWN, "--", "/bin/sh", "-c", command]

    return Sandbox("bubblewrap", argv, environ, SHOWN), ""


# Runs in a process of its own, which holds nothing of ours: sandlock's supervisor lives in the process that starts it.
_SANDLOCK = """
import json, sys, time
given = json.loads(sys.argv[1])
sys.path[:0] = given["path"]
from sandlock import Sandbox
from sandlock.sandbox import StdioMode
command = ["/bin/sh", "-c", 'exec /bin/sh -c "$0" 2>&1', given["command"]]
process = Sandbox(**given["options"]).popen(command, stdin=StdioMode.NULL)
ended = process.wait(timeout=given["seconds"])
if ended.reason == 3:  # its time ran out: let it run out here, too
    time.sleep(5)
sys.exit(ended.exit_code if ended.exit_code >= 0 else 128 + max(ended.signal, 9))
"""


def _sandlock(limits: Limits) -> tuple[Sandbox | None, str]:
    found = importlib.util.find_spec("sandlock")
    if found is None or found.origin is None:
        return None, "the package sandlock is not installed"
    library = str(Path(found.origin).parent.parent)
    readable = [place for place in (*SYSTEM, *_ETC, *limits.readable, "/proc") if os.path.exists(place)]
    devices = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")]

    def argv(command: str, folder: Path, seconds: float) -> list[str]:
        place = str(folder)
        options = {
            "fs_readable": [*readable, "/dev"],
            "fs_writable": [place, *(device for device in devices if os.path.exists(device))],
            "net_allow": ["*:*", "udp://*:*"] if limits.network else [],
            "cwd": place,
            "clean_env": True,
            "env": {**_environ(place, limits), "TMPDIR": place},
        }
        given = {"path": [library], "command": command, "seconds": max(0.1, seconds - 0.2), "options": options}
        return [sys.executable, "-I", "-c", _SANDLOCK, json.dumps(given)]

    return Sandbox("sandlock", argv, _environ("/", limits)), ""


def _container(limits: Limits) -> tuple[Sandbox | None, str]:
    if limits.image is None:
        return None, "needs `image`, the image to run"
    program = shutil.which("docker") or shutil.which("podman")
    if program is None:
        return None, "neither docker nor podman is on the PATH"
    words = [program, "run", "--rm", "--init", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += ["--pids-limit", "512", "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", SHOWN]
    words += ["--env", f"HOME={SHOWN}", *([] if limits.network else ["--network", "none"])]
    for place in limits.readable:
        words += ["--volume", f"{place}:{place}:ro"]
    image = limits.image

    def argv(command: str, folder: Path, seconds: float) -> list[str]:
        name = f"agent-rollouts-{secrets.token_hex(8)}"
        # A time limit of its own, for the case that we are killed.
        inner = ["timeout", "-s", "KILL", str(int(seconds + 60)), "/bin/sh", "-c", command]
        return [*words, "--name", name, "--volume", f"{folder}:{SHOWN}", image, *inner]

    def stop(argv: list[str]) -> None:
        name = argv[argv.index("--name") + 1]
        subprocess.run([program, "kill", name], capture_output=True, env=environ, timeout=60, check=False)

    environ = {name: os.environ[name] for name in _CLIENT if name in os.environ}
    return Sandbox("container", argv, environ, SHOWN, stop), ""


def _none(limits: Limits) -> tuple[Sandbox | None, str]:
    def argv(command: str, folder: Path, seconds: float) -> list[str]:
        return ["/usr/bin/env", f"HOME={folder}", "/bin/sh", "-c", command]

    return Sandbox("none", argv, _environ("/", limits, os.environ.get("PATH", _PATH))), ""


_KINDS: dict[str, Callable[[Limits], tuple[Sandbox | None, str]]] = {
    "bubblewrap": _bubblewrap,
    "sandlock": _sandlock,
    "container": _container,
    "none": _none,
}

KINDS: Sequence[str] = ("auto", *_KINDS)
"""The names of sandboxes."""
