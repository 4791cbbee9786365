r"""Inspect's logs: `<time>_<task>_<id>.eval`, a zip archive of JSON, and the same log as one `.json` object.

    header.json                  {"version": 2, "status": "success", "eval": {"task": "sums", "eval_id": "…", "model": "…"}, "results": {…}}
    samples/<id>_epoch_<n>.json  {"id": "s1", "epoch": 1, "uuid": "…", "messages": […], "scores": {"match": {"value": "C"}}, "model_usage": {…},
                                  "events": [{"event": "model", "tools": […], "output": {…}}], "attachments": {"<hash>": "long text"}}

    {"role": "assistant", "content": [{"type": "reasoning", "reasoning": "…"}, {"type": "text", "text": "…"}], "tool_calls": [{"id": "t1", "function": "add", "arguments": {"x": 1}}]}
    {"role": "tool", "tool_call_id": "t1", "function": "add", "content": "", "error": {"type": "timeout", "message": "…"}}

A sample may lie in parts as well: `samples/<id>_epoch_<n>/sample.json`, whose `message_refs` are ranges of the items of
`messages/<start>.json`; attachments are then numbered. Before a log is finished its header is `_journal/start.json`.

* A sample is a rollout. Its `messages` are the conversation that it ended with; what model calls answered beside it
  (sub-agents, graders, contexts that were compacted) stands in its events alone, and is counted.
* A text `attachment://<hash>` stands for the attachment.
* Of a call that failed the model is sent the error's message, not the content.
* Assistant messages of the sample's input (`source: input`) are examples that this model did not say.

Source of the rules: inspect_ai 0.3.285 (`log`, `model`), whose logs with deflate, zstd and in parts were read.
"""  # noqa: E501  (the records are shown as they stand)

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator

from agent_rollouts.errors import SourceError
from agent_rollouts.events import (
    JSON,
    At,
    Called,
    End,
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
from agent_rollouts.formats import _chat, _zip
from agent_rollouts.formats._media import of_url
from agent_rollouts.jsontext import as_dict, as_list
from agent_rollouts.source import Head, Source

_MEMBERS = ("header.json", "summaries.json", "reductions.json")
_ATTACHMENT = "attachment://"
_EVAL_KEYS = ("task", "eval_id", "run_id", "created", "model", "solver", "tags", "packages")
_SAMPLE_KEYS = (
    "epoch", "target", "choices", "metadata", "limit", "invalidation", "total_time", "working_time", "model_fallbacks",
)  # fmt: skip
_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "input_tokens_cache_read": "cache_read_tokens",
    "input_tokens_cache_write": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "total_cost": "cost_usd",
}
_GRADES = {"C": 1.0, "I": 0.0}


def claims(head: Head) -> bool:
    """Whether this is an archive that begins with one of a log's members, or an object with `eval` and its task."""
    if head.data.startswith(b"PK"):
        name = _zip.first_name(head.data)
        return name in _MEMBERS or name.startswith("_journal/") or _sample_of(name) is not None
    match head.document:
        case {"version": int(), "eval": {"task": str(), **about}}:
            return not about.keys().isdisjoint({"eval_id", "run_id", "task_version", "created"})
    return False


def decode(source: Source) -> Iterator[Event]:
    """One rollout a sample; see the module's docstring for the rules."""
    if source.head.data.startswith(b"PK"):
        yield from _archive(source)
        return
    log = source.document()
    samples = log.get("samples") if isinstance(log, dict) else None
    for number, sample in enumerate(samples if isinstance(samples, list) else []):
        yield from _sample(sample, log, f"{source.stem}#sample_{number}")


# -- the archive ------------------------------------------------------------------------------------


def _archive(source: Source) -> Iterator[Event]:
    with _zip.archive(source) as opened:
        # A sample that was written again is there twice; the last one counts.
        names = list(dict.fromkeys(opened.namelist()))
        headers = (_read(source, opened, name) for name in ("header.json", "_journal/start.json") if name in names)
        header = next((found for found in headers if isinstance(found, dict)), {})
        for name in names:
            if (sample_name := _sample_of(name)) is None:
                continue
            sample = _read(source, opened, name)
            if isinstance(sample, dict) and name.endswith("/sample.json"):
                sample |= _parts(source, opened, names, name, sample.get("message_refs"))
            yield from _sample(sample, header, sample_name)


def _sample_of(name: str) -> str | None:
    """The sample that a member holds: `samples/<id>_epoch_<n>`, ids may have slashes."""
    if not name.startswith("samples/") or not name.endswith(".json"):
        return None
    inner = name.removeprefix("samples/").removesuffix(".json").removesuffix("/sample")
    return inner if inner.rpartition("_epoch_")[2].isdigit() else None


def _read(source: Source, opened: zipfile.ZipFile, name: str) -> JSON:
    """The JSON of a member, or None where it is damaged, which is counted."""
    part = Source(f"{source.path}::{name}", b"")
    try:
        part = Source(part.path, _zip.member(opened, name))
        return part.document()
    except SourceError:
        raise
    except _zip.DAMAGE:  # a FormatError is a ValueError
        source.damage["file: member of the archive that cannot be read"] += 1
        return None
    finally:
        source.damage += part.damage


def _parts(source: Source, opened: zipfile.ZipFile, names: list[str], shell: str, refs: JSON) -> dict[str, JSON]:
    """Messages, events and attachments of a sample that lies in parts."""
    found: dict[str, list[JSON]] = {"messages": [], "events": [], "attachments": []}
    folder = shell.removesuffix("sample.json")
    for kind, items in found.items():
        starts = [name[len(folder) + len(kind) + 1 : -5] for name in names if name.startswith(f"{folder}{kind}/")]
        for start in sorted(int(start) for start in starts if start.isdigit()):
            part = _read(source, opened, f"{folder}{kind}/{start}.json")
            # What cannot be read must not move what follows it.
            items += [None] * (start - len(items)) + (part if isinstance(part, list) else [])
    messages = []
    for ref in refs if isinstance(refs, list) else []:
        match ref:
            case [int(start), int(end)]:
                messages += found["messages"][start:end]
    metadata = f"{folder}metadata.json"
    return {
        "messages": messages,
        "events": found["events"],
        "attachments": {str(number): text for number, text in enumerate(found["attachments"])},
        **({"metadata": _read(source, opened, metadata)} if metadata in names else {}),
    }


# -- a sample ---------------------------------------------------------------------------------------


def _sample(sample: JSON, log: dict[str, JSON], name: str) -> Iterator[Event]:
    if not isinstance(sample, dict):
        yield Start(name)
        yield Facts({"trace_id": name})
        yield Skipped("record: sample that cannot be read")
        yield End()
        return
    if sample.keys() >= {"id", "epoch"}:
        name = f"{sample['id']}_epoch_{sample['epoch']}"
    key = _chat.text_or_none(sample.get("uuid")) or name
    yield Start(key)
    about = as_dict(log.get("eval"))
    scores = {
        scorer: score["value"] for scorer, score in as_dict(sample.get("scores")).items() if "value" in as_dict(score)
    }
    error, limit = as_dict(sample.get("error")), sample.get("limit")
    attachments = as_dict(sample.get("attachments"))
    meta = {key: about[key] for key in _EVAL_KEYS if about.get(key)}
    meta |= {"sample_id": sample.get("id"), "scores": scores or None, "error": error.get("message")}
    meta |= {key: _resolved(sample[key], attachments) for key in _SAMPLE_KEYS if sample.get(key) not in (None, {}, [])}
    sandbox = sample.get("sandbox")
    meta["sandbox"] = sandbox.get("type") if isinstance(sandbox, dict) else sandbox
    usages = {model: usage for model, usage in as_dict(sample.get("model_usage")).items() if isinstance(usage, dict)}
    if len(usages) > 1:
        meta["model_usage"] = usages
    facts = {
        "trace_id": key,
        "root_session_id": about.get("eval_id"),
        "model": about.get("model"),
        "started_at": sample.get("started_at"),
        "ended_at": sample.get("completed_at"),
        "completed": not error and not limit,
        "reward": _reward(scores),
    }
    yield Facts(facts, meta)
    # Graders are counted under their own model, where it is another.
    own = _chat.text_or_none(about.get("model"))
    for model, usage in usages.items():
        if model == own or own not in usages:
            yield Used(model, {ours: usage.get(theirs) for theirs, ours in _USAGE.items()})
    messages = [_resolved(one, attachments) for one in as_list(sample.get("messages"))]
    answered, tools, beside = _model_events(sample, messages)
    if tools is not None:
        yield Facts({"tools": [_resolved(tool, attachments) for tool in tools]})
    if beside:
        yield Skipped("message: answer beside the conversation, in events alone", count=beside)
    seen: set[str] = set()
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            yield Skipped("message: not an object")
            continue
        id = _chat.text_or_none(message.get("id"))
        yield from _message(message, At(None if id in seen else id, answered.get(id or ""), turn=number))
        seen.add(id or "")
    if not messages and sample.get("input"):
        yield Skipped("message: input of a sample that never began")
    yield End()


def _model_events(sample: dict[str, JSON], messages: list[JSON]) -> tuple[dict[str, str], list[JSON] | None, int]:
    """When the conversation's answers came, by id; the tools that were offered; how many answers are none of its."""
    ids = {one["id"] for one in messages if isinstance(one, dict) and isinstance(one.get("id"), str)}
    answered: dict[str, str] = {}
    offered: dict[str, JSON] = {}
    knows_tools = False
    beside: set[str] = set()
    for event in as_list(sample.get("events")):
        match event:
            case {"event": "model", "output": {"choices": [{"message": dict(message)}, *_]}}:
                id = message.get("id")
                if isinstance(id, str) and ids and id not in ids:
                    beside.add(id)
                    continue
                if isinstance(id, str) and isinstance(when := event.get("completed") or event.get("timestamp"), str):
                    answered[id] = when
                knows_tools = knows_tools or isinstance(event.get("tools"), list)
                for tool in as_list(event.get("tools")):
                    if isinstance(tool, dict) and isinstance(tool.get("name"), str):
                        shown = {key: tool[key] for key in ("name", "description", "parameters") if key in tool}
                        offered.setdefault(tool["name"], {"type": "function", "function": shown})
    return answered, list(offered.values()) if knows_tools else None, len(beside)


def _message(message: dict[str, JSON], at: At) -> Iterator[Event]:
    role, said = message.get("role"), message.get("content")
    if role == "assistant" and message.get("source") == "input":
        at = at._replace(weight_reason="demonstration")
    if role == "user" and as_dict(message.get("metadata")).get("summary") is True:
        at = at._replace(origin="summary")
    plain: list[JSON] = []
    own: list[Event] = []
    media: list[Media] = []
    for part in said if isinstance(said, list) else [] if said is None else [said]:
        match part:
            case {"type": "reasoning"}:
                own.append(_thought(as_dict(part), at))
            case {"type": "tool_use", "id": str(id), "name": str(name), **run}:
                # The provider ran it: call and result are one part.
                own.append(Called(at, id, name, _chat.arguments(run.get("arguments"))))
                error = run.get("error")
                own.append(
                    Returned(at._replace(id=None), id, _chat.shown_text(error or run.get("result")), (), bool(error))
                )
            case {"type": "audio" | "video" | "document" as kind, **more}:
                medium = of_url(kind, more.get(kind))
                media += [medium] if medium else []
                own += [] if medium else [Skipped("media: unknown content part")]
            case {"type": "data"}:
                own.append(Skipped("record: data of the provider's own"))
            case _:
                plain.append(part)
    text, pictures, inner = _chat.content(plain, at)
    media = pictures + media
    if role == "tool":
        error = message.get("error")
        if isinstance(error, dict):
            if text:
                yield Skipped("text: output that the model was not sent, but an error")
            text = _chat.shown_text(error.get("message"))
        yield Returned(at, _chat.text_or_none(message.get("tool_call_id")), text, media, isinstance(error, dict))
        yield from (*own, *inner)
    elif role == "assistant":
        calls = [_call(call) for call in as_list(message.get("tool_calls"))]
        yield from (event for event in own if type(event) is Thought)
        if text or media:
            yield Said(at, "assistant", text, media)
        yield from (event for event in (*own, *inner) if type(event) is not Thought)
        yield from _chat.tool_calls({"tool_calls": calls}, at)
        if not (text or media or calls or own or inner):
            yield Skipped("message: empty answer")
    elif role in ("user", "system"):
        if text or media or not (own or inner):
            yield Said(at, role, text, media)
        yield from (*own, *inner)
    else:
        yield Skipped("message: unknown role")


def _thought(part: dict[str, JSON], at: At) -> Event:
    """What the model thought; of redacted reasoning only the summary can be read."""
    texts = [part.get("summary")] if part.get("redacted") else [part.get("reasoning"), part.get("summary")]
    said = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    return Thought(at, said) if said else Skipped("reasoning: encrypted")


def _call(call: JSON) -> JSON:
    """A call as the chat completions API has it."""
    if not isinstance(call, dict):
        return call
    return {"id": call.get("id"), "function": {"name": call.get("function"), "arguments": call.get("arguments")}}


def _reward(scores: dict[str, JSON]) -> float | None:
    """The score, if it is a number or a grade, and all scorers agree."""
    found = {
        _GRADES.get(value, math.nan) if isinstance(value, str) else value for value in map(_scalar, scores.values())
    }
    value = found.pop() if len(found) == 1 else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _scalar(value: JSON) -> JSON:
    """A value that can be compared; what is none of a number or a text says nothing of reward."""
    return value if isinstance(value, str | int | float) else None


def _resolved(value: JSON, attachments: dict[str, JSON]) -> JSON:
    """A value with its attachments put in their places."""
    if isinstance(value, str):
        if not value.startswith(_ATTACHMENT):
            return value
        text = attachments.get(value.removeprefix(_ATTACHMENT))
        return text if isinstance(text, str) else value
    if isinstance(value, dict):
        return {key: _resolved(item, attachments) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, attachments) for item in value]
    return value
