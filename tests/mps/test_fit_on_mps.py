"""Whole runs on the fake device under the rules of MPS, start to report: they compute what the same runs on a CPU do."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import tiny_runs
import torch
from safetensors.torch import load_file
from tiny_runs import tiers
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from honeclip.device.device import Device
from honeclip.device.fake import FakeMps, RuleBroken, rules
from honeclip.errors import ConfigError
from honeclip.model import attention
from honeclip.monitoring import events
from honeclip.training import feeds, finish
from honeclip.training.run import Run, fit

MODEL = "open_clip_model.safetensors"


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """run(name, device, model, {section: ...}): a run of six steps; no page, whose drawing takes longer than the rest."""

    def made(name: str, device: str | Device, model: Path | None, sections: dict[str, Any] | None, **given: Any) -> Run:
        config = None if given.get("resume") else tiny_runs.settings(**(sections or {}))
        where = None if given.get("resume") else data
        with ExitStack() as stack:
            if not given.pop("page", False):
                stack.enter_context(monkeypatch.context()).setattr(finish, "write", lambda *folder, **content: None)
            if not isinstance(device, str):
                stack.enter_context(rules(placed_only=True))
            return fit(where, tmp_path / name, model, config=config, device=device, report=lambda text: None, **given)

    return made


def losses(done: Run) -> list[float]:
    return [one["loss"] for one in events.read(done.folder / "events.jsonl") if one["event"] == "step"]


def scores(done: Run) -> list[float]:
    return [one["score"] for one in events.read(done.folder / "events.jsonl") if one["event"] == "evaluation"]


def agree(one: Run, other: Run, rel: float = 1e-6) -> None:
    """Losses, scores, the figures before and after, and every weight of the model that is handed over."""
    assert one.steps == other.steps
    assert losses(one) == pytest.approx(losses(other), rel=rel)
    assert scores(one) == pytest.approx(scores(other), rel=1e-6)
    for name in ("before", "after"):
        ours, theirs = getattr(one, name)["retrieval"], getattr(other, name)["retrieval"]
        assert str(ours) == str(theirs)
    theirs = load_file(other.model_folder / MODEL)
    for name, value in load_file(one.model_folder / MODEL).items():
        # where a gradient is nothing but rounding, so is the direction of Adam's step
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-4, msg=name)


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {"memory": {"micro_batch": 3, "keep": 1}}),
    "vit, siglip, none kept": ("vit", {"memory": {"micro_batch": 4, "keep": 0}, "loss": {"kind": "siglip", "tile": 3}}),
    "vit, frozen text body": ("vit", {"model": {"freeze": "text"}, "loss": {"tile": 2, "targets": "pairs"}}),
    "starter's parts, heads alone": ("two_towers", {}),
    "starter's parts, heads first and then all": (
        "two_towers",
        {"model": {"freeze": "none"}, "memory": {"micro_batch": 3, "keep": 1}},
    ),
}


@pytest.mark.parametrize("case", tiers(CASES, "vit", "starter's parts, heads first and then all"))
def test_a_run_under_the_rules_is_the_run_of_the_cpu(case, run, request):
    name, sections = CASES[case]
    model = request.getfixturevalue(name)
    fake = FakeMps()
    agree(run("mps", fake, model, sections), run("cpu", "cpu", model, sections))
    assert fake.copies > 20


HALF_ON_CPU = {"fp32": "fp32", "auto": "fp16"}
"""What the fake device takes for a precision. A CPU must be told, and then skips the same updates."""


@pytest.mark.parametrize(
    ("name", "freeze", "precision"),
    tiers(
        [(*towers, precision) for towers in (("vit", "auto"), ("two_towers", "none")) for precision in HALF_ON_CPU],
        ("two_towers", "none", "auto"),
    ),
)
def test_sliced_attention_and_recomputed_blocks_keep_the_rules_too(name, freeze, precision, run, request, monkeypatch):
    model = request.getfixturevalue(name)
    sections = {
        "train": {"precision": precision, "length": 4},
        "model": {"freeze": freeze},
        "memory": {"micro_batch": 3, "keep": 1},
    }
    plain = run("plain", "cpu", model, {**sections, "train": {"precision": HALF_ON_CPU[precision], "length": 4}})
    sections["memory"] |= {"attention_slice": 2, "recompute": True}
    seen, real = [], attention.attention
    monkeypatch.setattr(attention, "attention", lambda *args, **kwargs: (seen.append(1), real(*args, **kwargs))[1])
    done = run("mps", FakeMps(), model, sections)
    assert len(seen) > 10
    if precision == "fp32":
        agree(done, plain, rel=1e-5)
    else:
        assert losses(done) == pytest.approx(losses(plain), rel=2e-2)


@pytest.mark.parametrize(
    ("name", "freeze", "keep"),
    tiers([("vit", "auto", 4), ("two_towers", "none", 2), ("two_towers", "none", 4)], ("two_towers", "none", 2)),
)
def test_resumed_in_the_middle_it_is_the_run_of_the_cpu(name, freeze, keep, run, request):
    model = request.getfixturevalue(name)
    sections = {"model": {"freeze": freeze}, "checkpoint": {"keep_last": 9}, "memory": {"micro_batch": 3, "keep": 1}}
    whole = run("cpu", "cpu", model, sections)
    done = run("mps", FakeMps(), model, sections)
    for folder in (done.folder / "checkpoints").glob("step-*"):  # as if it had been killed after step `keep`
        if int(folder.name[-6:]) > keep:
            rmtree(folder)
    (done.folder / "result.json").unlink()
    rmtree(done.model_folder)
    fake = FakeMps()
    again = run("mps", fake, None, None, resume=True)
    assert fake.copies > 20
    agree(again, whole)


def test_fp16_by_default_is_close_to_that_of_a_cpu_and_its_report_is_written(vit, run):
    sections = {"memory": {"micro_batch": 4, "keep": 1}}
    plain = run("cpu", "cpu", vit, {**sections, "train": {"precision": "fp16"}})
    done = run("mps", FakeMps(), vit, {**sections, "train": {"precision": "auto"}}, page=True)
    assert losses(done) == pytest.approx(losses(plain), rel=2e-2)
    assert {"report.json", "index.html"} <= {path.name for path in (done.folder / "report").iterdir()}


class Askew(TorchFunctionMode):
    """Linear layers give something else than they should, without an error: how a young backend fails."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * (1 + 0.5 * torch.arange(result.shape[-1]) / result.shape[-1]) if func is linear else result


class WrongIn(FakeMps):
    """Computes askew in the given precisions."""

    def __init__(self, *precisions: str) -> None:
        super().__init__()
        self.wrong = precisions

    @contextmanager
    def autocast(self, precision_name):
        with super().autocast(precision_name), Askew() if precision_name in self.wrong else nullcontext():
            yield


def test_a_run_steps_down_where_half_precision_is_wrong(vit, data, tmp_path):
    said: list[str] = []
    with rules(placed_only=True):
        config = tiny_runs.settings(train={"precision": "auto"}, report={"pictures": False})
        fit(data, tmp_path / "run", vit, config=config, device=WrongIn("fp16"), report=said.append)
    words = " ".join(said)
    assert "stepped down from fp16" in words
    assert "precision fp32" in words


def test_a_run_does_not_begin_on_a_device_that_computes_wrongly(vit, data, tmp_path):
    with rules(placed_only=True), pytest.raises(ConfigError, match="not even in float32.*--device cpu"):
        fit(data, tmp_path / "run", vit, config=tiny_runs.settings(), device=WrongIn("fp16", "fp32"))
    assert not (tmp_path / "run" / "run.toml").exists()


def test_a_breach_in_such_a_run_is_seen(vit, run, monkeypatch):
    """So that the tests above say something."""
    real = feeds.normalise
    monkeypatch.setattr(feeds, "normalise", lambda *given: real(*given).double().float())
    with pytest.raises(RuleBroken, match=r"^rule 5: "):
        run("mps", FakeMps(), vit, {"evaluate": {"every": 0}})
