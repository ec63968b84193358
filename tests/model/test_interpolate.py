"""Between two models: both ends bit for bit, linear where only heads differ, and what plain torch gives for the weights."""

from __future__ import annotations

import copy

import pytest
import tiny_runs
import torch

from honeclip.errors import ModelError
from honeclip.model.clip import copied
from honeclip.model.interpolate import between
from honeclip.model.towers import image_tower, text_tower

TEXTS = ["a red circle, number 3", "a blue bar", "number"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files")


@pytest.fixture(scope="module", params=["vit", "two_towers"])
def start(request, text):
    return tiny_runs.make_clip(text, tiny_runs.VIT if request.param == "vit" else tiny_runs.TWO_TOWERS)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def moved(start, parameters):
    """A model of its own, of which the given parameters were moved."""
    end = copied(start)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in parameters(end):
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
    return end


def everything(clip):
    return list(clip.model.parameters())


def heads(clip):
    return [one for tower in (image_tower(clip), text_tower(clip)) for one in tower.parameters_head()]


def test_at_both_ends_it_is_that_model_bit_for_bit(start, images):
    end = moved(start, everything)
    for alpha, one in ((0.0, start), (1.0, end)):
        found = between(start, end, alpha)
        assert torch.equal(found.encode_image(images), one.encode_image(images))
        assert torch.equal(found.encode_text(TEXTS), one.encode_text(TEXTS))
    assert not torch.equal(start.encode_image(images), end.encode_image(images))


def test_plain_torch_on_the_state_dicts_gives_the_same_embeddings(start, images):
    end = moved(start, everything)
    plain = copied(start)
    theta_0, theta_1 = start.model.state_dict(), end.model.state_dict()
    mixed = {name: theta_0[name].double() * 0.7 + theta_1[name].double() * 0.3 for name in theta_0}
    plain.model.load_state_dict({name: mixed[name].to(theta_0[name].dtype) for name in mixed})
    found = between(start, end, 0.3)
    assert torch.allclose(found.encode_image(images), plain.encode_image(images), atol=2e-6)
    assert torch.allclose(found.encode_text(TEXTS), plain.encode_text(TEXTS), atol=2e-6)
    assert not torch.allclose(found.encode_image(images), end.encode_image(images), atol=1e-3)


def test_halfway_a_linear_head_gives_the_mean_of_both(start, images):
    """Over bodies that did not learn, before normalisation, in float64."""
    ends = [copied(start), moved(start, heads)]
    for one in ends:
        one.model.double()
    found = between(*ends, 0.5)
    tokens = found.preprocess.texts(TEXTS)
    pixels = images.double() / 255
    with torch.no_grad():
        for tower, inputs in ((image_tower, pixels), (text_tower, tokens)):
            features = tower(found).body(inputs)
            assert torch.equal(features, tower(ends[0]).body(inputs))
            a, b, half = (tower(one).head(features) for one in (*ends, found))
            assert (half - (a + b) / 2).abs().max() < 1e-12
            assert (a - b).abs().max() > 1e-3


def test_weights_that_are_equal_stay_as_they_are(start):
    """Negative zeros too, so that a frozen body keeps the name of its features."""
    end = moved(start, heads)
    for one in (start, end):
        next(iter(image_tower(one).state_body().values())).view(-1)[0] = -0.0
    found, before = between(start, end, 0.5), image_tower(start).state_body()
    for name, value in image_tower(found).state_body().items():
        assert value.numpy().tobytes() == before[name].numpy().tobytes(), name


def test_neither_end_is_changed(start):
    end = moved(start, everything)
    before = [copy.deepcopy(one.model.state_dict()) for one in (start, end)]
    found = between(start, end, 0.5)
    with torch.no_grad():
        for one in found.model.parameters():
            one.zero_()
    for one, old in zip((start, end), before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in one.model.state_dict().items())


def test_models_of_another_form_have_nothing_between_them(start, text):
    wider = {**copy.deepcopy(tiny_runs.VIT), "embed_dim": 24}
    with pytest.raises(ModelError, match="nothing between tiny and tiny: they differ in"):
        between(start, tiny_runs.make_clip(text, wider), 0.5)
