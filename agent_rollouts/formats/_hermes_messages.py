r"""Messages of Hermes Agent, which its JSON, JSONL and database have in common.

    {"role":"assistant","content":"","reasoning":"Look first.","reasoning_content":" ","finish_reason":"tool_calls",
     "tool_calls":[{"id":"call_1","call_id":"call_1","type":"function","function":{"name":"terminal","arguments":"{…}"}}]}
    {"role":"tool","tool_name":"terminal","tool_call_id":"call_1","content":"{\"output\": \"…\"}"}

The chat completions API, and beside it: structured fields as JSON text, content as `"\x00json:[…]"`, `api_content`
where the model was sent another text than the user is shown.

Source of the rules: hermes-agent 0.19.0 (`hermes_state.py`, `agent/`, `gateway/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

import orjson

from agent_rollouts import jsontext
from agent_rollouts.events import JSON, At, Event, Facts, Said, Skipped
from agent_rollouts.formats import _chat
from agent_rollouts.jsontext import as_list

# How user messages begin that are none, without the `[IMPORTANT: ` (once `[SYSTEM: `) around most of them.
_SLIPPED_IN = {
    "[System: ": "reminder",
    "You just executed tool calls but returned an empty response.": "reminder",
    "[Your active task list was preserved across context compression]": "reminder",
    "MCP servers have been reloaded": "reminder",
    "Background process ": "notification",
    "[Background process ": "notification",
    "[ASYNC DELEGATION ": "notification",
    "The user has invoked the ": "custom_command",
}
_LOUD = ("[IMPORTANT: ", "[SYSTEM: ")
# A note that ends the message is all of it; else the user's own text stands behind it.
_NOTES = ("[System note: ", "[Note: model was just switched ")
# Older versions let the review of a session, by which the agent keeps memory and skills, write into that session.
_REVIEWS = tuple(
    f"Review the conversation above and {task}"
    for task in ("update the skill library", "consider saving to memory", "update two things")
)
_SUMMARIES = ("[CONTEXT COMPACTION", "[CONTEXT SUMMARY]:")
# Where the summary would make two messages of one role, it stands at the end of the first kept message.
_MERGED_SUMMARY = "[END OF PRIOR CONTEXT — COMPACTION SUMMARY BELOW]"
_NO_ANSWER = ("Operation interrupted: ", "Operation interrupted during ")
_INLINE = ("think", "thinking", "thought", "reasoning", "REASONING_SCRATCHPAD")
_JSON_TEXT = "\x00json:"
_JSON_FIELDS = ("tool_calls", "reasoning_details", "codex_reasoning_items", "codex_message_items")


class Conversation:
    """The messages of one session, and what must be remembered between them."""

    def __init__(self, prompt: JSON = None) -> None:
        self.prompt = prompt if isinstance(prompt, str) else ""
        self.number = 0
        self.is_review = False
        self.has_unnamed_calls = False
        # Earliest and latest instant, of those without an offset and of the others.
        self.spans: dict[bool, list[tuple[float, str | float]]] = {}

    def opening(self, *, replayed: bool = False) -> Iterator[Event]:
        """The system prompt."""
        if self.prompt:
            yield Said(At(replayed=replayed), "system", self.prompt)

    def events(self, message: dict[str, JSON], reason: str | None = None, *, replayed: bool = False) -> Iterator[Event]:
        """The events of one message; its number, before this call, is its node.

        Args:
            reason: why it has weight 0, should its own text not say so.
            replayed: whether it repeats a message of this session.
        """
        stamp = self.see(message.get("timestamp"))
        number, self.number = self.number, self.number + 1
        message, lost = decoded(message)
        role, text = message.get("role"), first_text(message["content"])
        if role == "system" and number == 0 and text == self.prompt != "":
            yield Skipped("message: the system prompt again")
            return
        origin, own_reason = self._origin(message, text)
        id = message.get("id")
        at = At(
            str(id) if isinstance(id, int) else None, stamp, number, number, origin, own_reason or reason, replayed,
            _phase(message) if role == "assistant" else None,
        )  # fmt: skip
        yield from lost
        if role == "assistant":
            yield from _thoughts(message)
            calls = as_list(message.get("tool_calls"))
            self.has_unnamed_calls = any(isinstance(call, dict) and not call.get("id") for call in calls)
        elif role == "tool" and self.has_unnamed_calls:
            # The database once kept calls without their ids, though results with them.
            message["tool_call_id"] = None
        yield from _chat.message_events(message, at)

    def see(self, value: JSON) -> str | float | None:
        """A timestamp, remembered, or None where the value is none."""
        if (found := _instant(value)) is None:
            return None
        instant, is_naive = found
        span = self.spans.setdefault(is_naive, [(instant, value)] * 2)
        self.spans[is_naive] = [min(span[0], (instant, value), key=_first), max(span[1], (instant, value), key=_first)]
        return value  # type: ignore[no-any-return]  # checked above

    def times(self) -> Facts:
        """Beginning and end. Times without an offset, which compare with no others, count where they are alone."""
        span = self.spans.get(False) or self.spans.get(True)
        values = {"started_at": span[0][1], "ended_at": span[1][1]} if span else {}
        return Facts(values, {"naive_timestamps": True} if True in self.spans else {})

    def _origin(self, message: dict[str, JSON], text: str) -> tuple[str | None, str | None]:
        """Who wrote a message where it is not its role, and why it must not be trained on."""
        role = message.get("role")
        answers = role == "assistant"
        if role in ("user", "assistant") and is_summary(text):
            return "summary", "synthetic" if answers else None
        if message.get("mirror") is True:
            return "agent_message", "copied_context" if answers else None
        if answers:
            if text == "(empty)" or text == "Operation interrupted." or text.startswith(_NO_ANSWER):
                return "synthetic", "synthetic"
            return None, "housekeeping" if self.is_review else None
        if role not in ("user", "system"):
            return None, None
        self.is_review = text.lstrip().startswith(_REVIEWS)
        if self.is_review:
            return "reminder", None
        if role == "system":
            return None, None
        if message.get("observed"):
            return "environment", None
        bare = next((text.removeprefix(loud) for loud in _LOUD if text.startswith(loud)), text)
        if bare.startswith(_NOTES) and bare.rstrip().endswith("]"):
            return "reminder", None
        return next((origin for start, origin in _SLIPPED_IN.items() if bare.startswith(start)), None), None


def is_summary(text: str) -> bool:
    """Whether a message is, or holds, the summary that a compaction put in place of earlier ones."""
    return text.startswith(_SUMMARIES) or _MERGED_SUMMARY in text


def first_text(content: JSON) -> str:
    """The text of a content, of parts the first."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return next((text for text in texts if isinstance(text, str)), "")


def decoded(message: dict[str, JSON]) -> tuple[dict[str, JSON], list[Event]]:
    """A message as the API has it, and what of it could not be read."""
    message = dict(message)
    lost: list[Event] = []
    for name in _JSON_FIELDS:
        if isinstance(text := message.get(name), str):
            message[name] = parsed(text)
            if message[name] is None:
                lost.append(Skipped("tool_call: not JSON" if name == "tool_calls" else "reasoning: not JSON"))
    message["content"] = _content(message.get("content"))
    sent = message.get("api_content")
    if isinstance(sent, str) and sent and message.get("role") in ("user", "assistant"):
        if first_text(message["content"]) not in sent:
            lost.append(Skipped("text: shown to the user in place of what the model saw"))
        message["content"] = sent
    if isinstance(calls := message.get("tool_calls"), dict):
        calls = [calls]
    if isinstance(calls, list):
        message["tool_calls"] = [
            {**call, "id": call.get("id") or call.get("call_id")} if isinstance(call, dict) else call for call in calls
        ]
    return message, lost


def parsed(text: JSON) -> JSON:
    """The value of JSON text with integers of any length, None where it is none."""
    try:
        value = orjson.loads(text)
        return value if jsontext.is_exact(value) else jsontext.tolerant(text)[0]
    except (ValueError, TypeError):
        return None


def _content(value: JSON) -> JSON:
    match value:
        case str() if value.startswith(_JSON_TEXT):
            parts = parsed(value.removeprefix(_JSON_TEXT))
            return value if parts is None else _content(parts)
        case {"_multimodal": True, "content": list(parts)}:
            return parts
        case dict() if "type" not in value:
            return _chat.json_text(value)
        case int() | float():
            return str(value)
    return value


def _thoughts(message: dict[str, JSON]) -> Iterator[Event]:
    """Put the reasoning, from wherever it is, into `reasoning_content`, and take it out of the text.

    The fields repeat each other. One space for `reasoning_content` is what some providers want where there is none.
    """
    thought = _chat.reasoning(message) or _summaries(message.get("codex_reasoning_items"))
    inline = None
    if isinstance(text := message["content"], str):
        inline, message["content"] = _inline(text)
    if inline and inline.strip() and thought:
        if inline.strip() in thought:
            yield Skipped("reasoning: repeated in the text")
        else:
            thought += f"\n{inline}"
    thought = thought or (inline if inline and inline.strip() else None)
    items = dicts(message.get("codex_reasoning_items"))
    # What `reasoning_details` hide is counted with the message.
    if (
        thought is None
        and not message.get("reasoning_details")
        and any(item.get("encrypted_content") for item in items)
    ):
        yield Skipped("reasoning: encrypted")
    message["reasoning_content"] = thought


def _inline(text: str) -> tuple[str | None, str]:
    """Split reasoning in tags at the start of a text from what follows it."""
    start = text.lstrip()
    for tag in _INLINE if start.startswith("<") else ():
        if start.startswith(f"<{tag}>"):
            thought, rest = _chat.leading_think(
                start.replace(f"<{tag}>", "<think>", 1).replace(f"</{tag}>", "</think>", 1)
            )
            return (None, text) if thought is None else (thought, rest)
    return None, text


def _summaries(items: JSON) -> str | None:
    """What OpenAI's models show of their reasoning."""
    found = [part for item in dicts(items) for part in dicts(item.get("summary"))]
    return "\n\n".join(part["text"] for part in found if isinstance(part.get("text"), str) and part["text"]) or None


def _phase(message: dict[str, JSON]) -> str | None:
    phases = [item.get("phase") for item in dicts(message.get("codex_message_items"))]
    return phases[-1] if phases and phases[-1] in ("commentary", "final_answer") else None


def dicts(value: JSON) -> list[dict[str, JSON]]:
    """The objects of a list; none of what is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _instant(value: JSON) -> tuple[float, bool] | None:
    """Seconds since 1970, and whether the time is one without an offset (then as if it were UTC)."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
            return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp(), not moment.tzinfo
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e14:
        return None
    return (value / 1000 if value > 1e11 else float(value)), False


def _first(pair: tuple[float, str | float]) -> float:
    return pair[0]
