r"""Conversations as many programs exchange them: messages of the OpenAI APIs, ShareGPT, prompt and response.

    {"messages": [{"role": "user", "content": "Fix it"}, {"role": "assistant", "content": "Done."}], "tools": []}
    {"conversations": [{"from": "human", "value": "Fix it"}, {"from": "gpt", "value": "Done."}], "system": "Be brief."}
    {"prompt": "Fix it", "response": "Done."}
    {"session_id": "s1", "role": "user", "content": "Fix it"}

What is accepted, and nothing else (`?`: may be missing; `|`: or; `[x]`: a list of x):

    file      = JSON Lines of record, or one JSON value: record | [record]
    record    = messages | sharegpt | pair | alpaca | responses      one rollout each
              | message                                              one line of a rollout
    messages  = {"messages": [message | turn], beside}               also {"conversations": [message | turn], beside}
    message   = {"role": role, "content": text | [part] | null, "tool_calls"?, "tool_call_id"?, reasoning?, …}
    role      = system | developer | user | human | assistant | model | ai | tool | function
    turn      = {"from": speaker, "value": text}                     which is ShareGPT
    speaker   = human | user | gpt | assistant | chatgpt | bard | bing | model | system
              | function_call | tool_call                            value: JSON of {"name", "arguments"}, one or a list
              | observation | tool | function_response | tool_response     value: the result of the call before it
    pair      = {"prompt": side, "response" | "completion": side, reasoning?, beside}
    side      = text | message | [message]
    alpaca    = {"instruction": text, "input"?: text, "output": text, "history"?: [[text, text]], reasoning?, beside}
    responses = {"input": text | [item], "output": [item], "instructions"?: text, beside}
    item      = message | {"type": reasoning | function_call | custom_tool_call | …_output, …}
    reasoning = "reasoning_content" | "reasoning" | "thinking"
    beside    = {"system"?: text, "tools" | "functions"?: [schema] as list or as JSON text, …} and what is said below

Columns:

* `id`, `trace_id`, `session_id` or `conversation_id`, the first that is there, is the trace_id; a number stands behind
  the file's stem. Without one it is `<stem>:<n>`, n being the record's number from 0.
* `model`, `usage`, `reward` (a number) and `completed` (true or false) fill their columns. Other texts of up to 200
  characters, numbers and truth values, also those within `metadata`, go to `source_meta.extra`; what is larger is
  counted, and `source_meta.unused` names it. `parallel_tool_calls` and the `name` of a user are left out.
* Lines that are messages form one rollout for each `trace_id`, `session_id` or `conversation_id`, however they are
  mixed; those without form one together, named after the file. There `id` is the message's own, and of what stands
  beside it only `model` and `usage` are read.

Messages:

* `<think>…</think>` at the start of an assistant text is the reasoning, unless the message has some of its own.
* A `weight`, `train` or `loss` of 0 or false gives the message weight 0, reason `source` (or its `weight_reason`).
  `origin`, `phase`, `is_error`, `id` and `timestamp` are read as this package writes them.
* Older `function_call` and role `function`, Anthropic's blocks and their results within user messages are read
  (`_chat.py` has the parts). Results without an id answer the calls before them in order.
* In ShareGPT a call belongs to the `gpt` turn right before it, else it is an answer of its own.
* Alpaca's `input` is put on a line of its own behind the `instruction`, as its trainers do.

Pairs of a better and a worse answer (`preferred_output`, or `chosen` and `rejected`) are no conversation: counted.
Source of the rules: the OpenAI API reference and fine-tuning guide, the data formats of LLaMA-Factory, TRL and axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from agent_rollouts import jsontext
from agent_rollouts.events import JSON, At, End, Event, Facts, Skipped, Start, Used
from agent_rollouts.features import ORIGINS
from agent_rollouts.formats._chat import (
    ROLES,
    json_text,
    leading_think,
    message_events,
    reasoning,
    text_or_none,
    tools,
    usage,
)
from agent_rollouts.source import HEAD_BYTES, Head, Source

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bard", "bing", "model"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    "system": "system",
}
_REASONING = ("reasoning_content", "reasoning", "thinking")
_IDS = ("id", "trace_id", "session_id", "conversation_id")
_PAIRS = (("prompt", "response"), ("prompt", "completion"))
_MEDIA = ("images", "videos", "audios")
_READ = frozenset({"model", "tools", "functions", "usage", "system", "parallel_tool_calls", *_MEDIA})
_SHORT = 200


def claims(head: Head) -> bool:
    """Whether one of the first records is of a shape that the grammar has, and not a session of agentic-datagen."""
    records: list[JSON] = list(head.records)
    if _is_document(head.data):
        document = head.document
        records = document[: head.limit] if isinstance(document, list) else [document]
    is_cut = len(head.data) >= HEAD_BYTES and b"\n" not in head.data
    return any(isinstance(record, dict) and _is_ours(record, is_cut) for record in records)


def _is_ours(record: dict[str, JSON], is_cut: bool) -> bool:
    metadata = record.get("metadata")
    if isinstance(metadata, dict) and "messages" in record and {"turns", "tool_calls_count"} & set(metadata):
        return False
    # Roles of their own are another program's.
    said = record.get("messages")
    roles = [m["role"] for m in said if isinstance(m, dict) and "role" in m] if isinstance(said, list) else []
    if any(isinstance(role, str) and role not in ROLES for role in roles):
        return False
    # The first line may be longer than what is known of it: long tools or a long prompt come before the rest.
    return shape(record) is not None or (is_cut and _is_start(record))


def _is_start(record: dict[str, JSON]) -> bool:
    if not record.keys() <= {*_READ, *_IDS, "metadata", "prompt", "instruction"}:
        return False
    given = record.get("tools")
    offers = isinstance(given, list) and any(isinstance(t, dict) and isinstance(t.get("function"), dict) for t in given)
    return offers or bool(_side(record.get("prompt"), "user")) or isinstance(record.get("instruction"), str)


def shape(record: dict[str, JSON]) -> str | None:
    """Which of the grammar's records this is: the key of its messages or of its answer, `role` for a single message."""
    if "preferred_output" in record or {"chosen", "rejected"} <= record.keys():
        return None
    for key in ("messages", "conversations"):
        if isinstance(found := record.get(key), list) and any(_is_message(m) or _is_turn(m) for m in found):
            return key
    for ask, answer in _PAIRS:
        if _side(record.get(ask), "user") and _side(record.get(answer), "assistant"):
            return answer
    match record:
        case {"instruction": str(), "output": str()}:
            return "instruction"
        case {"input": list(asked), "output": list(said)} if any(map(_is_item, asked)) and any(map(_is_item, said)):
            return "output"
        case {"input": str(), "output": list(said)} if any(map(_is_item, said)):
            return "output"
    return "role" if _is_message(record) else None


def _is_message(value: JSON) -> bool:
    is_one = isinstance(value, dict) and isinstance(value.get("role"), str) and value["role"] in ROLES
    return is_one and not {"content", "tool_calls", "function_call", "tool_call_id"}.isdisjoint(value)


def _is_turn(value: JSON) -> bool:
    return isinstance(value, dict) and isinstance(value.get("from"), str) and "value" in value


def _is_item(value: JSON) -> bool:
    match value:
        case {"type": "function_call" | "custom_tool_call", "name": str()} | {"type": "reasoning", "summary": list()}:
            return True
        case {"type": "function_call_output" | "custom_tool_call_output", "output": _}:
            return True
    return _is_message(value)


def decode(source: Source) -> Iterator[Event]:
    """The events of a file: every conversation begins and ends; single messages may be mixed with those of others."""
    for number, record in enumerate(_records(source)):
        kind = shape(record) if isinstance(record, dict) else None
        if kind is None and isinstance(record, dict) and {"role", "content"} <= record.keys():
            kind = "role"  # an unknown one, which is counted as such
        if kind is None:
            is_pair = isinstance(record, dict) and not {"preferred_output", "chosen"}.isdisjoint(record)
            yield Skipped("record: a better and a worse answer" if is_pair else "record: no conversation")
        elif kind == "role":
            # A line's `id` is that of the message.
            name = next((name for key in _IDS[1:] if (name := _name(record.get(key), source.stem))), "")
            yield Start(name)
            values = {"trace_id": name or None, "model": record.get("model")}
            yield Facts(values)
            yield from _message(record, number)
            if used := usage(record.get("usage")):
                yield Used(number, used)
        else:
            # No name of a conversation that comes line by line has a NUL.
            yield Start(f"\0{number}")
            yield from _facts(record, kind, source.stem, number)
            yield from _conversation(record, kind)
            yield End()


def _records(source: Source) -> Iterator[JSON]:
    if _is_document(source.head.data):
        document = source.document()
        yield from document if isinstance(document, list) else [document]
        return
    for record in source.records():
        yield record if jsontext.is_exact(record) else source.exact()


def _is_document(data: bytes) -> bool:
    """Whether the file is one JSON value: a list, or an object on several lines."""
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    first, _, rest = text.partition(b"\n")
    is_list = text[:1] == b"["
    try:
        orjson.loads(first)
    except ValueError:
        # Behind a damaged line of JSON Lines comes another object.
        return is_list or (text[:1] == b"{" and rest.lstrip()[:1] not in (b"{", b""))
    return is_list and not rest.strip()


# -- what is known of a conversation -----------------------------------------------------------------


def _facts(record: dict[str, JSON], kind: str, stem: str, number: int) -> Iterator[Event]:
    named = next((key for key in _IDS if _name(record.get(key), stem)), None)
    name = _name(record[named], stem) if named else f"{stem}:{number}"
    values: dict[str, JSON] = {"trace_id": name, "model": record.get("model")}
    used: set[str | None] = {*_READ, *_own(record, kind), named}
    for key, types in (("completed", (bool,)), ("reward", (int, float))):
        if type(record.get(key)) in types and abs(record[key]) < 2**63:
            values[key] = record[key]
            used |= {key}
    yield from tools(record.get("functions") or record.get("tools"))
    for key in _MEDIA:
        if isinstance(beside := record.get(key), list) and beside:
            yield Skipped("media: beside the messages", count=len(beside))
    if counts := usage(record.get("usage")):
        yield Used("record", counts)
    extra, unused = _rest(record, used)
    if unused:
        yield Skipped("record: field not used", count=len(unused))
    yield Facts(values, {"extra": extra or None, "unused": unused or None})


def _own(record: dict[str, JSON], kind: str) -> set[str | None]:
    """The keys that hold the conversation itself."""
    if kind in ("messages", "conversations"):
        return {kind}
    spoken = {
        "instruction": {"instruction", "input", "output", "history"},
        "output": {"input", "output", "instructions"},
    }
    return {*spoken.get(kind, {"prompt", kind}), *(key for key in _REASONING if isinstance(record.get(key), str))}


def _rest(record: dict[str, JSON], used: set[str | None]) -> tuple[dict[str, JSON], list[str]]:
    """What is small of the fields that nothing else takes, and the names of the others."""
    extra: dict[str, JSON] = {}
    unused: list[str] = []
    for key, value in record.items():
        if key in used or value is None or value in ("", [], {}):
            continue
        if key == "metadata" and isinstance(value, dict) and used:  # one level deep
            extra[key], inner = _rest(value, set())
            unused += [f"metadata.{name}" for name in inner]
        elif isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= _SHORT):
            extra[key] = value
        else:
            unused.append(key)
    return extra, unused


def _name(value: JSON, stem: str) -> str | None:
    if type(value) is int:
        return f"{stem}:{value}"
    return text_or_none(value)


# -- the conversation --------------------------------------------------------------------------------


def _conversation(record: dict[str, JSON], kind: str) -> Iterator[Event]:
    messages = list(_messages(record, kind))
    yield from _system(record, messages)
    turn = 0
    before = None
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            yield Skipped("message: not an object")
            continue
        if _is_turn(message) and "role" not in message:
            speaker = _SPEAKERS.get(message["from"])
            # A call goes with the answer right before it.
            turn = turn if speaker == "call" and before in ("assistant", "call") else number
            yield from _turn(message, speaker, turn)
            before = speaker
        elif kind == "output":
            # One response is several items: what stands between two results or prompts is joined.
            yield from _item(message)
        else:
            turn, before = number, None
            yield from _message(message, turn)
            if isinstance(message.get("model"), str):
                yield Facts({"model": message["model"]})
            if "usage" not in record and (used := usage(message.get("usage"))):
                yield Used(turn, used)


def _messages(record: dict[str, JSON], kind: str) -> Iterator[JSON]:
    thought = {key: record[key] for key in _REASONING if isinstance(record.get(key), str)}
    if kind in ("messages", "conversations"):
        yield from record[kind]
    elif kind == "instruction":
        history = record.get("history")
        for asked in history if isinstance(history, list) else []:
            match asked:
                case [str(question), str(said)]:
                    yield {"role": "user", "content": question}
                    yield {"role": "assistant", "content": said}
                case _:
                    yield None
        asked, more = record["instruction"], record.get("input")
        yield {"role": "user", "content": f"{asked}\n{more}" if isinstance(more, str) and more else asked}
        yield {"role": "assistant", "content": record["output"], **thought}
    elif kind == "output":
        asked = record["input"]
        yield from [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        yield from record["output"]
    else:
        yield from _side(record["prompt"], "user")
        answer = _side(record[kind], "assistant")
        yield from [{**answer[0], **thought}] if isinstance(record[kind], str) else answer


def _side(value: JSON, role: str) -> list[JSON]:
    """The messages of a prompt or a response; none where it is neither text nor messages."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    found = value if isinstance(value, list) else [value]
    return found if any(map(_is_message, found)) else []


def _system(record: dict[str, JSON], messages: list[JSON]) -> Iterator[Event]:
    for key in ("system", "instructions"):
        if not record.get(key) or (key == "instructions" and "input" not in record):
            continue
        first = messages[0] if messages and isinstance(messages[0], dict) else {}
        if first.get("role", first.get("from")) == "system" and first.get("content", first.get("value")) == record[key]:
            yield Skipped("message: system prompt repeated")
        else:
            yield from message_events({"role": "system", "content": record[key]}, At())


def _message(message: dict[str, JSON], turn: int | None) -> Iterator[Event]:
    said = message.get("content")
    if isinstance(said, str) and ROLES.get(str(message.get("role"))) == "assistant" and not reasoning(message):
        thought, text = leading_think(said)
        message = {**message, "reasoning_content": thought, "content": text}
    yield from message_events(message, _at(message, turn))


def _at(message: dict[str, JSON], turn: int | None) -> At:
    origin, moment = message.get("origin"), message.get("timestamp")
    # Of a number beyond any calendar nothing can be told.
    is_number = isinstance(moment, (int, float)) and not isinstance(moment, bool) and 0 < moment < 1e15
    return At(
        id=text_or_none(message.get("id")),
        timestamp=moment if is_number else text_or_none(moment),
        turn=turn,
        origin=origin if isinstance(origin, str) and origin in ORIGINS else None,
        weight_reason=_reason(message),
        phase=text_or_none(message.get("phase")) if message.get("role") == "assistant" else None,
    )


def _reason(message: dict[str, JSON]) -> str | None:
    """Why the source does not want a message trained on, where it says so."""
    if any(type(message.get(key)) in (bool, int, float) and not message[key] for key in ("weight", "train", "loss")):
        return text_or_none(message.get("weight_reason")) or "source"
    return None


def _turn(turn: dict[str, JSON], speaker: str | None, number: int) -> Iterator[Event]:
    value = turn["value"]
    if speaker != "call":
        yield from _message({**turn, "role": speaker, "content": value}, number)
        return
    calls = jsontext.loads_exactly(value) if isinstance(value, str) else value
    calls = calls if isinstance(calls, list) else [calls]
    if calls and all(isinstance(call, dict) and (call.get("name") or call.get("function")) for call in calls):
        message = {**turn, "role": "assistant", "tool_calls": calls}
    else:
        yield Skipped("tool_call: kept as text")
        message = {**turn, "role": "assistant", "content": value if isinstance(value, str) else json_text(value)}
    yield from message_events(message, _at(message, number))


def _item(item: dict[str, JSON]) -> Iterator[Event]:
    """An item of the Responses API, as the message or the part of one that it is."""
    message: dict[str, JSON]
    match item:
        case {"type": "reasoning"}:
            message = {"role": "assistant", "content": [item]}
        case {"type": "function_call"}:
            call = {"id": item.get("call_id"), "function": item}
            message = {"role": "assistant", "tool_calls": [call]}
        case {"type": "custom_tool_call"}:
            call = {"id": item.get("call_id"), "custom": item}
            message = {"role": "assistant", "tool_calls": [call]}
        case {"type": "function_call_output" | "custom_tool_call_output"}:
            message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
        case {"role": _} | {"content": _}:
            message = {**item, "id": None}
        case {"type": str(kind)} if kind.endswith("_call"):
            yield Skipped("tool_call: of a tool that runs at the provider")
            return
        case _:
            yield Skipped("record: unknown item")
            return
    yield from _message(message, None)
