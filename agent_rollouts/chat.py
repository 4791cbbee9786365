"""From rows to training: messages that chat templates accept (`to_chat`), numbers as they are stored (`exact`).

Every rule of `to_chat` is there because one of the 72 chat templates that ship with trl 1.16 fails without it, or
loses text without a word; `tests/test_training.py` renders them all. A rule that costs nothing is always applied;
one that costs something is an option, and `TEMPLATE_OPTIONS` says which template needs it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import orjson
from datasets import Dataset, Features, IterableDataset, Json, LargeList, List
from datasets.fingerprint import update_fingerprint

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.features import ROLES
from agent_rollouts.jsontext import exact_text, is_exact, tolerant

Message: TypeAlias = dict[str, JSON]
AnyDataset = TypeVar("AnyDataset")

CHOICES = {
    "first_system": ("keep", "user"),
    "later_system": ("user", "front", "drop"),
    "calls": ("structured", "text"),
    "unanswered": ("keep", "drop"),
    "reasoning": ("keep", "join", "inline", "drop"),
    "control_tokens": ("keep", "escape"),
}
"""What the options of `to_chat` that are a choice of words may be; the first is the default."""

# Inside `to_chat`: the indices of the messages that one was made of.
_MADE_OF = "made_of"

_WRITTEN_CALLS: dict[str, JSON] = {"calls": "text"}
_ONLY_PARTS: dict[str, JSON] = {"calls": "text", "media": ()}

TEMPLATE_OPTIONS: dict[str, dict[str, JSON]] = {
    "cohere": _WRITTEN_CALLS,  # roles must alternate, no tool role
    "cohere2": _WRITTEN_CALLS,
    "deepseek_r1_distill": _WRITTEN_CALLS,  # drops calls
    "deepseekv3": _WRITTEN_CALLS,  # the original wants arguments as JSON text, its training twin takes objects
    "deepseekv3_training": _WRITTEN_CALLS,  # it takes objects, but loses the text before a second turn's calls
    "gemma": {"calls": "text", "first_system": "user"},  # roles must alternate, no tool and no system role
    "gemma3": _WRITTEN_CALLS,
    "gptoss": {"parallel_calls": False, "reasoning": "join"},  # drops all calls but one; one text beside a call
    "idefics3": _ONLY_PARTS,  # drops content that is not a list of parts, and calls
    "lfm2": _WRITTEN_CALLS,  # drops calls; lfm2_v2 does not
    "llama3": _WRITTEN_CALLS,  # drops calls
    "llama3_1": {"parallel_calls": False},  # refuses parallel calls
    "llama3_2": {"parallel_calls": False},
    "llava_next": _ONLY_PARTS,
    "phi3": _WRITTEN_CALLS,  # drops calls and results
    "phi3_5": _WRITTEN_CALLS,
    "qwen2_5_vl": _WRITTEN_CALLS,  # drops calls
    "smolvlm": _ONLY_PARTS,
}
"""Options of `to_chat` by template, named as trl's files are; a `_training` twin has its original's options unless
it is listed itself, and templates that are not listed need none. Where `media` is given, put the row's in its place."""


def to_chat(
    messages: Iterable[Mapping[str, JSON]],
    *,
    first_system: str = "keep",
    later_system: str = "user",
    calls: str = "structured",
    parallel_calls: bool = True,
    unanswered: str = "keep",
    reasoning: str = "keep",
    control_tokens: str = "keep",
    weights: bool = True,
    media: Sequence[Mapping[str, JSON]] | None = None,
    sources: list[tuple[int, ...]] | None = None,
) -> list[Message]:
    """Messages of a row as chat templates accept them; the input is left as it is.

    Always: only `role`, `content`, `reasoning_content`, `tool_calls`, `tool_call_id`, `name` and `weight` are
    left of a message. Leading system messages become one, joined by an empty line. `arguments` is an object:
    text that is none (or would change by becoming one) is `{"input": text}`, the form in which decoders give
    custom tools' raw input, so that the model's words stay whole. A null inside arguments stays, being what the
    model wrote; `qwen3_5`, `nemotron_3`, `lfm2_*` and `gemma4` (before v5) render it as Python's `None`. A tool
    result without its call stays.

    Args:
        messages: of one row, in order.
        first_system: `keep`, or `user` where the template has no system role.
        later_system: what becomes of system messages behind the first turn: qwen3.5 and later, gemma and cohere
            refuse them, gpt-oss and qwen3_vl drop them. `user`: a user turn in `<system>` tags, in its place, so
            that every answer is still conditioned on what the model had seen by then. `front` moves the text into
            the first system message, `drop` leaves it out: earlier or later answers then follow from another
            context than the model's.
        calls: `text` writes calls and results into the turns, as Hermes does (`<tool_call>` with a JSON object,
            `<tool_response>` in a user turn), and joins neighbours of one role: for templates without tools, or
            in which roles must alternate. The schemas of `tools` are then the caller's to tell the model.
        parallel_calls: False gives each call a message of its own, its result behind it; text and reasoning stay
            with the first. Later calls of a response then follow results that the model had not seen.
        unanswered: `drop` removes calls without a result, and the message if nothing else is in it.
        reasoning: `join` puts the text of a message with calls behind its reasoning (gpt-oss renders either as
            analysis, and refuses both); `inline` puts the reasoning into the text in `<think>` tags; `drop`.
        control_tokens: `escape` applies `escape_control_tokens` to what the model reads (system, user and tool
            text). What it wrote is the target and stays: leave such rows out, or weigh them 0.
        weights: whether `weight` 0 stays. Templates ignore it, and so does TRL.
        media: the row's media, for vision models. Every content becomes a list of parts: the message's images,
            each `{"type": "image", "image": {"bytes": ..., "path": ...}}`, then one text part. Documents, sounds
            and images without bytes or path are left out.
        sources: takes, for each message that is returned, the indices of those that it was made of.

    Raises:
        AgentRolloutsError: no user turn (qwen3.5 and later refuse that, and there is no prompt to learn from), an
            unknown role, content that is not text, or an unknown option.
    """
    given = {
        "first_system": first_system,
        "later_system": later_system,
        "calls": calls,
        "unanswered": unanswered,
        "reasoning": reasoning,
        "control_tokens": control_tokens,
    }
    for option, value in given.items():
        if value not in CHOICES[option]:
            raise AgentRolloutsError(f"unknown {option} {value!r}; known: {', '.join(CHOICES[option])}")
    chat = [_plain(message, weights) | {_MADE_OF: (index,)} for index, message in enumerate(messages)]
    if control_tokens == "escape":
        chat = [_escaped(message) for message in chat]
    chat = _with_system_placed(chat, first_system, later_system)
    if unanswered == "drop":
        chat = without_unanswered(chat)
    if not parallel_calls:
        chat = _one_by_one(chat)
    if reasoning != "keep":
        chat = [_with_reasoning(message, reasoning) for message in chat]
    if calls == "text":
        chat = _written(chat)
    if not any(message["role"] == "user" for message in chat):
        raise AgentRolloutsError(f"no user turn in {len(chat)} messages: leave such rows out before to_chat")
    made_of = [message.pop(_MADE_OF) for message in chat]
    if sources is not None:
        sources += made_of
    return [_with_parts(message, media) for message in chat]


def _plain(message: Mapping[str, JSON], weights: bool) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise AgentRolloutsError(f"unknown role {role!r}; known: {', '.join(ROLES)}")
    if not isinstance(content, str | None):
        raise AgentRolloutsError(f"content of a {role} message is a {type(content).__name__}; a row's is text")
    # Absent content fails on deepseekv3; "" is safe everywhere.
    plain: Message = {"role": role, "content": content or ""}
    if role == "assistant":
        if message.get("reasoning_content"):
            plain["reasoning_content"] = message["reasoning_content"]
        if message.get("tool_calls"):
            plain["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    if role == "tool":
        plain |= {key: message[key] for key in ("tool_call_id", "name") if message.get(key) is not None}
    if weights and message.get("weight") == 0:
        plain["weight"] = 0
    if message.get("media"):
        plain["media"] = message["media"]
    return plain


def _call(call: Mapping[str, JSON]) -> Message:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    # Arguments as text fail on qwen3.5 and later, glm4moe, nemotron 3, lfm2, gemma4 and muse.
    function = {"name": name, "arguments": arguments if isinstance(arguments, dict) else {"input": arguments}}
    return {"id": call["id"], "type": "function", "function": function}


def _with_system_placed(chat: list[Message], first: str, later: str) -> list[Message]:
    leading = next((i for i, message in enumerate(chat) if message["role"] != "system"), len(chat))
    front, rest = chat[:leading], chat[leading:]
    if later == "front":
        front += [message for message in rest if message["role"] == "system"]
    if later != "user":
        rest = [message for message in rest if message["role"] != "system"]
    front = _joined(front)
    if first == "user":
        rest = front + rest
        front = []
    return front + [_as_user(message) if message["role"] == "system" else message for message in rest]


def _as_user(system: Message) -> Message:
    return {**system, "role": "user", "content": f"<system>\n{system['content']}\n</system>"}


def _joined(chat: Iterable[Message]) -> list[Message]:
    """Neighbours of one role as one message: texts and reasoning parted by an empty line, weight 0 if any is."""
    joined: list[Message] = []
    for message in chat:
        if not joined or joined[-1]["role"] != message["role"]:
            joined.append(dict(message))
            continue
        last = joined[-1]
        for key in ("content", "reasoning_content"):
            if text := "\n\n".join(filter(None, (last.get(key), message.get(key)))):
                last[key] = text
        if "media" in message:
            last["media"] = [*last.get("media", ()), *message["media"]]
        last[_MADE_OF] += message[_MADE_OF]
        if "weight" in message:
            last["weight"] = 0
    return joined


def _results(chat: Sequence[Message], index: int) -> list[Message]:
    """The tool messages directly behind message `index`; rows have a call's results nowhere else."""
    end = index + 1
    while end < len(chat) and chat[end]["role"] == "tool":
        end += 1
    return list(chat[index + 1 : end])


def without_unanswered(chat: Sequence[Message]) -> list[Message]:
    """Messages without the calls that no result behind them answers, and without those of which nothing is left."""
    kept: list[Message] = []
    for index, message in enumerate(chat):
        if "tool_calls" in message:
            answered = {result.get("tool_call_id") for result in _results(chat, index)}
            calls = [call for call in message["tool_calls"] if call["id"] in answered]
            message = {key: value for key, value in message.items() if key != "tool_calls"}
            if calls:
                message["tool_calls"] = calls
            elif not (message["content"] or message.get("reasoning_content") or message.get("media")):
                continue
        kept.append(message)
    return kept


def _one_by_one(chat: list[Message]) -> list[Message]:
    split: list[Message] = []
    index = 0
    while index < len(chat):
        message = chat[index]
        index += 1
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            split.append(message)
            continue
        results = _results(chat, index - 1)
        index += len(results)
        for number, call in enumerate(calls):
            shared = {key: message[key] for key in ("weight", _MADE_OF) if key in message}
            bare: Message = {"role": "assistant", "content": "", **shared}
            split.append({**(bare if number else message), "tool_calls": [call]})
            split += [result for result in results if result.get("tool_call_id") == call["id"]]
        known = {call["id"] for call in calls}
        split += [result for result in results if result.get("tool_call_id") not in known]
    return split


def _with_reasoning(message: Message, reasoning: str) -> Message:
    if "reasoning_content" not in message:
        return message
    if reasoning == "join":
        if not (message["content"] and "tool_calls" in message):
            return message
        thought = f"{message['reasoning_content']}\n\n{message['content']}"
        return {**message, "content": "", "reasoning_content": thought}
    message = dict(message)
    thought = message.pop("reasoning_content")
    if reasoning == "inline":
        message["content"] = f"<think>\n{thought}\n</think>\n\n{message['content']}"
    return message


def _written(chat: list[Message]) -> list[Message]:
    """Calls and results as text of assistant and user turns, which then alternate."""
    turns: list[Message] = []
    for message in chat:
        turn = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id", "name")}
        if message["role"] == "tool":
            turn |= {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
        lines = [f"<tool_call>\n{exact_text(call['function'])}\n</tool_call>" for call in message.get("tool_calls", ())]
        if lines:
            turn["content"] = "\n".join(filter(None, [message["content"], *lines]))
        turns.append(turn)
    return _joined(turns)


def _with_parts(message: Message, media: Sequence[Mapping[str, JSON]] | None) -> Message:
    indices = message.get("media", ())
    message = {key: value for key, value in message.items() if key != "media"}
    if media is None:
        return message
    shown = [media[index] for index in indices if index < len(media) and media[index].get("type") == "image"]
    images = [{"bytes": image.get("bytes"), "path": image.get("path")} for image in shown]
    parts: list[Message] = [{"type": "image", "image": image} for image in images if any(image.values())]
    # Always a text part, for templates that read `content[0]["text"]` (llava_next).
    return {**message, "content": [*parts, {"type": "text", "text": message["content"]}]}


# What tokenizers of the families above turn into one token wherever it stands in the text, so that a file which
# an agent reads can end a turn or open one. Words like <tools> or <function=...> are plain text to all of them.
_CONTROL_TOKEN = re.compile(
    r"<\|[^<>|\s]{1,64}\|?>"  # <|im_start|>, gemma4's <|turn>
    r"|<[A-Za-z_]{1,32}\|>"  # gemma4's <turn|>
    r"|<\uff5c[^<>\uff5c\s]{1,64}\uff5c>"  # deepseek's, with full-width bars
    r"|</?(?:think|tool_call|tool_response|arg_key|arg_value)>"
    r"|<(?:start_of_turn|end_of_turn|start_of_image|end_of_image|end_of_utterance|image|audio|video)>"
    r"|</?s>|<(?:bos|eos|pad|unk|mask|sop|eop)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK)\]"
    r"|\[(?:IMG|IMG_BREAK|IMG_END|ARGS|CALL_ID|gMASK)\]"
    r"|<</?SYS>>"
)


def control_tokens(text: str) -> list[str]:
    """Control tokens of known model families that stand in `text` as words, in order, one per occurrence."""
    return _CONTROL_TOKEN.findall(text)


def escape_control_tokens(text: str) -> str:
    r"""`text` with a backslash behind the first character of each control token: `<|im_end|>` is `<\|im_end|>`.

    The mark is plain to see and of ASCII. Afterwards `control_tokens` finds nothing; text that held the escaped
    form before can no longer be told apart.
    """
    while _CONTROL_TOKEN.search(text):  # a token may hold another: <|[INST]|>
        text = _CONTROL_TOKEN.sub(lambda found: f"{found[0][0]}\\{found[0][1:]}", text)
    return text


def _escaped(message: Message) -> Message:
    if message["role"] == "assistant":
        return message
    return {**message, "content": escape_control_tokens(message["content"])}


class ExactJson(Json):  # type: ignore[misc]  # datasets has no types
    """`datasets.Json`, read and written by orjson.

    pandas' ujson, which `Json` uses, reads 0.7 as 0.7000000000000001 and 5e-324 as 0.0, writes ten digits, and
    fails on integers beyond 64 bits. Stored, it is a `Json` column like any other.
    """

    def encode_example(self, example_data: JSON) -> str | None:
        """The JSON text of a value; text that is JSON already is taken as it is, as `Json` does."""
        if example_data is None:
            return None
        if isinstance(example_data, str):
            try:
                _loads(example_data)
            except ValueError:
                return orjson.dumps(example_data).decode()
            return example_data
        try:
            return orjson.dumps(example_data).decode()
        except TypeError:
            return exact_text(example_data)

    def decode_example(self, example_data: str | None, token_per_repo_id: JSON = None) -> JSON:
        """The value of stored JSON text."""
        return None if example_data is None else _loads(example_data)

    # The same type with another reader: splits of both kinds can be concatenated.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Json) and bool(other.decode == self.decode)

    __hash__ = None  # type: ignore[assignment]  # mutable, as Json is


def _loads(text: str) -> JSON:
    try:
        value = orjson.loads(text)
    except ValueError:
        return tolerant(text)[0]
    # orjson reads an integer beyond 64 bits as a float.
    return value if is_exact(value) else json.loads(text)


def exact(dataset: AnyDataset) -> AnyDataset:
    """The dataset with its `Json()` columns decoded exactly: 0.7 is 0.7.

    Nothing is copied, cast or cached: only `features` change, so it works for `Dataset` and `IterableDataset`
    (and dicts of them), and `SFTTrainer` takes it, which it does not a dataset with a transform. For an
    `IterableDataset` over Python objects call it before `map` and `filter`, which decode.

    A `Dataset.map` whose function reads a `Json()` column writes that column anew with ujson, in ten digits;
    hand it back as `orjson` text to keep it exact.

    Raises:
        AgentRolloutsError: the stream has already been decoded, or its features are unknown.
    """
    if isinstance(dataset, dict):
        splits: AnyDataset = type(dataset)({name: exact(split) for name, split in dataset.items()})
        return splits
    result: Any = copy.copy(dataset)
    if isinstance(dataset, IterableDataset):
        examples = dataset._ex_iterable
        if dataset.features is None or (examples.is_typed and not examples.iter_arrow):
            raise AgentRolloutsError("exact() must come before map() and filter() of a streamed dataset")
    features: Features = result.features
    result._info = result.info.copy()
    result._info.features = Features({name: _exact_feature(feature) for name, feature in features.items()})
    if isinstance(dataset, Dataset):
        # Without a fingerprint of its own, map() would give back what it cached for the inexact numbers.
        result._fingerprint = update_fingerprint(dataset._fingerprint, ExactJson.__qualname__, {})
    exact_dataset: AnyDataset = result
    return exact_dataset


def _exact_feature(feature: Any) -> Any:
    if isinstance(feature, Json):
        return ExactJson() if feature.decode else feature
    if isinstance(feature, dict):
        return {name: _exact_feature(inner) for name, inner in feature.items()}
    if isinstance(feature, List):
        return List(_exact_feature(feature.feature), length=feature.length)
    if isinstance(feature, LargeList):
        return LargeList(_exact_feature(feature.feature))
    return feature
