"""Families: every turn owned once, and nothing that belongs together torn apart."""

from __future__ import annotations

import copy
import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_rollouts.distill.families import ROLES, Families, Key, Verdict, key, own, resolve
from agent_rollouts.errors import AgentRolloutsError
from tests.family_trees import FORMATS, Forest, forest

SEEDS = st.integers(0, 2**32)


def settled(rows: list[dict[str, Any]]) -> dict[Key, Verdict]:
    families = Families()
    for row in rows:
        families.add(row)
    return families.settle()


def owned_turns(found: Forest, verdicts: dict[Key, Verdict]) -> list[tuple[int, int]]:
    """The model turns that the rows own, as their weights say."""
    owned = []
    for row, turns in zip(found.rows, found.turns, strict=True):
        verdict = verdicts[key(row)]
        if verdict.owned_from is None:
            continue
        answers = [message for message in own(row, verdict)["messages"] if message["role"] == "assistant"]
        mine = [turn for turn, answer in zip(turns, answers, strict=True) if answer.get("weight") != 0]
        assert len(mine) == verdict.turns
        owned += mine
    return owned


@settings(max_examples=150, deadline=None)
@example(659, 3)  # an id of eight decimal digits
@given(SEEDS, st.integers(1, 6))
def test_every_turn_is_owned_once(seed: int, families: int) -> None:
    found = forest(seed, families)
    verdicts = settled(found.rows)
    owned = owned_turns(found, verdicts)
    assert Counter(owned) == Counter({turn for turns in found.turns for turn in turns})
    ids = [verdicts[key(row)].family_id for row in found.rows]
    for a, family_a in zip(ids, found.families, strict=True):
        for b, family_b in zip(ids, found.families, strict=True):
            assert (a == b) == (family_a == family_b)
    for row, kind in zip(found.rows, found.kinds, strict=True):
        role = verdicts[key(row)].family_role
        assert role in ROLES
        assert (role in ("snapshot", "duplicate")) == (verdicts[key(row)].owned_from is None)
        if kind == "subagent":
            assert role == "subagent"
        if kind == "duplicate" and role not in ("duplicate", "snapshot"):
            # Of two equal ones either may be the one that stays.
            assert role in ("root", "resumed", "forked")


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.randoms(use_true_random=False))
def test_order_does_not_matter(seed: int, chance: random.Random) -> None:
    found = forest(seed, 4)
    rows = list(found.rows)
    chance.shuffle(rows)
    assert settled(rows) == settled(found.rows)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 10))
def test_saved_and_extended(tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int) -> None:
    found = forest(seed, 3)
    path = tmp_path_factory.mktemp("state") / "families.parquet"
    families = Families()
    for row in found.rows[:cut]:
        families.add(row)
    families.files["a.jsonl"] = "7"
    families.save(path)
    families = Families.load(path)
    assert families.files == {"a.jsonl": "7"}
    for row in found.rows[cut:]:
        families.add(row)
    assert families.settle() == settled(found.rows)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_family_id_stays_when_rows_come_later(seed: int) -> None:
    """As long as the root is the same: the first rows of a forest hold it."""
    found = forest(seed, 1)
    whole = settled(found.rows)
    root = next(name for name, verdict in whole.items() if verdict.family_role == "root")
    for count in range(1, len(found.rows)):
        some = settled(found.rows[:count])
        if any(name == root and verdict.family_role == "root" for name, verdict in some.items()):
            assert some[root].family_id == whole[root].family_id


def session(trace_id: str, *said: str, kind: str = "codex", copied: int = 0, **columns: Any) -> dict[str, Any]:
    """Texts become prompts and answers by turns; the first `copied` are marked as copies."""
    messages: list[dict[str, Any]] = []
    for index, text in enumerate(said):
        message: dict[str, Any] = {"role": "assistant" if index % 2 else "user", "content": text}
        messages.append(message | ({"weight": 0, "weight_reason": "copied_context"} if index < copied else {}))
    path = f"f/{trace_id}.jsonl"
    return {"trace_id": trace_id, "source_kind": kind, "source_path": path, "messages": messages} | columns


def shown(rows: list[dict[str, Any]]) -> dict[str, tuple[str, int | None]]:
    return {name.trace_id: (v.family_role, v.owned_from) for name, v in settled(rows).items()}


A, B, C, D = ("q1", "a1"), ("q2", "a2"), ("q3", "a3"), ("q4", "a4")


def test_forks_of_a_parent_that_is_there() -> None:
    rows = [
        session("parent", *A, *B),
        session("resumed", *A, *B, *C, copied=4, parent_trace_id="parent"),
        session("forked", *A, *D, copied=2, parent_trace_id="parent"),
    ]
    assert shown(rows) == {"parent": ("root", 0), "resumed": ("resumed", 4), "forked": ("forked", 2)}


def test_forks_of_a_parent_that_is_gone() -> None:
    """What it said is owned by the longer of its forks."""
    rows = [
        session("one", *A, *B, *C, copied=2, parent_trace_id="gone", root_session_id="gone"),
        session("two", *A, *D, copied=2, parent_trace_id="gone", root_session_id="gone"),
    ]
    assert shown(rows) == {"one": ("root", 0), "two": ("forked", 2)}
    verdicts = settled(rows)
    first = own(rows[0], verdicts[key(rows[0])])
    assert not any("weight" in message for message in first["messages"])
    assert [message.get("weight_reason") for message in rows[0]["messages"]][:2] == ["copied_context"] * 2
    second = own(rows[1], verdicts[key(rows[1])])
    assert [message.get("weight") for message in second["messages"]] == [0, 0, None, None]


def test_snapshots_and_duplicates_name_their_owner() -> None:
    rows = [session("s:0", *A), session("s:1", *A, *B), session("t:0", *A, *B)]
    verdicts = settled(rows)
    assert shown(rows) == {"s:0": ("snapshot", None), "s:1": ("root", 0), "t:0": ("duplicate", None)}
    assert {v.owner.trace_id for v in verdicts.values() if v.owner} == {"s:1"}
    assert [row["trace_id"] for row in resolve(lambda: rows)] == ["s:1"]


def test_equal_prompts_are_no_family() -> None:
    rows = [session("one", "hi", "hello"), session("two", "hi", "good day")]
    assert shown(rows) == {"one": ("root", 0), "two": ("root", 0)}
    assert len({v.family_id for v in settled(rows).values()}) == 2


def test_sessions_with_ids_of_their_own_may_say_the_same() -> None:
    """Enveloped Codex files name their thread: equal ones were said twice, unless one says that it copies."""
    meta = {"cli_version": "0.130.0"}
    rows = [session(name, *A, source_meta=meta) for name in ("one", "two")]
    assert shown(rows) == {"one": ("root", 0), "two": ("root", 0)}
    assert len({v.family_id for v in settled(rows).values()}) == 2
    bare = session("bare", *A)
    assert shown([rows[0], bare]) == {"bare": ("root", 0), "one": ("duplicate", None)}


def test_windows_and_branches_of_a_file() -> None:
    rows = [
        session("s", *A, *B, source_meta={"compactions": [{"segment": 1}]}),
        session("s#1", *B, *C, copied=2, source_path="f/s.jsonl", source_meta={"compactions": [{"segment": 1}]}),
        session("t", *A[::-1], *D),
        session("t#1", *A[::-1], *C, copied=2, source_path="f/t.jsonl"),
    ]
    assert shown(rows) == {"s": ("root", 0), "s#1": ("continued", 2), "t": ("root", 0), "t#1": ("forked", 2)}


def test_copies_that_atif_forbids_to_train_on_are_owned_by_nobody() -> None:
    rows = [session("cont-1", *A, *B, kind="atif", copied=2, parent_trace_id="main")]
    assert shown(rows) == {"cont-1": ("root", 2)}


def test_a_claude_code_file_that_begins_with_another_session() -> None:
    """The file itself tells where its first turns were produced."""
    rows = [
        session("one", *A, kind="claude_code"),
        session("two", *A, *B, kind="claude_code", source_meta={"session_ids": ["one", "two"]}),
    ]
    assert shown(rows) == {"one": ("root", 0), "two": ("resumed", 2)}


def test_subagents_both_ways() -> None:
    meta = {"spawned_by": "call_7", "agent_type": "explorer"}
    rows = [
        session("main", *A),
        session("sub", *B, parent_trace_id="main", is_sidechain=True, source_meta=meta),
        session("subsub", "q1", "a2", parent_trace_id="sub", is_sidechain=True),
    ]
    main, sub, subsub = (settled(rows)[key(row)] for row in rows)
    assert (main.depth, sub.depth, subsub.depth) == (0, 1, 2)
    assert main.children == (key(rows[1]),)
    assert sub.children == (key(rows[2]),)
    assert (sub.parent, sub.spawned_by, sub.agent_type) == (key(rows[0]), "call_7", "explorer")
    assert len({v.family_id for v in (main, sub, subsub)}) == 1


def test_an_export_without_ids_is_a_copy() -> None:
    row = session("0198a000-0000-7000-8000-000000000001", *A, *B, kind="claude_code")
    for index, message in enumerate(row["messages"]):
        message["id"] = f"0198b000-0000-7000-8000-00000000000{index}"
    assert shown([row, session("export:0", *A, kind="chat_completions")]) == {
        row["trace_id"]: ("root", 0),
        "export:0": ("snapshot", None),
    }


def test_prompts_with_one_id_must_say_the_same() -> None:
    """Invented sessions count their ids from one."""
    rows = [session("one", "q1", "a1", kind="claude_code"), session("two", "q2", "a2", kind="claude_code")]
    for row in rows:
        row["messages"][0]["id"] = "00000000-0000-4000-8000-000000000001"
    assert len({v.family_id for v in settled(rows).values()}) == 2


def test_names_that_people_give_mean_their_folder() -> None:
    rows = [
        session("main", *A),
        session("main", *B, source_path="g/main.jsonl"),
        session("sub", *C, source_path="g/sub.jsonl", parent_trace_id="main", is_sidechain=True),
    ]
    verdicts = settled(rows)
    assert verdicts[key(rows[2])].parent == key(rows[1])
    assert verdicts[key(rows[0])].family_id != verdicts[key(rows[1])].family_id


def test_messages_as_text_stay_text() -> None:
    rows = [session("one", *A, *B), session("two", *A, *C, *D)]
    texts = [row | {"messages": [orjson.dumps(message).decode() for message in row["messages"]]} for row in rows]
    assert settled(texts) == settled(rows)
    for found, text in zip(resolve(lambda: rows), resolve(lambda: texts), strict=True):
        assert [orjson.loads(message) for message in text["messages"]] == found["messages"]


def test_rows_are_not_changed() -> None:
    found = forest(3, 3)
    before = copy.deepcopy(found.rows)
    list(resolve(lambda: found.rows))
    assert found.rows == before


def test_nothing_and_empty() -> None:
    assert Families().settle() == {}
    assert shown([session("empty")]) == {"empty": ("snapshot", None)}


def test_a_file_that_is_no_state(tmp_path: Path) -> None:
    families = Families()
    families.add(session("s", *A))
    families.save(tmp_path / "f.parquet")
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(tmp_path / "f.parquet").replace_schema_metadata({}), tmp_path / "g.parquet")
    with pytest.raises(AgentRolloutsError, match=r"g\.parquet holds no families"):
        Families.load(tmp_path / "g.parquet")


def test_every_format_of_the_forest_is_used() -> None:
    found = forest(0, 60)
    assert {row["source_kind"] for row in found.rows} == set(FORMATS)
    assert set(found.kinds) == {"root", "resumed", "forked", "snapshot", "duplicate", "subagent"}
