"""`distill`: a folder of sessions becomes a dataset that `load_dataset` takes as it is, whole or not at all."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from datasets import Dataset, Features, Json, List, Value, load_dataset

from agent_rollouts.cli import main
from agent_rollouts.distill import Funnel, Options, card, distill_files, write
from agent_rollouts.distill.funnel import Size, size
from agent_rollouts.distill.inputs import Given
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.distill.spool import table
from agent_rollouts.features import row as as_row
from agent_rollouts.formats import read
from agent_rollouts.rollout import HISTORIES
from agent_rollouts.source import find, open_sources
from tests.sessions import (
    claude,
    claude_agent,
    claude_records,
    claude_sidechains,
    codex,
    codex_compacted,
    codex_large,
    lines,
    put,
)

# As it stands in the demo; put together here, so that scanners stay quiet.
SECRET = "-".join(["plum", "Harbor", "93", "kettle"])
FEATURES = SHAPES["messages"].features
SHARD = "messages/train-00000-of-00001.parquet"


def run(*words: str | os.PathLike[str]) -> Result:
    """`agent-rollouts distill …` in this process."""
    return CliRunner().invoke(main, ["distill", *map(os.fspath, words)])


def fine(*words: str | os.PathLike[str]) -> str:
    """What a run that succeeds prints to stdout."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def load(folder: Path, cache: Path | None = None) -> Dataset:
    return load_dataset(str(folder), split="train", cache_dir=str(cache or folder.parent / "cache"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the demo ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The dataset of the demo, and what the command printed; made by a real process, as a user would."""
    output = tmp_path_factory.mktemp("demo") / "demo-dataset"
    command = [sys.executable, "-m", "agent_rollouts", "distill", "--demo", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""  # no terminal, no progress bar
    return output, done.stdout


@pytest.fixture(scope="module")
def demo_rows(demo: tuple[Path, str]) -> Dataset:
    return load(demo[0])


def test_demo_loads_with_datasets_alone(demo: tuple[Path, str]) -> None:
    """The package that wrote it is not needed to read it."""
    script = """
import sys
import datasets
found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])
assert "agent_rollouts" not in sys.modules
print({name: split.num_rows for name, split in found.items()})
print(found["train"].features)
"""
    words = [sys.executable, "-c", script, str(demo[0]), str(demo[0].parent / "alone")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{'train': 3}", str(dict(FEATURES))]


def test_demo_rows(demo_rows: Dataset) -> None:
    assert demo_rows.features == FEATURES
    assert demo_rows.features["messages"] == List(Json())
    assert demo_rows.features["tools"] == List(Json())
    main_row, agent, codex_row = demo_rows
    assert [row["source_kind"] for row in demo_rows] == ["claude_code", "claude_code", "codex"]
    assert (agent["is_sidechain"], agent["parent_trace_id"]) == (True, main_row["trace_id"])
    assert agent["trace_id"] == f"{main_row['trace_id']}:{agent['agent_id']}"
    for row in demo_rows:
        assert re.match(r"demo/(claude_code|codex)/", row["source_path"])
        assert row["tools"] is None
        assert {key for message in row["messages"] for key in message} <= {
            "role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "weight",
        }  # fmt: skip
    for row in (main_row, codex_row):
        calls = [len(message.get("tool_calls", ())) for message in row["messages"]]
        assert max(calls) == 2
    assert any(message.get("reasoning_content") for message in main_row["messages"])
    assert all(
        isinstance(call["function"]["arguments"], dict)
        for row in demo_rows
        for message in row["messages"]
        for call in message.get("tool_calls", ())
    )
    assert "screenshot" in main_row["messages"][0]["content"]


def test_demo_summary(demo: tuple[Path, str]) -> None:
    output, summary = demo
    rows = load(output)
    calls = sum(len(message.get("tool_calls", ())) for row in rows for message in row["messages"])
    messages = sum(map(len, rows["messages"]))
    answers = sum(message["role"] == "assistant" for row in rows for message in row["messages"])
    table, _, rest = summary.partition("3 files: ")
    assert re.findall(r"^(read|after redact|shape: messages) +(\d+)", table, re.M) == [
        ("read", "3"),
        ("after redact", "3"),
        ("shape: messages", "3"),
    ]
    files, rollouts, skipped, *rest = rest.splitlines()
    assert files == "3 with rollouts"
    assert re.fullmatch(
        f"3 rows of 3 rollouts: {messages} messages, {calls} tool calls, "
        rf"about \d,\d{{3}} tokens \(estimated\); {answers} answers to train on",
        rollouts,
    )
    assert skipped.startswith("parts of files not used: record: event_msg token_count 2, ")
    assert rest == [
        "1 images and documents are not in these rows, which are text",
        "replaced by placeholders: URL_PASSWORD 3",
        "outcomes: unknown 2, success 1",
        "records of messages: train 3",
        f'written: {output}; load it with load_dataset("{output}")',
    ]


def test_demo_secret_is_taken_out(demo: tuple[Path, str], demo_rows: Dataset) -> None:
    assert SECRET not in json.dumps(demo_rows[:])
    assert "[URL_PASSWORD_1]" in json.dumps(demo_rows[2]["messages"])
    assert demo_rows[2]["redactions"] == {"URL_PASSWORD": 3}
    assert len(set(demo_rows["redaction_policy"])) == 1
    assert "URL_PASSWORD 3" in (demo[0] / "README.md").read_text(encoding="utf-8")


def test_without_redaction_it_says_so(tmp_path: Path) -> None:
    summary = fine("--demo", "--no-redact", "--output", tmp_path / "d")
    rows = load_dataset(str(tmp_path / "d"), split="train")
    assert SECRET in json.dumps(rows[2]["messages"])
    assert rows[2]["redactions"] is None
    assert f"NOT REDACTED: whatever paths, names and keys the sessions hold is in {tmp_path / 'd'}" in summary
    assert "**Nothing was redacted.**" in (tmp_path / "d" / "README.md").read_text(encoding="utf-8")


def test_words_of_ones_own_are_taken_out(tmp_path: Path) -> None:
    put(tmp_path / "in" / "s.jsonl", claude(prompt="Which TULIPS for Project Plum?"))
    fine(tmp_path / "in", "--deny", "Project Plum", "--deny", "tulips", "--output", tmp_path / "d")
    text = json.dumps(load_dataset(str(tmp_path / "d"), split="train")["messages"][:])
    assert "Plum" not in text
    assert "TULIPS" not in text


def test_what_redaction_leaves_behind_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_rollouts.distill.redact.Redactor.row", lambda _, row: {**row, "redactions": {}})
    result = run("--demo", "--output", tmp_path / "d")
    assert result.exit_code == 1
    assert "redaction left something behind, and nothing was written: messages, row 2, column messages" in result.stderr
    assert SECRET not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_failed_calls_are_not_imitated(tmp_path: Path) -> None:
    records = claude_records("s1")
    records[3]["message"]["content"][0] |= {"is_error": True, "content": "no such file"}
    path = put(tmp_path / "s1.jsonl", lines(*records))
    for options, weight in (({}, 0), ({"keep_failed_calls": True}, None), ({"weights": False}, None)):
        _, (row,) = distilled(path, **options)
        assert row["messages"][1].get("weight") == weight
        assert row["tool_error_count"] == 1
    _, (row,) = distilled(path, evidence=False)
    assert (row["outcome"], row["tool_error_count"]) == (None, None)


def test_card_is_obeyed(demo: tuple[Path, str], tmp_path: Path) -> None:
    output, _ = demo
    text = (output / "README.md").read_text(encoding="utf-8")
    assert card.MARK in text
    assert 'load_dataset("demo-dataset", "messages")' in text
    assert "$" not in text.replace("$ ", "")  # every blank of the template is filled
    info = load(output).info
    shard = output / SHARD
    assert info.splits["train"].num_examples == 3
    assert info.download_size == shard.stat().st_size
    assert info.features == FEATURES
    # A file that the card does not name is no part of the dataset.
    copy = tmp_path / "copy"
    for name, data in contents(output).items():
        put(copy / name, data)
    put(copy / "messages" / "notes.jsonl", b'{"x": 1}\n')
    assert load(copy).num_rows == 3
    # And what it says of the columns counts, not what the file says by itself.
    put(
        copy / "README.md",
        text.replace("- name: model\n    dtype: string", "- name: model\n    dtype: large_string").encode(),
    )
    assert load(copy, tmp_path / "again").features["model"] == Value("large_string")


def test_parquet_as_the_hub_likes_it(demo: tuple[Path, str]) -> None:
    (shard,) = (demo[0] / "messages").iterdir()
    assert shard == demo[0] / SHARD
    metadata = pq.read_metadata(shard)
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert all(column.has_offset_index and column.has_column_index for column in columns)
    assert Features.from_arrow_schema(pq.read_schema(shard)) == FEATURES


def test_chunks_survive_an_insertion(tmp_path: Path) -> None:
    """Content-defined chunking: of two files that differ in their first row most bytes are the same."""

    def rows(*first: str) -> Iterator[pa.Table]:
        for name in [*first, *(f"garden {number}" for number in range(300))]:
            words = random.Random(name).choices(["tulip", "rose", "bed", "week", "{", "}", "\\n"], k=6000)
            message = json.dumps({"role": "user", "content": " ".join(words)})
            yield table([{"trace_id": name, "messages": [message]}], FEATURES.arrow_schema)

    files = []
    for name, first in (("a", ()), ("b", ("a new one",))):
        (shard,) = write._write_shards(rows(*first), tmp_path / name, "train", FEATURES.arrow_schema)
        files.append(shard.read_bytes())
    a, b = files
    blocks = [a[start : start + 4096] for start in range(0, len(a) - 4096, 4096)]
    assert sum(block in b for block in blocks) > len(blocks) / 2  # without it one in fifty


def test_same_input_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["agent-rollouts", "distill", "--demo"])
    for name in ("a", "b"):
        fine("--demo", "--output", tmp_path / name / "dataset")
    assert contents(tmp_path / "a" / "dataset") == contents(tmp_path / "b" / "dataset")


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions(tmp_path / "in", 5)
    fine(tmp_path / "in", "--output", tmp_path / "one")
    monkeypatch.setattr(write, "_SHARD_BYTES", 1)
    monkeypatch.setattr(write, "_GROUP_BYTES", 1)
    fine(tmp_path / "in", "--output", tmp_path / "more")
    assert sorted(path.name for path in (tmp_path / "more" / "messages").iterdir()) == [
        f"train-0000{number}-of-00005.parquet" for number in range(5)
    ]
    assert load(tmp_path / "more").to_list() == load(tmp_path / "one").to_list()


# -- which rollouts ---------------------------------------------------------------------------------


def sessions(folder: Path, count: int, size: int = 0) -> Path:
    """Sessions of `size` bytes and a little more."""
    for number in range(count):
        put(folder / f"{number:03d}.jsonl", codex_large(f"t{number}", text=f"{number} tulips, " * (size // 10)))
    return folder


def distilled(*paths: Path, **options: Any) -> tuple[Funnel, list[dict[str, Any]]]:
    """What a run gives of files: the funnel, and its rows with messages as objects."""
    with tempfile.TemporaryDirectory() as folder:
        funnel = distill_files(map(str, paths), Path(folder) / "d", Options(**options))
        rows = pq.read_table(Path(folder) / "d" / SHARD).to_pylist()
    return funnel, [{**row, "messages": [orjson.loads(text) for text in row["messages"]]} for row in rows]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "good.jsonl", claude("good"))
    put(tmp_path / "no_prompt.jsonl", lines(*claude_records("no_prompt")[1:]))
    put(tmp_path / "no_answer.jsonl", lines(*claude_records("no_answer")[:2]))
    put(tmp_path / "agent-acompact-1.jsonl", claude_agent("good", "acompact-1"))
    notice = claude_records("notice")
    for record in notice[1:]:
        record["message"]["model"] = "<synthetic>"
    put(tmp_path / "notice.jsonl", lines(*notice))
    put(tmp_path / "nothing.jsonl", lines({"type": "summary", "summary": "Tulips", "leafUuid": "x"}))
    summary = fine(tmp_path, "--output", tmp_path / "dataset")
    assert "6 files: 6 with rollouts\n1 rows of 1 rollouts: 4 messages, 1 tool calls, " in summary
    reasons = {"no prompt", "no answer", "no answer that may be trained on", "no messages"}
    reasons.add("the agent's own: writes the summary of a compaction")
    assert set(re.findall(r"^  - (.*?)  +-1\b", summary, re.M)) == reasons
    assert "parts of files not used: record: summary 1" in summary
    card = (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    for reason in reasons:
        assert f"| {reason} | -1 |" in card
    funnel = orjson.loads((tmp_path / "dataset" / "funnel.json").read_bytes())
    assert {one["reason"] for stage in funnel["stages"] for one in stage["removed"]} == reasons
    assert load(tmp_path / "dataset")["trace_id"][:] == ["good"]


def test_internal(tmp_path: Path) -> None:
    put(tmp_path / "agent-acompact-1.jsonl", claude_agent("s", "acompact-1"))
    result = run(tmp_path, "--output", tmp_path / "dataset")
    assert result.exit_code == 1
    assert "writes the summary of a compaction: 1" in result.stderr
    assert not (tmp_path / "dataset").exists()
    fine(tmp_path, "--output", tmp_path / "dataset", "--internal")
    assert load(tmp_path / "dataset")["trace_id"][:] == ["s:acompact-1"]


def test_a_task_need_not_be_a_prompt(tmp_path: Path) -> None:
    """A context that was compacted at work begins with a summary, and a sub-agent may be set to work by another."""
    records = claude_records("s")
    again = claude_records("s", key="again", prompt="This session is being continued from a previous conversation.")
    again[0] |= {"parentUuid": records[-1]["uuid"], "isCompactSummary": True}
    path = put(tmp_path / "s.jsonl", lines(*records, *again))
    funnel, rows = distilled(path)
    assert [row["trace_id"] for row in rows] == ["s", "s#1"]
    assert not funnel.removed
    asked = claude_records("t", prompt='<teammate-message teammate_id="lead">Look for tulips.</teammate-message>')
    _, rows = distilled(put(tmp_path / "t.jsonl", lines(*asked)))
    assert [row["trace_id"] for row in rows] == ["t"]


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history: str, tmp_path: Path) -> None:
    put(tmp_path / "c.jsonl", codex_compacted("c"))
    fine(tmp_path, "--output", tmp_path / "dataset", "--history", history)
    rows = load(tmp_path / "dataset")
    said = [[message["content"] for message in row["messages"]] for row in rows]
    before = ["Count the beds.", "", "1 2 3 4 5 6 7", "Seven."]
    after = ["Count the beds.", "Summary: seven beds were counted.", "And the trees?", "Two."]
    assert said == {"full": [[*before, *after[2:]]], "segments": [before, after], "context": [after]}[history]
    assert rows["trace_id"][:] == {"segments": ["c", "c#1"]}.get(history, ["c"])


def test_history_is_by_segments_unless_asked(tmp_path: Path) -> None:
    put(tmp_path / "c.jsonl", codex_compacted("c"))
    fine(tmp_path, "--output", tmp_path / "dataset")
    assert load(tmp_path / "dataset")["trace_id"][:] == ["c", "c#1"]


def test_weights_reach_the_rows(tmp_path: Path) -> None:
    records = claude_records("s")
    records[1]["message"]["model"] = records[2]["message"]["model"] = "<synthetic>"
    funnel, (row,) = distilled(put(tmp_path / "s.jsonl", lines(*records)))
    assert [message.get("weight") for message in row["messages"]] == [None, 0, None, None]
    assert funnel.counts["weights"] == {"synthetic": 1}
    assert funnel.counts["rows"]["answers to train on"] == 1
    assert "answers with weight 0: synthetic 1\n" in fine(tmp_path, "--output", tmp_path / "dataset")


def test_counts(tmp_path: Path) -> None:
    paths = [
        put(tmp_path / "a.jsonl", claude_sidechains("a", 3)),
        put(tmp_path / "b.jsonl", codex("b", answer="Sieben Ä")),
    ]
    funnel, rows = distilled(*paths)
    counts = funnel.counts
    assert funnel.files == 2
    assert counts["rows"] == {
        "rows": 4, "rollouts": 4, "messages": 16, "tool calls": 4, "answers to train on": 8, "media": 0,
        "tokens": sum(row["token_count"] for row in rows),
    }  # fmt: skip
    assert counts["formats"] == {"claude_code": 3, "codex": 1}
    assert counts["models"] == {"claude-invented-1": 3, "gpt-invented-1": 1}
    assert counts["tools"] == {"Read": 3, "exec": 1}
    read_rows = [as_row(rollout) for path in paths for source in open_sources(str(path)) for rollout in read(source)]
    assert funnel.read == Size(4, 16, sum(size(row["messages"]).text_bytes for row in read_rows))
    assert funnel.kept == funnel.read
    assert funnel.read.tokens == funnel.read.text_bytes // 4


def test_numbers_are_written_exactly(tmp_path: Path) -> None:
    put(tmp_path / "s.jsonl", codex("s"))
    fine(tmp_path, "--output", tmp_path / "dataset")
    texts = pq.read_table(tmp_path / "dataset" / SHARD)["messages"].combine_chunks().values
    assert '"arguments":{"cmd":"ls beds","share":0.7}' in texts.storage[1].as_py()


# -- bad input --------------------------------------------------------------------------------------


def test_a_bad_file_costs_that_file(tmp_path: Path) -> None:
    good = [put(tmp_path / name, codex(name[0])) for name in ("a.jsonl", "z.jsonl")]
    bad = [
        put(tmp_path / "b.jsonl", b'{"garden": "tulips"}\n'),
        put(tmp_path / "c.jsonl.gz", b"\x1f\x8b cut off"),
        put(tmp_path / "d.zip", b"PK no archive"),
        put(tmp_path / "e.jsonl", b""),
    ]
    result = run(tmp_path, "--output", tmp_path / "dataset")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == len(bad)
    for path, line in zip(bad, result.stderr.splitlines(), strict=True):
        assert line.startswith(f"left out: {path}")
    assert load(tmp_path / "dataset")["source_path"][:] == [str(path) for path in good]


def test_no_rows(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a.jsonl", lines(*claude_records("a")[:2]))
    put(tmp_path / "in" / "b.jsonl", b"tulips\n")
    result = run(tmp_path / "in", "--output", tmp_path / "dataset")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "Error: no row to write: 2 file(s), 1 rollout(s); no answer: 1; 1 file(s) could not be used. "
        "`agent-rollouts inspect` shows what the files hold\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# -- the output folder ------------------------------------------------------------------------------


def half_datasets(output: Path) -> list[Path]:
    return list(output.parent.glob(f".{output.name}.incomplete-*"))


@pytest.mark.parametrize("there", ["notes.txt", "README.md", SHARD])
def test_refuses_what_is_not_its_own(there: str, tmp_path: Path) -> None:
    put(tmp_path / "dataset" / there, b"mine")
    result = run("--demo", "--output", tmp_path / "dataset")
    assert result.exit_code == 1
    assert "no dataset made by agent-rollouts; choose another --output" in result.stderr
    assert contents(tmp_path) == {f"dataset/{there}": b"mine"}


def test_refuses_a_file(tmp_path: Path) -> None:
    put(tmp_path / "dataset", b"mine")
    assert run("--demo", "--output", tmp_path / "dataset").exit_code == 1
    assert contents(tmp_path) == {"dataset": b"mine"}


@pytest.mark.parametrize(
    "added",
    ["notes.txt", ".git/HEAD", "messages/extra.parquet", "messages/train.jsonl", "openai/mine.jsonl", "in/train.jsonl"],
)
def test_refuses_its_own_with_something_added(added: str, tmp_path: Path) -> None:
    words = ("--demo", "--shape", "messages", "--shape", "openai", "--output", tmp_path / "dataset")
    fine(*words)
    fine(*words)  # all that is there is its own
    put(tmp_path / "dataset" / added, b"mine")
    before = contents(tmp_path)
    result = run(*words)
    assert result.exit_code == 1
    assert f"holds more than the dataset that agent-rollouts made: {added}; choose" in result.stderr
    assert contents(tmp_path) == before


def test_replaces_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "dataset"
    output.mkdir()  # an empty folder is nobody's
    sessions(tmp_path / "in", 3)
    with monkeypatch.context() as small:
        small.setattr(write, "_SHARD_BYTES", 1)
        small.setattr(write, "_GROUP_BYTES", 1)
        fine(tmp_path / "in", "--output", output)
    assert len(list((output / "messages").iterdir())) == 3
    fine("--demo", "--output", output)
    assert load(output).num_rows == 3
    found = sorted(name for name in contents(output) if not name.startswith(".agent_rollouts/"))
    assert found == ["README.md", "funnel.json", SHARD, "options.yaml"]
    assert not half_datasets(output)
    assert output.stat().st_mode & 0o777 == 0o755


def test_output_may_be_here_or_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    fine("--demo", "--output", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load(tmp_path / "real").num_rows == 3
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fine("--demo", "--output", ".")
    assert 'load_dataset("here"' in (tmp_path / "here" / "README.md").read_text(encoding="utf-8")


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    """The sweep must take the name as it is: `*` would sweep what other runs are writing."""
    other = put(tmp_path / ".another.incomplete-1" / "x", b"")
    mine = put(tmp_path / ".*.incomplete-1" / "x", b"")
    fine("--demo", "--output", tmp_path / "*")
    assert other.exists()
    assert not mine.exists()


# -- families ---------------------------------------------------------------------------------------


def test_a_turn_that_two_sessions_hold_is_trained_on_once(tmp_path: Path) -> None:
    records = claude_records("s1")
    resumed = claude_records("s2", prompt="And the roses?", answer="The wild ones.")
    resumed[0]["parentUuid"] = records[-1]["uuid"]
    put(tmp_path / "s1.jsonl", lines(*records))
    put(tmp_path / "s2.jsonl", lines(*records, *resumed))
    put(tmp_path / "copy" / "s1.jsonl", lines(*records))
    paths = find(tmp_path)
    funnel, found = distilled(*paths)
    rows = {row["source_path"].removeprefix(f"{tmp_path}/"): row for row in found}
    assert funnel.removed == {"all of its turns are in another row (duplicate)": 1}
    assert funnel.copies == {(str(tmp_path / "s1.jsonl"), "s1"): (str(tmp_path / "copy" / "s1.jsonl"), "s1")}
    assert set(rows) == {"copy/s1.jsonl", "s2.jsonl"}
    assert len({row["family_id"] for row in rows.values()}) == 1
    trained = Counter(
        orjson.dumps(message)
        for row in rows.values()
        for message in row["messages"]
        if message["role"] == "assistant" and message.get("weight") != 0
    )
    assert len(trained) == 4
    assert set(trained.values()) == {1}
    for row in rows.values():
        before = [m.get("weight") for m in row["messages"][: row["owned_from"]] if m["role"] == "assistant"]
        assert before == [0] * (2 if row["owned_from"] else 0)
    assert len(distilled(*paths, families=False)[1]) == 3


# -- interruptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("out of tulips"), KeyboardInterrupt(), click.Abort()])
@pytest.mark.parametrize("earlier", [False, True])
def test_an_exception_leaves_nothing_behind(error: BaseException, earlier: bool, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    if earlier:
        fine("--demo", "--output", output)
    before = contents(tmp_path)

    (rollout,) = read(next(open_sources(str(put(tmp_path.parent / "a.jsonl", codex("a"))))))

    def rows() -> Iterator[dict[str, Any]]:
        yield as_row(rollout)
        raise error

    with pytest.raises(type(error)):
        write.write_dataset(Given([rows]), Options(families=False), output, command="c")
    assert contents(tmp_path) == before
    assert not half_datasets(output)


WAITING = """
import sys, time
import agent_rollouts.copies as copies
from agent_rollouts.cli import main
from agent_rollouts.distill import spool, write

read = copies.read
seen = []

def read_until_the_last(source, *args, **options):
    # Files are read once for their families, and once for their rows.
    seen.append(source.name)
    if sys.argv[3] == "reading" and seen.count("zzz.jsonl") == 2:
        time.sleep(60)
    return read(source, *args, **options)

def check(*_):
    if sys.argv[3] == "writing":
        time.sleep(60)

copies.read = read_until_the_last
write._check_redaction = check
spool._BATCH_ROWS = write._GROUP_BYTES = write._SHARD_BYTES = 1
main(["distill", sys.argv[1], "--output", sys.argv[2]])
"""


def got_as_far_as(place: str, half: Path) -> bool:
    if place == "writing":
        return len(list(half.glob("messages/train-*-of-00005.parquet"))) == 5
    return any(spool.stat().st_size > 400_000 for spool in half.glob(".work/rows-*.arrow"))


@pytest.mark.parametrize(
    ("number", "earlier", "place"),
    [
        (signal.SIGINT, False, "writing"),
        (signal.SIGINT, True, "reading"),
        (signal.SIGKILL, False, "reading"),
        (signal.SIGKILL, True, "writing"),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_interrupted(number: signal.Signals, earlier: bool, place: str, tmp_path: Path) -> None:
    folder, output = sessions(tmp_path / "in", 4, 100_000), tmp_path / "dataset"
    if earlier:
        fine("--demo", "--output", output)
    before = contents(output)
    put(folder / "zzz.jsonl", codex("last"))  # the run gets this far, and waits
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, str(folder), str(output), place],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            limit = time.monotonic() + 30
            while not any(got_as_far_as(place, half) for half in half_datasets(output)):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < limit
                time.sleep(0.02)
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == (1 if number == signal.SIGINT else -signal.SIGKILL)
    assert out == b""
    assert b"Traceback" not in err
    assert contents(output) == before
    assert bool(half_datasets(output)) == (number == signal.SIGKILL)
    # The next run sweeps what was left, whether it has something to write or not.
    put(tmp_path / "no" / "no.jsonl", b"")
    assert run(tmp_path / "no", "--output", output).exit_code == 1
    assert not half_datasets(output)
    assert contents(output) == before
    fine(folder, "--output", output)
    assert load(output).num_rows == 5


@pytest.mark.parametrize("then", ["fails", "succeeds"])
def test_killed_between_two_renames(then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier dataset has been put aside, and the new one is not in its place yet."""
    output = tmp_path / "dataset"
    fine("--demo", "--output", output)
    before = contents(output)

    class Killed(BaseException):
        pass

    def rename(path: Path, target: Path) -> Path:
        if target == output:
            raise Killed
        return real(path, target)

    real = Path.rename
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        patched.setattr(write, "_sweep", lambda *_: None)  # a killed process sweeps nothing
        with pytest.raises(Killed):
            run("--demo", "--output", output)
    assert not output.exists()
    put(tmp_path / "in" / "a.jsonl", b"" if then == "fails" else codex("a"))
    result = run(tmp_path / "in", "--output", output)
    assert result.exit_code == (then == "fails")
    assert not half_datasets(output)
    if then == "fails":
        assert contents(output) == before
    else:
        assert load(output)["trace_id"][:] == ["a"]


# -- memory -----------------------------------------------------------------------------------------

PEAK = """
import sys, threading, time
from agent_rollouts.cli import main
from agent_rollouts.distill import write

def watch():
    global peak
    while True:
        # What is mapped (spools) is the page cache's, which gives it back whenever memory is wanted.
        with open("/proc/self/status") as status:
            peak = max(peak, *(int(line.split()[1]) for line in status if line.startswith("RssAnon")))
        time.sleep(0.005)

peak = 0
write._GROUP_BYTES = 1 << 20
threading.Thread(target=watch, daemon=True).start()
main(["distill", sys.argv[1], "--output", sys.argv[2]], standalone_mode=False)
print(peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory as Linux does")
def test_memory_is_flat_in_the_number_of_files(tmp_path: Path) -> None:
    peaks = []
    for count in (10, 60):
        folder = sessions(tmp_path / str(count), count, 1 << 20)
        words = [sys.executable, "-c", PEAK, str(folder), str(tmp_path / f"{count}-dataset")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    few, many = peaks
    # All rows kept would be 60 MB of text more, and several times that as objects.
    assert many < few + 30
