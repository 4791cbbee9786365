"""Trajectories as Hermes writes them: held against its rules written down once more, and read again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetInfo, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.chat import exact
from agent_rollouts.distill.shapes.hermes import (
    FAILED,
    SAMPLES,
    has_reasoning,
    system,
    to_sharegpt,
    tool_stats,
    trajectory,
    write_trajectories,
)
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import FEATURES, table
from agent_rollouts.features import row as row_of
from agent_rollouts.formats import read
from agent_rollouts.source import Source
from tests.conftest import FIXTURES

Message = dict[str, Any]

# -- the rules, written down once more -------------------------------------------------------------

TEMPLATE = """\
You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. \
You may call one or more functions to assist with the user query. If available tools are not relevant in assisting \
with user query, just respond in natural conversational language. Don't make assumptions about what values to plug \
into functions. After calling & executing the functions, you will be provided with function results within \
<tool_response> </tool_response> XML tags. Here are the available tools:
<tools>
%s
</tools>
For each function call return a JSON object, with the following pydantic model json schema for each:
{'title': 'FunctionCall', 'type': 'object', 'properties': {'name': {'title': 'Name', 'type': 'string'}, \
'arguments': {'title': 'Arguments', 'type': 'object'}}, 'required': ['name', 'arguments']}
Each function call should be enclosed within <tool_call> </tool_call> XML tags.
Example:
<tool_call>
{'name': <function-name>,'arguments': <args-dict>}
</tool_call>"""
KNOWN = ["terminal", "read_file", "write_file"]


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def template(tools: list[Any]) -> dict[str, Any]:
    listed = [{key: tool["function"][key] for key in ("name", "description", "parameters")} for tool in tools]
    return {"from": "system", "value": TEMPLATE % dumps([{**tool, "required": None} for tool in listed])}


def turns_of(messages: list[Any]) -> list[dict[str, Any]]:
    """Turns without the system turn; a message is a row's, or (role, content)."""
    turns: list[dict[str, Any]] = []
    parent: Message = {}
    for message in messages:
        if isinstance(message, tuple):
            message = {"role": message[0], "content": message[1]}
        if message["role"] == "user":
            turns.append({"from": "human", "value": message["content"]})
        elif message["role"] == "assistant":
            turns.append({"from": "gpt", "value": answer(message)})
            parent, number = message, 0
        else:
            text = message["content"]
            try:
                content = json.loads(text) if text.strip()[:1] in ("{", "[") else text
            except ValueError:
                content = text
            name = parent["tool_calls"][number]["function"]["name"]
            block = dumps({"tool_call_id": message["tool_call_id"], "name": name, "content": content})
            block = f"<tool_response>\n{block}\n</tool_response>"
            if number:
                turns[-1]["value"] += "\n" + block
            else:
                turns.append({"from": "tool", "value": block})
            number += 1
    return turns


def answer(message: Message) -> str:
    text, thought, calls = message["content"], message.get("reasoning_content", ""), message.get("tool_calls", [])
    if "<REASONING_SCRATCHPAD>" in text:
        text = text.replace("<REASONING_SCRATCHPAD>", "<think>").replace("</REASONING_SCRATCHPAD>", "</think>")
    value = f"<think>\n{thought}\n</think>\n" if thought.strip() else ""
    value += "" if calls and not text.strip() else text + "\n" * bool(calls)
    for call in calls:
        function = call["function"]
        value += f"<tool_call>\n{dumps({'name': function['name'], 'arguments': function['arguments']})}\n</tool_call>\n"
    if "<think>" not in value:
        value = "<think>\n</think>\n" + value
    return value.rstrip() if calls else value.strip()


def cli_row(turns: list[Any], completed: bool = True) -> dict[str, Any]:
    moment = "2026-03-30T14:22:31.456789"
    return {"conversations": turns, "timestamp": moment, "model": "garden/model-1", "completed": completed}


def batch_row(turns: list[Any], index: int = 0, stats: dict[str, Any] | None = None) -> dict[str, Any]:
    stats = {name: {"count": 0, "success": 0, "failure": 0} for name in KNOWN} | (stats or {})
    return {
        "prompt_index": index,
        "conversations": turns,
        "metadata": {"batch_num": 1, "timestamp": "2026-03-30T14:22:31.456789", "model": "garden/model-1"},
        "completed": True,
        "partial": False,
        "api_calls": 2,
        "toolsets_used": ["garden"],
        "tool_stats": stats,
        "tool_error_counts": {name: counts["failure"] for name, counts in stats.items()},
    }


# -- messages that a Hermes agent may have ----------------------------------------------------------

TAGS = [
    "<tool_call>", "</tool_call>", "<tool_call>\n", "\n</tool_call>", "<tool_response>\n", "\n</tool_response>",
    "<think>", "</think>", "\n</think>\n", "<REASONING_SCRATCHPAD>", "</REASONING_SCRATCHPAD>", "<tools>", "</tools>",
    '<tool_call>\n{"name": "x", "arguments": {}}\n</tool_call>', '{"a": 1}', "[CONTEXT SUMMARY]:", "(empty)",
    "\n", " ", "\n\n", "größe", "郁金香", "\u2028", "😀", "\\", '"', "{", "[",
]  # fmt: skip
ANY_TEXT = st.lists(st.sampled_from(TAGS) | st.text(max_size=5), max_size=6).map("".join)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
# Arguments of a row are objects, or their text where a row cannot hold them.
ARGUMENTS = st.dictionaries(ANY_TEXT, ANY_JSON, max_size=3)
RESULT = ANY_TEXT | ANY_JSON.map(dumps) | ANY_JSON.map(lambda value: json.dumps([value], separators=(",", ":")))
NAMES = st.sampled_from(["terminal", "read_file", "größe"])
# Schemas have no NaN, which a JSON column cannot hold.
SCHEMAS = st.dictionaries(
    ANY_TEXT, ANY_TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=3
)
TOOLS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "description": ANY_TEXT, "parameters": SCHEMAS}).map(
        lambda function: {"type": "function", "function": function}
    ),
    max_size=2,
)


@st.composite
def conversations(draw: st.DrawFn, text: st.SearchStrategy[str], thought: st.SearchStrategy[str]) -> list[Message]:
    """A prompt and answers, each with its calls, all of them answered."""
    messages: list[Message] = [{"role": "user", "content": draw(ANY_TEXT)}]
    for number in range(draw(st.integers(1, 4))):
        message: Message = {"role": "assistant", "content": draw(text)}
        if draw(st.booleans()):
            message["reasoning_content"] = draw(thought)
        messages.append(message)
        names = draw(st.lists(NAMES, max_size=3))
        if names:
            ids = [f"call_{number}_{place}" for place in range(len(names))]
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": draw(ARGUMENTS)}}
                for id, name in zip(ids, names, strict=True)
            ]
            messages += [
                {"role": "tool", "content": draw(RESULT), "tool_call_id": id, "name": name}
                for id, name in zip(ids, names, strict=True)
            ]
        elif draw(st.booleans()):
            messages.append({"role": "user", "content": draw(ANY_TEXT | st.just(messages[0]["content"]))})
    return messages


TURNS = conversations(ANY_TEXT, ANY_TEXT)


def read_rows(*rows: Any) -> list[dict[str, Any]]:
    """Rows as they come back from a dataset."""
    data = "".join(f"{dumps(row)}\n" for row in rows).encode()
    found = [rollout for rollout in read(Source("t.jsonl", data), "hermes_trajectory") if rollout]
    return list(exact(Dataset(table(found), info=DatasetInfo(features=FEATURES))))


# -- written as Hermes writes it --------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(TURNS, TOOLS)
def test_turns_are_those_of_the_rules(messages: list[Message], tools: list[Any]) -> None:
    assert dumps(to_sharegpt(messages, tools)) == dumps([template(tools), *turns_of(messages)])


@settings(max_examples=150, deadline=None)
@given(TURNS, TOOLS, st.booleans(), st.booleans(), st.booleans())
def test_what_was_read_is_written_as_it_was(
    messages: list[Message], tools: list[Any], is_batch: bool, is_misplaced: bool, completed: bool
) -> None:
    turns = [template(tools), *turns_of(messages)]
    if is_misplaced:
        turns[1]["value"] = [turn["value"] for turn in turns if turn["from"] == "human"][-1]
    row = batch_row(turns, 3) if is_batch else cli_row(turns, completed)
    (found,) = read_rows(row)
    assert dumps(trajectory(found)) == dumps(row)


def meaning(value: Any) -> str:
    """JSON in one spelling, whether it is a value or its text; other text as it is."""
    try:
        return json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True)
    except ValueError:
        return str(value)


def kept(message: Message) -> Message:
    """What must be the same in a message that was written and read."""
    calls = [(call["id"], call["function"]["name"], meaning(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())]  # fmt: skip
    is_json = message["role"] == "tool" and message["content"].strip()[:1] in ("{", "[")
    content = meaning(message["content"]) if is_json else message["content"]
    keys = {key: message.get(key) for key in ("role", "reasoning_content", "tool_call_id", "name")}
    return {**keys, "content": content, "tool_calls": calls}


# What is a block itself, a thought at the start of a text, and a closing tag in a thought cannot be told from Hermes'.
PROSE = ANY_TEXT.map(lambda text: f"So: {text}." if text.strip() else "").filter(lambda text: "SCRATCHPAD" not in text)
THOUGHT = ANY_TEXT.map(lambda text: f"So: {text}.").filter(lambda text: "\n</think>\n" not in text)


@settings(max_examples=150, deadline=None)
@given(conversations(PROSE, THOUGHT), TOOLS)
def test_what_was_written_reads_as_it_was(messages: list[Message], tools: list[Any]) -> None:
    # Nor can a first prompt that is said again be told from one that was put in another's place.
    messages[0]["content"] = "First: " + "".join(
        message["content"] for message in messages if message["role"] == "user"
    )
    said = [m for m in messages if m["role"] != "assistant" or kept(m) != kept({"role": "assistant", "content": ""})]
    row = {"messages": messages, "tools": tools, "completed": True, "model": "m", "ended_at": "t", "source_meta": {}}
    (found,) = read_rows(trajectory(row))
    assert list(map(kept, found["messages"])) == list(map(kept, said))
    assert meaning(found["tools"]) == meaning(tools)
    assert (found["completed"], found["model"], found["ended_at"]) == (True, "m", "t")


@pytest.mark.parametrize("case", ["basic", "batch", "compressed", "literal_tags", "misplaced_prompt", "think", "parts"])
def test_fixtures_are_written_as_they_are(case: str) -> None:
    folder = FIXTURES / "hermes_trajectory" / case
    for path in [*folder.glob("input.jsonl"), *folder.glob("input/*.jsonl")]:
        rows = [row_of(rollout) for rollout in read(Source(str(path)))]
        assert "".join(f"{dumps(trajectory(row))}\n" for row in rows) == path.read_text(encoding="utf-8")


# -- single rules -----------------------------------------------------------------------------------


def called(id: str, name: str, arguments: Any = None) -> Message:
    return {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": {} if arguments is None else arguments},
    }


def returned(id: str, content: str, **more: Any) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content, **more}


def test_what_a_trajectory_cannot_hold_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    messages = [
        {"role": "system", "content": "You are a gardener."},
        {"role": "user", "content": "Go.", "media": [0, 1]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [called("a", "dig", "{no JSON"), called("b", "dig", '{"n": 1}')],
        },
        returned("a", "ok"),
        {"role": "assistant", "content": "Done.", "weight": 0, "weight_reason": "interrupted"},
        returned("b", "lost"),
    ]
    counts: Counter[str] = Counter()
    turns = to_sharegpt(messages, None, counts=counts)
    assert [turn["from"] for turn in turns] == ["system", "human", "gpt", "tool", "gpt"]
    assert '"arguments": {}}' in turns[2]["value"]
    assert '"arguments": {"n": 1}}' in turns[2]["value"]
    assert +counts == {
        "system messages not written": 1,
        "pictures not written": 2,
        "arguments that are no JSON, written as {}": 1,
        "answers of weight 0, written like others": 1,
        "results without a call before them, not written": 1,
    }
    assert "arguments of dig are no JSON" in caplog.text


def test_results_are_named_by_position_or_by_id() -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [called("a", "dig"), called("b", "plant")]}
    whole = to_sharegpt([calls, returned("x", "1"), returned("y", "2"), returned("z", "3")], None)[-1]["value"]
    assert [json.loads(line)["name"] for line in whole.split("\n") if line[0] == "{"] == ["dig", "plant", "unknown"]
    partly = to_sharegpt([calls, returned("b", "2")], None)[-1]["value"]
    assert [json.loads(line)["name"] for line in partly.split("\n") if line[0] == "{"] == ["plant"]


def test_scratchpads_become_thoughts() -> None:
    text = "<REASONING_SCRATCHPAD>\nDig.\n</REASONING_SCRATCHPAD>\nI dig."
    messages = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": text}]
    assert to_sharegpt(messages, [])[2]["value"] == "<think>\nDig.\n</think>\nI dig."
    assert has_reasoning(messages)
    assert not has_reasoning([messages[0], {"role": "assistant", "content": "I dig.", "reasoning_content": " \n"}])


@pytest.mark.parametrize(
    ("content", "is_error", "failed"),
    [
        ("fine", None, False),
        ("", None, True),
        ("ERROR: no spade", None, True),
        ("An error: no spade", None, False),
        ('{"output": "", "exit_code": 1, "error": null}', None, False),
        ('{"error": "no spade"}', None, True),
        ('{"content": {"error": "no spade"}}', None, True),
        ('{"success": false}', None, True),
        ('["error"]', None, False),
        ("fine", True, True),
        ("fine", False, False),
    ],
)
def test_failures(content: str, is_error: bool | None, failed: bool) -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [called("a", "dig")]}
    result = returned("a", content) if is_error is None else returned("a", content, is_error=is_error)
    counts = {"count": 1, "success": int(not failed), "failure": int(failed)}
    assert tool_stats([calls, result]) == {"dig": counts}


def test_batch_rows_name_all_known_tools() -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [called("a", "dig"), called("b", "plant")]}
    messages = [{"role": "user", "content": "Go."}, calls, returned("a", "ok"), returned("b", "")]
    row = {"messages": messages, "tools": None, "model": "m", "completed": None, "started_at": "t", "source_meta": None}
    found = trajectory(row, known_tools=["weed", "dig"], prompt_index=4)
    assert list(found) == list(batch_row([]))
    assert found["prompt_index"] == 4
    assert found["metadata"] == {"batch_num": 0, "timestamp": "t", "model": "m"}
    assert found["api_calls"] == 1
    assert list(found["tool_stats"]) == list(found["tool_error_counts"]) == ["weed", "dig", "plant"]
    assert found["tool_stats"]["weed"] == {"count": 0, "success": 0, "failure": 0}
    assert found["tool_error_counts"] == {"weed": 0, "dig": 0, "plant": 1}


def test_statistics_of_a_row_that_was_read_are_counted_anew_on_request() -> None:
    path = FIXTURES / "hermes_trajectory" / "batch" / "input" / "batch_0.jsonl"
    first, *_ = [row_of(rollout) for rollout in read(Source(str(path)))]
    line = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert dumps(trajectory(first, known_tools=["read_bed", "plant"])) == dumps(line)
    assert list(trajectory(first, known_tools=["water"])["tool_stats"]) == ["water", "plant"]


# -- files ------------------------------------------------------------------------------------------


def plain(text: str, completed: bool | None = True, **answer: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes.", **answer}]
    return {
        "messages": messages,
        "tools": None,
        "completed": completed,
        "model": "m",
        "ended_at": "t",
        "source_meta": {},
    }


def test_files_by_completion(tmp_path: Path) -> None:
    rows = [
        plain("Dig.", reasoning_content="Deep."),
        plain("Weed.", False, reasoning_content="No."),
        plain("Grüße.", None),
    ]
    counts = write_trajectories(rows, tmp_path / "out")
    assert counts == {SAMPLES: 2, FAILED: 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [FAILED, SAMPLES]
    written = (tmp_path / "out" / SAMPLES).read_text(encoding="utf-8")
    assert "Grüße." in written
    assert [json.loads(line)["completed"] for line in written.splitlines()] == [True, None]
    assert list(json.loads(written.splitlines()[0])) == ["conversations", "timestamp", "model", "completed"]


def test_rows_without_reasoning_are_left_out_on_request(tmp_path: Path) -> None:
    rows = [plain("Dig.", reasoning_content="Deep."), plain("Weed."), plain("Rest.", reasoning_content=" ")]
    counts = write_trajectories(rows, tmp_path, drop_without_reasoning=True)
    assert counts == {SAMPLES: 1, "left out: no reasoning": 2}


def test_batch_rows_load_as_one_table(tmp_path: Path) -> None:
    calls = {"tool_calls": [called("a", "dig")]}
    write_trajectories([plain("Dig.", **calls), plain("Weed.")], tmp_path, known_tools=["dig", "weed"])
    found = load_dataset("json", data_files=str(tmp_path / SAMPLES), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["prompt_index"][:] == [0, 1]
    assert found[1]["tool_stats"]["dig"] == {"count": 0, "success": 0, "failure": 0}


def test_nothing_appears_when_a_row_fails(tmp_path: Path) -> None:
    def rows() -> Any:
        yield plain("Dig.")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_trajectories(rows(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    (tmp_path / FAILED).write_text("mine", encoding="utf-8")
    with pytest.raises(AgentRolloutsError, match=f"has {FAILED} already; choose another folder"):
        write_trajectories([plain("Dig.")], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FAILED]


def test_the_system_turn_is_hermes() -> None:
    tool = {"type": "function", "function": {"name": "dig"}}
    listed = '[{"name": "dig", "description": "", "parameters": {}, "required": null}]'
    assert system([tool]) == TEMPLATE % listed
    assert system([]) == TEMPLATE % "[]"
