"""Answers, METRICS and paired differences: the shape of the contract, and what waits on disk."""

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
