"""Paired tests against SciPy, Holm against his procedure word by word, and nothing found where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from honeclip.evaluation.answers import Answers, answer, paired_difference, sections
from honeclip.evaluation.paired import goes_with, holm, p_values
from honeclip.evaluation.retrieval import Ranks, right_pairs
from honeclip.evaluation.selection import difference, drawn

IDENTITY = right_pairs(np.arange(60), np.arange(60))[0]


def asked(of, labels, classes) -> Answers:
    return answer(of, labels(60), classes)


def test_holm_by_hand():
    """0.005 x 4; 0.01 x 3; 0.03 x 2; and 0.04 x 1, which is raised to what stands before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.4, 0.9]) == [0.8, 0.9]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None)
def test_holm_rejects_step_by_step(values):
    """The procedure as the paper words it: reject while the k-th smallest is below alpha / (m - k + 1)."""
    adjusted = holm(values)
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for done, place in enumerate(sorted(range(len(values)), key=lambda one: values[one])):
            if values[place] * (len(values) - done) > alpha:
                break
            rejected.add(place)
        assert {place for place, value in enumerate(adjusted) if value <= alpha} == rejected


def test_accuracy_has_the_p_value_of_mcnemars_exact_test(embeddings, labels, classes):
    first, second = asked(embeddings(good=10), labels, classes), asked(embeddings(good=10, seed=4), labels, classes)
    right = [one.predictions.truth == one.predictions.predicted for one in (first, second)]
    won, lost = int((~right[0] & right[1]).sum()), int((right[0] & ~right[1]).sum())
    assert won + lost > 5
    exact = stats.binomtest(won, won + lost).pvalue
    (found,) = p_values(first, second, [{"accuracy": 1.0}], goes_with(IDENTITY, labels(60)))
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 9999) + 1e-4)


def test_a_mean_of_both_directions_is_swapped_pair_by_pair_as_scipy_does(embeddings, labels, classes):
    first, second = asked(embeddings(good=20), labels, classes), asked(embeddings(good=26), labels, classes)
    apart = sum(
        (1.0 * (getattr(second.ranks, way) <= 1) - (getattr(first.ranks, way) <= 1)) / 2
        for way in ("image_to_text", "text_to_image")
    )
    exact = stats.permutation_test(
        (apart,), np.mean, permutation_type="samples", n_resamples=20000, vectorized=True, axis=0, random_state=0
    ).pvalue
    assert 0.001 < exact < 0.5
    (found,) = p_values(first, second, [{"R@1": 1.0}], goes_with(IDENTITY, labels(60)))
    assert found == pytest.approx(exact, abs=0.01)


def test_captions_go_with_their_first_picture():
    """Two files of one picture with two captions, and a third with the second of these."""
    right, _ = right_pairs(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0, 1, 2]))
    found = goes_with(right, [("a",), (), ("b",)])
    assert (found.images, found.caption.tolist(), found.labelled.tolist()) == (3, [0, 0], [0, 2])


def test_a_model_against_itself_is_no_difference(embeddings, labels, classes):
    one = asked(embeddings(), labels, classes)
    scores = [{"R@10": 1.0}, {"balanced_accuracy": 1.0}, {"median_rank": 1.0, "macro_f1": 2.0}]
    assert p_values(one, one, scores, goes_with(IDENTITY, labels(60)), swaps=99) == [1.0] * 3
    assert difference(sections(one), sections(one), scores[2]) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_much_better_model_has_the_smallest_p_there_is(embeddings, labels, classes):
    first, second = asked(embeddings(good=0), labels, classes), asked(embeddings(good=60), labels, classes)
    goes = goes_with(IDENTITY, labels(60))
    assert p_values(first, second, [{"R@1": 1.0}], goes, swaps=999) == [1 / 1000]
    one, other = ({"R@1": 1.0, "median_rank": 1.0}, {"R@1": 1.0})
    assert p_values(first, second, [one, other], goes, seed=2) == p_values(first, second, [one, other], goes, seed=2)


def test_equal_models_are_called_different_as_often_as_one_says():
    """A hundred pairs of models that guess: p below 0.1 in about ten of them, not in thirty."""
    random = np.random.default_rng(0)
    goes = goes_with(IDENTITY, [()] * 60)
    found = []
    for _ in range(100):
        models = [
            Answers(Ranks(ranks, ranks), np.arange(60), None, 60, "") for ranks in random.integers(1, 61, size=(2, 60))
        ]
        found.append(p_values(*models, [{"median_rank": 1.0}], goes, swaps=199)[0])
    assert 2 <= sum(p < 0.1 for p in found) <= 19
    assert 0.35 < np.mean(found) < 0.7


def test_the_difference_is_that_of_the_scores_and_as_the_report_has_it(embeddings, labels, classes):
    first, second = asked(embeddings(good=20), labels, classes), asked(embeddings(good=40), labels, classes)
    weights = {"R@10": 2.0, "macro_f1": 1.0}
    found = difference(sections(first), sections(second), weights, seed=3)
    assert found["value"] == pytest.approx(drawn(sections(second), weights)[0] - drawn(sections(first), weights)[0])
    assert found == paired_difference(first, second, 3, weights)["selection"]["score"]
