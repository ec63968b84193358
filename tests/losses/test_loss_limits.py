"""What every loss does at its limits: finite values and gradients at any scale, for one sample, equal or opposite vectors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from written_out import CAPTIONS, IMAGES, LABELS, domain_vectors, drawn, gap

from honeclip.losses import tiles
from honeclip.losses.infonce import infonce
from honeclip.losses.scales import multi_scale
from honeclip.losses.siglip import siglip
from honeclip.losses.supcon import supcon
from honeclip.losses.targets import Targets

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def everything(image, text, log_scale, bias, targets: Targets, vectors) -> dict[str, torch.Tensor]:
    """Every loss in every form, by name."""
    soft = Targets(targets.caption_id, vectors_BK=vectors, blend=0.5, smoothing=0.1)
    similar = Targets(targets.caption_id, vectors_BK=vectors, same=0.5)
    extra = -image[:2].detach()
    losses = {
        "soft": infonce(image, text, log_scale, soft),
        "soft siglip": siglip(image, text, log_scale, bias, soft),
        "similar": infonce(image, text, log_scale, similar, positives="masked"),
        "supcon": supcon(image, log_scale, targets),
        "scales": multi_scale([image, text], text, log_scale, (1.0, 0.5), targets)[0],
    }
    for form in ("mean", "sum", "masked"):
        for beta in (0.0, 1.0):
            options = {"positives": form, "hard_negatives": beta, "extra_text_KD": extra}
            losses[f"{form} {beta}"] = infonce(image, text, log_scale, targets, **options)
            if form != "sum":
                losses[f"siglip {form} {beta}"] = siglip(image, text, log_scale, bias, targets, **options)
            del options["extra_text_KD"]
            losses[f"{form} {beta} alone"] = infonce(image, text, log_scale, targets, **options)
    return losses


@pytest.mark.parametrize("scale", [1.0, 100.0, 10_000.0])
@pytest.mark.parametrize("case", ["random", "identical", "one sample", "all positives", "opposite", "zero vectors"])
def test_every_value_and_gradient_is_finite_in_single_precision(case, scale):
    size = 1 if case == "one sample" else 13
    image, text = drawn(size, 8, seed=1).float(), drawn(size, 8, seed=2).float()
    targets, vectors = Targets(CAPTIONS[:size], IMAGES[:size], LABELS[:size]), domain_vectors()[:size].float()
    if case == "identical":
        image, text = torch.ones(13, 8), torch.ones(13, 8)
    if case == "all positives":
        targets = Targets(torch.zeros(13, dtype=torch.long))
    if case == "opposite":
        text = -image
    if case == "zero vectors":
        vectors = torch.zeros(13, 3)
    inputs = [one.requires_grad_() for one in (image, text, torch.tensor(math.log(scale)), torch.tensor(-10.0))]
    for name, loss in everything(*inputs, targets, vectors).items():
        assert math.isfinite(float(loss.detach())), name
        for gradient in torch.autograd.grad(loss, inputs, allow_unused=True):
            assert gradient is None or bool(gradient.isfinite().all()), name


def test_one_sample_without_negatives_is_worth_nothing():
    image, text = drawn(1, 8, seed=1), drawn(1, 8, seed=2)
    log_scale, bias = torch.tensor(4.0, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    losses = everything(image, text, log_scale, bias, Targets(), torch.ones(1, 1, dtype=torch.float64))
    for name in ("mean 0.0 alone", "mean 1.0 alone", "sum 1.0 alone", "masked 1.0 alone", "soft", "supcon", "scales"):
        assert abs(float(losses[name])) < 1e-13, name


def test_identical_embeddings_are_a_guess_among_all():
    """Every logit is equal, so each direction of pairs costs log B, whatever the scale or beta."""
    ones = torch.ones(13, 8, dtype=torch.float64)
    for scale in (0.0, math.log(100), math.log(10_000)):
        for beta in (0.0, 2.0):
            loss = infonce(ones, ones, torch.tensor(scale, dtype=torch.float64), Targets(), hard_negatives=beta)
            assert float(loss) == pytest.approx(math.log(13), rel=1e-9)


def test_a_tile_has_at_least_one_row_and_no_more_bytes_than_it_may():
    assert tiles.rows(1) == 1
    assert tiles.rows(10_000_000) == 1, "a single row is wider than a tile should be"
    for size, columns in ((1000, 1000), (5000, 5000), (5000, 9000)):
        height = tiles.rows(size, columns=columns)
        assert height == size or height * columns * 4 <= tiles.TILE_BYTES < (height + 1) * columns * 4


@st.composite
def batches(draw):
    """A batch of up to 9 pairs with ids, labels and domain vectors that may coincide or be missing."""
    size = draw(st.integers(1, 9))
    few = st.lists(st.integers(0, 3), min_size=size, max_size=size).map(torch.tensor)
    vectors = F.normalize(drawn(size, 3, seed=draw(st.integers(0, 99))), dim=1)
    vectors[draw(few) == 0] = 0
    label_BC = F.one_hot(draw(few), 4)[:, 1:].float()
    return size, Targets(draw(few), draw(few), label_BC), vectors, draw(st.integers(0, 99)), draw(st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(batches(), st.sampled_from(["mean", "sum", "masked"]), st.floats(0, 3))
def test_tiles_and_order_change_nothing_for_any_batch(batch, form, beta):
    size, targets, _, seed, tile = batch
    image, text = drawn(size, 4, seed=seed).requires_grad_(), drawn(size, 4, seed=seed + 1).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    options = {"positives": form, "hard_negatives": beta}
    whole = infonce(image, text, scale, targets, size, **options)
    assert gap(infonce(image, text, scale, targets, tile, **options), whole, [image, text, scale]) < 1e-11
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    shuffled = Targets(targets.caption_id[order], targets.image_id[order], targets.label_BC[order])
    again = infonce(image[order], text[order], scale, shuffled, tile, **options)
    assert gap(again, whole, [image, text, scale]) < 1e-11
    assert float(whole.detach()) > -1e-12


@settings(max_examples=40, deadline=None)
@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_soft_targets_are_distributions_for_any_batch(batch, blend, smoothing):
    size, hard, vectors, _, tile = batch
    targets = Targets(
        hard.caption_id, hard.image_id, hard.label_BC, vectors_BK=vectors, blend=blend, smoothing=smoothing
    )
    shares = targets.shares(drawn(size, 2), tile)
    rows = torch.cat([shares.tile(i, i + 1) for i in range(size)])
    assert (rows.sum(1) - 1).abs().max() < 1e-12
    assert rows.min() >= 0
    assert (torch.cat([shares.both(i, i + 1) for i in range(size)]) - rows - rows.T).abs().max() < 1e-12
    values = targets.values(0, size, drawn(size, 2))
    assert values.min() >= 0
    assert values.max() <= 1 + 1e-12


@pytest.mark.parametrize("given_targets", [True, False])
def test_every_loss_stays_on_the_device_of_its_embeddings(given_targets):
    """On torch's meta device any operation with a tensor that was made elsewhere is an error, as it is on a GPU."""
    inputs = [one.to("meta").requires_grad_() for one in (drawn(6, 4), drawn(6, 4), drawn(1)[0], drawn(1)[0])]
    ids = torch.zeros(6, dtype=torch.long, device="meta")
    targets = Targets(ids, ids, torch.zeros(6, 3, device="meta")) if given_targets else Targets()
    for name, loss in everything(*inputs, targets, torch.zeros(6, 3, device="meta")).items():
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        assert loss.device.type == "meta", name
        assert all(one is None or one.device.type == "meta" for one in gradients), name
