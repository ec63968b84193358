"""What watching costs of a whole step: steps with and without it in turn, in one process, and the share with its interval.

Without it a step computes the global gradient norm, which clipping needs, and tells nothing; with it, it computes what
events.jsonl says of a step and writes the line. Everything else is the same code in the same order. The two steps of a pair
follow one another, the first of them by turns one or the other, so that a machine that grows warm favours neither.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

from honeclip.device import detect, memory
from honeclip.device.memory import PeakMeter
from honeclip.monitoring.events import EventLog
from honeclip.training import optimizer as optimizers
from honeclip.training import planning, telling, trial
from honeclip.training.loop import Step, train


@contextmanager
def silent() -> Iterator[None]:
    """A loop whose steps compute no figure but those that training needs."""
    kept = optimizers.gradient_norms, optimizers.rates, memory.kinds
    whole = kept[0]
    optimizers.gradient_norms = lambda parts: (whole({"": chain.from_iterable(parts.values())})[0], {})
    optimizers.rates = lambda optimizer: {}
    memory.kinds = lambda device, swap: {}
    try:
        yield
    finally:
        optimizers.gradient_norms, optimizers.rates, memory.kinds = kept


def interval_of_the_median(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median by the order of the values: no spread is assumed, and a step that another program held up
    counts as one (Conover, Practical Nonparametric Statistics, section 3.2)."""
    ordered, count = sorted(values), len(values)
    below, outside = 0.0, 0
    while outside < count // 2 and below + math.comb(count, outside) / 2**count <= 0.025:
        below += math.comb(count, outside) / 2**count
        outside += 1
    place = max(0, outside - 1)
    return ordered[place], ordered[count - 1 - place]


def main() -> None:
    """Prints one JSON object."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--model", default="random:ViT-B-32")
    asked.add_argument("--batch", type=int, default=32)
    asked.add_argument("--pairs", type=int, default=20)
    asked.add_argument("--warm-up", type=int, default=2, help="pairs that are not counted")
    asked.add_argument("--device", default="auto")
    given = asked.parse_args()

    device = detect.choose(given.device)
    made = trial.make(given.model, device)
    learner = replace(made.learner, plan=planning.whole(given.batch), flops=1e9, bound=1e12)
    steps = train(learner, repeat(made.batch(given.batch)), lambda: "none")
    with tempfile.TemporaryDirectory() as folder, PeakMeter(device) as meter:
        log = EventLog(Path(folder) / "events.jsonl")

        def seconds(after: Callable[[Step, float], Any]) -> float:
            device.synchronise()
            started = time.perf_counter()
            step = next(steps)
            after(step, time.perf_counter() - started)
            device.synchronise()
            return time.perf_counter() - started

        def watched() -> float:
            return seconds(
                lambda step, took: log.append("step", **telling.of_step(learner, step, took, meter.now_bytes))
            )

        def alone() -> float:
            with silent():
                return seconds(lambda step, took: None)

        with_it, without = [], []
        for number in range(-given.warm_up, given.pairs):
            first, second = (watched, alone) if number % 2 else (alone, watched)
            one, other = first(), second()
            if number >= 0:
                with_it.append(one if first is watched else other)
                without.append(other if first is watched else one)
            print(f"pair {number + 1} of {given.pairs}: {one:.4g} s and {other:.4g} s", file=sys.stderr, flush=True)
        log.close()
        lines = (Path(folder) / "events.jsonl").read_bytes().splitlines()
    usual = statistics.median(without)
    more = [one - other for one, other in zip(with_it, without, strict=True)]
    low, high = interval_of_the_median(more)
    print(
        json.dumps(
            {
                "device": device.name,
                "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0],
                "model": given.model,
                "batch": given.batch,
                "pairs": given.pairs,
                "seconds_per_step": usual,
                "seconds_of_watching": statistics.median(more),
                "share": {"value": statistics.median(more) / usual, "low": low / usual, "high": high / usual},
                "bytes_a_step": statistics.fmean(len(line) + 1 for line in lines),
                "with": with_it,
                "without": without,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
