"""Shapes: rows as the records that trainers read.

    tally = Tally()
    for record in SHAPES["messages"].records(row, ShapeOptions(), tally): ...

A row gives one record or several, or none and a reason, so that `tally.rows` is the rows with records and
`tally.without.total()`. What a format cannot hold is counted in `tally.lost`. Every record names the rollout that it
comes from (`LINEAGE`), and each shape says of every turn whether it may be trained on.
"""

from __future__ import annotations

from agent_rollouts.distill.shapes.hermes import HERMES
from agent_rollouts.distill.shapes.messages import MESSAGES, PROMPT_COMPLETION
from agent_rollouts.distill.shapes.openai import OPENAI
from agent_rollouts.distill.shapes.preference import PREFERENCE
from agent_rollouts.distill.shapes.review import SAMPLED_TURN, TOOL_INTERACTIONS
from agent_rollouts.distill.shapes.shape import LINEAGE, Shape, ShapeOptions, Tally, check
from agent_rollouts.distill.shapes.sharegpt import SHAREGPT
from agent_rollouts.distill.shapes.tokenized import TOKENIZED
from agent_rollouts.errors import AgentRolloutsError

__all__ = ["LINEAGE", "SHAPES", "Shape", "ShapeOptions", "Tally", "chosen"]

SHAPES: dict[str, Shape] = {
    "messages": MESSAGES,
    "prompt_completion": PROMPT_COMPLETION,
    "sharegpt": SHAREGPT,
    "hermes": HERMES,
    "openai": OPENAI,
    "tool_interactions": TOOL_INTERACTIONS,
    "sampled_turn": SAMPLED_TURN,
    "preference": PREFERENCE,
    "tokenized": TOKENIZED,
}
"""All shapes by name."""


def chosen(options: ShapeOptions) -> dict[str, Shape]:
    """The shapes that are asked for, by name, in order.

    Raises:
        AgentRolloutsError: one is unknown, or another option has a value that no shape knows.
    """
    check(options)
    for name in options.shape:
        if name not in SHAPES:
            raise AgentRolloutsError(f"unknown shape {name!r}; known: {', '.join(SHAPES)}")
    return {name: SHAPES[name] for name in options.shape}
