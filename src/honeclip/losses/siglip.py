"""SigLIP's pairwise sigmoid loss, with any number of positives a row, in row tiles.

L = -1/B sum_ij log sigmoid(y_ij (exp(log_scale) z_i . z_j + bias)), y = 1 for positives and -1 otherwise
(Zhai et al. 2023, arXiv 2303.15343). Sums over tiles are exact; each tile is computed again in the backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from honeclip.losses import tiles
from honeclip.losses.targets import Targets


def siglip(
    image_BD: Tensor, text_BD: Tensor, log_scale: Tensor, bias: Tensor, targets: Targets, tile: int | str = "auto"
) -> Tensor:
    """The sigmoid loss of B pairs; arguments and result as `infonce`, `bias` a scalar added to every logit."""
    height = tiles.rows(len(image_BD), tile, image_BD.element_size())
    loss: Tensor = _SigLIP.apply(image_BD, text_BD, log_scale, bias, targets, height)
    return loss


class _SigLIP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, xi_BD: Tensor, xt_BD: Tensor, log_scale: Tensor, bias: Tensor, targets: Targets, height: int
    ) -> Tensor:
        size = len(xi_BD)
        scale, shift = log_scale.detach().to(xi_BD.dtype).exp(), bias.detach().to(xi_BD.dtype)
        ni_B, nt_B = tiles.inverse_norms(xi_BD), tiles.inverse_norms(xt_BD)
        loss = xi_BD.new_zeros(())
        for start, stop in tiles.spans(size, height):
            logits_TB = tiles.cosines(xi_BD, xt_BD, ni_B, nt_B, start, stop).mul_(scale).add_(shift)
            loss = loss - F.logsigmoid(logits_TB.mul_(_signs(targets, start, stop, xi_BD))).sum()
        ctx.save_for_backward(xi_BD, xt_BD, ni_B, nt_B, log_scale, bias)
        ctx.targets, ctx.height = targets, height
        return loss / size

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        xi_BD, xt_BD, ni_B, nt_B, log_scale, bias = ctx.saved_tensors
        scale, shift = log_scale.to(xi_BD.dtype).exp(), bias.to(xi_BD.dtype)
        share = outer[0] / len(xi_BD)
        gi_BD, gt_BD = torch.empty_like(xi_BD), torch.zeros_like(xt_BD)
        g_scale, g_bias = xi_BD.new_zeros(()), xi_BD.new_zeros(())
        for start, stop in tiles.spans(len(xi_BD), ctx.height):
            cosine_TB = tiles.cosines(xi_BD, xt_BD, ni_B, nt_B, start, stop)
            sign_TB = _signs(ctx.targets, start, stop, xi_BD)
            g_TB = (cosine_TB * scale).add_(shift).mul_(sign_TB).neg_().sigmoid_().mul_(sign_TB).neg_()
            g_scale, g_bias = g_scale + cosine_TB.mul_(g_TB).sum() * scale, g_bias + g_TB.sum()
            g_TB.mul_(share * scale)
            torch.mm(g_TB * nt_B[None, :], xt_BD, out=gi_BD[start:stop])
            gt_BD.addmm_(g_TB.mul_(ni_B[start:stop, None]).T, xi_BD[start:stop])
        gi_BD = tiles.through_normalisation(gi_BD, xi_BD, ni_B, ctx.height)
        gt_BD = tiles.through_normalisation(gt_BD, xt_BD, nt_B, ctx.height)
        return gi_BD, gt_BD, (share * g_scale).to(log_scale), (share * g_bias).to(bias), None, None


def _signs(targets: Targets, start: int, stop: int, like: Tensor) -> Tensor:
    """1 for positives and -1 otherwise: one tile (T, B)."""
    return targets.tile(start, stop, len(like)).to(like).mul_(2).sub_(1)
