"""Durations and learning rates against their formulas."""

from __future__ import annotations

import math

import pytest

from honeclip import schedule
from honeclip.schedule import Duration, parse, to_steps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (40, Duration(40, "steps")),
        ("40", Duration(40, "steps")),
        ("40 steps", Duration(40, "steps")),
        ("3 epochs", Duration(3, "epochs")),
        ("1 epoch", Duration(1, "epochs")),
        ("10%", Duration(10, "percent")),
        ("15 min", Duration(15, "minutes")),
        ("2 h", Duration(120, "minutes")),
        (" 0.5 epochs ", Duration(0.5, "epochs")),
    ],
)
def test_every_form_is_read(text, expected):
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "ten", "3 days", "-4", "2.5", "110%", True, "3 epochs 4"])
def test_what_is_no_duration_is_refused_with_the_forms(text):
    with pytest.raises(ValueError, match="duration|whole number|share"):
        parse(text)


def test_steps_of_each_unit():
    assert to_steps(parse(40), 3.5, None, None) == 40
    assert to_steps(parse("3 epochs"), 3.5, None, None) == 11
    assert to_steps(parse("10%"), 3.5, 200, None) == 20
    assert to_steps(parse("10%"), 3.5, 3, None) == 1
    assert to_steps(parse("15 min"), 3.5, None, 2.0) == 450
    assert to_steps(parse("0%"), 3.5, 200, None) == 0


def test_what_cannot_be_worked_out_is_refused():
    with pytest.raises(ValueError, match="share of the run"):
        to_steps(parse("10%"), 1.0, None, None)
    with pytest.raises(ValueError, match="measured time"):
        to_steps(parse("1 min"), 1.0, 10, None)


def test_warm_up_and_cosine_are_the_formula():
    factor = schedule.learning_rate(100, 10)
    for step in range(10):
        assert factor(step) == pytest.approx((step + 1) / 10)
    for step in range(10, 100):
        assert factor(step) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 10) / 90)))
    assert factor(1000) == 0


def test_the_other_shapes():
    assert schedule.learning_rate(10, 0, "constant")(9) == 1
    assert [schedule.learning_rate(4, 0, "linear")(step) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]
