"""Generator states by device type: the one place that knows where each backend keeps its randomness."""

from __future__ import annotations

import torch
from torch import Tensor


def snapshot() -> dict[str, Tensor]:
    """Generator states of the CPU and of the accelerator that is in use: device type -> uint8 CPU tensor.

    `torch.mps` has neither `device` nor `_initialized`, by which `torch.utils.checkpoint` and GradCache look for it
    (pytorch pull 194478), so both lose its state; each backend is asked through its own function here.
    """
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: dict[str, Tensor]) -> None:
    """Puts every generator of `states` back; the reverse of `snapshot`."""
    for device_type, state in states.items():
        if device_type == "cpu":
            torch.set_rng_state(state)
        elif device_type == "cuda":
            torch.cuda.set_rng_state(state)
        else:
            torch.mps.set_rng_state(state)
