"""`resolution.stages = "auto"`: which size is taken for which reasons, and that a run keeps what it chose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch

from honeclip.errors import BadInput, ConfigError
from honeclip.evaluation import probe
from honeclip.monitoring import events
from honeclip.training import candidates, choice
from honeclip.training.candidates import Candidate
from honeclip.training.choice import decide
from honeclip.tuning.study import tune

RANKS = np.random.default_rng(0).uniform(0.2, 0.6, 200)


def sizes(**changes: dict) -> list[Candidate]:
    """112, 160, 224 and 320 px of a model of 224, each with twice the cost of the one before, and equal scores."""
    had = [
        Candidate(px, image_seconds=px**2 * 1e-6, peak_bytes=px**2, step_seconds=px**2 * 1e-5, ranks=RANKS)
        for px in (112, 160, 224, 320)
    ]
    return [replace(one, **changes.get(f"at_{one.size_px}", {})) for one in had]


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_the_models_own_size_unless_there_is_a_reason():
    taken, judged, reasons = decide(sizes(), 224, 60, climbs=False, seconds=None)
    assert taken.size_px == 224
    assert [one.out for one in judged] == [""] * 4
    assert reasons[0] == "224 px is the model's own size, and memory and time hold it."
    assert reasons[1].startswith("112 px would take 25% of the time an image"), "what a smaller size would cost is said"


def test_a_size_at_which_the_probe_reads_clearly_more_is_taken_larger_or_smaller():
    for px in (112, 320):
        taken, _, reasons = decide(sizes(**{f"at_{px}": {"ranks": RANKS + 0.05}}), 224, 60, climbs=False, seconds=None)
        assert taken.size_px == px
        assert f"{px} px is taken instead: the probe reads more at it, MRR +0.050" in reasons[1]


def test_a_size_whose_advantage_may_be_chance_is_not():
    noise = np.random.default_rng(1).normal(0.01, 0.2, 200)
    taken, _, _ = decide(sizes(at_320={"ranks": RANKS + noise}), 224, 60, climbs=False, seconds=None)
    assert taken.size_px == 224


def test_what_does_not_fit_the_memory_is_not_taken_however_much_it_reads():
    had = sizes(at_224={"out": "too little"}, at_320={"out": "too little", "ranks": RANKS + 0.2})
    taken, _, reasons = decide(had, 224, 60, climbs=False, seconds=None)
    assert taken.size_px == 160
    assert "160 px is the largest size up to the model's own 224 px that can be had (too little)" in reasons[0]


@pytest.mark.parametrize(("seconds", "px"), [(100, 224), (20, 160), (10, 112), (1, 112)])
def test_the_largest_size_that_the_time_holds(seconds, px):
    # 60 steps take 30 s at 224 px, 15 at 160, 7.5 at 112
    taken, judged, reasons = decide(sizes(), 224, 60, climbs=False, seconds=seconds)
    assert taken.size_px == px
    assert all(one.run_seconds(60, False) <= seconds for one in judged if not one.out)
    assert ("no size has time for 60 steps" in reasons[0]) == (seconds == 1)


def test_a_run_that_climbs_costs_less_than_one_of_the_last_size():
    one = sizes()[2]
    assert one.run_seconds(60, True) == pytest.approx((0.5 * 0.25 + 0.3 * 0.49 + 0.2) * one.run_seconds(60, False))


# --- the probe -------------------------------------------------------------------------------------------------------


def test_the_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    texts = torch.tensor(rng.normal(size=(120, 8)))
    there = texts @ torch.tensor(rng.normal(size=(8, 16))) + 0.05 * torch.tensor(rng.normal(size=(120, 16)))
    own = np.arange(120)
    assert probe.reciprocal_ranks(there, texts, own, own).mean() > 0.95
    nothing = torch.tensor(rng.normal(size=(120, 16)))
    chance = (1 / np.arange(1, 31)).mean()  # thirty are held out at a time
    assert probe.reciprocal_ranks(nothing, texts, own, own).mean() == pytest.approx(chance, abs=0.06)


def test_equal_captions_are_one_answer_and_tied_rows_are_held_out_together():
    texts = torch.eye(3).repeat(20, 1)
    ids = np.arange(60) % 3
    assert probe.reciprocal_ranks(texts.clone(), texts, ids, np.arange(60)).min() == 1.0
    # each row's own feature names its caption, but the rows that have it are held out together: nothing to learn from
    texts = torch.eye(30).repeat_interleave(2, 0)
    pairs = np.repeat(np.arange(30), 2)
    alone = probe.reciprocal_ranks(texts.clone(), texts, pairs, np.arange(60)).mean()
    tied = probe.reciprocal_ranks(texts.clone(), texts, pairs, pairs).mean()
    assert tied < 0.5 < alone


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def more(tmp_path_factory) -> Path:
    """As many pictures as a probe needs: 60 train, 20 val, 20 test."""
    return tiny_runs.draw(tmp_path_factory.mktemp("choice") / "shapes", 100, tiny_runs.ALL_SPLITS, labels=True)


def chosen(out: Path) -> dict:
    return json.loads((out / "sizes.json").read_text())


def test_a_run_says_and_keeps_what_it_chose_and_climbs_to_it(quick, more, tmp_path):
    run = quick(data=more, resolution={"stages": "auto"}, checkpoint={"every": 1})
    found = chosen(run.folder)
    assert [one["size_px"] for one in found["sizes"]] == [16, 32, 48, 64]
    assert all(one["out"] == "75% of the images are smaller" or one["mrr"] for one in found["sizes"][:2])
    assert [one["out"] for one in found["sizes"][2:]] == ["100% of the images are smaller"] * 2
    assert found["stages"] == [[0.0, 16], [0.8, 32]]
    (change,) = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "stage"]
    assert (change["before_px"], change["size_px"]) == (16, 32)
    assert run.after["size_px"] == 32
    said = "\n".join(quick.said)
    assert "resolution.stages = [[0.0, 16], [0.8, 32]]" in said
    assert "32 px is the model's own size, and memory and time hold it." in said


def test_a_run_that_goes_on_keeps_its_sizes_whatever_would_be_chosen_now(quick, more, monkeypatch):
    run = quick(data=more, resolution={"stages": "auto"}, checkpoint={"every": 1})
    before = chosen(run.folder)
    (run.folder / "result.json").unlink()

    def never(*_):
        raise AssertionError("it was chosen already")

    monkeypatch.setattr(choice, "choose", never)
    again = quick(resume=True, sets=["resolution.stages=auto", "train.length=8"])
    assert chosen(run.folder) == before
    assert again.after["size_px"] == 32


def test_towers_that_do_not_learn_have_one_size(quick, more, two_towers):
    run = quick(data=more, model=two_towers, resolution={"stages": "auto"})
    found = chosen(run.folder)
    assert len(found["stages"]) == 1
    assert found["stages"][0][1] == run.after["size_px"]
    size = json.loads((run.folder / "model" / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert size["image_size"] == run.after["size_px"]


def test_too_few_pairs_for_a_probe_are_said(quick, data):
    run = quick(data=data, resolution={"stages": "auto"})
    assert any(line.startswith("No probe: of 48 pairs that it needs, 24") for line in chosen(run.folder)["reasons"])
    assert all(one["mrr"] is None for one in chosen(run.folder)["sizes"])


@pytest.mark.slow
def test_a_length_in_minutes_leaves_room_for_what_is_not_a_step(quick, data, monkeypatch):
    run = quick(data=data, resolution={"stages": "auto"}, train={"length": "0.05 min"}, evaluate={"every": 0})
    found = chosen(run.folder)
    assert found["before_seconds"] > 0
    done = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"]
    assert len(done) == run.steps
    # as many steps as 3 s hold beside the rest: with the rest left out there is one step, the least that a run has
    monkeypatch.setattr(candidates, "_beside", lambda *_: 1e9)
    short = quick(
        data=data, resolution={"stages": "auto"}, train={"length": "0.05 min"}, evaluate={"every": 0}, overwrite=True
    )
    assert short.steps == 1 <= run.steps


def test_memory_that_holds_no_size_says_what_would(quick, more):
    with pytest.raises(BadInput, match=r"no size can be taken: memory\.budget_gb = 0\.01 is too little"):
        quick(data=more, resolution={"stages": "auto"}, memory={"budget_gb": 0.01})


def test_a_study_wants_the_sizes_themselves(more, tmp_path):
    with pytest.raises(ConfigError, match="take the stages that `honeclip plan"):
        tune(data=more, out=tmp_path / "study", sets=["resolution.stages=auto"], device="cpu", trials=1)
