"""Per-block recomputation: of every block only its input is kept, and the backward runs the block's forward again.

Memory then grows with the inputs of the blocks and what one block needs, for about a third more time (Chen et al. 2016,
arXiv 1604.06174). The repeated forward has the randomness and the attention slices of the first, on every device, so the
gradients are the same bit for bit. `torch.utils.checkpoint` alone loses the generator state of devices that have no
`_initialized` (pytorch pull 194478); here it is told to leave the randomness alone, and `device.rng` replays it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from honeclip.device import rng
from honeclip.device.precision import full_convolutions, takes_full_convolutions
from honeclip.model import attention
from honeclip.model.clip import Clip

TOWERS = ("visual", "text", "transformer")
"""Where an open_clip model has its towers; `transformer` is the text tower of a native CLIP."""

LISTS = frozenset({"resblocks", "blocks", "stages", "layer", "layers", "block", "layer1", "layer2", "layer3", "layer4"})
"""What open_clip, timm and transformers call their lists of blocks."""


def recompute(clip: Clip, on: bool = True) -> int:
    """Turns per-block recomputation of both towers on or off; `state_dict` and all names stay.

    Args:
        clip: changed in place.
        on: False gives every block its own forward back.

    Returns:
        The number of blocks; 0 where a model has none that are known, and nothing was changed.
    """
    found = [block for name in TOWERS for block in blocks(getattr(clip.model, name, None))]
    for block in found:
        if on:
            # in the instance's own dictionary it hides the class's method, and it is copied with the module
            block.__dict__["forward"] = partial(_recomputed, block)
        else:
            block.__dict__.pop("forward", None)
    return len(found)


@contextmanager
def recomputed(clip: Clip) -> Iterator[int]:
    """`recompute` for a while: what is built inside may run backwards inside or after it."""
    try:
        yield recompute(clip, True)
    finally:
        recompute(clip, False)


def blocks(tower: Any) -> list[nn.Module]:
    """The blocks of a tower, in its own order: residual attention blocks, bottlenecks, inverted residuals.

    A stage that has blocks of its own is no block; its down-sampling is not recomputed.
    """
    if not isinstance(tower, nn.Module):
        return []
    found: list[nn.Module] = []
    for name, child in tower.named_children():
        if name in LISTS and isinstance(child, nn.ModuleList | nn.Sequential):
            found += [block for item in child for block in _of_item(item)]
        else:
            found += blocks(child)
    return found


def _of_item(item: nn.Module) -> list[nn.Module]:
    if isinstance(item, nn.Sequential):
        return [block for one in item for block in _of_item(one)]
    inner = getattr(item, "blocks", None)
    if isinstance(inner, nn.ModuleList | nn.Sequential):
        return [block for one in inner for block in _of_item(one)]
    return [item]


def _recomputed(block: Any, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts, **kwargs)


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The context of the first forward and that of its repetition."""
    return nullcontext(), _Replay(rng.snapshot(), attention.active(), takes_full_convolutions())


class _Replay:
    """The randomness, the attention slices and the float32 convolutions of a first forward, as often as a backward
    repeats it (torch itself brings autocast back).

    The repetition may run in another thread (autograd has one a device) and outside of `attention.sliced`.
    """

    def __init__(self, states: dict[str, Tensor], plan: attention.Plan | None, convolutions: str | None) -> None:
        self._states, self._plan, self._convolutions = states, plan, convolutions
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        stack = ExitStack()
        stack.callback(rng.restore, rng.snapshot())
        stack.enter_context(attention.resumed(self._plan))
        stack.enter_context(full_convolutions(self._convolutions))
        rng.restore(self._states)
        self._entered.append(stack)

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()
