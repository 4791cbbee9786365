"""The phases together: workers, samples, partitions, splits that stay, benchmarks, and rows however they are given."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import orjson
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from datasets import Dataset, DatasetDict, Features, IterableDataset

import agent_rollouts
from agent_rollouts.chat import exact
from agent_rollouts.cli import main
from agent_rollouts.distill import Funnel, Options, distill, distill_files, evidence, redact, work, write
from agent_rollouts.distill.families import resolve
from agent_rollouts.distill.filters import FilterOptions, Filters
from agent_rollouts.distill.inputs import Files, Given
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.distill.splits import Splits
from agent_rollouts.distill.spool import batches, table
from agent_rollouts.distill.weights import weigh
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import FEATURES
from tests.sessions import claude_records, codex, codex_large, lines, put
from tests.test_decontaminate import STATEMENT, TEST_PATCH, instance
from tests.test_distill import contents
from tests.test_funnel import PERSON, SECRETS, rows_of

Row = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def _without_progress_bars() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def prose(seed: int | str, count: int = 40) -> str:
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(count))


def row(name: str, *, ask: str | None = None, said: str | None = None, **columns: Any) -> Row:
    """A row that shares nothing with another unless told to."""
    messages = [
        {"role": "user", "content": ask or prose(f"ask {name}", 12)},
        {"role": "assistant", "content": said or prose(f"said {name}")},
    ]
    about = {"source_kind": "codex", "source_path": f"{name}.jsonl", "trace_id": name, "source_meta": {}, "skipped": {}}
    return {**dict.fromkeys(FEATURES), **about, "media": [], "messages": messages, **columns}


def written(folder: Path, rows: list[Row], **options: Any) -> Funnel:
    return write.write_dataset(Given([partial(iter, rows)]), Options(**options), folder, command="c").funnel


def names(folder: Path) -> dict[str, set[str]]:
    """trace_ids by split."""
    found: dict[str, set[str]] = {}
    for path in sorted((folder / "messages").glob("*.parquet")):
        found[path.name.split("-")[0]] = set(pq.read_table(path)["trace_id"].to_pylist())
    return found


def told(dataset: DatasetDict) -> dict[str, list[str]]:
    return {name: [orjson.dumps(one).decode() for one in split] for name, split in dataset.items()}


# -- workers ----------------------------------------------------------------------------------------


def some_sessions(folder: Path) -> Path:
    for number in range(12):
        home = f"/home/{PERSON}{number % 3}"
        text = f"{home}/beds mail{number % 5}@greenhouse-{number % 4}.com " + prose(number)
        put(folder / f"{number:02d}.jsonl", codex_large(f"t{number}", text=text))
    records = claude_records("s1")
    resumed = claude_records("s2", prompt="And the roses?", answer="The wild ones.")
    resumed[0]["parentUuid"] = records[-1]["uuid"]
    put(folder / "s1.jsonl", lines(*records))
    put(folder / "s2.jsonl", lines(*records, *resumed))
    put(folder / "torn.jsonl", b"tulips\n")
    return folder


def test_more_processes_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Placeholders are numbered for the whole, though no worker knows of another."""
    monkeypatch.setattr("agent_rollouts.distill.inputs._PART_FILES", 3)
    files = sorted(map(str, some_sessions(tmp_path / "in").iterdir()))
    asked = {"splits": "train=0.7,test=0.3", "max_tokens": 120, "shape": ("messages", "openai"), "shuffle": True}
    funnels = []
    for number in (1, 2):
        options = Options(**asked, num_proc=number)
        funnels.append(distill_files(files, tmp_path / str(number) / "d", options, command="c"))
    one, two = (contents(tmp_path / str(number) / "d") for number in (1, 2))
    assert one.pop("options.yaml") != two.pop("options.yaml")
    assert one == two
    assert funnels[0] == funnels[1]
    # And so do other parts, of which there are five here.
    monkeypatch.setattr("agent_rollouts.distill.inputs._PART_FILES", 500)
    distill_files(files, tmp_path / "whole" / "d", Options(**asked), command="c")
    whole = contents(tmp_path / "whole" / "d")
    assert {name: data for name, data in whole.items() if name != "options.yaml"} == one
    text = b"".join(data for name, data in one.items() if name.endswith("jsonl")).decode()
    assert all(f"/home/{user}/beds" in text for user in ("user", "user2", "user3"))
    assert "[EMAIL_" in text
    assert PERSON not in text


def test_a_killed_worker_is_an_error_in_one_line(tmp_path: Path) -> None:
    words = ["--num-proc", "2", "--where", "tests.test_pipeline:killed", "--output", str(tmp_path / "d")]
    result = CliRunner().invoke(main, ["distill", "--demo", *words])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: a process was killed, perhaps for want of memory; run again with a smaller num_proc\n"
    )
    assert list(tmp_path.iterdir()) == []


def killed(row: Row) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def test_an_error_of_a_worker_comes_through(tmp_path: Path) -> None:
    files = [str(put(tmp_path / "in" / f"{name}.jsonl", codex(name))) for name in "ab"]
    with pytest.raises(AgentRolloutsError, match=r"where .* failed on 'a' of '.*a.jsonl': KeyError: 'nothing'"):
        distill_files(files, tmp_path / "d", Options(where='row["nothing"]', num_proc=2))
    assert not (tmp_path / "d").exists()


def test_no_placeholder_is_cut_in_two(tmp_path: Path) -> None:
    """What is left of one might be taken for what it stands for, and stop the run."""
    rows = []
    for number in range(40):
        path = f" /home/{PERSON}/bed" * 40
        one = row(f"r{number}")
        call = {"id": "c", "type": "function", "function": {"name": "ls", "arguments": {}}}
        one["messages"][1:1] = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "name": "ls", "content": "x" * number + path},
        ]
        rows.append(one)
    funnel = written(tmp_path / "d", rows, max_tokens=230)
    assert funnel.counts["windows"] == {"tool outputs shortened": 40}


# -- faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["evidence", "weigh", "identify", "windows", "to_json"])
def test_a_row_on_which_a_stage_fails_costs_that_row(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(work, stage)

    def failing(row: Row, *more: Any, **options: Any) -> Any:
        if row["trace_id"] == "b":
            raise ZeroDivisionError("out of tulips")
        return real(row, *more, **options)

    monkeypatch.setattr(work, stage, failing)
    funnel = written(tmp_path / "d", [row(name) for name in "abc"], max_tokens=1000, splits="train=0.5,test=0.5")
    assert set.union(*names(tmp_path / "d").values()) == {"a", "c"}
    assert funnel.removed == {"a stage failed on it (ZeroDivisionError)": 1}
    assert funnel.notices[0] == "codex/b.jsonl/b: ZeroDivisionError: out of tulips. Please report this"
    funnel.check()


@pytest.mark.parametrize("stage", ["redact", "match", "shape"])
def test_so_does_one_of_an_object(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, name = {
        "redact": (redact.Redactor, "row"),
        "match": (work.Benchmarks, "match"),
        "shape": (type(SHAPES["messages"]), "records"),
    }[stage]
    real = getattr(holder, name)

    def failing(self: Any, row: Row, *more: Any) -> Any:
        if row["trace_id"] == "b":
            raise ZeroDivisionError("out of tulips")
        return real(self, row, *more)

    monkeypatch.setattr(holder, name, failing)
    canary = "-".join(("a0b1c2d3", "0000", "4111", "8222", "333344445555"))
    funnel = written(tmp_path / "d", [row(name) for name in "abc"], canary=(canary,))
    assert names(tmp_path / "d") == {"train": {"a", "c"}}
    removed = funnel.removed if stage != "shape" else funnel.stages["shape: messages"].removed
    assert set(removed) == {"a stage failed on it (ZeroDivisionError)"}
    funnel.check()


def test_rows_without_a_user_turn(tmp_path: Path) -> None:
    """Templates refuse them; a summary that sets the task may be anyone's."""
    odd = row("odd")
    odd["messages"][0] = {"role": "system", "content": "Go on with the beds.", "origin": "summary"}
    for options in ({}, {"splits": "train=0.5,test=0.5"}, {"max_tokens": 500}):
        funnel = written(tmp_path / "d", [row("a"), row("b"), odd], **options)
        assert set.union(*names(tmp_path / "d").values()) == {"a", "b"}
        funnel.check()


def test_a_row_that_a_tokenizer_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured where a tokenizer is named, also without a budget."""

    def refusing(row: Row, tokens: Any) -> Row:
        if row["trace_id"] == "b":
            raise AgentRolloutsError("roles must alternate")
        return real(row, tokens)

    real = work.counted
    monkeypatch.setattr(work, "counted", refusing)
    monkeypatch.setattr(work.Tokens, "of", lambda *_, **__: work.Tokens.estimate())
    funnel = written(tmp_path / "d", [row(name) for name in "abc"], tokenizer="invented")
    assert names(tmp_path / "d") == {"train": {"a", "c"}}
    assert funnel.removed == {work.NOT_RENDERED: 1}
    assert funnel.notices == ["codex/b.jsonl/b: roles must alternate"]


def test_what_is_no_row_costs_itself(tmp_path: Path) -> None:
    """As may be given from Python: files give none of these."""
    said = {"role": "assistant", "content": "Watered."}
    call = {"id": "1", "type": "function", "function": {"name": "water", "arguments": {"litres": 10**30}}}
    odd = [
        row("surrogate", said="tulips \ud800"),
        row("long", messages=[{**said, "tool_calls": [call]}]),
        row("wordless", messages=[{"role": "user"}]),
        row("listed", messages=[{**said, "content": [{"type": "text", "text": "Watered."}]}]),
        row("empty", messages=[]),
        {"trace_id": "bare", "messages": [said]},
    ]
    funnel = written(tmp_path / "d", [row("a"), *odd, row("b", source_kind=None)])
    assert names(tmp_path / "d") == {"train": {"a", "b"}}
    assert funnel.removed == {
        "messages that are not as in FEATURES": 4,
        "no messages": 1,
        "no row: it has no source_kind, source_path": 1,
    }
    assert funnel.counts["formats"] == {"codex": 1, "not said": 1}


@pytest.mark.parametrize("wrong", [{"decontaminate": ("gone",)}, {"splits_from": "gone"}, {"tokenizer": "./gone"}])
def test_a_wrong_name_does_not_cost_the_work(wrong: dict[str, Any], tmp_path: Path) -> None:
    if "tokenizer" in wrong:
        pytest.importorskip("transformers")
    options = Options(splits="train=0.5,test=0.5", **wrong)

    def rows() -> Iterator[Row]:
        raise AssertionError("a row was read")
        yield

    with pytest.raises((AgentRolloutsError, OSError), match="gone"):
        write.write_dataset(Given([rows]), options, tmp_path / "d", command="c")


def test_rows_are_spooled_as_orjson_writes_them(tmp_path: Path) -> None:
    """What it cannot write goes through Python's own, which takes several times as long."""
    part = work.Work(Given([lambda: [row("a"), row("b")]]), Options(max_tokens=1000), tmp_path)
    part.curate(0, part.note(0).settle(), {})
    spooled = [text.as_py() for batch in batches([part.path("rows", 0)]) for text in batch.column("row")]
    part.window(0, None, frozenset())
    spooled += [text.as_py() for batch in batches([part.path("windows", 0)]) for text in batch.column("row")]
    assert [text[0] for text in spooled] == ["{"] * 4


def test_a_row_of_no_file_names_none(tmp_path: Path) -> None:
    written(tmp_path / "d", [row("a", source_path=None)])
    assert pq.read_table(tmp_path / "d/messages/train-00000-of-00001.parquet")["source_path"].to_pylist() == [None]


def test_numbers_of_placeholders_go_on(tmp_path: Path) -> None:
    mails = [f"gardener{number}@" + "greenhouse.com" for number in range(3)]
    state = str(tmp_path / "state" / "numbers.json")
    (tmp_path / "state").mkdir()

    def asked(*numbers: int) -> list[str]:
        rows = [row(f"r{number}", ask=f"Mail {mails[number]} about the beds.") for number in numbers]
        written(tmp_path / "d", rows, redaction_state=state)
        table = pq.read_table(tmp_path / "d/messages/train-00000-of-00001.parquet")
        return [orjson.loads(messages[0])["content"].split()[1] for messages in table["messages"].to_pylist()]

    assert asked(0, 1) == ["[EMAIL_1]", "[EMAIL_2]"]
    assert asked(2, 1) == ["[EMAIL_3]", "[EMAIL_2]"]
    assert not any(mail in Path(state).read_text(encoding="utf-8") for mail in mails)


def test_a_row_that_is_given_twice_is_trained_on_once(tmp_path: Path) -> None:
    rows = [row("a"), row("b"), row("a")]
    for takes in ([partial(iter, rows)], [partial(iter, rows[:2]), partial(iter, rows[2:])]):
        made = write.write_dataset(Given(takes), Options(), tmp_path / "d", command="c")
        assert [one["trace_id"] for one in pq.read_table(made.shards["messages"]["train"][0]).to_pylist()] == ["a", "b"]
        assert sum(made.funnel.removed.values()) == 1


def test_a_session_that_comes_while_others_are_read(tmp_path: Path) -> None:
    """An agent is at work in the folder: what families did not see is left for the next run."""
    rows = [row("a")]

    def growing() -> Iterator[Row]:
        yield from list(rows)
        rows.append(row(f"new {len(rows)}"))

    made = write.write_dataset(Given([growing]), Options(), tmp_path / "d", command="c")
    assert names(tmp_path / "d") == {"train": {"a"}}
    assert sum(made.funnel.removed.values()) == 1


# -- which rows -------------------------------------------------------------------------------------


def test_limit_shuffle_and_seed(tmp_path: Path) -> None:
    rows = [row(f"r{number}") for number in range(20)]

    def order(**options: Any) -> list[str]:
        written(tmp_path / "d", rows, **options)
        return list(pq.read_table(tmp_path / "d/messages/train-00000-of-00001.parquet")["trace_id"].to_pylist())

    every = [one["trace_id"] for one in rows]
    assert order() == every
    assert order(limit=5) == every[:5]
    shuffled = order(shuffle=True)
    assert (sorted(shuffled), shuffled != every) == (sorted(every), True)
    assert order(shuffle=True) == shuffled
    assert order(shuffle=True, seed=1) not in (shuffled, every)
    # Any five, and the same ones whatever is asked besides.
    assert order(shuffle=True, limit=5) == shuffled[:5]
    assert order(shuffle=True, limit=5, families=False) == shuffled[:5]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_partitions_are_disjoint_and_complete_and_tear_no_family(seed: int, tmp_path: Path) -> None:
    rows = [one for at in range(4) for one in rows_of(4 * seed + at) if "-" not in one["trace_id"][:6]]
    written(tmp_path / "whole", rows)
    whole = family_of(tmp_path / "whole")
    found = []
    for index in range(3):
        try:
            funnel = written(tmp_path / str(index), rows, partition_index=index, num_partitions=3)
        except AgentRolloutsError as error:
            if "no row to write" not in str(error):
                raise
            found.append({})
            continue
        assert sum(funnel.removed.values()) == len(rows) - len(family_of(tmp_path / str(index)))
        found.append(family_of(tmp_path / str(index)))
    assert Counter(name for part in found for name in part) == Counter(list(whole))
    families = [set(part.values()) for part in found]
    assert sum(map(len, families)) == len(set.union(*families)) == len(set(whole.values()))


def family_of(folder: Path) -> dict[str, str]:
    found = {}
    for path in (folder / "messages").glob("*.parquet"):
        for one in pq.read_table(path, columns=["trace_id", "source_path", "family_id"]).to_pylist():
            found[f"{one['source_path']} {one['trace_id']}"] = one["family_id"]
    return found


# -- splits -----------------------------------------------------------------------------------------


def test_families_stay_in_their_split_when_data_is_added(tmp_path: Path) -> None:
    rows = [row(f"r{number}", root_session_id=f"session-{number // 2}") for number in range(40)]
    written(tmp_path / "first", rows[:20], splits="train=0.7,test=0.3")
    before = names(tmp_path / "first")
    assert set(before) == {"train", "test"}
    written(tmp_path / "second", rows, splits="train=0.5,test=0.5", splits_from=str(tmp_path / "first"))
    after = names(tmp_path / "second")
    assert before["train"] <= after["train"]
    assert before["test"] <= after["test"]
    assert sum(map(len, after.values())) == 40
    # A row that shares its task with one of test goes there.
    other = min(before["test"])
    ask = next(one for one in rows if one["trace_id"] == other)["messages"][0]["content"]
    written(tmp_path / "third", [*rows, row("new", ask=ask)], splits="train=0.5,test=0.5",
            splits_from=str(tmp_path / "second" / "splits.json"))  # fmt: skip
    assert "new" in names(tmp_path / "third")["test"]
    with pytest.raises(AgentRolloutsError, match="no splits of an earlier run"):
        written(tmp_path / "fourth", rows, splits="train=1", splits_from=str(tmp_path / "nothing"))


def test_what_would_tie_splits_together_is_left_out(tmp_path: Path) -> None:
    rows = [row(f"r{number}") for number in range(10)]
    written(tmp_path / "first", rows, splits="train=0.5,test=0.5")
    one, other = (min(found) for found in names(tmp_path / "first").values())
    texts = {one["trace_id"]: one["messages"] for one in rows}
    tie = row("tie", ask=texts[one][0]["content"], said=texts[other][1]["content"])
    funnel = written(
        tmp_path / "second", [*rows, tie], splits="train=0.5,test=0.5", splits_from=str(tmp_path / "first")
    )
    assert names(tmp_path / "second") == names(tmp_path / "first")
    assert funnel.removed == {work.TIES: 1}
    assert "1 families (1 rows) are left out" in funnel.notices[0]


@pytest.mark.parametrize("kind", ["family", "task", "near_duplicate"])
def test_a_leak_stops_the_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"r{number}") for number in range(6)]
    rows[1] |= {
        "family": {"parent_trace_id": "r0"},
        "task": {"messages": [rows[0]["messages"][0], rows[1]["messages"][1]]},
        "near_duplicate": {"messages": [rows[1]["messages"][0], rows[0]["messages"][1]]},
    }[kind]
    families = {one["trace_id"]: one["family_id"] for one in resolve(lambda: iter(rows))}
    settle = Splits.settle

    def leaking(self: Splits) -> Any:
        found = settle(self)
        found.families[families["r1"]] = "test" if found.families[families["r0"]] == "train" else "train"
        return found

    assert len(written(tmp_path / "right", rows, splits="train=0.5,test=0.5").counts["splits"]) == 2
    if kind == "family":
        # All rows of a family are routed together, so the leak must be in what was written.
        shape = work.Work.shape
        monkeypatch.setattr(work.Work, "shape", lambda self, part, splits: shape(self, part, Torn(splits)))
    else:
        monkeypatch.setattr(Splits, "settle", leaking)
    with pytest.raises(AgentRolloutsError, match=f"the splits .* of messages share {kind} in 1 row.*nothing was writ"):
        written(tmp_path / "d", rows, splits="train=0.5,test=0.5")
    assert [path.name for path in tmp_path.iterdir()] == ["right"]


class Torn(dict[str, str]):
    """Splits that change with each row that asks."""

    def __init__(self, splits: Any) -> None:
        super().__init__(splits)
        self.asked = 0

    def get(self, name: str, default: Any = None) -> Any:
        self.asked += 1
        return ("train", "test")[self.asked % 2]


# -- benchmarks -------------------------------------------------------------------------------------


def test_rows_of_a_benchmark_are_removed_with_their_family(tmp_path: Path) -> None:
    put(tmp_path / "bench.jsonl", lines(instance()))
    made = CliRunner().invoke(
        main, ["fingerprint", str(tmp_path / "bench.jsonl"), "-o", str(tmp_path / "prints"), "--benchmark", "kettles"]
    )
    assert made.exit_code == 0, made.output
    assert STATEMENT[:30] not in (tmp_path / "prints").read_text(encoding="utf-8")
    home = f"/home/{PERSON}/work"
    rows = [
        row("clean"),
        row("shows", ask=STATEMENT, source_path=f"{home}/shows.jsonl"),
        row("agent", parent_trace_id="shows", root_session_id="shows", is_sidechain=True),
        row("patched", said=TEST_PATCH),
        row("named", cwd="/testbed/tea__kettle-1"),
    ]
    funnel = written(tmp_path / "d", rows, decontaminate=(str(tmp_path / "prints"),))
    assert names(tmp_path / "d") == {"train": {"clean"}}
    assert funnel.removed == {work.CONTAMINATED: 4}
    said = orjson.loads((tmp_path / "d" / "funnel.json").read_bytes())["contaminated"]
    assert {one["trace_id"]: [match["evidence"] for match in one["matches"]] for one in said} == {
        "shows": ["statement"], "patched": ["tests"], "named": ["instance_id"],
    }  # fmt: skip
    assert all(match["benchmark"] == "kettles" for one in said for match in one["matches"])
    assert [one["source_path"] for one in said if one["trace_id"] == "shows"] == ["/home/user/work/shows.jsonl"]
    canary = "-".join(("a0b1c2d3", "0000", "4111", "8222", "333344445555"))
    funnel = written(tmp_path / "e", [row("clean"), row("held", said=f"It says {canary}.")], canary=(canary,))
    assert names(tmp_path / "e") == {"train": {"clean"}}


# -- from Python ------------------------------------------------------------------------------------


def as_dataset(rows: list[Row]) -> Dataset:
    def text(value: Any) -> str:
        return orjson.dumps(value).decode()

    stored = [
        {
            **one,
            "messages": list(map(text, one["messages"])),
            "tools": one["tools"] and list(map(text, one["tools"])),
            "skipped": text(one["skipped"]),
            "source_meta": text(one["source_meta"]),
        }
        for one in rows
    ]
    return Dataset(table(stored, FEATURES.arrow_schema))


def test_rows_may_be_given_in_any_way() -> None:
    rows = [one for one in rows_of(5) if one["messages"]]
    dataset = as_dataset(rows)
    assert dataset.features == FEATURES
    ways: dict[str, Any] = {
        "list": rows,
        "generator": (one for one in rows),
        "Dataset": dataset,
        "exact Dataset": exact(dataset),
        "IterableDataset": exact(dataset.to_iterable_dataset()),
        "streamed from Python": IterableDataset.from_generator(lambda: iter(rows)),
    }
    found = {}
    for way, given in ways.items():
        made, funnel = agent_rollouts.distill(given, Options(max_tokens=500, splits="train=0.6,test=0.4"))
        assert funnel.read.rows == len(rows)
        found[way] = told(made)
        assert not [secret for secret in SECRETS if secret in "".join(found[way]["train"])]
    assert all(one == found["list"] for one in found.values())
    assert len(found["list"]["train"]) > len(found["list"]["test"]) > 0


def test_distill_is_a_function_and_a_package(tmp_path: Path) -> None:
    assert agent_rollouts.distill.redact.redact_text(f"mail a{PERSON}@" + "greenhouse.com")[0] == "mail [EMAIL_1]"
    made, funnel = agent_rollouts.distill([row("a")])
    assert isinstance(made, DatasetDict)
    assert isinstance(funnel, Funnel)
    assert made["train"][0]["messages"][0] == row("a")["messages"][0]
    made, _ = distill([row("a")], Options(shape=("openai",)), output=tmp_path / "kept")
    assert contents(tmp_path / "kept").keys() >= {"README.md", "openai/train.jsonl"}
    with pytest.raises(AgentRolloutsError, match="distill gives one shape, and messages, openai were asked for"):
        distill([row("a")], Options(shape=("messages", "openai")))
    with pytest.raises(AgentRolloutsError, match="takes the rows of one split; name it: 'train'"):
        distill(made)
    with pytest.raises(AgentRolloutsError, match=r"no row to write: 0 file\(s\), 0 rollout\(s\)"):
        distill([])
    with pytest.raises(AttributeError, match="has no attribute 'tulips'"):
        agent_rollouts.tulips  # noqa: B018


def test_workers_take_rows_from_python() -> None:
    rows = [row(f"r{number}", ask=f"Mail someone{number}@greenhouse.com, {prose(number)}") for number in range(6)]
    one, _ = distill(as_dataset(rows))
    two, _ = distill(as_dataset(rows), Options(num_proc=2))
    assert told(one) == told(two)


def test_inputs_go_to_other_processes() -> None:
    for source in (Files(["a.jsonl", "b.jsonl"], Options()), Given([partial(iter, [row("a")])])):
        assert pickle.loads(pickle.dumps(source)).parts == source.parts


def test_what_the_source_says_is_not_changed() -> None:
    rows = rows_of(8)
    before = orjson.dumps(rows)
    distill(rows, Options(max_tokens=300, splits="train=0.5,test=0.5"))
    assert orjson.dumps(rows) == before


# -- a stage alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_stages_are_functions_of_rows(streamed: bool) -> None:
    rows = [one for one in rows_of(3) if one["messages"]]
    dataset: Any = exact(as_dataset(rows).to_iterable_dataset()) if streamed else as_dataset(rows)
    redacted = dataset.map(redact.redact, features=redact.features(FEATURES))
    text = json.dumps(list(redacted), ensure_ascii=False)
    assert "[URL_PASSWORD_1]" in text
    assert not [secret for secret in SECRETS if secret in text]
    noted_columns = {name: SHAPES["messages"].features[name] for name in evidence.COLUMNS}
    noted = dataset.map(evidence.evidence, features=Features({**FEATURES, **noted_columns}))
    assert [one["outcome"] for one in noted] == [evidence.evidence(one)["outcome"] for one in rows]
    weighed = dataset.map(weigh, features=FEATURES)
    assert [one["messages"] for one in weighed] == [weigh(one)["messages"] for one in rows]
    filters = Filters(FilterOptions(min_messages=6, sidechains=False))
    kept = [one["trace_id"] for one in dataset.filter(filters.keeps)]
    assert kept == [one["trace_id"] for one in rows if filters.keeps(one)]
    owned = list(resolve(lambda: iter(rows)))
    turns: defaultdict[str, int] = defaultdict(int)
    for one in owned:
        for message in one["messages"]:
            if message["role"] == "assistant" and message.get("weight") != 0:
                turns[message["content"]] += 1
    assert set(turns.values()) == {1}
