from __future__ import annotations

import pickle
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from agent_rollouts import load_rollouts
from agent_rollouts.distill.evidence import OUTCOMES, evidence
from agent_rollouts.distill.filters import FilterOptions, Filters, prose
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import ORIGINS, PROMPT_ORIGINS
from tests.sessions import claude, claude_agent, codex, put
from tests.tool_rows import row as tool_row
from tests.tool_rows import said, step, user

COLUMNS = {
    "source_path": "tulips.jsonl",
    "started_at": "2026-03-04T10:00:00.000Z",
    "project_path": "/home/ida/Garden",
    "git_branch": "fix/tulips",
    "model": "claude-opus-9",
    "is_sidechain": False,
    "outcome": "success",
    "reward": 0.5,
    "source_meta": {"models": ["claude-haiku-9", "claude-opus-9"], "repository": "https://git.test/Ida/Beds.git"},
}


def row(*parts: Any, **columns: Any) -> dict[str, Any]:
    return tool_row(*(parts or (user("Count the tulips"), said("Seven."))), **COLUMNS | columns)


def why(given: dict[str, Any], **options: Any) -> str | None:
    return Filters(FilterOptions(**options)).why_not(given)


# -- what is always left out ------------------------------------------------------------------------

WEIGHED = said("Seven.", weight=0, weight_reason="copied_context")
EMPTY = [
    ("a prompt and an answer", [user("Count"), said("Seven.")], None),
    ("a call is an answer", [user("Count"), *step("Bash", {"command": "ls"})], None),
    ("the user's own command", [user("/count", origin="custom_command"), said("Seven.")], None),
    ("a task from a compaction", [user("Beds were counted", origin="summary"), said("Seven.")], None),
    ("another agent's task", [user("Count", origin="agent_message"), said("Seven.")], None),
    ("a command beside a prompt", [user("/model", origin="command"), user("Count"), said("Seven.")], None),
    ("one answer to train on", [user("Count"), WEIGHED, said("Eight.")], None),
    ("nothing at all", [], "no prompt"),
    ("only plumbing", [user("Today is Monday", origin="environment"), said("Seven.")], "no prompt"),
    ("only an answer", [said("Seven.")], "no prompt"),
    ("commands", [user("/cost", origin="command"), user("$1", origin="command_output"), said("Hm.")], "only commands"),
    ("shell lines beside plumbing", [user("ls", origin="bash"), user("Hi", origin="hook")], "only commands"),
    ("no answer", [user("Count")], "no answer"),
    ("an empty answer", [user("Count"), said("", reasoning_content="Well")], "no answer"),
    ("only copies", [user("Count"), WEIGHED, WEIGHED], "no answer that may be trained on"),
    ("an untrained answer beside an empty one", [user("Count"), said(""), WEIGHED], "no answer that may be trained on"),
]


@pytest.mark.parametrize(("messages", "expected"), [case[1:] for case in EMPTY], ids=[case[0] for case in EMPTY])
def test_what_has_nothing_to_learn_from_is_left_out(messages: list[Any], expected: str | None) -> None:
    assert why({"messages": messages}) == expected


# -- columns ----------------------------------------------------------------------------------------

WHOLE = {"since": "2026-03-04", "until": "2026-03-04"}
NO_ZONE = {"started_at": "2026-03-04T10:00:00"}
CASES = [
    (WHOLE, {}, None),
    ({"since": "2026-03-05"}, {}, "began before --since"),
    ({"since": "2026-03-04T10:00:00Z"}, {}, None),
    ({"since": "2026-03-04T10:00:00+01:00"}, {}, None),
    ({"since": "2026-03-04T10:00:00-01:00"}, {}, "began before --since"),
    ({"since": "2026-03-04T10:00:00.001"}, {}, "began before --since"),
    ({"since": "2026-03-04T10:00"}, NO_ZONE, None),
    ({"until": "2026-03-03"}, {}, "began after --until"),
    ({"until": "2026-03-04T10:00:00Z"}, {}, "began after --until"),
    ({"until": "2026-03-04T10:00:00-01:00"}, NO_ZONE, None),
    ({"since": "2026-03-04"}, {"started_at": "2026-03-03T23:30:00-01:00"}, None),
    (WHOLE, {"started_at": None}, "no date"),
    (WHOLE, {"started_at": "yesterday"}, "no date"),
    (WHOLE, {"started_at": None, "ended_at": "2026-03-04T11:00:00"}, None),
    ({"project": ("*/garden",)}, {}, None),
    ({"project": ("garden",)}, {}, None),
    ({"project": ("/home/*",)}, {}, None),
    ({"project": ("ida/beds",)}, {}, None),
    ({"project": ("IDA/*",)}, {}, None),
    ({"project": ("home",)}, {}, "project not asked for"),
    ({"project": ("garden",)}, {"project_path": "C:\\Users\\ida\\garden\\"}, None),
    ({"project": ("c:\\users\\*",)}, {"project_path": "C:\\Users\\ida\\garden"}, None),
    ({"project": ("work",)}, {"project_path": None}, None),  # its cwd
    ({"project": ("~/garden",)}, {}, None),
    ({"project": ("!~/garden",)}, {}, "project excluded"),
    ({"project": ("*",)}, {"project_path": None, "cwd": None, "source_meta": {}}, "no project named"),
    ({"project": ("!*",)}, {"project_path": None, "cwd": None, "source_meta": {}}, None),
    ({"project": ("garden", "!ida/*")}, {}, "project excluded"),
    ({"branch": ("main", "fix/*")}, {}, None),
    ({"branch": ("*", "!fix/*")}, {}, "branch excluded"),
    ({"branch": ("main",)}, {}, "branch not asked for"),
    ({"branch": ("main",)}, {"git_branch": None}, "no branch named"),
    ({"branch": ("!main",)}, {"git_branch": None}, None),
    ({"branch": ("fix/[s-u]ulip?",)}, {}, None),
    ({"source_kind": ("claude*", "codex")}, {}, None),
    ({"source_kind": ("!claude*",)}, {}, "format excluded"),
    ({"source_kind": ("codex",)}, {}, "format not asked for"),
    ({"agent_model": ("claude-*",)}, {}, None),
    ({"agent_model": ("*haiku*",)}, {}, None),
    ({"agent_model": ("*opus*", "!*haiku*")}, {}, "model excluded"),
    ({"agent_model": ("gpt-*",)}, {}, "model not asked for"),
    ({"agent_model": ("gpt-*",)}, {"model": None, "source_meta": None}, "no model named"),
    ({"agent_model": ("gpt-*",)}, {"source_meta": '{"models": ["gpt-7"]}'}, None),
    ({"sidechains": False}, {}, None),
    ({"sidechains": False}, {"is_sidechain": True}, "work of a sub-agent"),
    ({}, {"is_sidechain": True}, None),
    ({"min_reward": 0.5, "max_reward": 0.5}, {}, None),
    ({"min_reward": 0.6}, {}, "below --min-reward"),
    ({"max_reward": 0.4}, {}, "above --max-reward"),
    ({"min_reward": 0.0}, {"reward": None}, "no reward"),
    ({"min_reward": 0.0}, {"reward": float("nan")}, "no reward"),
    ({"outcome": ("failure", "success")}, {}, None),
    ({"outcome": ("failure", "unknown")}, {}, "outcome not asked for"),
    ({"where": "row['reward'] > 0.4 and any(m['role'] == 'user' for m in row['messages'])"}, {}, None),
    ({"where": "row['reward'] > 0.6"}, {}, "not as --where asks"),
    ({"where": " [] "}, {}, "not as --where asks"),
    ({"where": "builtins:len"}, {}, None),
    ({"where": "builtins:dict.fromkeys"}, {}, None),
]


@pytest.mark.parametrize(("options", "columns", "expected"), CASES)
def test_columns(options: Any, columns: Any, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ida")
    monkeypatch.setenv("USERPROFILE", "/home/ida")
    assert why(row(**columns), **options) == expected


LONG = [user("Count"), *step("Bash", {"command": "ls"}), *step("Bash", {"command": "pwd"}), user("Thanks"), said("x")]


@pytest.mark.parametrize(("name", "size"), [("messages", 7), ("prompts", 2), ("calls", 2)])
def test_sizes(name: str, size: int) -> None:
    given = row(*LONG, user("Today is Monday", origin="environment"))
    size += name == "messages"
    assert why(given, **{f"min_{name}": size, f"max_{name}": size}) is None
    assert why(given, **{f"min_{name}": size + 1}) == f"below --min-{name}"
    assert why(given, **{f"max_{name}": size - 1}) == f"above --max-{name}"


def test_tokens_are_estimated_with_calls_and_schemas() -> None:
    assert why(row(user("tulips " * 400), said("Seven.")), min_rollout_tokens=700, max_rollout_tokens=750) is None
    assert why(row(), max_rollout_tokens=100) is None
    called = step("Write", {"text": "tulips " * 400})
    schema = {"type": "function", "function": {"name": "f", "description": "tulips " * 400}}
    assert why(row(user("Go"), *called), max_rollout_tokens=100) == "above --max-rollout-tokens"
    assert why(row(tools=[schema]), max_rollout_tokens=100) == "above --max-rollout-tokens"


@given(
    st.lists(st.sampled_from([*ORIGINS, None]), max_size=4),
    st.lists(st.sampled_from(["claude-1", "gpt-7", ""]), max_size=2),
    st.lists(st.sampled_from(["claude-*", "*7", "!gpt-*", "!x"]), max_size=3),
    st.none() | st.integers(0, 3),
    st.none() | st.datetimes().map(lambda moment: moment.isoformat()),
)
def test_parts_agree_with_the_whole(origins: Any, models: Any, globs: Any, least: Any, begun: Any) -> None:
    given = row(*(user("Count", origin=origin) for origin in origins), said("Seven."), started_at=begun)
    given |= {"model": None, "source_meta": {"models": models}}
    filters = Filters(FilterOptions(agent_model=tuple(globs), min_prompts=least, since="2026-01-01"))
    before = pickle.dumps(given)
    whole = filters.why_not(given)
    assert whole == (filters.early(given) or filters.late(given))
    assert whole == pickle.loads(pickle.dumps(filters)).why_not(given)
    assert filters.keeps(given) is (whole is None)
    assert pickle.dumps(given) == before
    if whole is None:
        assert PROMPT_ORIGINS & set(origins) or {"summary", "agent_message"} & set(origins)
        assert sum(origin in PROMPT_ORIGINS for origin in origins) >= (least or 0)
        assert begun is not None
        assert begun >= "2026"


def test_what_redaction_changes_is_read_early() -> None:
    class Reads(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    read: set[str] = set()
    options = FilterOptions(
        since="2026-01-01", project=("*",), branch=("*",), source_kind=("*",), agent_model=("*",), sidechains=False,
        max_reward=1, outcome=("success",), min_messages=1, min_rollout_tokens=1, min_prompts=1, max_calls=1,
    )  # fmt: skip
    filters = Filters(options)
    assert filters.early(Reads(row())) is None
    early, read = read, set()
    assert filters.late(Reads(row())) is None
    assert read == {"messages", "outcome", "tools"}
    assert {"project_path", "git_branch", "source_meta"} <= early
    assert not early & read


# -- errors -----------------------------------------------------------------------------------------

BAD = [
    ({"since": "last week"}, "since: 'last week' is no date; write 2026-03-01 or "),
    ({"until": "2026-02-30"}, "until: '2026-02-30' is no date"),
    ({"since": "2026-03-02", "until": "2026-03-01"}, "since 2026-03-02 is not before until 2026-03-01"),
    ({"since": "2026-03-01T09:00", "until": "2026-03-01T09:00"}, "no rollout can be"),
    ({"outcome": ("good",)}, "unknown outcome good; known: success, failure, interrupted, unknown"),
    ({"source_kind": ("codx",)}, "source_kind: 'codx' fits nothing; known: agentic_datagen, atif, "),
    ({"source_kind": ("!codx*",)}, "source_kind: '!codx*' fits nothing"),
    ({"agent_model": ("",)}, "agent_model: '' is no glob"),
    ({"branch": ("!",)}, "branch: '!' is no glob"),
    ({"min_reward": 2, "max_reward": 1}, "min_reward 2 and max_reward 1: no rollout can be between them"),
    ({"max_reward": float("nan")}, "no rollout can be between them"),
    ({"min_rollout_tokens": 9, "max_rollout_tokens": 8}, "min_rollout_tokens 9 and max_rollout_tokens 8"),
    ({"where": "row["}, "where 'row[' is no Python expression"),
    ({"where": ""}, "where '' is no Python expression"),
    ({"where": "keep = 1"}, "is no Python expression"),
    ({"where": "no_such_module:keep"}, "where no_such_module:keep was not found (No module named 'no_such_module'); "),
    ({"where": "json:keep"}, "where json:keep was not found"),
    ({"where": "string:digits"}, "where string:digits is a str; it must be a function of a row"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_told_at_once(options: Any, message: str) -> None:
    with pytest.raises(AgentRolloutsError) as error:
        Filters(FilterOptions(**options))
    assert message in str(error.value)


def test_errors_of_the_users_own_python_name_it_and_the_row() -> None:
    with pytest.raises(
        AgentRolloutsError, match=r"where \"row\['no']\" failed on 't' of 'tulips.jsonl': KeyError: 'no'"
    ):
        why(row(), where="row['no']")


def test_an_outcome_that_nothing_looked_for_is_no_reason() -> None:
    with pytest.raises(AgentRolloutsError, match=r"'t' of 'tulips.jsonl' has no outcome to filter by: let `evidence`"):
        why(row(outcome=None), outcome=("success",))


def test_options_are_of_kinds_that_flags_can_be_made_of() -> None:
    kinds = {bool, str | None, int | None, float | None, tuple[str, ...]}
    hints = get_type_hints(FilterOptions, include_extras=True)
    assert [name for name, hint in hints.items() if hint.__origin__ not in kinds or not hint.__metadata__[0]] == []
    assert [f.name for f in fields(FilterOptions) if f.default not in ((), None, True)] == []
    assert all(outcome in hints["outcome"].__metadata__[0] for outcome in OUTCOMES)


# -- on datasets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_are_filtered(tmp_path: Path, streaming: bool) -> None:
    put(tmp_path / "logs" / "a.jsonl", claude("a"))
    put(tmp_path / "logs" / "b.jsonl", codex("b"))
    put(tmp_path / "logs" / "a" / "subagents" / "agent-x1.jsonl", claude_agent("a", "x1"))
    cache = {} if streaming else {"cache_dir": str(tmp_path / "cache")}
    rows = load_rollouts("auto", str(tmp_path / "logs"), streaming=streaming, **cache)

    def left(**options: Any) -> Counter[str]:
        return Counter(found["source_kind"] for found in rows.filter(Filters(FilterOptions(**options)).keeps))

    assert left() == {"claude_code": 2, "codex": 1}
    assert left(sidechains=False) == {"claude_code": 1, "codex": 1}
    assert left(agent_model=("gpt-*",), where="row['tool_call_count'] == 1") == {"codex": 1}
    assert left(since="2026-03-03") == {"claude_code": 2}
    assert left(branch=("main",), project=("garden",), max_calls=1, min_messages=4) == {"claude_code": 2}
    assert left(until="2026-03-01") == {}


def test_workers_filter_alike() -> None:
    rows = Dataset.from_list([evidence(row(reward=number / 4)) for number in range(4)])
    filters = Filters(FilterOptions(min_reward=0.5, where="row['reward'] < 0.75"))
    assert rows.filter(filters.keeps, num_proc=2)["reward"][:] == [0.5]


# -- language ---------------------------------------------------------------------------------------

SPOKEN = [
    ("en", "fix the failing test in tests/test_total.py"),
    ("en", "Why does `zählen()` raise this?\n```\nDatei nicht gefunden, bitte prüfen Sie den Pfad der Datei\n```"),
    ("de", "bitte behebe den fehlschlagenden Test in tests/test_total.py"),
    ("de", "warum bricht das hier ab?\n\n```python\nraise ValueError('the file could not be found')\n```"),
    ("fr", "ça ne marche toujours pas, regarde https://example.com/the/build/is/broken"),
    ("es", "todavía no funciona la opción --verbose"),
    ("ru", "всё ещё не работает, исправь getUserById"),
    ("zh", "修复 tests/test_total.py 里失败的测试"),
    ("ja", "fooBar を foo_bar に変更して"),
]


def test_prose_is_what_a_person_wrote() -> None:
    text = "<b>Fix</b> `a b` in src/App.tsx:12, fooBar and FOO, --all and http://x.test/y\u0000 now\ud800! ```\ncode"
    assert prose(text) == "Fix in , and , and now?!"
    assert prose("x = f(y)[0]") == "x ="


@pytest.mark.parametrize(("language", "prompt"), SPOKEN)
def test_languages_of_prompts(language: str, prompt: str) -> None:
    pytest.importorskip("eldc")
    english = user("You are in a folder with many files and must be careful", origin="environment")
    given = row(english, user(prompt), said("Das ist eine lange Antwort auf Deutsch, mit vielen Worten."))
    assert why(given, language=(language,)) is None
    assert why(given, language=(f"!{language}",)) == "language excluded"
    assert why(given, language=("sv", "tr")) == "language not asked for"
    assert pickle.loads(pickle.dumps(Filters(FilterOptions(language=(language,))))).keeps(given)


@pytest.mark.parametrize("prompt", ["", "```\nfix the failing test now please\n```", "src/App.tsx:12", "\0\ud800"])
def test_a_prompt_without_prose_has_no_language(prompt: str) -> None:
    pytest.importorskip("eldc")
    assert why(row(user(prompt), said("Seven.")), language=("en",)) == "no language named"
    assert why(row(user(prompt), said("Seven.")), language=("!en",)) is None


def test_unknown_languages_are_told() -> None:
    pytest.importorskip("eldc")
    with pytest.raises(AgentRolloutsError, match=r"language: 'english' fits nothing; known: am, ar, az, "):
        Filters(FilterOptions(language=("english",)))


def test_languages_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eldc", None)
    with pytest.raises(AgentRolloutsError, match=r"telling languages needs eldc: pip install 'agent-rollouts\[lang\]'"):
        Filters(FilterOptions(language=("en",)))
