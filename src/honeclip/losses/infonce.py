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
import torch.nn.functional as F  # noqa: N812 - the name that everyone reads
from torch import Tensor

from honeclip.losses import tiles
from honeclip.losses.targets import Targets


def infonce(image_BD: Tensor, text_BD: Tensor, log_scale: Tensor, targets: Targets, tile: int | str = "auto") -> Tensor:
    """The symmetric contrastive loss of B pairs.

    Args:
        image_BD, text_BD: embeddings of any length, float32 or float64 (B, D); they are normalised here.
        log_scale: scalar, the natural logarithm of the logit scale.
        targets: the positives.
        tile: rows of logits at once, or "auto"; changes memory and time, not the result.

    Returns:
        A scalar of the embeddings' dtype.
    """
    zi_BD, zt_BD = F.normalize(image_BD, dim=-1), F.normalize(text_BD, dim=-1)
    height = tiles.rows(len(zi_BD), tile, zi_BD.element_size())
    loss: Tensor = _InfoNCE.apply(zi_BD, zt_BD, log_scale, targets, height)
    return loss


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, zi_BD: Tensor, zt_BD: Tensor, log_scale: Tensor, targets: Targets, height: int) -> Tensor:
        size = len(zi_BD)
        scale = log_scale.detach().to(zi_BD.dtype).exp()
        counts_B = targets.counts(size, height).to(zi_BD)
        row_lse_B = zi_BD.new_empty(size)
        column_lse_B = zi_BD.new_full((size,), -torch.inf)
        positive = zi_BD.new_zeros(())
        for start, stop in _spans(size, height):
            logits_TB = scale * zi_BD[start:stop] @ zt_BD.T
            row_lse_B[start:stop] = logits_TB.logsumexp(1)
            column_lse_B = torch.logaddexp(column_lse_B, logits_TB.logsumexp(0))
            weights_TB = _weights(targets.tile(start, stop, size), counts_B, start, stop)
            positive = positive + (weights_TB * logits_TB).sum()
        ctx.save_for_backward(zi_BD, zt_BD, log_scale, row_lse_B, column_lse_B, counts_B)
        ctx.targets, ctx.height = targets, height
        return (row_lse_B.sum() + column_lse_B.sum() - positive) / (2 * size)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        zi_BD, zt_BD, log_scale, row_lse_B, column_lse_B, counts_B = ctx.saved_tensors
        size = len(zi_BD)
        scale = log_scale.to(zi_BD.dtype).exp()
        gi_BD, gt_BD = torch.empty_like(zi_BD), torch.zeros_like(zt_BD)
        g_scale = zi_BD.new_zeros(())
        for start, stop in _spans(size, ctx.height):
            logits_TB = scale * zi_BD[start:stop] @ zt_BD.T
            # softmax over the row plus softmax over the column, less the targets of both directions
            g_TB = (logits_TB - row_lse_B[start:stop, None]).exp_()
            g_TB += (logits_TB - column_lse_B[None, :]).exp_()
            g_TB -= _weights(ctx.targets.tile(start, stop, size), counts_B, start, stop)
            g_scale = g_scale + (g_TB * logits_TB).sum()
            torch.mm(g_TB, zt_BD, out=gi_BD[start:stop])
            gt_BD.addmm_(g_TB.T, zi_BD[start:stop])
        share = outer[0] / (2 * size)
        return gi_BD.mul_(share * scale), gt_BD.mul_(share * scale), (share * g_scale).to(log_scale), None, None


def _weights(mask_TB: Tensor, counts_B: Tensor, start: int, stop: int) -> Tensor:
    """Targets of both directions: each positive shares its row's and its column's one."""
    share_TB = 1 / counts_B[start:stop, None] + 1 / counts_B[None, :]
    return mask_TB * share_TB


def _spans(size: int, height: int) -> list[tuple[int, int]]:
    return [(start, min(start + height, size)) for start in range(0, size, height)]
