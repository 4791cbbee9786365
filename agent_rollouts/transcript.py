"""The messages of one context window in the making: parts joined, results placed, withdrawn turns removed.

A finished message is kept as JSON text, so that a rollout of 200 MB costs 200 MB and not its Python objects.
"""

from __future__ import annotations

from array import array
from bisect import bisect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import overload

import orjson

from agent_rollouts.events import JSON, At, Called, Edited, Interrupted, Media, Returned, Rewound, Said, Thought
from agent_rollouts.features import PROMPT_ORIGINS
from agent_rollouts.jsontext import exact_text


class Messages(Sequence[dict[str, JSON]]):
    """Messages kept as JSON text, parsed when looked at.

    `data` holds the texts one behind the other; `offsets` (n + 1 int32) where each begins, as Arrow
    wants a string array to be.
    """

    __slots__ = ("data", "offsets")

    def __init__(self, data: bytes | bytearray = b"", offsets: array[int] | None = None) -> None:
        self.data = data
        self.offsets = array("i", [0]) if offsets is None else offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> dict[str, JSON]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, JSON]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, JSON] | list[dict[str, JSON]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        message: dict[str, JSON] = orjson.loads(self.text(range(len(self))[index]))
        return message

    def text(self, index: int) -> memoryview:
        """The JSON text of message `index`, as UTF-8 bytes."""
        return memoryview(self.data)[self.offsets[index] : self.offsets[index + 1]]


class Slot:
    """A finished message: where its text lies in the log, and what must be known of it without parsing."""

    __slots__ = ("calls", "end", "is_copy", "is_prompt", "media", "nodes", "reasoning", "role", "start")

    def __init__(self, start: int, end: int, nodes: tuple[int, ...], message: dict[str, JSON]) -> None:
        self.start = start
        self.end = end
        self.nodes = nodes
        self.is_copy = message.get("weight_reason") == "copied_context"
        self.role: str = message["role"]
        self.media: Sequence[int] = message.get("media", ())
        self.calls = 0
        self.reasoning = self.is_prompt = False
        if self.role == "assistant":
            self.calls = len(message.get("tool_calls", ()))
            self.reasoning = "reasoning_content" in message
        elif self.role == "user":
            # Codex counts another agent's instruction as a turn of its own when it rolls back.
            origin = message.get("origin")
            self.is_prompt = origin in PROMPT_ORIGINS or origin == "agent_message"


class _Turn:
    """The assistant message that is being put together, and the results of its calls."""

    __slots__ = (
        "at", "calls", "index", "joiners", "key", "media", "nodes", "phase", "reason", "results", "texts", "thoughts",
    )  # fmt: skip

    def __init__(self, key: str | int | None, at: At, index: int) -> None:
        self.key = key
        self.at = at
        self.index = index
        self.nodes = [at.node]
        self.texts: list[str] = []
        self.joiners: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[dict[str, JSON]] = []
        self.results: dict[str, tuple[tuple[int, ...], dict[str, JSON]]] = {}
        self.media: list[int] = []
        self.reason = at.weight_reason
        self.phase = at.phase

    def add(self, node: int) -> None:
        """A record that a part of the answer came from."""
        if node != self.nodes[-1]:
            self.nodes.append(node)

    def has(self, text: str) -> bool:
        """Whether this is a part already: where answers have ids, parts are written again on resume."""
        return self.key is not None and text in self.texts

    def has_thought(self, text: str) -> bool:
        """The same for reasoning."""
        return self.key is not None and text in self.thoughts

    def message(self) -> dict[str, JSON]:
        text = self.texts[0] if self.texts else ""
        for joiner, more in zip(self.joiners[1:], self.texts[1:], strict=True):
            text += joiner + more
        message: dict[str, JSON] = {"role": "assistant", "content": text}
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        return _stamped(message, self.at, self.media, self.reason, self.phase)


def mark_copied(message: dict[str, JSON]) -> None:
    """Weight 0: the row has the message as context, and another owns it."""
    message["weight"] = 0
    message["weight_reason"] = "copied_context"


def without(slots: list[Slot], hidden: frozenset[int]) -> list[Slot]:
    """The messages that no hidden record is part of; results go with the call that they answer."""
    if not hidden:
        return slots
    left = []
    call_is_gone = False
    for slot in slots:
        is_gone = not hidden.isdisjoint(slot.nodes)
        if slot.role != "tool":
            call_is_gone = is_gone
        if not (is_gone or call_is_gone):
            left.append(slot)
    return left


def within(slots: list[Slot], kept: frozenset[int]) -> list[Slot]:
    """The messages that a kept record is part of; results go with the call that they answer."""
    found = []
    is_in = False
    for slot in slots:
        if slot.role != "tool":
            is_in = not kept.isdisjoint(slot.nodes)
        if is_in:
            found.append(slot)
    return found


def _stamped(
    message: dict[str, JSON], at: At, media: Sequence[int], reason: str | None, phase: str | None = None
) -> dict[str, JSON]:
    id, timestamp, _, _, origin, _, _, _ = at
    if media:
        message["media"] = list(media)
    if id is not None:
        message["id"] = id
    if timestamp is not None:
        message["timestamp"] = timestamp if type(timestamp) is str else instant_text(timestamp)
    if origin is not None:
        message["origin"] = origin
    if phase is not None:
        message["phase"] = phase
    if reason is not None:
        message["weight"] = 0
        message["weight_reason"] = reason
    return message


def spans(slots: list[Slot], nodes: list[int]) -> list[list[Slot]]:
    """The messages before, between and behind some records; results go with the call that they answer."""
    found: list[list[Slot]] = [[] for _ in range(len(nodes) + 1)]
    place = 0
    for slot in slots:
        if slot.role != "tool":
            place = bisect(nodes, slot.nodes[0])
        found[place].append(slot)
    return found


def put_apart(slots: list[Slot], sets: Sequence[Sequence[Slot]]) -> tuple[list[list[Slot]], list[Slot]]:
    """The messages of each set, and the others; results go with the call that they answer."""
    number = {id(one): place for place, some in enumerate(sets) for one in some}
    if not number:
        return [[] for _ in sets], slots
    apart: list[list[Slot]] = [[] for _ in sets]
    others: list[Slot] = []
    target = others
    for slot in slots:
        if slot.role != "tool":
            place = number.get(id(slot))
            target = others if place is None else apart[place]
        target.append(slot)
    return apart, others


class Transcript:
    """The messages of one context window, in order of arrival, most of them already JSON text."""

    def __init__(self, skipped: Counter[str], earlier: Transcript | None = None) -> None:
        self.log = bytearray()
        self.slots: list[Slot] = []
        self.late: dict[int, list[Slot]] = {}
        self.moved = False
        self.turn: _Turn | None = None
        self.tail: list[tuple[tuple[int, ...], dict[str, JSON]]] = []
        self.turn_slots: dict[str | int, int] = {}
        self.call_slots: dict[str, tuple[int, str]] = {}
        self.returned: set[str] = set()
        self.unnamed: deque[str] = deque()  # calls whose source has no id for them
        self.renamed: dict[str, str] = {}
        self.media: list[Media] = []
        self.skipped = skipped
        self.before = earlier

    def is_earlier_turn(self, key: str | int) -> bool:
        """Whether the answer `key` began in an earlier window: what comes of it again is a copy."""
        return self.before is not None and (key in self.before.turn_slots or self.before.is_earlier_turn(key))

    def knows(self, call_id: str) -> bool:
        """Whether a call is in this window or an earlier one."""
        return call_id in self.call_slots or (self.before is not None and self.before.knows(call_id))

    # -- what the events bring ------------------------------------------------------------------

    def say(self, event: Said) -> None:
        """Text of the open answer, or a message of another speaker."""
        at, role, text, media, joiner = event
        if role == "assistant":
            turn = self._turn(at)
            if text and not turn.has(text):
                turn.texts.append(text)
                turn.joiners.append(joiner)
                turn.add(at.node)
            elif text:
                self.skipped["text: repeated part"] += 1
            if media:
                turn.media += self.keep(media)
            turn.phase = at.phase or turn.phase
            return
        kept = self.keep(media) if media else ()
        message = _stamped({"role": role, "content": text}, at, kept, at.weight_reason)
        # What is said while calls are out stands behind their results.
        self.tail.append(((at.node,), message))
        if self.turn is None:
            self._flush_tail()

    def think(self, event: Thought) -> None:
        """Reasoning of the open answer."""
        turn = self._turn(event.at)
        if turn.has_thought(event.text):
            self.skipped["reasoning: repeated part"] += 1
        elif event.text:
            turn.thoughts.append(event.text)
            turn.add(event.at.node)

    def call(self, event: Called) -> None:
        """A call of the open answer; its id becomes unique within the window."""
        at, call_id, name, arguments = event
        turn = self._turn(at)
        if call_id is None:
            call_id = f"call_{len(self.call_slots) + 1}"
            while call_id in self.call_slots:
                call_id += "_"
            if self.unnamed and self.call_slots[self.unnamed[-1]][0] != turn.index:
                self.unnamed.clear()  # what an earlier answer called and nothing answered will not be answered now
            self.unnamed.append(call_id)
        elif call_id in self.call_slots:
            for call in turn.calls:
                if call["id"] == call_id and call["function"] == {"name": name, "arguments": arguments}:
                    self.skipped["tool_call: repeated part"] += 1
                    return
            original, number = call_id, 2
            while call_id in self.call_slots:
                call_id, number = f"{original}#{number}", number + 1
            self.renamed[original] = call_id
            self.skipped["id: duplicate call id renamed"] += 1
        self.call_slots[call_id] = (turn.index, name)
        turn.add(at.node)
        turn.calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})

    def result(self, event: Returned) -> None:
        """A result, which waits with its call; orphans and second ones are counted."""
        at, call_id, text, media, is_error = event
        if call_id is None:
            call_id = self._next_unanswered()
        call_id = self.renamed.get(call_id, call_id)
        place = self.call_slots.get(call_id)
        if place is None and self.before is not None and self.before.knows(call_id):
            self.before.result(event)
            return
        if place is None:
            self.skipped["tool_result: orphan"] += 1
            self._lose(media)
            return
        if call_id in self.returned:
            self.skipped["tool_result: duplicate"] += 1
            self._lose(media)
            return
        self.returned.add(call_id)
        index, name = place
        message: dict[str, JSON] = {"role": "tool", "content": text, "tool_call_id": call_id, "name": name}
        if is_error is not None:
            message["is_error"] = is_error
        message = _stamped(message, at, self.keep(media) if media else (), at.weight_reason)
        turn = self.turn
        if turn is not None and index == turn.index and type(turn) is not _Reopened:
            turn.results[call_id] = ((at.node,), message)
        else:
            self.late.setdefault(index, []).append(self.store((at.node,), message))

    def _next_unanswered(self) -> str:
        """The call that a result without an id answers: the first of those without one, else of all."""
        while self.unnamed:
            if (call_id := self.unnamed.popleft()) in self.call_slots and call_id not in self.returned:
                return call_id
        return next((known for known in self.call_slots if known not in self.returned), "")

    def interrupt(self, event: Interrupted) -> None:
        """Mark the last answer."""
        if self.turn is not None:
            self.turn.reason = self.turn.reason or event.reason
            return
        index = next((i for i in reversed(range(len(self.slots))) if self.slots[i].role == "assistant"), None)
        if index is not None:
            message = self._read(self.slots[index])
            message.setdefault("weight", 0)
            message.setdefault("weight_reason", event.reason)
            self._replace(index, message, self.slots[index].nodes)

    def rewind(self, event: Rewound) -> None:
        """Drop the last turns; with fewer prompts than were rolled back, all from the first one on."""
        self.close_turn()
        index, left = len(self.slots), event.user_turns
        while index and left > 0:
            index -= 1
            left -= self.slots[index].is_prompt
        if event.user_turns <= 0 or index == len(self.slots):
            return
        while left > 0 and index < len(self.slots) and not self.slots[index].is_prompt:
            index += 1
        gone = self.slots[index:]
        for place in range(index, len(self.slots)):
            gone += self.late.pop(place, ())
        self.lose(gone, "withdrawn")
        del self.slots[index:]
        self.call_slots = {k: v for k, v in self.call_slots.items() if v[0] < index}
        self.turn_slots = {k: v for k, v in self.turn_slots.items() if v < index}
        self.returned &= set(self.call_slots)
        self.renamed = {k: v for k, v in self.renamed.items() if v in self.call_slots}
        # A hole in the log or among the media means that the row must be put together anew.
        self.moved = True

    def adopt(self, source: Transcript, slots: Sequence[Slot]) -> None:
        """Copies of messages of an earlier window, which stayed in the context without being written again."""
        self.close_turn()
        messages, media = source.messages(slots, lambda _, message: mark_copied(message))
        adopted: dict[str, tuple[int, str]] = {}
        for slot, message in zip(slots, messages, strict=True):
            index = len(self.slots)
            calls = {call["id"]: (index, call["function"]["name"]) for call in message.get("tool_calls", ())}
            if slot.role == "tool":
                if message["tool_call_id"] not in adopted:
                    continue
                self.returned.add(message["tool_call_id"])
            elif not self.call_slots.keys().isdisjoint(calls):
                continue  # it was written again after all
            adopted |= calls
            self.call_slots |= calls
            if "media" in message:
                message["media"] = self.keep([media[i] for i in message["media"]])
            if slot.role == "assistant" and "id" in message:
                self.turn_slots[message["id"]] = index
            self.slots.append(self.store(slot.nodes, message))

    def edited(self, slots: Sequence[Slot], edits: Sequence[Edited], lost: dict[int, str]) -> list[Slot]:
        """The messages as edits left them in the context, the last one of each counting.

        Calls and reasoning go with what an edit replaced, and the results with the calls. `lost` learns
        what goes.
        """
        by_node = {edit.target: edit for edit in edits}
        left: list[Slot] = []
        calls_are_gone = False
        for slot in slots:
            edit = next((by_node[node] for node in slot.nodes if node in by_node), None)
            if slot.role != "tool":
                calls_are_gone = edit is not None
            if edit is None and not (slot.role == "tool" and calls_are_gone):
                left.append(slot)
                continue
            lost[id(slot)] = "edited"
            if edit is not None and edit.text is not None and not (slot.role == "tool" and calls_are_gone):
                message = self._read(slot)
                for key in ("reasoning_content", "tool_calls", "media"):
                    message.pop(key, None)
                message["content"] = edit.text
                if edit.media:
                    message["media"] = self.keep(edit.media)
                self.moved = True
                left.append(self.store(slot.nodes, message))
        return left

    # -- the open turn ---------------------------------------------------------------------------

    def _turn(self, at: At) -> _Turn:
        key = at.id if at.turn is None else at.turn
        turn = self.turn
        if turn is not None:
            if turn.key == key and (key is not None or not (turn.results or self.tail)):
                turn.reason = turn.reason or at.weight_reason
                return turn
            self.close_turn()
        if key is not None and key in self.turn_slots:
            self.turn = self._reopen(key, at)
        else:
            self.turn = _Turn(key, at, len(self.slots))
            if key is not None and self.is_earlier_turn(key):
                self.turn.reason = self.turn.reason or "copied_context"
        return self.turn

    def _reopen(self, key: str | int, at: At) -> _Turn:
        """A part of a message that was thought finished: it goes back to being open, in its old place."""
        index = self.turn_slots[key]
        slot = self.slots[index]
        turn = _Reopened(key, at, index, self._read(slot))
        turn.nodes = list(slot.nodes)
        return turn

    def close_turn(self) -> None:
        """Write the open answer with its results, and what was said meanwhile."""
        turn = self.turn
        if turn is not None:
            self.turn = None
            if isinstance(turn, _Reopened):
                if turn.changed():
                    self._replace(turn.index, turn.message(), tuple(turn.nodes))
            elif turn.texts or turn.thoughts or turn.calls or turn.media:
                if turn.key is not None:
                    self.turn_slots[turn.key] = len(self.slots)
                self.slots.append(self.store(tuple(turn.nodes), turn.message()))
                for call in turn.calls:
                    if found := turn.results.get(call["id"]):
                        self.slots.append(self.store(*found))
        self._flush_tail()

    def _flush_tail(self) -> None:
        for nodes, message in self.tail:
            self.slots.append(self.store(nodes, message))
        self.tail.clear()

    # -- the log ---------------------------------------------------------------------------------

    def store(self, nodes: tuple[int, ...], message: dict[str, JSON]) -> Slot:
        """Write a message to the end of the log."""
        log = self.log
        start = len(log)
        try:
            log += orjson.dumps(message)
        except TypeError:
            log += orjson.dumps(_writable(message, self.skipped))
        return Slot(start, len(log), nodes, message)

    def _replace(self, index: int, message: dict[str, JSON], nodes: tuple[int, ...]) -> None:
        self.slots[index] = self.store(nodes, message)
        self.moved = True

    def keep(self, media: Sequence[Media]) -> list[int]:
        """Take media over; their indices."""
        if not media:
            return []
        first = len(self.media)
        self.media += media
        return list(range(first, len(self.media)))

    def _lose(self, media: Sequence[Media]) -> None:
        if media:
            self.skipped["media: of a result that was not used"] += len(media)

    def _read(self, slot: Slot) -> dict[str, JSON]:
        message: dict[str, JSON] = orjson.loads(memoryview(self.log)[slot.start : slot.end])
        return message

    def lose(self, slots: Iterable[Slot], why: str) -> None:
        """Count messages that will not be in the row, and what they hold."""
        for slot in slots:
            self.skipped[f"message: {why}"] += 1
            if slot.role == "tool":
                self.skipped[f"tool_result: {why}"] += 1
            if slot.calls:
                self.skipped[f"tool_call: {why}"] += slot.calls
            if slot.reasoning:
                self.skipped[f"reasoning: {why}"] += 1
            if slot.media:
                self.skipped[f"media: {why}"] += len(slot.media)

    # -- the end ---------------------------------------------------------------------------------

    def placed(self) -> list[Slot]:
        """All messages in their final order: late results stand behind their call."""
        if not self.late:
            return self.slots
        order: list[Slot] = []
        index = 0
        while index < len(self.slots):
            order.append(self.slots[index])
            late = self.late.get(index)
            index += 1
            if late:
                results = []
                while index < len(self.slots) and self.slots[index].role == "tool":
                    results.append(self.slots[index])
                    index += 1
                order += self._in_call_order(order[-1], results + late)
        return order

    def _in_call_order(self, asked: Slot, results: list[Slot]) -> list[Slot]:
        order = {call["id"]: number for number, call in enumerate(self._read(asked).get("tool_calls", ()))}
        return sorted(results, key=lambda slot: order[self._read(slot)["tool_call_id"]])

    def arrivals(self, shown: Sequence[Slot]) -> list[int]:
        """When the shown messages arrived, as numbers in ascending order; late results count with their call."""
        number = {id(slot): place for place, slot in enumerate(self.slots)}
        for place, late in self.late.items():
            number |= dict.fromkeys(map(id, late), place)
        return sorted(number[id(slot)] for slot in shown)

    def messages(
        self, slots: Sequence[Slot], change: Callable[[Slot, dict[str, JSON]], None] | None = None
    ) -> tuple[Messages, list[Media]]:
        """The given messages as one text, and the media they point to.

        As long as nothing was moved or dropped the log already is that text, and is not copied.

        Raises:
            OverflowError: more than 2 GB of text, which a row cannot hold.
        """
        try:
            return self._messages(slots, change)
        except OverflowError:
            raise OverflowError("more than 2 GB of messages in one rollout; history='segments' makes several") from None

    def _messages(
        self, slots: Sequence[Slot], change: Callable[[Slot, dict[str, JSON]], None] | None
    ) -> tuple[Messages, list[Media]]:
        offsets = array("i", [0])
        if not self.moved and change is None and slots is self.slots:
            for slot in slots:
                offsets.append(slot.end)
            return Messages(self.log, offsets), self.media
        data = bytearray()
        media: list[Media] = []
        for slot in slots:
            text = self.log[slot.start : slot.end]
            if slot.media or change is not None:
                message = self._read(slot)
                if slot.media:
                    message["media"] = list(range(len(media), len(media) + len(slot.media)))
                    media += [self.media[i] for i in slot.media]
                if change is not None:
                    change(slot, message)
                text = bytearray(orjson.dumps(message))
            data += text
            offsets.append(len(data))
        return Messages(data, offsets), media


class _Reopened(_Turn):
    """A turn that was finished before, and whose message changes only if something new comes."""

    __slots__ = ("before",)

    def __init__(self, key: str | int, at: At, index: int, message: dict[str, JSON]) -> None:
        super().__init__(key, at, index)
        self.before = message
        self.texts = [message["content"]] if message["content"] else []
        self.joiners = ["\n"] * len(self.texts)
        self.thoughts = [message["reasoning_content"]] if "reasoning_content" in message else []
        self.calls = list(message.get("tool_calls", ()))
        self.media = list(message.get("media", ()))
        self.reason = message.get("weight_reason")
        self.phase = message.get("phase")
        self.at = At(message.get("id"), message.get("timestamp"), origin=message.get("origin"))

    def has(self, text: str) -> bool:
        """Whether this text is a part already; the parts were joined, so that it must stand on lines of its own."""
        return any(f"\n{text}\n" in f"\n{known}\n" for known in self.texts)

    def has_thought(self, text: str) -> bool:
        """The same for reasoning."""
        return any(f"\n{text}\n" in f"\n{known}\n" for known in self.thoughts)

    def changed(self) -> bool:
        return self.message() != self.before


def _writable(message: dict[str, JSON], skipped: Counter[str]) -> dict[str, JSON]:
    """The message with arguments that orjson cannot write (long integers, deep nesting) as JSON text."""
    calls = []
    for call in message.get("tool_calls", ()):
        function = call["function"]
        try:
            orjson.dumps(function)
        except TypeError:
            skipped["arguments: kept as text"] += 1
            function = {"name": function["name"], "arguments": exact_text(function["arguments"])}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def is_earlier(a: str | float, b: str | float) -> bool:
    """Whether one instant lies before another; what is no instant lies nowhere."""
    left, right = instant(a), instant(b)
    return left is not None and (right is None or left < right)


def instant(value: str | float) -> float | None:
    """Seconds since 1970, of ISO 8601 (UTC where it names no zone) or of a number; None of text that is no instant."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    # Milliseconds where seconds would lie beyond the year 5000.
    return value / 1000 if value > 1e11 else float(value)


def instant_text(value: str | float) -> str:
    """An instant as ISO 8601: numbers are seconds (or milliseconds) since 1970, and become UTC with Z."""
    if isinstance(value, str):
        return value
    seconds = instant(value) or 0.0
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return str(value)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
