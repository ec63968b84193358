"""`honeclip track`: the figures of a real run, where they lie, and what is said where they cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from honeclip.cli.track import settings
from honeclip.monitoring import events


@pytest.fixture(scope="module")
def run(shapes, tiny, tmp_path_factory) -> Path:
    """A run of four steps."""
    from honeclip.training.run import fit

    out = tmp_path_factory.mktemp("tracked") / "run"
    config = tiny_runs.settings(train={"length": 4}, notify={"urls": ["desktop://"], "when": []})
    fit(data=shapes, out=out, model=tiny, config=config, device="cpu", report=lambda text: None)
    return out


def test_a_finished_run_is_written_for_tensorboard(run, command):
    code, out, _ = command("track", run, "--to", "tensorboard", "--follow")
    assert code == 0
    assert (
        out == f"figures up to step 4: {run / 'tensorboard'}\nto see them: tensorboard --logdir {run / 'tensorboard'}\n"
    )
    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    seen = events.read(run / "events.jsonl")
    steps = [(one["step"], one["loss"]) for one in seen if one["event"] == "step"]
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == [
        (n, pytest.approx(loss)) for n, loss in steps
    ]
    scores = [(one["step"], one["score"]) for one in seen if one["event"] == "evaluation"]
    assert [(one.step, one.value) for one in read.Scalars("val/score")] == [
        (n, pytest.approx(one)) for n, one in scores
    ]


def test_it_is_written_for_wandb_offline(run, command, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    code, out, _ = command("track", run, "--to", "wandb", "--out", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["to"], found["step"]) == ("wandb", 4)
    (file,) = Path(found["out"]).glob("*.wandb")
    content = file.read_bytes()
    assert b"train/loss" in content
    assert str(run.parent).encode() not in content, "where a run lies on somebody's machine is no business of others"


def test_settings_are_told_without_folders_and_addresses(run, tiny):
    found = settings(run / "run.toml")
    assert found["train"]["batch"] == 8
    assert found["model"]["source"] == tiny.name
    assert found["domain"] == "general"
    assert not {"data", "notify"} & found.keys()
    assert settings(run / "none.toml") == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "tensorbord"), "--to tensorbord: it is one of tensorboard, wandb"),
        (("--to", "wandb"), "holds no run (no events.jsonl)"),
    ],
)
def test_what_cannot_be_written_ends_with_exit_2(arguments, said, command, tmp_path):
    code, out, err = command("track", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tracker, run, session_home):
    code = f"""
        import sys

        sys.modules["{tracker}"] = None  # as Python does for a module that it may not import
        from honeclip.__main__ import main

        sys.argv = ["honeclip", "track", {str(run)!r}, "--to", "{tracker}"]
        main()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=tiny_runs.environment(session_home), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"error: {tracker} is not installed, which --to {tracker} needs: pip install 'honeclip[{tracker}]'\n"
    )
