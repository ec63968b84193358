"""LoRA against autograd of W + SCALE * B A written by hand, and which parts of a body learn."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import normalize

from honeclip.errors import ConfigError
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets
from honeclip.model import adapt
from honeclip.model.attention import sliced
from honeclip.model.recompute import blocks, recomputed
from honeclip.model.towers import image_tower, text_tower
from honeclip.stepping.step import cached_step

SCALE = 2.0
KINDS = ["vit", "custom", "resnet", "siglip", "mobileclip", "efficientnet", "mlp", "coca", "starter"]
TEXTS = ["a red square", "two blue circles on white, seen from above"]


@pytest.fixture(scope="module")
def plain(make, request):
    """plain(kind) -> a new Clip with the same random weights each time."""
    made = {}

    def one(kind):
        if kind not in made:
            made[kind] = request.getfixturevalue("starter") if kind == "starter" else make(kind)
            for norm in made[kind].model.modules():
                if isinstance(norm, nn.BatchNorm2d) and not norm.weight.any():
                    nn.init.constant_(norm.weight, 0.5)  # a new ResNet's blocks pass nothing on
        return replace(made[kind], model=copy.deepcopy(made[kind].model))

    return one


def stirred(clip, rank=3, seed=0):
    """Adapters that have learned something: B is no longer zero."""
    count = adapt.add_lora(clip, rank, seed)
    draw = torch.Generator().manual_seed(5)
    for name, one in clip.model.named_parameters():
        if ".lora_B." in name:
            one.data.copy_(torch.randn(one.shape, generator=draw) * 0.05)
    return count


def plain_name(name: str) -> str:
    """open_clip's name of the matrix that an adapted one stands for."""
    return name.replace(".base_layer", "").replace(".in_proj.", ".in_proj_")


def factors(clip) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """open_clip's name of each adapted matrix -> its A and B."""
    named = dict(clip.model.named_parameters())
    ends = ".lora_A.default.weight"
    found = {}
    for name in named:
        if name.endswith(ends):
            own = name.removesuffix(ends)
            found[plain_name(f"{own}.weight")] = named[name], named[f"{own}.lora_B.default.weight"]
    return found


def inputs(clip, rows=5):
    draw = torch.Generator().manual_seed(1)
    size = clip.preprocess.size_px
    images = torch.randn(rows, 3, size, size, generator=draw).to(clip.dtype)
    captions = ["a red square", "two blue circles", "x", "a longer caption about nothing", "green"]
    return images, clip.preprocess.texts(captions[:rows])


def loss_of(image, text, scale):
    return infonce(image, text, scale, Targets(), tile=2)


def reference(clip, base) -> dict[str, torch.Tensor]:
    """Gradients of A, B and what else learns, in the plain model with W + SCALE * B A put in by hand."""
    images, tokens = inputs(base)
    pairs = {key: [one.detach().clone().requires_grad_() for one in pair] for key, pair in factors(clip).items()}
    state = base.model.state_dict(keep_vars=True)
    summed = {
        key: state[key] + SCALE * (b.flatten(1) @ a.flatten(1)).view_as(state[key]) for key, (a, b) in pairs.items()
    }
    free = {
        name: state[name].detach().clone().requires_grad_()
        for name, one in clip.model.named_parameters()
        if one.requires_grad and ".lora_" not in name
    }

    class Loss(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.m = model

        def forward(self):
            image = self.m.encode_image(images)
            text = self.m.encode_text(tokens)
            return loss_of(image, text, self.m.logit_scale)

    given = {f"m.{key}": value for key, value in {**state, **free, **summed}.items()}
    functional_call(Loss(base.model), given).backward()
    found = {f"{key} {which}": one.grad for key, pair in pairs.items() for which, one in zip("AB", pair, strict=True)}
    return found | {name: one.grad for name, one in free.items()}


def ours(clip) -> dict[str, torch.Tensor]:
    found = {
        f"{key} {which}": one.grad for key, pair in factors(clip).items() for which, one in zip("AB", pair, strict=True)
    }
    found |= {
        name: one.grad for name, one in clip.model.named_parameters() if one.requires_grad and ".lora_" not in name
    }
    clip.model.zero_grad(set_to_none=True)
    return found


def compared(found, truth, limit=1e-9):
    assert found.keys() == truth.keys()
    top = max(one.abs().max() for one in truth.values() if one is not None)
    for name, one in truth.items():
        if one is None:
            assert found[name] is None or not found[name].any(), name
        else:
            assert (found[name] - one).abs().max() <= limit * max(one.abs().max(), 1e-6 * top), name


def double(clip):
    clip.model.double()
    return clip


@pytest.mark.parametrize("kind", KINDS)
def test_merged_it_has_open_clips_own_names_and_the_same_embeddings(kind, plain):
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        base, clip = plain(kind), plain(kind)
        base.model.to(dtype)
        clip.model.to(dtype)
        names = list(base.model.state_dict())
        assert stirred(clip) == len(factors(clip)) > 4
        assert adapt.is_adapted(clip.model.state_dict())
        images, tokens = inputs(clip, 2)

        def embedded(one, images=images, tokens=tokens):
            with torch.no_grad():
                both = one.model.encode_image(images), one.model.encode_text(tokens)
            return [normalize(value, dim=-1) for value in both]

        before = embedded(base)
        unmerged = embedded(clip)
        adapt.merge_lora(clip)
        merged = embedded(clip)
        assert list(clip.model.state_dict()) == names
        assert not adapt.is_adapted(names)
        assert {type(one) for one in clip.model.modules()} == {type(one) for one in base.model.modules()}
        for old, one, two in zip(before, unmerged, merged, strict=True):
            assert (one - two).abs().max() <= limit
            assert (old - one).abs().max() > 1e-3, "the adapters did something"
        adapt.merge_lora(clip)  # nothing left to merge


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_gradients_are_those_of_the_sum_written_by_hand(kind, plain):
    base, clip = double(plain(kind)), double(plain(kind))
    stirred(clip)
    truth = reference(clip, base)
    images, tokens = inputs(clip)
    loss_of(image_tower(clip)(images), text_tower(clip)(tokens), clip.logit_scale).backward()
    compared(ours(clip), truth)
    assert all(one is not None and one.any() for name, one in truth.items() if name.endswith((" A", " B")))


@pytest.mark.parametrize("keep", [0, 1, 3])
@pytest.mark.parametrize("kind", ["vit", "custom", "efficientnet"])
def test_and_so_they_are_in_micro_batches_with_recomputation_and_sliced_attention(kind, keep, plain):
    base, clip = double(plain(kind)), double(plain(kind))
    stirred(clip)
    truth = reference(clip, base)
    weights = {name: one.clone() for name, one in clip.model.state_dict().items()}
    with sliced(3) as calls, recomputed(clip):
        cached_step(
            [image_tower(clip), text_tower(clip)],
            inputs(clip),
            lambda image, text: loss_of(image, text, clip.logit_scale),
            micro_batch=2,
            keep=keep,
        )
    assert calls.sliced > 0
    compared(ours(clip), truth)
    assert all(one.equal(weights[name]) for name, one in clip.model.state_dict().items()), "a step moves no weight"


def test_every_keep_gives_the_same_bits(plain):
    found = []
    for keep in (0, 1, 3):
        clip = plain("vit")
        stirred(clip)
        both, scale = [image_tower(clip), text_tower(clip)], clip.logit_scale
        cached_step(both, inputs(clip), lambda a, b, s=scale: loss_of(a, b, s), micro_batch=2, keep=keep)
        found.append(ours(clip))
    assert all(one[name].equal(value) for one in found[1:] for name, value in found[0].items())


@pytest.mark.parametrize("kind", ["vit", "starter"])
def test_new_adapters_change_nothing_and_are_decided_by_the_seed_alone(kind, plain):
    base, made = plain(kind), []
    before = torch.get_rng_state()
    for seed, dtype in ((0, torch.float32), (0, torch.float64), (1, torch.float32)):
        clip = plain(kind)
        clip.model.to(dtype)
        torch.rand(seed + 3)
        state = torch.get_rng_state()
        adapt.add_lora(clip, 4, seed)
        assert torch.equal(torch.get_rng_state(), state)
        made.append(clip)
    torch.set_rng_state(before)
    firsts = [torch.cat([a.flatten().float() for a, _ in factors(clip).values()]) for clip in made]
    assert firsts[0].equal(firsts[1])
    assert not firsts[0].equal(firsts[2])
    for a, b in factors(made[0]).values():
        bound = a[0].numel() ** -0.5
        assert 0.8 * bound < a.abs().max() <= bound
        assert not b.any()
    torch.testing.assert_close(made[0].encode_text(TEXTS), base.encode_text(TEXTS), rtol=0, atol=1e-6)


def test_bodies_learn_through_adapters_alone_and_heads_as_before(plain):
    clip = plain("vit")
    adapt.add_lora(clip, 2, 0)
    learning = {name for name, one in clip.model.named_parameters() if one.requires_grad}
    rest = {name for name in learning if not adapt.is_adapter(name)}
    assert rest == {"visual.proj", "text_projection", "logit_scale"}
    assert learning - rest == {name for name, _ in clip.model.named_parameters() if adapt.is_adapter(name)}


def test_a_fixed_scale_and_a_frozen_tower_stay_as_they_are(plain):
    clip = plain("custom")
    clip.logit_scale.requires_grad_(False)
    for one in text_tower(clip).parameters_body():
        one.requires_grad_(False)
    adapt.add_lora(clip, 2, 0)
    names = [name for name, one in clip.model.named_parameters() if one.requires_grad]
    assert {name.partition(".")[0] for name in names if adapt.is_adapter(name)} == {"visual"}
    assert "logit_scale" not in names
    assert "text.text_projection" in names


def test_what_a_forward_does_not_call_gets_no_adapter(plain):
    """open_clip's ResNet hands the matrices of its attention pool to torch: an adapter there would be ignored."""
    clip = plain("resnet")
    adapt.add_lora(clip, 2, 0)
    adapted = {name for name in factors(clip) if name.startswith("visual.")}
    assert adapted
    assert not any("attnpool" in name for name in adapted)
    kernels = {name: clip.model.state_dict()[name.replace(".weight", ".base_layer.weight")].shape for name in adapted}
    assert all(shape[2:] == (1, 1) for shape in kernels.values())


def test_nothing_to_adapt_is_said(plain):
    clip = plain("vit")
    clip.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no projection that learns"):
        adapt.add_lora(clip, 2, 0)


def test_stored_adapters_load_into_a_new_model(plain):
    clip, other = plain("vit"), plain("vit")
    stirred(clip)
    state = clip.model.state_dict()
    adapt.install_empty(other, state)
    other.model.load_state_dict(state)
    assert other.encode_text(TEXTS).equal(clip.encode_text(TEXTS))
    adapt.merge_lora(other)
    assert all(one.requires_grad for one in other.model.parameters())


# --- depth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_parameter_stands_where_the_forward_reaches_it(kind, plain):
    clip = plain(kind)
    text = getattr(clip.model, "text", None) or clip.model.transformer
    for tower, module in ((image_tower(clip), clip.model.visual), (text_tower(clip), text)):
        count, height = adapt.heights(tower)
        own = blocks(module)
        assert count == len(own) > 0
        for place, block in enumerate(own, 1):
            assert {height[id(one)] for one in block.parameters()} == {place}
        heads = {id(one) for one in tower.parameters_head()}
        assert {height[key] for key in heads} <= {count + 1}
        assert height.keys() == heads | {id(one) for one in tower.parameters_body()}
        names = {name: height[id(one)] for name, one in clip.model.named_parameters() if id(one) in height}
        low = ("conv1.", "class_embedding", "positional_embedding", "token_embedding", "patch_embed", "pos_embed")
        low = (*low, "conv_stem", "embeddings", "stem")
        high = ("ln_post", "ln_final", "conv_head", "trunk.norm.", "attnpool", "attn_pool", "final_conv")
        for name, place in names.items():
            if any(word in name for word in high):
                assert place == count + 1, name
            elif any(word in name for word in low) and "layer" not in name and ".blocks." not in name:
                assert place == 0, name


@pytest.mark.parametrize("kind", ["vit", "custom", "efficientnet", "starter"])
def test_of_the_last_blocks_alone_graphs_are_kept(kind, plain):
    clip = plain(kind)
    adapt.keep_last(clip, 1, frozenset())
    text = getattr(clip.model, "text", None) or clip.model.transformer
    for module in (clip.model.visual, text):
        *early, last = blocks(module)
        assert not any(one.requires_grad for block in early for one in block.parameters())
        assert all(one.requires_grad for one in last.parameters())
        seen = {}
        for place, block in enumerate((*early, last)):
            block.register_forward_hook(lambda _, __, out, place=place, seen=seen: seen.update({place: out}))
        image_tower(clip)(inputs(clip, 2)[0])
        text_tower(clip)(inputs(clip, 2)[1])
        first = {place: out[0] if isinstance(out, tuple) else out for place, out in seen.items()}
        assert [first[place].requires_grad for place in sorted(first)] == [False] * len(early) + [True]
    heads = [one for tower in (image_tower(clip), text_tower(clip)) for one in tower.parameters_head()]
    assert all(one.requires_grad for one in heads)


def test_a_tower_with_fewer_blocks_is_refused_unless_it_is_frozen(plain):
    with pytest.raises(ConfigError, match=r"last_blocks = 3: the image tower of tiny has 2 blocks: give at most 2"):
        adapt.keep_last(plain("vit"), 3, frozenset())
    clip = plain("resnet")
    adapt.keep_last(clip, 3, frozenset({"text"}))  # its image tower has four
    assert not clip.model.visual.conv1.weight.requires_grad
    clip.model.visual = nn.Identity()
    with pytest.raises(ConfigError, match="no blocks that are known"):
        adapt.keep_last(clip, 1, frozenset())


def test_adapters_of_the_last_blocks(plain):
    clip = plain("vit")
    adapt.keep_last(clip, 1, frozenset())
    adapt.add_lora(clip, 2, 0)
    assert {name.rpartition(".resblocks.")[2][0] for name in factors(clip)} == {"1"}
    assert {name.partition(".")[0] for name in factors(clip)} == {"visual", "transformer"}
    assert not clip.model.ln_final.weight.requires_grad
