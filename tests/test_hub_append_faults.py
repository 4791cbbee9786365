"""Appends through faults, at the same time as others, and ended at any moment."""

from __future__ import annotations

import copy
import itertools
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent_rollouts.distill import Options
from agent_rollouts.hub import distill_to_hub, revoke
from tests.growing import distill, session
from tests.hub_fixtures import environment
from tests.hub_server import Fault, HubServer
from tests.published import ID, names

MAIL = "{}@greenhouse.com"


def grow(folder: Path, key: Path, repo_id: str = ID) -> Any:
    """Append the sessions of a folder with a key of one's own."""
    paths = sorted(map(str, folder.glob("*.jsonl")))
    return distill_to_hub(paths, Options(redaction_state=str(key)), repo_id)


@pytest.fixture
def base(hub: HubServer, tmp_path: Path) -> Path:
    """A dataset of two sessions, and its key."""
    session(tmp_path / "first", "a", mail=MAIL.format("ann"))
    session(tmp_path / "first", "b")
    grow(tmp_path / "first", tmp_path / "key.json")
    return tmp_path / "key.json"


def mails(repo_id: str = ID) -> dict[str, str]:
    from datasets import load_dataset

    rows = load_dataset(repo_id, "messages", split="train")
    return {row["trace_id"][6:]: row["messages"][0]["content"].partition(". ")[2] for row in rows}


FAULTS = {
    "503 on commit": [Fault("POST", "/commit/", status=503, times=3)],
    "412 on commit": [Fault("POST", "/commit/", status=412)],
    "upload breaks": [Fault("PUT", "/lfs/", drop=200, times=2)],
    "answer to commit is lost": [Fault("POST", "/commit/", lost=True)],
    "503 on reading": [Fault("GET", "/", status=503, times=4)],
    "downloads break": [Fault("GET", "/resolve/", drop=0, times=5)],
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_that_pass(hub: HubServer, base: Path, tmp_path: Path, case: str) -> None:
    hub.faults += FAULTS[case]
    session(tmp_path / "first", "b", turns=3)
    session(tmp_path / "first", "c")
    grow(tmp_path / "first", base)
    assert not any(fault.times for fault in hub.faults)
    assert sorted(names("messages", "train")) == ["a", "b", "c"]
    assert len(hub.repos[ID].commits) == 3


# Others at the same time


def test_appends_at_once(hub: HubServer, base: Path, tmp_path: Path) -> None:
    """Of machines with copies of the key, each with a session and an address of its own."""
    for n in range(4):
        session(tmp_path / f"m{n}", f"s{n}", mail=MAIL.format(f"mail{n}"))
        shutil.copy(base, tmp_path / f"key{n}.json")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: grow(tmp_path / f"m{n}", tmp_path / f"key{n}.json"), range(4)))
    found = mails()
    assert sorted(found) == ["a", "b", "s0", "s1", "s2", "s3"]
    assert sorted(found.values()) == ["", *(f"[EMAIL_{n}]" for n in range(1, 6))]
    assert found["a"] == "[EMAIL_1]"


def test_first_pushes_at_once(hub: HubServer, tmp_path: Path) -> None:
    """From one machine, all of the same key, which none has yet."""
    for n in range(3):
        session(tmp_path / f"m{n}", f"s{n}")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: grow(tmp_path / f"m{n}", tmp_path / "key.json"), range(3)))
    assert sorted(names("messages", "train")) == ["s0", "s1", "s2"]


def test_others_append_or_revoke_meanwhile(hub: HubServer, base: Path, tmp_path: Path) -> None:
    session(tmp_path / "other", "x", mail=MAIL.format("xaver"))
    session(tmp_path / "mine", "y", mail=MAIL.format("yves"))
    session(tmp_path / "mine", "z")
    shutil.copy(base, tmp_path / "key2.json")
    hub.faults += [
        Fault("POST", "/commit/", call=lambda: grow(tmp_path / "other", tmp_path / "key2.json") and None),
        Fault("POST", "/commit/", skip=1, call=lambda: revoke(["trace-z", "trace-b"], ID) and None),
    ]
    grow(tmp_path / "mine", base)
    assert mails() == {"a": "[EMAIL_1]", "x": "[EMAIL_2]", "y": "[EMAIL_3]"}
    text = hub.files(ID)["README.md"].decode()
    assert "| `messages` | train 3 |" in text


# The end at any moment

FORKS = """
import os, sys
from agent_rollouts.distill import Options
from agent_rollouts.distill.redact import find
from agent_rollouts.hub import distill_to_hub
find("rules are read once")
for line in sys.stdin:
    repo_id, key, *paths = line.split()
    pid = os.fork()
    if not pid:
        distill_to_hub(paths, Options(redaction_state=key), repo_id)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_killed_at_every_phase(hub: HubServer, base: Path, tmp_path: Path) -> None:
    """At every request that sends something, which the Hub still carries out or does not, and while it reads."""
    session(tmp_path / "first", "b", turns=2)
    session(tmp_path / "first", "c", mail=MAIL.format("cora"))
    old, lfs, key = copy.deepcopy(hub.repos[ID]), dict(hub.lfs), base.read_bytes()
    paths = [str(path) for path in sorted((tmp_path / "first").glob("*.jsonl"))]
    environ = {**os.environ, **environment(hub, tmp_path / "home")}
    before, whole = hub.files(ID), []
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as forks:
        for method, is_done in (("POST", False), ("POST", True), ("PUT", False), ("HEAD", False)):
            for number in itertools.count():
                repo_id = f"user/d{number}-{is_done}-{method}"
                hub.repos[repo_id], hub.lfs = copy.deepcopy(old), dict(lfs)
                base.write_bytes(key)
                if not killed(hub, forks, method, number, is_done, " ".join([repo_id, str(base), *paths])):
                    break
                found = hub.files(repo_id)
                grow(tmp_path / "first", base, repo_id)
                whole.append(hub.files(repo_id))
                assert found in (before, whole[-1])
                assert len(hub.repos[repo_id].commits) == 3
                assert b"EMAIL_2" in base.read_bytes()
                assert not Path(f"{base}.pending").exists()
                if method == "HEAD":
                    break
    assert len(whole) > 8
    assert mails(repo_id) == {"a": "[EMAIL_1]", "b": "", "c": "[EMAIL_2]"}


def killed(hub: HubServer, forks: Any, method: str, number: int, is_done: bool, arguments: str) -> bool:
    """Append in a process that ends at its request of this number; whether there was one."""
    pids: queue.Queue[int] = queue.Queue()
    drop = None if is_done else 0
    end = Fault(method, "", skip=number, lost=is_done, drop=drop, call=lambda: os.kill(pids.get(), signal.SIGKILL))
    hub.faults = [end]
    print(arguments, file=forks.stdin, flush=True)
    pids.put(int(forks.stdout.readline()))
    code = int(forks.stdout.readline())
    hub.faults = []
    assert code == (0 if end.times else -signal.SIGKILL)
    return not end.times


# What is sent


def test_a_session_more_costs_little(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrst", k=6)) for _ in range(30_000)]
    for n in range(101):
        said = " ".join(draw.choices(words, k=1000))
        session(tmp_path / ("sessions" if n < 100 else "later"), f"s{n}", 5, mail=said)
    distill(tmp_path / "sessions")
    first = hub.sent()
    shutil.copy(tmp_path / "later" / "s100.jsonl", tmp_path / "sessions")
    hub.requests.clear()
    distill(tmp_path / "sessions")
    assert not [one for one in hub.asked("GET", "/messages/") if one.status == 200]
    print(f"{first:,} bytes for a hundred, {hub.sent():,} for one more, {hub.sent('/lfs'):,} of them large files")
    assert hub.sent() < first / 5
    assert len(names("messages", "train")) == 101
