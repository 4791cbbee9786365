"""Datasets that grow on the Hub, by the command, with the real clients."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml
from datasets import load_dataset

from agent_rollouts.card import fields
from agent_rollouts.distill import Funnel
from tests.growing import distill, run, session
from tests.hub_server import HubServer
from tests.published import ID, names


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    for name in "abc":
        session(tmp_path / "sessions", name)
    return tmp_path / "sessions"


def counts(hub: HubServer, config: str = "messages") -> dict[str, int]:
    infos = fields(hub.files(ID)["README.md"].decode())["dataset_info"]
    infos = infos if isinstance(infos, list) else [infos]
    (info,) = (info for info in infos if info["config_name"] == config)
    return {split["name"]: split["num_examples"] for split in info["splits"]}


def test_first_all_then_what_is_new(hub: HubServer, sessions: Path, data_home: Path) -> None:
    distill(sessions)
    assert hub.repos[ID].private
    assert sorted(names("messages", "train")) == ["a", "b", "c"]
    (key,) = (path for path in (data_home / "agent_rollouts").iterdir() if path.suffix == ".json")
    assert key.stat().st_mode & 0o777 == 0o600
    commits, sent = len(hub.repos[ID].commits), hub.sent()
    assert "nothing is new" in distill(sessions)
    assert (len(hub.repos[ID].commits), hub.sent()) == (commits, sent)
    session(sessions, "d")
    for gone in "ab":
        (sessions / f"{gone}.jsonl").unlink()
    old = hub.files(ID)["messages/train-00000-of-00001.parquet"]
    distill(sessions)
    assert hub.files(ID)["messages/train-00000-of-00001.parquet"] == old
    for streaming in (False, True):
        assert sorted(names("messages", "train", streaming=streaming)) == ["a", "b", "c", "d"]
    assert counts(hub) == {"train": 4}
    assert len(hub.repos[ID].commits) == commits + 1


def rows(config: str = "messages", split: str = "train") -> dict[str, int]:
    """How many messages each rollout has."""
    return {row["trace_id"][6:]: len(row["messages"]) for row in load_dataset(ID, config, split=split)}


def test_a_longer_version_takes_the_place(hub: HubServer, sessions: Path) -> None:
    distill(sessions, "--shape", "messages", "--shape", "openai")
    session(sessions, "b", turns=3)
    distill(sessions, "--shape", "messages", "--shape", "openai")
    assert rows() == rows("openai") == {"a": 2, "b": 6, "c": 2}
    assert counts(hub) == counts(hub, "openai") == {"train": 3}
    lines = [orjson.loads(line) for line in hub.files(ID)["openai/train.jsonl"].splitlines()]
    assert [line["messages"][0]["content"] for line in lines] == ["Do a 0. ", "Do c 0. ", "Do b 0. "]
    text = hub.files(ID)["README.md"].decode()
    assert "1 rows that a longer version has replaced since" in text
    funnel = orjson.loads(hub.files(ID)["funnel.json"])
    assert (funnel["files"]["read"], len(funnel["runs"])) == (4, 2)
    assert "| files read | 4 |" in text
    assert "and 1 times since" in text
    assert "| `messages` | train 3 |" in text
    assert f'load_dataset("{ID}", "messages")' in text
    distill(sessions, "--shape", "messages", "--shape", "openai")
    session(sessions, "b", turns=4)
    distill(sessions, "--shape", "messages", "--shape", "openai")
    assert rows("openai") == {"a": 2, "b": 8, "c": 2}


def test_families_stay_in_their_splits(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    for number in range(12):
        session(folder, f"s{number}")
    words = ("--splits", "train=0.5,test=0.5", "--max-tokens", "200")
    distill(folder, *words)
    before = {split: set(names("messages", split)) for split in ("train", "test")}
    for number in (*range(6), 12, 13, 14):
        session(folder, f"s{number}", turns=4)
    distill(folder, *words)
    after = {split: set(names("messages", split)) for split in ("train", "test")}
    assert before["train"] <= after["train"]
    assert before["test"] <= after["test"]
    assert len(after["train"] | after["test"]) == 15
    assert len(load_dataset(ID, "messages", split="train+test")) > 15  # windows
    told = orjson.loads(hub.files(ID)["splits.json"])["families"]
    assert len(told) == 15
    session(folder, "s99")
    distill(folder, said="has splits; give the same --splits as before, or say --rebuild")


def test_configs_of_ones_own(hub: HubServer, sessions: Path, tmp_path: Path) -> None:
    distill(sessions)
    session(tmp_path / "laptop", "x")
    distill(tmp_path / "laptop", "--config-name", "laptop")
    session(tmp_path / "laptop", "y")
    distill(tmp_path / "laptop", "--config-name", "laptop")
    session(sessions, "d")
    distill(sessions)
    assert sorted(names("laptop", "train")) == ["x", "y"]
    assert sorted(names("messages", "train")) == ["a", "b", "c", "d"]
    text = hub.files(ID)["README.md"].decode()
    assert text.count("agent-rollouts: begin") == 2
    assert f'load_dataset("{ID}", "laptop")' in text
    assert "| `laptop` | train 2 |" in text


def test_own_text_and_license(hub: HubServer, sessions: Path) -> None:
    distill(sessions, "--license", "cc-by-4.0")
    text = hub.files(ID)["README.md"].decode()
    hub.put(
        ID, "README.md", text.replace("license: cc-by-4.0", "license: cc-by-4.0 # mine").encode() + b"\nMy words.\n"
    )
    session(sessions, "d")
    distill(sessions, "--license", "cc-by-4.0")
    text = hub.files(ID)["README.md"].decode()
    assert "license: cc-by-4.0 # mine" in text
    assert text.endswith("\nMy words.\n")
    assert "| `messages` | train 4 |" in text
    assert fields(text)["size_categories"] == ["n<1K"]


def test_revoked_rows_do_not_come_back(hub: HubServer, sessions: Path) -> None:
    distill(sessions)
    assert "gone: 1 rows" in run(["revoke", "trace-b", "--repo", ID])
    assert "1 rows that were revoked since" in hub.files(ID)["README.md"].decode()
    assert counts(hub) == {"train": 2}
    session(sessions, "b", turns=3)
    session(sessions, "d")
    assert "since it was revoked there: 1 rows" in distill(sessions)
    assert sorted(names("messages", "train")) == ["a", "c", "d"]
    families = {row["trace_id"]: row["family_id"] for row in load_dataset(ID, "messages", split="train")}
    run(["revoke", families["trace-d"], "--repo", ID])
    session(sessions, "d", turns=2)
    distill(sessions)
    distill(sessions, "--rebuild")
    assert sorted(names("messages", "train")) == ["a", "c"]


def test_nothing_of_what_is_new_is_kept(hub: HubServer, sessions: Path) -> None:
    """Its sources are known then, and it is not read again."""
    distill(sessions)
    session(sessions, "empty", turns=0)
    distill(sessions)
    assert sorted(names("messages", "train")) == ["a", "b", "c"]
    assert "nothing is new" in distill(sessions)


def test_dry_run(hub: HubServer, sessions: Path, data_home: Path) -> None:
    assert "would be sent: messages/train-00000-of-00001.parquet" in distill(sessions, "--dry-run")
    assert not data_home.exists()
    distill(sessions)
    session(sessions, "d")
    commits = len(hub.repos[ID].commits)
    assert "would be sent: messages/train-a00001-00000-of-00001.parquet" in distill(sessions, "--dry-run")
    assert len(hub.repos[ID].commits) == commits
    assert hub.asked("POST", "/commit/")[-1].status == 200


def test_what_is_there_stays(hub: HubServer, sessions: Path, tmp_path: Path) -> None:
    """Of a file with many sessions one is new; another file has lost most of its session."""
    many = tmp_path / "many"
    whole = [session(many, name, turns=3).read_bytes() for name in "xyz"]
    (sessions / "many.jsonl").write_bytes(b"".join(whole[:2]))
    distill(sessions)
    (sessions / "many.jsonl").write_bytes(b"".join([whole[0], session(many, "y").read_bytes(), whole[2]]))
    shards = {name: data for name, data in hub.files(ID).items() if name.startswith("messages/")}
    assert "is in the dataset already, with as many turns or more" in distill(sessions)
    assert rows() == {"a": 2, "b": 2, "c": 2, "x": 6, "y": 6, "z": 6}
    assert shards.items() <= hub.files(ID).items()
    distill(sessions, "--no-families", said="what is new on the Hub is told by families")


def test_the_account_of_all_runs_adds_up(hub: HubServer, sessions: Path) -> None:
    """Also when a run has stages that another has not; what is read again is the same account."""
    distill(sessions)
    (sessions / "broken.jsonl").write_bytes(b"no session at all")
    session(sessions, "d", turns=6)
    distill(sessions, "--max-tokens", "200")
    session(sessions, "e")
    distill(sessions)
    said = orjson.loads(hub.files(ID)["funnel.json"])
    funnel = Funnel.from_json(said)
    funnel.check()
    assert funnel.to_json() == said
    stages = {stage["stage"]: stage for stage in said["stages"]}
    assert stages["windows"]["came"] == stages["filters"]["went"]
    assert stages["read"]["came"]["rows"] == stages["windows"]["came"]["rows"] == 5
    assert "windows of them" in said["counts"]["windows"]


# The key


def test_no_key(hub: HubServer, sessions: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distill(sessions)
    before = hub.files(ID)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other"))
    distill(sessions, said="was made with a key that is not here: copy ")
    (tmp_path / "other" / "agent_rollouts" / "user--rollouts.json").write_bytes(
        b'{"salt":"00","numbers":{},"values":{}}'
    )
    distill(sessions, said="is not the key of user/rollouts; copy the one that is, or say --rebuild")
    assert hub.files(ID) == before
    (sessions / "a.jsonl").unlink()
    distill(sessions, "--rebuild")
    assert sorted(names("messages", "train")) == ["b", "c"]


def test_placeholders_go_on(hub: HubServer, sessions: Path) -> None:
    mail = "{}@greenhouse.com"
    session(sessions, "m", mail=mail.format("ann"))
    distill(sessions)
    session(sessions, "n", mail=mail.format("bea"))
    session(sessions, "o", mail=mail.format("ann"))
    distill(sessions)
    said = {row["trace_id"][6:]: row["messages"][0]["content"] for row in load_dataset(ID, "messages", split="train")}
    assert {said[name].split(". ")[1] for name in "mo"} == {"[EMAIL_1]"}
    assert said["n"].endswith("[EMAIL_2]")


def test_a_dataset_without_state(hub: HubServer, sessions: Path, tmp_path: Path) -> None:
    run(["distill", sessions, "--output", tmp_path / "out"])
    run(["push", tmp_path / "out", ID])
    distill(sessions, said="has messages already, and no state by which it could grow")
    distill(sessions, "--rebuild")
    session(sessions, "d")
    distill(sessions)
    assert sorted(names("messages", "train")) == ["a", "b", "c", "d"]
    run(["push", tmp_path / "out", ID])
    assert not [name for name in hub.files(ID) if "state.json" in name]


# Another policy


def test_a_stricter_policy_goes_over_what_is_there(hub: HubServer, sessions: Path) -> None:
    words = ("--shape", "messages", "--shape", "openai")
    distill(sessions, *words)
    lines = hub.files(ID)["openai/train.jsonl"]
    for gone in "ab":
        (sessions / f"{gone}.jsonl").unlink()
    distill(sessions, *words, "--deny", "a0x7")
    (row,) = (row for row in load_dataset(ID, "messages", split="train") if row["trace_id"] == "trace-a")
    assert "a0x7" not in row["messages"][1]["content"]
    assert "[DENIED_1]" in row["messages"][1]["content"]
    assert row["redactions"] == {"DENIED": 1}
    assert row["redaction_policy"].endswith("+deny=1")
    assert hub.files(ID)["openai/train.jsonl"] == lines.replace(b"a0x7 ", b"[DENIED_1] ")
    assert "nothing is new" in distill(sessions, *words, "--deny", "a0x7")
    before = hub.files(ID)
    assert "nothing is new" in distill(sessions, *words, "--no-pii")
    session(sessions, "d")
    distill(sessions, *words)
    for name, data in before.items():
        if name.endswith("00000-of-00001.parquet"):
            assert hub.files(ID)[name] == data
    assert rows().keys() == rows("openai").keys() == {"a", "b", "c", "d"}


def test_options_are_those_of_the_command(hub: HubServer, sessions: Path) -> None:
    distill(sessions)
    made = yaml.safe_load(hub.files(ID)["options.yaml"])
    assert made["shape"] == ["messages"]
    assert "user--rollouts.json" in made["redaction_state"]


def test_other_places(hub: HubServer, xet: Path, sessions: Path) -> None:
    """A branch grows for itself; a bucket does not."""
    distill(sessions)
    session(sessions, "d")
    distill(sessions, "--revision", "dev")
    session(sessions, "e")
    distill(sessions, "--revision", "dev")
    distill(sessions, "--create-pr")
    assert sorted(names("messages", "train")) == ["a", "b", "c"]
    for revision in ("dev", "refs/pr/1"):
        assert sorted(names("messages", "train", revision=revision)) == ["a", "b", "c", "d", "e"]
    bucket = "buckets/user/store/one"
    distill(sessions, repo_id=bucket)
    distill(sessions, repo_id=bucket, said="no state by which it could grow")
    distill(sessions, "--rebuild", repo_id=bucket)
    assert len(names("messages", "train", bucket)) == 5


def test_refusals(hub: HubServer, sessions: Path, tmp_path: Path) -> None:
    hub.create(ID, private=False)
    distill(sessions, said="is public, and nothing was sent")
    distill(sessions, "--public")
    session(sessions, "d")
    distill(sessions, "--no-redact", "--public", said="was redacted, and nothing was sent")
    distill(sessions, "--shape", "openai", "--public", said="has no openai, and rows are only added")
    assert sorted(names("messages", "train")) == ["a", "b", "c"]
    output = tmp_path / "out"
    told = distill(sessions, "--public", "--output", output)
    assert "is as it was; rows were added on the Hub alone" in told
    assert not output.exists()


def test_an_output_is_left_too(hub: HubServer, sessions: Path, tmp_path: Path) -> None:
    distill(sessions, "--output", tmp_path / "out")
    assert len(load_dataset(str(tmp_path / "out"), split="train")) == 3
    assert run(["push", tmp_path / "out", ID, "--dry-run"]).count("would") == 0
    assert "messages/train-00000-of-00001.parquet" in hub.files(ID)
