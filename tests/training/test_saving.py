"""Checkpoints of whole runs are written beside the steps, and their events belong to the steps done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny_runs

from honeclip.monitoring import events
from honeclip.training.run import fit

QUIET = {"device": "cpu", "report": lambda text: None}


@pytest.fixture(scope="module")
def run(data, vit, tmp_path_factory) -> Path:
    """Ten steps, each of them saved and kept, of which every third is scored."""
    config = tiny_runs.settings(
        train={"length": 10},
        evaluate={"every": 3},
        checkpoint={"every": 1, "keep_last": 20},
        report={"pictures": False},
    )
    return fit(data=data, out=tmp_path_factory.mktemp("saving") / "run", model=vit, config=config, **QUIET).folder


def stored(run: Path) -> list[dict]:
    """state.json of every checkpoint, by step."""
    return [json.loads((path / "state.json").read_text()) for path in sorted((run / "checkpoints").glob("step-*"))]


def test_steps_go_on_while_a_checkpoint_is_written_and_the_last_one_is_waited_for(run):
    """What the plan says of the copy: there is room, as by weights and twice the moments."""
    found = stored(run)
    assert [one["step"] for one in found] == list(range(1, 11))
    copies = {one["json"]["plan"]["copy_bytes"] for one in found}
    sizes = [
        (run / "checkpoints" / "step-000010" / f"{name}.safetensors").stat().st_size
        for name in ("weights", "optimizer")
    ]
    assert len(copies) == 1
    assert copies.pop() == pytest.approx(sum(sizes), rel=0.05)
    told = [one for one in events.read(run / "events.jsonl") if one["event"] == "checkpoint"]
    assert [one["step"] for one in told] == list(range(1, 11))
    assert all(one["seconds"] > 0 and one["writing_seconds"] > 0 for one in told)
    assert told[-1]["seconds"] >= told[-1]["writing_seconds"]


def test_the_events_of_a_checkpoint_are_those_of_its_steps_and_of_the_checkpoints_before(run):
    text = (run / "events.jsonl").read_bytes()
    for one in stored(run):
        before = events.parsed(text[: one["events_offset"]])
        assert text[: one["events_offset"]].endswith(b"\n")
        assert [each["step"] for each in before if each["event"] == "step"] == list(range(1, one["step"] + 1))
        assert [each["step"] for each in before if each["event"] == "checkpoint"] == list(range(1, one["step"]))


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files the POSIX way")
def test_a_full_disk_ends_a_run_that_has_stepped_on(data, vit, session_home, tmp_path):
    """The event of the step after it may be there; no checkpoint is, and the run says so with exit code 1."""
    code = """
        import resource, sys
        from honeclip.training.run import fit
        from honeclip.errors import HoneclipError
        import tiny_runs

        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
        config = tiny_runs.settings(train={"length": 30}, checkpoint={"every": 2}, evaluate={"every": 100})
        try:
            fit(data=sys.argv[1], out=sys.argv[2], model=sys.argv[3], config=config, device="cpu", report=print)
        except HoneclipError as error:
            print("ended:", error.exit_code, error)
    """
    env = tiny_runs.environment(session_home)
    env["PYTHONPATH"] = os.pathsep.join([str(Path(tiny_runs.__file__).parent), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", textwrap.dedent(code), data, tmp_path / "run", vit]
    done = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (last,) = [line for line in done.stdout.splitlines() if line.startswith("ended:")]
    assert last.startswith("ended: 1 the checkpoint of step 2 could not be written to ")
    assert last.endswith("File too large. There is no earlier one. Make room, then go on with --resume")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert not [one for one in events if one["event"] == "checkpoint"]
    steps = [one["step"] for one in events if one["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert 2 <= len(steps) <= 4, "told at the next save at the latest"
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == []
