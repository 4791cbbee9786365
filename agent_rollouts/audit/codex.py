"""Codex, read plainly."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from agent_rollouts import jsontext
from agent_rollouts.audit.raw import Raw, id_of, records
from agent_rollouts.events import JSON
from agent_rollouts.source import Source

_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "web_search_call": "action",
    "tool_search_call": "arguments",
    "image_generation_call": "revised_prompt",
}
_HOSTED = ("web_search_call", "image_generation_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output", "tool_search_output")
_ITEMS = {*_CALLS, *_OUTPUTS, "message", "reasoning", "agent_message"}


def raw(source: Source) -> Iterator[Raw]:
    """Response items, enveloped or bare, and those that a compaction put in their place.

    Files that hold nothing but events for the screen are read by these. Items have no message of their own:
    what stands between two outputs or prompts is one.
    """
    turn = 0
    has_items = False
    pictures: set[str] = set()
    screen: list[Raw] = []
    for record, is_copy in _records(source):
        kind = record.get("type")
        if kind in ("event_msg", "compacted"):
            turn += 1
            has_items = has_items or kind == "compacted"
            screen += _screen(record.get("payload"), f"turn {turn}")
        if kind not in _ITEMS:
            continue
        has_items = True
        if kind in _OUTPUTS or record.get("role", "assistant") != "assistant":
            turn += 1
        for raw in _item(record, f"turn {turn}"):
            # What a compaction keeps is repeated with its pictures.
            if raw.kind != "media" or not is_copy or raw.value not in pictures:
                yield raw
            if raw.kind == "media":
                pictures.add(raw.value)
    if not has_items:
        yield from screen


def _records(source: Source) -> Iterator[tuple[dict[str, JSON], bool]]:
    """Items without their envelope, events and compactions with it; and whether a compaction repeats it."""
    for record in _lines(source):
        match record:
            case {"type": "response_item", "payload": dict(item)}:
                yield item, False
            case {"type": "inter_agent_communication", "payload": dict(item)}:
                yield {**item, "type": "agent_message"}, False
            case {"type": "event_msg" | "compacted", "payload": dict(payload)}:
                yield record, False
                history = payload.get("replacement_history")
                for item in history if record["type"] == "compacted" and isinstance(history, list) else ():
                    if isinstance(item, dict):
                        yield item, True
            case {"session": dict(), "items": list(items)}:
                yield from ((item, False) for item in items if isinstance(item, dict))
            case _ if "payload" not in record:
                yield record, False


def _lines(source: Source) -> Iterator[dict[str, JSON]]:
    if source.name.endswith(".json"):
        with source.open() as stream:
            try:
                document = orjson.loads(stream.read())
            except ValueError:
                document = None
        if isinstance(document, dict):
            yield document
            return
    yield from records(source)


def _screen(event: JSON, turn: str) -> Iterator[Raw]:
    match event:
        case {"type": "user_message", "message": str(text), **more}:
            yield Raw("prompt", turn, text)
            pictures: list[JSON] = [more.get("images"), more.get("local_images")]
            yield from (Raw("media", None, None) for urls in pictures if isinstance(urls, list) for _ in urls)
        case {"type": "agent_message", "message": str(text)} if text:
            yield Raw("answer", turn, text)
        case {"type": "agent_reasoning", "text": str(text)} if text:
            yield Raw("reasoning", turn, text)


def _item(item: dict[str, JSON], turn: str) -> Iterator[Raw]:
    kind = str(item["type"])
    if kind in _CALLS:
        value = item.get(_CALLS[kind])
        if kind in ("custom_tool_call", "image_generation_call"):
            # Raw text, which becomes the only argument.
            value = {} if value is None and kind != "custom_tool_call" else {_CALLS[kind]: value}
        has_name = kind in ("function_call", "custom_tool_call")
        key = id_of(item.get("call_id")) or (None if has_name else id_of(item.get("id")))
        name = item.get("name") if has_name else kind.removesuffix("_call")
        yield Raw("tool_call", key, (name, {} if value is None else value))
        if kind in _HOSTED:
            # Of what ran at the provider the log has no output; its result is an empty one.
            yield Raw("tool_result", key, "")
            if item.get("result"):
                yield Raw("media", None, str(item["result"]))
    elif kind == "reasoning":
        yield Raw("reasoning", turn, _thought(item))
    else:
        content = item.get("output" if kind in _OUTPUTS else "content")
        if isinstance(content, dict):
            content = content.get("content")
        texts, media = _split(content)
        if kind in _OUTPUTS:
            # Other outputs are shown as the JSON that they are.
            value = "\n".join(texts) if isinstance(content, str | list) else None
            yield Raw("tool_result", id_of(item.get("call_id")), value)
        else:
            # Some versions deliver another agent's instruction as if the model said it.
            is_answer = item.get("role") == "assistant" and not "".join(texts).startswith('{"author":')
            if text := "\n".join(texts):
                yield Raw("answer" if is_answer else "prompt", turn, text)
        yield from (Raw("media", None, part) for part in media)


def _thought(item: dict[str, JSON]) -> str:
    """The content of a reasoning item, else its summary, as one text: it is withdrawn as one."""
    for parts in (item.get("content"), item.get("summary")):
        found = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if texts := [text for text in found if isinstance(text, str) and text]:
            return "\n\n".join(texts)
    return ""


def _split(parts: JSON) -> tuple[list[str], list[str]]:
    """The texts of a content, and whatever in it is none."""
    texts: list[str] = []
    media: list[str] = []
    for part in [parts] if isinstance(parts, str) else parts if isinstance(parts, list) else ():
        match part:
            case (
                str(text)
                | {"type": "input_text" | "output_text" | "text", "text": str(text)}
                | {"type": "refusal", "refusal": str(text)}
            ):
                texts.append(text)
            case {"type": "encrypted_content"}:
                pass
            case _:
                media.append(jsontext.exact_text(part))
    return texts, media
