"""`assemble` on any sequence of events: whatever a decoder yields, rows are whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts import events as e
from agent_rollouts.features import check_message, table
from agent_rollouts.rollout import BRANCHES, HISTORIES, Rollout, assemble

NODES = st.integers(0, 6)
AT = st.builds(
    e.At,
    id=st.sampled_from([None, "m1", "m2", "m3"]),
    timestamp=st.sampled_from([None, "2026-01-01T00:00:00.000Z", "2025-12-31T23:59:59+02:00", 1767225600.5, "soon"]),
    node=NODES,
    origin=st.sampled_from([None, "reminder"]),
    weight_reason=st.sampled_from([None, "synthetic"]),
    replayed=st.booleans(),
)
PICTURES = st.lists(st.just(e.Media("image", "image/png", b"png")), max_size=2)
CALL_IDS = st.sampled_from([None, "c1", "c2"])
PARTS = st.one_of(
    st.builds(
        e.Said, AT, st.sampled_from(["system", "user", "assistant"]), st.sampled_from(["", "yes", "no\nno"]), PICTURES
    ),
    st.builds(e.Thought, AT, st.sampled_from(["hm", "so"])),
    st.builds(e.Called, AT, CALL_IDS, st.just("ls"), st.sampled_from([{"path": "a"}, {"n": 2**70}, "raw"])),
    st.builds(e.Returned, AT, CALL_IDS, st.sampled_from(["out", ""]), PICTURES),
)
OTHERS = st.one_of(
    st.builds(e.Rewound, st.integers(-1, 3)),
    st.builds(e.Interrupted),
    st.builds(e.Start, st.sampled_from(["", "side"])),
    st.builds(e.Skipped, st.just("record: odd"), st.just("2026-01-01T00:00:00Z")),
    st.builds(e.Used, st.sampled_from(["m1", "m2"]), st.just({"input_tokens": 3, "output_tokens": "many"})),
    st.builds(e.Facts, st.fixed_dictionaries({"cwd": st.just("/work"), "model": st.sampled_from(["a", "b", 3])})),
    st.builds(e.Branched, st.frozensets(NODES), st.lists(st.frozensets(NODES), max_size=2)),
    st.builds(
        e.Compacted,
        st.just({}),
        st.lists(PARTS, max_size=3),
        st.frozensets(NODES),
        head=st.frozensets(NODES),
        node=st.integers(-1, 6),
    ),
    st.builds(e.Edited, AT, NODES, st.sampled_from([None, "", "edited"]), PICTURES),
    st.builds(e.End),
)


def hold_whole(rollout: Rollout) -> None:
    """Every message is valid, results stand behind their call, ids are unique, and media are there."""
    waiting: list[str] = []
    seen: set[str] = set()
    for message in rollout.messages:
        check_message(message)
        assert all(index < len(rollout.media) for index in message.get("media", ()))
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting
            waiting = waiting[waiting.index(message["tool_call_id"]) + 1 :]
        else:
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            assert seen.isdisjoint(waiting)
            assert len(set(waiting)) == len(waiting)
            seen.update(waiting)
    assert sum(len(message.get("media", ())) for message in rollout.messages) == len(rollout.media)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PARTS, PARTS, OTHERS), max_size=25), st.sampled_from(HISTORIES), st.sampled_from(BRANCHES))
def test_rows_are_whole(events: list[e.Event], history: str, branches: str) -> None:
    rollouts = list(assemble(events, history=history, branches=branches))
    for rollout in rollouts:
        hold_whole(rollout)
    if rollouts:
        assert len(table(rollouts)) == len(rollouts)


@settings(max_examples=100, deadline=None)
@given(st.lists(PARTS.map(lambda part: part._replace(at=part.at._replace(replayed=False))), max_size=25))
def test_histories_are_one_without_a_compaction(events: list[e.Event]) -> None:
    found = [[list(r.messages) for r in assemble(events, history=history)] for history in HISTORIES]
    assert found[0] == found[1] == found[2]


def test_unknown_options_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match="full, segments, context"):
        list(assemble([], history="half"))
    with pytest.raises(ValueError, match="active, all"):
        list(assemble([], branches="some"))
