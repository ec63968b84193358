"""Evaluation by group: the pictures of one patient, part or paper answer as one.

Slices of one scan are no independent queries, and a question about a patient is not one about a slice. The embedding of a
group is the mean of the unit embeddings of its distinct pictures, made a unit again; its captions and labels stay, and each
of them is right for the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from honeclip.embedding.embed import Embeddings


def pooled(embeddings: Embeddings, groups: Sequence[str]) -> Embeddings:
    """Embeddings in which the N rows of one group are one picture.

    Args:
        embeddings: of N rows.
        groups: of the N rows; a row with "" is a group of its own.

    Returns:
        The same N rows and M captions. Rows of one group share their image embedding, `image_id` and `file_of`.
    """
    number: dict[str, int] = {}
    named = [name or f"\0{row}" for row, name in enumerate(groups)]  # no name of a group holds a NUL
    group_of = np.array([number.setdefault(name, len(number)) for name in named], dtype=np.int64)
    # a picture that stands in several rows of its group counts once
    _, first = np.unique(np.stack([group_of, embeddings.image_id]), axis=1, return_index=True)
    summed_GD = torch.zeros(len(number), embeddings.image.shape[1], dtype=torch.float64)
    summed_GD.index_add_(0, torch.from_numpy(group_of[first]), embeddings.image[first].double())
    image_ND = normalize(summed_GD, dim=-1).float()[group_of]
    return replace(embeddings, image=image_ND, image_id=group_of, file_of=group_of)
