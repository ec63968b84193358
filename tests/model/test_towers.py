"""The two towers, cut before their projections, against open_clip's own encode_image and encode_text."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CAPTIONS, CONFIGS
from torch import nn

from honeclip.errors import StepError
from honeclip.model import towers

TRIMMED = {"vit", "vit-quick", "custom", "resnet", "efficientnet", "mlp", "starter"}


@pytest.fixture(scope="module", params=[*CONFIGS, "starter"])
def clip(request, make, starter):
    return starter if request.param == "starter" else make(request.param)


def images_of(clip, rows=3):
    size = clip.preprocess.size_px
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_head_of_body_is_open_clips_own_encoder(clip):
    images_BCHW, tokens_BL = images_of(clip), clip.preprocess.texts(CAPTIONS)
    image, text = towers.image_tower(clip), towers.text_tower(clip)
    torch.testing.assert_close(image(images_BCHW), clip.model.encode_image(images_BCHW, normalize=False))
    torch.testing.assert_close(text(tokens_BL), clip.model.encode_text(tokens_BL, normalize=False))


def test_body_and_head_share_out_the_towers_parameters(clip):
    image, text = towers.image_tower(clip), towers.text_tower(clip)
    parts = [list(part) for tower in (image, text) for part in (tower.parameters_body(), tower.parameters_head())]
    ids = [id(one) for part in parts for one in part]
    own = {id(one) for name, one in clip.model.named_parameters() if name not in ("logit_scale", "logit_bias")}
    decoder = {id(one) for one in getattr(clip.model, "text_decoder", nn.Identity()).parameters()}
    assert len(ids) == len(set(ids))
    assert set(ids) == own - decoder


@torch.no_grad()
def test_features_do_not_depend_on_the_head(clip):
    images_BCHW = images_of(clip)
    image = towers.image_tower(clip)
    heads = list(image.parameters_head())
    if not heads:
        pytest.skip("this tower has no projection")
    before, kept = image.body(images_BCHW), [one.clone() for one in heads]
    embedded = image(images_BCHW)
    for one in heads:
        one.mul_(2)
    try:
        assert torch.equal(image.body(images_BCHW), before)
        assert not torch.equal(image(images_BCHW), embedded)
    finally:
        for one, value in zip(heads, kept, strict=True):
            one.copy_(value)


def test_which_towers_see_padding(clip, request):
    name = request.node.callspec.params["clip"]
    assert clip.trims_text == (name in TRIMMED)


@torch.no_grad()
def test_trimming_changes_no_embedding(clip):
    tower = towers.text_tower(clip)
    for texts in (CAPTIONS[:1], CAPTIONS, ["x" * 300]):
        tokens_BL = clip.preprocess.texts(texts)
        short_BL = towers.trim(tower, tokens_BL)
        torch.testing.assert_close(tower(short_BL), tower(tokens_BL), rtol=1e-5, atol=1e-5)
        if clip.trims_text:
            assert short_BL.shape[1] % towers.TRIM_MULTIPLE == 0 or short_BL.shape == tokens_BL.shape
            if texts is not CAPTIONS and len(texts[0]) < 50:
                assert short_BL.shape[1] == towers.TRIM_MULTIPLE
        else:
            assert short_BL is tokens_BL


def test_gradients_through_trimmed_text_are_those_of_full_text(make):
    clip = make("vit")
    tower = towers.text_tower(clip)
    tokens_BL = clip.preprocess.texts(CAPTIONS[:2])
    grads = []
    for tokens in (tokens_BL, towers.trim(tower, tokens_BL)):
        clip.model.zero_grad()
        tower(tokens).square().sum().backward()
        grads.append({name: one.grad.clone() for name, one in clip.model.named_parameters() if one.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, full in grads[0].items():
        assert (grads[1][name] - full).abs().max() <= 1e-5 * full.abs().max(), name


def test_a_head_that_is_replaced_later_is_used(make):
    clip = make("efficientnet")
    tower = towers.image_tower(clip)
    clip.model.visual.head.proj = nn.Linear(clip.model.visual.head.proj.in_features, 5)
    assert tower(images_of(clip)).shape == (3, 5)
    assert {tuple(one.shape) for one in tower.parameters_head()} >= {(5,)}


def test_batch_norm_stays_frozen_whatever_train_says(make):
    clip = make("efficientnet")
    norms = [module for module in clip.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    before = [norm.running_mean.clone() for norm in norms]
    clip.model.train()
    assert clip.model.training
    assert not any(norm.training for norm in norms)
    towers.check_batch_statistics(clip.model)
    clip.model.visual(images_of(clip))
    assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))


def test_live_batch_statistics_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    with pytest.raises(StepError, match=r"micro-batch in 1\b"):
        towers.check_batch_statistics(model)
