"""Run by test_study.py in a process of its own: a study that dies, or that waits for another one.

`python study_process.py DATA MODEL OUT TRIALS STORAGE ROLE PLACE`. ROLE is
`die`: the process kills itself while trial number PLACE is scored;
`wait`: its first trial begins only when somebody opens the named pipe PLACE to write;
`wake`: it opens the pipe when its own first trial has ended, which is when the other one begins.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny_runs
import torch

from honeclip.tuning import study

SETS = tuple(
    f"{section}.{key}={json.dumps(value)}"
    for section, table in tiny_runs.settings(train={"length": 3}).items()
    for key, value in table.items()
)


def main(data: str, model: str, out: str, trials: str, storage: str, role: str, place: str) -> None:
    torch.set_num_threads(1)
    real, begun = study.attempt, []

    def attempt(*given):
        begun.append(None)
        if role == "die" and len(begun) == int(place) + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if role == "wait" and len(begun) == 1:
            Path(place).read_text()
        if role == "wake" and len(begun) == 2:
            Path(place).write_text("go")
        return real(*given)

    study.attempt = attempt
    study.tune(
        data,
        out,
        model,
        sets=SETS,
        trials=int(trials),
        storage=storage or None,
        device="cpu",
        report=lambda text: print(text, file=sys.stderr),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
