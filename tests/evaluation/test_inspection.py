"""Rates, costs and thresholds of an inspection, against counting by hand; requirements files, good and bad."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from honeclip.errors import BadInput
from honeclip.evaluation.inspection import Costs, cheapest_threshold, cost, exact, rates
from honeclip.evaluation.requirements import read, share

SCORES = np.array([0.9, 0.8, 0.8, 0.6, 0.4, 0.4, 0.3, 0.1])
DEFECTIVE = np.array([1, 1, 0, 1, 0, 1, 0, 0], dtype=bool)
WHOLE = np.arange(8)[None]


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.5, 0.8, 0.95, math.inf])
def test_rates_and_cost_are_counted(threshold):
    (good, stopped), (escaped, _) = confusion_matrix(DEFECTIVE, threshold <= SCORES, labels=[False, True])
    found = rates(SCORES, DEFECTIVE, threshold)(WHOLE)
    assert found["escape_rate"][0] == escaped / 4
    assert found["overkill_rate"][0] == stopped / (stopped + good)
    said = cost(SCORES, DEFECTIVE, threshold, Costs(7.0, 2.0))(WHOLE)["cost_per_part"][0]
    assert said == pytest.approx((7 * escaped + 2 * stopped) / 8)


def test_a_resample_without_a_defective_part_has_no_escape_rate():
    found = rates(SCORES, DEFECTIVE, 0.5)(np.array([[2, 4, 6, 7]]))
    assert np.isnan(found["escape_rate"][0])
    assert found["overkill_rate"][0] == 0.25


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.5, 10.0, 1000.0])
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_is_cheaper(ratio, seed):
    draw = np.random.default_rng(seed)
    scores, defective = draw.integers(0, 12, 40) / 12, draw.random(40) < 0.3  # many ties
    costs = Costs(ratio, 1.0)

    def paid(threshold):
        return cost(scores, defective, threshold, costs)(np.arange(40)[None])["cost_per_part"][0]

    every = [*np.unique(scores), math.inf]
    best = cheapest_threshold(scores, defective, costs)
    assert paid(best) == min(map(paid, every))
    assert best == max(one for one in every if paid(one) == paid(best)), "of equals the one that stops the fewest"


def test_exact_intervals_are_those_of_the_tables():
    # Clopper and Pearson: no event in 10 allows up to 1 - 0.025^(1/10)
    assert exact(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert exact(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert exact(10, 10) == pytest.approx((0.025**0.1, 1.0))
    assert exact(0, 0) == (0.0, 1.0)


def test_a_rate_must_be_shown_and_not_only_seen(tmp_path):
    asked = read(_file(tmp_path, "escape_rate = 0.05"))
    few, many = share(asked, "escape_rate", 0.05, 0, 10), share(asked, "escape_rate", 0.05, 0, 72)
    assert (few.passed, many.passed) == (False, True)
    assert "72 parts without one would" in few.why
    assert not share(asked, "escape_rate", 0.05, 0, 71).passed
    by_value = read(_file(tmp_path, 'escape_rate = 0.05\nproof = "value"'))
    assert share(by_value, "escape_rate", 0.05, 0, 10).passed
    assert not share(by_value, "escape_rate", 0.05, 1, 10).passed
    assert not share(asked, "defects.crack", 0.5, 0, 0).passed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("escape = 0.1", "escape: unknown key; nearest: escape_rate"),
        ("escape_rate = 1.5", "escape_rate: Input should be less than or equal to 1"),
        ("escape_rate = ", "Invalid value"),
        ('part = "tile"', "nothing is asked for"),
        ("cost_per_part = 3.0", "needs \\[costs\\]"),
        ("cost_per_part = 3.0\n[costs]\nescape = -1", "costs.escape: Input should be greater than 0"),
        ("[defects]\ncrack = nan", "defects.crack"),
        (
            "cost_per_part = 3.0\n[costs]\noverkil = 2\nescape = 1",
            "costs.overkil: unknown key; nearest: costs.overkill",
        ),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path, text, said):
    with pytest.raises(BadInput, match=said) as raised:
        read(_file(tmp_path, text))
    assert "needs.toml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="no such file|No such file"):
        read(tmp_path / "none.toml")


def _file(folder, text):
    file = folder / "needs.toml"
    file.write_text(text, encoding="utf-8")
    return file
