"""Predicted against measured peak memory of training steps, over a grid; every point is a process of its own.

    python bench/memory/grid.py --out runs/memory

prints a table and writes OUT/memory.json and OUT/memory.svg. README.md says what the figures are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from honeclip.device.facts import machine, versions
from honeclip.pictures.charts import Series, lines
from honeclip.pictures.html import alone

MODELS, BATCHES, PIECES, PRECISIONS = "random:ViT-S-32-alt,starter", "32", "32:1,8:0,8:4", "fp32,bf16"
GB = 1e9
Point = dict[str, Any]


def main() -> int:
    """Measures the grid; 1 where a point failed or, with --most, is further off than that."""
    args = _arguments()
    points = grid(args)
    found: list[list[Point]] = [[] for _ in points]
    faults: list[str] = []
    for number in range(args.rounds):
        numbered = list(enumerate(points))
        for place, point in numbered if number % 2 == 0 else numbered[::-1]:
            done = subprocess.run(command(point, args), capture_output=True, text=True)
            if done.returncode:
                faults.append(f"{named(point)}: {done.stderr.strip().splitlines()[-1]}")
                print(faults[-1], file=sys.stderr, flush=True)
                continue
            found[place].append(json.loads(done.stdout))
            print(f"round {number + 1}, {named(point)}: {compared(point, found[place])}", file=sys.stderr, flush=True)
    rows = [compared(point, some) for point, some in zip(points, found, strict=True) if some]
    report = {"rows": rows, **summary(rows), "faults": faults, "machine": machine(), "versions": versions()}
    print(table(report))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "memory.json").write_text(json.dumps(report, indent=1) + "\n")
        if rows:
            (args.out / "memory.svg").write_text(picture(rows))
    off = args.most is not None and (not rows or report["largest_off"] > args.most)
    return int(bool(faults) or off)


def grid(args: argparse.Namespace) -> list[Point]:
    """Every point whose micro-batch is no larger than its batch."""
    return [
        {"model": model, "batch": batch, "micro_batch": micro_batch, "keep": keep, "precision": precision}
        for model, batch, (micro_batch, keep), precision in itertools.product(
            args.models, args.batches, args.pieces, args.precisions
        )
        if micro_batch <= batch
    ]


def command(point: Point, args: argparse.Namespace) -> list[str]:
    """`honeclip bench train` of a point."""
    options = {name.replace("_", "-"): value for name, value in point.items()}
    given = {**options, "steps": args.steps, "device": args.device, **({"data": args.data} if args.data else {})}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "honeclip", "bench", "train", *words, "--json"]


def named(point: Point) -> str:
    """A point in words."""
    return "{model} {precision}, batch {batch}, micro-batch {micro_batch}, {keep} kept".format(**point)


def compared(point: Point, rounds: list[Point]) -> Point:
    """Medians of the rounds, and how far the prediction lies from what was measured, as a share of it."""
    measured = [one["peak_memory_bytes"] for one in rounds]
    predicted = median(one["predicted_peak_bytes"] for one in rounds)
    peak = median(measured)
    return {
        **point,
        "measured_bytes": peak,
        "measured_low": min(measured),
        "measured_high": max(measured),
        "predicted_bytes": predicted,
        "off": predicted / peak - 1,
        "seconds_per_step": median(one["seconds_per_step"] for one in rounds),
    }


def summary(rows: list[Point]) -> dict[str, float]:
    """The largest and the median distance, whichever way, as shares of what was measured."""
    off = [abs(row["off"]) for row in rows]
    return {"largest_off": max(off), "median_off": median(off)} if off else {}


def table(report: dict[str, Any]) -> str:
    """Markdown."""
    out = [
        "| model, precision | batch, micro-batch, kept | measured GB | predicted GB | off by |",
        "|---|---|---|---|---|",
    ]
    out += [
        f"| {row['model']}, {row['precision']} | {row['batch']}, {row['micro_batch']}, {row['keep']} "
        f"| {row['measured_bytes'] / GB:.3f} | {row['predicted_bytes'] / GB:.3f} | {row['off']:+.1%} |"
        for row in report["rows"]
    ]
    if report["rows"]:
        out.append(f"\nlargest {report['largest_off']:.1%}, median {report['median_off']:.1%}")
    return "\n".join(out)


def picture(rows: list[Point]) -> str:
    """Measured to the right, predicted upwards, a dot a point, beside the line on which both are the same."""
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    series = []
    for number, precision in enumerate(precisions[:3]):
        some = sorted((row for row in rows if row["precision"] == precision), key=lambda row: row["measured_bytes"])
        series.append(
            Series(
                precision,
                [row["measured_bytes"] / GB for row in some],
                [row["predicted_bytes"] / GB for row in some],
                (1, 2, 0)[number],
            )
        )
    top = max(max(row["measured_bytes"], row["predicted_bytes"]) for row in rows) / GB
    same = Series("the same", [0.0, top], [0.0, top], None)
    says = f"Predicted against measured peak memory of {len(rows)} steps: at most {summary(rows)['largest_off']:.1%} apart."
    return alone(lines([*series, same], x_label="measured, GB", y_label="predicted, GB", says=says, y_range=(0, None)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS, help="model sources, with commas between, as all lists here")
    parser.add_argument("--batches", default=BATCHES, help="effective batches")
    parser.add_argument("--pieces", default=PIECES, help="micro-batch:kept")
    parser.add_argument("--precisions", default=PRECISIONS, help="fp32, bf16, fp16; the picture has three at most")
    parser.add_argument("--steps", type=int, default=2, help="of a process, after one that does not count")
    parser.add_argument("--rounds", type=int, default=1, help="processes a point; every second round the other way")
    parser.add_argument("--data", help="a manifest; else noise and the longest captions")
    parser.add_argument("--device", default="auto", help="cpu, mps or cuda")
    parser.add_argument("--most", type=float, help="exit 1 where a prediction is further off, as a share: 0.1")
    parser.add_argument("--out", type=Path, help="a folder for memory.json and memory.svg")
    args = parser.parse_args()
    args.models, args.precisions = args.models.split(","), args.precisions.split(",")
    try:
        args.batches = [int(one) for one in args.batches.split(",")]
        pieces = [piece.partition(":") for piece in args.pieces.split(",")]
        args.pieces = [(int(micro_batch), int(keep)) for micro_batch, _, keep in pieces]
    except ValueError:
        parser.error("--batches 32,64 and --pieces 32:1,8:0: whole numbers with commas between")
    return args


if __name__ == "__main__":
    sys.exit(main())
