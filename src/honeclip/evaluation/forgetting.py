"""What a run has won on its own data beside what it has lost on another set, and the models between its start and its end.

All in the selection score, on the same resampled queries. `choose` has the rule by which one of the models between is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from honeclip.evaluation.answers import Metrics
from honeclip.evaluation.gain import Score, apart
from honeclip.evaluation.intervals import Figure

KEPT = 0.95
"""Share of the gain on val that an interpolated model must keep."""

RULE = (
    f"Of the alphas that keep at least {KEPT:.0%} of the gain on val, the one that forgets least on the other set's val split; "
    "among equals the one with the larger gain, then the smaller alpha."
)


@dataclass(frozen=True)
class Sides:
    """One model's scores on both splits of the run's data and of the other set, and all METRICS by split."""

    val: Score
    test: Score
    other_val: Score
    other_test: Score
    metrics: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True)
class Between:
    """Models between a start and an end.

    Attributes:
        alphas: rising from 0, the start, to 1, the end.
        sides: one each.
        chosen: place of the one that is taken.
    """

    alphas: tuple[float, ...]
    sides: tuple[Sides, ...]
    chosen: int

    def gains(self, split: str) -> list[float]:
        """Score on the run's data minus that of the start, for each alpha; `split` is "val" or "test"."""
        values = [getattr(one, split).value for one in self.sides]
        return [value - values[0] for value in values]

    def forgotten(self, split: str) -> list[float]:
        """The start's score on the other set minus that of each alpha."""
        values = [getattr(one, f"other_{split}").value for one in self.sides]
        return [values[0] - value for value in values]

    def intervals(self, split: str) -> tuple[list[Figure | None], list[Figure | None]]:
        """Gain and forgetting of each alpha with their intervals, paired with the start; None where a picture could be read
        for one of the two only."""
        start = self.sides[0]
        pairs = [(getattr(start, split), getattr(one, split)) for one in self.sides]
        others = [(getattr(one, f"other_{split}"), getattr(start, f"other_{split}")) for one in self.sides]
        return [apart(*one) for one in pairs], [apart(*one) for one in others]

    def to_json(self) -> dict[str, Any]:
        """RUN/report/interpolation.json."""
        points: list[dict[str, Any]] = [{"alpha": alpha} for alpha in self.alphas]
        for split in ("val", "test"):
            gains, lost = self.intervals(split)
            for place, one in enumerate(self.sides):
                points[place][split] = {
                    "score": getattr(one, split).figure(),
                    "gain": gains[place],
                    "forgetting_score": getattr(one, f"other_{split}").figure(),
                    "forgetting": lost[place],
                    "metrics": one.metrics.get(split),
                }
        words = {"score": self.sides[0].val.words, "forgetting_score": self.sides[0].other_val.words}
        return {"rule": RULE, "chosen": self.alphas[self.chosen], "words": words, "points": points}


@dataclass(frozen=True)
class Forgetting:
    """Gain and loss of a run on test.

    Attributes:
        field: name of the run's data.
        other: name of the other set.
        before: scores of the start on both.
        after: scores of the model that is handed over.
        limit: what may be forgotten on val.
        between: the models between the two; None where there are none.
    """

    field: str
    other: str
    before: tuple[Score, Score]
    after: tuple[Score, Score]
    limit: float
    between: Between | None = None

    def to_json(self) -> dict[str, Any]:
        """For report.json."""
        sides = {}
        for name, old, new in zip((self.field, self.other), self.before, self.after, strict=True):
            change = apart(old, new)
            sides[name] = {"words": new.words, "before": old.figure(), "after": new.figure()}
            sides[name] |= {"change": change} if change else {}
        out: dict[str, Any] = {"scores": sides, "max_forgetting": self.limit}
        return out if self.between is None else {**out, "alpha": self.between.alphas[self.between.chosen]}


def choose(sides: Sequence[Sides]) -> int:
    """The place of the model that is taken, by `RULE`.

    Where nothing was won on val there is no share of it to keep: then every model that is no worse than the last one counts.

    Args:
        sides: in the order of alpha, the start first and the end last.
    """
    first, last = sides[0], sides[-1]
    won = last.val.value - first.val.value
    least = first.val.value + (KEPT * won if won > 0 else won) - 1e-12
    keeping = [place for place, one in enumerate(sides) if one.val.value >= least]
    return min(keeping, key=lambda place: (-sides[place].other_val.value, -sides[place].val.value, place))
