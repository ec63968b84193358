"""Supervised contrast between samples of one modality, in row tiles (Khosla et al. 2020, arXiv 2004.11362, L_out).

With unit embeddings z, s_ij = exp(log_scale) z_i . z_j and P(i) the positives of row i other than itself,

    L = mean over rows with a positive of  [ lse_{j != i} s_ij - 1/|P(i)| sum_{j in P(i)} s_ij ]

The diagonal, which says nothing, is in neither sum.
"""

from __future__ import annotations

from torch import Tensor

from honeclip.errors import BadInput
from honeclip.losses import negatives, tiles
from honeclip.losses.targets import Targets


def supcon(x_BD: Tensor, log_scale: Tensor, targets: Targets, tile: int | str = "auto") -> Tensor:
    """The contrast of B samples of one modality by what they share.

    Args:
        x_BD: embeddings of any length, float32 or float64 (B, D); what counts is their direction.
        log_scale: scalar, the natural logarithm of the logit scale.
        targets: the positives: ids, labels or both.
        tile: rows of logits at once, or "auto"; changes memory and time, not the result.

    Returns:
        A scalar of the embeddings' dtype. A row without another positive contributes nothing and is not counted in the
        mean; without any such row the loss and its gradients are 0.

    Raises:
        BadInput: soft targets, or `same`.
    """
    if targets.soft or targets.same is not None:
        raise BadInput("supcon has hard positives only; leave blend, smoothing and same of its targets out")
    size = len(x_BD)
    height = tiles.rows(size, tile, x_BD.element_size())
    diagonal = Targets()

    def row_loss(logits_TB: Tensor, start: int, stop: int) -> Tensor:
        other_TB = ~diagonal.tile(start, stop, size).to(logits_TB.device)
        positive_TB = targets.tile(start, stop, size).to(logits_TB.device) & other_TB
        count_T = positive_TB.sum(1)
        mean_T = (logits_TB * positive_TB).sum(1) / count_T.clamp(min=1)
        return (negatives.log_sum_exp(logits_TB, other_TB) - mean_T).masked_fill(count_T == 0, 0.0).sum()

    with_positive = (targets.counts(size, height) > 1).sum().clamp(min=1).to(x_BD)
    return tiles.rowwise(x_BD, x_BD, log_scale, row_loss, height) / with_positive
