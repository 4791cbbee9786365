"""Whether rows hold what their files hold: raw counts against row counts, file by file.

`RAW` reads the records of a format in the plainest way there is, without the decoder: what calls,
results, reasoning, media and text they hold. Everything must be in a row or counted in its `skipped`,
and nothing may be there twice.

What it cannot see: a loss in a file where as much of its kind is counted as skipped for another
reason, text moved from one rollout of a file to another, and what a picture shows.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from agent_rollouts import jsontext
from agent_rollouts.events import JSON
from agent_rollouts.features import check_message
from agent_rollouts.formats import detect, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Source

KINDS = ("tool_call", "tool_result", "reasoning", "media", "text")


class Raw(NamedTuple):
    """One thing in a file.

    `kind` is one of `KINDS`, text being `prompt` or `answer`. `key` is the id of a call (or of the one that a
    result answers), else that of the message. `value` is the name and arguments of a call, or the text; None
    where plain reading does not tell, and "" for reasoning that the log does not show.
    """

    kind: str
    key: str | None
    value: JSON


@dataclass
class FileAudit:
    """The audit of one file: counts by kind, and what is wrong (nothing, when all is well)."""

    path: str
    format: str
    rollouts: int = 0
    raw: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def counted(self, kind: str) -> int:
        """How much of a kind is counted as skipped."""
        if kind != "text":
            return sum(count for what, count in self.skipped.items() if what.startswith(f"{kind}:"))
        # A result that was withdrawn counts as a message too.
        texts = sum(count for what, count in self.skipped.items() if what.startswith(("message:", "text:")))
        return texts - self.skipped["tool_result: withdrawn"]


def audit(source: Source, format: str = "auto") -> FileAudit:
    """Compare the records of one file with its rows, in time linear in its size.

    Raises:
        FormatError: the file is not of the format (of any, or of several, with `auto`).
    """
    rollouts = list(read(source, format))
    name = detect(source) or ""
    found = FileAudit(source.path, name, rollouts=sum(map(bool, rollouts)))
    raw: defaultdict[str, list[Raw]] = defaultdict(list)
    for one in RAW[name](source):
        found.raw["text" if one.kind in ("prompt", "answer") else one.kind] += 1
        raw[one.kind].append(one)
    calls = _by_key(raw["tool_call"])
    results = _by_key(raw["tool_result"])
    texts: defaultdict[str, list[Raw]] = defaultdict(list)
    for rollout in rollouts:
        found.skipped += rollout.skipped
        for where, message in _placed(rollout, found):
            found.rows["media"] += len(message.get("media", ()))
            for call in message.get("tool_calls", ()):
                found.rows["tool_call"] += 1
                _check_call(call, calls, where, found)
            if message["role"] == "tool":
                found.rows["tool_result"] += 1
                _check_result(message, results, where, found)
            else:
                kind = "answer" if message["role"] == "assistant" else "prompt"
                texts[kind].append(Raw(kind, message.get("id"), message["content"]))
                texts["reasoning"].append(Raw("reasoning", message.get("id"), message.get("reasoning_content", "")))
    for kind in ("tool_call", "tool_result", "media"):
        counted = found.counted(kind)
        if found.raw[kind] != found.rows[kind] + counted:
            counts = f"{found.raw[kind]} in the file, {found.rows[kind]} in rows, {counted} skipped"
            found.problems.append(f"{kind}: {counts}")
    _compare_texts(raw, texts, found)
    if len({rollout.trace_id for rollout in rollouts}) < len(rollouts):
        found.problems.append("two rollouts share a trace_id")
    return found


def _by_key(raws: list[Raw]) -> dict[str | None, list[JSON]]:
    values: dict[str | None, list[JSON]] = {}
    for one in raws:
        values.setdefault(one.key, []).append(one.value)
    return values


def _placed(rollout: Rollout, found: FileAudit) -> Iterator[tuple[str, dict[str, JSON]]]:
    """The messages of a rollout, each with its place, held against the rules for their keys and their order."""
    open_calls: list[str] = []
    answers: set[str] = set()
    before: set[str | None] = set()
    compacted = "compactions" in rollout.source_meta
    for index, message in enumerate(rollout.messages):
        where = f"{rollout.trace_id}, message {index}"
        try:
            check_message(message)
        except ValueError as error:
            found.problems.append(f"{where}: {error}")
        if any(not 0 <= picture < len(rollout.media) for picture in message.get("media", ())):
            found.problems.append(f"{where}: points to media that the row does not have")
        if message["role"] == "tool":
            # Results stand behind their call, in its order; a call may have none.
            while open_calls and open_calls[0] != message["tool_call_id"]:
                open_calls.pop(0)
            if not open_calls:
                found.problems.append(f"{where}: result without its call before it")
            else:
                open_calls.pop(0)
        else:
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
        if message["role"] == "assistant":
            answer = message.get("id")
            # Without ids, what no result, prompt or compaction parts is one.
            if answer in answers or (answer is None and before == {None} and not compacted):
                found.problems.append(f"{where}: one response in two messages")
            if answer is not None:
                answers.add(answer)
        before = {message.get("id")} if message["role"] == "assistant" else set()
        yield where, message


def _check_call(call: JSON, calls: dict[str | None, list[JSON]], where: str, found: FileAudit) -> None:
    function = call["function"]
    for name, arguments in _named(call["id"], calls):
        if name == function["name"] and _same(arguments, function["arguments"]):
            return
    found.problems.append(f"{where}: name or arguments of call {call['id']} differ from the source's")


def _check_result(message: JSON, results: dict[str | None, list[JSON]], where: str, found: FileAudit) -> None:
    values = _named(message["tool_call_id"], results)
    if None not in values and message["content"] not in values:
        found.problems.append(f"{where}: result of call {message['tool_call_id']} differs from the source's")


def _named(key: str, values: dict[str | None, list[JSON]]) -> list[JSON]:
    """What the file has under an id; rows number ids that come again (`#2`), and make them where there is none."""
    return values.get(key) or values.get(key.rpartition("#")[0]) or values.get(None) or []


def _same(raw: JSON, arguments: JSON) -> bool:
    """Whether arguments say the same: objects may be kept as their text, and texts as the object they are."""
    if raw == arguments and isinstance(raw, str):
        return True
    sides = [jsontext.loads_exactly(side) if isinstance(side, str) else side for side in (raw, arguments)]
    # As text 1, 1.0 and true differ, and so does another order of keys.
    return jsontext.exact_text(sides[0]) == jsontext.exact_text(sides[1])


# Formats that write parts of an answer again when a session is resumed.
_REWRITE = frozenset({"claude_code"})


# -- text and reasoning -----------------------------------------------------------------------------


def _compare_texts(raw: dict[str, list[Raw]], texts: dict[str, list[Raw]], found: FileAudit) -> None:
    lost: Counter[str] = Counter()
    for kind in ("reasoning", "prompt", "answer"):
        shown = "reasoning" if kind == "reasoning" else "text"
        pieces = [one for one in raw[kind] if one.value]
        hidden = len(raw[kind]) - len(pieces)
        missing, more = _lost(pieces, texts[kind], rewritten=found.format in _REWRITE)
        found.rows[shown] += len(pieces) - len(missing)
        # Repeated parts are counted one by one, what was withdrawn by the message.
        again = [one for one in missing if one.kind == "again"]
        lost[shown] += hidden + len(again) + len({one.key for one in missing if one.kind != "again"})
        # What the program shows the model stands in other records too.
        if more and kind != "prompt":
            found.problems.append(f"{shown}: {more} lines in rows that the file does not have, or not so often")
    for shown, count in lost.items():
        if count > (counted := found.counted(shown)):
            found.problems.append(f"{shown}: {count} of {found.raw[shown]} in no row, {counted} skipped")


def _lost(pieces: list[Raw], texts: list[Raw], *, rewritten: bool) -> tuple[list[Raw], int]:
    """Pieces that no text of the rows holds, and how many lines of the texts no piece accounts for.

    A text is a piece, or several of one message, joined by line breaks (cited sentences by nothing). Each
    line of the rows can be used once. A piece that an answer has twice must not be found twice where pieces
    are `rewritten`.
    """
    whole = Counter(one.value for one in texts)
    seen: set[tuple[str | None, str]] = set()
    lost, left = [], []
    for one in pieces:
        if rewritten and one.kind != "prompt" and (one.key, one.value) in seen:
            lost.append(one._replace(kind="again"))
        elif whole[one.value] > 0:
            whole[one.value] -= 1
        else:
            left.append(one)
        seen.add((one.key, one.value))
    lines: Counter[str] = Counter()
    for text, count in whole.items():
        for line, times in _lines(text).items():
            lines[line] += count * times
    of_message = {str(one.key): one.value for one in texts if one.key is not None}
    after: dict[str, int] = {}
    for one in left:
        needed = _lines(one.value)
        if all(lines[line] >= count for line, count in needed.items()):
            lines.subtract(needed)
        elif (at := of_message.get(str(one.key), "").find(one.value, after.get(str(one.key), 0))) >= 0:
            after[str(one.key)] = at + len(one.value)
        else:
            lost.append(one)
    for key in after:
        for line in _lines(of_message[key]):
            lines[line] = 0
    return lost, sum(lines.values())


def _lines(text: str) -> Counter[str]:
    return Counter(line for line in text.split("\n") if line.strip())


# -- the formats, read plainly ----------------------------------------------------------------------


def _records(source: Source) -> Iterator[dict[str, JSON]]:
    """Records with integers of any length as they were written."""
    for record in source.records():
        if not jsontext.is_exact(record):
            # Not a line of its own, or nested too deep: as good as it was read.
            with contextlib.suppress(ValueError):
                record = source.exact()
        yield record


def _id(value: JSON) -> str | None:
    return value if isinstance(value, str) and value else None


def _claude_code(source: Source) -> Iterator[Raw]:
    """Blocks of user and assistant records; a record that stands twice (same uuid) is read once."""
    seen: set[str] = set()
    for number, record in enumerate(_records(source)):
        uuid = record.get("uuid")
        if isinstance(uuid, str):
            if uuid in seen:
                continue
            seen.add(uuid)
        message = record.get("message")
        if not isinstance(message, dict):
            message = {"content": message}
        content = message.get("content")
        match record.get("type"):
            case "user":
                yield from _claude_code_blocks("prompt", str(uuid or number), content)
            case "assistant":
                id = message.get("id") or record.get("requestId") or uuid or number
                yield from _claude_code_blocks("answer", str(id), content)
            case "attachment":
                match record.get("attachment"):
                    case {"type": "queued_command", "prompt": parts} | {"type": "file", "content": parts}:
                        yield from _claude_code_media(parts)


def _claude_code_blocks(said: str, key: str, content: JSON) -> Iterator[Raw]:
    for block in content if isinstance(content, list) else [content]:
        match block:
            case str(text) | {"type": "text", "text": str(text)} if text:
                yield Raw(said, key, text)
            case {"type": "tool_use" | "server_tool_use" | "mcp_tool_use", **call} if said == "answer":
                arguments = {} if call.get("input") is None else call["input"]
                yield Raw("tool_call", _id(call.get("id")), (call.get("name"), arguments))
            case {"type": "tool_result"} | {"tool_use_id": str()}:
                yield Raw("tool_result", _id(block.get("tool_use_id")), _claude_code_text(block.get("content")))
                yield from _claude_code_media(block.get("content"))
            case {"type": "thinking", "thinking": str(text)} if said == "answer":
                yield Raw("reasoning", key, text)
            case {"type": "redacted_thinking"} if said == "answer":
                yield Raw("reasoning", key, "")
            case {"type": "image" | "document"} if said == "prompt":
                yield Raw("media", None, None)


def _claude_code_text(content: JSON) -> str | None:
    """The text of a result, None where it holds blocks that are neither text nor media."""
    texts = []
    for block in content if isinstance(content, list) else [content or ""]:
        match block:
            case str(text) | {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image" | "document"}:
                pass
            case _:
                return None
    return "\n".join(texts)


def _claude_code_media(content: JSON) -> Iterator[Raw]:
    for block in content if isinstance(content, list) else [content]:
        match block:
            case {"type": "image" | "document"}:
                yield Raw("media", None, None)


_CODEX_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "local_shell_call": "action",
    "web_search_call": "action",
    "tool_search_call": "arguments",
    "image_generation_call": "revised_prompt",
}
_CODEX_HOSTED = ("web_search_call", "image_generation_call")
_CODEX_OUTPUTS = ("function_call_output", "custom_tool_call_output", "tool_search_output")
_CODEX_ITEMS = {*_CODEX_CALLS, *_CODEX_OUTPUTS, "message", "reasoning", "agent_message"}


def _codex(source: Source) -> Iterator[Raw]:
    """Response items, enveloped or bare, and those that a compaction put in their place.

    Files that hold nothing but events for the screen are read by these. Items have no message of their own:
    what stands between two outputs or prompts is one.
    """
    turn = 0
    has_items = False
    pictures: set[str] = set()
    screen: list[Raw] = []
    for record, is_copy in _codex_records(source):
        kind = record.get("type")
        if kind in ("event_msg", "compacted"):
            turn += 1
            has_items = has_items or kind == "compacted"
            screen += _codex_screen(record.get("payload"), f"turn {turn}")
        if kind not in _CODEX_ITEMS:
            continue
        has_items = True
        if kind in _CODEX_OUTPUTS or record.get("role", "assistant") != "assistant":
            turn += 1
        for raw in _codex_item(record, f"turn {turn}"):
            # What a compaction keeps is repeated with its pictures.
            if raw.kind != "media" or not is_copy or raw.value not in pictures:
                yield raw
            if raw.kind == "media":
                pictures.add(raw.value)
    if not has_items:
        yield from screen


def _codex_records(source: Source) -> Iterator[tuple[dict[str, JSON], bool]]:
    """Items without their envelope, events and compactions with it; and whether a compaction repeats it."""
    for record in _codex_lines(source):
        match record:
            case {"type": "response_item", "payload": dict(item)}:
                yield item, False
            case {"type": "inter_agent_communication", "payload": dict(item)}:
                yield {**item, "type": "agent_message"}, False
            case {"type": "event_msg" | "compacted", "payload": dict(payload)}:
                yield record, False
                history = payload.get("replacement_history")
                for item in history if record["type"] == "compacted" and isinstance(history, list) else ():
                    if isinstance(item, dict):
                        yield item, True
            case {"session": dict(), "items": list(items)}:
                yield from ((item, False) for item in items if isinstance(item, dict))
            case _ if "payload" not in record:
                yield record, False


def _codex_lines(source: Source) -> Iterator[dict[str, JSON]]:
    if source.name.endswith(".json"):
        with source.open() as stream:
            try:
                document = orjson.loads(stream.read())
            except ValueError:
                document = None
        if isinstance(document, dict):
            yield document
            return
    yield from _records(source)


def _codex_screen(event: JSON, turn: str) -> Iterator[Raw]:
    match event:
        case {"type": "user_message", "message": str(text), **more}:
            yield Raw("prompt", turn, text)
            pictures: list[JSON] = [more.get("images"), more.get("local_images")]
            yield from (Raw("media", None, None) for urls in pictures if isinstance(urls, list) for _ in urls)
        case {"type": "agent_message", "message": str(text)} if text:
            yield Raw("answer", turn, text)
        case {"type": "agent_reasoning", "text": str(text)} if text:
            yield Raw("reasoning", turn, text)


def _codex_item(item: dict[str, JSON], turn: str) -> Iterator[Raw]:
    kind = str(item["type"])
    if kind in _CODEX_CALLS:
        value = item.get(_CODEX_CALLS[kind])
        if kind in ("custom_tool_call", "image_generation_call"):
            # Raw text, which becomes the only argument.
            value = {} if value is None and kind != "custom_tool_call" else {_CODEX_CALLS[kind]: value}
        has_name = kind in ("function_call", "custom_tool_call")
        key = _id(item.get("call_id")) or (None if has_name else _id(item.get("id")))
        name = item.get("name") if has_name else kind.removesuffix("_call")
        yield Raw("tool_call", key, (name, {} if value is None else value))
        if kind in _CODEX_HOSTED:
            # Of what ran at the provider the log has no output; its result is an empty one.
            yield Raw("tool_result", key, "")
            if item.get("result"):
                yield Raw("media", None, str(item["result"]))
    elif kind == "reasoning":
        yield Raw("reasoning", turn, _codex_thought(item))
    else:
        content = item.get("output" if kind in _CODEX_OUTPUTS else "content")
        if isinstance(content, dict):
            content = content.get("content")
        texts, media = _codex_split(content)
        if kind in _CODEX_OUTPUTS:
            # Other outputs are shown as the JSON that they are.
            value = "\n".join(texts) if isinstance(content, str | list) else None
            yield Raw("tool_result", _id(item.get("call_id")), value)
        else:
            # Some versions deliver another agent's instruction as if the model said it.
            is_answer = item.get("role") == "assistant" and not "".join(texts).startswith('{"author":')
            if text := "\n".join(texts):
                yield Raw("answer" if is_answer else "prompt", turn, text)
        yield from (Raw("media", None, part) for part in media)


def _codex_thought(item: dict[str, JSON]) -> str:
    """The content of a reasoning item, else its summary, as one text: it is withdrawn as one."""
    for parts in (item.get("content"), item.get("summary")):
        found = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if texts := [text for text in found if isinstance(text, str) and text]:
            return "\n\n".join(texts)
    return ""


def _codex_split(parts: JSON) -> tuple[list[str], list[str]]:
    """The texts of a content, and whatever in it is none."""
    texts: list[str] = []
    media: list[str] = []
    for part in [parts] if isinstance(parts, str) else parts if isinstance(parts, list) else ():
        match part:
            case (
                str(text)
                | {"type": "input_text" | "output_text" | "text", "text": str(text)}
                | {"type": "refusal", "refusal": str(text)}
            ):
                texts.append(text)
            case {"type": "encrypted_content"}:
                pass
            case _:
                media.append(jsontext.exact_text(part))
    return texts, media


RAW: dict[str, Callable[[Source], Iterator[Raw]]] = {"claude_code": _claude_code, "codex": _codex}
