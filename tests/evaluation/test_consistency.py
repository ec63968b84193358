"""Rankings compared in plain code, and figures of embeddings whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from honeclip.evaluation.answers import answer
from honeclip.evaluation.consistency import consistency, overlap, ranked, top
from honeclip.evaluation.retrieval import right_pairs


def test_how_many_answers_are_compared_follows_the_candidates():
    assert [ranked(count) for count in (1, 4, 5, 24, 25, 49, 50, 9999)] == [1, 1, 1, 1, 5, 5, 10, 10]


def test_the_nearest_against_a_full_sort():
    draw = np.random.default_rng(0)
    queries, gallery = draw.normal(size=(40, 6)).astype(np.float32), draw.normal(size=(30, 6)).astype(np.float32)
    expected = np.argsort(-(queries.astype(np.float64) @ gallery.T.astype(np.float64)), axis=1)[:, :7]
    assert np.array_equal(top(queries, gallery, 7), expected)
    assert top(queries, np.ones((5, 6), dtype=np.float32), 2).tolist() == [[0, 1]] * 40, "ties: the first"


def test_overlap_is_the_jaccard_index_of_sets():
    first, second = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]]), np.array([[3, 2, 1], [3, 4, 5], [7, 8, 9]])
    expected = [
        len(set(a) & set(b)) / len(set(a) | set(b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert overlap(first, second).tolist() == pytest.approx(expected)
    assert expected == pytest.approx([1, 0.2, 0])


@pytest.fixture
def compared(embeddings, labels, classes):
    before = embeddings(rows=60)

    def make(image: torch.Tensor):
        after = replace(before, image=image)
        old, new = (answer(one, labels(60), classes) for one in (before, after))
        _, rows = right_pairs(before.image_id, before.caption_of, before.file_of)
        return consistency(before, after, old, new, rows)

    return before, make


def test_the_same_embeddings_agree_wholly(compared):
    before, make = compared
    found = make(before.image.clone())
    figures = [found["cosine"], found["image_to_text"]["overlap@10"], found["zeroshot"]["same_label"]]
    for figure in figures:
        assert (figure["value"], figure["low"], figure["high"]) == pytest.approx((1, 1, 1))


def test_some_pictures_turned_round(compared):
    """Fifteen of sixty embeddings become their opposites: cosine -1, and nothing of the first ten answers is left."""
    before, make = compared
    image = before.image.clone()
    image[:15] *= -1
    found = make(image)
    assert found["cosine"]["value"] == pytest.approx((45 - 15) / 60)
    assert found["cosine"]["low"] < 0.5 < found["cosine"]["high"]
    assert found["image_to_text"]["overlap@10"]["value"] == pytest.approx(45 / 60)
    assert found["text_to_image"]["overlap@10"]["value"] < 1
    assert found["zeroshot"]["same_label"]["value"] < 1
