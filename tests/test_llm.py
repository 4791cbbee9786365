"""The client of language models, against a server that speaks the protocol."""

from __future__ import annotations

import email.utils
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_rollouts.errors import AgentRolloutsError, AnswerError, EndpointError, HaltedError
from agent_rollouts.llm import Cache, Endpoint, Meter, Prices, Usage, in_order
from tests.llm_server import Reply, Request, Server

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each client loads them, for servers that have none: half of the time of these tests.
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)


HELLO = [{"role": "user", "content": "Hello"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": [2, 3]}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def hello(number: object = "") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Hello {number}"}]


def then(*replies: Reply) -> Callable[[Request], Reply]:
    """The replies one after the other, the last for ever."""
    return lambda request: replies[min(request.number, len(replies) - 1)]


def endpoint(server: Server, **options: Any) -> Endpoint:
    return Endpoint("tiny", base_url=server.url, **{"backoff": 0.01, "api_key_env": None} | options)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_as_the_server_gave_them(stream: bool) -> None:
    reply = Reply("Grüße, it is six.", reasoning="One and five.", tool_calls=[CALL, CALL | {"id": "c2"}])
    with Server(then(reply)) as server:
        got = endpoint(server, stream=stream).complete(HELLO, tools=[TOOL], temperature=0, top_k=5)
    assert got.message == {
        "role": "assistant",
        "content": "Grüße, it is six.",
        "reasoning_content": "One and five.",
        "tool_calls": [CALL, CALL | {"id": "c2"}],
    }
    assert got.usage.input_tokens == 1
    assert got.usage.output_tokens > 10
    assert (got.finish_reason, got.model, got.cost, got.cached) == ("tool_calls", "tiny", None, False)
    asked = server.requests[0].body
    assert (asked["temperature"], asked["top_k"], asked["tools"]) == (0, 5, [TOOL])


def test_usage_is_told_apart() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    with Server(then(Reply("hi", usage=usage))) as server:
        assert endpoint(server).complete(HELLO).usage == Usage(10, 7, 4, 5)


@pytest.mark.parametrize(
    ("reply", "prices", "cost"),
    [
        (Reply("hi", usage={"prompt_tokens": 1_000_000, "completion_tokens": 500_000}), Prices(2.0, 4.0), 4.0),
        (Reply("hi", cost=0.25), None, 0.25),
        (Reply("hi", headers={"x-litellm-response-cost": "0.5"}), None, 0.5),
        (Reply("hi", cost=0.25, usage={"prompt_tokens": 1_000_000, "cost": 9}), Prices(1.0, 1.0), 1.0),
        (Reply("hi", has_usage=False), Prices(1.0, 1.0), None),
        (Reply("hi"), None, None),
    ],
    ids=["by prices", "by the server", "by a header", "prices count more", "no usage", "nobody knows"],
)
def test_costs(reply: Reply, prices: Prices | None, cost: float | None) -> None:
    with Server(then(reply)) as server:
        asked = endpoint(server, prices=prices)
        assert asked.complete(HELLO).cost == cost
    assert (asked.meter.cost, asked.meter.unpriced) == (cost or 0.0, cost is None)


# -- patience ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        Reply(status=500),
        Reply(status=429),
        Reply(status=503),
        Reply(drop=True),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"error": {"message": "overloaded", "code": 529}}'),
    ],
    ids=["500", "429", "503", "dropped", "no choices", "an error in a 200"],
)
def test_what_passes_is_asked_again(bad: Reply, stream: bool) -> None:
    if stream and bad.body:
        bad = Reply(body=b"data: " + bad.body + b"\n\n", headers={"Content-Type": "text/event-stream"})
    with Server(then(bad, bad, Reply("there"))) as server:
        asked = endpoint(server, stream=stream)
        assert asked.complete(HELLO).message["content"] == "there"
    assert len(server.requests) == 3
    assert asked.meter.tries.total() == 2
    assert asked.meter.requests == 1


@pytest.mark.parametrize(
    "after",
    [
        lambda: {"Retry-After": "0.3"},
        lambda: {"retry-after-ms": "300"},
        lambda: {"Retry-After": email.utils.formatdate(time.time() + 1.4, usegmt=True)},
    ],
    ids=["seconds", "milliseconds", "date"],
)
def test_retry_after_holds_for_all_requests(after: Callable[[], dict[str, str]]) -> None:
    def script(request: Request) -> Reply:
        return Reply(status=429, headers=after()) if request.number == 0 else Reply("there")

    with Server(script) as server:
        asked = endpoint(server)
        first = threading.Thread(target=lambda: asked.complete(hello(1)))
        first.start()
        while not asked.meter.tries:
            time.sleep(0.005)
        asked.complete(hello(2))
        first.join()
    refused, *others = server.requests
    assert len(others) == 2
    assert all(request.at - refused.at >= 0.25 for request in others)


def test_a_limit_of_rate_is_no_failure_while_others_are_answered() -> None:
    def script(request: Request) -> Reply:
        is_refused = request.text == "Hello 7" and request.number < 60
        return Reply(status=429) if is_refused else Reply("there", delay=0.01)

    with Server(script) as server:
        asked = endpoint(server, attempts=2, backoff=0.1)
        ask = lambda number: asked.complete(hello(number)).message["content"]  # noqa: E731
        assert set(in_order(ask, range(80), concurrency=4, ahead=80)) == {"there"}
    assert asked.meter.tries["429"] > 2


def test_a_request_that_the_server_cannot_answer_costs_one_row() -> None:
    with Server(lambda request: Reply(status=500) if "7" in request.text else Reply("there")) as server:
        asked = endpoint(server, attempts=3)
        asked.complete(hello(1))
        with pytest.raises(AnswerError, match="500 scripted"):
            asked.complete(hello(7))
        assert asked.complete(hello(2)).message["content"] == "there"
        assert len(server.requests) == 5


def test_a_server_that_is_down_stops_the_run() -> None:
    with Server(lambda request: Reply("there") if request.number == 0 else Reply(status=500)) as server:
        asked = endpoint(server, attempts=2)
        asked.complete(hello(0))
        for number in (1, 2):
            with pytest.raises(AnswerError):
                asked.complete(hello(number))
        with pytest.raises(EndpointError, match=r"tiny at http://127.*500 scripted.*run it again"):
            asked.complete(hello(3))
        with pytest.raises(HaltedError):
            asked.complete(hello(4))


def test_no_server_is_told_at_once() -> None:
    asked = Endpoint("tiny", base_url="http://127.0.0.1:9/v1", api_key_env=None, backoff=0.01, attempts=99)
    with pytest.raises(EndpointError, match=r"tiny at http://127\.0\.0\.1:9/v1: Connection"):
        asked.complete(HELLO)
    assert asked.meter.tries == {"connection": 3}


def test_slow_answers_end_at_the_timeout() -> None:
    with Server(then(Reply("late", delay=0.5), Reply("there"))) as server:
        asked = endpoint(server, timeout=0.1)
        assert asked.complete(HELLO).message["content"] == "there"
    assert asked.meter.tries == {"timeout": 1}


@pytest.mark.parametrize(
    ("reply", "options", "kind", "says"),
    [
        (Reply(status=400, error="context too long"), {}, AnswerError, "400 context too long"),
        (Reply(status=422, body=b'{"detail": [{"msg": "bad"}]}'), {}, AnswerError, '422 .*"bad"'),
        (Reply(status=402, error="no credit"), {}, EndpointError, "402 no credit"),
        (Reply(status=404, error="no such model"), {}, EndpointError, "404 no such model"),
        (
            Reply(status=429, body=b'{"error": {"message": "quota", "code": "insufficient_quota"}}'),
            {},
            EndpointError,
            "insufficient_quota",
        ),
        (Reply(status=429, headers={"Retry-After": "86400"}), {}, EndpointError, "429"),
        (Reply(body=b"<html>"), {"attempts": 2}, EndpointError, "no JSON; base_url"),
    ],
)
def test_what_stays_is_not_asked_again(reply: Reply, options: Any, kind: type[Exception], says: str) -> None:
    with Server(then(reply)) as server:
        with pytest.raises(kind, match=says):
            endpoint(server, **options).complete(HELLO)
        assert len(server.requests) == options.get("attempts", 1)


# -- keys ----------------------------------------------------------------------------------------


def test_the_key_is_sent_and_told_to_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = "k-" + os.urandom(12).hex()
    monkeypatch.setenv("SOME_KEY", key)
    with Server(then(Reply("there")), key=key) as server, Server(then(Reply("")), key="another") as other:
        cache = Cache(tmp_path / "answers.sqlite")
        asked = endpoint(server, api_key_env="SOME_KEY", cache=cache)
        assert asked.complete(HELLO).message["content"] == "there"
        with pytest.raises(EndpointError, match=r"401 Incorrect API key provided: \[key\]") as raised:
            endpoint(other, api_key_env="SOME_KEY").complete(HELLO)
        cache.close()
    assert key not in repr(asked) + repr(raised.value) + str(raised.value)
    assert all(key.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AgentRolloutsError, match="SOME_KEY"):
        Endpoint("tiny", base_url="http://127.0.0.1:9/v1", api_key_env="SOME_KEY")
    with pytest.raises(AgentRolloutsError, match="OPENAI_API_KEY"):
        Endpoint("tiny")
    assert "secret" not in repr(Endpoint("tiny", base_url="http://me:secret@127.0.0.1:9/v1?key=secret"))


# -- limits --------------------------------------------------------------------------------------


def test_the_limit_of_cost_is_not_passed() -> None:
    with Server(lambda _: Reply("there", cost=0.3, delay=0.01)) as server:
        asked = endpoint(server, meter=Meter(max_cost=1.0))

        def ask(number: int) -> bool:
            try:
                asked.complete(hello(number))
            except HaltedError:
                return False
            return True

        assert sum(in_order(ask, range(20), concurrency=5)) == 3
    assert len(server.requests) == 3
    assert asked.meter.halted == "max_cost of $1 reached"
    assert asked.meter.cost == pytest.approx(0.9)


def test_a_limit_needs_a_price() -> None:
    with Server(then(Reply("there"))) as server, pytest.raises(EndpointError, match="give the prices"):
        endpoint(server, meter=Meter(max_cost=1.0)).complete(HELLO)


def test_halting_wakes_those_who_wait() -> None:
    with Server(then(Reply(status=429, headers={"Retry-After": "60"}))) as server:
        asked = endpoint(server)
        found: list[Exception] = []

        def ask() -> None:
            try:
                asked.complete(HELLO)
            except HaltedError as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not asked.meter.tries:
            time.sleep(0.005)
        asked.meter.halt("stopped")
        thread.join(5)
    assert [str(error) for error in found] == ["stopped"]


def test_in_order_takes_a_bounded_number() -> None:
    taken, out = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(200):
            taken += 1
            assert taken - out <= 9
            yield number

    def slowly(number: int) -> int:
        time.sleep(0.02 if number % 50 == 0 else 0)
        return number

    for number in in_order(slowly, items(), concurrency=4, ahead=8):
        assert number == out
        out += 1
    assert out == 200


# -- the cache -----------------------------------------------------------------------------------


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with Server(then(Reply("there", cost=0.5))) as server:
        for _ in range(2):
            cache = Cache(tmp_path / "c" / "answers.sqlite")
            asked = endpoint(server, cache=cache)
            answers = [asked.complete(HELLO, step="a", temperature=1) for _ in range(2)]
            cache.close()
        assert [answer.cached for answer in answers] == [True, True]
        assert (asked.meter.requests, asked.meter.cached, asked.meter.cost) == (0, 2, 0.0)
        assert len(server.requests) == 1
        assert (tmp_path / "c" / "answers.sqlite").stat().st_mode & 0o077 == 0


def test_what_sets_answers_apart(tmp_path: Path) -> None:
    with Server(then(Reply("there"))) as server, Server(then(Reply("there"))) as other:
        cache = Cache(tmp_path / "answers.sqlite")
        for where in (server, other):
            endpoint(where, cache=cache).complete(HELLO)
        asked = endpoint(server, cache=cache)
        asked.complete(HELLO, step="other")
        asked.complete(HELLO, temperature=1)
        asked.complete(hello(1))
        asked.complete(HELLO, tools=[TOOL])
        endpoint(server, cache=cache, parameters={"top_k": 1}).complete(HELLO)
        Endpoint("judge", base_url=server.url, cache=cache, api_key_env=None).complete(HELLO)
        asked.complete(HELLO, response_format={"type": "json_object"})
        assert (len(server.requests), len(other.requests)) == (7, 1)
        cache.close()


def test_the_same_question_is_asked_once_by_all_threads(tmp_path: Path) -> None:
    with Server(then(Reply("there", delay=0.05))) as server:
        asked = endpoint(server, cache=Cache(tmp_path / "answers.sqlite"))
        assert len(set(in_order(lambda _: asked.complete(HELLO).message["content"], range(20), concurrency=5))) == 1
        assert len(server.requests) == 1
        assert asked.cache is not None
        assert not asked.cache._asking
        asked.cache.close()


def test_a_file_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("something else, and long enough to be taken for no database at all\n" * 20)
    with pytest.raises(AgentRolloutsError, match=r"notes\.txt is no cache"):
        Cache(path)
    assert path.read_text().startswith("something else")
