"""Whole runs against a server that plays a model: what is recorded, and that nothing is lost, doubled or told."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from agent_rollouts import llm, load_rollouts
from agent_rollouts.distill.redact import redact
from agent_rollouts.errors import AgentRolloutsError, EndpointError
from agent_rollouts.features import check_message
from agent_rollouts.generate import runner
from agent_rollouts.generate.agent import STOPS, Session
from agent_rollouts.generate.cli import command
from agent_rollouts.generate.config import Config, changed
from agent_rollouts.generate.prompts import Prompt
from agent_rollouts.generate.record import FAILED, SESSIONS, Recorder, Secrets, check, record, session_ids
from agent_rollouts.generate.runner import Summary, generate
from agent_rollouts.generate.sandbox import Limits, choose
from agent_rollouts.generate.tools import offered
from tests.llm_server import Reply, Request, Server

pytest.importorskip("openai")

KEY = "sk-" + "Zq3v" * 9


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(llm, "_WAITS", (0.01,))
    # A key that every test may find where it must not be.
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter" + "2-hunter2")
    yield
    logging.getLogger("agent_rollouts").setLevel(logging.NOTSET)


def calls(*given: tuple[str, Mapping[str, Any] | str]) -> list[dict[str, Any]]:
    """Tool calls of one message; arguments as object or as the text they are."""
    return [
        {
            "id": f"c{number}_{name}",
            "type": "function",
            "function": {"name": name, "arguments": a if isinstance(a, str) else json.dumps(a, ensure_ascii=False)},
        }
        for number, (name, a) in enumerate(given)
    ]


def turn(request: Request) -> int:
    """How often the model has answered in this session."""
    return sum(message["role"] == "assistant" for message in request.body["messages"])


def task(request: Request) -> str:
    return str(next(m["content"] for m in request.body["messages"] if m["role"] == "user"))


def play(*replies: Reply) -> Callable[[Request], Reply]:
    """The same session for every prompt, turn by turn."""
    return lambda request: replies[min(turn(request), len(replies) - 1)]


def worker(request: Request) -> Reply:
    """Writes a file, runs it, and answers with what it is about."""
    word = task(request)
    match turn(request):
        case 0:
            made = ("write_file", {"path": "a/task.txt", "content": f"{word}\n"})
            return Reply(None, reasoning="I write.", tool_calls=calls(made, ("list_directory", {})), cost=0.01)
        case 1:
            return Reply("Checking.", tool_calls=calls(("run_command", {"command": "cat a/task.txt"})), cost=0.01)
    return Reply(f"{word} is done.", reasoning="All well.", cost=0.01)


def config(folder: Path, server: Server | str, prompts: str = "one\ntwo\nthree\n", **values: Any) -> Config:
    path = folder / "prompts.txt"
    path.write_text(prompts, encoding="utf-8")
    url = server if isinstance(server, str) else server.url
    given = {
        "api.model": "tiny",
        "api.base_url": url,
        "api.api_key_env": "TEST_MODEL_KEY",
        "api.env_file": str(folder / ".env"),
        "prompts.source": str(path),
        "output.folder": str(folder / "out"),
    }
    return changed(Config(), {**given, **{key.replace("__", "."): value for key, value in values.items()}})


def run(folder: Path, script: Callable[[Request], Reply] = worker, **values: Any) -> tuple[Summary, Server]:
    with Server(script, key=KEY) as server:
        return generate(config(folder, server, **values), unsandboxed=True), server


def lines(folder: Path, name: str = SESSIONS) -> list[dict[str, Any]]:
    path = folder / "out" / name
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def essence(line: Mapping[str, Any]) -> str:
    """A line without its times, and without the folder that commands ran in."""
    metadata = {key: value for key, value in line["metadata"].items() if not key.endswith("_at")}
    return json.dumps({**line, "metadata": metadata}, sort_keys=True)


def test_a_session_is_recorded_whole_and_read_back_row_for_row(tmp_path: Path) -> None:
    summary, server = run(tmp_path)
    assert not server.refused
    assert (summary.ends, summary.already, summary.left, summary.halted) == ({"answered": 3}, 0, 0, None)
    assert summary.meter.cost == pytest.approx(0.09)
    written = lines(tmp_path)
    assert sorted(line["prompt"] for line in written) == ["one", "three", "two"]
    line = next(line for line in written if line["prompt"] == "one")
    assert [m["role"] for m in line["messages"]] == [
        *("system", "user", "assistant", "tool", "tool", "assistant", "tool", "assistant")
    ]
    assert line["messages"][2] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I write.",
        "tool_calls": [
            {
                "id": "c0_write_file",
                "type": "function",
                "function": {"name": "write_file", "arguments": {"path": "a/task.txt", "content": "one\n"}},
            },
            {
                "id": "c1_list_directory",
                "type": "function",
                "function": {"name": "list_directory", "arguments": {}},
            },
        ],
    }
    assert [m["content"] for m in line["messages"] if m["role"] == "tool"] == [
        "Created a/task.txt (4 bytes)",
        "a/",
        "one\n",
    ]
    assert [tool["function"]["name"] for tool in line["tools"]][:2] == ["read_file", "write_file"]
    assert line["usage"]["cost"] == pytest.approx(0.03)
    assert line["metadata"]["completed"] is True
    assert not (tmp_path / "out-workspaces").exists() or not list((tmp_path / "out-workspaces").iterdir())

    rows = load_rollouts("agentic_datagen", str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 3
    assert len(set(rows["trace_id"])) == 3
    for row, line in zip(rows, written, strict=True):
        for message, said in zip(row["messages"], line["messages"], strict=True):
            check_message({key: value for key, value in message.items() if value is not None})
            assert {key: message.get(key) for key in said} == said
        assert row["tools"] == line["tools"]
        assert (row["completed"], row["model"], row["skipped"]) == (True, "tiny", {})
        assert row["usage"]["input_tokens"] == line["usage"]["prompt_tokens"]
        assert row["usage"]["cost_usd"] == pytest.approx(0.03)
        assert row["started_at"] <= row["ended_at"]
        assert row["source_meta"]["sandbox"] == "none"


def test_the_model_sees_what_it_said(tmp_path: Path) -> None:
    _, server = run(tmp_path, prompts="one\n")
    asked = [request.body["messages"] for request in server.requests]
    assert asked[0] == [{"role": "system", "content": Config().agent.system_prompt}, {"role": "user", "content": "one"}]
    said = asked[1][2]
    assert said["reasoning_content"] == "I write."
    assert said["tool_calls"][0]["function"]["arguments"] == '{"path": "a/task.txt", "content": "one\\n"}'
    assert asked[1][3] == {"role": "tool", "content": "Created a/task.txt (4 bytes)", "tool_call_id": "c0_write_file"}
    assert len(asked[2]) == 7
    _, server = run(tmp_path, prompts="one\n", api__send_reasoning=False, agent__system_prompt=None)
    assert all("reasoning_content" not in message for message in server.requests[1].body["messages"])
    assert server.requests[0].body["messages"][0]["role"] == "user"


def test_one_and_eight_at_once_make_the_same_rows(tmp_path: Path) -> None:
    prompts = "".join(f"task {number}\n" for number in range(12))
    found = []
    for number, concurrency in enumerate((1, 8)):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, server = run(folder, prompts=prompts, processing__concurrency=concurrency)
        assert 1 <= server.busiest <= concurrency
        found.append(sorted(essence(line).replace(str(folder), "") for line in lines(folder)))
    assert len(found[0]) == 12
    assert found[0] == found[1]


def test_what_models_get_wrong_goes_back_to_them(tmp_path: Path) -> None:
    wrong = calls(
        ("read_file", '{"path": '), ("read_file", "[1]"), ("fly", "{}"), ("read_file", ""), ("list_directory", "")
    )
    again = [{**call, "id": "same"} for call in calls(("list_directory", {}), ("list_directory", {}))]
    large = calls(("list_directory", '{"path": ".", "n": 123456789012345678901234567890}'))
    script = play(
        Reply(None, tool_calls=wrong), Reply("Again.", tool_calls=again), Reply("", tool_calls=large), Reply("Ok.")
    )
    _, server = run(tmp_path, script, prompts="one\n")
    assert not server.refused  # the server takes no arguments that are no JSON
    (line,) = lines(tmp_path)
    results = [(m["content"], m["is_error"]) for m in line["messages"] if m["role"] == "tool"]
    assert [said[:30] for said, _ in results[:4]] == [
        "Error: the arguments are not a",
        "Error: the arguments are not a",
        "Error: there is no tool 'fly';",
        "Error: argument path is missin",
    ]
    assert [is_error for _, is_error in results] == [True, True, True, True, False, False, False, True]
    said = [m["tool_calls"] for m in line["messages"] if m.get("tool_calls")]
    assert said[0][0]["function"]["arguments"] == '{"path": '
    assert said[2][0]["function"]["arguments"] == large[0]["function"]["arguments"]
    ids = [call["id"] for group in said for call in group]
    assert len(set(ids)) == len(ids) == 8
    assert line["metadata"]["completed"] is True


@pytest.mark.parametrize(
    ("reply", "stop", "values"),
    [
        (Reply("cut", finish_reason="length"), "length", {}),
        (Reply("", finish_reason="content_filter"), "content_filter", {}),
        (Reply(""), "empty", {}),
        (Reply(None, reasoning="only thought"), "empty", {}),
        (Reply("on", tool_calls=calls(("list_directory", {}))), "max_turns", {"agent__max_turns": 3}),
        (
            Reply("on", tool_calls=calls(("list_directory", {}))),
            "max_session_tokens",
            {"agent__max_session_tokens": 90},
        ),
        (Reply("on", tool_calls=calls(("list_directory", {}))), "max_seconds", {"agent__max_seconds": 0.2}),
        (Reply(status=400, error="context length exceeded"), "error", {}),
    ],
)
def test_how_sessions_end(tmp_path: Path, reply: Reply, stop: str, values: dict[str, Any]) -> None:
    summary, server = run(tmp_path, play(reply), prompts="one\n", agent__tools=("list_directory",), **values)
    assert stop in STOPS
    assert summary.ends == {stop: 1}
    assert lines(tmp_path) == []
    (line,) = lines(tmp_path, FAILED)
    assert (line["metadata"]["completed"], line["metadata"]["stop"]) == (False, stop)
    assert (line["metadata"]["error"] is not None) == (stop == "error")
    assert summary.kept == [str(tmp_path / "out-workspaces" / line["metadata"]["session_id"])]
    assert Path(summary.kept[0]).is_dir()
    asked = len(server.requests)
    assert asked == line["metadata"]["turns"] + (stop == "error")
    # It is done: it would end so again.
    summary, server = run(tmp_path, play(reply), prompts="one\n", agent__tools=("list_directory",), **values)
    assert (summary.already, len(server.requests)) == (1, 0)


def test_many_calls_at_once_do_not_outlast_the_session(tmp_path: Path) -> None:
    slow = Reply("", tool_calls=calls(*[("run_command", {"command": "sleep 0.2"})] * 100))
    summary, server = run(tmp_path, play(slow), prompts="one\n", agent__max_seconds=0.3)
    assert (summary.ends, len(server.requests)) == ({"max_seconds": 1}, 1)
    results = [m["content"] for m in lines(tmp_path, FAILED)[0]["messages"] if m["role"] == "tool"]
    assert len(results) == 100
    assert results[-1] == "Error: not done, as the time of the session is up"


def test_a_refusal_is_no_success(tmp_path: Path) -> None:
    body = {
        "choices": [
            {"message": {"role": "assistant", "content": None, "refusal": "I will not."}, "finish_reason": "stop"}
        ],
        "model": "tiny",
    }
    summary, _ = run(tmp_path, play(Reply(body=json.dumps(body).encode())), prompts="one\n")
    assert summary.ends == {"refusal": 1}
    (row,) = load_rollouts("agentic_datagen", str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert (row["completed"], row["final_assistant_message"]) == (False, "I will not.")


def test_servers_that_stumble_are_asked_again(tmp_path: Path) -> None:
    tries: dict[tuple[str, int], int] = {}
    lock = threading.Lock()

    def script(request: Request) -> Reply:
        place = (task(request), turn(request))
        with lock:
            tries[place] = tries.get(place, 0) + 1
        kind = (tries[place], (len(place[0]) + place[1]) % 4)
        if kind[0] == 1:
            return [
                Reply(status=429, headers={"Retry-After": "0.05"}),
                Reply(status=500),
                Reply(drop=True),
                Reply(delay=3),
            ][kind[1]]
        return worker(request)

    summary, _ = run(tmp_path, script, prompts="a\nbb\nccc\n", api__timeout=1.0, processing__concurrency=3)
    assert summary.ends == {"answered": 3}
    assert set(summary.meter.tries) == {"429", "500", "connection", "timeout"}
    assert all(count == 2 for count in tries.values())


def test_a_session_without_an_answer_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    """A server that fails for one prompt, in its second turn, costs this session only, and only this time."""

    def script(request: Request) -> Reply:
        return Reply(status=503) if (task(request), turn(request)) == ("two", 1) else worker(request)

    values = {"processing__concurrency": 1, "api__attempts": 2}
    summary, _ = run(tmp_path, script, **values)
    assert (summary.ends, summary.left) == ({"answered": 2}, 1)
    (failed,) = lines(tmp_path, FAILED)
    assert (failed["prompt"], failed["metadata"]["retryable"], failed["metadata"]["turns"]) == ("two", True, 1)
    summary, server = run(tmp_path, **values)
    assert (summary.ends, summary.already, summary.left) == ({"answered": 1}, 2, 0)
    assert {task(request) for request in server.requests} == {"two"}
    assert not (tmp_path / "out" / FAILED).exists()
    assert sorted(line["prompt"] for line in lines(tmp_path)) == ["one", "three", "two"]
    summary, server = run(tmp_path, **values)
    assert (summary.already, summary.ends, len(server.requests)) == (3, {}, 0)


def test_a_wrong_key_stops_the_run_and_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_MODEL_KEY", wrong := "sk-" + "wrong" * 8)
    with Server(worker, key=KEY) as server:
        with pytest.raises(EndpointError, match="401 Incorrect API key") as caught:
            generate(config(tmp_path, server), unsandboxed=True)
        assert sum(server.refused.values()) <= 4
    assert wrong not in str(caught.value)
    assert (lines(tmp_path), lines(tmp_path, FAILED)) == ([], [])


def test_the_cost_has_a_limit(tmp_path: Path) -> None:
    summary, _ = run(tmp_path, processing__max_cost=0.045, processing__concurrency=1)
    assert summary.meter.cost <= 0.045
    assert summary.halted is not None
    assert "max_cost" in summary.halted
    assert (summary.ends, summary.left) == ({"answered": 1}, 2)
    summary, _ = run(tmp_path)
    assert (summary.already, summary.ends) == (1, {"answered": 2})


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Ctrl-C: sessions end at their next step, what was begun is kept, and the next run does the rest."""

    def script(request: Request) -> Reply:
        if task(request) == "two" and turn(request) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        return worker(request)

    summary, _ = run(tmp_path, script, processing__concurrency=1)
    assert (summary.halted, summary.ends, summary.left) == ("interrupted", {"answered": 1}, 2)
    assert [line["metadata"]["error"] for line in lines(tmp_path, FAILED)] == ["interrupted"]
    summary, _ = run(tmp_path)
    assert (summary.already, summary.ends, summary.halted) == (1, {"answered": 2}, None)
    assert not (tmp_path / "out" / FAILED).exists()


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """A server that does not answer keeps the sessions, but not the user."""
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    words = [
        sys.executable,
        "-m",
        "agent_rollouts",
        "generate",
        "--model",
        "tiny",
        "--prompts",
        str(tmp_path / "p.txt"),
    ]
    words += ["--unsandboxed", "--api-key-env", "TEST_MODEL_KEY", "--output", str(tmp_path / "out")]
    with Server(lambda request: Reply("late", delay=15.0), key=KEY) as server:
        process = subprocess.Popen(
            [*words, "--base-url", server.url],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        with process:
            while len(server.requests) < 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = next(line for line in process.stderr if "interrupt" in line)
            assert "interrupt again to leave at once" in said
            limit = time.monotonic() + 10
            while process.poll() is None:
                # One that comes just as the first is being answered may be lost, as Python has it.
                assert time.monotonic() < limit
                process.send_signal(signal.SIGINT)
                time.sleep(0.5)
            assert process.returncode == 130


def test_prices_make_the_cost(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 40}}
    summary, _ = run(
        tmp_path, play(Reply("Done.", usage=usage)), prompts="one\n", api__input_price=2, api__output_price=10
    )
    (line,) = lines(tmp_path)
    assert line["usage"]["cost"] == summary.meter.cost == pytest.approx(0.003)
    assert line["usage"]["completion_tokens_details"] == {"reasoning_tokens": 40}
    with pytest.raises(AgentRolloutsError, match="given together"):
        run(tmp_path, api__input_price=2)


def test_follow_ups_and_starting_folders(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "hello.txt").write_text("from the start")
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "Look", "follow_ups": ["More", "Thanks"], "folder": str(start)}) + "\n")
    looks = calls(("read_file", {"path": "hello.txt"}))
    script = play(Reply("", tool_calls=looks), Reply("Read."), Reply("No more."), Reply("Welcome."))
    _, server = run(tmp_path, script, prompts__source=(str(path),))
    (line,) = lines(tmp_path)
    assert [m["content"] for m in line["messages"][1:]] == [
        *("Look", "", "from the start", "Read.", "More", "No more.", "Thanks", "Welcome.")
    ]
    assert len(server.requests) == 4
    path.write_text(json.dumps({"prompt": "Look", "folder": str(tmp_path / "gone")}) + "\n")
    summary, _ = run(tmp_path, script, prompts__source=(str(path),))
    assert (summary.ends, summary.left, summary.kept) == ({}, 1, [])
    assert "gone is not there" in lines(tmp_path, FAILED)[0]["metadata"]["error"]
    start.rename(tmp_path / "gone")
    summary, _ = run(tmp_path, script, prompts__source=(str(path),))
    assert (summary.ends, summary.left) == ({"answered": 1}, 0)
    assert not (tmp_path / "out" / FAILED).exists()


def test_no_key_and_no_secret_is_in_any_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without a sandbox that look for them, a server that repeats them, a log that hears everything."""
    password, note = "hunter" + "2-hunter2", 'quo"ted\\' + "secret9"
    monkeypatch.setenv("MY_SECRET", note)
    (tmp_path / ".env").write_text(f"FILE_TOKEN={'file' * 5}\n")
    monkeypatch.delenv("FILE_TOKEN", raising=False)
    looks = calls(
        ("run_command", {"command": "env; cat /proc/$PPID/environ | tr '\\0' '\\n'"}),
        ("read_file", {"path": f"{tmp_path}/.env"}),
        ("run_command", {"command": f"cat {tmp_path}/.env; echo {password}; printf '%s' '{note}'"}),
    )

    def script(request: Request) -> Reply:
        if task(request) == "two":
            return Reply(status=400, error=f"the key {KEY} is fine, the request is not")
        seen.append(request.text)
        return [Reply("I look.", tool_calls=looks), Reply(f"It is {KEY} and {note}.")][turn(request)]

    seen: list[str] = []
    log = tmp_path / "log.txt"
    values = {"output__hermes": str(tmp_path / "hermes"), "logging__level": "debug", "logging__file": str(log)}
    with Server(script, key=KEY) as server:
        given = config(tmp_path, server, prompts="one\ntwo\n", **values)
        monkeypatch.setattr(runner, "require_openai", lambda: None)
        (tmp_path / "c.yaml").write_text(json.dumps(_sections(given)))
        result = CliRunner().invoke(command, [str(tmp_path / "c.yaml"), "--unsandboxed"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "answered 1" in result.output
    outputs = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (".env", "prompts.txt")]
    assert {path.name for path in outputs} >= {SESSIONS, FAILED, "log.txt", "trajectory_samples.jsonl"}
    everything = {str(path): path.read_text() for path in outputs} | {"stdout": result.output}
    everything |= {f"request {number}": text for number, text in enumerate(seen)}
    for word in (KEY, password, note, json.dumps(note)[1:-1], "file" * 5):
        for place, text in everything.items():
            assert word not in text, (place, word)
    monkeypatch.delenv("FILE_TOKEN", raising=False)


def _sections(given: Config) -> dict[str, Any]:
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(given)))  # type: ignore[no-any-return]


def test_secrets_are_what_looks_like_them() -> None:
    environ = {
        "API_KEY": "abcd1234",
        "LONG_TOKEN": "x" * 12,
        "SHORT_KEY": "abc1",
        "WORD_TOKEN": "disabled",
        "SSH_AUTH_SOCK": "/tmp/ssh-1234/agent",
        "PATH": "/usr/bin:/bin:1234",
        "MINE": "k" * 8,
        "MODEL_KEY": "EMPTY",
        "NOTHING": "",
    }
    secrets = Secrets(environ, always=["MINE", "MODEL_KEY", "NOTHING", None])
    assert set(secrets.values.values()) == {"[API_KEY]", "[LONG_TOKEN]", "[MINE]"}
    assert secrets.of("abcd1234!") == "[API_KEY]!"
    assert Secrets({}).of("x") == "x"
    numbers = Secrets({"PIN_TOKEN": "12345678"})
    assert numbers.of_value({"a": [12345678, "no 12345678", None, 1.5]}) == {
        "a": [12345678, "no [PIN_TOKEN]", None, 1.5]
    }


# -- on disk -------------------------------------------------------------------------------------

_CHILD = """
import sys, json
from agent_rollouts import llm
from agent_rollouts.generate.runner import generate
from agent_rollouts.generate.config import Config, changed
llm._WAITS = (0.01,)
print("ready", flush=True)
generate(changed(Config(), json.loads(sys.argv[1])), unsandboxed=True)
"""


def test_killed_at_any_moment_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    """Run after run is killed with no warning; what was on disk is never asked again, and no line is torn."""
    finished: set[str] = set()
    asked: list[str] = []

    def script(request: Request) -> Reply:
        asked.append(task(request))
        return worker(request)

    names = [f"task {number}" for number in range(40)]
    with Server(script, key=KEY) as server:
        given = _sections(config(tmp_path, server, prompts="\n".join(names)))
        flat = {f"{section}.{key}": value for section, values in given.items() for key, value in values.items()}
        flat["processing.concurrency"] = 6
        for moment in (6, 25, 50):
            begun = len(asked)
            child = subprocess.Popen([sys.executable, "-c", _CHILD, json.dumps(flat)], stdout=subprocess.PIPE)
            until = time.monotonic() + 60
            while len(asked) < begun + moment and time.monotonic() < until:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            assert not finished & set(asked[begun:])
            path = tmp_path / "out" / SESSIONS
            whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
            finished = {json.loads(line)["prompt"] for line in whole}
            assert len(finished) == len(whole)
        assert 0 < len(finished) < 40
        begun = len(asked)
        summary = generate(changed(Config(), flat), unsandboxed=True)
        assert not finished & set(asked[begun:])
        assert summary.already == len(finished)
        assert sorted(line["prompt"] for line in lines(tmp_path)) == sorted(names)
        begun = len(asked)
        summary = generate(changed(Config(), flat), unsandboxed=True)
        assert (summary.already, len(asked)) == (40, begun)


def test_a_torn_line_is_healed_wherever_it_is_torn(tmp_path: Path) -> None:
    tools = offered(["read_file"], has_search=False)
    session = Session(stop="answered")
    session.say("user", "ü")
    session.messages.append({"role": "assistant", "content": "ok"})
    whole = []
    for name in ("a", "b"):
        with Recorder(tmp_path) as recorder:
            recorder.write(record(Prompt("ü"), session, tools, run="r", name=name))
        whole.append((tmp_path / SESSIONS).read_bytes())
    for cut in [*range(len(whole[0]), len(whole[1]) - 1, 17), len(whole[1]) - 1]:
        (tmp_path / SESSIONS).write_bytes(whole[1][:cut])
        with Recorder(tmp_path) as recorder:
            assert recorder.done("r") == {"a"}
            assert (tmp_path / SESSIONS).read_bytes() == whole[0]
    with Recorder(tmp_path) as recorder:
        recorder.write(record(Prompt("ü"), session, tools, run="r", name="b"))
        assert recorder.done("r") == {"a", "b"}
        assert recorder.done("other") == set()
    assert (tmp_path / SESSIONS).read_bytes() == whole[1]
    (tmp_path / SESSIONS).write_bytes(whole[0][:9])
    with Recorder(tmp_path) as recorder:
        assert recorder.done("r") == set()
    assert not (tmp_path / SESSIONS).exists()


def test_only_one_run_writes(tmp_path: Path) -> None:
    with Recorder(tmp_path), pytest.raises(AgentRolloutsError, match="another run writes"):
        Recorder(tmp_path)
    with Recorder(tmp_path):
        pass
    (tmp_path / SESSIONS).write_text('{"messages": []}\n')
    with Recorder(tmp_path) as recorder, pytest.raises(AgentRolloutsError, match=r"sessions\.jsonl:1 is no session"):
        recorder.done("r")


def test_another_configuration_is_another_run(tmp_path: Path) -> None:
    run(tmp_path, prompts="one\n")
    summary, _ = run(tmp_path, prompts="one\n", api__timeout=99.0, processing__concurrency=2)
    assert summary.already == 1
    for number, values in enumerate(
        ({"api__temperature": 0.5}, {"agent__max_turns": 9}, {"agent__tools": ("read_file",)})
    ):
        summary, _ = run(tmp_path, prompts="one\n", **values)
        assert summary.already == 0
        assert len(lines(tmp_path) + lines(tmp_path, FAILED)) == number + 2
    doubled = list(session_ids([Prompt("a"), Prompt("b"), Prompt("a")]))
    assert len({name for name, _ in doubled}) == 3


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([{"role": "tool", "content": "x", "tool_call_id": "a", "name": "f"}], "a result without its call"),
        ([{"role": "assistant", "content": "", "tool_calls": ["a"]}], "a call without a result"),
        (
            [{"role": "assistant", "content": "", "tool_calls": ["a"]}, {"role": "user", "content": ""}],
            "a call without",
        ),
        ([{"role": "assistant", "content": ""}], "the decoder skips"),
    ],
)
def test_no_line_is_written_that_is_not_valid(messages: list[dict[str, Any]], wrong: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {}}}
    messages = [{**m, "tool_calls": [call]} if "tool_calls" in m else m for m in messages]
    session = Session(messages=[{"role": "user", "content": "x"}, *messages], stop="answered")
    line = record(Prompt("x"), session, [], run="r", name="s")
    assert line["metadata"]["completed"] is False
    assert wrong in line["metadata"]["error"]
    with pytest.raises(ValueError, match=wrong):
        check(line)


@pytest.mark.parametrize(
    "content", ['{"success": false, "error": "x"}', '{"error": "x"}', "\ud800", "", "<think>a</think>b"]
)
def test_results_of_any_text_read_back(content: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"n": 1.5, "ü": [None]}}}
    result = {"role": "tool", "content": content, "tool_call_id": "a", "name": "f", "is_error": False}
    said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    session = Session(messages=[*said, {"role": "assistant", "content": "ok"}], stop="answered")
    assert record(Prompt("x"), session, [], run="r", name="s")["metadata"]["completed"] is True


def test_ids_are_not_taken_for_secrets(tmp_path: Path) -> None:
    run(tmp_path, prompts="".join(f"{number}\n" for number in range(20)), agent__tools=("read_file", "list_directory"))
    for row in load_rollouts("agentic_datagen", str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")):
        assert redact(row)["redactions"] == {}


# -- Hermes --------------------------------------------------------------------------------------


def test_hermes_rows_count_all_tools(tmp_path: Path) -> None:
    def script(request: Request) -> Reply:
        return worker(request) if task(request) != "two" else Reply("Without a thought.")

    target = tmp_path / "hermes"
    values = {"output__hermes": str(target), "output__hermes_only_reasoning": True}
    summary, _ = run(tmp_path, script, **values)
    assert summary.hermes == {"left out: no reasoning": 1, "trajectory_samples.jsonl": 2} | {
        key: value for key, value in summary.hermes.items() if "not written" in key
    }
    samples = [json.loads(line) for line in (target / "trajectory_samples.jsonl").read_text().split("\n")[:-1]]
    assert len(samples) == 2
    for sample in samples:
        assert list(sample["tool_stats"]) == ["read_file", "write_file", "edit_file", *list(sample["tool_stats"])[3:]]
        assert sample["tool_stats"]["write_file"] == {"count": 1, "success": 1, "failure": 0}
        assert sample["tool_stats"]["edit_file"] == {"count": 0, "success": 0, "failure": 0}
        assert sample["tool_error_counts"]["run_command"] == 0
    assert len(load_rollouts("hermes_trajectory", str(target), cache_dir=str(tmp_path / "cache"))) == 2
    run(tmp_path, script, **values)
    assert len((target / "trajectory_samples.jsonl").read_text().split("\n")) == 3
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "trajectory_samples.jsonl").write_text("{}\n")
    with pytest.raises(AgentRolloutsError, match="did not write"):
        run(tmp_path, script, output__hermes=str(tmp_path / "theirs"))


# -- the command line ----------------------------------------------------------------------------


def invoke(*words: str) -> Any:
    return CliRunner().invoke(command, list(words))


def test_a_first_run_needs_no_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    out = str(tmp_path / "out")
    with Server(worker, key=KEY) as server:
        words = ["--base-url", server.url, "--model", "tiny", "--api-key-env", "TEST_MODEL_KEY", "--output", out]
        result = invoke(*words, "--prompts", str(tmp_path / "p.txt"), "--unsandboxed", "--concurrency", "2")
    assert result.exit_code == 0, result.output
    assert "NOT SANDBOXED" in result.output
    assert "sessions: answered 2; 0 were there already, 0 left to do" in result.output
    assert "6 requests" in result.output
    assert len(lines(tmp_path)) == 2


def test_init_writes_an_example_once(tmp_path: Path) -> None:
    path = str(tmp_path / "g.yaml")
    assert invoke(path, "--init").exit_code == 0
    assert isinstance(invoke(path, "--init").exception, AgentRolloutsError)
    assert "no model" in str(invoke(path).exception)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"api__model": ""}, "no model"),
        ({"prompts__source": ()}, "no prompts"),
        ({"processing__concurrency": 0}, "processing.concurrency: must be more than 0, not 0"),
        ({"workspace__command_seconds": -3.0}, "workspace.command_seconds: must be more than 0"),
        ({"agent__max_session_tokens": -4}, "agent.max_session_tokens: must be more than 0"),
        ({"agent__tools": ("fly",)}, "unknown tool 'fly'"),
        ({"api__api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
        ({"workspace__root": "OUT/inside"}, "must not be within output"),
    ],
)
def test_what_cannot_be_followed_is_said_before_it_begins(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    values = {
        key: value.replace("OUT", str(tmp_path / "out")) if "root" in key else value for key, value in values.items()
    }
    with pytest.raises(AgentRolloutsError, match=said):
        run(tmp_path, **values)
    assert not (tmp_path / "out").exists()


def test_without_a_sandbox_it_must_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(worker, key=KEY) as server:
        with pytest.raises(AgentRolloutsError, match="--unsandboxed"):
            generate(config(tmp_path, server, workspace__sandbox="none"))
        # Without commands there is nothing to keep inside.
        assert generate(config(tmp_path, server, agent__tools=("read_file", "write_file"))).sandbox == "no commands"


def test_it_is_a_command() -> None:
    assert isinstance(command, click.Command)
    assert command.name == "generate"


@pytest.mark.parametrize("kind", ["bubblewrap", "sandlock"])
def test_sessions_in_a_sandbox(tmp_path: Path, kind: str) -> None:
    try:
        choose(kind, Limits())
    except AgentRolloutsError as error:
        pytest.skip(str(error)[:150])
    with Server(worker, key=KEY) as server:
        summary = generate(config(tmp_path, server, workspace__sandbox=kind))
    assert (summary.sandbox, summary.ends) == (kind, {"answered": 3})
    assert {m["content"] for line in lines(tmp_path) for m in line["messages"] if m.get("name") == "run_command"} == {
        *("one\n", "two\n", "three\n")
    }
