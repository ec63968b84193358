"""SIGINT and SIGTERM in every phase of a run, and two processes on one run."""

from __future__ import annotations

import signal

import pytest
from conftest import bits
from moments import PHASES, begins, count

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_each_phase_ends_in_words_and_resume_in_the_same_bits(
    phase, number, warm, new, whole, resumed, tmp_path
):
    out = tmp_path / "run"
    command = warm.start(*new(out))
    step = {"step": 2, "evaluation": 8, "save": 6}.get(phase, 0)
    if phase == "start":  # from there on it listens; before, the system ends it as any other process
        command.until(lambda: "device: " in command.err)
    else:
        command.until(begins(phase, out, step))
    command.send(number)
    said = command.done().failed_in_words(CODES[number])
    assert "--resume" in said
    if (out / "run.toml").exists():
        resumed(out)
    else:
        assert phase == "start"
        assert warm.start(*new(out)).done().code == 0
        assert bits(out) == bits(whole)


def test_a_second_process_on_a_run_is_refused_and_harms_nothing(warm, new, whole, tmp_path):
    out = tmp_path / "run"
    first = warm.start(*new(out))
    first.until(lambda: count(out, "step") >= 1)
    first.send(signal.SIGSTOP)  # so that it is still there
    for arguments in (["fit", "--resume", "--out", out, "--set", "train.length=99"], [*new(out), "--overwrite"]):
        said = warm.start(*arguments).done().failed_in_words(2)
        assert f"another process is writing the run {out}" in said
    first.send(signal.SIGCONT)
    assert first.done().code == 0
    assert bits(out) == bits(whole)
