"""Compares ratios of this run with those of a stored baseline, and warns of each that has moved by more than its spread.

    python bench/regressions/run.py                 # warns; exit 0
    python bench/regressions/run.py --strict        # exit 1 where one got worse
    python bench/regressions/run.py --write         # measures in several processes and stores a new baseline

README.md says what is measured, and when a new baseline is right.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import ratios

from honeclip.device.facts import machine, versions

BASELINE = Path(__file__).with_name("baseline.json")
LEAST_SPREAD = 0.02
"""As a share of the median: memory is the same in every round, and a change of a hundredth is no regression."""

ROUNDS, RUNS = 7, 3


@dataclass(frozen=True)
class Verdict:
    """What became of one ratio.

    Attributes:
        name: of the ratio.
        now: its median in this run.
        before: the baseline's; None where that has none.
        spread: how far it may lie from there.
    """

    name: str
    now: float
    before: float | None
    spread: float

    @property
    def moved(self) -> bool:
        """Whether it lies further off than its spread."""
        return self.before is None or abs(self.now - self.before) > self.spread

    @property
    def worse(self) -> bool:
        """Whether it has moved up: less is better in all of them."""
        return self.before is not None and self.now - self.before > self.spread

    @property
    def words(self) -> str:
        """One line for people."""
        what = ratios.RATIOS[self.name].words
        if self.before is None:
            return f"{self.name} ({what}) is {self.now:.3f}, and the baseline has no such ratio: store a new one"
        how = "worse" if self.worse else "better" if self.moved else "as before"
        return f"{self.name} ({what}): {self.now:.3f}, {how} (baseline {self.before:.3f}, spread {self.spread:.3f})"


def spread(low: float, middle: float, high: float) -> float:
    """How far a run's median may lie from the baseline's: from its lowest to its highest round."""
    return max(high - low, LEAST_SPREAD * middle)


def judged(found: dict[str, list[float]], baseline: dict[str, Any]) -> list[Verdict]:
    """A verdict for each ratio of this run.

    Args:
        found: every round of each.
        baseline: "ratios" of the file: "median", "low" and "high" of each.
    """
    verdicts = []
    for name, rounds in found.items():
        known = baseline.get(name)
        allowed = spread(known["low"], known["median"], known["high"]) if known else 0.0
        verdicts.append(Verdict(name, median(rounds), known["median"] if known else None, allowed))
    return verdicts


def warnings(verdicts: list[Verdict]) -> list[str]:
    """A line for each that moved, as GitHub's runner reads it."""
    titles = {True: "slower or larger than the baseline", False: "another ratio than the baseline"}
    return [f"::warning title={titles[one.worse]}::{one.words}" for one in verdicts if one.moved]


def stored(names: list[str], rounds: int, runs: int) -> dict[str, Any]:
    """A baseline: all rounds of several processes."""
    every: dict[str, list[float]] = {}
    for number in range(runs):
        print(f"run {number + 1} of {runs}", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--rounds", str(rounds), "--only", ",".join(names), "--rounds-alone"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for name, some in json.loads(done.stdout).items():
            every.setdefault(name, []).extend(some)
    return {
        "ratios": {name: {"median": median(some), "low": min(some), "high": max(some)} for name, some in every.items()},
        "rounds": rounds,
        "runs": runs,
        "machine": machine(),
        "versions": versions(),
    }


def main() -> int:
    """Measures and judges; the exit code."""
    args = _arguments()
    if args.write:
        made = stored(args.only, args.rounds, args.runs)
        if args.only != list(ratios.RATIOS):  # the others stay as they are
            made["ratios"] = {**json.loads(args.baseline.read_text())["ratios"], **made["ratios"]}
        args.baseline.write_text(json.dumps(made, indent=1) + "\n")
        return 0
    found = ratios.measured(args.only, args.rounds)
    if args.rounds_alone:
        print(json.dumps(found))
        return 0
    baseline = json.loads(args.baseline.read_text())
    verdicts = judged(found, baseline["ratios"])
    if args.json:
        print(json.dumps({"ratios": found, "moved": [one.name for one in verdicts if one.moved], "machine": machine()}))
    else:
        print("\n".join(one.words for one in verdicts))
    for line in warnings(verdicts):
        print(line, file=sys.stderr if args.json else sys.stdout)
    return int(args.strict and any(one.worse for one in verdicts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="the stored ratios")
    parser.add_argument("--only", default=",".join(ratios.RATIOS), help="ratios by name, with commas between")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the median counts")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a ratio got worse")
    parser.add_argument("--json", action="store_true", help="print one JSON object; warnings go to standard error")
    parser.add_argument("--write", action="store_true", help="store a new baseline")
    parser.add_argument("--runs", type=int, default=RUNS, help="processes of a new baseline")
    parser.add_argument("--rounds-alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.only = args.only.split(",")
    if unknown := [name for name in args.only if name not in ratios.RATIOS]:
        parser.error(f"--only {unknown[0]}: give some of {', '.join(ratios.RATIOS)}")
    if args.rounds < 1 or args.runs < 1:
        parser.error("--rounds and --runs: at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
