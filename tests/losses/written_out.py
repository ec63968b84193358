"""The losses as their papers write them, row by row and whole, for the tests to differentiate by plain autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIZE = 13
TILES = ["auto", 1, 3, 7, 13, 100]
CAPTIONS = torch.tensor([0, 0, 1, 2, 3, 1, 4, 5, 6, 7, 0, 8, 9])
IMAGES = torch.tensor([0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
LABELS = torch.zeros(SIZE, 4)
for row, label in ((0, 0), (3, 0), (3, 1), (6, 1), (7, 2), (12, 2)):
    LABELS[row, label] = 1
EXTRA_IDS = torch.tensor([-1, 0, 2, -1, 99])
"""Of five extra sentences: two that the data does not have, two captions of the batch, one of a row that is not here."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def leaves(size: int = SIZE, dim: int = 8) -> dict[str, Tensor]:
    """Embeddings of no particular length, a log scale, a bias and five extra sentences, all of which learn."""
    values = {
        "image": 3 * drawn(size, dim, seed=1),
        "text": drawn(size, dim, seed=2) / 2,
        "log_scale": torch.tensor(1.9, dtype=torch.float64),
        "bias": torch.tensor(-3.0, dtype=torch.float64),
        "extra": drawn(5, dim, seed=3),
    }
    return {name: value.requires_grad_() for name, value in values.items()}


def domain_vectors(size: int = SIZE) -> Tensor:
    """Unit vectors, some at an obtuse angle, two of which are zeros: pairs of which the domain knows nothing."""
    vectors = F.normalize(drawn(size, 3, seed=4), dim=1)
    vectors[[2, 5]] = 0
    return vectors


def positives(captions: Tensor | None = None, images: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """The mask by its definition, pair by pair."""
    mask = torch.eye(SIZE, dtype=torch.bool)
    for i in range(SIZE):
        for j in range(SIZE):
            mask[i, j] |= captions is not None and bool(captions[i] == captions[j])
            mask[i, j] |= images is not None and bool(images[i] == images[j])
            mask[i, j] |= labels is not None and bool(((labels[i] > 0) & (labels[j] > 0)).any())
    return mask


def similarities(vectors: Tensor) -> Tensor:
    return (vectors @ vectors.T).clamp(min=0)


def usable(negative: Tensor, captions: Tensor = CAPTIONS, ids: Tensor = EXTRA_IDS) -> Tensor:
    """Which sentences may be negatives of which row: not those that a pair says which is no negative of the row."""
    mask = torch.ones(len(negative), len(ids), dtype=torch.bool)
    for i in range(len(negative)):
        for k in range(len(ids)):
            said = [int(captions[j]) for j in range(len(negative)) if not negative[i, j]]
            mask[i, k] = int(ids[k]) < 0 or int(ids[k]) not in said
    return mask


def logits(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    return log_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T


def shares(mask: Tensor, similarity: Tensor | None, blend: float, smoothing: float) -> Tensor:
    """What each row aims at, as the specification says it."""
    size, rows = len(mask), []
    for i in range(size):
        hard = mask[i].double() / mask[i].sum()
        row = hard
        if similarity is not None and similarity[i].sum() > 0:
            row = (1 - blend) * hard + blend * similarity[i] / similarity[i].sum()
        rows.append((1 - smoothing) * row + smoothing / size)
    return torch.stack(rows)


def direction(
    logits: Tensor, mask: Tensor, negative: Tensor, form: str, beta: float = 0.0, aim: Tensor | None = None
) -> Tensor:
    """One direction: mean over rows of -log(what counts / (positives + weighed negatives)), with gradients through w."""
    rows = []
    for i in range(len(logits)):
        s = logits[i]
        own = torch.zeros_like(mask[i])
        own[i] = True
        kept = torch.nonzero(own if form == "masked" else mask[i])[:, 0]
        others = torch.nonzero(negative[i])[:, 0]
        weight = len(others) * torch.softmax(beta * s[others], 0)
        denominator = s[kept].exp().sum() + (weight * s[others].exp()).sum()
        if form == "mean":
            target = mask[i].double() / mask[i].sum() if aim is None else aim[i]
            rows.append(denominator.log() - (target * s[: len(mask)]).sum())
        elif form == "sum":
            rows.append(-(s[kept].exp().sum() / denominator).log())
        else:
            rows.append(-(s[i].exp() / denominator).log())
    return torch.stack(rows).mean()


def gap(loss: Tensor, reference: Tensor, inputs: list[Tensor]) -> float:
    """Largest difference of the values and of every gradient; an input that one of them ignores has a gradient of 0."""
    pairs = [(loss.detach(), reference.detach())]
    ours, theirs = (torch.autograd.grad(one, inputs, allow_unused=True, retain_graph=True) for one in (loss, reference))
    for a, b, of in zip(ours, theirs, inputs, strict=True):
        zero = torch.zeros_like(of)
        pairs.append((zero if a is None else a, zero if b is None else b))
    return max(float((a - b).abs().max()) for a, b in pairs)


class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the number of elements of every tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = out if isinstance(out, (tuple, list)) else (out,)
        self.seen.extend(one.numel() for one in given if isinstance(one, Tensor))
        return out
