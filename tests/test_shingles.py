"""Words and runs of words: what makes no difference, and that cutting a text into pieces makes none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from agent_rollouts.distill import shingles


def same(text: str, *words: str) -> bool:
    return shingles.words(text).tolist() == [xxh3_64_intdigest(word.encode()) for word in words]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("Fix  the\n\tBug!", "fix the bug"),
        ("   12\tdef run_it(self):\n   13\t    pass", "def run it self pass"),
        ("+    return a\n@@ -1,4 +1,9 @@", "return a"),
        (r"one\ntwo\\tthree\"four", "one two three four"),
        ("v2 x86_64 0x1F 2026", "v2 x86 0x1f"),
        ("Ärger im Café—schön", "ärger im café schön"),
        ("Été “quoted” it\u2019s", "été quoted it s"),
        ("修复bug吧", "修 复 bug 吧"),
        ("lone \ud800 one", "lone one"),
    ],
)
def test_words(text: str, words: str) -> None:
    assert same(text, *words.split())


def test_a_gram_is_what_the_header_of_a_file_says() -> None:
    words = ["one", "two", "three", "four"]
    factor = 0x9E3779B97F4A7C15
    for n in (1, 2, 3, 4):
        wanted = [
            sum(xxh3_64_intdigest(word.encode()) * factor ** (n - 1 - i) for i, word in enumerate(words[at : at + n]))
            % 2**64
            for at in range(len(words) - n + 1)
        ]
        assert shingles.grams(shingles.words(" ".join(words)), n).tolist() == wanted
    assert not len(shingles.grams(shingles.words("too few"), 3))


@given(st.lists(st.text(), max_size=8), st.integers(1, 6), st.integers(1, 30))
def test_pieces(texts: list[str], n: int, size: int) -> None:
    whole = shingles.grams(shingles.words("\n".join(text for text in texts)), n).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shingles, "_CHUNK", 1 << 20)
        assert np.concatenate([[], *shingles.gram_chunks(texts, n)]).size == len(whole)
        # A word longer than two pieces is cut; shorter ones never are.
        patch.setattr(shingles, "_CHUNK", max(size, max((len(text) for text in texts), default=0)))
        pieces = [gram for chunk in shingles.gram_chunks(texts, n) for gram in chunk.tolist()]
    assert pieces == whole


def test_a_long_text_is_cut_at_white_space() -> None:
    text = "some words of it\n" * 200_000
    chunks = list(shingles.chunks(["", text, "end"]))
    assert len(chunks) == 3
    assert "".join(chunks) == "\n" + text + "end"
    assert sum(map(len, shingles.gram_chunks([text, "end"], 5))) == 4 * 200_000 + 1 - 4
    assert "".join(shingles.chunks(["x" * 5_000_000])) == "x" * 5_000_000


def test_leaves_are_in_order() -> None:
    value = {"a": "1", "b": ["2", {"c": "3", "d": None}, 4], "e": "5"}
    assert list(shingles.leaves(value)) == ["1", "2", "3", "5"]
    assert dict(shingles.members(value))["c"] == "3"
