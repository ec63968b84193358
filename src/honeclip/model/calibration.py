"""What was fitted on validation and travels with a model: the temperature of its probabilities, and thresholds of findings.

And how a temperature acts: it divides the logits before the softmax or the logistic function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Kind = Literal["softmax", "pairs"]
"""softmax: one of the labels is right; pairs: each by itself, prompts that say it is there against prompts that it is not."""


@dataclass(frozen=True)
class Calibration:
    """Fitted once, at the end of a run; `evaluation.calibrated` fits it.

    Attributes:
        kind: how logits become probabilities.
        labels: those that it was fitted for, sorted; for others it says nothing.
        temperature: divides the logits.
        thresholds: finding -> name ("specificity_95", "sensitivity_95") -> probability at or above which it is called.
        data: name of the data.
        pictures: of its validation split.
    """

    kind: Kind
    labels: tuple[str, ...]
    temperature: float
    thresholds: Mapping[str, Mapping[str, float]]
    data: str
    pictures: int

    def fits(self, kind: str, labels: Sequence[str]) -> bool:
        """Whether it was fitted for these labels, in whatever order."""
        return self.kind == kind and self.labels == tuple(sorted(labels))

    def to_json(self) -> dict[str, Any]:
        """For honeclip.json."""
        return asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`."""
        return Calibration(**{**stored, "labels": tuple(stored["labels"])})


def softmax(logits_NC: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities of C classes, one of which is true."""
    shifted = logits_NC / temperature
    grown = np.exp(shifted - shifted.max(-1, keepdims=True))
    return np.asarray(grown / grown.sum(-1, keepdims=True))


def logistic(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities of yes, one a logit; without overflow at either end."""
    scaled = logits / temperature
    small = np.exp(-np.abs(scaled))
    return np.where(scaled >= 0, 1 / (1 + small), small / (1 + small))
