"""OpenHands, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

from agent_rollouts.audit.raw import Raw, chat_message, id_of
from agent_rollouts.events import JSON
from agent_rollouts.source import Source

_SILENT = ("recall", "null", "change_agent_state", "condensation_request", "start", "pause", "resume", "stop")


def raw(source: Source) -> Iterator[Raw]:
    """Responses of the model, messages and outputs; outputs get lines around them that are not compared."""
    for one in _raw(source):
        # Text of another kind than text is shown as JSON; empty text is none.
        if one.kind not in ("prompt", "answer") or one.value not in ("", None):
            yield one._replace(value=str(one.value)) if one.kind in ("prompt", "answer") else one


def _raw(source: Source) -> Iterator[Raw]:
    responses: set[JSON] = set()
    called: set[JSON] = set()
    for number, event in enumerate(_events(source)):
        if not isinstance(event, dict):
            continue
        if "kind" in event:
            yield from _new(event, f"event {number}")
        elif isinstance(event.get("action"), str):
            yield from _action(event, responses, called, f"event {number}")
        elif isinstance(event.get("observation"), str):
            yield from _observation(event, called, f"event {number}")


def _events(source: Source) -> Iterator[JSON]:
    document = source.document()
    if isinstance(document, list):
        yield from document
        return
    beside = {name: _number(name) for name in source.names_beside() if _number(name) >= 0}
    names = sorted(beside, key=lambda name: (beside[name], name))
    if not names or source.name not in beside:
        yield document
    elif names[0] == source.name:
        yield from map(source.sibling, names)


def _number(name: str) -> int:
    digits = name.removeprefix("event-").removesuffix(".json").split("-")[0]
    return int(digits) if digits.isdigit() and name.endswith(".json") else -1


def _new(event: dict[str, JSON], key: str) -> Iterator[Raw]:
    match event:
        case {"kind": "SystemPromptEvent", "system_prompt": prompt}:
            yield Raw("prompt", key, _texts([prompt, event.get("dynamic_context")]))
        case {"kind": "MessageEvent", "llm_message": dict(message)} if message.get("role") != "tool":
            content = [*_list(message.get("content")), *_list(event.get("extended_content"))]
            yield from _pictures(content)
            parts = [part for part in content if isinstance(part, dict) and "image_urls" not in part]
            yield from chat_message({**message, "content": parts, "reasoning_content": _thought(message)}, key)
        case {"kind": "ActionEvent", "tool_call": dict(call)}:
            thought = {"role": "assistant", "content": event.get("thought"), "reasoning_content": _thought(event)}
            yield from chat_message(thought, key)
            yield Raw("tool_call", id_of(call.get("id")), (call.get("name"), call.get("arguments")))
        case {"kind": "ObservationEvent", "tool_call_id": str(id), "observation": dict(observation)}:
            yield Raw("tool_result", id, None)
            yield from _pictures(_list(observation.get("content")))
            if observation.get("screenshot_data"):
                yield Raw("media", None, None)
        case {"kind": "AgentErrorEvent" | "UserRejectObservation", "tool_call_id": str(id)}:
            yield Raw("tool_result", id, event.get("error"))
        case {"kind": "Condensation", "summary": str(text)}:
            yield Raw("prompt", key, text)


def _thought(message: dict[str, JSON]) -> JSON:
    blocks = [block.get("thinking") or "" for block in _list(message.get("thinking_blocks")) if isinstance(block, dict)]
    item = message.get("responses_reasoning_item")
    item = item if isinstance(item, dict) else {}
    found = ["\n".join(blocks), "\n".join(_list(item.get("content"))), "\n".join(_list(item.get("summary")))]
    return message.get("reasoning_content") or next(filter(None, found), None)


def _action(event: dict[str, JSON], responses: set[JSON], called: set[JSON], key: str) -> Iterator[Raw]:
    args = event.get("args")
    args = args if isinstance(args, dict) else {}
    metadata = event.get("tool_call_metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    action, is_user = event["action"], event.get("source") == "user"
    match metadata.get("model_response"):
        case {"choices": [{"message": dict(message)}, *_], **response}:
            if response.get("id") not in responses:
                responses.add(response.get("id"))
                yield from chat_message({"role": "assistant", **message}, key)
            return
    if action in ("system", "message"):
        yield Raw("prompt" if is_user or action == "system" else "answer", key, args.get("content") or "")
        yield from (Raw("media", None, None) for _ in _list(args.get("image_urls")))
    elif action == "condensation":
        yield Raw("prompt", key, args.get("summary") or "")
    elif action == "run" and is_user:
        yield Raw("prompt", key, args.get("command"))
    elif not is_user and action not in _SILENT:
        called.add(str(event.get("id")))
        yield Raw("answer", key, args.get("thought") or "")
        id, name = metadata.get("tool_call_id") or str(event.get("id")), metadata.get("function_name") or action
        yield Raw("tool_call", id, (name, {k: v for k, v in args.items() if k != "thought"}))


def _observation(event: dict[str, JSON], called: set[JSON], key: str) -> Iterator[Raw]:
    extras = event.get("extras")
    extras = extras if isinstance(extras, dict) else {}
    kind, text = event["observation"], event.get("content") or ""
    metadata = event.get("tool_call_metadata")
    call_id = metadata.get("tool_call_id") if isinstance(metadata, dict) else None
    if kind in ("null", "agent_state_changed"):
        return
    if kind == "recall":
        knowledge = [one.get("content") for one in _list(extras.get("microagent_knowledge")) if isinstance(one, dict)]
        texts = [value for name, value in extras.items() if name.endswith("_instructions")]
        yield from (Raw("prompt", key, one) for one in [*texts, *knowledge] if isinstance(one, str) and one)
        return
    if call_id or str(event.get("cause")) in called:
        yield Raw("tool_result", call_id or str(event.get("cause")), None)
    else:
        yield from (Raw("prompt", key, line) for line in str(text).split("\n") if line and "base64," not in line)
    yield from (Raw("media", None, None) for _ in _list(extras.get("image_urls")))
    yield from (Raw("media", None, None) for _ in range(str(text).count("![image](data:image/png;base64,")))
    if extras.get("screenshot") or extras.get("set_of_marks"):
        yield Raw("media", None, None)


def _texts(parts: list[JSON]) -> str:
    return "\n".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _pictures(parts: list[JSON]) -> Iterator[Raw]:
    for part in parts:
        if isinstance(part, dict) and isinstance(part.get("image_urls"), list):
            yield from (Raw("media", None, None) for _ in part["image_urls"])


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []
