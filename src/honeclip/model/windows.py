"""Texts that are longer than a model takes: embedded in windows and averaged, where the field says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.preprocess.preprocess import Preprocess


def over_windows(preprocess: Preprocess, texts: Sequence[str], embed: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Unit embeddings of texts, each the normalised mean of those of its windows.

    Args:
        preprocess: says what the windows of a text are; of most it is the text itself.
        texts: M.
        embed: unit embeddings (K, D) of K texts, each cut where it is too long.

    Returns:
        (M, D).
    """
    cut = preprocess.pieces(texts)
    if all(len(pieces) == 1 for pieces in cut):
        return embed(texts)
    each_KD = embed([piece for pieces in cut for piece in pieces])
    owner_K = torch.repeat_interleave(torch.arange(len(cut)), torch.tensor([len(pieces) for pieces in cut]))
    summed_MD = torch.zeros(len(cut), each_KD.shape[1], dtype=each_KD.dtype).index_add(0, owner_K, each_KD)
    return normalize(summed_MD, dim=-1)
