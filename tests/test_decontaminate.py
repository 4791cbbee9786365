"""Decontamination: an invented benchmark, rows that show it, and rows that only look like it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.distill.decontaminate import (
    EVIDENCE,
    HEADER,
    Benchmarks,
    Match,
    decontaminate,
    fingerprint,
    tells_by_itself,
    write_fingerprints,
)
from agent_rollouts.errors import AgentRolloutsError

COMMIT = "0123456789abcdef" * 2 + "01234567"
CANARY = "-".join(("a0b1c2d3", "0000", "4111", "8222", "333344445555"))


def prose(seed: int, count: int) -> str:
    """Invented words; different for each seed."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(count))


STATEMENT = "The kettle does not whistle.\n\n" + prose(1, 60) + "\n```\n>>> boil(100)\nFalse\n```\n"
TEST_PATCH = f"""diff --git a/tests/test_kettle.py b/tests/test_kettle.py
--- a/tests/test_kettle.py
+++ b/tests/test_kettle.py
@@ -10,4 +10,9 @@ def test_before():
     {prose(2, 80)}
+def test_whistle():
+    kettle = Kettle(water={prose(3, 30)})
+    assert kettle.boil(100) == {prose(4, 20)!r}
"""


def instance(number: int = 1, **columns: Any) -> dict[str, Any]:
    return {
        "instance_id": f"tea__kettle-{number}",
        "repo": "Tea/kettle",
        "base_commit": COMMIT,
        "problem_statement": STATEMENT,
        "test_patch": TEST_PATCH,
        **columns,
    }


def benchmarks(tmp_path: Path, *instances: dict[str, Any], **options: Any) -> Benchmarks:
    source = tmp_path / "kettles.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in instances or (instance(),)), encoding="utf-8")
    write_fingerprints(source, tmp_path / "prints.jsonl")
    return Benchmarks.load([tmp_path / "prints.jsonl"], **options)


def row(*messages: dict[str, Any], **columns: Any) -> dict[str, Any]:
    return {
        "trace_id": "t1",
        "source_kind": "codex",
        "source_path": "a.jsonl",
        "messages": [{"role": "user", "content": prose(90, 50)}, *messages],
        "source_meta": {},
        **columns,
    }


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def calls(arguments: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "write", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def shell(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": "c", "name": "shell"}


def numbered(text: str) -> str:
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(text.splitlines(), 1))


WORDS = STATEMENT.split()

SHOWN = {
    "pasted": (row(user(f"Please solve this:\n{STATEMENT}")), "statement"),
    "white space": (row(user("  \n".join(WORDS))), "statement"),
    "letter case": (row(user(STATEMENT.upper())), "statement"),
    "quoted": (row(user("".join(f"> {line}\n" for line in STATEMENT.splitlines()))), "statement"),
    "line numbers": (row(shell(numbered(STATEMENT))), "statement"),
    "result": (row(shell("$ cat issue.md\n" + STATEMENT + prose(91, 2000))), "statement"),
    "result in JSON": (row(shell(json.dumps({"statement": STATEMENT}))), "statement"),
    "in JSON in JSON": (row(shell(json.dumps(json.dumps({"statement": STATEMENT})))), "statement"),
    "system": (row({"role": "system", "content": STATEMENT}), "statement"),
    "reasoning": (row({"role": "assistant", "content": "", "reasoning_content": STATEMENT}), "statement"),
    "call": (row(calls({"path": "issue.md", "parts": [{"text": STATEMENT}]})), "statement"),
    "raw call": (row(calls(STATEMENT)), "statement"),
    "most of it": (row(user(" ".join(WORDS[len(WORDS) // 3 :]))), "statement"),
    "in two messages": (row(user(" ".join(WORDS[:40])), user(" ".join(WORDS[28:]))), "statement"),
    "patch": (row(shell(TEST_PATCH)), "tests"),
    "patch written": (row(calls({"content": TEST_PATCH.replace("\n+", "\n"), "n": 1})), "tests"),
    "id said": (row(user("Look at tea__kettle-1, please.")), "instance_id"),
    "id in a path": (row(cwd="/data/runs/tea__kettle-1.traj"), "instance_id"),
    "id of an image": (row(shell("docker run sweb.eval.x86_64.tea_1776_kettle-1:latest")), "instance_id"),
    "id named": (row(source_meta={"run": {"instance_id": "Tea__Kettle-1"}}), "instance_id"),
    "id in text of metadata": (row(source_meta='{"instance_id": "tea__kettle-1"}'), "instance_id"),
    "commit": (row(source_meta={"commit_hash": COMMIT}), "base_commit"),
    "short commit": (
        row(source_meta={"commit_hash": COMMIT[:9], "repository_url": "git@git.test:Tea/Kettle.git"}),
        "base_commit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("shown", "evidence"), SHOWN.values(), ids=SHOWN)
def test_what_is_shown_is_found(tmp_path: Path, shown: dict[str, Any], evidence: str) -> None:
    before = copy.deepcopy(shown)
    (found,) = benchmarks(tmp_path).match(shown)
    assert found[:3] == ("kettles", "tea__kettle-1", evidence)
    assert 0.5 <= found.share <= 1
    assert shown == before
    texts = {**shown, "messages": [orjson.dumps(message).decode() for message in shown["messages"]]}
    assert benchmarks(tmp_path).match(texts) == [found]


HIDDEN = {
    "nothing": row(),
    "empty": row(messages=[]),
    "no columns": {"messages": []},
    "same repository, other commit": row(
        source_meta={"commit_hash": "f" * 40, "repository_url": "https://git.test/tea/kettle"}
    ),
    "short commit of another repository": row(
        source_meta={"commit_hash": COMMIT[:9], "repository_url": "https://git.test/coffee/pot"}
    ),
    "a third of it": row(user(" ".join(WORDS[: len(WORDS) // 3]))),
    "same words, other order": row(user(" ".join(sorted(WORDS)))),
    "context of the patch": row(shell(prose(2, 80))),
    "another id": row(user("see tea__kettle-11 and tea__kettle-1a and coffee__kettle-1, __init__ and __kettle-1__")),
    "commit in a log": row(shell(f"commit {COMMIT}\nAuthor: A")),
}


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
def test_what_only_looks_like_it_is_not(tmp_path: Path, hidden: dict[str, Any]) -> None:
    assert benchmarks(tmp_path).match(hidden) == []


def test_what_counts_is_an_option(tmp_path: Path) -> None:
    shown = row(user(STATEMENT + " tea__kettle-1"))
    assert {match.evidence for match in benchmarks(tmp_path).match(shown)} == {"statement", "instance_id"}
    assert {match.evidence for match in benchmarks(tmp_path, by=["statement"]).match(shown)} == {"statement"}
    assert benchmarks(tmp_path, by=["tests"]).match(shown) == []
    third = row(user(" ".join(WORDS[: len(WORDS) // 3])))
    assert benchmarks(tmp_path, share=0.1).match(third)
    for wrong in ({"by": ["title"]}, {"share": 0.0}, {"share": 1.5}):
        with pytest.raises(AgentRolloutsError, match=r"known: statement|share is"):
            benchmarks(tmp_path, **wrong)


def test_a_form_that_issues_are_written_in_is_no_evidence(tmp_path: Path) -> None:
    form = prose(7, 100)
    issues = [instance(n, problem_statement=form + " " + prose(100 + n, 40), base_commit=None) for n in range(8)]
    found = benchmarks(tmp_path, *issues)
    assert found.match(row(user(form))) == []
    assert [match.instance for match in found.match(row(user(prose(103, 40))))] == ["tea__kettle-3"]
    # An issue that is all form leaves nothing to look for.
    same = [instance(n, problem_statement=form, base_commit=None, test_patch="") for n in range(8)]
    assert benchmarks(tmp_path, *same).match(row(user(form))) == []


def test_short_texts(tmp_path: Path) -> None:
    """Of a short statement all must be there; short tests are like any others."""
    task = "create a file called hello in the folder that is named after the day of the week"
    short = instance(instance_id="hello-world", problem_statement=task, test_patch="+ " + prose(8, 15), repo=None)
    found = benchmarks(tmp_path, short)
    assert [match.evidence for match in found.match(row(user("Now " + task)))] == ["statement"]
    assert found.match(row(user(task.rpartition(" ")[0]))) == []
    assert found.match(row(user(prose(8, 15)))) == []


def test_an_id_that_may_be_anything_counts_where_a_task_is_named(tmp_path: Path) -> None:
    found = benchmarks(tmp_path, instance(instance_id="hello-world"), instance(instance_id="7", problem_statement="x"))
    assert found.match(row(user("run hello-world"), cwd="/home/user/hello-world")) == []
    assert found.match(row(source_meta={"task_name": "tea/hello-world"}))[0].instance == "hello-world"
    assert found.match(row(source_meta={"task_id": "7"})) == []
    assert tells_by_itself("tea__kettle-1")
    assert not any(map(tells_by_itself, ("__init__", "a__b", "hello-world", "v1")))


def test_large_tests_need_not_be_there_by_half(tmp_path: Path) -> None:
    lines = [prose(number, 10) for number in range(200, 260)]
    found = benchmarks(tmp_path, instance(test_patch="".join(f"+{line}\n" for line in lines)))
    (match,) = found.match(row(shell("\n".join(lines[:15]))))
    assert match.evidence == "tests"
    assert match.share < 0.3
    assert found.match(row(shell("\n".join(lines[:10])))) == []


def test_the_same_instance_in_two_files_is_one(tmp_path: Path) -> None:
    for name in ("all", "verified", "lite", "mini", "multi"):
        (tmp_path / f"{name}.json").write_text(json.dumps([instance()]))
        write_fingerprints(tmp_path / f"{name}.json", tmp_path / f"{name}.prints", benchmark=f"Tea {name}")
    found = Benchmarks.load(sorted(tmp_path.glob("*.prints")))
    assert len(found) == 1
    assert found.match(row(user(STATEMENT))) == [Match("Tea all", "tea__kettle-1", "statement", 1.0)]


def test_canaries(tmp_path: Path) -> None:
    shown = row(shell(f"# canary GUID {CANARY.upper()}"))
    assert Benchmarks.load([], canaries=[CANARY]).match(shown) == [Match("canary", "", "canary", 1.0)]
    assert Benchmarks.load([], canaries=[CANARY]).match(row()) == []


def write_tasks(folder: Path) -> None:
    one = folder / "tasks" / "make-some-tea"
    (one / "tests").mkdir(parents=True)
    canary = f"# test-canary GUID {CANARY}\n"
    instruction = "".join(f"  {line}\n" for line in STATEMENT.splitlines())
    (one / "task.yaml").write_text(f"{canary}instruction: |-\n{instruction}difficulty: easy\n")
    (one / "tests" / "test_outputs.py").write_text(canary + prose(5, 40))
    (one / "tests" / "expected.bin").write_bytes(b"\0\1\2")
    (one / "data.jsonl").write_text(json.dumps(instance(5)) + "\n")
    two = folder / "tasks" / "warm-the-pot"
    (two / "tests" / "deep").mkdir(parents=True)
    (two / "instruction.md").write_text(f"<!-- canary {CANARY} -->\n" + prose(6, 50))
    (two / "task.toml").write_text("[metadata]\n")
    (two / "tests" / "deep" / "test.sh").write_text(prose(9, 40))


def test_task_folders(tmp_path: Path) -> None:
    write_tasks(tmp_path / "bench")
    counts = write_fingerprints(tmp_path / "bench", tmp_path / "prints")
    assert counts == {"instances": 2, "canaries": 1, "no statement": 0, "no tests": 0}
    found = Benchmarks.load([tmp_path / "prints"])
    assert found.match(row(user(STATEMENT))) == [Match("bench", "make-some-tea", "statement", 1.0)]
    assert found.match(row(user(prose(6, 50)))) == [Match("bench", "warm-the-pot", "statement", 1.0)]
    assert found.match(row(shell(prose(9, 40)))) == [Match("bench", "warm-the-pot", "tests", 1.0)]
    assert found.match(row(shell(prose(5, 40)))) == [Match("bench", "make-some-tea", "tests", 1.0)]
    assert found.match(row(shell(CANARY)))[0].evidence == "canary"


def as_parquet(path: Path) -> None:
    (path / "data").mkdir()
    (path / "README.md").write_text("# Tea")
    pq.write_table(pa.Table.from_pylist([instance() | {"hints": 1}]), path / "data" / "test-00000-of-00001.parquet")
    pq.write_table(pa.table({"other": [1]}), path / "data" / "other.parquet")


def as_lines(path: Path) -> None:
    (path / "test.jsonl").write_text(json.dumps(instance()) + "\nno JSON\n[]\n" + json.dumps({"other": 1}) + "\n")


def as_saved(path: Path) -> None:
    datasets.DatasetDict({"test": datasets.Dataset.from_list([instance()])}).save_to_disk(path)


@pytest.mark.parametrize("write", [as_parquet, as_lines, as_saved])
def test_copies_of_a_dataset(tmp_path: Path, write: Callable[[Path], None]) -> None:
    wanted = {key: value for key, value in instance().items() if key in ("repo", "base_commit")}
    (tmp_path / "tea").mkdir()
    write(tmp_path / "tea")
    (record,) = fingerprint(tmp_path / "tea")
    assert record["instance"] == "tea__kettle-1"
    assert {key: record[key] for key in wanted} == {key: value.lower() for key, value in wanted.items()}
    write_fingerprints(tmp_path / "tea", tmp_path / "prints")
    assert Benchmarks.load([tmp_path / "prints"]).match(row(user(STATEMENT)))[0].benchmark == "tea"


def test_a_file_holds_no_text(tmp_path: Path) -> None:
    benchmarks(tmp_path)
    header, record = (tmp_path / "prints.jsonl").read_text().splitlines()
    assert json.loads(header) == {**HEADER, "benchmark": "kettles"}
    assert not [word for word in (STATEMENT + TEST_PATCH).split() if len(word) > 6 and word in record]


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentRolloutsError, match="does not exist"):
        write_fingerprints(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "some.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(AgentRolloutsError, match="no instance in"):
        write_fingerprints(tmp_path / "some.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([{"a": 1}], "holds no fingerprints"),
        (["text"], "holds no fingerprints"),
        ([], "holds no fingerprints"),
        ([{**HEADER, "n": 8, "benchmark": "b"}], r"other rules \(n\)"),
        ([{**HEADER, "benchmark": "b"}, {"a": 1}], "line 2: no fingerprint"),
    ],
)
def test_files_that_are_none(tmp_path: Path, lines: list[Any], why: str) -> None:
    path = tmp_path / "prints"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    with pytest.raises(AgentRolloutsError, match=why):
        Benchmarks.load([path])


def test_the_family_of_a_row_that_matches_goes_with_it(tmp_path: Path) -> None:
    rows = [
        row(user(STATEMENT), family_id="f1"),
        row(trace_id="t2", family_id="f2"),
        row(trace_id="t3", family_id="f1", is_sidechain=True),
    ]
    report: list[dict[str, Any]] = []
    kept = list(decontaminate(lambda: iter(rows), benchmarks(tmp_path), report))
    assert [one["trace_id"] for one in kept] == ["t2"]
    assert kept[0] is rows[1]
    assert [(one["trace_id"], one["family_id"], len(one["matches"])) for one in report] == [
        ("t1", "f1", 1),
        ("t3", "f1", 0),
    ]
    assert report[0]["matches"][0] == {
        "benchmark": "kettles", "instance": "tea__kettle-1", "evidence": "statement", "share": 1.0,
    }  # fmt: skip
    orjson.dumps(report)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(13, 40), st.randoms(use_true_random=False))
def test_each_statement_in_a_text_is_found(tmp_path_factory: Any, told: list[int], length: int, chance: Any) -> None:
    """Of ten instances those whose statements stand in a row, wherever, and no other."""
    issues = [
        instance(n, problem_statement=prose(300 + n, length), base_commit=None, test_patch=None) for n in range(10)
    ]
    found = benchmarks(tmp_path_factory.mktemp("b"), *issues)
    messages = [user(prose(chance.randrange(1000, 2000), 30) + " . " + prose(300 + n, length)) for n in told]
    matches = found.match(row(*messages))
    assert {match.instance for match in matches} == {f"tea__kettle-{n}" for n in told}
    assert all(match.share == 1 and match.evidence in EVIDENCE for match in matches)
