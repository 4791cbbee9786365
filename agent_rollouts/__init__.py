"""Coding-agent logs on disk become Hugging Face datasets.

Importing this package registers its builder, so that `datasets.load_dataset("agent_rollouts", …)` finds it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agent_rollouts.chat import to_chat
from agent_rollouts.errors import AgentRolloutsError, BadFileError, FormatError, SourceError
from agent_rollouts.features import FEATURES
from agent_rollouts.loading import load_rollouts, register

__version__ = "0.1.0"
__all__ = [
    "FEATURES",
    "AgentRolloutsError",
    "BadFileError",
    "FormatError",
    "SourceError",
    "__version__",
    "distill",
    "load_rollouts",
    "publish",
    "revoke",
    "to_chat",
]

register()


def __getattr__(name: str) -> Any:
    # Distilling needs more than reading does; who only reads need not wait for it.
    if name == "distill":
        return import_module("agent_rollouts.distill")
    if name in ("publish", "revoke"):
        return getattr(import_module("agent_rollouts.hub"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
