"""One loss over several resolutions against its formula written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from written_out import CAPTIONS, TILES, drawn, gap, leaves, logits, positives, shares

from honeclip.errors import BadInput
from honeclip.losses.infonce import infonce
from honeclip.losses.scales import multi_scale
from honeclip.losses.siglip import siglip
from honeclip.losses.targets import Targets


def pair(a, b, scale, captions=CAPTIONS):
    """InfoNCE's mean form as a cross-entropy with probabilities, the scale given as it multiplies."""
    aim = shares(positives(captions), None, 0.0, 0.0)
    matrix = logits(a, b, scale.log())
    return (F.cross_entropy(matrix, aim) + F.cross_entropy(matrix.T, aim)) / 2


def views():
    return [drawn(13, 8, seed=seed).requires_grad_() for seed in (21, 22, 23)]


@pytest.mark.parametrize("tile", TILES)
def test_it_is_its_formula(tile):
    x, images = leaves(), views()
    loss, parts = multi_scale(
        images, x["text"], x["log_scale"], (1.0, 0.5, 0.25), Targets(CAPTIONS), tile=tile, kappa=0.7, mu=0.3
    )
    a = x["log_scale"].exp()
    whole, half, quarter = (pair(z, x["text"], a * s**0.7) for z, s in zip(images, (1.0, 0.5, 0.25), strict=True))
    between = (
        pair(images[0], images[1], a * 0.5**0.7)
        + pair(images[0], images[2], a * 0.25**0.7)
        + pair(images[1], images[2], a * 0.25**0.7)
    ) / 3
    reference = (1.0 * whole + 0.5 * half + 0.25 * quarter) / 1.75 + 0.3 * between
    assert gap(loss, reference, [*images, x["text"], x["log_scale"]]) < 1e-12
    expected = {"scale_1.0": whole, "scale_0.5": half, "scale_0.25": quarter, "between_scales": between}
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(float((parts[name] - value).detach())) < 1e-12
        assert not parts[name].requires_grad


def test_one_scale_is_the_pair_loss():
    x = leaves()
    inputs = [x["image"], x["text"], x["log_scale"]]
    loss, parts = multi_scale([x["image"]], x["text"], x["log_scale"], (1,), Targets(CAPTIONS))
    assert gap(loss, infonce(*inputs, Targets(CAPTIONS)), inputs) < 1e-14
    assert list(parts) == ["scale_1.0"]


def test_the_pair_loss_may_be_another():
    x, images = leaves(), views()[:2]

    def sigmoid(image, text, log_scale):
        return siglip(image, text, log_scale, x["bias"], Targets())

    loss, _ = multi_scale(images, x["text"], x["log_scale"], (1.0, 0.25), Targets(), sigmoid, mu=0.0)
    a = x["log_scale"]
    reference = 0.8 * sigmoid(images[0], x["text"], a) + 0.2 * sigmoid(images[1], x["text"], (a.exp() / 2).log())
    assert gap(loss, reference, [*images, x["text"], x["log_scale"], x["bias"]]) < 1e-12


def test_gradients_are_finite_differences():
    draw = [drawn(5, 3, seed=seed).requires_grad_() for seed in range(3)]
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    targets = Targets(CAPTIONS[:5])
    assert torch.autograd.gradcheck(
        lambda a, b, text, s: multi_scale([a, b], text, s, (1.0, 0.5), targets, tile=2)[0], (*draw, scale)
    )


@pytest.mark.parametrize(
    ("scales", "mu", "message"),
    [
        ((1.0,), 0.1, "1 scales for 3 tensors"),
        ((), 0.1, "0 scales for 3 tensors"),
        ((1.0, 0.5, 1.5), 0.1, "1.5 is no share"),
        ((1.0, 0.5, 0.0), 0.1, "0.0 is no share"),
        ((1.0, 0.5, 0.5), 0.1, "one is there twice"),
        ((1.0, 0.5, 0.2), -1.0, "mu = -1"),
    ],
)
def test_scales_that_cannot_be_are_refused(scales, mu, message):
    x = leaves()
    with pytest.raises(BadInput, match=message):
        multi_scale(views(), x["text"], x["log_scale"], scales, Targets(), mu=mu)
