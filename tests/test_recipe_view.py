"""A whole rollout within a budget, for rollouts of any length."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.recipe.view import LEAST, Line, clip, conversation, fit, view
from agent_rollouts.distill.windows import Tokens
from tests.tool_rows import GO, bash, edit, row, said, step, user

RED, GREEN = "F.\n=== 1 failed, 1 passed in 0.12s ===\n", "..\n=== 2 passed in 0.12s ===\n"


def tokens(text: str) -> int:
    return Tokens.estimate().texts([text])[0]


texts = st.one_of(
    st.text(max_size=40),
    st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=8), st.integers(0, 2000)),
)
steps = st.one_of(
    st.builds(user, texts, origin=st.sampled_from(["queued", "reminder"])),
    st.builds(said, texts, reasoning_content=texts),
    st.builds(step, st.sampled_from(["Read", "grep" * 9, "é"]), st.dictionaries(texts, texts, max_size=3), texts),
    st.builds(lambda t, code: bash(t, t, exit_code=code), texts, st.integers(0, 2)),
    st.builds(lambda t: {"role": "tool", "content": t, "tool_call_id": "nobody"}, texts),
    st.builds(lambda t: {"role": "system", "content": t}, texts),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=12), st.integers(1, 60), st.integers(LEAST, 4000))
@example([], 1, LEAST)
@example([bash("pytest", RED, exit_code=1)], 2000, LEAST)
def test_it_fits_whatever_the_rollout(parts: list[Any], times: int, budget: int) -> None:
    rollout = row(user(GO), *parts * times)
    shown = view(rollout, budget)
    assert tokens(shown) <= budget
    assert "# Task" in shown
    assert "# End" in shown


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(Line, texts, st.booleans(), st.sampled_from(["a", "b" * 200, "ü"])), max_size=60), st.data())
def test_lines_fit_and_gaps_count_what_is_missing(lines: list[Line], data: st.DataObject) -> None:
    lines = [line._replace(text=f"{number}|" + " ".join(line.text.split())) for number, line in enumerate(lines)]
    size = data.draw(st.integers(0, 4000))
    kept = fit(lines, size)
    assert sum(len(line.encode("utf-8", "replace")) + 1 for line in kept) <= max(size, 0)
    if size > 300:
        gaps = sum(int(line.split()[1]) for line in kept if line.startswith("… "))
        shown = [int(line.split("|")[0]) for line in kept if not line.startswith("… ")]
        assert shown == sorted(shown)
        assert len(shown) + gaps == len(lines)


@given(texts, st.integers(0, 300))
def test_a_text_is_cut_to_size(text: str, size: int) -> None:
    cut = clip(text, size)
    assert len(cut.encode("utf-8", "replace")) <= size
    assert cut == text or len(text.encode("utf-8", "replace")) > size


def test_what_a_view_shows() -> None:
    rollout = row(
        {"role": "system", "content": "Be kind." * 100},
        user(GO),
        said("I look at it.", reasoning_content="hm"),
        bash("pytest -q", RED, exit_code=1),
        edit("total.py"),
        user("<reminder>", origin="reminder"),
        bash("pytest -q", GREEN),
        said("The total is right now."),
        project_path="/work/shop",
        model="some-model",
    )
    before = copy.deepcopy(rollout)
    assert view(rollout, 1000) == view(evidence(rollout), 1000)
    assert rollout == before
    lines = view(rollout, 1000).splitlines()
    assert lines[:3] == ["agent: claude_code", "model: some-model", "project: /work/shop"]
    assert lines[lines.index("# Task [1]") + 1] == GO
    start = lines.index("# Steps")
    assert lines[start + 1 : start + 9] == [
        "[0] system: 800 characters",
        "[1] user: the task, above",
        "[2] says: I look at it.",
        "[3] Bash: pytest -q → failed (exit code 1): F. === 1 failed, 1 passed in 0.12s ===",
        '[5] Edit: {"file_path":"total.py","old_string":"a","new_string":"b"} → ok: The file was updated.',
        "[7] user (reminder): <reminder>",
        "[8] Bash: pytest -q → ok: .. === 2 passed in 0.12s ===",
        "[10] says: the end, below",
    ]
    assert "[3] Bash, reached at [9]: F. === 1 failed, 1 passed in 0.12s ===" in lines
    assert lines[lines.index("# Evidence") + 1 :][:2] == ["outcome: success", "tests_passed [9]: pytest"]
    assert lines[-2:] == ["# End [10]", "The total is right now."]


def test_what_tells_stays_where_not_all_fits() -> None:
    quiet = [step("Read", {"file_path": f"file{n}.py"}, "text " * 50) for n in range(400)]
    rollout = row(user(GO), *quiet[:200], bash("pytest -q", RED, exit_code=1), *quiet[200:], said("Done."))
    shown = view(rollout, 2000)
    assert "[401] Bash: pytest -q" in shown.split("# Errors")[0]
    assert "not shown: Read" in shown
    assert tokens(shown) > 1000


def test_a_conversation_keeps_its_ends() -> None:
    messages = row(user("the first"), *[step("Read", {"n": n}, "x" * 500) for n in range(300)], user("the last"))
    shown = conversation(messages["messages"], 500)
    assert tokens(shown) <= 500
    assert shown.startswith("user: the first\nassistant:  → Read")
    assert shown.endswith("user: the last")
