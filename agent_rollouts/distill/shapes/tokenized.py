"""Token ids with labels on exactly the turns that may be trained on (`labels`), for one tokenizer.

TRL's SFTTrainer and others take such records as they are, packed or not. It is the way to keep weights with trainers
that know none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from datasets import Features, List, Value

from agent_rollouts.distill.shapes.shape import Record, Row, Shape, ShapeOptions, Tally, chat, chat_options
from agent_rollouts.errors import AgentRolloutsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _loaded(name: str) -> tuple[PreTrainedTokenizerBase, str]:
    """The tokenizer with its training template, loaded once in each process."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise AgentRolloutsError("the shape tokenized needs transformers: pip install transformers") from error
    from agent_rollouts.distill.labels import training_template

    tokenizer = AutoTokenizer.from_pretrained(name)
    return tokenizer, training_template(tokenizer)


def _tokenized(row: Row, options: ShapeOptions, tally: Tally) -> Iterator[Record]:
    assert options.tokenizer is not None, "see check"
    tokenizer, template = _loaded(options.tokenizer)
    from agent_rollouts.distill.labels import IGNORED, tokenize

    if chat(row, tally, **chat_options(options)) is None:
        return
    try:
        found = tokenize(row["messages"], row.get("tools"), tokenizer, chat_template=template, **chat_options(options))
    except AgentRolloutsError as error:
        logger.warning("%s is not tokenized: %s", row.get("trace_id"), error)
        tally.without["the chat template refuses it, or hides where its turns begin and end"] += 1
        return
    if all(label == IGNORED for label in found["labels"]):
        tally.without["no answer to train on"] += 1
        return
    yield {**found, "trained_tokens": sum(label != IGNORED for label in found["labels"])}


TOKENIZED = Shape(
    about="token ids with labels on the turns to train on alone, for one tokenizer",
    columns=Features(
        {
            "input_ids": List(Value("int32")),
            "attention_mask": List(Value("int8")),
            "labels": List(Value("int32")),
            "trained_tokens": Value("int64"),
        }
    ),
    make=_tokenized,
)
