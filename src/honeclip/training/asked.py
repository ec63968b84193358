"""What a run is measured on, and the one way in which it is: before the first step, between steps, and at the end."""

from __future__ import annotations

from dataclasses import dataclass

from honeclip.data.pairs import Pairs
from honeclip.domains.domain import Domain
from honeclip.embedding.features import Features, Progress
from honeclip.evaluation.evaluate import score
from honeclip.evaluation.report import Report
from honeclip.model.clip import Clip


@dataclass(frozen=True)
class Asked:
    """One split of a run's data and what it is asked with.

    Attributes:
        pairs: its rows; empty where the data has no such split.
        split: its name in METRICS.
        domain: prompts of the labels, and the selection score.
        labels: the distinct labels of the whole data set.
        data_name: how METRICS name the data.
        seed: of the bootstrap and the example pictures.
    """

    pairs: Pairs
    split: str
    domain: Domain
    labels: tuple[str, ...]
    data_name: str
    seed: int

    def report(
        self,
        clip: Clip,
        features: Features,
        repeat: str = "",
        progress: Progress | None = None,
        healthy: bool = False,
    ) -> Report:
        """What a model gets on it; see `evaluation.evaluate.score` for the arguments and errors."""
        return score(
            clip,
            self.pairs,
            self.domain,
            labels=self.labels,
            data_name=self.data_name,
            split=self.split,
            seed=self.seed,
            features=features,
            healthy=healthy,
            repeat=repeat,
            progress=progress,
        )
