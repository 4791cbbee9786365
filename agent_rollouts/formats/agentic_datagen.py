r"""Datasets that agentic-datagen (TeichAI) generates: one session a line, whole.

    {"prompt": "Build …", "tools": [{"type": "function", "function": {…}}], "messages": [
        {"role": "system", "content": "You are …"},
        {"role": "user", "content": "Build …"},
        {"role": "assistant", "content": "<think>Plan</think>\nI start.", "tool_calls": [{"id": "call_1", "type": "function",
            "index": 0, "function": {"name": "list_directory", "arguments": "{}"}}]},
        {"role": "tool", "content": "{\"success\": true, \"result\": []}", "tool_call_id": "call_1", "name": "list_directory"}],
     "metadata": {"session_id": "session_000000", "turns": 2, "completed": true, "tool_calls_count": 1, "error": null},
     "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cost": 0.001}}

Three eras, told apart by nothing but what a line holds:

| era | since | prompt | reasoning | arguments | results |
|---|---|---|---|---|---|
| A | 2026-01 | `metadata.prompt`; first neither `tools` nor `usage` | `<think>` before the text | text | `{"success": …, "result" or "error": …}` as JSON text |
| B | 2026-02 | `prompt` | as A | as A | as A |
| C | 2026-04 | `prompt`; `metadata` has `run_id` and `prompt_id` | `reasoning_content` | objects | the bare `result`; a failure as before |

* The model was sent the JSON text of a result, so that a wrapped one stays wrapped. What era C unwrapped into a list
  or object was sent as the text that Python's `json.dumps` gives.
* `session_id` is the number of a prompt in its list, and the same in every run.
* Reasoning stands before `</think>` and one line break, then comes the text as it was.
* A failed session is written too: `completed` is false and `error` says why.
* `agent-rollouts generate` writes era C, too; its results are bare, and a key `is_error` says which failed. Its metadata
  also holds `model`, `started_at` and `ended_at`.

Source of the rules: TeichAI/agentic-datagen, both layouts, and 80 sessions made with them.
"""  # noqa: E501  (the record and the table are shown as they stand)

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from agent_rollouts import jsontext
from agent_rollouts.events import JSON, At, End, Event, Facts, Skipped, Start, Used
from agent_rollouts.formats._chat import json_text, message_events, reasoning, text_or_none, tools, usage
from agent_rollouts.source import HEAD_BYTES, Head, Source

# As the program writes the keys of a result.
_RESULT_KEYS = ["role", "content", "tool_call_id", "name"]


def claims(head: Head) -> bool:
    """Whether one of the first records has messages, and counts of turns or calls in its metadata."""
    is_cut = len(head.data) >= HEAD_BYTES and b"\n" not in head.data
    return any(is_session(record) or (is_cut and _is_start(record)) for record in head.records)


def is_session(record: dict[str, JSON]) -> bool:
    """Whether a record is a session of agentic-datagen."""
    match record:
        case {"messages": list(), "metadata": {"turns": _} | {"tool_calls_count": _}}:
            return True
    return False


def _is_start(record: dict[str, JSON]) -> bool:
    """Whether a record that is cut off before its metadata begins as one: its messages say whose it is."""
    if list(record) not in (["prompt", "tools", "messages"], ["messages"]) or not isinstance(record["messages"], list):
        return False
    results = [m for m in record["messages"] if isinstance(m, dict) and m.get("role") == "tool"]
    # The last one may be cut off itself.
    written = [result for result in results if list(result)[:4] == _RESULT_KEYS]
    if "prompt" in record:
        return len(written) >= len(results) - 1
    return bool(written) and all(_success(result["content"]) is not None for result in written)


def decode(source: Source) -> Iterator[Event]:
    """The events of a dataset: every session begins and ends."""
    for number, record in enumerate(source.records()):
        if not is_session(record):
            yield Skipped("record: no session")
            continue
        if not jsontext.is_exact(record) and isinstance(exact := source.exact(), dict):
            record = exact
        yield Start(str(number))
        yield from _facts(record, f"{source.stem}:{number}")
        for turn, message in enumerate(record["messages"]):
            if isinstance(message, dict):
                yield from _message(message, At(turn=turn))
            else:
                yield Skipped("message: not an object")
        yield End()


def _facts(record: dict[str, JSON], name: str) -> Iterator[Event]:
    metadata: dict[str, JSON] = record["metadata"]
    users = (m.get("content") for m in record["messages"] if isinstance(m, dict) and m.get("role") == "user")
    first = next(users, None)
    prompt = text_or_none(record.get("prompt")) or text_or_none(metadata.get("prompt")) or first
    if session := text_or_none(metadata.get("session_id")):
        # The same prompt of the same list may have been run twice: what was said is the session's own.
        digest = hashlib.sha256(json_text(record["messages"]).encode()).hexdigest()[:8]
        run = text_or_none(metadata.get("run_id"))
        name = f"{run}:{session}" if run else f"{session}:{digest}"
    values: dict[str, JSON] = {"trace_id": name}
    if isinstance(metadata.get("completed"), bool):
        values["completed"] = metadata["completed"]
    # `agent-rollouts generate` notes what the program leaves out.
    for key in ("model", "started_at", "ended_at"):
        if isinstance(metadata.get(key), str):
            values[key] = metadata[key]
    meta = {key: value for key, value in metadata.items() if key != "prompt" and key not in values}
    if prompt != first:
        meta["prompt"] = prompt
    yield from _usage(record.get("usage"), meta)
    yield Facts(values, meta)
    yield from tools(record.get("tools"))


def _usage(counts: JSON, meta: dict[str, JSON]) -> Iterator[Event]:
    """Token counts, and what their total adds up: era C counts reasoning again that providers count as completion."""
    used = usage(counts)
    if used:
        yield Used(0, used)
    total = counts.get("total_tokens") if isinstance(counts, dict) else None
    if type(total) is int and "input_tokens" in used and "output_tokens" in used:
        both = used["input_tokens"] + used["output_tokens"]
        sums = {both + used.get("reasoning_tokens", 0): "input + output + reasoning", both: "input + output"}
        meta["usage_total"] = {"tokens": total, "is": sums.get(total, "another sum")}


def _message(message: dict[str, JSON], at: At) -> Iterator[Event]:
    content = message.get("content")
    if message.get("role") == "tool":
        said = message.get("is_error")  # ours; the program itself wraps what failed
        success = not said if isinstance(said, bool) else _success(content)
        if content is not None and not isinstance(content, str):
            message = {**message, "content": jsontext.exact_text(content)}
        yield from message_events(message, at, is_error=None if success is None else not success)
        return
    if message.get("role") == "assistant" and isinstance(content, str) and not reasoning(message):
        thought, text = _thought(content)
        message = {**message, "reasoning_content": thought, "content": text}
    yield from message_events(message, at)


def _thought(content: str) -> tuple[str | None, str]:
    if not content.startswith("<think>"):
        return None, content
    thought, tag, text = content.removeprefix("<think>").partition("</think>")
    return (thought, text.removeprefix("\n")) if tag else (None, content)


def _success(content: JSON) -> bool | None:
    """Whether a result says that its tool succeeded; None where it is not wrapped."""
    if isinstance(content, str) and content.startswith(('{"success": ', '{"error": ')):
        content = jsontext.loads_exactly(content)
    match content:
        case {"success": bool(success), **rest} if rest.keys() <= {"result", "error"}:
            return success
        case {"error": str(), **rest} if not rest:  # of a tool that is not there
            return False
    return None
