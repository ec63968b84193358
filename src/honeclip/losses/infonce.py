"""InfoNCE over both directions, with any number of positives, soft targets and hard negatives, in row tiles.

With unit embeddings z, logits s = exp(log_scale) z_image z_text^T, P(i) the positives and N(i) the negatives of row i, each
direction is the mean over its rows of

    mean      log D_i - sum_j t_ij s_ij                   t the target shares; hard ones are 1/|P(i)|
    sum       log D_i - log sum_{j in P(i)} exp s_ij
    masked    log D_i - s_ii                              with P(i) = {i}: other positives are in neither sum

with D_i = sum_{j in P(i)} exp s_ij + sum_{j in N(i)} w_ij exp s_ij, and the loss is the mean of the two directions. With one
positive a row, all three are CLIP's loss (Radford et al. 2021, arXiv 2103.00020). "mean" is L_out of the supervised
contrastive loss (Khosla et al. 2020, arXiv 2004.11362), "sum" is MIL-NCE (Miech et al. 2020, arXiv 1912.06430). The weights
w are 1, or those of `honeclip.losses.negatives` for hard negatives.

For the mean form without weights and extra columns, log D of rows and columns is streamed over the same tiles and the
backward computes each tile again (Cheng et al. 2024, arXiv 2410.17243); every other form is `tiles.rowwise` once a
direction. Memory is O(B x tile) in both.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone reads
from torch import Tensor

from honeclip.losses import negatives, tiles
from honeclip.losses.negatives import Extra
from honeclip.losses.targets import Targets


def infonce(
    image_BD: Tensor,
    text_BD: Tensor,
    log_scale: Tensor,
    targets: Targets,
    tile: int | str = "auto",
    *,
    positives: Literal["mean", "sum", "masked"] = "mean",
    hard_negatives: float = 0.0,
    extra_text_KD: Tensor | None = None,
    extra_id_K: Tensor | None = None,
    row_id: Tensor | None = None,
) -> Tensor:
    """The symmetric contrastive loss of B pairs.

    Args:
        image_BD, text_BD: embeddings of any length, float32 or float64 (B, D); what counts is their direction.
        log_scale: scalar, the natural logarithm of the logit scale.
        targets: the positives, hard or soft.
        tile: rows of logits at once, or "auto"; changes memory and time, not the result.
        positives: what becomes of positives beside the own pair; see the top of this file.
        hard_negatives: beta, 0 or above; the harder a negative the more it weighs. The gradient flows through the weights.
        extra_text_KD: sentences that belong to no image (K, D): negatives of every image, and in no other place.
        extra_id_K: int64 (K,), the caption id of each, negative where the data has no such sentence. A row leaves out its
            own caption, and those of all pairs that are no negatives of it.
        row_id: int64 (B,), the caption id of each pair for that comparison, where it is not `targets.caption_id`.

    Returns:
        A scalar of the embeddings' dtype. A row without any negative is finite: "sum" and "masked" give it 0.

    Raises:
        BadInput: options that have no meaning together, such as soft targets with "sum" or "masked".
    """
    negatives.check(targets, positives, hard_negatives)
    more = negatives.extra(targets, extra_text_KD, extra_id_K, row_id)
    if positives == "mean" and hard_negatives == 0 and more is None:
        height = tiles.rows(len(image_BD), tile, image_BD.element_size())
        loss: Tensor = _InfoNCE.apply(image_BD, text_BD, log_scale, targets, height)
        return loss
    key_KD = text_BD if more is None else torch.cat([text_BD, more.text_KD])
    height = tiles.rows(len(image_BD), tile, image_BD.element_size(), len(key_KD))
    to_text, to_image = (
        _row_loss(targets, positives, hard_negatives, columns, image_BD.detach(), height) for columns in (more, None)
    )
    rows = tiles.rowwise(image_BD, key_KD, log_scale, to_text, height)
    columns = tiles.rowwise(text_BD, image_BD, log_scale, to_image, height)
    return (rows + columns) / (2 * len(image_BD))


def _row_loss(
    targets: Targets, positives: str, beta: float, more: Extra | None, like_BD: Tensor, height: int
) -> tiles.RowLoss:
    """The formula at the top of this file on one tile of rows."""
    size = len(like_BD)
    only_own = Targets()
    shares = targets.shares(like_BD, height) if positives == "mean" else None

    def row_loss(logits_TK: Tensor, start: int, stop: int) -> Tensor:
        positive_TB = (only_own if positives == "masked" else targets).tile(start, stop, size).to(logits_TK.device)
        positive_T = negatives.log_sum_exp(logits_TK, F.pad(positive_TB, (0, logits_TK.shape[1] - size)))
        negative_TK = negatives.tile(targets, more, start, stop, like_BD)
        denominator_T = torch.logaddexp(positive_T, negatives.log_sum_hard(logits_TK, negative_TK, beta))
        if shares is None:
            return (denominator_T - positive_T).sum()
        return denominator_T.sum() - (shares.tile(start, stop) * logits_TK[:, :size]).sum()

    return row_loss


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xi_BD: Tensor, xt_BD: Tensor, log_scale: Tensor, targets: Targets, height: int) -> Tensor:
        size = len(xi_BD)
        scale = log_scale.detach().to(xi_BD.dtype).exp()
        ni_B, nt_B = tiles.inverse_norms(xi_BD), tiles.inverse_norms(xt_BD)
        own_only = targets.only_pairs and not targets.soft
        shares = None if own_only else targets.shares(xi_BD, height)
        row_lse_B = xi_BD.new_empty(size)
        column_lse_B = xi_BD.new_full((size,), -torch.inf)
        positive = xi_BD.new_zeros(())
        for start, stop in tiles.spans(size, height):
            logits_TB = tiles.cosines(xi_BD, xt_BD, ni_B, nt_B, start, stop).mul_(scale)
            row_lse_B[start:stop] = logits_TB.logsumexp(1)
            column_lse_B = torch.logaddexp(column_lse_B, logits_TB.logsumexp(0))
            if shares is None:
                positive = positive + 2 * logits_TB.diagonal(start).sum()
            else:
                positive = positive + shares.both(start, stop).mul_(logits_TB).sum()
        ctx.save_for_backward(xi_BD, xt_BD, ni_B, nt_B, log_scale, row_lse_B, column_lse_B)
        ctx.shares, ctx.height = shares, height
        return (row_lse_B.sum() + column_lse_B.sum() - positive) / (2 * size)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        xi_BD, xt_BD, ni_B, nt_B, log_scale, row_lse_B, column_lse_B = ctx.saved_tensors
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
            if ctx.shares is None:
                g_TB.diagonal(start).sub_(2)
            else:
                g_TB -= ctx.shares.both(start, stop)
            g_scale = g_scale + logits_TB.mul_(g_TB).sum()
            g_TB.mul_(share * scale)
            # by the unit vectors of the other side: its norms go on the tile, not on a copy of the embeddings
            torch.mm(g_TB * nt_B[None, :], xt_BD, out=gi_BD[start:stop])
            gt_BD.addmm_(g_TB.mul_(ni_B[start:stop, None]).T, xi_BD[start:stop])
        gi_BD = tiles.through_normalisation(gi_BD, xi_BD, ni_B, ctx.height)
        gt_BD = tiles.through_normalisation(gt_BD, xt_BD, nt_B, ctx.height)
        return gi_BD, gt_BD, (share * g_scale).to(log_scale), None, None
