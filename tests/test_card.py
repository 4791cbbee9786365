"""The card: our part is ours, the rest is its owner's."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts import card
from agent_rollouts.errors import AgentRolloutsError


def made(configs: dict[str, dict[str, int]], text: str = "Ours.", **more: Any) -> str:
    """A card of ours: rows by config and split."""
    entries = [
        {"config_name": name, "data_files": [{"split": split, "path": f"{name}/{split}-*"} for split in splits]}
        for name, splits in configs.items()
    ]
    infos = [
        {
            "config_name": name,
            "features": [{"name": "x", "dtype": "int64"}],
            "splits": [{"name": split, "num_bytes": 10 * rows, "num_examples": rows} for split, rows in splits.items()],
            "download_size": 5,
            "dataset_size": 10 * sum(splits.values()),
        }
        for name, splits in configs.items()
    ]
    header = {"configs": entries, "dataset_info": infos, "tags": ["agent-rollouts"], **more}
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n{card.BEGIN}\n{text}\n{card.END}\n"


OLD = """---
# chosen with care
license: mit  # as asked
language:
- "no"
- en
tags: [mine]
configs:
- config_name: raw
  default: true
  data_files: raw/*.csv
# about the end
viewer: false
---
# My title

My text.
"""


def test_their_fields_and_text_stay_letter_by_letter() -> None:
    text = card.merge(OLD, made({"messages": {"train": 3}}), {})
    for kept in (
        "# chosen with care\nlicense: mit  # as asked\n",
        '- "no"\n- en\n',
        "# about the end\nviewer: false\n",
    ):
        assert kept in text
    assert text.endswith(
        "---\n# My title\n\nMy text.\n\n<!-- agent-rollouts: begin messages -->\nOurs.\n" + card.END + "\n"
    )
    data = card.fields(text)
    assert data["tags"] == ["mine", "agent-rollouts"]
    assert [entry["config_name"] for entry in data["configs"]] == ["raw", "messages"]
    assert card.patterns(text) == {"raw": {"train": ("raw/*.csv",)}, "messages": {"train": ("messages/train-*",)}}


def test_sections_by_config() -> None:
    text = card.merge(OLD, made({"a": {"train": 1}}, "About a."), {})
    text = card.merge(text + "Between.\n", made({"b": {"train": 1}}, "About b."), {})
    text = card.merge(text, made({"a": {"train": 2}}, "A anew."), {})
    body = card.split_card(text)[1]
    assert [body.index(part) for part in ("My text.", "A anew.", "Between.", "About b.")] == sorted(
        body.index(part) for part in ("My text.", "A anew.", "Between.", "About b.")
    )
    assert "About a." not in body


def test_a_mark_that_was_damaged_is_text() -> None:
    text = card.merge("", made({"a": {"train": 1}}, "First."), {}).replace(card.END, "")
    text = card.merge(text, made({"a": {"train": 1}}, "Second."), {})
    assert "First." in text
    assert "Second." in text


def test_other_splits_stay_and_are_counted() -> None:
    old = card.merge("", made({"a": {"train": 5, "test": 2}}), {})
    info = card.fields(card.merge(old, made({"a": {"train": 7}}), {"a": 40}))["dataset_info"]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {"train": 7, "test": 2}
    assert (info["dataset_size"], info["download_size"]) == (90, 45)


def test_info_without_a_name() -> None:
    """As push_to_hub writes it for the only config."""
    files = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    info = {"splits": [{"name": "train", "num_examples": 4}]}
    old = f"---\n{yaml.safe_dump({'configs': [files], 'dataset_info': info})}---\n"
    infos = card.fields(card.merge(old, made({"a": {"train": 1}}), {}))["dataset_info"]
    assert [info["config_name"] for info in infos] == ["default", "a"]


@pytest.mark.parametrize(
    ("rows", "size"), [(3, "n<1K"), (1000, "1K<n<10K"), (2_000_000, "1M<n<10M"), (10**7, "10M<n<100M")]
)
def test_size_is_that_of_the_largest_config(rows: int, size: str) -> None:
    old = card.merge("", made({"a": {"train": rows}}, size_categories=["n<1K"]), {})
    text = card.merge(old, made({"b": {"train": 1}}, size_categories=["n<1K"]), {})
    assert card.fields(text)["size_categories"] == [size]


def test_shrunk() -> None:
    text = card.merge(OLD, made({"a": {"train": 5, "test": 2}, "b": {"test": 2}}), {})
    less = {"rows": 2, "memory": 20, "disk": 3}
    small = card.shrunk(
        text, {("a", "test"): less, ("b", "test"): less, ("a", "train"): {"rows": 1, "memory": 4, "disk": 1}}
    )
    assert card.patterns(small) == {"raw": {"train": ("raw/*.csv",)}, "a": {"train": ("a/train-*",)}}
    info = card.fields(small)["dataset_info"]
    assert (info["config_name"], info["dataset_size"], info["download_size"]) == ("a", 46, 1)
    assert card.split_card(small)[1] == card.split_card(text)[1]


@pytest.mark.parametrize(
    ("path", "pattern", "is_match"),
    [
        ("data/train-0.parquet", "data/train-*", True),
        ("data/train-0/x.parquet", "data/train-*", False),
        ("data/a/b.csv", "data/**", True),
        ("data/b.csv", "data/**/*.csv", True),
        ("a/b/c.csv", "**/*.csv", True),
        ("c.csv", "./c.csv", True),
        ("c.csv", "?.csv", True),
        ("cc.csv", "?.csv", False),
    ],
)
def test_matches(path: str, pattern: str, is_match: bool) -> None:
    assert card.matches(path, [pattern]) == is_match


@pytest.mark.parametrize("text", ["---\na: [\n---\n", "---\n- a\n---\n", "---\nconfigs:\n- data_files: x\n---\n"])
def test_cards_that_cannot_be_read(text: str) -> None:
    with pytest.raises(AgentRolloutsError, match="mend it first"):
        card.merge(text, made({"a": {"train": 1}}), {})


NAMES = st.sampled_from(["a", "b", "c"])
CONFIGS = st.dictionaries(
    NAMES, st.dictionaries(st.sampled_from(["train", "test"]), st.integers(1, 9), min_size=1), min_size=1
)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e"), max_size=20)
FIELDS = st.dictionaries(
    st.sampled_from(["license", "pretty_name", "language", "extra: odd", "viewer"]),
    st.one_of(st.booleans(), WORDS, st.lists(WORDS), st.dictionaries(WORDS, st.integers())),
)


@settings(max_examples=60, deadline=None)
@given(fields=FIELDS, text=WORDS, first=CONFIGS, second=CONFIGS, flow=st.booleans())
def test_merging_twice_is_merging_once(fields: Any, text: str, first: Any, second: Any, flow: bool) -> None:
    header = yaml.safe_dump(fields, default_flow_style=flow, allow_unicode=True) if fields else ""
    own = f"---\n{header}---\n{text}\n"
    once = card.merge(card.merge(own, made(first), {}), made(second, "Anew."), {})
    assert card.merge(once, made(second, "Anew."), {}) == once
    found = card.fields(once)
    assert {name: found[name] for name in fields} == card.fields(own)
    assert text.strip(" \t\n") in card.split_card(once)[1]
    assert {name: set(splits) for name, splits in card.patterns(once).items()} == {
        name: {*first.get(name, {}), *second.get(name, {})} for name in {*first, *second}
    }
