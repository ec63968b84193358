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
    zi_BD, zt_BD = F.normalize(image_BD, dim=-1), F.normalize(text_BD, dim=-1)
    height = tiles.rows(len(zi_BD), tile, zi_BD.element_size())
    loss: Tensor = _SigLIP.apply(zi_BD, zt_BD, log_scale, bias, targets, height)
    return loss


class _SigLIP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, zi_BD: Tensor, zt_BD: Tensor, log_scale: Tensor, bias: Tensor, targets: Targets, height: int
    ) -> Tensor:
        size = len(zi_BD)
        loss = zi_BD.new_zeros(())
        for start in range(0, size, height):
            _, logits_TB, sign_TB = _tile(zi_BD, zt_BD, log_scale, bias, targets, start, height)
            loss = loss - F.logsigmoid(sign_TB * logits_TB).sum()
        ctx.save_for_backward(zi_BD, zt_BD, log_scale, bias)
        ctx.targets, ctx.height = targets, height
        return loss / size

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        zi_BD, zt_BD, log_scale, bias = ctx.saved_tensors
        size = len(zi_BD)
        scale = log_scale.to(zi_BD.dtype).exp()
        gi_BD, gt_BD = torch.empty_like(zi_BD), torch.zeros_like(zt_BD)
        g_scale, g_bias = zi_BD.new_zeros(()), zi_BD.new_zeros(())
        for start in range(0, size, ctx.height):
            cosine_TB, logits_TB, sign_TB = _tile(zi_BD, zt_BD, log_scale, bias, ctx.targets, start, ctx.height)
            g_TB = -sign_TB * torch.sigmoid(-sign_TB * logits_TB)
            g_scale, g_bias = g_scale + (g_TB * cosine_TB).sum() * scale, g_bias + g_TB.sum()
            torch.mm(g_TB, zt_BD, out=gi_BD[start : start + len(g_TB)])
            gt_BD.addmm_(g_TB.T, zi_BD[start : start + len(g_TB)])
        share = outer[0] / size
        gradients = gi_BD.mul_(share * scale), gt_BD.mul_(share * scale)
        return *gradients, (share * g_scale).to(log_scale), (share * g_bias).to(bias), None, None


def _tile(
    zi_BD: Tensor, zt_BD: Tensor, log_scale: Tensor, bias: Tensor, targets: Targets, start: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines, logits and signs of one tile: three (T, B)."""
    stop = min(start + height, len(zi_BD))
    cosine_TB = zi_BD[start:stop] @ zt_BD.T
    logits_TB = log_scale.detach().to(zi_BD.dtype).exp() * cosine_TB + bias.detach().to(zi_BD.dtype)
    sign_TB = targets.tile(start, stop, len(zi_BD)).to(zi_BD) * 2 - 1
    return cosine_TB, logits_TB, sign_TB
