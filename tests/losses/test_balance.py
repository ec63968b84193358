"""How parts of a loss become one number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from written_out import drawn

from honeclip.errors import BadInput
from honeclip.losses import balance


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_fixed_weights_are_a_weighted_sum():
    parts = {"pairs": scalar(2.0), "images": scalar(3.0)}
    total = balance.combine(parts, {"pairs": 1.0, "images": 0.5, "between": 9.0})
    total.backward()
    assert float(total.detach()) == 3.5
    assert (float(parts["pairs"].grad), float(parts["images"].grad)) == (1.0, 0.5)


def test_uncertainty_is_its_formula():
    def written(pairs, images, eta_pairs, eta_images):
        return 1.0 * (pairs / eta_pairs.exp() + eta_pairs) + 0.25 * (images / eta_images.exp() + eta_images)

    def ours(pairs, images, eta_pairs, eta_images):
        return balance.uncertainty(
            {"pairs": pairs, "images": images},
            {"pairs": 1.0, "images": 0.25},
            {"pairs": eta_pairs, "images": eta_images},
        )

    values = tuple(scalar(one) for one in (2.0, 0.3, 0.5, -1.2))
    assert abs(float((written(*values) - ours(*values)).detach())) < 1e-14
    ours_by, theirs = torch.autograd.grad(ours(*values), values), torch.autograd.grad(written(*values), values)
    assert max(abs(float(a - b)) for a, b in zip(ours_by, theirs, strict=True)) < 1e-14
    assert torch.autograd.gradcheck(ours, values)


def least(unit: float, first: bool) -> tuple[torch.Tensor, dict[str, float]]:
    """Two parts that pull one vector to two places, learned to convergence; the second is measured in another unit.

    Returns where the vector ends, and exp(-eta) L of each part there.
    """
    near, far = drawn(4, seed=1), drawn(4, seed=2)
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def parts():
        return {"near": ((x - near) ** 2).mean() + 0.5, "far": unit * (((x - far) ** 2).mean() + 0.2)}

    start = balance.first_log_variance(parts()) if first else {"near": 0.0, "far": 0.0}
    eta = {name: scalar(value) for name, value in start.items()}
    optimizer = torch.optim.Adam([x, *eta.values()], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.998)
    for _ in range(2500):
        optimizer.zero_grad()
        balance.uncertainty(parts(), {"near": 1.0, "far": 1.0}, eta).backward()
        optimizer.step()
        schedule.step()
    return x.detach(), {name: float((part / eta[name].exp()).detach()) for name, part in parts().items()}


@pytest.mark.parametrize("first", [True, False])
def test_a_part_in_another_unit_ends_at_the_same_balance(first):
    where, counts = least(1.0, first)
    where_100, counts_100 = least(100.0, first)
    assert (where - where_100).abs().max() < 0.05 * where.abs().max()
    for name in counts:
        assert counts[name] == pytest.approx(1, rel=0.05)
        assert counts_100[name] == pytest.approx(counts[name], rel=0.05)


def test_every_part_counts_one_at_the_first_step():
    parts = {"pairs": scalar(3.0), "images": scalar(300.0)}
    first = balance.first_log_variance(parts)
    assert first == {"pairs": pytest.approx(math.log(3)), "images": pytest.approx(math.log(300))}


@pytest.mark.parametrize(("value", "expected"), [(0.0, -10), (-2.0, -10), (1e-9, -10), (1e9, 10), (math.inf, 10)])
def test_a_first_step_without_a_logarithm_starts_at_the_limit(value, expected):
    assert balance.first_log_variance({"pairs": torch.tensor(value)}) == {"pairs": expected}


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 1.0), (0.1, 1.0), (0.3, 0.6), (0.5, 0.2), (0.6, 0.7), (0.75, 0.7), (1.0, 0.7), (2, 0.7)],
)
def test_a_weight_follows_its_lines_and_jumps(share, expected):
    points = [[0.1, 1.0], [0.5, 0.2], [0.6, 0.3], [0.6, 0.7]]
    assert balance.weight_at(points, share) == pytest.approx(expected)


def test_a_jump_at_the_first_point_holds_from_there_on():
    points = [[0.0, 1.0], [0.0, 0.5], [1.0, 0.5]]
    assert balance.weight_at(points, 0.0) == 0.5


def test_a_part_may_have_no_weight_as_long_as_another_has_one():
    parts = {"pairs": scalar(2.0), "images": scalar(3.0)}
    assert float(balance.combine(parts, {"pairs": 0.0, "images": 0.5}).detach()) == pytest.approx(1.5)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1, max_size=5).map(
        lambda points: sorted(points, key=lambda point: point[0])
    ),
    st.floats(0, 1),
)
def test_a_weight_stays_within_its_points(points, share):
    weights = [weight for _, weight in points]
    assert min(weights) - 1e-9 <= balance.weight_at(points, share) <= max(weights) + 1e-9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p: balance.combine({}, {}), "without parts"),
        (lambda p: balance.combine(p, {"pairs": 1.0}), "'images' has no weight"),
        (lambda p: balance.combine(p, {"pairs": 1.0, "images": -0.5}), "weight of 'images': -0.5"),
        (lambda p: balance.combine(p, {"pairs": 0.0, "images": 0.0}), "all weights"),
        (lambda p: balance.uncertainty(p, {"pairs": 1.0, "images": 1.0}, {"pairs": scalar(0)}), "no log variance"),
        (lambda p: balance.weight_at([], 0.5), "at least one"),
        (lambda p: balance.weight_at([[0.1, 1], [0.5]], 0.5), "at least one"),
        (lambda p: balance.weight_at([[0.5, 1], [0.1, 1]], 0.5), "shares ascend"),
        (lambda p: balance.weight_at([[0.5, 1], [1.1, 1]], 0.5), "shares ascend"),
        (lambda p: balance.weight_at([[0.5, -1]], 0.5), "-1 is no weight"),
    ],
)
def test_weights_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        wrong({"pairs": scalar(1.0), "images": scalar(1.0)})
