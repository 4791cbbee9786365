from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given

from agent_rollouts.distill.weights import REASONS, to_axolotl, to_ms_swift, to_openai, weigh
from agent_rollouts.features import check_message
from tests.test_evidence import PYTEST_GREEN, PYTEST_RED, any_row
from tests.tool_rows import GO, bash, edit, row, said, step, together, user

REFUSED = "The user doesn't want to proceed with this tool use. The tool use was rejected"
MISSING = "<tool_use_error>String to replace not found in file.</tool_use_error>"


def reasons(found: dict[str, Any]) -> list[str | None]:
    """The reasons of the assistant messages."""
    return [m.get("weight_reason") for m in found["messages"] if m["role"] == "assistant"]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (said("Done."), None),
        (edit(), None),
        (edit(result=MISSING, error=True), "failed_call"),
        (bash("node run.js", "boom", exit_code=1), "failed_call"),
        (bash("pytest --nonsense", "error: unrecognized arguments", exit_code=4), "failed_call"),
        (edit(result=REFUSED, error=True), "refused_call"),
        (step("bash", {"command": "x"}, "Command aborted", error=True), "interrupted"),
        (bash("git push", None), None),
        # They did what they were for.
        (bash("pytest", PYTEST_RED, exit_code=1), None),
        (bash("npx tsc", "a.ts(1,2): error TS2322: x", exit_code=2), None),
        (bash("grep x a.py", "", exit_code=1), None),
        (bash("diff a b", "1c1", exit_code=1), None),
        # The unit is the message.
        (together(edit(), edit("b.py", MISSING, error=True)), None),
        (together(edit(result=MISSING, error=True), edit("b.py", MISSING, error=True)), "failed_call"),
        (together(edit(result=MISSING, error=True), edit("b.py", REFUSED, error=True)), "refused_call"),
        (said("API Error: 529 overloaded"), "api_error"),
        (said("You've reached your usage limit"), "api_error"),
        (said("API Error: 529 is what the log holds; see " + "x" * 1000), None),
        (said("Hello", origin="synthetic"), "injected"),
        # What is there already stays.
        (said("Done.", weight=0, weight_reason="superseded"), "superseded"),
        ([edit(result=MISSING, error=True)[0] | {"weight": 0, "weight_reason": "copied_context"}], "copied_context"),
    ],
)
def test_reasons(part: Any, reason: str | None) -> None:
    kind = "pi_coding_agent" if "aborted" in str(part) else "claude_code"
    found = weigh(row(user(GO), part, kind=kind))
    assert reasons(found) == [reason]
    assert reason is None or reason in REASONS
    for message in found["messages"]:
        check_message(message)


def test_the_third_time_is_a_loop() -> None:
    looks = [bash("git status", "clean") for _ in range(4)]
    assert reasons(weigh(row(user(GO), *looks))) == [None, None, "loop", "loop"]
    assert reasons(weigh(row(user(GO), *looks[:3], edit(), looks[3]))) == [None, None, "loop", None, None]
    tests = [bash("pytest", PYTEST_RED, exit_code=1) for _ in range(3)]
    assert reasons(weigh(row(user(GO), *tests))) == [None, None, "loop"]
    pairs = [together(bash("ls", "a"), bash("cat a", "x")) for _ in range(3)]
    assert reasons(weigh(row(user(GO), *pairs))) == [None, None, "loop"]


def test_failed_calls_are_kept_on_request() -> None:
    found = row(user(GO), edit(result=MISSING, error=True), edit(result=REFUSED, error=True), edit())
    assert reasons(weigh(found)) == ["failed_call", "refused_call", None]
    assert reasons(weigh(found, keep_failed_calls=True)) == [None, "refused_call", None]
    again = row(user(GO), *(edit(result=MISSING, error=True) for _ in range(3)))
    assert reasons(weigh(again, keep_failed_calls=True)) == [None, None, "loop"]


def test_codex_words() -> None:
    parts = [
        step("shell", {"command": ["rm", "a"]}, "exec command rejected by user"),
        step("shell", {"command": ["bash", "-lc", "pytest"]}, f"Exit code: 1\nWall time: 1 s\nOutput:\n{PYTEST_RED}"),
        step("shell", {"command": ["bash", "-lc", "pytest"]}, f"Exit code: 0\nWall time: 1 s\nOutput:\n{PYTEST_GREEN}"),
        step("shell", {"command": ["ls", "x"]}, '{"output":"no","metadata":{"exit_code":2}}'),
    ]
    assert reasons(weigh(row(user(GO), *parts, kind="codex"))) == ["refused_call", None, None, "failed_call"]


@given(any_row())
def test_only_weights_change(found: dict[str, Any]) -> None:
    before = copy.deepcopy(found)
    weighed = weigh(found)
    assert found == before
    assert {**weighed, "messages": None} == {**found, "messages": None}
    for old, new in zip(found["messages"], weighed["messages"], strict=True):
        assert {k: v for k, v in new.items() if not k.startswith("weight")} == old
        assert new == old or (new["role"] == "assistant" and new["weight"] == 0 and new["weight_reason"] in REASONS)
    assert weigh(weighed) == weighed
    for rename in (to_axolotl, to_ms_swift, to_openai):
        for old, new in zip(weighed["messages"], rename(weighed["messages"]), strict=True):
            assert all(new[key] == old[key] for key in ("role", "content"))


def test_the_trainers_own_keys() -> None:
    messages = [user(GO), said("No", weight=0, weight_reason="loop"), user("Go on"), said("Yes")]
    plain = [user(GO), said("No"), user("Go on"), said("Yes")]
    assert to_axolotl(messages) == [m | {"train": i == 3} for i, m in enumerate(plain)]
    assert to_ms_swift(messages) == [plain[0], plain[1] | {"loss": False}, plain[2], plain[3] | {"loss": True}]
    assert to_openai(messages) == [plain[0], plain[1] | {"weight": 0}, plain[2], plain[3] | {"weight": 1}]
