"""Revoking traces and families."""

from __future__ import annotations

import random
from pathlib import Path

import orjson
import pytest
from datasets import Dataset, load_dataset

from agent_rollouts.distill.state import digest
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import publish, revoke
from agent_rollouts.hub.manifest import PATH, Manifest
from tests.finished import ROWS, TRAIN, finished, row
from tests.hub_server import Fault, HubServer
from tests.published import ID, names, refused


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
