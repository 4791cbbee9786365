"""Copilot CLI, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The messages, calls and results of all agents, whichever they belong to."""
    skills: dict[str, str] = {}
    for record in records(source):
        data = record.get("data")
        if not isinstance(data, dict):
            continue
        key = id_of(record.get("id"))
        match record.get("type"):
            case "user.message":
                yield from _prompt(key, data.get("transformedContent") or data.get("content"))
                yield from _media(data.get("attachments"), ("data", "assetId", "omittedReason"))
            case "system.message" | "system.notification":
                yield from _prompt(key, data.get("content"))
            case "session.compaction_complete" if data.get("success") is True:
                yield from _prompt(key, data.get("summaryContent"))
            case "session.context_cleared":
                yield from _prompt(key, data.get("initialMessage"))
            case "skill.invoked" if isinstance(data.get("content"), str):
                skills[f"skill-{data.get('name')}"] = data["content"]
            case "skill.context_delivered_ref" if data.get("source") in skills:
                before, after = data.get("prefix"), data.get("suffix")
                if isinstance(before, str) and isinstance(after, str):
                    yield from _prompt(key, before + skills[data["source"]] + after)
            case "assistant.message":
                yield from _answer(data)
            case "tool.user_requested":
                yield Raw("tool_call", id_of(data.get("toolCallId")), (data.get("toolName"), data.get("arguments")))
            case "tool.execution_complete":
                yield from _result(data)


def _prompt(key: str | None, text: JSON) -> Iterator[Raw]:
    if isinstance(text, str) and text:
        yield Raw("prompt", key, text)


def _media(found: JSON, marks: tuple[str, ...] = ()) -> Iterator[Raw]:
    for one in found if isinstance(found, list) else ():
        if not marks or (isinstance(one, dict) and any(mark in one for mark in marks)):
            yield Raw("media", None, None)


def _answer(data: dict[str, JSON]) -> Iterator[Raw]:
    key = id_of(data.get("messageId"))
    if isinstance(text := data.get("content"), str) and text:
        yield Raw("answer", key, text)
    thought = data.get("reasoningText")
    if isinstance(thought, str) and thought:
        yield Raw("reasoning", key, thought)
    elif data.get("reasoningOpaque") or data.get("encryptedContent") or data.get("reasoningBlocks"):
        yield Raw("reasoning", key, "")
    requests = data.get("toolRequests")
    for request in requests if isinstance(requests, list) else ():
        one = request if isinstance(request, dict) else {}
        given = one.get("arguments")
        blank = given is None or (isinstance(given, str) and not given.strip())
        yield Raw("tool_call", id_of(one.get("toolCallId")), (one.get("name"), {} if blank else given))


def _result(data: dict[str, JSON]) -> Iterator[Raw]:
    result, error = data.get("result"), data.get("error")
    text: JSON = None
    if isinstance(result, dict) and not data.get("isUserRequested"):
        yield from _media(result.get("binaryResultsForLlm"))
    if isinstance(result, dict) and "content" in result:
        text = result["content"]
    elif isinstance(error, dict):
        text = error.get("message")
    yield Raw("tool_result", id_of(data.get("toolCallId")), text if isinstance(text, str) else None)
