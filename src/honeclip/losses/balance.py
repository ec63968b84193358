"""Parts of a loss become one number: fixed weights, weights that follow a schedule, or weights learned from uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from honeclip.errors import BadInput

LARGEST_LOG_VARIANCE = 10.0
"""Where a learned log variance may start: a part's loss counts as e^-10 to e^10."""


def combine(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum_k w_k L_k.

    Args:
        parts: scalar losses by name.
        weights: a weight a part, 0 or above, not all of them 0. A weight of a part that is not there is not used.

    Raises:
        BadInput: no parts, a part without a weight, a negative weight, or nothing but zeros.
    """
    _check(parts, weights)
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()


def uncertainty(
    parts: Mapping[str, Tensor], weights: Mapping[str, float], log_variance: Mapping[str, Tensor]
) -> Tensor:
    """sum_k w_k (exp(-eta_k) L_k + eta_k), eta_k being learned (Kendall et al. 2018, arXiv 1705.07115, up to a factor 1/2).

    At the minimum over eta each positive part counts exp(-eta_k) L_k = 1, whatever its unit. A part that falls to 0 has no
    such minimum: its eta goes on falling.

    Args:
        parts, weights: as for `combine`.
        log_variance: eta by part, scalars that may need a gradient.

    Raises:
        BadInput: as `combine`, or a part without a log variance.
    """
    missing = [name for name in parts if name not in log_variance]
    if missing:
        raise BadInput(f"part {missing[0]!r} has no log variance; give one a part")
    return combine(
        {name: (-log_variance[name]).exp() * part + log_variance[name] for name, part in parts.items()}, weights
    )


def first_log_variance(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """Where each eta starts: log L_k of the first step, so that every part counts 1 from the start, whatever its unit.

    Kept within +-`LARGEST_LOG_VARIANCE`, which also answers for a part that is 0, negative or not finite.
    """
    first = {}
    for name, part in parts.items():
        value = float(part.detach())
        log = math.log(value) if value > 0 and math.isfinite(value) else -math.inf if value <= 0 else math.inf
        first[name] = min(max(log, -LARGEST_LOG_VARIANCE), LARGEST_LOG_VARIANCE)
    return first


def weight_at(points: Sequence[Sequence[float]], share: float) -> float:
    """A weight at a share of the run, on straight lines between [share, weight] points; constant before and after them.

    Two points at one share are a jump; the later one holds from there on.

    Raises:
        BadInput: no point, a point that is no pair, shares outside 0 to 1 or not ascending, or a negative weight.
    """
    if not points or any(len(point) != 2 for point in points):
        raise BadInput(f"weight schedule {list(points)}: give at least one [share of the run, weight]")
    shares = [point[0] for point in points]
    if shares != sorted(shares) or not (shares[0] >= 0 and shares[-1] <= 1):
        raise BadInput(f"weight schedule {list(points)}: the shares ascend from 0 to 1")
    for _, weight in points:
        _refuse_negative("weight schedule", weight)
    if share < shares[0]:
        return float(points[0][1])
    before = max(index for index, one in enumerate(shares) if one <= share)
    if before == len(points) - 1:
        return float(points[-1][1])
    (x0, y0), (x1, y1) = points[before], points[before + 1]
    return float(y0 + (y1 - y0) * (share - x0) / (x1 - x0))


def _check(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
    if not parts:
        raise BadInput("a loss without parts; give at least one")
    for name in parts:
        if name not in weights:
            raise BadInput(f"part {name!r} has no weight; give one a part (there are {', '.join(weights) or 'none'})")
        _refuse_negative(f"weight of {name!r}", weights[name])
    if all(weights[name] == 0 for name in parts):
        raise BadInput(f"all weights ({', '.join(parts)}) are 0, so there is nothing to learn; set one above 0")


def _refuse_negative(name: str, weight: float) -> None:
    if not (weight >= 0 and math.isfinite(weight)):
        raise BadInput(f"{name}: {weight} is no weight; it is 0 or above, and finite")
