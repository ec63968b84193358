"""Run by torchrun: one fit after the other, each as a JSON object says; rank 0 prints what each returned, the others nothing.

`fits_in_turn.py CASES` with a list of what `honeclip.fit` is given.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from honeclip.device.world import of_environment
from honeclip.training import finish
from honeclip.training.run import fit


def main(file: Path) -> None:
    torch.set_num_threads(1)
    finish.write = lambda *folder, **content: None  # the page is not compared, and drawing it is half of a tiny run
    for case in json.loads(file.read_text()):
        run = fit(device="cpu", **case)
        # every process has what rank 0 returned
        print(json.dumps({"rank": of_environment().rank, **run.to_json()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
