"""Where embeddings lie on the sphere: figures that show a contrastive model's health before its scores do.

All are functions of unit embeddings that an evaluation has anyway. None says by itself whether a model is good; beside the
model's own start they say where it is going (docs/watching.md).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DEAD = 0.01
"""A dimension is dead whose standard deviation is below this share of what it would be on a sphere that is used evenly."""

NO_PAIRS = "two different embeddings at least"


def alignment(image_PD: Array, text_PD: Array) -> float:
    """The mean squared distance of the two halves of a right pair; 0 where they are the same point, 2 where at right angles.

    Wang and Isola 2020 (arXiv 2005.10242), equation 4, with alpha = 2.

    Args:
        image_PD: (P, D) unit embeddings, one a right pair.
        text_PD: (P, D) of the same pairs.
    """
    return float(((image_PD - text_PD) ** 2).sum(1).mean())


def uniformity(points_ND: Array) -> float:
    """The logarithm of the mean of exp(-2 d^2) over all pairs of different points; 0 where all are one, lower is more even.

    Wang and Isola 2020 (arXiv 2005.10242), equation 5, with t = 2. Points spread evenly over a sphere of many dimensions come
    to -4, for most of them are at right angles. NaN for fewer than two points.
    """
    rows = len(points_ND)
    if rows < 2:
        return math.nan
    squared_NN = np.clip(2 - 2 * points_ND @ points_ND.T, 0, None)
    kernel_NN = np.exp(-2 * squared_NN)
    return float(math.log((kernel_NN.sum() - np.trace(kernel_NN)) / (rows * (rows - 1))))


def modality_gap(image_ND: Array, text_MD: Array) -> float:
    """The distance between the mean image and the mean text, 0 to 2. Liang et al. 2022 (arXiv 2203.02053), section 2."""
    return float(np.linalg.norm(image_ND.mean(0) - text_MD.mean(0)))


def effective_rank(points_ND: Array) -> float:
    """How many dimensions are used: exp of the entropy of the singular values, each as a share of their sum.

    1 where all points lie on one line through the origin, min(N, D) where all directions count the same. Roy and Vetterli
    2007, "The effective rank: a measure of effective dimensionality", EUSIPCO. The embeddings are taken as they are and not
    centred.
    """
    values = np.linalg.svd(points_ND, compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(math.exp(-(shares * np.log(shares)).sum()))


def dead_dimensions(points_ND: Array) -> float:
    """The share of dimensions in which all points have nearly the same value: their standard deviation is below `DEAD` of
    1 / sqrt(D), which it would be on a sphere that is used evenly (dimensional collapse: Jing et al. 2022, arXiv 2110.09348).
    """
    return float((points_ND.std(0) < DEAD / math.sqrt(points_ND.shape[1])).mean())
