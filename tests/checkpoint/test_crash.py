"""A checkpoint survives its own writing: killed at any point, refused by the disk, or fought over by two processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from honeclip.checkpoint.lock import locked
from honeclip.checkpoint.save import RunState, save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills the POSIX way")

SCRIPT = Path(__file__).with_name("die_while_saving.py")
OLD, NEW = [1, 1.0, 1.0, 100], [2, 2.0, 2.0, 200]


def run_python(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def deaths(tmp_path: Path, mode: str, step: int) -> list[dict]:
    return json.loads(run_python(SCRIPT, tmp_path, mode, step).stdout)


def test_killed_at_any_line_latest_names_a_whole_checkpoint(tmp_path):
    found = deaths(tmp_path, "moments", 2)
    assert len(found) > 100
    assert all(one["signal"] == signal.SIGKILL for one in found)
    assert all(one["latest_whole"] for one in found)
    assert all(one["found"] in (OLD, NEW) and one["said"] == [] for one in found)
    assert not any(one["halves"] for one in found), "what is called step-... is whole"
    assert found[0]["found"] == OLD
    assert found[-1]["found"] == NEW
    best_first = [one for one in found if one["best"] == 2.0 and one["found"] == OLD]
    assert best_first, "BEST is replaced before LATEST"
    assert not [one for one in found if one["best"] == 1.0 and one["found"] == NEW]
    assert all(one["left_behind"] == ["step-000002"] for one in found), "the next save clears up"


@pytest.mark.slow
def test_killed_while_replacing_a_checkpoint_of_the_same_step_one_of_the_two_is_found(tmp_path):
    found = deaths(tmp_path, "moments", 1)
    assert len(found) > 100
    assert {tuple(one["found"]) for one in found} == {tuple(OLD), (1, 2.0, 2.0, 100)}
    assert all(one["left_behind"] == ["step-000001"] for one in found)


def test_killed_in_the_middle_of_a_write_the_old_one_is_whole(tmp_path):
    found = deaths(tmp_path, "writes", 2)
    assert len(found) > 20
    assert all(one["signal"] == signal.SIGXFSZ and one["latest_whole"] and one["found"] == OLD for one in found)


def test_a_full_disk_is_an_error_in_words_and_the_old_checkpoint_stays_whole(tmp_path):
    code = """
        import os, resource, sys
        from pathlib import Path
        import torch
        from honeclip.checkpoint import load
        from honeclip.checkpoint.save import RunState, save
        from honeclip.errors import HoneclipError

        folder = Path(sys.argv[1]) / "checkpoints"
        save(folder, RunState(1, 9, 0.0, {"weights": {"w": torch.ones(10)}}), keep_last=2)
        before = sorted(os.listdir(folder))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            save(folder, RunState(2, 9, 0.0, {"weights": {"w": torch.ones(100_000)}}), keep_last=2)
        except HoneclipError as error:
            print(error.exit_code, error)
        assert sorted(os.listdir(folder)) == before, os.listdir(folder)
        assert load.latest_good(folder, print).name == "step-000001"
    """
    said = run_python("-c", textwrap.dedent(code), tmp_path).stdout
    assert said.startswith("1 the checkpoint of step 2 could not be written to ")
    assert "File too large. step-000001 is whole." in said


def test_two_processes_do_not_write_one_run(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from honeclip.checkpoint.save import RunState, save
        from honeclip.errors import RunError

        try:
            save(Path(sys.argv[1]) / "checkpoints", RunState(2, 9, 0.0), keep_last=2)
        except RunError as error:
            print("refused:", error)
    """
    with locked(tmp_path), locked(tmp_path):  # a run holds it, and each of its saves takes it once more
        assert save(tmp_path / "checkpoints", RunState(1, 9, 0.0), keep_last=2).is_dir()
        said = run_python("-c", textwrap.dedent(code), tmp_path).stdout
    assert said.startswith("refused: another process is writing")
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "step-000001\n"
