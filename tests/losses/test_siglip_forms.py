"""SigLIP's masked form, hard negatives and hard captions against the formulas written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from written_out import (
    CAPTIONS,
    EXTRA_IDS,
    IMAGES,
    LABELS,
    SIZE,
    TILES,
    Sizes,
    domain_vectors,
    drawn,
    gap,
    leaves,
    logits,
    positives,
    similarities,
    usable,
)

from honeclip.errors import BadInput
from honeclip.losses.siglip import siglip
from honeclip.losses.targets import Targets

TARGETS, MASK = Targets(CAPTIONS, IMAGES, LABELS), positives(CAPTIONS, IMAGES, LABELS)


def half(matrix: torch.Tensor, own: torch.Tensor, negative: torch.Tensor, beta: float) -> torch.Tensor:
    """One direction's sum: each positive once, each negative by its weight among the row's, which is a constant."""
    total = matrix.new_zeros(())
    for i in range(len(matrix)):
        others = torch.nonzero(negative[i])[:, 0]
        weight = len(others) * torch.softmax(beta * matrix[i, others].detach(), 0)
        total = total - F.logsigmoid(matrix[i, torch.nonzero(own[i])[:, 0]]).sum()
        total = total - (weight * F.logsigmoid(-matrix[i, others])).sum()
    return total


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("form", ["mean", "masked"])
@pytest.mark.parametrize("extra", [False, True])
def test_every_form_is_its_formula(form, beta, extra, tile):
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"], x["bias"]]
    more = {"extra_text_KD": x["extra"], "extra_id_K": EXTRA_IDS} if extra else {}
    loss = siglip(*inputs, TARGETS, tile, positives=form, hard_negatives=beta, **more)
    own = positives() if form == "masked" else MASK
    matrix = logits(x["image"], x["text"], x["log_scale"]) + x["bias"]
    wide, negative = matrix, ~MASK
    if extra:
        wide = torch.cat([matrix, logits(x["image"], x["extra"], x["log_scale"]) + x["bias"]], 1)
        negative = torch.cat([~MASK, usable(~MASK)], 1)
    reference = (half(wide, own, negative, beta) + half(matrix.T, own, ~MASK, beta)) / (2 * SIZE)
    assert gap(loss, reference, [*inputs, x["extra"]]) < 1e-10


@pytest.mark.parametrize("tile", TILES)
def test_similar_pairs_are_left_out_of_the_masked_form(tile):
    vectors, x = domain_vectors(), leaves()
    negative = ~positives(CAPTIONS) & ~(similarities(vectors) > 0.6)
    inputs = [x["image"], x["text"], x["log_scale"], x["bias"]]
    loss = siglip(*inputs, Targets(CAPTIONS, vectors_BK=vectors, same=0.6), tile, positives="masked")
    matrix = logits(x["image"], x["text"], x["log_scale"]) + x["bias"]
    assert gap(loss, half(matrix, positives(), negative, 0.0) / SIZE, inputs) < 1e-11


def test_no_extra_sentences_and_no_hardness_are_the_plain_loss():
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"], x["bias"]]
    plain = siglip(*inputs, TARGETS)
    assert gap(siglip(*inputs, TARGETS, extra_text_KD=x["extra"][:0]), plain, inputs) < 1e-12
    assert gap(siglip(*inputs, TARGETS, hard_negatives=1e-14), plain, inputs) < 1e-11


def test_smoothing_reaches_the_extra_sentences():
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"], x["bias"]]
    loss = siglip(*inputs, Targets(smoothing=0.2), 4, extra_text_KD=x["extra"])
    y = torch.full((SIZE, SIZE), 0.1, dtype=torch.float64).fill_diagonal_(0.9)
    matrix = logits(*inputs[:3]) + x["bias"]
    more = logits(x["image"], x["extra"], x["log_scale"]) + x["bias"]
    pairs = F.binary_cross_entropy_with_logits(matrix, y, reduction="sum")
    reference = pairs + F.binary_cross_entropy_with_logits(more, torch.full_like(more, 0.1), reduction="sum") / 2
    assert gap(loss, reference / SIZE, [*inputs, x["extra"]]) < 1e-11


def test_gradients_are_finite_differences():
    """Without hard negatives, whose weights are constants and so no part of what a difference sees."""
    x = leaves(7, 4)
    targets = Targets(CAPTIONS[:7], IMAGES[:7], LABELS[:7])
    for form in ("mean", "masked"):
        assert torch.autograd.gradcheck(
            lambda i, t, s, b, e, form=form: siglip(i, t, s, b, targets, 3, positives=form, extra_text_KD=e),
            tuple(x.values()),
        )


def test_neither_tail_loses_its_value_in_single_precision():
    """Far logits: the loss is the distance on the wrong side and exp(-distance), not 0, on the right side."""
    unit = torch.tensor([[1.0, 0.0]])
    for bias, smoothing, expected in ((30.0, 0.0, 9.3576e-14), (-30.0, 0.0, 30.0), (40.0, 0.5, 10.0)):
        loss = siglip(unit, unit, torch.tensor(0.0), torch.tensor(bias - 1), Targets(smoothing=smoothing), 1)
        assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_the_order_of_the_batch_does_not_matter():
    x = {name: value.detach() for name, value in leaves().items()}
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    options = {"positives": "masked", "hard_negatives": 0.8, "extra_text_KD": x["extra"], "extra_id_K": EXTRA_IDS}
    there = siglip(x["image"], x["text"], x["log_scale"], x["bias"], TARGETS, **options)
    targets = Targets(CAPTIONS[order], IMAGES[order], LABELS[order])
    shuffled = siglip(x["image"][order], x["text"][order], x["log_scale"], x["bias"], targets, **options)
    assert abs(float(there - shuffled)) < 1e-12


def test_no_square_of_the_batch_is_held():
    image, text = (drawn(2048, 16).requires_grad_() for _ in range(2))
    scale, bias = (torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (2.0, -1.0))
    with Sizes() as sizes:
        siglip(
            image, text, scale, bias, Targets(torch.arange(2048) // 3), 16, positives="masked", hard_negatives=0.5
        ).backward()
    assert max(sizes.seen) == 2048 * 16


def test_the_sum_form_is_refused():
    x = leaves()
    with pytest.raises(BadInput, match="no form of siglip"):
        siglip(x["image"], x["text"], x["log_scale"], x["bias"], TARGETS, positives="sum")
