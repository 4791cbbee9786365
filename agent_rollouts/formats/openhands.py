r"""OpenHands: a trajectory as one list of events, and conversations with a file for each event.

Before 1.0 a list (`save_trajectory_path`), or `sessions/<id>/events/<n>.json`; an event is an action or an observation:

    {"id": 0, "timestamp": "…", "source": "agent", "action": "system", "args": {"content": "…", "tools": […]}}
    {"id": 1, "timestamp": "…", "source": "user", "action": "message", "args": {"content": "Fix it", "image_urls": null}}
    {"id": 5, "source": "agent", "action": "run", "args": {"command": "ls", …}, "tool_call_metadata": {"tool_call_id": "call_1", "function_name": "execute_bash", "model_response": {"id": "…", "choices": […]}}}
    {"id": 6, "source": "agent", "cause": 5, "observation": "run", "content": "a.py", "extras": {"metadata": {"exit_code": 0, …}}, "tool_call_metadata": {…}}

From 1.0 (SDK) `~/.openhands/conversations/<id>/events/event-<n>-<uuid>.json`, beside `<id>/base_state.json`:

    {"id": "…", "timestamp": "…", "source": "agent", "parent_id": "…", "kind": "ActionEvent", "thought": [{"type": "text", "text": "…"}], "tool_call": {"id": "call_1", "name": "terminal", "arguments": "{…}"}, "llm_response_id": "…"}
    {"id": "…", "source": "environment", "kind": "ObservationEvent", "tool_call_id": "call_1", "observation": {"content": [{"type": "text", "text": "a.py"}], "is_error": false, "kind": "TerminalObservation", "metadata": {…}}}

* A conversation is read with the first of its files; the others are then known. `base_state.json` has model and usage.
* Actions of one response share its id. An action without the model's response is a call named after the action.
* What the program writes around an output for the model (folder, exit code, "error occurred") is not in the events; it is
  put there as the program does it. Outputs that it cuts for the model are whole.
* A condensation forgets events and puts a summary in their place.
* Between a `delegate` action and its observation the events are those of the delegate, a rollout of its own.
* What recalled knowledge says is shown as it is, without the frame of the prompt's template.

Source of the rules: openhands-ai 0.9.8 and 0.59 (`events`, `memory/conversation_memory.py`), openhands-sdk 1.58 (`event`,
`conversation`), whose own view was compared with the rows.
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator

from agent_rollouts.errors import FormatError
from agent_rollouts.events import (
    JSON,
    At,
    Branched,
    Called,
    Compacted,
    Event,
    Facts,
    Media,
    Returned,
    Said,
    Skipped,
    Start,
    Thought,
    Used,
)
from agent_rollouts.formats import _chat
from agent_rollouts.formats._media import decoded, of_url
from agent_rollouts.jsontext import as_dict, as_list
from agent_rollouts.source import Head, Source

_SOURCES = ("agent", "user", "environment", "hook")
# What the model is shown, and what else is an event from 1.0 on.
_SPOKEN = frozenset({
    "SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent", "AgentErrorEvent", "UserRejectObservation",
})  # fmt: skip
_KINDS = _SPOKEN | {
    "Condensation", "CondensationRequest", "CondensationSummaryEvent", "ConversationStateUpdateEvent",
    "ConversationErrorEvent", "PauseEvent", "InterruptEvent", "TokenEvent", "HookExecutionEvent", "ACPToolCallEvent",
    "LLMCompletionLogEvent",
}  # fmt: skip
_STATES = ("recall", "null", "change_agent_state", "condensation_request", "start", "pause", "resume", "stop")
# These tell clients of the state; they have a parent and are nobody's.
_ARTIFACTS = ("ConversationStateUpdateEvent", "ConversationErrorEvent")
_ROOT = "__root__"
_PICTURE = "![image](data:image/png;base64,"
_RECALLED = ("repo_instructions", "additional_agent_instructions", "conversation_instructions")
_FAILURE = "[An error occurred during execution.]\n"
_TOKENS = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
}


def claims(head: Head) -> bool:
    """Whether the file is an event, or a list that begins with one."""
    found = head.document
    return _is_event(found) or (isinstance(found, list) and any(map(_is_event, found[:2])))


def _is_event(event: JSON) -> bool:
    match event:
        case {"kind": str(kind), "id": str(), "source": str(source)}:
            return kind in _KINDS and source in _SOURCES
        case {"source": str(source), "action": str(), "args": dict(), **more}:
            return source in _SOURCES and not more.keys().isdisjoint({"id", "timestamp"})
        case {"source": str(source), "observation": str(), "extras": dict(), **more}:
            return source in _SOURCES and not more.keys().isdisjoint({"id", "timestamp"})
    return False


def decode(source: Source) -> Iterator[Event]:
    """The conversation of a list, or of the folder whose first event this is; see the module's docstring."""
    document = source.document()
    if isinstance(document, list):
        yield from _Conversation(document, {}, source.stem).events()
        return
    names = _event_files(source)
    if names and names[0] != source.name:
        yield Skipped("file: event that is read with the first of its conversation")
        return
    events = [document]
    for name in names[1:]:
        event = source.sibling(name)
        if event is None:
            source.damage["file: event that cannot be read"] += 1
        events.append(event)
    folder = posixpath.basename(posixpath.dirname(posixpath.dirname(source.path.replace("\\", "/"))))
    state = source.sibling("../base_state.json")
    yield from _Conversation(events, as_dict(state), folder or source.stem).events()


def _event_files(source: Source) -> list[str]:
    """The files of a conversation in order, as they number the events; none where this is not one of several.

    Raises:
        FormatError: the file is within an archive, where the others cannot be seen.
    """
    if _number_of(source.name) is None:
        return []
    if "::" in source.path:
        raise FormatError(f"{source.path} is one event of a conversation; unpack the archive to read it")
    numbered = {name: number for name in source.names_beside() if (number := _number_of(name)) is not None}
    return sorted(numbered, key=lambda name: (numbered[name], name))


def _number_of(name: str) -> int | None:
    """The number in `event-00003-<uuid>.json` or `3.json`."""
    stem, _, suffix = name.removeprefix("event-").partition(".")
    number = stem.partition("-")[0] if name.startswith("event-") else stem
    return int(number) if suffix == "json" and number.isdigit() else None


class _Conversation:
    """What must be remembered between the events of one conversation."""

    def __init__(self, events: list[JSON], state: dict[str, JSON], name: str) -> None:
        self.all = events
        self.state = state
        self.name = _chat.text_or_none(state.get("id")) or name
        self.completed: bool | None = None
        self.responses: set[str] = set()
        self.calls: set[JSON] = set()
        self.metrics: dict[str, JSON] = {}
        self.delegates: list[str] = []
        # What the model is shown, of each rollout: (id, node) of events, in order.
        self.views: defaultdict[str, list[tuple[JSON, int]]] = defaultdict(list)

    def events(self) -> Iterator[Event]:
        yield Start(self.name)
        yield from self._facts()
        hidden, others = self._branches()
        for node, event in enumerate(self.all):
            if not isinstance(event, dict):
                yield Skipped("record: not an object")
            elif "kind" in event:
                yield from self._event(event, node, is_active=node not in hidden)
            elif isinstance(event.get("action"), str):
                yield from self._action(event, event["action"], as_dict(event.get("args")), node)
            elif isinstance(event.get("observation"), str):
                yield from self._observation(event, event["observation"], as_dict(event.get("extras")), node)
            else:
                yield Skipped("record: neither action nor observation")
        yield Start(self.name)
        if hidden:
            yield Branched(hidden, others)
        yield Facts({"completed": self.completed})
        if self.metrics:
            yield Used("conversation", _usage(self.metrics))

    def _facts(self) -> Iterator[Event]:
        agent, workspace = as_dict(self.state.get("agent")), as_dict(self.state.get("workspace"))
        status = self.state.get("execution_status")
        values = {
            "trace_id": self.name,
            "model": as_dict(agent.get("llm")).get("model"),
            "cwd": workspace.get("working_dir"),
            "completed": {"finished": True, "error": False, "stuck": False}.get(str(status)),
        }
        yield Facts(values, {"execution_status": status, "agent": agent.get("kind")})
        for id, metrics in as_dict(as_dict(self.state.get("stats")).get("usage_to_metrics")).items():
            yield Used(id, _usage(as_dict(metrics)))

    def _branches(self) -> tuple[frozenset[int], list[frozenset[int]]]:
        """The nodes that do not lead to the active leaf, and the same for each other leaf."""
        nodes = {event["id"]: n for n, event in enumerate(self.all) if isinstance(event, dict) and _is_id(event)}
        parents: dict[int, int | None] = {}
        for node in nodes.values():
            parent = self.all[node].get("parent_id")
            known = nodes.get(parent) if isinstance(parent, str) else node - 1 if node else None
            parents[node] = None if parent == _ROOT else known
        if not parents:
            return frozenset(), []
        real = [node for node in parents if self.all[node].get("kind") not in _ARTIFACTS]
        inner = set(parents.values())
        leaves = [node for node in real if node not in inner]
        leaf = self.state.get("leaf_event_id")
        active = nodes.get(leaf) if isinstance(leaf, str) else None
        active = max(real, default=None) if active is None else active
        everything = frozenset(parents)

        def hidden_from(node: int | None) -> frozenset[int]:
            path: set[int] = set()
            while node is not None and node not in path:
                path.add(node)
                node = parents.get(node)
            return everything - path

        hidden = hidden_from(active)
        return (hidden, [hidden_from(leaf) for leaf in leaves if leaf in hidden]) if leaves else (frozenset(), [])

    # -- 1.0 and later -------------------------------------------------------------------------------

    def _event(self, event: dict[str, JSON], node: int, *, is_active: bool) -> Iterator[Event]:
        kind, stamp = event.get("kind"), _stamp(event)
        at = At(timestamp=stamp, turn=node, node=node)
        if isinstance(kind, str) and kind in _SPOKEN and is_active:
            self.views[self._here()].append((event.get("id"), node))
        match event:
            case {"kind": "SystemPromptEvent", "system_prompt": prompt}:
                text, _, _ = _content([prompt, event.get("dynamic_context")], at)
                yield Said(at, "system", text)
                titles = [tool.get("title") for tool in as_list(event.get("tools")) if isinstance(tool, dict)]
                yield Facts(meta={"tools": [title for title in titles if title]})
            case {"kind": "MessageEvent", "llm_message": dict(message)}:
                yield from self._message(event, message, at)
            case {"kind": "ActionEvent", "tool_call": dict(call)}:
                at = _of_response(at, event.get("llm_response_id"))
                yield from _reasoning(event, at)
                text, media, inner = _content(event.get("thought"), at)
                yield from (Said(at, "assistant", text, media),) if text or media else ()
                yield from inner
                yield from _chat.tool_calls({"tool_calls": [call]}, at)
                self.completed = True if call.get("name") == "finish" else self.completed
            case {"kind": "ObservationEvent", "tool_call_id": str(id), "observation": dict(observation)}:
                text, media = _shown(observation, at, as_list(event.get("extended_content")))
                failed = observation.get("is_error")
                yield Returned(at, id, text, media, failed if isinstance(failed, bool) else None)
            case {"kind": "AgentErrorEvent", "tool_call_id": str(id), "error": str(text)}:
                yield Returned(at, id, text, (), True)
            case {"kind": "UserRejectObservation", "tool_call_id": str(id)}:
                yield Returned(at, id, f"Action rejected: {event.get('rejection_reason', '')}", (), True)
            case {"kind": "Condensation", "forgotten_event_ids": list(ids)} if is_active:
                forgotten = {id for id in ids if isinstance(id, str)}
                summary_id = f"{event.get('id')}-summary"
                yield self._condensed(event, event, forgotten, at, summary_id)
            case {"kind": "ConversationErrorEvent"}:
                yield Facts(meta={"error": event.get("detail")})
                yield Skipped("record: ConversationErrorEvent", stamp)
            case {"kind": str(kind)}:
                yield Skipped(f"record: {kind}", stamp)
            case _:
                yield Skipped("record: of unknown kind", stamp)

    def _message(self, event: dict[str, JSON], message: dict[str, JSON], at: At) -> Iterator[Event]:
        text, media, inner = _content([*_parts(message.get("content")), *as_list(event.get("extended_content"))], at)
        if message.get("role") == "assistant":
            at = _of_response(at, event.get("llm_response_id"))
            if at.id is None and as_dict(self.state.get("agent")).get("kind") != "ACPAgent":
                # Every answer of a model has its id; this is the program's own.
                at = at._replace(weight_reason="synthetic", origin="synthetic")
            yield from _reasoning(message, at)
            if text or media:
                yield Said(at, "assistant", text, media)
            yield from _chat.tool_calls(message, at)
        elif message.get("role") in ("user", "system"):
            source = event.get("source")
            origin = {"hook": "hook", "environment": "reminder", "agent": "reminder"}.get(str(source))
            yield Said(
                at._replace(origin="agent_message" if event.get("sender") else origin), message["role"], text, media
            )
            self.completed = None
        else:
            yield Skipped("message: unknown role", at.timestamp)
        yield from inner

    # -- before 1.0 ----------------------------------------------------------------------------------

    def _action(self, event: dict[str, JSON], action: str, args: dict[str, JSON], node: int) -> Iterator[Event]:
        self.views[self._here()].append((event.get("id"), node))
        self.metrics = as_dict(event.get("llm_metrics")) or self.metrics
        at = At(timestamp=_stamp(event), turn=node, node=node)
        is_user = event.get("source") == "user"
        called = as_dict(event.get("tool_call_metadata"))
        response = as_dict(called.get("model_response"))
        text = _chat.shown_text(args.get("content"))
        pictures = [of_url("image", url) for url in as_list(args.get("image_urls") or args.get("images_urls"))]
        media = [picture for picture in pictures if picture]
        if isinstance(response.get("model"), str):
            yield Facts({"model": response["model"]})
        if not is_user and action in ("finish", "reject"):
            done = action == "finish" and args.get("task_completed") not in ("false", False)
            if self.delegates:
                yield Facts({"completed": done})
            else:
                self.completed = done
        if message := as_dict(as_dict(next(iter(as_list(response.get("choices"))), None)).get("message")):
            yield from self._response(response, {"role": "assistant", **message}, at)
        elif action == "system":
            tools = args.get("tools")
            yield Facts({"tools": tools if isinstance(tools, list) else None})
            yield Facts(meta={key: args.get(key) for key in ("openhands_version", "agent_class")})
            yield Said(at, "system", text)
        elif action == "message":
            yield Said(at, "user" if is_user else "assistant", text, media)
            self.completed = None if is_user else self.completed
        elif is_user and action == "run":
            yield Said(at._replace(origin="bash"), "user", _chat.shown_text(args.get("command")))
        elif action == "condensation":
            yield self._condensed(event, args, _forgotten(args), at, None)
        elif is_user or action in _STATES:
            yield Skipped(f"record: {action}", at.timestamp)
        else:
            # A version, or a model, without tool calls: the action is what is left of the answer.
            if thought := _chat.shown_text(args.get("thought")):
                yield Said(at, "assistant", thought)
            given = {key: value for key, value in args.items() if key != "thought"}
            id = _chat.text_or_none(called.get("tool_call_id")) or f"{event.get('id', node)}"
            self.calls.add(_key(event.get("id", node)))
            yield Called(at, id, _chat.text_or_none(called.get("function_name")) or action, given)
        if action == "delegate" and not is_user:
            yield from self._delegate(event, args)

    def _response(self, response: dict[str, JSON], message: dict[str, JSON], at: At) -> Iterator[Event]:
        """The answer that an action comes from; its other actions repeat it."""
        id = _chat.text_or_none(response.get("id"))
        if id is not None and id in self.responses:
            return
        self.responses.add(id or "")
        yield from _chat.message_events(message, _of_response(at, id))

    def _delegate(self, event: dict[str, JSON], args: dict[str, JSON]) -> Iterator[Event]:
        parent = self._here()
        key = f"{self.name}#{event.get('id')}"
        self.delegates.append(key)
        yield Start(key)
        facts = {"trace_id": key, "parent_trace_id": parent, "root_session_id": self.name, "is_sidechain": True}
        yield Facts({**facts, "agent_id": args.get("agent")})

    def _observation(self, event: dict[str, JSON], kind: str, extras: dict[str, JSON], node: int) -> Iterator[Event]:
        if kind == "delegate" and self.delegates:
            self.delegates.pop()
            yield Start(self._here())
        self.views[self._here()].append((event.get("id"), node))
        at = At(timestamp=_stamp(event), turn=node, node=node)
        if kind in ("null", "agent_state_changed"):
            if extras.get("agent_state") in ("error", "rejected", "stopped"):
                self.completed = self.completed or False
            yield Skipped(f"record: {kind}", at.timestamp)
            return
        if kind == "recall":
            yield from _recalled(extras, at)
            return
        pictures = [of_url("image", url) for url in as_list(extras.get("image_urls"))]
        media = [picture for picture in pictures if picture]
        text = _output(event, kind, extras)
        shown = "\n".join(
            f"{_PICTURE} ...) already displayed to user" if _PICTURE in line else line for line in text.split("\n")
        )
        if shown != text:
            yield Skipped("media: shown to the user alone", count=text.count(_PICTURE))
        if extras.get("screenshot") or extras.get("set_of_marks"):
            yield Skipped("media: screenshot, of which the log does not say whether it was sent")
        cause = event.get("cause")
        call_id = _chat.text_or_none(as_dict(event.get("tool_call_metadata")).get("tool_call_id"))
        if call_id is None and _key(cause) in self.calls:
            call_id = f"{cause}"
        succeeded = event.get("success")
        failed = True if kind in ("error", "user_rejected") else None if succeeded is None else succeeded is False
        if call_id is not None:
            yield Returned(at, call_id, shown, media, failed)
        else:
            origin = "command_output" if kind == "run" else "observation"
            yield Said(at._replace(origin=origin), "user", shown, media)

    # -- both ----------------------------------------------------------------------------------------

    def _condensed(
        self, event: dict[str, JSON], about: dict[str, JSON], forgotten: set[JSON], at: At, summary_id: JSON
    ) -> Event:
        """A condensation; only in 1.0 does a summary stay in view beside the next one, until it is forgotten."""
        kept = [(id, node) for id, node in self.views[self._here()] if _key(id) not in forgotten and id is not None]
        kept = [(id, node) for id, node in kept if node != at.node]
        summary, offset = about.get("summary"), about.get("summary_offset")
        place = offset if isinstance(offset, int) and isinstance(summary, str) else 0
        head, rest = kept[: max(place, 0)], kept[max(place, 0) :]
        context = [Said(at._replace(origin="summary"), "user", summary)] if isinstance(summary, str) and summary else []
        self.views[self._here()] = [*head, *([(summary_id, at.node)] if context else []), *rest]
        note = {"timestamp": at.timestamp, "forgotten": len(forgotten)}
        return Compacted(note, context, frozenset(node for _, node in rest), head=frozenset(node for _, node in head))

    def _here(self) -> str:
        """The rollout that speaks: the conversation, or the delegate that is at work."""
        return self.delegates[-1] if self.delegates else self.name


def _forgotten(args: dict[str, JSON]) -> set[JSON]:
    first, last = args.get("forgotten_events_start_id"), args.get("forgotten_events_end_id")
    if isinstance(first, int) and isinstance(last, int):
        return set(range(first, min(last, first + 10**6) + 1))
    return {id for id in as_list(args.get("forgotten_event_ids")) if isinstance(id, int | str)}


def _recalled(extras: dict[str, JSON], at: At) -> Iterator[Event]:
    """Instructions of the repository and knowledge that were put before the model, each text as it is."""
    yield Facts({"cwd": _chat.text_or_none(extras.get("working_dir"))})
    yield Facts(meta={"repository": _chat.text_or_none(extras.get("repo_name"))})
    yield Facts({"git_branch": _chat.text_or_none(extras.get("repo_branch"))})
    knowledge = [as_dict(one).get("content") for one in as_list(extras.get("microagent_knowledge"))]
    texts = [text for text in [*(extras.get(key) for key in _RECALLED), *knowledge] if isinstance(text, str) and text]
    if texts:
        origin = "environment" if extras.get("recall_type") == "workspace_context" else "skill"
        yield Said(at._replace(origin=origin), "user", "\n".join(texts))
    else:
        yield Skipped("record: recall without a text", at.timestamp)


def _output(event: dict[str, JSON], kind: str, extras: dict[str, JSON]) -> str:
    """An observation as the model is shown it (`ConversationMemory._process_observation`)."""
    text = _chat.shown_text(event.get("content"))
    match kind:
        case "run" if isinstance(extras.get("metadata"), dict):
            return _with_metadata(text, extras["metadata"])
        case "error":
            return f"{text}\n[Error occurred in processing last action]"
        case "user_rejected":
            return f"OBSERVATION:\n{text}\n[Last action has been rejected by the user]"
        case "delegate":
            return _chat.shown_text(as_dict(extras.get("outputs")).get("content")) or text
    return text


def _shown(observation: dict[str, JSON], at: At, more: list[JSON]) -> tuple[str, list[Media]]:
    """An observation of 1.0 as the model is shown it (`Observation.to_llm_content`)."""
    text, media, _ = _content(observation.get("content"), at)
    if isinstance(observation.get("metadata"), dict) and "exit_code" in observation["metadata"]:
        text = _with_metadata(text, observation["metadata"])
    if picture := decoded("image", None, observation.get("screenshot_data")):
        media.append(picture)
    texts = [_FAILURE] if observation.get("is_error") is True else []
    texts += [text] if text or not texts else []
    extended, pictures, _ = _content(more, at)
    return "\n".join([*texts, *([extended] if extended else [])]), media + pictures


def _with_metadata(text: str, metadata: dict[str, JSON]) -> str:
    """The output of a command with what the program puts around it (`to_agent_observation`)."""
    text = f"{_chat.shown_text(metadata.get('prefix'))}{text}{_chat.shown_text(metadata.get('suffix'))}"
    if metadata.get("working_dir"):
        text += f"\n[Current working directory: {metadata['working_dir']}]"
    if metadata.get("py_interpreter_path"):
        text += f"\n[Python interpreter: {metadata['py_interpreter_path']}]"
    if metadata.get("exit_code", -1) != -1:
        text += f"\n[Command finished with exit code {metadata['exit_code']}]"
    return text


def _reasoning(message: dict[str, JSON], at: At) -> Iterator[Event]:
    """What the model thought, whichever of its fields says so."""
    blocks = [as_dict(block) for block in as_list(message.get("thinking_blocks"))]
    item = as_dict(message.get("responses_reasoning_item"))
    given = [
        [message.get("reasoning_content")],
        [block.get("thinking") for block in blocks],
        as_list(item.get("content")),
        as_list(item.get("summary")),
    ]
    for texts in given:
        if said := "\n".join(text for text in texts if isinstance(text, str) and text.strip()):
            yield Thought(at, said)
            return
    if any("data" in block for block in blocks) or item.get("encrypted_content"):
        yield Skipped("reasoning: encrypted")


def _content(parts: JSON, at: At) -> tuple[str, list[Media], list[Event]]:
    """Text and media; a picture part of OpenHands holds several."""
    flat: list[JSON] = []
    for part in _parts(parts):
        if isinstance(part, dict) and isinstance(part.get("image_urls"), list):
            flat += [{"type": "image_url", "image_url": url} for url in part["image_urls"]]
        elif part is not None:
            flat.append(part)
    return _chat.content(flat, at)


def _parts(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else [value]


def _of_response(at: At, id: JSON) -> At:
    return at._replace(id=id, turn=id) if isinstance(id, str) and id else at


def _usage(metrics: dict[str, JSON]) -> dict[str, JSON]:
    tokens = as_dict(metrics.get("accumulated_token_usage"))
    return {ours: tokens.get(theirs) for theirs, ours in _TOKENS.items()} | {
        "cost_usd": metrics.get("accumulated_cost")
    }


def _is_id(event: dict[str, JSON]) -> bool:
    return "kind" in event and isinstance(event.get("id"), str)


def _stamp(event: dict[str, JSON]) -> str | None:
    return _chat.text_or_none(event.get("timestamp"))


def _key(id: JSON) -> JSON:
    """An id that can be looked up."""
    return id if isinstance(id, int | str) else None
