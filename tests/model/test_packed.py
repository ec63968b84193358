"""Sorted weights: the same embeddings as torch's own linear layers, and torch's own wherever they must not be used."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from honeclip.model.load import load
from honeclip.model.packed import can_pack, packed

SORTED = "mkldnn::_linear_pointwise"


@pytest.fixture(scope="module")
def clip():
    made = load("random:ViT-B-32", device="cpu")
    if not can_pack(made, "fp32"):
        pytest.skip("this CPU or this torch has no sorted weights")
    return made


def inputs(clip, rows=3):
    size = clip.preprocess.size_px
    return torch.rand(rows, 3, size, size), clip.preprocess.texts(["a scratch", "a normal chest", "x"])


def called(work) -> dict[str, int]:
    """How often torch's operators ran."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    return {one.key: one.count for one in seen.key_averages()}


def test_embeddings_equal_those_of_torchs_own_layers(clip):
    images, texts = inputs(clip)
    clip.model.eval()
    with torch.no_grad():
        plain = clip.model.encode_image(images), clip.model.encode_text(texts)
        with packed(clip, "fp32"):
            own = clip.model.encode_image(images), clip.model.encode_text(texts)
    for one, other in zip(plain, own, strict=True):
        torch.testing.assert_close(
            functional.normalize(one, dim=-1), functional.normalize(other, dim=-1), atol=1e-6, rtol=0
        )


def test_every_linear_layer_of_a_block_takes_them(clip):
    """Twelve blocks of four products each: queries, keys and values at once, the way out, and two of the MLP."""
    images, _ = inputs(clip, 1)
    clip.model.eval()
    with torch.no_grad(), packed(clip, "fp32"):
        assert called(lambda: clip.model.encode_image(images))[SORTED] == 48


def test_a_changed_weight_is_sorted_again(clip):
    images, _ = inputs(clip)
    clip.model.eval()
    weight = clip.model.visual.transformer.resblocks[0].mlp.c_fc.weight
    with torch.no_grad():
        with packed(clip, "fp32"):
            before = clip.model.encode_image(images)
        weight.mul_(1.5)
        plain = clip.model.encode_image(images)
        with packed(clip, "fp32"):
            after = clip.model.encode_image(images)
        weight.div_(1.5)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(plain, after, atol=1e-4, rtol=1e-4)


def test_what_needs_a_gradient_is_torchs_own(clip):
    images, _ = inputs(clip, 1)
    with packed(clip, "fp32"):
        seen = called(lambda: clip.model.encode_image(images).sum().backward())
    assert SORTED not in seen
    assert clip.model.visual.transformer.resblocks[0].mlp.c_fc.weight.grad.abs().sum() > 0
    clip.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_left_alone(clip, precision):
    with packed(clip, precision):
        assert functional.linear is torch._C._nn.linear


def test_another_thread_gets_torchs_own(clip):
    images, _ = inputs(clip, 1)
    clip.model.eval()
    seen: dict[str, int] = {}

    def other() -> None:
        with torch.no_grad():
            seen.update(called(lambda: clip.model.encode_image(images)))

    with packed(clip, "fp32"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen
    assert SORTED not in seen
    assert functional.linear is torch._C._nn.linear
