"""Negatives: which columns of a row are some, how much the hard ones weigh, and extra sentences that are only that.

Hard negatives follow HN-NCE of DiHT (Radenovic et al. 2023, arXiv 2301.02280, alpha = 1; the idea is Robinson et al. 2021,
arXiv 2010.04592): negative j of row i weighs

    w_ij = N_i exp(beta s_ij) / sum_{k in N(i)} exp(beta s_ik)

with N(i) the negatives of row i, N_i their number and s the scaled logits. The weights of a row have the mean 1, and at
beta = 0 each is 1. Extra sentences follow NegCLIP (Yuksekgonul et al. 2023, arXiv 2210.01936).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from honeclip.errors import BadInput
from honeclip.losses.targets import Targets

FORMS = ("mean", "sum", "masked")
"""What the other positives of a row are: targets, alternatives to the own pair, or nothing at all."""


@dataclass(frozen=True)
class Extra:
    """K sentences that belong to no image of the batch: further columns of the image-to-text direction.

    A sentence that is the caption of a pair which is no negative of the row is none either: above all the row's own
    caption, and that of another pair with the same picture.

    Attributes:
        text_KD: embeddings of the sentences (K, D).
        place_B: int64 (B,) or None; which of the distinct captions each pair has. None: no sentence is known.
        place_K: int64 (K,); the same for each sentence.
        unknown_K: bool (K,); the data has no such sentence.
    """

    text_KD: Tensor
    place_B: Tensor | None = None
    place_K: Tensor | None = None
    unknown_K: Tensor | None = None

    def tile(self, negative_TB: Tensor) -> Tensor:
        """The usable sentences of rows with these negatives: bool (T, K)."""
        if self.place_B is None or self.place_K is None or self.unknown_K is None:
            return torch.ones(len(negative_TB), len(self.text_KD), dtype=torch.bool, device=negative_TB.device)
        # by way of the distinct captions, so that no matrix of batch x sentences is needed
        count = len(self.place_B) + len(self.place_K)
        said_TC = torch.zeros(len(negative_TB), count, device=negative_TB.device)
        said_TC.index_add_(1, self.place_B, (~negative_TB).to(said_TC))
        return (said_TC[:, self.place_K] == 0) | self.unknown_K[None, :]


def extra(
    targets: Targets, text_KD: Tensor | None, id_K: Tensor | None, row_id_B: Tensor | None = None
) -> Extra | None:
    """The extra sentences of a loss call; `row_id_B` None means the targets' caption ids.

    Raises:
        BadInput: ids without sentences or of another number, or ids that could be compared with nothing.
    """
    if text_KD is None:
        if id_K is not None:
            raise BadInput("extra_id_K names sentences that are not there; give extra_text_KD as well")
        return None
    row_id_B = targets.caption_id if row_id_B is None else row_id_B
    if id_K is not None and len(id_K) != len(text_KD):
        raise BadInput(f"extra_id_K has {len(id_K)} ids for {len(text_KD)} sentences; give one a sentence")
    if id_K is not None and row_id_B is None:
        raise BadInput("extra_id_K has no caption ids to be compared with; give row_id, or targets with caption_id")
    if id_K is None or row_id_B is None:
        return Extra(text_KD)
    _, place = torch.unique(torch.cat([row_id_B, id_K]), return_inverse=True)
    return Extra(text_KD, place[: len(row_id_B)], place[len(row_id_B) :], id_K < 0)


def check(targets: Targets, positives: str, hard_negatives: float) -> None:
    """Refuses what has no meaning together.

    Raises:
        BadInput: an unknown form, a negative beta, soft targets or vectors where the form has no place for them.
    """
    if positives not in FORMS:
        raise BadInput(f"positives = {positives!r}: it is one of {', '.join(FORMS)}")
    if not 0 <= hard_negatives < float("inf"):
        raise BadInput(f"hard_negatives = {hard_negatives}: the weight of hard negatives is 0 (none) or above")
    if positives != "mean" and targets.soft:
        raise BadInput(f'positives = "{positives}" knows no soft targets; use "mean", or blend = smoothing = 0')
    if positives == "sum" and targets.vectors_BK is not None:
        raise BadInput('positives = "sum" has no place for vectors; use "mean" with blend or "masked" with same')
    if positives != "masked" and targets.same is not None:
        raise BadInput(f'same = {targets.same} takes pairs out, which only positives = "masked" does; set one of them')


def tile(targets: Targets, more: Extra | None, start: int, stop: int, like_BD: Tensor) -> Tensor:
    """Rows of the mask of negatives, the extra sentences last: bool (stop - start, B + K)."""
    mask_TB = targets.negatives(start, stop, len(like_BD)).to(like_BD.device)
    return mask_TB if more is None else torch.cat([mask_TB, more.tile(mask_TB)], 1)


def log_sum_exp(logits_TK: Tensor, among_TK: Tensor) -> Tensor:
    """Over the columns in `among_TK` (T,); -inf for a row without any, whose gradient torch makes zero and not NaN."""
    return logits_TK.masked_fill(~among_TK, -torch.inf).logsumexp(1)


def log_sum_hard(logits_TK: Tensor, negative_TK: Tensor, beta: float) -> Tensor:
    """log sum_j w_ij exp(s_ij) over the negatives (T,), in closed form; -inf for a row without any.

    The gradient flows through the weights too: the paper writes them as a function of the logits, and the public
    re-implementations of the loss differentiate them.
    """
    if beta == 0:
        return log_sum_exp(logits_TK, negative_TK)
    count_T = negative_TK.sum(1)
    norm_T = log_sum_exp(beta * logits_TK, negative_TK).masked_fill(count_T == 0, 0.0)
    return log_sum_exp((1 + beta) * logits_TK, negative_TK) - norm_T + count_T.clamp(min=1).to(logits_TK).log()


@torch.no_grad()
def hard_weights(logits_TK: Tensor, negative_TK: Tensor, beta: float) -> Tensor:
    """w_ij of the negatives and 0 elsewhere (T, K), as constants."""
    scaled_TK = beta * logits_TK
    norm_T = log_sum_exp(scaled_TK, negative_TK).masked_fill(~negative_TK.any(1), 0.0)
    weight_TK = (scaled_TK - norm_T[:, None]).masked_fill(~negative_TK, -torch.inf).exp_()
    return weight_TK.mul_(negative_TK.sum(1, keepdim=True))
