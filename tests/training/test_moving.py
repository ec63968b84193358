"""A run that goes on elsewhere: on another kind of device, or in other memory. What docs/reliability.md says of it."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import tiny_runs
import torch

from honeclip.checkpoint import load
from honeclip.device.fake import FakeMps
from honeclip.monitoring import events
from honeclip.training.run import fit


def began(data: Path, model: Path, out: Path, device: str | FakeMps) -> Path:
    """A run of six steps, each of which is kept."""
    config = tiny_runs.settings(checkpoint={"every": 1, "keep_last": 9})
    return fit(data=data, out=out, model=model, config=config, device=device, report=lambda text: None).folder


@pytest.fixture(scope="module")
def wholes(data, vit, tmp_path_factory) -> dict[str, Path]:
    """The same run on a CPU and on what MPS is to honeclip."""
    here = tmp_path_factory.mktemp("moving")
    return {name: began(data, vit, here / name, FakeMps() if name == "mps" else "cpu") for name in ("cpu", "mps")}


def stopped(whole: Path, place: Path) -> Path:
    """The run as it was when it had been killed after its third step."""
    out = copytree(whole, place)
    (out / "result.json").unlink()
    for step in (4, 5, 6):
        rmtree(out / "checkpoints" / f"step-00000{step}")
    for pointer in ("LATEST", "BEST"):
        (out / "checkpoints" / pointer).write_text("step-000003\n")
    return out


def told(run: Path) -> list[tuple[int, float, float]]:
    return [
        (one["step"], one["lr"], one["loss"]) for one in events.read(run / "events.jsonl") if one["event"] == "step"
    ]


def same_up_to_rounding(run: Path, whole: Path) -> None:
    """Steps and rates are equal; losses, moments and weights up to rounding, which they would not be in another order."""
    assert [one[:2] for one in told(run)] == [one[:2] for one in told(whole)]
    assert [one[2] for one in told(run)] == pytest.approx([one[2] for one in told(whole)], rel=1e-5)
    ours, theirs = (load.read(one / "checkpoints" / "step-000006").tensors for one in (run, whole))
    for file in ("weights", "optimizer"):
        assert ours[file].keys() == theirs[file].keys()
        for name, one in ours[file].items():
            torch.testing.assert_close(one, theirs[file][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("first", "then"), [("cpu", "mps"), ("mps", "cpu")])
def test_on_another_kind_of_device_it_is_the_same_run_up_to_rounding(first, then, wholes, tmp_path):
    out = stopped(wholes[first], tmp_path / "run")
    said: list[str] = []
    device = FakeMps() if then == "mps" else "cpu"
    fit(out=out, resume=True, device=device, report=said.append)
    assert [text.split(":")[0] for text in said if "the run comes from" in text] == [
        f"the run comes from {first} and goes on on {then}"
    ]
    same_up_to_rounding(out, wholes[first])
    states = [json.loads((out / "checkpoints" / f"step-00000{step}" / "state.json").read_text()) for step in (3, 4)]
    assert [one["json"]["device"] for one in states] == [first, then]
    plans = [one["json"]["plan"]["predicted_peak_bytes"] for one in states]
    assert plans[0] != plans[1], "planned anew: what a process on a CPU takes beside tensors counts there alone"


def test_on_the_same_kind_of_device_nothing_is_said_of_it(wholes, tmp_path):
    said: list[str] = []
    fit(out=stopped(wholes["cpu"], tmp_path / "run"), resume=True, device="cpu", report=said.append)
    assert "going on after step 3 of 6" in said
    assert not [text for text in said if "the run comes from" in text]


@pytest.mark.parametrize("memory", [["memory.micro_batch=2"], ["memory.micro_batch=3", "memory.keep=0"]], ids=str)
def test_in_other_memory_it_is_the_same_run_up_to_rounding(memory, wholes, tmp_path):
    out = stopped(wholes["cpu"], tmp_path / "run")
    fit(out=out, resume=True, sets=memory, device="cpu", report=lambda text: None)
    cuts = [one["micro_batch"] for one in events.read(out / "events.jsonl") if one["event"] == "step"]
    assert cuts == [8] * 3 + [int(memory[0][-1])] * 3
    same_up_to_rounding(out, wholes["cpu"])
