"""A whole rollout within a number of tokens, for a model that is to judge it.

    print(view(row, 4000))

The task, every step in one line, errors and what became of them, the evidence of the outcome, the end. What a part does
not need the steps get. Where there are more steps than lines, those with errors, recoveries, prompts or evidence stay
before others, and outer ones before inner ones; each gap says what it leaves out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from agent_rollouts.distill.calls import Call, Row, calls
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.windows import BYTES_PER_TOKEN
from agent_rollouts.events import JSON
from agent_rollouts.features import PROMPT_ORIGINS
from agent_rollouts.jsontext import exact_text

LEAST = 400
"""Tokens below which a view says too little to be judged."""

_TASKS = PROMPT_ORIGINS | {"summary", "agent_message"}
_WIDTHS = (400, 250, 160, 110, 80, 60)  # bytes of a line
_GAP = 120
_READ = 1600  # characters of a text that a line is made of
_SHARES = {"task": 0.2, "errors": 0.12, "evidence": 0.08, "end": 0.2}


class Line(NamedTuple):
    """A step in one line; those that tell are kept longest, and kind is what a gap counts."""

    text: str
    tells: bool = False
    kind: str = ""


def view(row: Row, tokens: int) -> str:
    """The rollout in at most this many tokens, estimated as a quarter of its bytes; `LEAST` or more.

    Uses `messages` and, where they are there, the columns of `evidence` (else these are made) and those that say
    where the row comes from.
    """
    size = tokens * BYTES_PER_TOKEN
    known = row if row.get("outcome_evidence") is not None else evidence(row)
    messages, found = row["messages"], calls(row)
    first = _first_task(messages)
    last = next((i for i in range(len(messages) - 1, -1, -1) if _is_answer(messages[i])), -1)
    parts = {
        "head": clip(_facts(row, found), size // 16),
        "task": clip(messages[first]["content"] if first >= 0 else "(none)", int(size * _SHARES["task"])),
        "errors": _joined(fit(_errors(known, found), int(size * _SHARES["errors"]))),
        "evidence": _joined(fit(_evidence(known), int(size * _SHARES["evidence"]))),
        "end": clip(messages[last]["content"] if last >= 0 else "(no answer)", int(size * _SHARES["end"])),
    }

    def written(steps: str) -> str:
        return (
            f"{parts['head']}\n\n# Task [{first}]\n{parts['task']}\n\n# Steps\n{steps}\n\n# Errors\n{parts['errors']}"
            f"\n\n# Evidence\n{parts['evidence']}\n\n# End [{last}]\n{parts['end']}"
        )

    left = size - _size(written(""))
    return written(_joined(fit(_steps(messages, found, known, {first, last}), left)))


def conversation(messages: Sequence[Mapping[str, JSON]], tokens: int) -> str:
    """Messages in at most this many tokens, each in one line, the first and the last longest."""
    lines = [
        Line(f"{m.get('role')}: {_short(m.get('content') or '')}{_called(m)}", kind=str(m.get("role")))
        for m in messages
    ]
    return _joined(fit(lines, tokens * BYTES_PER_TOKEN))


def clip(text: str, size: int) -> str:
    """The text in at most this many bytes: its head and its tail, and between them how much was cut."""
    if len(text) <= size and _size(text) <= size:
        return text
    mark = f" […{len(text):,} characters, cut…] "
    room = size - len(mark.encode())
    if room < len(mark):
        return _encoded(text[:size])[: max(size, 0)].decode("utf-8", "ignore")
    tail = room // 3
    head = _encoded(text[: room - tail])[: room - tail].decode("utf-8", "ignore")
    return head + mark + _encoded(text[-tail:])[-tail:].decode("utf-8", "ignore")


def fit(lines: Sequence[Line], size: int) -> list[str]:
    """The lines in at most this many bytes with their ends: the wider the fewer they are, else some with gaps."""
    sizes = [_size(line.text) for line in lines]
    for width in _WIDTHS:
        if sum(min(each, width) + 1 for each in sizes) <= size:
            return [clip(line.text, width) for line in lines]
    chosen = _chosen(lines, [min(each, _WIDTHS[-1]) + 1 for each in sizes], size)
    out: list[str] = []
    gap: Counter[str] = Counter()
    for place, line in enumerate(lines):
        if place not in chosen:
            gap[line.kind] += 1
            continue
        if gap:
            out.append(_gap(gap))
            gap.clear()
        out.append(clip(line.text, _WIDTHS[-1]))
    return out + ([_gap(gap)] if gap and size > _GAP else [])


def _chosen(lines: Sequence[Line], sizes: Sequence[int], size: int) -> set[int]:
    """Which lines to keep, so that they and the gaps between them are not larger."""
    count = len(lines)
    chosen: set[int] = {-1, count}
    left = size - (_GAP + 1)  # there is one gap: all of it
    for place in sorted(range(count), key=lambda i: (not lines[i].tells, min(i, count - 1 - i))):
        # A line splits a gap in two, shortens one, or closes it.
        gaps = 1 - (place - 1 in chosen) - (place + 1 in chosen)
        cost = sizes[place] + gaps * (_GAP + 1)
        if cost <= left:
            chosen.add(place)
            left -= cost
    return chosen


def _gap(left_out: Mapping[str, int]) -> str:
    most = sorted(left_out.items(), key=lambda item: -item[1])
    what = ", ".join(f"{kind or 'other'} {count}" for kind, count in most)
    return clip(f"… {sum(left_out.values())} not shown: {what}", _GAP)


def _facts(row: Row, found: Sequence[Call]) -> str:
    messages = row["messages"]
    facts = {
        "agent": row.get("source_kind"),
        "model": row.get("model"),
        "project": row.get("project_path") or row.get("cwd"),
        "branch": row.get("git_branch"),
        "began": row.get("started_at"),
        "ended": row.get("ended_at"),
        "sub-agent": row.get("agent_id"),
        "messages": len(messages),
        "calls": len(found),
        "tools": ", ".join(f"{name} {count}" for name, count in Counter(c.name for c in found).most_common(20)),
    }
    return "\n".join(f"{name}: {_line(str(value))}" for name, value in facts.items() if value not in (None, ""))


def _steps(messages: Sequence[Mapping[str, Any]], found: Sequence[Call], known: Row, shown: set[int]) -> list[Line]:
    of_message: dict[int, list[Call]] = {}
    for call in found:
        of_message.setdefault(call.message, []).append(call)
    answered = {call.result for call in found}
    proof = {item["message_index"] for item in known["outcome_evidence"]}
    proof |= {place for span in known["error_recoveries"] for place in span.values()}
    lines = []
    for i, message in enumerate(messages):
        content = message["content"]
        note = "".join(f" ({message[key]})" for key in ("origin", "weight_reason") if message.get(key))
        if message["role"] == "system":
            lines.append(Line(f"[{i}] system: {len(content):,} characters", kind="system"))
        elif message["role"] == "tool" and i not in answered:
            lines.append(Line(f"[{i}] result without a call: {_short(content)}", kind="result"))
        elif message["role"] == "user":
            is_prompt = message.get("origin") in PROMPT_ORIGINS
            said = "the task, above" if i in shown else _short(content)
            lines.append(Line(f"[{i}] user{note}: {said}", tells=is_prompt, kind="prompt" if is_prompt else "note"))
        elif message["role"] == "assistant":
            thought = "" if content.strip() else _short(message.get("reasoning_content") or "")
            said = "the end, below" if i in shown else _short(content)
            if said or thought:
                lines.append(Line(f"[{i}] {'says' if said else 'thinks'}{note}: {said or thought}", kind="says"))
            for call in of_message.get(i, ()):
                tells = call.state == "failed" or bool({i, call.result} & proof)
                lines.append(Line(f"[{i}] {_about(call)} → {_outcome(call)}", tells, call.name))
    return lines


def _errors(known: Row, found: Sequence[Call]) -> list[Line]:
    recovered = {span["failed"]: span["recovered"] for span in known["error_recoveries"]}
    lines = []
    for call in found:
        if call.state != "failed":
            continue
        then = f"reached at [{recovered[call.message]}]" if call.message in recovered else "not reached later"
        lines.append(
            Line(f"[{call.message}] {call.name}, {then}: {_line(call.output[-_READ:])[-300:]}", kind=call.name)
        )
    return lines or [Line("none")]


def _evidence(known: Row) -> list[Line]:
    lines = [Line(f"outcome: {known.get('outcome') or 'unknown'}", tells=True)]
    for item in known["outcome_evidence"]:
        at = "" if item["message_index"] is None else f" [{item['message_index']}]"
        lines.append(Line(f"{item['kind']}{at}: {_line(item['value'] or '')}".rstrip(": "), kind=item["kind"]))
    return lines


def _outcome(call: Call) -> str:
    code = f" (exit code {call.exit_code})" if call.exit_code else ""
    said = call.output[-_READ:] if call.state == "failed" else call.output[:_READ]
    return f"{call.state}{code}: {_line(said)[-200:] if call.state == 'failed' else _line(said)[:200]}"


def _about(call: Call) -> str:
    if call.script is not None:
        return f"{call.name}: {_short(call.script)[:200]}"
    if isinstance(call.arguments, Mapping):
        call_arguments = {k: v[:120] if isinstance(v, str) else v for k, v in call.arguments.items()}
        return f"{call.name}: {_short(_json(call_arguments))[:200]}"
    return f"{call.name}: {_short(str(call.arguments))[:200]}"


def _called(message: Mapping[str, JSON]) -> str:
    made = [
        f"{c['function']['name']} {_short(_json(c['function']['arguments']))}" for c in message.get("tool_calls") or ()
    ]
    return "".join(f" → {call[:300]}" for call in made)


def _first_task(messages: Sequence[Mapping[str, JSON]]) -> int:
    users = [i for i, m in enumerate(messages) if m["role"] == "user"]
    return next((i for i in users if messages[i].get("origin") in _TASKS), users[0] if users else -1)


def _is_answer(message: Mapping[str, JSON]) -> bool:
    return bool(message["role"] == "assistant" and message["content"].strip() and message.get("origin") is None)


def _short(text: str) -> str:
    return _line(text[:_READ])


def _line(text: str) -> str:
    return " ".join(text.split())


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _json(value: JSON) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return exact_text(value)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _size(text: str) -> int:
    return len(_encoded(text))
