"""Memory that becomes scarce while a run goes on: what gives way, in which order, and that the result stays."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

from honeclip.checkpoint.save import named
from honeclip.device import detect
from honeclip.device.fake import FakeMps
from honeclip.errors import MemoryExhausted
from honeclip.model import attention
from honeclip.model.recompute import blocks
from honeclip.monitoring import events
from honeclip.stepping.autopilot import EMERGENCY_SLICE, QUIET_STEPS
from honeclip.training import feeds, planning

PLENTY = 10**12
PIECES = {"micro_batch": 2}
SETTINGS = {"evaluate": {"every": 0}, "checkpoint": {"every": 0}}


def told(out: Path, event: str) -> list[dict]:
    return [one for one in events.read(out / "events.jsonl") if one["event"] == event]


def weights(out: Path) -> str:
    """Hash of the weights that the run ended with."""
    last = out / "checkpoints" / named(out / "checkpoints", "LATEST")
    return hashlib.sha256((last / "weights.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def on_fake(quick, tmp_path, monkeypatch):
    """on_fake(readings, name, ...): a run of 4 micro-batches of 2 on a device whose free memory follows a script."""

    def run(readings: list[int], name: str, **given) -> Path:
        # the budget does not ask for what is free, so that each reading is one between two steps
        fake = FakeMps(available_bytes=readings)
        with monkeypatch.context() as patch:
            patch.setattr(detect, "choose", lambda wanted="auto": fake)
            train = {"lr": 1e-3, "length": 6, **given.pop("train", {})}
            options = {**SETTINGS, "memory": PIECES, **given}
            return quick(device="auto", out=tmp_path / name, train=train, **options).folder

    return run


# --- less is free --------------------------------------------------------------------------------------------------


def test_a_squeeze_costs_graphs_for_a_while_and_not_a_bit_of_the_result(on_fake):
    given = {"train": {"length": 4 * QUIET_STEPS + 10}, "memory": {"micro_batch": 4}}
    plain = on_fake([PLENTY], "plain", **given)
    squeezed = on_fake([PLENTY, PLENTY, PLENTY, 1, 1, PLENTY], "squeezed", **given)
    assert told(plain, "memory") == []
    assert {one["kept"] for one in told(plain, "step")} == {2}
    changes = told(squeezed, "memory")
    assert "0.00 GB are free" in changes[0]["reason"]
    assert changes[0]["kept"] == 0
    assert changes[-1]["kept"] == 2
    assert f"are free for {QUIET_STEPS} steps" in changes[-1]["reason"]
    kept = [one["kept"] for one in told(squeezed, "step")]
    assert (kept[0], min(kept), kept[-1]) == (2, 0, 2)
    assert {one["micro_batch"] for one in told(squeezed, "step")} == {4}
    assert [one["loss"] for one in told(squeezed, "step")] == [one["loss"] for one in told(plain, "step")]
    assert weights(squeezed) == weights(plain)


def test_dropout_is_replayed_in_whatever_pressure_has_computed_again(on_fake, two_towers):
    """Heads with dropout first, then all of it; with one sample at a time there are no smaller pieces."""
    given = {"model": two_towers, "sets": ["model.freeze=none"], "memory": {"micro_batch": 1}, "train": {"length": 15}}
    plain, squeezed = on_fake([PLENTY], "plain", **given), on_fake([PLENTY, 1], "squeezed", **given)
    assert [(one["kept"], one["recompute"]) for one in told(squeezed, "memory")] == [(0, False), (0, True)] * 2
    assert told(plain, "memory") == []
    assert weights(squeezed) == weights(plain)


def test_a_squeeze_that_stays_has_blocks_recomputed_and_then_smaller_pieces(on_fake, quick):
    plain = on_fake([PLENTY], "plain")
    squeezed = on_fake([PLENTY, 1], "squeezed", train={"length": 6})
    levers = [(one["kept"], one["recompute"], one["micro_batch"]) for one in told(squeezed, "memory")]
    assert levers == [(0, False, 2), (0, True, 2), (0, True, 1)]
    losses = [[one["loss"] for one in told(out, "step")] for out in (squeezed, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    first = told(squeezed, "memory")[-1]["step"]
    assert losses[0][:first] == losses[1][:first], "until the pieces change, not a bit does"
    assert sum(text.startswith("after step ") for text in quick.said) == 3


def test_what_was_asked_for_stays_under_pressure(on_fake):
    memory = {**PIECES, "keep": 3, "recompute": False, "attention_slice": 0}
    squeezed = on_fake([PLENTY, 1], "squeezed", memory=memory)
    assert {one["kept"] for one in told(squeezed, "step")[:2]} == {3}
    assert {one["recompute"] for one in told(squeezed, "memory")} <= {False}


def test_the_next_stage_is_planned_without_what_pressure_brought(on_fake, monkeypatch):
    """The batch grows while blocks are recomputed: its plain plan must be counted with blocks that are not."""
    real, seen = planning.measure, []

    def noting(encoder, inputs, around):
        one = real(encoder, inputs, around)
        seen.append(one)
        return one

    monkeypatch.setattr(planning, "measure", noting)
    train = {"batch": [[0.0, 8], [0.5, 16]], "length": 12}
    out = on_fake([PLENTY, 1, 1, 1, 1, 1, 1, PLENTY], "grown", train=train, memory={"micro_batch": 2})
    before = [one for one in told(out, "memory") if one["step"] <= 6]
    assert before[-1]["recompute"]
    first, second = seen[:2], seen[-2:]
    assert [one.graph for one in first] == [one.graph for one in second]
    steps = told(out, "step")
    assert [one["micro_batch"] for one in steps[6:]] == [2] * 6
    assert steps[6]["kept"] == 8


# --- not one sample fits -------------------------------------------------------------------------------------------


def out_of_memory() -> RuntimeError:
    return FakeMps(total_bytes=18_130_000_000).out_of_memory(256)


def scarce(monkeypatch, fits) -> list[tuple[bool, int]]:
    """Lets the image tower run out of memory wherever fits(recomputing, slice) says no; gives what was tried."""
    real, tried = feeds.ImageFeed.__call__, []

    def forward(feed, piece):
        recomputing = "forward" in blocks(feed.clip.model.visual)[0].__dict__
        plan = attention.active()
        queries = plan.queries if plan is not None else 0
        if not tried or tried[-1] != (recomputing, queries):
            tried.append((recomputing, queries))
        if not fits(recomputing, queries):
            raise out_of_memory()
        return real(feed, piece)

    monkeypatch.setattr(feeds.ImageFeed, "__call__", forward)
    return tried


def test_out_of_memory_with_one_sample_recomputes_blocks_then_slices_attention(quick, tmp_path, monkeypatch):
    plain = quick(out=tmp_path / "plain", **SETTINGS).folder
    tried = scarce(monkeypatch, lambda recomputing, queries: recomputing and queries)
    run = quick(out=tmp_path / "scarce", **SETTINGS).folder
    assert tried == [(False, 0), (True, 0), (True, EMERGENCY_SLICE)]
    (change,) = told(run, "memory")
    assert (change["step"], change["micro_batch"], change["kept"]) == (1, 1, 0)
    assert (change["recompute"], change["attention_slice"]) == (True, EMERGENCY_SLICE)
    assert "out of memory with one sample at a time" in change["reason"]
    losses = [[one["loss"] for one in told(out, "step")] for out in (run, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_recomputation_alone_is_enough_where_it_is(quick, tmp_path, monkeypatch):
    tried = scarce(monkeypatch, lambda recomputing, queries: recomputing)
    run = quick(**SETTINGS).folder
    assert tried == [(False, 0), (True, 0)]
    (change,) = told(run, "memory")
    assert (change["recompute"], change["attention_slice"]) == (True, 0)
    assert len(told(run, "step")) == 6


def test_when_nothing_is_left_it_says_what_would_need_less(quick, tmp_path, monkeypatch):
    tried = scarce(monkeypatch, lambda recomputing, queries: False)
    with pytest.raises(MemoryExhausted) as caught:
        quick(**SETTINGS)
    assert tried == [(False, 0), (True, 0), (True, EMERGENCY_SLICE)], "only when both were tried"
    said = str(caught.value)
    assert said.startswith("step 1: out of memory with one sample at a time: MPS backend out of memory")
    assert "with blocks recomputed and attention in slices" in said
    assert all(way in said for way in ("resolution.stages", "model.lora_rank=8", "model.freeze=towers"))
    assert told(tmp_path / "run", "step") == []


def test_a_run_that_was_lowered_this_far_goes_on_from_there(quick, tmp_path, monkeypatch):
    """Killed and resumed it does not run into it again."""
    given = {"evaluate": {"every": 0}, "checkpoint": {"every": 2}}
    tried = scarce(monkeypatch, lambda recomputing, queries: recomputing and queries)
    run = quick(**given).folder
    (run / "result.json").unlink()
    losses = [one["loss"] for one in told(run, "step")]
    tried.clear()
    assert quick(resume=True, sets=["train.length=8"]).steps == 8
    assert tried == [(True, EMERGENCY_SLICE)]
    assert [one["loss"] for one in told(run, "step")][:6] == losses


# --- a real limit --------------------------------------------------------------------------------------------------

LIMITED = """
import json, resource, sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
import psutil
import tiny_runs
import torch

from honeclip.checkpoint import load as checkpoints
from honeclip.device import resident
from honeclip.monitoring import events
from honeclip.training.run import fit

torch.set_num_threads(1)
folder = Path(sys.argv[1])
vision = {"image_size": 96, "layers": 4, "width": 128, "head_width": 32, "patch_size": 12}
config = {**tiny_runs.VIT, "vision_cfg": vision}
model = tiny_runs.model_folder(folder / "model", tiny_runs.text_files(folder / "text"), config)
data = tiny_runs.draw(folder / "data", 66)
settings = tiny_runs.settings(
    train={"batch": 48, "length": 3, "lr": 1e-4},
    evaluate={"every": 0},
    checkpoint={"every": 0},
    memory={"micro_batch": 12},
)


def run(name):
    out = fit(data, folder / name, model, config=settings, device="cpu", report=lambda text: None).folder
    seen = list(events.read(out / "events.jsonl"))
    plan = checkpoints.read(checkpoints.latest_good(out / "checkpoints", print)).json["plan"]
    steps = [one for one in seen if one["event"] == "step"]
    levers = [one["reason"] for one in seen if one["event"] == "memory"]
    pieces = [[one["micro_batch"], one["kept"], one["retries"]] for one in steps]
    return {"losses": [one["loss"] for one in steps], "levers": levers, "pieces": pieces, "bytes": plan["step_bytes"]}


free = run("free")
resident.give_back_freed()
room = int(float(sys.argv[3]) * free["bytes"])
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, resource.RLIM_INFINITY))
print(json.dumps({"free": free, "limited": run("limited"), "room": room}))
"""
"""A run without a limit, by which everything is imported and loaded, and one whose address space ends soon."""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the address space is Linux's")
@pytest.mark.slow
def test_under_a_real_limit_a_run_ends_with_the_losses_that_it_has_without(tmp_path, session_home):
    """In a process of its own that may have half of what the planned step needs."""
    env = {**tiny_runs.environment(session_home), "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(Path(tiny_runs.__file__).parent), "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    free, limited = found["free"], found["limited"]
    assert free["bytes"] > 100_000_000
    assert (free["levers"], free["pieces"]) == ([], [[12, 4, 0]] * 3)
    assert limited["levers"], "something gave way"
    assert limited["pieces"][-1][0] < 12 or limited["pieces"][-1][1] < 4
    assert limited["losses"] == pytest.approx(free["losses"], rel=1e-4)
