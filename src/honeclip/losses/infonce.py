"""InfoNCE over both directions, with any number of positives a row, in row tiles.

With unit embeddings z, logits s = exp(log_scale) z_image z_text^T and P(i) the positives of row i, the loss is the mean
form of the supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, L_out) in both directions:

    L = 1/2B sum_i [ lse_j s_ij - 1/|P(i)| sum_{j in P(i)} s_ij ]  +  1/2B sum_j [ lse_i s_ij - 1/|P(j)| sum_{i in P(j)} s_ij ]

With one positive a row this is CLIP's loss (Radford et al. 2021, arXiv 2103.00020). The log-sum-exps are streamed over
tiles and the backward computes each tile again (Cheng et al. 2024, arXiv 2410.17243), so memory is O(B x tile).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from honeclip.losses import tiles
from honeclip.losses.targets import Targets


def infonce(image_BD: Tensor, text_BD: Tensor, log_scale: Tensor, targets: Targets, tile: int | str = "auto") -> Tensor:
    """The symmetric contrastive loss of B pairs.

    Args:
        image_BD, text_BD: embeddings of any length, float32 or float64 (B, D); what counts is their direction.
        log_scale: scalar, the natural logarithm of the logit scale.
        targets: the positives.
        tile: rows of logits at once, or "auto"; changes memory and time, not the result.

    Returns:
        A scalar of the embeddings' dtype.
    """
    height = tiles.rows(len(image_BD), tile, image_BD.element_size())
    loss: Tensor = _InfoNCE.apply(image_BD, text_BD, log_scale, targets, height)
    return loss


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xi_BD: Tensor, xt_BD: Tensor, log_scale: Tensor, targets: Targets, height: int) -> Tensor:
        size = len(xi_BD)
        scale = log_scale.detach().to(xi_BD.dtype).exp()
        ni_B, nt_B = tiles.inverse_norms(xi_BD), tiles.inverse_norms(xt_BD)
        counts_B = targets.counts(size, height).to(xi_BD)
        row_lse_B = xi_BD.new_empty(size)
        column_lse_B = xi_BD.new_full((size,), -torch.inf)
        positive = xi_BD.new_zeros(())
        for start, stop in tiles.spans(size, height):
            logits_TB = tiles.cosines(xi_BD, xt_BD, ni_B, nt_B, start, stop).mul_(scale)
            row_lse_B[start:stop] = logits_TB.logsumexp(1)
            column_lse_B = torch.logaddexp(column_lse_B, logits_TB.logsumexp(0))
            if targets.only_pairs:
                positive = positive + 2 * logits_TB.diagonal(start).sum()
            else:
                weights_TB = _weights(targets.tile(start, stop, size), counts_B, start, stop)
                positive = positive + weights_TB.mul_(logits_TB).sum()
        ctx.save_for_backward(xi_BD, xt_BD, ni_B, nt_B, log_scale, row_lse_B, column_lse_B, counts_B)
        ctx.targets, ctx.height = targets, height
        return (row_lse_B.sum() + column_lse_B.sum() - positive) / (2 * size)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        xi_BD, xt_BD, ni_B, nt_B, log_scale, row_lse_B, column_lse_B, counts_B = ctx.saved_tensors
        size = len(xi_BD)
        scale = log_scale.to(xi_BD.dtype).exp()
        share = outer[0] / (2 * size)
        gi_BD, gt_BD = torch.empty_like(xi_BD), torch.zeros_like(xt_BD)
        g_scale = xi_BD.new_zeros(())
        for start, stop in tiles.spans(size, ctx.height):
            logits_TB = tiles.cosines(xi_BD, xt_BD, ni_B, nt_B, start, stop).mul_(scale)
            # softmax over the row plus softmax over the column, less the targets of both directions
            g_TB = (logits_TB - row_lse_B[start:stop, None]).exp_()
            g_TB += (logits_TB - column_lse_B[None, :]).exp_()
            if ctx.targets.only_pairs:
                g_TB.diagonal(start).sub_(2)
            else:
                g_TB -= _weights(ctx.targets.tile(start, stop, size), counts_B, start, stop)
            g_scale = g_scale + logits_TB.mul_(g_TB).sum()
            g_TB.mul_(share * scale)
            # by the unit vectors of the other side: its norms go on the tile, not on a copy of the embeddings
            torch.mm(g_TB * nt_B[None, :], xt_BD, out=gi_BD[start:stop])
            gt_BD.addmm_(g_TB.mul_(ni_B[start:stop, None]).T, xi_BD[start:stop])
        gi_BD = tiles.through_normalisation(gi_BD, xi_BD, ni_B, ctx.height)
        gt_BD = tiles.through_normalisation(gt_BD, xt_BD, nt_B, ctx.height)
        return gi_BD, gt_BD, (share * g_scale).to(log_scale), None, None


def _weights(mask_TB: Tensor, counts_B: Tensor, start: int, stop: int) -> Tensor:
    """Targets of both directions: each positive shares its row's and its column's one."""
    share_TB = 1 / counts_B[start:stop, None] + 1 / counts_B[None, :]
    return share_TB.mul_(mask_TB)
