"""Verdicts and cells: the sentence says what the figures say, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from honeclip.evaluation import wording
from honeclip.evaluation.answers import Answers
from honeclip.evaluation.retrieval import Ranks


def figure(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def scored(recall: float, *, split: str = "test", ks: tuple[int, ...] = (1, 5, 10), **more) -> dict:
    way = {f"R@{k}": figure(recall) for k in ks} | {"median_rank": figure(7.5, 1)}
    found = {"data": "stamps", "split": split, "pairs": 126, "size_px": 224}
    return {**found, "retrieval": {"image_to_text": dict(way), "text_to_image": dict(way)}, **more}


def changed(value: float, half: float, ks: tuple[int, ...] = (1, 5, 10)) -> dict:
    way = {f"R@{k}": figure(value, half) for k in ks} | {"median_rank": figure(-value * 10, half * 10)}
    return {"retrieval": {"image_to_text": dict(way), "text_to_image": dict(way)}}


SHOT = {
    "accuracy": figure(0.5),
    "balanced_accuracy": figure(0.4),
    "macro_f1": figure(0.3),
    "ece": figure(0.2),
    "classes": 4,
    "chance": 0.25,
}
ANSWERS = Answers(Ranks(np.ones(80, dtype=np.int64), np.ones(100, dtype=np.int64)), np.arange(80), None, 126, "")


@pytest.mark.parametrize(
    ("before", "after", "difference", "said"),
    [
        (
            None,
            scored(0.5),
            None,
            "Image-to-text R@10 is 0.500 (95 % interval 0.450 to 0.550) on 126 held-out pairs of stamps.",
        ),
        (
            scored(0.1),
            scored(0.5),
            changed(0.4, 0.05),
            "Image-to-text R@10 rose from 0.100 to 0.500 (+0.400, 95 % interval +0.350 to +0.450) "
            "on 126 held-out pairs of stamps.",
        ),
        (
            scored(0.5),
            scored(0.4),
            changed(-0.1, 0.02),
            "Image-to-text R@10 fell from 0.500 to 0.400 (−0.100, 95 % interval −0.120 to −0.080) "
            "on 126 held-out pairs of stamps.",
        ),
        (
            scored(0.5),
            scored(0.51),
            changed(0.01, 0.02),
            "Image-to-text R@10 rose from 0.500 to 0.510 (+0.010, 95 % interval −0.010 to +0.030) "
            "on 126 held-out pairs of stamps: that could be chance.",
        ),
        (
            scored(0.1),
            scored(0.5),
            None,
            "Image-to-text R@10 rose from 0.100 to 0.500 on 126 held-out pairs of stamps.",
        ),
    ],
)
def test_the_verdict(before, after, difference, said):
    assert wording.verdict(before, after, difference) == said


def test_one_model_is_measured_against_chance():
    said = wording.verdict(None, scored(0.5), None, ANSWERS)
    assert said.startswith("Image-to-text R@10 is 0.500 (95 % interval 0.450 to 0.550, chance 0.100) on 126")
    assert "chance" not in wording.verdict(scored(0.1), scored(0.5), None, ANSWERS)


def test_no_change_is_said_as_such():
    said = wording.verdict(scored(0.5), scored(0.5), changed(0.0, 0.0))
    assert said.startswith("Image-to-text R@10 stayed at 0.500")
    assert "could be chance" not in said


def test_a_split_that_was_not_held_out_is_not_called_so():
    assert "126 val pairs of stamps" in wording.verdict(None, scored(0.5, split="val"), None)
    assert "126 train pairs" in wording.verdict(None, scored(0.5, split="train"), None)


@pytest.mark.parametrize(("ks", "named"), [((1, 5), "R@5"), ((1,), "R@1"), ((), "median rank is 7.5")])
def test_small_data_is_judged_by_what_there_is(ks, named):
    assert f"Image-to-text {named}" in wording.verdict(None, scored(0.5, ks=ks), None)


def test_a_lower_median_rank_is_better():
    said = wording.table(scored(0.1), scored(0.5), changed(0.4, 0.1), ANSWERS)
    rows = {row["name"]: row for row in said["groups"][0]["rows"]}
    _, _, change, _ = rows["median rank"]["cells"]
    assert (change["value"], change["word"], change["kind"]) == ("−4.0", "better", "good")
    worse = wording.table(scored(0.5), scored(0.1), changed(-0.4, 0.1), ANSWERS)["groups"][0]["rows"]
    assert {row["cells"][2]["word"] for row in worse} == {"worse"}


def test_what_is_not_clear_is_not_coloured():
    for row in wording.table(scored(0.5), scored(0.51), changed(0.01, 0.02), ANSWERS)["groups"][0]["rows"]:
        assert row["cells"][2]["word"] == "not clear"
        assert "kind" not in row["cells"][2]


def test_the_table_says_what_guessing_gives():
    found = wording.table(None, scored(0.5, zeroshot=SHOT), None, ANSWERS)
    assert found["columns"] == ["value", "chance"]
    groups = {group["title"]: {row["name"]: row["cells"] for row in group["rows"]} for group in found["groups"]}
    assert list(groups) == ["Image to text, 100 candidates", "Text to image, 80 candidates", "Zero-shot, 4 classes"]
    assert groups["Image to text, 100 candidates"]["R@5"][1] == {"value": "0.050"}
    assert groups["Text to image, 80 candidates"]["R@10"][1] == {"value": "0.125"}
    assert groups["Image to text, 100 candidates"]["median rank"][1] == {"value": "50.5"}
    assert groups["Zero-shot, 4 classes"]["accuracy"][1] == {"value": "0.250"}
    assert groups["Zero-shot, 4 classes"]["calibration error (ECE)"][1] is None
    assert groups["Image to text, 100 candidates"]["R@1"][0] == {"value": "0.500", "interval": "0.450 to 0.550"}


def test_chance_is_what_ranking_at_random_gives():
    """100 candidates, one of them right, ranked at random many times."""
    drawn = np.random.default_rng(0).integers(1, 101, 200_000)
    said = wording.table(None, scored(0.5), None, ANSWERS)["groups"][0]["rows"]
    chance = {row["name"]: float(row["cells"][1]["value"]) for row in said}
    for k in (1, 5, 10):
        assert chance[f"R@{k}"] == pytest.approx((drawn <= k).mean(), abs=0.003)
    assert chance["median rank"] == pytest.approx(np.median(drawn), abs=1)


def test_a_figure_that_only_one_model_has_leaves_its_place_empty():
    found = wording.table(scored(0.1, ks=(1,)), scored(0.5), None, ANSWERS)
    rows = {row["name"]: row["cells"] for row in found["groups"][0]["rows"]}
    assert rows["R@10"][0] is None
    assert rows["R@10"][2] is None
    assert all(len(cells) == len(found["columns"]) for cells in rows.values())


def test_the_chart_holds_only_shares_of_which_more_is_better():
    found = scored(0.5, zeroshot=SHOT)
    names, paths = zip(*wording.shares(found), strict=True)
    assert "Image to text R@1" in names
    assert "Zero-shot balanced accuracy" in names
    assert not {"median_rank", "ece"} & {path[-1] for path in paths}
    assert all(0 <= wording.at(found, path)["value"] <= 1 for path in paths)


def test_ranks_scores_and_facts_in_words():
    assert wording.rank(3, None, 120) == "right caption is number 3 of 120"
    assert wording.rank(1, 44, 120) == "right caption is number 1 of 120 (before: 44)"
    assert wording.score_words([{"score": 0.1}]) == "On the validation split: the domain's selection score."
    assert wording.score_words([{"score": 0.1, "words": "mean of both R@10"}]).endswith(": mean of both R@10.")
    assert wording.facts(scored(0.5), {"model": "starter", "device": "a CPU"}) == "starter · a CPU · 224 px"
    assert wording.facts(scored(0.5), {}) == "224 px"


def test_the_environment_is_a_row_each():
    found = wording.told({"images_per_second": 3.5, "machine": {"cpu": "x", "cores": 2}, "gone": None, "none": {}})
    assert found == [("images per second", "3.5"), ("machine", "cpu x, cores 2")]


def test_cosines_have_a_real_minus_sign():
    assert (wording.cosine(-0.128), wording.cosine(0.3)) == ("−0.13", "0.30")


def test_nested_facts_become_rows():
    nested = {"a": 1, "b": {"c": "x", "d": {"e": [1, 2]}}, "none": None, "empty": "", "no": False, "zero": 0}
    assert wording.flat(nested) == [("a", "1"), ("b.c", "x"), ("b.d.e", "1, 2"), ("no", "False"), ("zero", "0")]
