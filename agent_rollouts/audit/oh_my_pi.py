"""Oh My Pi, read plainly."""

from agent_rollouts.audit._pi import raw

__all__ = ["raw"]
