"""The logit scale (1 / temperature): its limits, a schedule for it, and a controller that measures.

Everything is about the natural logarithm of the scale, which is what a CLIP model holds as its parameter.

The controller asks what the scale is for: it decides how many negatives of a row have a say. For one row with the softmax
p over its negatives the effective number of them is n = exp(-sum_j p_j log p_j): all of them at scale 0, one at an infinite
scale. A larger scale never gives more, because d log n / d log_scale is minus the variance of the logits under p. So a
wanted n is met by a simple integral rule:

    log_scale += clip(GAIN (log n_measured - log n_wanted), -STEP, STEP)

With N negatives whose cosines are near normal the slope is -2 (log N - log n), so the rule is stable as long as
GAIN (log N - log n) < 1: with the gain of 0.05 for any batch that fits a machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from honeclip.errors import BadInput
from honeclip.losses import negatives, tiles
from honeclip.losses.targets import Targets

MIN_SCALE, MAX_SCALE = 1.0, 100.0
"""Limits of the logit scale (the upper: Radford et al. 2021, arXiv 2103.00020, section 2.5)."""

GAIN = 0.05
"""How much of a difference in log n one update makes up for."""

STEP = 0.05
"""The most that one update moves log_scale: 5 % of the scale. From 1 to 100 takes 93 updates at least."""


def clamped(log_scale: float) -> float:
    """The nearest log_scale whose scale lies in `MIN_SCALE` to `MAX_SCALE`."""
    return min(max(log_scale, math.log(MIN_SCALE)), math.log(MAX_SCALE))


def scheduled(start: float, end: float, share: float, shape: Literal["cosine", "linear"] = "cosine") -> float:
    """log_scale at a share of the run, from one temperature to another.

    The logarithm of the temperature goes from `start` to `end` on a straight line or on half a cosine.

    Args:
        start, end: temperatures (1 / logit scale), 0.01 to 1.
        share: share of the run that is done; below 0 counts as 0 and above 1 as 1.
        shape: "cosine" or "linear".

    Raises:
        BadInput: a temperature outside its limits, or an unknown shape.
    """
    for name, value in (("start", start), ("end", end)):
        if not 1 / MAX_SCALE <= value <= 1 / MIN_SCALE:
            raise BadInput(f"{name} = {value}: a temperature lies in {1 / MAX_SCALE:g} to {1 / MIN_SCALE:g}")
    if shape not in ("cosine", "linear"):
        raise BadInput(f"shape = {shape!r}: it is cosine or linear")
    done = min(max(share, 0.0), 1.0)
    if shape == "cosine":
        done = 0.5 * (1 - math.cos(math.pi * done))
    return -((1 - done) * math.log(start) + done * math.log(end))


@dataclass(frozen=True)
class State:
    """What the controller carries from step to step; plain numbers, so that a checkpoint can hold it as JSON.

    Attributes:
        log_scale: natural logarithm of the logit scale for the next step.
        measured: effective negatives of the last step that had any, for the log; None before.
        wanted: what was wanted of that step.
    """

    log_scale: float
    measured: float | None = None
    wanted: float | None = None


def wanted(count: float, power: float) -> float:
    """Effective negatives to aim at among `count`: count^power, at least 1.

    The power is a share in the logarithm: 1 lets all negatives have the same say, 0 only the hardest. It means the same at
    every batch size, where a plain share of the negatives would ask for ever softer logits as the batch grows.

    Raises:
        BadInput: a power outside 0 to 1.
    """
    if not 0 <= power <= 1:
        raise BadInput(f"power = {power}: the effective negatives are count^power with a power of 0 to 1")
    return max(1.0, float(count**power))


def update(state: State, measured: float, wanted: float, gain: float = GAIN, step: float = STEP) -> State:
    """The state after one step.

    Args:
        state: the state before.
        measured: effective negatives at `state.log_scale`. A batch without negatives (0, or not finite) changes nothing.
        wanted: effective negatives to reach, 1 or more.
        gain: move per difference in the logarithm.
        step: the largest move.

    Raises:
        BadInput: fewer than one wanted negative.
    """
    if not wanted >= 1:
        raise BadInput(f"wanted = {wanted} effective negatives: at least the hardest one counts, so 1 or more")
    if not (measured > 0 and math.isfinite(measured)):
        return state
    move = gain * (math.log(measured) - math.log(wanted))
    moved = clamped(state.log_scale + min(max(move, -step), step))
    return replace(state, log_scale=moved, measured=measured, wanted=wanted)


def negatives_a_row(targets: Targets, size: int, tile: int | str = "auto") -> float:
    """Mean number of negatives among the rows that have any; 0 where none has."""
    height = tiles.rows(size, tile)
    count_B = torch.cat([targets.negatives(a, b, size).sum(1) for a, b in tiles.spans(size, height)])
    return float(count_B.sum()) / max(1, int((count_B > 0).sum()))


@torch.no_grad()
def effective_negatives(
    image_BD: Tensor, text_BD: Tensor, log_scale: Tensor, targets: Targets, tile: int | str = "auto"
) -> Tensor:
    """Mean over the rows of both directions of the effective number of negatives; see the top of this file.

    Arguments as for `infonce`. Rows without a negative are left out; 0 where no row has any. A scalar without a gradient.
    """
    size = len(image_BD)
    height = tiles.rows(size, tile, image_BD.element_size())
    scale = log_scale.to(image_BD.dtype).exp()
    ni_B, nt_B = tiles.inverse_norms(image_BD), tiles.inverse_norms(text_BD)
    total, rows = image_BD.new_zeros(()), image_BD.new_zeros(())
    for query_BD, key_BD, nq_B, nk_B in ((image_BD, text_BD, ni_B, nt_B), (text_BD, image_BD, nt_B, ni_B)):
        for start, stop in tiles.spans(size, height):
            logits_TB = tiles.cosines(query_BD, key_BD, nq_B, nk_B, start, stop).mul_(scale)
            negative_TB = negatives.tile(targets, None, start, stop, image_BD)
            some_T = negative_TB.any(1)
            log_norm_T = negatives.log_sum_exp(logits_TB, negative_TB).masked_fill(~some_T, 0.0)
            p_TB = (logits_TB - log_norm_T[:, None]).masked_fill(~negative_TB, -torch.inf).exp_()
            entropy_T = log_norm_T - p_TB.mul_(logits_TB).sum(1)
            total, rows = total + (entropy_T.exp() * some_T).sum(), rows + some_T.sum()
    return total / rows.clamp(min=1)
