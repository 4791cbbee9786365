"""The funnel adds up: what is read is in the rows or among what was removed, and a count of one's own agrees."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.distill import Funnel, Options
from agent_rollouts.distill.funnel import REWRITTEN, Size, size
from agent_rollouts.distill.inputs import Given
from agent_rollouts.distill.windows import NO_ROOM, NOTHING_TO_TRAIN, TOO_LARGE
from agent_rollouts.distill.work import SHORTENED
from agent_rollouts.distill.write import write_dataset
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import FEATURES
from tests.family_trees import forest

Row = dict[str, Any]

# Put together here, so that scanners stay quiet.
TOKEN = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0hL3nR6"
PASSWORD = "tr0ub4" + "dor&3x"
PERSON = "rosalinda"
EMAIL = f"{PERSON}@" + "greenhouse.com"
SECRETS = [TOKEN, PASSWORD, PERSON, EMAIL]
URL = f"postgres://gardener:{PASSWORD}@db.greenhouse.com/beds"

EMPTY = "no messages"


@pytest.fixture(autouse=True, scope="module")
def _without_progress_bars() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


# -- invented rows ----------------------------------------------------------------------------------


def rows_of(seed: int) -> list[Row]:
    """Families of sessions that were copied, resumed, forked and delegated, and rows with something wrong."""
    chance = random.Random(seed)
    found = [*_families(chance), *(_alone(number, chance) for number in range(chance.randint(0, 5)))]
    chance.shuffle(found)
    return found


def _families(chance: random.Random) -> list[Row]:
    texts = ["", f"\nexport TOKEN={TOKEN}\n", "\n".join(f"bed {n}: {URL}" for n in range(chance.randint(1, 12)))]
    rows = []
    for first, text in enumerate(texts):
        number = chance.randint(0, 2)
        rows += forest(chance.getrandbits(30), number, copies=3, first=10 * first, text=text, exchanges=4).rows
    return [_row(chance, **row | {"source_path": f"/home/{PERSON}/{row['source_path']}"}) for row in rows]


def _alone(number: int, chance: random.Random) -> Row:
    """A session of its own, some of which are no training data."""
    kind = chance.choice(
        ["no messages", "no prompt", "command", "no answer", "failed", "looped", "superseded", "whole"]
    )
    messages: list[Row] = [{"role": "user", "content": f"Mail {EMAIL} about bed {number}."}]
    for turn in range(chance.randint(3, 9)):
        failed = kind == "failed" and turn == 1
        path = "same" if kind == "looped" else f"/home/{PERSON}/bed-{turn}"
        call = {"id": f"c{turn}", "type": "function", "function": {"name": "read", "arguments": {"path": path}}}
        said = {"role": "assistant", "content": f"alone {number}, turn {turn}", "tool_calls": [call]}
        if kind == "superseded" and turn == 1:
            said |= {"weight": 0, "weight_reason": "superseded"}
        elif turn % 2:
            said["reasoning_content"] = f"The url is {URL}, ünd {turn}."
        result = "nothing" if kind == "looped" else f"bed {turn} " + "tulips\n" * chance.randint(0, 300)
        answer = {"role": "tool", "tool_call_id": f"c{turn}", "name": "read", "content": result}
        messages += [said, answer | ({"is_error": True} if failed else {})]
    messages.append({"role": "assistant", "content": f"alone {number}, done"})
    turns = [message["content"] for message in messages if "tool_calls" in message]
    unwanted = {"failed": turns[1:2], "looped": turns[2:]}.get(kind, [])
    if kind == "no messages":
        messages = []
    elif kind == "no answer":
        messages = messages[:1]
    elif kind in ("no prompt", "command"):
        messages[0]["origin"] = "command" if kind == "command" else "environment"
    return _row(
        chance,
        trace_id=f"alone-{number}",
        messages=messages,
        source_path=f"/home/{PERSON}/{number}.jsonl",
        source_meta={"unwanted": unwanted},
    )


def _row(chance: random.Random, **columns: Any) -> Row:
    folder = f"/home/{PERSON}/garden-{chance.randint(0, 5)}"
    tool = {"type": "function", "function": {"name": "read", "parameters": {"type": "object", "properties": {}}}}
    given = {
        "source_kind": "codex", "model": chance.choice(["claude-invented-1", "gpt-invented-1", None]), "cwd": folder,
        "project_path": folder, "tools": chance.choice([None, [], [tool]]), "media": [], "skipped": {},
        "source_meta": {}, "is_sidechain": False,
    }  # fmt: skip
    return {**dict.fromkeys(FEATURES), **given, **columns}


@st.composite
def options(draw: st.DrawFn) -> Options:
    def maybe(name: str, *values: Any) -> dict[str, Any]:
        value = draw(st.sampled_from([None, None, *values]))
        return {} if value is None else {name: value}

    shapes = draw(
        st.lists(
            st.sampled_from(["openai", "hermes", "sharegpt", "prompt_completion", "tool_interactions", "preference"]),
            max_size=2,
            unique=True,
        )
    )
    partition = draw(st.sampled_from([{}, {}, {"partition_index": 0, "num_partitions": 2}]))
    return Options(
        shape=("messages", *shapes),
        **partition,
        **maybe("max_tokens", 150, 400, 1500),
        **maybe("limit", 1, 4),
        **maybe("shuffle", True),
        **maybe("seed", 3),
        **maybe("splits", "train=0.5,test=0.5", "a=0.8,b=0.1,c=0.1"),
        **maybe("families", False),
        **maybe("redact", False),
        **maybe("weights", False),
        **maybe("evidence", False),
        **maybe("sidechains", False),
        **maybe("agent_model", ("claude-*",), ("!claude-*",)),
        **maybe("min_messages", 5),
        **maybe("max_prompts", 2),
        **maybe("overlap_steps", 0),
    )


# -- counts of one's own ----------------------------------------------------------------------------


def measured(rows: list[Row]) -> Size:
    return Size(len(rows), sum(len(row["messages"]) for row in rows), sum(map(said, rows)))


def said(row: Row) -> int:
    total = 0
    for message in row["messages"]:
        texts = [message["content"], message.get("reasoning_content", "")]
        for call in message.get("tool_calls", ()):
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False, separators=(",", ":"))
            texts += [call["function"]["name"], arguments]
        total += sum(len(text.encode()) for text in texts)
    return total


def estimate(row: Row) -> int:
    words = [json.dumps(row["tools"], separators=(",", ":"))] if row["tools"] else []
    total = sum(-(-len(text.encode()) // 4) for text in words)
    for message in row["messages"]:
        calls = message.get("tool_calls", ())
        functions = [call["function"] for call in calls]
        texts = [message.get("reasoning_content", ""), message["content"]]
        for one in functions:
            texts += [one["name"], json.dumps(one["arguments"], ensure_ascii=False, separators=(",", ":"))]
        text = "\n".join(filter(None, texts))
        total += -(-len(text.encode()) // 4) + 10 + 14 * len(calls)
    return total


def name_of(row: Row) -> tuple[str, str]:
    return row["source_path"], row["trace_id"]


def answers(row: Row) -> list[Row]:
    return [message for message in row["messages"] if message["role"] == "assistant"]


def is_target(message: Row) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def which(message: Row) -> tuple[str, str]:
    """What tells a message from the others of its row."""
    return message["role"], message.get("tool_call_id") or message["content"]


class Made:
    """A dataset that was written, read without our own code."""

    def __init__(self, folder: Path) -> None:
        self.records = {
            shape.name: {path.name.split("-")[0]: pq.read_table(path).to_pylist() for path in shape.glob("*.parquet")}
            for shape in folder.iterdir()
            if shape.is_dir()
        }
        self.lines = {
            path.parent.name + path.stem: len(path.read_text().splitlines()) for path in folder.glob("*/*.jsonl")
        }
        self.split_of: dict[tuple[str, str], str] = {}
        self.rows: list[Row] = []
        for split, rows in self.records["messages"].items():
            for row in rows:
                tools = [orjson.loads(text) for text in row["tools"]] if row["tools"] is not None else None
                row |= {"messages": [orjson.loads(text) for text in row["messages"]], "tools": tools, "split": split}
                self.rows.append(row)
        self.text = json.dumps(self.records, ensure_ascii=False) + "".join(
            path.read_text(encoding="utf-8")
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".parquet"
        )
        self.funnel = orjson.loads((folder / "funnel.json").read_bytes())


# -- the law ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), options(), st.integers(1, 3))
def test_nothing_is_lost(seed: int, asked: Options, parts: int) -> None:
    rows = rows_of(seed)
    takes = [partial(iter, rows[part::parts]) for part in range(parts)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            funnel = write_dataset(Given(takes), asked, Path(folder) / "d", command="c").funnel
        except AgentRolloutsError as error:
            if not str(error).startswith(f"no row to write: 0 file(s), {len(rows)} rollout(s)"):
                raise
            assert not list(Path(folder).iterdir())
            return
        made = Made(Path(folder) / "d")
    funnel.check()
    hold_counts(rows, made, funnel, asked)
    hold_turns([row for row in rows if row["messages"]], made, funnel, asked)
    if asked.redact:
        assert [secret for secret in SECRETS if secret in made.text] == []
    if asked.max_tokens:
        assert all(row["token_count"] == estimate(row) <= asked.max_tokens for row in made.rows)
    families = defaultdict(set)
    for row in made.rows:
        families[row["family_id"]].add(row["split"])
    assert not asked.families or all(len(splits) == 1 for splits in families.values())


def hold_counts(rows: list[Row], made: Made, funnel: Funnel, asked: Options) -> None:
    """Rows, messages and bytes of the input and of the output are those of the funnel."""
    assert funnel.read == measured(rows)
    rollouts = {(row["source_path"], row["trace_id"]) for row in made.rows}
    shown = {(*name_of(row), *which(message)) for row in made.rows for message in row["messages"]}
    assert (funnel.kept.rows, funnel.kept.messages) == (len(rollouts), len(shown))
    assert len(rows) == len(rollouts) + sum(funnel.removed.values())
    assert len(rollouts) <= (asked.limit or len(rows))
    removed = [what for stage in funnel.stages.values() for what in stage.removed.items()]
    assert funnel.read.messages == len(shown) + sum(what.messages for _, what in removed)
    if not asked.redact and not asked.max_tokens:
        assert funnel.kept.text_bytes == sum(map(said, made.rows))
        assert REWRITTEN not in dict(removed)
    counts = funnel.counts
    assert counts["rows"]["rows"] == len(made.rows)
    assert counts["rows"]["tokens"] == sum(row["token_count"] for row in made.rows)
    assert counts["rows"]["answers to train on"] == sum(
        map(is_target, (m for row in made.rows for m in row["messages"]))
    )
    unweighted = Counter(m["weight"] for row in made.rows for m in answers(row) if "weight" in m)
    assert counts["weights"].total() == unweighted[0]
    for shape in asked.shape:
        stage = funnel.stages[f"shape: {shape}"]
        assert stage.came.rows == len(made.rows)
        written = {split: len(records) for split, records in made.records.get(shape, {}).items()}
        assert counts.get(f"records: {shape}", Counter()) == written
        if shape in ("openai", "hermes"):
            assert {shape + split: count for split, count in written.items()} == {
                name: count for name, count in made.lines.items() if name.startswith(shape)
            }
    told = [(stage["stage"], Size(**stage["came"]), Size(**stage["went"])) for stage in made.funnel["stages"]]
    assert told == [(name, stage.came, stage.went) for name, stage in funnel.stages.items()]


def hold_turns(rows: list[Row], made: Made, funnel: Funnel, asked: Options) -> None:
    """Every turn that is worth it is trained on in one row, unless what held it was removed or weighed down."""
    trained = Counter(m["content"] for row in made.rows for m in answers(row) if is_target(m))
    holders: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for message in filter(is_target, row["messages"]):
            holders[message["content"]].append(row)
    assert set(trained) <= set(holders)
    most = {turn: 1 if asked.families else len(held) for turn, held in holders.items()}
    assert [turn for turn, times in trained.items() if times > most[turn]] == []
    unwanted = {turn for row in rows for turn in row["source_meta"].get("unwanted", ())} if asked.weights else set()
    assert not unwanted & set(trained)
    copies = {trace_id for _, trace_id in funnel.copies}
    removed = {row["trace_id"] for row in rows} - {row["trace_id"] for row in made.rows} - copies
    by_windows = sum(
        what.messages for why, what in funnel.stages["windows"].removed.items() if why in (TOO_LARGE, NO_ROOM)
    ) if asked.max_tokens else 0  # fmt: skip
    missing = set(holders) - set(trained) - unwanted
    unexplained = {turn for turn in missing if not any(row["trace_id"] in removed for row in holders[turn])}
    assert len(unexplained) <= by_windows
    reasons = {"superseded", "copied_context"} | ({"failed_call", "loop"} if asked.weights else set())
    assert set(funnel.counts["weights"]) <= reasons


# -- the account ------------------------------------------------------------------------------------


def test_what_does_not_add_up_is_refused() -> None:
    funnel = Funnel()
    funnel.took("read", Size(2, 4, 10))
    funnel.took("filters", Size(2, 4, 10), Size(1, 2, 5), "no prompt")
    funnel.check()
    funnel.stage("filters").went = Size(1, 2, 6)
    with pytest.raises(AgentRolloutsError, match=r"does not add up at filters: .*Please report this"):
        funnel.check()
    funnel.stage("filters").remove("rounding", Size(0, 0, -1))
    funnel.check()
    funnel.took("windows", Size(2, 4, 10))
    with pytest.raises(AgentRolloutsError, match="went on from filters, "):
        funnel.check()


def test_parts_are_merged() -> None:
    one, other, both = Funnel(), Funnel(), Funnel()
    for funnel, rows in ((one, 1), (other, 2)):
        for into in (funnel, both):
            into.files += rows
            into.bad_files[f"{rows}.jsonl"] = "torn"
            into.took("read", Size(rows, 3 * rows, 7 * rows), Size(), EMPTY)
            into.count("formats", {"codex": rows})
            into.notices += [f"note {rows}", "the same"] if rows == 1 else [f"note {rows}"]
    other.notices.append("the same")
    one.merge(other)
    assert one == both


def test_the_table_says_what_went_and_why() -> None:
    funnel = Funnel()
    funnel.took("read", Size(3, 9, 4000))
    funnel.took("redact", Size(3, 9, 4000), Size(3, 9, 4040))
    funnel.took("filters", Size(3, 9, 4040), Size(2, 6, 4000), "no prompt")
    funnel.took("shape: messages", Size(2))
    assert funnel.text().splitlines() == [
        "                                    rows  messages  tokens",
        "read                                   3         9   1,000",
        "  - text written anew (difference)                     +10",
        "after redact                           3         9   1,010",
        "  - no prompt                         -1        -3     -10",
        "after filters                          2         6   1,000",
        "shape: messages                        2",
    ]
    assert "|  | no prompt | -1 | -3 | -10 |" in funnel.markdown().splitlines()
    assert (funnel.read, funnel.kept) == (Size(3, 9, 4000), Size(2, 6, 4000))
    assert funnel.removed == {"no prompt": 1}
    assert Funnel().text().strip() == "rows  messages  tokens"


def test_tokens_that_are_shown_add_up() -> None:
    """Though a part of 7 bytes is 1 of them, and so are 2 of its 3."""
    funnel = Funnel()
    for _ in range(3):
        funnel.took("selection", Size(1, 1, 7), Size(), "a")
        funnel.took("selection", Size(1, 1, 6), Size(), "b")
        funnel.took("selection", Size(1, 1, 5))
    shown = [int(line.split()[-1].replace(",", "")) for line in funnel.text().splitlines()[1:]]
    assert sum(shown[:-1]) == shown[-1] == 3
    assert shown[0] == 13


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("ünd", "ünd"),
        ("\ud800", "\ud800"),
        ({"a": [0.1, None]}, '{"a":[0.1,null]}'),
        ({"a": 2**70}, f'{{"a": {2**70}}}'),
    ],
)
def test_bytes_of_what_is_said(value: Any, text: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": value}}
    message = {"role": "assistant", "content": "Grün", "reasoning_content": "hm", "tool_calls": [call]}
    assert size([message]) == Size(1, 1, 5 + 2 + 4 + len(text.encode("utf-8", "surrogatepass")))


def test_reasons_of_windows_are_known() -> None:
    """What the property counts by name is what the stage calls it."""
    assert len({TOO_LARGE, NO_ROOM, NOTHING_TO_TRAIN, SHORTENED, REWRITTEN}) == 5
