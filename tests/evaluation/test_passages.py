"""A passage among all of its kind, against ranks that scikit-learn and plain code give."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_runs
import torch
from sklearn.metrics import label_ranking_average_precision_score

from honeclip.domains.probe_files import Item
from honeclip.errors import NonFiniteError
from honeclip.evaluation import passages

ITEMS = [
    Item("1", "steps", "a red circle", ("a red square", "a blue square")),
    Item("2", "steps", "a green bar", ("a green cross , number 1", "a black circle , number 2")),
    Item("3", "steps", "number 9 , a bar", ("a bar", "a red square", "a circle")),
    Item("4", "negation", "a circle", ("orange", "a purple cross")),
    Item("5", "causes", "number 1", ("number 2", "number 3")),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_runs.make_clip(tiny_runs.text_files(tmp_path_factory.mktemp("tiny") / "text"))


def test_ranks_are_those_of_all_texts_of_the_kind(clip):
    found = passages.retrieval(clip, ITEMS)
    assert set(found) == {"steps", "causes"}, "a denial is no passage"
    own = [item for item in ITEMS if item.kind == "steps"]
    texts = sorted({text for item in own for text in item.ordered})
    assert found["steps"]["passages"] == len(texts) == 6
    cosines = (clip.encode_text([item.anchor for item in own]) @ clip.encode_text(texts).T).numpy()
    truth = np.array([[text == item.ordered[0] for text in texts] for item in own]).astype(int)
    # with one right text a row, average precision is the reciprocal rank
    assert found["steps"]["mrr"]["value"] == pytest.approx(label_ranking_average_precision_score(truth, cosines))
    assert found["steps"]["R@1"]["value"] == pytest.approx((cosines.argmax(1) == truth.argmax(1)).mean())
    assert found["steps"]["chance"] == pytest.approx(np.mean([1 / rank for rank in range(1, 7)]))
    assert found["causes"]["passages"] == 2


def test_a_model_that_gives_every_text_the_same_finds_nothing(clip, monkeypatch):
    monkeypatch.setattr(passages, "embed_texts", lambda _, texts, **__: torch.ones(len(texts), 4) / 2)
    found = passages.retrieval(clip, ITEMS)
    assert found["steps"]["R@1"]["value"] == 0
    assert found["steps"]["mrr"]["value"] == pytest.approx(1 / 6)


def test_numbers_that_are_not_finite_are_an_error(clip, monkeypatch):
    monkeypatch.setattr(passages, "embed_texts", lambda _, texts, **__: torch.full((len(texts), 4), float("nan")))
    with pytest.raises(NonFiniteError):
        passages.retrieval(clip, ITEMS)
