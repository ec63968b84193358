"""A tower on smaller images: what it gives is what a resized model gives, and its table learns from them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from honeclip.model import resize, scales
from honeclip.model.towers import image_tower

KINDS = ("vit", "custom", "resnet", "coca", "siglip", "mlp", "efficientnet")


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_images_are_seen_as_a_resized_model_sees_them_and_the_model_is_as_before(kind, configs, make):
    clip = make(kind)
    clip.model.eval()
    own = clip.preprocess.size_px
    images = torch.randn(2, 3, own // 2, own // 2, generator=torch.Generator().manual_seed(0))
    before = [(name, id(one)) for name, one in clip.model.named_parameters()]
    with torch.no_grad():
        found = scales.through(clip, image_tower(clip), images)
    assert [(name, id(one)) for name, one in clip.model.named_parameters()] == before
    if kind in ("siglip", "mlp"):
        clip.model.visual.set_input_size(own // 2)  # open_clip itself: no name of timm's says this size
        small = clip
    else:
        small = scales.sharing(clip, own // 2)
        assert clip.preprocess.size_px == own
    with torch.no_grad():
        torch.testing.assert_close(found, image_tower(small)(images), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "resnet", "mlp"])
def test_the_table_gets_the_gradient_of_the_interpolation(kind, configs, make):
    """Against autograd through torch's own antialiased interpolation."""
    clip = make(kind)
    clip.model.double().eval()
    ((name, prefix),) = resize.tables(clip).items()
    table = dict(clip.model.named_parameters())[name]
    old = round((table.shape[-2] - prefix) ** 0.5)
    side = old // 2
    own = table[..., :prefix, :]
    grid = table[..., prefix:, :].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(*own.shape[:-2], side * side, -1)
    expected = torch.cat([own, grid], dim=-2)
    pull = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (reference,) = torch.autograd.grad((expected * pull).sum(), table)
    found = scales._interpolated(table, side, prefix)
    (ours,) = torch.autograd.grad((found * pull).sum(), table)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours, reference, atol=1e-12, rtol=0)


def test_gradients_of_a_table_come_from_images_of_every_size(configs, make):
    clip = make("vit")
    tower = image_tower(clip)
    table = clip.model.visual.positional_embedding
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (alone,) = torch.autograd.grad(tower(images).square().sum(), table)
    small = images[..., ::2, ::2]
    (more,) = torch.autograd.grad(
        tower(images).square().sum() + scales.through(clip, tower, small).square().sum(), table
    )
    assert (more - alone).abs().amax(1).min() > 0, "every place of the table"
