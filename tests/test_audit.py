"""`audit`: it finds nothing wrong with what the decoders make, and everything that is made wrong on purpose."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

import agent_rollouts.audit
from agent_rollouts.audit import RAW, FileAudit, audit
from agent_rollouts.cli import DEMO, main
from agent_rollouts.configs import file_rules
from agent_rollouts.formats import DECODERS, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Source, find, open_sources
from tests.sessions import claude, claude_records, codex, lines, put
from tests.test_formats import CASES

CORPUS = Path(__file__).parent.parent.parent / "shared" / "corpus"
Message = dict[str, Any]


def audits(*places: Path, patterns: tuple[str, ...] = ("*",)) -> Iterator[FileAudit]:
    for path in find(places, patterns=patterns, ignored=file_rules("auto")["ignored"]):
        for source in open_sources(path):
            yield audit(source)


# -- nothing wrong ----------------------------------------------------------------------------------


def test_every_format_is_audited() -> None:
    assert set(RAW) == set(DECODERS)


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_fixtures(case: Path) -> None:
    found = list(audits(*sorted(case.glob("input*"))))
    assert found
    assert {one.path: one.problems for one in found if one.problems} == {}


def test_demo() -> None:
    result = CliRunner().invoke(main, ["audit", str(DEMO)])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "3 files, 3 rollouts, 0 files with problems",
        "  tool_call: 12 in files, 12 in rows, 0 skipped",
        "  tool_result: 12 in files, 12 in rows, 0 skipped",
        "  reasoning: 3 in files, 3 in rows, 0 skipped",
        "  media: 1 in files, 1 in rows, 0 skipped",
        "  text: 10 in files, 10 in rows, 0 skipped",
    ]


@pytest.mark.parametrize("name", ["agentic_datagen", "atif", "claude_code", "codex", "hermes", "pi"])
def test_corpus(name: str) -> None:
    """All real sessions at hand: what is in the files is in the rows, or counted."""
    if not (CORPUS / name).is_dir():
        pytest.skip(f"no {CORPUS / name}")
    result = CliRunner().invoke(main, ["audit", str(CORPUS / name)])
    assert result.exit_code == 0, result.stdout
    assert ", 0 files with problems\n" in result.stdout
    # The oracle beside Pi's sessions is no session.
    assert result.stderr.count("\n") == (name == "pi")


# -- wrong on purpose -------------------------------------------------------------------------------

MUTATIONS: dict[str, tuple[Callable[[list[Message]], object], str]] = {}


def seen_as(problem: str) -> Callable[[Callable[[list[Message]], object]], Callable[[list[Message]], object]]:
    """Enters a way to spoil the messages of a rollout, and what the audit says of it."""

    def enter(spoil: Callable[[list[Message]], object]) -> Callable[[list[Message]], object]:
        MUTATIONS[spoil.__name__] = (spoil, problem)
        return spoil

    return enter


def with_calls(messages: list[Message], number: int = 1) -> int:
    return next(i for i, message in enumerate(messages) if len(message.get("tool_calls", ())) >= number)


def the_call(messages: list[Message]) -> Message:
    return messages[with_calls(messages)]["tool_calls"][0]["function"]


def thoughtful(messages: list[Message]) -> Message:
    return next(message for message in messages if "reasoning_content" in message)


@seen_as("tool_call: 6 in the file, 5 in rows, 0 skipped")
def drop_a_call(messages: list[Message]) -> None:
    del messages[with_calls(messages)]["tool_calls"][0]


@seen_as("tool_call: 6 in the file, 5 in rows, 0 skipped")
def drop_a_call_with_its_result(messages: list[Message]) -> None:
    index = with_calls(messages)
    call = messages[index]["tool_calls"].pop(0)
    messages[:] = [message for message in messages if message.get("tool_call_id") != call["id"]]


@seen_as("tool_call: 6 in the file, 7 in rows, 0 skipped")
def double_a_call(messages: list[Message]) -> None:
    calls = messages[with_calls(messages)]["tool_calls"]
    calls.append({**calls[0], "id": "another"})


@seen_as("name or arguments of call")
def change_an_argument(messages: list[Message]) -> None:
    arguments = the_call(messages)["arguments"]
    arguments[next(iter(arguments))] += " "


@seen_as("name or arguments of call")
def add_an_argument(messages: list[Message]) -> None:
    the_call(messages)["arguments"]["more"] = None


@seen_as("name or arguments of call")
def rename_the_tool(messages: list[Message]) -> None:
    the_call(messages)["name"] = "another"


@seen_as("name or arguments of call")
def swap_arguments(messages: list[Message]) -> None:
    first, second = (call["function"] for call in messages[with_calls(messages, 2)]["tool_calls"])
    first["arguments"], second["arguments"] = second["arguments"], first["arguments"]


@seen_as("tool_result: 6 in the file, 5 in rows, 0 skipped")
def drop_a_result(messages: list[Message]) -> None:
    del messages[next(i for i, message in enumerate(messages) if message["role"] == "tool")]


@seen_as("result without its call before it")
def reorder_results(messages: list[Message]) -> None:
    index = with_calls(messages, 2)
    messages[index + 1 : index + 3] = messages[index + 2], messages[index + 1]


@seen_as("result without its call before it")
def move_a_result(messages: list[Message]) -> None:
    messages.append(messages.pop(next(i for i, message in enumerate(messages) if message["role"] == "tool")))


@seen_as("result of call")
def swap_results(messages: list[Message]) -> None:
    index = with_calls(messages, 2)
    first, second = messages[index + 1 : index + 3]
    first["content"], second["content"] = second["content"], first["content"]


@seen_as("result of call")
def cut_a_result(messages: list[Message]) -> None:
    result = next(message for message in messages if message["role"] == "tool")
    result["content"] = result["content"][:-1]


@seen_as("reasoning: 1 of 3 in no row, 0 skipped")
def drop_reasoning(messages: list[Message]) -> None:
    del thoughtful(messages)["reasoning_content"]


@seen_as("reasoning: 1 of 3 in no row, 0 skipped")
def cut_reasoning(messages: list[Message]) -> None:
    message = thoughtful(messages)
    message["reasoning_content"] = message["reasoning_content"][:-1]


@seen_as("reasoning: 1 lines in rows that the file does not have, or not so often")
def double_reasoning(messages: list[Message]) -> None:
    message = thoughtful(messages)
    message["reasoning_content"] += "\n" + message["reasoning_content"]


@seen_as("reasoning: 1 lines in rows that the file does not have, or not so often")
def repeat_reasoning(messages: list[Message]) -> None:
    messages[-1]["reasoning_content"] = thoughtful(messages)["reasoning_content"]


@seen_as("text: 1 of ")
def drop_text_beside_calls(messages: list[Message]) -> None:
    messages[with_calls(messages)]["content"] = ""


@seen_as("text: 1 of ")
def drop_the_answer(messages: list[Message]) -> None:
    del messages[-1]


@seen_as("text: 1 of ")
def drop_the_prompt(messages: list[Message]) -> None:
    messages[:] = [m for m in messages if m["role"] != "user" or m.get("origin")]


@seen_as("text: 1 of ")
def cut_the_prompt(messages: list[Message]) -> None:
    prompt = next(m for m in messages if m["role"] == "user" and not m.get("origin"))
    prompt["content"] = prompt["content"].partition(". ")[0]


@seen_as("text: 1 lines in rows that the file does not have, or not so often")
def double_the_answer(messages: list[Message]) -> None:
    messages.append({"role": "user", "content": "More."})
    messages.append({"role": "assistant", "content": messages[-2]["content"]})


@seen_as("text: 1 lines in rows that the file does not have, or not so often")
def put_reasoning_into_the_text(messages: list[Message]) -> None:
    message = thoughtful(messages)
    message["content"] += "\n" + message.pop("reasoning_content")


@seen_as("one response in two messages")
def split_a_response(messages: list[Message]) -> None:
    index = with_calls(messages)
    second = {key: value for key, value in messages[index].items() if key not in ("tool_calls", "reasoning_content")}
    messages.insert(index, {**second, **{key: messages[index].pop(key) for key in ["reasoning_content"]}})
    messages[index + 1]["content"] = ""


@seen_as("unknown message keys ['annotations']")
def add_a_key(messages: list[Message]) -> None:
    messages[0]["annotations"] = []


# A session with everything: six calls, two at once, beside text and reasoning, three thoughts, two pictures.


def example(name: str) -> bytes:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    if name == "claude_code":
        records = claude_records("s", prompt="Find the tulips. Then count them.")
        picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}}
        records[0]["message"]["content"] = [{"type": "text", "text": "Find the tulips. Then count them."}, picture]
        first = {"type": "tool_use", "id": "x", "name": "Bash", "input": {"command": "ls"}}
        result = {"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "beds"}, picture]}
        records[1]["message"]["content"].append({"type": "text", "text": "Two look-ups."})
        records[2]["message"]["content"].append(first)
        records[3]["message"]["content"].append(result)
        for number in range(4):
            more = claude_records("s", key=f"k{number}", prompt="More.", answer=f"That is {number}.")
            more[1]["message"]["content"][0]["thinking"] = f"Thought {number}."
            records += more[1 if number < 2 else 2 :]
        return lines(*records)

    def item(kind: str, **fields: Any) -> dict[str, Any]:
        return {"timestamp": "2026-03-02T09:00:01.000Z", "type": "response_item", "payload": {"type": kind, **fields}}

    def called(id: str, arguments: str) -> dict[str, Any]:
        return item("function_call", name="exec", arguments=arguments, call_id=id)

    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{pixel}"}
    text = {"type": "input_text", "text": "Find the tulips. Then count them."}
    items = [
        item("message", role="user", content=[text, picture]),
        item("reasoning", summary=[{"type": "summary_text", "text": "Look it up."}]),
        item("message", role="assistant", content=[{"type": "output_text", "text": "Two look-ups."}]),
        called("a", '{"cmd": "ls", "share": 0.7}'),
        called("b", '{"cmd": "cat tulips"}'),
        item("function_call_output", call_id="a", output=[{"type": "input_text", "text": "beds"}, picture]),
        item("function_call_output", call_id="b", output="red: week 14"),
    ]
    for number in range(4):
        if number < 2:
            items.append(item("reasoning", summary=[{"type": "summary_text", "text": f"Thought {number}."}]))
        items += [
            called(f"k{number}", f'{{"cmd": "bed {number}"}}'),
            item("function_call_output", call_id=f"k{number}", output=f"{number}"),
        ]
    answer = item("message", role="assistant", content=[{"type": "output_text", "text": "Seven."}])
    meta = {"type": "session_meta", "payload": {"id": "t", "cwd": "/garden"}}
    return lines(meta, *items, answer)


def spoilt(spoil: Callable[[list[Rollout]], object]) -> Callable[..., list[Rollout]]:
    def read_spoilt(source: Source, *args: Any, **options: Any) -> list[Rollout]:
        rollouts = list(read(source, *args, **options))
        for rollout in rollouts:
            rollout.messages = [copy.deepcopy(message) for message in rollout.messages]  # type: ignore[assignment]
        spoil(rollouts)
        return rollouts

    return read_spoilt


# What compares is the same for every format; these two say most.
@pytest.fixture(params=["claude_code", "codex"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return Source(str(put(tmp_path / "s.jsonl", example(request.param))))


def test_the_example_is_in_order(source: Source) -> None:
    found = audit(source)
    assert found.problems == []
    assert (found.raw["tool_call"], found.raw["tool_result"], found.raw["media"]) == (6, 6, 2)


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation(name: str, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, problem = MUTATIONS[name]
    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(lambda rollouts: spoil(rollouts[0].messages)))  # type: ignore[arg-type]
    problems = audit(source).problems
    assert any(problem in one for one in problems), problems
    result = CliRunner().invoke(main, ["audit", source.path])
    assert result.exit_code == 1
    assert f"{source.path}: {problems[0]}\n" in result.stdout
    assert "1 files with problems" in result.stdout


def test_media_lost(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(rollouts: list[Rollout]) -> None:
        del next(message for message in rollouts[0].messages if "media" in message)["media"]

    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(drop))
    assert audit(source).problems == ["media: 2 in the file, 1 in rows, 0 skipped"]
    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(lambda rollouts: rollouts[0].media.pop()))
    assert "points to media that the row does not have" in audit(source).problems[0]


def test_rollout_lost(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(lambda rollouts: rollouts.clear()))
    kinds = {problem.partition(":")[0] for problem in audit(source).problems}
    assert kinds == {"tool_call", "tool_result", "media", "reasoning", "text"}


def test_rollout_doubled(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(lambda rollouts: rollouts.append(rollouts[0])))
    problems = audit(source).problems
    assert "two rollouts share a trace_id" in problems
    kinds = {problem.partition(":")[0] for problem in problems}
    assert {"tool_call", "tool_result", "media", "reasoning", "text"} <= kinds


def test_what_is_counted_is_no_problem(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def withdraw(rollouts: list[Rollout]) -> None:
        drop_the_answer(rollouts[0].messages)  # type: ignore[arg-type]
        rollouts[0].skipped["message: withdrawn"] += 1

    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(withdraw))
    assert audit(source).problems == []


@pytest.mark.parametrize(
    ("written", "row", "same"),
    [
        ('{"n": 1}', {"n": 1}, True),
        ('{"n": 123456789012345678901234567890}', '{"n": 123456789012345678901234567890}', True),
        ('{"n": 123456789012345678901234567890}', {"n": 1.2345678901234568e29}, False),
        ('{"n": 1}', {"n": 1.0}, False),
        ('{"n": 1}', {"n": True}, False),
        ('{"n": 1, "m": 2}', {"m": 2, "n": 1}, False),
        ('{"n": 1, "n": 2}', '{"n": 1, "n": 2}', True),
        ("no JSON", "no JSON", True),
        ("no JSON", {"input": "no JSON"}, False),
    ],
)
def test_arguments(written: str, row: Any, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [orjson.loads(line) for line in codex("t").splitlines()]
    records[3]["payload"]["arguments"] = written
    source = Source(str(put(tmp_path / "t.jsonl", lines(*records))))
    assert audit(source).problems == []

    def change(rollouts: list[Rollout]) -> None:
        rollouts[0].messages[1]["tool_calls"][0]["function"]["arguments"] = row

    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(change))
    assert (audit(source).problems == []) == same


def test_two_calls_with_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is held against the values of both, not only the first."""
    records = claude_records("s")
    again = claude_records("s", key="again")
    again[2]["message"]["content"] = [{**records[2]["message"]["content"][0], "input": {"file_path": "roses.txt"}}]
    again[3]["message"]["content"] = [{**records[3]["message"]["content"][0], "content": "white"}]
    source = Source(str(put(tmp_path / "s.jsonl", lines(*records, *again))))
    assert audit(source).problems == []

    def change(rollouts: list[Rollout]) -> None:
        rollouts[0].messages[5]["tool_calls"][0]["function"]["arguments"]["file_path"] = "lilies.txt"
        rollouts[0].messages[6]["content"] = "yellow"

    monkeypatch.setattr(agent_rollouts.audit, "read", spoilt(change))
    assert [problem.partition(", ")[2].partition(" of ")[0] for problem in audit(source).problems] == [
        "message 5: name or arguments",
        "message 6: result",
    ]


def test_cited_sentences_are_one_text(tmp_path: Path) -> None:
    """They come as blocks of their own, and are joined by nothing."""
    records = claude_records("s")
    sentences = ["Tulips open in week 14. ", "Roses in week 22."]
    records[-1]["message"]["content"] = [{"type": "text", "text": text, "citations": [{}]} for text in sentences]
    assert audit(Source(str(put(tmp_path / "s.jsonl", lines(*records))))).problems == []


def test_the_same_part_twice(tmp_path: Path) -> None:
    """A user's is there twice; one of an answer is a fragment written again, and there once."""
    records = claude_records("s")
    twice = [{"type": "text", "text": "Tulips!"}] * 2
    records[0]["message"]["content"] = records[-1]["message"]["content"] = twice
    found = audit(Source(str(put(tmp_path / "s.jsonl", lines(*records)))))
    assert (found.problems, found.raw["text"], found.rows["text"]) == ([], 4, 3)
    records = [orjson.loads(line) for line in codex("t").splitlines()]
    for record in (records[2], records[5]):
        record["payload"]["content"] *= 2
    found = audit(Source(str(put(tmp_path / "t.jsonl", lines(*records)))))
    assert (found.problems, found.raw["text"], found.rows["text"]) == ([], 2, 2)


def test_unreadable_records_are_no_problem(tmp_path: Path) -> None:
    """A damaged line costs decoder and audit alike, and ids may be anything."""
    records = claude_records("s")
    message = {"id": {}, "content": [{"type": "tool_use", "id": []}]}
    odd = [{**record, "uuid": ["odd"], "message": message} for record in records]
    data = lines(*records[:3]) + b'{"type": "user", cut\n' + lines(*odd, *records[3:], 1, None)
    assert audit(Source(str(put(tmp_path / "s.jsonl", data)))).problems == []
    assert audit(Source(str(put(tmp_path / "c.jsonl", claude("c"))))).problems == []


def test_verbose_shows_each_file() -> None:
    result = CliRunner().invoke(main, ["audit", "-v", str(DEMO)])
    assert result.exit_code == 0
    shown = [line for line in result.output.splitlines() if ".jsonl: 1 rollouts; tool_call: " in line]
    assert len(shown) == 3
