"""AdamW's groups, rates, clipping and stored state, against torch and against the rules in words."""

from __future__ import annotations

import math

import pytest
import tiny_runs
import torch

from honeclip.config import Train
from honeclip.data import loader, pairs
from honeclip.data.order import order
from honeclip.domains import domain as domains
from honeclip.errors import ConfigError
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets
from honeclip.model import adapt
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.training import optimizer as optimizers
from honeclip.training import stages
from honeclip.training.stages import Stage


def grouped(clip, built) -> dict[str, dict]:
    """Each learning parameter's name -> its group."""
    names = {id(one): name for name, one in clip.model.named_parameters()}
    return {names[id(one)]: group for group in built.param_groups for one in group["params"]}


def gradients(clip, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for one in clip.model.parameters():
        one.grad = torch.randn(one.shape, generator=generator) * 0.1


@pytest.fixture
def make(text):
    """make(unaligned=...) -> a new tiny Clip, the same weights each time."""
    return lambda unaligned=False: tiny_runs.make_clip(text, unaligned=unaligned)


@pytest.fixture
def clip(make):
    return make()


def test_every_parameter_is_in_one_group_and_norms_biases_and_scales_do_not_decay(clip):
    found = grouped(clip, optimizers.build(clip, Train(), frozenset()))
    assert found.keys() == {name for name, _ in clip.model.named_parameters()}
    decaying = {name for name, group in found.items() if group["weight_decay"] > 0}
    assert {group["weight_decay"] for name, group in found.items() if name in decaying} == {0.1}
    kinds = {id(one): type(module) for module in clip.model.modules() for one in module.parameters(recurse=False)}
    for name, parameter in clip.model.named_parameters():
        norm = kinds[id(parameter)].__name__.startswith("LayerNorm")
        table = name.endswith(("positional_embedding", "class_embedding"))
        kept = norm or table or name.endswith("bias") or name == "logit_scale"
        assert (name not in decaying) == kept, name
    assert {"visual.conv1.weight", "visual.proj", "text_projection", "token_embedding.weight"} <= decaying


@pytest.mark.parametrize(
    ("unaligned", "frozen", "lr", "head", "body"),
    [
        (False, frozenset(), "auto", 1e-5, 1e-5),
        (False, frozenset({"image"}), "auto", 1e-5, 1e-5),
        (False, frozenset({"image", "text"}), "auto", 1e-3, None),
        (True, frozenset(), "auto", 1e-3, 1e-5),
        (True, frozenset(), 3e-4, 3e-4, 3e-4),
    ],
)
def test_heads_and_bodies_have_their_own_rate(unaligned, frozen, lr, head, body, make):
    clip = make(unaligned)
    everything = frozenset(name for name, _ in clip.model.named_parameters())
    stages.enter(clip, Stage(0, 1, frozen), everything)
    found = grouped(clip, optimizers.build(clip, Train(lr=lr), frozen))
    heads = {"visual.proj", "text_projection", "logit_scale"}
    assert {group["peak_lr"] for name, group in found.items() if name in heads} == {head}
    assert {group["peak_lr"] for name, group in found.items() if name not in heads} == ({body} if body else set())


def test_the_rate_of_a_step_is_the_factor_of_each_peak(make):
    built = optimizers.build(make(unaligned=True), Train(), frozenset())
    assert optimizers.set_rate(built, 0.5) == 5e-4
    assert {(group["head"], group["lr"]) for group in built.param_groups} == {(True, 5e-4), (False, 5e-6)}
    assert optimizers.set_rate(built, 0.5, heads=0.1) == pytest.approx(5e-5)
    assert {(group["head"], round(group["lr"], 12)) for group in built.param_groups} == {(True, 5e-5), (False, 5e-6)}


@pytest.mark.parametrize("limit", [0.1, 1.0, 1e9])
def test_clipping_is_that_of_torch(limit, make):
    clip, other = make(), make()
    gradients(clip)
    gradients(other)
    theirs = torch.nn.utils.clip_grad_norm_(list(other.model.parameters()), limit)
    ours = optimizers.gradient_norm(clip.model.parameters())
    optimizers.clip_gradients(clip.model.parameters(), ours, limit)
    assert ours == pytest.approx(float(theirs), rel=1e-6)
    for one, same in zip(clip.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, same.grad, rtol=1e-5, atol=0)


def test_no_limit_and_a_norm_that_is_not_finite_change_no_gradient(clip):
    for norm, limit in ((5.0, 0.0), (math.inf, 1.0), (math.nan, 1.0)):
        gradients(clip)
        before = [one.grad.clone() for one in clip.model.parameters()]
        optimizers.clip_gradients(clip.model.parameters(), norm, limit)
        assert all(one.grad.equal(old) for one, old in zip(clip.model.parameters(), before, strict=True))
    assert optimizers.gradient_norm([torch.nn.Parameter(torch.ones(2))]) == 0.0


def test_steps_are_those_of_a_plain_adamw(clip):
    """Decoupled decay, betas and epsilon of CLIP: written out once more by hand."""
    built = optimizers.build(clip, Train(lr=1e-2), frozenset())
    found = grouped(clip, built)
    expected = {name: one.detach().double().clone() for name, one in clip.model.named_parameters()}
    first = {name: torch.zeros_like(one) for name, one in expected.items()}
    second = {name: torch.zeros_like(one) for name, one in expected.items()}
    for step in range(1, 4):
        gradients(clip, step)
        for name, one in clip.model.named_parameters():
            gradient = one.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.98 * second[name] + 0.02 * gradient**2
            moved = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.98**step)).sqrt() + 1e-6)
            expected[name] = expected[name] * (1 - 1e-2 * found[name]["weight_decay"]) - 1e-2 * moved
        built.step()
    for name, one in clip.model.named_parameters():
        torch.testing.assert_close(one.detach().double(), expected[name], rtol=1e-4, atol=1e-5)


def test_stored_state_put_into_a_new_optimizer_goes_on_to_the_bit(make):
    def model():
        clip = make()
        return clip, optimizers.build(clip, Train(lr=1e-3), frozenset())

    (one, built), (two, again) = model(), model()
    for step in range(3):
        gradients(one, step)
        built.step()
    stored = optimizers.state_tensors(built, dict(one.model.named_parameters()))
    assert all(isinstance(value, torch.Tensor) for value in stored.values())
    assert {name.rpartition("/")[2] for name in stored} == {"step", "exp_avg", "exp_avg_sq"}
    two.model.load_state_dict(one.model.state_dict())
    optimizers.load_state_tensors(again, dict(two.model.named_parameters()), stored)
    for clip, optimizer in ((one, built), (two, again)):
        gradients(clip, 9)
        optimizer.step()
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert a.equal(b)


def test_a_temperature_that_is_fixed_is_in_no_group(quick):
    run = quick(loss={"temperature": "fixed"}, train={"length": 3, "lr": 1e-2})
    assert load(run.folder, "cpu").logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_the_logit_scale_is_kept_between_1_and_100(quick):
    for kind, low, high in (("infonce", 0.0, math.log(100)), ("siglip", 0.0, math.log(100))):
        run = quick(loss={"kind": kind}, train={"length": 4, "lr": 5.0}, evaluate={"every": 0}, overwrite=True)
        scale = load(run.folder, "cpu").logit_scale.item()
        assert low <= scale <= high
        assert scale in (low, pytest.approx(high)), "at that rate it runs into one of the two"


def test_a_step_of_the_loop_is_a_plain_step_with_clipping(quick, data, vit):
    """The first two steps of a whole run, written once more with torch alone."""
    config = {"length": 2, "batch": 8, "lr": 1e-2, "warmup": 2, "grad_clip": 0.5, "weight_decay": 0.2}
    run = quick(train=config, evaluate={"every": 0})
    clip = load(str(vit), "cpu")
    rows = pairs.load(data).split("train")
    draws = order(len(rows), 8, 0, size_px=32, strength=1.0)
    batches = loader.batches(rows, clip.preprocess, draws, rules=domains.load("general").augment)
    optimizer = optimizers.build(clip, Train(**config), frozenset())
    model, losses, norms = clip.model, [], []
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (clip.preprocess.mean, clip.preprocess.std))
    for factor in (0.5, 1.0):
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        image = model.encode_image((batch.images.float() / 255 - mean) / std)
        loss = infonce(image, model.encode_text(batch.tokens), model.logit_scale, Targets())
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    found = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]
    assert [one["loss"] for one in found] == pytest.approx(losses, rel=1e-5)
    assert [one["grad_norm"] for one in found] == pytest.approx(norms, rel=1e-4)
    assert [one["lr"] for one in found] == [5e-3, 1e-2]
    ours = load(str(run.folder), "cpu").model.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-4)


def test_adapters_have_a_rate_of_their_own(make):
    clip = make(unaligned=True)
    adapt.add_lora(clip, 2, 0)
    found = grouped(clip, optimizers.build(clip, Train(), frozenset()))
    heads = {"visual.proj", "text_projection", "logit_scale"}
    assert {group["peak_lr"] for name, group in found.items() if name in heads} == {1e-3}
    assert {group["peak_lr"] for name, group in found.items() if name not in heads} == {2e-4}
    assert all((".lora_" in name) != (name in heads) for name in found)
    assert {group["head"] for name, group in found.items() if name not in heads} == {False}
    aligned = make()
    adapt.add_lora(aligned, 2, 0)
    rates = grouped(aligned, optimizers.build(aligned, Train(), frozenset()))
    assert rates["visual.proj"]["peak_lr"] == 1e-5, "a projection that was trained is no fresh head"
    given = grouped(aligned, optimizers.build(aligned, Train(lr=3e-4), frozenset()))
    assert {group["peak_lr"] for group in given.values()} == {3e-4}


@pytest.mark.parametrize("rank", [0, 2])
def test_rates_fall_from_block_to_block(rank, make):
    """BEiT's rule for two blocks a tower: the head and what follows the blocks 1, then 1/2, 1/4, and 1/8 below them."""
    clip = make()
    if rank:
        adapt.add_lora(clip, rank, 0)
    found = grouped(clip, optimizers.build(clip, Train(lr=1.0, layer_decay=0.5), frozenset()))

    def share(name: str) -> float:
        if ".resblocks.1." in name:
            return 0.5
        if ".resblocks.0." in name:
            return 0.25
        top = ("visual.proj", "text_projection", "visual.ln_post", "ln_final", "logit_scale")
        return 1.0 if name.startswith(top) else 0.125

    assert {name: group["peak_lr"] for name, group in found.items()} == {name: share(name) for name in found}
    assert set(map(share, found)) == ({1.0, 0.5, 0.25} if rank else {1.0, 0.5, 0.25, 0.125})
    names = {name for name, one in clip.model.named_parameters() if one.requires_grad}
    assert found.keys() == names


def test_rates_that_cannot_fall_are_refused_unless_the_tower_is_frozen(clip):
    clip.model.visual.transformer = torch.nn.Linear(32, 32)
    with pytest.raises(ConfigError, match=r"layer_decay = 0\.5: the image tower of tiny has no blocks"):
        optimizers.build(clip, Train(layer_decay=0.5), frozenset())
    clip.model.visual.requires_grad_(False)
    optimizers.build(clip, Train(layer_decay=0.5), frozenset({"image"}))
