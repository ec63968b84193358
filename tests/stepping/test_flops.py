"""Operations of a tower, against what its shapes say."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from honeclip.stepping.flops import of_sample


def test_a_linear_layer_has_two_operations_a_weight_and_three_times_that_in_a_step():
    layer = nn.Linear(20, 30, bias=False)
    # no gradient of the inputs is asked for: forward, and the gradient of the weight
    assert of_sample(layer, torch.zeros(5, 20), nullcontext) == 2 * 2 * 20 * 30
    both = nn.Sequential(layer, nn.Linear(30, 10, bias=False))
    assert of_sample(both, torch.zeros(5, 20), nullcontext) == 2 * 2 * 20 * 30 + 3 * 2 * 30 * 10


def test_a_tower_that_does_not_learn_has_its_forward_alone():
    layer = nn.Linear(20, 30, bias=False).requires_grad_(False)
    assert of_sample(layer, torch.zeros(5, 20), nullcontext) == 2 * 20 * 30


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_grouped_convolution_has_its_own_operations_backwards_too(groups):
    """torch's own counter takes a grouped one for a full one there."""
    first = nn.Conv2d(3, 8, 1, bias=False)
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False)
    forward = 2 * 10 * 10 * 8 * (8 // groups) * 9
    found = of_sample(nn.Sequential(first, convolution), torch.zeros(2, 3, 10, 10), nullcontext)
    assert found == 3 * forward + 2 * (2 * 10 * 10 * 3 * 8)


def test_nothing_is_left_behind():
    layer = nn.Linear(4, 4)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    of_sample(nn.Sequential(layer, nn.Dropout(0.5)), torch.randn(3, 4), nullcontext)
    assert all(one.grad is None for one in layer.parameters())
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoder_that_asks_for_numbers_is_counted_while_it_computes():
    layer = nn.Linear(6, 6, bias=False)

    def encoder(x: torch.Tensor) -> torch.Tensor:
        return layer(x) if float(x.sum()) >= 0 else x

    assert of_sample(encoder, torch.zeros(2, 6), nullcontext) == 2 * 2 * 6 * 6
    assert layer.weight.grad is None
