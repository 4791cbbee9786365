"""A language model behind any OpenAI-compatible address: asked patiently, paid for once, never told the key of another.

    cache = Cache("~/.cache/agent-rollouts/answers.sqlite")
    endpoint = Endpoint("some-model", base_url="http://127.0.0.1:8000/v1", cache=cache, meter=Meter(max_cost=5.0))
    endpoint.complete([{"role": "user", "content": "Hello"}], temperature=0).message["content"]

Threads, not asyncio: those who ask are generators and agents that also run commands and read files, a notebook has a
loop of its own already, and the tens of requests that are worth having at once need no loop. All here may be shared by
threads. Needs the extra `llm` (the `openai` package), which is imported when the first request is made.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import random
import sqlite3
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import orjson

from agent_rollouts.errors import AgentRolloutsError, AnswerError, EndpointError, HaltedError
from agent_rollouts.events import JSON

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI = "https://api.openai.com/v1"

RESERVED = frozenset({"model", "messages", "stream", "stream_options", "response_format", "tools", "step"})
"""What no parameter of a request may be called: the endpoint says these itself."""

_WAITS = (1, 2, 4, 8, 16, 32, 60)
_LONGEST_WAIT = 3600.0  # of a Retry-After; whoever is told to come back tomorrow does so himself
_AGAIN = frozenset({408, 409, 425, 429})
_KEY_REFUSED = frozenset({401, 402})
_REFUSED = frozenset({403, 404, 405})  # the model or the address; once there were answers, what moderation says
_GIVEN_UP = 3  # requests given up in a row, after which no request is expected to be answered

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, as the server counts them; `input_tokens` with cached ones, 0 where it does not say."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Completion:
    """An answer.

    Attributes:
        message: the assistant message as the server gave it; arguments of tool calls are text.
        cost: in US dollars, None when neither prices nor the server tell.
        cached: whether it was on disk already, and so cost nothing now.
    """

    message: dict[str, JSON]
    usage: Usage
    cost: float | None
    finish_reason: str | None = None
    model: str | None = None
    cached: bool = False


class Prices(NamedTuple):
    """US dollars for a million tokens."""

    input: float
    output: float

    def cost(self, usage: Usage) -> float:
        """What an answer costs; tokens that the server had cached count as others."""
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / 1e6


class Meter:
    """What a run asked for and what it cost, and the limit of that; one for all endpoints of a run.

    A request waits while those on their way might use up what is left, each taken to cost as much as the dearest until
    now. So a limit is passed only by a request that is dearer than all before it.

    Attributes:
        requests, cached: answers paid for, and those that were on disk.
        tries: requests that were refused for the moment, by status or kind of error.
        unpriced: answers of unknown cost.
    """

    def __init__(self, max_cost: float | None = None) -> None:
        self.max_cost = max_cost
        self.requests = self.cached = self.unpriced = 0
        self.input_tokens = self.output_tokens = 0
        self.cost = 0.0
        self.tries: Counter[str] = Counter()
        self.halted: str | None = None
        self._dearest: float | None = None
        self._asking = 0
        self._changed = threading.Condition()

    def halt(self, why: str) -> None:
        """Let no further request begin; those that wait end with `HaltedError`."""
        with self._changed:
            self.halted = self.halted or why
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Sleep, unless the run is halted meanwhile."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self.halted and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._go_on()

    def note(self, kind: str) -> None:
        """Count a try that was refused for the moment."""
        with self._changed:
            self.tries[kind] += 1

    @contextmanager
    def request(self) -> Iterator[Callable[[Completion], None]]:
        """Wait for leave to ask; the block gives what it got to the function that it is given."""
        with self._changed:
            while not self.halted and not self._may_ask():
                if self._asking == 0:
                    self.halted = f"max_cost of ${self.max_cost:g} reached"
                    self._changed.notify_all()
                else:
                    self._changed.wait()
            self._go_on()
            self._asking += 1
        try:
            yield self.paid
        finally:
            with self._changed:
                self._asking -= 1
                self._changed.notify_all()

    def _may_ask(self) -> bool:
        if self.max_cost is None:
            return True
        # The first request goes alone: it tells what one costs.
        if self._dearest is None:
            return self._asking == 0 and self.max_cost > 0
        return self.cost + (self._asking + 1) * self._dearest <= self.max_cost

    def _go_on(self) -> None:
        if self.halted:
            raise HaltedError(self.halted)

    def paid(self, got: Completion) -> None:
        """Count an answer."""
        with self._changed:
            if got.cached:
                self.cached += 1
                return
            self.requests += 1
            self.input_tokens += got.usage.input_tokens
            self.output_tokens += got.usage.output_tokens
            if got.cost is not None:
                self.cost += got.cost
                self._dearest = max(self._dearest or 0.0, got.cost)
                return
            self.unpriced += 1
        if self.max_cost is not None:
            why = "max_cost is given, but nothing tells what an answer costs; give the prices of input and output"
            self.halt(why)
            raise EndpointError(why)


class Cache:
    """Answers on disk, by what was asked. It holds no prompts, only their hashes; its file is the owner's alone.

    SQLite: a process may be killed at any moment, an answer that was noted stays, and several may share the file.

    Raises:
        AgentRolloutsError: the file is something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = file = Path(path).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._data = sqlite3.connect(file, timeout=60, check_same_thread=False, isolation_level=None)
        try:
            self._data.execute("PRAGMA journal_mode=WAL")
            self._data.execute("PRAGMA synchronous=NORMAL")
            self._data.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            self._data.close()
            raise AgentRolloutsError(f"{file} is no cache of answers ({error}); name another file") from None

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Let one thread at a time ask for a key, so that none asks for what another is being told."""
        with self._lock:
            lock = self._asking.setdefault(key, threading.Lock())
            self._waiting[key] += 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._waiting[key] -= 1
                if not self._waiting[key]:
                    del self._waiting[key], self._asking[key]

    def get(self, key: str) -> Completion | None:
        """The answer for a key, if it was noted."""
        with self._lock:
            found = self._data.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        values = orjson.loads(found[0])
        return Completion(**{**values, "usage": Usage(**values["usage"]), "cached": True})

    def put(self, key: str, answer: Completion) -> None:
        """Note an answer; when this returns it outlives the process.

        Raises:
            AgentRolloutsError: it cannot be written.
        """
        try:
            with self._lock:
                self._data.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, orjson.dumps(answer)))
        except sqlite3.OperationalError as error:
            raise AgentRolloutsError(f"answers cannot be written to {self.path}: {error}") from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._data.close()


class Endpoint:
    """One model at one address.

    Args:
        base_url: up to `/v1`; without one `OPENAI_BASE_URL`, else OpenAI.
        api_key_env: the environment variable that holds the key; None sends none.
        prices: else the cost is what the server says (OpenRouter's `usage.cost`, LiteLLM's header).
        parameters: sent with each request, such as temperature.
        stream: ask for streams, which idle proxies do not cut, and of which the timeout is one of silence.
        timeout: seconds for an answer.
        attempts: how often one request is made while the server does not answer or answers 5xx. Retry-After is
            obeyed, by all requests to the endpoint; a 429 does not count while others are answered.
        backoff: what the waits of 1, 2, 4 … 60 seconds are multiplied by.

    Raises:
        AgentRolloutsError: openai is not installed, or the key is not there.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        prices: Prices | None = None,
        parameters: Mapping[str, JSON] | None = None,
        cache: Cache | None = None,
        meter: Meter | None = None,
        stream: bool = False,
        timeout: float = 600.0,
        attempts: int = 8,
        backoff: float = 1.0,
    ) -> None:
        self.model, self.base_url = model, base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        self.prices, self.parameters = prices, dict(parameters or {})
        self.cache, self.meter = cache, meter or Meter()
        self.stream, self.timeout, self.attempts, self.backoff = stream, timeout, attempts, backoff
        self._key = self._find_key(api_key_env)
        self._client: OpenAI | None = None
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self._answered = self._given_up = 0

    def __repr__(self) -> str:
        return f"Endpoint({self.model!r}, base_url={self.address!r})"

    @property
    def address(self) -> str:
        """The base URL without user and password, and without a slash at its end."""
        parts = urlsplit(self.base_url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")).rstrip("/")

    def complete(
        self,
        messages: Sequence[Mapping[str, JSON]],
        *,
        tools: Sequence[Mapping[str, JSON]] | None = None,
        response_format: Mapping[str, JSON] | None = None,
        step: str = "",
        **parameters: JSON,
    ) -> Completion:
        """The model's answer, from the cache where there is one and it was asked before.

        Args:
            response_format: no part of what an answer is cached by, since a server may not know it; the messages say
                what form is wanted.
            step: sets apart what is asked for different ends.

        Raises:
            AnswerError: this request has no answer; others may have.
            EndpointError: no request can have one: key, address, model, or the server is down.
            HaltedError: the run was halted, or its limit of cost is reached.
        """
        body = {**self.parameters, **parameters, "model": self.model, "messages": list(messages)}
        if tools is not None:
            body["tools"] = list(tools)
        if self.cache is None:
            return self._ask(body, response_format)
        asked = orjson.dumps([step, self.address, body], option=orjson.OPT_SORT_KEYS)
        key = hashlib.sha256(asked).hexdigest()
        with self.cache.claim(key):
            if found := self.cache.get(key):
                self.meter.paid(found)
                return found
            answer = self._ask(body, response_format)
            self.cache.put(key, answer)
            return answer

    def _ask(self, body: dict[str, JSON], response_format: Mapping[str, JSON] | None) -> Completion:
        if response_format is not None:
            body = {**body, "response_format": dict(response_format)}
        tries, answered = 0, self._answered
        while True:
            self._wait_turn()
            with self.meter.request() as paid:
                got = self._send(body)
                if isinstance(got, Completion):
                    self._answered, self._given_up = self._answered + 1, 0
                    paid(got)
                    return got
            tries += got.kind != "429" or answered == self._answered
            answered = self._answered
            self.meter.note(got.kind)
            # A server that was never there will not come for waiting.
            patience = self.attempts if self._answered or got.kind.isdigit() else min(3, self.attempts)
            if tries >= patience or (got.wait or 0) > _LONGEST_WAIT:
                self._give_up(got)
            wait = _WAITS[min(max(tries, 1), len(_WAITS)) - 1] * self.backoff * random.uniform(0.5, 1)
            if got.wait is not None:
                # Meant for all who ask. Some servers name a second until the minute is over.
                self._resume_at = max(self._resume_at, time.monotonic() + got.wait)
                wait = max(wait, 1.1 * got.wait)
            self.meter.wait(wait)

    def _wait_turn(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0:
            self.meter.wait(left + random.uniform(0, 0.1 * self.backoff))

    def _give_up(self, last: _Refused) -> None:
        self._given_up += 1
        why = f"{self.model} at {self.address}: {last.why}"
        if not self._answered or self._given_up >= _GIVEN_UP or last.wait:
            self.meter.halt(f"no answers from {self.address}")
            raise EndpointError(f"{why}; what was answered is kept, run it again to go on")
        raise AnswerError(last.why)

    def _send(self, body: dict[str, JSON]) -> Completion | _Refused:
        """One request: an answer, or a refusal for the moment. Raises where asking again is of no use."""
        import openai

        client = self._connect()
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        asked: Any = {"model": body["model"], "messages": body["messages"]}
        try:
            if self.stream:
                options = {"stream_options": {"include_usage": True}, **rest}
                chunks = client.chat.completions.create(**asked, stream=True, extra_body=options)
                return self._completion(_collect(chunk.model_dump() for chunk in chunks), {})
            raw = client.chat.completions.with_raw_response.create(**asked, extra_body=rest)
            return self._completion(orjson.loads(raw.http_response.content), raw.headers)
        except openai.APIStatusError as error:
            return self._refusal(error.status_code, error.response.headers, _reason(error.body) or error.message)
        except openai.APIError as error:
            kind = "timeout" if isinstance(error, openai.APITimeoutError) else "connection"
            # An error within a stream is of neither kind, and says in its body what it is.
            return _Refused(kind, self._clean(f"{error.message} {error.__cause__ or ''}".strip()))
        except orjson.JSONDecodeError:
            return _Refused("answer", "the server's answer is no JSON; base_url must go up to /v1")
        except Exception as error:
            # openai leaves errors of the connection within a stream to its HTTP library, which one that is depends.
            if not type(error).__module__.startswith("httpx"):
                raise
            return _Refused("connection", self._clean(str(error) or type(error).__name__))

    def _completion(self, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Completion | _Refused:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not choices or not isinstance(choices[0].get("message"), dict):
            # Routers answer 200 and put the error of the server behind them into the body.
            code = (answer.get("error") or {}).get("code") if isinstance(answer, dict) else None
            return self._refusal(code if isinstance(code, int) else 502, headers, _reason(answer) or "no choices")
        usage = _usage(answer.get("usage") or {})
        said = (answer.get("usage") or {}).get("cost", headers.get("x-litellm-response-cost"))
        has_usage = usage.input_tokens + usage.output_tokens > 0
        cost = self.prices.cost(usage) if self.prices and has_usage else None
        if self.prices is None and said is not None:
            cost = float(said)
        message = {key: value for key, value in choices[0]["message"].items() if value is not None}
        return Completion(message, usage, cost, choices[0].get("finish_reason"), answer.get("model"))

    def _refusal(self, status: int, headers: Mapping[str, str], why: str) -> _Refused:
        why = self._clean(f"{status} {why}")
        if status in _REFUSED:
            self._given_up += 1
        is_ours = status in _REFUSED and self._answered > 0 and self._given_up < _GIVEN_UP
        if (status in _REFUSED and not is_ours) or status in _KEY_REFUSED or "insufficient_quota" in why:
            self.meter.halt(f"refused by {self.address}")
            raise EndpointError(f"{self.model} at {self.address}: {why}")
        if status not in _AGAIN and status < 500:
            raise AnswerError(why, status=status)
        return _Refused(str(status), why, _retry_after(headers))

    def _clean(self, text: str) -> str:
        """What a server said, on one line, short, without the key (some repeat it)."""
        text = " ".join(text.split()).replace(self._key or "\0", "[key]")
        return text if len(text) <= 300 else text[:297] + "…"

    def _find_key(self, name: str | None) -> str | None:
        key = os.environ.get(name) if name else None
        if not key and name and (name != "OPENAI_API_KEY" or self.base_url == OPENAI):
            raise AgentRolloutsError(
                f"no key in the environment variable {name}; set it, or name another (api_key_env)"
            )
        return key or None

    def _connect(self) -> OpenAI:
        try:
            from openai import OpenAI
        except ImportError:
            raise AgentRolloutsError("asking a model needs openai: pip install 'agent-rollouts[llm]'") from None
        with self._lock:
            if self._client is None:
                # Servers without keys take any; the package insists on one.
                self._client = OpenAI(
                    api_key=self._key or "none", base_url=self.base_url, timeout=self.timeout, max_retries=0
                )
                # Its connections are kept open for the next question.
                self._closing = weakref.finalize(self, self._client.close)
            return self._client

    def close(self) -> None:
        """End its connections; it may be asked again."""
        with self._lock:
            if self._client is not None:
                self._closing()
                self._client = None


def in_order(
    function: Callable[[_In], _Out],
    items: Iterable[_In],
    *,
    concurrency: int,
    ahead: int | None = None,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[_Out]:
    """The function's results in the order of the items, by threads.

    Args:
        ahead: how many items may be taken before the first result is given: what memory holds. Four times the
            threads without it, so that one that takes long does not stop the others.
        stop: called when it ends early, before it waits for what still runs.
    """
    ahead = ahead or 4 * concurrency
    with ThreadPoolExecutor(concurrency, thread_name_prefix="llm") as pool:
        running: deque[Future[_Out]] = deque()
        try:
            for item in items:
                running.append(pool.submit(function, item))
                while running and (len(running) >= ahead or running[0].done()):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BaseException:
            stop()
            for future in running:
                future.cancel()
            raise


class _Refused(NamedTuple):
    """A try without an answer: what to count it as, why, and the seconds that the server asks to wait."""

    kind: str
    why: str
    wait: float | None = None


def _usage(said: Mapping[str, Any]) -> Usage:
    read = said.get("prompt_tokens_details") or {}
    written = said.get("completion_tokens_details") or {}
    return Usage(
        said.get("prompt_tokens") or 0,
        said.get("completion_tokens") or 0,
        read.get("cached_tokens") or 0,
        written.get("reasoning_tokens") or 0,
    )


def _collect(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer that a stream adds up to; without an end it is none."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: dict[int, dict[str, Any]] = {}
    answer: dict[str, Any] = {}
    finish = None
    for chunk in chunks:
        answer |= {key: chunk[key] for key in ("usage", "model", "error") if chunk.get(key)}
        for choice in (chunk.get("choices") or ())[:1]:
            finish = choice.get("finish_reason") or finish
            delta = choice.get("delta") or {}
            for key in ("content", "reasoning_content", "reasoning", "refusal"):
                if delta.get(key):
                    message[key] = message.get(key, "") + delta[key]
            for part in delta.get("tool_calls") or ():
                call = calls.setdefault(
                    part.get("index") or 0, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                )
                call["id"] = call["id"] or part.get("id") or ""
                for key, value in (part.get("function") or {}).items():
                    if key in call["function"]:
                        call["function"][key] += value or ""
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    if finish is None:
        return {"error": answer.get("error") or {"message": "the stream broke off"}}
    return {**answer, "choices": [{"message": message, "finish_reason": finish}]}


def _reason(body: object) -> str:
    """What an error's body says."""
    match body:
        case {"error": {"message": str(why), "code": str(code)}} | {"message": str(why), "code": str(code)}:
            return f"{why} ({code})"
        case {"error": {"message": str(why)}} | {"message": str(why)} | {"error": str(why)} | {"detail": str(why)}:
            return why
        case {"detail": why}:
            return orjson.dumps(why).decode()
    return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3: seconds or a date; OpenAI's and Azure's `retry-after-ms`)."""
    milliseconds, said = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds:
            return max(0.0, float(milliseconds) / 1000)
        return max(0.0, float(said)) if said else None
    except ValueError:
        parsed = email.utils.parsedate_tz(said or "")
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
