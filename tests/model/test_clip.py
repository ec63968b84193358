"""`Clip`: encoding what people have, and leaving the model as it was."""

from __future__ import annotations

import io
import json

import open_clip
import pytest
import torch
from PIL import Image
from tiny_models import CAPTIONS

from honeclip.errors import DataError, ModelError
from honeclip.model import towers
from honeclip.model.clip import clip_json, measuring
from honeclip.model.load import from_json


@pytest.fixture(scope="module")
def clip(make):
    return make("vit")


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@torch.no_grad()
def test_embeddings_are_open_clips(clip, pictures):
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=64), is_train=False)
    images_BCHW = torch.stack([transform(Image.open(path)) for path in pictures])
    tokens_BL = open_clip.SimpleTokenizer()(CAPTIONS)
    torch.testing.assert_close(clip.encode_image(pictures), clip.model.encode_image(images_BCHW, normalize=True))
    torch.testing.assert_close(clip.encode_text(CAPTIONS), clip.model.encode_text(tokens_BL, normalize=True))


def test_every_form_of_an_image_gives_the_same_embedding(clip, pictures):
    expected = clip.encode_image(pictures)
    opened = [Image.open(path).convert("RGB") for path in pictures]
    pixels_BCHW = torch.stack([clip.preprocess.image(path) for path in pictures])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (clip.preprocess.mean, clip.preprocess.std))
    forms = {
        "str": [str(path) for path in pictures],
        "bytes": [encoded(picture) for picture in opened],
        "pil": opened,
        "tuple": tuple(pictures),
        "uint8": pixels_BCHW,
        "float": (pixels_BCHW / 255 - mean) / std,
    }
    for name, images in forms.items():
        torch.testing.assert_close(clip.encode_image(images), expected, msg=name)
    for one in (pictures[0], str(pictures[0]), opened[0], encoded(opened[0])):
        assert clip.encode_image(one).shape == (1, 24)


def test_shapes_norms_and_batches(clip, pictures):
    whole = clip.encode_image(pictures)
    assert whole.shape == (7, clip.embed_dim)
    assert whole.dtype == torch.float32
    assert whole.device.type == "cpu"
    assert not whole.requires_grad
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(7))
    torch.testing.assert_close(clip.encode_image(pictures, batch_size=3), whole)
    torch.testing.assert_close(clip.encode_text(CAPTIONS, batch_size=3), clip.encode_text(CAPTIONS))
    assert clip.encode_image([]).shape == (0, 24)
    assert clip.encode_text([]).shape == (0, 24)
    assert clip.encode_text("one text").shape == (1, 24)


def test_similarity_is_the_cosine(clip, pictures):
    cosine_NM = clip.similarity(pictures, CAPTIONS)
    expected = torch.nn.functional.cosine_similarity(
        clip.encode_image(pictures)[:, None], clip.encode_text(CAPTIONS)[None], dim=-1
    )
    torch.testing.assert_close(cosine_NM, expected)


def test_one_bad_image_is_named(clip, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:40])
    with pytest.raises(DataError, match=r"image 2 .*broken\.png"):
        clip.encode_image([*pictures[:2], broken])
    with pytest.raises(DataError, match=r"image 1 .*missing\.png"):
        clip.encode_image([pictures[0], tmp_path / "missing.png"])
    with pytest.raises(DataError, match="image 1: "):
        clip.encode_image([pictures[0], b"no image"])
    with pytest.raises(DataError, match="image 0 is a int"):
        clip.encode_image([3])


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 32, 64), (2, 1, 64, 64)])
def test_a_tensor_of_another_shape_is_refused(clip, shape):
    with pytest.raises(DataError, match=r"takes \(N, 3, 64, 64\)"):
        clip.encode_image(torch.zeros(shape))


def test_a_tensor_of_whole_numbers_that_are_no_pixels_is_refused(clip):
    with pytest.raises(DataError, match="int64"):
        clip.encode_image(torch.zeros(1, 3, 64, 64, dtype=torch.int64))


def test_autocast_around_it_changes_nothing(clip, pictures):
    expected = clip.encode_image(pictures), clip.encode_text(CAPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = clip.encode_image(pictures), clip.encode_text(CAPTIONS)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_model_in_training_encodes_in_eval_mode_and_keeps_its_modes(make, pictures):
    clip = make("efficientnet")
    clip.model.visual.head.drop.p = 0.9
    expected = clip.encode_image(pictures)
    clip.model.train()
    clip.model.text.eval()
    modes = [module.training for module in clip.model.modules()]
    assert torch.equal(clip.encode_image(pictures), expected)
    assert [module.training for module in clip.model.modules()] == modes


def test_measuring_restores_the_modes_after_an_error(clip):
    clip.model.train()
    clip.model.visual.eval()
    modes = [module.training for module in clip.model.modules()]

    def fail():
        with measuring(clip):
            assert not any(module.training for module in clip.model.modules())
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in clip.model.modules()] == modes
    assert torch.is_grad_enabled()
    clip.model.eval()


def test_without_a_tokenizer_images_still_work(make, pictures):
    from dataclasses import replace

    clip = make("vit")
    clip.preprocess = replace(clip.preprocess, tokenizer=None)
    assert clip.encode_image(pictures).shape == (7, 24)
    with pytest.raises(ModelError, match="without a tokenizer"):
        clip.encode_text("word")


def test_place_makes_contiguous_float32_weights_and_turns_the_fast_path_off(make):
    clip = make("vit")
    clip.model.half()
    clip.model.visual.proj.data = clip.model.visual.proj.data.T.contiguous().T
    from honeclip.model.clip import place

    torch.backends.mha.set_fastpath_enabled(True)
    placed = place(clip.model, clip.preprocess, clip.config, clip.base, source="x", device=clip.device)
    assert not torch.backends.mha.get_fastpath_enabled()
    for tensor in (*placed.model.parameters(), *placed.model.buffers()):
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
    assert not placed.model.training


@pytest.mark.parametrize("name", ["vit-quick", "custom", "siglip", "starter"])
def test_clip_json_and_weights_build_the_model_again(name, make, starter, pictures):
    clip = starter if name == "starter" else make(name, domain={"name": "plants"}, preprocess={"resize_mode": "squash"})
    stored = json.loads(json.dumps(clip_json(clip), allow_nan=False))
    again = from_json(stored, clip.model.state_dict(), source="again", device=clip.device)
    assert torch.equal(again.encode_image(pictures), clip.encode_image(pictures))
    assert torch.equal(again.encode_text(CAPTIONS), clip.encode_text(CAPTIONS))
    assert (again.config, again.base, again.domain, again.trims_text) == (
        clip.config,
        clip.base,
        clip.domain,
        clip.trims_text,
    )
    assert again.preprocess == clip.preprocess
    assert again.preprocess.fingerprint == clip.preprocess.fingerprint
    assert again.source == "again"


def test_clip_json_of_a_newer_honeclip_is_refused(clip):
    with pytest.raises(ModelError, match="format 99"):
        from_json({**clip_json(clip), "format": 99}, clip.model.state_dict(), source="x", device=clip.device)


def test_weights_of_another_model_are_refused(clip, make):
    with pytest.raises(ModelError, match="do not fit"):
        from_json(clip_json(clip), make("custom").model.state_dict(), source="x", device=clip.device)


def test_starters_text_tower_is_trimmed_to_the_longest_caption(starter):
    tokens_BL = starter.preprocess.texts(CAPTIONS)
    assert towers.trim(towers.text_tower(starter), tokens_BL).shape[1] == 16
