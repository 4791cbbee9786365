"""Options: one dataclass, of which flags, YAML keys and help are made, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.cli import main
from agent_rollouts.distill import Options
from agent_rollouts.distill.evidence import OUTCOMES
from agent_rollouts.distill.options import Field, fields
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.distill.splits import EVIDENCE
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.rollout import HISTORIES

NAMES = list(fields())


def put(folder: Path, text: str) -> Path:
    path = folder / "distill.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# -- a file and what is given beside it -------------------------------------------------------------


def test_a_file_and_what_is_given_beside_it(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        """
        max_tokens: 4096
        shape: [messages, openai]
        agent_model: claude-*    # one, without a list
        pii: false
        contamination_share: 1
        tokenizer: null
        """,
    )
    asked = Options.load(path)
    assert asked == Options(
        max_tokens=4096, shape=("messages", "openai"), agent_model=("claude-*",), pii=False, contamination_share=1.0
    )
    assert isinstance(asked.contamination_share, float)
    beside = Options.load(path, max_tokens=100, shape=("hermes",))
    assert beside == dataclasses.replace(asked, max_tokens=100, shape=("hermes",))
    assert Options.load(None, max_tokens=7) == Options(max_tokens=7)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_a_file_without_options(text: str, tmp_path: Path) -> None:
    assert Options.load(put(tmp_path, text)) == Options.load() == Options()


@pytest.mark.parametrize("text", ["2026-03-01", "2026-03-01T09:30:00", "'2026-03-01'", "2026-03-01T09:30:00+01:00"])
def test_dates_need_no_quotes(text: str, tmp_path: Path) -> None:
    since = Options.load(put(tmp_path, f"since: {text}")).since
    assert since is not None
    assert since == text.strip("'")


def test_splits_may_be_a_mapping(tmp_path: Path) -> None:
    path = put(tmp_path, "splits: {train: 0.9, validation: 0.05, test: 0.05}")
    assert Options.load(path).splits == "train=0.9,validation=0.05,test=0.05"


def test_nothing_but_a_mapping(tmp_path: Path) -> None:
    for text, message in (
        ("- max_tokens", "wanted options as `key: value`, found a list"),
        ("max_tokens", "wanted options as `key: value`, found a str"),
        ("max_tokens: [", "is no YAML"),
    ):
        with pytest.raises(AgentRolloutsError, match=message) as caught:
            Options.load(put(tmp_path, text))
        assert str(tmp_path / "distill.yaml") in str(caught.value)
    (tmp_path / "distill.yaml").write_bytes("deny: [Gärtner]".encode("latin-1"))
    with pytest.raises(AgentRolloutsError, match="is no YAML"):
        Options.load(tmp_path / "distill.yaml")


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "max_token: 5\nredacted: true\n1: x\n")
    with pytest.raises(AgentRolloutsError, match="unknown option 1, max_token, redacted; known: ") as caught:
        Options.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(", ".join(NAMES))
    with pytest.raises(AgentRolloutsError, match="unknown option 1, max_token, redacted"):
        Options.load(path, limit=3)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("max_tokens: '4096'", "max_tokens is '4096'; wanted int"),
        ("max_tokens: 1.5", "max_tokens is 1.5; wanted int"),
        ("max_tokens: true", "max_tokens is True; wanted int"),
        ("seed: null", "seed is None; wanted int"),
        ("redact: 'no'", "redact is 'no'; wanted bool"),
        ("redact: 0", "redact is 0; wanted bool"),
        ("min_reward: high", "min_reward is 'high'; wanted float"),
        ("contamination_share: true", "contamination_share is True; wanted float"),
        ("agent_model: 5", "agent_model is 5; wanted a list of str"),
        ("agent_model: [claude-*, 5]", "agent_model is 5; wanted a list of str"),
        ("shape: {messages: true}", "shape is {'messages': True}; wanted a list of str"),
        ("format: [codex]", r"format is \['codex'\]; wanted str"),
        ("project: {a: b}", "project is {'a': 'b'}; wanted a list of str"),
    ],
)
def test_values_of_the_wrong_kind(text: str, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(AgentRolloutsError, match=wanted) as caught:
        Options.load(put(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path))


# -- what cannot be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"history": "old"}, f"unknown history 'old'; known: {', '.join(HISTORIES)}"),
        ({"shape": ("chat",)}, f"unknown shape 'chat'; known: {', '.join(SHAPES)}"),
        ({"shape": ()}, "shape is empty; name one"),
        ({"shape": ("messages", "messages")}, "shape is messages, messages; name one, or several once each"),
        ({"shape": ("tokenized",)}, "the shape tokenized needs a tokenizer"),
        ({"arguments": "json"}, "unknown arguments 'json'; known: object, text"),
        ({"weights_as": "w"}, "unknown weights_as 'w'; known: weight, train, loss"),
        ({"completion": "first"}, "unknown completion 'first'; known: last, every"),
        ({"template": "none_such"}, "unknown template 'none_such'"),
        ({"context_messages": 0}, "context_messages is 0"),
        ({"partition_index": 1}, "a partition needs both"),
        ({"num_partitions": 2}, "a partition needs both"),
        ({"partition_index": 2, "num_partitions": 2}, "partition 2 of 2: the index goes from 0 to 1"),
        ({"partition_index": -1, "num_partitions": 2}, "partition -1 of 2"),
        ({"splits": "train"}, "wanted name=share"),
        ({"splits": "train=0.5,test=0.1"}, "sum up to 0.6"),
        ({"splits": "train=0.5,train=0.5"}, "named twice"),
        ({"split_by": ("task",)}, "split_by and splits_from say how rows are split; give splits, too"),
        ({"splits_from": "earlier"}, "give splits, too"),
        (
            {"splits": "train=1", "split_by": ("author",)},
            f"unknown split_by author; known: {', '.join(EVIDENCE)}",
        ),
        ({"outcome": ("good",)}, f"unknown outcome good; known: {', '.join(OUTCOMES)}"),
        ({"outcome": ("success",), "evidence": False}, "outcome asks for what evidence would tell"),
        ({"keep_failed_calls": True, "weights": False}, "keep_failed_calls says how turns are weighed"),
        ({"limit": 0}, "limit is 0; it must be 1 or more"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be 1 or more"),
        ({"shorten": -1}, "shorten is -1; it must be 1 or more"),
        ({"num_proc": 0}, "num_proc is 0; it must be 1 or more"),
        ({"overlap_steps": -1}, "overlap_steps is -1; it must be 0 or more"),
        ({"since": "yesterday"}, "since: 'yesterday' is no date"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "no rollout can be"),
        ({"min_calls": 3, "max_calls": 2}, "no rollout can be between them"),
        ({"source_kind": ("codx",)}, "source_kind: 'codx' fits nothing; known: "),
        ({"where": "row["}, "is no Python expression"),
        ({"contamination_share": 0.0}, "contamination_share is 0.0; it must be above 0 and at most 1"),
        ({"contamination_share": 1.5}, "contamination_share is 1.5"),
        ({"canary": ("the",)}, "canary 'the' is no GUID"),
        ({"redact": False, "deny": ("tulip",)}, "and redact is off"),
        ({"redact": False, "redact_hosts": True}, "and redact is off"),
        ({"redact": False, "redaction_state": "numbers.json"}, "and redact is off"),
    ],
)
def test_what_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(AgentRolloutsError) as caught:
        Options(**values)
    assert message in str(caught.value)


# -- written beside the data ------------------------------------------------------------------------

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12)
_VALID: dict[str, st.SearchStrategy[Any]] = {
    "history": st.sampled_from(HISTORIES),
    "splits": st.sampled_from([None, "train=0.98,test=0.02", "a=0.5,b=0.25,c=0.25"]),
    "split_by": st.just(()),
    "splits_from": st.none(),
    "since": st.sampled_from([None, "2026-03-01", "2026-03-01T09:30:00Z"]),
    "until": st.sampled_from([None, "2026-04-01"]),
    "outcome": st.sampled_from([(), ("success",), ("success", "unknown")]),
    "evidence": st.just(True),
    "weights": st.just(True),
    "redact": st.just(True),
    "source_kind": st.sampled_from([(), ("codex", "!claude_*")]),
    "language": st.just(()),
    "recipe": st.just("sft"),
    "recipe_option": st.just(()),
    "model": _TEXT,
    "parameter": st.just(()),
    "digest_tokens": st.integers(400, 10**6),
    **{f"judge_{name}": st.none() for name in ("model", "base_url", "api_key_env", "price_input", "price_output")},
    "price_input": st.none(),
    "price_output": st.none(),
    "where": st.sampled_from([None, "row['model'] != 'x: y # z'"]),
    "shape": st.lists(st.sampled_from(sorted(SHAPES)), min_size=1, unique=True).map(tuple),
    "tokenizer": _TEXT,
    "template": st.sampled_from([None, "gptoss"]),
    "arguments": st.sampled_from(["object", "text"]),
    "weights_as": st.sampled_from(["weight", "train", "loss"]),
    "completion": st.sampled_from(["last", "every"]),
    "partition_index": st.none(),
    "num_partitions": st.none(),
    "contamination_share": st.floats(0.01, 1),
    "canary": st.lists(st.uuids().map(str), max_size=3).map(tuple),
    **{f"{most}_{of}": st.none() for most in ("min", "max") for of in ("calls", "prompts", "messages", "reward")},
    **{f"{most}_rollout_tokens": st.none() for most in ("min", "max")},
}


def _values(field: Field) -> st.SearchStrategy[Any]:
    if field.name in _VALID:
        return _VALID[field.name]
    of = {bool: st.booleans(), int: st.integers(1, 10**6), str: _TEXT, float: st.floats(0, 1)}[field.type]
    if field.may_repeat:
        return st.lists(of, max_size=3).map(tuple)
    return st.none() | of if field.is_optional else of


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({name: _values(field) for name, field in fields().items()}))
def test_what_was_written_is_read_again(values: dict[str, Any]) -> None:
    options = Options(**values)
    read = Options.of(yaml.safe_load(options.to_yaml()))
    assert read == dataclasses.replace(options, deny=())


def test_denied_words_are_not_written(tmp_path: Path) -> None:
    text = Options(deny=("Project Plum", "tulips")).to_yaml()
    assert "Plum" not in text
    assert "tulips" not in text
    assert text.startswith("# 2 words of deny are not written here; give them again\n")
    assert Options.load(put(tmp_path, text)) == Options()


# -- flags and help ---------------------------------------------------------------------------------


def test_every_option_has_a_flag_and_help() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) == {field.name for field in dataclasses.fields(Options)}
    flags = {param.name: param for param in main.commands["distill"].params if isinstance(param, click.Option)}
    for name, field in fields().items():
        assert len(field.help) > 10, name
        assert not field.help.endswith("."), name
        flag = flags[name]
        assert flag.opts[0] == f"--{name.replace('_', '-')}"
        assert flag.secondary_opts == ([f"--no-{name.replace('_', '-')}"] if field.type is bool else [])
        assert flag.multiple == field.may_repeat
        assert field.help in str(flag.help)
        # A flag that is not given must not hide what a file says.
        assert flag.default in (None, ()) or repr(flag.default) == "Sentinel.UNSET"
    assert set(flags) - set(NAMES) == {
        "output", "demo", "preview", "config", "push_to_hub", "rebuild", "private", "create_pr", "revision",
        "config_name", "commit_message", "dry_run",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_of_its_kind(name: str) -> None:
    field = fields()[name]
    assert field.type in (bool, int, float, str)
    assert getattr(Options(), name) == field.default
    if field.may_repeat:
        assert isinstance(field.default, tuple)
    else:
        assert field.default is None if field.is_optional else type(field.default) is field.type
