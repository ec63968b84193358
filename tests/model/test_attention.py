"""Sliced attention against the plain formula, in every tower that can take it, and the memory that it promises."""

from __future__ import annotations

import threading

import pytest
import timm
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import VisionTransformer
from tiny_models import CAPTIONS
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModel

from honeclip.model import attention, towers
from honeclip.model.attention import slice_for, sliced
from honeclip.stepping.count import counting

B, H, N, M, D = 3, 2, 13, 11, 8
SLICES = (1, 3, 6, 13, 40)
"""Over 3 x 2 heads of 13 queries: three pieces of one head with an uneven tail, a head, a sample, all, more than all."""


pytestmark = pytest.mark.usefixtures("one_thread")


def plain(q, k, v, mask=None, is_causal=False, scale=None):
    """softmax(q k^T * scale + mask) v, as the textbook has it; a row without keys is zero."""
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    scores = scores if mask is None else scores + mask
    blind = (scores == float("-inf")).all(-1, keepdim=True)
    return scores.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0) @ v


def packed(seed=0, width=D, value_width=D, dtype=torch.float64, keys=M):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, H, N, width), (B, H, keys, width), (B, H, keys, value_width)
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes]


def masks():
    generator = torch.Generator().manual_seed(3)
    some = torch.rand(B, H, N, M, generator=generator) > 0.7
    some[0, 0, 2] = False  # a query without any key
    learned = torch.randn(1, H, N, M, dtype=torch.float64, generator=generator)
    return {
        "none": {},
        "scale": {"scale": 0.3},
        "causal": {"is_causal": True},
        "bool": {"attn_mask": some},
        "padding": {"attn_mask": (torch.arange(M) < torch.tensor([3, 7, 11])[:, None])[:, None, None]},
        "additive": {"attn_mask": torch.randn(N, M, dtype=torch.float64, generator=generator)},
        "causal as open_clip has it": {
            "attn_mask": torch.full((N, M), float("-inf"), dtype=torch.float64).triu_(1),
        },
        "learned": {"attn_mask": learned.requires_grad_()},
    }


@pytest.mark.parametrize("queries", SLICES)
@pytest.mark.parametrize("kind", masks())
def test_values_and_gradients_are_those_of_the_formula(kind, queries):
    options = masks()[kind]
    q, k, v = packed(value_width=5 if kind in ("scale", "padding") else D)
    learned = [one for one in options.values() if isinstance(one, torch.Tensor) and one.requires_grad]
    asked = [q, k, v, *learned]
    expected = plain(q, k, v, **{"mask" if key == "attn_mask" else key: one for key, one in options.items()})
    with sliced(queries) as calls:
        found = functional.scaled_dot_product_attention(q, k, v, **options)
    assert calls == attention.Calls(sliced=1, left=0)
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for one, two in zip(
        (expected, *torch.autograd.grad(expected, asked, direction)),
        (found, *torch.autograd.grad(found, asked, direction)),
        strict=True,
    ):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-12)


def test_memory_layouts_of_the_towers_and_three_dimensions():
    packed_NB3E = torch.randn(N, B, 3, H * D, dtype=torch.float64, requires_grad=True)
    layouts = {
        "nn.MultiheadAttention": [
            packed_NB3E[:, :, i].reshape(N, B * H, D).transpose(0, 1).view(B, H, N, D) for i in range(3)
        ],
        "timm": list(packed_NB3E.unflatten(-1, (H, D)).permute(2, 1, 3, 0, 4).unbind(0)),
        "three": [packed_NB3E[:, 0, i].unflatten(-1, (H, D)).transpose(0, 1) for i in range(3)],
        "shared queries": [
            packed_NB3E[:, :1, 0].unflatten(-1, (H, D)).permute(1, 2, 0, 3).expand(B, -1, -1, -1),
            *[packed_NB3E[:, :, i].unflatten(-1, (H, D)).permute(1, 2, 0, 3) for i in (1, 2)],
        ],
    }
    for name, (q, k, v) in layouts.items():
        expected = plain(q, k, v)
        with sliced(3) as calls:
            found = functional.scaled_dot_product_attention(q, k, v)
        assert calls.sliced == 1, name
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        grads = [
            torch.autograd.grad(one.square().sum(), packed_NB3E, retain_graph=True)[0] for one in (found, expected)
        ]
        torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


# --- precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by", ["autocast", "weights"])
def test_lower_precision_is_as_close_to_the_truth_as_torchs_math_path(dtype, by):
    """The truth is that of the rounded operands: what remains is the rounding of the results."""
    rounded = [one.detach().to(dtype) for one in packed(keys=200)]
    truth = [one.double().requires_grad_() for one in rounded]
    expected = plain(*truth)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    expected = (expected.detach(), *torch.autograd.grad(expected, truth, direction.double()))
    errors = []
    for slice_ in (0, 3):
        given = [(one.float() if by == "autocast" else one.clone()).requires_grad_() for one in rounded]
        lower = torch.autocast("cpu", dtype=dtype, enabled=by == "autocast" and dtype != torch.float32)
        with lower, sliced(slice_), sdpa_kernel(SDPBackend.MATH):
            found = functional.scaled_dot_product_attention(*given)
        assert found.dtype == dtype
        grads = torch.autograd.grad(found, given, direction)
        pairs = zip((found.detach(), *grads), expected, strict=True)
        errors.append([float((one.double() - two).abs().max()) for one, two in pairs])
    for math_error, sliced_error in zip(*errors, strict=True):
        assert sliced_error <= 1.2 * math_error + 1e-6


def test_autocast_leaves_float64_alone():
    q, k, v = packed()
    with torch.autocast("cpu", dtype=torch.bfloat16), sliced(2):
        found = functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(found, plain(q, k, v), rtol=0, atol=1e-12)


# --- dropout ------------------------------------------------------------------------------------------------------


def test_dropout_drops_its_share_and_scales_the_rest():
    q, k, _ = packed()
    weights = plain(q, k, torch.eye(M, dtype=torch.float64).expand(B, H, M, M))
    torch.manual_seed(0)
    with sliced(4):
        found = functional.scaled_dot_product_attention(
            q, k, torch.eye(M, dtype=torch.float64).expand(B, H, M, M), dropout_p=0.25
        )
    kept = found != 0
    torch.testing.assert_close(found[kept], weights[kept] / 0.75)
    assert abs(float(kept.double().mean()) - 0.75) < 0.04


@pytest.mark.parametrize("queries", [1, 5, 13])
def test_the_backward_replays_the_dropout_of_the_forward(queries):
    q, k, v = (one[:2, :2, :5].detach().requires_grad_() for one in packed())

    def seeded(*given):
        torch.manual_seed(7)
        with sliced(queries):
            return functional.scaled_dot_product_attention(*given, dropout_p=0.4)

    assert torch.autograd.gradcheck(seeded, (q, k, v), fast_mode=True)


def test_the_backward_leaves_the_generators_where_they_were():
    q, k, v = packed()
    with sliced(4):
        found = functional.scaled_dot_product_attention(q, k, v, dropout_p=0.4)
    torch.rand(5)
    before = torch.get_rng_state()
    found.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


# --- towers -------------------------------------------------------------------------------------------------------


def gradients(module, forward, queries):
    module.zero_grad(set_to_none=True)
    with sliced(queries) as calls:
        out = forward(module)
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(5))
    (out * weights).sum().backward()
    found = {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}
    return out.detach(), found, calls


def assert_same(module, forward, expected_calls, queries=7):
    """Forward, every gradient and inference are the same, and each call of attention went through the slices."""
    module.double().eval()
    out, plain_grads, before = gradients(module, forward, 0)
    again, grads, calls = gradients(module, forward, queries)
    with torch.no_grad(), sliced(queries) as inference:
        embedded = forward(module)
    assert (before.left, before.sliced) == (expected_calls, 0)
    assert (calls.sliced, calls.left) == (inference.sliced, inference.left) == (expected_calls, 0)
    scale = max(float(one.abs().max()) for one in plain_grads.values())
    assert grads.keys() == plain_grads.keys()
    for name, one in plain_grads.items():
        assert float((grads[name] - one).abs().max()) <= 1e-12 * max(1.0, scale), name
    for one in (again, embedded):
        torch.testing.assert_close(one, out, rtol=0, atol=1e-12)


TOWER_CALLS = {"vit": (2, 2), "resnet": (1, 2), "siglip": (10, 2), "coca": (3, 2)}


@pytest.mark.parametrize("name", TOWER_CALLS)
def test_towers_of_a_clip(make, name):
    clip = make(name)
    side = clip.preprocess.size_px
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens = clip.preprocess.texts(CAPTIONS)
    image_calls, text_calls = TOWER_CALLS[name]
    assert_same(clip.model, lambda _: towers.text_tower(clip)(tokens), text_calls)
    assert_same(clip.model, lambda _: towers.image_tower(clip)(images), image_calls)


def small(name):
    return timm.create_model(name, num_classes=0, img_size=56 if "patch14" in name else 64, depth=2)


IMAGE_TOWERS = {
    "custom blocks of open_clip": lambda: VisionTransformer(64, 16, 32, 2, 2, 2.0, output_dim=8, qk_norm=True),
    "rotary positions (EVA)": lambda: small("eva02_tiny_patch14_224"),
    "learned relative positions": lambda: small("vit_relpos_small_patch16_224"),
}


@pytest.mark.parametrize("name", IMAGE_TOWERS)
def test_image_towers_of_other_kinds(name):
    torch.manual_seed(0)
    tower = IMAGE_TOWERS[name]()
    side = 56 if "EVA" in name else 64
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_same(tower, lambda module: module(images), 2)


SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
HUGGING_FACE = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "clip_text_model": SIZES,
    "mt5": {"num_layers": 2, "d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64},
    "m2m_100": {
        "encoder_layers": 2,
        "decoder_layers": 1,
        "d_model": 32,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
    },
}


def text_encoder(kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=1000, pad_token_id=1, bos_token_id=0, eos_token_id=2, **HUGGING_FACE[kind]
    )
    if kind in ("bert", "roberta", "xlm-roberta"):  # as open_clip builds them
        return HFTextEncoder(
            "", output_dim=16, config=config, pooler_type="mean_pooler", proj_type="linear"
        ).transformer
    model = AutoModel.from_config(config, attn_implementation="sdpa")
    return model.encoder if config.is_encoder_decoder else model


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_text_towers_of_transformers(kind):
    tokens = torch.randint(5, 900, (3, 19), generator=torch.Generator().manual_seed(2))
    tokens[0, 7:] = tokens[1, 12:] = 1
    mask = (tokens != 1).long()
    assert_same(
        text_encoder(kind),
        lambda module: module(input_ids=tokens, attention_mask=mask).last_hidden_state[mask.bool()],
        2,
    )


# --- memory -------------------------------------------------------------------------------------------------------


def test_only_the_operands_are_kept():
    q, k, v = packed()
    with sliced(2), counting() as kept:
        inputs = [one * 2 for one in (q, k, v)]
        functional.scaled_dot_product_attention(*inputs, is_causal=True)
    assert kept.bytes == sum(one.untyped_storage().nbytes() for one in inputs)
    with sliced(0), sdpa_kernel(SDPBackend.MATH), counting() as kept:
        functional.scaled_dot_product_attention(*inputs, is_causal=True)
    assert kept.bytes >= B * H * N * M * 8


def test_a_tower_keeps_no_scores(make):
    clip = make({**TALL, "text_cfg": TEXT})
    images = torch.randn(2, 3, 160, 160)
    kept = []
    for queries in (0, 16):
        with sliced(queries), sdpa_kernel(SDPBackend.MATH), counting() as counted:
            towers.image_tower(clip)(images)
        kept.append(counted.bytes)
    layers, heads, tokens = 2, 2, 401
    assert kept[0] - kept[1] >= layers * 2 * heads * tokens**2 * 4


TALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 160, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


# --- the choice ---------------------------------------------------------------------------------------------------


def test_nothing_is_sliced_where_sdpa_has_a_fast_kernel():
    assert slice_for(8, 16, 577, 577, 64, 4, fast_kernel=True) == 0
    assert slice_for(8, 16, 577, 577, 64, 4) > 0


@pytest.mark.parametrize("batch", [1, 8, 64, 500])
@pytest.mark.parametrize("tokens", [50, 77, 197, 248, 577, 1025])
@pytest.mark.parametrize("budget", [2**20, 16 * 2**20, 2**30, None])
@pytest.mark.parametrize("device_type", ["cpu", "mps"])
def test_a_slice_fits_its_budget_and_the_call(batch, tokens, budget, device_type):
    heads, dim, size = 12, 64, 4
    most = attention.CPU_SLICE_BYTES if device_type == "cpu" else attention.SLICE_BYTES
    queries = slice_for(batch, heads, tokens, tokens, dim, size, budget, device_type=device_type)
    assert 1 <= queries <= tokens
    a_query = batch * heads * size
    if queries > 1:
        assert queries * a_query * tokens <= most
        if budget is not None:
            assert queries * a_query * (3 * tokens + 4 * dim) <= budget
    if queries < tokens:
        more = (queries + 1) * a_query
        too_much = budget is not None and more * (3 * tokens + 4 * dim) > budget
        assert too_much or more * tokens > most


def test_a_vit_l_at_336_px_needs_a_tenth_of_the_math_path():
    for device_type in ("cpu", "mps"):
        assert 10 * slice_for(8, 16, 577, 577, 64, 4, device_type=device_type) <= 577


def test_auto_leaves_fast_kernels_alone_and_slices_where_there_are_none():
    q, k, v = packed(dtype=torch.float32)
    with sliced("auto") as calls:
        functional.scaled_dot_product_attention(q, k, v)
    assert (calls.sliced, calls.left) == (0, 1)
    with sliced("auto", budget_bytes=1) as calls, sdpa_kernel(SDPBackend.MATH):
        functional.scaled_dot_product_attention(q, k, v)
    assert (calls.sliced, calls.left) == (1, 0)
    assert not attention.has_fast_kernel(q, k, v, dropout_p=0.1)  # the CPU's flash kernel has no dropout


def test_a_device_without_a_choice_of_kernels_trains_in_slices_and_infers_as_it_can():
    q, k, v = (one.detach().to("meta") for one in packed(dtype=torch.float32, width=64, value_width=64))
    with sliced("auto") as calls:
        found = functional.scaled_dot_product_attention(q.requires_grad_(), k, v)
        found.sum().backward()
        assert (calls.sliced, calls.left) == (1, 0)
        with torch.no_grad():
            functional.scaled_dot_product_attention(q, k, v)
    assert (calls.sliced, calls.left) == (1, 1)
    assert q.grad.shape == q.shape
    odd = torch.zeros(1, 1, 9, 88, device="meta")
    assert not attention.has_fast_kernel(odd, odd, odd)


# --- the route ----------------------------------------------------------------------------------------------------


def test_torch_is_as_before_afterwards():
    own, fast = functional.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        with sliced(2), sliced(0):
            assert functional.scaled_dot_product_attention is not own
            assert not torch.backends.mha.get_fastpath_enabled()
        with pytest.raises(KeyError), sliced(2):
            raise KeyError
        assert torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert functional.scaled_dot_product_attention is own
    assert attention.active() is None


def test_the_inner_plan_holds_and_the_outer_returns():
    q, k, v = packed()
    with sliced(2) as outer:
        functional.scaled_dot_product_attention(q, k, v)
        with sliced(0) as inner:
            functional.scaled_dot_product_attention(q, k, v)
        functional.scaled_dot_product_attention(q, k, v)
    assert (outer.sliced, outer.left, inner.sliced, inner.left) == (2, 0, 0, 1)


def test_another_thread_has_torchs_own_attention():
    q, k, v = packed()
    found = []

    def elsewhere():
        with counting() as kept:
            functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        found.append((kept.bytes, attention.active()))

    with sliced(2) as calls:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert found[0][1] is None
    assert (calls.sliced, calls.left) == (0, 0)


def test_what_slices_cannot_do_is_left_to_torch():
    q, k, v = packed()
    with sliced(2) as calls:
        grouped = functional.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
        with pytest.raises(RuntimeError, match="causal"):
            functional.scaled_dot_product_attention(q, k, v, torch.ones(N, M, dtype=torch.bool), is_causal=True)
    expected = plain(q, k[:, :1].expand_as(k), v[:, :1].expand_as(v))
    torch.testing.assert_close(grouped, expected, rtol=0, atol=1e-12)
    assert (calls.sliced, calls.left) == (0, 2)


def test_a_negative_slice_is_refused():
    with pytest.raises(ValueError, match="give 1 or more"), sliced(-1):
        pass


def test_a_graph_may_run_backwards_outside_and_twice():
    q, k, v = packed()
    with sliced(3):
        found = functional.scaled_dot_product_attention(q, k, v).square().sum()
    first, second = (torch.autograd.grad(found, q, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
