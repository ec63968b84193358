"""Generator states by device type: the one place that knows where each backend keeps its randomness."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def snapshot(cuda: Any = torch.cuda, mps: Any = torch.mps) -> dict[str, Tensor]:
    """Generator states of the CPU and of the accelerator that is in use: device type -> uint8 CPU tensor.

    `torch.mps` has neither `device` nor `_initialized`, by which `torch.utils.checkpoint` and GradCache look for it
    (pytorch pull 194478), so both lose its state; each backend is asked through its own function here.

    Args:
        cuda: `torch.cuda`, or a stand-in for it.
        mps: `torch.mps`, or a stand-in for it.
    """
    states = {"cpu": torch.get_rng_state()}
    if cuda.is_initialized():
        states["cuda"] = cuda.get_rng_state()
    if mps.is_available():
        states["mps"] = mps.get_rng_state()
    return states


def restore(states: dict[str, Tensor], cuda: Any = torch.cuda, mps: Any = torch.mps) -> None:
    """Puts the generators of `states` back; the reverse of `snapshot`.

    The state of a device that is not here is left out, so that a run may go on elsewhere, with other dropout.
    """
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and cuda.is_available():
        cuda.set_rng_state(states["cuda"])
    if "mps" in states and mps.is_available():
        mps.set_rng_state(states["mps"])
