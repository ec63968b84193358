"""kill -9 at fifty random moments of a run: every one ends, resumed, with the bits of the run that was never killed."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import tiny_runs
from conftest import LOOKS, SAVES, STEPS, bits, steps
from moments import PHASES, begins, lasts, wait

from honeclip.checkpoint.save import named

KILLS = 50
EACH = KILLS // len(PHASES)


@pytest.fixture(scope="module")
def seconds(warm, new, whole, tmp_path_factory) -> dict[str, float]:
    """How long each phase of a run takes today."""
    out = tmp_path_factory.mktemp("timed") / "run"
    started = time.time()
    assert warm.start(*new(out)).done().code == 0
    ended = time.time()
    assert bits(out) == bits(whole), "a run is a pure function of its settings"
    return {phase: lasts(out, phase, started, ended) for phase in PHASES}


def killed(warm, arguments, out: Path, phase: str, chance: random.Random, seconds: float) -> None:
    """A run, or what is left of it, killed at a random moment of a phase; one that was over before is begun again."""
    for attempt in range(20):
        where = out.with_name(f"{out.name}-{attempt}")
        command = warm.start(*arguments(where))
        step = {
            "step": chance.randrange(1, STEPS),
            "evaluation": LOOKS * chance.randrange(1, STEPS // LOOKS + 1),
            "save": SAVES * chance.randrange(1, STEPS // SAVES + 1),
        }.get(phase, 0)
        command.until(begins(phase, where, step))
        wait(chance.random() * seconds, lambda command=command: command.over)
        command.send(signal.SIGKILL)
        if command.done().code == -signal.SIGKILL:
            where.rename(out) if where.exists() else None
            return
    raise AssertionError(f"no process could be killed in its {phase}")


def left(out: Path) -> tuple[int, int, bool]:
    """Steps that a killed run had done, those of its last checkpoint, and whether another one was half written."""
    done = [step for step, _ in steps(out)]
    last = named(out / "checkpoints", "LATEST")
    return (
        max(done, default=0),
        int(last.removeprefix("step-")) if last else 0,
        any((out / "checkpoints").glob("*.partial*")),
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("phase", PHASES)
def test_fifty_kills_and_every_run_ends_with_the_same_bits(phase, warm, new, resumed, seconds, tmp_path):
    chance = random.Random(f"{phase} 0")
    seen: Counter[str] = Counter()
    for number in range(EACH):
        out = tmp_path / str(number)
        killed(warm, new, out, phase, chance, seconds[phase])
        if not (out / "run.toml").exists():  # nothing was begun, and the same command is still right
            assert warm.start(*new(out)).done().code == 0
            assert warm.start(*new(out)).done().code == 2, "now there is a run"
            resumed(out)
            seen["nothing"] += 1
            continue
        if number % 5 == 4:  # and the one that goes on is killed as well
            again = warm.start("fit", "--resume", "--out", out)
            wait(chance.random() * 1.5 * (seconds["start"] + seconds["finish"]), lambda again=again: again.over)
            again.send(signal.SIGKILL)
            again.done()
        done, saved, half = left(out)
        seen["half"] += half
        assert done - saved <= 2 * SAVES, "what is lost is what was not saved yet"
        said = resumed(out).err
        went_on = re.search(rf"going on after step (\d+) of {STEPS}", said)
        finished = re.search(rf"is finished: {STEPS} steps", said)
        assert int(went_on[1] if went_on else STEPS if finished else 0) == saved, "no step that was saved is done again"
        assert not any((out / "checkpoints").glob("*.partial*")), "what was half written is gone"
        seen["begun" if saved == 0 else "ended" if saved == STEPS else "between"] += 1
    print(phase, dict(seen))
    if phase == "save":
        assert seen["half"], "no kill fell into a save"


def test_killed_while_python_starts_nothing_was_begun(new, tmp_path, session_home, warm, resumed):
    """The real start of a process, imports and all."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "honeclip", *map(str, new(out))]
    for share in (0.02, 0.3, 0.8):
        with subprocess.Popen(command, env=tiny_runs.environment(session_home), stderr=subprocess.DEVNULL) as process:
            wait(3 * share, lambda: False)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (out / "checkpoints").exists()
    if (out / "run.toml").exists():
        resumed(out)
    else:
        assert warm.start(*new(out)).done().code == 0
        resumed(out)
