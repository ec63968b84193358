"""One chapter at a time is left out and asked, by models that were tuned on the others; see README.md."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import honeclip
from honeclip.data import pairs as manifests
from honeclip.data.pairs import Pairs
from honeclip.evaluation.intervals import RESAMPLES, Figure, figure

Ranks = NDArray[np.int64]
VAL = 5
"""One of so many of the other chapters chooses the checkpoint."""


def chapters_of(pairs: Pairs, column: str) -> list[str]:
    """Of each row; "" where it has none, or several labels."""
    if column == "label":
        return [own[0] if len(own) == 1 else "" for own in pairs.labels]
    return list(pairs.groups if column == "group" else pairs.more[column])


def write(pairs: Pairs, chapters: list[str], left: str, file: Path) -> None:
    """A manifest whose test split is the chapter that is left out."""
    others = sorted({one for one in chapters if one and one != left})
    val = set(np.random.default_rng(0).permutation(others)[: max(1, len(others) // VAL)].tolist())
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("image", "caption", "split", "group"))
        for image, caption, chapter in zip(pairs.images, pairs.captions, chapters, strict=True):
            if chapter:
                rows.writerow(
                    (image, caption, "test" if chapter == left else "val" if chapter in val else "train", chapter)
                )


def asked(file: Path, run: Path, domain: str, steps: int, seed: int) -> tuple[Ranks, Ranks, float]:
    """Ranks of both directions among the chapter that was left out, and what guessing gives as MRR."""
    train = {"length": steps, "seed": seed}
    config = {"train": train, "report": {"pictures": False}, "evaluate": {"every": "50%"}}
    made = honeclip.fit(data=str(file), out=str(run), domain=domain, config=config)
    ranks = honeclip.evaluate(made, data=str(file), domain=domain).answers.ranks
    shutil.rmtree(run)  # a hundred of them would fill a disk
    ways = (ranks.image_to_text, ranks.text_to_image)
    chance = float(np.mean([(1 / np.arange(1, len(one) + 1)).mean() for one in ways]))
    return (*ways, chance)


def mrr(found: dict[tuple[str, int], tuple[Ranks, Ranks, float]], chapters: list[str], seeds: int) -> Figure:
    """The mean over chapters and seeds of the MRR of both directions; the interval resamples both."""
    values = np.array(
        [
            [np.mean([(1 / way).mean() for way in found[chapter, seed][:2]]) for seed in range(seeds)]
            for chapter in chapters
        ]
    )
    draw = np.random.default_rng(0)
    drawn = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        rows, columns = draw.integers(0, len(chapters), len(chapters)), draw.integers(0, seeds, seeds)
        drawn[number] = values[rows][:, columns].mean()
    return figure(float(values.mean()), drawn)


def main() -> None:
    """Runs every chapter with every seed and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--column", default="group", help="what names a chapter: group, label, or another column")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--domain", default="scientific")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most", type=int, default=0, help="chapters that are left out, the largest first; 0: all")
    given = parser.parse_args()
    pairs = manifests.load(given.data)
    chapters = chapters_of(pairs, given.column)
    counts = Counter(one for one in chapters if one)
    left = [name for name, count in counts.most_common(given.most or None) if count > 1]
    found = {}
    for number, name in enumerate(left):
        file = given.out / str(number) / "pairs.csv"
        write(pairs, chapters, name, file)
        for seed in range(given.seeds):
            one = found[name, seed] = asked(
                file, given.out / str(number) / f"run{seed}", given.domain, given.steps, seed
            )
            got = np.mean([(1 / way).mean() for way in one[:2]])
            print(
                f"{name}, seed {seed}: MRR {got:.3f} among {len(one[1])}, by chance {one[2]:.3f}",
                file=sys.stderr,
                flush=True,
            )
    whole = mrr(found, left, given.seeds)
    each = {seed: mrr({(name, 0): found[name, seed] for name in left}, left, 1) for seed in range(given.seeds)}
    chance = float(np.mean([found[name, 0][2] for name in left]))
    print(json.dumps({"chapters": len(left), "mrr": whole, "of_seed": each, "chance_mrr": chance}, indent=1))


if __name__ == "__main__":
    main()
