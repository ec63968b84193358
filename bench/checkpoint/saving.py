"""What saving costs: the pause of a step, and the share of the training time at a given interval."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from honeclip.checkpoint.background import Saved, saver
from honeclip.checkpoint.save import RunState
from honeclip.device import detect
from honeclip.training import planning, trial
from honeclip.training.loop import Learner, train
from honeclip.training.session import SAVE_SHARE_S
from honeclip.training.stages import Stage
from honeclip.training.state import Position, capture


def state(learner: Learner, step: int, steps: int) -> RunState:
    """What a run saves after a step."""
    return capture(learner, Position(step, steps), 0, Stage(0, steps, frozenset()), 0)


def main() -> None:
    """Prints one JSON object: seconds of the pauses and of writing, of steps beside it and without, and the share."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--model", default="starter")
    asked.add_argument("--batch", type=int, default=16)
    asked.add_argument("--seconds", type=float, default=200.0, help="of training")
    asked.add_argument(
        "--every", type=float, default=SAVE_SHARE_S, help="seconds between two saves; the default: a run's"
    )
    asked.add_argument("--device", default="auto")
    asked.add_argument("--between", action="store_true", help="hold up the steps, without a copy and a thread")
    asked.add_argument("--out", default=None, help="a folder on the disk to be measured; default: one of the system's")
    given = asked.parse_args()

    device = detect.choose(given.device)
    made = trial.make(given.model, device)
    learner = replace(made.learner, plan=planning.whole(given.batch))
    steps = train(learner, repeat(made.batch(given.batch)), lambda: "none")
    quiet: list[float] = []
    beside: list[float] = []
    written: list[Saved] = []
    with (
        tempfile.TemporaryDirectory(dir=given.out) as name,
        saver(Path(name) / "checkpoints", 2, device.lock, print) as saving,
    ):
        next(steps)  # the first one warms up, and the optimizer has its moments
        device.synchronise()
        for number in (1, 2):  # the first save makes the buffers: the second has them, as all others
            begun = time.perf_counter()
            written += [one for one in (saving.save(state(learner, number, 9), since=begun), saving.wait()) if one]
        first, second = written
        written, writing = [], False
        started = last = time.perf_counter()
        number = 2
        while time.perf_counter() - started < given.seconds:
            begun = time.perf_counter()
            next(steps)
            device.synchronise()
            now = time.perf_counter()
            (beside if writing else quiet).append(now - begun)
            number += 1
            if (done := saving.done()) is not None:
                written.append(done)
                writing = False
            if now - last >= given.every:
                begun = last = time.perf_counter()
                written += [one for one in (saving.wait(),) if one]
                done = saving.save(state(learner, number, 10**6), beside=not given.between, since=begun)
                written += [done] if done else []
                writing = done is None
        whole = time.perf_counter() - started
        written += [one for one in (saving.wait(),) if one]
    usual = statistics.median(quiet)
    slower = sum(beside) - usual * len(beside)
    paused = sum(one.paused_s for one in written)
    print(json.dumps(told(device.name, given, first, second, written, quiet, beside, whole, paused, slower), indent=1))


def told(
    device: str,
    given: argparse.Namespace,
    first: Saved,
    second: Saved,
    written: list[Saved],
    quiet: list[float],
    beside: list[float],
    whole: float,
    paused: float,
    slower: float,
) -> dict[str, Any]:
    """The figures by name."""
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "model": given.model,
        "batch": given.batch,
        "bytes": second.bytes,
        "pause_that_makes_the_buffers": first.paused_s,
        "pause": [second.paused_s, *(one.paused_s for one in written)],
        "writing": [first.writing_s, second.writing_s, *(one.writing_s for one in written)],
        "seconds_between_saves": given.every,
        "seconds_of_training": whole,
        "saves": len(written),
        "seconds_per_step": statistics.median(quiet),
        "seconds_per_step_beside_a_save": statistics.median(beside) if beside else None,
        "seconds_waited": paused,
        "seconds_that_steps_were_slower": slower,
        "share_of_the_training_time": (paused + slower) / whole,
    }


if __name__ == "__main__":
    main()
