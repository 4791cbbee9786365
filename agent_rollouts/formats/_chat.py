"""Messages of the chat completions API, which many agents write as they are.

    {"role": "user", "content": "Fix it"}
    {"role": "assistant", "content": null, "reasoning_content": "…", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{\"path\": \".\"}"}}]}
    {"role": "tool", "tool_call_id": "call_1", "content": "README.md"}

Each message is whole, so that none is joined with its neighbour: give every one a `turn` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from agent_rollouts import jsontext
from agent_rollouts.events import JSON, At, Called, Event, Facts, Media, Returned, Said, Skipped, Thought
from agent_rollouts.formats._media import decoded, of_url

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""The roles of such messages, and ours."""

_TEXT = frozenset({"text", "input_text", "output_text"})
_THOUGHT = frozenset({"thinking", "reasoning", "redacted_thinking"})

# What the APIs (OpenAI's two, Anthropic's, OpenRouter's) call their token counts.
_USAGE = {
    "input_tokens": ("prompt_tokens", "input_tokens"),
    "output_tokens": ("completion_tokens", "output_tokens"),
    "cache_read_tokens": ("cached_tokens", "cache_read_input_tokens", "cache_read_tokens"),
    "cache_write_tokens": ("cache_creation_input_tokens", "cache_write_tokens"),
    "reasoning_tokens": ("reasoning_tokens",),
}
_COST = ("cost_usd", "cost", "total_cost")


def message_events(message: dict[str, JSON], at: At, *, is_error: bool | None = None) -> Iterator[Event]:
    """The events of one message, in the order reasoning, text, calls.

    Args:
        at: where it comes from; `turn` must be set for an assistant message.
        is_error: whether a tool message tells of a failure, where the format says so elsewhere.
    """
    name = message.get("role")
    role = ROLES.get(name) if isinstance(name, str) else None
    given = message.get("content")
    if role == "tool" and _is_data(given):
        given = json_text(given)
    text, media, inner = content(given, at)
    if role is None:
        yield Skipped("message: unknown role", at.timestamp)
        yield from _lost(media, inner, "of an unknown role")
        return
    if role == "tool":
        call_id = message.get("tool_call_id")
        said = message.get("is_error")
        failed = is_error if is_error is not None else said if isinstance(said, bool) else None
        yield Returned(at, call_id if isinstance(call_id, str) and call_id else None, text, media, failed)
        yield from inner
        return
    if role != "assistant":
        # Anthropic's clients put results into user messages.
        yield from inner
        if text or media or not inner:
            yield Said(at, role, text, media)
        return
    thought = reasoning(message)
    details = message.get("reasoning_details")
    if not any(type(event) is Thought for event in inner):
        if thought:
            yield Thought(at, thought)
        elif isinstance(details, list) and details:
            yield Skipped("reasoning: encrypted", at.timestamp)
    refusal = message.get("refusal")
    if not text and isinstance(refusal, str):
        text = refusal
    yield from (event for event in inner if type(event) is Thought)
    if text or media:
        yield Said(at, "assistant", text, media)
    yield from (event for event in inner if type(event) is not Thought)
    calls = list(tool_calls(message, at))
    yield from calls
    if not (thought or text or media or inner or calls):
        yield Skipped("message: empty answer", at.timestamp)


def content(value: JSON, at: At) -> tuple[str, list[Media], list[Event]]:
    """Text (parts joined by a newline) and media of a content, and what else its parts are: thoughts, calls, losses."""
    if isinstance(value, str):
        return value, [], []
    texts: list[str] = []
    media: list[Media] = []
    inner: list[Event] = []
    for part in value if isinstance(value, list) else [] if value is None else [value]:
        kind = part.get("type") if isinstance(part, dict) else None
        kind = str(kind) if kind is not None else None
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and kind in _THOUGHT:
            thought = _thought_text(part)
            inner.append(Thought(at, thought) if thought else Skipped("reasoning: encrypted", at.timestamp))
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and (kind is None or kind in _TEXT):
            texts.append(part["text"])
        elif isinstance(part, dict) and kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
        elif isinstance(part, dict) and kind == "tool_use":
            tool = text_or_none(part.get("name"))
            call = Called(at, text_or_none(part.get("id")), tool or "", arguments(part.get("input")))
            inner.append(call if tool else Skipped("tool_call: without a name", at.timestamp))
        elif isinstance(part, dict) and kind == "tool_result":
            text, found, more = content(part.get("content"), at)
            failed = part.get("is_error")
            call_id = text_or_none(part.get("tool_use_id"))
            inner.append(Returned(at, call_id, text, found, failed if isinstance(failed, bool) else None))
            inner += more
        elif (medium := _medium(part)) is not None:
            media.append(medium)
        else:
            inner.append(Skipped("media: unknown content part", at.timestamp))
    return texts[0] if len(texts) == 1 else "\n".join(texts), media, inner


def reasoning(message: dict[str, JSON]) -> str | None:
    """What the model thought: the first of its fields that is not blank; they repeat each other."""
    for key in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(message.get(key), str) and message[key].strip():
            return str(message[key])
    details = message.get("reasoning_details")
    if not isinstance(details, list):
        return None
    texts = [d.get(key) for d in details if isinstance(d, dict) for key in ("text", "thinking", "summary")]
    return "\n".join(text for text in texts if isinstance(text, str) and text.strip()) or None


def _thought_text(part: dict[str, JSON]) -> str | None:
    """The text of a part that is reasoning: under one of these names, as text or as a list of parts."""
    for key in ("thinking", "reasoning", "text", "content", "summary"):
        said = part.get(key)
        texts = [p.get("text") for p in said if isinstance(p, dict)] if isinstance(said, list) else [said]
        if text := "\n".join(text for text in texts if isinstance(text, str) and text.strip()):
            return text
    return None


def _is_data(value: JSON) -> bool:
    """Whether the content of a result is a value that the tool gave, and neither text nor parts."""
    if isinstance(value, dict):
        return "type" not in value and not isinstance(value.get("text"), str)
    if isinstance(value, list):
        return any(part is None or isinstance(part, list) or _is_data(part) for part in value)
    return value is not None and not isinstance(value, str)


def _lost(media: list[Media], inner: list[Event], why: str) -> Iterator[Event]:
    """The counts of what a message holds that is not used."""
    if media:
        yield Skipped(f"media: {why}", count=len(media))
    for event in inner:
        if isinstance(event, Returned) and event.media:
            yield Skipped(f"media: {why}", count=len(event.media))
        kind = {Thought: "reasoning", Called: "tool_call", Returned: "tool_result"}.get(type(event))
        yield Skipped(f"{kind}: {why}") if kind else event


def tool_calls(message: dict[str, JSON], at: At) -> Iterator[Event]:
    """The calls of an assistant message, in order; also those of the older `function_call`."""
    calls = message.get("tool_calls")
    if isinstance(message.get("function_call"), dict) and not calls:
        calls = [{"function": message["function_call"]}]
    if isinstance(calls, str):
        # Tables whose columns have one type keep nested values as JSON text.
        calls = jsontext.loads_exactly(calls) if calls.strip() else None
    for call in calls if isinstance(calls, list) else [calls] if calls else []:
        call = call if isinstance(call, dict) else {}
        function = call.get("function", call.get("custom", call))
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or not name:
            yield Skipped("tool_call: without a name", at.timestamp)
            continue
        given = {"input": function.get("input")} if "custom" in call else function.get("arguments")
        yield Called(at, text_or_none(call.get("id")), name, arguments(given))


def arguments(value: JSON) -> dict[str, JSON] | str:
    """Tool arguments, given as object or as text; none at all are an empty object."""
    if isinstance(value, dict):
        return value
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    return jsontext.arguments(value) if isinstance(value, str) else json_text(value)


def usage(value: JSON) -> dict[str, int | float]:
    """The token counts of an API's `usage` under the names of `features.USAGE`, as far as they are numbers."""
    found: dict[str, int | float] = {}
    if not isinstance(value, dict):
        return found
    details = [value.get(f"{side}_tokens_details") for side in ("prompt", "completion", "input", "output")]
    places = [value, *(place for place in details if isinstance(place, dict))]
    for name, keys in _USAGE.items():
        counts = (place.get(key) for key in keys for place in places)
        if (count := next((count for count in counts if type(count) is int and 0 <= count < 2**63), None)) is not None:
            found[name] = count
    for key in _COST:
        if type(value.get(key)) in (int, float) and abs(value[key]) < 2**63:
            found.setdefault("cost_usd", float(value[key]))
    return found


def tools(value: JSON) -> Iterator[Event]:
    """The fact of the tools that were offered, a list or its JSON text, as the chat completions API has them.

    The flat ones of the Responses API, of Anthropic's, and of the older `functions` are put into their `function`;
    those that run at the provider have no schema. Nothing at all (null, "") says nothing.
    """
    given = jsontext.loads_exactly(value) if isinstance(value, str) else value
    if isinstance(given, list) and all(isinstance(tool, dict) for tool in given):
        schemas = [schema for tool in given if (schema := _schema(tool))]
        yield Facts({"tools": schemas})
        if len(schemas) < len(given):
            yield Skipped("record: tool without a schema", count=len(given) - len(schemas))
    elif given:
        yield Skipped("record: tools of an unknown shape")


def _schema(tool: dict[str, JSON]) -> dict[str, JSON] | None:
    if isinstance(tool.get("function"), dict):
        return tool if "type" in tool else {"type": "function", **tool}
    if isinstance(tool.get("name"), str) and (
        tool.get("type") == "function" or {"parameters", "input_schema"} & set(tool)
    ):
        names = {"input_schema": "parameters"}
        return {"type": "function", "function": {names.get(k, k): v for k, v in tool.items() if k != "type"}}
    return None


def leading_think(text: str) -> tuple[str | None, str]:
    """Split `<think>…</think>` at the start of a text from what follows it; (None, text) where none stands there.

    Of the thought one line break at either end goes, of the rest those before its first line, as they
    belong to the tags.
    """
    if not text.startswith("<think>"):
        return None, text
    thought, tag, rest = text.removeprefix("<think>").partition("</think>")
    if not tag:
        return None, text
    return thought.removeprefix("\n").removesuffix("\n"), rest.lstrip("\n")


def json_text(value: JSON) -> str:
    """JSON text of any value, as compact as orjson writes it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return jsontext.exact_text(value)


def shown_text(value: JSON) -> str:
    """A text as it is, nothing for null, and the JSON text of anything else."""
    return value if isinstance(value, str) else "" if value is None else json_text(value)


def text_or_none(value: JSON) -> str | None:
    """A text that says something, else None."""
    return value if isinstance(value, str) and value else None


def _medium(part: JSON) -> Media | None:
    match part:
        case {"type": "image_url", "image_url": {"url": url} | str(url)}:
            return of_url("image", url)
        case {"type": "input_image" | "image", "image_url": {"url": url} | str(url)} | {"type": "image", "url": url}:
            return of_url("image", url)
        case {"type": "image" | "document" as kind, "source": {"data": str(data), **more}}:
            return decoded(kind, more.get("media_type"), data)
        case {"type": "image" | "document" as kind, "source": {"url": url}}:
            return of_url(kind, url)
        case {"type": "image", "data": str(data), **more}:
            return decoded("image", more.get("mimeType") or more.get("mime_type"), data)
        case {"type": "image", "image": str(url)}:
            return of_url("image", url)
        case {"type": "input_audio", "input_audio": {"data": str(data), **more}}:
            return decoded("audio", f"audio/{more.get('format', 'wav')}", data)
        case {"type": "file" | "input_file", "file": dict(file)} | {"type": "file" | "input_file", **file}:
            return of_url("document", file.get("file_data") or file.get("file_url") or file.get("file_id"))
    return None
