"""Invented rows of tool calls, for the tests of evidence and weights."""

from __future__ import annotations

from typing import Any

GO = "Make the total right"


def said(text: str, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **keys}


def user(text: str, **keys: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **keys}


def step(name: str, arguments: Any, result: str | None = "ok", *, error: bool | None = None, id: str = "") -> Any:
    """An assistant message with one call, and its result unless that is None."""
    id = id or f"call_{step.count}"
    step.count += 1
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [said("", tool_calls=[call])]
    if result is not None:
        answer = {"role": "tool", "content": result, "tool_call_id": id, "name": name}
        messages.append(answer if error is None else answer | {"is_error": error})
    return messages


step.count = 0  # type: ignore[attr-defined]


def bash(command: str, result: str | None = "", *, exit_code: int = 0) -> Any:
    """A shell call as Claude Code writes it."""
    if exit_code and result is not None:
        return step("Bash", {"command": command}, f"Exit code {exit_code}\n{result}", error=True)
    return step("Bash", {"command": command}, result, error=False)


def edit(path: str = "total.py", result: str = "The file was updated.", *, error: bool | None = None) -> Any:
    return step("Edit", {"file_path": path, "old_string": "a", "new_string": "b"}, result, error=error)


def together(*steps: Any) -> Any:
    """Steps as one message with parallel calls, and its results."""
    calls = [call for each in steps for call in each[0]["tool_calls"]]
    return [said("", tool_calls=calls), *(message for each in steps for message in each[1:])]


def row(*parts: Any, kind: str = "claude_code", **columns: Any) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for part in parts:
        messages += part if isinstance(part, list) else [part]
    return {"trace_id": "t", "source_kind": kind, "cwd": "/work", "messages": messages} | columns
