"""Splits: no component on two sides, nothing that moves, and an audit that sees what leaks."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.chat import to_chat
from agent_rollouts.distill.splits import (
    EVIDENCE,
    Assignment,
    Splits,
    check_partition,
    family,
    identify,
    in_partition,
    leaks,
    parse_splits,
    repositories,
    shuffled,
    task_id,
    traits,
)
from agent_rollouts.errors import AgentRolloutsError

RATIOS = {"train": 0.8, "test": 0.2}


def prose(seed: int | str, count: int = 60) -> str:
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(count))


def row(
    name: str, *, task: str | None = None, project: str | None = None, said: str | None = None, **columns: Any
) -> dict[str, Any]:
    """A row that shares nothing with another unless told to."""
    seed = f"{name} {columns.get('family_id')}"
    messages = [
        {"role": "user", "content": "<environment>", "origin": "environment"},
        {"role": "user", "content": task or prose(seed + "task", 8)},
        {"role": "assistant", "content": said or prose(seed + "said")},
    ]
    found = {"trace_id": name, "source_kind": "codex", "source_path": f"{name}.jsonl", "source_meta": {}}
    return {**found, "messages": messages, "family_id": f"f-{name}", "project_path": project, **columns}


def settled(rows: Any, **options: Any) -> Assignment:
    splits = Splits(options.pop("ratios", RATIOS), **options)
    for one in rows:
        splits.add(one)
    return splits.settle()


# Few values, so that they often meet.
_SAID = [prose(1000 + n) for n in range(12)]


@st.composite
def many_rows(draw: st.DrawFn, most: int = 30) -> list[dict[str, Any]]:
    def few(of: int) -> int | None:
        number = draw(st.integers(0, 3 * of))
        return number if number < of else None

    rows = []
    for index in range(draw(st.integers(1, most))):
        task, project, said, repository = few(6), few(6), few(12), few(4)
        rows.append(
            row(
                f"r{index}",
                task=None if task is None else f"The task number {task} of all the tasks",
                project=None if project is None else f"/home/user/project-{project}",
                said=None if said is None else _SAID[said] + f" {index}",
                family_id=f"f{draw(st.integers(0, most))}",
                source_meta={} if repository is None else {"repository_url": f"https://git.test/tea/r{repository}.git"},
            )
        )
    return rows


def shared(rows: list[dict[str, Any]], assignment: Assignment, by: Any = EVIDENCE) -> list[Any]:
    """Evidence on two sides."""
    sides: defaultdict[Any, set[str]] = defaultdict(set)
    for one in rows:
        if (split := assignment.split_of(one)) is not None:
            for kind, hashes in traits(one, by).items():
                for found in hashes:
                    sides[kind, found].add(split)
    return [evidence for evidence, splits in sides.items() if len(splits) > 1]


@settings(max_examples=150, deadline=None)
@given(many_rows(), st.integers(0, 9), st.sampled_from([RATIOS, {"train": 1 / 3, "a": 1 / 3, "b": 1 / 3}]))
def test_nothing_is_on_two_sides(rows: list[dict[str, Any]], seed: int, ratios: dict[str, float]) -> None:
    found = settled(rows, seed=seed, ratios=ratios)
    assert not shared(rows, found, found.by)
    assert not found.left_out
    assert sum(found.counts.values()) == len(rows)
    assert Counter(found.split_of(one) for one in rows) == +Counter(found.counts)
    assert found.by == EVIDENCE or (all(found.counts.values()) and "project" not in found.by and found.notices)


@settings(max_examples=80, deadline=None)
@given(many_rows(), st.integers(0, 9), st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[dict[str, Any]], seed: int, chance: random.Random) -> None:
    found = settled(rows, seed=seed)
    chance.shuffle(rows)
    assert settled(rows, seed=seed) == found


@settings(max_examples=200, deadline=None)
@given(many_rows(), st.integers(0, 30), st.sampled_from([None, EVIDENCE, ("family",)]))
def test_what_is_fixed_never_moves(rows: list[dict[str, Any]], cut: int, by: Any) -> None:
    """And still nothing is on two sides, whatever comes later."""
    first = settled(rows[:cut], by=by)
    later = settled(rows, by=by, fixed=first.families)
    for name, split in first.families.items():
        assert later.families[name] == split
    for one in rows:
        if family(one) in first.families:
            assert later.split_of(one) in (first.families[family(one)], None)
    assert not shared(rows, later, later.by)
    assert bool(later.left_out) == bool(later.conflicts) == any("left out" in notice for notice in later.notices)
    assert sum(later.counts.values()) == sum(family(one) not in later.left_out for one in rows)


@settings(max_examples=60, deadline=None)
@given(many_rows(), many_rows(5))
def test_a_run_is_its_own_earlier_run(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> None:
    first = settled(rows)
    again = settled(rows, fixed=first.families, by=first.by)
    assert again.families == first.families
    assert not again.left_out
    gone = settled(others, fixed=first.families)
    assert first.families.items() <= gone.families.items()


def test_few_move_when_data_is_added() -> None:
    rows = [row(f"r{index}") for index in range(2000)]
    first, later = settled(rows[:1800]), settled(rows)
    moved = sum(first.split_of(one) != later.split_of(one) for one in rows[:1800])
    assert moved < 40
    assert settled(rows, seed=1).families != later.families


@pytest.mark.parametrize("text", ["train=0.98,test=0.02", "train=0.9, validation=0.05, test=0.05", "a=0.5,b=0.5"])
def test_shares_are_met(text: str) -> None:
    ratios = parse_splits(text)
    found = settled([row(f"r{index}") for index in range(3000)], ratios=ratios)
    for name, ratio in ratios.items():
        assert abs(found.reached[name] - ratio) < 0.001
    assert not found.notices
    assert found.components == 3000


def test_a_large_component_goes_where_there_is_room() -> None:
    rows = [row(f"big{n}", family_id="big") for n in range(600)] + [row(f"r{n}") for n in range(400)]
    for seed in range(20):
        found = settled(rows, ratios={"train": 0.98, "test": 0.02}, seed=seed)
        assert found.split_of(rows[0]) == "train"
        assert found.counts["test"] == 20
    halves = settled(rows, ratios={"train": 0.7, "test": 0.3})
    assert halves.counts == {"train": 700, "test": 300}


def test_what_could_not_be_met_is_said() -> None:
    rows = [row(f"r{n}", family_id=f"f{n % 10}") for n in range(100)]
    found = settled(rows, ratios={"train": 0.98, "test": 0.02})
    assert found.counts == {"train": 90, "test": 10}
    assert found.notices == [
        "test has 10.00% of the rows where 2.00% were asked: there were 10 components to place, the largest with 10 of "
        "all 100 rows"
    ]
    halves = settled([row(f"r{n}", family_id=f"f{n % 3}") for n in range(9)], ratios={"train": 0.98, "test": 0.02})
    assert halves.counts == {"train": 9, "test": 0}
    assert "test has 0.00%" in halves.notices[-1]


def test_rows_of_one_project() -> None:
    """Projects are not kept apart where nothing would be left for a split; unless they are asked for."""
    rows = [row(f"r{n}", project="/home/user/tea") for n in range(100)]
    found = settled(rows)
    assert found.by == ("family", "task", "near_duplicate")
    assert found.counts == {"train": 80, "test": 20}
    assert "test would be empty" in found.notices[0]
    assert "projects were not kept apart" in found.notices[0]
    asked = settled(rows, by=EVIDENCE)
    assert asked.counts == {"train": 100, "test": 0}
    assert asked.by == EVIDENCE
    two = settled([row(f"r{n}", project=f"/home/user/tea{n % 10}") for n in range(100)])
    assert two.by == EVIDENCE
    assert two.counts == {"train": 80, "test": 20}


def belong(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    mine, theirs = traits(a), traits(b)
    return {kind for kind in EVIDENCE if set(mine[kind]) & set(theirs[kind])}


def url(address: str) -> dict[str, Any]:
    return {"source_meta": {"git": {"repository_url": address}}}


LONG = "Please make the kettle whistle"
ALIKE = {
    "family": (row("a", family_id="f"), row("b", family_id="f"), "family"),
    "root session": (
        row("a", family_id=None, root_session_id="s"),
        row("b", family_id=None, root_session_id="s"),
        "family",
    ),
    "branches": (row("a#1", family_id=None), row("a#2", family_id=None), "family"),
    "parent": (row("a", family_id=None), row("b", family_id=None, parent_trace_id="a#2"), "family"),
    "path": (row("a", project="/home/u/tea"), row("b", project="/home/u/tea/"), "project"),
    "cwd": (row("a", project="C:\\Users\\u\\Tea"), row("b", cwd="c:/users/u/tea"), "project"),
    "worktree": (row("a", project="/w/tea"), row("b", project="/w/tea/.claude/worktrees/pot/src"), "project"),
    "name": (row("a", project="tea"), row("b", project="Tea"), "project"),
    "home": (row("a", project="~/tea"), row("b", project="~/tea"), "project"),
    "url": (row("a", **url("git@git.test:Tea/Pot.git")), row("b", **url("https://x@git.test/tea/pot")), "project"),
    "owner and name": (row("a", source_meta={"repo": "tea/kettle"}), row("b", **url("ssh://g/tea/kettle")), "project"),
    "url and path": (row("a", project="/w/tea", **url("g:tea/kettle")), row("b", project="/w/tea"), "project"),
    "as text": (row("a", source_meta='{"repo": "tea/pot"}'), row("b", source_meta={"repo": "tea/pot"}), "project"),
    "task": (row("a", task=LONG), row("b", task=f"  {LONG.upper()}\n"), "task"),
    "same answer": (row("a", said=prose(1)), row("b", said=prose(1)), "near_duplicate"),
    "like": (row("a", said=prose(1, 300)), row("b", said=prose(1, 300).replace(" a", " b", 2)), "near_duplicate"),
    "longer answer": (row("a", said=prose(1, 300)), row("b", said=prose(1, 310)), "near_duplicate"),
}  # fmt: skip


@pytest.mark.parametrize(("a", "b", "kind"), ALIKE.values(), ids=ALIKE)
def test_what_belongs_together(a: dict[str, Any], b: dict[str, Any], kind: str) -> None:
    assert belong(a, b) == {kind}
    texts = [orjson.dumps(message).decode() for message in a["messages"]]
    assert belong({**a, "messages": texts}, b) == {kind}
    assert belong(identify(a), identify(b)) == {kind}


APART = {
    "nothing": (row("a"), row("b")),
    "home": (row("a", project="/home/user"), row("b", project="/home/user/")),
    "Windows home": (row("a", project="C:\\Users\\user"), row("b", project="C:\\Users\\user")),
    "root": (row("a", project="/"), row("b", project="/")),
    "container": (row("a", project="/testbed"), row("b", cwd="/testbed")),
    "tilde": (row("a", project="~"), row("b", project="~")),
    "point": (row("a", project="."), row("b", project=".")),
    "other owner": (row("a", **url("git@git.test:tea/pot.git")), row("b", **url("git@git.test:coffee/pot.git"))),
    "path below": (row("a", project="/w/code"), row("b", project="/w/code/tea")),
    "short task": (row("a", task="commit"), row("b", task="commit")),
    "short answer": (row("a", said="It is done, you may test."), row("b", said="It is done, you may test.")),
    "half an answer": (row("a", said=prose(1, 200)), row("b", said=prose(1, 60) + " " + prose(2, 140))),
    "no url": (row("a", source_meta={"repository": "pot"}), row("b", source_meta={"repository": "pot"})),
}


@pytest.mark.parametrize(("a", "b"), APART.values(), ids=APART)
def test_what_does_not(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert belong(a, b) == set()


def test_columns_for_the_audit() -> None:
    before = row("a", task=LONG, **url("git@git.test:Tea/Kettle.git"))
    found = identify(before)
    assert found["repository"] == "tea/kettle"
    assert found == before | {"repository": "tea/kettle", "task_id": task_id(before)}
    assert "task_id" not in before
    assert task_id(found) == found["task_id"] == f"{int(found['task_id'], 16):016x}"
    assert repositories({**found, "source_meta": None}) == ["tea/kettle"]
    empty = identify({"messages": []})
    assert (empty["repository"], empty["task_id"]) == (None, None)


def test_conflicts_with_an_earlier_run() -> None:
    a, b = row("a", project="/w/tea"), row("b", task=LONG)
    fixed = {"f-a": "train", "f-b": "test"}
    # A later row that would tie both together is in neither; who is with one of them is there.
    between, beside = row("c", project="/w/tea", task=LONG), row("d", project="/w/tea")
    found = settled([a, b, between, beside], fixed=fixed)
    assert [found.split_of(one) for one in (a, b, between, beside)] == ["train", "test", None, "train"]
    assert found.conflicts == {"task: train, test": 1}
    assert "1 families (1 rows) are left out" in found.notices[-1]
    assert found.families == {**fixed, "f-d": "train"}
    # Where they themselves have come to share something, the smaller side is left out, and is where it was later.
    more = [row(f"a{n}", family_id="f-a") for n in range(3)]
    meets = row("b2", family_id="f-b", project="/w/tea")
    found = settled([a, *more, b, meets], fixed=fixed, by=EVIDENCE)
    assert [found.split_of(one) for one in (a, b, meets)] == ["train", None, None]
    assert found.conflicts == {"project: train, test": 1}
    assert found.families == fixed


def test_a_row_that_was_not_split() -> None:
    with pytest.raises(AgentRolloutsError, match=r"codex/b\.jsonl/b: family f-b was not among"):
        settled([row("a")]).split_of(row("b"))


def test_no_rows() -> None:
    found = settled([])
    assert found.counts == {"train": 0, "test": 0}
    assert found.reached == {"train": 0, "test": 0}
    assert settled([row("a")]).counts == {"train": 1, "test": 0}


def test_parsed() -> None:
    assert parse_splits("train=0.98,test=0.02") == {"train": 0.98, "test": 0.02}
    assert parse_splits(" a = 0.333 , b=0.333,c.d=0.333") == {"a": 1 / 3, "b": 1 / 3, "c.d": 1 / 3}
    assert parse_splits("train=1") == {"train": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' in '': wanted name=share"),
        ("train", "'train' in 'train': wanted name=share"),
        ("train=0.9,test", "'test' in"),
        ("train=most,test=0.1", "'train=most' in"),
        ("train=nan", "wanted name=share"),
        ("train=0.9,train=0.1", "'train' is named twice"),
        ("train=0.9,test=0.2", "of train, test sum up to 1.1, not to 1"),
        ("train=98,test=2", "share of split 'train' is 98"),
        ("train=1,test=0", "share of split 'test' is 0"),
        ("train=1.5,test=-0.5", "is 1.5"),
        ("my-train=1", "'my-train' cannot name a split"),
        ("all=1", "'all' cannot name a split"),
        ("=1", "'' cannot name a split"),
        ("../train=1", "cannot name a split"),
    ],
)
def test_what_does_not_name_splits(text: str, why: str) -> None:
    with pytest.raises(AgentRolloutsError, match=why):
        parse_splits(text)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"by": ["author"]}, "unknown evidence author; known: family, project"),
        ({"fixed": {"f": "validation"}}, "has the splits validation, this one train, test"),
        ({"ratios": {}}, "the shares of no splits sum up to 0"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(AgentRolloutsError, match=why):
        settled([], **options)


# -- the audit --------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As the writer does: messages as `to_chat` leaves them, in JSON text."""
    columns = []
    for one in map(identify, rows):
        texts = [orjson.dumps(message).decode() for message in to_chat(one["messages"])]
        kept = ("trace_id", "source_kind", "source_path", "family_id", "project_path", "repository", "task_id")
        columns.append({**{name: one[name] for name in kept}, "messages": texts, "other": 1})
    table = pa.Table.from_pylist(columns)
    messages = table.column("messages").cast(pa.list_(pa.json_()))
    pq.write_table(table.set_column(table.schema.get_field_index("messages"), "messages", messages), path)
    return path


LEAKS = [name for name in ALIKE if not name.startswith(("root", "branch", "parent", "cwd"))]


@pytest.mark.parametrize("case", LEAKS)
def test_the_audit_sees_what_leaks(tmp_path: Path, case: str) -> None:
    a, b, kind = ALIKE[case]
    others = [row(f"r{n}") for n in range(150)]
    train = [write(tmp_path / "train0.parquet", others[:80]), write(tmp_path / "train1.parquet", [*others[80:100], a])]
    test = [write(tmp_path / "test.parquet", [*others[100:], b])]
    (leak,) = leaks({"train": train, "test": test})
    assert leak == (kind, ("train", "test"), 1, (("codex/a.jsonl/a", "codex/b.jsonl/b"),))
    assert leaks({"train": [str(train[0])], "test": test}) == []
    assert leaks({"train": train, "test": test}, by=("family",)) == ([leak] if kind == "family" else [])


def test_the_audit_of_rows_as_they_are_read(tmp_path: Path) -> None:
    """Columns that earlier stages give may lack, and messages may be whole."""
    for name, one in (("a", ALIKE["parent"][0]), ("b", ALIKE["parent"][1])):
        columns = {**one, "messages": [orjson.dumps(m).decode() for m in one["messages"]], "source_meta": "{}"}
        pq.write_table(pa.Table.from_pylist([columns]), tmp_path / f"{name}.parquet")
    (leak,) = leaks({"train": [tmp_path / "a.parquet"], "test": [tmp_path / "b.parquet"]})
    assert leak.evidence == "family"
    pq.write_table(pa.table({"family_id": ["f"], "chosen": ["x"]}), tmp_path / "c.parquet")
    (leak,) = leaks({"train": [tmp_path / "c.parquet"], "test": [tmp_path / "c.parquet"], "none": []})
    assert leak == ("family", ("train", "test"), 1, (("None/None/None", "None/None/None"),))


def test_the_audit_of_calls_in_the_text(tmp_path: Path) -> None:
    """Short rows may be alike when calls are written out; they are kept together if they are added so."""
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "run", "arguments": {"command": "make tea", "cwd": "/"}},
    }
    rows = []
    for index in range(10):
        one = row(f"r{index}", said="I will.")
        answers = [{"role": "assistant", "content": "", "tool_calls": [call | {"id": f"c{n}"}]} for n in range(4)]
        messages = to_chat([*one["messages"], *answers], calls="text")
        rows.append({**identify(one), "messages": messages})
    for found, count in ((settled(rows), 1), (settled([row(f"r{n}") for n in range(10)]), 10)):
        assert found.components == count
        sides = {split: [one for one in rows if found.split_of(one) == split] for split in RATIOS}
        files = {split: [write(tmp_path / f"{split}{count}.parquet", some)] for split, some in sides.items() if some}
        assert [leak.evidence for leak in leaks(files)] == ["near_duplicate"][: count - 1]


@settings(max_examples=25, deadline=None)
@given(rows=many_rows(), seed=st.integers(0, 9))
def test_splits_pass_the_audit(tmp_path_factory: Any, rows: list[dict[str, Any]], seed: int) -> None:
    folder = tmp_path_factory.mktemp("written")
    found = settled(rows, seed=seed)
    files = {}
    for split in RATIOS:
        if mine := [one for one in rows if found.split_of(one) == split]:
            files[split] = [write(folder / f"{split}.parquet", mine)]
    assert leaks(files, by=found.by) == []


# -- parts and order --------------------------------------------------------------------------------


def test_partitions() -> None:
    rows = [row(f"r{n}", family_id=f"f{n // 3}") for n in range(300)]
    parts = [[one["trace_id"] for one in rows if in_partition(one, index, 4)] for index in range(4)]
    assert sorted(itertools.chain(*parts)) == sorted(one["trace_id"] for one in rows)
    families = [{int(name[1:]) // 3 for name in part} for part in parts]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(families, 2))
    assert all(40 < len(part) < 110 for part in parts)
    assert in_partition({"trace_id": "a#2"}, 0, 3) == in_partition({"trace_id": "a#3"}, 0, 3)


@pytest.mark.parametrize(("index", "number"), [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_partitions_that_are_none(index: int | None, number: int | None) -> None:
    with pytest.raises(AgentRolloutsError, match="partition"):
        check_partition(index, number)


def test_shuffled() -> None:
    rows = [row(f"r{n}") for n in range(50)]
    order = sorted(rows, key=lambda one: shuffled(one, 1))
    assert order == sorted(order[::2] + order[1::2], key=lambda one: shuffled(one, 1))
    assert order != rows
    assert order != sorted(rows, key=lambda one: shuffled(one, 2))
    check_partition(None, None)
