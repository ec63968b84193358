"""What a suite is given: other splits, embedded once, and never the one that is asked; groups by column; shuffled labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from honeclip.evaluation import suites
from honeclip.evaluation.controls import at_chance, shuffled_auroc
from honeclip.evaluation.subgroups import SMALLEST, by_column
from honeclip.evaluation.suite import split_of


def test_another_split_is_embedded_when_asked_for_and_once(pairs, embeddings):
    everything = pairs(embeddings(30, 0))
    everything = replace(everything, splits=("train",) * 20 + ("test",) * 10)
    embedded = []

    def embed(rows):
        embedded.append(len(rows))
        return embeddings(len(rows), 0)

    other = suites.others(everything, "test", embed, 0)
    assert embedded == []
    train = other("train")
    assert other("train") is train
    assert embedded == [20]
    assert train.pairs.rows == tuple(range(1, 21))
    assert other("test") is None, "what is measured is never given to choose something on"
    assert other("val") is None, "there is none"
    assert embedded == [20]


def test_a_large_split_is_drawn_from(pairs, embeddings, monkeypatch):
    monkeypatch.setattr(suites, "MOST_ROWS", 8)
    everything = replace(pairs(embeddings(30, 0)), splits=("train",) * 20 + ("test",) * 10)
    found = [
        suites.others(everything, "test", lambda rows: embeddings(len(rows), 0), seed)("train") for seed in (0, 0, 1)
    ]
    assert [(len(one.pairs), one.total_rows) for one in found] == [(8, 20)] * 3
    assert found[0].pairs.rows == found[1].pairs.rows != found[2].pairs.rows


def test_a_picture_of_several_rows_is_asked_once_with_all_its_labels(pairs, embeddings):
    of = embeddings(6, 0, file_of=[0, 0, 1, 2, 3, 3])
    found = split_of("test", replace(pairs(of), labels=(("a",), ("b",), (), ("a", "c"), ("c",), ("c",))), of)
    assert found.rows.tolist() == [0, 2, 3, 4]
    assert found.labels == (("a", "b"), (), ("a", "c"), ("c",))


def test_groups_of_columns():
    sex, site, key = ["F", "M", "", "F "] * 10, ["x"] * 40, [str(number) for number in range(40)]
    rows = np.arange(1, 40)  # places count along the pictures, not along the rows
    found, many = by_column({"sex": sex, "site": site, "key": key}, rows)
    assert many == ("key",)
    assert {group.value: len(group.places) for group in found["sex"]} == {"F": 19, "M": 10, "(empty)": 10}
    assert list(found) == ["sex"]
    assert [sex[rows[place]] for place in found["sex"][1].places] == ["M"] * 10
    assert [group.scored for group in found["sex"]] == [len(group.places) >= SMALLEST for group in found["sex"]]


def test_shuffled_labels_come_out_at_chance_however_good_the_scores():
    truth = np.arange(200) < 70
    for scores in (truth + 0.0, -1.0 * truth, np.random.default_rng(0).random(200)):
        found = shuffled_auroc(scores, truth, seed=0)
        assert found["value"] == pytest.approx(0.5, abs=0.01)
        assert at_chance(found)
    random = np.random.default_rng(0)
    drawn = [roc_auc_score(random.permutation(truth), truth + 0.0) for _ in range(2000)]
    found = shuffled_auroc(truth + 0.0, truth, seed=1)
    assert found["high"] - found["low"] == pytest.approx(np.ptp(np.percentile(drawn, [2.5, 97.5])), rel=0.25)
    assert not at_chance({"value": 0.7, "low": 0.6, "high": 0.8})
    assert shuffled_auroc(np.ones(3), np.zeros(3, dtype=bool), seed=0) is None
