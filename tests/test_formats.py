"""Every format on its fixtures: `fixtures/<format>/<case>/input*` against `expected*.json`.

`input` may be a folder. `expected.json` shows what `read` gives with its defaults;
`expected.segments.json`, `expected.context.json` and `expected.branches.json` the same file otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_rollouts.configs import file_rules
from agent_rollouts.errors import FormatError
from agent_rollouts.features import check_message, row
from agent_rollouts.formats import DECODERS, detect, read
from agent_rollouts.source import Source, find, open_sources
from tests.conftest import FIXTURES, hold_golden

CASES = sorted(path for path in FIXTURES.glob("*/*") if path.parent.name in DECODERS and path.is_dir())
GOLDENS = sorted(
    {case / "expected.json" for case in CASES} | {g for case in CASES for g in case.glob("expected.*.json")}
)
OPTIONS: dict[str, dict[str, str]] = {
    "expected.json": {},
    "expected.segments.json": {"history": "segments"},
    "expected.context.json": {"history": "context"},
    "expected.branches.json": {"branches": "all"},
}


def rows_of(case: Path, **options: str) -> list[dict[str, Any]]:
    """All rows of a case, internal ones too, with paths relative to it; empty rollouts show what was skipped."""
    rows = []
    name = case.parent.name
    for path in find(sorted(case.glob("input*")), ignored=file_rules(name)["ignored"]):
        for source in open_sources(path):
            for rollout in read(source, name, **options):
                found = row(rollout)
                found["source_path"] = Path(source.path).relative_to(case).as_posix()
                # Columns without a value say nothing in a golden file.
                shown = {key: value for key, value in found.items() if value not in (None, [], {}, False)}
                rows.append(shown | ({"internal": rollout.internal} if rollout.internal else {}))
    return rows


@pytest.mark.parametrize(
    "golden", GOLDENS, ids=lambda path: f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
)
def test_golden(golden: Path, regen: bool) -> None:
    rows = rows_of(golden.parent, **OPTIONS[golden.name])
    hold_golden(golden, rows, regen)
    for found in rows:
        for message in found.get("messages", ()):
            check_message(message)


@pytest.mark.parametrize("name", DECODERS)
def test_has_basic_and_messy_fixtures(name: str) -> None:
    assert {"basic", "messy"} <= {case.name for case in CASES if case.parent.name == name}


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_file_goes_to_one_decoder(case: Path) -> None:
    name = case.parent.name
    paths = find(sorted(case.glob("input*")), ignored=file_rules(name)["ignored"])
    assert {detect(source) for path in paths for source in open_sources(path)} == {name}


def test_two_decoders_that_claim_one_file_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DECODERS["sts"], "claims", lambda head: True)
    source = Source("a.jsonl", b'{"type":"session_meta","payload":{"id":"t"}}\n')
    with pytest.raises(FormatError, match=r"a\.jsonl is claimed by codex and sts; name the format"):
        detect(source)
    assert [rollout.source_kind for rollout in read(source, "codex")] == ["codex"]
