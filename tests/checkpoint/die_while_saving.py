"""Run by test_crash.py in a process of its own: saves a checkpoint again and again and dies at every point of it.

`python die_while_saving.py FOLDER MODE STEP` forks a child for each point. The child is killed by SIGKILL before the
n-th line that it runs (MODE "moments"), or by the kernel in the middle of a write (MODE "writes": SIGXFSZ at a file
size limit). Prints one JSON list: what each death left.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import torch

from honeclip.checkpoint import load
from honeclip.checkpoint.save import RunState, named, save, steps

OURS = str(Path(save.__code__.co_filename).parent)


def state(step: int, value: float) -> RunState:
    return RunState(step, 10, 1.0, {"weights": {"w": torch.full((100, 100), value)}}, {"value": value}, step * 100)


def die_at_moment(number: int) -> None:
    """SIGKILL at the n-th line of honeclip.checkpoint that runs, or operation on a file anywhere below it."""
    seen = 0

    def count(happened: bool) -> None:
        nonlocal seen
        seen += happened
        if happened and seen == number + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        count(event == "line")
        return trace

    sys.addaudithook(lambda event, _: count(event in {"os.rename", "os.remove", "os.rmdir"}))
    sys.settrace(trace)


def die_at_byte(number: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))


def child(folder: Path, arm, number: int, step: int) -> int:
    process = os.fork()
    if process == 0:
        arm(number)
        save(folder, state(step, 2.0), keep_last=1, best=True)
        os._exit(0)
    return os.waitpid(process, 0)[1]


def outcome(folder: Path, step: int) -> dict[str, object]:
    said: list[str] = []
    pointed = folder / (named(folder, "LATEST") or "")
    whole = load.verify(pointed) == [] and pointed != folder
    halves = [path.name for path in steps(folder).values() if load.verify(path)]
    found = load.read(load.latest_good(folder, said.append))
    best = load.read(load.best_good(folder, said.append))
    save(folder, state(step, 2.0), keep_last=1, best=True)
    return {
        "latest_whole": whole,
        "halves": halves,
        "found": [found.step, found.json["value"], float(found.tensors["weights"]["w"].min()), found.events_offset],
        "best": best.json["value"],
        "said": said,
        "left_behind": sorted(path.name for path in folder.iterdir() if path.name not in ("LATEST", "BEST")),
    }


def main(folder: Path, mode: str, step: int) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # a killed process loses nothing that it wrote; waiting for the disk only costs time
    start, numbers = folder / "start", range(0, 45_000, 1_500) if mode == "writes" else range(1000)
    save(start / "checkpoints", state(1, 1.0), keep_last=1, best=True)
    deaths = []
    for number in numbers:
        run = folder / f"run-{number}"
        shutil.copytree(start, run)
        status = child(run / "checkpoints", die_at_byte if mode == "writes" else die_at_moment, number, step)
        if os.WIFEXITED(status):
            break
        deaths.append({"signal": os.WTERMSIG(status), **outcome(run / "checkpoints", step)})
    print(json.dumps(deaths))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
