"""honeclip's loader beside open_clip's csv loader and torchvision's ImageFolder: the same files to the same pixels.

    python bench/peers/loading.py

prints one JSON object. Pixels and tokens must be equal before any time is told. README.md says what is not fair, and to whom.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from open_clip.transform import image_transform
from open_clip_train.data import CsvDataset
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from honeclip import quickstart
from honeclip.data import loader, pairs
from honeclip.data.order import order
from honeclip.data.pairs import Pairs
from honeclip.device.facts import machine, versions
from honeclip.model.load import load
from honeclip.preprocess.preprocess import Preprocess, normalise

LARGEST = 1e-6
"""By which normalised pixels may differ: float32 of the same grey values."""

Epoch = Callable[[], Iterator[int]]
"""Gives the number of images of each batch."""


def main() -> None:
    """All in rounds, in one process; their workers are processes of their own."""
    args = _arguments()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quickstart.draw(folder)
        rows, how = pairs.load(folder).split("train"), load(args.model, "cpu").preprocess
        epochs = contestants(folder, rows, how, args)
        rounds: dict[str, list[dict[str, float]]] = {one: [] for one in epochs}
        for number in range(
            1 + args.rounds
        ):  # the first one does not count: it reads the files into the system's cache
            for one in list(epochs) if number % 2 == 0 else list(epochs)[::-1]:
                found = timed(epochs[one])
                print(f"round {number}, {one}: {found}", file=sys.stderr, flush=True)
                if number:
                    rounds[one].append(found)
    print(json.dumps(report(rounds, args), indent=1))


def contestants(folder: Path, rows: Pairs, how: Preprocess, args: argparse.Namespace) -> dict[str, Epoch]:
    """One epoch of each, in batches of the same size over the same pictures, drawn anew.

    Raises:
        SystemExit: they do not give the same pixels and tokens.
    """
    transform = image_transform(how.size_px, is_train=False, mean=how.mean, std=how.std)
    table = folder / "rows.tsv"
    with table.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["filepath", "title"])
        out.writerows(zip(map(str, rows.images), rows.captions, strict=True))
    for image, own in zip(rows.images, rows.labels, strict=True):
        place = folder / "classes" / own[0] / Path(str(image)).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(image)
    tokenizer = how.tokenizer
    assert tokenizer is not None
    listed = CsvDataset(str(table), transform, "filepath", "title", tokenizer=how.texts)
    foldered = ImageFolder(folder / "classes", transform)
    _equal(rows, how, listed, foldered)
    batches = len(rows) // args.batch
    options = {"batch_size": args.batch, "shuffle": True, "num_workers": args.workers, "drop_last": True}

    def honeclip() -> Iterator[int]:
        draws = islice(order(len(rows), args.batch, 0, size_px=how.size_px), batches)
        for one in loader.batches(rows, how, draws, workers=args.workers):
            assert one.images is not None
            yield len(one.images)

    def open_clip() -> Iterator[int]:
        yield from (len(images) for images, _ in DataLoader(listed, **options))

    def image_folder() -> Iterator[int]:
        yield from (len(images) for images, _ in DataLoader(foldered, **options))

    return {"honeclip": honeclip, "open_clip_csv": open_clip, "image_folder": image_folder}


def _equal(rows: Pairs, how: Preprocess, listed: Any, foldered: Any) -> None:
    """Ends the benchmark where a few pictures or captions come out otherwise."""
    first = next(loader.batches(rows, how, islice(order(len(rows), 32, 0, size_px=how.size_px), 1)))
    assert first.images is not None
    assert first.tokens is not None
    places = {Path(path).name: number for number, (path, _) in enumerate(foldered.samples)}
    mine = normalise(first.images, how.mean, how.std)
    worst = 0.0
    for row, pixels, tokens in zip(first.draw.indices.tolist(), mine, first.tokens, strict=True):
        image, text = listed[row]
        other: Tensor = foldered[places[Path(str(rows.images[row])).name]][0]
        worst = max(worst, float((pixels - image).abs().max()), float((pixels - other).abs().max()))
        if not torch.equal(tokens, text):
            sys.exit(f"row {row}: other tokens, so the loaders are not compared")
    if worst > LARGEST:
        sys.exit(f"pixels differ by up to {worst:.2g} of a standard deviation, so the loaders are not compared")


def timed(epoch: Epoch) -> dict[str, float]:
    """Images a second after the first batch, seconds until that, and CPU seconds an image of all processes."""
    began, cpu = time.perf_counter(), _cpu()
    batches = epoch()
    count = next(batches)
    started = time.perf_counter()
    later = sum(batches)
    seconds = time.perf_counter() - started
    del batches
    return {
        "images_per_second": later / seconds,
        "first_batch_seconds": started - began,
        "cpu_seconds_per_image": (_cpu() - cpu) / (count + later),
    }


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def report(rounds: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians of each, and honeclip's images a second over those of the others."""
    names = ("images_per_second", "first_batch_seconds", "cpu_seconds_per_image")
    speeds = {one: [found["images_per_second"] for found in some] for one, some in rounds.items()}
    ratios = {}
    for one in ("open_clip_csv", "image_folder"):
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
    return parser.parse_args()


if __name__ == "__main__":
    main()
