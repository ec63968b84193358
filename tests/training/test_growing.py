"""A batch that grows on the way: what is drawn, how the rate follows, and that a killed run is the same run."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import tiny_runs
from safetensors.torch import load_file

from honeclip import config as configs
from honeclip.checkpoint.save import named
from honeclip.data.order import order
from honeclip.errors import ConfigError, RunError
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.training import loop, setup, stages
from honeclip.training import run as training
from honeclip.training.stages import Stage

ROWS = 24
GROWING = [[0.0, 8], [0.5, 16]]
TRAIN = {"batch": GROWING, "schedule": "constant", "warmup": 0, "lr": 1e-3, "length": 8}
SETTINGS = {"train": TRAIN, "evaluate": {"every": 0}, "checkpoint": {"every": 1, "keep_last": 10}}


def steps(out: Path) -> list[dict]:
    return [one for one in events.read(out / "events.jsonl") if one["event"] == "step"]


def told(out: Path) -> list[tuple]:
    """What the steps said, times left out."""
    names = ("step", "loss", "lr", "grad_norm", "micro_batch", "kept")
    return [tuple(one[name] for name in names) for one in steps(out)]


def files(out: Path) -> dict[str, str]:
    """Hashes of weights, optimizer and generators in the last checkpoint."""
    last = out / "checkpoints" / named(out / "checkpoints", "LATEST")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in last.glob("*.safetensors")}


def killed_after(out: Path, step: int) -> None:
    """The folder as a process leaves it that was killed while step + 1 ran."""
    (out / "result.json").unlink()
    rmtree(out / "model")
    for checkpoint in (out / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            rmtree(checkpoint)
    for name in ("LATEST", "BEST"):
        pointer = out / "checkpoints" / name
        if pointer.exists() and not (out / "checkpoints" / pointer.read_text().strip()).exists():
            pointer.write_text(f"step-{step:06d}\n") if name == "LATEST" else pointer.unlink()


def finished_by(data: Path, model: Path, out: Path, **other) -> Path:
    config = tiny_runs.settings(**{**SETTINGS, **other})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("honeclip.training.finish.write", lambda *folder, **content: None)
        training.fit(data=data, out=out, model=model, config=config, device="cpu", report=lambda text: None)
    return out


@pytest.fixture(scope="module")
def finished(data, vit, tmp_path_factory) -> Path:
    """Four steps of 8 pairs, four of 16, with a checkpoint of each; tests copy it."""
    return finished_by(data, vit, tmp_path_factory.mktemp("growing") / "run")


# --- what a run does -----------------------------------------------------------------------------------------------


def test_the_batch_grows_at_its_share_and_the_rate_with_its_root(finished):
    seen = steps(finished)
    assert [one["micro_batch"] for one in seen] == [8] * 4 + [16] * 4
    assert [one["kept"] for one in seen] == [1] * 8
    rates = [one["lr"] for one in seen]
    assert rates == pytest.approx([1e-3] * 4 + [1e-3 * math.sqrt(2)] * 4, rel=1e-7)  # as told: eight digits
    # a loss near that of chance says how many pairs were told apart
    assert [one["loss"] for one in seen[:1]] == pytest.approx([math.log(8)], abs=0.7)
    assert seen[4]["loss"] > seen[3]["loss"]


@pytest.mark.parametrize(("micro_batch", "kept"), [(4, [1, 1]), (5, [2, 2]), (8, [1, 2])])
def test_micro_batches_are_those_of_the_batch_at_hand(micro_batch, kept, quick, finished, tmp_path):
    """Fixed pieces, of which a growing batch has more."""
    memory = {"micro_batch": micro_batch, "keep": max(kept)}
    run = quick(**SETTINGS, memory=memory, out=tmp_path / "pieces")
    seen = steps(run.folder)
    assert [one["micro_batch"] for one in seen] == [micro_batch] * 8
    assert [one["kept"] for one in seen] == [kept[0]] * 4 + [kept[1]] * 4
    whole = steps(finished)
    assert [one["loss"] for one in seen] == pytest.approx([one["loss"] for one in whole], rel=1e-4)


def test_each_stretch_draws_every_row_once_an_epoch(quick, monkeypatch):
    """24 rows: three batches of 8 are an epoch, and three of 16 two."""
    drawn: list[np.ndarray] = []
    real = loop.exact_step

    def noting(learner, batch):
        drawn.append(batch.draw.indices)
        return real(learner, batch)

    monkeypatch.setattr(loop, "exact_step", noting)
    quick(**{**SETTINGS, "train": {**TRAIN, "length": 12}})
    assert [len(one) for one in drawn] == [8] * 6 + [16] * 6
    assert all(len(set(one)) == len(one) for one in drawn)
    first, second = np.concatenate(drawn[:6]), np.concatenate(drawn[6:])
    for stretch in (first, second):
        for epoch in range(len(stretch) // ROWS):
            # texts of a batch are ordered by length and a batch may reach into the next epoch: counts tell it
            assert set(np.unique(stretch, return_counts=True)[1]) == {len(stretch) // ROWS}, epoch
    assert set(np.concatenate(drawn[:3])) == set(range(ROWS))
    assert set(np.concatenate(drawn[3:6])) == set(range(ROWS))


def test_a_stretch_has_an_order_of_its_own_that_any_step_can_begin():
    plain = [next(order(ROWS, 8, 0, step)).indices for step in range(6)]
    other = [next(order(ROWS, 8, 0, step, stretch=1)).indices for step in range(6)]
    assert any(not np.array_equal(a, b) for a, b in zip(plain, other, strict=True))
    whole = order(ROWS, 8, 0, 100, stretch=1, since=100)
    for step in range(100, 106):
        one = next(whole)
        again = next(order(ROWS, 8, 0, step, stretch=1, since=100))
        assert one.step == again.step == step
        assert np.array_equal(one.indices, again.indices)
        assert np.array_equal(one.indices, other[step - 100])


def test_a_batch_above_the_rows_is_lowered_and_said(quick):
    run = quick(**{**SETTINGS, "train": {**TRAIN, "batch": [[0.0, 8], [0.5, 500]]}})
    assert [one["micro_batch"] for one in steps(run.folder)] == [8] * 4 + [24] * 4
    assert any("the batch of 500 is lowered to the 24 rows" in text for text in quick.said)
    assert steps(run.folder)[-1]["lr"] == pytest.approx(1e-3 * math.sqrt(3))


def test_epochs_are_counted_with_the_average_batch(quick):
    """Half of the steps with 8 and half with 16 of 24 rows: two steps an epoch."""
    run = quick(**{**SETTINGS, "train": {**TRAIN, "length": "3 epochs"}})
    assert run.steps == 6
    assert [one["micro_batch"] for one in steps(run.folder)] == [8] * 3 + [16] * 3


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips(vit, two_towers):
    return {"plain": load(str(vit), "cpu"), "fresh": load(str(two_towers), "cpu")}


def test_the_table_has_a_row_for_each_size(clips):
    none = frozenset()
    sizes = ((0.0, 8), (0.25, 16), (0.5, 24))
    assert stages.table(clips["plain"], "none", 100, sizes) == (
        Stage(0, 25, none, 1.0, 8, 0, 0),
        Stage(25, 50, none, 1.0, 16, 1, 25),
        Stage(50, 100, none, 1.0, 24, 2, 50),
    )
    assert stages.table(clips["plain"], "none", 2, sizes) == (
        Stage(0, 1, none, 1.0, 16, 1, 0),
        Stage(1, 2, none, 1.0, 24, 2, 1),
    ), "a quarter of two steps is none"
    assert [one.batch for one in stages.table(clips["plain"], "none", 1, ((0.0, 8), (0.9, 16)))] == [8]


def test_heads_first_and_growth_share_one_table(clips):
    towers, none = frozenset({"image", "text"}), frozenset()
    assert stages.table(clips["fresh"], "none", 100, ((0.0, 8), (0.5, 16), (0.9, 24))) == (
        Stage(0, 50, towers, 1.0, 8, 0, 0),
        Stage(50, 80, towers, 1.0, 16, 1, 50),
        Stage(80, 90, none, 0.1, 16, 1, 50),
        Stage(90, 100, none, 0.1, 24, 2, 90),
    )
    assert stages.table(clips["fresh"], "none", 100, ((0.0, 8), (0.8, 16))) == (
        Stage(0, 80, towers, 1.0, 8, 0, 0),
        Stage(80, 100, none, 0.1, 16, 1, 80),
    )


def test_warm_up_and_decay_go_on_over_a_change_of_the_batch(clips):
    train = configs.load(sets=["train.warmup=10", "train.schedule=linear"]).train
    plain = stages.rate(stages.table(clips["plain"], "none", 100), train, 100, 3, None)
    for sizes in (((0.0, 8), (0.05, 16)), ((0.0, 8), (0.5, 16))):
        grown = stages.rate(stages.table(clips["plain"], "none", 100, sizes), train, 100, 3, None)
        change = int(sizes[1][0] * 100)
        for step in range(100):
            assert grown(step) == pytest.approx(plain(step) * (math.sqrt(2) if step >= change else 1))


@pytest.mark.slow
def test_a_run_with_heads_first_and_growth_goes_through_all_its_stages(quick, two_towers, tmp_path):
    grown = {**TRAIN, "length": 10, "batch": [[0.0, 8], [0.4, 12], [0.9, 16]]}
    given = {**SETTINGS, "train": grown, "model": two_towers, "sets": ["model.freeze=none"]}
    whole = quick(**given, out=tmp_path / "whole").folder
    assert [one["micro_batch"] for one in steps(whole)] == [8] * 4 + [12] * 5 + [16]
    said = [text.split(":")[0] for text in quick.said if text.startswith("steps ")]
    assert said == ["steps 1 to 4", "steps 5 to 8", "steps 9 to 9", "steps 10 to 10"]
    before, after = (load_file(whole / "checkpoints" / f"step-{step:06d}" / "weights.safetensors") for step in (8, 10))
    start = load_file(whole / "checkpoints" / "step-000001" / "weights.safetensors")
    (body,) = [name for name in before if name.endswith("conv_stem.weight")]
    assert before[body].equal(start[body]), "only heads learn in the first two rows of the table"
    assert not after[body].equal(before[body])
    for step in (3, 6, 8, 9):
        out = copytree(whole, tmp_path / f"killed-{step}")
        killed_after(out, step)
        quick(out=out, resume=True)
        assert files(out) == files(whole), step
        assert told(out) == told(whole), step


# --- killed and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 4, 5, 7])
def test_killed_on_either_side_of_the_change_it_is_the_run_that_was_never_killed(step, finished, quick, tmp_path):
    out = copytree(finished, tmp_path / "run")
    killed_after(out, step)
    assert quick(out=out, resume=True).steps == 8
    assert any(f"going on after step {step} of 8" in text for text in quick.said)
    assert {"weights.safetensors", "optimizer.safetensors"} <= files(out).keys()
    assert files(out) == files(finished)
    assert told(out) == told(finished)


def test_the_run_folder_keeps_the_sizes_and_another_schedule_is_another_run(finished, quick, tmp_path):
    stored = configs.load(finished / "run.toml")
    assert stored.train.batch == ((0.0, 8), (0.5, 16))
    out = copytree(finished, tmp_path / "run")
    assert quick(out=out, resume=True, sets=["train.batch=[[0.0, 8], [0.5, 16]]"]).steps == 8
    with pytest.raises(RunError, match=r"train\.batch: the run has \(\(0\.0, 8\), \(0\.5, 16\)\)"):
        quick(out=out, resume=True, sets=["train.batch=[[0.0, 8], [0.25, 16]]"])


def test_one_size_in_a_table_is_that_size(quick, tmp_path):
    found = []
    for name, batch in (("number", 8), ("table", [[0.0, 8]])):
        run = quick(**{**SETTINGS, "train": {**TRAIN, "batch": batch}}, out=tmp_path / name)
        found.append((files(run.folder), told(run.folder)))
    assert found[0] == found[1]


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ([[0.0, 8], [0.5, 16], [0.5, 32]], r"must begin at 0\.0, rise, and stay below 1"),
        ([[0.0, 8], [0.7, 16], [0.5, 32]], r"must begin at 0\.0, rise, and stay below 1"),
        ([[0.1, 8], [0.5, 16]], r"must begin at 0\.0, rise, and stay below 1"),
        ([[0.0, 8], [1.0, 16]], r"must begin at 0\.0, rise, and stay below 1"),
        ([[0.0, 8], [0.5, 0]], "each batch is a whole number of pairs, at least 1"),
        ([[0.0, 8], [0.5, 16.5]], "each batch is a whole number of pairs, at least 1"),
        ([["0.0", 8], [0.5, 16]], "a growing batch is a list of"),
        ([[0.0, "8"]], "a growing batch is a list of"),
        ([[0.0, True]], "a growing batch is a list of"),
        ([[0.0, 8, 16]], "a growing batch is a list of"),
        ([[]], "a growing batch is a list of"),
        ([0.0, 8], "a growing batch is a list of"),
        ([], "a growing batch is a list of"),
        ([[0.0, math.nan]], "each batch is a whole number of pairs"),
        ([[math.nan, 8]], "must begin at"),
        ([[0.0, math.inf]], "each batch is a whole number of pairs"),
        ([[0.0, 8], [math.nan, 16]], "must begin at"),
        ("[[0.0, 8]]", "is no number"),
        ("auto", "valid integer"),
    ],
    ids=str,
)
def test_a_table_with_a_fault_is_refused_in_words(batch, words):
    with pytest.raises(ConfigError, match=words) as caught:
        configs.load(None, [], {"train": {"batch": batch}})
    assert "train.batch" in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_fault_is_named_at_once(quick, tmp_path):
    train = {"batch": [[0.1, 8], [0.05, "16"]], "schedule": "steps", "lr": -1}
    with pytest.raises(ConfigError) as caught:
        quick(train=train, memory={"keep": "some"})
    said = str(caught.value)
    assert all(key in said for key in ("train.batch", "train.schedule", "train.lr", "memory.keep"))
    assert not (tmp_path / "run").exists()


def test_the_first_steps_of_a_growing_run_plan_with_the_batch_of_each_stage(quick, tmp_path):
    """What must fit is what the largest batch needs, and a plan is made at each change."""
    quick(**SETTINGS)
    said = [text for text in quick.said if text.startswith("steps ")]
    assert said[0].startswith("steps 1 to 4: 1 micro-batches of 8")
    assert said[1].startswith("steps 5 to 8: 1 micro-batches of 16")
    assert setup.needs_timing(configs.load(tmp_path / "run" / "run.toml")) is False
