"""Faults of the Hub, refusals, others at the same time, and the end at any moment."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import queue
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from agent_rollouts.hub import publish
from tests.finished import ROWS, TRAIN, finished, row
from tests.hub_fixtures import environment
from tests.hub_server import READ_TOKEN, TOKEN, Fault, HubServer
from tests.published import FORGED, ID, names, refused

SERVER_FAULTS = {
    "500 on commit": [Fault("POST", "/commit/", status=500)],
    "503 on commit": [Fault("POST", "/commit/", status=503, times=3)],
    "429 on commit": [Fault("POST", "/commit/", status=429, headers={"Retry-After": "3"})],
    "409 and 412 on commit": [Fault("POST", "/commit/", status=409), Fault("POST", "/commit/", status=412)],
    "429 on preupload": [Fault("POST", "/preupload/", status=429, headers={"Retry-After": "1"})],
    "500 on upload": [Fault("PUT", "/lfs/", status=500, times=2)],
    "upload breaks": [Fault("PUT", "/lfs/", drop=200, times=2)],
    "upload breaks again and again": [Fault("PUT", "/lfs/", drop=200, times=15)],
    "upload is slow": [Fault("PUT", "/lfs/", delay=0.2)],
    "commit breaks": [Fault("POST", "/commit/", drop=20)],
    "answer to commit is lost": [Fault("POST", "/commit/", lost=True)],
    "answer to creation is lost": [Fault("POST", "/repos/create", lost=True)],
    "503 on everything for a while": [Fault("GET", "/", status=503, times=4), Fault("POST", "/", status=503, times=4)],
}  # fmt: skip


@pytest.mark.parametrize("case", SERVER_FAULTS)
def test_faults_that_pass(hub: HubServer, folder: Path, tmp_path: Path, case: str) -> None:
    hub.faults += SERVER_FAULTS[case]
    published = publish(folder, ID)
    assert not any(fault.times for fault in hub.faults)
    assert published.commit == hub.repos[ID].refs["main"]
    assert len(hub.repos[ID].commits) == 2
    assert names("messages", "train") == names("openai", "train") == ["a", "b", "c"]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_faults_while_reading_what_is_there(hub: HubServer, folder: Path, tmp_path: Path, method: str) -> None:
    publish(folder, ID)
    hub.faults += [Fault(method, "/resolve/", drop=0, times=7), Fault(method, "/resolve/", status=503, times=7)]
    publish(finished(tmp_path / "new", {"messages": {"train": [row("e")]}}), ID)
    assert not any(fault.times for fault in hub.faults)
    assert names("messages", "train") == ["e"]
    assert names("messages", "test") == ["d"]


REFUSALS = {
    "401": (Fault("POST", "/repos/create", status=401, message="Invalid credentials"), "does not accept the token"),
    "403": (Fault("POST", "/commit/", status=403, message="so it is"), "may not write to user/rollouts (so it is)"),
    "413": (Fault("POST", "/objects/batch", status=413, message="full"), "no space for user/rollouts on the Hub (full"),
    "in the batch": (Fault("POST", "/objects/batch", status=200), "the upload to user/rollouts failed"),
    "507": (Fault("PUT", "/lfs/", status=507, times=9), "there is no space"),
    "gated": (Fault("POST", "/preupload/", status=403, headers={"code": "GatedRepo"}), "is gated"),
    "412 forever": (Fault("POST", "/commit/", status=412, times=99), "others keep changing user/rollouts"),
    "429 forever": (Fault("POST", "/commit/", status=429, times=99), "too many requests"),
    "503 forever": (Fault("POST", "/commit/", status=503, times=99), "the Hub answered 503"),
    "400": (Fault("POST", "/commit/", status=400, message=f"token {TOKEN} is odd"), "the Hub answered 400"),
    "never there": (Fault("GET", "/api/datasets", drop=0, times=99), "cannot be reached"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_line_and_leave_all_as_it_was(
    hub: HubServer, folder: Path, tmp_path: Path, case: str, capfd: Any
) -> None:
    fault, said = REFUSALS[case]
    new = finished(tmp_path / "new", {"messages": {"train": [row("e")]}})
    if "create" not in fault.part:
        publish(folder, ID)
    hub.faults.append(dataclasses.replace(fault))
    refused(hub, said, new, ID)
    hub.faults.clear()
    if "create" not in fault.part:
        assert names("messages", "train") == ["a", "b", "c"]
    publish(new, ID)
    assert names("messages", "train") == ["e"]
    assert TOKEN not in "".join(capfd.readouterr())


def test_who_may_not(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(hub, "does not accept the token", folder, ID, token=FORGED)
    refused(hub, "may not write", folder, ID, token=READ_TOKEN)
    refused(hub, "may not write to stranger/x", folder, "stranger/x")
    refused(hub, "no name of a dataset", folder, "a/b/c")
    hub.create("stranger/x")
    refused(hub, "may not write to stranger/x", folder, "stranger/x")
    hub.create("org/hidden")
    hub.faults.append(Fault("GET", "/org/hidden", status=404, times=2, headers={"code": "RepoNotFound"}))
    refused(hub, "org/hidden is taken", folder, "org/hidden")
    monkeypatch.delenv("HF_TOKEN")
    refused(hub, "hf auth login", folder, ID)


def test_nobody_answers(hub: HubServer, folder: Path) -> None:
    hub.stop()
    refused(hub, "cannot be reached", folder, ID)


def test_a_pull_request_is_not_opened_twice(hub: HubServer, folder: Path) -> None:
    publish(Dataset.from_list([row("z")]), ID)
    hub.faults.append(Fault("POST", "/commit/", lost=True))
    refused(hub, "cannot be reached", folder, ID, create_pr=True)
    assert [ref for ref in hub.repos[ID].refs if ref.startswith("refs/pr/")] == ["refs/pr/1"]


# Many at once, and the end at any moment


def test_publishers_at_once_in_threads(hub: HubServer, tmp_path: Path) -> None:
    one = [finished(tmp_path / str(n), {f"c{n}": {"train": [row(f"t{n}")]}}) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda folder: publish(folder, ID), one))
    for n in range(6):
        assert names(f"c{n}", "train") == [f"t{n}"]
    assert [request.status for request in hub.asked("POST", "/commit/")].count(200) == 6


PUSH = """
import sys
from agent_rollouts.hub import publish
publish(sys.argv[1], sys.argv[2])
"""


def push(hub: HubServer, folder: Path, home: Path) -> subprocess.Popen[bytes]:
    """A process that publishes."""
    return subprocess.Popen(
        [sys.executable, "-c", PUSH, str(folder), ID],
        env={**os.environ, **environment(hub, home)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_publishers_at_once_in_processes(hub: HubServer, tmp_path: Path) -> None:
    pushes = [
        push(hub, finished(tmp_path / str(n), {f"c{n}": {"train": [row(f"t{n}")]}}), tmp_path / f"home{n}")
        for n in range(2)
    ]
    publish(finished(tmp_path / "own", ROWS), ID)
    for process in pushes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    for n in range(2):
        assert names(f"c{n}", "train") == [f"t{n}"]
    assert names("openai", "train") == ["a", "b", "c"]


FORKS = """
import os, sys
from agent_rollouts.distill.redact import find
from agent_rollouts.hub import publish
find("rules are read once")
for line in sys.stdin:
    folder, repo_id = line.split()
    pid = os.fork()
    if not pid:
        publish(folder, repo_id)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_killed_at_every_request(hub: HubServer, tmp_path: Path) -> None:
    """A process is killed at its first, second, … request, which the Hub still carries out, or does not."""
    new = finished(tmp_path / "new", {"messages": {"train": [row("e"), row("f")]}}, shards=2)
    publish(finished(tmp_path / "old", {"messages": {"train": TRAIN}}), "user/base")
    old, lfs, whole = hub.repos["user/base"], dict(hub.lfs), []
    environ = {**os.environ, **environment(hub, tmp_path / "home")}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as forks:
        for base, is_done in itertools.product((None, old), (False, True)):
            for number in itertools.count():
                repo_id = f"user/d{number}-{is_done}-{base is None}"
                if base:
                    hub.repos[repo_id] = copy.deepcopy(base)
                hub.lfs = dict(lfs)
                was_killed = kill_at(hub, forks, number, is_done, f"{new} {repo_id}")
                states = [["e", "f"], ["a", "b", "c"]] if base else [["e", "f"]]
                if base or (repo_id in hub.repos and len(hub.repos[repo_id].commits) > 1):
                    assert names("messages", "train", repo_id) in states
                if not was_killed:
                    break
                publish(new, repo_id)
                whole.append(hub.files(repo_id))
                assert len(hub.repos[repo_id].commits) == (3 if base else 2)
            assert 8 < number < 30
    assert all(files == whole[0] for files in whole)
    assert names("messages", "train", repo_id) == ["e", "f"]


def kill_at(hub: HubServer, forks: Any, number: int, is_done: bool, arguments: str) -> bool:
    """Publish in a process that ends at its request of this number; whether there was one."""
    pids: queue.Queue[int] = queue.Queue()
    drop = None if is_done else 0
    end = Fault("", "", skip=number, lost=is_done, drop=drop, call=lambda: os.kill(pids.get(), signal.SIGKILL))
    hub.faults = [end]
    print(arguments, file=forks.stdin, flush=True)
    pids.put(int(forks.stdout.readline()))
    code = int(forks.stdout.readline())
    hub.faults = []
    assert code == (0 if end.times else -signal.SIGKILL)
    return not end.times
