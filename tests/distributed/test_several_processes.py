"""Runs of several processes end as the run of one: losses, weights, and what is written."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file

from honeclip.checkpoint.save import named
from honeclip.model import heads
from honeclip.monitoring import events
from honeclip.training import finish
from honeclip.training.run import fit

LENGTH, RATE = 20, 1e-3

LOSSES: dict[str, dict[str, Any]] = {
    "infonce": {},
    "siglip": {"kind": "siglip"},
    "labels": {"targets": "labels"},
    "every part": {
        "weights": {"siglip": 0.5, "images": [[0.0, 0.5], [1.0, 0.0]]},
        "targets": "labels",
        "balance": "uncertainty",
        "hard_negatives": 0.5,
        "tile": 4,
    },
    "soft": {"targets": "soft", "temperature": "auto"},
    "mining": {"mining": 2, "label_smoothing": 0.1},
    "scales": {"scales": [1.0, 0.5], "kind": "siglip"},
}


def case(data: Path, model: Path, out: Path, loss: dict[str, Any], **train: Any) -> dict[str, Any]:
    """Twenty steps in float64 over batches of 15."""
    train = {"length": LENGTH, "batch": 15, "precision": "fp64", "lr": RATE, **train}
    config = tiny_runs.settings(train=train, loss=loss, evaluate={"every": 10}, checkpoint={"every": 10})
    return {"data": str(data), "out": out, "model": str(model), "config": config}


def steps(out: Path) -> list[dict[str, Any]]:
    return [one for one in events.read(out / "events.jsonl") if one["event"] == "step"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    checkpoints = out / "checkpoints"
    return load_file(checkpoints / str(named(checkpoints, "LATEST")) / "weights.safetensors")


def apart(one: Path, other: Path) -> tuple[float, float]:
    """The largest difference of two runs' losses, and that of their weights as a share of what Adam can have moved one."""
    losses = [[step["loss"] for step in steps(run)] for run in (one, other)]
    assert len(losses[0]) == len(losses[1]) == LENGTH
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    moved = max(float((a[name] - b[name]).abs().max()) for name in a)
    return max(abs(x - y) for x, y in zip(*losses, strict=True)), moved / (LENGTH * RATE)


@pytest.fixture
def alone(monkeypatch):
    """The run of one process, in this one."""
    monkeypatch.setattr(finish, "write", lambda *folder, **content: None)
    return lambda given: fit(device="cpu", report=lambda text: None, **given)


def compared(names, processes, data, model, tmp_path, alone, in_turn, **train) -> dict[str, tuple[float, float]]:
    shared = [case(data, model, tmp_path / f"{name}, {processes}", LOSSES[name], **train) for name in names]
    returned, _ = in_turn(processes, shared)
    assert len(returned) == processes
    found = {}
    for name, given, *every in zip(names, shared, *returned, strict=True):
        run = alone({**given, "out": tmp_path / name})
        assert run.steps == every[0]["steps"] == LENGTH
        assert all(one == every[0] for one in every), "each process returns what rank 0 does"
        assert every[0]["run"] == str(given["out"])
        pairs = [step["pairs"] for step in steps(given["out"])]
        assert pairs == [step["pairs"] for step in steps(run.folder)], "the batch is that of all processes"
        found[name] = apart(tmp_path / name, given["out"])
    return found


@pytest.mark.parametrize("names", ["labels", pytest.param("infonce siglip", marks=pytest.mark.slow)])
def test_two_processes_end_as_one(names, surfaces, reader, tmp_path, alone, in_turn):
    for name, (loss, weight) in compared(names.split(), 2, surfaces, reader, tmp_path, alone, in_turn).items():
        assert loss <= 1e-9, name
        assert weight <= 1e-6, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["infonce", "siglip", "labels", "every part"], ["mining", "scales", "soft"]], ids=", ".join
)
def test_four_processes_end_as_one(names, surfaces, reader, tmp_path, alone, in_turn):
    for name, (loss, weight) in compared(names, 4, surfaces, reader, tmp_path, alone, in_turn).items():
        # how alike captions are is computed in float32 in any case, and rows in another order round otherwise
        assert loss <= (1e-5 if name == "soft" else 1e-9), name
        assert weight <= (1e-2 if name == "soft" else 1e-6), name


@pytest.mark.slow
def test_in_float32_they_are_as_close_as_rounding_lets_them(stamps, reader, tmp_path, alone, in_turn):
    for name, (loss, weight) in compared(
        ["infonce", "siglip"], 2, stamps, reader, tmp_path, alone, in_turn, precision="fp32"
    ).items():
        assert loss <= 1e-4, name
        assert weight <= 0.05, name


@pytest.mark.slow
def test_so_do_runs_whose_batch_and_pictures_grow(surfaces, reader, tmp_path, alone, in_turn):
    growing = case(surfaces, reader, tmp_path / "two", {}, batch=[[0.0, 7], [0.5, 15]])
    growing["config"]["resolution"] = {"stages": [[0.0, 32], [0.4, 48]]}
    # how long a step takes decides its length; all that can be asked is that it comes to its end
    minutes = case(surfaces, reader, tmp_path / "minutes", {}, length="0.05 min")
    in_turn(2, [growing, minutes])
    assert (tmp_path / "minutes" / "model").is_dir()
    alone({**growing, "out": tmp_path / "one"})
    loss, weight = apart(tmp_path / "one", tmp_path / "two")
    assert loss <= 1e-9
    assert weight <= 1e-6


@pytest.mark.slow
def test_so_do_fresh_heads_over_frozen_bodies(surfaces, fresh_heads, tmp_path, alone, in_turn, monkeypatch):
    """Without their dropout, which is drawn by the place of a row in its process."""
    given = case(surfaces, fresh_heads, tmp_path / "two", {})
    in_turn(2, [{**given, "no_dropout": True}])
    for tower in heads.DROPOUT:
        monkeypatch.setitem(heads.DROPOUT, tower, 0.0)
    alone({**given, "out": tmp_path / "one"})
    loss, weight = apart(tmp_path / "one", tmp_path / "two")
    assert loss <= 1e-9
    assert weight <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words", "last", "processes"),
    [
        (signal.SIGKILL, "another process of this run is gone", 5, 1),
        (signal.SIGTERM, "stopped and saved after step", 7, 3),
    ],
    ids=["killed, goes on alone", "stopped, goes on as three"],
)
def test_a_rank_that_is_killed_or_stopped_ends_the_run_and_another_number_goes_on(
    number, words, last, processes, stamps, reader, tmp_path, alone, in_turn
):
    given = case(stamps, reader, tmp_path / "two", {})
    given["config"]["checkpoint"]["every"] = 5
    # with the rows of step 8 it takes the signal: while rank 0 does step 7, or has done it
    _, errors = in_turn(2, [{**given, "signal": [number, 1, 8]}], fails=True)
    assert words in errors
    assert "go on with --resume" in errors or "goes on with --resume" in errors
    stored = int(str(named(tmp_path / "two" / "checkpoints", "LATEST")).removeprefix("step-"))
    assert last <= stored <= last + 1
    assert not (tmp_path / "two" / "model").exists()
    resumed = {"out": tmp_path / "two", "resume": True}
    if processes == 1:
        alone(resumed)
    else:
        in_turn(processes, [resumed])
    alone({**given, "out": tmp_path / "one"})
    loss, weight = apart(tmp_path / "one", tmp_path / "two")
    assert loss <= 1e-9
    assert weight <= 1e-6
