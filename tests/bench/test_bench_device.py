"""`bench device`: its errors are those of float64, a device that computes wrongly shows, and what MPS forbids is not done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch

from honeclip import __main__
from honeclip.bench import device as bench
from honeclip.bench.operations import SEED, operations
from honeclip.device.detect import choose
from honeclip.device.fake import FakeMps, rules

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = (
    "pixels",
    "layer norm",
    "softmax",
    "attention core, causal",
    "attention core, in slices",
    "InfoNCE in tiles",
    "AdamW",
)
EVERY = tuple(one.name for one in operations(2))
FULL = {"pixels", "resize, bicubic", "unit length", "cross entropy", "InfoNCE in tiles", "gradient norm", "AdamW"}


IN_FLOAT32 = FakeMps(torch_version=(2, 12))
"""With such a torch half precision is wrong on MPS, so that it is not compared."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    text = tiny_runs.text_files(tmp_path_factory.mktemp("text") / "files")
    return str(tiny_runs.model_folder(tmp_path_factory.mktemp("vit") / "model", text))


def by_name(found):
    return {row["name"]: row["ways"] for row in found["rows"]}


@pytest.mark.parametrize("name", ["linear", "layer norm", "softmax"])
def test_errors_are_relative_to_float64(name):
    """The same operation by NumPy in float64 is the truth, and torch's float32 is as far from it as is said."""
    operation = next(one for one in operations(2) if one.name == name)
    given = [one.tensor for one in operation.draw(torch.Generator().manual_seed(SEED))]
    x, *weights = (one.numpy().astype(np.float64) for one in given)
    if name == "linear":
        truth = x @ weights[0].T + weights[1]
    elif name == "layer norm":
        truth = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weights[0] + weights[1]
    else:
        raised = np.exp(x - x.max(-1, keepdims=True))
        truth = raised / raised.sum(-1, keepdims=True)
    off = operation.compute(*given).numpy() - truth
    expected = np.linalg.norm(off) / np.linalg.norm(truth)
    found = by_name(bench.run("none", 2, device="cpu", only=[name]))[name]
    assert found["cpu fp32"]["error"] == pytest.approx(expected, rel=1e-4)
    assert 1e-9 < expected < 1e-6 < found["cpu bf16"]["error"] < 0.01


@pytest.mark.parametrize("names", [pytest.param(QUICK), pytest.param(EVERY, marks=pytest.mark.slow)], ids=len)
def test_operations_keep_the_rules_of_mps_and_have_right_numbers(names):
    """Half precision of a fake is emulated, which takes long: its numbers are another test's."""
    with rules(placed_only=True):
        found = bench.run("none", 2, device=IN_FLOAT32, only=names)
    assert found["ways"] == ["cpu fp32", "mps fp32"]
    for name, ways in by_name(found).items():
        assert ways["mps fp32"].keys() == ways["cpu fp32"].keys(), ways
        for one in ways.values():
            assert one["error"] < 1e-4, name
            assert one.get("gradient_error", 0.0) < 1e-5, name
            assert 0 < one["seconds_low"] <= one["seconds"] <= one["seconds_high"]
    assert set(by_name(found)["softmax"]["cpu fp32"]) >= {"gradient_error", "memory_bytes", "times_as_fast"}
    assert len(found["rows"]) == len(names)
    assert {name for name, ways in by_name(found).items() if "gradient_error" not in ways["cpu fp32"]} < FULL


@pytest.mark.slow
def test_half_precision_keeps_the_rules_of_mps_too():
    with rules(placed_only=True):
        found = bench.run("none", 2, device=FakeMps(), only=EVERY)
    for name, ways in by_name(found).items():
        assert ("mps fp16" in ways) == (name not in FULL)
        assert name in FULL or 1e-5 < ways["mps fp16"]["error"] < 0.01


class Wrong(FakeMps):
    """What crosses to it is a thousandth larger."""

    def copy(self, tensor):
        here = super().copy(tensor)
        return here * 1.001 if here.is_floating_point() else here


def test_a_device_that_computes_wrongly_shows():
    found = bench.run("none", 2, device=Wrong(), only=["softmax", "gelu"])
    for ways in by_name(found).values():
        assert ways["mps fp32"]["error"] > 5e-4
        assert ways["cpu fp32"]["error"] < 1e-6
    assert by_name(found)["gelu"]["mps fp16"]["error"] > 5e-4


def test_what_a_device_refuses_is_a_row_that_says_so_and_the_rest_goes_on():
    # the first two copies are what gelu takes
    found = by_name(bench.run("none", 2, device=FakeMps(fail_at=[2]), only=["gelu", "softmax"]))
    assert "out of memory" in found["gelu"]["mps fp32"]["fault"]
    assert "seconds" not in found["gelu"]["mps fp32"]
    assert found["gelu"]["mps fp16"]["error"] < 0.01
    assert found["softmax"]["mps fp32"]["error"] < 1e-6
    assert found["softmax"]["mps fp32"]["seconds"] > 0


def test_what_is_float32_in_any_precision_is_measured_once_a_device():
    found = by_name(bench.run("none", 2, device="cpu", only=["cross entropy", "gelu"]))
    assert list(found["cross entropy"]) == ["cpu fp32"]
    assert list(found["gelu"]) == ["cpu fp32", "cpu bf16"]


def test_a_step_is_compared_before_any_weight_moves(model):
    """Were the weights those after an update, float32 would be as far off as half precision."""
    found = by_name(bench.run(model, 4, device="cpu", only=bench.OF_MODEL))
    assert list(found) == list(bench.OF_MODEL)
    for name, ways in found.items():
        assert ways["cpu fp32"]["error"] < 1e-5, name
        assert 1e-4 < ways["cpu bf16"]["error"] < 0.2, name
    step = found["training step"]
    assert step["cpu fp32"]["gradient_error"] < 1e-5
    assert step["cpu bf16"]["gradient_error"] < 0.5
    assert all(one["memory_bytes"] > 0 for one in step.values())


@pytest.mark.slow
def test_a_step_on_a_device_with_the_rules_of_mps(model):
    with rules(placed_only=True):
        found = by_name(bench.run(model, 4, device=FakeMps(), only=bench.OF_MODEL))
    assert found["training step"]["mps fp16"]["gradient_error"] < 0.5
    assert found["training step"]["mps fp32"]["gradient_error"] < 1e-5


def test_ways_take_turns_and_every_second_round_the_other_way():
    called = []
    work = {name: (lambda name=name: called.append(name), choose("cpu")) for name in "ab"}
    seconds = bench.alternated(work, 2)
    assert {name: len(some) for name, some in seconds.items()} == {"a": 2, "b": 2}
    order = [name for number, name in enumerate(called) if number == 0 or called[number - 1] != name]
    assert order == ["a", "b", "a", "b", "a"]


def test_without_an_accelerator_it_says_so_and_compares_precisions():
    ways, note = bench.compared(choose("cpu"))
    assert [way.name for way in ways] == ["cpu fp32", "cpu bf16"]
    assert "the CPU was asked for" in note
    assert "float64" in note


def test_the_command_prints_a_table_that_can_be_posted_or_json(capsys):
    options = ["bench", "device", "--device", "cpu", "--batch", "2", "--only", "gelu; cross entropy"]
    assert __main__._run(options) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["cpu fp32", "cpu bf16", "cpu fp32"]
    assert __main__._run([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["rows"]] == ["gelu", "cross entropy"]
    assert {"device", "note", "ways", "machine", "versions", "threads"} <= found.keys()
    assert str(Path.home()) not in json.dumps(found)


@pytest.mark.parametrize("arguments", [["--batch", "1"], ["--rounds", "4"], ["--only", "nothing"]])
def test_a_bench_that_cannot_be_is_bad_input(arguments, capsys):
    assert __main__._run(["bench", "device", "--device", "cpu", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
