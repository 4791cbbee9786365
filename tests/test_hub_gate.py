"""What must not leave stops a push before its first byte."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from datasets import Dataset, DatasetDict

from agent_rollouts.hub import publish
from tests.finished import TEST, TRAIN, finished, row
from tests.hub_server import Fault, HubServer
from tests.published import ID, refused

KEY = "AKIA" + "Q3EGRJ7T" + "2XWPL4UN"


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
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    refused(hub, "messages/test-00000-of-00001.parquet cannot be read, and nothing was sent", folder, ID)
    shard.write_bytes(b"PAR1" + b"x" * (len(whole) // 2) + whole[len(whole) // 2 + 4 :])
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


def test_a_split_without_rows(hub: HubServer) -> None:
    rows = Dataset.from_list([row("a")])
    refused(
        hub, "data/test-00000-of-00001.parquet has no rows", DatasetDict({"train": rows, "test": rows.select([])}), ID
    )
