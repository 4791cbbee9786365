"""A server that speaks the chat completions API to real clients, and answers by script.

    with Server(lambda request: Reply("Hello")) as server:
        Endpoint("tiny", base_url=server.url)

It parses each request and refuses with 400 what is no such request; so a client that does not speak the protocol fails.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FORMATS = ("text", "json_object", "json_schema")


@dataclass
class Reply:
    """What the server does with a request.

    Attributes:
        content, reasoning, tool_calls: of the assistant message; arguments of calls are text.
        status, headers: other than 200 sends `error` as its message.
        delay: seconds before the first byte, and between the parts of a stream.
        drop: break the connection off, in a stream in the middle.
        body: sent as it is.
        cost: in `usage`, as OpenRouter says it.
    """

    content: str | None = ""
    reasoning: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()
    status: int = 200
    error: str = "scripted"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False
    body: bytes | None = None
    cost: float | None = None
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    has_usage: bool = True


@dataclass
class Request:
    """A request that was understood, with its place among all."""

    number: int
    body: dict[str, Any]
    headers: Mapping[str, str]
    at: float

    @property
    def text(self) -> str:
        """All texts of its messages."""
        return "\n".join(_text(message.get("content")) for message in self.body["messages"])

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that it asks for."""
        asked = self.body.get("response_format") or {}
        return asked["json_schema"]["schema"] if asked.get("type") == "json_schema" else None

    @property
    def key(self) -> str:
        """The same for the same question."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()


class Server:
    """A server on 127.0.0.1; used as a context.

    Args:
        script: from a request to its reply; called by many threads.
        key: what `Authorization: Bearer` must say; None takes any.
        models: those that are there; others get 404.
        formats: the response formats that it knows; others get 400.

    Attributes:
        requests: those that were understood; busiest: how many were there at once.
        refused: those that were not, by why.
    """

    def __init__(
        self,
        script: Callable[[Request], Reply],
        *,
        key: str | None = None,
        models: Sequence[str] = ("tiny", "judge"),
        formats: Sequence[str] = FORMATS,
    ) -> None:
        self.script, self.key, self.models, self.formats = script, key, models, formats
        self.requests: list[Request] = []
        self.refused: Counter[str] = Counter()
        self.busiest = self._busy = 0
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            owner = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def counts(self) -> Counter[str]:
        """How often each question was asked."""
        return Counter(request.key for request in self.requests)

    def take(self, body: dict[str, Any], headers: Mapping[str, str]) -> Request:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            self.requests.append(Request(len(self.requests), body, headers, time.monotonic()))
            return self.requests[-1]

    def done(self) -> None:
        with self._lock:
            self._busy -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer takes the 40 ms of a delayed acknowledgement
    owner: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            return self._error(404, "not found")
        models = [{"id": name, "object": "model", "owned_by": "tests"} for name in self.owner.models]
        return self._json(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/v1/chat/completions":
            return self._error(404, f"no such path {self.path}")
        if self.owner.key is not None and self.headers.get("Authorization") != f"Bearer {self.owner.key}":
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            return self._error(401, f"Incorrect API key provided: {given}.")
        try:
            body = json.loads(data)
            _check(body, self.owner.formats)
        except ValueError as error:
            return self._error(400, str(error))
        if body["model"] not in self.owner.models:
            return self._error(404, f"The model `{body['model']}` does not exist")
        request = self.owner.take(body, dict(self.headers.items()))
        try:
            self._reply(body, self.owner.script(request))
        except (BrokenPipeError, ConnectionResetError):
            pass  # a client that was killed, or would not wait
        finally:
            self.owner.done()
        return None

    def _reply(self, body: Mapping[str, Any], reply: Reply) -> None:
        time.sleep(reply.delay)
        if reply.body is not None:
            return self._send(reply.status, reply.body, reply.headers)
        if reply.status != 200:
            return self._json(reply.status, {"error": {"message": reply.error, "type": "scripted"}}, reply.headers)
        if reply.drop and not body.get("stream"):
            self.close_connection = True
            return None
        answer = _answer(body, reply)
        if body.get("stream"):
            return self._stream(_chunks(answer, body), reply)
        return self._json(200, answer, reply.headers)

    def _stream(self, chunks: Iterator[Mapping[str, Any]], reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, chunk in enumerate(chunks):
            if reply.drop and number == 2:
                self.close_connection = True
                return
            self._chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            time.sleep(reply.delay)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _error(self, status: int, why: str) -> None:
        self.owner.refused[f"{status} {why}"] += 1
        self._json(status, {"error": {"message": why, "type": "invalid_request_error", "code": None}})

    def _json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers or {})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def instance(schema: Mapping[str, Any]) -> Any:
    """A value that a JSON schema allows: the first of an enum, the least numbers, the shortest lists."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: instance(inner) for name, inner in schema["properties"].items()}
        case "array":
            return [instance(schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
    return "words " * (schema.get("minLength", 1) // 6) + "words"


def _check(body: Any, formats: Sequence[str]) -> None:
    """Hold a request against what the API asks for, as far as clients here use it."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise ValueError("a request is an object with a model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages must be a list that is not empty")
    open_calls: set[str] = set()
    for message in messages:
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool"):
            raise ValueError(f"unknown role {role!r}")
        if not isinstance(message.get("content"), (str, list)) and not message.get("tool_calls"):
            raise ValueError(f"a {role} message without content")
        for call in message.get("tool_calls") or ():
            json.dumps(call["function"]["name"]), json.loads(call["function"]["arguments"] or "{}")
            open_calls.add(call["id"])
        if role == "tool" and message.get("tool_call_id") not in open_calls:
            raise ValueError("a tool message must answer a call before it")
    for tool in body.get("tools") or ():
        if tool.get("type") != "function" or not isinstance(tool["function"]["parameters"], dict):
            raise ValueError("tools are functions with parameters")
    asked = body.get("response_format")
    if asked is not None:
        if not isinstance(asked, dict) or asked.get("type") not in formats:
            raise ValueError(f"response_format {asked!r} is not supported")
        if asked["type"] == "json_schema":
            named = asked["json_schema"]
            if not isinstance(named["name"], str) or not isinstance(named["schema"], dict):
                raise ValueError("json_schema needs a name and a schema")
        # OpenAI's own rule.
        if asked["type"] == "json_object" and "json" not in json.dumps(messages).lower():
            raise ValueError("messages must contain the word 'json'")
    if body.get("stream_options") and not body.get("stream"):
        raise ValueError("stream_options is for streams")


def _answer(body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [dict(call) for call in reply.tool_calls]
    read = sum(len(_text(message.get("content"))) for message in body["messages"]) // 4
    written = len(json.dumps(message)) // 4
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    if reply.cost is not None:
        usage["cost"] = reply.cost  # type: ignore[assignment]
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop"),
            }
        ],
    }
    return {**answer, "usage": reply.usage or usage} if reply.has_usage else answer


def _chunks(answer: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answer in parts, as OpenAI cuts it: the role, texts by words, calls by arguments, the end, usage."""
    head = {key: answer[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    message = answer["choices"][0]["message"]

    def part(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": dict(delta), "finish_reason": finish}]}

    yield part({"role": "assistant", "content": ""})
    for key in ("reasoning_content", "content"):
        text = message.get(key) or ""
        for start in range(0, len(text), 7):
            yield part({key: text[start : start + 7]})
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        named = {"index": index, "id": call["id"], "type": "function"}
        yield part({"tool_calls": [named | {"function": {"name": function["name"], "arguments": ""}}]})
        for start in range(0, len(function["arguments"]), 5):
            yield part(
                {"tool_calls": [{"index": index, "function": {"arguments": function["arguments"][start : start + 5]}}]}
            )
    yield part({}, answer["choices"][0]["finish_reason"])
    if (body.get("stream_options") or {}).get("include_usage") and "usage" in answer:
        yield head | {"choices": [], "usage": answer["usage"]}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""
