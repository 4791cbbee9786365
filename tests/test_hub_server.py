"""The test Hub against the real clients, without any code of ours: what it says is what `datasets` expects."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from tests.hub_server import READ_TOKEN, TOKEN, Fault, HubServer

ROWS = DatasetDict({"train": Dataset.from_dict({"x": [1, 2, 3]}), "test": Dataset.from_dict({"x": [4]})})


def test_round_trip(hub: HubServer) -> None:
    ROWS.push_to_hub("user/d", private=True)
    ROWS["test"].push_to_hub("user/d", config_name="other", split="test")
    assert load_dataset("user/d", split="train")["x"] == [1, 2, 3]
    assert [row["x"] for row in load_dataset("user/d", "other", split="test", streaming=True)] == [4]
    assert hub.repos["user/d"].private
    assert {path.split("/")[0] for path in hub.files("user/d")} == {"README.md", "data", "other"}


def test_pull_request_branch_and_deletion(hub: HubServer) -> None:
    ROWS.push_to_hub("user/d")
    Dataset.from_dict({"x": [5]}).push_to_hub("user/d", split="train", create_pr=True)
    Dataset.from_dict({"x": [6]}).push_to_hub("user/d", split="train", revision="dev")
    for revision, rows in (("main", [1, 2, 3]), ("refs/pr/1", [5]), ("dev", [6])):
        assert load_dataset("user/d", split="train", revision=revision)["x"] == rows
    HfApi().delete_repo("user/d", repo_type="dataset")
    assert not HfApi().repo_exists("user/d", repo_type="dataset")


def test_private_gated_and_read_only(hub: HubServer) -> None:
    ROWS.push_to_hub("user/d", private=True)
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).dataset_info("user/d")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token=READ_TOKEN).upload_file(
            path_or_fileobj=b"x", path_in_repo="x", repo_id="user/d", repo_type="dataset"
        )
    hub.create("other/gated", private=False, gated=True)
    with pytest.raises(GatedRepoError):
        HfApi(token=TOKEN).hf_hub_download("other/gated", "README.md", repo_type="dataset")


def test_faults_and_counts(hub: HubServer) -> None:
    hub.faults += [Fault("PUT", "/lfs/", drop=100), Fault("POST", "/preupload/", status=500)]
    ROWS.push_to_hub("user/d")
    assert load_dataset("user/d", split="train")["x"] == [1, 2, 3]
    statuses = [request.status for request in hub.asked("PUT", "/lfs/")]
    assert sorted(statuses) == [0, 200, 200]
    assert hub.sent("/lfs/") > sum(map(len, hub.lfs.values()))
