"""Durations in any unit, the batch and the learning rate as pure functions of the step.

A duration is one of `40` (steps), `"3 epochs"`, `"10%"` (of the run) or `"15 min"`. Everything here is arithmetic: a
resumed run asks the same questions and gets the same answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["steps", "epochs", "percent", "minutes"]

_FORMS = '40 (steps), "3 epochs", "10%" or "15 min"'
_PATTERN = re.compile(r"^\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>steps?|epochs?|%|min(?:utes?)?|h(?:ours?)?)?\s*$")


@dataclass(frozen=True)
class Duration:
    """A length of training: a value and its unit (steps, epochs, percent of the run, minutes)."""

    value: float
    unit: Unit

    def __str__(self) -> str:
        """The duration as it would be written in a config file."""
        number = f"{self.value:g}"
        return {"steps": number, "epochs": f"{number} epochs", "percent": f"{number}%", "minutes": f"{number} min"}[
            self.unit
        ]


def parse(text: str | int | float) -> Duration:
    """Reads a duration.

    Raises:
        ValueError: the text is none of the four forms, or a number of steps is no whole number.
    """
    match = _PATTERN.match(str(text))
    if match is None or isinstance(text, bool):
        raise ValueError(f"{text!r} is no duration; write one of {_FORMS}")
    value, unit = float(match["value"]), match["unit"] or "steps"
    if unit.startswith("h"):
        return Duration(value * 60, "minutes")
    if unit.startswith("min"):
        return Duration(value, "minutes")
    if unit == "%":
        if value > 100:
            raise ValueError(f"{text!r} is more than the whole run; a share lies in 0% to 100%")
        return Duration(value, "percent")
    if unit.startswith("epoch"):
        return Duration(value, "epochs")
    if value != int(value):
        raise ValueError(f"{text!r} is no whole number of steps; write one of {_FORMS}")
    return Duration(value, "steps")


def to_steps(
    duration: Duration, steps_per_epoch: float, total_steps: int | None, seconds_per_step: float | None
) -> int:
    """How many whole steps a duration is; never under 1 for a duration above zero.

    Args:
        duration: what was asked for.
        steps_per_epoch: rows of the train split over the effective batch; may be a fraction.
        total_steps: the length of the run, for a share of it; None while that length itself is being worked out.
        seconds_per_step: measured on this machine, for minutes; None where nothing was measured.

    Raises:
        ValueError: a share of the run where the run's length is unknown, or minutes where no step was timed.
    """
    if duration.value == 0:
        return 0
    if duration.unit == "steps":
        return int(duration.value)
    if duration.unit == "epochs":
        return max(1, math.ceil(duration.value * steps_per_epoch - 1e-9))
    if duration.unit == "percent":
        if total_steps is None:
            raise ValueError(f"{duration} is a share of the run and cannot be the length of the run itself")
        return max(1, round(total_steps * duration.value / 100))
    if seconds_per_step is None:
        raise ValueError(f"{duration} needs a measured time a step")
    return max(1, int(duration.value * 60 / seconds_per_step))


def learning_rate(total_steps: int, warmup_steps: int, shape: str = "cosine") -> Callable[[int], float]:
    """The factor on every group's base learning rate, as a function of the step (0-based).

    Linear from 1/warmup to 1 over the warm-up, then a half cosine to zero at `total_steps` (Loshchilov & Hutter 2017,
    arXiv 1608.03983), a straight line to zero, or constant.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        if shape == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return 1.0 - min(1.0, done) if shape == "linear" else 1.0

    return factor
