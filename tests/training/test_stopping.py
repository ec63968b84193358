"""SIGINT and SIGTERM: the first asks for a save after the step at hand, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import tiny_runs

from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint.save import named
from honeclip.errors import Interrupted
from honeclip.monitoring import events
from honeclip.training import finish, setup
from honeclip.training.signals import stopping

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals the POSIX way")


def stop_after(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends this process a signal in the middle of a 1-based step."""
    real = setup.loader.batches

    def batches(*arguments, **options):
        for batch in real(*arguments, **options):
            if batch.draw.step + 1 == step:
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(setup.loader, "batches", batches)


def steps(out: Path) -> list[tuple[int, float]]:
    return [(one["step"], one["loss"]) for one in events.read(out / "events.jsonl") if one["event"] == "step"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_step_saves_after_it_and_the_run_goes_on_as_the_same(number, code, quick, tmp_path, monkeypatch):
    quick(out=tmp_path / "whole")
    options = {"out": tmp_path / "run", "checkpoint": {"every": 5}}
    with monkeypatch.context() as patch:
        stop_after(3, number, patch)
        with pytest.raises(Interrupted, match="stopped and saved after step 3; go on with --resume") as caught:
            quick(**options)
    assert caught.value.exit_code == code
    assert named(tmp_path / "run" / "checkpoints", "LATEST") == "step-000003"
    assert not (tmp_path / "run" / "model").exists()
    assert quick(out=tmp_path / "run", resume=True).steps == 6
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")


def test_a_signal_in_the_last_step_saves_it_and_the_end_comes_with_resume(quick, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(6, signal.SIGTERM, patch)
        with pytest.raises(Interrupted, match="saved after step 6"):
            quick()
    assert not (tmp_path / "run" / "model").exists()
    assert quick(resume=True).steps == 6
    assert len(steps(tmp_path / "run")) == 6


def test_a_signal_while_the_end_is_written_stops_it_and_resume_writes_it(quick, tmp_path, monkeypatch):
    def saved(*arguments) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(finish.model_folder, "save", saved)
        with pytest.raises(Interrupted, match="nothing was lost"):
            quick(
                train={"patience": 1, "lr": 1e-9}, evaluate={"every": 1}
            )  # ended early, the way that is easily forgotten
    assert quick(resume=True).steps < 6
    assert (tmp_path / "run" / "model" / "open_clip_model.safetensors").is_file()


def test_a_signal_before_the_first_step_stops_at_once_and_leaves_what_can_be_resumed(quick, monkeypatch):
    def scored(*arguments) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(setup, "score_before", scored)
        with pytest.raises(Interrupted) as caught:
            quick()
    assert caught.value.exit_code == 130
    assert quick(resume=True).steps == 6


def test_the_handlers_are_those_of_before_when_the_run_is_over():
    def own(number, frame):
        raise AssertionError("this one is for others")

    before = {number: signal.signal(number, own) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(ZeroDivisionError), stopping():
            assert signal.getsignal(signal.SIGTERM) is not own
            raise ZeroDivisionError
        assert all(signal.getsignal(number) is own for number in before)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_in_another_thread_nothing_is_listened_to_and_the_run_works():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stopping() as stop:
            seen.append((stop.wanted, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, before)]


def test_a_second_signal_ends_the_process_at_once():
    code = """
        import os, signal
        from honeclip.training.signals import stopping

        with stopping() as stop:
            stop.waits = True  # a step is under way
            os.kill(os.getpid(), signal.SIGTERM)
            print("asked", stop.wanted, flush=True)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                print("never", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "asked 15\n", "")


def test_the_command_exits_as_the_shell_expects(vit, data, tmp_path, session_home):
    """The real command in a process of its own, stopped from outside while it trains."""
    out = tmp_path / "run"
    sets = ["train.length=100000", "train.batch=8", "train.precision=fp32", "evaluate.every=0", "checkpoint.every=0"]
    command = [sys.executable, "-m", "honeclip", "fit", "--data", str(data), "--model", str(vit), "--out", str(out)]
    command += ["--device", "cpu", "--json", *(text for one in sets for text in ("--set", one))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=tiny_runs.environment(session_home), **pipes) as process:
        for line in process.stderr:
            if line.startswith("training "):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.stdout.read() == ""
    assert process.returncode == 143
    assert "error: stopped and saved after step" in rest
    assert "Traceback" not in rest
    last = checkpoints.latest_good(out / "checkpoints", print)
    assert steps(out)[-1][0] == checkpoints.read(last).step
