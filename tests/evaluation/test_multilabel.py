"""Each class against the rest: scikit-learn on real labels, on drawn scores with ties, and on every resample."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from honeclip.evaluation.multilabel import one_against_rest, separation, truth_of


def by_scikit_learn(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "auroc": roc_auc_score(truth, scores),
        "average_precision": average_precision_score(truth, scores),
        "f1_max": f1.max(),
    }


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({has for _, has in rows}) == 2
    ),
    st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_all_figures_are_scikit_learns_with_ties_and_on_resamples(rows, seed):
    scores, truth = (np.array(column) for column in zip(*rows, strict=True))
    indices = np.random.default_rng(seed).integers(0, len(rows), (5, len(rows)))
    indices[0] = np.arange(len(rows))
    found = separation(scores / 7, truth)(indices)
    for place, drawn in enumerate(indices):
        if len(set(truth[drawn].tolist())) < 2:
            assert all(np.isnan(values[place]) for values in found.values())
            continue
        for name, value in by_scikit_learn(scores[drawn] / 7, truth[drawn]).items():
            assert found[name][place] == pytest.approx(value, abs=1e-12), name


@pytest.fixture(scope="module")
def stamps(shared_data) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Real captions with every level of their label's path as a label, scored by the words that caption and class share."""
    with (shared_data / "tuxpaint_stamps" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row["label"].split("/") for row in rows]
    names = sorted({label for own in labels for label in own})
    words = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit([row["caption"] for row in rows])
    captions, classes = words.transform([row["caption"] for row in rows]), words.transform(names)
    return (captions @ classes.T).toarray(), truth_of(labels, names), names


def test_real_labels_of_several_levels(stamps):
    scores, truth, names = stamps
    assert (truth.sum(1) >= 2).mean() > 0.5, "most of them have several labels"
    found = one_against_rest(scores, truth, names)
    assert set(found["auroc"]) == set(names)
    for place, name in enumerate(names):
        expected = by_scikit_learn(scores[:, place], truth[:, place])
        for what, value in expected.items():
            one = found[what][name]
            assert one["value"] == pytest.approx(value, abs=1e-12)
            assert one["low"] <= one["value"] <= one["high"]
    assert 0.5 < np.mean([one["value"] for one in found["auroc"].values()]) < 1


def test_the_interval_of_an_auroc_is_as_wide_as_its_known_error():
    """Hanley and McNeil's standard error, equation 2, for scores of two normal distributions."""
    random = np.random.default_rng(1)
    scores = np.concatenate([random.normal(1.0, 1, 200), random.normal(0, 1, 300)])[:, None]
    truth = (np.arange(500) < 200)[:, None]
    one = one_against_rest(scores, truth, ["class"])["auroc"]["class"]
    area = one["value"]
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 199 * (q1 - area**2) + 299 * (q2 - area**2)) / (200 * 300))
    assert (one["high"] - one["low"]) / (2 * 1.96) == pytest.approx(error, rel=0.15)


def test_a_class_that_all_or_none_have_has_no_figure():
    truth = np.array([[True, False, True], [True, False, False], [True, False, True]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = one_against_rest(np.random.default_rng(0).random((3, 3)), truth, ["a", "b", "c"])
    assert {what: list(of) for what, of in found.items()} == {what: ["c"] for what in found}


def test_labels_that_are_no_class_are_passed_over():
    assert truth_of([("b", "x"), (), ("a", "b")], ["a", "b"]).tolist() == [[False, True], [False, False], [True, True]]
