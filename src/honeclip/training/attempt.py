"""A run in memory: a config tried on data and a model that are loaded once, without a run folder, report or resume.

What `tune` and side-by-side comparisons of settings ask for. The steps are those of `fit`: same order, same stages, same
exact step; only nothing is written down, and a size of the images that would begin by plateau begins at its latest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from honeclip.config import Config
from honeclip.evaluation.report import Report
from honeclip.model.clip import copied
from honeclip.model.resize import resize
from honeclip.schedule import parse, to_steps
from honeclip.training import forgetting, mining, resolution, run, setup, stages, start
from honeclip.training import frozen as features
from honeclip.training.asked import Asked
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, train
from honeclip.training.optimizer import held
from honeclip.training.prepared import Prepared
from honeclip.training.validation import measure


@dataclass(frozen=True, eq=False)
class Bench:
    """What every attempt shares.

    Attributes:
        prepared: data, device, domain and the model as it begins, which no attempt changes.
        features: of the train split by the towers whose bodies do not learn, as they were asked for.
    """

    prepared: Prepared
    features: Known


@dataclass(frozen=True)
class Scored:
    """An evaluation of an attempt.

    Attributes:
        step: steps done.
        total_steps: of the whole attempt.
        score: the domain's selection score on val.
        best: the best score so far; None where all of them had forgotten more than they may.
    """

    step: int
    total_steps: int
    score: float
    best: float | None


@dataclass(eq=False)
class Attempt:
    """One config's model while it learns, the best weights that it had, and where something must not be forgotten those that
    it began with."""

    bench: Bench
    config: Config
    prepared: Prepared
    best: float | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    begun: dict[str, Tensor] = field(default_factory=dict)

    def scores(self) -> Iterator[Scored]:
        """Trains; yields at each evaluation on val. Whoever stops iterating ends the attempt.

        Where something must not be forgotten it ends after the first evaluation that is past `evaluate.max_forgetting`, as a
        run does, whose last evaluations are then no candidates. It never goes back: `on_forgetting = "rewind"` is for runs.

        Raises:
            NonFiniteError: a loss or gradient became NaN or infinite.
        """
        prepared, config = self.prepared, self.config
        clip = prepared.clip
        frozen = stages.frozen_towers(clip, config.model.freeze)
        known = self.bench.features
        known.of(prepared, stages.ever_frozen(clip, config.model.freeze))
        learner = setup.build(prepared, frozen, known)
        total, seconds = run.length(prepared, learner, known, None)
        table = setup.table(prepared, total, seconds)
        factor = stages.rate(table, config.train, total, prepared.steps_per_epoch, seconds)
        learner = replace(learner, factor=factor, steps=total)
        every = max(1, to_steps(parse(config.evaluate.every), prepared.steps_per_epoch, total, seconds))
        val, guard = prepared.asked("val"), prepared.guard
        starts = {}
        if guard is not None:
            starts = start.measured(prepared, guard, learner.optimizer, table)
            self.begun = {name: one.clone() for name, one in start.learning(clip, learner.optimizer).items()}
        for stage in table:
            before_px = clip.preprocess.size_px
            learner = setup.enter(prepared, learner, stage, known, None)
            if clip.preprocess.size_px != before_px:
                self.best = None  # scores at two sizes are not of the same pictures
            caches = features.caches(prepared, frozen)
            for step in train(learner, mining.batches(prepared, learner, stage, stage.start), lambda: "none: a trial"):
                learner = replace(learner, plan=step.plan)
                if step.number % every == 0 or step.number == total:
                    score = measure(clip, val, caches).value
                    within = guard is None or forgetting.look(guard, clip, caches, starts).within
                    yield self._scored(learner, step.number, total, score, within)
                    if not within:
                        return

    def report(self, asked: Asked, size_px: int | None = None) -> Report:
        """What the best weights get, on images of the last size or of another one, which the model then keeps.

        Where all of them had forgotten too much it is the start, as a run would hand it over.
        """
        if self.best is None and self.begun:
            if self.prepared.resolutions:
                resize(self.prepared.clip, self.prepared.resolutions[-1].size)
            self.weights = self.begun
        self.prepared.clip.model.load_state_dict(self.weights, strict=False)
        if size_px is not None:
            resize(self.prepared.clip, size_px)
        frozen = stages.frozen_towers(self.prepared.clip, self.config.model.freeze)
        return asked.report(self.prepared.clip, features.caches(self.prepared, frozen))

    def _scored(self, learner: Learner, step: int, total: int, score: float, within: bool) -> Scored:
        if within and (self.best is None or score > self.best):
            self.best = score
            # everything that ever learns, not only what does now; batch statistics and the like never change
            model = self.prepared.clip.model
            learns = held(model, learner.optimizer) | {"logit_scale"}
            self.weights = {name: one.detach().clone() for name, one in model.named_parameters() if name in learns}
        return Scored(step, total, score, self.best)


def attempt(bench: Bench, config: Config) -> Attempt:
    """An attempt at a config that names the same data, domain and model source as the bench's; sizes are its own.

    Raises:
        BadInput: a size that the tower cannot have.
    """
    found = bench.prepared
    clip = copied(found.clip)
    image_frozen = "image" in stages.frozen_towers(clip, config.model.freeze)
    resize(clip, found.origin.size_px, found.origin)
    resolutions = resolution.take(clip, config, found.origin, image_frozen, lambda text: None)
    return Attempt(bench, config, replace(found, config=config, clip=clip, resolutions=resolutions))
