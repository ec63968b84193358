"""Soft targets and label smoothing against torch's cross-entropy on probabilities, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from written_out import (
    CAPTIONS,
    IMAGES,
    SIZE,
    TILES,
    Sizes,
    direction,
    domain_vectors,
    drawn,
    gap,
    leaves,
    logits,
    positives,
    shares,
    similarities,
)

from honeclip.errors import BadInput
from honeclip.losses.infonce import infonce
from honeclip.losses.siglip import siglip
from honeclip.losses.targets import Targets

BLENDS = [(0.0, 0.1), (0.3, 0.0), (1.0, 0.0), (0.4, 0.2), (0.5, 1.0)]


def soft(blend: float, smoothing: float) -> tuple[Targets, torch.Tensor]:
    vectors = domain_vectors()
    targets = Targets(CAPTIONS, IMAGES, vectors_BK=vectors, blend=blend, smoothing=smoothing)
    return targets, shares(positives(CAPTIONS, IMAGES), similarities(vectors), blend, smoothing)


@pytest.mark.parametrize("tile", TILES)
def test_smoothed_pairs_are_torchs_label_smoothing(tile):
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    matrix, diagonal = logits(*inputs), torch.arange(SIZE)
    reference = sum(F.cross_entropy(m, diagonal, label_smoothing=0.15) for m in (matrix, matrix.T)) / 2
    assert gap(infonce(*inputs, Targets(smoothing=0.15), tile), reference, inputs) < 1e-12


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("blend", "smoothing"), BLENDS)
def test_soft_targets_are_torchs_cross_entropy_with_probabilities(blend, smoothing, tile):
    targets, aim = soft(blend, smoothing)
    assert (aim.sum(1) - 1).abs().max() < 1e-12
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    matrix = logits(*inputs)
    reference = (F.cross_entropy(matrix, aim) + F.cross_entropy(matrix.T, aim)) / 2
    assert gap(infonce(*inputs, targets, tile), reference, inputs) < 1e-12


@pytest.mark.parametrize("tile", ["auto", 3])
def test_hard_negatives_go_with_soft_targets(tile):
    """Negatives are what is outside the positives, as similar as it may be; the target is the soft one."""
    targets, aim = soft(0.4, 0.1)
    mask = positives(CAPTIONS, IMAGES)
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    matrix = logits(*inputs)
    reference = sum(direction(m, mask, ~mask, "mean", 0.7, aim) for m in (matrix, matrix.T)) / 2
    assert gap(infonce(*inputs, targets, tile, hard_negatives=0.7), reference, inputs) < 1e-10


@pytest.mark.parametrize("tile", ["auto", 3])
def test_a_row_that_is_similar_to_itself_alone_gives_its_share_to_its_own_pair(tile):
    """Its similarities sum to exactly 1: it is known, and not taken for one of which the domain knows nothing."""
    vectors = domain_vectors()
    vectors = torch.cat([vectors, torch.zeros(SIZE, 1)], 1)
    vectors[0] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    targets = Targets(CAPTIONS, IMAGES, vectors_BK=vectors, blend=0.4)
    aim = shares(positives(CAPTIONS, IMAGES), similarities(vectors), 0.4, 0.0)
    assert aim[0, 0] == pytest.approx(0.4 + 0.6 / 3)
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    matrix = logits(*inputs)
    reference = (F.cross_entropy(matrix, aim) + F.cross_entropy(matrix.T, aim)) / 2
    assert gap(infonce(*inputs, targets, tile), reference, inputs) < 1e-12


def test_a_row_that_is_similar_to_nothing_aims_at_its_positives():
    targets, _ = soft(0.4, 0.0)
    aim = targets.shares(drawn(SIZE, 2), 4).tile(0, SIZE)
    mask = positives(CAPTIONS, IMAGES).double()
    for row in (2, 5):
        assert (aim[row] - mask[row] / mask[row].sum()).abs().max() < 1e-15
        assert (targets.values(row, row + 1, drawn(SIZE, 2)) - mask[row]).abs().max() == 0
    assert (aim[0] - mask[0] / mask[0].sum()).abs().max() > 0.01


def test_vectors_at_an_obtuse_angle_are_similar_to_nothing_but_themselves():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    aim = Targets(vectors_BK=vectors, blend=1.0).shares(drawn(3, 2), 2).tile(0, 3)
    assert torch.equal(aim, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("blend", "smoothing"), BLENDS)
def test_soft_siglip_is_torchs_binary_cross_entropy(blend, smoothing, tile):
    targets, _ = soft(blend, smoothing)
    y, vectors = positives(CAPTIONS, IMAGES).double(), domain_vectors()
    for i in range(SIZE):
        for j in range(SIZE):
            if vectors[i].any() and vectors[j].any():
                y[i, j] = (1 - blend) * y[i, j] + blend * max(0.0, float(vectors[i] @ vectors[j]))
    y = y * (1 - smoothing) + smoothing / 2
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"], x["bias"]]
    matrix = logits(*inputs[:3]) + x["bias"]
    reference = F.binary_cross_entropy_with_logits(matrix, y, reduction="sum") / SIZE
    assert gap(siglip(*inputs, targets, tile), reference, inputs) < 1e-11


def test_gradients_are_finite_differences():
    x = leaves(7, 4)
    targets = Targets(CAPTIONS[:7], vectors_BK=domain_vectors()[:7], blend=0.4, smoothing=0.1)
    inputs = (x["image"], x["text"], x["log_scale"])
    assert torch.autograd.gradcheck(lambda *a: infonce(*a, targets, 3), inputs)
    assert torch.autograd.gradcheck(lambda *a: siglip(*a, targets, 3), (*inputs, x["bias"]))


def test_the_order_of_the_batch_does_not_matter():
    x = {name: value.detach() for name, value in leaves().items()}
    order, vectors = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1)), domain_vectors()
    for loss in (
        lambda i, t, targets: infonce(i, t, x["log_scale"], targets),
        lambda i, t, targets: siglip(i, t, x["log_scale"], x["bias"], targets),
    ):
        there = loss(x["image"], x["text"], Targets(CAPTIONS, vectors_BK=vectors, blend=0.5, smoothing=0.1))
        shuffled = Targets(CAPTIONS[order], vectors_BK=vectors[order], blend=0.5, smoothing=0.1)
        assert abs(float(there - loss(x["image"][order], x["text"][order], shuffled))) < 1e-12


def test_no_square_of_the_batch_is_held():
    image, text = (drawn(2048, 16).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (2.0, -1.0))
    targets = Targets(vectors_BK=F.normalize(drawn(2048, 6), dim=1), blend=0.5, smoothing=0.1)
    with Sizes() as sizes:
        infonce(image, text, scale, targets, 16).backward()
        siglip(image, text, scale, bias, targets, 16).backward()
    assert max(sizes.seen) == 2048 * 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"blend": 0.5}, "blend = 0.5 needs vectors"),
        ({"same": 0.5}, "same = 0.5 needs vectors"),
        ({"blend": 1.5}, "blend = 1.5: it is a share"),
        ({"smoothing": -0.1}, "smoothing = -0.1: it is a share"),
    ],
)
def test_targets_without_meaning_are_refused(given, message):
    with pytest.raises(BadInput, match=message):
        Targets(**given)


@pytest.mark.parametrize(
    ("targets", "form", "message"),
    [
        (Targets(smoothing=0.1), "sum", "knows no soft targets"),
        (Targets(vectors_BK=domain_vectors(), blend=0.1), "masked", "knows no soft targets"),
        (Targets(vectors_BK=domain_vectors()), "sum", "no place for vectors"),
        (Targets(vectors_BK=domain_vectors(), same=0.9), "mean", "takes pairs out"),
    ],
)
def test_forms_without_a_place_for_soft_targets_refuse_them(targets, form, message):
    x = leaves()
    with pytest.raises(BadInput, match=message):
        infonce(x["image"], x["text"], x["log_scale"], targets, positives=form)
    with pytest.raises(BadInput, match=message):
        siglip(x["image"], x["text"], x["log_scale"], x["bias"], targets, positives=form)
