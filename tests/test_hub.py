"""Publishing, with the real clients against a small Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, load_dataset

from agent_rollouts.cli import main
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import publish
from agent_rollouts.hub.manifest import PATH
from tests.finished import ROWS, TEST, TRAIN, finished, row
from tests.hub_server import HubServer
from tests.published import ID, names, refused


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
