"""The scientific suite through `honeclip.evaluate`: figures against scikit-learn, galleries against counting by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tiny_runs
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

import honeclip
from honeclip.evaluation.within import ranked
from honeclip.model.load import load


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    return load(str(tiny_runs.model_folder(place / "model", tiny_runs.text_files(place / "text"))), device="cpu")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """48 test pictures of four shapes, which are the chapters; every caption is another, in words that the model knows."""
    splits = ("test",) * 48 + ("train",) * 12
    return tiny_runs.draw(tmp_path_factory.mktemp("figures") / "data", 60, splits, labels=True)


@pytest.fixture(scope="module")
def report(clip, figures):
    return honeclip.evaluate(clip, figures, domain="scientific")


@pytest.fixture(scope="module")
def asked(clip, figures):
    with (figures / "pairs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    image = clip.encode_image([figures / row["image"] for row in rows]).double().numpy()
    text = clip.encode_text([row["caption"] for row in rows]).double().numpy()
    return image @ text.T, np.array([row["label"] for row in rows])


def test_mrr_and_ndcg_are_scikit_learns(report, asked):
    cosine, _ = asked
    right = np.eye(len(cosine))
    found = report.metrics["scientific"]
    for way, scores in (("image_to_text", cosine), ("text_to_image", cosine.T)):
        assert found[way]["mrr"]["value"] == pytest.approx(
            label_ranking_average_precision_score(right, scores), abs=2e-3
        )
        assert found[way]["ndcg"]["value"] == pytest.approx(ndcg_score(right, scores, k=10), abs=5e-3)
    for name in ("mrr", "ndcg"):
        both = [found[way][name]["value"] for way in ("image_to_text", "text_to_image")]
        assert found[name]["value"] == pytest.approx(np.mean(both))
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_within_and_across_are_counted(report, asked):
    cosine, labels = asked
    found = report.metrics["scientific"]
    same = labels[:, None] == labels[None]
    for name, there in (("within", same), ("across", ~same)):
        both = []
        for scores in (cosine, cosine.T):
            ranks = [
                1 + sum(there[i, j] and i != j and scores[i, j] >= scores[i, i] for j in range(48)) for i in range(48)
            ]
            both.append((1 / np.array(ranks)).mean())
        assert found[name]["mrr"]["value"] == pytest.approx(np.mean(both), abs=5e-3)
    assert found["paper"] == "label"
    assert (found["within"]["candidates"], found["across"]["candidates"]) == (12, 37)
    assert found["within"]["chance_mrr"] == pytest.approx((1 / np.arange(1, 13)).mean())
    assert set(found["of"]) == {"circle", "square", "cross", "bar"}


def test_a_row_without_a_paper_is_not_asked_within(clip, figures, tmp_path):
    lines = (figures / "pairs.csv").read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ","
    (tmp_path / "images").symlink_to(figures / "images")
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    found = honeclip.evaluate(clip, tmp_path, domain="scientific").metrics["scientific"]
    assert (found["within"]["queries"], found["across"]["queries"]) == (94, 96)


def test_embeddings_that_are_all_the_same_rank_last():
    """A constant model must not score: every wrong candidate ties, and ties count against it."""
    constant, right = np.ones((6, 4)) / 2, np.eye(6, dtype=bool)
    same = np.zeros((6, 6), dtype=bool)
    same[:3, :3] = same[3:, 3:] = True
    assert ranked(constant, constant, right, same, within=True).ranks.tolist() == [3] * 6
    assert ranked(constant, constant, right, same, within=False).ranks.tolist() == [4] * 6


def test_a_query_without_wrong_candidates_is_not_asked():
    same = np.eye(3, dtype=bool)
    found = ranked(np.eye(3), np.eye(3), np.eye(3, dtype=bool), same, within=True)
    assert len(found.queries) == 0


def test_the_methods_paragraph_has_the_numbers(report, tmp_path):
    said = report.metrics["scientific"]["methods"]
    assert "48 images, 48 distinct captions" in said
    assert f"{report.metrics['scientific']['mrr']['value']:.3f}" in said
    assert "torch " in said
    page = report.save(tmp_path).read_text(encoding="utf-8")
    assert "For a methods section" in page
    assert "Hard and easy candidates" in page
