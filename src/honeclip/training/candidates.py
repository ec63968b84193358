"""Sizes that a run could have, and what each would need: memory, seconds a step, seconds beside the steps, a probe's score.

What is measured here decides nothing but the size of the images (`training.choice`), which is kept in the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from honeclip.data import loader
from honeclip.data.order import Draw
from honeclip.data.pairs import Pairs
from honeclip.device.resident import keeping_freed
from honeclip.errors import BadInput, ModelError
from honeclip.evaluation import probe
from honeclip.evaluation.intervals import Figure, Indices, figures
from honeclip.model import heads, resize
from honeclip.model.clip import Clip, copied, measuring
from honeclip.model.scales import sharing
from honeclip.schedule import parse, to_steps
from honeclip.training import planning, setup, stages
from honeclip.training.feeds import ImageFeed
from honeclip.training.frozen import Known
from honeclip.training.prepared import Prepared
from honeclip.training.stages import Stage

SHARES = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Sides that are looked at, as shares of the model's own; each has about twice the pixels of the one before."""

CLIMB = ((0.0, 0.5), (0.5, 0.7), (0.8, 1.0))
"""From which share of the run on a run that climbs sees which share of its last side."""

PROBE_ROWS, LEAST_ROWS = 256, 48
"""Pairs that the probe is asked about; with fewer than the second its intervals would say nothing."""

TIMED_ROWS = 8
"""Images, and pairs of a step where towers learn, that are timed."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A size, and what is known of it.

    Attributes:
        size_px: side of the images.
        upscaled: share of the train images whose shorter side is smaller.
        image_seconds: of one image through the body, decoding included.
        peak_bytes: predicted, of a step; 0 where it was not looked at.
        step_seconds: of a step at this size.
        before_seconds: of embedding all images as often as the run does beside its steps.
        ranks: (N,) reciprocal ranks of the probe's pairs; None where it did not run.
        out: why it cannot be taken; "" where it can.
    """

    size_px: int
    upscaled: float = 0.0
    image_seconds: float = 0.0
    peak_bytes: int = 0
    step_seconds: float = 0.0
    before_seconds: float = 0.0
    ranks: NDArray[np.float64] | None = None
    out: str = ""

    @property
    def mean(self) -> float:
        """Mean reciprocal rank that the probe found; 0 where it did not run."""
        return 0.0 if self.ranks is None else float(self.ranks.mean())

    @property
    def mrr(self) -> Figure | None:
        """Mean reciprocal rank that the probe found, with its interval."""
        ranks = self.ranks
        return None if ranks is None else figures(lambda at: {"mrr": ranks[at].mean(1)}, len(ranks), 0)["mrr"]

    def beyond(self, other: Candidate) -> Figure | None:
        """This one's MRR minus another's, on the same pairs."""
        mine, theirs = self.ranks, other.ranks
        if mine is None or theirs is None:
            return None

        def difference(at: Indices) -> dict[str, NDArray[np.float64]]:
            return {"mrr": (mine[at] - theirs[at]).mean(1)}

        return figures(difference, len(mine), 0)["mrr"]

    def run_seconds(self, steps: int, climbs: bool) -> float:
        """Of a run of so many steps that ends at this size: a step costs as much as its images have pixels."""
        ends = [at for at, _ in CLIMB[1:]] + [1.0]
        share = sum((end - at) * side**2 for (at, side), end in zip(CLIMB, ends, strict=True)) if climbs else 1.0
        return self.before_seconds + steps * self.step_seconds * share

    def to_json(self) -> dict[str, Any]:
        """What is printed and kept."""
        return {**{key: value for key, value in asdict(self).items() if key != "ranks"}, "mrr": self.mrr}


def climbs(found: Prepared) -> bool:
    """Whether a run is cheaper at smaller sizes: its image body learns from the first step on."""
    frozen = stages.frozen_towers(found.clip, found.config.model.freeze)
    return "image" not in frozen and not heads.takes_fresh_heads(found.clip)


def sizes(found: Prepared) -> list[int]:
    """Sides to look at, ascending, the model's own among them: each one that its tower could have, rounded to its patch."""
    own = found.clip.preprocess.size_px
    taken = {own}
    for share in SHARES:
        if round(share * own) >= resize.patch_px(found.clip):
            taken.add(resize.nearest_size(found.clip, round(share * own)))
    return sorted(taken)


def _at_size(found: Prepared, size_px: int) -> Prepared:
    """The same with a model of its own at another size.

    Raises:
        ModelError: the tower cannot have it.
    """
    clip = copied(found.clip)
    resize.resize(clip, size_px, found.origin)
    return replace(found, clip=clip)


def first_look(found: Prepared, size_px: int) -> Candidate:
    """How many images it would blow up, and the time of one.

    A size above the model's own is out where it blows up half of the images: there is nothing more in them to be seen.
    """
    shorter = np.array([min(size) for size in found.train.sizes])
    upscaled = float((shorter < size_px).mean()) if len(shorter) else 0.0
    one = Candidate(size_px, upscaled)
    if size_px > found.clip.preprocess.size_px and upscaled > 0.5:
        return replace(one, out=f"{upscaled:.0%} of the images are smaller")
    try:
        return replace(one, image_seconds=_image_seconds(sharing(found.clip, size_px), found.train))
    except ModelError as error:
        return replace(one, out=str(error))


def second_look(found: Prepared, one: Candidate, rows: Pairs, known: Known, asks: bool) -> Candidate:
    """What a step needs at a size, and what the probe reads out of the images.

    Args:
        found: what was prepared.
        one: from the first look; comes back as it is where that has ruled it out.
        rows: pairs of the train split.
        known: of these rows, shared by the sizes: the features of the captions are the same.
        asks: whether the probe runs.
    """
    if one.out:
        return one
    small = replace(_at_size(found, one.size_px), train=rows, resolutions=())
    frozen = stages.frozen_towers(small.clip, small.config.model.freeze)
    if asks:
        both = known.of(small, stages.TOWERS)
        assert both.image_NF is not None
        assert both.text_NF is not None
        one = replace(one, ranks=probe.reciprocal_ranks(both.image_NF, both.text_NF, rows.caption_id, _tied(rows)))
    batch = found.sizes[-1][1]
    stage = Stage(0, 1, frozen, batch=batch)
    try:
        learner = setup.enter(small, setup.build(small, frozen, known), stage, known, None)
    except BadInput as error:
        return replace(one, out=str(error))
    # heads take as long for a few rows as for many; whole towers take as long as they have rows
    alone = frozen == stages.TOWERS
    timed = min(batch if alone else TIMED_ROWS, len(rows))
    plan = learner.plan
    learner = replace(learner, plan=planning.whole(timed))
    seconds = setup.seconds_per_step(small, learner, replace(stage, batch=timed)) / (1 - setup.RESERVE)
    if not alone:
        seconds *= batch / timed * (1 + plan.predicted_overhead)
        if heads.takes_fresh_heads(small.clip):
            seconds *= 1 - stages.HEADS_FIRST  # before it heads learn alone, in no time
    return replace(
        one,
        peak_bytes=plan.predicted_peak_bytes,
        step_seconds=seconds,
        before_seconds=_beside(found, frozen) * one.image_seconds / (1 - setup.RESERVE),
    )


def _beside(found: Prepared, frozen: frozenset[str]) -> float:
    """Images that go through the body beside the steps: for features that are stored, or at every evaluation."""
    train, val, test = (found.everything.splits.count(name) for name in ("train", "val", "test"))
    if "image" in frozen:
        return train + val + test
    every = parse(found.config.evaluate.every)
    looks = 0
    if every.value and every.unit != "minutes":
        least = 10 * max(1, round(found.steps_per_epoch))
        looks = 1 + least // to_steps(every, found.steps_per_epoch, least, None)
    return looks * val + 2 * test + (train if heads.takes_fresh_heads(found.clip) else 0)


def _tied(rows: Pairs) -> NDArray[np.int64]:
    """A number a group; rows without a group stand alone, equal images together."""
    names = [group or f"image {number}" for group, number in zip(rows.groups, rows.image_id.tolist(), strict=True)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _image_seconds(clip: Clip, rows: Pairs) -> float:
    """Of one image, from the file to features."""
    count = min(TIMED_ROWS, len(rows))
    draw = Draw(0, spread(len(rows), count), clip.preprocess.size_px, 0.0, 0)
    feed = ImageFeed(clip, None, clip.dtype)

    def once() -> None:
        batch = next(loader.batches(rows, clip.preprocess, [draw], with_tokens=False))
        with torch.no_grad():
            feed(feed.inputs(batch))
        clip.device.synchronise()

    with measuring(clip), keeping_freed():
        return min(_timed(once), _timed(once)) / count


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` of `count` rows, evenly apart: sources and classes often stand together."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
