"""Sessions of a dataset on the Hub, in a repository beside it, by the command, with the real clients."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError

from agent_rollouts.distill.sessions import is_session
from agent_rollouts.hub import publish
from tests.growing import distill, run, session
from tests.hub_server import Fault, HubServer
from tests.published import ID, names, refused

BESIDE = f"{ID}-sessions"
WORDS = ("--shape", "messages", "--shape", "openai", "--with-sessions")


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for name in "ab":
        session(tmp_path / "logs", name)
    return tmp_path / "logs"


def there(hub: HubServer) -> dict[str, int]:
    """How many messages each session has."""
    found = {}
    for name, data in hub.files(BESIDE).items():
        if is_session(name):
            header, *messages = map(orjson.loads, data.splitlines())
            found[header["id"][6:]] = len(messages)
    return dict(sorted(found.items()))


def commits(hub: HubServer) -> tuple[int, int]:
    return len(hub.repos[ID].commits), len(hub.repos[BESIDE].commits)


def test_push_append_revoke(hub: HubServer, logs: Path, data_home: Path) -> None:
    assert f"would be sent: {BESIDE}/sessions/" in distill(logs, *WORDS, "--dry-run")
    assert not hub.repos
    distill(logs, *WORDS, "--license", "mit")
    assert there(hub) == {"a": 2, "b": 2}
    assert hub.repos[BESIDE].private
    text = hub.files(BESIDE)["README.md"].decode()
    assert f"Sessions of {ID}" in text
    assert "license: mit" in text
    hub.put(BESIDE, "README.md", text.encode() + b"\nMy words.\n")
    before = commits(hub)
    assert "nothing is new" in distill(logs, *WORDS)
    assert commits(hub) == before
    session(logs, "b", turns=3)
    session(logs, "c")
    assert f"sent: {BESIDE}/sessions/" in distill(logs, *WORDS)
    assert there(hub) == {"a": 2, "b": 6, "c": 2}
    assert hub.files(BESIDE)["README.md"].decode().endswith("\nMy words.\n")
    assert "1 session(s) would go" in run(["revoke", "trace-a", "--repo", ID, "--dry-run"])
    assert there(hub) == {"a": 2, "b": 6, "c": 2}
    hub.faults.append(Fault("POST", f"{BESIDE}/commit/", status=403))
    hub.faults.append(Fault("POST", f"{BESIDE}/commit/", status=403))
    with pytest.raises(AssertionError, match="not its sessions"):
        run(["revoke", "trace-a", "--repo", ID])
    hub.faults.clear()
    run(["revoke", "trace-a", "--repo", ID])
    assert there(hub) == {"b": 6, "c": 2}
    session(logs, "a", turns=4)
    session(logs, "b", turns=4)
    distill(logs, *WORDS[:-1])  # what has a longer version goes, also when none comes
    assert there(hub) == {"c": 2}
    distill(logs, *WORDS, "--rebuild")
    assert there(hub) == {"b": 8, "c": 2}
    for config in ("messages", "openai"):
        assert len(load_dataset(ID, config, split="train")) == 2
    if find_spec("teich"):
        assert len(load_dataset(BESIDE, split="train")) == 2
    else:  # known to be traces of agents, for which `datasets` wants it
        with pytest.raises(DatasetGenerationError) as caught:
            load_dataset(BESIDE, split="train")
        assert "teich" in str(caught.value.__cause__)
    assert not list(data_home.rglob("*.sessions"))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_failing_second_commit(hub: HubServer, logs: Path, is_first: bool) -> None:
    if not is_first:
        distill(logs, *WORDS)
        session(logs, "c")
        session(logs, "b", turns=2)
    hub.faults.append(Fault("POST", f"{BESIDE}/commit/", status=403))
    distill(logs, *WORDS, said=f"{ID} is pushed, but its sessions are not: the token may not write")
    assert "b" in names("messages", "train")
    assert f"sent: {BESIDE}/sessions/" in distill(logs, *WORDS)
    assert there(hub) == ({"a": 2, "b": 2} if is_first else {"a": 2, "b": 4, "c": 2})
    before = commits(hub)
    assert "nothing is new" in distill(logs, *WORDS)
    assert commits(hub) == before


def test_a_folder(hub: HubServer, logs: Path, tmp_path: Path) -> None:
    run(["distill", logs, "--output", tmp_path / "out", "--with-sessions"])
    hub.faults.append(Fault("POST", f"{BESIDE}/commit/", status=403))
    refused(hub, "running the same command again finishes it", tmp_path / "out", ID)
    assert run(["push", tmp_path / "out", ID]).count(f"sent: {BESIDE}/sessions/") == 2
    assert publish(tmp_path / "out", ID).sessions == (BESIDE, hub.repos[BESIDE].refs["main"], {}, (), 0)
    (tmp_path / "logs" / "a.jsonl").unlink()
    run(["distill", logs, "--output", tmp_path / "out", "--with-sessions"])
    publish(tmp_path / "out", ID, revision="dev")
    assert there(hub) == {"a": 2, "b": 2}
    publish(tmp_path / "out", ID)
    assert there(hub) == {"b": 2}
    refused(hub, "sessions go to a branch of a repository alone", tmp_path / "out", ID, create_pr=True)


def test_the_gate_is_before_both(hub: HubServer, logs: Path, tmp_path: Path) -> None:
    run(["distill", logs, "--output", tmp_path / "out", "--with-sessions"])
    path = min((tmp_path / "out" / "sessions").iterdir())
    whole = path.read_bytes()
    key = "AKIA" + "Q3EGRJ7T" + "2XWPL4UN"
    path.write_bytes(whole + orjson.dumps({"type": "message", "message": {"role": "user", "content": key}}) + b"\n")
    assert key not in refused(hub, f"sessions/{path.name} row 3, messages: AWS_ACCESS_KEY", tmp_path / "out", ID)
    assert not hub.requests
    path.write_bytes(whole)
    hub.create(BESIDE, private=False)
    refused(hub, "is public, and nothing was sent", tmp_path / "out", ID)
    assert ID not in hub.repos
    publish(tmp_path / "out", ID, private=False)
    assert there(hub) == {"a": 2, "b": 2}


def test_a_stricter_policy_leaves_none_of_before(hub: HubServer, logs: Path) -> None:
    distill(logs, *WORDS)
    (logs / "a.jsonl").unlink()
    session(logs, "c")
    assert "2 session(s) of user/rollouts-sessions were redacted by an earlier" in distill(
        logs, *WORDS, "--deny", "a0x7"
    )
    assert there(hub) == {"c": 2}
    assert "a" in names("messages", "train")
