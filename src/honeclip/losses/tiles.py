"""What the losses share: how many rows of logits are held at once, and cosines without normalised copies.

Embeddings come as the towers give them. Their norms are put on the logits, tile by tile, and the gradient goes back through
the normalisation in place, so that beside the two gradients a loss holds a few tiles and vectors and nothing of B x D.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE_BYTES = 16 * 2**20
"""Bytes of one tile of logits. A few of these live at a time; larger tiles were not faster on the machines measured."""

SMALLEST_NORM = 1e-12
"""Embeddings shorter than this are divided by this (as `torch.nn.functional.normalize` does)."""


def rows(size: int, tile: int | str = "auto", element_bytes: int = 4) -> int:
    """Rows a tile for a batch of `size`: as given, at most `size`; "auto" keeps a tile at `TILE_BYTES`."""
    if tile == "auto":
        return max(1, min(size, TILE_BYTES // max(1, size * element_bytes)))
    return max(1, min(size, int(tile)))


def spans(size: int, height: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each tile; the last may be lower."""
    return ((start, min(start + height, size)) for start in range(0, size, height))


def inverse_norms(x_BD: Tensor) -> Tensor:
    """1 / |x| of each row (B,)."""
    norms_B: Tensor = torch.linalg.vector_norm(x_BD, dim=1)
    return norms_B.clamp_min_(SMALLEST_NORM).reciprocal_()


def cosines(xi_BD: Tensor, xt_BD: Tensor, ni_B: Tensor, nt_B: Tensor, start: int, stop: int) -> Tensor:
    """Cosines of rows `start` to `stop` of one side with all of the other: (stop - start, B)."""
    return (xi_BD[start:stop] @ xt_BD.T).mul_(ni_B[start:stop, None]).mul_(nt_B[None, :])


def through_normalisation(g_BD: Tensor, x_BD: Tensor, n_B: Tensor, height: int) -> Tensor:
    """Turns the gradient of unit embeddings into that of the embeddings, in place: (g - z (z . g)) / |x| with z = x / |x|."""
    for start, stop in spans(len(x_BD), max(height, 256)):
        z_TD = x_BD[start:stop] * n_B[start:stop, None]
        along_T = (z_TD * g_BD[start:stop]).sum(1)
        g_BD[start:stop].addcmul_(z_TD, along_T[:, None], value=-1).mul_(n_B[start:stop, None])
    return g_BD
