"""The loop: system prompt, task, answers and tool calls until the model answers without a call, or a limit is reached.

The model is sent the messages as it wrote them. Where a server would refuse them (arguments that are no JSON), an
empty object stands in their place, and the result of the call says what was wrong; what is recorded is what was said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_rollouts import jsontext
from agent_rollouts.errors import AnswerError, EndpointError, HaltedError
from agent_rollouts.events import JSON, NOWHERE, Thought
from agent_rollouts.formats._chat import content, reasoning
from agent_rollouts.generate.config import AgentOptions
from agent_rollouts.generate.prompts import Prompt
from agent_rollouts.generate.tools import Bench, Tool, call
from agent_rollouts.llm import Completion, Endpoint, Usage

STOPS = {
    "answered": "the model answered without a call: the session is complete",
    "refusal": "the model refused",
    "length": "an answer was cut off at its limit of tokens",
    "content_filter": "the server withheld an answer",
    "empty": "an answer had neither text nor calls",
    "max_turns": "limit of turns",
    "max_seconds": "limit of time",
    "max_session_tokens": "limit of tokens",
    "error": "the model could not be asked",
}
"""Why sessions end."""

# What servers call reasoning; sent back under the name that it came by.
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")


@dataclass
class Session:
    """What was said and done, so far.

    Attributes:
        messages: as recorded: arguments as objects, and whether a call failed.
        sent: as the model is sent them.
        retryable: whether another try may end otherwise, as the error was not the session's own.
    """

    messages: list[dict[str, JSON]] = field(default_factory=list)
    sent: list[dict[str, JSON]] = field(default_factory=list)
    turns: int = 0
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    models: list[str] = field(default_factory=list)
    stop: str = "error"
    error: str | None = None
    retryable: bool = False

    def say(self, role: str, text: str) -> None:
        """Add a message that is not the model's."""
        for messages in (self.messages, self.sent):
            messages.append({"role": role, "content": text})


@dataclass(frozen=True)
class Agent:
    """What all sessions of a run have in common; `clean` takes secrets out of what tools return."""

    endpoint: Endpoint
    tools: Sequence[Tool]
    options: AgentOptions
    send_reasoning: bool = True
    clean: Callable[[str], str] = str

    def run(self, prompt: Prompt, bench: Bench, session: Session) -> None:
        """Work on a prompt; what comes of it, errors too, is in `session`.

        Raises:
            EndpointError, HaltedError: the run cannot go on; the session is as far as it came.
        """
        if self.options.system_prompt is not None:
            session.say("system", self.options.system_prompt)
        deadline = time.monotonic() + (self.options.max_seconds or float("inf"))
        try:
            for text in (prompt.text, *prompt.follow_ups):
                session.say("user", text)
                session.stop = self._work(bench, session, deadline)
                if session.stop != "answered":
                    break
        except AnswerError as error:
            session.stop, session.error = "error", str(error)
            session.retryable = error.status is None
        except (EndpointError, HaltedError) as error:
            session.stop, session.error, session.retryable = "error", str(error), True
            raise

    def _work(self, bench: Bench, session: Session, deadline: float) -> str:
        """Turns until the model has answered the last user message, or must stop; says why it ended."""
        schemas = [tool.schema for tool in self.tools]
        while True:
            if stop := self._limit(session, deadline):
                return stop
            got = self.endpoint.complete(session.sent, tools=schemas or None)
            session.turns += 1
            _count(session, got)
            calls = self._note(session, got.message)
            for id, name, arguments in calls:
                session.calls += 1
                result = call(bench, self.tools, name, arguments)
                answer = {"role": "tool", "content": self.clean(result.text), "tool_call_id": id, "name": name}
                session.sent.append({key: value for key, value in answer.items() if key != "name"})
                session.messages.append({**answer, "is_error": result.is_error})
            if not calls:
                return _end(session, got)

    def _limit(self, session: Session, deadline: float) -> str | None:
        most = self.options.max_session_tokens
        if session.turns >= self.options.max_turns:
            return "max_turns"
        if time.monotonic() >= deadline:
            return "max_seconds"
        if most is not None and session.usage.input_tokens + session.usage.output_tokens >= most:
            return "max_session_tokens"
        return None

    def _note(self, session: Session, message: Mapping[str, JSON]) -> list[tuple[str, str, str]]:
        """Add the model's message; id, name and arguments of its calls."""
        text, _, inner = content(message.get("content"), NOWHERE)
        thought = reasoning(dict(message)) or "\n".join(part.text for part in inner if isinstance(part, Thought))
        calls = list(_calls(message, session))
        said: dict[str, JSON] = {"role": "assistant", "content": text}
        again: dict[str, JSON] = {"role": "assistant", "content": message.get("content") or ""}
        if thought:
            said["reasoning_content"] = thought
        if refusal := message.get("refusal"):
            said["refusal"] = refusal
        if self.send_reasoning:
            again |= {key: message[key] for key in _REASONING if key in message}
        if calls:
            said["tool_calls"] = [_written(call, jsontext.arguments(call[2] or "{}")) for call in calls]
            again["tool_calls"] = [_written(call, _sendable(call[2])) for call in calls]
        if text or thought or calls or refusal:
            session.messages.append(said)
            session.sent.append(again)
        return calls


def _calls(message: Mapping[str, JSON], session: Session) -> Iterator[tuple[str, str, str]]:
    """Id, name and arguments of the calls; an id that is missing or was there before is made anew."""
    taken = {call["id"] for m in session.messages for call in m.get("tool_calls", ())}
    for number, given in enumerate(message.get("tool_calls") or ()):
        match given:
            case {"function": {"name": str(name), **function}} if name:
                arguments = function.get("arguments")
                text = arguments if isinstance(arguments, str) else jsontext.exact_text(arguments or {})
            case _:
                raise AnswerError("the server sent a tool call without a name", status=200)
        id = given.get("id")
        if not isinstance(id, str) or not id or id in taken:
            id = f"call_{session.turns}_{number}"
        taken.add(id)
        yield id, name, text


def _written(call: tuple[str, str, str], arguments: JSON) -> dict[str, Any]:
    return {"id": call[0], "type": "function", "function": {"name": call[1], "arguments": arguments}}


def _sendable(arguments: str) -> str:
    return arguments if isinstance(jsontext.loads_exactly(arguments), dict) else "{}"


def _count(session: Session, got: Completion) -> None:
    said, more = vars(session.usage), vars(got.usage)
    session.usage = Usage(**{key: said[key] + more[key] for key in said})
    if got.cost is not None:
        session.cost = (session.cost or 0.0) + got.cost
    if got.model and got.model not in session.models:
        session.models.append(got.model)


def _end(session: Session, got: Completion) -> str:
    """Why a session ends with an answer that has no calls."""
    if got.finish_reason in ("length", "content_filter"):
        return str(got.finish_reason)
    if got.message.get("refusal"):
        return "refusal"
    last = session.messages[-1]
    return "answered" if last["role"] == "assistant" and last["content"].strip() else "empty"
