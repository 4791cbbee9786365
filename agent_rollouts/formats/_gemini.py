"""Content parts of the Gemini API, which Gemini CLI and its forks write as they are.

    {"text": "Let me look.", "thought": true}
    {"text": "I will list it."}
    {"functionCall": {"id": "c1", "name": "ls", "args": {"path": "."}}}
    {"functionResponse": {"id": "c1", "name": "ls", "response": {"output": "README.md"}}}
    {"inlineData": {"mimeType": "image/png", "data": "…"}}

The texts of a message are pieces of one, so nothing is put between them. What follows a response in its
message (pictures, text that a file reader adds) belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent_rollouts.events import JSON, At, Called, Event, Media, Returned, Said, Skipped, Thought
from agent_rollouts.formats._chat import arguments, json_text, text_or_none
from agent_rollouts.formats._media import decoded

# What the programs write where they need a thought of the model's and have none.
SYNTHETIC_SIGNATURE = "skip_thought_signature_validator"


class Response(NamedTuple):
    """A function response with the parts that follow it."""

    id: str | None
    text: str
    media: Sequence[Media]
    is_error: bool | None
    unknown: int = 0


class Seen:
    """What was said so far: what a compaction kept comes again, as a copy without its id."""

    def __init__(self) -> None:
        self._texts: set[int] = set()  # hashes, so that the texts themselves can go
        self._calls: set[str] = set()

    def add(self, parts: Sequence[JSON]) -> None:
        """Remember the text and the calls of a message."""
        self._texts.add(hash(text_of(parts)))
        self._calls |= call_ids(parts)

    def has(self, parts: Sequence[JSON]) -> bool:
        """Whether a message says what was said, or calls what was called."""
        text = text_of(parts)
        return bool(text and hash(text) in self._texts) or not self._calls.isdisjoint(call_ids(parts))


def parts_of(content: JSON) -> list[JSON]:
    """The parts of a content, which may be a list, one part or a text."""
    parts = content if isinstance(content, list) else [] if content is None else [content]
    return [{"text": part} if isinstance(part, str) else part for part in parts]


def has(parts: Sequence[JSON], key: str) -> bool:
    """Whether one of the parts has something under a key."""
    return any(isinstance(part, dict) and part.get(key) for part in parts)


def text_of(parts: Sequence[JSON]) -> str:
    """The texts among parts, thoughts too, as one."""
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def call_ids(parts: Sequence[JSON]) -> set[str]:
    """The ids of calls and responses among parts."""
    inner = [part.get(key) for part in parts if isinstance(part, dict) for key in ("functionCall", "functionResponse")]
    return {one["id"] for one in inner if isinstance(one, dict) and isinstance(one.get("id"), str)}


def message_events(parts: Sequence[JSON], role: str, at: At, *, is_error: bool | None = None) -> Iterator[Event]:
    """The events of a message: responses, reasoning, text with media, calls.

    Args:
        role: `user` or `assistant`.
        is_error: whether the calls that this answers failed, where the format says so elsewhere.
    """
    first = next((i for i, part in enumerate(parts) if _response(part)), len(parts))
    for response in responses(parts[first:]):
        failed = response.is_error if is_error is None else is_error
        yield Returned(at, response.id, response.text, response.media, failed)
        yield from (Skipped("media: unknown part", at.timestamp) for _ in range(response.unknown))
    thoughts, text, media = [], "", []
    calls: list[Event] = []
    lost: list[Event] = []
    for part in parts[:first]:
        match part:
            case {"text": str(thought), "thought": True}:
                thoughts.append(thought)
            case {"text": str(more)}:
                text += more
            case {"functionCall": {"name": str(name), **call}} if name:
                calls.append(Called(at, text_or_none(call.get("id")), name, arguments(call.get("args"))))
            case {"functionCall": _}:
                lost.append(Skipped("tool_call: without a name", at.timestamp))
            case {"thought": _} | {"thoughtSignature": _}:
                lost.append(Skipped("reasoning: encrypted", at.timestamp))
            case _ if medium := medium_of(part):
                media.append(medium)
            case _:
                lost.append(Skipped("media: unknown part", at.timestamp))
    yield from lost
    if role == "assistant":
        yield from (Thought(at, thought) for thought in thoughts if thought)
        if text or media:
            yield Said(at, role, text, media)
        yield from calls
        if not (text or media or calls or any(thoughts) or first < len(parts)):
            yield Skipped("message: empty answer", at.timestamp)
        return
    lost = [Skipped("tool_call: of a user", at.timestamp) for _ in calls]
    lost += [Skipped("reasoning: of a user", at.timestamp) for _ in thoughts]
    yield from lost
    if text or media or (first == len(parts) and all(isinstance(part, dict) and "text" in part for part in parts)):
        yield Said(at, role, text, media)


def responses(parts: Sequence[JSON]) -> Iterator[Response]:
    """The function responses among parts, each with what follows it."""
    found: Response | None = None
    for part in parts:
        if response := _response(part):
            if found is not None:
                yield found
            text, is_error = response_text(response.get("response"))
            inner = parts_of(response.get("parts"))
            media = [medium for one in inner if (medium := medium_of(one))]
            found = Response(text_or_none(response.get("id")), text, media, is_error, len(inner) - len(media))
        elif found is not None:
            if medium := medium_of(part):
                found = found._replace(media=[*found.media, medium])
            elif isinstance(part, dict) and isinstance(part.get("text"), str):
                found = found._replace(text="\n".join(filter(None, (found.text, part["text"]))))
            else:
                found = found._replace(unknown=found.unknown + 1)
    if found is not None:
        yield found


def response_text(response: JSON) -> tuple[str, bool | None]:
    """What a response says, and whether that is an error; JSON where it says more than one thing."""
    match response:
        case {"output": str(text), **more} if not more:
            return text, None
        case {"error": str(text), **more} if not more:
            return text, True
        case str(text):
            return text, None
        case None:
            return "", None
    return json_text(response), None


def medium_of(part: JSON) -> Media | None:
    """The picture, sound or document that a part is."""
    match part:
        case {"inlineData": {"data": str(data), **more}}:
            return decoded(_kind(more.get("mimeType")), more.get("mimeType"), data)
        case {"fileData": {"fileUri": str(uri), **more}}:
            media_type = more.get("mimeType")
            return Media(_kind(media_type), media_type if isinstance(media_type, str) else None, None, uri)
    return None


def _kind(media_type: JSON) -> str:
    kind = media_type.partition("/")[0] if isinstance(media_type, str) else ""
    return kind if kind in ("image", "audio", "video") else "document"


def _response(part: JSON) -> dict[str, JSON] | None:
    found = part.get("functionResponse") if isinstance(part, dict) else None
    return found if isinstance(found, dict) else None
