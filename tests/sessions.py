"""Small invented sessions for tests that need files, and not one record in particular."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

Record = dict[str, Any]
CLAUDE = "claude_code"
CODEX = "codex"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def lines(*records: Any) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def put(path: Path, data: bytes) -> Path:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def claude_records(
    session: str, *, prompt: str = "Which tulips open first?", answer: str = "The red ones.", key: str | None = None
) -> list[Record]:
    """A prompt, a thought, a call with its result, and an answer; `key` begins all ids but the session's."""
    key = key or session
    first = {"parentUuid": None, "isSidechain": False, "sessionId": session, "cwd": "/garden", "gitBranch": "main"}
    common = {**first, "version": "2.1.40"}
    model = {"model": "claude-invented-1", "type": "message", "role": "assistant"}
    call = {
        "type": "tool_use",
        "id": f"toolu_{key}",
        "name": "Read",
        "input": {"file_path": "tulips.txt", "share": 0.7},
    }
    result = {"type": "tool_result", "tool_use_id": f"toolu_{key}", "content": "red: week 14\n"}
    usage = {"input_tokens": 3, "output_tokens": 5}
    bodies: list[tuple[str, Record]] = [
        ("user", {"role": "user", "content": prompt}),
        ("assistant", {**model, "id": f"m1-{key}", "content": [{"type": "thinking", "thinking": "Look it up."}]}),
        ("assistant", {**model, "id": f"m1-{key}", "content": [call], "usage": usage}),
        ("user", {"role": "user", "content": [result]}),
        ("assistant", {**model, "id": f"m2-{key}", "content": [{"type": "text", "text": answer}], "usage": usage}),
    ]
    return _chained([{**common, "type": kind, "message": message} for kind, message in bodies], key)


def claude(session: str = "s1", **said: str) -> bytes:
    """A Claude Code session file of one rollout, four messages."""
    return lines(*claude_records(session, **said))


def claude_sidechains(session: str, number: int) -> bytes:
    """A Claude Code session file of `number` rollouts: the main one, and sub-agents inline."""
    records = claude_records(session)
    for agent in range(1, number):
        inner = claude_records(session, prompt=f"Bed {agent}?", key=f"bed{agent:04d}")
        records += [{**record, "isSidechain": True} for record in inner]
    return lines(*records)


def claude_agent(session: str, agent: str) -> bytes:
    """The file of one sub-agent, `agent-<id>.jsonl`."""
    return lines(*({**record, "isSidechain": True, "agentId": agent} for record in claude_records(session)))


def claude_rewound(session: str) -> bytes:
    """A session whose user went back to the first answer and asked something else: two branches."""
    records = claude_records(session)
    again = claude_records(session, prompt="And the roses?", key="again")
    later = claude_records(session, prompt="And the lilies?", key="later")
    again[0]["parentUuid"] = later[0]["parentUuid"] = records[-1]["uuid"]
    return lines(*records, *again, *later)


def codex(thread: str = "t1", *, prompt: str = "Count the beds.", answer: str = "Seven.") -> bytes:
    """A Codex rollout file of one rollout, four messages."""
    return lines(*codex_records(thread, prompt=prompt, answer=answer))


def codex_records(thread: str, *, prompt: str = "Count the beds.", answer: str = "Seven.") -> list[Record]:
    meta = {"id": thread, "timestamp": "2026-03-02T09:00:00.000Z", "cwd": "/garden", "cli_version": "0.130.0"}
    arguments = '{"cmd":"ls beds","share":0.7}'
    return [
        _record(0, "session_meta", meta),
        _record(1, "turn_context", {"cwd": "/garden", "model": "gpt-invented-1"}),
        _record(2, "response_item", _message("user", prompt)),
        _record(
            3,
            "response_item",
            {"type": "function_call", "name": "exec", "arguments": arguments, "call_id": f"c-{thread}"},
        ),
        _record(
            4, "response_item", {"type": "function_call_output", "call_id": f"c-{thread}", "output": "1 2 3 4 5 6 7"}
        ),
        _record(5, "response_item", _message("assistant", answer)),
    ]


def codex_compacted(thread: str) -> bytes:
    """A Codex rollout of two context windows."""
    replaced = [_message("user", "Count the beds."), _message("user", "Summary: seven beds were counted.")]
    return lines(
        *codex_records(thread),
        _record(6, "compacted", {"message": "Seven beds were counted.", "replacement_history": replaced}),
        _record(7, "response_item", _message("user", "And the trees?")),
        _record(8, "response_item", _message("assistant", "Two.")),
    )


def codex_large(thread: str, *, pictures: Sequence[bytes] = (), text: str = "") -> bytes:
    """A Codex rollout whose tool result is `text`, with pictures (base64) in a prompt."""
    records = codex_records(thread)
    records[4]["payload"]["output"] = text or "nothing"
    for picture in pictures:
        shown = {"type": "input_image", "image_url": "data:image/png;base64," + picture.decode()}
        records.append(_record(9, "response_item", {"type": "message", "role": "user", "content": [shown]}))
    return lines(*records)


def _chained(records: Sequence[Record], name: str) -> list[Record]:
    """The records with ids, parents and times of their own."""
    chained = []
    for number, record in enumerate(records):
        parent = f"{name}-{number - 1}" if number else None
        time = f"2026-03-04T10:00:{number:02d}.000Z"
        chained.append({**record, "uuid": f"{name}-{number}", "parentUuid": parent, "timestamp": time})
    return chained


def _record(second: int, kind: str, payload: Record) -> Record:
    return {"timestamp": f"2026-03-02T09:00:{second:02d}.000Z", "type": kind, "payload": payload}


def _message(role: str, text: str) -> Record:
    part = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": part, "text": text}]}
