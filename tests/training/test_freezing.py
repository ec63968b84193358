"""Which parts of a model move in which stage, and that a frozen tower is computed once."""

from __future__ import annotations

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

from honeclip import places
from honeclip.config import Train
from honeclip.embedding import features
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.training import frozen, prepared, stages
from honeclip.training.stages import Stage

BUFFERS = ("running_", "num_batches", "proj.mean", "proj.std")
ALL = {"image body", "image head", "text body", "text head", "scale"}


def part(name: str) -> str:
    """Of a native CLIP or of a model like `starter`, heads being the projections."""
    if name in ("logit_scale", "logit_bias"):
        return "scale"
    if name in ("visual.proj", "text_projection") or name.startswith(("visual.head.", "text.proj.")):
        return "image head" if name.startswith("visual.") else "text head"
    return "image body" if name.startswith("visual.") else "text body"


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts of which any parameter differs. A part has moved nearly whole or not at all."""
    found: dict[str, list[bool]] = {}
    for name, value in after.items():
        if name in before and not any(word in name for word in BUFFERS):
            found.setdefault(part(name), []).append(not value.equal(before[name]))
    assert all(any(flags) == (sum(flags) > 0.7 * len(flags)) for flags in found.values())
    return {name for name, flags in found.items() if any(flags)}


def weights(run, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        ("auto", set()),
        ("none", set()),
        ("image", {"image body"}),
        ("text", {"text body"}),
        ("towers", {"image body", "text body"}),
    ],
)
def test_of_a_clip_everything_moves_but_the_bodies_that_are_frozen(freeze, still, quick, vit):
    run = quick(model=vit, sets=[f"model.freeze={freeze}"], train={"lr": 1e-2})
    before = load(str(vit), "cpu").model.state_dict()
    assert moved(before, weights(run, 6)) == ALL - still
    handed_over = load(str(run.folder), "cpu").model.state_dict()
    assert moved(before, handed_over) == ALL - still


@pytest.mark.parametrize(
    ("freeze", "first", "second"),
    [
        ("auto", set(), set()),
        ("towers", set(), set()),
        ("none", set(), {"image body", "text body"}),
        ("image", set(), {"text body"}),
        ("text", set(), {"image body"}),
    ],
)
def test_of_a_model_with_fresh_heads_bodies_move_only_in_the_second_stage(freeze, first, second, quick, two_towers):
    """LP-FT: 80 % of the run for the heads alone."""
    run = quick(
        model=two_towers,
        sets=[f"model.freeze={freeze}", "checkpoint.keep_last=10"],
        train={"length": 10, "lr": 1e-2},
        checkpoint={"every": 1},
        evaluate={"every": 0},
    )
    before = load(str(two_towers), "cpu").model.state_dict()
    bodies = {"image body", "text body"}
    assert moved(before, weights(run, 8)) & bodies == first
    assert moved(before, weights(run, 10)) & bodies == second
    heads = {"image head", "text head"}
    assert moved(weights(run, 1), weights(run, 8)) >= heads
    assert moved(weights(run, 8), weights(run, 10)) >= heads
    starts = [text for text in quick.said if text.startswith("steps ")]
    assert [text.split(":")[0] for text in starts] == (
        ["steps 1 to 8", "steps 9 to 10"] if second else ["steps 1 to 10"]
    )


def test_batch_statistics_never_move(quick, two_towers):
    run = quick(model=two_towers, sets=["model.freeze=none"], train={"length": 10, "lr": 1e-2})
    before, after = load(str(two_towers), "cpu").model.state_dict(), load(str(run.folder), "cpu").model.state_dict()
    statistics = [name for name in before if "running_" in name or "num_batches" in name]
    assert len(statistics) > 20
    assert all(after[name].equal(before[name]) for name in statistics)


def test_rates_begin_anew_in_the_second_stage_and_heads_have_settled(quick, two_towers):
    run = quick(model=two_towers, sets=["model.freeze=none"], train={"length": 40, "warmup": "10%"})
    rates = [one["lr"] for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]
    heads, everything = rates[:32], rates[32:]
    assert max(heads) == pytest.approx(1e-3)
    assert max(everything) == pytest.approx(1e-4), "a tenth of what they had alone"
    assert heads[-1] < 0.1 * max(heads)
    assert everything.index(max(everything)) in (0, 1)
    assert everything[-1] < 0.2 * max(everything)


def test_the_table_has_two_rows_only_where_fresh_heads_come_before_towers(two_towers, vit):
    fresh, plain = load(str(two_towers), "cpu"), load(str(vit), "cpu")
    towers = frozenset({"image", "text"})
    assert stages.table(fresh, "auto", 100) == (Stage(0, 100, towers),)
    assert stages.table(fresh, "none", 100) == (Stage(0, 80, towers), Stage(80, 100, frozenset(), 0.1))
    assert stages.table(fresh, "none", 1) == (Stage(0, 1, frozenset()),), "one step cannot be divided"
    assert stages.table(plain, "none", 100) == (Stage(0, 100, frozenset()),)
    assert stages.table(plain, "image", 100) == (Stage(0, 100, frozenset({"image"})),)
    assert stages.table(fresh, "none", 200, entered=80)[1] == Stage(80, 200, frozenset(), 0.1)
    assert stages.ever_frozen(fresh, "none") == towers
    assert stages.ever_frozen(plain, "auto") == frozenset()


def test_the_factor_covers_each_stage_with_its_share_of_the_warm_up(two_towers):
    clip = load(str(two_towers), "cpu")
    table = stages.table(clip, "none", 100)
    factor = stages.rate(table, Train(warmup=10), 100, 3.0, None)
    assert [round(factor(step), 4) for step in (0, 7, 80, 81)] == [1 / 8, 1.0, 0.5, 1.0]
    assert factor(79) < 0.01
    assert factor(99) < 0.01
    flat = stages.rate(table, Train(warmup=0, schedule="constant"), 100, 3.0, None)
    assert {flat(step) for step in range(100)} == {1.0}
    assert stages.at(table, 79) == table[0]
    assert stages.at(table, 80) == stages.at(table, 1000) == table[1]


@pytest.mark.parametrize("model", ["vit", "two_towers"])
def test_a_frozen_tower_is_computed_once_and_read_the_second_time(model, quick, request, tmp_path, monkeypatch):
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "home"))
    folder = str(request.getfixturevalue(model))
    seen = {"image": 0, "text": 0}

    def counted(source, device):
        clip = load(source, device)
        text = clip.model.transformer if model == "vit" else clip.model.text.transformer
        image = clip.model.visual.transformer if model == "vit" else clip.model.visual.trunk
        for name, module in (("image", image), ("text", text)):
            module.register_forward_hook(lambda *_, name=name: seen.update({name: seen[name] + 1}))
        return clip

    monkeypatch.setattr(prepared, "load", counted)
    for number, expected in enumerate((True, False)):
        seen.update(image=0, text=0)
        quick(model=folder, sets=["model.freeze=towers", f"train.seed={number}"], out=tmp_path / str(number))
        assert [count > 0 for count in seen.values()] == [expected, expected]
    assert sorted(path.name.partition("-")[0] for path in places.features().iterdir()) == ["image", "text"]


def test_a_step_on_stored_features_is_a_step_through_the_towers(quick, vit, tmp_path, monkeypatch):
    """Frozen towers with a cache give the losses that they give without one, where nothing is augmented."""
    plain = tmp_path / "plain.toml"
    plain.write_text('title = "Plain"\ntemplates = ["a {label}"]\n')
    real, runs = frozen.train_features, []
    for name, towers in (("stored", {"image", "text"}), ("computed", set())):
        wanted = frozenset(towers)
        monkeypatch.setattr(
            frozen, "train_features", lambda found, _, progress, wanted=wanted: real(found, wanted, progress)
        )
        given = {"train": {"lr": 1e-2}, "evaluate": {"every": 0}, "domain": str(plain), "out": tmp_path / name}
        runs.append(quick(model=vit, sets=["model.freeze=towers"], **given))
    losses = [[one["loss"] for one in events.read(run.folder / "events.jsonl") if "loss" in one] for run in runs]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_features_that_a_run_uses_are_those_of_its_own_weights(vit, tmp_path):
    one, two = load(str(vit), "cpu"), load(str(vit), "cpu")
    with torch.no_grad():
        two.model.visual.conv1.weight += 1e-3
    assert features.caches(one).text == features.caches(two).text
    assert features.caches(one).image != features.caches(two).image


def test_a_model_that_was_tuned_before_begins_where_it_ended(quick, two_towers, tmp_path):
    """Its projections are rewritten for standardised features, and are the same function."""
    first = quick(model=two_towers, out=tmp_path / "first", train={"length": 20, "lr": 1e-2})
    second = quick(model=first.folder, out=tmp_path / "second", train={"length": 2, "lr": 1e-9})
    assert second.before == first.after
    one, two = (load(str(run.folder), "cpu").encode_text(["a red circle", "a blue bar"]) for run in (first, second))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_a_loss_that_needs_a_bias_gives_the_model_one(quick, vit):
    run = quick(model=vit, loss={"kind": "siglip"}, train={"lr": 1e-2})
    clip = load(str(run.folder), "cpu")
    assert clip.config["init_logit_bias"] == -10.0
    assert clip.model.logit_bias.item() != -10.0
    fixed = quick(model=vit, loss={"kind": "siglip", "temperature": "fixed"}, train={"lr": 1e-2}, overwrite=True)
    assert load(str(fixed.folder), "cpu").model.logit_bias.item() == -10.0


def test_tiny_models_are_what_these_tests_take_them_for(vit, two_towers, text):
    assert not stages.takes_fresh_heads(load(str(vit), "cpu"))
    assert stages.takes_fresh_heads(load(str(two_towers), "cpu"))
    assert not stages.takes_fresh_heads(tiny_runs.make_clip(text, tiny_runs.TWO_TOWERS, unaligned=False))
