"""The op audit over training steps and inference: MPS has a kernel for every operation of every model in every mode."""

from __future__ import annotations

import pytest
import torch
from op_audit import ONLY_ON_MPS, audit, verdict
from real_steps import Mode, a_batch, cut, learner_for, model, pixels, step
from torch import nn

from honeclip.config import Loss
from honeclip.device.fake import RuleBroken

PAIRS, SIGLIP = Loss(targets="pairs", tile=1), Loss(kind="siglip", tile=2)
BOTH = frozenset({"image", "text"})

MODES = {
    "whole": Mode(micro_batch=3, keep=1),
    "none kept, tiles of a row": Mode(keep=0, loss=PAIRS),
    "some kept, siglip in tiles": Mode(micro_batch=1, keep=1, loss=SIGLIP),
    "slices": Mode(queries=5),
    "recomputation": Mode(keep=0, recompute=True),
    "slices and recomputation": Mode(micro_batch=1, keep=1, queries=5, recompute=True, loss=PAIRS),
    "fp16": Mode(keep=1, precision="fp16"),
    "fp16 with slices and recomputation": Mode(queries=5, recompute=True, precision="fp16", loss=SIGLIP),
    "image body frozen": Mode(frozen=frozenset({"image"})),
    "heads alone, fp16": Mode(frozen=BOTH, precision="fp16"),
}

COVERED = {"slices", "recomputation", "fp16", "none kept, tiles of a row"}
"""Modes whose levers others pull as well: the slow tier has them."""

TIERS = [pytest.param(name, marks=pytest.mark.slow if name in COVERED else ()) for name in MODES]

CUT = {"ViT-B-32": 64, "ViT-L-14-336": 42, "MobileCLIP2-S0": 64, "ViT-B-16-SigLIP": None, "starter": None}
"""Model -> side of its pictures."""


@pytest.fixture(scope="module", params=CUT)
def clip(request, text, tmp_path_factory):
    name = request.param
    return model(name if name == "starter" else cut(name, tmp_path_factory.mktemp("configs"), CUT[name]), text)


@pytest.mark.parametrize("mode", TIERS)
def test_mps_has_every_operation_of_a_step(clip, mode):
    mode = MODES[mode]
    learner, batch = learner_for(clip, mode), a_batch(clip)
    with audit() as found:
        done = step(learner, batch)
    assert found.faults == {}
    assert done.grad_norm > 0 or done.skipped
    assert found.ran.keys() & {"_fused_adamw_", "_fused_adamw_.tensor_lr"}
    assert ("_amp_foreach_non_finite_check_and_unscale_" in found.ran) is (mode.precision == "fp16")
    if not mode.frozen:
        assert found.ran.keys() >= {
            "convolution",
            "convolution_backward",
            "native_layer_norm_backward",
            "gelu_backward",
        }


def test_mps_has_every_operation_of_an_inference(clip):
    with audit() as found:
        image = clip.encode_image(pixels(clip))
        text = clip.encode_text(["a red circle, number 5", "a frog"])
    assert found.faults == {}
    assert found.ran["convolution"] > 0
    assert image.shape[1] == text.shape[1] == clip.embed_dim


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", CUT)
def test_models_as_they_are_have_no_other_operations_than_those_that_were_cut(name, text):
    """All blocks, full width and size: two steps and an inference each."""
    clip = model("starter" if name == "starter" else f"random:{name}", text)
    for mode in (Mode(micro_batch=1, keep=1), Mode(micro_batch=1, keep=0, queries=64, recompute=True, loss=SIGLIP)):
        learner, batch = learner_for(clip, mode), a_batch(clip)
        with audit() as found:
            step(learner, batch)
        assert found.faults == {}
    with audit() as found:
        clip.encode_image(pixels(clip))
        clip.encode_text(["a red circle, number 5", "a frog"])
    assert found.faults == {}


def test_what_only_mps_runs_is_there():
    assert {name: verdict(name) for name in ONLY_ON_MPS} == dict.fromkeys(ONLY_ON_MPS, "kernel")


def test_the_yaml_is_that_of_this_torch():
    """Every operation that this torch can dispatch stands in it; it is no copy of another version."""
    known = {"add_.Tensor": "kernel", "sum": "composite", "linalg_eig": "none", "_fused_rms_norm_backward": "none"}
    assert {name: verdict(name) for name in known} == known
    assert all(hasattr(torch.ops.aten, name) for name in ("_fused_adamw_", "_mps_convolution", *ONLY_ON_MPS))


# --- the audit sees what it is there for ---------------------------------------------------------------------------


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + torch.ops.aten.special_airy_ai(gradient.new_zeros(()))


def test_an_operation_without_a_kernel_is_named_with_its_place():
    with audit() as found:
        torch.special.airy_ai(torch.ones(2))
    ((name, fault),) = found.faults.items()
    assert name == "special_airy_ai"
    assert "MPS has no kernel for it; at mps/test_op_audit.py:" in fault
    assert "in test_an_operation_without_a_kernel" in fault


def test_an_operation_inside_a_composite_one_is_found():
    with audit() as found:
        torch.ops.aten.channel_shuffle.out(torch.rand(1, 4, 2, 2), 2, out=torch.empty(1, 4, 2, 2))
    assert verdict("channel_shuffle.out") == "composite"
    assert list(found.faults) == ["channel_shuffle"]


def test_an_operation_of_a_backward_is_named_with_its_node():
    x = torch.ones(2, requires_grad=True)
    with audit() as found:
        Backwards.apply(x).sum().backward()
    assert "in the backward BackwardsBackward that was begun at mps/test_op_audit.py" in found.faults["special_airy_ai"]


def test_attention_that_goes_around_the_math_path_is_found():
    q = torch.rand(1, 2, 4, 8)
    with audit() as found, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        nn.functional.scaled_dot_product_attention(q, q, q)
    assert "_scaled_dot_product_flash_attention_for_cpu" in found.faults


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(4, 4), "torch.float32 for queries of torch.float16"),
        (torch.full((4, 4), -torch.inf).half(), "without a key"),
        (torch.tensor([[False] * 4, *[[True] * 4] * 3]), "without a key"),
    ],
)
def test_a_mask_that_mps_gets_wrong_is_found(mask, words):
    q = torch.rand(1, 2, 4, 8).half()
    with audit() as found:
        nn.functional.scaled_dot_product_attention(q, q, q, mask)
    assert words in found.faults["a mask"]


def test_a_step_with_such_an_operation_in_a_tower_fails_the_audit(clip):
    mode = MODES["whole"]
    learner = learner_for(clip, mode)
    text = getattr(clip.model, "text", clip.model)
    norm = next(one for one in text.modules() if isinstance(one, nn.LayerNorm))
    handle = norm.register_forward_hook(lambda module, given, out: out + torch.special.airy_ai(out.new_zeros(())))
    try:
        with audit() as found:
            step(learner, a_batch(clip))
    finally:
        handle.remove()
    assert list(found.faults) == ["special_airy_ai"]


@pytest.mark.parametrize("breach", [lambda: torch.ones(2).double(), lambda: torch.linalg.eigh(torch.eye(2))])
def test_what_has_a_kernel_and_is_forbidden_all_the_same_ends_the_audit(breach):
    with pytest.raises(RuleBroken), audit():
        breach()
