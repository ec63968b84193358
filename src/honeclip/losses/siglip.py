"""SigLIP's pairwise sigmoid loss, with any number of positives, soft targets and hard negatives, in row tiles.

With logits l_ij = exp(log_scale) z_i . z_j + bias and targets y_ij in 0 to 1 (1 for positives, 0 otherwise, or soft):

    L = -1/B sum_ij w_ij [ y_ij log sigmoid(l_ij) + (1 - y_ij) log sigmoid(-l_ij) ]

(Zhai et al. 2023, arXiv 2303.15343, for y of 0 and 1 and w = 1). Its gradient by a logit is w (sigmoid(l)(1 - y) - y
sigmoid(-l)) / B; written as two log-sigmoids neither tail cancels in float32. Sums over tiles are exact; each tile is
computed again in the backward.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone reads
from torch import Tensor

from honeclip.errors import BadInput
from honeclip.losses import negatives, tiles
from honeclip.losses.negatives import Extra
from honeclip.losses.targets import Targets


def siglip(
    image_BD: Tensor,
    text_BD: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    targets: Targets,
    tile: int | str = "auto",
    *,
    positives: Literal["mean", "sum", "masked"] = "mean",
    hard_negatives: float = 0.0,
    extra_text_KD: Tensor | None = None,
    extra_id_K: Tensor | None = None,
    row_id: Tensor | None = None,
) -> Tensor:
    """The sigmoid loss of B pairs; arguments, result and errors as `infonce`, `bias` a scalar added to every logit.

    Every positive is judged by itself, so "mean" is the sum over all of them and "sum" is an error; "masked" leaves other
    positives out.

    With hard negatives the loss is half a sum over rows, whose negatives weigh among the row's, and half a sum over columns,
    whose negatives weigh among the column's. The weights are constants here, as in importance sampling: the loss is a
    weighted sum of terms, and a gradient through the weights would lower it by making the easy negatives harder.

    Extra sentences are negatives in the half over rows, so they count half; their target is 0 (smoothed as the others').
    """
    negatives.check(targets, positives, hard_negatives)
    if positives == "sum":
        raise BadInput(
            'positives = "sum" is no form of siglip, which judges each pair by itself; use "mean" or "masked"'
        )
    more = negatives.extra(targets, extra_text_KD, extra_id_K, row_id)
    weighted = hard_negatives > 0 or more is not None
    size = len(image_BD)
    if positives == "mean" and not targets.soft and not weighted:
        height = tiles.rows(size, tile, image_BD.element_size())
        loss: Tensor = _SigLIP.apply(image_BD, text_BD, log_scale, bias, targets, height)
        return loss
    key_KD = text_BD if more is None else torch.cat([text_BD, more.text_KD])
    height = tiles.rows(size, tile, image_BD.element_size(), len(key_KD))
    to_text, to_image = (
        _row_loss(targets, positives, hard_negatives, columns, image_BD.detach()) for columns in (more, None)
    )
    rows = tiles.rowwise(image_BD, key_KD, log_scale, to_text, height, bias)
    if not weighted:
        return rows / size
    return (rows + tiles.rowwise(text_BD, image_BD, log_scale, to_image, height, bias)) / (2 * size)


def _row_loss(targets: Targets, positives: str, beta: float, more: Extra | None, like_BD: Tensor) -> tiles.RowLoss:
    """The formula at the top of this file on one tile of rows, not yet divided by B."""
    only_own = Targets()

    def row_loss(logits_TK: Tensor, start: int, stop: int) -> Tensor:
        size, extra = len(like_BD), logits_TK.shape[1] - len(like_BD)
        positive_TB = (only_own if positives == "masked" else targets).tile(start, stop, size).to(logits_TK.device)
        negative_TK = negatives.tile(targets, more, start, stop, like_BD)
        weight_TK = F.pad(positive_TB, (0, extra)).to(logits_TK)
        weight_TK += negatives.hard_weights(logits_TK, negative_TK, beta) if beta else negative_TK
        # an extra sentence has the target of a negative that is similar to nothing
        y_TK = F.pad(targets.values(start, stop, like_BD), (0, extra), value=targets.smoothing / 2)
        likelihood_TK = y_TK * F.logsigmoid(logits_TK) + (1 - y_TK) * F.logsigmoid(-logits_TK)
        return -(weight_TK * likelihood_TK).sum()

    return row_loss


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
