"""Runs in which bodies learn through adapters, or in their last blocks alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

from honeclip import config as configs
from honeclip.checkpoint.save import LATEST, named
from honeclip.errors import ConfigError
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.training import stages
from honeclip.training.run import fit

FAST = {"lr": 1e-2}
HEADS = ("visual.proj", "text_projection", "visual.head.", "text.proj.", "logit_scale")


def stored(run, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder(run) / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


def folder(run) -> Path:
    return getattr(run, "folder", run)


def plain(name: str) -> str:
    return name.replace(".base_layer", "").replace(".in_proj.", ".in_proj_")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in after.items() if name in before and not value.equal(before[name])}


def left(run) -> dict[str, object]:
    """Hashes of what a run left, and its losses."""
    last = folder(run) / "checkpoints" / named(folder(run) / "checkpoints", LATEST)
    files = [*sorted(last.glob("*.safetensors")), folder(run) / "model" / "open_clip_model.safetensors"]
    losses = [
        (one["step"], one["loss"], one["lr"]) for one in events.read(folder(run) / "events.jsonl") if "loss" in one
    ]
    return {
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "losses": losses,
        "checkpoints": sorted(path.name for path in (folder(run) / "checkpoints").iterdir()),
    }


@pytest.fixture(scope="module")
def adapted(data, vit, two_towers, tmp_path_factory) -> dict[str, Path]:
    """Runs of ten steps with adapters of rank 2 and a checkpoint a step, by model."""
    made = {}
    for name, model in (("vit", vit), ("two_towers", two_towers)):
        made[name] = tmp_path_factory.mktemp("adapted") / name
        config = tiny_runs.settings(
            model={"lora_rank": 2},
            train={"length": 10, "lr": 1e-2},
            checkpoint={"every": 1, "keep_last": 20},
            evaluate={"every": 5},
        )
        fit(data=data, out=made[name], model=model, config=config, device="cpu", report=lambda text: None)
    return made


def test_adapters_and_heads_move_and_the_base_does_not(adapted, vit):
    before = load(str(vit), "cpu").model.state_dict()
    weights = stored(adapted["vit"], 10)
    adapters = {name for name in weights if ".lora_" in name}
    bases = {name for name in weights if name not in adapters and not name.startswith(HEADS)}
    assert {plain(name) for name in weights if name not in adapters} == before.keys()
    assert all(weights[name].equal(before[plain(name)]) for name in bases)
    assert moved(stored(adapted["vit"], 1), weights) >= adapters
    assert moved(before, weights) == {"visual.proj", "text_projection", "logit_scale"}
    kept = load_file(adapted["vit"] / "checkpoints" / "step-000010" / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in kept} == adapters | moved(before, weights), (
        "moments of what learns only"
    )


@pytest.mark.parametrize("model", ["vit", "two_towers"])
def test_the_model_that_is_handed_over_has_open_clips_own_weights(model, adapted, request):
    run = adapted[model]
    ours = load_file(run / "model" / "open_clip_model.safetensors")
    start = load(str(request.getfixturevalue(model)), "cpu").model.state_dict()
    assert ours.keys() == start.keys()
    assert not any("lora" in name or "base_layer" in name for name in ours)
    best = run / "checkpoints" / named(run / "checkpoints", "BEST")
    weights = load_file(best / "weights.safetensors")
    for name, value in weights.items():
        first = f"{name.removesuffix('base_layer.weight')}lora_A.default.weight"
        if name.endswith("base_layer.weight"):
            a, b = (weights[key].double() for key in (first, first.replace("lora_A", "lora_B")))
            expected = value.double() + 2 * (b.flatten(1) @ a.flatten(1)).view_as(value)
            torch.testing.assert_close(ours[plain(name)].double(), expected, rtol=0, atol=1e-6)
    # a checkpoint is a model source as well, and what is loaded can be trained again
    again = load(str(best), "cpu")
    assert all(value.equal(ours[name]) for name, value in again.model.state_dict().items())
    assert all(one.requires_grad for one in again.model.parameters())


@pytest.mark.parametrize("after", [2, 9])
@pytest.mark.parametrize("model", ["vit", "two_towers"])
def test_resumed_it_is_the_run_that_was_never_stopped(model, after, adapted, tmp_path):
    """What a kill after that step leaves: in the stage of the heads, and in that of the adapters."""
    run = copytree(adapted[model], tmp_path / "run")
    whole = left(run)
    for name in ("model", "report"):
        rmtree(run / name, ignore_errors=True)
    (run / "result.json").unlink()
    for path in (run / "checkpoints").glob("step-*"):
        if int(path.name[-6:]) > after:
            rmtree(path)
    (run / "checkpoints" / "LATEST").write_text(f"step-{after:06d}")
    (run / "checkpoints" / "BEST").unlink()
    if after >= 5:  # the first evaluation
        (run / "checkpoints" / "BEST").write_text("step-000005")
    said = []
    fit(out=run, resume=True, device="cpu", report=said.append)
    assert any(text.startswith(f"going on after step {after} of 10") for text in said)
    assert left(run) == whole


def test_fresh_heads_come_first_and_then_adapters(adapted, two_towers):
    first = round(10 * stages.HEADS_FIRST)
    start, middle, end = (stored(adapted["two_towers"], step) for step in (1, first, 10))
    adapters = {name for name in end if ".lora_" in name}
    assert {name.partition(".")[0] for name in adapters} == {"visual", "text"}
    assert not moved(start, middle) & adapters
    assert moved(middle, end) >= {name for name in adapters if ".lora_B." in name}
    heads = {name for name in end if ".linear." in name}
    assert len(heads) >= 3
    assert moved(start, middle) >= heads
    assert moved(middle, end) >= heads
    before = load(str(two_towers), "cpu").model.state_dict()
    assert moved(before, {plain(name): value for name, value in end.items()}) <= {"logit_scale"}
    assert configs.load(adapted["two_towers"] / "run.toml").model.freeze == "none"


@pytest.mark.parametrize(("freeze", "adapted_tower"), [("image", "transformer"), ("text", "visual")])
def test_a_frozen_tower_has_no_adapters(freeze, adapted_tower, quick):
    run = quick(sets=["model.lora_rank=2", f"model.freeze={freeze}"], train=FAST)
    assert {name.partition(".")[0] for name in stored(run, 6) if ".lora_" in name} == {adapted_tower}


def test_rank_zero_all_blocks_and_no_decay_change_nothing(quick, tmp_path):
    asked = ["model.lora_rank=0", "model.last_blocks=0", "train.layer_decay=1.0"]
    one, two = quick(out=tmp_path / "one", train=FAST), quick(out=tmp_path / "two", train=FAST, sets=asked)
    assert left(one) == left(two)
    assert not any(".lora_" in name for name in stored(one, 6))


def test_a_run_of_the_last_blocks_moves_them_what_follows_and_heads(quick, vit):
    run = quick(sets=["model.last_blocks=1"], train=FAST)
    before, after = load(str(vit), "cpu").model.state_dict(), stored(run, 6)
    free = {name for name in after if ".resblocks.1." in name or name.startswith(("visual.ln_post", "ln_final"))}
    free |= {"visual.proj", "text_projection", "logit_scale"}
    assert moved(before, after) <= free
    assert len(moved(before, after)) >= len(free) - 2
    assert not any(".lora_" in name for name in after)


def test_last_blocks_of_a_model_with_fresh_heads_learn_after_the_heads(quick, two_towers):
    run = quick(model=two_towers, sets=["model.last_blocks=1"], train={"length": 10, "lr": 1e-2})
    before, after = load(str(two_towers), "cpu").model.state_dict(), stored(run, 10)
    found = {name for name in moved(before, after) if not name.startswith(HEADS)}
    text = {name for name in found if name.startswith("text.")}
    assert text
    assert all(".layer.1." in name for name in text)
    assert len([one for one in quick.said if one.startswith("steps ")]) == 2


def test_layer_decay_slows_the_lower_blocks_of_a_run(quick, vit):
    before = load(str(vit), "cpu").model.state_dict()
    run = quick(sets=["train.layer_decay=0.1"], train={"length": 2, "lr": 1e-2, "warmup": 0, "weight_decay": 0.0})
    after = stored(run, 2)

    def way(name: str) -> float:
        return float((after[name] - before[name]).abs().max())

    weight = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    # Adam's first steps have the length of the rate
    assert way("visual.proj") == pytest.approx(10 * way(weight.format(1)), rel=0.3)
    assert way(weight.format(1)) == pytest.approx(10 * way(weight.format(0)), rel=0.3)
    assert way(weight.format(0)) == pytest.approx(10 * way("visual.conv1.weight"), rel=0.3)


@pytest.mark.parametrize("key", ["lora_rank", "last_blocks"])
def test_towers_that_are_frozen_have_nothing_to_adapt(key, quick):
    with pytest.raises(ConfigError, match=f"model.{key} = 2: model.freeze=towers lets no body learn") as caught:
        quick(sets=["model.freeze=towers", f"model.{key}=2"])
    assert caught.value.exit_code == 2
    assert configs.load(sets=[f"model.{key}=2"]).model.freeze == "none"
    assert configs.load(sets=[f"model.{key}=2", "model.freeze=image"]).model.freeze == "image"
    assert configs.load(sets=[f"model.{key}=0"]).model.freeze == "auto"


def test_more_blocks_than_a_tower_has_are_bad_input(quick):
    with pytest.raises(
        ConfigError, match=r"model\.last_blocks = 3: the image tower of .* has 2 blocks: give at most 2"
    ):
        quick(sets=["model.last_blocks=3"])
