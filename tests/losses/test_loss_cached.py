"""Every loss through the cached step: the gradients of plain autograd for any micro-batch and any number of kept graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from written_out import CAPTIONS, EXTRA_IDS, IMAGES, LABELS, domain_vectors, drawn

import honeclip
from honeclip.losses import balance
from honeclip.losses.infonce import infonce
from honeclip.losses.scales import multi_scale
from honeclip.losses.siglip import siglip
from honeclip.losses.supcon import supcon
from honeclip.losses.targets import Targets

HARD = Targets(CAPTIONS, IMAGES, LABELS)
SOFT = Targets(CAPTIONS, vectors_BK=domain_vectors(), blend=0.4, smoothing=0.1)


class Towers(nn.Module):
    """An image tower that is used at two resolutions, and a text tower that is used for captions and extra sentences."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Dropout(0.2), nn.Linear(9, 5))
        self.text = nn.Sequential(nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 5))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(1.7)), nn.Parameter(torch.tensor(-2.0))
        self.eta_pairs, self.eta_images = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.4))
        self.double()

    def encoders(self):
        return (self.image, self.image, self.text, self.text)

    def loss_of_all(self, image, small, text, extra):
        """Every part at once, balanced by uncertainty: two resolutions, hard captions, labels between images, sigmoid."""
        more = {"extra_text_KD": extra, "extra_id_K": EXTRA_IDS}

        def of_pairs(image_BD, text_BD, log_scale):
            return infonce(image_BD, text_BD, log_scale, HARD, 4, positives="masked", hard_negatives=0.5, **more)

        scales, named = multi_scale([image, small], text, self.log_scale, (1.0, 0.5), HARD, of_pairs, 3)
        soft = infonce(image, text, self.log_scale, SOFT, 5)
        sigmoid = siglip(image, text, self.log_scale, self.bias, HARD, 5, hard_negatives=0.5, **more)
        images = supcon(image, self.log_scale, HARD, 5)
        parts = {"pairs": scales + soft + sigmoid, "images": images}
        eta = {"pairs": self.eta_pairs, "images": self.eta_images}
        total = balance.uncertainty(parts, {"pairs": 1.0, "images": 0.3}, eta)
        return total, named | {name: part.detach() for name, part in parts.items()}


def inputs():
    return (drawn(13, 6, seed=1), drawn(13, 6, seed=2), drawn(13, 4, seed=3), drawn(5, 4, seed=4))


def gradients(towers):
    return {name: one.grad.clone() for name, one in towers.named_parameters()}


@pytest.mark.parametrize("keep", [0, 1, 1000, "auto"])
@pytest.mark.parametrize("micro_batch", [1, 4, 13, (2, 3, 5, 1)])
def test_the_cached_gradient_is_the_plain_one(micro_batch, keep):
    towers = Towers()
    towers.eval()
    value, parts = towers.loss_of_all(*(e(x) for e, x in zip(towers.encoders(), inputs(), strict=True)))
    value.backward()
    plain = gradients(towers)
    towers.zero_grad()
    result = honeclip.cached_step(towers.encoders(), inputs(), towers.loss_of_all, micro_batch=micro_batch, keep=keep)
    assert abs(result.loss - float(value.detach())) < 1e-12
    assert result.parts == pytest.approx({name: float(part) for name, part in parts.items()}, abs=1e-12)
    assert list(result.parts) == ["scale_1.0", "scale_0.5", "between_scales", "pairs", "images"]
    for name, gradient in gradients(towers).items():
        assert (gradient - plain[name]).abs().max() < 1e-12, name
        assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("keep", [0, 2])
def test_every_keep_gives_the_same_bits_with_dropout(keep):
    def step(kept):
        towers = Towers()
        torch.manual_seed(3)
        honeclip.cached_step(towers.encoders(), inputs(), towers.loss_of_all, micro_batch=4, keep=kept)
        return gradients(towers)

    plain = step(1000)
    for name, gradient in step(keep).items():
        assert torch.equal(gradient, plain[name]), name
