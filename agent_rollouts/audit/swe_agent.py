"""SWE-agent and mini-swe-agent, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, chat_message, id_of
from agent_rollouts.events import JSON
from agent_rollouts.source import Source


def raw(source: Source) -> Iterator[Raw]:
    """The messages of the run and of its other attempts."""
    document = source.document()
    info = document.get("info")
    best = info.get("best_attempt_idx") if isinstance(info, dict) else None
    attempts = document.get("attempts")
    others = [one for i, one in enumerate(attempts) if i != best] if isinstance(attempts, list) else []
    for number, run in enumerate([document, *others]):
        for place, message in enumerate(_messages(run) if isinstance(run, dict) else []):
            if isinstance(message, dict):
                yield from _message(message, f"{number}.{place}")


def _messages(run: dict[str, JSON]) -> Iterator[JSON]:
    history, messages, steps = run.get("history"), run.get("messages"), run.get("trajectory")
    if isinstance(history, list) and history:
        reasoning = [one for one in steps if isinstance(one, dict)] if isinstance(steps, list) else []
        for message in history:
            yield message
            # Of an answer the history leaves out what the model thought, the steps have it.
            match message:
                case {"role": "assistant", "content": content} if message.get("is_demo") is not True:
                    at = next(
                        (i for i, one in enumerate(reasoning) if _pair(one) == (content, message.get("action"))), -1
                    )
                    said = {"reasoning_content", "thinking_blocks"} & {key for key, value in message.items() if value}
                    if at >= 0:
                        if not said:
                            yield {"role": "assistant", "reasoning_content": reasoning[at].get("reasoning_content")}
                        del reasoning[: at + 1]
    elif isinstance(messages, list):
        yield from messages
    elif isinstance(steps, list):
        first = steps[0] if steps and isinstance(steps[0], dict) else {}
        yield from first.get("query") or first.get("messages") or []
        for step in steps:
            if isinstance(step, dict):
                yield {**step, "role": "assistant", "content": step.get("response")}
                yield {"role": "user", "content": step.get("observation")}


def _pair(step: dict[str, JSON]) -> tuple[JSON, JSON]:
    return step.get("response"), step.get("action")


def _message(message: dict[str, JSON], key: str) -> Iterator[Raw]:
    call_ids = message.get("tool_call_ids")
    if isinstance(call_ids, list) and call_ids:
        message = {"tool_call_id": call_ids[0], **message}
    if message.get("type") == "function_call_output":
        output = message.get("output")
        yield Raw("tool_result", id_of(message.get("call_id")), output if isinstance(output, str) else None)
    elif message.get("object") == "response":
        for item in message.get("output") or []:
            match item:
                case {"type": "message", "content": content}:
                    yield from chat_message({"role": "assistant", "content": content}, key)
                case {"type": "reasoning"}:
                    parts = [part for name in ("content", "summary") for part in item.get(name) or []]
                    texts = [part.get("text", "") for part in parts if isinstance(part, dict)]
                    yield Raw("reasoning", key, "\n".join(texts))
                case {"type": "function_call", **call}:
                    arguments = call.get("arguments")
                    yield Raw("tool_call", id_of(call.get("call_id")), (call.get("name"), arguments))
    elif message.get("role") != "exit":
        blocks = message.get("thinking_blocks")
        texts = [one.get("thinking", "") for one in blocks if isinstance(one, dict)] if isinstance(blocks, list) else []
        if any(texts):
            message = {**message, "reasoning_content": "\n".join(filter(None, texts))}
        if message.get("role") == "assistant" and not message.get("content"):
            message = {**message, "content": message.get("thought")}
        yield from chat_message(message, key)
