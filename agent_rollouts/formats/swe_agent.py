r"""SWE-agent's `<instance>.traj` and mini-swe-agent's `<instance>.traj.json`: one JSON object a run.

    {"environment": "main", "trajectory": [{"action": "ls", "observation": "a.py", "response": "…", "thought": "…", "state": {…}, "query": […]}],
     "history": [{"role": "system", "content": "…", "agent": "main", "message_type": "system_prompt"}, {"role": "assistant", "content": "…", "thought": "…", "action": "ls", "tool_calls": […], "thinking_blocks": […], "message_type": "action", "agent": "main"}, {"role": "tool", "content": "a.py", "tool_call_ids": ["call_1"], …}],
     "info": {"exit_status": "submitted", "submission": "diff …", "model_stats": {…}}, "replay_config": "{…}"}

    {"info": {"model_stats": {…}, "config": {…}, "mini_version": "2.4.6", "exit_status": "Submitted", "submission": "…"},
     "messages": [{"role": "assistant", "content": "…", "tool_calls": […], "extra": {"actions": […], "response": {…}, "cost": 0.01, "timestamp": 1.7e9}}, …, {"role": "exit", …}], "trajectory_format": "mini-swe-agent-1.1"}

* `history` is what the model saw; `trajectory` repeats it, and adds answers that were refused (they were put
  to the model once more and then left out of the history) and reasoning. Without a history it is all there is.
* An agent is sent only the messages of its own name: others in the history are subroutines, which are runs.
* A demonstration (`is_demo`) and the program's own last answer ("Exit due to …") are not the model's.
* `attempts` are runs of their own; the best one stands once more beside them.
* mini-swe-agent ends with a message that nobody is sent: role `exit`, until 2.0 a user's with the submission.
  Messages and results may be items of the Responses API.

Source of the rules: SWE-agent 0.0.1 to 1.1 (`agent/agents.py`), mini-swe-agent 1.13 and 2.4.6 (`agents`, `models`).
A bare list of messages, as mini-swe-agent wrote it at first, could be anybody's and is not claimed.
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

from collections.abc import Iterator

import orjson

from agent_rollouts.errors import FormatError
from agent_rollouts.events import JSON, At, Called, Event, Facts, Returned, Said, Skipped, Start, Thought, Used
from agent_rollouts.formats import _chat
from agent_rollouts.jsontext import as_dict
from agent_rollouts.source import Head, Source

_META_KEYS = (
    "exit_status", "submission", "model_stats", "swe_agent_version", "swe_agent_hash", "swe_rex_version",
    "mini_version", "best_attempt_idx", "rloop_model_stats", "review", "chooser",
)  # fmt: skip
_EXITS = ("exit due to ", "exiting due to ")
# What mini-swe-agent calls a message with which it or its user broke in.
_INTERRUPTIONS = {"FormatError": "reminder", "UserInterruption": "queued", "UserRejection": "queued"}


def claims(head: Head) -> bool:
    """Whether the object has a run's history, steps, attempts, or mini-swe-agent's `info` beside its messages."""
    run = head.document
    if not isinstance(run, dict):
        return False
    attempts = run.get("attempts")
    return _is_run(run) or (isinstance(attempts, list) and any(map(_is_run, attempts[:1])))


def _is_run(run: JSON) -> bool:
    match run:
        case {"history": [{"role": str(), "agent": str()}, *_]}:
            return True
        case {"trajectory": [{"action": _, "observation": _, **step}, *_]}:
            return not step.keys().isdisjoint({"response", "thought", "state"})
        case {"trajectory": [], "history": list()} | {"trajectory": list(), "history": list(), "info": dict()}:
            return True
        case {"trajectory_format": str(format)} if format.startswith("mini-swe-agent"):
            return True
        case {"info": {"mini_version": str()}}:
            return "steps" not in run
        case {"info": {"exit_status": _, "submission": _}, "messages": list()}:
            return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The run, then its other attempts and its subroutines; see the module's docstring for the rules."""
    document = source.document()
    if not isinstance(document, dict):
        raise FormatError(f"{source.path} is not of SWE-agent: it holds no object")
    name = source.stem.removesuffix(".traj")
    best = as_dict(document.get("info")).get("best_attempt_idx")
    attempts = dict(enumerate(_lists(document).get("attempts", ())))
    if document.keys() & {"history", "trajectory", "messages"}:
        # The best one stands in the place of all, with what all of them cost.
        own = as_dict(as_dict(attempts.pop(best, None)).get("info")).get("model_stats") if type(best) is int else None
        yield from _run(document, name, own=as_dict(own))
    for number, attempt in attempts.items():
        if isinstance(attempt, dict):
            yield from _run(attempt, f"{name}#attempt_{number}", root=name)
        else:
            yield Skipped("record: attempt of unexpected shape")


def _run(
    run: dict[str, JSON], name: str, *, root: str | None = None, own: dict[str, JSON] | None = None
) -> Iterator[Event]:
    yield Start(name)
    info = as_dict(run.get("info"))
    config = as_dict(info.get("config"))
    replay = _replay_config(run.get("replay_config"))
    problem = as_dict(replay.get("problem_statement"))
    model = as_dict(config.get("model")).get("model_name") or as_dict(as_dict(replay.get("agent")).get("model")).get(
        "name"
    )
    facts = {"trace_id": name, "model": model, "completed": _completed(info.get("exit_status"))}
    cwd = as_dict(config.get("environment")).get("cwd")
    meta = {key: info[key] for key in _META_KEYS if info.get(key) is not None}
    meta |= {key: run[key] for key in ("environment", "trajectory_format", "instance_id") if run.get(key)}
    meta |= {key: config[key] for key in ("agent_type", "model_type", "environment_type") if config.get(key)}
    meta.setdefault("instance_id", _chat.text_or_none(problem.get("id")))
    yield Facts({**facts, "cwd": _chat.text_or_none(cwd), "root_session_id": root}, meta)
    stats = own or as_dict(info.get("model_stats"))
    names = {"instance_cost": "cost_usd", "tokens_sent": "input_tokens", "tokens_received": "output_tokens"}
    yield Used("stats", {ours: stats[theirs] for theirs, ours in names.items() if theirs in stats})
    if isinstance(run.get("history"), list) and run["history"]:
        yield from _history(run, name)
    elif isinstance(run.get("messages"), list):
        yield from _messages(run["messages"], info)
    else:
        yield from _steps(run)


# -- SWE-agent --------------------------------------------------------------------------------------


def _history(run: dict[str, JSON], name: str) -> Iterator[Event]:
    history = run["history"]
    main = next((one.get("agent") for one in history if isinstance(one, dict)), None)
    steps = [step for step in run["trajectory"] if isinstance(step, dict)] if "trajectory" in _lists(run) else []
    at_step = 0
    known = {name}
    answered: set[str] = set()
    for number, message in enumerate(history):
        if not isinstance(message, dict):
            yield Skipped("message: not an object")
            continue
        agent = message.get("agent", main)
        is_demo = message.get("is_demo") is True or message.get("message_type") == "demonstration"
        if agent != main and is_demo:
            yield Skipped("message: demonstration under another agent's name, which is not sent")
            continue
        key = name if agent == main else f"{name}#{agent}"
        yield Start(key)
        if key not in known:
            known.add(key)
            parent = {"parent_trace_id": name, "root_session_id": name}
            yield Facts({"trace_id": key, "agent_id": str(agent), "is_sidechain": True, **parent})
        role = message.get("role")
        at = At(turn=number)
        if is_demo:
            at = at._replace(weight_reason="demonstration", origin="reminder" if role == "user" else None)
        elif role == "user" and key in answered:
            at = at._replace(origin="observation")
        if role != "assistant":
            call_ids = message.get("tool_call_ids")
            given = {"tool_call_id": call_ids[0]} if isinstance(call_ids, list) and call_ids else {}
            yield from _chat.message_events({**given, **message}, at)
            continue
        if not is_demo:
            answered.add(key)
            found = next((i for i in range(at_step, len(steps)) if _same_answer(steps[i], message)), None)
            if found is not None:
                yield from _refused(steps[at_step:found])
                message = {"reasoning_content": steps[found].get("reasoning_content")} | message
                at_step = found + 1
            if _is_exit(message):
                at = at._replace(weight_reason="synthetic", origin="synthetic")
        yield from _answer(message, at)
    yield Start(name)
    yield from _refused(steps[at_step:])


def _same_answer(step: dict[str, JSON], message: dict[str, JSON]) -> bool:
    return step.get("response") == message.get("content") and step.get("action") == message.get("action")


def _refused(steps: list[dict[str, JSON]]) -> Iterator[Event]:
    if steps:
        yield Skipped("message: refused answer, which is not in the history", count=len(steps))


def _is_exit(message: dict[str, JSON]) -> bool:
    """Whether the program wrote this answer, as it does when it stops; its action is then empty, or `exit_<why>`."""
    text, action = message.get("content"), message.get("action") or ""
    is_none = isinstance(action, str) and (not action or action.startswith("exit_"))
    return is_none and not message.get("tool_calls") and isinstance(text, str) and text.lower().startswith(_EXITS)


def _answer(message: dict[str, JSON], at: At) -> Iterator[Event]:
    """An answer; its `thought` repeats what its content says, unless there is no content."""
    if not message.get("content") and isinstance(message.get("thought"), str):
        message = {**message, "content": message["thought"]}
    if (thought := _thinking(message.get("thinking_blocks"))) is not None:
        message = {**message, "reasoning_content": thought}
    yield from _chat.message_events(message, at)


def _thinking(blocks: JSON) -> str | None:
    texts = [block.get("thinking") for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    return "\n".join(text for text in texts if isinstance(text, str) and text) or None


def _steps(run: dict[str, JSON]) -> Iterator[Event]:
    """A run without a history: what the first step was asked, then answers and observations."""
    steps = [step for step in run["trajectory"] if isinstance(step, dict)] if "trajectory" in _lists(run) else []
    asked = _lists(steps[0]) if steps else {}
    for number, message in enumerate(asked.get("query") or asked.get("messages") or []):
        if isinstance(message, dict):
            yield from _chat.message_events(message, At(turn=-1 - number))
    for number, step in enumerate(steps):
        message = {**step, "role": "assistant", "content": step.get("response")}
        at = At(turn=number)
        if _is_exit(message):
            at = at._replace(weight_reason="synthetic", origin="synthetic")
        yield from _answer(message, at)
        observation = step.get("observation")
        if isinstance(observation, str) and observation:
            yield Said(At(turn=number, origin="observation"), "user", observation)


def _replay_config(text: JSON) -> dict[str, JSON]:
    try:
        return as_dict(orjson.loads(text) if isinstance(text, str) else text)
    except ValueError:
        return {}


# -- mini-swe-agent ---------------------------------------------------------------------------------


def _messages(messages: list[JSON], info: dict[str, JSON]) -> Iterator[Event]:
    has_answered = False
    last = len(messages) - 1
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            yield Skipped("message: not an object")
            continue
        extra = as_dict(message.get("extra"))
        at = At(timestamp=_number(extra.get("timestamp")), turn=number)
        response = extra["response"] if isinstance(extra.get("response"), dict) else message
        yield from _used(response, number)
        is_answer = message.get("role") == "assistant" or message.get("object") == "response"
        if extra.get("response") and not is_answer:
            yield Skipped("message: answer that could not be parsed, and was not sent again")
        content = message.get("content")
        if message.get("role") == "exit" or (number == last and _is_submission(message, info, has_answered)):
            yield Skipped("message: note of the end, which is not sent")
        elif message.get("object") == "response":
            yield from _response(message.get("output"), at)
        elif message.get("type") == "function_call_output":
            text, media, _ = _chat.content(message.get("output"), at)
            yield Returned(at, _chat.text_or_none(message.get("call_id")), text, media, _is_error(extra))
        elif is_answer:
            yield from _answer(message, at)
        elif message.get("role") == "user":
            at = at._replace(origin=_origin(extra, has_answered))
            yield from _chat.message_events({"role": "user", "content": content}, at)
        else:
            yield from _chat.message_events(message, at, is_error=_is_error(extra))
        has_answered = has_answered or is_answer


def _origin(extra: dict[str, JSON], has_answered: bool) -> str | None:
    if isinstance(kind := extra.get("interrupt_type"), str):
        return _INTERRUPTIONS.get(kind)
    return "bash" if "actions" in extra else "observation" if has_answered else None


def _is_submission(message: dict[str, JSON], info: dict[str, JSON], has_answered: bool) -> bool:
    """Whether this is how a run ended until 2.0: with the submission, or the reason, as a message of the user."""
    if message.get("role") != "user" or "extra" in message or not has_answered:
        return False
    return bool(info.get("exit_status")) and _chat.content(message.get("content"), At())[0] == info.get("submission")


def _response(items: JSON, at: At) -> Iterator[Event]:
    """The items of one answer of the Responses API."""
    for item in items if isinstance(items, list) else []:
        match item:
            case {"type": "message", "content": content}:
                text, media, inner = _chat.content(content, at)
                yield from inner
                yield Said(at, "assistant", text, media)
            case {"type": "reasoning"}:
                parts = [part for key in ("content", "summary") for part in _lists(as_dict(item)).get(key, ())]
                texts = [part.get("text") for part in parts if isinstance(part, dict)]
                thought = "\n".join(text for text in texts if isinstance(text, str) and text)
                yield Thought(at, thought) if thought else Skipped("reasoning: encrypted")
            case {"type": "function_call", "name": str(name), **call}:
                call_id = _chat.text_or_none(call.get("call_id") or call.get("id"))
                yield Called(at, call_id, name, _chat.arguments(call.get("arguments")))
            case _:
                yield Skipped("record: item of a response of unknown kind")


def _used(response: dict[str, JSON], turn: int) -> Iterator[Event]:
    if isinstance(response.get("model"), str):
        yield Facts({"model": response["model"]})
    usage = as_dict(response.get("usage"))
    # The chat completions API calls them one thing, the Responses API another.
    asked, answered = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    found = {
        "input_tokens": usage.get(f"{asked}_tokens"),
        "output_tokens": usage.get(f"{answered}_tokens"),
        "cache_read_tokens": as_dict(usage.get(f"{asked}_tokens_details")).get("cached_tokens"),
        "reasoning_tokens": as_dict(usage.get(f"{answered}_tokens_details")).get("reasoning_tokens"),
    }
    if usage:
        yield Used(turn, found)


def _is_error(extra: dict[str, JSON]) -> bool | None:
    if extra.get("exception_info"):
        return True
    return extra["returncode"] != 0 if isinstance(extra.get("returncode"), int) else None


# -- both -------------------------------------------------------------------------------------------


def _completed(status: JSON) -> bool | None:
    """Whether the agent handed its work in by itself; `submitted (exit_cost)` was taken from it at the limit."""
    if not isinstance(status, str) or not status:
        return None
    return status.lower() == "submitted"


def _lists(value: dict[str, JSON]) -> dict[str, list[JSON]]:
    """The members that are lists."""
    return {key: item for key, item in value.items() if isinstance(item, list)}


def _number(value: JSON) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
