"""An image tower on images smaller than its own, as a loss over several scales wants them.

A tower with a position table sees them with the table interpolated. Interpolation is linear, so it is written as a matrix
that is worked out on the CPU: the gradient reaches the table through a product, which every device has, where the backward
of an antialiased interpolation is missing on MPS before torch 2.14.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.func import functional_call

from honeclip.model import resize
from honeclip.model.clip import Clip


class _Whole(nn.Module):
    """A function that uses a model, as a module that has the model's parameters: what `functional_call` takes."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def through(clip: Clip, tower: Callable[[Tensor], Tensor], images_BCHW: Tensor) -> Tensor:
    """Images of any multiple of the patch through the image tower; its position table gets its gradient from them too.

    Args:
        clip: the model; it is as before afterwards.
        tower: of this model, from images to embeddings.
        images_BCHW: normalised, square.

    Returns:
        What the tower gives.
    """
    prefixes = resize.tables(clip)
    if not prefixes:
        return tower(images_BCHW)
    side = images_BCHW.shape[-1] // resize.patch_px(clip)
    named = dict(clip.model.named_parameters())
    swapped = {f"model.{name}": _interpolated(named[name], side, prefix) for name, prefix in prefixes.items()}
    with _with_grid(clip, side):
        found: Tensor = functional_call(_Whole(clip.model, tower), swapped, (images_BCHW,))
    return found


def smaller(clip: Clip, size_px: int) -> Clip:
    """The model for images of a smaller side, its weights shared: what features of a frozen body are taken from.

    Raises:
        ModelError: the tower cannot have the size.
    """
    if resize.tables(clip):
        return sharing(clip, size_px)
    return replace(clip, preprocess=clip.preprocess.with_size(size_px))


def sharing(clip: Clip, size_px: int) -> Clip:
    """The model at another size: new modules on the same tensors, but for those that `resize` puts in their place.

    Raises:
        ModelError: the tower cannot have the size.
    """
    shared = {id(tensor): tensor for tensor in (*clip.model.parameters(), *clip.model.buffers())}
    other = replace(clip, model=copy.deepcopy(clip.model, shared), config=copy.deepcopy(clip.config))
    resize.resize(other, size_px)
    return other


def _interpolated(table: Tensor, side: int, prefix: int) -> Tensor:
    """A position table (..., prefix + old * old, C) for a grid of `side` x `side`, as `resize.resampled` has it."""
    own, grid = table[..., :prefix, :], table[..., prefix:, :]
    old = round(grid.shape[-2] ** 0.5)
    if old == side:
        return table
    weights = _weights(old, side).to(table.device, table.dtype)
    return torch.cat([own, weights @ grid], dim=-2)


@lru_cache(maxsize=16)
def _weights(old: int, side: int) -> Tensor:
    """(side * side, old * old): what each place of the new grid takes from each of the old one, float64."""
    with unset_fake_temporarily():  # also where a model is only measured the weights are numbers: they are kept
        return resize.resampled(torch.eye(old * old, dtype=torch.float64), side, 0)


@contextmanager
def _with_grid(clip: Clip, side: int) -> Iterator[None]:
    """Inside, timm's trunk takes images of that many patches and a table that has been interpolated for them."""
    patches: Any = getattr(getattr(clip.model.visual, "trunk", None), "patch_embed", None)
    if patches is None:
        yield
        return
    before = patches.strict_img_size, patches.grid_size
    patches.strict_img_size, patches.grid_size = False, (side, side)
    try:
        yield
    finally:
        patches.strict_img_size, patches.grid_size = before
