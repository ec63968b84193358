"""Floating-point operations of a tower, counted by torch without computing anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from honeclip.device import rng
from honeclip.stepping import inputs as tower_inputs
from honeclip.stepping.cost import NEEDS_NUMBERS, faked
from honeclip.stepping.count import leaves

ROWS = 2
"""Samples that are counted."""


def _convolution_backward(
    gradient_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """As many operations as the forward has, for the gradient of the input and for that of the weight, those that are wanted.

    torch 2.15 counts a grouped convolution's backward as if it were not grouped: 32 GFLOP for an EfficientNet-lite0, whose
    forward has 0.77.
    """
    places = input_shape[2:] if transposed else gradient_shape[2:]
    return 2 * input_shape[0] * math.prod(places) * math.prod(weight_shape) * sum(map(bool, wanted[:2]))


OWN = {torch.ops.aten.convolution_backward: _convolution_backward}


def of_sample(
    encoder: Callable[[Any], Tensor], inputs: Any, around: Callable[[], AbstractContextManager[Any]]
) -> float:
    """Operations of one sample's forward and, where the tower learns, its backward.

    These are the model's own: matrix products, convolutions and attention, a multiplication and an addition counting two
    (`torch.utils.flop_counter`). What a step computes a second time to save memory does not count, so that two plans of
    one run compare by time alone (Chowdhery et al. 2022, arXiv 2204.02311, appendix B: model FLOPs utilisation).

    Generators are put back and gradients removed; parameters must have none before.

    Args:
        encoder: a tower, as for `cached_step`.
        inputs: its inputs; the first samples are used.
        around: context of a step.
    """
    rows = min(ROWS, tower_inputs.rows(0, inputs))
    piece = next(tower_inputs.chunks(inputs, [(0, rows)]))
    state = rng.snapshot()
    found: list[Tensor] = []

    def count(given: Any, fake: FakeTensorMode | None) -> float:
        with fake or nullcontext(), around(), FlopCounterMode(display=False, custom_mapping=OWN) as counter:
            output = encoder(given)
            found.extend(leaves([output]))
            if output.requires_grad:
                output.backward(torch.ones_like(output))
        return float(counter.get_total_flops() / rows)

    try:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        return count(faked(piece, fake), fake)
    except NEEDS_NUMBERS:
        return count(piece, None)
    finally:
        for one in found:
            one.grad = None
        rng.restore(state)
