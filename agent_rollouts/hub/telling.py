"""What the card of a dataset on the Hub tells, made anew from its files: the account of all runs, and the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
import yaml

from agent_rollouts import card
from agent_rollouts.distill.card import SINCE, section
from agent_rollouts.distill.funnel import Funnel
from agent_rollouts.distill.options import Options
from agent_rollouts.errors import AgentRolloutsError

REPLACED, REVOKED = "rows that a longer version has replaced since", "rows that were revoked since"


def account(data: bytes) -> Funnel | None:
    """The funnel in `funnel.json`; None where it is not of this version."""
    try:
        return Funnel.from_json(orjson.loads(data))
    except (ValueError, KeyError, TypeError):
        return None


def dumped(funnel: Funnel) -> bytes:
    """A funnel as `funnel.json` has it."""
    return orjson.dumps(funnel.to_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def together(old: bytes | None, new: bytes | None, gone: Mapping[str, int]) -> bytes | None:
    """`funnel.json` for runs that followed each other, and rows that have gone since they were counted."""
    funnels = [funnel for data in (old, new) if data is not None and (funnel := account(data))]
    if not funnels:
        return new or old
    whole = funnels[0] if len(funnels) == 1 else funnels[0].followed_by(funnels[1])
    if any(gone.values()):
        whole.count(SINCE, gone)
    return dumped(whole)


def retold(
    text: str, configs: Sequence[str], funnel: bytes | None, options: bytes | None, place: str, name: str | None
) -> str:
    """The card with its section for these configs written anew; as it was where a file is missing or not ours.

    Args:
        text: the card, whose `dataset_info` has the numbers of records.
        funnel, options: `funnel.json` and `options.yaml`.
        place: what `load_dataset` is given.
        name: what the only config is called, if not as its shape.
    """
    known = account(funnel) if funnel is not None else None
    if known is None or not known.runs or options is None:
        return text
    try:
        made = Options.of(yaml.safe_load(options))
    except (AgentRolloutsError, yaml.YAMLError, TypeError):
        return text
    records = card.records(text, configs if name is None else [name])
    if name is not None:
        records = {made.shape[0]: records[name]}
    return card.with_section(text, section(records, known, made, place, name), configs)
