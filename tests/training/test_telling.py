"""What a run tells of itself: every field of a step and of an evaluation, in a kilobyte a step, and figures that add up."""

from __future__ import annotations

import json
import math

import pytest
import tiny_runs

from honeclip.monitoring import events
from honeclip.training.run import fit

QUIET = {"device": "cpu", "report": lambda text: None}


@pytest.fixture(scope="module")
def run(data, vit, tmp_path_factory):
    """Eight steps of a native CLIP whose heads and towers learn, evaluated and saved on the way."""
    config = tiny_runs.settings(train={"length": 8, "batch": 8}, evaluate={"every": 4}, checkpoint={"every": 4})
    return fit(data=data, out=tmp_path_factory.mktemp("told") / "run", model=vit, config=config, **QUIET)


def told(run, event: str) -> list[dict]:
    return [one for one in events.read(run.folder / "events.jsonl") if one["event"] == event]


def test_a_step_tells_where_its_time_went(run):
    for one in told(run, "step"):
        assert set(one["seconds"]) == {"wait", "first", "loss", "second", "optimizer"}
        assert all(value >= 0 for value in one["seconds"].values())
        whole = one["pairs"] / one["samples_per_second"]
        assert sum(one["seconds"].values()) <= whole * 1.001
        assert 0 < one["busy"] <= 1 - one["seconds"]["wait"] / whole + 0.01


def test_the_gradient_norms_of_the_parts_add_up_to_that_of_the_whole(run):
    for one in told(run, "step"):
        assert set(one["grad_norms"]) == {"image", "text", "scale"}
        assert math.hypot(*one["grad_norms"].values()) == pytest.approx(one["grad_norm"], rel=1e-3)


def test_memory_is_told_by_kind(run):
    for one in told(run, "step"):
        assert set(one["memory"]) == {"resident", "swap"}
        assert one["memory"]["resident"] > 50_000_000


def test_operations_a_second_follow_from_those_of_a_pair(run):
    found = told(run, "step")
    a_pair = [one["flops_per_second"] / one["samples_per_second"] for one in found]
    assert max(a_pair) == pytest.approx(min(a_pair), rel=2e-3)
    # image: 4 patches of 16 x 16 x 3 and 5 tokens through 2 blocks of width 32; a block has 12 w^2 weights, each used twice
    # a token, forward and twice backward. Attention, text and projections are the rest
    blocks = 3 * 2 * 2 * (12 * 32 * 32) * 5
    assert 1.5 * blocks < a_pair[0] < 8 * blocks
    assert all(0 < one["matmul_share"] < 1 for one in found)


def test_a_step_is_told_in_a_kilobyte(run):
    lines = (run.folder / "events.jsonl").read_bytes().splitlines()
    assert max(len(line) for line in lines if json.loads(line)["event"] == "step") <= 1024


@pytest.mark.slow
def test_a_default_run_writes_a_kilobyte_a_step_evaluations_and_all(shared_data, tmp_path):
    """`starter` with frozen towers, a hundred steps, ten evaluations with their pictures' captions."""
    run = fit(data=shared_data / "openstax_microbiology", out=tmp_path / "run", model="starter", **QUIET)
    lines = (run.folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    steps = [len(line) for line in lines if json.loads(line)["event"] == "step"]
    whole = sum(map(len, lines)) / len(steps)
    print(
        f"{sum(steps) / len(steps):.0f} bytes a step on the mean, {max(steps)} at most, {whole:.0f} with all other events"
    )
    assert whole <= 1024


def test_a_loss_of_one_part_is_told_once_and_a_figure_has_its_exact_value(run):
    for one in told(run, "step"):
        assert "parts" not in one
    way = told(run, "evaluation")[-1]["metrics"]["retrieval"]["image_to_text"]
    for figure in way.values():
        assert figure["low"] == float(f"{figure['low']:.6g}")
        assert figure["high"] == float(f"{figure['high']:.6g}")
    assert way["R@1"]["value"] * 8 == pytest.approx(round(way["R@1"]["value"] * 8), abs=1e-12)


def test_an_evaluation_tells_its_health_and_shows_pictures(run):
    found = told(run, "evaluation")
    assert [one["step"] for one in found] == [0, 4, 8]
    for one in found:
        assert one["seconds"] > 0
        assert {"alignment", "uniformity_image", "uniformity_text", "modality_gap"} < set(one["health"])
        assert sum(one["health"]["similarity"]["positive"]) == 8
        assert len(one["health"]["hardest"]) == len(one["examples"]) == 3
        assert all(each["file"].startswith("images/") for each in (*one["examples"], *one["health"]["hardest"]))
    assert len({tuple(each["file"] for each in one["examples"]) for one in found}) == 1


def test_a_checkpoint_tells_what_it_cost(run):
    found = told(run, "checkpoint")
    assert [one["step"] for one in found] == [4, 8]
    for one in found:
        folder = run.folder / "checkpoints" / one["name"]
        assert one["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
        assert one["seconds"] > 0


def test_the_data_is_told_before_the_first_step(run):
    (found,) = told(run, "data")
    assert events.read(run.folder / "events.jsonl")[0] == found
    assert (found["rows"], found["splits"]) == (40, {"train": 24, "val": 8, "test": 8})
    assert found["leaks"] == {"pixels": 0, "group": 0, "near": 0, "near_of": 16}


def test_rows_that_stand_in_two_splits_are_told(data, vit, tmp_path):
    folder = tmp_path / "leaking"
    folder.mkdir()
    (folder / "images").symlink_to(data / "images")
    text = (data / "pairs.csv").read_text().splitlines()
    copied = [line.replace(",train,", ",val,") for line in text if ",train," in line][:3]
    (folder / "pairs.csv").write_text("\n".join([*text, *copied]) + "\n")
    config = tiny_runs.settings(train={"length": 1, "batch": 8}, checkpoint={"every": 0}, evaluate={"every": 0})
    run = fit(data=folder, out=tmp_path / "run", model=vit, config=config, **QUIET)
    assert told(run, "data")[0]["leaks"] == {"pixels": 3, "group": 0, "near": 0, "near_of": 16}
    stored = json.loads((run.folder / "report" / "report.json").read_text())
    assert [one["rule"] for one in stored["sick"]] == ["leaking"]
    page = (run.folder / "report" / "index.html").read_text()
    assert "What looks sick" in page
    assert "3 rows by the same picture" in page


def test_rates_are_told_by_what_they_move_where_they_differ(quick, run):
    for one in told(
        run, "step"
    ):  # of a model that begins unaligned the heads learn at a hundred times the towers' rate
        assert one["lrs"]["heads"] == pytest.approx(one["lr"], rel=1e-5)
        assert one["lrs"]["towers"] == pytest.approx(one["lr"] / 100, rel=1e-5)
    same = quick(train={"length": 2, "lr": 1e-3})
    assert all("lrs" not in one for one in told(same, "step"))


def test_a_bias_is_told_where_there_is_one_and_a_tower_that_does_not_learn_has_no_norm(quick, run):
    assert all("logit_bias" not in one for one in told(run, "step"))
    frozen = quick(sets=["loss.kind=siglip", "model.freeze=text"], train={"length": 2})
    for one in told(frozen, "step"):
        assert -15 < one["logit_bias"] < 0
        assert one["logit_scale"] > 1
        assert set(one["grad_norms"]) <= {"image", "text", "scale"}
