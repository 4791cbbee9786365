r"""Hermes Agent's trajectories: ShareGPT with the calls as XML, one conversation a line.

`trajectory_samples.jsonl` and `failed_trajectories.jsonl` of the CLI; `batch_<n>.jsonl` of the batch runner, all of
which `trajectories.jsonl` repeats; `*_compressed.jsonl` of the trajectory compressor; each also as `.gz`:

    {"conversations": [
        {"from": "system", "value": "You are a function calling AI model. …<tools>\n[{\"name\": \"ls\", …}]\n</tools>…"},
        {"from": "human", "value": "Which files?"},
        {"from": "gpt", "value": "<think>\nLook.\n</think>\nOne moment.\n<tool_call>\n{\"name\": \"ls\", \"arguments\": {}}\n</tool_call>"},
        {"from": "tool", "value": "<tool_response>\n{\"tool_call_id\": \"call_1\", \"name\": \"ls\", \"content\": \"a.txt\"}\n</tool_response>"},
        {"from": "gpt", "value": "<think>\n</think>\nOne: a.txt."}],
     "timestamp": "2026-03-30T14:22:31.456789", "model": "m", "completed": true}

    {"prompt_index": 4, "conversations": […], "metadata": {"batch_num": 0, "timestamp": "…", "model": "m"}, "completed": true,
     "partial": false, "api_calls": 2, "toolsets_used": ["file"], "tool_stats": {"ls": {"count": 1, …}}, "tool_error_counts": {…}}

* The system turn is made when the row is saved; it tells the tools, and nobody said it. Any other is a message.
* A block is JSON on a line between two lines of tags. It is decoded as JSON: arguments may hold the tags. The calls of
  a turn are the blocks that it ends with; those before them are quoted.
* The ids of calls stand with the results. All results of a turn are one `tool` turn, the k-th for the k-th call.
* The CLI puts the latest prompt at turn 1, where the first one stood: such a turn is dropped, and the answers to the
  lost one have weight 0.
* `distill.shapes.hermes` writes these rows again, byte for byte. What it needs for that and messages do not hold is in
  `source_meta`; numbers in it count turns.

Source of the rules: Hermes Agent 0.19 (`agent/trajectory.py`, `agent_runtime_helpers.py`, `batch_runner.py`,
`trajectory_compressor.py`) and its page "Trajectory Format".
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent_rollouts import jsontext
from agent_rollouts.events import JSON, At, Called, End, Event, Facts, Returned, Said, Skipped, Start, Thought
from agent_rollouts.formats import _chat
from agent_rollouts.source import HEAD_RECORDS, Head, Source

SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    "You may call one or more functions to assist with the user query. If available tools are not relevant in "
    "assisting with user query, just respond in natural conversational language. Don't make assumptions about what "
    "values to plug into functions. After calling & executing the functions, you will be provided with function "
    "results within <tool_response> </tool_response> XML tags. Here are the available tools:\n<tools>\n",
    "\n</tools>\nFor each function call return a JSON object, with the following pydantic model json schema for each:\n"
    "{'title': 'FunctionCall', 'type': 'object', 'properties': {'name': {'title': 'Name', 'type': 'string'}, "
    "'arguments': {'title': 'Arguments', 'type': 'object'}}, 'required': ['name', 'arguments']}\nEach function call "
    "should be enclosed within <tool_call> </tool_call> XML tags.\nExample:\n<tool_call>\n{'name': <function-name>,"
    "'arguments': <args-dict>}\n</tool_call>",
)
"""The system turn before and behind its list of tools."""

NOTICE = "\n\nSome of your previous tool responses may be summarized to preserve context."
"""What the trajectory compressor adds to the system turn."""

THINK = ("<think>\n", "\n</think>\n")
"""What stands before and behind a thought."""

NO_THOUGHT = "<think>\n</think>\n"
"""What stands before an answer without one."""

SCREENSHOT = "[screenshot]"
"""What Hermes writes for a picture in a list of content parts."""

MAY_REPEAT: tuple[str, ...] = ("batch_*.jsonl", "trajectories.jsonl")
"""Files of the batch runner, of which the latter holds the rows of the former again."""

_ROLES = {**_chat.ROLES, "gpt": "assistant", "observation": "tool"}
_ORIGINS = {
    "[CONTEXT SUMMARY]:": "summary",
    "[CONTEXT COMPACTION": "summary",
    "[System: ": "reminder",
}
# What the agent puts in the place of an answer that never came.
_NO_ANSWER = "(empty)"
_MARK = SYSTEM[0][:100]
_DECODER = json.JSONDecoder()


def claims(head: Head) -> bool:
    """Whether there is a row of ShareGPT turns with Hermes' system turn, its XML blocks or its keys."""
    data = head.data
    return any(_is_row(record, data) for record in head.records) or _is_row(head.document, data)


def _is_row(row: JSON, data: bytes) -> bool:
    turns = _turns(row)
    if not turns:
        return False
    if {"tool_stats", "api_calls", "compression_metrics"} & set(row) or {"completed", "timestamp"} <= set(row):
        return True
    for turn in turns:
        match turn:
            case {"from": "system", "value": str(text)} if text.startswith(_MARK):
                return True
            # A list of tools that is longer than the head is cut off, and the turn's text with it.
            case {"from": "system", "value": ""} if _MARK.encode() in data:
                return True
            case {"from": "gpt" | "tool", "value": str(text)} if (
                "<tool_call>\n{" in text or "<tool_response>\n" in text
            ):
                return True
    return False


def decode(source: Source) -> Iterator[Event]:
    """The rows, each a rollout; see the module's docstring for the rules."""
    for number, row in enumerate(_rows(source)):
        turns = _turns(row)
        if not turns:
            yield Skipped("record: without a conversation")
            continue
        index = row.get("prompt_index")
        name = index if isinstance(index, int | str) else number
        yield Start(str(number))
        yield from _Conversation(row, turns, f"{source.stem}:{name}").events()
        yield End()


def held(source: Source) -> Iterator[tuple[str, int, int]]:
    """Identity, rank and number of turns of every row; of equal rows the one of the higher rank is a copy."""
    rank = 2 if source.name == "trajectories.jsonl" else 1
    for row in _rows(source):
        if turns := _turns(row):
            yield _identity(row, turns), rank, len(turns)


def _rows(source: Source) -> Iterator[dict[str, JSON]]:
    source.head.limit = HEAD_RECORDS
    if _turns(source.head.document) and not any(map(_turns, source.head.records)):
        yield source.document()  # `--save_sample` writes its one row indented
        return
    for row in source.records():
        yield row if jsontext.is_exact(row) else source.exact()


def _turns(row: JSON) -> list[dict[str, JSON]]:
    """The turns of a row, those that are ones."""
    turns = row.get("conversations", row.get("traces")) if isinstance(row, dict) else None
    if not isinstance(turns, list):
        return []
    return [turn for turn in turns if isinstance(turn, dict) and "from" in turn and "value" in turn]


def _identity(row: dict[str, JSON], turns: Sequence[JSON]) -> str:
    return hashlib.sha256(_chat.json_text([row.get("prompt_index"), turns]).encode()).hexdigest()[:32]


class Block(NamedTuple):
    """The object between two tags, where its tags begin and end, and whether it is spelt as Hermes does."""

    value: dict[str, JSON]
    start: int
    end: int
    is_plain: bool


def blocks(text: str, tag: str) -> tuple[list[Block], list[int]]:
    """The blocks of a tag that begin on a line of their own, and where others begin that are none."""
    found: list[Block] = []
    broken: list[int] = []
    opening, closing = f"<{tag}>\n", f"\n</{tag}>"
    start = text.find(opening)
    while start >= 0:
        end = start + 1
        if start == 0 or text[start - 1] == "\n":
            if block := _block(text, start, start + len(opening), closing):
                found.append(block)
                end = block.end
            else:
                broken.append(start)
        start = text.find(opening, end)
    return found, broken


def _block(text: str, start: int, at: int, closing: str) -> Block | None:
    try:
        value, end = _DECODER.raw_decode(text, at)
        spelt = text[at:end]
        is_plain = json.dumps(value, ensure_ascii=False) == spelt
        if not is_plain and "\\u" in spelt:  # lone surrogates, which Arrow does not take
            value = jsontext.tolerant(spelt)[0]
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not text.startswith(closing, end):
        return None
    return Block(value, start, end + len(closing), is_plain)


class _Conversation:
    """One row, and what must be remembered from turn to turn."""

    def __init__(self, row: dict[str, JSON], turns: list[dict[str, JSON]], trace_id: str) -> None:
        self.row = row
        self.turns = turns
        self.trace_id = trace_id
        self.tools: list[JSON] | None = None
        self.meta: dict[str, JSON] = {}
        self.results = [_results(turn["value"]) if _role(turn) == "tool" else _Results() for turn in turns]
        self.result_ids = {one.id for results in self.results for one in results.found}
        self.call_ids: set[str] = set()
        self.open: list[tuple[str, str]] = []

    def events(self) -> Iterator[Event]:
        misplaced = self._misplaced()
        lost: str | None = None
        for number, turn in enumerate(self.turns):
            role, value = _role(turn), turn["value"]
            lost = None if role == "user" else lost
            at = At(turn=number, weight_reason=lost)
            if number == misplaced:
                # The prompt that stood here, and that the next answers are to, is not in the row.
                lost = "prompt_lost"
                yield Skipped("message: prompt of a later turn in the place of the first")
            elif role == "assistant":
                yield from self._answer(value, at, number)
            elif role == "tool":
                yield from self._returned(At(turn=number), number)
            elif role is None:
                yield Skipped("message: unknown role")
            elif number or role == "user" or not self._is_template(value):
                yield from self._said(value, at, role, number)
        yield self._facts()
        if missing := len(self.row.get("conversations") or self.row["traces"]) - len(self.turns):
            yield Skipped("record: turn of unexpected shape", count=missing)

    def _facts(self) -> Facts:
        row, metadata = self.row, self.row.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        # Its other keys, in their order; the turns leave a place holder.
        rest = {
            key: None if value is row.get("conversations", row.get("traces")) else value for key, value in row.items()
        }
        if self.tools is None and (tools := _listed_tools(row.get("tools"))) is not None:
            self.tools = tools
            del rest["tools"]
        values = {
            "trace_id": self.trace_id,
            "identity": _identity(row, self.turns),
            "model": _chat.text_or_none(row.get("model")) or metadata.get("model"),
            "completed": row.get("completed"),
            # A row is written when its conversation is over.
            "ended_at": row.get("timestamp") or metadata.get("timestamp"),
            "tools": self.tools,
        }
        return Facts(values, {"row": rest, **self.meta})

    def _misplaced(self) -> int | None:
        """The turn of the first prompt, where a later prompt repeats it."""
        prompts = [number for number, turn in enumerate(self.turns) if _role(turn) == "user"]
        for number in reversed(prompts[1:]):
            if self.turns[number]["value"] == self.turns[prompts[0]]["value"] and prompts[0] == 1:
                self.meta["misplaced_prompt"] = number
                return prompts[0]
        return None

    def _is_template(self, value: JSON) -> bool:
        tools, has_notice = _template_tools(value) if isinstance(value, str) else (None, False)
        if tools is None:
            return False
        self.tools = tools
        self.meta["system_template"] = "hermes"
        if has_notice:
            self.meta["summary_notice"] = True
        return True

    def _said(self, value: JSON, at: At, role: str, number: int) -> Iterator[Event]:
        text, media, _ = _chat.content(value, at)
        if _is_parts(value):
            texts = [part["text"] for part in value]
            self._note("parts", number, [None if text == SCREENSHOT else len(text) for text in texts])
            text = "\n".join(text for text in texts if text != SCREENSHOT)
            if pictures := texts.count(SCREENSHOT):
                yield Skipped("media: Hermes kept no picture", count=pictures)
        if role == "user":
            at = at._replace(origin=next((o for start, o in _ORIGINS.items() if text.startswith(start)), None))
        yield Said(at, role, text, media)

    def _answer(self, value: JSON, at: At, number: int) -> Iterator[Event]:
        text = value if isinstance(value, str) else _chat.content(value, at)[0]
        # Others write a turn for each result.
        following = itertools.takewhile(lambda results: results.found, self.results[number + 1 :])
        results = [result for turn in following for result in turn.found]
        calls, head, left = _split_calls(text, is_followed=bool(results))
        before, thought, behind, said = _split_thought(head)
        if calls and not said.strip():
            behind, said = behind + said, ""
        elif calls:
            said = said.removesuffix("\n")
        self._note_layout(number, before, thought, behind, text[len(before + thought + behind) :])
        if left:
            yield Skipped("record: tool_call in the text", count=left)
        if said == _NO_ANSWER:
            at = at._replace(origin="synthetic", weight_reason="synthetic")
        if thought:
            yield Thought(at, thought)
        if said:
            yield Said(at, "assistant", said)
        if not (thought or said or calls):
            self.meta.setdefault("empty_turns", []).append(number)
            yield Skipped("message: empty answer")
        self.open = []
        places = _places([call["name"] for call in calls], results)
        for place, call in enumerate(calls):
            result = results[places.index(place)] if place in places else None
            id = self._call_id(result.id if result else "")
            if result and id != result.id:
                self.meta.setdefault("result_ids", {})[id] = result.id
                if result.id:
                    yield Skipped("id: duplicate call id renamed")
            self.open.append((id, call["name"]))
            yield Called(at, id, call["name"], jsontext.arguments(_dumps(call.get("arguments", {}))))

    def _call_id(self, original: str) -> str:
        """The id of the result, made different from those before; without one, a number as `assemble` gives it."""
        id, number = original or f"call_{len(self.call_ids) + 1}", 2
        while id in self.call_ids or (not original and id in self.result_ids):
            id, number = f"{original}#{number}" if original else f"{id}_", number + 1
        self.call_ids.add(id)
        return id

    def _note_layout(self, number: int, before: str, thought: str, behind: str, rest: str) -> None:
        """Remember how a thought is set off, unless it is as Hermes sets off native reasoning."""
        usual = THINK[0] + thought + THINK[1] if thought else "" if "<think>" in rest else NO_THOUGHT
        if before + thought + behind != (usual if rest else usual.rstrip()):
            self._note("think", number, [before, behind])

    def _returned(self, at: At, number: int) -> Iterator[Event]:
        results, calls = self.results[number], self.open
        if results.malformed:
            yield Skipped("record: malformed tool_response, kept as text", count=results.malformed)
        if results.beside:
            yield Skipped("text: beside a tool_response")
        places = _places([name for _, name in calls], results.found)
        self.open = [call for place, call in enumerate(calls) if place not in places]
        for result, place in zip(results.found, places, strict=True):
            if place is None:
                yield Returned(at, result.id or "unknown", result.text)
                continue
            if result.was_json:
                self.meta.setdefault("content_was_json", []).append(calls[place][0])
            yield Returned(at, calls[place][0], result.text)

    def _note(self, key: str, number: int, value: JSON) -> None:
        self.meta.setdefault(key, {})[str(number)] = value


class _Result(NamedTuple):
    id: str
    name: JSON
    text: str
    was_json: bool = False


class _Results(NamedTuple):
    """The results of a turn; how many of them are malformed, and whether there is text beside them."""

    found: Sequence[_Result] = ()
    malformed: int = 0
    beside: bool = False


def _role(turn: dict[str, JSON]) -> str | None:
    return _ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None


def _is_parts(value: JSON) -> bool:
    if not isinstance(value, list):
        return False
    return all(isinstance(p, dict) and set(p) == {"type", "text"} and isinstance(p["text"], str) for p in value)


def _template_tools(text: str) -> tuple[list[JSON] | None, bool]:
    """The tools of Hermes' system turn (None where the text is another), and whether it ends with the notice."""
    has_notice = text.endswith(NOTICE)
    text = text.removesuffix(NOTICE)
    if not text.startswith(SYSTEM[0]) or not text.endswith(SYSTEM[1]):
        return None, False
    return _listed_tools(text[len(SYSTEM[0]) : -len(SYSTEM[1])]), has_notice


def _listed_tools(value: JSON) -> list[JSON] | None:
    """A list of function schemas, given as a list or as its JSON text; None where it is none."""
    if isinstance(value, str):
        try:
            value = jsontext.tolerant(value)[0] if "\\u" in value else json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        return None
    return [tool if isinstance(tool.get("function"), dict) else _function(tool) for tool in value]


def _function(tool: dict[str, JSON]) -> dict[str, JSON]:
    # `required` is null in all that Hermes writes.
    function = {key: value for key, value in tool.items() if key != "required" or value is not None}
    return {"type": "function", "function": function}


def _split_calls(text: str, *, is_followed: bool) -> tuple[list[dict[str, JSON]], str, int]:
    """The calls of an answer, its text without them, and how many blocks stay in it.

    Where others have written blocks that Hermes would not (text behind them, another spelling), they are calls
    if results follow.
    """
    every, broken = blocks(text, "tool_call")
    found = [block for block in every if isinstance(block.value.get("name"), str)]
    left = len(broken) + len(every) - len(found)
    calls: list[Block] = []
    edge = len(text)
    for block in reversed(found):
        if block.end != edge or not block.is_plain or list(block.value) != ["name", "arguments"]:
            break
        calls.insert(0, block)
        edge = block.start - 1
    if calls or not is_followed:
        head = text[: calls[0].start] if calls else text
        return [block.value for block in calls], head, left + len(found) - len(calls)
    edges = [0, *(edge for block in found for edge in (block.start, block.end)), len(text)]
    pieces = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    head = "\n".join(filter(None, (piece.strip("\n") for piece in pieces))) if found else text
    return [block.value for block in found], f"{head}\n" if found and head else head, left


def _split_thought(text: str) -> tuple[str, str, str, str]:
    """What stands before a leading thought, it, what stands behind it, and the rest; together they are the text."""
    start = len(text) - len(text.lstrip()) + len("<think>")
    if not text.lstrip().startswith("<think>"):
        return "", "", "", text
    # First a tag on a line of its own: a thought may speak of the tag.
    end = f"{text}\n".find(THINK[1], start)
    stop = end + len(THINK[1])
    if end < 0:
        end = text.find("</think>", start)
        if end < 0:
            return "", "", "", text
        stop = len(text) - len(text[end + len("</think>") :].lstrip("\n"))
        end -= text[start:end].endswith("\n")
    if text[start:end].startswith("\n"):
        start += 1
    if not text[start:end].strip():
        start = end
    return text[:start], text[start:end], text[end:stop], text[stop:]


def _results(value: JSON) -> _Results:
    """Results of a turn in order; what is not as it should be is kept as its text, up to the next one."""
    text = value if isinstance(value, str) else _chat.json_text(value)
    found, broken = blocks(text, "tool_response")
    if not found and not broken:
        return _Results([_Result("", None, text)], malformed=1)
    starts = sorted([*broken, *(block.start for block in found), len(text) + 1])
    ends = {block.start: block.end for block in found} | {at: starts[starts.index(at) + 1] - 1 for at in broken}
    values = {block.start: _result(block.value) for block in found}
    results = [values.get(at) or _Result("", None, text[at : ends[at]]) for at in starts[:-1]]
    beside = [text[a:b] for a, b in zip([0, *(ends[at] for at in starts[:-1])], starts, strict=True)]
    return _Results(results, len(broken), any(map(str.strip, beside)))


def _result(value: dict[str, JSON]) -> _Result:
    id, content = value.get("tool_call_id"), value.get("content")
    was_json = content is not None and not isinstance(content, str)
    return _Result(
        id if isinstance(id, str) else "", value.get("name"), _dumps(content) if was_json else content or "", was_json
    )


def _places(names: Sequence[JSON], results: Sequence[_Result]) -> list[int | None]:
    """Which call each result answers: the first open one of its name, else the first; none when all are answered."""
    free = list(range(len(names)))
    places: list[int | None] = []
    for result in results:
        place = next((place for place in free if names[place] == result.name), free[0] if free else None)
        if place is not None:
            free.remove(place)
        places.append(place)
    return places


def _dumps(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)
