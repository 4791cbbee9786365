"""Commands: limits of time and output, what they inherit, and, where the machine has a sandbox, what they cannot do."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.generate import sandbox as module
from agent_rollouts.generate.sandbox import KINDS, Limits, Sandbox, choose, run

QUICK = Limits(seconds=1.0, output_bytes=1000)


def working(kind: str) -> Sandbox:
    try:
        return choose(kind, Limits())
    except AgentRolloutsError as error:
        pytest.skip(str(error)[:150])


def runs(mark: str) -> bool:
    """Whether a process of this command line is there."""
    return mark in subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("kind", ["none", "bubblewrap", "sandlock"])
def test_commands_have_limits(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", word := "inherit" + "ed-by-nobody")
    box = working(kind)
    outcome = run(box, "echo out; echo err >&2; env; exit 5", tmp_path, QUICK)
    assert outcome.exit_code == 5
    assert outcome.output.startswith("out\nerr\n") or outcome.output.endswith("err\n")
    assert word not in outcome.output
    assert "HOME=/workspace" in outcome.output or f"HOME={tmp_path}" in outcome.output
    assert run(box, "cat; echo ended", tmp_path, QUICK) == ("ended\n", 0)  # nothing to read
    began = time.monotonic()
    mark = f"sleep 3{os.getpid()}"
    assert run(box, f"echo before; {mark}", tmp_path, QUICK) == ("before\n", None)
    assert run(box, f"{mark} & echo started", tmp_path, QUICK) == ("started\n", 0)
    assert time.monotonic() - began < 30
    assert not runs(mark)
    large = run(box, "yes | head -c 3000000; echo end", tmp_path, QUICK).output
    assert len(large) < 1100
    assert large.startswith("y\n")
    assert large.endswith("end\n")
    assert "[2999004 bytes left out]" in large
    assert run(box, "touch made", tmp_path, QUICK).exit_code == 0
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["bubblewrap", "sandlock"])
def test_a_sandbox_keeps_commands_inside(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", word := "read-by" + "-nobody")
    box = working(kind)
    inside, limits = tmp_path / "inside", Limits(seconds=20.0)
    inside.mkdir()
    (tmp_path / "word").write_text(word)
    (inside / "link").symlink_to(tmp_path / "word")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        attempts = [
            f"cat {tmp_path}/word",
            "cat ../word link",
            f"echo x > {tmp_path}/word",
            f"rm -rf {tmp_path}",
            f"ln {tmp_path}/word here; cat here",
            f"ln -s {tmp_path} s; cat s/word; echo x > s/word",
            f"cat /proc/{os.getpid()}/environ /proc/*/environ",
            f"cat /proc/{os.getpid()}/cwd/word /proc/1/root{tmp_path}/word",
            f"kill -9 {os.getpid()}",
            f'python3 -c \'import socket; socket.create_connection(("127.0.0.1", {port})); print("{word}"[::1])\'',
            "cat ~root/.netrc ~root/.ssh/* /root/.bashrc /etc/shadow | head -c 100",
            "mount -t tmpfs x /usr; chroot / true && echo root; echo x > /usr/bin/x",
        ]
        for attempt in attempts:
            output = run(box, attempt, inside, limits).output
            assert word not in output.replace(attempt, ""), attempt
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (tmp_path / "word").read_text() == word
    assert not Path("/usr/bin/x").exists()
    mark = f"sleep 4{os.getpid()}"
    run(box, f"(setsid {mark} &); nohup {mark} >/dev/null 2>&1 & echo", inside, limits)
    time.sleep(0.1)
    assert not runs(mark)


@pytest.mark.parametrize("kind", ["bubblewrap", "sandlock"])
def test_the_network_is_there_when_asked_for(kind: str, tmp_path: Path) -> None:
    working(kind)
    limits = Limits(network=True)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port})); print('there')"
        outcome = run(choose(kind, limits), f'python3 -c "{connect}"', tmp_path, limits)
    assert outcome == ("there\n", 0)


def test_readable_folders_are_read_only(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "mine").write_text("#!/bin/sh\necho mine\n")
    (tools / "bin" / "mine").chmod(0o755)
    (tmp_path / "w").mkdir()
    limits = Limits(readable=(str(tools),))
    for kind in ("bubblewrap", "sandlock"):
        try:
            box = choose(kind, limits)
        except AgentRolloutsError:
            continue
        assert run(box, f"mine; echo x > {tools}/bin/mine", tmp_path / "w", limits).output.startswith("mine\n")
        assert "echo mine" in (tools / "bin" / "mine").read_text()


def test_no_sandbox_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        AgentRolloutsError, match=r"bwrap is not on the PATH; sandlock: .* not installed.*--unsandboxed"
    ):
        choose("auto", Limits())
    with pytest.raises(AgentRolloutsError, match="needs `image`"):
        choose("container", Limits())
    with pytest.raises(AgentRolloutsError, match="neither docker nor podman"):
        choose("container", Limits(image="i"))
    with pytest.raises(AgentRolloutsError, match="unknown sandbox 'jail'; known: auto, bubblewrap"):
        choose("jail", Limits())
    assert KINDS[0] == "auto"


def test_a_sandbox_that_does_not_hold_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A `bwrap` that runs commands as they are, and one that does not run."""
    fake = tmp_path / "bwrap"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\nexec "$@"\n')
    fake.chmod(0o755)
    with pytest.raises(AgentRolloutsError, match="does not keep commands inside"):
        choose("bubblewrap", Limits())
    fake.write_text("#!/bin/sh\necho setting up uid map: Permission denied\nexit 1\n")
    with pytest.raises(AgentRolloutsError, match="does not work: setting up uid map"):
        choose("bubblewrap", Limits())


def test_containers_get_nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words that a container client is started with; no service to run them is needed for that."""
    monkeypatch.setenv("MY_API_KEY", "given-to" + "-nobody")
    client = tmp_path / "docker"
    client.write_text(
        '#!/bin/sh\n[ "$1" = kill ] && echo "$2" > "$0.killed" && exit\nenv; printf "%s\\n" "$@"; exec sleep 20\n'
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    box, why = module._container(Limits(image="python:3", readable=("/opt/x",)))
    assert box is not None, why
    outcome = run(box, "make test", tmp_path, QUICK)
    assert outcome.exit_code is None
    words = outcome.output.split("\n")
    assert (tmp_path / "docker.killed").read_text().strip() == words[words.index("--name") + 1]
    assert "given-to" + "-nobody" not in outcome.output
    assert words[-8:-1] == ["python:3", "timeout", "-s", "KILL", "61", "/bin/sh", "-c"] or "make test" in words
    for word in ("--network", "none", "--cap-drop", "no-new-privileges", f"{tmp_path}:/workspace", "/opt/x:/opt/x:ro"):
        assert word in words
