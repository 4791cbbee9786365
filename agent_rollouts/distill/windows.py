"""Windows: rows that are longer than a budget of tokens become several, each of which can be trained on.

A row that fits stays as it is. Of one that does not, first what tools printed is shortened: an output keeps head
and tail, and `[… 9,000 of 12,000 characters cut …]` stands where the middle was. What then still does not fit is
cut between steps. A step is an assistant message with the results of its calls; what was said before it (prompts,
reminders) goes with it; a call and its result are never parted. Every window has

* the system prompt and the task: the first prompt of the row, or the summary or other agent's message that gives
  one. All that stands before the first step is kept where it takes a quarter of the budget at most.
* the last steps before its own, as many as `overlap_steps`, where they take a quarter of the budget at most.
* its own steps, as many as there is room for.

The first two have weight 0 (`copied_context`) wherever an earlier window owns them, so that a turn is trained on
in one window. No window is made of steps that train nothing. What is in no window is counted with its reason:
`Windows` accounts for every message and every trained turn.

Rows need `messages`, and `tools` where schemas are to be counted; `media`, `owned_from`, `message_count`,
`tool_call_count` and `final_assistant_message` are kept true where they are there, and places of evidence are those in
the window's own messages, null where it has not the message. All other columns (usage, outcome, reward) speak of the
whole rollout. Pictures are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import orjson

from agent_rollouts.chat import Message, to_chat
from agent_rollouts.distill.evidence import moved
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.features import PROMPT_ORIGINS
from agent_rollouts.jsontext import exact_text
from agent_rollouts.transcript import mark_copied

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row: TypeAlias = dict[str, Any]

COLUMNS = {
    "window": "number of the window in its rollout, from 0",
    "windows": "how many windows the rollout has",
    "window_from": "index in the rollout's messages of the first that is the window's own",
    "token_count": "tokens of the row",
    "token_count_is_estimate": "whether they were estimated from bytes",
}

TOO_LARGE = "a step is larger than the budget"
NO_ROOM = "system prompt, tools and task leave no room in the budget"
NOTHING_TO_TRAIN = "nothing near it to train on"

BYTES_PER_TOKEN = 4
"""For an estimate without a tokenizer; code and English lie between 3 and 4.5."""

# What a chat template writes around a message and around a call: between 4 and 12, and between 8 and 16, for
# trl's templates.
_AROUND_MESSAGE, _AROUND_CALL = 10, 14
# Less of an output says nothing.
_LEAST = 32
_PRINTED = frozenset({"command_output", "bash", "hook", "attachment", "notification"})
_TASKS = PROMPT_ORIGINS | {"summary", "agent_message"}
_CUT = "\n[… {cut:,} of {all:,} characters cut …]\n"


class Tokens:
    """How many tokens messages take: `Tokens.estimate()`, or `Tokens.of(tokenizer)`."""

    is_estimate = True

    @classmethod
    def estimate(cls) -> Tokens:
        """A quarter of the bytes."""
        return cls()

    @classmethod
    def of(
        cls,
        tokenizer: str | PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, JSON] | None = None,
        **options: JSON,
    ) -> Tokens:
        """As a tokenizer's chat template renders them; the same as `labels.tokenize` with the same arguments.

        Args:
            tokenizer: of transformers, or its name on the Hub, or its folder.
            chat_template: taken as it is; otherwise see `labels.training_template`.
            options: of `to_chat`.

        Raises:
            AgentRolloutsError: transformers is not installed, or the tokenizer has no chat template.
        """
        return _Rendered(tokenizer, chat_template, template_kwargs or {}, options)

    def each(self, messages: Sequence[Mapping[str, JSON]]) -> list[int]:
        """About what each message adds; together rather more than less of what they take."""
        sizes = self.texts([_words(message) for message in messages])
        calls = [len(message.get("tool_calls", ())) for message in messages]
        return [size + _AROUND_MESSAGE + _AROUND_CALL * n for size, n in zip(sizes, calls, strict=True)]

    def texts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text."""
        return [-(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN) for text in texts]

    def schemas(self, tools: Sequence[Mapping[str, JSON]] | None) -> int:
        """About what function schemas add."""
        return self.texts([_json(list(tools))])[0] if tools else 0

    def whole(self, messages: Sequence[Mapping[str, JSON]], tools: Sequence[Mapping[str, JSON]] | None) -> int:
        """What a conversation takes."""
        return self.schemas(tools) + sum(self.each(messages))


class _Rendered(Tokens):
    is_estimate = False

    def __init__(
        self,
        tokenizer: str | PreTrainedTokenizerBase,
        chat_template: str | None,
        template_kwargs: Mapping[str, JSON],
        options: Mapping[str, JSON],
    ) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise AgentRolloutsError(
                "counting with a tokenizer needs transformers: pip install transformers"
            ) from error
        from agent_rollouts.distill.labels import Template, training_template

        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.tokenizer: Any = tokenizer
        self.template = Template(tokenizer, chat_template or training_template(tokenizer), template_kwargs)
        self.options = dict(options)

    def texts(self, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        # transformers warns of texts that are longer than the model's context.
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def schemas(self, tools: Sequence[Mapping[str, JSON]] | None) -> int:
        ask = [{"role": "user", "content": "x"}]
        return self.whole(ask, tools) - self.whole(ask, None) if tools else 0

    def whole(self, messages: Sequence[Mapping[str, JSON]], tools: Sequence[Mapping[str, JSON]] | None) -> int:
        chat = to_chat(messages, weights=False, **self.options)
        texts, _ = self.template.render([chat], tools)
        return self.texts(texts)[0]


class Windows(NamedTuple):
    """The windows of a row, and what is in none of them.

    Attributes:
        indices: for each window, which of the row's messages its messages are.
        first: for each window, those of them that no earlier window shows.
        removed: why a message is in no window, by its index.
        removed_turns: reason to number of those of them that were to be trained on.
        shortened: number of messages that were shortened.
    """

    rows: list[Row]
    indices: list[list[int]]
    first: list[frozenset[int]]
    removed: dict[int, str]
    removed_turns: Counter[str]
    shortened: int = 0

    @property
    def removed_messages(self) -> Counter[str]:
        """Reason to number of messages that are in no window."""
        return Counter(self.removed.values())


def counted(row: Mapping[str, Any], tokens: Tokens) -> Row:
    """The row as a window of its own, whatever its size, with the columns of `COLUMNS`.

    Raises:
        AgentRolloutsError: its messages cannot be rendered.
    """
    size = tokens.whole(row["messages"], row.get("tools"))
    return {
        **row,
        "window": 0,
        "windows": 1,
        "window_from": 0,
        "token_count": size,
        "token_count_is_estimate": tokens.is_estimate,
    }


def windows(
    row: Mapping[str, Any], max_tokens: int, tokens: Tokens, *, overlap_steps: int = 4, shorten: int | None = None
) -> Windows:
    """The windows of a row, none larger than `max_tokens`, in order; the row itself where it fits.

    The columns of `COLUMNS` are added; `trace_id` stays.

    Args:
        overlap_steps: how many steps before its own a window shows at most.
        shorten: tokens that an output keeps at least in a row that does not fit; an eighth of the budget otherwise.
            One of a step that alone is larger than the budget keeps less.

    Raises:
        AgentRolloutsError: `max_tokens` is not positive, or messages cannot be rendered (such as those without a
            user turn).
    """
    if max_tokens < 1:
        raise AgentRolloutsError(f"max_tokens is {max_tokens}; it must be positive")
    return _Cutting(row, max_tokens, tokens, overlap_steps, max(shorten or max_tokens // 8, _LEAST)).windows()


@dataclass(slots=True)
class _Step:
    """Messages that stay together."""

    indices: list[int]
    size: int
    is_trained: bool


class _Window(NamedTuple):
    """Indices of messages: pinned, shown before its own, its own."""

    pinned: list[int]
    context: list[int]
    own: list[int]

    @property
    def indices(self) -> list[int]:
        return sorted([*self.pinned, *self.context, *self.own])


class _Cutting:
    """A row at work: `messages` are those of the row, of which outputs are shortened on the way."""

    def __init__(self, row: Mapping[str, Any], max_tokens: int, tokens: Tokens, overlap: int, shorten: int) -> None:
        self.row, self.max_tokens, self.tokens, self.overlap, self.shorten = row, max_tokens, tokens, overlap, shorten
        self.messages: list[Message] = list(row["messages"])
        self.tools = row.get("tools")
        self.sizes = tokens.each(self.messages)
        self.schemas = tokens.schemas(self.tools)

    def windows(self) -> Windows:
        every = _Window([], [], list(range(len(self.messages))))
        size = self.if_it_fits(every)
        if size is None:
            printed = [index for index in every.own if self.is_printed(index)]
            self.cut_outputs({index: self.shorten for index in printed if self.sizes[index] > self.shorten})
            size = self.if_it_fits(every)
        if size is not None:
            return self.result([(every, size)], {})
        return self.result(*self.between_steps())

    def if_it_fits(self, window: _Window) -> int | None:
        # What is far beyond the budget need not be rendered.
        if self.about(window) > 4 * self.max_tokens:
            return None
        size = self.exact(window)
        return size if size <= self.max_tokens else None

    def exact(self, window: _Window) -> int:
        return self.tokens.whole([self.messages[index] for index in window.indices], self.tools)

    def about(self, window: _Window) -> int:
        return self.schemas + sum(self.sizes[index] for part in window for index in part)

    # -- cutting ---------------------------------------------------------------------------------------

    def between_steps(self) -> tuple[list[tuple[_Window, int]], dict[int, str]]:
        """Windows with their sizes, and why messages are in none of them."""
        pinned, steps = self.pinned_and_steps()
        made: list[tuple[_Window, int]] = []
        why: dict[int, str] = {}
        scale = 1.0
        at = 0
        while at < len(steps):
            limit = int(self.max_tokens * scale)
            end = at
            while steps[at].is_trained:
                taken = self.taken(pinned, steps, at, why, limit)
                if taken is None:
                    # A template may leave out what was counted, such as earlier reasoning.
                    alone = _Window(pinned, [], steps[at].indices)
                    if (size := self.if_it_fits(alone)) is not None:
                        made.append((alone, size))
                        break
                    room = limit - self.about(_Window(pinned, [], []))
                    if self.squeeze(steps[at], room):
                        continue
                    why |= dict.fromkeys(steps[at].indices, TOO_LARGE if room >= _LEAST else NO_ROOM)
                    break
                window, end = taken
                size = self.exact(window)
                if size <= self.max_tokens:
                    made.append((window, size))
                    scale = min(self.about(window) / size, 2.0)
                    break
                limit = min(limit - 1, limit * self.max_tokens // size)
                end = at
            at = max(end, at + 1)
        if why and not made:
            why |= dict.fromkeys(pinned, next(iter(why.values())))
        return made, why

    def taken(
        self, pinned: list[int], steps: list[_Step], at: int, why: Mapping[int, str], limit: int
    ) -> tuple[_Window, int] | None:
        """The window whose own steps begin with `at`, and where they end; None where there is no room for one."""
        room = limit - self.about(_Window(pinned, [], []))
        begin, shown = at, 0
        while begin and at - begin < self.overlap and steps[begin - 1].indices[0] not in why:
            shown += steps[begin - 1].size
            if shown > room // 4 or shown + steps[at].size > room:
                break
            begin -= 1
        left = room - sum(step.size for step in steps[begin:at])
        end = at
        while end < len(steps) and steps[end].size <= left:
            left -= steps[end].size
            end += 1
        if end == at:
            return None
        context, own = ([i for step in part for i in step.indices] for part in (steps[begin:at], steps[at:end]))
        return _Window(pinned, context, own), end

    def pinned_and_steps(self) -> tuple[list[int], list[_Step]]:
        """The messages that every window shows, and the others as steps."""
        messages = self.messages
        first = next((i for i, m in enumerate(messages) if m["role"] in ("assistant", "tool")), len(messages))
        users = [index for index, message in enumerate(messages) if message["role"] == "user"]
        task = next((index for index in users if messages[index].get("origin") in _TASKS), users[0] if users else 0)
        pinned = list(range(first))
        if task >= first or sum(self.sizes[:first]) > self.max_tokens // 4:
            pinned = [index for index in pinned if messages[index]["role"] == "system"]
            pinned += [task] if users else []
        last = {
            message.get("tool_call_id"): index for index, message in enumerate(messages) if message["role"] == "tool"
        }
        parts: list[list[int]] = [[]]
        reach, is_answered = task, False  # what comes before the task is one step with it
        for index, message in enumerate(messages):
            if is_answered and index > reach and message["role"] != "tool":
                parts.append([])
                is_answered = False
            if message["role"] == "assistant":
                is_answered = True
                reach = max(reach, *(last.get(call["id"], 0) for call in message.get("tool_calls", ())), 0)
            parts[-1].append(index)
        everywhere = set(pinned)
        parts = [[index for index in part if index not in everywhere] for part in parts]
        return pinned, [
            _Step(part, sum(self.sizes[i] for i in part), any(_is_trained(messages[i]) for i in part))
            for part in parts
            if part
        ]

    # -- shortening ------------------------------------------------------------------------------------

    def is_printed(self, index: int) -> bool:
        message = self.messages[index]
        return message["role"] == "tool" or message.get("origin") in _PRINTED

    def squeeze(self, step: _Step, room: int) -> bool:
        """Shorten what was printed in a step until it fits; whether it does."""
        printed = sorted((i for i in step.indices if self.is_printed(i)), key=lambda index: self.sizes[index])
        left = room - (step.size - sum(self.sizes[index] for index in printed))
        keep = {}
        for number, index in enumerate(printed):
            # Small ones stay whole, and leave what they do not take to the others.
            share = left // (len(printed) - number)
            if self.sizes[index] > share:
                if share < _LEAST:
                    return False
                keep[index] = share
            left -= min(share, self.sizes[index])
        self.cut_outputs(keep)
        step.size = sum(self.sizes[index] for index in step.indices)
        return bool(keep) and step.size <= room

    def cut_outputs(self, keep: Mapping[int, int]) -> None:
        """Shorten messages to so many tokens each, which their sizes then say."""
        whole: dict[int, str] = {index: self.row["messages"][index]["content"] for index in keep}
        letters = {index: len(self.messages[index]["content"]) * n // self.sizes[index] for index, n in keep.items()}
        for _ in range(8):
            short = {i: {**self.messages[i], "content": shortened(whole[i], letters[i])} for i in letters}
            sizes = dict(zip(short, self.tokens.each(list(short.values())), strict=True))
            for index, message in short.items():
                self.messages[index], self.sizes[index] = message, sizes[index]
            # What stands at the ends may hold more tokens a letter than the middle.
            letters = {
                i: letters[i] * keep[i] // sizes[i] * 9 // 10 for i in letters if sizes[i] > keep[i] and letters[i]
            }
            if not letters:
                break

    # -- rows ------------------------------------------------------------------------------------------

    def result(self, made: list[tuple[_Window, int]], why: Mapping[int, str]) -> Windows:
        shown = {index for window, _ in made for index in window.indices}
        lost = [index for index in range(len(self.messages)) if index not in shown]
        removed = {index: why.get(index, NOTHING_TO_TRAIN) for index in lost}
        return Windows(
            rows=[self.window_row(number, len(made), window, size) for number, (window, size) in enumerate(made)],
            indices=[window.indices for window, _ in made],
            first=_first_shown(window.indices for window, _ in made),
            removed=removed,
            removed_turns=Counter(why for index, why in removed.items() if _is_trained(self.messages[index])),
            shortened=sum(self.messages[i]["content"] != self.row["messages"][i]["content"] for i in shown),
        )

    def window_row(self, number: int, count: int, window: _Window, size: int) -> Row:
        row = self.row
        own = sorted([*window.own, *([] if number else window.pinned)])
        copied = set(window.indices) - set(own)
        messages = [_copied(self.messages[i]) if i in copied else self.messages[i] for i in window.indices]
        found = {
            **row,
            "messages": messages,
            "window": number,
            "windows": count,
            "window_from": own[0] if own else 0,
            "token_count": size,
            "token_count_is_estimate": self.tokens.is_estimate,
        }
        if row.get("owned_from") is not None:
            owned = [place for place, i in enumerate(window.indices) if i not in copied and i >= row["owned_from"]]
            found["owned_from"] = owned[0] if owned else None
        if len(messages) < len(self.messages):
            found |= _derived(found)
        if row.get("outcome_evidence") or row.get("error_recoveries"):
            places = {index: place for place, index in enumerate(window.indices)}
            found |= {name: items for name, items in moved(row, places).items() if name in row}
        return found


def _first_shown(windows: Iterable[list[int]]) -> list[frozenset[int]]:
    seen: set[int] = set()
    found = []
    for indices in windows:
        found.append(frozenset(indices) - seen)
        seen.update(indices)
    return found


def shortened(text: str, keep: int) -> str:
    """Head and tail of a text, `keep` characters of both, cut at lines or else words where one ends near, and between
    them how much was cut; the text itself where that would not be shorter."""
    head, tail = (keep + 1) // 2, keep // 2
    begin = len(text) - tail
    # Half a word may be taken for a secret, as `/home/us` is for somebody's name where `/home/user` stands for one.
    for end, share in (("\n", 4), (" ", 2)):
        if (at := text.rfind(end, head - head // share, head)) >= 0:
            head = at
            break
    for end, share in (("\n", 4), (" ", 2)):
        if (at := text.find(end, begin, begin + tail // share)) >= 0:
            begin = at + 1
            break
    short = f"{text[:head]}{_CUT.format(cut=begin - head, all=len(text))}{text[begin:]}"
    return short if len(short) < len(text) else text


def _is_trained(message: Mapping[str, JSON]) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def _copied(message: Message) -> Message:
    copy = dict(message)
    mark_copied(copy)
    return copy


def _derived(row: Row) -> Row:
    """The columns that are made of the messages, anew, where the row has them."""
    messages: list[Message] = row["messages"]
    texts = (m["content"] for m in reversed(messages) if m["role"] == "assistant" and m["content"])
    found: Row = {
        "message_count": len(messages),
        "tool_call_count": sum(len(message.get("tool_calls", ())) for message in messages),
        "final_assistant_message": next(texts, None),
    }
    if row.get("media"):
        used = sorted({index for message in messages for index in message.get("media", ())})
        places = {index: place for place, index in enumerate(used)}
        found["media"] = [row["media"][index] for index in used]
        found["messages"] = [
            {**message, "media": [places[index] for index in message["media"]]} if message.get("media") else message
            for message in messages
        ]
    return {name: value for name, value in found.items() if name in row}


def _words(message: Mapping[str, JSON]) -> str:
    """All that a message says."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    calls = [text for one in functions for text in (one["name"], _json(one["arguments"]))]
    return "\n".join(filter(None, [message.get("reasoning_content"), message["content"], *calls]))


def _json(value: JSON) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return exact_text(value)
