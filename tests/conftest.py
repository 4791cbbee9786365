"""Shared test tools: goldens beside their inputs (`pytest --regen` rewrites them, and the diff is read)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run, so that it depends on the change alone whether the suite passes; and a machine that
# is busy is no fault. HYPOTHESIS_PROFILE=random looks for others.
_CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _CALM, derandomize=True)
settings.register_profile("random", _CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

FIXTURES = Path(__file__).parent / "fixtures"
pytest_plugins = ["tests.hub_fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="rewrite the golden files")


@pytest.fixture
def regen(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--regen"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder to work in as a user who may not do everything: root reads what nobody else may."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        folder.chmod(0o777)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


def readable(value: Any) -> Any:
    """A row as a golden file shows it: bytes as their length and hash."""
    if isinstance(value, dict):
        return {key: readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [readable(item) for item in value]
    if isinstance(value, bytes):
        return f"<{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:12]}>"
    return value


def hold_golden(path: Path, value: Any, regen: bool) -> None:
    """Compare with the golden file, or write it."""
    if regen:
        path.write_text(json.dumps(readable(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert readable(value) == json.loads(path.read_text(encoding="utf-8"))
