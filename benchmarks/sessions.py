"""Invented Claude Code and Codex sessions with the line shapes and sizes of real ones.

    python benchmarks/sessions.py            compares their line sizes with the corpus

The same path, size and seed always give the same bytes. Everything that is said in them is random
words; sizes follow `../shared/corpus` (median, mean and tail of the line length, share of
`toolUseResult`, of non-ASCII text and of escapes), so that no reader is flattered.
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import math
import os
import random
import shutil
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import orjson

MB = 1_000_000
Record = dict[str, Any]

_ASCII = (
    "account adapter agent allow append archive argument array assert async await batch begin between branch buffer "
    "build bundle cache call cancel chunk class client close cluster collect column commit compare config connect "
    "const context copy counter create cursor daemon data debug decode default delete deploy detail diff digest "
    "dispatch domain draft edge emit encode engine entry error event except export extract failed field file filter "
    "flag flush folder format frame from function gather global graph group handle hash header hook import index "
    "inner input insert instance invoke iterate join kernel label layer ledger length level limit line link list "
    "loader local lock logger lookup loop main map margin matrix merge message method metric mirror missing mode "
    "module mount node null number object offset open option order output owner packet page panel parse patch path "
    "payload pending pixel plugin point policy pool port prefix print probe process profile promise prompt proxy "
    "query queue range ratio read record reduce refactor region register release remove render repeat report request "
    "reset resolve result retry return review route row runner sample scan schema scope score section select sender "
    "server session shard signal size skip slice socket sort source split stack stage state static status step stream "
    "string struct submit suite switch symbol sync table target task template test thread ticket timeout token trace "
    "tree trigger tuple type union unit update upload value vector verify version view wait walk widget window worker "
    "because should which before after another however already still then that this with into only when where would"
)
_FOREIGN = "naïve façade größe überprüfen café señal données élève 设置 数据 測試 テスト проверка → ✓ ✗ … — │ ├── 🚀"
NAMES = _ASCII.split()
# Real sessions have 0.1 to 2 % of their bytes outside ASCII.
WORDS = NAMES * 5 + _FOREIGN.split()

CODE_LINES = (
    'def {a}_{b}({c}: str, *, {d}: int = 0) -> dict[str, object]:',
    '    if not {a}.{b} or {c}["{d}"] is None:',
    '        raise ValueError(f"{a} {b}: {{{c}!r}} is no {d}")',
    '    return {{"{a}": {b}.{c}, "{d}": [{e} for {e} in {a}]}}',
    'const {a} = await {b}({c}, {{ {d}: "{e}" }});',
    "\t\tfor {a}, {b} := range {c}.{d} {{",
    "import {{ {a}, {b} }} from '../{c}/{d}';",
    "    self.{a} = {b}({c}, {d}=self.{e})  # {a} {b} {c}",
    "}}",
    "",
)  # fmt: skip
LOG_LINES = (
    "{n}:{a}/{b}_{c}.py:    {d}({e})",
    "-rw-r--r--  1 {a} {b}  {n} {c}_{d}.ts",
    "[{n}] {a}: {b} {c} {d} in {n}ms",
    "FAILED tests/{a}/test_{b}.py::test_{c}_{d} - AssertionError: {e} != {n}",
    "\x1b[32m✓\x1b[39m {a} {b} > {c} ({n} ms)",
    'C:\\{a}\\{b}\\{c}.json: "{d}": {n},',
)


class Text:
    """Random text: each piece is put together anew of lines that were made once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def code(self, size: float) -> str:
        return self._of(_pool("code"), size)

    def log(self, size: float) -> str:
        return self._of(_pool("log"), size)

    def prose(self, size: float) -> str:
        return self._of(_pool("prose"), size)

    def words(self, count: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=count))

    def name(self) -> str:
        return "_".join(self.rng.choices(NAMES, k=2))

    def path(self) -> str:
        return f"/home/dev/work/{'/'.join(self.rng.choices(NAMES, k=3))}.py"

    def noise(self, size: float) -> str:
        """Base64, as pictures, signatures and encrypted reasoning are."""
        return base64.b64encode(self.rng.randbytes(int(size * 3 / 4) + 1)).decode()

    def id(self, prefix: str, length: int = 24) -> str:
        return prefix + "".join(self.rng.choices(string.ascii_letters + string.digits, k=length))

    def uuid(self) -> str:
        digits = f"{self.rng.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def about(self, median: float, spread: float = 1.0, most: float = 120_000) -> float:
        """A size with a long tail, as sizes of outputs are."""
        return min(self.rng.lognormvariate(math.log(median), spread), most)

    def _of(self, pool: Sequence[str], size: float) -> str:
        return "\n".join(self.rng.choices(pool, k=int(size) // 40 + 1))[: int(size)]


@functools.cache
def _pool(kind: str, count: int = 8000) -> list[str]:
    rng = random.Random(f"lines of {kind}")
    if kind == "prose":
        return [" ".join(rng.choices(WORDS, k=rng.randint(2, 28))).capitalize() + "." for _ in range(count)]
    templates = CODE_LINES if kind == "code" else LOG_LINES
    lines = []
    for _ in range(count):
        names = dict(zip("abcde", rng.choices(WORDS, k=5), strict=True))
        lines.append(rng.choice(templates).format(n=rng.randint(1, 99_999), **names))
    return lines


class Writer:
    """Lines of one session: a clock, and the number of bytes so far."""

    def __init__(self, out: BinaryIO, seed: object) -> None:
        self.out = out
        self.rng = random.Random(str(seed))
        self.text = Text(self.rng)
        self.size = 0
        self.clock = datetime(2026, 3, 1, tzinfo=timezone.utc) + timedelta(minutes=self.rng.randint(0, 100_000))

    def write(self, record: Record) -> None:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        self.out.write(line)
        self.size += len(line)

    def now(self) -> str:
        self.clock += timedelta(milliseconds=self.rng.randint(3, 9000))
        return self.clock.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def often(self, share: float) -> bool:
        return self.rng.random() < share


class ClaudeSession(Writer):
    """One API message becomes several records; results land between them; bookkeeping all around."""

    tools = ("Bash", "Read", "Edit", "TodoWrite", "Grep", "Glob", "Write", "WebFetch")
    shares = (0.43, 0.19, 0.17, 0.08, 0.06, 0.03, 0.03, 0.01)

    def __init__(self, out: BinaryIO, seed: object, size: float) -> None:
        super().__init__(out, seed)
        self.target = size
        self.parent: str | None = None
        self.session = self.text.uuid()
        self.compacted_at = 0
        self.common = {
            "isSidechain": False,
            "userType": "external",
            "entrypoint": "cli",
            "cwd": f"/home/dev/work/{self.text.name()}",
            "sessionId": self.session,
            "version": "2.1.29",
            "gitBranch": "main",
            "slug": "-".join(self.rng.choices(NAMES, k=3)),
        }

    def run(self) -> None:
        self.write({"type": "permission-mode", "permissionMode": "acceptEdits", "sessionId": self.session})
        while self.size < self.target:
            self.prompt()
            for _ in range(self.rng.randint(3, 25)):
                if self.size < self.target:
                    self.respond()
            self.answer()
            if self.size - self.compacted_at > 1.5 * MB:
                self.compact()

    def link(self, kind: str, first: Record | None = None, **more: Any) -> str:
        uuid = self.text.uuid()
        record = {"parentUuid": self.parent, **self.common, "type": kind, **(first or {})}
        self.write({**record, "uuid": uuid, "timestamp": self.now(), **more})
        self.parent = uuid
        return uuid

    def prompt(self) -> None:
        backups = {
            self.text.path(): {"backupFileName": f"{self.text.id('', 16)}@v2", "version": 2, "backupTime": self.now()}
            for _ in range(self.rng.randint(0, 6))
        }
        id = self.text.uuid()
        snapshot = {"messageId": id, "trackedFileBackups": backups, "timestamp": self.now()}
        self.write({"type": "file-history-snapshot", "messageId": id, "snapshot": snapshot, "isSnapshotUpdate": False})
        content: Any = self.text.prose(self.text.about(180, 1.2, 12_000))
        if self.often(0.3):
            content = [{"type": "text", "text": content}]
        message = {"role": "user", "content": content}
        self.link("user", {"message": message}, thinkingMetadata={"level": "high"}, todos=[])
        if self.often(0.2):
            attachment = {"type": "todo_reminder", "content": self.text.prose(500), "itemCount": 4}
            self.link("attachment", {"attachment": attachment})

    def blocks(self) -> list[Record]:
        found: list[Record] = []
        if self.often(0.24):
            thinking = self.text.prose(self.text.about(700, 1.0, 9000))
            signature = self.text.noise(self.text.about(500, 0.5))
            found.append({"type": "thinking", "thinking": thinking, "signature": signature})
        if self.often(0.5):
            found.append({"type": "text", "text": self.text.prose(self.text.about(150, 1.1, 6000))})
        return found

    def respond(self) -> None:
        fragments = self.blocks()
        for _ in range(self.rng.choices((1, 2, 3, 5), (80, 13, 5, 2))[0]):
            tool = self.rng.choices(self.tools, self.shares)[0]
            call = {"type": "tool_use", "id": self.text.id("toolu_01", 22), "name": tool, "input": {}}
            fragments.append({**call, "caller": {"type": "direct"}})
        message, request = self.text.id("msg_01", 22), self.text.id("req_011", 21)
        context, waiting, in_between = self.rng.randint(12_000, 160_000), [], self.often(0.5)
        for number, block in enumerate(fragments, 1):
            result: tuple[Any, Any] | None = None
            if block["type"] == "tool_use":
                block["input"], *outcome = getattr(self, "_" + block["name"].lower())()
                result = (outcome[0], outcome[1])
            last = number == len(fragments)
            uuid = self.fragment(message, request, block, context, last)
            if result is not None:
                self.progress(block["id"], block["name"])
                waiting.append((uuid, block["id"], *result))
            if in_between or last:
                for one in waiting:
                    self.result(*one)
                waiting = []

    def fragment(self, message: str, request: str, block: Record, context: int, last: bool) -> str:
        usage = {
            "input_tokens": self.rng.randint(1, 12),
            "cache_creation_input_tokens": self.rng.randint(100, 4000),
            "cache_read_input_tokens": context,
            "cache_creation": {"ephemeral_5m_input_tokens": 369, "ephemeral_1h_input_tokens": 0},
            "output_tokens": self.rng.randint(60, 2000) if last else self.rng.randint(1, 9),
            "service_tier": "standard",
        }
        body = {
            "model": "claude-opus-4-5-20251101",
            "id": message,
            "type": "message",
            "role": "assistant",
            "content": [block],
            "stop_reason": "tool_use" if last and block["type"] == "tool_use" else None,
            "stop_sequence": None,
            "usage": usage,
        }
        return self.link("assistant", {"message": body, "requestId": request})

    def progress(self, call: str, tool: str) -> None:
        if self.often(0.6):
            hook = {"hookEvent": "PreToolUse", "hookName": f"PreToolUse:{tool}", "command": "~/.hooks/check.sh"}
            data = {"type": "hook_progress", **hook}
            self.link("progress", {"data": data, "toolUseID": call, "parentToolUseID": call})
        while tool == "Bash" and self.often(0.3):
            output = self.text.log(60)
            shown: Record = {"type": "bash_progress", "output": output, "fullOutput": output}
            shown |= {"elapsedTimeSeconds": 3, "totalLines": 1, "timeoutMs": 120_000}
            self.link("progress", {"data": shown, "toolUseID": "bash-progress-1", "parentToolUseID": call})

    def result(self, uuid: str, call: str, content: Any, extra: Any) -> None:
        block = {"tool_use_id": call, "type": "tool_result", "content": content}
        if isinstance(extra, str):
            block["is_error"] = True
        message = {"role": "user", "content": [block]}
        self.link("user", {"message": message}, toolUseResult=extra, sourceToolAssistantUUID=uuid)

    def answer(self) -> None:
        message, request = self.text.id("msg_01", 22), self.text.id("req_011", 21)
        block = {"type": "text", "text": self.text.prose(self.text.about(600, 1.0, 9000))}
        self.fragment(message, request, block, 90_000, last=True)
        subtype = {"subtype": "turn_duration", "durationMs": self.rng.randint(900, 400_000), "messageCount": 157}
        self.link("system", subtype, isMeta=False)
        if self.often(0.3):
            prompt = self.text.prose(150)
            for operation in ({"operation": "enqueue", "content": prompt}, {"operation": "dequeue"}):
                record = {"type": "queue-operation", **operation, "timestamp": self.now(), "sessionId": self.session}
                self.write(record)

    def compact(self) -> None:
        self.compacted_at = self.size
        before, self.parent = self.parent, None
        boundary = {"subtype": "compact_boundary", "content": "Conversation compacted", "level": "info"}
        metadata = {"trigger": "auto", "preTokens": self.rng.randint(150_000, 175_000)}
        self.link("system", {"logicalParentUuid": before, **boundary}, compactMetadata=metadata)
        opening = "This session is being continued from a previous conversation that ran out of context."
        message = {"role": "user", "content": f"{opening}\n{self.text.prose(9000)}"}
        self.link("user", {"message": message}, isVisibleInTranscriptOnly=True, isCompactSummary=True)

    # A tool gives (input, content of the result, toolUseResult); an error's toolUseResult is text.

    def _bash(self) -> tuple[Any, Any, Any]:
        asked = {"command": self.text.code(self.text.about(120, 0.9, 4000)), "description": self.text.words(5)}
        output = self.text.log(self.text.about(430, 1.6, 30_000))
        if self.often(0.12):
            return asked, f"Exit code 1\n{output}", f"Error: Exit code 1\n{output}"
        return asked, output, {"stdout": output, "stderr": "", "interrupted": False, "isImage": False}

    def _read(self) -> tuple[Any, Any, Any]:
        asked = {"file_path": self.text.path()}
        if self.target > 4 * MB and self.often(0.01):
            data = self.text.noise(self.text.about(60_000, 1.0, 400_000))
            source = {"type": "base64", "data": data, "media_type": "image/png"}
            shown = {"type": "image", "file": {"base64": data, "type": "image/png", "originalSize": len(data)}}
            return asked, [{"type": "image", "source": source}], shown
        body = self.text.code(self.text.about(2600, 1.4, 60_000))
        lines = body.split("\n")
        numbered = "\n".join(f"{number:6d}→{line}" for number, line in enumerate(lines, 1))
        count = {"numLines": len(lines), "startLine": 1, "totalLines": len(lines)}
        return asked, numbered, {"type": "text", "file": {"filePath": asked["file_path"], "content": body, **count}}

    def _edit(self) -> tuple[Any, Any, Any]:
        old, new = (self.text.code(self.text.about(300, 1.1, 8000)) for _ in range(2))
        path = self.text.path()
        content = f"The file {path} has been updated.\n{self.text.code(self.text.about(700, 0.9, 8000))}"
        lines = [" " + line for line in new.split("\n")]
        patch = [{"oldStart": 16, "oldLines": 6, "newStart": 16, "newLines": len(lines), "lines": lines}]
        original = self.text.code(self.text.about(1900, 1.5, 90_000))
        edited = {"filePath": path, "oldString": old, "newString": new, "originalFile": original}
        asked = {"file_path": path, "old_string": old, "new_string": new}
        return asked, content, {**edited, "structuredPatch": patch, "userModified": False, "replaceAll": False}

    def _todowrite(self) -> tuple[Any, Any, Any]:
        todos = [
            {"content": self.text.words(9), "status": "pending", "activeForm": self.text.words(9)}
            for _ in range(self.rng.randint(2, 8))
        ]
        return {"todos": todos}, "Todos have been modified successfully.", {"oldTodos": todos, "newTodos": todos}

    def _grep(self) -> tuple[Any, Any, Any]:
        output = self.text.log(self.text.about(800, 1.3, 20_000))
        asked = {"pattern": f"{self.text.name()}\\(\\w+", "path": "src", "output_mode": "content", "-n": True}
        return asked, output, {"mode": "content", "numFiles": 0, "filenames": [], "content": output, "numLines": 12}

    def _glob(self) -> tuple[Any, Any, Any]:
        names = [self.text.path() for _ in range(self.rng.randint(1, 20))]
        shown = {"filenames": names, "durationMs": 136, "numFiles": len(names), "truncated": False}
        return {"pattern": "**/*.py"}, "\n".join(names), shown

    def _write(self) -> tuple[Any, Any, Any]:
        path, body = self.text.path(), self.text.code(self.text.about(1500, 1.0, 30_000))
        shown: Record = {"type": "create", "filePath": path, "content": body, "structuredPatch": []}
        return {"file_path": path, "content": body}, f"File created successfully at: {path}", shown

    def _webfetch(self) -> tuple[Any, Any, Any]:
        url, page = f"https://example.org/{self.text.name()}", self.text.prose(self.text.about(1800, 0.8))
        shown = {"bytes": 421_929, "code": 200, "codeText": "OK", "result": page, "durationMs": 10_320, "url": url}
        return {"url": url, "prompt": self.text.words(20)}, page, shown


class CodexSession(Writer):
    """Items that the model saw, most of them told a second time as events, with token counts in between."""

    def __init__(self, out: BinaryIO, seed: object, size: float) -> None:
        super().__init__(out, seed)
        self.target = size
        self.session = self.text.uuid()
        self.cwd = f"/home/dev/work/{self.text.name()}"
        self.totals = dict.fromkeys(
            ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens", "total_tokens"), 0
        )
        self.compacted_at = 0
        self.turn = ""

    def run(self) -> None:
        self.meta()
        while self.size < self.target:
            self.prompt()
            for _ in range(self.rng.randint(3, 25)):
                if self.size < self.target:
                    self.respond()
            self.answer()
            if self.size - self.compacted_at > 1.5 * MB:
                self.compact()

    def line(self, kind: str, payload: Record) -> None:
        self.write({"timestamp": self.now(), "type": kind, "payload": payload})

    def item(self, kind: str, **payload: Any) -> None:
        self.line("response_item", {"type": kind, **payload})

    def event(self, kind: str, **payload: Any) -> None:
        self.line("event_msg", {"type": kind, **payload})

    def message(self, role: str, text: str, **more: Any) -> None:
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
        self.item("message", role=role, content=content, **more)

    def meta(self) -> None:
        self.line(
            "session_meta",
            {
                "id": self.session,
                "timestamp": self.now(),
                "cwd": self.cwd,
                "originator": "codex_cli_rs",
                "cli_version": "0.118.0",
                "source": "cli",
                "model_provider": "openai",
                "base_instructions": {"text": self.text.prose(14_000)},
                "git": {
                    "commit_hash": self.text.id("", 40),
                    "branch": "main",
                    "repository_url": "https://example.org/r.git",
                },
            },
        )
        self.message("developer", f"<permissions instructions>{self.text.prose(1800)}</permissions instructions>")
        self.message("user", f"# AGENTS.md instructions for {self.cwd}\n\n{self.text.prose(1500)}")
        self.message("user", f"<environment_context>\n  <cwd>{self.cwd}</cwd>\n</environment_context>")

    def prompt(self) -> None:
        self.turn = self.text.uuid()
        self.event("task_started", turn_id=self.turn, model_context_window=258_400, collaboration_mode_kind="default")
        context = {"turn_id": self.turn, "cwd": self.cwd, "approval_policy": "on-request", "model": "gpt-5.2-codex"}
        sandbox = {"type": "workspace-write", "network_access": False, "exclude_slash_tmp": False}
        self.line("turn_context", {**context, "sandbox_policy": sandbox, "effort": "high", "summary": "auto"})
        text = self.text.prose(self.text.about(300, 1.2, 12_000))
        self.message("user", text)
        self.event("user_message", message=text, images=[], local_images=[], text_elements=[])

    def think(self) -> None:
        title = f"**{self.text.words(4).capitalize()}**\n\n{self.text.prose(self.text.about(120, 1.0, 3000))}"
        self.event("agent_reasoning", text=title)
        summary = [{"type": "summary_text", "text": title}]
        opaque = self.text.noise(self.text.about(1200, 0.8, 30_000))
        self.item("reasoning", summary=summary, content=None, encrypted_content=opaque)

    def respond(self) -> None:
        if self.often(0.75):
            self.think()
        if self.often(0.15):
            self.say("commentary", self.text.prose(self.text.about(180, 0.8, 2000)))
        calls = [self.text.id("call_") for _ in range(self.rng.choices((1, 2, 3, 5), (80, 13, 5, 2))[0])]
        kinds = [self.often(0.06) for _ in calls]
        for call, custom in zip(calls, kinds, strict=True):
            if custom:
                change = self.text.code(self.text.about(900))
                patch = f"*** Begin Patch\n*** Update File: src/x.py\n{change}\n*** End Patch"
                self.item("custom_tool_call", status="completed", call_id=call, name="apply_patch", input=patch)
            else:
                asked = {"cmd": self.text.code(self.text.about(110, 0.9, 5000)), "workdir": self.cwd}
                arguments = orjson.dumps(asked | {"yield_time_ms": 10_000}).decode()
                self.item("function_call", name="exec_command", arguments=arguments, call_id=call)
        self.count()
        for call, custom in zip(calls, kinds, strict=True):
            if custom:
                done = {"output": "Success. Updated the following files:\nM src/x.py\n", "metadata": {"exit_code": 0}}
                self.item("custom_tool_call_output", call_id=call, output=orjson.dumps(done).decode())
            else:
                # Most outputs are short; one in six is a file or a log, as long as Codex lets it be.
                size = self.rng.uniform(5000, 20_000) if self.often(0.16) else self.text.about(600, 1.2, 5000)
                text = self.text.log(size) if self.often(0.5) else self.text.code(size)
                head = f"Chunk ID: {self.text.id('', 6)}\nWall time: 0.0521 seconds\nProcess exited with code 0"
                output = f"{head}\nOriginal token count: {int(size / 4)}\nOutput:\n{text}"
                self.item("function_call_output", call_id=call, output=output)

    def say(self, phase: str, text: str) -> None:
        self.event("agent_message", message=text, phase=phase)
        self.message("assistant", text, phase=phase)

    def count(self) -> None:
        used = dict.fromkeys(self.totals, 0) | {"input_tokens": self.rng.randint(9000, 200_000), "output_tokens": 310}
        used |= {"cached_input_tokens": used["input_tokens"] - 900, "total_tokens": used["input_tokens"] + 310}
        self.totals = {name: total + used[name] for name, total in self.totals.items()}
        info = {"total_token_usage": self.totals, "last_token_usage": used, "model_context_window": 258_400}
        window = {"used_percent": round(self.rng.uniform(0, 99), 1), "window_minutes": 300, "resets_at": 1_778_652_185}
        limits = {"limit_id": "codex", "primary": window, "secondary": None, "credits": None, "plan_type": "plus"}
        for _ in range(self.rng.choice((1, 2))):
            self.event("token_count", info=info, rate_limits=limits)

    def answer(self) -> None:
        if self.often(0.5):
            self.think()
        text = self.text.prose(self.text.about(700, 0.9, 8000))
        self.say("final_answer", text)
        self.count()
        self.event("task_complete", turn_id=self.turn, last_agent_message=text)

    def compact(self) -> None:
        self.compacted_at = self.size
        kept = [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": self.text.prose(300)}]}
            for _ in range(6)
        ]
        opaque = {"type": "compaction", "encrypted_content": self.text.noise(8000)}
        self.line("compacted", {"message": "", "replacement_history": [*kept, opaque]})
        self.event("context_compacted")


def write_claude(path: str | os.PathLike[str], megabytes: float, seed: int) -> None:
    """Write one Claude Code session of about `megabytes` (10^6 bytes)."""
    with open(path, "wb") as out:
        ClaudeSession(out, f"claude {seed}", megabytes * MB).run()


def write_codex(path: str | os.PathLike[str], megabytes: float, seed: int) -> None:
    """Write one Codex rollout of about `megabytes` (10^6 bytes)."""
    with open(path, "wb") as out:
        CodexSession(out, f"codex {seed}", megabytes * MB).run()


WRITERS: dict[str, Callable[[Path, float, int], None]] = {"claude_code": write_claude, "codex": write_codex}


@dataclass(frozen=True)
class Set:
    """Sizes in MB of the files of a set."""

    name: str
    sizes: tuple[float, ...]


def _many(count: int) -> tuple[float, ...]:
    rng = random.Random("many small")
    return tuple(rng.uniform(0.04, 0.16) for _ in range(count))


FULL = {
    "small": Set("small", _many(1500)),
    "large": Set("large", (20.0,) * 4),
    "one": Set("one", (200.0,)),
    **{f"growth-{size}": Set(f"growth-{size}", (float(size),)) for size in (12, 25, 50, 100)},
}
QUICK = {
    "small": Set("small", _many(80)),
    "large": Set("large", (3.0,) * 2),
    "one": Set("one", (12.0,)),
    **{f"growth-{size}": Set(f"growth-{size}", (float(size),)) for size in (2, 4, 8, 16)},
}


def default_cache() -> Path:
    """Where generated sessions lie: never in the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "agent-rollouts-benchmarks"


def make(format: str, wanted: Set, cache: Path) -> list[Path]:
    """The files of a set, written if they are not there yet. Another version of this module makes them anew."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]
    folder = cache / f"sessions-{version}" / format / f"{wanted.name}-{sum(wanted.sizes):.0f}MB"
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        for number, size in enumerate(wanted.sizes):
            path = unfinished / _place(format, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[format](path, size, number + round(sum(wanted.sizes)))
        try:
            unfinished.rename(folder)
        except OSError:  # another run was faster
            shutil.rmtree(unfinished)
    return sorted(path for path in folder.rglob("*.jsonl"))


def _place(format: str, number: int) -> str:
    id = f"{number:08x}-0000-4000-8000-{number:012x}"
    if format == "codex":
        return f"2026/03/{number % 28 + 1:02d}/rollout-2026-03-{number % 28 + 1:02d}T10-00-00-{id}.jsonl"
    return f"-home-dev-work-{number % 20}/{id}.jsonl"


def corpus(format: str, folder: Path) -> list[Path]:
    """The real sessions of a format, where they are at hand."""
    return sorted((folder / format).rglob("*.jsonl"))


def default_corpus() -> Path:
    return Path(__file__).resolve().parents[2] / "shared" / "corpus"


def _lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as stream:
            yield from stream


def shape(paths: Iterable[Path]) -> dict[str, float]:
    """Line sizes, and the share of bytes that `toolUseResult`, non-ASCII text and escapes take."""
    sizes: list[int] = []
    extra = foreign = escapes = 0
    for line in _lines(paths):
        sizes.append(len(line))
        foreign += len(line) - len(line.decode("utf-8", "replace").encode("ascii", "ignore"))
        escapes += line.count(b"\\")
        try:
            record = orjson.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "toolUseResult" in record:
            extra += len(orjson.dumps(record["toolUseResult"]))
    sizes.sort()
    total = sum(sizes)
    shares = {"toolUseResult": extra / total, "non-ASCII": foreign / total, "escapes": escapes / total}
    tail = {f"p{p}": float(sizes[len(sizes) * p // 100]) for p in (50, 90, 99)}
    return {"lines": len(sizes), "mean": total / len(sizes), **tail, "max": float(sizes[-1]), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the shape of generated sessions with the corpus.")
    parser.add_argument("--corpus", type=Path, default=default_corpus(), help="folder of real sessions (%(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of generated ones (%(default)s)")
    options = parser.parse_args()
    for format in WRITERS:
        compared = {name: make(format, QUICK[name], options.cache) for name in ("small", "one")}
        if real := corpus(format, options.corpus):
            compared["corpus"] = real
        shapes = {name: shape(paths) for name, paths in compared.items()}
        print(f"{format:15}" + "".join(f"{name:>12}" for name in shapes))
        for measure in next(iter(shapes.values())):
            values = (found[measure] for found in shapes.values())
            print(f"  {measure:13}" + "".join(f"{v:12.1%}" if v < 1 else f"{v:12,.0f}" for v in values))


if __name__ == "__main__":
    main()
