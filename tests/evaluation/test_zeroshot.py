"""Zero-shot figures against scikit-learn and against the formula of the calibration error."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from honeclip.evaluation import zeroshot
from honeclip.evaluation.intervals import bootstrap, resampled
from honeclip.evaluation.zeroshot import Classes, Predictions


def made(truth, predicted, confidence=None, names="abcde") -> Predictions:
    truth, predicted = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    confidence = np.full(len(truth), 0.5) if confidence is None else np.asarray(confidence, dtype=np.float64)
    return Predictions(truth, predicted, confidence, tuple(names))


@pytest.fixture
def found() -> Predictions:
    """400 images of five classes, one of them rare, one never occurring but predicted."""
    draw = np.random.default_rng(0)
    truth = draw.choice(4, size=400, p=[0.6, 0.3, 0.08, 0.02])
    predicted = np.where(draw.random(400) < 0.6, truth, draw.integers(0, 5, 400))
    return made(truth, predicted, draw.uniform(0.2, 1.0, 400))


def reference(truth, predicted, confidence) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is predicted and never occurs
        return {
            "accuracy": sk.accuracy_score(truth, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
            "macro_f1": sk.f1_score(truth, predicted, average="macro", zero_division=0),
            "ece": formula(truth, predicted, confidence),
        }


def formula(truth, predicted, confidence) -> float:
    """Guo et al. 2017, equation 3: the sum over bins of their share times |accuracy - mean confidence|."""
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = (confidence >= low) & ((confidence < high) | (number == 14))
        if inside.any():
            right = (truth[inside] == predicted[inside]).mean()
            total += inside.mean() * abs(right - confidence[inside].mean())
    return total


def test_figures_are_scikit_learns(found):
    scores = zeroshot.zeroshot(found)
    for name, value in reference(found.truth, found.predicted, found.confidence).items():
        assert scores[name]["value"] == pytest.approx(value, abs=1e-12), name
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"], name
    assert (scores["classes"], scores["chance"]) == (5, 0.2)


def test_every_resample_is_scored_as_scikit_learn_would(found):
    """The intervals come from counts; what they count must be the same figure."""
    draws = bootstrap(zeroshot.statistic(found), len(found.truth), seed=3, resamples=30)
    rows = np.concatenate(list(resampled(len(found.truth), seed=3, resamples=30)))
    for number, row in enumerate(rows):
        for name, value in reference(found.truth[row], found.predicted[row], found.confidence[row]).items():
            assert draws[name][number] == pytest.approx(value, abs=1e-12), name


def test_calibration_of_those_who_say_what_they_know():
    sure = made([0, 1, 2, 0], [0, 1, 2, 0], [1.0] * 4)
    assert zeroshot.zeroshot(sure)["ece"]["value"] == 0
    boastful = made([0, 1, 2, 0], [1, 2, 0, 1], [1.0] * 4)
    assert zeroshot.zeroshot(boastful)["ece"]["value"] == 1
    half = made([0, 0], [0, 1], [0.5, 0.5])
    assert zeroshot.zeroshot(half)["ece"]["value"] == 0


def test_a_calibration_error_lies_in_its_own_interval():
    """Of a model that is as sure as it is right, resampling alone makes the error larger."""
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.4, 1, 100)
    truth = (draw.random(100) >= confidence).astype(int)
    ece = zeroshot.zeroshot(made(truth, np.zeros(100), confidence, "ab"))["ece"]
    assert ece["low"] <= ece["value"] <= ece["high"]
    plain = bootstrap(zeroshot.statistic(made(truth, np.zeros(100), confidence, "ab")), 100, seed=0)["ece"]
    assert plain.mean() > 1.3 * ece["value"]
    assert ece["high"] < plain.max()


def test_predictions_are_the_nearest_class_at_the_models_own_scale():
    draw = np.random.default_rng(4)
    image, text = (torch.nn.functional.normalize(torch.tensor(draw.normal(size=(n, 6))), dim=-1) for n in (50, 4))
    labels = [("abcd"[row % 4],) for row in range(50)]
    found = zeroshot.predict(image.float(), labels, Classes(tuple("abcd"), text.float(), 10.0))
    logits = 10.0 * image.float().double().numpy() @ text.float().double().numpy().T
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.predicted.tolist() == shares.argmax(1).tolist()
    assert found.confidence == pytest.approx(shares.max(1), abs=1e-12)
    assert found.truth.tolist() == [row % 4 for row in range(50)]


def test_predictions_do_not_depend_on_how_many_are_made_at_once(monkeypatch, classes):
    image = torch.nn.functional.normalize(torch.randn(40, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    labels = [("cat",)] * 40
    whole = zeroshot.predict(image, labels, classes)
    monkeypatch.setattr(zeroshot, "CHUNK", 7)
    parts = zeroshot.predict(image, labels, classes)
    assert np.array_equal(whole.predicted, parts.predicted)
    assert whole.confidence == pytest.approx(parts.confidence, abs=1e-15)


def test_an_image_without_a_label_is_left_out(classes):
    image = torch.eye(24)[:5]
    found = zeroshot.predict(image, [("cat",), (), ("dog",), (), ("bird",)], classes)
    assert found.truth.tolist() == [1, 2, 0]
    assert len(found.predicted) == 3


def test_any_of_several_labels_is_right():
    text = torch.eye(3)
    known = Classes(("a", "b", "c"), text, 1.0)
    found = zeroshot.predict(text, [("b", "a"), ("a", "c"), ("b", "c")], known)
    assert found.predicted.tolist() == [0, 1, 2]
    assert found.truth.tolist() == [0, 0, 2], "the second is wrong and counts under its first label"


def test_there_is_nothing_to_choose_between_fewer_than_two_classes():
    image = torch.eye(3)
    assert zeroshot.predict(image, [("a",)] * 3, Classes(("a",), torch.eye(3)[:1], 1.0)) is None
    assert zeroshot.predict(image, [()] * 3, Classes(("a", "b"), torch.eye(3)[:2], 1.0)) is None


def test_the_table_of_classes(found):
    rows = zeroshot.per_class(found)
    assert [row["label"] for row in rows] == list("abcd"), "a class without images has no row"
    for number, row in enumerate(rows):
        mine, given = found.truth == number, found.predicted == number
        assert row["images"] == mine.sum()
        assert row["recall"] == pytest.approx((found.predicted[mine] == number).mean())
        assert row["precision"] == pytest.approx((found.truth[given] == number).mean())
        wrong = found.predicted[mine & ~given].tolist()
        assert row["taken_for"] == "abcde"[max(sorted(set(wrong)), key=wrong.count)]


def test_a_class_that_is_never_missed_is_taken_for_nothing():
    (row,) = zeroshot.per_class(made([1, 1], [1, 1]))
    assert row == {"label": "b", "images": 2, "recall": 1.0, "precision": 1.0, "taken_for": None}


def test_a_class_that_no_image_is_given_has_no_precision():
    lost, taken = zeroshot.per_class(made([0, 1], [1, 1]))
    assert (lost["precision"], lost["recall"], lost["taken_for"]) == (None, 0.0, "b")
    assert taken["precision"] == 0.5
