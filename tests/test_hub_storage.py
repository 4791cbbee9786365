"""Storage beside git: Xet, and buckets."""

from __future__ import annotations

import random
from pathlib import Path

from datasets import Dataset

from agent_rollouts.hub import publish, revoke
from tests.finished import ROWS, finished, row
from tests.hub_server import Fault, HubServer
from tests.published import ID, names, refused


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
