"""Other image sizes and context lengths, against open_clip's own resizing on loading."""

from __future__ import annotations

import open_clip
import pytest
import torch
from tiny_models import CAPTIONS, CONFIGS

from honeclip.errors import ModelError
from honeclip.model import folder as folders
from honeclip.model.load import load
from honeclip.model.resize import patch_px, resize, set_context_length


@pytest.mark.parametrize("size", [32, 48, 96, 128])
def test_a_vits_table_is_the_one_that_open_clip_makes(size, make, tmp_path):
    clip = make("vit")
    folders.save(clip, tmp_path / "model", "")
    expected = open_clip.create_model(f"local-dir:{tmp_path / 'model'}", force_image_size=size)
    resize(clip, size)
    assert torch.equal(clip.model.visual.positional_embedding, expected.visual.positional_embedding)
    images_BCHW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            clip.encode_image(images_BCHW), expected.eval().encode_image(images_BCHW, normalize=True)
        )
    assert clip.preprocess.size_px == clip.config["vision_cfg"]["image_size"] == size
    assert expected.visual.image_size == clip.model.visual.image_size


def test_its_own_size_changes_nothing(make):
    clip = make("vit")
    table = clip.model.visual.positional_embedding
    resize(clip, 64)
    assert clip.model.visual.positional_embedding is table


def test_a_frozen_table_stays_frozen(make):
    clip = make("vit")
    clip.model.visual.positional_embedding.requires_grad_(False)
    resize(clip, 96)
    assert not clip.model.visual.positional_embedding.requires_grad


@pytest.mark.parametrize(
    ("name", "patch"), [("vit", 16), ("custom", 16), ("resnet", 32), ("siglip", 16), ("efficientnet", 1), ("coca", 16)]
)
def test_the_patch_of_every_kind_of_tower(name, patch, make):
    assert patch_px(make(name)) == patch


@pytest.mark.parametrize(("size", "nearest"), [(100, "96 and 112"), (8, "16 and 32"), (95, "80 and 96")])
def test_no_multiple_of_the_patch_names_the_nearest(size, nearest, make):
    clip = make("vit")
    with pytest.raises(ModelError, match=f"{size} px .* patch of 16 px; nearest: {nearest}"):
        resize(clip, size)
    assert clip.preprocess.size_px == 64


def test_a_resnets_table_of_attention_pooling_is_resized_and_loads_again(make, tmp_path, pictures):
    clip = make("resnet")
    resize(clip, 128)
    folders.save(clip, tmp_path / "model", "")
    model = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}", return_transform=False)
    images_BCHW = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        expected = model.eval().encode_image(images_BCHW, normalize=True)
    torch.testing.assert_close(clip.encode_image(images_BCHW), expected)


@pytest.mark.parametrize("name", ["efficientnet", "mobileclip"])
def test_convolutional_towers_take_another_size_without_new_weights(name, make, tmp_path, pictures):
    clip = make(name)
    before = {key: value.clone() for key, value in clip.model.state_dict().items()}
    resize(clip, 100)
    assert all(torch.equal(value, before[key]) for key, value in clip.model.state_dict().items())
    folders.save(clip, tmp_path / "model", "")
    again = load(str(tmp_path / "model"), clip.device)
    assert again.preprocess.size_px == 100
    assert torch.equal(again.encode_image(pictures), clip.encode_image(pictures))
    with pytest.raises(ModelError, match="below 32"):
        resize(clip, 16)


def test_a_timm_vit_takes_the_sizes_that_timm_has_a_name_for(make, tmp_path):
    config = {
        **CONFIGS["siglip"],
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_medium_patch16_gap_256",
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": 256,
        },
    }
    clip = make(config)
    with pytest.raises(ModelError, match="240, 256, 384"):
        resize(clip, 320)
    with pytest.raises(ModelError, match="nearest: 240 and 256"):
        resize(clip, 250)
    resize(clip, 240)
    folders.save(clip, tmp_path / "model", "")
    model = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'model'}", return_transform=False)
    images_BCHW = torch.randn(1, 3, 240, 240)
    with torch.no_grad():
        torch.testing.assert_close(
            clip.encode_image(images_BCHW), model.eval().encode_image(images_BCHW, normalize=True)
        )


@pytest.mark.parametrize("name", ["vit", "custom", "siglip", "coca"])
def test_a_longer_context_is_the_one_that_open_clip_makes(name, make, tmp_path):
    clip = make(name)
    folders.save(clip, tmp_path / "model", "")
    set_context_length(clip, 100)
    assert clip.preprocess.context_length == clip.config["text_cfg"]["context_length"] == 100
    assert clip.encode_text(["word " * 90]).shape == (1, clip.embed_dim)
    if name == "coca":  # open_clip would stretch the class token's place with the words
        return
    expected = open_clip.create_model(f"local-dir:{tmp_path / 'model'}", force_context_length=100).eval()
    tokens_BL = clip.preprocess.texts(CAPTIONS)
    assert tokens_BL.shape == (4, 100)
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_text(CAPTIONS), expected.encode_text(tokens_BL, normalize=True))


@pytest.mark.parametrize("name", ["vit", "custom"])
def test_a_shorter_context_changes_no_caption_that_fits(name, make, tmp_path):
    clip = make(name)
    before = clip.encode_text(CAPTIONS)
    set_context_length(clip, 24)
    torch.testing.assert_close(clip.encode_text(CAPTIONS), before, rtol=1e-5, atol=1e-5)
    assert clip.preprocess.texts(["word " * 90]).shape == (1, 24)
    folders.save(clip, tmp_path / "model", "")
    again = load(str(tmp_path / "model"), clip.device)
    assert torch.equal(again.encode_text(["word " * 90]), clip.encode_text(["word " * 90]))


def test_a_tower_of_transformers_goes_up_to_its_own_positions(cpu):
    clip = load("starter", cpu)
    set_context_length(clip, 512)
    long = clip.encode_text(["word " * 500])
    set_context_length(clip, 64)
    assert (clip.encode_text(["word " * 500]) - long).abs().max() > 1e-4
    with pytest.raises(ModelError, match="at most 512 tokens"):
        set_context_length(clip, 513)
    with pytest.raises(ModelError, match="leaves no room"):
        set_context_length(clip, 2)
