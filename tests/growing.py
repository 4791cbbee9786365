"""Sessions on disk for tests of datasets that grow on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from click.testing import CliRunner

from agent_rollouts.cli import main
from tests.published import ID


def session(folder: Path, name: str, turns: int = 1, *, mail: str = "") -> Path:
    """A session of its own in a file, with as many prompts and answers."""
    records: list[dict[str, Any]] = [{"type": "session", "harness": "garden", "id": f"trace-{name}"}]
    for turn in range(turns):
        words = " ".join(f"{name}{turn}x{number}" for number in range(30))
        records.append({"type": "message", "message": {"role": "user", "content": f"Do {name} {turn}. {mail}"}})
        records.append({"type": "message", "message": {"role": "assistant", "content": f"Done {words}"}})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def distill(*words: str | Path, said: str | None = None, repo_id: str = ID) -> str:
    """What the command prints; with `said`, it fails and says so in one line."""
    result = CliRunner().invoke(main, ["distill", *map(str, words), "--push-to-hub", repo_id])
    if said is not None:
        assert result.exit_code == 1, result.output
        assert said in result.output
        assert "Traceback" not in result.output
    else:
        assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def run(words: Sequence[str | Path]) -> str:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output
