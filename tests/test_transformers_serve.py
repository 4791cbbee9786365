"""Recipes on `transformers serve` with a tiny model of random weights: its answers mean nothing, the protocol holds.

Needs torch, transformers, and transformers' extra `serving` (fastapi, uvicorn, openai).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

for _name in ("torch", "transformers", "fastapi", "uvicorn", "openai"):
    pytest.importorskip(_name)

from agent_rollouts.distill.recipe import RecipeOptions, Report, run  # noqa: E402  # after what it needs
from agent_rollouts.llm import Endpoint  # noqa: E402
from tests.test_recipe import rollout  # noqa: E402

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _make_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(fast), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=32768, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and model of a server."""
    folder = tmp_path_factory.mktemp("tiny")
    _make_model(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    log = (folder / "log.txt").open("wb")
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    try:
        _wait(server, port, folder / "log.txt")
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("stream", [False, True])
def test_it_answers(served: tuple[str, str], stream: bool) -> None:
    url, model = served
    endpoint = Endpoint(model, base_url=url, api_key_env=None, stream=stream)
    got = endpoint.complete([{"role": "user", "content": "Hello"}], max_tokens=12, temperature=1.0)
    assert got.message["role"] == "assistant"
    assert got.finish_reason in ("stop", "length")
    # `stream_options` is among the fields that it ignores (UNUSED_CHAT_COMPLETION_FIELDS): usage may be missing.
    assert stream or 0 < got.usage.output_tokens <= 12
    assert stream or got.usage.input_tokens > 5


def test_a_recipe_runs_and_resumes(served: tuple[str, str], tmp_path: Path) -> None:
    url, model = served
    options = RecipeOptions(
        model=model,
        base_url=url,
        answers_file=str(tmp_path / "answers.sqlite"),
        parameter=("max_tokens=12", "temperature=1.0"),
        digest_tokens=400,
        concurrency=2,
    )
    rows = [rollout(number) for number in range(2)]
    first, again = Report(), Report()
    found = list(run(rows, "sft", options, report=first))
    assert first.meter.requests == 6
    assert all(each["recipe_errors"]["trace_digest"].startswith("no valid answer: ") for each in found)
    assert list(run(rows, "sft", options, report=again)) == found
    assert (again.meter.requests, again.meter.cached) == (0, 6)
    turns = [{"sampled_turn": rows[0]["messages"][0], "redaction_policy": "test"}]
    (summed,) = run(turns, "sampled_turn", options)
    assert summed["turn_summary"] is None or summed["turn_summary"].strip()
