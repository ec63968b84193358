"""`bench attention`: what its figures count, on a small tower with long sequences."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from honeclip.bench import attention as bench
from honeclip.device.allocated import allocated
from honeclip.device.detect import choose
from honeclip.errors import BadInput, ModelError
from honeclip.model.slices import attention

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VISION = {
    "tall": {"image_size": 128, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "timm": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
    "bare": {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
}
BATCH, HEADS, DIM, TOKENS = 3, 2, 32, 20 * 20 + 1
SCORES = BATCH * HEADS * TOKENS**2 * 4


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, vision in VISION.items():
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": "timm_pool" in vision}
        (folder / f"honeclip-bench-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def cpu():
    return choose("cpu")


@pytest.fixture(scope="module")
def block(cpu):
    return bench.first_block("random:honeclip-bench-tall", 160, batch=BATCH, device=cpu)


def run(model="tall", size=160, slice_=None, **options):
    return bench.run(f"random:honeclip-bench-{model}", size, slice_, batch=BATCH, device="cpu", rounds=1, **options)


def test_the_figures_of_the_contract():
    found = run()
    assert set(found) == {"seconds", "peak_memory_bytes", "extra_memory_bytes"}
    assert all(one > 0 for one in found.values())
    math, sliced = run(slice_=0), run(slice_=16)
    assert 10 * sliced["extra_memory_bytes"] <= math["extra_memory_bytes"]
    assert math["extra_memory_bytes"] <= math["peak_memory_bytes"]


def test_the_math_path_holds_three_times_the_scores_and_a_slice_its_own(block, cpu):
    math = bench.extra_bytes(block, 0, cpu)
    assert 3 * SCORES <= math <= 3.5 * SCORES
    for queries in (8, 16, 100):
        scores = SCORES * queries / TOKENS
        # beside three times the slice there are its scaled queries and the gradients of its keys and values
        operands = 6 * BATCH * HEADS * TOKENS * DIM * 4
        assert bench.extra_bytes(block, queries, cpu) <= 3 * scores + operands
    assert 10 * bench.extra_bytes(block, 16, cpu) <= math


def test_extra_is_what_it_says_by_an_independent_count(block, cpu):
    """Attention that holds a tensor of a known size, forward, in between and backward."""
    held = []

    class Greedy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q):
            ctx.save_for_backward(torch.empty(1_000_000))
            torch.empty(3_000_000).zero_()
            return q * 2

        @staticmethod
        def backward(ctx, d_out):
            (kept,) = ctx.saved_tensors
            torch.empty(2_500_000).zero_()
            held.append(kept.numel())
            return d_out * 2

    q = torch.randn(10, requires_grad=True)
    outputs = []
    forward = allocated(lambda: outputs.append(Greedy.apply(q)), cpu)
    assert forward == (16_000_000, 4_000_000 + 40)
    backward = allocated(lambda: outputs.append(torch.autograd.grad(outputs[0].sum(), q)), cpu)
    assert backward[0] == pytest.approx(10_000_000, abs=200)
    assert held == [1_000_000]


def test_the_block_is_the_models_own(block):
    x = block.args[0]
    assert x.shape == (BATCH, TOKENS, HEADS * DIM)
    assert x.requires_grad
    assert all(one.requires_grad for one in block.module.parameters())
    q, k, v = block.operands
    assert q.shape == k.shape == v.shape == (BATCH, HEADS, TOKENS, DIM)
    own = block.module.attn
    normed = block.module.ln_1(x).detach()
    expected = own(normed, normed, normed, need_weights=False)[0]
    mixed = attention(q, k, v, queries=50).transpose(1, 2).reshape(BATCH, TOKENS, HEADS * DIM)
    torch.testing.assert_close(own.out_proj(mixed), expected)


def test_every_way_computes_the_same_gradients(block):
    grads = []
    for queries in (0, 7, TOKENS):
        bench.once(block, queries)
        grads.append([one.grad.clone() for one in block.module.parameters()])
    for other in grads[1:]:
        for one, two in zip(grads[0], other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_timm_towers_and_sizes_by_default(cpu):
    block = bench.first_block("random:honeclip-bench-timm", None, batch=2, device=cpu)
    assert block.operands[0].shape[0] == 2
    assert 1 <= bench.chosen(block, cpu) <= block.operands[0].shape[-2]


def test_a_sweep_times_every_slice_in_turn(block, cpu):
    found = bench.sweep(block, [0, 8, 64], cpu, rounds=1)
    assert list(found) == [0, 8, 64]
    assert all(0 < one < float("inf") for one in found.values())


def test_bad_input():
    with pytest.raises(BadInput, match="--slice -1"):
        run(slice_=-1)
    with pytest.raises(BadInput, match="no block with attention"):
        run("bare", 64)
    with pytest.raises(ModelError, match="multiple"):
        run(size=161)
    with pytest.raises(ModelError):
        run("unknown")
