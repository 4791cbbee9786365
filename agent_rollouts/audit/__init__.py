"""Whether rows hold what their files hold: raw counts against row counts, file by file.

`audit/<format>.py` reads the records of a format in the plainest way there is, without the decoder: what
calls, results, reasoning, media and text they hold. Everything must be in a row or counted in its `skipped`,
and nothing may be there twice.

What it cannot see: a loss in a file where as much of its kind is counted as skipped for another
reason, text moved from one rollout of a file to another, and what a picture shows.
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent_rollouts import jsontext
from agent_rollouts.audit.raw import Raw
from agent_rollouts.events import JSON
from agent_rollouts.features import check_message
from agent_rollouts.formats import DECODERS, detect, read
from agent_rollouts.rollout import Rollout
from agent_rollouts.source import Source

RAW: dict[str, Callable[[Source], Iterator[Raw]]] = {
    name: importlib.import_module(f"agent_rollouts.audit.{name}").raw for name in DECODERS
}
KINDS = ("tool_call", "tool_result", "reasoning", "media", "text")


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
            if answer in answers or (answer is None and before == {None} and not compacted and found.format in _PARTED):
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
    return (values.get(key) or values.get(key.rpartition("#")[0]) or []) + values.get(None, [])


def _same(raw: JSON, arguments: JSON) -> bool:
    """Whether arguments say the same: objects may be kept as their text, and texts as the object they are."""
    if raw == arguments and isinstance(raw, str):
        return True
    sides = [jsontext.loads_exactly(side) if isinstance(side, str) else side for side in (raw, arguments)]
    # As text 1, 1.0 and true differ, and so does another order of keys.
    return jsontext.exact_text(sides[0]) == jsontext.exact_text(sides[1])


# Formats that write parts of an answer again when a session is resumed.
_REWRITE = frozenset({"claude_code"})
# Formats that write the parts of an answer one by one, without an id for the whole.
_PARTED = frozenset({"claude_code", "codex"})


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
