"""Position tables at other sizes, against the two libraries that the towers come from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from open_clip.model import resize_pos_embed
from timm.layers import resample_abs_pos_embed

from honeclip.errors import ModelError
from honeclip.model import resize


def table(side: int, prefix: int, *lead: int) -> torch.Tensor:
    return torch.randn(*lead, prefix + side * side, 8, generator=torch.Generator().manual_seed(side))


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (3, 10), (10, 3), (5, 5), (4, 1), (1, 4)])
def test_a_table_is_that_of_open_clip_and_of_timm(old, new):
    for prefix in (0, 1, 5):
        before = table(old, prefix, 1)
        timms = resample_abs_pos_embed(before, [new, new], [old, old], num_prefix_tokens=prefix)
        ours = resize.resampled(before, new, prefix)
        assert ours.shape == timms.shape == (1, prefix + new * new, 8)
        torch.testing.assert_close(ours, timms, rtol=0, atol=1e-6)
    native = table(old, 1)
    state = {"visual.positional_embedding": native.clone()}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(new, new))))
    torch.testing.assert_close(
        resize.resampled(native, new, 1), state["visual.positional_embedding"], rtol=0, atol=1e-6
    )


def test_the_class_token_keeps_its_row_and_float64_its_width():
    before = table(4, 1).double()
    after = resize.resampled(before, 6, 1)
    assert after.dtype == torch.float64
    assert after[0].equal(before[0])
    half = resize.resampled(before.bfloat16(), 6, 1)
    assert half.dtype == torch.bfloat16
    assert half.equal(resize.resampled(before.bfloat16().float(), 6, 1).bfloat16()), "interpolated in float32"


@pytest.mark.parametrize(("name", "prefix"), [("vit", 1), ("resnet", 1), ("siglip", None), ("efficientnet", None)])
def test_the_tables_of_each_tower_are_found(name, prefix, make):
    clip = make(name)
    found = resize.tables(clip)
    shapes = {key: one.shape for key, one in clip.model.named_parameters()}
    if name == "efficientnet":
        assert found == {}
        return
    ((key, rows),) = found.items()
    assert prefix is None or rows == prefix
    side = (shapes[key][-2] - rows) ** 0.5
    assert side == clip.preprocess.size_px / resize.patch_px(clip)


def test_from_where_it_began_a_table_loses_nothing_on_a_way_down_and_up(make):
    clip = make("vit")
    start = clip.model.visual.positional_embedding.detach().clone()
    began = resize.origin(clip)
    for size in (32, 128, 64):
        resize.resize(clip, size, began)
    assert clip.model.visual.positional_embedding.equal(start)
    for size in (32, 64):
        resize.resize(clip, size)
    assert not clip.model.visual.positional_embedding.allclose(start, atol=1e-3)


def test_so_it_is_with_a_tower_of_timm(make):
    config = {
        "embed_dim": 512,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "vit_medium_patch16_gap_256",
            "timm_pool": "avg",
            "timm_proj": "none",
            "image_size": 256,
        },
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    clip = make(config)
    start = clip.model.visual.trunk.pos_embed.detach().clone()
    began = resize.origin(clip)
    for size, side in ((240, 15), (384, 24), (256, 16)):
        resize.resize(clip, size, began)
        expected = resample_abs_pos_embed(start, [side, side], [16, 16], num_prefix_tokens=0)
        torch.testing.assert_close(clip.model.visual.trunk.pos_embed.detach(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "nearest"), [(16, 16), (23, 16), (24, 32), (100, 96), (104, 112), (150, 144), (160, 160)]
)
def test_the_nearest_multiple_of_the_patch(size, nearest, make):
    assert resize.nearest_size(make("vit"), size) == nearest


def test_below_a_patch_there_is_no_size_and_a_convolutional_tower_takes_all(make):
    with pytest.raises(ModelError, match="15 px is below the model's patch of 16 px; the smallest size is 16"):
        resize.nearest_size(make("vit"), 15)
    assert resize.nearest_size(make("efficientnet"), 101) == 101
