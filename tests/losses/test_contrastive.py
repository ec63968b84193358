"""Values and gradients of both contrastive losses against open_clip, the papers' formulas and finite differences."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from torch import Tensor

from honeclip.losses.infonce import infonce
from honeclip.losses.siglip import siglip
from honeclip.losses.targets import Targets

CAPTIONS = torch.tensor([0, 0, 1, 2, 3, 1, 4, 5, 6, 7, 0, 8, 9])
IMAGES = torch.tensor([0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
TILES = ["auto", 1, 5, 13, 100]


def leaves(size: int = 13, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(size, dim, dtype=torch.float64, generator=draw).requires_grad_() for _ in range(2))
    return (
        image,
        text,
        torch.tensor(2.6, dtype=torch.float64).requires_grad_(),
        torch.tensor(-3.0, dtype=torch.float64).requires_grad_(),
    )


def gap(loss: Tensor, reference: Tensor, inputs: tuple[Tensor, ...]) -> float:
    """Largest difference of the values and of every gradient."""
    ours, theirs = torch.autograd.grad(loss, inputs), torch.autograd.grad(reference, inputs)
    return max(
        [
            abs(float((loss - reference).detach())),
            *(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)),
        ]
    )


def plain_infonce(image: Tensor, text: Tensor, log_scale: Tensor, positives: Tensor) -> Tensor:
    """Khosla et al. 2020, equation 2 (L_out), with every row of the other modality as candidate, both ways."""
    logits = log_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    ways = []
    for matrix, mask in ((logits, positives), (logits.T, positives.T)):
        log_probability = matrix - matrix.logsumexp(1, keepdim=True)
        ways.append(-(log_probability * mask).sum(1) / mask.sum(1))
    return (ways[0].mean() + ways[1].mean()) / 2


def positives(captions: Tensor, images: Tensor) -> Tensor:
    return (captions[:, None] == captions[None]) | (images[:, None] == images[None])


@pytest.mark.parametrize("tile", TILES)
def test_infonce_of_pairs_is_open_clips(tile):
    image, text, scale, _ = leaves()
    reference = open_clip.ClipLoss()(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale.exp())
    assert gap(infonce(image, text, scale, Targets(), tile), reference, (image, text, scale)) < 1e-12


@pytest.mark.parametrize("tile", TILES)
def test_siglip_of_pairs_is_open_clips(tile):
    image, text, scale, bias = leaves()
    reference = SigLipLoss()(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale.exp(), bias)
    assert gap(siglip(image, text, scale, bias, Targets(), tile), reference, (image, text, scale, bias)) < 1e-12


@pytest.mark.parametrize("tile", TILES)
def test_infonce_with_shared_positives_is_the_papers_formula(tile):
    image, text, scale, _ = leaves()
    reference = plain_infonce(image, text, scale, positives(CAPTIONS, IMAGES))
    assert gap(infonce(image, text, scale, Targets(CAPTIONS, IMAGES), tile), reference, (image, text, scale)) < 1e-12


@pytest.mark.parametrize("tile", TILES)
def test_siglip_with_shared_positives_is_the_papers_formula(tile):
    image, text, scale, bias = leaves()
    logits = scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T + bias
    sign = positives(CAPTIONS, IMAGES).double() * 2 - 1
    reference = -F.logsigmoid(sign * logits).sum() / len(image)
    assert (
        gap(siglip(image, text, scale, bias, Targets(CAPTIONS, IMAGES), tile), reference, (image, text, scale, bias))
        < 1e-12
    )


def test_gradients_are_finite_differences():
    image, text, scale, bias = leaves(7, 4)
    targets = Targets(CAPTIONS[:7], IMAGES[:7])
    assert torch.autograd.gradcheck(lambda *a: infonce(*a, targets, 3), (image, text, scale))
    assert torch.autograd.gradcheck(lambda *a: siglip(*a, targets, 3), (image, text, scale, bias))


def test_shared_positives_on_identical_captions_give_the_gradient_of_plain_pairs():
    """Equal captions have equal text vectors: then the mean form moves nothing, and no gain may be claimed from it."""
    image, text, scale, _ = leaves()
    shared = text.detach()[CAPTIONS]
    through_text = [
        torch.autograd.grad(infonce(image, shared, scale, targets), (image, scale))
        for targets in (Targets(), Targets(CAPTIONS))
    ]
    for plain, with_positives in zip(*through_text, strict=True):
        assert float((plain - with_positives).abs().max()) < 1e-14


def test_two_sentences_are_not_welded_by_one_duplicate_picture():
    """Rows 2 and 3 share a picture, rows 2 and 5 a caption; 3 and 5 share nothing and stay negatives."""
    mask = Targets(CAPTIONS, IMAGES).tile(0, 13, 13)
    assert mask[2, 3]
    assert mask[2, 5]
    assert not mask[3, 5]


@pytest.mark.parametrize("log_scale", [0.0, math.log(100), math.log(10_000)])
@pytest.mark.parametrize("case", ["identical", "one sample", "all positives", "opposite"])
def test_limits_are_finite(log_scale, case):
    image, text, _, bias = (one.detach().float() for one in leaves())
    scale, targets = torch.tensor(log_scale), Targets()
    if case == "identical":
        image, text = torch.ones(13, 8), torch.ones(13, 8)
    if case == "one sample":
        image, text = image[:1], text[:1]
    if case == "all positives":
        targets = Targets(torch.zeros(13, dtype=torch.long))
    if case == "opposite":
        text = -image
    inputs = [one.requires_grad_() for one in (image, text, scale, bias)]
    for loss in (infonce(*inputs[:3], targets), siglip(*inputs, targets)):
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        assert math.isfinite(float(loss.detach()))
        assert all(bool(one.isfinite().all()) for one in gradients if one is not None)


def test_the_order_of_the_batch_does_not_matter():
    image, text, scale, bias = (one.detach() for one in leaves())
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    there, shuffled = Targets(CAPTIONS, IMAGES), Targets(CAPTIONS[order], IMAGES[order])
    assert math.isclose(
        infonce(image, text, scale, there), infonce(image[order], text[order], scale, shuffled), rel_tol=1e-14
    )
    assert math.isclose(
        siglip(image, text, scale, bias, there), siglip(image[order], text[order], scale, bias, shuffled), rel_tol=1e-14
    )


def test_no_square_of_the_batch_is_held():
    """At 2,048 rows the plain form keeps 16 MB of logits a matrix; tiles of 16 rows keep no tensor near that size."""
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(one.numel() for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, Tensor))
            return out

    image, text = torch.randn(2048, 16).requires_grad_(), torch.randn(2048, 16).requires_grad_()
    with Sizes():
        infonce(image, text, torch.tensor(2.0), Targets(), 16).backward()
        siglip(image, text, torch.tensor(2.0), torch.tensor(-1.0), Targets(), 16).backward()
    assert max(sizes) == 2048 * 16


@pytest.mark.parametrize("length", [1e-20, 1.0, 1e6])
def test_only_the_direction_of_an_embedding_counts(length):
    """Embeddings come as the towers give them; the shortest and longest give finite values and gradients."""
    image, text = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    scale, bias = torch.tensor(2.0, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    for value in (
        lambda a: infonce(a, text, scale, Targets()),
        lambda a: siglip(a, text, scale, bias, Targets()),
    ):
        scaled = (length * image).requires_grad_()
        loss = value(scaled)
        loss.backward()
        assert scaled.grad.isfinite().all()
        if length >= 1:
            assert abs(float((loss - value(image)).detach())) <= 1e-12
            # a gradient of a function of directions is at right angles to the embedding
            assert (scaled.grad * image).sum(1).abs().max() * length <= 1e-9
