"""Answers, METRICS and paired differences: the shape of the contract, what waits on disk, how a model is chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from honeclip.evaluation import retrieval, zeroshot
from honeclip.evaluation.answers import (
    Answers,
    answer,
    evaluate_embeddings,
    metrics,
    paired_difference,
    selection_score,
)


@pytest.fixture
def answers(embeddings, labels, classes) -> Answers:
    return answer(embeddings(), labels(60), classes)


def test_metrics_have_the_shape_of_the_contract(answers):
    found = metrics(answers, data="stamps", split="val", size_px=224)
    assert list(found) == ["data", "split", "pairs", "size_px", "retrieval", "zeroshot"]
    assert (found["data"], found["split"], found["pairs"], found["size_px"]) == ("stamps", "val", 60, 224)
    assert list(found["retrieval"]) == ["image_to_text", "text_to_image"]
    for way in found["retrieval"].values():
        assert list(way) == ["R@1", "R@5", "R@10", "median_rank"]
        assert all(list(one) == ["value", "low", "high"] for one in way.values())
    assert list(found["zeroshot"]) == ["accuracy", "balanced_accuracy", "macro_f1", "ece", "classes", "chance"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_section_that_does_not_apply_is_left_out(embeddings):
    found = evaluate_embeddings(embeddings(), [()] * 60, None, data="d", split="test", size_px=32)
    assert "zeroshot" not in found


def test_metrics_come_from_the_parts(answers, embeddings, labels, classes):
    found = evaluate_embeddings(embeddings(), labels(60), classes, data="d", split="test", size_px=32, seed=4)
    assert found["retrieval"] == retrieval.retrieval(answers.ranks, seed=4)
    assert found["zeroshot"] == zeroshot.zeroshot(answers.predictions, seed=4)


def test_answers_wait_on_disk_unchanged(answers):
    stored = json.loads(json.dumps(answers.to_json()))
    restored = Answers.from_json(stored)
    assert metrics(restored, data="d", split="s", size_px=1) == metrics(answers, data="d", split="s", size_px=1)
    assert np.array_equal(restored.predictions.confidence, answers.predictions.confidence), "to the last bit"
    assert restored.to_json() == answers.to_json()


def test_answers_without_classes_too(embeddings):
    found = answer(embeddings(), [()] * 60, None)
    assert Answers.from_json(json.loads(json.dumps(found.to_json()))).predictions is None


def test_a_file_in_several_rows_is_asked_once_with_the_labels_of_all(embeddings, classes):
    """Four rows, three files; the file of the rows 0 and 1 has a label in each."""
    of = embeddings(rows=4, good=0, file_of=[0, 0, 1, 2])
    found = answer(of, [("cat",), ("dog",), (), ("bird",)], classes)
    assert found.image_rows.tolist() == [0, 2, 3]
    assert len(found.ranks.image_to_text) == 3
    assert len(found.predictions.truth) == 2, "the second file has no label"
    assert found.predictions.truth[0] in (1, 2)
    assert found.pairs == 4


def test_the_difference_is_after_minus_before(embeddings, labels, classes):
    before, after = (answer(embeddings(good=good), labels(60), classes) for good in (10, 50))
    # the captions are the same; other images would be other queries only if there were more or fewer of them
    change = paired_difference(before, after)
    old, new = (metrics(one, data="d", split="s", size_px=1) for one in (before, after))
    for way, figures in change["retrieval"].items():
        for name, one in figures.items():
            gain = new["retrieval"][way][name]["value"] - old["retrieval"][way][name]["value"]
            assert one["value"] == pytest.approx(gain, abs=1e-12)
            assert one["low"] <= one["value"] <= one["high"]
    assert change["retrieval"]["image_to_text"]["R@1"]["low"] > 0.3
    assert set(change["zeroshot"]) == {"accuracy", "balanced_accuracy", "macro_f1", "ece"}
    assert change == paired_difference(before, after)
    assert change != paired_difference(before, after, seed=1)


def test_the_difference_of_zero_shot_alone_may_be_missing(embeddings):
    one = answer(embeddings(), [()] * 60, None)
    assert set(paired_difference(one, one)) == {"retrieval"}


def test_other_queries_have_no_difference(embeddings, labels, classes):
    asked = answer(embeddings(), labels(60), classes)
    others = [
        answer(embeddings(captions=[f"other {row}" for row in range(60)]), labels(60), classes),
        answer(embeddings(rows=59), labels(59), classes),
        answer(embeddings(), [("cat",)] * 60, classes),
        answer(embeddings(captions=["caption 0", *(f"caption {row}" for row in range(59))]), labels(60), classes),
    ]
    assert [paired_difference(asked, one) for one in others] == [None] * 4
    assert paired_difference(asked, answer(embeddings(seed=5, good=3), labels(60), classes)) is not None


# --- which checkpoint is best -------------------------------------------------------------------------------------


def scores(image_to_text: dict[str, float], text_to_image: dict[str, float], balanced: float | None = None) -> dict:
    found = {
        "retrieval": {
            way: {name: {"value": value} for name, value in one.items()}
            for way, one in (("image_to_text", image_to_text), ("text_to_image", text_to_image))
        }
    }
    return found if balanced is None else {**found, "zeroshot": {"balanced_accuracy": {"value": balanced}}}


FULL = (
    {"R@1": 0.1, "R@5": 0.2, "R@10": 0.4, "median_rank": 12},
    {"R@1": 0.1, "R@5": 0.2, "R@10": 0.6, "median_rank": 8},
)
SMALL = ({"R@1": 0.1, "R@5": 0.2, "median_rank": 4}, {"R@1": 0.3, "R@5": 0.6, "median_rank": 5})
TINY = ({"R@1": 0.1, "median_rank": 4}, {"median_rank": 2})


@pytest.mark.parametrize(
    ("found", "selection", "score", "words"),
    [
        (scores(*FULL), "auto", 0.5, "mean of both R@10"),
        (scores(*FULL, 0.9), "auto", 0.5, "mean of both R@10"),
        (scores(*FULL, 0.9), "retrieval", 0.5, "mean of both R@10"),
        (scores(*FULL, 0.9), "balanced_accuracy", 0.9, "zero-shot balanced accuracy"),
        (scores(*FULL), "balanced_accuracy", 0.5, "mean of both R@10"),
        (scores(*SMALL, 0.8), "retrieval", 0.8, "zero-shot balanced accuracy"),
        (scores(*SMALL), "auto", 0.4, "mean of both R@5"),
        (scores({"R@1": 0.2, "median_rank": 1}, {"R@1": 0.4, "median_rank": 1}), "auto", 0.3, "mean of both R@1"),
        (scores(*TINY), "auto", 0.375, "mean of both 1 / median rank"),
    ],
)
def test_the_selection_score(found, selection, score, words):
    assert selection_score(found, selection) == (pytest.approx(score), words)


def test_a_better_model_is_selected(embeddings, labels, classes):
    found = [
        selection_score(
            evaluate_embeddings(embeddings(good=good), labels(60), classes, data="d", split="val", size_px=32), "auto"
        )[0]
        for good in (5, 30, 60)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]
