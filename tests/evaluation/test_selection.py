"""The one number by which checkpoints are compared: what it is made of, its interval, and who follows it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from honeclip.domains import domain as domains
from honeclip.evaluation import retrieval, wording
from honeclip.evaluation.answers import answer, evaluate_embeddings, metrics, paired_difference, sections
from honeclip.evaluation.intervals import bootstrap
from honeclip.evaluation.report import Report, write
from honeclip.evaluation.retrieval import Ranks
from honeclip.evaluation.selection import drawn, section, selection_score, used


def scores(image_to_text: dict[str, float], text_to_image: dict[str, float], balanced: float | None = None) -> dict:
    found = {
        "retrieval": {
            way: {name: {"value": value} for name, value in one.items()}
            for way, one in (("image_to_text", image_to_text), ("text_to_image", text_to_image))
        }
    }
    shot = {"balanced_accuracy": {"value": balanced}, "accuracy": {"value": 0.7}, "classes": 4, "chance": 0.25}
    return found if balanced is None else {**found, "zeroshot": shot}


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


BOTH = {"R@10": 2.0, "balanced_accuracy": 1.0}


@pytest.mark.parametrize(
    ("found", "weights", "score", "words"),
    [
        (
            scores(*FULL, 0.8),
            BOTH,
            (2 * 0.5 + 0.8) / 3,
            "weighted mean of R@10 (2) and zero-shot balanced accuracy (1)",
        ),
        (
            scores(*FULL, 0.8),
            {"median_rank": 0.5, "R@1": 1.0, "accuracy": 0.5},
            (0.5 * (1 / 12 + 1 / 8) / 2 + 0.1 + 0.5 * 0.7) / 2,
            "weighted mean of 1 / median rank (0.5), R@1 (1) and zero-shot accuracy (0.5)",
        ),
        (
            scores(*SMALL, 0.8),
            BOTH,
            0.8,
            "zero-shot balanced accuracy, without R@10, which this split cannot give",
        ),
        (
            scores(*FULL),
            BOTH,
            0.5,
            "mean of both R@10, without zero-shot balanced accuracy, which this split cannot give",
        ),
        (
            scores(*TINY),
            {"R@1": 1.0, "macro_f1": 1.0, "median_rank": 1.0},
            0.375,
            "mean of both 1 / median rank, without R@1 and zero-shot macro F1, which this split cannot give",
        ),
    ],
)
def test_a_domains_own_metrics_by_their_weights(found, weights, score, words):
    assert selection_score(found, "metrics", weights) == (pytest.approx(score), words)


def test_own_metrics_of_which_the_split_has_none_fall_back():
    assert selection_score(scores(*SMALL), "metrics", BOTH) == (
        pytest.approx(0.4),
        "mean of both R@5, without R@10 and zero-shot balanced accuracy, which this split cannot give",
    )


def test_other_selections_do_not_look_at_the_weights():
    assert used(scores(*FULL, 0.9), "auto", {"accuracy": 1.0}) == {"R@10": 1.0}


def test_a_better_model_is_selected(embeddings, labels, classes):
    found = [
        selection_score(
            evaluate_embeddings(embeddings(good=good), labels(60), classes, data="d", split="val", size_px=32), "auto"
        )[0]
        for good in (5, 30, 60)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_the_score_drawn_is_the_score_of_metrics(embeddings, labels, classes):
    """Two ways to one number: from the figures of METRICS, and from the outcomes of the queries."""
    asked = answer(embeddings(), labels(60), classes)
    found = metrics(asked, data="d", split="test", size_px=32)
    weights = {"R@1": 1.0, "R@10": 2.0, "median_rank": 0.3, "macro_f1": 1.5}
    value, draws = drawn(sections(asked), weights)
    assert value == pytest.approx(selection_score(found, "metrics", weights)[0], abs=1e-12)
    assert draws.shape == (2000,)
    assert draws.std() > 0.01


def test_one_figure_of_zero_shot_has_the_interval_that_it_has_in_metrics(embeddings, labels, classes):
    asked = answer(embeddings(), labels(60), classes)
    found = metrics(asked, data="d", split="test", size_px=32, seed=3)
    own = section(found, sections(asked), "balanced_accuracy", None, 3)
    assert own["score"] == pytest.approx(found["zeroshot"]["balanced_accuracy"], abs=1e-12)
    assert section(found, sections(asked), "auto", None, 3) is None, "retrieval leads a report anyway"


def test_a_pair_that_is_hard_both_ways_is_drawn_both_ways_at_once():
    """The mean of two equal directions is no surer than one of them, as it would be if they were drawn apart."""
    hard = np.random.default_rng(0).integers(1, 30, 60)
    found = retrieval.statistics(Ranks(hard, hard))
    draws = drawn(found, {"R@10": 1.0}, seed=5)[1]
    assert np.array_equal(draws, bootstrap(*found["image_to_text"], seed=5)["R@10"])


@pytest.fixture
def by_metrics(report, embeddings):
    """Two reports whose domain selects by two figures, as `score` makes them."""

    def make(good: int) -> Report:
        made = report(embeddings(good=good))
        own = section(made.metrics, sections(made.answers), "metrics", BOTH, 0)
        return Report(**{**vars(made), "metrics": {**made.metrics, "selection": own}})

    return make


def test_the_report_begins_with_what_the_domain_selects_by(by_metrics, tmp_path):
    before, after = by_metrics(5), by_metrics(40)
    write(tmp_path, before=before, after=after)
    stored = json.loads((tmp_path / "report.json").read_text())
    change = stored["difference"]["selection"]["score"]
    new, old = (stored[name]["selection"]["score"]["value"] for name in ("after", "before"))
    assert change["value"] == pytest.approx(new - old)
    assert change["low"] < change["value"] < change["high"]
    said = f"Weighted mean of R@10 (2) and zero-shot balanced accuracy (1) rose from {old:.3f} to {new:.3f} ("
    assert said in (tmp_path / "index.html").read_text()


def test_the_change_of_the_score_is_paired(by_metrics):
    one = by_metrics(30)
    found = paired_difference(one.answers, one.answers, 0, one.metrics["selection"]["weights"])
    assert found["selection"]["score"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_one_model_by_balanced_accuracy_is_measured_against_chance(report, embeddings):
    made = report(embeddings(good=30))
    own = section(made.metrics, sections(made.answers), "balanced_accuracy", None, 0)
    said = wording.verdict(None, {**made.metrics, "selection": own}, None, made.answers)
    assert said.startswith("Zero-shot balanced accuracy is 0.")
    assert ", chance 0.333) on 60 held-out pairs of stamps" in said


def test_the_presets_select_by_figures_that_there_are():
    for name in ("general", "medical", "industrial", "scientific"):
        found = domains.load(name)
        assert used(scores(*FULL, 0.9), found.selection, found.metrics)
