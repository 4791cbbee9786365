"""Records train: through chat templates that ship with trl, with its trainers, and with a corpus where there is one.

As in `test_training.py`: nothing is downloaded, and the tests are skipped where the extra `train` is not installed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from datasets import Dataset

from agent_rollouts.chat import exact, to_chat
from agent_rollouts.distill.evidence import evidence
from agent_rollouts.distill.labels import IGNORED, tokenize
from agent_rollouts.distill.shapes import SHAPES, ShapeOptions, Tally, preference
from agent_rollouts.distill.splits import identify
from agent_rollouts.distill.weights import weigh
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import row as row_of
from agent_rollouts.formats import read
from agent_rollouts.source import Source
from tests.conftest import FIXTURES

trl = pytest.importorskip("trl")
torch = pytest.importorskip("torch")

from tests.test_labels import TEMPLATES, labelled, options_of, tokenizer  # noqa: E402  # part of the extra
from tests.test_shapes import CORRECTED, tried  # noqa: E402
from tests.test_training import render, small_model  # noqa: E402
from tests.tool_rows import row, said  # noqa: E402

Record = dict[str, Any]
pytestmark = pytest.mark.filterwarnings(
    # trl 1.16 uses names that transformers 5.23 calls deprecated.
    "ignore:`\\w*gradient_checkpointing\\w*` is deprecated:FutureWarning",
)

FAMILIES = ["qwen3", "qwen2_5", "qwen3_5_think", "glm4moe", "gptoss", "llama3_1", "deepseekv3", "nemotron_3_nano"]
DEMO = Path(__file__).parent.parent / "agent_rollouts" / "demo"
CORPUS = Path("/work/shared/corpus")


def rows_of(folder: Path, *, largest: int = 1 << 20) -> Iterator[Record]:
    """Judged rows of all files in a folder that one decoder claims."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or "expected" in path.name or path.stat().st_size > largest:
            continue
        try:
            rollouts = list(read(Source(str(path))))
        except ValueError:
            continue
        for rollout in rollouts:
            if rollout:
                yield identify(weigh(evidence(row_of(rollout))))


@functools.cache
def examples() -> list[Record]:
    """Rows of the demo, and of every fixture that shows one of everything."""
    cases = sorted(path for path in FIXTURES.glob("*/basic") if path.is_dir())
    return [*rows_of(DEMO), *(found for case in cases for found in rows_of(case))]


def records(name: str, rows: Any, **options: Any) -> Iterator[Record]:
    shape, tally = SHAPES[name], Tally()
    for given in rows:
        yield from shape.records(given, ShapeOptions(**options), tally)
    assert tally.rows == len(rows)


def hold_labels(given: Record, name: str) -> None:
    """A record of `messages` through a chat template: labels train the weighted turns, and no others."""
    found = tokenize(given["messages"], given["tools"], tokenizer(name), **options_of(name))
    text = "\n".join(labelled(found, name))
    chat = to_chat(given["messages"], **options_of(name))
    targets = [m for m in chat if m["role"] == "assistant" and m.get("weight") != 0]
    wrote = json.dumps(targets, ensure_ascii=False)
    for message in chat:
        words = message["content"].strip()
        if message in targets:
            # llama3.1 shows no text beside calls.
            assert "tool_calls" in message or words in text
            assert all(call["function"]["name"] in text for call in message.get("tool_calls", ()))
        elif len(words) > 3 and json.dumps(words, ensure_ascii=False)[1:-1] not in wrote:
            assert words not in text


def hold_rows(rows: list[Record], name: str) -> int:
    """Every record of `messages` through a template; how many of them hide their turns from labels."""
    refused = 0
    for text in records("messages", rows):
        given = {key: text[key] and [orjson.loads(one) for one in text[key]] for key in ("messages", "tools")}
        if not options_of(name):
            assert render(TEMPLATES / f"{name}.jinja", given["messages"], given["tools"])
        try:
            hold_labels(given, name)
        except AgentRolloutsError:
            # A tag in the words is taken for the end of a thought, and what is before it is moved or lost.
            assert any("</think>" in message["content"] for message in given["messages"])
            refused += 1
    return refused


@pytest.mark.parametrize("name", FAMILIES)
def test_messages_of_every_fixture_train_their_weighted_turns(name: str) -> None:
    assert len(examples()) > 20
    assert hold_rows(examples(), name) <= 1


@pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus")
@pytest.mark.parametrize("name", FAMILIES)
def test_messages_of_a_corpus_train_their_weighted_turns(name: str) -> None:
    """A row of each folder; `python -m tests.test_shapes_training` takes all of them."""
    rows = [
        found
        for folder in sorted(CORPUS.iterdir())
        if folder.is_dir()
        for found in islice(rows_of(folder, largest=1 << 18), 1)
    ]
    assert hold_rows(rows, name) <= len(rows) // 2


@functools.cache
def saved(folder: Path) -> str:
    tokenizer("qwen3").save_pretrained(folder)
    return str(folder)


CONFIG = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


def dataset(name: str, found: list[Record]) -> Dataset:
    return exact(Dataset.from_list(found, features=SHAPES[name].features))


@pytest.mark.parametrize("packing", [False, True])
def test_tokens_train_as_they_are(packing: bool, tmp_path: Path) -> None:
    found = list(records("tokenized", examples()[:4], tokenizer=saved(tmp_path)))
    config = trl.SFTConfig(str(tmp_path), max_length=16384 if packing else None, packing=packing, **CONFIG)
    trainer = trl.SFTTrainer(
        small_model(len(tokenizer("qwen3"))),
        config,
        train_dataset=dataset("tokenized", found),
        processing_class=tokenizer("qwen3"),
    )
    labels = next(iter(trainer.get_train_dataloader()))["labels"]
    trained = sorted(labels[labels != IGNORED].tolist())
    assert trained == sorted(label for record in found for label in record["labels"] if label != IGNORED)
    assert len(trained) == sum(record["trained_tokens"] for record in found)
    assert 0 < trainer.train().training_loss < float("inf")


def test_tokens_that_are_refused_are_counted(tmp_path: Path) -> None:
    options, tally = ShapeOptions(tokenizer=saved(tmp_path)), Tally()
    untrained = row({"role": "user", "content": "x"}, said("y", weight=0, weight_reason="loop"))
    hidden = row({"role": "user", "content": "x"}, said("a <think>y</think> b"))
    assert [list(SHAPES["tokenized"].records(one, options, tally)) for one in (untrained, hidden)] == [[], []]
    assert tally.without == {
        "no answer to train on": 1,
        "the chat template refuses it, or hides where its turns begin and end": 1,
    }


def test_prompts_and_completions_train_the_completion(tmp_path: Path) -> None:
    found = dataset("prompt_completion", list(records("prompt_completion", examples()[:3], completion="every")))
    config = trl.SFTConfig(str(tmp_path), max_length=None, **CONFIG)
    trainer = trl.SFTTrainer(
        small_model(len(tokenizer("qwen3"))), config, train_dataset=found, processing_class=tokenizer("qwen3")
    )
    for trained, record in zip(trainer.train_dataset, found, strict=True):
        (completion,) = record["completion"]
        mask = trained.get("completion_mask")
        kept = [n for n, m in zip(trained["input_ids"], mask, strict=True) if m] if mask else trained["labels"]
        text = tokenizer("qwen3").decode([token for token in kept if token != IGNORED])
        assert completion["content"].strip() in text
        assert all(call["function"]["name"] in text for call in completion.get("tool_calls", ()))
        assert "<|im_start|>user" not in text
    assert 0 < trainer.train().training_loss < float("inf")


def test_dpo_scores_all_of_both_ways(tmp_path: Path) -> None:
    """TRL knows no roles there: results of tools are scored like the model's words."""
    corrected = weigh(evidence(row(*CORRECTED[:-1])))
    two = [preference.candidate(tried(one, one), ShapeOptions()) for one in ("success", "failure")]
    found = [*records("preference", [corrected]), preference.pair(*two)]  # type: ignore[arg-type]
    config = trl.DPOConfig(str(tmp_path), max_length=None, **CONFIG)
    trainer = trl.DPOTrainer(
        small_model(len(tokenizer("qwen3"))),
        ref_model=small_model(len(tokenizer("qwen3"))),
        args=config,
        train_dataset=dataset("preference", found),
        processing_class=tokenizer("qwen3"),
    )
    first = trainer.train_dataset[0]
    chosen, rejected = (tokenizer("qwen3").decode(first[f"{way}_ids"]) for way in ("chosen", "rejected"))
    assert "1 passed in 0.1s" in chosen
    assert "Now it is right." in chosen
    assert "Mended." in rejected
    assert "still off" not in chosen + rejected
    assert 0 < trainer.train().training_loss < float("inf")


if __name__ == "__main__":
    for folder in sorted(path for path in CORPUS.iterdir() if path.is_dir()):
        rows = list(rows_of(folder))
        print(folder.name, len(rows), {name: hold_rows(rows, name) for name in FAMILIES}, flush=True)
