"""A session against `transformers serve`, with the tiny random model of `test_transformers_serve`."""

from __future__ import annotations

from pathlib import Path

from agent_rollouts import load_rollouts
from agent_rollouts.generate.config import Config, changed
from agent_rollouts.generate.runner import generate
from tests.test_transformers_serve import served

__all__ = ["served"]  # a fixture


def test_a_session_is_recorded(served: tuple[str, str], tmp_path: Path) -> None:  # the fixture
    url, model = served
    (tmp_path / "p.txt").write_text("Write a file.\nRead it.\n")
    values = {
        "api.model": model,
        "api.base_url": url,
        "api.api_key_env": None,
        "api.max_tokens": 12,
        "prompts.source": str(tmp_path / "p.txt"),
        "output.folder": str(tmp_path / "out"),
    }
    config = changed(Config(), values)
    summary = generate(config, unsandboxed=True)
    assert (sum(summary.ends.values()), summary.meter.requests) == (2, 2)
    assert summary.ends.keys() <= {"answered", "length"}
    rows = load_rollouts("agentic_datagen", str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["usage"]["output_tokens"] <= 12
    assert generate(config, unsandboxed=True).meter.requests == 0
