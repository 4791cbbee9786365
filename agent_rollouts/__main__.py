"""`python -m agent_rollouts`: the command line."""

from agent_rollouts.cli import main

main(prog_name="agent-rollouts")
