"""Example pictures: a fair draw, the worst of the rest, and what the model said of each."""

from __future__ import annotations

import numpy as np
import pytest

from honeclip.evaluation.answers import answer
from honeclip.evaluation.examples import FOUND, SAMPLED, WORST, examples


@pytest.fixture
def shown(embeddings, pairs):
    """Examples of embeddings made by hand, with both."""

    def make(seed: int = 0, **more):
        of = embeddings(**more)
        answers = answer(of, [()] * len(of.rows), None)
        return examples(pairs(of), of, answers, seed), of, answers

    return make


def test_a_sample_and_the_worst_of_the_others(shown):
    found, of, answers = shown()
    assert [one.why for one in found] == ["sample"] * SAMPLED + ["worst"] * WORST
    assert len({one.query for one in found}) == len(found)
    ranks = answers.ranks.image_to_text
    rest = [rank for query, rank in enumerate(ranks) if query not in {one.query for one in found[:SAMPLED]}]
    assert [one.rank for one in found[SAMPLED:]] == sorted(rest, reverse=True)[:WORST]
    assert all(one.rank == ranks[one.query] for one in found)
    assert [one.rank for one in found[:SAMPLED]] == sorted(one.rank for one in found[:SAMPLED])
    assert len(of.rows) == 60


def test_the_sample_is_the_same_for_every_model_and_moves_with_the_seed(shown):
    def sampled(**more):
        return {one.query for one in shown(**more)[0] if one.why == "sample"}

    assert sampled(good=30) == sampled(good=3)
    assert sampled(seed=1) != sampled(seed=0)


def test_captions_are_the_nearest_best_first_and_the_right_one_is_among_them(shown):
    found, of, _ = shown()
    for one in found:
        cosines = of.text.double().numpy() @ of.image[one.query].double().numpy()
        order = np.argsort(-cosines)
        assert [each.caption for each in one.found[:FOUND]] == [of.captions[text] for text in order[:FOUND]]
        assert [each.cosine for each in one.found[:FOUND]] == pytest.approx(cosines[order[:FOUND]])
        assert [each.right for each in one.found].count(True) == 1
        assert one.captions == (f"caption {one.query}",)
        assert len(one.found) == FOUND + (one.rank > FOUND)
        assert one.found[-1].right or one.rank <= FOUND


def test_twins_are_shown_once(shown):
    found, of, _ = shown(rows=12, good=4, image_id=[0] * 6 + list(range(1, 7)))
    assert len({int(of.image_id[one.query]) for one in found}) == len(found) == 7
    twin = next(one for one in found if of.image_id[one.query] == 0)
    assert len(twin.captions) == 6, "every caption of its content is right"


def test_few_pictures_are_all_shown(shown):
    found, _, _ = shown(rows=3, good=1)
    assert [one.why for one in found] == ["sample"] * 3


def test_a_picture_is_named_by_its_file(shown, pictures):
    found, of, _ = shown(rows=20, good=5)
    files = pictures(20)
    assert [one.image for one in found] == [files[int(of.file_of[one.query])] for one in found]
