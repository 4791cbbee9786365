"""Generating: an agent works on prompts with tools, and every session is recorded whole.

    config ─▶ prompts ─▶ runner ─┬─ workspace + sandbox ─ tools ─▶ agent ─▶ record ─▶ sessions.jsonl
                                 └─ … N at once

The recorded files are of the format `agentic_datagen`: `load_rollouts("agentic_datagen", OUTPUT)` reads them.
"""
