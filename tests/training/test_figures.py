"""Whole runs of real size, with the figures that they must reach: `pytest -m slow`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from test_resume import files, steps

pytestmark = pytest.mark.slow


def honeclip(home: Path, *arguments: object) -> dict:
    command = [sys.executable, "-m", "honeclip", *map(str, arguments), "--json"]
    env = {**tiny_runs.environment(home), "OMP_NUM_THREADS": str(os.cpu_count())}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("name", "freeze", "least"),
    [
        ("tuxpaint_stamps", "auto", 0.62),
        ("tuxpaint_stamps", "none", 0.62),
        ("openstax_microbiology", "auto", 0.48),
        ("openstax_astronomy", "auto", 0.62),
        ("molecules", "auto", 0.84),
    ],
)
def test_starter_with_the_defaults_on_real_pairs(name, freeze, least, shared_data, session_home, tmp_path):
    found = honeclip(
        session_home, "fit", "--data", shared_data / name, "--out", tmp_path / "run", "--set", f"model.freeze={freeze}"
    )
    before, after = (found[key]["retrieval"]["image_to_text"]["R@10"] for key in ("before", "after"))
    assert after["value"] >= least
    assert before["high"] < after["low"], "far clear of chance"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["starter", "random:ViT-B-32"])
def test_the_exact_step_of_real_models_on_real_pairs(model, shared_data, session_home):
    data = shared_data / "tuxpaint_stamps"
    found = honeclip(session_home, "verify", "--data", data, "--model", model, "--batch", 16, "--micro-batch", 4)
    assert found["passed"]
    assert found["max_relative_error_float64"] <= 1e-9
    assert found["logit_scale_ratio"] == pytest.approx(1, abs=5e-7)
    assert found["error_cached_float32"] <= 2 * found["error_plain_float32"] + 1e-7


@pytest.mark.timeout(1200)
def test_a_real_run_killed_from_outside_goes_on_as_the_run_that_was_not(shared_data, session_home, tmp_path):
    sets = ["train.length=10", "train.batch=16", "checkpoint.every=2", "evaluate.every=100", "report.pictures=false"]
    options = ["fit", "--data", shared_data / "tuxpaint_stamps", "--model", "random:ViT-S-32-alt"]
    options += [part for text in sets for part in ("--set", text)]
    honeclip(session_home, *options, "--out", tmp_path / "whole")
    out = tmp_path / "run"

    def writing() -> bool:
        return any(
            path.name.startswith("step-") and ".partial-" in path.name for path in (out / "checkpoints").iterdir()
        )

    for number, moment in enumerate((lambda: any(step >= 3 for step, _ in steps(out)), writing)):
        command = [sys.executable, "-m", "honeclip", *options, "--out", out, *(["--resume"] if number else [])]
        env = {**tiny_runs.environment(session_home), "OMP_NUM_THREADS": str(os.cpu_count())}
        with subprocess.Popen([*map(str, command)], env=env, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not moment():
                pass
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -9
    honeclip(session_home, "fit", "--resume", "--out", out)
    assert files(out) == files(tmp_path / "whole")
    assert steps(out) == steps(tmp_path / "whole")
