"""Sentences that steps draw: by seed, step and row alone, the shares as stated, every sentence now and then."""

from __future__ import annotations

from collections import Counter

import numpy as np

from honeclip.data import samples
from honeclip.data.order import Draw

CAPTIONS = [
    "One word alone.",
    "A blue star here. It is hot and far. Dust hides the rest.",
    "Two things here. Both are red.",
]


def draw(step, rows, seed=0):
    return Draw(step, np.asarray(rows, dtype=np.int64), 224, 1.0, seed)


def texts(found, step, rows, seed=0):
    return [found.texts[place] for place in found.at(draw(step, rows, seed)).tolist()]


def test_every_caption_begins_with_the_whole_of_it():
    found = samples.of(CAPTIONS)
    assert [found.texts[start] for start in found.starts[:-1]] == CAPTIONS
    assert found.starts.tolist() == [0, 1, 5, 8]


def test_a_row_takes_the_same_text_whatever_else_is_in_its_batch():
    found = samples.of(CAPTIONS)
    for step in range(20):
        whole = texts(found, step, [0, 1, 2])
        assert texts(found, step, [2, 0]) == [whole[2], whole[0]]
        assert texts(found, step, [1]) == [whole[1]]


def test_shares_are_as_stated_and_every_sentence_comes():
    found = samples.of(CAPTIONS)
    steps = 4000
    seen = Counter(texts(found, step, [1])[0] for step in range(steps))
    first, second, third = "A blue star here.", "It is hot and far.", "Dust hides the rest."
    assert set(seen) == {CAPTIONS[1], first, second, third}
    for text, share in ((CAPTIONS[1], 0.5), (first, 0.25), (second, 0.125), (third, 0.125)):
        assert abs(seen[text] / steps - share) < 4 * (share * (1 - share) / steps) ** 0.5
    assert {texts(found, step, [0])[0] for step in range(50)} == {CAPTIONS[0]}
    two = Counter(texts(found, step, [2])[0] for step in range(steps))
    assert set(two) == {CAPTIONS[2], "Two things here.", "Both are red."}


def test_steps_and_seeds_differ():
    found = samples.of(CAPTIONS * 20)
    rows = list(range(60))
    assert texts(found, 0, rows) != texts(found, 1, rows)
    assert texts(found, 0, rows) != texts(found, 0, rows, seed=1)
