"""What watching costs: each thing that a step does for events.jsonl alone, beside the step itself."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import torch

from honeclip.device import detect, memory
from honeclip.device.memory import PeakMeter
from honeclip.monitoring.events import EventLog
from honeclip.training import optimizer as optimizers
from honeclip.training import planning, telling, trial
from honeclip.training.loop import train

TIMES = 50


def seconds(work: Callable[[], object], synchronise: Callable[[], None]) -> float:
    """The median time of a piece of work alone."""
    taken = []
    for _ in range(TIMES):
        synchronise()
        started = time.perf_counter()
        work()
        synchronise()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    """Prints one JSON object: seconds of the step, of each part alone, and their sum as a share of the step."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--model", default="random:ViT-B-32")
    asked.add_argument("--batch", type=int, default=32)
    asked.add_argument("--steps", type=int, default=3)
    asked.add_argument("--device", default="auto")
    given = asked.parse_args()

    device = detect.choose(given.device)
    made = trial.make(given.model, device)
    learner = replace(made.learner, plan=planning.whole(given.batch), flops=1e9, bound=1e12)
    batch = made.batch(given.batch)
    steps = train(learner, repeat(batch), lambda: "none")
    taken, step = [], next(steps)  # the first one warms up
    for _ in range(given.steps):
        device.synchronise()
        started = time.perf_counter()
        step = next(steps)
        device.synchronise()
        taken.append(time.perf_counter() - started)

    parts = optimizers.parts_of(learner.clip, learner.optimizer)
    learning = [one for members in parts.values() for one in members]
    for one in learning:
        one.grad = torch.ones_like(one)

    def global_norm() -> float:
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one.grad) for one in learning])))

    with tempfile.TemporaryDirectory() as folder, PeakMeter(device) as meter:
        log = EventLog(Path(folder) / "events.jsonl")
        fields = telling.of_step(learner, step, statistics.median(taken), meter.now_bytes)
        alone = {
            "norms by tower": lambda: optimizers.gradient_norms(parts),
            "rates": lambda: optimizers.rates(learner.optimizer),
            "swap": memory.swap,
            "memory by kind": lambda: memory.kinds(device, 0),
            "memory_bytes": lambda: meter.now_bytes,
            "the event's fields": lambda: telling.of_step(learner, step, 1.0, 0),
            "the event's line": lambda: log.append("step", **fields),
        }
        found = {name: seconds(work, device.synchronise) for name, work in alone.items()}
        # the global norm is needed for clipping: what it costs is no cost of watching
        plain = seconds(global_norm, device.synchronise)
        found["norms by tower, beyond the global one"] = max(0.0, found.pop("norms by tower") - plain)
        log.close()
        size = len((Path(folder) / "events.jsonl").read_bytes().splitlines()[0])
    whole = statistics.median(taken)
    print(
        json.dumps(
            {
                "device": device.name,
                "threads": torch.get_num_threads(),
                "model": given.model,
                "batch": given.batch,
                "seconds_per_step": whole,
                "global_norm": plain,
                "alone": found,
                "together": sum(found.values()),
                "share_of_the_step": sum(found.values()) / whole,
                "bytes_a_step": size,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
