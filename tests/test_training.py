"""Rows train: every chat template that ships with trl renders them, and trl's SFTTrainer takes a step on them.

The libraries come with the extra `train`, which `.ci/run` installs; elsewhere these tests are skipped. Nothing is
downloaded: the tokenizer is made here, of the rows' own text, and the model is a few random numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from datasets import Dataset, Features, Json, List, load_dataset

from agent_rollouts import features
from agent_rollouts.chat import TEMPLATE_OPTIONS, exact, to_chat
from agent_rollouts.cli import main
from agent_rollouts.events import At, Called, End, Event, Facts, Media, Returned, Said, Start, Thought
from agent_rollouts.rollout import Rollout, assemble

trl = pytest.importorskip("trl")
torch = pytest.importorskip("torch")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402  # part of the extra
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
Row = dict[str, Any]

pytestmark = pytest.mark.filterwarnings(
    # trl 1.16 sets the old name's default, which transformers 5.23 calls deprecated.
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
)

# -- example rows ---------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        },
    }
    for name, description, key in [("shell", "Runs-a-line", "command"), ("read", "Reads-a-file", "path")]
]


def session() -> Iterator[Event]:
    """One of everything: parallel and lone calls, reasoning, a late system message, empty texts, other scripts."""
    yield Facts({"trace_id": "garden", "model": "invented-1", "tools": TOOLS}, {"version": "1"})
    yield Said(At(id="s"), "system", "You tend a garden plan.")
    yield Said(At(id="u1", timestamp="2026-01-05T10:00:00.000Z"), "user", "Which Blüten open in 春?")
    yield Thought(At(turn=1), "Two lookups will do.")
    yield Said(At(turn=1), "assistant", "I look at both lists.")
    yield Called(At(turn=1), "c1", "shell", {"command": "ls beete/", "weight": 0.7})
    yield Called(At(turn=1), "c2", "read", {"path": "früh.txt"})
    yield Returned(At(), "c1", "rosen.txt tulpen.txt", is_error=False)
    yield Returned(At(), "c2", "")
    yield Called(At(turn=2), "c3", "read", {"path": "tulpen.txt", "lines": [1, 2]})
    yield Returned(At(), "c3", "櫻花 blooms in week 14")
    yield Said(At(turn=3, phase="final_answer"), "assistant", "Cherries: 第14週.")
    yield Said(At(origin="environment"), "system", "The clock was changed.")
    yield Said(At(), "user", "And the last frost?", [Media("image", "image/png", b"\x89PNG")])
    yield Thought(At(turn=4), "The almanac may know.")
    yield Called(At(turn=4), "c4", "read", {"path": "almanach.txt"})
    yield Returned(At(), "c4", "ice saints: May 11 to 15")
    yield Thought(At(turn=5), "That settles it.")
    yield Said(At(turn=5), "assistant", "Mid of May, says the rule.")
    yield End()


def spoilt() -> Iterator[Event]:
    """What real logs hold besides: raw arguments, a null in them, a call without result, a turn of weight 0."""
    yield Start("spoilt")
    yield Facts({"trace_id": "spoilt", "completed": False, "reward": 0.5, "usage": {"input_tokens": 7}})
    yield Said(At(), "user", "Patch the fence file.")
    yield Called(At(turn=1), "p1", "patch", "*** Begin Patch: no JSON at all")
    yield Returned(At(), "p1", "patch refused", is_error=True)
    yield Called(At(turn=2), "p2", "read", {"path": "fence.txt", "limit": None})
    yield Said(At(), "user", "Never mind.")
    yield Said(At(turn=3, weight_reason="synthetic", origin="synthetic"), "assistant", "Stopped by hand.")
    yield Said(At(), "user", "Just say goodbye.")
    yield Said(At(turn=4), "assistant", "Goodbye, fence.")


def unanswered() -> Iterator[Event]:
    yield Start("unanswered")
    yield Facts({"trace_id": "unanswered"})
    yield Said(At(), "user", "Is anybody there?")


def example_rows() -> Dataset:
    """Rows of the builder's schema, all columns."""
    rollouts: list[Rollout] = [rollout for events in (session, spoilt, unanswered) for rollout in assemble(events())]
    return Dataset(features.table(rollouts))


def answered(row: Row) -> bool:
    return features.prompt_count(row["messages"]) > 0 and bool(row["final_assistant_message"])


def chat_rows(rows: Dataset, **options: Any) -> Dataset:
    """Two columns, `messages` through `to_chat` and `tools`, as trl documents them."""
    table = [
        {
            "messages": [json.dumps(m, ensure_ascii=False) for m in to_chat(row["messages"], **options)],
            "tools": None if row["tools"] is None else [json.dumps(tool) for tool in row["tools"]],
        }
        for row in exact(rows)
    ]
    return Dataset.from_list(table, features=Features({"messages": List(Json()), "tools": List(Json())}))


# -- templates ------------------------------------------------------------------------------------

# What a template leaves out of the session above whatever it is given; families not listed leave out nothing.
# Reasoning from before the last prompt is no part of it: most originals drop it by design, qwen's twins show it.
NO_REASONING = {"reasoning", "reasoning beside a call"}
NO_TOOLS = {"tool schemas", *NO_REASONING}
LOST = {
    "cohere": NO_TOOLS,
    "cohere2": NO_TOOLS,
    "deepseek_r1_distill": NO_TOOLS,
    "deepseekv3": NO_TOOLS,
    "gemma": NO_TOOLS,
    "gemma3": NO_TOOLS,
    "gemma4": {"reasoning"},
    "gemma4_v2": NO_REASONING,
    "gemma4_v3": {"reasoning"},
    "gemma4_v4": {"reasoning"},
    # Analysis is not shown to the model again once a final answer has come.
    "gptoss": {"reasoning beside a call", "text beside a call"},
    "idefics3": NO_TOOLS,
    "lfm2": NO_REASONING,
    "lfm2_v2": NO_REASONING,
    "llama3": NO_TOOLS,
    "llama3_1": {"text beside a call", *NO_REASONING},
    "llama3_2": {"text beside a call", *NO_REASONING},
    "llava_next": NO_TOOLS,
    "muse_glimmer": {"text beside a call"},
    "phi3": NO_TOOLS,
    "phi3_5": NO_TOOLS,
    "qwen2_5": NO_REASONING,
    "qwen2_5_vl": NO_TOOLS,
    "qwen3_instruct_2507": NO_REASONING,
    "qwen3_vl": NO_REASONING,
    "smolvlm": NO_TOOLS,
}

PIECES = {
    "system": ["You tend a garden plan."],
    "late system": ["The clock was changed."],
    "user": ["Which Blüten open in 春?", "And the last frost?"],
    "answers": ["Cherries: 第14週.", "Mid of May, says the rule."],
    "call arguments": ["ls beete/", "früh.txt", "tulpen.txt", "0.7", "almanach.txt"],
    "results": ["rosen.txt tulpen.txt", "櫻花 blooms in week 14", "ice saints"],
    "tool schemas": ["Runs-a-line", "Reads-a-file"],
    "reasoning": ["That settles it."],
    "reasoning beside a call": ["The almanac may know."],
    "text beside a call": ["I look at both lists."],
}


def render(template: Path, messages: list[Row], tools: list[Row] | None) -> str:
    text: str = render_jinja_template(
        [messages], tools=tools, chat_template=template.read_text(), bos_token="<B>", eos_token="<E>"
    )[0][0]
    return text


def of_family(table: dict[str, Any], template: Path, default: Any) -> Any:
    return table.get(template.stem, table.get(template.stem.removesuffix("_training"), default))


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_templates(template: Path) -> None:
    options = of_family(TEMPLATE_OPTIONS, template, {})
    whole, *others = [(to_chat(row["messages"], **options), row["tools"]) for row in exact(example_rows())]
    text = render(template, *whole)
    lost = {kind for kind, pieces in PIECES.items() if not all(piece in text for piece in pieces)}
    assert lost <= of_family(LOST, template, set())
    spoilt_text, unanswered_text = [render(template, *row) for row in others]
    for piece in ("Patch the fence", "no JSON at all", "fence.txt", "Stopped by hand.", "Goodbye, fence."):
        assert piece in spoilt_text
    assert "Is anybody there?" in unanswered_text


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """What `distill --demo` wrote, as `load_dataset` reads it."""
    folder = tmp_path_factory.mktemp("distilled")
    result = CliRunner().invoke(main, ["distill", "--demo", "--output", str(folder / "demo-dataset")])
    assert result.exit_code == 0, result.output
    return load_dataset(str(folder / "demo-dataset"), split="train", cache_dir=str(folder / "cache"))


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_templates_render_what_distill_wrote(template: Path, distilled: Dataset) -> None:
    options = of_family(TEMPLATE_OPTIONS, template, {})
    beside_a_call = "text beside a call" in of_family(LOST, template, set())
    for row in exact(distilled):
        # As they stand where the template needs no options: they have been through `to_chat` already.
        text = render(template, to_chat(row["messages"], **options) if options else row["messages"], row["tools"])
        for message in row["messages"]:
            if not (message.get("tool_calls") and beside_a_call):
                # gpt-oss and llama write results as JSON strings.
                words = json.dumps(message["content"].strip(), ensure_ascii=False)[1:-1]
                assert words in text or message["content"].strip() in text
            for call in message.get("tool_calls", ()):
                assert call["function"]["name"] in text


def test_every_family_option_names_a_template() -> None:
    known = {path.stem for path in TEMPLATES.glob("*.jinja")}
    assert set(TEMPLATE_OPTIONS) | set(LOST) <= known


# -- training -------------------------------------------------------------------------------------


def small_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level, so that no text is unknown to it, with qwen3's control tokens and its chat template."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=control, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = (TEMPLATES / "qwen3.jinja").read_text()
    return fast


def small_model(vocabulary: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
        )
    )


def train(dataset: Dataset, folder: Path) -> list[str]:
    """One SFTTrainer step over `dataset` (columns `messages`, `tools`, any others); the trained text of each row."""
    tokenizer = small_tokenizer([json.dumps(row["messages"], ensure_ascii=False) for row in dataset])
    model = small_model(len(tokenizer))
    before = model.lm_head.weight.detach().clone()
    config = trl.SFTConfig(
        output_dir=str(folder),
        assistant_only_loss=True,
        max_length=None,  # trl cuts at 1024 tokens otherwise
        max_steps=1,
        per_device_train_batch_size=1,
        learning_rate=0.01,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)
    result = trainer.train()
    assert 0 < result.training_loss < float("inf")
    assert not torch.equal(before, model.lm_head.weight)
    labels = trainer.train_dataset["labels"]
    return [tokenizer.decode([token for token in row if token != -100]) for row in labels]


def hold_trained(dataset: Dataset, folder: Path) -> None:
    """Train on `dataset` and hold the trained text against the rows: all that the model wrote, nothing it read."""
    dataset = exact(dataset)
    trained = train(dataset, folder)
    assert len(trained) == len(dataset)
    for text, row in zip(trained, dataset, strict=True):
        wrote = [message for message in row["messages"] if message["role"] == "assistant"]
        for message in wrote:
            assert message["content"].strip("\n") in text
            for call in message.get("tool_calls", ()):
                assert written_call(call) in text
        targets = "\n".join(json.dumps(message, ensure_ascii=False) for message in wrote)
        for message in row["messages"]:
            words = message["content"].strip()
            # Short words (an answer "ok") are in the model's own text by chance.
            if message["role"] != "assistant" and words and words not in targets:
                assert words not in text


def written_call(call: Row) -> str:
    """A call as qwen3 writes it."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {written}}}\n</tool_call>'


def test_chat_rows_train(tmp_path: Path) -> None:
    hold_trained(chat_rows(example_rows().filter(answered)), tmp_path)


def test_rows_of_the_builder_train_as_they_are(tmp_path: Path) -> None:
    rows = example_rows().filter(answered)
    assert rows["trace_id"][:] == ["garden", "spoilt"]
    assert rows.column_names == list(features.FEATURES)
    hold_trained(rows, tmp_path)


def test_numbers_are_trained_as_they_were_written(tmp_path: Path) -> None:
    trained = train(exact(example_rows().select([0])), tmp_path)
    assert '"weight": 0.7}' in trained[0]


def test_what_distill_wrote_trains(distilled: Dataset, tmp_path: Path) -> None:
    hold_trained(distilled, tmp_path)
