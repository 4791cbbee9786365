"""Fixtures that point the real clients of the Hub to a server of the test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from huggingface_hub import HfFileSystem, constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from tests.finished import ROWS, finished
from tests.hub_server import TOKEN, HubServer


def pytest_configure(config: pytest.Config) -> None:
    # huggingface_hub 2.4 uploads files in a way that httpx2 calls deprecated.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=:DeprecationWarning")


def environment(hub: HubServer, home: Path) -> dict[str, str]:
    """What a process of its own needs to be told to use the server."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }


def _point(hub: HubServer, home: Path, patch: pytest.MonkeyPatch) -> None:
    for name, value in environment(hub, home).items():
        patch.setenv(name, value)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    patch.setattr(datasets.config, "HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "datasets"))
    patch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of its own; clients that wait before they try again wait a thousandth of the time."""
    server = HubServer()
    home = tmp_path / "hf_home"
    sleep = time.sleep
    with monkeypatch.context() as patch:
        _point(server, home, patch)
        patch.setattr(time, "sleep", lambda seconds: sleep(seconds / 1000))
        HfFileSystem.clear_instance_cache()
        datasets.disable_progress_bars()
        disable_progress_bars()
        yield server
    server.stop()
    huggingface_hub.close_session()
    HfFileSystem.clear_instance_cache()
    datasets.enable_progress_bars()
    enable_progress_bars()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished dataset with two configs and two splits."""
    return finished(tmp_path / "out", ROWS)


@pytest.fixture
def xet(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hub keeps what is uploaded by Xet."""
    hub.xet = tmp_path / "xet"
    hub.xet.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "cache"))
    return hub.xet
