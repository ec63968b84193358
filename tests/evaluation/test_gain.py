"""Gain and forgetting in the selection score: the paired interval against resamples drawn here, and the rule of the choice."""

from __future__ import annotations

import numpy as np
import pytest

from honeclip.domains import domain as domains
from honeclip.evaluation.answers import Answers, metrics
from honeclip.evaluation.forgetting import Sides, choose
from honeclip.evaluation.gain import Score, apart, scored
from honeclip.evaluation.intervals import RESAMPLES, drawn_of, figure
from honeclip.evaluation.retrieval import Ranks

PAIRS = 80


def answers(seed: int, worst: int, queries: str = "same") -> Answers:
    random = np.random.default_rng(seed)
    ranks = Ranks(*(random.integers(1, worst, PAIRS) for _ in range(2)))
    return Answers(ranks, np.arange(PAIRS), None, PAIRS, queries)


def score(found: Answers) -> Score:
    return scored(metrics(found, data="d", split="test", size_px=32), found, domains.load("general"), 0)


def test_the_change_is_that_of_both_on_the_same_resampled_queries():
    old, new = answers(0, 80), answers(1, 30)
    drawn = np.random.default_rng(0).integers(0, PAIRS, (RESAMPLES, drawn_of(PAIRS)))
    values, draws = [], []
    for one in (old, new):
        hits = [ranks <= 10 for ranks in (one.ranks.image_to_text, one.ranks.text_to_image)]
        values.append(np.mean([hit.mean() for hit in hits]))
        draws.append(np.mean([hit[drawn].mean(1) for hit in hits], axis=0))
    found = apart(score(old), score(new))
    assert found == pytest.approx(figure(values[1] - values[0], draws[1] - draws[0]))
    assert found["low"] > 0
    assert score(new).figure() == pytest.approx(figure(values[1], draws[1]))


def test_models_that_were_asked_other_things_have_no_change():
    assert apart(score(answers(0, 80)), score(answers(0, 80, "other"))) is None


def sides(*values: tuple[float, float]) -> list[Sides]:
    """Models with these scores on val of the run's data and of the other set."""
    one = {value: Score(value, "", np.zeros(1), "") for pair in values for value in pair}
    return [Sides(one[own], one[own], one[other], one[other]) for own, other in values]


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([(0.0, 0.9), (0.5, 0.9), (0.96, 0.7), (1.0, 0.5)], 2),  # keeps 96 % and forgets less
        ([(0.0, 0.9), (0.5, 0.9), (0.94, 0.7), (1.0, 0.5)], 3),  # 94 % is too little
        ([(0.0, 0.9), (0.97, 0.7), (0.99, 0.7), (1.0, 0.5)], 2),  # equals: the larger gain
        ([(0.0, 0.9), (1.0, 0.7), (1.0, 0.7), (1.0, 0.5)], 1),  # equals in both: the smaller alpha
        ([(0.0, 0.9), (1.2, 0.95), (1.1, 0.8), (1.0, 0.5)], 1),  # better than the end, and nothing forgotten
        ([(0.5, 0.9), (0.4, 0.8), (0.3, 0.5)], 0),  # nothing was won: the start
    ],
)
def test_the_choice_keeps_most_of_the_gain_and_forgets_least(values, chosen):
    assert choose(sides(*values)) == chosen
