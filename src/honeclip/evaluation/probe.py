"""How well captions can be told from images by features of bodies that have not learned yet: a score without training.

A ridge regression goes from the features of the images to those of their captions, on a part of the rows; the others are
asked which caption is theirs. It says what a run could read out of the images, also of a model whose towers have never
met, and the same rows asked at several sizes say what a size is worth (a linear probe: Alain and Bengio 2016, arXiv
1610.01644; with captions in place of classes).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor

FOLDS = 4

PENALTIES = tuple(10.0**power for power in range(0, 6))
"""Of the ridge regression on standardised features; the best by leave-one-out is taken in each fold."""


def reciprocal_ranks(
    image_NF: Tensor, text_NF: Tensor, caption_id: NDArray[np.int64], tied: NDArray[np.int64]
) -> NDArray[np.float64]:
    """1 / rank of each image's caption among the distinct captions of the rows that were held out with it.

    Args:
        image_NF: features of the images, one row a pair.
        text_NF: features of the captions.
        caption_id: (N,); rows with equal captions share one.
        tied: (N,); rows that share one are held out together.

    Returns:
        (N,); their mean is the MRR.
    """
    images, texts = image_NF.double().numpy(), text_NF.double().numpy()
    found = np.zeros(len(images))
    folds = GroupKFold(n_splits=min(FOLDS, len(np.unique(tied))), shuffle=True, random_state=0)
    for seen, held in folds.split(images, groups=tied):
        inputs, targets = StandardScaler().fit(images[seen]), StandardScaler().fit(texts[seen])
        model = RidgeCV(alphas=PENALTIES).fit(inputs.transform(images[seen]), targets.transform(texts[seen]))
        said = _unit(model.predict(inputs.transform(images[held])))
        _, first, own = np.unique(caption_id[held], return_index=True, return_inverse=True)
        likeness = said @ _unit(targets.transform(texts[held][first])).T
        mine = likeness[np.arange(len(held)), own]
        # captions that are as near as the right one share its place on average
        above, level = (likeness > mine[:, None]).sum(1), (likeness == mine[:, None]).sum(1)
        found[held] = 1 / (above + (level + 1) / 2)
    return found


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
