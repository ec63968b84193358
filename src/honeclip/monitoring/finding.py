"""What a rule is given of a run, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that looks sick.

    Attributes:
        rule: its name in docs/watching.md, such as "collapse".
        says: what is wrong, in a sentence with the figures that it was seen in.
        advice: which setting to try, in a sentence.
        step: the step from which on it was seen.
    """

    rule: str
    says: str
    advice: str
    step: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `check --json` lists it under "sick"."""
        return {"rule": self.rule, "says": self.says, "try": self.advice, "step": self.step}


@dataclass(frozen=True)
class Told:
    """What a run has told so far.

    Attributes:
        steps: step events that the run kept, in order, each with a finite loss.
        looks: evaluation events with a score, those at the size of the images that the run has now.
        events: all of them, what a run took back among them.
    """

    steps: Sequence[Event]
    looks: Sequence[Event]
    events: Sequence[Event]


def is_number(value: Any) -> bool:
    """Whether a field holds a finite number: it may be missing, null, or what a newer version writes there."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
