r"""Codex CLI: `~/.codex/sessions/YYYY/MM/DD/rollout-<time>-<thread id>.jsonl`, one record a line.

    {"timestamp":"…Z","type":"session_meta","payload":{"id":"0198…","cwd":"/work","cli_version":"0.130.0","source":"cli","base_instructions":{"text":"…"},"git":{"branch":"main"}}}
    {"timestamp":"…Z","type":"response_item","payload":{"type":"message","role":"user","content":[{"type":"input_text","text":"Fix it"}]}}
    {"timestamp":"…Z","type":"response_item","payload":{"type":"function_call","name":"exec_command","arguments":"{\"cmd\":\"ls\"}","call_id":"call_1"}}

Until 2025-09 the items stood bare, behind a header `{"id":"…","timestamp":"…","instructions":null}`; the
TypeScript program before that wrote one object `{"session":{…},"items":[…]}`.

* Only a `response_item` is what the model saw. Most `event_msg` repeat one for the screen; the others
  withdraw turns, tell of aborts or count tokens.
* The first `session_meta` is the thread's own. Later ones with its id repeat it; one with another id
  begins the history that a fork copied from its parent.
* After `compacted` the context is its `replacement_history`.

Source of the rules: codex-rs (`protocol`, `rollout`, `core`) up to 2026-11, and 986 files.
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import orjson

from agent_rollouts import jsontext
from agent_rollouts.events import (
    JSON,
    At,
    Called,
    Compacted,
    Event,
    Facts,
    Interrupted,
    Media,
    Returned,
    Rewound,
    Said,
    Skipped,
    Thought,
)
from agent_rollouts.features import PROMPT_ORIGINS
from agent_rollouts.formats._media import decoded, of_url
from agent_rollouts.jsontext import as_list
from agent_rollouts.source import Head, Source

# What Codex slips in as user or developer messages ("contextual user fragments"), by how it begins.
_FRAGMENTS = {
    "<environment_context>": "environment",
    "<user_instructions>": "environment",
    "# agents.md instructions for ": "environment",
    "# agents.md instructions\n": "environment",
    "<external_": "environment",
    "<turn_aborted>": "interrupt",
    "<user_shell_command>": "bash",
    "<user_action>": "command_output",
    "<skill>": "skill",
    "<subagent_notification>": "notification",
    "<hook_prompt": "hook",
    "<goal_context>": "reminder",
    "<codex_internal_context": "reminder",
    "<recommended_plugins>": "reminder",
    "warning: apply_patch was requested via": "reminder",
    "warning: the maximum number of unified exec processes": "reminder",
    "another language model started to solve this problem": "summary",
}
_FRAGMENT_STARTS = tuple(_FRAGMENTS)

# Threads that Codex runs for itself.
_INTERNAL = {
    "review": "reviews the changes of a session",
    "compact": "writes the summary of a compaction",
    "memory_consolidation": "keeps notes on sessions",
    "guardian": "judges whether an action may run",
}
_GUARDIAN_MODEL = "codex-auto-review"

_META_KEYS = (
    "cli_version", "originator", "source", "model_provider", "forked_from_id", "thread_source", "agent_role",
    "agent_path", "agent_nickname", "memory_mode", "history_mode", "history_base", "multi_agent_version",
    "context_window", "dynamic_tools",
)  # fmt: skip

_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read_tokens",
    "cache_write_input_tokens": "cache_write_tokens",
    "reasoning_output_tokens": "reasoning_tokens",
}

_ENVELOPES = frozenset({"session_meta", "response_item", "event_msg", "turn_context", "compacted", "world_state"})
_SPOKEN = frozenset({"user_message", "agent_message", "agent_reasoning"})
_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
# The service runs these itself: the log has the call, and no item for what came of it.
_HOSTED_CALLS = frozenset({"web_search_call", "image_generation_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "tool_search_output"})
_BARE_ITEMS = _CALLS | _OUTPUTS | {"message", "reasoning", "web_search_call"}

# A copied history is written in one go. The first line after a longer pause is the thread's own.
_COPY_PAUSE = 0.5
# Before it wrote `replacement_history`, a compaction kept the latest 20,000 tokens of prompts, at 4 bytes each.
_LEGACY_KEPT = 80_000


def claims(head: Head) -> bool:
    """Whether one of the first records is an enveloped one, a bare header or a bare item."""
    return any(_is_codex(record) for record in head.records) or _is_document(head.data)


def _is_codex(record: dict[str, JSON]) -> bool:
    match record:
        case {"type": str(kind), "payload": dict()}:
            return kind in _ENVELOPES
        case {"type": "message", "role": str(), "content": list(parts)}:
            return any(isinstance(part, dict) and part.get("type") in ("input_text", "output_text") for part in parts)
        case {"type": "reasoning", "summary": list()} | {"type": "local_shell_call", "action": dict()}:
            return True
        case {"type": str(kind), "call_id": str()}:
            return kind in _BARE_ITEMS
        case {"record_type": "state"}:
            return True
        case {"id": str(), "timestamp": str(), "instructions": _} | {"id": str(), "timestamp": str(), "git": dict()}:
            return "type" not in record
        case {"session": {"id": str()}, "items": list()}:
            return True
    return False


def _is_document(data: bytes) -> bool:
    """Whether this begins like the one indented object of the TypeScript program."""
    start = data[:4096].lstrip()
    return start.startswith(b"{") and start[1:].lstrip().startswith(b'"session"') and b'"items"' in data


def decode(source: Source) -> Iterator[Event]:
    """The one thread of a rollout file; see the module's docstring for the rules."""
    return _Thread(source).events()


class _Thread:
    """What must be remembered between the records of one thread."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.id: str | None = None
        self.has_meta = False
        self.has_session_id = False
        self.is_spawned = False
        self.stamp: str | None = None
        self.copied: str | None = None
        self.began: float | None = None
        self.copied_until: float | None = None
        self.replayed = False
        self.base: Said | None = None
        self.base_may_repeat = False
        self.model: str | None = None
        self.knows_cwd = False
        self.call_ids: dict[str, int] = {}
        self.answered_ids: set[str | None] = set()
        self.hosted_results: list[Event] = []
        self.last_search: str | None = None
        self.answered = False
        self.aborted = False
        self.completed: bool | None = None
        self.spent = 0
        self.total: dict[str, JSON] = {}
        self.inherited_total: dict[str, JSON] = {}
        self.earlier_totals: list[dict[str, JSON]] = []
        self.opening: list[Said] = []
        self.prompts: deque[Said] = deque()
        self.prompts_size = 0
        self.counts: Counter[str] = Counter()
        self.types: dict[str, int] = {}
        self.screen: dict[str, int] = {}
        self.screen_stamp: str | None = None
        self.custom_tools: dict[str, None] = {}
        self.namespaces: dict[str, str] = {}
        # Events of a file without any item, each with how to count it should an item come after all.
        self.unspoken: list[tuple[Event, Skipped]] | None = []
        self.records: dict[str, Callable[[dict[str, JSON]], Iterable[Event]]] = {
            "session_meta": self._session_meta,
            "response_item": self._response_item,
            "event_msg": self._event,
            "turn_context": self._turn_context,
            "compacted": self._compacted,
            "inter_agent_communication": self._communication,
        }
        # A control event that gives None is counted like the events that are only for the screen.
        self.controls: dict[str, Callable[[dict[str, JSON]], list[Event] | None]] = {
            "token_count": self._count_tokens,
            "thread_rolled_back": self._roll_back,
            "turn_aborted": self._abort,
            "task_started": self._start_task,
            "task_complete": self._complete_task,
            "turn_started": self._start_task,
            "turn_complete": self._complete_task,
        }
        self.items: dict[str, Callable[[dict[str, JSON]], list[Event]]] = {
            "message": self._message,
            "reasoning": self._reasoning,
            "function_call": self._function_call,
            "custom_tool_call": self._custom_tool_call,
            "local_shell_call": self._local_shell_call,
            "web_search_call": self._web_search_call,
            "image_generation_call": self._image_generation_call,
            "tool_search_call": self._tool_search_call,
            "function_call_output": self._output,
            "custom_tool_call_output": self._output,
            "tool_search_output": self._tool_search_output,
            "agent_message": self._agent_message,
        }

    def events(self) -> Iterator[Event]:
        records = self.records
        for record in self._read():
            payload = record.get("payload")
            kind = record.get("type")
            stamp = record.get("timestamp")
            self.stamp = stamp if type(stamp) is str else None
            if type(payload) is not dict or type(kind) is not str:
                yield from self._bare(record)
                continue
            if self.copied is not None and self._is_own(kind, payload):
                self.copied = None
            handler = records.get(kind)
            if handler is None:
                yield self._unused(kind)
            elif events := handler(payload):
                yield from events
        yield from self._finish()
        # Tables of bound methods are cycles: they would keep the file's texts until the next garbage collection.
        self.records, self.controls, self.items = {}, {}, {}

    def _read(self) -> Iterator[dict[str, JSON]]:
        if self.source.name.endswith(".jsonl") or not _is_document(self.source.head.data):
            yield from self.source.records()
            return
        with self.source.open() as stream:
            try:
                document = orjson.loads(stream.read())
            except ValueError:
                self.source.damage["line: not JSON"] += 1
                return
        yield document

    # -- records ---------------------------------------------------------------------------------

    def _bare(self, record: dict[str, JSON]) -> Iterator[Event]:
        match record:
            case {"type": str(kind)} if kind in self.items and "payload" not in record:
                yield from self._response_item(record)
            case {"session": dict(header), "items": list(items)}:
                yield from self._header(header)
                for item in items:
                    if isinstance(item, dict):
                        yield from self._response_item(item)
                    else:
                        yield self._unused("item of unexpected shape")
            case {"id": str(), "timestamp": str()} if not self.has_meta and "type" not in record:
                yield from self._header(record)
            case {"type": str(kind), "payload": _}:
                yield self._unused(f"{kind} of unexpected shape")
            case {"record_type": str(kind)} | {"type": str(kind)}:
                yield self._unused(kind)
            case _:
                yield self._unused("without a type")

    def _header(self, header: dict[str, JSON]) -> Iterator[Event]:
        yield from self._session_meta(header)
        # The items of a bare file have no time, so that this is the only one.
        self.stamp = None

    def _session_meta(self, meta: dict[str, JSON]) -> Iterator[Event]:
        thread = _string(meta.get("id"))
        if self.has_meta:
            yield self._unused("session_meta of the parent" if thread != self.id else "session_meta again")
            if thread is not None and thread != self.id:
                yield from self._inherit(meta)
            elif thread is not None:
                self.copied = None
            return
        self.has_meta = True
        self.id = thread
        self.began = _seconds(self.stamp)
        self._remember_base(meta)
        values, details = _session_facts(meta)
        self.knows_cwd = "cwd" in values
        self.is_spawned = "is_sidechain" in values
        self.has_session_id = isinstance(meta.get("session_id"), str)
        yield Facts(values, details)

    def _remember_base(self, meta: dict[str, JSON]) -> None:
        match meta:
            case {"base_instructions": {"text": str(text)}} | {"base_instructions": str(text)} if text:
                self.base = Said(At(timestamp=self.stamp), "system", text)
            case {"instructions": str(text)} if text:
                self.base = Said(At(timestamp=self.stamp), "system", text)
                self.base_may_repeat = True

    def _inherit(self, parent: dict[str, JSON]) -> Iterator[Event]:
        self.copied = "copied_context"
        # Should the copies have kept their old timestamps, all until the thread's beginning are copies.
        self.copied_until = max(filter(None, (self.began, _seconds(self.stamp))), default=None)
        if not self.has_session_id:
            # The parent may be a fork itself: the last one copied is the eldest.
            for key in ("session_id", "forked_from_id", "id"):
                if root := _string(parent.get(key)):
                    yield Facts({"root_session_id": root}, replace=True)
                    break

    def _is_own(self, kind: str, payload: dict[str, JSON]) -> bool:
        """Whether the copied history is over.

        Copied lines carry the instant of the fork and the turn ids of the parent. Turn and thread ids are
        UUIDs of version 7, which tell when they were made: the first turn younger than the thread is its own.
        """
        turn = payload.get("turn_id")
        if type(turn) is str and (made := _uuid_millis(turn)) is not None:
            born = _uuid_millis(self.id or "")
            if born is not None and kind in ("event_msg", "turn_context"):
                if made >= born:
                    return True
                self.copied_until = _seconds(self.stamp) or self.copied_until
                return False
        # A sub-agent's copy leaves out what agents said to each other.
        if self.is_spawned and kind.startswith("inter_agent_communication"):
            return True
        now = _seconds(self.stamp)
        if now is None:
            return False
        if self.copied_until is not None and now > self.copied_until + _COPY_PAUSE:
            return True
        self.copied_until = max(now, self.copied_until or now)
        return False

    def _turn_context(self, context: dict[str, JSON]) -> list[Event]:
        model = context.get("model")
        events: list[Event] = []
        if model != self.model and type(model) is str:
            self.model = model
            values: dict[str, JSON] = {"model": model}
            if model == _GUARDIAN_MODEL:
                values["internal"] = _INTERNAL["guardian"]
            events.append(Facts(values, {"effort": context.get("effort")}))
        if not self.knows_cwd and (cwd := _string(context.get("cwd"))):
            self.knows_cwd = True
            events.append(Facts({"cwd": cwd}))
        return events

    def _response_item(self, item: dict[str, JSON]) -> list[Event]:
        kind = item.get("type")
        if type(kind) is not str:
            return [self._unused("response_item without a type")]
        self.types[kind] = self.types.get(kind, 0) + 1
        if kind.endswith("call_output") and self.unspoken is None and not self.hosted_results:
            return self._output(item)  # the most frequent kind, which changes nothing
        return self._item(kind, item)

    def _item(self, kind: str, item: dict[str, JSON]) -> list[Event]:
        convert = self.items.get(kind)
        if convert is None:
            return [self._unused(kind)]
        before = self._begin(item) if self.unspoken is not None else []
        events = convert(item)
        if kind in _HOSTED_CALLS:
            # Their results wait until the response made all its calls.
            self.hosted_results += events[1:]
            del events[1:]
        elif kind not in _CALLS:
            if self.hosted_results:
                before += self._flush_hosted()
            if kind == "message" or kind == "agent_message":
                before += self._before_message(events)
            elif kind == "reasoning":
                self.answered = True
            return before + events if before else events
        self.answered = True
        return before + events if before else events

    def _begin(self, first: dict[str, JSON]) -> list[Event]:
        """Before the first item: the instructions, unless that item is them (early versions say them twice)."""
        events: list[Event] = [skipped for _, skipped in self.unspoken or ()]
        self.unspoken = None
        if self.base is not None:
            if self.base_may_repeat and self.base.text in _content(first.get("content"))[0]:
                self.base = None
            else:
                events.append(self.base)
        return events

    def _flush_hosted(self) -> list[Event]:
        results, self.hosted_results = self.hosted_results, []
        return results

    def _before_message(self, events: list[Event]) -> list[Event]:
        """What a message settles or tells, apart from what it says."""
        before: list[Event] = []
        for said in events:
            if type(said) is not Said:
                continue
            if said.role == "assistant":
                self.answered = True
                continue
            if said.role == "user":
                before += self._settle_abort()
            origin = said.at.origin
            if said.role == "user" and (origin in PROMPT_ORIGINS or origin == "agent_message"):
                self.answered = False
                self.completed = None
                self._keep_prompt(said)
            elif not self.prompts:
                self.opening.append(said)
            if origin == "environment" and not self.knows_cwd:
                _, found, rest = said.text.partition("<cwd>")
                cwd, closed, _ = rest.partition("</cwd>")
                if found and closed:
                    self.knows_cwd = True
                    before.append(Facts({"cwd": cwd}))
        return before

    def _keep_prompt(self, prompt: Said) -> None:
        self.prompts.append(prompt)
        self.prompts_size += len(prompt.text)
        while len(self.prompts) > 1 and self.prompts_size > _LEGACY_KEPT:
            self.prompts_size -= len(self.prompts.popleft().text)

    def _communication(self, message: dict[str, JSON]) -> list[Event]:
        return self._item("agent_message", message)

    # -- events ----------------------------------------------------------------------------------

    def _event(self, event: dict[str, JSON]) -> Iterable[Event]:
        kind = event.get("type")
        if type(kind) is not str:
            return [self._unused("event_msg without a type")]
        control = self.controls.get(kind)
        if control is not None and (events := control(event)) is not None:
            return events
        if self.unspoken is not None and kind in _SPOKEN and (spoken := self._spoken(event)) is not None:
            self.unspoken.append((spoken, self._unused(f"event_msg {kind}")))
            return ()
        # Most records are such: they are counted here, and told of once.
        self.screen[kind] = self.screen.get(kind, 0) + 1
        if self.stamp is not None and (self.screen_stamp is None or self.stamp > self.screen_stamp):
            self.screen_stamp = self.stamp
        return ()

    def _spoken(self, event: dict[str, JSON]) -> Event | None:
        match event:
            case {"type": "user_message", "message": str(text)}:
                pictures = [_picture(url) for key in ("images", "local_images") for url in as_list(event.get(key))]
                media = [picture for picture in pictures if picture is not None]
                return Said(self._at(_origin(text)), "user", text, media)
            case {"type": "agent_message", "message": str(text)}:
                return Said(self._at(phase=_string(event.get("phase"))), "assistant", text)
            case {"type": "agent_reasoning", "text": str(text)}:
                return Thought(self._at(), text)
        return None

    def _roll_back(self, event: dict[str, JSON]) -> list[Event] | None:
        turns = event.get("num_turns")
        if type(turns) is not int or turns <= 0:
            return None
        self.counts["rolled_back_turns"] += turns
        rewound = Rewound(turns)
        if self.unspoken is not None:
            self.unspoken.append((rewound, self._unused("event_msg thread_rolled_back")))
            return []
        events = self._settle()
        self.answered = False
        self.completed = None
        self.call_ids.clear()  # what was withdrawn may be said again
        for _ in range(min(turns, len(self.prompts))):
            self.prompts_size -= len(self.prompts.pop().text)
        return [*events, rewound]

    def _abort(self, event: dict[str, JSON]) -> list[Event] | None:
        self.counts["aborted_turns"] += 1
        self.completed = False
        if self.unspoken is None:
            # Early versions write the items of the aborted turn after this event.
            self.aborted = event.get("reason") != "review_ended"
            return []
        last = self.unspoken[-1][0] if self.unspoken else None
        if isinstance(last, Thought) or (isinstance(last, Said) and last.role == "assistant"):
            self.unspoken.append((Interrupted(), self._unused("event_msg turn_aborted")))
            return []
        return None

    def _start_task(self, event: dict[str, JSON]) -> list[Event] | None:
        self.completed = None
        return [*self._settle_abort(), self._unused("event_msg task_started")] if self.aborted else None

    def _complete_task(self, event: dict[str, JSON]) -> None:
        self.completed = True

    def _settle_abort(self) -> list[Event]:
        if not self.aborted:
            return []
        self.aborted = False
        return [*self._flush_hosted(), Interrupted()] if self.answered else self._flush_hosted()

    def _settle(self) -> list[Event]:
        return self._settle_abort() + self._flush_hosted()

    def _count_tokens(self, event: dict[str, JSON]) -> None:
        info = event.get("info")
        if type(info) is not dict or type(total := info.get("total_token_usage")) is not dict:
            return
        spent = total.get("input_tokens")
        if type(spent) is int:
            if spent < self.spent:
                # Early versions count from zero again when a session is resumed.
                self.earlier_totals.append(self.total)
            self.spent = spent
        self.total = total
        if self.copied is not None:
            self.inherited_total = total

    # -- compaction ------------------------------------------------------------------------------

    def _compacted(self, payload: dict[str, JSON]) -> Iterator[Event]:
        yield from self._settle()
        message = _string(payload.get("message"))
        history = payload.get("replacement_history")
        note: dict[str, JSON] = {"kind": "replacement_history" if isinstance(history, list) else "summary"}
        note |= {key: payload[key] for key in ("window_number", "window_id") if payload.get(key) is not None}
        if self.stamp is not None:
            note["timestamp"] = self.stamp
        context: list[Event] = [] if self.base is None else [_replayed(self.base)]
        if isinstance(history, list):
            context += self._replay(history, message, note)
        else:
            context += [_replayed(said) for said in (*self.opening, *self.prompts)]
            if message:
                context.append(Said(self._at("summary"), "user", message))
        if self.unspoken is not None:
            yield from self._begin({})
        yield Compacted(note, context)

    def _replay(self, history: list[JSON], summary: str | None, note: dict[str, JSON]) -> Iterator[Event]:
        """The items that became the context; only a summary among them is new."""
        self.replayed = True
        for item in history:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind in ("compaction", "compaction_summary", "context_compaction"):
                note["encrypted"] = True
                continue
            convert = self.items.get(kind) if isinstance(kind, str) else None
            if convert is None:
                yield self._unused(f"{kind if isinstance(kind, str) else 'item without a type'} in replacement_history")
                continue
            for event in convert(item):
                if type(event) is Said and event.role == "user" and _is_summary(event, summary):
                    event = event._replace(at=event.at._replace(origin="summary", replayed=False))
                yield event
        self.replayed = False

    # -- items -----------------------------------------------------------------------------------

    def _at(self, origin: str | None = None, *, id: JSON = None, phase: str | None = None) -> At:
        known = id if type(id) is str else None
        return At(known, self.stamp, None, -1, origin, self.copied, self.replayed, phase)

    def _message(self, item: dict[str, JSON]) -> list[Event]:
        role = item.get("role")
        texts, media, lost = _parts(item.get("content"))
        text = texts[0] if len(texts) == 1 else "\n".join(texts)
        if role == "assistant":
            if text.startswith('{"author":') and _is_instruction(text):
                return [Said(self._at("agent_message"), "user", text), *lost]
            if not text and not media:
                return [Skipped("message: empty", self.stamp), *lost]
            return [Said(self._at(phase=_string(item.get("phase"))), "assistant", text, media), *lost]
        if role == "user":
            if not text and not media:
                return [Skipped("message: empty", self.stamp), *lost]
            return [Said(self._at(_origin_of(texts, media), id=item.get("id")), "user", text, media), *lost]
        if role == "developer":
            return [Said(self._at(_origin(text) or "reminder", id=item.get("id")), "system", text, media), *lost]
        if role == "system":
            return [Said(self._at(id=item.get("id")), "system", text, media), *lost]
        return [Skipped("message: of an unknown role", self.stamp), *lost]

    def _agent_message(self, item: dict[str, JSON]) -> list[Event]:
        text, media, lost = _content(item.get("content"))
        if not text and not media:
            return lost or [Skipped("message: encrypted or empty agent message", self.stamp)]
        return [Said(self._at("agent_message", id=item.get("id")), "user", text, media), *lost]

    def _reasoning(self, item: dict[str, JSON]) -> list[Event]:
        for key in ("content", "summary"):
            found = item.get(key)
            if not found or type(found) is not list:
                continue
            parts = [part["text"] for part in found if type(part) is dict and _string(part.get("text"))]
            if parts:
                return [Thought(self._at(), parts[0] if len(parts) == 1 else "\n\n".join(parts))]
        return [Skipped("reasoning: encrypted or empty", self.stamp)]

    def _call(self, id: str | None, name: JSON, arguments: JSON, raw: str | None = None) -> list[Event]:
        if type(name) is not str or not isinstance(arguments, (str, dict)):
            return [Skipped("tool_call: of unexpected shape", self.stamp)]
        if not self.replayed:
            if id is not None:
                # The first of one id counts, until it is answered: some providers number calls anew in each response,
                # and such a call is renamed when rows are made. The same call again is one written twice.
                said = hash((name, raw))
                if id in self.call_ids and (id not in self.answered_ids or self.call_ids[id] == said):
                    return [Skipped("tool_call: duplicate", self.stamp)]
                self.call_ids[id] = said
                self.answered_ids.discard(id)
            self.counts["arguments_as_text"] += isinstance(arguments, str)
        return [Called(self._at(), id, name, arguments)]

    def _function_call(self, item: dict[str, JSON]) -> list[Event]:
        arguments = item.get("arguments")
        if type(arguments) is str:
            arguments = jsontext.arguments(arguments)
        elif type(arguments) is dict:
            arguments = self._exact("arguments", arguments)
        name = item.get("name")
        namespace = item.get("namespace")
        if type(namespace) is str and type(name) is str:
            self.namespaces[name] = namespace
        return self._call(_string(item.get("call_id")), name, arguments, _string(item.get("arguments")))

    def _custom_tool_call(self, item: dict[str, JSON]) -> list[Event]:
        name = item.get("name")
        if "input" not in item:
            return [Skipped("tool_call: of unexpected shape", self.stamp)]
        if type(name) is str:
            self.custom_tools[name] = None
        return self._call(_string(item.get("call_id")), name, {"input": item["input"]}, _string(item["input"]))

    def _local_shell_call(self, item: dict[str, JSON]) -> list[Event]:
        id = _string(item.get("call_id")) or _string(item.get("id"))
        return self._call(id, "local_shell", self._exact("action", item.get("action")))

    def _tool_search_call(self, item: dict[str, JSON]) -> list[Event]:
        id = _string(item.get("call_id")) or self._made_id("ts", item)
        self.last_search = id
        return self._call(id, "tool_search", self._exact("arguments", item.get("arguments")))

    def _web_search_call(self, item: dict[str, JSON]) -> list[Event]:
        action = self._exact("action", item.get("action")) if item.get("action") is not None else {}
        return self._hosted(self._made_id("ws", item), "web_search", action, item, [])

    def _image_generation_call(self, item: dict[str, JSON]) -> list[Event]:
        prompt = item.get("revised_prompt")
        arguments = {"revised_prompt": prompt} if type(prompt) is str else {}
        result = item.get("result")
        pictures: list[Media] = []
        lost: list[Event] = []
        if type(result) is str and result:
            picture = decoded("image", None, result)
            if picture is None:
                lost.append(Skipped("media: not base64", self.stamp))
            else:
                pictures.append(picture)
        return self._hosted(self._made_id("ig", item), "image_generation", arguments, item, pictures) + lost

    def _hosted(self, id: str, name: str, arguments: JSON, item: dict[str, JSON], media: list[Media]) -> list[Event]:
        events = self._call(id, name, arguments)
        if type(events[0]) is Called:
            events.append(Returned(self._at(), id, "", media, True if item.get("status") == "failed" else None))
        return events

    def _made_id(self, prefix: str, item: dict[str, JSON]) -> str:
        if found := _string(item.get("id")):
            return found
        self.counts[prefix] += 1
        return f"{prefix}_{self.counts[prefix]}"

    def _output(self, item: dict[str, JSON]) -> list[Event]:
        output = item.get("output")
        failed: bool | None = None
        if type(output) is str:
            at = At(None, self.stamp, None, -1, None, self.copied, self.replayed)
            self.answered_ids.add(id := _string(item.get("call_id")))
            return [Returned(at, id, output)]
        if isinstance(output, dict):
            if isinstance(output.get("success"), bool):
                failed = not output["success"]
            output = output["content"] if isinstance(output.get("content"), (str, list)) else _json_text(output)
        elif not isinstance(output, list) and output is not None:
            output = _json_text(output)
        text, media, lost = _content(output)
        self.answered_ids.add(id := _string(item.get("call_id")))
        return [Returned(self._at(), id, text, media, failed), *lost]

    def _tool_search_output(self, item: dict[str, JSON]) -> list[Event]:
        id = _string(item.get("call_id")) or self.last_search
        return [Returned(self._at(), id, _json_text(item.get("tools")))]

    def _exact(self, key: str, value: JSON) -> JSON:
        """An object of the record that is at hand, with its long integers as they were written."""
        if type(value) is dict and not self.replayed and not jsontext.is_exact(value):
            try:
                record = self.source.exact()
                return record.get("payload", record)[key]
            except (ValueError, TypeError, KeyError, AttributeError):
                return value
        return value

    # -- the end ---------------------------------------------------------------------------------

    def _finish(self) -> Iterator[Event]:
        yield from self._settle()
        if self.unspoken and any(isinstance(event, (Said, Thought)) for event, _ in self.unspoken):
            if self.base is not None:
                yield self.base
            yield from (event for event, _ in self.unspoken)
        elif self.unspoken:
            yield from (skipped for _, skipped in self.unspoken)
        for kind, count in self.screen.items():
            yield Skipped(f"record: event_msg {kind[:80]}", self.screen_stamp, count)
        counts = {key: n for key, n in self.counts.items() if n and key not in ("ws", "ig", "ts")}
        meta: dict[str, JSON] = {
            "response_item_types": self.types or None,
            "custom_tools": list(self.custom_tools) or None,
            "namespaces": self.namespaces or None,
            # A fork goes on counting where its parent stood.
            "usage_inherited": _usage(self.inherited_total),
            "usage_before_restart": [_usage(total) for total in self.earlier_totals] or None,
            **counts,
        }
        yield Facts({"usage": _usage(self.total), "completed": self.completed}, meta)

    def _unused(self, what: str) -> Skipped:
        return Skipped(f"record: {what[:80]}", self.stamp)


def _session_facts(meta: dict[str, JSON]) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """Columns and details that the thread's own `session_meta` (or bare header) tells."""
    details = {key: meta[key] for key in _META_KEYS if meta.get(key) not in (None, [])}
    git = meta.get("git")
    if isinstance(git, dict):
        details |= {key: git[key] for key in ("commit_hash", "repository_url") if git.get(key) is not None}
    else:
        git = {}
    if "history_base" in details:
        # Nothing was copied: what the model saw before lies in the parent's file.
        details["history_incomplete"] = True
    source = meta.get("source")
    spawn: dict[str, JSON] = {}
    internal = None
    subagent = meta.get("thread_source") == "subagent"
    match source:
        case {"subagent": {"thread_spawn": dict(spawn)}}:
            subagent = True
            spawned = {"depth": spawn.get("depth"), "agent_role": spawn.get("agent_role") or spawn.get("agent_type")}
            details = {key: value for key, value in spawned.items() if value is not None} | details
        case {"subagent": {"other": str(kind)}} | {"subagent": str(kind)}:
            subagent = True
            internal = _INTERNAL.get(kind)
        case {"internal": kind}:
            internal = (
                _INTERNAL.get(kind, "works for Codex itself") if isinstance(kind, str) else "works for Codex itself"
            )
    id, parent = (
        meta.get("id"),
        meta.get("forked_from_id") or spawn.get("parent_thread_id") or meta.get("parent_thread_id"),
    )
    values = {
        "trace_id": id,
        "root_session_id": meta.get("session_id") or parent or id,
        "parent_trace_id": parent,
        "cwd": meta.get("cwd"),
        "git_branch": git.get("branch"),
        "started_at": meta.get("timestamp") if _seconds(meta.get("timestamp")) is not None else None,
        "internal": internal,
    }
    if subagent:
        nickname = meta.get("agent_nickname") or spawn.get("agent_nickname")
        values["agent_id"] = nickname or meta.get("agent_path") or spawn.get("agent_path") or id
    facts: dict[str, JSON] = {key: value for key, value in values.items() if isinstance(value, str)}
    if subagent:
        facts["is_sidechain"] = True
    return facts, details


def _is_summary(said: Said, summary: str | None) -> bool:
    return said.at.origin == "summary" or (summary is not None and said.text == summary)


def _replayed(said: Said) -> Said:
    return said._replace(at=said.at._replace(replayed=True))


def _origin_of(texts: list[str], media: list[Media]) -> str | None:
    """The origin of a user message: that of its first part when all are fragments, else it is a prompt."""
    if not texts or media:
        return None
    origins = [_origin(text) for text in texts]
    return None if None in origins else origins[0]


def _origin(text: str) -> str | None:
    # Codex compares without regard to case and to spaces before.
    start = text[:80].lstrip().lower()
    if not start.startswith(_FRAGMENT_STARTS):
        return None
    return next(origin for prefix, origin in _FRAGMENTS.items() if start.startswith(prefix))


def _is_instruction(text: str) -> bool:
    """Whether an "assistant" message is another agent's instruction, which some versions deliver so."""
    try:
        value = orjson.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and {"author", "recipient", "content"} <= set(value)


def _parts(content: JSON) -> tuple[list[str], list[Media], list[Event]]:
    """Texts, media and losses of a message's or an output's content."""
    if type(content) is str:
        return [content], [], []
    texts: list[str] = []
    media: list[Media] = []
    lost: list[Event] = []
    for part in as_list(content):
        kind = part.get("type") if type(part) is dict else None
        if type(part) is str:
            texts.append(part)
        elif type(kind) is not str:
            lost.append(Skipped("media: of unexpected shape"))
        elif kind in _TEXT_PARTS and type(part.get("text")) is str:
            texts.append(part["text"])
        elif kind == "refusal" and type(part.get("refusal")) is str:
            texts.append(part["refusal"])
        elif kind == "input_image" and (picture := _picture(part.get("image_url"))) is not None:
            media.append(picture)
        elif kind == "input_audio" and (sound := _sound(part)) is not None:
            media.append(sound)
        elif kind == "encrypted_content":
            lost.append(Skipped("message: encrypted part"))
        else:
            lost.append(Skipped(f"media: {kind[:40]}"))
    return texts, media, lost


def _content(content: JSON) -> tuple[str, list[Media], list[Event]]:
    texts, media, lost = _parts(content)
    return texts[0] if len(texts) == 1 else "\n".join(texts), media, lost


def _picture(url: JSON) -> Media | None:
    return of_url("image", url.get("url") if isinstance(url, dict) else url)


def _sound(part: dict[str, JSON]) -> Media | None:
    match part:
        case {"input_audio": {"data": str(text), "format": str(kind)}}:
            return decoded("audio", f"audio/{kind}", text)
        case {"audio_url": str(url)}:
            return of_url("audio", url)
    return None


def _json_text(value: JSON) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return jsontext.exact_text(value)


def _uuid_millis(text: str) -> int | None:
    """When a UUID of version 7 was made, in milliseconds since 1970."""
    if len(text) != 36 or text[14] != "7":
        return None
    try:
        return int(text[:8] + text[9:13], 16)
    except ValueError:
        return None


def _seconds(stamp: JSON) -> float | None:
    if type(stamp) is not str:
        return None
    try:
        return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _usage(total: dict[str, JSON]) -> dict[str, int] | None:
    counts = {ours: total.get(theirs) for theirs, ours in _USAGE.items()}
    return {key: count for key, count in counts.items() if type(count) is int and 0 <= count < 2**63} or None


def _string(value: JSON) -> str | None:
    return value if type(value) is str and value else None
