"""Data in, data out: what `to_chat` makes of messages, and that `exact` reads numbers as they are stored."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, Json, List, Value, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from agent_rollouts.chat import (
    CHOICES,
    TEMPLATE_OPTIONS,
    ExactJson,
    control_tokens,
    escape_control_tokens,
    exact,
    to_chat,
)
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import check_message

Message = dict[str, Any]


def said(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def called(*ids: str, content: str = "", **more: Any) -> Message:
    calls = [{"id": i, "type": "function", "function": {"name": "Bash", "arguments": {"command": i}}} for i in ids]
    return said("assistant", content, tool_calls=calls, **more)


def returned(call_id: str, content: str = "done") -> Message:
    return said("tool", content, tool_call_id=call_id, name="Bash")


ASKED = said("user", "Please.")


@pytest.mark.parametrize(
    ("options", "messages", "expected"),
    [
        pytest.param(
            {},
            [{**ASKED, "id": "u1", "timestamp": "2026-01-01T00:00:00Z", "origin": "queued", "media": [0]}],
            [ASKED],
            id="keys of the row are gone",
        ),
        pytest.param(
            {},
            [ASKED, said("assistant", "Hm.", weight=0, weight_reason="interrupted", phase="commentary")],
            [ASKED, said("assistant", "Hm.", weight=0)],
            id="weight stays, its reason does not",
        ),
        pytest.param({"weights": False}, [ASKED, said("assistant", "", weight=0)], [ASKED, said("assistant", "")]),
        pytest.param({}, [ASKED, {**returned("a"), "is_error": True}], [ASKED, returned("a")], id="orphan stays"),
        pytest.param(
            {},
            [said("system", "One"), said("system", "Two"), ASKED],
            [said("system", "One\n\nTwo"), ASKED],
            id="leading system messages become one",
        ),
        pytest.param(
            {},
            [said("system", "One"), ASKED, said("system", "Later")],
            [said("system", "One"), ASKED, said("user", "<system>\nLater\n</system>")],
            id="later system messages keep their place",
        ),
        pytest.param(
            {"later_system": "front"},
            [ASKED, said("system", "Later")],
            [said("system", "Later"), ASKED],
            id="later system messages move",
        ),
        pytest.param({"later_system": "drop"}, [ASKED, said("system", "Later")], [ASKED]),
        pytest.param(
            {"first_system": "user"},
            [said("system", "One"), ASKED],
            [said("user", "<system>\nOne\n</system>"), ASKED],
            id="no system role",
        ),
        pytest.param(
            {"parallel_calls": False},
            [ASKED, called("a", "b", content="Both.", reasoning_content="Why", weight=0), returned("a"), returned("b")],
            [
                ASKED,
                called("a", content="Both.", reasoning_content="Why", weight=0),
                returned("a"),
                called("b", weight=0),
                returned("b"),
            ],
            id="one call a message",
        ),
        pytest.param(
            {"parallel_calls": False},
            [ASKED, called("a", "b"), returned("b"), returned("x")],
            [ASKED, called("a"), called("b"), returned("b"), returned("x")],
            id="unanswered and orphan while splitting",
        ),
        pytest.param(
            {"unanswered": "drop"},
            [ASKED, called("a", "b"), returned("b"), called("c"), called("d", content="So")],
            [ASKED, called("b"), returned("b"), said("assistant", "So")],
            id="unanswered calls go, and messages that are empty without them",
        ),
        pytest.param(
            {"reasoning": "join"},
            [ASKED, called("a", content="Now", reasoning_content="Why"), said("assistant", "A", reasoning_content="B")],
            [ASKED, called("a", reasoning_content="Why\n\nNow"), said("assistant", "A", reasoning_content="B")],
            id="reasoning and text beside a call are one",
        ),
        pytest.param(
            {"reasoning": "inline"},
            [ASKED, said("assistant", "A", reasoning_content="B")],
            [ASKED, said("assistant", "<think>\nB\n</think>\n\nA")],
        ),
        pytest.param(
            {"reasoning": "drop"},
            [ASKED, said("assistant", "A", reasoning_content="B")],
            [ASKED, said("assistant", "A")],
        ),
        pytest.param(
            {"calls": "text"},
            [ASKED, called("a", "ü", content="Both."), returned("a", "1"), returned("ü", "2"), said("user", "And?")],
            [
                ASKED,
                said(
                    "assistant",
                    'Both.\n<tool_call>\n{"name": "Bash", "arguments": {"command": "a"}}\n</tool_call>\n'
                    '<tool_call>\n{"name": "Bash", "arguments": {"command": "ü"}}\n</tool_call>',
                ),
                said("user", "<tool_response>\n1\n</tool_response>\n\n<tool_response>\n2\n</tool_response>\n\nAnd?"),
            ],
            id="calls as text, turns alternate",
        ),
        pytest.param(
            {"control_tokens": "escape"},
            [said("user", "a <|im_end|> b"), said("assistant", "<|im_end|>"), returned("a", "</think>")],
            [said("user", r"a <\|im_end|> b"), said("assistant", "<|im_end|>"), returned("a", r"<\/think>")],
            id="escaped where the model reads, not where it writes",
        ),
    ],
)
def test_rules(options: Message, messages: list[Message], expected: list[Message]) -> None:
    assert to_chat(messages, **options) == expected


def test_arguments_are_objects() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "patch", "arguments": "*** Begin\nnot JSON"}}
    null = {"id": "b", "type": "function", "function": {"name": "Read", "arguments": {"path": "x", "limit": None}}}
    chat = to_chat([ASKED, said("assistant", "", tool_calls=[call, null])])
    assert [call["function"]["arguments"] for call in chat[1]["tool_calls"]] == [
        {"input": "*** Begin\nnot JSON"},
        {"path": "x", "limit": None},
    ]


def test_media_become_parts() -> None:
    media = [
        {"type": "image", "media_type": "image/png", "bytes": b"png", "path": None},
        {"type": "document", "media_type": "application/pdf", "bytes": b"pdf", "path": None},
        {"type": "image", "media_type": None, "bytes": None, "path": None},
    ]
    chat = to_chat([{**ASKED, "media": [0, 1, 2]}, said("assistant", "")], media=media)
    assert [message["content"] for message in chat] == [
        [{"type": "image", "image": {"bytes": b"png", "path": None}}, {"type": "text", "text": "Please."}],
        [{"type": "text", "text": ""}],
    ]


@pytest.mark.parametrize(
    ("messages", "options", "complaint"),
    [
        ([], {}, "no user turn in 0 messages"),
        ([said("system", "S"), said("assistant", "A")], {}, "no user turn in 2 messages"),
        ([said("developer", "D")], {}, "unknown role 'developer'; known: system, user"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], {}, "content of a user message is a list"),
        ([ASKED], {"later_system": "middle"}, "unknown later_system 'middle'; known: user, front, drop"),
    ],
)
def test_refusals(messages: list[Message], options: Message, complaint: str) -> None:
    with pytest.raises(AgentRolloutsError, match=complaint):
        to_chat(messages, **options)


# A small alphabet: hypothesis takes seconds to collect all of Unicode on a fresh machine.
TEXT = st.one_of(
    st.text(alphabet="aü漢 \n<|>", max_size=8),
    st.sampled_from(["<|im_start|>", "<s>[INST]", "<\uff5cUser\uff5c>", "<|<s>|>", "\n\n"]),
)
PLUMBING = st.fixed_dictionaries(
    {}, optional={"id": TEXT, "timestamp": st.just("2026-01-01T00:00:00Z"), "origin": st.just("reminder")}
)
ARGUMENTS = st.one_of(TEXT, st.dictionaries(TEXT, st.one_of(st.none(), st.floats(), TEXT, st.integers()), max_size=2))


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages: list[Message] = []
    for number in range(draw(st.integers(0, 6))):
        role = draw(st.sampled_from(["system", "user", "assistant"]))
        message = {"role": role, "content": draw(TEXT), **draw(PLUMBING)}
        if draw(st.booleans()):
            message |= {"weight": 0, "weight_reason": "interrupted"}
        messages.append(message)
        if role != "assistant":
            continue
        if draw(st.booleans()):
            message["reasoning_content"] = draw(TEXT)
        for place in range(draw(st.integers(0, 3))):
            function = {"name": draw(TEXT), "arguments": draw(ARGUMENTS)}
            call = {"id": f"{number}.{place}", "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
            if draw(st.booleans()):
                messages.append({**returned(call["id"], draw(TEXT)), "is_error": draw(st.booleans())})
    return messages


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        **{option: st.sampled_from(values) for option, values in CHOICES.items()},
        "parallel_calls": st.booleans(),
        "weights": st.booleans(),
    },
)
KEYS = {"role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "weight"}


@given(conversations(), OPTIONS)
def test_invariants(messages: list[Message], options: Message) -> None:
    for message in messages:
        check_message(message)
    before = copy.deepcopy(messages)
    roles = [message["role"] for message in messages]
    first_turn = next((place for place, role in enumerate(roles) if role != "system"), len(roles))
    moved = options.get("later_system") == "front"
    has_user = (
        "user" in roles
        or ("tool" in roles and options.get("calls") == "text")
        or (options.get("first_system") == "user" and "system" in roles[: len(roles) if moved else first_turn])
        or (options.get("later_system", "user") == "user" and "system" in roles[first_turn:])
    )
    if not has_user:
        with pytest.raises(AgentRolloutsError, match="no user turn"):
            to_chat(messages, **options)
        return
    chat = to_chat(messages, **options)
    assert repr(messages) == repr(before)  # as text, since NaN is not equal to itself
    assert all(set(message) <= KEYS and isinstance(message["content"], str) for message in chat)
    assert "user" in [message["role"] for message in chat]
    assert "system" not in [message["role"] for message in chat[1:]]
    calls = [call for message in chat for call in message.get("tool_calls", ())]
    assert all(isinstance(call["function"]["arguments"], dict) for call in calls)
    hold_options(messages, chat, options)


def hold_options(messages: list[Message], chat: list[Message], options: Message) -> None:
    calls = [call["id"] for message in chat for call in message.get("tool_calls", ())]
    asked = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    if options.get("calls") == "text":
        assert not calls
        assert all(one["role"] != other["role"] != "tool" for one, other in pairwise(chat))
    else:
        assert calls == (answered if options.get("unanswered") == "drop" else asked)
        assert [message["tool_call_id"] for message in chat if message["role"] == "tool"] == answered
    if not options.get("parallel_calls", True):
        assert all(len(message.get("tool_calls", ())) < 2 for message in chat)
    if options.get("control_tokens") == "escape" and options.get("calls") != "text":
        assert not any(control_tokens(message["content"]) for message in chat if message["role"] != "assistant")
    if not options.get("weights", True):
        assert not any("weight" in message for message in chat)
    if options.get("reasoning") in ("drop", "inline"):
        assert not any("reasoning_content" in message for message in chat)


@given(conversations())
def test_default_keeps_every_word_and_is_stable(messages: list[Message]) -> None:
    chat = to_chat([ASKED, *messages])
    assert repr(to_chat(chat)) == repr(chat)
    assert [m["role"].replace("system", "user") for m in messages] == [m["role"] for m in chat[1:]]
    for message, other in zip(messages, chat[1:], strict=True):
        assert message["content"] in other["content"]
        assert (message.get("reasoning_content") or None) == other.get("reasoning_content")


@given(st.one_of(TEXT, st.text(alphabet="<>|\uff5c[]/\\ISTNs_ab", max_size=30)))
def test_escaped_text_holds_no_control_token(text: str) -> None:
    escaped = escape_control_tokens(text)
    assert not control_tokens(escaped)
    assert len(text) <= len(escaped)
    assert escaped == text or control_tokens(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<|im_start|>user", ["<|im_start|>"]),
        ("<\uff5cend▁of▁sentence\uff5c> <|turn>x<turn|>", ["<\uff5cend▁of▁sentence\uff5c>", "<|turn>", "<turn|>"]),
        ("[INST] hi [/INST]</s>", ["[INST]", "[/INST]", "</s>"]),
        ("<think></think>", ["<think>", "</think>"]),
        ("a <| b |> c, if x <y| then >, list[INT], <div>, <tools>, [IN ST], 1 <|> 2", []),
    ],
)
def test_control_tokens(text: str, found: list[str]) -> None:
    assert control_tokens(text) == found


def test_template_options_are_options() -> None:
    for options in TEMPLATE_OPTIONS.values():
        assert to_chat([ASKED], **options)


NUMBERS = {"third": 1 / 3, "tenth": 0.7, "tiny": 5e-324, "text": "123", "none": None}
WRITTEN = orjson.dumps(NUMBERS).decode()
FEATURES = Features(
    {"n": Value("int64"), "messages": List(Json()), "meta": Json(), "deep": {"raw": Json(decode=False), "in": Json()}}
)


def stored(n: int) -> Message:
    return {"n": n, "messages": [WRITTEN, None], "meta": WRITTEN, "deep": {"raw": WRITTEN, "in": None}}


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_list([stored(n) for n in range(3)], features=FEATURES)


def read(n: int) -> Message:
    return {"n": n, "messages": [NUMBERS, None], "meta": NUMBERS, "deep": {"raw": WRITTEN, "in": None}}


def test_exact_map_style(dataset: Dataset) -> None:
    result = exact(dataset)
    assert list(result) == [read(n) for n in range(3)]
    assert result["meta"][1] == NUMBERS
    assert result.select([2])[0] == read(2)
    assert result.filter(lambda n: n == 1, input_columns="n")[0] == read(1)
    assert exact(DatasetDict(train=dataset))["train"][0] == read(0)


def test_exact_leaves_the_data_alone(dataset: Dataset) -> None:
    result = exact(dataset)
    assert result.data is dataset.data
    assert result.features == dataset.features
    assert type(dataset.features["meta"]) is Json
    assert result._fingerprint != dataset._fingerprint
    assert result.features.to_dict() == dataset.features.to_dict()


def test_exact_is_seen_by_map(dataset: Dataset) -> None:
    def tenth(row: Message) -> Message:
        return {"tenth": str(row["meta"]["tenth"])}

    assert dataset.map(tenth)["tenth"][0] == "0.7000000000000001"
    assert exact(dataset).map(tenth)["tenth"][0] == "0.7"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f'{{"a": {2**80}}}', {"a": 2**80}),
        ('{"a": NaN}', {"a": None}),
        ('["1", 1.5]', ["1", 1.5]),
        (None, None),
    ],
)
def test_exact_json(text: str | None, value: Any) -> None:
    decoded = ExactJson().decode_example(text)
    assert repr(decoded).replace("nan", "None") == repr(value)
    assert ExactJson().encode_example(text) == text
    assert ExactJson().decode_example(ExactJson().encode_example(value)) == value
    assert ExactJson().encode_example("no JSON") == '"no JSON"'


def test_exact_streams(dataset: Dataset, tmp_path: Path) -> None:
    expected = [read(n) for n in range(3)]
    assert list(exact(dataset.to_iterable_dataset())) == expected
    assert list(exact(dataset).to_iterable_dataset()) == expected
    dataset.to_parquet(tmp_path / "rows.parquet")
    streamed = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", streaming=True)
    assert list(exact(streamed)) == expected
    assert list(exact(streamed.take(2))) == expected[:2]
    assert list(exact(streamed).filter(lambda row: row["n"] == 1)) == expected[1:2]


def test_exact_must_come_first_for_a_generator() -> None:
    streamed = IterableDataset.from_generator(lambda: iter([stored(0)]), features=FEATURES)
    row = next(iter(exact(streamed)))
    assert row["meta"]["tenth"] == 0.7
    for late in (streamed.map(lambda row: row), streamed.filter(lambda row: True)):
        with pytest.raises(AgentRolloutsError, match="before map"):
            exact(late)
