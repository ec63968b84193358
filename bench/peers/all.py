"""honeclip beside its peers, all of it by one command: training, memory, serving, evaluation and data loading.

    python bench/peers/all.py --out runs/peers

sets up what a peer needs, measures part after part, prints ratios with their spread, and writes OUT/peers.json and
OUT/peers.svg. Above 1 honeclip is the better one, in every row. README.md says what is compared, and what is not fair and to
whom.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from honeclip.device.facts import machine, versions
from honeclip.pictures.charts import Dot, dots
from honeclip.pictures.html import alone

HERE = Path(__file__).resolve().parent
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One ratio; above 1 honeclip is faster, or needs less.

    Attributes:
        part: of the benchmark.
        name: what is compared.
        ratio: of the medians.
        low: the lowest round.
        high: the highest round.
        wanted: what honeclip wants to reach; None where nothing was promised.
    """

    part: str
    name: str
    ratio: float
    low: float
    high: float
    wanted: float | None = None


@dataclass(frozen=True)
class Part:
    """A script of its own, what it is asked at the least, and its figures as rows."""

    script: Path
    rounds: str
    rows: Callable[[dict[str, Any]], Iterator[Row]]
    small: tuple[str, ...]


def training(found: dict[str, Any]) -> Iterator[Row]:
    """Time of a step over each peer, and the memory of it: the peer's over honeclip's."""
    for name, one in found["ratios"].items():
        yield Row("training", name, one["median"], min(one["rounds"]), max(one["rounds"]), one["goal"])
    for name, peer, ours in MEMORY:
        if {peer, ours} <= found["contestants"].keys():
            theirs, mine = ([r["peak_bytes"] for r in found["contestants"][one]["rounds"]] for one in (peer, ours))
            each = [other / own for own, other in zip(mine, theirs, strict=True)]
            yield Row("memory", name, sorted(each)[len(each) // 2], min(each), max(each))


MEMORY = (
    ("open_clip over honeclip that keeps nothing", "open_clip", "honeclip_none"),
    ("cached over honeclip that keeps nothing", "cached", "honeclip_none"),
    ("plain over honeclip that keeps all", "plain", "honeclip_all"),
)


def serving(found: dict[str, Any]) -> Iterator[Row]:
    """Items a second over infinity's."""
    for name in ("images", "texts"):
        one = found[name]
        each = one["ratio_rounds"]
        yield Row("serving", f"{name} a second over infinity", one["ratio"], min(each), max(each), one["goal"])


def evaluation(found: dict[str, Any]) -> Iterator[Row]:
    """Time over clip_benchmark's, whose scores were equal."""
    for name, words in (("retrieval", "retrieval"), ("both", "retrieval and zero-shot")):
        each = found[name]["ratio_rounds"]
        yield Row("evaluation", f"{words} over clip_benchmark", found[name]["ratio"], min(each), max(each))


def loading(found: dict[str, Any]) -> Iterator[Row]:
    """Images a second over each loader's, whose pixels were equal."""
    for name, one in found["ratios"].items():
        each = one["ratio_rounds"]
        yield Row("loading", name, one["ratio"], min(each), max(each))


PARTS = {
    "training": Part(HERE / "run.py", "--rounds", training, ("--batch", "8", "--micro-batch", "4")),
    "serving": Part(
        HERE.parent / "serving" / "peers.py", "--rounds", serving, ("--clients", "4", "--seconds", "2", "--cycles", "1")
    ),
    "evaluation": Part(HERE / "evaluation.py", "--rounds", evaluation, ()),
    "loading": Part(HERE / "loading.py", "--rounds", loading, ()),
}


def main() -> int:
    """Runs the parts one after the other; 1 where one failed."""
    args = _arguments()
    figures: dict[str, Any] = {}
    rows: list[Row] = []
    failed = []
    for name in args.only:
        print(f"== {name}", file=sys.stderr, flush=True)
        done = subprocess.run(command(name, args), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed.append(name)
            continue
        figures[name] = json.loads(done.stdout)
        rows += PARTS[name].rows(figures[name])
        if args.out:  # what is there already is kept where a later part fails
            write(args.out, rows, figures, failed)
    print(table(rows))
    if args.out:
        write(args.out, rows, figures, failed)
    if failed:
        print(f"failed, what they said stands above: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def command(name: str, args: argparse.Namespace) -> list[str]:
    """A part's script with what it is asked."""
    part = PARTS[name]
    options = [part.rounds, str(args.rounds)]
    if args.small:
        options += part.small
    if args.threads and name != "serving":
        options += ["--threads", str(args.threads)]
    if args.model and name != "serving":
        options += ["--model", args.model]
    return [sys.executable, str(part.script), *options]


def write(out: Path, rows: Sequence[Row], figures: dict[str, Any], failed: Sequence[str]) -> None:
    """peers.json, and peers.svg where there is a ratio."""
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "ratios": [asdict(row) for row in rows],
        "failed": list(failed),
        "figures": figures,
        "machine": machine(),
        "versions": versions(),
    }
    (out / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    if rows:
        (out / "peers.svg").write_text(picture(rows))


def table(rows: Sequence[Row]) -> str:
    """Markdown; what was wanted and missed says so."""
    out = [
        "| part | ratio, above 1 honeclip is better | median | lowest, highest round | wanted |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        missed = row.wanted is not None and row.ratio < row.wanted
        wanted = "" if row.wanted is None else f"{row.wanted:g}{': not met' if missed else ''}"
        out.append(f"| {row.part} | {row.name} | {row.ratio:.2f} | {row.low:.2f}, {row.high:.2f} | {wanted} |")
    return "\n".join(out)


def picture(rows: Sequence[Row]) -> str:
    """Every ratio with the range of its rounds, beside the line at 1."""
    highest = max(row.high for row in rows)
    best = sum(row.ratio > 1 for row in rows)
    return alone(
        dots(
            [f"{row.part}: {row.name}" for row in rows],
            [("honeclip", [Dot(row.ratio, row.low, row.high) for row in rows])],
            x_label="times as good as the peer",
            says=f"{len(rows)} ratios of honeclip to its peers; {best} are above 1, where honeclip is better.",
            x_range=(0.0, 1.05 * max(1.0, highest)),
            mark=1.0,
            inches=8.5,
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts, with commas between; memory comes with training"
    )
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help="of every part; at least 5 for a spread")
    parser.add_argument("--model", help="of training, evaluation and loading; random:ViT-B-32 where it is left out")
    parser.add_argument("--threads", type=int, help="of torch, but for serving; 1 on a machine that others use")
    parser.add_argument(
        "--small", action="store_true", help="small batches and few clients: to see that all of it works"
    )
    parser.add_argument("--out", type=Path, help="a folder for peers.json and peers.svg")
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := [name for name in args.only if name not in PARTS]:
        parser.error(f"--only {unknown[0]}: give some of {', '.join(PARTS)}")
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: at least 1, and 5 for a spread")
    return args


if __name__ == "__main__":
    sys.exit(main())
