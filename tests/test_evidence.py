from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from datasets import Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from agent_rollouts.distill import runners, shell
from agent_rollouts.distill.calls import STATES, calls
from agent_rollouts.distill.evidence import (
    COLUMNS,
    EVIDENCE_FEATURES,
    OUTCOMES,
    RULES,
    evidence,
    rules_table,
    runners_table,
)
from tests.tool_rows import GO, bash, edit, row, said, step, together, user

PYTEST_RED = "F.\n=== 1 failed, 1 passed in 0.12s ===\n"
PYTEST_GREEN = "..\n=== 2 passed in 0.12s ===\n"


def kinds(found: dict[str, Any]) -> list[str]:
    return [item["kind"] for item in found["outcome_evidence"]]


def outcome(*parts: Any, **columns: Any) -> str:
    return evidence(row(user(GO), *parts, **columns))["outcome"]


GREEN_AND_RED = {
    "pytest": ("pytest -q", PYTEST_GREEN, PYTEST_RED),
    "pytest quiet": ("uv run pytest -q", "2 passed in 0.12s\n", "1 failed in 0.12s\n"),
    "pytest errors": (
        "python -m pytest",
        "1 passed, 2 warnings in 3 seconds\n",
        "2 passed, 1 error in 1.02s (0:00:01)\n",
    ),
    "unittest": (
        "python3 -m unittest",
        "..\n---\nRan 2 tests in 0.1s\n\nOK\n",
        "Ran 2 tests in 0.1s\n\nFAILED (failures=1)\n",
    ),
    "django": ("python manage.py test", "Ran 2 tests in 0.1s\n\nOK\n", "Ran 2 tests in 0.1s\n\nFAILED (errors=1)\n"),
    "jest": (
        "npx jest",
        "Test Suites: 1 passed, 1 total\nTests:       3 passed, 3 total\nSnapshots:   0 total\n",
        "Test Suites: 1 failed, 1 total\nTests:       3 passed, 3 total\n",
    ),
    "vitest": (
        "npx vitest run",
        " Test Files  1 passed (1)\n      Tests  7 passed (7)\n   Start at  10:00:00\n",
        " Test Files  1 passed (1)\n      Tests  7 passed (7)\n     Errors  1 error\n",
    ),
    "mocha": ("npx mocha", "  2 passing (5ms)\n", "  1 passing (5ms)\n  1 failing\n\n  1) adds\n"),
    "go": (
        "go test ./...",
        "?   \tx/a\t[no test files]\nok  \tx/b\t0.1s\nok  \tx/c\t(cached)\n",
        "ok  \tx/b\t0.1s\n--- FAIL: TestAdd (0.00s)\nFAIL\nFAIL\tx/c\t0.1s\nFAIL\n",
    ),
    "cargo": (
        "cargo test",
        "test result: ok. 3 passed; 0 failed; 0 ignored\n\ntest result: ok. 0 passed; 0 failed\n",
        "test result: ok. 3 passed; 0 failed\ntest result: FAILED. 1 passed; 1 failed\n",
    ),
    "nextest": (
        "cargo nextest run",
        "     Summary [   0.1s] 3 tests run: 3 passed, 0 skipped\n",
        "     Summary [   0.1s] 3 tests run: 2 passed, 1 failed, 0 skipped\n",
    ),
    "rspec": ("bundle exec rspec", "2 examples, 0 failures\n", "2 examples, 1 failure, 1 pending\n"),
    "minitest": (
        "bin/rails test",
        "4 runs, 9 assertions, 0 failures, 0 errors, 0 skips\n",
        "4 runs, 9 assertions, 1 failures, 0 errors, 0 skips\n",
    ),
    "ctest": (
        "ctest --test-dir build",
        "100% tests passed, 0 tests failed out of 4\n",
        "75% tests passed, 1 tests failed out of 4\n",
    ),
    "maven": (
        "mvn -q clean test",
        "[INFO] Tests run: 4, Failures: 0, Errors: 0, Skipped: 0\n[INFO] BUILD SUCCESS\n",
        "[ERROR] Tests run: 4, Failures: 1, Errors: 0, Skipped: 0\n[INFO] BUILD FAILURE\n",
    ),
    "gradle": ("./gradlew test", "BUILD SUCCESSFUL in 3s\n", "BUILD FAILED in 3s\n"),
    "phpunit": (
        "vendor/bin/phpunit",
        "OK (4 tests, 9 assertions)\n",
        "FAILURES!\nTests: 4, Assertions: 9, Failures: 1.\n",
    ),
    "node": ("node --test", "# pass 3\n# fail 0\n# cancelled 0\n", "# pass 2\n# fail 1\n# cancelled 0\n"),
    "bun": ("bun test", " 3 pass\n 0 fail\nRan 3 tests\n", " 2 pass\n 1 fail\n"),
    "deno": ("deno test -A", "ok | 3 passed | 0 failed (10ms)\n", "FAILED | 2 passed | 1 failed (10ms)\n"),
    "dotnet": (
        "dotnet test",
        "Passed!  - Failed:     0, Passed:     3, Skipped:     0\n",
        "Failed!  - Failed:     1, Passed:     2, Skipped:     0\n",
    ),
    "swift": (
        "swift test",
        "\t Executed 3 tests, with 0 failures (0 unexpected) in 0.1 (0.1) seconds\n",
        "\t Executed 3 tests, with 1 failure (0 unexpected) in 0.1 (0.1) seconds\n",
    ),
    "playwright": ("npx playwright test", "  3 passed (2.1s)\n", "  1 failed\n    a.spec.ts\n  2 passed (2.1s)\n"),
    "npm": (
        "npm test",
        "> jest\n\nTest Suites: 1 passed, 1 total\nTests: 3 passed, 3 total\n",
        "> jest\nTests: 1 failed, 3 total\n",
    ),
    "make": ("make test", "pytest -q\n2 passed in 0.12s\n", "pytest -q\n1 failed in 0.12s\nmake: *** [test] Error 1\n"),
    "tox": ("tox", "py310: 2 passed in 0.1s\n2 passed in 0.1s\n", "1 failed, 1 passed in 0.1s\n2 passed in 0.1s\n"),
    "tsc": ("npx tsc --noEmit", "", "a.ts(1,2): error TS2322: Type 'a'\n"),
    "mypy": (
        "mypy .",
        "Success: no issues found in 3 source files\n",
        "Found 2 errors in 1 file (checked 3 source files)\n",
    ),
    "ruff": ("ruff check .", "All checks passed!\n", "Found 2 errors.\n"),
    "cargo build": ("cargo build", "    Finished dev profile\n", "error: could not compile `x`\n"),
    "npm run build": ("npm run build", "built in 3s\n", "Unexpected token\n"),
}
SILENT = {"tsc", "npm run build"}


def passed(script: str, output: str, exit_code: int | None) -> list[bool | None]:
    return [run.passed for run in runners.runs(shell.commands(script, "/work"), output, exit_code)]


@pytest.mark.parametrize("case", GREEN_AND_RED)
def test_totals_of_every_runner(case: str) -> None:
    script, green, red = GREEN_AND_RED[case]
    assert passed(script, green, 0) == [True]
    assert passed(script, red, 1) == [False]
    # What another program printed is nobody's totals.
    assert passed("cat log", green, 0) == []
    # A colour changes nothing.
    assert passed(script, f"\x1b[32m{green}\x1b[0m", 0) == [True]
    if case not in SILENT:
        assert passed(script, "nothing of note\n", None) == [None]
        # The totals and the exit code contradict each other.
        assert passed(script, green, 1) == [None]
        assert passed(script, red, 0) == [None]
        # The exit code is hidden, the totals are not.
        assert passed(f"{script} || true", red, 0) == [False]


@pytest.mark.parametrize("case", sorted(GREEN_AND_RED))
def test_red_then_green_is_green(case: str) -> None:
    script, green, red = GREEN_AND_RED[case]
    found = evidence(row(user(GO), bash(script, red, exit_code=1), edit(), bash(script, green)))
    told = [item for item in found["outcome_evidence"] if item["kind"].endswith(("_passed", "_failed"))]
    assert [item["kind"].split("_")[1] for item in told] == ["passed"]
    assert told[0]["message_index"] == 6
    assert found["error_recoveries"] == [{"failed": 1, "recovered": 6}]
    assert found["tool_error_count"] == 1
    if told[0]["kind"] == "tests_passed":
        assert found["outcome"] == "success"
        back = evidence(row(user(GO), bash(script, green), edit(), bash(script, red, exit_code=1)))
        assert (back["outcome"], back["error_recoveries"]) == ("failure", [])


@pytest.mark.parametrize(
    ("script", "output", "exit_code", "expected"),
    [
        ("pytest | tail -3", "2 passed in 0.1s", 0, True),
        ("pytest | head -20", "collected 2 items", 0, None),
        ("pytest > log; tail log", "2 passed in 0.1s", 0, None),
        ("pytest --collect-only", "2 passed in 0.1s", 0, "no run"),
        ("pytest", "no tests ran in 0.1s", 5, None),
        ("pytest", "3 skipped in 0.1s", 0, None),
        ("pytest", "a test printed:\n9 failed in 1.0s\n2 passed in 0.1s\n", 0, True),
        ("pytest a; pytest b", "1 failed in 1.0s\n2 passed in 0.1s\n", 0, (False, True)),
        ("pytest a; pytest b", "1 failed in 1.0s\n", 0, (None, None)),
        ("pytest; npm test", "2 passed in 0.1s\nTests: 1 failed, 1 total\n", 1, (True, False)),
        ("ruff check .; ty check", "Found 1 error.\nAll checks passed!\n", 0, (None, True)),
        ("ruff check . && mypy .", "All checks passed!\nFound 1 error in 1 file\n", 1, (True, False)),
        ("go test ./... | tail -2", "ok  \ta\t0.1s\nok  \tb\t0.1s\n", 0, True),
        ("go test ./... | grep ok", "ok  \ta\t0.1s\nok  \tb\t0.1s\n", 0, None),
        ("go test ./... | grep FAIL", "FAIL\tx/c\t0.1s\n", 0, False),
        ("go test -run X ./...", "ok  \ta\t0.1s [no tests to run]\n", 0, None),
        ("go test ./... -v", "=== RUN TestA\n<persisted-output>\nToo large\n", 0, True),
        ("npx jest | tail -1", "Tests:       3 passed, 3 total", 0, None),
        ("npm test", "Error: no test specified", 1, None),
        ("npm run deploy", "2 passed in 0.1s", 0, "no run"),
        ("npm run check", "fine", 0, True),
        ("npm run build | tail -1", "fine", 0, None),
        ("cd nowhere && npm run build", "cd: nowhere: No such file or directory", 1, None),
        ("npm run build", "npm error Missing script: build", 1, None),
        ("mypy nowhere", "mypy: command not found", 127, None),
        ("ruff check a.py", "a.py:1:1: E902 No such file or directory\nFound 1 error.", 1, None),
        ("timeout 5 npm run build", "", 124, None),
        ("echo pytest", "2 passed in 0.1s", 0, "no run"),
        ("./run_pytest.sh", "2 passed in 0.1s", 0, "no run"),
    ],
)
def test_what_hides_or_fakes_totals(script: str, output: str, exit_code: int, expected: Any) -> None:
    found = passed(script, output, exit_code)
    assert found == ([] if expected == "no run" else list(expected) if isinstance(expected, tuple) else [expected])


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ("pytest", "pytest tests/test_a.py::test_b", True),
        ("pytest -q -x", "pytest", True),
        ("pytest tests", "pytest tests/test_a.py", True),
        ("pytest tests/test_a.py", "pytest", False),
        ("pytest -k total", "pytest", False),
        ("pytest -k total", "pytest -k total", True),
        ("pytest", "pytest -k total", True),
        ("cd other && pytest", "pytest", False),
        ("cd /work && pytest", "pytest", True),
        ("go test ./...", "go test ./a", True),
        ("go test ./a/...", "go test ./a/b", True),
        ("go test ./a", "go test ./...", False),
        ("npm test", "npx jest total.test.ts", True),
        ("npm run test:unit", "npm test", False),
        ("npm test -- total.test.ts", "npm test", False),
        ("npx vitest run", "npx jest", False),
        ("mvn test", "mvn -q test", True),
    ],
)
def test_which_run_takes_the_place_of_another(new: str, old: str, expected: bool) -> None:
    output = "Test Suites: 1 passed, 1 total\nTests: 3 passed, 3 total\n"
    [one], [other] = (runners.runs(shell.commands(script, "/work"), output, 0) for script in (new, old))
    assert one.covers(other) is expected


PATHS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(lambda parts: "/".join(["/work", *parts]))
RUNS = st.builds(
    runners.Run,
    st.just("tests"),
    st.sampled_from(["pytest", "jest"]),
    PATHS | st.sampled_from(["", "."]),
    st.frozensets(PATHS, max_size=2),
    st.frozensets(st.just("-k"), max_size=1),
    st.booleans(),
)


@given(st.lists(RUNS, max_size=8), RUNS)
def test_a_ledger_finds_what_a_search_finds(entered: list[runners.Run], new: runners.Run) -> None:
    ledger = runners.Ledger()
    for place, run in enumerate(entered):
        ledger.add(run, place)
    for key in ledger.covered(entered[0])[1:] if entered else ():
        ledger.drop(key)
    expected = [key for key, (run, _) in ledger.entries.items() if new.covers(run)]
    assert ledger.covered(new) == expected


def test_a_green_run_before_an_edit_proves_nothing() -> None:
    found = evidence(row(user(GO), edit(), bash("pytest", PYTEST_GREEN), edit()))
    assert (found["outcome"], kinds(found)) == ("unknown", ["tests_passed", "edited_after"])
    assert outcome(edit(), bash("pytest", PYTEST_GREEN), edit("README.md")) == "success"
    assert outcome(edit(), bash("pytest", PYTEST_GREEN), edit(error=True)) == "success"
    assert outcome(edit(), bash("pytest", PYTEST_GREEN), bash("sed -i s/a/b/ total.py")) == "unknown"
    assert outcome(edit(), bash("pytest", PYTEST_GREEN), bash("cat > total.py <<'EOF'\nx\nEOF")) == "unknown"
    assert outcome(edit(), bash("pytest", PYTEST_GREEN), bash("echo x > /tmp/x")) == "success"


def test_a_red_run_before_an_edit_proves_nothing() -> None:
    assert outcome(edit(), bash("pytest", PYTEST_RED, exit_code=1), edit()) == "unknown"
    # It was run again, and who knows how.
    again = evidence(row(user(GO), edit(), bash("pytest", PYTEST_RED, exit_code=1), edit(), bash("pytest | head", "…")))
    assert (again["outcome"], kinds(again)) == ("unknown", [])


def test_tests_of_what_nobody_touched_prove_nothing() -> None:
    assert outcome(bash("pytest", PYTEST_GREEN)) == "unknown"
    assert outcome(bash("pytest", PYTEST_RED, exit_code=1)) == "unknown"


def test_the_whole_is_still_red() -> None:
    parts = [edit(), bash("pytest", PYTEST_RED, exit_code=1), edit(), bash("pytest tests/test_a.py", PYTEST_GREEN)]
    found = evidence(row(user(GO), *parts))
    assert (found["outcome"], kinds(found)) == ("unknown", ["tests_failed", "tests_passed"])


def test_a_build_is_enough_when_it_is_handed_over() -> None:
    commit = bash("git add -A && git commit -m 'Round'", "[main 1a2b3c4] Round\n 1 file changed\n")
    found = evidence(row(user(GO), edit(), bash("npm run build", "ok"), commit))
    assert (found["outcome"], kinds(found)) == ("success", ["build_passed", "commit"])
    assert found["outcome_evidence"][1]["value"] == "1a2b3c4"
    assert outcome(edit(), bash("npm run build", "ok")) == "unknown"
    assert outcome(edit(), commit) == "unknown"
    assert outcome(edit(), commit, bash("npm run build", "ok")) == "unknown"
    assert outcome(edit(), bash("npm run build", "no", exit_code=1)) == "failure"


@pytest.mark.parametrize(
    ("script", "result", "kind", "value"),
    [
        ("git commit -m x", "[main (root-commit) 1a2b3c4] x\n", "commit", "1a2b3c4"),
        ("git -C a commit -m x && git push", "[a/b 1a2b3c4] x\nTo …", "commit", "1a2b3c4"),
        ("git commit -m x", "On branch main\nnothing to commit, working tree clean\n", None, None),
        ("git log", "[main 1a2b3c4] x\n", None, None),
        ("echo git commit", "[main 1a2b3c4] x\n", None, None),
        ("gh pr create --fill", "https://github.com/a/b/pull/12\n", "pull_request", "#12"),
        ("gh pr view", "https://github.com/a/b/pull/12\n", None, None),
    ],
)
def test_commits_and_requests(script: str, result: str, kind: str | None, value: str | None) -> None:
    found = evidence(row(user(GO), bash(script, result)))["outcome_evidence"]
    assert [(item["kind"], item["value"]) for item in found] == ([(kind, value)] if kind else [])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"reward": 1.0}, "success"),
        ({"reward": 0.0}, "failure"),
        ({"reward": -1.0}, "failure"),
        ({"reward": 0.5}, "unknown"),
        ({"completed": True}, "unknown"),
        ({"completed": False}, "failure"),
        ({"completed": False, "kind": "codex"}, "interrupted"),
        ({"completed": False, "reward": 1.0}, "success"),
        ({}, "unknown"),
    ],
)
def test_columns(columns: dict[str, Any], expected: str) -> None:
    found = evidence(row(user(GO), said("Done."), **columns))
    assert found["outcome"] == expected
    assert all(item["message_index"] is None for item in found["outcome_evidence"])


@pytest.mark.parametrize(
    "text",
    [
        "thanks",
        "Thank you!",
        "Perfect, thanks a lot!",
        "lgtm",
        "Great, it works now.",
        "ok, looks good to me",
        "Works!",
    ],
)
def test_the_user_accepts(text: str) -> None:
    assert outcome(said("Done."), user(text)) == "success"
    assert outcome(said("Done."), user(text), said("You are welcome.")) == "success"
    # An answer to a question, a word before more work, and a first prompt judge nothing.
    assert outcome(said("Shall I?"), user(text)) == "unknown"
    assert outcome(said("Done."), user(text), bash("ls")) == "unknown"
    assert evidence(row(user(text)))["outcome"] == "unknown"
    assert outcome(said("Done."), user(text), said("Yes."), user("Now the docs")) == "unknown"


@pytest.mark.parametrize(
    "text",
    [
        "thanks, but the total is wrong",
        "does it work?",
        "good idea, do it",
        "yes",
        "ok",
        "make it work",
        "no thanks needed",
    ],
)
def test_the_user_does_not_accept(text: str) -> None:
    assert "user_accepted" not in kinds(evidence(row(user(GO), said("Done."), user(text))))


@pytest.mark.parametrize(
    "text",
    [
        "still failing", "That's wrong.", "no, that is not what I asked for", "It doesn\u2019t work",
        "it still doesn't work", "the button does not work", "you broke the tests", "Revert that",
        "still getting the same error: …", "not working",
    ],
)  # fmt: skip
def test_the_user_corrects(text: str) -> None:
    work = [edit(), bash("pytest", PYTEST_GREEN), said("Done.")]
    assert outcome(*work, user(text)) == "failure"
    assert outcome(*work, user(text), said("Let me see.")) == "unknown"
    assert outcome(*work, user(text), edit(), bash("pytest", PYTEST_GREEN)) == "success"
    assert evidence(row(user(text), *work))["outcome"] == "success"


@pytest.mark.parametrize(
    "text", ["no", "nope, go on", "That is right", "Now revert the old migration too", "wrongly named?"]
)
def test_the_user_does_not_correct(text: str) -> None:
    assert "user_corrected" not in kinds(evidence(row(user(GO), said("Done."), user(text))))


def test_broken_off() -> None:
    stop = user("[Request interrupted by user]", origin="interrupt")
    assert outcome(said("I"), stop) == "interrupted"
    assert outcome(said("I", weight=0, weight_reason="interrupted")) == "interrupted"
    assert outcome(said("I"), stop, user("Go on"), edit(), bash("pytest", PYTEST_GREEN)) == "success"
    assert outcome(said("I"), stop, user("Go on")) == "interrupted"
    refusal = "The user doesn't want to proceed with this tool use. The tool use was rejected"
    assert outcome(edit(result=refusal, error=True)) == "interrupted"
    assert outcome(together(edit(result=refusal, error=True), edit())) == "unknown"
    assert outcome(edit(result=refusal, error=True), said("I see.")) == "unknown"
    assert (
        outcome(step("bash", {"command": "sleep 9"}, "Command aborted", error=True), kind="pi_coding_agent")
        == "interrupted"
    )


def test_errors_and_limits_at_the_end() -> None:
    error = said("API Error: 529 overloaded", weight=0, weight_reason="api_error", origin="synthetic")
    assert outcome(said("I"), error) == "interrupted"
    assert outcome(said("I"), said("API Error: 500 internal")) == "interrupted"
    assert outcome(error, said("Done.")) == "unknown"
    found = evidence(row(user(GO), said("You've hit your session limit · resets 3pm", origin="synthetic")))
    assert (found["outcome"], kinds(found)) == ("interrupted", ["limit"])
    assert outcome(said("The API Error: 500 is what the user sees")) == "unknown"


def test_unanswered_calls() -> None:
    parts = [edit(), bash("pytest", PYTEST_GREEN)]
    found = evidence(row(user(GO), *parts, bash("git push", None)))
    assert (found["outcome"], kinds(found)) == ("unknown", ["tests_passed", "unanswered_call"])
    assert outcome(*parts, step("finish", {"message": "Done"}, None)) == "success"


def test_recoveries() -> None:
    missing = "<tool_use_error>String to replace not found in file.</tool_use_error>"
    found = evidence(
        row(
            user(GO),
            edit(result=missing, error=True),
            edit(result=missing, error=True),
            edit("other.py"),
            edit(),
            bash("node run.js", "boom", exit_code=1),
            bash("node run.js 2>&1 | tail -5", "fine"),
            bash("make deploy", "boom", exit_code=2),
        )
    )
    assert found["error_recoveries"] == [{"failed": 1, "recovered": 8}, {"failed": 9, "recovered": 12}]
    assert found["tool_error_count"] == 4


def test_a_new_prompt_is_a_new_goal_but_tests_stay_red() -> None:
    parts = [edit(error=True), bash("pytest", PYTEST_RED, exit_code=1), user("And the docs"), edit()]
    found = evidence(row(user(GO), *parts, bash("pytest", PYTEST_GREEN)))
    assert found["error_recoveries"] == [{"failed": 3, "recovered": 9}]


def test_loops() -> None:
    look = [bash("git status", "clean") for _ in range(4)]
    assert evidence(row(user(GO), *look))["loop_count"] == 1
    assert evidence(row(user(GO), *look[:2]))["loop_count"] == 0
    # Something new in between, another result, a prompt, and waiting are no loops.
    worked = [
        bash("git status", "clean"),
        edit("a.py"),
        bash("git status", "clean"),
        edit("b.py"),
        bash("git status", "clean"),
    ]
    assert evidence(row(user(GO), *worked))["loop_count"] == 0
    assert evidence(row(user(GO), *(bash("date", str(i)) for i in range(4))))["loop_count"] == 0
    asked = [part for _ in range(3) for part in (user("Again"), bash("git status", "clean"))]
    assert evidence(row(*asked))["loop_count"] == 0
    polls = [step("BashOutput", {"bash_id": "1"}, "(no new output)") for _ in range(4)]
    assert evidence(row(user(GO), *polls))["loop_count"] == 0
    pairs = [part for _ in range(3) for part in (bash("ls", "a"), bash("cat a", "x"))]
    found = evidence(row(user(GO), *pairs))
    assert found["loop_count"] == 2
    assert [item["value"] for item in found["outcome_evidence"]] == ["Bash", "Bash"]


CHUNK = "Chunk ID: a\nWall time: 1 seconds\nProcess exited with code 0\nOutput:\na"
SESSION = "Wall time: 1 seconds\nProcess running with session ID 7\nOutput:\n"
ENDED = "a\n[The command completed with exit code 2.]\n[Current working directory: /]"
GEMINI = "Output: a\nExit Code: 2\nProcess Group PGID: 9"
SHELL_JSON = '{"output":"a","metadata":{"exit_code":%d,"duration_seconds":0.1}}'
REFUSAL = "The user doesn't want to proceed with this tool use."


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "result", "error", "state", "exit_code"),
    [
        ("claude_code", "Bash", {"command": "ls"}, "a", False, "ok", 0),
        ("claude_code", "Bash", {"command": "ls"}, "a", None, "ok", 0),
        ("claude_code", "Bash", {"command": "ls"}, "Exit code 2\nno", True, "failed", 2),
        ("claude_code", "Bash", {"command": "ls"}, "no", True, "failed", None),
        ("claude_code", "Bash", {"command": "x"}, "Command running in background with ID: b1", False, "running", None),
        ("claude_code", "Edit", {"file_path": "a"}, REFUSAL, True, "refused", None),
        ("claude_code", "Read", {"file_path": "a"}, REFUSAL, False, "ok", None),
        ("claude_code", "Bash", {"command": "x"}, "This command requires approval", True, "refused", None),
        ("claude_code", "Read", {"file_path": "a"}, "text", None, "ok", None),
        ("codex", "shell", {"command": ["ls"]}, SHELL_JSON % 0, None, "ok", 0),
        ("codex", "shell", {"command": ["ls"]}, SHELL_JSON % 2, None, "failed", 2),
        ("codex", "shell", {"command": ["rg", "x"]}, SHELL_JSON % 1, None, "ok", 1),
        ("codex", "shell", {"command": ["ls"]}, "Exit code: 1\nWall time: 0.1 seconds\nOutput:\nno", None, "failed", 1),
        ("codex", "exec_command", {"cmd": "ls"}, CHUNK, None, "ok", 0),
        ("codex", "exec_command", {"cmd": "x"}, SESSION, None, "running", None),
        ("codex", "shell", {"command": ["x"]}, "exec command rejected by user", None, "refused", None),
        ("codex", "apply_patch", {"input": "x"}, "patch rejected by user", None, "refused", None),
        ("codex", "apply_patch", {"input": "x"}, '{"output":"no","metadata":{"exit_code":1}}', None, "failed", 1),
        ("codex", "apply_patch", {"input": "x"}, "Success. Updated the following files:\nM a", None, "ok", None),
        ("codex", "shell", {"command": ["x"]}, "aborted by user after 3.1s", None, "interrupted", None),
        ("codex", "shell", {"command": ["x"]}, "execution error: no such file", None, "failed", None),
        ("codex", "update_plan", {}, "Plan updated", None, "unknown", None),
        ("pi_coding_agent", "bash", {"command": "ls"}, "a", False, "ok", 0),
        ("pi_coding_agent", "bash", {"command": "x"}, "no\n\nCommand exited with code 3", True, "failed", 3),
        ("pi_coding_agent", "bash", {"command": "grep x a"}, "\n\nCommand exited with code 1", True, "ok", 1),
        ("hermes_agent", "terminal", {"command": "ls"}, '{"output": "a", "exit_code": 0}', None, "ok", 0),
        ("hermes_agent", "terminal", {"command": "ls"}, '{"output": "a", "exit_code": 2}', None, "failed", 2),
        ("openhands", "execute_bash", {"command": "x"}, ENDED, False, "failed", 2),
        ("openhands", "execute_bash", {"command": "x"}, "a\n[Command finished with exit code 0]", False, "ok", 0),
        ("openhands", "execute_bash", {"command": "x"}, "Action rejected: no", True, "refused", None),
        ("gemini_cli", "run_shell_command", {"command": "x"}, GEMINI, False, "failed", 2),
        ("swe_agent", "bash", {"command": "x"}, "<returncode>1</returncode>\n<output>\nno</output>", None, "failed", 1),
        ("atif", "bash_command", {"keystrokes": "ls\n"}, "New Terminal Output:\n\na", None, "unknown", None),
        ("agentic_datagen", "run_command", {"command": "ls"}, '{"success": false}', None, "failed", None),
        ("agentic_datagen", "write_file", {"path": "a"}, '{"success": true, "result": "hi"}', None, "ok", None),
        ("chat_completions", "f", {}, '{"error": "no"}', None, "failed", None),
        ("chat_completions", "f", {}, '{"error": "no", "value": 1}', None, "unknown", None),
        ("chat_completions", "f", {}, "Error: no", None, "unknown", None),
        ("chat_completions", "f", "not json", None, None, "unanswered", None),
    ],
)  # fmt: skip
def test_how_calls_ended(
    kind: str, name: str, arguments: Any, result: str | None, error: bool | None, state: str, exit_code: int | None
) -> None:
    [call] = calls(row(step(name, arguments, result, error=error), kind=kind))
    assert (call.state, call.exit_code) == (state, exit_code)
    assert call.state in STATES


def test_a_run_that_went_on_in_the_background() -> None:
    begun = "Chunk ID: a\nWall time: 1 seconds\nProcess running with session ID 7\nOutput:\ncollecting\n"
    ended = "Chunk ID: b\nWall time: 9 seconds\nProcess exited with code 0\nOutput:\n2 passed in 9.1s\n"
    parts = [
        step(
            "apply_patch",
            {"input": "*** Begin Patch\n*** Update File: a.py\n"},
            "Success. Updated the following files:",
        ),
        step("exec_command", {"cmd": "pytest"}, begun),
        step("write_stdin", {"session_id": 7, "chars": ""}, ended),
    ]
    found = evidence(row(user(GO), *parts, kind="codex"))
    assert (found["outcome"], found["outcome_evidence"][0]["message_index"]) == ("success", 6)


def test_claude_code_keeps_its_folder() -> None:
    parts = [edit(), bash("cd src && pytest", PYTEST_RED, exit_code=1), bash("cd src"), bash("pytest", PYTEST_GREEN)]
    assert kinds(evidence(row(user(GO), *parts))) == ["tests_passed"]


def test_columns_fit_their_features() -> None:
    found = evidence(row(user(GO), edit(), bash("pytest", PYTEST_GREEN), reward=1.0))
    assert set(EVIDENCE_FEATURES) == set(COLUMNS)
    empty = evidence(row())
    features = Features({**EVIDENCE_FEATURES, "trace_id": Value("string")})
    wanted = [{name: one[name] for name in features} for one in (found, empty)]
    assert Dataset.from_list(wanted, features=features).to_list() == wanted


def test_every_kind_has_a_rule() -> None:
    assert len({rule.kind for rule in RULES}) == len(RULES)
    assert rules_table().count("\n") == len(RULES) + 1
    assert runners_table().count("\n") == len(runners.RUNNERS) + 1
    told = {f"{runner.kind}_{end}" for runner in runners.RUNNERS for end in ("passed", "failed")}
    assert told <= {rule.kind for rule in RULES}


SCRIPTS = st.sampled_from([case[0] for case in GREEN_AND_RED.values()]) | st.text(max_size=12)
OUTPUTS = st.sampled_from([text for case in GREEN_AND_RED.values() for text in case[1:]]) | st.text(max_size=12)
FRAMES = st.sampled_from(
    ["{}", "Exit code 1\n{}", "Exit code: 0\nWall time: 1\nOutput:\n{}", "{}\n[Command finished with exit code 3]",
     REFUSAL, "Process exited with code 9", "[Request interrupted by user", '{{"output":',
     "Chunk ID: 1\nWall time: 1\n"]
)  # fmt: skip
ARGUMENTS = (
    SCRIPTS.map(lambda script: {"command": script})
    | SCRIPTS.map(lambda script: {"command": ["bash", "-lc", script]})
    | st.dictionaries(
        st.sampled_from(["cmd", "path", "command", "input", "session_id"]),
        st.none() | st.integers() | st.text(max_size=5),
    )
    | st.text(max_size=8)
)
NAMES = st.sampled_from(
    ["Bash", "shell", "exec_command", "write_stdin", "bash", "terminal", "Edit", "apply_patch", "f"]
)
KINDS = st.sampled_from(["claude_code", "codex", "pi_coding_agent", "hermes_agent", "chat_completions", ""])


@st.composite
def any_row(draw: st.DrawFn) -> dict[str, Any]:
    parts: list[Any] = []
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.integers(0, 4)):
            case 0:
                parts.append(user(draw(st.sampled_from(["thanks", "still failing", ""]) | st.text(max_size=9))))
                if draw(st.booleans()):
                    parts[-1]["origin"] = draw(st.sampled_from(["interrupt", "queued", "reminder"]))
            case 1:
                parts.append(said(draw(st.text(max_size=9))))
            case _:
                result = draw(st.none() | st.builds(lambda frame, text: frame.format(text), FRAMES, OUTPUTS))
                error = draw(st.sampled_from([None, True, False]))
                id = draw(st.sampled_from(["a", "b", ""]))
                parts.append(step(draw(NAMES), draw(ARGUMENTS), result, error=error, id=id))
    reward = draw(st.none() | st.floats(-2, 2))
    completed = draw(st.none() | st.booleans())
    return row(*parts, kind=draw(KINDS), reward=reward, completed=completed)


@given(any_row())
def test_any_row_is_read_and_stays_what_it_is(found: dict[str, Any]) -> None:
    before = copy.deepcopy(found)
    told = evidence(found)
    assert found == before
    assert {name: told[name] for name in found} == found
    assert told["outcome"] in OUTCOMES
    known = {rule.kind for rule in RULES}
    for item in told["outcome_evidence"]:
        assert item["kind"] in known
        assert item["message_index"] is None or 0 <= item["message_index"] < len(found["messages"])
    for span in told["error_recoveries"]:
        assert 0 <= span["failed"] < span["recovered"] < len(found["messages"])
    json.dumps({name: told[name] for name in EVIDENCE_FEATURES})
    assert evidence(told) == told


def test_lone_surrogates() -> None:
    assert (
        outcome(edit("\ud800"), bash("pytest \ud800", "\ud800\n2 passed in 0.1s\n"), user("thanks \ud800")) == "success"
    )
