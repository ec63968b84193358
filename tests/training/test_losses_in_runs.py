"""Every setting of `[loss]` trains, does what it says, and survives being stopped in the middle."""

from __future__ import annotations

import math
from shutil import rmtree

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_runs import tiers

from honeclip.config import load as load_config
from honeclip.errors import ConfigError
from honeclip.monitoring import events
from honeclip.training.verify import verify

SETTINGS = {
    "siglip": {"kind": "siglip"},
    "fixed": {"temperature": "fixed", "logit_scale": 20},
    "scheduled": {"temperature": "scheduled", "scheduled_scales": [5, 50]},
    "auto": {"temperature": "auto"},
    "hard negatives": {"hard_negatives": 0.5},
    "hard negatives, siglip": {"kind": "siglip", "hard_negatives": 0.5},
    "labels": {"targets": "labels"},
    "labels, siglip, tiles": {"kind": "siglip", "targets": "labels", "tile": 3},
    "soft": {"targets": "soft", "blend": 0.5},
    "summed": {"targets": "labels", "positives": "sum"},
    "masked": {"targets": "labels", "positives": "masked"},
    "smoothed": {"label_smoothing": 0.1},
    "hard captions": {"hard_captions": True},
    "hard captions, siglip, labels": {"hard_captions": True, "kind": "siglip", "targets": "labels"},
    "mining": {"mining": 3},
    "mining, labels": {"mining": 2, "targets": "labels"},
    "three parts": {"weights": {"siglip": 0.5, "images": [[0.0, 0.5], [1.0, 0.0]]}, "targets": "labels"},
    "uncertainty": {"balance": "uncertainty", "weights": {"images": 1.0}, "targets": "labels", "hard_negatives": 0.3},
}


SCALES = {
    "two scales": {"scales": [1.0, 0.5]},
    "three scales, siglip, hard captions": {"scales": [1.0, 0.5, 0.75], "kind": "siglip", "hard_captions": True},
}


def steps(run):
    return [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]


@pytest.fixture
def field(tmp_path):
    """A domain that knows what contradicts what in the drawn pictures' captions, as a file."""
    file = tmp_path / "shapes.toml"
    file.write_text('title = "Shapes"\ntemplates = ["{label}"]\nhard_captions = [["red", "green", "blue", "black"]]\n')
    return str(file)


@pytest.mark.parametrize(
    "name", tiers(SETTINGS, "auto", "hard captions, siglip, labels", "mining, labels", "three parts", "uncertainty")
)
def test_stopped_in_the_middle_it_is_the_same_run(name, quick, tmp_path, field):
    same_when_stopped(quick, tmp_path, domain=field, loss=SETTINGS[name])


@pytest.mark.parametrize("freeze", tiers(["auto", "none"], "auto"))
@pytest.mark.parametrize("name", tiers(SCALES, "three scales, siglip, hard captions"))
def test_so_it_is_with_several_scales(name, freeze, quick, tmp_path, field, two_towers):
    same_when_stopped(quick, tmp_path, domain=field, model=two_towers, loss=SCALES[name], model_={"freeze": freeze})


def same_when_stopped(quick, tmp_path, **given):
    sections = {name: given.pop(name) for name in ("loss", "resolution") if name in given}
    sections["checkpoint"] = {"every": 2, "keep_last": 9}
    if "model_" in given:
        sections["sets"] = [f"model.{key}={value}" for key, value in given.pop("model_").items()]
    whole = quick(out=tmp_path / "whole", **given, **sections)
    assert all(math.isfinite(one["loss"]) for one in steps(whole))
    cut = quick(out=tmp_path / "cut", **given, **sections)
    for folder in (cut.folder / "checkpoints").glob("step-*"):
        if int(folder.name[-6:]) > 2:
            rmtree(folder)
    (cut.folder / "result.json").unlink()
    rmtree(cut.model_folder)
    again = quick(out=cut.folder, resume=True)
    assert [one["loss"] for one in steps(again)] == [one["loss"] for one in steps(whole)]
    file = "open_clip_model.safetensors"
    for key, value in load_file(whole.model_folder / file).items():
        assert torch.equal(value, load_file(again.model_folder / file)[key]), key


@pytest.mark.parametrize("freeze", tiers(["none", "image"], "image"))
@pytest.mark.parametrize("name", tiers(SCALES, "two scales"))
def test_and_with_several_scales_of_a_tower_with_a_position_table(name, freeze, quick, tmp_path, field):
    same_when_stopped(
        quick, tmp_path, domain=field, loss=SCALES[name], model_={"freeze": freeze}, resolution={"stages": 64}
    )


@pytest.fixture(scope="session")
def large_vit(text, tmp_path_factory):
    """A native CLIP of 4 x 4 patches."""
    config = tiny_runs.VIT | {"vision_cfg": tiny_runs.VIT["vision_cfg"] | {"image_size": 64}}
    return tiny_runs.model_folder(tmp_path_factory.mktemp("large") / "model", text, config)


@pytest.mark.parametrize("tower", ["two_towers", "large_vit"])
@pytest.mark.parametrize("name", SCALES)
def test_the_cached_step_is_exact_with_several_scales(name, tower, data, field, request):
    sets = [*(f"loss.{key}={_toml(value)}" for key, value in SCALES[name].items()), f"data.domain={field}"]
    given = {"batch": 12, "micro_batch": 5, "sets": sets, "device": "cpu"}
    found = verify(str(data), str(request.getfixturevalue(tower)), **given)
    assert found["passed"], found


def test_a_scale_that_is_no_smaller_size_of_the_tower_is_refused(quick):
    with pytest.raises(
        ConfigError, match=r"loss\.scales: 0\.9 of 32 px is 29 px, and with patches of 16 px .* leave it out"
    ):
        quick(loss={"scales": [1.0, 0.9]})


def test_hard_captions_without_a_rule_are_refused(quick, tmp_path):
    file = tmp_path / "bare.toml"
    file.write_text('title = "Bare"\ntemplates = ["{label}"]\n')
    with pytest.raises(ConfigError, match=r"loss\.hard_captions.*no word to make wrong"):
        quick(loss={"hard_captions": True}, domain=str(file))


@pytest.mark.parametrize("value", ["[0.5]", "[1.0]", "[1.0, 0.5, 0.5]", "[1.0, 1.5]", "[1.0, 0]", "0.5"])
def test_scales_that_cannot_be_are_refused(value):
    with pytest.raises(ConfigError, match=r"loss\.scales"):
        load_config(sets=[f"loss.scales={value}"])


@pytest.mark.parametrize("name", ["labels", "soft", "hard negatives, siglip", "masked", "three parts"])
def test_the_cached_step_is_exact_with_it(name, data, vit):
    sets = [f"loss.{key}={_toml(value)}" for key, value in SETTINGS[name].items()]
    found = verify(str(data), str(vit), batch=12, micro_batch=5, sets=sets, device="cpu")
    assert found["passed"], found


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_a_temperature_that_is_fixed_stays_and_a_scheduled_one_goes_where_it_is_sent(quick, tmp_path):
    fixed = quick(out=tmp_path / "fixed", loss=SETTINGS["fixed"])
    assert [one["logit_scale"] for one in steps(fixed)] == pytest.approx([20] * 6)
    sent = quick(out=tmp_path / "sent", loss={**SETTINGS["scheduled"], "temperature_shape": "linear"})
    ways = [5 * 10 ** (step / 6) for step in range(6)]
    assert [one["logit_scale"] for one in steps(sent)] == pytest.approx(ways, rel=1e-5)


def test_an_automatic_temperature_moves_towards_the_wanted_negatives(quick, tmp_path):
    for wanted, grows in ((0.0, True), (1.0, False)):
        loss = {"temperature": "auto", "logit_scale": 10, "effective_negatives": wanted}
        scales = [one["logit_scale"] for one in steps(quick(out=tmp_path / f"{wanted}", loss=loss))]
        assert (scales[-1] > 10) is grows, scales


def test_the_parts_are_logged_by_name(quick, tmp_path):
    run = quick(out=tmp_path / "parts", loss=SETTINGS["three parts"])
    assert all(set(one["parts"]) == {"infonce", "siglip", "images"} for one in steps(run))
    first = steps(run)[0]
    parts = first["parts"]
    assert first["loss"] == pytest.approx(parts["infonce"] + 0.5 * parts["siglip"] + 0.5 * parts["images"], rel=1e-5)


def test_uncertainty_begins_with_every_part_counting_one(quick, tmp_path):
    first = steps(quick(out=tmp_path / "run", loss=SETTINGS["uncertainty"]))[0]
    assert first["loss"] == pytest.approx(2 + sum(math.log(one) for one in first["parts"].values()), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"targets": "labels"}, "no labels"),
        ({"positives": "sum", "kind": "siglip"}, "each pair by itself"),
        ({"positives": "masked", "targets": "soft"}, "hard positives only"),
        ({"weights": {"images": 1.0}, "targets": "pairs"}, "images that belong together"),
    ],
)
def test_what_has_no_meaning_is_refused_before_anything_is_written(loss, said, quick, tmp_path, text):
    import tiny_runs

    data = tiny_runs.draw(tmp_path / "plain", 40, tiny_runs.ALL_SPLITS)
    with pytest.raises(ConfigError, match=said):
        quick(data=data, out=tmp_path / "run", loss=loss)
    assert not (tmp_path / "run" / "run.toml").exists()


@pytest.mark.parametrize(
    "value",
    [
        "{images = -1}",
        "{images = [[0.5, 1], [0.2, 1]]}",
        "{infonce = 0, siglip = 0}",
        "{supcon = 1}",
        "3",
        "{images = true}",
    ],
)
def test_weights_that_cannot_be_are_refused(value):
    with pytest.raises(ConfigError, match=r"loss\.weights"):
        load_config(sets=[f"loss.weights={value}"])


def test_near_misses_found_after_an_epoch_share_its_batches_and_survive_a_stop_in_it(quick, tmp_path):
    # 24 rows, 3 steps an epoch: steps 4 to 6 are the second
    given = {"loss": {"mining": 3}, "checkpoint": {"every": 1, "keep_last": 9}, "train": {"length": 9}}
    whole = quick(out=tmp_path / "whole", **given)
    plain = quick(out=tmp_path / "plain", **{**given, "loss": {}})
    assert [one["loss"] for one in steps(whole)][:3] == [one["loss"] for one in steps(plain)][:3]
    assert [one["loss"] for one in steps(whole)][3:6] != [one["loss"] for one in steps(plain)][3:6]
    mined = load_file(whole.folder / "checkpoints" / "step-000005" / "mined.safetensors")
    assert mined["of"].tolist() == [0, 1]
    assert mined["neighbours"].shape == (24, 3)
    assert all(row not in near for row, near in enumerate(mined["neighbours"].tolist()))
    for folder in (whole.folder / "checkpoints").glob("step-*"):
        if int(folder.name[-6:]) > 5:
            rmtree(folder)
    (whole.folder / "result.json").unlink()
    rmtree(whole.model_folder)
    before = [one["loss"] for one in steps(whole)]
    assert [one["loss"] for one in steps(quick(out=whole.folder, resume=True))] == before


def test_more_near_misses_than_rows_are_refused(quick):
    with pytest.raises(ConfigError, match=r"loss\.mining = 24.*the 24 of the train split"):
        quick(loss={"mining": 24})


def test_an_unknown_loss_is_named_with_those_that_are_known():
    with pytest.raises(ConfigError, match="infonce"):
        load_config(sets=["loss.kind=infonse"])
