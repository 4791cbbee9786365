"""Labels: rows as token ids, with a label on exactly the turns that may be trained on.

A chat template writes a conversation as one text; TRL and others then train on all assistant turns of it, and
know no weights. `tokenize` gives `labels` of -100 everywhere but in the tokens of assistant turns whose weight
is not 0: their reasoning, text and calls, and the token that ends the turn. Trainers take such rows as they
are. The header that the model is given (`<|im_start|>assistant`) is no target, nor is the white space behind
the end of a turn.

Where a turn begins and ends is found in the text that the template writes, in two ways:

* by its `{% generation %}` marks, where the template has them. Where trl is installed, a template that trl knows
  is replaced by its training twin, as `SFTTrainer` does.
* otherwise from the text between the turns. It is written once with marks in all texts, so that what comes of
  which message is known; what ends one turn and begins the next is learned from short conversations (up to the
  turn, and with it, each with and without the generation prompt) and must be there, to the letter.

Where neither is certain the template is refused: no label is ever guessed. Both cost a few times what rendering
does. Rows need no columns but `messages` and `tools`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from agent_rollouts.chat import Message, to_chat
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of tokens that are not trained on, as torch's cross entropy and all trainers have it."""

Span: TypeAlias = tuple[int, int]

# Code points that Unicode keeps free for such use; no text holds them. A number follows the first, hexadecimal.
_MARK = "\ufdd0"
_DIGITS = "".join(map(chr, range(0xFDE0, 0xFDF0)))
_MARKS = re.compile(f"{_MARK}([{_DIGITS}]+){_MARK}")
_NUMBERS = {ord(digit): f"{value:x}" for value, digit in enumerate(_DIGITS)}
_INNER = re.compile(r"\S(?:.*\S)?", re.DOTALL)
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


def tokenize(
    messages: Mapping[str, JSON] | Iterable[Mapping[str, JSON]],
    tools: Sequence[Mapping[str, JSON]] | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, JSON] | None = None,
    **options: JSON,
) -> dict[str, list[int]]:
    """Token ids of a conversation, and labels that train its weighted turns alone.

    Args:
        messages: of a row, or a row, whose `tools` are then used where none are given.
        tools: function schemas, as the row has them.
        tokenizer: a fast one of transformers.
        chat_template: taken as it is; otherwise the tokenizer's, see `training_template`.
        template_kwargs: handed to the template, such as `enable_thinking`.
        options: of `to_chat`; which template needs which, `TEMPLATE_OPTIONS` says.

    Returns:
        `input_ids`, `attention_mask` (ones) and `labels`, all of one length. What the template leaves out (some
        drop earlier reasoning) is not trained; where nothing is left, all labels are -100.

    Raises:
        AgentRolloutsError: `to_chat` refuses the messages, the tokenizer has no template or no offsets, or the
            turns cannot be found with certainty in what the template writes.
    """
    if isinstance(messages, Mapping):
        tools = messages.get("tools") if tools is None else tools
        messages = messages["messages"]
    template = _Template(tokenizer, chat_template or training_template(tokenizer), template_kwargs or {})
    chat = to_chat(messages, **options)
    weighted = {i for i, one in enumerate(chat) if one["role"] == "assistant" and one.pop("weight", 1) != 0}
    for message in chat:
        message.pop("weight", None)
    text, spans = template.turns(chat, tools, weighted)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    labels = []
    for token, (begin, _) in zip(ids, encoded["offset_mapping"], strict=True):
        # A token belongs where it begins: what the model is given ends before what it writes.
        place = bisect_right(starts, begin) - 1
        labels.append(token if place >= 0 and begin < ends[place] else IGNORED)
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def training_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template that a conversation is written by: the tokenizer's own, or trl's training twin of it.

    The twin marks the model's turns, and shows what the original leaves out of earlier ones (reasoning).

    Raises:
        AgentRolloutsError: the tokenizer has no chat template.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    if not template:
        raise AgentRolloutsError(f"{_name(tokenizer)} has no chat template; name a tokenizer that has, or give one")
    if _GENERATION.search(template):
        return str(template)
    try:
        from trl.chat_template_utils import get_training_chat_template

        return get_training_chat_template(tokenizer) or str(template)
    except (ImportError, ValueError):  # trl raises ValueError for templates that it has no twin of
        return str(template)


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "the tokenizer"


class _Template:
    """A chat template as a function from messages to text, and the turns in that text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, kwargs: Mapping[str, JSON]) -> None:
        if not tokenizer.is_fast:
            raise AgentRolloutsError(f"{_name(tokenizer)} is a slow one and tells no offsets; labels need a fast one")
        self.name = f"the chat template of {_name(tokenizer)} ({template.strip()[:40]!r}…)"
        self.template = template
        self.kwargs = {**tokenizer.special_tokens_map, **kwargs}
        tokens = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self.added = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")

    def render(
        self, chats: list[list[Message]], tools: Sequence[Mapping[str, JSON]] | None, *, prompt: bool = False
    ) -> tuple[list[str], list[list[Span]]]:
        """The text of each conversation, and the places in it that the template marks as generated."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, generated = render_jinja_template(
                chats,
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=True,
                **self.kwargs,
            )
        except (TemplateError, TypeError) as error:
            raise self.refusal(f"fails: {error}") from error
        return texts, generated

    def refusal(self, why: str) -> AgentRolloutsError:
        return AgentRolloutsError(
            f"{self.name} {why}. Give options of to_chat that it needs (chat.TEMPLATE_OPTIONS), a template with "
            "{% generation %} marks, or train on rows of messages instead"
        )

    def turns(
        self, chat: list[Message], tools: Sequence[Mapping[str, JSON]] | None, weighted: set[int]
    ) -> tuple[str, list[Span]]:
        """The text of a conversation, and where in it the weighted turns stand, in order and without overlap."""
        (text,), (generated,) = self.render([chat], tools)
        own, names = self.own_places(chat, tools, text)
        if _GENERATION.search(self.template):
            return text, self.by_marks(chat, text, own, generated, weighted)
        return text, self.by_gaps(_marked(chat, names=names, brief=True), text, own, weighted)

    # -- what comes of which message -----------------------------------------------------------------

    def own_places(
        self, chat: list[Message], tools: Sequence[Mapping[str, JSON]] | None, text: str
    ) -> tuple[dict[int, Span], bool]:
        """Where the own words of each message that is shown begin and end in `text`; whether names are of them."""
        if _MARK in text:
            raise self.refusal(f"writes U+{ord(_MARK):X}, which marks places here")
        for names in (True, False):  # gpt-oss repeats the name of a call where its result stands
            (marked,), _ = self.render([_marked(chat, names=names)], tools)
            found, plain = _places(marked)
            if plain != text:
                raise self.refusal("writes a text otherwise when it holds a mark, so that its place is uncertain")
            if found is not None:
                return found, names
        raise self.refusal("writes a text twice, or messages in another order")

    # -- templates with {% generation %} -------------------------------------------------------------

    def by_marks(
        self, chat: list[Message], text: str, own: dict[int, Span], generated: list[Span], weighted: set[int]
    ) -> list[Span]:
        """What the template marks, of the weighted turns."""
        answers = [index for index, message in enumerate(chat) if message["role"] == "assistant"]
        turns: list[set[int]] = [set() for _ in generated]
        starts = [start for start, _ in generated]
        for index in own.keys() & set(answers):
            first, last = (bisect_right(starts, at) - 1 for at in (own[index][0], own[index][1] - 1))
            if first < 0 or any(own[index][place] > generated[one][1] for place, one in enumerate((first, last))):
                raise self.refusal("has {% generation %} marks that leave out words of a turn")
            for number in range(first, last + 1):
                turns[number].add(index)
        if len(generated) == len(answers) and all(one <= {i} for one, i in zip(turns, answers, strict=True)):
            # One each: those that show no words of their own are known by their order.
            turns = [{index} for index in answers]
        opening = self.opening()
        spans = []
        for (begin, end), holds in zip(generated, turns, strict=True):
            if holds & weighted and holds - weighted:
                raise self.refusal("marks turns together of which some are not to be trained on")
            if holds & weighted:
                begin += _given(text, begin, opening)
                spans.append((begin, self.trimmed(text, begin, end)))
        return spans

    def opening(self) -> str:
        """What is written to make the model answer: the generation prompt."""
        chat = [{"role": "user", "content": "x"}]
        (plain,), _ = self.render([chat], None)
        (prompted,), _ = self.render([chat], None, prompt=True)
        return prompted[len(plain) :] if prompted.startswith(plain) else ""

    def trimmed(self, text: str, begin: int, end: int) -> int:
        """`end` without the white space behind the token that ends a turn."""
        stripped = begin + len(text[begin:end].rstrip())
        tail = text[max(begin, stripped - 64) : stripped]
        found = list(self.added.finditer(tail))
        return stripped if found and found[-1].end() == len(tail) else end

    # -- templates without ---------------------------------------------------------------------------

    def by_gaps(self, brief: list[Message], text: str, own: dict[int, Span], weighted: set[int]) -> list[Span]:
        """The weighted turns by what stands between the words of their neighbours and theirs.

        Args:
            brief: the conversation with marks, texts cut to a letter.
        """
        turns = sorted(weighted & own.keys())
        shown = sorted(own)
        places = {index: place for place, index in enumerate(shown)}
        if not turns:
            return []
        if turns[0] == shown[0]:
            raise self.refusal("shows nothing of what comes before the first answer")
        before = [self.near(brief, shown[places[turn] - 1], turn) for turn in turns]
        within = [[*near, brief[turn]] for near, turn in zip(before, turns, strict=True)]
        learned = [
            self.render(chats, None, prompt=prompt)[0] for chats in (before, within) for prompt in (False, True)
        ]
        spans = []
        for turn, plain, prompted, ended, ended_prompted in zip(turns, *learned, strict=True):
            neighbour = shown[places[turn] - 1]
            gap = text[own[neighbour][1] : own[turn][0]]
            foot, opening = _tail(plain, neighbour), _tail(prompted, neighbour)
            if foot is None or opening is None or not opening.startswith(foot) or not gap.startswith(foot):
                raise self.refusal("begins a turn in a way that depends on what is not near it")
            opening = opening[len(foot) :]
            length = _agreed(gap[len(foot) :], opening)
            if length is None:
                raise self.refusal("begins a turn otherwise than its generation prompt does")
            begin = own[neighbour][1] + len(foot) + length
            rest = text[own[turn][1] : own[shown[places[turn] + 1]][0] if turn != shown[-1] else len(text)]
            # gpt-oss ends its last turn otherwise than the others.
            ends = [_tail(ended, turn), (_tail(ended_prompted, turn) or "").removesuffix(opening)]
            fitting = [end for end in ends if end is not None and rest.startswith(end)]
            if not fitting:
                raise self.refusal("ends a turn in a way that depends on what is not near it")
            spans.append((begin, self.ended(text, own[turn][1], own[turn][1] + len(max(fitting, key=len)))))
        if any(one[1] > other[0] for one, other in pairwise(spans)):
            raise self.refusal("has turns that overlap")
        return spans

    def near(self, brief: list[Message], neighbour: int, turn: int) -> list[Message]:
        """What comes before a turn, from the last answer before its neighbour on."""
        last = next((index for index in range(neighbour, -1, -1) if brief[index]["role"] == "assistant"), None)
        head: list[Message] = [] if last is None else [{"role": "user", "content": "x"}]
        return [*head, *brief[last or 0 : turn]]

    def ended(self, text: str, last_word: int, end: int) -> int:
        """`end` of a turn right behind the token that ends it."""
        if self.ends_turns:
            if not self.added.search(text, last_word, end):
                raise self.refusal("ends a turn without a token that the model could stop at")
            return self.trimmed(text, last_word, end)
        # GLM's turns are ended by the token that opens the next one: trl's twin trains on that.
        following = self.added.match(text, end)
        if following is None and text[end:].strip():
            raise self.refusal("ends turns without a token that the model could stop at")
        return following.end() if following else end

    @cached_property
    def ends_turns(self) -> bool:
        """Whether there is a token that ends a turn, and not only one that begins the next."""
        chat = _marked([{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}], names=True)
        (plain,), _ = self.render([chat], None)
        return bool(self.added.search(_tail(plain, 1) or ""))


def _given(text: str, begin: int, opening: str) -> int:
    """How much of the generation prompt stands at `begin`, where the rest of it stands before (twins mark it, too)."""
    before = next(n for n in range(len(opening), -1, -1) if text.endswith(opening[:n], 0, begin))
    return _agreed(text[begin : begin + len(opening) - before], opening[before:]) or 0


def _agreed(gap: str, opening: str) -> int | None:
    """How much of the generation prompt stands at the start of `gap`; None where it is another text."""
    if gap.startswith(opening):
        return len(opening)
    # The prompt may open a thought that this turn has not; a token is not cut in two.
    length = next((i for i, (one, other) in enumerate(zip(gap, opening, strict=False)) if one != other), len(gap))
    while length and opening[length - 1] not in "\n>":
        length -= 1
    return length or None


def _tail(marked: str, index: int) -> str | None:
    """What stands behind the last mark, which must be one of message `index`."""
    marks = list(_MARKS.finditer(marked))
    if not marks or _number(marks[-1]) >> _FIELD_BITS != index:
        return None
    return marked[marks[-1].end() :]


# -- marks ------------------------------------------------------------------------------------------

_FIELD_BITS = 16


def _number(mark: re.Match[str]) -> int:
    return int(mark[1].translate(_NUMBERS), 16)


def _places(marked: str) -> tuple[dict[int, Span] | None, str]:
    """Where messages' own words begin and end, None where marks are doubled or out of order; the text without."""
    places: dict[int, Span] = {}
    seen: defaultdict[int, int] = defaultdict(int)
    pieces, at, length, ordered, last = [], 0, 0, True, -1
    for mark in _MARKS.finditer(marked):
        pieces.append(marked[at : mark.start()])
        length += len(pieces[-1])
        at = mark.end()
        number = _number(mark)
        index = number >> _FIELD_BITS
        seen[number] += 1
        ordered = ordered and seen[number] <= 2 and last <= index
        last = index
        places[index] = (places.get(index, (length, 0))[0], length)
    pieces.append(marked[at:])
    return (places if ordered else None), "".join(pieces)


def _marked(chat: list[Message], *, names: bool, brief: bool = False) -> list[Message]:
    """The messages with a mark around each of their texts, inside the white space that templates strip.

    Args:
        names: whether names of calls are marked, too.
        brief: whether texts become one letter.
    """
    return [_marked_message(message, index, names, brief) for index, message in enumerate(chat)]


def _marked_message(message: Message, index: int, names: bool, brief: bool) -> Message:
    fields = 0

    def text(value: str) -> str:
        nonlocal fields
        inner = _INNER.search(value)
        if inner is None:
            return value
        number = (index << _FIELD_BITS) + min(fields, (1 << _FIELD_BITS) - 1)
        fields += 1
        mark = f"{_MARK}{''.join(_DIGITS[int(digit, 16)] for digit in f'{number:x}')}{_MARK}"
        word = "x" if brief else inner[0]
        return f"{value[: inner.start()]}{mark}{word}{mark}{value[inner.end() :]}"

    def texts(value: JSON) -> JSON:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, list):
            return [texts(one) for one in value]
        return {key: texts(one) for key, one in value.items()} if isinstance(value, dict) else value

    def call(one: Mapping[str, JSON]) -> Message:
        function = one["function"]
        name = text(function["name"]) if names else function["name"]
        return {**one, "function": {**function, "name": name, "arguments": texts(function["arguments"])}}

    marked = dict(message)
    if "reasoning_content" in message:
        marked["reasoning_content"] = text(message["reasoning_content"])
    if isinstance(message["content"], str):
        marked["content"] = text(message["content"])
    else:
        marked["content"] = [{**p, "text": text(p["text"])} if "text" in p else p for p in message["content"]]
    if "tool_calls" in message:
        marked["tool_calls"] = [call(one) for one in message["tool_calls"]]
    return marked
