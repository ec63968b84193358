"""An epoch of open_clip's csv loader or of torchvision's ImageFolder. Runs in an environment that lacks honeclip.

python loaders_side.py TASK.json open_clip_csv|image_folder [DUMP.npz]

TASK has "model" (a folder of open_clip, for its tokenizer), "table" (a csv with tabs), "classes" (a folder of folders), "size",
"mean", "std", "batch", "workers" and "threads". Prints the figures of one epoch; with DUMP writes, instead, pixels and names
(and tokens) of the first pictures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import epochs
import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from torch.utils.data import DataLoader

FIRST = 32


def main(task: SimpleNamespace, name: str, dump: str | None) -> None:
    """One loader."""
    torch.set_num_threads(task.threads)
    transform = image_transform(task.size, is_train=False, mean=tuple(task.mean), std=tuple(task.std))
    rows: Any
    if name == "open_clip_csv":
        from open_clip_train.data import CsvDataset

        tokenizer = open_clip.get_tokenizer(f"local-dir:{task.model}")
        rows = CsvDataset(task.table, transform, "filepath", "title", tokenizer=tokenizer)
        files = rows.images
    else:
        from torchvision.datasets import ImageFolder

        rows = ImageFolder(task.classes, transform)
        files = [path for path, _ in rows.samples]
    if dump:
        some = [rows[place] for place in range(FIRST)]
        pixels = np.stack([pixels.numpy() for pixels, _ in some])
        beside = np.stack([np.asarray(other) for _, other in some])
        np.savez(dump, names=[Path(one).name for one in files[:FIRST]], pixels=pixels, beside=beside)
        return
    options = {"batch_size": task.batch, "shuffle": True, "num_workers": task.workers, "drop_last": True}
    print(json.dumps(epochs.timed(lambda: (len(pixels) for pixels, _ in DataLoader(rows, **options)))))


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text())), sys.argv[2], (sys.argv[3:] or [None])[0])
