"""Messages of the chat completions API: every part, every form of reasoning and of calls, and values of any kind."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.audit.raw import chat_message
from agent_rollouts.events import At, Called, Event, Facts, Media, Returned, Said, Skipped, Thought
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import _chat
from agent_rollouts.rollout import assemble
from tests.strategies import VALUES

AT = At(turn=0)
PNG = b"\x89PNG\r\n\x1a\n"
B64 = base64.b64encode(PNG).decode()


def events(**message: Any) -> list[Event]:
    return list(_chat.message_events(message, AT))


def skipped(*found: Event) -> list[str]:
    return [event.what for event in found if isinstance(event, Skipped)]


# -- content ---------------------------------------------------------------------------------------

TEXTS: dict[str, tuple[Any, str]] = {
    "text": (" Hi\n", " Hi\n"),
    "nothing": (None, ""),
    "no parts": ([], ""),
    "a part": ([{"type": "text", "text": "Hi"}], "Hi"),
    "parts": ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb"),
    "part without a type": ([{"text": "Hi"}], "Hi"),
    "part alone": ({"type": "text", "text": "Hi"}, "Hi"),
    "bare texts": (["a", "b"], "a\nb"),
    "refusal": ([{"type": "refusal", "refusal": "No."}], "No."),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str) -> None:
    content, text = TEXTS[name]
    assert _chat.content(content, AT) == (text, [], [])


MEDIA: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "image_url": ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{B64}"}}, ("image", "image/png")),
    "image_url as text": ({"type": "image_url", "image_url": f"data:image/png;base64,{B64}"}, ("image", "image/png")),
    "input_image": ({"type": "input_image", "image_url": f"data:image/png;base64,{B64}"}, ("image", "image/png")),
    "Anthropic's": ({"type": "image", "source": {"type": "base64", "data": B64}}, ("image", "image/png")),
    "document": (
        {"type": "document", "source": {"media_type": "application/pdf", "data": B64}},
        ("document", "application/pdf"),
    ),
    "MCP's": ({"type": "image", "data": B64, "mimeType": "image/png"}, ("image", "image/png")),
    "audio": ({"type": "input_audio", "input_audio": {"data": B64, "format": "mp3"}}, ("audio", "audio/mp3")),
    "file": ({"type": "file", "file": {"file_data": f"data:text/plain;base64,{B64}"}}, ("document", "text/plain")),
}

ADDRESSES = {
    "address": {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
    "address of a source": {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    "TRL's": {"type": "image", "image": "https://example.org/a.png"},
    "Qwen's": {"type": "image", "url": "https://example.org/a.png"},
}


@pytest.mark.parametrize("name", MEDIA)
def test_media(name: str) -> None:
    part, kind = MEDIA[name]
    assert _chat.content([part], AT) == ("", [Media(*kind, PNG)], [])


@pytest.mark.parametrize("name", ADDRESSES)
def test_media_elsewhere(name: str) -> None:
    assert _chat.content([ADDRESSES[name]], AT) == ("", [Media("image", None, None, "https://example.org/a.png")], [])


@pytest.mark.parametrize("part", [{"type": "hologram"}, 7, {"type": "image_url"}, {"type": "text", "text": 1}, []])
def test_unknown_parts_are_counted(part: Any) -> None:
    text, media, inner = _chat.content([part], AT)
    assert (text, media, skipped(*inner)) == ("", [], ["media: unknown content part"])


def test_blocks_of_anthropic() -> None:
    asked = [
        {"type": "text", "text": "Looking."},
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "."}},
        {"type": "tool_use", "id": "t2", "input": {}},
    ]
    assert events(role="assistant", content=asked) == [
        Thought(AT, "Hm."),
        Said(AT, "assistant", "Looking.", []),
        Called(AT, "t1", "ls", {"path": "."}),
        Skipped("tool_call: without a name"),
    ]
    picture = {"type": "image", "source": {"data": B64}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a"}, picture]}
    assert events(role="user", content=[result, {"type": "text", "text": "And?"}]) == [
        Returned(AT, "t1", "a", [Media("image", "image/png", PNG)], None),
        Said(AT, "user", "And?", []),
    ]
    assert events(role="user", content=[{**result, "content": "a", "is_error": True}]) == [
        Returned(AT, "t1", "a", [], True)
    ]


# -- reasoning --------------------------------------------------------------------------------------

THOUGHTS: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": "Hm."},
    "reasoning": {"reasoning": "Hm."},
    "thinking": {"thinking": "Hm."},
    "all the same": {"reasoning_content": "Hm.", "reasoning": "Hm.", "reasoning_details": [{"text": "Hm."}]},
    "padding first": {"reasoning_content": " ", "reasoning": "Hm."},
    "details": {"reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
    "details of Anthropic": {"reasoning_details": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]},
    "details with a summary": {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm."}]},
    "part": {"content": [{"type": "reasoning", "text": "Hm."}]},
    "part and field": {"content": [{"type": "thinking", "thinking": "Hm."}], "reasoning": "Hm."},
    "part of parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
    "item of the Responses API": {"content": [{"type": "reasoning", "summary": [{"text": "Hm."}], "content": []}]},
}
HIDDEN: dict[str, dict[str, Any]] = {
    "details": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
    "redacted": {"content": [{"type": "redacted_thinking", "data": "x"}]},
    "signature alone": {"content": [{"type": "thinking", "thinking": "", "signature": "x"}]},
}


@pytest.mark.parametrize("name", THOUGHTS)
def test_reasoning(name: str) -> None:
    assert events(role="assistant", **THOUGHTS[name]) == [Thought(AT, "Hm.")]


@pytest.mark.parametrize("name", HIDDEN)
def test_reasoning_that_is_not_shown(name: str) -> None:
    said = {"content": "", **HIDDEN[name]}
    assert skipped(*events(role="assistant", **said))[0] == "reasoning: encrypted"


def test_padding_is_no_reasoning() -> None:
    assert events(role="assistant", content="Hi", reasoning_content=" \n") == [Said(AT, "assistant", "Hi", [])]


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("<think>a</think>b", ("a", "b")),
        ("<think>\na\nb\n</think>\n\nc", ("a\nb", "c")),
        ("<think></think>b", ("", "b")),
        ("<think>a", (None, "<think>a")),
        ("b<think>a</think>", (None, "b<think>a</think>")),
        ("<think>a</think> b</think>", ("a", " b</think>")),
    ],
)
def test_leading_think(text: str, split: tuple[str | None, str]) -> None:
    assert _chat.leading_think(text) == split


# -- calls and results -------------------------------------------------------------------------------

CALL = {"id": "c", "type": "function", "function": {"name": "ls", "arguments": '{"path": "."}'}}
CALLS: dict[str, tuple[dict[str, Any], Event]] = {
    "arguments as text": ({"tool_calls": [CALL]}, Called(AT, "c", "ls", {"path": "."})),
    "arguments as object": (
        {"tool_calls": [{"id": "c", "function": {"name": "ls", "arguments": {"path": "."}}}]},
        Called(AT, "c", "ls", {"path": "."}),
    ),
    "no arguments": ({"tool_calls": [{"id": "c", "function": {"name": "ls"}}]}, Called(AT, "c", "ls", {})),
    "blank arguments": ({"tool_calls": [{"function": {"name": "ls", "arguments": " "}}]}, Called(AT, None, "ls", {})),
    "arguments that are no object": (
        {"tool_calls": [{"name": "ls", "arguments": "[1]"}]},
        Called(AT, None, "ls", "[1]"),
    ),
    "a list of arguments": ({"tool_calls": [{"name": "ls", "arguments": [1]}]}, Called(AT, None, "ls", "[1]")),
    "no function around it": ({"tool_calls": [{"name": "ls", "arguments": "{}"}]}, Called(AT, None, "ls", {})),
    "custom": (
        {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
        Called(AT, "c", "sh", {"input": "ls"}),
    ),
    "function_call": ({"function_call": {"name": "ls", "arguments": "{}"}}, Called(AT, None, "ls", {})),
    "both": ({"tool_calls": [CALL], "function_call": {"name": "ls"}}, Called(AT, "c", "ls", {"path": "."})),
    "list as JSON text": ({"tool_calls": orjson.dumps([CALL]).decode()}, Called(AT, "c", "ls", {"path": "."})),
    "one alone": ({"tool_calls": CALL}, Called(AT, "c", "ls", {"path": "."})),
    "without a name": ({"tool_calls": [{"function": {"arguments": "{}"}}]}, Skipped("tool_call: without a name")),
    "not an object": ({"tool_calls": ["ls"]}, Skipped("tool_call: without a name")),
    "text that is no JSON": ({"tool_calls": "ls"}, Skipped("tool_call: without a name")),
    "custom without input": ({"tool_calls": [{"custom": {"name": "sh"}}]}, Called(AT, None, "sh", {"input": None})),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    message, event = CALLS[name]
    assert events(role="assistant", content=None, **message)[0] == event


@pytest.mark.parametrize("calls", [None, [], "", " "])
def test_no_calls(calls: Any) -> None:
    assert events(role="assistant", content="Hi", tool_calls=calls) == [Said(AT, "assistant", "Hi", [])]


RESULTS: dict[str, tuple[Any, str]] = {
    "text": ("a", "a"),
    "nothing": (None, ""),
    "parts": ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    "object": ({"ok": True}, '{"ok":true}'),
    "list of objects": ([{"n": 1}, {"n": 2}], '[{"n":1},{"n":2}]'),
    "number": (7, "7"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str) -> None:
    content, text = RESULTS[name]
    assert events(role="tool", tool_call_id="c", content=content) == [Returned(AT, "c", text, [], None)]
    assert events(role="function", name="ls", content=content) == [Returned(AT, None, text, [], None)]


def test_results_that_failed() -> None:
    assert events(role="tool", content="a", is_error=True)[0][4] is True
    (said,) = _chat.message_events({"role": "tool", "content": "a", "is_error": True}, AT, is_error=False)
    assert said == Returned(AT, None, "a", [], False)


def test_results_without_ids_answer_the_last_calls() -> None:
    def call(turn: int) -> Called:
        return Called(At(turn=turn), None, f"tool_{turn}", {})

    def answer(*found: Event) -> list[tuple[str, str]]:
        (rollout,) = assemble(found)
        return [(m["name"], m["content"]) for m in rollout.messages if m["role"] == "tool"]

    a, b = (Returned(AT, None, text) for text in "ab")
    assert answer(call(0), call(0), a, b) == [("tool_0", "a"), ("tool_0", "b")]
    assert answer(call(0), call(1), a) == [("tool_1", "a")]
    assert answer(call(0), call(0), a, call(1), b) == [("tool_0", "a"), ("tool_1", "b")]


# -- roles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "ours"), [("developer", "system"), ("human", "user"), ("model", "assistant")])
def test_roles(role: str, ours: str) -> None:
    assert events(role=role, content="Hi") == [Said(AT, ours, "Hi", [])]


@pytest.mark.parametrize("role", [None, 7, [], "narrator"])
def test_unknown_roles_are_counted_with_what_they_hold(role: Any) -> None:
    parts = [{"type": "image", "url": "a"}, {"type": "tool_use", "name": "ls"}, {"type": "thinking", "thinking": "Hm."}]
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "url": "b"}]}
    assert skipped(*events(role=role, content=[*parts, result])) == [
        "message: unknown role",
        "media: of an unknown role",
        "tool_call: of an unknown role",
        "reasoning: of an unknown role",
        "media: of an unknown role",
        "tool_result: of an unknown role",
    ]


def test_what_is_empty() -> None:
    assert events(role="user", content=None) == [Said(AT, "user", "", [])]
    assert skipped(*events(role="assistant", content=None)) == ["message: empty answer"]
    assert events(role="assistant", content=None, refusal="No.") == [Said(AT, "assistant", "No.", [])]


# -- usage and tools -----------------------------------------------------------------------------------

USAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "chat completions": (
        {
            "prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1},
        },
        {"input_tokens": 5, "output_tokens": 3, "cache_read_tokens": 2, "reasoning_tokens": 1},
    ),
    "Responses": (
        {"input_tokens": 5, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}},
        {"input_tokens": 5, "output_tokens": 3, "reasoning_tokens": 0},
    ),
    "Anthropic": (
        {"input_tokens": 5, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 9},
        {"input_tokens": 5, "cache_write_tokens": 7, "cache_read_tokens": 9},
    ),
    "OpenRouter": ({"prompt_tokens": 5, "cost": 0.5}, {"input_tokens": 5, "cost_usd": 0.5}),
    "odd": ({"prompt_tokens": "5", "completion_tokens": True, "cost": None, "prompt_tokens_details": []}, {}),
    "too much": ({"prompt_tokens": 2**63, "cost": float("nan"), "completion_tokens": -1}, {}),
    "none": (None, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGES)
def test_usage(name: str) -> None:
    given, used = USAGES[name]
    assert _chat.usage(given) == used


SCHEMA = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object"}}}
TOOLS: dict[str, Any] = {
    "chat completions": SCHEMA,
    "Responses": {"type": "function", "name": "ls", "parameters": {"type": "object"}},
    "Anthropic": {"name": "ls", "input_schema": {"type": "object"}},
    "functions": {"name": "ls", "parameters": {"type": "object"}},
    "function without a type": {"function": SCHEMA["function"]},
}


@pytest.mark.parametrize("name", TOOLS)
def test_tools(name: str) -> None:
    assert list(_chat.tools([TOOLS[name]])) == [Facts({"tools": [SCHEMA]})]
    assert list(_chat.tools(orjson.dumps([TOOLS[name]]).decode())) == [Facts({"tools": [SCHEMA]})]


def test_tools_that_are_none() -> None:
    assert list(_chat.tools([])) == list(_chat.tools("[]")) == [Facts({"tools": []})]
    assert list(_chat.tools(None)) == list(_chat.tools("")) == []
    assert (
        skipped(*_chat.tools("ls, cat"), *_chat.tools(["ls"]), *_chat.tools({"ls": 1}))
        == ["record: tools of an unknown shape"] * 3
    )
    assert list(_chat.tools([SCHEMA, {"type": "web_search"}])) == [
        Facts({"tools": [SCHEMA]}),
        Skipped("record: tool without a schema"),
    ]


# -- values of any kind --------------------------------------------------------------------------------

KEYS = (
    "content", "reasoning_content", "reasoning", "thinking", "reasoning_details", "tool_calls", "function_call",
    "tool_call_id", "is_error", "refusal",
)  # fmt: skip
PART_KEYS = (
    "text", "thinking", "summary", "name", "input", "id", "tool_use_id", "content", "image_url", "source", "data",
    "url", "file",
)  # fmt: skip
KINDS = st.sampled_from(
    ["text", "thinking", "tool_use", "tool_result", "image", "image_url", "document", "file", "refusal"]
)
PARTS = st.fixed_dictionaries({"type": KINDS}, optional=dict.fromkeys(PART_KEYS, VALUES))
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from([*_chat.ROLES]) | VALUES},
    optional={key: VALUES | st.lists(PARTS, max_size=3) for key in KEYS},
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGES, max_size=4))
def test_no_message_raises(messages: list[dict[str, Any]]) -> None:
    found = [event for turn, message in enumerate(messages) for event in _chat.message_events(message, At(turn=turn))]
    for rollout in assemble(found):
        for message in row(rollout)["messages"]:
            check_message(message)
    for message in messages:
        list(chat_message(message, "m"))


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: {"type": "text", "content": [v]}])
def test_nesting_is_no_matter(wrap: Any) -> None:
    value: Any = "deep"
    for _ in range(400):
        value = wrap(value)
    for role in ("tool", "user", "assistant"):
        for key in ("content", "reasoning_details", "tool_calls"):
            list(assemble(events(**{"role": role, key: value})))
            list(chat_message({"role": role, key: value}, "m"))


@settings(max_examples=200, deadline=None)
@given(VALUES, st.text(max_size=20))
def test_no_value_raises(value: Any, text: str) -> None:
    _chat.usage(value)
    list(_chat.tools(value))
    list(_chat.tools(text))
    _chat.arguments(value)
    thought, rest = _chat.leading_think("<think>" + text)
    assert rest if thought is None else rest in text
