"""Fresh heads: the same function before and after folding, new ones by seed, and what a tuned model knows is kept."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import honeclip
from honeclip.model import heads
from honeclip.model.heads import FreshHead

TEXTS = ["a frog", "a photo of two toads by the water, seen from above"]


@pytest.fixture(scope="module")
def loaded():
    return honeclip.load("starter", device="cpu")


@pytest.fixture
def fresh(loaded):
    """Makes copies of `starter`: loading it takes seconds."""
    return lambda: replace(loaded, model=copy.deepcopy(loaded.model), config=copy.deepcopy(loaded.config))


@pytest.fixture
def clip(fresh):
    return fresh()


@pytest.fixture(scope="module")
def features():
    draw = torch.Generator().manual_seed(3)
    image = torch.rand(64, 1280, generator=draw) * torch.logspace(-3, 0, 1280)
    return image, torch.randn(64, 384, generator=draw) * 0.2 + 0.1


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_folding_changes_nothing_but_the_form(clip, features, pixels):
    heads.install(clip, *features, seed=0)
    clip.model.eval()
    image, text = clip.encode_image(pixels), clip.encode_text(TEXTS)
    assert isinstance(clip.model.visual.head.proj, FreshHead)
    heads.fold(clip)
    assert type(clip.model.visual.head.proj) is torch.nn.Linear
    assert type(clip.model.text.proj) is torch.nn.Linear
    assert (clip.encode_image(pixels) - image).abs().max() <= 1e-5
    assert (clip.encode_text(TEXTS) - text).abs().max() <= 1e-5
    heads.fold(clip)  # nothing left to fold


def test_features_are_standardised_before_the_projection(clip, features):
    heads.install(clip, *features, seed=0)
    head = clip.model.visual.head.proj
    standard = (features[0] - head.mean) / head.std
    assert standard.mean(0).abs().max() <= 1e-4
    floor = heads.STD_FLOOR * features[0].std(0).mean()
    moving = features[0].std(0) > 1.1 * floor
    assert (standard.std(0)[moving] - 1).abs().max() <= 0.02
    # a feature that hardly moved in training cannot blow up on another picture
    assert head.std.min() >= 0.9 * floor


def test_a_constant_feature_divides_by_nothing_near_zero(clip, features):
    heads.install(clip, torch.ones_like(features[0]), features[1], seed=0)
    out = clip.model.visual.head.proj.eval()(torch.ones(1, 1280))
    assert out.isfinite().all()


def test_dropout_only_in_training(clip, features):
    heads.install(clip, *features, seed=0)
    head = clip.model.visual.head.proj.train()
    assert not torch.equal(head(features[0]), head(features[0]))
    assert torch.equal(head.eval()(features[0]), head(features[0]))


def test_the_seed_decides_new_heads(fresh, features):
    weights = []
    for seed in (0, 0, 1):
        clip = fresh()
        heads.install(clip, *features, seed=seed)
        weights.append(clip.model.visual.head.proj.linear.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_tuned_model_keeps_its_function(clip, features, pixels):
    clip.domain = {"name": "general"}
    image, text = clip.encode_image(pixels), clip.encode_text(TEXTS)
    heads.install(clip, *features, seed=5)
    clip.model.eval()
    assert (clip.encode_image(pixels) - image).abs().max() <= 1e-5
    assert (clip.encode_text(TEXTS) - text).abs().max() <= 1e-5


def test_a_state_with_fresh_heads_is_known_by_its_names(clip, fresh, features):
    assert not heads.is_fresh(clip.model.state_dict())
    heads.install(clip, *features, seed=0)
    state = clip.model.state_dict()
    assert heads.is_fresh(state)
    other = fresh()
    heads.install_empty(other)
    other.model.load_state_dict(state)
    assert torch.equal(other.model.text.proj.mean, clip.model.text.proj.mean)


def test_only_joined_towers_take_fresh_heads(clip):
    assert heads.takes_fresh_heads(clip)
    assert not heads.takes_fresh_heads(honeclip.load("random:ViT-S-32-alt", device="cpu"))
