"""Pi and its descendants beyond the goldens: Pi's own reading of real sessions, whose file is whose, any shape."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.configs import file_rules
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import DECODERS, detect, oh_my_pi, openclaw, pi_coding_agent, read
from agent_rollouts.rollout import BRANCHES, HISTORIES, Rollout, assemble
from agent_rollouts.source import Head, Source, find
from tests.conftest import FIXTURES
from tests.strategies import VALUES, damaged, fixture_records, lines

FAMILY = ("pi_coding_agent", "openclaw", "oh_my_pi")
CORPUS = next((p / "shared/corpus" for p in Path(__file__).parents if (p / "shared/corpus").is_dir()), Path("absent"))
EXPECTED = CORPUS / "pi" / "expected_context.jsonl"
ORACLE = [orjson.loads(line) for line in EXPECTED.read_bytes().splitlines()] if EXPECTED.exists() else []
HEADER = {"type": "session", "version": 3, "id": "s", "timestamp": "2026-03-01T09:00:00.000Z", "cwd": "/work"}
BASIC = (FIXTURES / "pi_coding_agent" / "basic" / "input.jsonl").read_bytes()


def entry(id: str, parent: str | None, kind: str = "message", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": id, "parentId": parent, "timestamp": "2026-03-01T09:00:01.000Z", **fields}


def user(id: str, parent: str | None, text: str) -> dict[str, Any]:
    return entry(id, parent, message={"role": "user", "content": text})


def answer(id: str, parent: str | None, *blocks: dict[str, Any] | str, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
    message = {"role": "assistant", "content": content, "provider": "p", "model": "m", "stopReason": "stop", **more}
    return entry(id, parent, message=message)


def rollouts(*records: Any, header: dict[str, Any] | None = None, **options: Any) -> list[Rollout]:
    return list(read(Source("s.jsonl", lines(header or HEADER, *records)), **options))


def texts(rollout: Rollout) -> list[str]:
    return [message["content"] for message in rollout.messages]


# -- what Pi itself would send (E22, E24 to E29) -------------------------------------------------


def joined(content: Any, kind: str = "text", key: str = "text", by: str = "\n") -> str:
    if not isinstance(content, list):
        return (content or "") if kind == "text" else ""
    return by.join(block[key] for block in content if block["type"] == kind and block[key] and "redacted" not in block)


def images(content: Any) -> list[bytes]:
    blocks = content if isinstance(content, list) else []
    return [base64.b64decode(block["data"]) for block in blocks if block["type"] == "image"]


def system_text(message: dict[str, Any], *, is_first: bool) -> str:
    parts = [joined(message["content"])]
    for name, text in message.get("sections", {}).items():
        if is_first:
            parts.append(text or "")
        else:
            removed, updated = f'Removed system prompt section "{name}".', f'Updated system prompt section "{name}"'
            parts.append(removed if text is None else f"{updated}:\n\n{text}")
    return "\n\n".join(filter(None, parts))


def pi_view(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pi's messages as plain values; those without any content are none, and results stand in the order of calls."""
    view: list[dict[str, Any]] = []
    order: dict[str, int] = {}
    seen_system = False
    for message in messages:
        role, content = message["role"], message["content"]
        shown: dict[str, Any] = {"role": role, "text": joined(content), "images": images(content)}
        if role == "system":
            shown["text"] = system_text(message, is_first=not seen_system)
            seen_system = True
        elif role == "assistant":
            shown["thinking"] = joined(content, "thinking", "thinking", "\n\n")
            calls = [block for block in content if block["type"] == "toolCall"]
            shown["calls"] = [(call["id"], call["name"], call["arguments"]) for call in calls]
            order |= {call["id"]: place for place, call in enumerate(calls)}
        elif role == "toolResult":
            about = {"call": message["toolCallId"], "name": message["toolName"], "failed": message["isError"]}
            shown |= {"role": "tool", **about}
            place = len(view)
            while view[place - 1]["role"] == "tool" and order[view[place - 1]["call"]] > order[about["call"]]:
                place -= 1
            view.insert(place, shown)
            continue
        if role == "user" or any(value for key, value in shown.items() if key != "role"):
            view.append(shown)
    return view


def our_view(rollout: Rollout) -> list[dict[str, Any]]:
    view = []
    for message in rollout.messages:
        pictures = [rollout.media[index].data for index in message.get("media", ())]
        shown = {"role": message["role"], "text": message["content"], "images": pictures}
        if message["role"] == "assistant":
            shown["thinking"] = message.get("reasoning_content", "")
            calls = message.get("tool_calls", ())
            shown["calls"] = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls]
        elif message["role"] == "tool":
            shown |= {"call": message["tool_call_id"], "name": message["name"], "failed": message["is_error"]}
        view.append(shown)
    return view


@pytest.mark.skipif(not ORACLE, reason="no corpus of Pi sessions")
@pytest.mark.parametrize("expected", ORACLE, ids=lambda expected: Path(expected["file"]).stem)
def test_context_is_what_pi_would_send(expected: dict[str, Any]) -> None:
    source = Source(str(CORPUS / expected["file"]))
    if expected["file"].endswith("16_sts_format.jsonl"):
        assert detect(source) not in FAMILY  # Pi reads it without seeing its calls and results
        return
    (found,) = read(source, "pi_coding_agent", history="context")
    ours, theirs = our_view(found), pi_view(expected["messages"])
    for place, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        assert our == their, place
    assert len(ours) == len(theirs)
    assert found.model == expected["model"]["modelId"]
    assert expected["model"]["provider"] in found.source_meta["providers"]
    assert found.source_meta.get("thinking_level", "off") == expected["thinking"]
    assert (found.trace_id, found.cwd) == (expected["header"]["id"], expected["header"]["cwd"])
    parent = expected["header"].get("parentSession") or expected["header"].get("branchedFrom")
    assert ("parent_session" in found.source_meta) == (parent is not None)


@pytest.mark.skipif(not ORACLE, reason="no corpus of Pi sessions")
@pytest.mark.parametrize("expected", ORACLE, ids=lambda expected: Path(expected["file"]).stem)
def test_full_history_has_every_message_of_the_path_once(expected: dict[str, Any]) -> None:
    if expected["file"].endswith("16_sts_format.jsonl"):
        pytest.skip("not of Pi")
    source = Source(str(CORPUS / expected["file"]))
    (full,) = read(source)
    ids = [message["id"] for message in full.messages if "id" in message]
    assert len(ids) == len(set(ids))
    windows = list(read(source, history="segments"))
    own = [m for window in windows for m in window.messages if m.get("weight_reason") != "copied_context"]
    compacted = {text for note in full.source_meta.get("compactions", ()) for text in [note["summary"]]}
    fresh = [m for m in own if not (m.get("origin") == "summary" and any(text in m["content"] for text in compacted))]
    if not any("systemMessage" in line for line in (CORPUS / expected["file"]).read_text().splitlines()):
        assert [m["content"] for m in fresh] == texts(full)


# -- whose file it is (E30) ----------------------------------------------------------------------

TITLE = {"type": "title", "v": 1, "title": "T", "updatedAt": "2026-03-01T09:00:00.000Z", "pad": ""}
SNAPSHOT = entry("x", None, "custom", customType="model-snapshot", data={})
OWNERS = {
    "header": ("pi_coding_agent", [HEADER]),
    "header of version 1": ("pi_coding_agent", [{"type": "session", "id": "s", "timestamp": "t", "cwd": "/w"}]),
    "header with harness": ("pi_coding_agent", [{**HEADER, "harness": "mine"}]),
    "openclaw in its own name only": ("pi_coding_agent", [{**HEADER, "cwd": "/src/openclaw"}]),
    "header is damaged": ("pi_coding_agent", [user("a", None, "Hi"), answer("b", "a", "Ho")]),
    "folder": ("openclaw", [{**HEADER, "cwd": "/home/me/.openclaw/workspace"}]),
    "folder of a profile": ("openclaw", [{**HEADER, "cwd": "C:\\Users\\me\\.openclaw-dev\\workspace"}]),
    "old folder": ("openclaw", [{**HEADER, "cwd": "/home/me/.clawdbot/workspace"}]),
    "custom entry": ("openclaw", [HEADER, SNAPSHOT]),
    "custom entry far behind": (
        "openclaw",
        [HEADER, *(user(str(i), None, "Hi") for i in range(20)), {**SNAPSHOT, "customType": "openclaw:x"}],
    ),
    "delivery": ("openclaw", [HEADER, answer("a", None, "Sent.", provider="openclaw", model="delivery-mirror")]),
    "title": ("oh_my_pi", [TITLE, HEADER]),
    "mode": ("oh_my_pi", [HEADER, entry("a", None, "mode_change", mode="plan")]),
    "sub-agent": ("oh_my_pi", [HEADER, entry("a", None, "session_init", systemPrompt="P", task="T", tools=[])]),
    "model by its whole name": ("oh_my_pi", [HEADER, entry("a", None, "model_change", model="p/m")]),
    "developer": ("oh_my_pi", [HEADER, entry("a", None, message={"role": "developer", "content": "Mind."})]),
    "title alone": (None, [TITLE]),
    "trace format": (None, [{"type": "session", "harness": "h", "id": "a"}, {"type": "message", "message": {}}]),
    "trace format, by its roles": (None, [HEADER, {"type": "message", "message": {"role": "tool", "content": ""}}]),
    "trace format, by its calls": (None, [HEADER, {"type": "message", "message": {"role": "a", "toolCalls": []}}]),
    "droid": (None, [{"type": "session_start", "id": "a", "cwd": "/"}, user("b", None, "Hi")]),
    "user alone": (None, [user("a", None, "Hi")]),
    "empty": (None, []),
}


@pytest.mark.parametrize("name", OWNERS)
def test_claims(name: str) -> None:
    owner, records = OWNERS[name]
    head = Head("anything.txt", lines(*records))
    claiming = [format for format, module in DECODERS.items() if module.claims(head) and format in FAMILY]
    assert claiming == ([owner] if owner else [])
    if owner:
        assert detect(Source("x.jsonl", lines(*records))) == owner


def test_copies_are_not_read(tmp_path: Path) -> None:
    for name in (
        "0a.jsonl", "0a.jsonl.deleted.2026-01-01T00-00-00.000Z", "0a.jsonl.reset.2026-01-01T00-00-00.000Z",
        "0a.checkpoint.0b.jsonl", "sessions.json",
    ):  # fmt: skip
        (tmp_path / name).write_bytes(lines(HEADER, user("a", None, "Hi")))
    assert [Path(path).name for path in find(tmp_path, **file_rules("openclaw"))] == ["0a.jsonl"]


# -- details -------------------------------------------------------------------------------------


def test_branches_have_the_context_of_their_own_line() -> None:
    """A line that was left before a compaction was never compacted."""
    records = (
        user("a", None, "One."),
        answer("b", "a", "Two."),
        entry("c", "b", "compaction", summary="SUM", firstKeptEntryId="b", tokensBefore=9),
        user("d", "c", "Three."),
        user("e", "b", "Other."),
        user("f", "d", "Four."),
    )
    active, other = rollouts(*records, history="context", branches="all")
    assert texts(active)[1:] == ["Two.", "Three.", "Four."]
    assert "SUM" in texts(active)[0]
    assert texts(other) == ["One.", "Two.", "Other."]
    assert "compactions" not in other.source_meta
    full, branch = rollouts(*records, branches="all")
    assert texts(full) == ["One.", "Two.", "Three.", "Four."]
    assert [message.get("weight_reason") for message in branch.messages] == ["copied_context", "copied_context", None]
    assert (full.source_meta["leaf_count"], full.trace_id, branch.trace_id) == (2, "s", "s#1")
    assert full.source_meta["compactions"][0]["message_index"] == 2


def test_compaction_of_a_line_that_was_left_does_not_count() -> None:
    records = (
        user("a", None, "One."),
        entry("b", "a", "compaction", summary="SUM", firstKeptEntryId="b", tokensBefore=9),
        user("c", "b", "Left."),
        user("d", "a", "Taken."),
    )
    for history in HISTORIES:
        (found,) = rollouts(*records, history=history)
        assert texts(found) == ["One.", "Taken."]
        assert "compactions" not in found.source_meta


def test_edits_are_flagged_in_full_and_done_in_context() -> None:
    call = {"type": "toolCall", "id": "c", "name": "ls", "arguments": {}}
    result = {"role": "toolResult", "toolCallId": "c", "toolName": "ls", "content": [], "isError": False}
    records = (
        user("a", None, "One."),
        answer("b", "a", "Two.", call),
        entry("c", "b", message=result),
        entry("d", "c", "context_edit", targetId="b", replacement={"content": "Short."}),
        entry("e", "d", "context_edit", targetId="nobody", replacement=None),
        user("f", "e", "Three."),
    )
    (full,) = rollouts(*records)
    assert [message.get("weight_reason") for message in full.messages] == [None, "superseded", None, None]
    assert full.skipped["record: context_edit without its entry"] == 1
    (context,) = rollouts(*records, history="context")
    assert [(m["role"], m["content"]) for m in context.messages] == [
        ("user", "One."),
        ("assistant", "Short."),
        ("user", "Three."),
    ]
    assert context.skipped["tool_call: edited"] == context.skipped["tool_result: edited"] == 1


def test_entries_without_ids_follow_each_other() -> None:
    messages = [{"type": "message", "message": {"role": "user", "content": text}} for text in ("One.", "Two.")]
    (found,) = rollouts(*messages, header={**HEADER, "harness": "mine"})
    assert texts(found) == ["One.", "Two."]
    assert found.source_meta["harness"] == "mine"


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("/s/2026-01-02T03-04-05-678Z_0199aa.jsonl", "0199aa"),
        ("C:\\s\\2026-01-02T03-04-05-678Z_my_own_id.jsonl", "my_own_id"),
        ("/s/0199aa.jsonl", "0199aa"),
        ("fix_it.jsonl", "fix_it"),
    ],
)
def test_forks_name_their_parent(path: str, id: str) -> None:
    for key in ("parentSession", "branchedFrom"):
        (found,) = rollouts(user("a", None, "Hi"), header={**HEADER, key: path})
        assert (found.trace_id, found.parent_trace_id, found.root_session_id) == ("s", id, id)


def test_line_separators_within_strings_end_no_line() -> None:
    said = "a\u2028b\u0085c"
    data = json.dumps(HEADER) + "\r\n\r\n" + json.dumps(user("a", None, said), ensure_ascii=False) + "\r\n"
    (found,) = read(Source("s.jsonl", b"\xef\xbb\xbf" + data.encode()))
    assert texts(found) == [said]
    assert not found.skipped


def test_cycles_end() -> None:
    (found,) = rollouts(user("a", "b", "One."), user("b", "a", "Two."), user("a", "a", "Three."))
    assert texts(found)[-1] == "Three."


def test_openclaw_store_tells_of_the_session(tmp_path: Path) -> None:
    store = {
        "agent:main:telegram:direct:123": {"sessionId": "p", "chatType": "direct", "lastChannel": "telegram"},
        "agent:main:subagent:9": {"sessionId": "s", "spawnedBy": "agent:main:telegram:direct:123", "label": "digger"},
    }
    (tmp_path / "sessions.json").write_text(json.dumps(store))
    for id in ("p", "s"):
        header = {**HEADER, "id": id, "cwd": "/home/me/.openclaw/workspace"}
        (tmp_path / f"{id}.jsonl").write_bytes(lines(header, user("a", None, "Hi")))
    (parent,) = read(Source(str(tmp_path / "p.jsonl")))
    (child,) = read(Source(str(tmp_path / "s.jsonl")))
    assert (
        parent.source_meta | {"agent": "main", "session_kind": "telegram", "channel": "telegram"} == parent.source_meta
    )
    assert (child.is_sidechain, child.agent_id, child.parent_trace_id) == (True, "digger", "p")
    assert "123" not in json.dumps(parent.source_meta)


def test_oh_my_pi_pictures_lie_beside_the_sessions(tmp_path: Path) -> None:
    blob = "ab" * 32
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / blob).write_bytes(b"\x89PNG")
    file = tmp_path / "sessions" / "-work" / "s.jsonl"
    file.parent.mkdir(parents=True)
    parts = [{"type": "image", "data": f"blob:sha256:{id}", "mimeType": "image/png"} for id in (blob, "cd" * 32)]
    file.write_bytes(lines(TITLE, HEADER, user("a", None, parts)))  # type: ignore[arg-type]
    (found,) = read(Source(str(file)))
    assert [(m.media_type, m.data, m.path) for m in found.media] == [
        ("image/png", b"\x89PNG", None),
        (None, None, f"blob:sha256:{'cd' * 32}"),
    ]


def test_oh_my_pi_hands_over() -> None:
    records = (
        user("a", None, "Hi"),
        entry("b", "a", "compaction", summary="SUM", firstKeptEntryId="", method="handoff"),
    )
    (found,) = rollouts(*records, entry("c", "b", "mode_change", mode="plan"), history="context")
    assert texts(found)[0].endswith("<handoff>\nSUM\n</handoff>")


# -- input of any shape --------------------------------------------------------------------------

RECORDS = [record for format in FAMILY for record in fixture_records(FIXTURES / format)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(damaged(RECORDS) | VALUES, max_size=12),
    st.sampled_from([pi_coding_agent, openclaw, oh_my_pi]),
    st.sampled_from(BRANCHES),
)
def test_no_record_stops_the_decoder(records: list[Any], format: Any, branches: str) -> None:
    data = lines(*records)
    format.claims(Head("x", data))

    for history in HISTORIES:
        for found in assemble(format.decode(Source("x.jsonl", data)), history=history, branches=branches):
            for message in row(found)["messages"]:
                check_message(message)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BASIC)))
def test_any_prefix_of_a_file_can_be_read(length: int) -> None:
    source = Source("x.jsonl", BASIC[:length])
    if detect(source) is not None:
        assert all(found.messages is not None for found in read(source))
