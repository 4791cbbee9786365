"""Publishing, with the real clients against a small Hub."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import queue
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfFileSystem, constants

from agent_rollouts.cli import main
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import publish, revoke
from agent_rollouts.hub.manifest import PATH, Manifest, digest
from tests.finished import finished, row
from tests.hub_fixtures import environment
from tests.hub_server import READ_TOKEN, TOKEN, Fault, HubServer

ID = "user/rollouts"
TRAIN, TEST = [row("a"), row("b"), row("c")], [row("d")]
ROWS = {"messages": {"train": TRAIN, "test": TEST}, "openai": {"train": TRAIN, "test": TEST}}


def names(config: str, split: str, repo_id: str = ID, **options: Any) -> list[str]:
    HfFileSystem.clear_instance_cache()
    return [row["trace_id"][6:] for row in load_dataset(repo_id, config, split=split, **options)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return finished(tmp_path / "out", ROWS)


# What a push is


def test_every_config_and_split_loads_back(hub: HubServer, folder: Path) -> None:
    published = publish(folder, ID)
    assert hub.repos[ID].private
    assert (published.private, published.url) == (True, f"{hub.url}/datasets/{ID}")
    assert published.commit == hub.repos[ID].refs["main"]
    assert sorted(published.uploaded) == sorted(hub.files(ID))
    for config in ROWS:
        for streaming in (False, True):
            assert names(config, "train", streaming=streaming) == ["a", "b", "c"]
            assert names(config, "test", streaming=streaming) == ["d"]
    assert load_dataset(ID, split="test")["messages"][0][0] == {"role": "user", "content": "Do d"}


def test_what_distill_writes(hub: HubServer, tmp_path: Path) -> None:
    written = CliRunner().invoke(main, ["distill", "--demo", "--output", str(tmp_path / "demo")])
    assert written.exit_code == 0, written.output
    publish(tmp_path / "demo", ID)
    assert len(load_dataset(ID, split="train")) == len(load_dataset(str(tmp_path / "demo"), split="train"))
    assert publish(tmp_path / "demo", ID).uploaded == {}


def test_one_commit(hub: HubServer, tmp_path: Path) -> None:
    rows = [row(f"r{number}") for number in range(60)]
    publish(finished(tmp_path / "out", {"messages": {"train": rows}}, shards=60), ID)
    assert len(hub.asked("POST", "/commit/")) == 1
    assert len(names("messages", "train")) == 60


def test_unchanged_makes_no_commit(hub: HubServer, folder: Path) -> None:
    first = publish(folder, ID)
    before = hub.sent("/lfs")
    second = publish(folder, ID)
    assert (second.commit, second.uploaded, second.deleted) == (first.commit, {}, ())
    assert set(second.unchanged) == set(first.uploaded) - {"README.md", PATH}
    assert hub.sent("/lfs") == before
    assert len(hub.asked("POST", "/commit/")) == 1


def test_only_what_changed_is_uploaded(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    publish(folder, ID)
    changed = {**ROWS, "messages": {"train": [*TRAIN, row("e")], "test": TEST}}
    published = publish(finished(tmp_path / "new", changed), ID)
    assert set(published.uploaded) == {"messages/train-00000-of-00001.parquet", "README.md", PATH}
    assert names("messages", "train") == ["a", "b", "c", "e"]


def test_shards_that_are_gone_go(hub: HubServer, tmp_path: Path) -> None:
    publish(finished(tmp_path / "a", ROWS, shards=3), ID)
    published = publish(finished(tmp_path / "b", {"messages": {"train": TRAIN}}), ID)
    assert published.deleted == tuple(f"messages/train-{number:05d}-of-00003.parquet" for number in range(3))
    assert names("messages", "train") == ["a", "b", "c"]
    assert names("messages", "test") == ["d"]
    assert names("openai", "train") == ["a", "b", "c"]


def test_others_files_configs_and_text_survive(hub: HubServer, folder: Path) -> None:
    hub.create(ID)
    Dataset.from_dict({"x": [1]}).push_to_hub(ID, config_name="mine", split="train")
    hub.put(ID, "notes/me.txt", b"mine")
    hub.put(
        ID,
        "README.md",
        hub.files(ID)["README.md"].replace(b"---\n", b"---\n# kept\nlicense: mit\n", 1) + b"My words.\n",
    )
    publish(folder, ID)
    text = hub.files(ID)["README.md"].decode()
    hub.put(ID, "README.md", text.replace("My words.", "Other words.").encode() + b"\nAt the end.\n")
    publish(finished(folder, ROWS, text="About it anew."), ID)
    assert load_dataset(ID, "mine", split="train")["x"] == [1]
    assert names("openai", "test") == ["d"]
    assert hub.files(ID)["notes/me.txt"] == b"mine"
    text = hub.files(ID)["README.md"].decode()
    for kept in ("# kept\nlicense: mit\n", "Other words.", "At the end."):
        assert kept in text
    assert text.count("About it") == text.count("About it anew.") == 1


def test_branch_and_pull_request(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    publish(folder, ID)
    new = finished(tmp_path / "new", {"messages": {"train": [row("e")]}})
    assert publish(new, ID, create_pr=True).url == f"{hub.url}/datasets/{ID}/discussions/1"
    publish(new, ID, revision="dev")
    assert publish(new, ID, revision="refs/pr/1").uploaded == {}
    assert names("messages", "train") == ["a", "b", "c"]
    for revision in ("refs/pr/1", "dev"):
        assert names("messages", "train", revision=revision) == ["e"]
    with pytest.raises(AgentRolloutsError, match="no revision refs/pr/7"):
        publish(new, ID, revision="refs/pr/7")


def test_config_name(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    publish(folder, ID)
    one = finished(tmp_path / "one", {"messages": {"train": [row("e")]}})
    publish(one, ID, config_name="laptop")
    assert names("laptop", "train") == ["e"]
    assert names("messages", "train") == ["a", "b", "c"]
    assert load_dataset(ID, split="train")["trace_id"][0] == "trace-a"
    with pytest.raises(AgentRolloutsError, match="has 2 \\(messages, openai\\)"):
        publish(folder, ID, config_name="laptop")


def test_datasets_in_memory(hub: HubServer) -> None:
    rows = DatasetDict({"train": Dataset.from_list([row("a"), row("b")]), "test": Dataset.from_list([row("c")])})
    publish(rows, ID)
    assert names("default", "train") == ["a", "b"]
    publish(Dataset.from_list([row("z")]), ID, config_name="more")
    assert names("more", "train") == ["z"]
    assert names("default", "test") == ["c"]
    assert publish(rows, ID).uploaded == {}


def test_dry_run_sends_nothing(hub: HubServer, folder: Path) -> None:
    published = publish(folder, ID, dry_run=True)
    assert published.uploaded_bytes > 0
    assert (published.dry_run, published.commit) == (True, None)
    assert {request.method for request in hub.requests} == {"GET"}
    publish(folder, ID)
    assert publish(folder, ID, dry_run=True).uploaded == {}


# Who may see it


def test_public_must_be_said(hub: HubServer, folder: Path) -> None:
    hub.create(ID, private=False)
    with pytest.raises(AgentRolloutsError, match="is public, and nothing was sent"):
        publish(folder, ID)
    assert {request.method for request in hub.requests} == {"GET"}
    publish(folder, ID, private=False)
    assert hub.repos[ID].private is False
    publish(folder, "user/new", private=False)
    assert hub.repos["user/new"].private is False


def test_visibility_is_never_changed(hub: HubServer, folder: Path) -> None:
    publish(folder, ID)
    assert publish(folder, ID, private=False).private is True
    assert hub.repos[ID].private
    assert hub.asked("PUT", "/settings") == []


# The gate

KEY = "AKIA" + "Q3EGRJ7T" + "2XWPL4UN"
FORGED = "hf_" + "wrong" * 6


def refused(hub: HubServer, said: str, *args: Any, **options: Any) -> str:
    """What a refused push says: one line, without a token."""
    with pytest.raises(AgentRolloutsError) as caught:
        publish(*args, **options)
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert not any(token in line for token in (TOKEN, READ_TOKEN, FORGED))
    return line


def test_a_secret_stops_the_push(hub: HubServer, tmp_path: Path) -> None:
    rows = [*TRAIN, row("s", f"export AWS_ACCESS_KEY_ID={KEY}")]
    line = refused(
        hub,
        "messages/train-00000-of-00001.parquet row 3, messages: AWS_ACCESS_KEY",
        finished(tmp_path / "out", {"messages": {"train": rows}}),
        ID,
    )
    assert KEY not in line
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("messages/train.jsonl", orjson.dumps({"messages": [{"role": "user", "content": KEY}]}).decode() + "\n"),
        ("messages/train.jsonl", f"no JSON {KEY}\n"),
        ("funnel.json", orjson.dumps({"command": f"--deny {KEY}"}).decode()),
        ("options.yaml", f"output: /{'home'}/alice.smith/out\n"),
        ("README.md", f"\nMade for alice.smith{'@'}northwind-labs.io.\n"),
    ],
)  # fmt: skip
def test_files_beside_the_shards_are_looked_through(hub: HubServer, folder: Path, name: str, text: str) -> None:
    before = (folder / name).read_text() if name == "README.md" else ""
    (folder / name).write_text(before + text)
    line = refused(hub, f"the audit found what must not leave: {name} row ", folder, ID)
    assert KEY not in line
    assert "alice.smith" not in line
    assert hub.requests == []


def test_own_words_and_names_as_asked(hub: HubServer, tmp_path: Path) -> None:
    rows = [row("a", "Project Falcon is done by me"), row("b", f"see /{'home'}/alice.smith/x")]
    folder = finished(tmp_path / "out", {"messages": {"train": rows}})
    assert "DENIED" in refused(hub, "row 0", folder, ID, deny=["project falcon"], pii=False)
    refused(hub, "USER", folder, ID)
    assert publish(folder, ID, pii=False).commit


def test_a_leak_stops_the_push(hub: HubServer, tmp_path: Path) -> None:
    rows = {"train": TRAIN, "test": [{**TEST[0], "family_id": "family-b"}]}
    folder = finished(tmp_path / "out", {"messages": rows})
    refused(hub, "splits of config messages are not apart: train and test share family in 1 row(s)", folder, ID)
    assert hub.requests == []


def test_evidence_is_that_of_the_splits(hub: HubServer, tmp_path: Path) -> None:
    same = {"messages": [*TRAIN[0]["messages"]]}
    folder = finished(tmp_path / "out", {"messages": {"train": TRAIN, "test": [{**TEST[0], **same}]}})
    refused(hub, "near_duplicate", folder, ID)
    (folder / "splits.json").write_bytes(orjson.dumps({"by": ["family"], "seed": 0, "families": {}}))
    assert publish(folder, ID).commit
    refused(hub, "near_duplicate", folder, ID, by=["near_duplicate"])


def test_splits_that_stay_on_the_hub_must_be_apart_too(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    publish(folder, ID)
    before = dict(hub.files(ID))
    new = finished(tmp_path / "new", {"messages": {"train": [row("d"), row("e")]}})
    refused(hub, "train and test (on the Hub) share family", new, ID)
    assert hub.files(ID) == before
    assert len(hub.asked("POST", "/commit/")) == 1


def test_files_that_are_no_part_of_it(hub: HubServer, folder: Path) -> None:
    (folder / "messages" / "diary.txt").write_text("mine")
    refused(hub, "files that are no part of its dataset, and nothing was sent: messages/diary.txt", folder, ID)
    (folder / "messages" / "diary.txt").rename(folder / ".diary.txt")
    publish(folder, ID)
    assert ".diary.txt" not in hub.files(ID)


def test_no_finished_dataset(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    refused(hub, "there is no README.md in it", tmp_path, ID)
    shard = folder / "messages" / "test-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    refused(hub, "messages/test-00000-of-00001.parquet cannot be read, and nothing was sent", folder, ID)
    shard.unlink()
    refused(hub, "has no file of config messages, split test", folder, ID)
    (folder / "README.md").write_text("About\n")
    refused(hub, "names no configs", folder, ID)
    refused(hub, "a list cannot be published", [], ID)
    assert hub.requests == []


def test_a_folder_that_changes_meanwhile(hub: HubServer, folder: Path) -> None:
    hub.faults.append(Fault("GET", "/tree/", call=lambda: (folder / "funnel.json").write_text("{}") and None))
    refused(hub, "has changed while it was checked, and nothing was sent", folder, ID)
    assert hub.sent("/lfs") == 0
    assert publish(folder, ID).commit


# What would be mixed up


def test_names_that_are_taken(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    hub.create(ID)
    hub.put(ID, "README.md", b"---\nconfigs:\n- config_name: raw\n  data_files: messages/*.parquet\n---\n")
    refused(hub, "would become part of raw/train, which is on the Hub already", folder, ID)
    hub.put(ID, "README.md", b"---\nlicense: mit\n---\n")
    hub.put(ID, "messages/train-old.parquet", b"x")
    refused(hub, "messages/train-old.parquet on the Hub would become part of this dataset", folder, ID)
    hub.put(ID, "messages/train-old.parquet", None)
    hub.put(ID, "README.md", b"---\nconfigs: [\n---\n")
    refused(hub, "the YAML of the card (README.md) cannot be read", folder, ID)
    assert hub.sent("/lfs") == 0


def test_other_columns_than_those_that_stay(hub: HubServer, folder: Path) -> None:
    publish(folder, ID)
    readme = hub.files(ID)["README.md"].replace(b"name: family_id", b"name: family")
    hub.put(ID, "README.md", readme)
    refused(hub, "with other columns", finished(folder.parent / "new", {"messages": {"train": TRAIN}}), ID)


def test_one_default(hub: HubServer, folder: Path) -> None:
    hub.create(ID)
    Dataset.from_dict({"x": [1]}).push_to_hub(ID, split="train")
    publish(folder, ID)
    assert load_dataset(ID, split="train")["x"] == [1]
    assert names("messages", "test") == ["d"]
    refused(hub, "is the default on the Hub", Dataset.from_list(TRAIN), "user/other") if publish(
        folder, "user/other"
    ) else None


# Faults

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


# Xet


@pytest.fixture
def xet(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hub keeps what is uploaded by Xet."""
    hub.xet = tmp_path / "xet"
    hub.xet.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "cache"))
    return hub.xet


def test_xet_takes_what_is_new(hub: HubServer, xet: Path) -> None:
    draw = random.Random(0)
    rows = [row(str(number), "".join(draw.choices("abcdefghij \n", k=60_000))) for number in range(101)]
    publish(Dataset.from_list(rows[:100]), ID)
    assert names("default", "train") == [str(number) for number in range(100)]
    before = stored(xet)
    published = publish(Dataset.from_list(rows), ID)
    assert names("default", "train") == [str(number) for number in range(101)]
    assert stored(xet) - before < published.uploaded_bytes / 5
    assert hub.asked("PUT", "/lfs") == []


def stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("xorbs/default.*") if path.is_file())


# Revoking


def test_revoke_everywhere_and_for_good(hub: HubServer, folder: Path) -> None:
    lines = b"".join(orjson.dumps(row) + b"\n" for row in TRAIN)
    (folder / "openai" / "train.jsonl").write_bytes(lines)
    publish(folder, ID)
    assert revoke(["trace-b"], ID, dry_run=True).rows == {f"{c}/train-00000-of-00001.parquet": 1 for c in ROWS}
    revoked = revoke(["trace-b"], ID)
    assert revoked.commit == hub.repos[ID].refs["main"]
    assert "still hold the rows" in revoked.notices[0]
    for config in ROWS:
        assert names(config, "train") == ["a", "c"]
        assert names(config, "test") == ["d"]
    assert hub.files(ID)["openai/train.jsonl"] == b"".join(orjson.dumps(row) + b"\n" for row in (TRAIN[0], TRAIN[2]))
    assert Manifest.parse(hub.files(ID)[PATH]).tombstones == {digest("trace-b")}
    assert b"trace-b" not in hub.files(ID)[PATH]
    again = revoke(["trace-b"], ID)
    assert "no row of it is there" in again.notices[0]
    assert (again.rows, again.commit) == ({}, revoked.commit)
    published = publish(folder, ID)
    assert (published.revoked, published.commit) == (2, revoked.commit)
    assert names("messages", "train") == ["a", "c"]


def test_revoke_all_of_a_split(hub: HubServer, folder: Path) -> None:
    publish(folder, ID)
    revoke(["family-d"], ID)
    assert list(load_dataset(ID, "messages")) == ["train"]
    assert not [name for name in hub.files(ID) if "test" in name]
    assert publish(folder, ID).revoked == 2
    assert not [name for name in hub.files(ID) if "test" in name]
    revoke(["family-a", "family-b", "family-c"], ID)
    refused(hub, "were revoked in user/rollouts", folder, ID)
    publish(Dataset.from_list([row("z")]), ID)
    assert names("default", "train") == ["z"]


def test_what_belongs_to_a_trace(hub: HubServer, tmp_path: Path) -> None:
    many = [{**row(f"w{n}"), "trace_id": f"trace-w#{n}", "family_id": "family-w"} for n in (1, 2)]
    rows = [row("w"), *many, {**row("x"), "root_session_id": "trace-w"}, {**row("y"), "family_id": "family-w"}]
    rows = [{"root_session_id": None, **row} for row in rows]
    publish(Dataset.from_list(rows), ID)
    revoked = revoke(["trace-w"], ID)
    assert names("default", "train") == ["y"]
    assert revoked.related == 1
    assert "revoke the family" in revoked.notices[0]


def test_revoke_reads_little(hub: HubServer, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [row(str(number), "".join(draw.choices("abcdefgh", k=200_000))) for number in range(40)]
    publish(finished(tmp_path / "out", {"messages": {"train": rows}}, shards=8), ID)
    size = sum(len(data) for data in hub.files(ID).values())
    hub.requests.clear()
    revoke(["trace-7"], ID)
    assert hub.sent() < size / 3
    fetched = [
        request for request in hub.asked("GET", "/resolve/") if request.status == 200 and "messages/" in request.path
    ]
    assert len(fetched) == 1
    assert "7" not in names("messages", "train")


def test_erased_history(hub: HubServer, folder: Path) -> None:
    publish(folder, ID)
    old = hub.files(ID)["messages/train-00000-of-00001.parquet"]
    revoke(["trace-b"], ID, erase_history=True)
    assert old not in hub.lfs.values()
    assert len(hub.repos[ID].commits) == 1
    assert names("messages", "train") == ["a", "c"]
    revoke(["trace-b"], ID, erase_history=True)
    assert names("openai", "train") == ["a", "c"]


def test_faults_while_revoking(hub: HubServer, folder: Path) -> None:
    publish(folder, ID)
    hub.faults += [
        Fault("POST", "/commit/", lost=True),
        Fault("PUT", "/lfs/", drop=10),
        Fault("GET", "/tree/", status=503),
    ]
    revoke(["trace-a"], ID)
    assert names("messages", "train") == ["b", "c"]
    with pytest.raises(AgentRolloutsError, match="user/none cannot be found"):
        revoke(["trace-a"], "user/none")
    hub.put(ID, PATH, b"{}")
    with pytest.raises(AgentRolloutsError, match="is damaged"):
        revoke(["trace-b"], ID)
    refused(hub, "is damaged", folder, ID)


def test_revoked_while_others_push(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    """Somebody revokes between the head that a push has seen and its commit."""
    publish(finished(tmp_path / "old", {"messages": {"train": [row("q")]}}), ID)
    hub.faults.append(Fault("POST", "/commit/", call=lambda: revoke(["trace-b"], ID) and None))
    published = publish(folder, ID)
    assert published.revoked == 2
    assert names("messages", "train") == ["a", "c"]


# Buckets

BUCKET = "buckets/user/store/sets/one"


def test_bucket(hub: HubServer, xet: Path, folder: Path, tmp_path: Path) -> None:
    assert publish(folder, BUCKET, dry_run=True).uploaded_bytes > 0
    published = publish(folder, BUCKET)
    assert (published.private, published.commit) == (True, None)
    assert published.url == f"{hub.url}/buckets/user/store/tree/sets/one"
    for config in ROWS:
        assert names(config, "train", BUCKET) == names(config, "train", BUCKET, streaming=True) == ["a", "b", "c"]
    assert publish(folder, BUCKET).uploaded == {}
    new = finished(tmp_path / "new", {"messages": {"train": [row("e")]}})
    assert len(publish(new, BUCKET).deleted) == 1
    assert names("messages", "train", BUCKET) == ["e"]
    assert names("messages", "test", BUCKET) == ["d"]
    assert revoke(["trace-a"], BUCKET).rows
    assert names("openai", "train", BUCKET) == ["b", "c"]
    assert publish(folder, BUCKET).revoked == 2
    assert names("messages", "train", BUCKET) == ["b", "c"]


def test_bucket_is_whole_at_every_moment(hub: HubServer, xet: Path, folder: Path, tmp_path: Path) -> None:
    publish(folder, BUCKET)
    new = finished(tmp_path / "new", {"messages": {"train": [row("e"), row("f")]}}, shards=2)
    seen = []
    look = Fault("POST", "/batch", times=9, call=lambda: seen.append(names("messages", "train", BUCKET)))
    hub.faults.append(look)
    publish(new, BUCKET)
    assert seen == [["a", "b", "c"], ["a", "b", "c"], ["e", "f"]]
    assert names("messages", "train", BUCKET) == ["e", "f"]


def test_refused_buckets(hub: HubServer, xet: Path, folder: Path) -> None:
    refused(hub, "which has no revisions and no pull requests", folder, BUCKET, revision="dev")
    refused(hub, "which has no revisions and no pull requests", folder, BUCKET, create_pr=True)
    refused(hub, "is no place in a bucket", folder, "buckets/user")
    refused(hub, "may not write to stranger/x", folder, "buckets/stranger/x/y")
    publish(folder, "buckets/user/open", private=False)
    refused(hub, "is public, and nothing was sent", folder, "buckets/user/open")
