"""Run by torchrun: one fit after the other, each as a JSON object says. Every rank writes what each returned into a file of
its own beside the cases, for lines of several processes on one pipe can end up in one another.

`fits_in_turn.py CASES` with a list of what `honeclip.fit` is given. With "signal": [number, rank, step] that rank sends itself
a signal as it takes the rows of a 1-based step. With "no_dropout" fresh heads have none from there on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from honeclip.device.world import of_environment
from honeclip.model import heads
from honeclip.training import finish, setup
from honeclip.training.run import fit


def signal_at(number: int, rank: int, step: int) -> None:
    real = setup.loader.batches

    def batches(*arguments, **options):
        for batch in real(*arguments, **options):
            if (of_environment().rank, batch.draw.step + 1) == (rank, step):
                os.kill(os.getpid(), number)
            yield batch

    setup.loader.batches = batches


def main(file: Path) -> None:
    torch.set_num_threads(1)
    finish.write = lambda *folder, **content: None  # the page is not compared, and drawing it is half of a tiny run
    for case in json.loads(file.read_text()):
        if case.pop("no_dropout", False):
            heads.DROPOUT.update(image=0.0, text=0.0)
        if "signal" in case:
            signal_at(*case.pop("signal"))
        run = fit(device="cpu", **case)
        with file.with_name(f"returned-{of_environment().rank}.jsonl").open("a") as returned:
            returned.write(json.dumps(run.to_json()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
