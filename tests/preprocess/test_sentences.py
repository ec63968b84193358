"""Sentences and windows: nothing of a text is lost, abbreviations end nothing, pieces fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeclip.data import manifest
from honeclip.preprocess.rules import clean
from honeclip.preprocess.sentences import MOST, choices, split, windows
from honeclip.preprocess.tokens import Tokenizer

WORDS = st.text("ab.A1?! ()", max_size=80).map(clean)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A frog.", ["A frog."]),
        ("Yeast is a fungus. Its cells bud (left). 10 µm.", ["Yeast is a fungus.", "Its cells bud (left). 10 µm."]),
        ("Gram stain of E. coli and Staph. aureus cells.", ["Gram stain of E. coli and Staph. aureus cells."]),
        (
            "Dr. Smith saw it in Fig. 2 of the book. It was red all over.",
            ["Dr. Smith saw it in Fig. 2 of the book.", "It was red all over."],
        ),
        ("Is it a star? Yes! A bright blue star.", ["Is it a star? Yes!", "A bright blue star."]),
        ("(a) A needle goes in. (b) The fluid is clear.", ["(a) A needle goes in.", "(b) The fluid is clear."]),
        ("It is 3.5 mm long. No more is known.", ["It is 3.5 mm long.", "No more is known."]),
    ],
)
def test_where_sentences_end(text, sentences):
    assert split(text) == sentences


@given(WORDS)
def test_sentences_joined_are_the_text(text):
    assert " ".join(split(text)) == text


def test_real_captions_keep_every_word_and_mostly_come_apart(shared_data):
    for name in ("openstax_astronomy", "openstax_microbiology"):
        captions = [row.caption for row in manifest.read(shared_data / name).rows]
        assert all(" ".join(split(one)) == one for one in captions)
        counts = [len(split(one)) for one in captions]
        assert sum(count > 1 for count in counts) > 0.5 * len(captions)
        assert max(len(choices(one)) for one in captions) <= 1 + MOST
        assert all(choices(one)[0] == one for one in captions)


def test_windows_fit_and_hold_every_word(shared_data):
    count = Tokenizer("simple").count
    captions = [row.caption for row in manifest.read(shared_data / "openstax_astronomy").rows][:80]
    for most in (77, 20):
        cut = [windows(one, count, most) for one in captions]
        assert all(" ".join(pieces) == one for pieces, one in zip(cut, captions, strict=True))
        assert all(n <= most for pieces in cut for n in count(pieces))
        fitting = [one for one in captions if count([one])[0] <= most]
        assert all(windows(one, count, most) == [one] for one in fitting)
        # greedy: two neighbours never fit into one window
        assert all(
            count([f"{a} {b}"])[0] > most for pieces in cut for a, b in pairwise(pieces) if split(f"{a} {b}") == [a, b]
        )
    assert any(len(windows(one, count, 20)) > 2 for one in captions)
