"""What tests of publishing share: a dataset, what comes back of it, and what a refusal says."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import load_dataset
from huggingface_hub import HfFileSystem

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.hub import publish
from tests.hub_server import READ_TOKEN, TOKEN, HubServer

ID = "user/rollouts"


def names(config: str, split: str, repo_id: str = ID, **options: Any) -> list[str]:
    HfFileSystem.clear_instance_cache()
    return [row["trace_id"][6:] for row in load_dataset(repo_id, config, split=split, **options)]


FORGED = "hf_" + "wrong" * 6


def refused(hub: HubServer, said: str, *args: Any, **options: Any) -> str:
    """What a refused push says: one line, without a token."""
    with pytest.raises(AgentRolloutsError) as caught:
        publish(*args, **options)
    line = str(caught.value)
    assert said in line
    assert "\n" not in line
    assert not any(token in line for token in (TOKEN, READ_TOKEN, FORGED))
    return line
