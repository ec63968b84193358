"""What the losses share: how many rows of logits are held at once, cosines without normalised copies, and sums over tiles.

Embeddings come as the towers give them. Their norms are put on the logits, tile by tile, and the gradient goes back through
the normalisation in place, so that beside the two gradients a loss holds a few tiles and vectors and nothing of B x D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

TILE_BYTES = 16 * 2**20
"""Bytes of one tile of logits. A few of these live at a time; larger tiles were not faster on the machines measured."""

SMALLEST_NORM = 1e-12
"""Embeddings shorter than this are divided by this (as `torch.nn.functional.normalize` does)."""

RowLoss = Callable[[Tensor, int, int], Tensor]
"""`row_loss(logits_TK, start, stop)`: the summed loss of rows `start` to `stop`, a scalar that depends on the logits."""


def rows(size: int, tile: int | str = "auto", element_bytes: int = 4, columns: int | None = None) -> int:
    """Rows a tile for a batch of `size`: as given, at most `size`; "auto" keeps a tile at `TILE_BYTES`.

    `columns` is the width of a tile where it is not `size`.
    """
    if tile == "auto":
        return max(1, min(size, TILE_BYTES // max(1, (columns or size) * element_bytes)))
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


def rowwise(
    query_QD: Tensor, key_KD: Tensor, log_scale: Tensor, row_loss: RowLoss, height: int, bias: Tensor | None = None
) -> Tensor:
    """The sum of a plain formula over row tiles of logits, with O(K x height) of memory.

    The logits are exp(log_scale) times the cosines of each query with every key, plus `bias`. Forward and backward see
    one tile at a time: the backward computes each tile again and lets autograd differentiate the formula on it.

    Args:
        query_QD, key_KD: embeddings of any length (Q, D) and (K, D), float32 or float64.
        log_scale: scalar, the natural logarithm of the logit scale.
        row_loss: the formula. It reads no randomness and no tensor that needs a gradient except the logits.
        height: rows of logits at once.
        bias: scalar added to every logit, or None.

    Returns:
        A scalar of the embeddings' dtype; it can be differentiated once.
    """
    loss: Tensor = _Rowwise.apply(query_QD, key_KD, log_scale, bias, row_loss, height)
    return loss


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, xq_QD: Tensor, xk_KD: Tensor, log_scale: Tensor, bias: Tensor | None, row_loss: RowLoss, height: int
    ) -> Tensor:
        scale = log_scale.detach().to(xq_QD.dtype).exp()
        nq_Q, nk_K = inverse_norms(xq_QD), inverse_norms(xk_KD)
        total = xq_QD.new_zeros(())
        for start, stop in spans(len(xq_QD), height):
            logits_TK = cosines(xq_QD, xk_KD, nq_Q, nk_K, start, stop).mul_(scale)
            total = total + row_loss(logits_TK if bias is None else logits_TK.add_(bias.detach()), start, stop)
        ctx.save_for_backward(xq_QD, xk_KD, nq_Q, nk_K, log_scale, bias)
        ctx.row_loss, ctx.height = row_loss, height
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None, None]:
        xq_QD, xk_KD, nq_Q, nk_K, log_scale, bias = ctx.saved_tensors
        scale = log_scale.detach().to(xq_QD.dtype).exp()
        gq_QD, gk_KD = torch.empty_like(xq_QD), torch.zeros_like(xk_KD)
        g_scale, g_bias = xq_QD.new_zeros(()), xq_QD.new_zeros(())
        for start, stop in spans(len(xq_QD), ctx.height):
            scaled_TK = cosines(xq_QD, xk_KD, nq_Q, nk_K, start, stop).detach().mul_(scale)
            logits_TK = (scaled_TK.clone() if bias is None else scaled_TK + bias.detach()).requires_grad_()
            with torch.enable_grad():
                value = ctx.row_loss(logits_TK, start, stop)
            (g_TK,) = torch.autograd.grad(value, logits_TK)
            del value, logits_TK
            g_scale, g_bias = g_scale + scaled_TK.mul_(g_TK).sum(), g_bias + g_TK.sum()
            g_TK = g_TK * (outer[0] * scale)
            # by the unit vectors of the other side: its norms go on the tile, not on a copy of the embeddings
            torch.mm(g_TK * nk_K[None, :], xk_KD, out=gq_QD[start:stop])
            gk_KD.addmm_(g_TK.mul_(nq_Q[start:stop, None]).T, xq_QD[start:stop])
        gq_QD = through_normalisation(gq_QD, xq_QD, nq_Q, ctx.height)
        gk_KD = through_normalisation(gk_KD, xk_KD, nk_K, ctx.height)
        to_bias = None if bias is None else (outer[0] * g_bias).to(bias)
        return gq_QD, gk_KD, (outer[0] * g_scale).to(log_scale), to_bias, None, None
