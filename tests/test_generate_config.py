"""Configuration and prompts: what is said when something is wrong, and that nothing is typed twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.generate.config import Config, PromptOptions, changed, described, example, load, read_env
from agent_rollouts.generate.prompts import Prompt
from agent_rollouts.generate.prompts import load as load_prompts


def loaded(folder: Path, text: str) -> Config:
    path = folder / "c.yaml"
    path.write_text(text)
    return load(path)


def test_the_example_is_the_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, example()) == Config()
    for section in fields(Config):
        for item, _, note in described(type(section.default)):
            assert note, item.name
            assert f"\n  {item.name}: " in example()
    assert loaded(tmp_path, "") == Config()
    assert loaded(tmp_path, "api:\n").api == Config().api


def test_values_of_a_file(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        "api: {model: m, timeout: 5, parameters: {reasoning_effort: high}}\nprompts: {source: p.txt}\n"
        "agent: {tools: [read_file], system_prompt: null}\n",
    )
    assert (config.api.model, config.api.timeout, config.api.parameters) == ("m", 5.0, {"reasoning_effort": "high"})
    assert (config.prompts.source, config.agent.tools, config.agent.system_prompt) == (("p.txt",), ("read_file",), None)
    config = changed(config, {"api.model": "n", "prompts.source": ("a", "b"), "processing.concurrency": 2})
    assert (config.api.model, config.api.timeout, config.prompts.source) == ("n", 5.0, ("a", "b"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apis: {}", "unknown key 'apis'; known: api, prompts, workspace, agent, output, processing, logging"),
        ("api: {modl: m}", "c.yaml: api: unknown key 'modl'; known: model, base_url"),
        ("api: {api_key: x}", "unknown key 'api_key'; known: model, base_url, api_key_env"),
        ("api: {model: 3}", "api.model: must be text, not 3"),
        ("api: {temperature: warm}", "api.temperature: must be a number or null, not 'warm'"),
        ("api: {timeout: null}", "api.timeout: must be a number, not None"),
        ("processing: {concurrency: 1.5}", "processing.concurrency: must be a whole number, not 1.5"),
        ("workspace: {network: 1}", "workspace.network: must be true or false, not 1"),
        ("agent: {tools: [1]}", "agent.tools: must be a list of texts"),
        ("api: {parameters: x}", "api.parameters: must be keys, not 'x'"),
        ("api: [1]", "api: must hold keys (model, base_url"),
        ("[]", "must hold keys (api, prompts"),
        ("a: [", "is no YAML"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(AgentRolloutsError) as caught:
        loaded(tmp_path, text)
    assert said in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(AgentRolloutsError, match="--init"):
        load(tmp_path / "gone.yaml")


def test_env_files(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# note\nA=1\nexport B = two words # note\nC=\"x # y\"\nD='q'\nE=a=b\n\nnothing\n#F=1\n")
    assert read_env(str(path)) == {"A": "1", "B": "two words", "C": "x # y", "D": "q", "E": "a=b"}
    assert read_env(str(tmp_path / "gone")) == {}


# -- prompts -------------------------------------------------------------------------------------


def prompts(*sources: Path, counts: Counter[str] | None = None, **options: Any) -> list[Prompt]:
    return load_prompts(PromptOptions(source=tuple(map(str, sources)), **options), counts)


def test_prompts_of_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffFirst, ü\n\n  Second  \n\u2028third\u2028\n", encoding="utf-8")
    records = [
        {"prompt": "p", "question": "not this"},
        {"input": "i"},
        {"prompt": " ", "question": "q"},
        {"task": "t"},
        {"query": "y"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "m"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]},
        {"prompt": "with", "follow_ups": ["More.", "Thanks."], "folder": "f"},
        {"prompt": "with", "git_bundle": "b", "git_ref": "r"},
        "only text",
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    (tmp_path / "c.json").write_text(json.dumps(records[:2]))
    (tmp_path / "d.json").write_text(json.dumps({"prompt": "alone"}))
    (tmp_path / "e.md").write_text("# Whole\n\nfile\n")
    folder = tmp_path / "f"
    folder.mkdir()
    for name in ("10_last", "2-second", "1", "notes"):
        (folder / f"{name}.md").write_text(name)
    (folder / "README.txt").write_text("not this")
    assert [p.text for p in prompts(tmp_path / "a.txt")] == ["First, ü", "Second", "third"]
    read = prompts(tmp_path / "b.jsonl")
    assert [p.text for p in read] == ["p", "i", "q", "t", "y", "m", "parts", "with", "with", "only text"]
    assert read[7] == Prompt("with", ("More.", "Thanks."), folder="f", source=f"{tmp_path}/b.jsonl:8")
    assert (read[8].git_bundle, read[8].git_ref) == ("b", "r")
    assert [p.text for p in prompts(tmp_path / "c.json", tmp_path / "d.json")] == ["p", "i", "alone"]
    assert [p.text for p in prompts(tmp_path / "e.md")] == ["# Whole\n\nfile"]
    assert [p.text for p in prompts(folder)] == ["1", "2-second", "10_last", "notes"]


def test_a_dataset_is_a_source(tmp_path: Path) -> None:
    """A folder of Parquet, which `load_dataset` takes for a dataset as it takes a name of the Hub."""
    folder = tmp_path / "set"
    folder.mkdir()
    said = [[{"role": "user", "content": text}] for text in ("one", "two")]
    pq.write_table(pa.table({"instruction": ["a", "b"], "chat": said}), folder / "train.parquet")
    for column, texts in {"instruction": ["a", "b"], "chat": ["one", "two"]}.items():
        found = load_prompts(PromptOptions(dataset=str(folder), column=column))
        assert [p.text for p in found] == texts
    with pytest.raises(AgentRolloutsError, match="has no 'text', but instruction, chat"):
        load_prompts(PromptOptions(dataset=str(folder), column="text"))
    with pytest.raises(AgentRolloutsError, match="has no text in prompt"):
        load_prompts(PromptOptions(dataset=str(folder)))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("fix it\nfix it\nfix this very long thing\nno\nmend it\nfix that\nfix all\n")
    counts: Counter[str] = Counter()
    kept = prompts(path, counts=counts, min_chars=3, max_chars=10, include="fix|no", exclude="that$", limit=1)
    assert [p.text for p in kept] == ["fix it"]
    assert counts == {"over the limit": 6}
    counts = Counter()
    kept = prompts(path, counts=counts, min_chars=3, max_chars=10, include="fix|no", exclude="that$")
    assert [p.text for p in kept] == ["fix it", "fix all"]
    assert counts == {"duplicate": 1, "too long": 1, "too short": 1, "not included": 1, "excluded": 1}
    assert len(prompts(path, deduplicate=False)) == 7


def test_digests_tell_tasks_apart() -> None:
    different = [Prompt("a"), Prompt("b"), Prompt("a", ("c",)), Prompt("a", folder="f"), Prompt("a", git_bundle="f")]
    assert len({p.digest for p in different}) == 5
    assert Prompt("a", source="x").digest == Prompt("a", source="y").digest


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"text": "y"}', "a.jsonl:2 has no text in prompt, input"),
        ("a.jsonl", "{", "a.jsonl:1 is no JSON"),
        ("a.jsonl", '{"prompt": "x", "follow_ups": "y"}', "a.jsonl:1: follow_ups must be a list"),
        ("a.jsonl", '{"prompt": "x", "folder": 1}', "a.jsonl:1: folder must be text"),
        ("a.json", "3", "a.json:1 has no text"),
        ("a.csv", "x", "none of .txt"),
        ("a.txt", "\n", "no prompt is left"),
    ],
)
def test_bad_prompts_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(AgentRolloutsError) as caught:
        prompts(tmp_path / name)
    assert said in str(caught.value)


def test_no_prompts(tmp_path: Path) -> None:
    for options in ({}, {"source": (str(tmp_path),)}, {"source": (str(tmp_path / "gone.txt"),)}):
        with pytest.raises(AgentRolloutsError, match="prompts"):
            load_prompts(PromptOptions(**options))
    (tmp_path / "a.txt").write_text("x")
    for key in ("include", "exclude"):
        with pytest.raises(AgentRolloutsError, match=f"prompts.{key}"):
            prompts(tmp_path / "a.txt", **{key: "("})
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(AgentRolloutsError, match="no UTF-8"):
        prompts(tmp_path / "a.txt")
