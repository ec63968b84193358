"""honeclip's loader beside open_clip's csv loader and torchvision's ImageFolder: the same files to the same pixels.

    python bench/peers/loading.py

prints one JSON object. Pixels and tokens must be equal before any time is told. README.md says what is not fair, and to whom.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import epochs
import numpy as np
import torch
from environments import environment
from rounds import in_rounds, said

from honeclip import quickstart
from honeclip.data import loader, pairs
from honeclip.data.order import Draw, order
from honeclip.device.facts import machine, versions
from honeclip.model import folder as folders
from honeclip.model.load import load
from honeclip.preprocess.preprocess import normalise

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv-open_clip"
PACKAGES = (f"open_clip_torch=={versions()['open_clip_torch']}", "torchvision", "webdataset", "braceexpand", "pandas")
"""What open_clip_train.data imports."""

PEERS = ("open_clip_csv", "image_folder")
LARGEST = 1e-6
"""By which normalised pixels may differ: float32 of the same grey values."""


def main() -> None:
    """All in rounds, each round a process of each; the first one does not count: it reads the files into the cache."""
    args = _arguments()
    if args.one:
        print(json.dumps(ours(json.loads(Path(args.one).read_text()))))
        return
    python = environment(args.environment, PACKAGES)
    with tempfile.TemporaryDirectory() as name:
        task = Path(name) / "task.json"
        task.write_text(json.dumps(prepared(Path(name), args)))
        side = [str(python), str(HERE / "loaders_side.py"), str(task)]
        commands = {"honeclip": [sys.executable, __file__, "--one", str(task)]} | {one: [*side, one] for one in PEERS}
        for one in PEERS:
            dump = Path(name) / f"{one}.npz"
            said(one, [*side, one, str(dump)])
            equal(json.loads(task.read_text()), one, dump)
        _, *counted = in_rounds(commands, range(1 + args.rounds))
    rounds = {one: [found[one] for found in counted] for one in commands}
    print(json.dumps(report(rounds, args), indent=1))


def prepared(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Draws the data, lays them out as each loader wants them, and says what is asked."""
    quickstart.draw(folder / "data")
    clip = load(args.model, "cpu")
    folders.save(clip, folder / "model", "# for a benchmark\n")
    rows, how = pairs.load(folder / "data").split("train"), clip.preprocess
    with (folder / "rows.tsv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["filepath", "title"])
        out.writerows(zip(map(str, rows.images), rows.captions, strict=True))
    for image, own in zip(rows.images, rows.labels, strict=True):
        place = folder / "classes" / own[0] / Path(str(image)).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(str(image))
    return {
        "data": str(folder / "data"),
        "model": str(folder / "model"),
        "table": str(folder / "rows.tsv"),
        "classes": str(folder / "classes"),
        "size": how.size_px,
        "mean": how.mean,
        "std": how.std,
        "batch": args.batch,
        "workers": args.workers,
        "threads": args.threads or torch.get_num_threads(),
    }


def ours(task: dict[str, Any]) -> dict[str, float]:
    """An epoch of honeclip's loader."""
    torch.set_num_threads(task["threads"])
    rows, how = pairs.load(task["data"]).split("train"), load(task["model"], "cpu").preprocess

    def epoch() -> Iterator[int]:
        draws = islice(order(len(rows), task["batch"], 0, size_px=how.size_px), len(rows) // task["batch"])
        for one in loader.batches(rows, how, draws, workers=task["workers"]):
            assert one.images is not None
            yield len(one.images)

    return epochs.timed(epoch)


def equal(task: dict[str, Any], peer: str, dump: Path) -> None:
    """Ends the benchmark where a peer's first pictures or captions come out otherwise than honeclip's."""
    rows, how = pairs.load(task["data"]).split("train"), load(task["model"], "cpu").preprocess
    places = {Path(str(one)).name: place for place, one in enumerate(rows.images)}
    theirs = np.load(dump)
    indices = np.array([places[name] for name in theirs["names"].tolist()])
    one = next(loader.batches(rows, how, [Draw(0, indices, how.size_px, 0.0, 0)]))
    assert one.images is not None
    assert one.tokens is not None
    worst = float(np.abs(normalise(one.images, how.mean, how.std).numpy() - theirs["pixels"]).max())
    if worst > LARGEST:
        sys.exit(f"{peer}: pixels differ by up to {worst:.2g} of a standard deviation, so nothing is compared")
    if peer == "open_clip_csv" and not np.array_equal(one.tokens.numpy(), theirs["beside"]):
        sys.exit(f"{peer}: other tokens, so nothing is compared")


def report(rounds: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians of each, and honeclip's images a second over those of the others."""
    names = ("images_per_second", "first_batch_seconds", "cpu_seconds_per_image")
    speeds = {one: [found["images_per_second"] for found in some] for one, some in rounds.items()}
    ratios = {}
    for one in PEERS:
        each = [mine / other for mine, other in zip(speeds["honeclip"], speeds[one], strict=True)]
        ratios[f"over_{one}"] = {"ratio": median(speeds["honeclip"]) / median(speeds[one]), "ratio_rounds": each}
    return {
        "data": "molecules that honeclip quickstart draws, the train split",
        "batch": args.batch,
        "workers": args.workers,
        "contestants": {
            one: {name: median(found[name] for found in some) for name in names} for one, some in rounds.items()
        },
        "ratios": ratios,
        "machine": machine(),
        "versions": versions(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="random:ViT-B-32", help="whose preprocessing all take")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of each; 0: none")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each that count, after one that does not")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, help="of the others; made by uv")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
