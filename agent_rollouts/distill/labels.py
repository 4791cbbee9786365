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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from agent_rollouts.chat import Message, to_chat
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of tokens that are not trained on, as torch's cross entropy and all trainers have it."""

Span: TypeAlias = tuple[int, int]

# Code points that Unicode keeps free for such use, and no text holds. A mark is the number of the field, whether it
# is a name, and the number of the message; numbers are hexadecimal.
_MARK, _NAME = "\ufdd0", "\ufdd1"
_DIGITS = "".join(map(chr, range(0xFDE0, 0xFDF0)))
_MARKS = re.compile(f"{_MARK}[{_DIGITS}]+{_MARK}({_NAME}?){_MARK}([{_DIGITS}]+){_MARK}")
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
        messages = cast("list[Message]", messages["messages"])
    template = Template(tokenizer, chat_template or training_template(tokenizer), template_kwargs or {})
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

    The twin marks the model's turns, and shows what the original leaves out of earlier ones (reasoning). Of several
    named ones the tokenizer's is that for tools.

    Raises:
        AgentRolloutsError: the tokenizer has no chat template.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "tool_use" in template:
            return str(template["tool_use"])
        template = template.get("default")
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


class Template:
    """A chat template as a function from messages to text, and the turns in that text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, kwargs: Mapping[str, JSON]) -> None:
        if not tokenizer.is_fast:
            raise AgentRolloutsError(f"{_name(tokenizer)} is a slow one and tells no offsets; labels need a fast one")
        self.name = f"the chat template of {_name(tokenizer)} ({template.strip()[:40]!r}…)"
        self.template = template
        self.takes_parts = False
        self.is_marked = bool(_GENERATION.search(template))
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
            rendered: Any = render_jinja_template(
                chats,
                tools=None if tools is None else list(map(dict, tools)),
                chat_template=self.template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=self.is_marked,
                **self.kwargs,
            )
        except (TemplateError, TypeError) as error:
            self.refuse(f"fails: {error}", error)
        texts: list[str]
        generated: list[list[Span]]
        texts, generated = rendered
        return texts, generated

    def refuse(self, why: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error that names this template, and the ways out."""
        raise AgentRolloutsError(
            f"{self.name} {why}. Give options of to_chat that it needs (chat.TEMPLATE_OPTIONS), a template with "
            "{% generation %} marks, or train on rows of messages instead"
        ) from cause

    def turns(
        self, chat: list[Message], tools: Sequence[Mapping[str, JSON]] | None, weighted: set[int]
    ) -> tuple[str, list[Span]]:
        """The text of a conversation, and where in it the weighted turns stand, in order and without overlap."""
        self.takes_parts = any(isinstance(message["content"], list) for message in chat)
        texts, places = self.render([chat], tools)
        text = texts[0]
        own = self.own_places(chat, tools, text)
        # Of a turn without words (a thought that is not shown) there is nothing to learn but to stop.
        weighted = {index for index in weighted if index in own}
        if self.is_marked:
            return text, self.by_marks(chat, text, own, places[0], weighted)
        if not weighted:
            return text, []
        return text, self.by_gaps(_marked(chat, brief=True), text, own, weighted)

    # -- what comes of which message -----------------------------------------------------------------

    def own_places(self, chat: list[Message], tools: Sequence[Mapping[str, JSON]] | None, text: str) -> dict[int, Span]:
        """Where the own words of each message begin and end in `text`; of those that it shows any of."""
        if _MARK in text:
            self.refuse(f"writes U+{ord(_MARK):X}, which marks places here")
        places, plain = _places(self.render([_marked(chat)], tools)[0][0])
        if plain != text:
            self.refuse("writes a text otherwise when it holds a mark, so that its place is uncertain")
        if places is None:
            self.refuse("writes a text twice, or messages in another order")
        return places

    # -- templates with {% generation %} -------------------------------------------------------------

    def by_marks(
        self, chat: list[Message], text: str, own: dict[int, Span], generated: list[Span], weighted: set[int]
    ) -> list[Span]:
        """What the template marks, of the weighted turns."""
        answers = [index for index, message in enumerate(chat) if message["role"] == "assistant"]
        turns: list[set[int]] = [set() for _ in generated]
        starts = [start for start, _ in generated]
        for index in own.keys() & set(answers):
            begin, end = own[index]
            first, last = (bisect_right(starts, at) - 1 for at in (begin, end - 1))
            if first < 0 or begin >= generated[first][1] or end > generated[last][1]:
                self.refuse("has {% generation %} marks that leave out words of a turn")
            for number in range(first, last + 1):
                turns[number].add(index)
        if len(generated) == len(answers) and all(one <= {i} for one, i in zip(turns, answers, strict=True)):
            # One each: those that show no words of their own are known by their order.
            turns = [{index} for index in answers]
        else:
            for number in range(1, len(generated)):
                # gemma's twin marks what ends a turn apart from its words.
                if not turns[number] and generated[number - 1][1] == generated[number][0]:
                    turns[number] = turns[number - 1]
        spans = []
        for (begin, end), holds in zip(generated, turns, strict=True):
            if holds & weighted and holds - weighted:
                self.refuse("marks turns together of which some are not to be trained on")
            if holds & weighted:
                words = min(own[index][0] for index in holds)
                spans.append((self.given(text, begin, max(begin, words)), self.trimmed(text, begin, end)))
        return spans

    def example(self, role: str) -> Message:
        """A message of one letter, in the form that the template takes."""
        return {"role": role, "content": [{"type": "text", "text": "x"}] if self.takes_parts else "x"}

    @cached_property
    def prompted(self) -> tuple[str, str]:
        """A prompt, and what is written behind it to make the model answer: the generation prompt."""
        chat = [self.example("user")]
        plain = self.render([chat], None)[0][0]
        prompted = self.render([chat], None, prompt=True)[0][0]
        return plain, prompted[len(plain) :] if prompted.startswith(plain) else ""

    def given(self, text: str, begin: int, end: int) -> int:
        """`begin` of a turn behind what is left there of the generation prompt, which the model does not write."""
        opening = self.prompted[1]
        # Twins of qwen2.5, deepseek and gpt-oss mark the prompt, or the end of it, too.
        before = next(n for n in range(len(opening), -1, -1) if text.endswith(opening[:n], 0, begin))
        return begin + (self.agreed(text[begin:end], opening[before:], before) or 0)

    def agreed(self, gap: str, opening: str, before: int = 0) -> int | None:
        """How much of a generation prompt `gap` begins with; None where it begins with another text.

        Args:
            before: how much of the prompt stands before the gap.
        """
        if gap.startswith(opening):
            return len(opening)
        # The prompt may open a thought that this turn has not; a token is not cut in two.
        length = next((i for i, (one, other) in enumerate(zip(gap, opening, strict=False)) if one != other), len(gap))
        while length and opening[length - 1] not in "\n>":
            length -= 1
        # What begins the user's turn as well (`<|im_start|>`) does not say that the model's begins.
        return length if length and (before or opening[:length] not in self.prompted[0]) else None

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
        shown = sorted(own)
        places = [place for place, index in enumerate(shown) if index in weighted]
        before = [self.near(brief, shown[place - 1] if place else None, shown[place]) for place in places]
        within = [[*near, brief[shown[place]]] for near, place in zip(before, places, strict=True)]
        learned = [self.render(chats, None, prompt=prompt)[0] for chats in (before, within) for prompt in (False, True)]
        spans = []
        for place, plain, prompted, ended, ended_prompted in zip(places, *learned, strict=True):
            turn = shown[place]
            begin, opening = self.begun(text, own, shown[place - 1] if place else None, turn, plain, prompted)
            rest = text[own[turn][1] : own[shown[place + 1]][0] if turn != shown[-1] else len(text)]
            # gpt-oss ends its last turn otherwise than the others.
            ends = [_tail(ended, turn), (_tail(ended_prompted, turn) or "").removesuffix(opening)]
            fitting = [end for end in ends if end is not None and rest.startswith(end)]
            if not fitting:
                self.refuse("ends a turn in a way that depends on what is not near it")
            spans.append((begin, self.ended(text, own[turn][1], own[turn][1] + len(max(fitting, key=len)))))
        if any(one[1] > other[0] for one, other in pairwise(spans)):
            self.refuse("has turns that overlap")
        return spans

    def near(self, brief: list[Message], neighbour: int | None, turn: int) -> list[Message]:
        """What comes before a turn, from the last answer before its neighbour on; at least a prompt."""
        places = range(-1 if neighbour is None else neighbour, -1, -1)
        last = next((index for index in places if brief[index]["role"] == "assistant"), None)
        head = [self.example("user")] if last is not None or turn == 0 else []
        return [*head, *brief[last or 0 : turn]]

    def begun(
        self, text: str, own: dict[int, Span], neighbour: int | None, turn: int, plain: str, prompted: str
    ) -> tuple[int, str]:
        """Where a turn begins, behind its generation prompt; and that prompt."""
        if neighbour is None:
            # Nothing that was said stands before, so there is nothing to take for the prompt but it.
            opening = self.prompted[1]
            at = text.rfind(opening, 0, own[turn][0])
            if not opening or at < 0:
                self.refuse("shows nothing of what comes before the first answer")
            return at + len(opening), opening
        gap = text[own[neighbour][1] : own[turn][0]]
        foot, opening = _tail(plain, neighbour), _tail(prompted, neighbour) or ""
        if foot is None or not opening.startswith(foot) or not gap.startswith(foot):
            self.refuse("begins a turn in a way that depends on what is not near it")
        opening = opening[len(foot) :]
        length = self.agreed(gap[len(foot) :], opening)
        if length is None:
            self.refuse("begins a turn otherwise than its generation prompt does")
        # gemma4 writes its header behind results, too, but gives none there.
        return self.given(text, own[neighbour][1] + len(foot) + length, own[turn][0]), opening

    def ended(self, text: str, last_word: int, end: int) -> int:
        """`end` of a turn right behind the token that ends it."""
        if self.ends_turns:
            if not self.added.search(text, last_word, end):
                self.refuse("ends a turn without a token that the model could stop at")
            return self.trimmed(text, last_word, end)
        # GLM's turns are ended by the token that opens the next one: trl's twin trains on that.
        following = self.added.match(text, end)
        if following is None and text[end:].strip():
            self.refuse("ends turns without a token that the model could stop at")
        return following.end() if following else end

    @cached_property
    def ends_turns(self) -> bool:
        """Whether there is a token that ends a turn, and not only one that begins the next."""
        chat = _marked([self.example("user"), self.example("assistant")])
        return bool(self.added.search(_tail(self.render([chat], None)[0][0], 1) or ""))


def _tail(marked: str, index: int) -> str | None:
    """What stands behind the last mark, which must be one of message `index`."""
    marks = _marks(marked)
    if not marks or marks[-1][0] != index:
        return None
    return _MARKS.sub("", marked[marks[-1][1].end() :])


# -- marks ------------------------------------------------------------------------------------------


def _places(marked: str) -> tuple[dict[int, Span] | None, str]:
    """Where messages' own words begin and end, None where texts are doubled or out of order; the text without."""
    places: dict[int, Span] = {}
    marks = _marks(marked)
    pieces, at, length = [], 0, 0
    first = {found.start(): index for index, found in marks}
    for found in _MARKS.finditer(marked):
        pieces.append(marked[at : found.start()])
        length += len(pieces[-1])
        at = found.end()
        index = first.get(found.start())
        if index is not None:
            places[index] = (places.get(index, (length, 0))[0], length)
    pieces.append(marked[at:])
    ordered = all(one[0] <= other[0] for one, other in pairwise(marks))
    once = len(marks) == len({(found[0]) for _, found in marks}) * 2
    return (places if ordered and once else None), "".join(pieces)


def _marks(marked: str) -> list[tuple[int, re.Match[str]]]:
    """The marks with their messages; of a name that is written again (gpt-oss: with the result) only the first two."""
    seen: Counter[str] = Counter()
    found = []
    for mark in _MARKS.finditer(marked):
        seen[mark[0]] += 1
        if seen[mark[0]] <= 2 or mark[1] != _NAME:
            found.append((int(mark[2].translate(_NUMBERS), 16), mark))
    return found


def _marked(chat: list[Message], *, brief: bool = False) -> list[Message]:
    """The messages with a mark around each of their texts, inside the white space that templates strip.

    In arguments only texts of the first level are marked: some templates write the others as Python does, which
    would escape a mark. With `brief`, what is marked becomes one letter, but for names.
    """
    return [_marked_message(message, index, brief) for index, message in enumerate(chat)]


def _marked_message(message: Message, index: int, brief: bool) -> Message:
    fields = count()

    def text(value: JSON, is_name: bool = False) -> JSON:
        inner = _INNER.search(value) if isinstance(value, str) else None
        if inner is None:
            return value
        numbers = (_written(next(fields)), _NAME if is_name else "", _written(index))
        mark = f"{_MARK}{numbers[0]}{_MARK}{numbers[1]}{_MARK}{numbers[2]}{_MARK}"
        word = "x" if brief and not is_name else inner[0]
        return f"{value[: inner.start()]}{mark}{word}{mark}{value[inner.end() :]}"

    def call(one: Mapping[str, JSON]) -> Message:
        name, arguments = one["function"]["name"], one["function"]["arguments"]
        name = text(name, is_name=True)
        return {
            **one,
            "function": {**one["function"], "name": name, "arguments": {k: text(v) for k, v in arguments.items()}},
        }

    marked = dict(message)
    if "reasoning_content" in message:
        marked["reasoning_content"] = text(message["reasoning_content"])
    if isinstance(message["content"], list):
        marked["content"] = [{**p, "text": text(p["text"])} if "text" in p else p for p in message["content"]]
    else:
        marked["content"] = text(message["content"])
    if "tool_calls" in message:
        marked["tool_calls"] = [call(one) for one in message["tool_calls"]]
    return marked


def _written(number: int) -> str:
    return "".join(_DIGITS[int(digit, 16)] for digit in f"{number:x}")
