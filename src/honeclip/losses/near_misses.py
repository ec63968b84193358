"""Near misses: for each image the captions that a model takes for right and that are wrong.

A batch of random rows holds few of them once a model is fair, and a contrastive loss learns from little else. `data.order`
puts a row's near misses into its batch. This lives among the losses because it asks what they ask, cosines tile by tile
and the same mask of positives, and sees embeddings only, no model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from honeclip.errors import DataError
from honeclip.losses import tiles

Positive = Callable[[int, int], Tensor]
"""(start, stop) -> bool (stop - start, N): which of all N rows are right for rows start to stop, as `Targets.tile` says."""


def near_misses(
    image_ND: Tensor, text_ND: Tensor, positive: Positive, k: int, tile_rows: int | str = "auto"
) -> NDArray[np.int64]:
    """For each row the k rows whose caption is most like the row's image, of those that are not right for it.

    Best first; equal cosines in the order of the rows. Where a row has fewer than k wrong partners the rest is -1, which
    `data.order` passes over. Memory grows with `tile_rows` times N, never with N x N.

    Args:
        image_ND: embeddings of the images, of any length.
        text_ND: embeddings of their captions, row by row.
        positive: the mask of right partners; a row's own caption must be among them.
        k: near misses a row.
        tile_rows: rows of cosines at once; "auto" keeps a tile at `tiles.TILE_BYTES`.

    Returns:
        int64 (N, k).

    Raises:
        DataError: k is below 1, or N is below k + 1.

    Source: approximate nearest neighbour negatives (Xiong et al. 2021, ANCE), here exact.
    """
    size = len(image_ND)
    if k < 1 or size < k + 1:
        raise DataError(
            f"{k} near misses a row need at least {max(k, 1) + 1} rows, and k of at least 1; there are {size} rows"
        )
    found = []
    with torch.no_grad():
        ni_N, nt_N = tiles.inverse_norms(image_ND), tiles.inverse_norms(text_ND)
        for start, stop in tiles.spans(size, tiles.rows(size, tile_rows)):
            cosines_TN = tiles.cosines(image_ND, text_ND, ni_N, nt_N, start, stop)
            cosines_TN.masked_fill_(positive(start, stop).to(cosines_TN.device), -torch.inf)
            found.append(_largest(cosines_TN, k))
    return torch.cat(found).numpy()


def _largest(values_TN: Tensor, k: int) -> Tensor:
    """Columns of the k largest values of each row, ties by column, -1 for minus infinity: int64 (T, k) on the CPU."""
    # topk says nothing about ties: put those it chose in order, and choose anew where more rows tie for the last place
    top_Tk, at_Tk = (one.cpu() for one in values_TN.topk(k, dim=1))  # what is left to sort is small
    by_column_Tk = at_Tk.argsort(dim=1)
    at_Tk, top_Tk = at_Tk.gather(1, by_column_Tk), top_Tk.gather(1, by_column_Tk)
    by_value_Tk = top_Tk.argsort(dim=1, descending=True, stable=True)
    at_Tk, top_Tk = at_Tk.gather(1, by_value_Tk), top_Tk.gather(1, by_value_Tk)
    last_T1 = top_Tk[:, -1:]
    tied_T = (values_TN == last_T1.to(values_TN.device)).sum(1).cpu() > (top_Tk == last_T1).sum(1)
    tied_T &= ~torch.isneginf(last_T1[:, 0])
    if bool(tied_T.any()):
        again_TN = values_TN[tied_T.to(values_TN.device)].cpu()
        at_Tk[tied_T] = again_TN.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return at_Tk.masked_fill_(torch.isneginf(top_Tk), -1)
