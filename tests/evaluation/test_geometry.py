"""Figures of embeddings: cases worked out by hand, and the published formulas written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from honeclip.evaluation import geometry


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_alignment_by_hand():
    # the same point: 0; at right angles: 2; opposite: 4; their mean is 2
    image = np.array([[1.0, 0], [1, 0], [1, 0]])
    text = np.array([[1.0, 0], [0, 1], [-1, 0]])
    assert geometry.alignment(image, text) == 2.0
    assert geometry.alignment(image, image) == 0.0


def test_uniformity_by_hand():
    # squared distances 2, 4, 2 between the three pairs of points
    points = np.array([[1.0, 0], [0, 1], [-1, 0]])
    assert geometry.uniformity(points) == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))
    assert geometry.uniformity(np.tile([[0.6, 0.8]], (5, 1))) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(geometry.uniformity(points[:1]))


def test_alignment_and_uniformity_are_those_of_the_paper():
    """The two functions that Wang and Isola print (their appendix A), with torch."""
    x, y = unit(40, 8, 1), unit(40, 8, 2)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    assert geometry.alignment(x, y) == pytest.approx(float((a - b).norm(p=2, dim=1).pow(2).mean()))
    assert geometry.uniformity(x) == pytest.approx(float(torch.pdist(a, p=2).pow(2).mul(-2).exp().mean().log()))


def test_points_spread_evenly_over_many_dimensions_have_a_uniformity_of_minus_four():
    assert geometry.uniformity(np.eye(64)) == pytest.approx(-4.0)


def test_the_modality_gap_by_hand():
    image, text = np.array([[1.0, 0], [0, 1]]), np.array([[-1.0, 0], [0, -1]])
    # means (0.5, 0.5) and (-0.5, -0.5)
    assert geometry.modality_gap(image, text) == pytest.approx(math.sqrt(2))
    assert geometry.modality_gap(image, image[::-1]) == 0.0


def test_the_effective_rank_by_hand():
    # one direction; four equal ones; singular values sqrt(3) and 1
    assert geometry.effective_rank(np.tile([[0.0, 1, 0]], (7, 1))) == pytest.approx(1.0)
    assert geometry.effective_rank(np.eye(4)) == pytest.approx(4.0)
    share = math.sqrt(3) / (1 + math.sqrt(3))
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    found = geometry.effective_rank(np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]))
    assert found == pytest.approx(math.exp(entropy))


def test_dead_dimensions_by_hand():
    points = unit(200, 4)
    points[:, 2] = 0.5  # one of four never moves
    points[:, 3] *= 0.001  # and one hardly: 1 % of 1/2 is 0.005
    assert geometry.dead_dimensions(points) == 0.5
    assert geometry.dead_dimensions(unit(200, 4)) == 0.0
