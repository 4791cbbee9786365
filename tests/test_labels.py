"""Labels train exactly the weighted turns, through every chat template that ships with trl.

As in `test_training.py`: nothing is downloaded, and the tests are skipped where the extra `train` is not installed.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.chat import TEMPLATE_OPTIONS, control_tokens, exact, to_chat
from agent_rollouts.errors import AgentRolloutsError

trl = pytest.importorskip("trl")
torch = pytest.importorskip("torch")

from agent_rollouts.distill.labels import IGNORED, tokenize, training_template  # noqa: E402  # part of the extra
from agent_rollouts.distill.windows import Tokens, windows  # noqa: E402
from tests.test_training import TEMPLATES, example_rows, of_family, small_model, small_tokenizer  # noqa: E402

Message = dict[str, Any]
Row = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")

# Without trl, whose twins mark the turns.
NOT_ALONE = {
    "phi3": "begins a turn",  # it ends with a token of its own where no answer is asked for
    "phi3_5": "begins a turn",
}
# These put the text beside a call behind the call's results.
MOVED = {"diffusion_gemma", "diffusion_gemma_training", "gemma4", "gemma4_v3", "gemma4_v4", "gemma4_v5"}


@functools.cache
def rows() -> list[Row]:
    return list(exact(example_rows()))


@functools.cache
def tokenizer(name: str) -> Any:
    """A small one with the template and the control tokens of a family."""
    found = small_tokenizer([json.dumps(row["messages"], ensure_ascii=False) for row in rows()])
    found.chat_template = template(name)
    added = sorted({*control_tokens(template(name)), "<|endoftext|>", "<|im_end|>"})
    found.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": added})
    return found


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


def without_marks(text: str) -> str:
    return re.sub(r"{%(-?)\s*generation\s*(-?)%}", r"{%\1 if true \2%}", text).replace("endgeneration", "endif")


def options_of(name: str) -> Row:
    return dict(of_family(TEMPLATE_OPTIONS, Path(name), {}))


def labelled(found: dict[str, list[int]], name: str) -> list[str]:
    """The texts that are trained on, one for each run of labels."""
    runs: list[list[int]] = [[]]
    for token, label in zip(found["input_ids"], found["labels"], strict=True):
        assert label in (token, IGNORED)
        if label == token:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer(name).decode(run) for run in runs if run]


def label(messages: list[Message], name: str, **more: Any) -> list[str]:
    more = {"chat_template": template(name)} | options_of(name) | more
    return labelled(tokenize(messages, None, tokenizer(name), **more), name)


def said(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def call(number: int, content: str = "", **arguments: Any) -> Message:
    function = {"name": "shell", "arguments": arguments}
    return said("assistant", content, tool_calls=[{"id": f"c{number}", "type": "function", "function": function}])


def result(number: int, content: str) -> Message:
    return said("tool", content, tool_call_id=f"c{number}", name="shell")


SKIPPED = {"weight": 0, "weight_reason": "failed_call"}
WORK = [
    said("system", "You mend."),
    said("user", "Mend it."),
    {**call(0, command="first"), "reasoning_content": "Begin."},
    # What a tool prints may look like a turn.
    result(0, "<|im_end|>\n<|im_start|>assistant\nI am no turn.<|im_end|>\n"),
    {**call(1, command="wrong", limit=None), **SKIPPED},
    result(1, ""),
    call(2, command="last", n=[1, "two"], deep={"a": "b"}),
    result(2, "done"),
    said("assistant", " Mended. \n"),
    said("user", "Thanks."),
    said("assistant", "Bye.", **SKIPPED),
    said("user", "Bye?"),
    said("assistant", "Bye!"),
]
LAST = '{"command": "last", "n": [1, "two"], "deep": {"a": "b"}}'
HERMES = '<tool_call>\n{{"name": "shell", "arguments": {}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "qwen3_training",
            [
                "<think>\nBegin.\n</think>\n\n" + HERMES.format('{"command": "first"}') + "<|im_end|>",
                "<think>\n\n</think>\n\n" + HERMES.format(LAST) + "<|im_end|>",
                "<think>\n\n</think>\n\n Mended. \n<|im_end|>",
                "<think>\n\n</think>\n\nBye!<|im_end|>",
            ],
        ),
        (
            "qwen3",  # drops reasoning of before the last prompt
            [
                HERMES.format('{"command": "first"}') + "<|im_end|>",
                HERMES.format(LAST) + "<|im_end|>",
                " Mended. \n<|im_end|>",
                "<think>\n\n</think>\n\nBye!<|im_end|>",
            ],
        ),
        (
            "qwen3_5_think",  # the prompt opens the thought
            [
                "<tool_call>\n<function=shell>\n<parameter=command>\nfirst\n</parameter>\n</function>\n</tool_call>"
                "<|im_end|>",
                "<tool_call>\n<function=shell>\n<parameter=command>\nlast\n</parameter>\n<parameter=n>\n"
                '[1, "two"]\n</parameter>\n<parameter=deep>\n{"a": "b"}\n</parameter>\n</function>\n</tool_call>'
                "<|im_end|>",
                "Mended.<|im_end|>",
                "\n</think>\n\nBye!<|im_end|>",
            ],
        ),
        (
            "llama3_1",
            [
                '{"name": "shell", "parameters": {"command": "first"}}<|eot_id|>',
                f'{{"name": "shell", "parameters": {LAST}}}<|eot_id|>',
                "Mended.<|eot_id|>",
                "Bye!<|eot_id|>",
            ],
        ),
        (
            "gptoss",
            [
                ' to=functions.shell<|channel|>commentary json<|message|>{"command": "first"}<|call|>',
                f" to=functions.shell<|channel|>commentary json<|message|>{LAST}<|call|>",
                "<|channel|>final<|message|> Mended. \n<|end|>",
                "<|channel|>final<|message|>Bye!<|return|>",
            ],
        ),
        (
            "glm4moe",  # what ends a turn is what begins the next
            [
                "\n<think></think>\n<tool_call>shell\n<arg_key>command</arg_key>\n<arg_value>first</arg_value>\n"
                "</tool_call><|observation|>",
                "\n<think></think>\n<tool_call>shell\n<arg_key>command</arg_key>\n<arg_value>last</arg_value>\n"
                '<arg_key>n</arg_key>\n<arg_value>[1, "two"]</arg_value>\n<arg_key>deep</arg_key>\n'
                '<arg_value>{"a": "b"}</arg_value>\n</tool_call><|observation|>',
                "\n<think></think>\nMended.<|user|>",
                "\n<think></think>\nBye!",
            ],
        ),
        (
            "deepseekv3_training",
            [
                HERMES.format('{"command": "first"}') + "<\uff5cend▁of▁sentence\uff5c>",
                HERMES.format(LAST) + "<\uff5cend▁of▁sentence\uff5c>",
                " Mended. \n<\uff5cend▁of▁sentence\uff5c>",
                "Bye!<\uff5cend▁of▁sentence\uff5c>",
            ],
        ),
        (
            "nemotron_3_nano_training",
            [
                "</think>\n<tool_call>\n<function=shell>\n<parameter=command>\nfirst\n</parameter>\n</function>\n"
                "</tool_call>\n<|im_end|>",
                "</think>\n<tool_call>\n<function=shell>\n<parameter=command>\nlast\n</parameter>\n<parameter=n>\n"
                '[1, "two"]\n</parameter>\n<parameter=deep>\n{"a": "b"}\n</parameter>\n</function>\n</tool_call>\n'
                "<|im_end|>",
                "</think> Mended.<|im_end|>",
                "</think>Bye!<|im_end|>",
            ],
        ),
    ],
)
def test_exactly_the_weighted_turns(name: str, expected: list[str]) -> None:
    assert label(WORK, name) == expected


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_every_template(path: Path) -> None:
    """What stands in the labels was said by weighted turns, all of it, and nothing else; with marks and without."""
    name = path.stem
    for row in rows()[:2]:
        options = options_of(name)
        messages, more = row["messages"], {"tools": row["tools"]}
        if "media" in options:
            options["media"] = row["media"]
        if name in MOVED:
            messages = [
                {**message, "content": "" if "tool_calls" in message else message["content"]} for message in messages
            ]
        if name in NOT_ALONE:
            with pytest.raises(AgentRolloutsError, match=NOT_ALONE[name]):
                tokenize(messages, chat_template=path.read_text(), tokenizer=tokenizer(name), **more, **options)
            continue
        marked = tokenize(messages, chat_template=path.read_text(), tokenizer=tokenizer(name), **more, **options)
        text = "\n".join(labelled(marked, name))
        chat = to_chat(messages, **options)
        for message in chat:
            words = message["content"] if isinstance(message["content"], str) else message["content"][-1]["text"]
            is_target = message["role"] == "assistant" and message.get("weight") != 0
            if words.strip() and not (is_target and "tool_calls" in message):
                assert (words.strip() in text) == is_target
            for one in message.get("tool_calls", ()):
                value = next(iter(one["function"]["arguments"].values()))
                assert value in text
        if "endgeneration" in path.read_text() and name.removesuffix("_training") not in {*NOT_ALONE, *MOVED}:
            bare = without_marks(path.read_text())
            assert tokenize(messages, chat_template=bare, tokenizer=tokenizer(name), **more, **options) == marked


def test_moved_text_is_refused() -> None:
    with pytest.raises(AgentRolloutsError, match="writes a text twice, or messages in another order"):
        label(rows()[0]["messages"], "gemma4")


TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "\n", "ok", " two words \n", "<think>a</think>b", "<|im_end|>", "</tool_call>", "x" * 50]
    ),
    st.text(alphabet="a<>|{}\"'\\\n ü漢", max_size=12),
)
VALUES = st.one_of(TEXTS, st.none(), st.integers(0, 9), st.lists(TEXTS, max_size=2), st.booleans())


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = [said("user", draw(TEXTS) + "?")]
    for number in range(draw(st.integers(1, 8))):
        weight = SKIPPED if draw(st.booleans()) else {}
        kind = draw(st.sampled_from(["call", "call", "answer", "user"]))
        if kind == "user":
            messages.append(said("user", draw(TEXTS)))
            continue
        message = said("assistant", draw(TEXTS), **weight)
        if draw(st.booleans()):
            message["reasoning_content"] = draw(TEXTS)
        messages.append(message)
        for k in range(draw(st.integers(1, 2)) if kind == "call" else 0):
            arguments = draw(st.dictionaries(st.sampled_from(["command", "n", "z"]), VALUES, max_size=2))
            one = {"id": f"c{number}.{k}", "type": "function", "function": {"name": "shell", "arguments": arguments}}
            message.setdefault("tool_calls", []).append(one)
            if draw(st.booleans()):
                messages.append(said("tool", draw(TEXTS), tool_call_id=one["id"], name="shell"))
    return messages


@pytest.mark.parametrize("name", ["qwen3_training", "glm4moe_training", "gptoss_training", "nemotron_3_super_training"])
def test_both_ways_agree(name: str) -> None:
    """Turns that are found between their neighbours are those that the template marks, or none are."""
    bare, found = without_marks(template(name)), []

    @settings(max_examples=60, deadline=None)
    @given(conversations())
    def agree(messages: list[Message]) -> None:
        try:
            marked = tokenize(messages, None, tokenizer(name), chat_template=template(name), **options_of(name))
            plain = tokenize(messages, None, tokenizer(name), chat_template=bare, **options_of(name))
        except AgentRolloutsError:
            return
        assert plain == marked
        found.append(messages)

    agree()
    assert len(found) > 30


def test_training_template_is_the_twin() -> None:
    assert training_template(tokenizer("qwen3")) == template("qwen3_training")
    assert training_template(tokenizer("qwen3_training")) == template("qwen3_training")
    assert training_template(tokenizer("llama3_1")) == template("llama3_1")
    row = {"messages": WORK, "tools": None}
    found = tokenize(row, None, tokenizer("qwen3"))
    assert found == tokenize(WORK, None, tokenizer("qwen3"), chat_template=template("qwen3_training"))
    assert found["attention_mask"] == [1] * len(found["input_ids"])


CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + END }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
PLAIN = """{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PLAIN, "ends turns without a token that the model could stop at"),
        (CHATML.replace("m.content", "m.content|upper").replace("END", "'<|im_end|>'"), None),
        (CHATML.replace("m.content", "m.content[:9]").replace("END", "'<|im_end|>'"), "otherwise when it holds a mark"),
        (CHATML.replace("m.content", "m.content * 2").replace("END", "'<|im_end|>'"), "writes a text twice"),
        (CHATML.replace("m.role", "'x'").replace("END", "'<|im_end|>'"), "otherwise than its generation prompt"),
        (CHATML.replace("END", "('<|im_end|>' if loop.index % 4 else '<|endoftext|>')"), "ends a turn in a way"),
        ("{{ nothing.at.all }}", "fails: 'nothing' is undefined"),
        ("{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}", "leave out words"),
    ],
)
def test_templates_that_are_refused(text: str, complaint: str | None) -> None:
    messages = [
        said("user", "Say it."),
        said("assistant", "It is said."),
        said("user", "So?"),
        said("assistant", "So."),
        said("user", "And?"),
        said("assistant", "No."),
    ]
    if complaint is None:
        assert label(messages, "qwen3", chat_template=text) == [
            "IT IS SAID.<|im_end|>",
            "SO.<|im_end|>",
            "NO.<|im_end|>",
        ]
        return
    with pytest.raises(AgentRolloutsError, match=f"the chat template of .*{complaint}"):
        label(messages, "qwen3", chat_template=text)


def test_a_template_without_generation_prompt() -> None:
    """As Mistral's: what ends the prompt begins the answer, and there is no other turn."""
    text = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- elif m.tool_calls %}{{ '[TOOL_CALLS]' + (m.tool_calls | tojson) + '</s>' }}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + '</s>' }}{% endif %}{% endfor %}"""
    mistral = small_tokenizer(["[INST] it is"])
    mistral.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    found = tokenize([m for m in WORK if m["role"] != "system"], None, mistral, chat_template=text)
    runs = mistral.decode([token if token != IGNORED else 0 for token in found["labels"]]).split("<|endoftext|>")
    first, second, *others = filter(None, runs)
    assert [run[:13] + run[-5:] for run in (first, second)] == ["[TOOL_CALLS][]</s>"] * 2
    assert '{"command": "first"}' in first
    assert LAST in second
    assert others == [" Mended.</s>", " Bye!</s>"]


def test_tokens_of_a_folder(tmp_path: Path) -> None:
    tokenizer("qwen3").save_pretrained(tmp_path)
    tokens = Tokens.of(str(tmp_path))
    assert tokens.whole(WORK, None) == len(tokenize(WORK, None, tokenizer("qwen3"))["input_ids"])
    assert tokens.schemas(None) == 0 < tokens.schemas(rows()[0]["tools"])
    assert tokens.each([]) == []


def test_what_cannot_be_labelled() -> None:
    with pytest.raises(AgentRolloutsError, match=r"writes U\+FDD0"):
        label([said("user", "a\ufdd0"), said("assistant", "b")], "qwen3")
    bare = small_tokenizer(["a"])
    bare.chat_template = None
    with pytest.raises(AgentRolloutsError, match="has no chat template"):
        tokenize(WORK, None, bare)
    unsaid = [said("user", "a"), said("assistant", "", reasoning_content="b"), said("user", "c")]
    assert label([*unsaid, said("assistant", "d", **SKIPPED)], "qwen2_5") == []


@pytest.mark.parametrize("name", ["qwen3", "llama3_1"])
def test_windows_are_of_the_size_that_is_tokenized(name: str) -> None:
    steps = [m for n in range(60) for m in (call(n, command="x" * n), result(n, "printed\n" * n * 3))]
    row = {"messages": [*WORK[:2], *steps], "tools": rows()[0]["tools"]}
    tokens = Tokens.of(tokenizer(name), **options_of(name))
    found = windows(row, 2500, tokens)
    assert len(found.rows) > 3
    assert not found.removed_turns
    said = []
    for window in found.rows:
        made = tokenize(window, None, tokenizer(name), **options_of(name))
        assert len(made["input_ids"]) == window["token_count"] <= 2500
        assert not window["token_count_is_estimate"]
        said += labelled(made, name)
    assert len(said) == 60
    assert all(f'"{"x" * n}"' in text for n, text in enumerate(said))


@pytest.mark.parametrize("packing", [False, True])
def test_trl_trains_on_them(packing: bool, tmp_path: Path) -> None:
    """SFTTrainer takes the rows as they are, whole or packed, and its batches hold the same labels."""
    made = [tokenize(row, None, tokenizer("qwen3")) for row in [*rows()[:2], {"messages": WORK, "tools": None}]]
    model = small_model(len(tokenizer("qwen3")))
    before = model.lm_head.weight.detach().clone()
    config = trl.SFTConfig(
        output_dir=str(tmp_path),
        max_length=2048 if packing else None,
        packing=packing,
        max_steps=1,
        per_device_train_batch_size=3,
        learning_rate=0.01,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(model, config, train_dataset=Dataset.from_list(made), processing_class=tokenizer("qwen3"))
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["labels"]
    trained = sorted(labels[labels != IGNORED].tolist())
    assert trained == sorted(token for one in made for token in one["labels"] if token != IGNORED)
    assert torch.equal(labels[labels != IGNORED], batch["input_ids"][labels != IGNORED])
    assert 0 < trainer.train().training_loss < float("inf")
    assert not torch.equal(before, model.lm_head.weight)
