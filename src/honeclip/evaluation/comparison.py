"""What a comparison of models over data sets found, and compare.json of it. `compare` makes it, `compare_page` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.data.pairs import Pairs
from honeclip.evaluation.answers import Answers, Metrics, paired_difference
from honeclip.evaluation.intervals import Figure
from honeclip.evaluation.paired import Goes
from honeclip.evaluation.retrieval import Ids
from honeclip.evaluation.selection import Weights

ALPHA = 0.05
"""A difference is clear where its p-value, corrected for the whole table, is below."""

METHOD = (
    "p: two-sided, of a paired randomisation test: the two models' outcomes are swapped at random picture by picture, the "
    "captions of a picture with it, and p is the share of swaps with a difference at least as large (Noreen 1989; Smucker, "
    "Allan and Carterette 2007)."
)


@dataclass(frozen=True)
class Change:
    """A model's score minus the reference's on the same queries, and what chance alone would say to it.

    Attributes:
        figure: the difference with its 95 % interval, which is corrected for nothing.
        p: of the randomisation test.
        p_holm: corrected for all differences of the table.
    """

    figure: Figure
    p: float
    p_holm: float

    @property
    def clear(self) -> bool:
        """Whether it stays clear of chance after the correction."""
        return self.p_holm < ALPHA

    def to_json(self) -> dict[str, Any]:
        """The figure and the p-values in one object."""
        return {**self.figure, "p": self.p, "p_holm": self.p_holm, "clear": self.clear}


@dataclass(frozen=True, eq=False)
class Cell:
    """One model on one data set.

    Attributes:
        model: its source.
        data: the data set's name.
        metrics: METRICS.
        answers: the outcome of every query.
        nearest: (I,) of each picture the caption that the model finds nearest, as an index.
        cosine: (I,) of picture and that caption.
        score: the data set's score with its interval.
        changes: "score", and "accuracy" where there are labels -> the difference to the reference; empty for the reference
            itself and where the two were not asked the same.
    """

    model: str
    data: str
    metrics: Metrics
    answers: Answers
    nearest: Ids
    cosine: NDArray[np.float64]
    score: Figure
    changes: dict[str, Change] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set of a comparison.

    Attributes:
        name: as METRICS name it.
        pairs: the rows of the split.
        labels: the distinct labels of the whole data set.
        weights: the figures that make its score.
        words: what the score is.
        captions: the distinct captions, which `Cell.nearest` points into.
        goes: which picture each query goes with.
    """

    name: str
    pairs: Pairs
    labels: tuple[str, ...]
    weights: Weights
    words: str
    captions: tuple[str, ...]
    goes: Goes


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models x data sets.

    Attributes:
        models: sources, in the order given.
        against: the reference, one of them.
        data: the data sets.
        split: of all of them.
        cells: model -> data set's name -> what it got.
        swaps: draws of the randomisation test.
        seed: of bootstrap, test and example pictures.
        environment: device, machine, versions.
        notes: what a reader must know, one sentence each.
        repeat: the command that gives the same figures.
    """

    models: tuple[str, ...]
    against: str
    data: tuple[DataSet, ...]
    split: str
    cells: dict[str, dict[str, Cell]]
    swaps: int
    seed: int
    environment: dict[str, Any]
    notes: tuple[str, ...]
    repeat: str

    @property
    def changes(self) -> list[tuple[Cell, str, Change]]:
        """Every difference that the correction counts: cell, "score" or "accuracy", difference."""
        return [
            (cell, name, change)
            for row in self.cells.values()
            for cell in row.values()
            for name, change in cell.changes.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """What `compare --json` prints and compare.json holds."""
        return {
            "models": list(self.models),
            "against": self.against,
            "data": [one.name for one in self.data],
            "split": self.split,
            "matrix": [self._cell(self.cells[model][one.name], one) for model in self.models for one in self.data],
            "test": {
                "p": METHOD,
                "swaps": self.swaps,
                "resolution": 1 / (self.swaps + 1),
                "correction": "Holm 1979",
                "differences": len(self.changes),
                "alpha": ALPHA,
            },
            "environment": self.environment,
            "notes": list(self.notes),
            "repeat": self.repeat,
        }

    def _cell(self, cell: Cell, data: DataSet) -> dict[str, Any]:
        out = {
            "model": cell.model,
            "data": cell.data,
            "score": {**cell.score, "words": data.words},
            "metrics": cell.metrics,
        }
        if cell.changes:
            reference = self.cells[self.against][cell.data]
            all_of_them = paired_difference(reference.answers, cell.answers, self.seed) or {}
            corrected = {name: change.to_json() for name, change in cell.changes.items()}
            out["difference"] = {"against": self.against, **corrected, **all_of_them}
        return out
