"""Settings side by side: the same data, model, seeds and test queries; see README.md of this folder."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.answers import Answers, sections
from honeclip.evaluation.intervals import RESAMPLES, figure
from honeclip.evaluation.retrieval import reciprocal
from honeclip.evaluation.selection import Sections, drawn
from honeclip.monitoring.terminal import Progress
from honeclip.training import folder, settings
from honeclip.training.attempt import Bench, attempt
from honeclip.training.frozen import Known
from honeclip.training.prepared import prepare

Draws = NDArray[np.float64]
"""(resamples + 1, arms, seeds): a figure of every run on the test queries as they are (row 0) and on every resample."""


@dataclass(frozen=True)
class Arm:
    """One setting: its name and what it sets besides what all arms set."""

    name: str
    sets: tuple[str, ...]


def runs(
    data: str,
    model: str,
    domain: str | None,
    sets: Sequence[str],
    arms: Sequence[Arm],
    seeds: int,
    *,
    val: bool = False,
    px: int = 0,
) -> Iterator[tuple[str, int, Answers, float]]:
    """(arm, seed, what the best weights answer on test, seconds) of each run.

    `val` asks the val split instead, and `px`, where it is not 0, shows images of that size.
    """
    values = folder.options(None, data, model, domain)
    with Progress() as progress:
        benches: dict[str, Bench] = {}  # one a domain: it decides texts, and so what is known of them
        for seed in range(seeds):
            for arm in arms:
                config = folder.absolute(settings.load(None, [*sets, *arm.sets, f"train.seed={seed}"], values))
                if config.data.domain not in benches:
                    prepared = prepare(config, "cpu", lambda text: print(text, file=sys.stderr), progress)
                    benches[config.data.domain] = Bench(prepared, Known(progress))
                shared = benches[config.data.domain]
                asked = shared.prepared.asked("val" if val else "test")
                begun = time.perf_counter()
                tried = attempt(shared, config)
                for _ in tried.scores():
                    pass
                seconds = time.perf_counter() - begun
                yield arm.name, seed, tried.report(asked, px or None).answers, seconds


def figures_of(answers: Answers) -> Iterator[tuple[str, Sections, str]]:
    """Name in the table, the sections that it is drawn of, and its name there; R@k where there are candidates for it."""
    found = dict(sections(answers))
    ways = {"image_to_text": answers.ranks.image_to_text, "text_to_image": answers.ranks.text_to_image}
    for name in ("R@10", "R@1"):
        if all(name in found[way][0](np.zeros((1, 1), dtype=np.int64)) for way in ways):
            yield name, {way: found[way] for way in ways}, name
    yield "MRR", {way: (reciprocal(ranks), len(ranks)) for way, ranks in ways.items()}, "mrr"
    if "zeroshot" in found:
        yield "balanced accuracy", {"zeroshot": found["zeroshot"]}, "balanced_accuracy"


def draws(found: dict[tuple[str, int], Answers], arms: Sequence[str], seeds: int) -> dict[str, Draws]:
    """Every figure of every run on the same resampled queries."""
    if len({one.queries for one in found.values()}) > 1:
        raise SystemExit("the runs were asked different things")
    out: dict[str, Draws] = {}
    for (arm, seed), answers in found.items():
        for title, of, name in figures_of(answers):
            rows = out.setdefault(title, np.zeros((RESAMPLES + 1, len(arms), seeds)))
            value, again = drawn(of, {name: 1.0})
            rows[:, arms.index(arm), seed] = np.concatenate([[value], again])
    return out


def difference(rows: Draws, first: int, second: int) -> dict[str, float]:
    """Arm `second` minus arm `first`, mean over seeds; the interval resamples queries and seeds."""
    apart = rows[:, second] - rows[:, first]
    chosen = np.random.default_rng(1).integers(0, apart.shape[1], size=(len(apart) - 1, apart.shape[1]))
    return figure(float(apart[0].mean()), np.take_along_axis(apart[1:], chosen, 1).mean(1))


def table(found: dict[str, Draws], arms: Sequence[str], against: int) -> Iterator[str]:
    """Markdown: an arm a row, a figure a column: its mean over seeds, and its difference to one arm with the interval."""
    yield "| setting | " + " | ".join(found) + " |"
    yield "|" + "---|" * (len(found) + 1)
    for place, arm in enumerate(arms):
        cells = []
        for rows in found.values():
            cell = f"{rows[0, place].mean():.3f}"
            if place != against:
                one = difference(rows, against, place)
                clear = "**" if one["low"] > 0 or one["high"] < 0 else ""
                cell += f" ({clear}{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]{clear})"
            cells.append(cell)
        yield f"| {arm} | " + " | ".join(cells) + " |"


def arm(text: str) -> Arm:
    """`name: a.b=c d.e=f` as an Arm."""
    name, _, sets = text.partition(":")
    return Arm(name.strip(), tuple(sets.split()))


def main() -> None:
    """Runs what the command line says and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--domain")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="A.B=V")
    parser.add_argument("--arm", dest="arms", action="append", type=arm, required=True, metavar="'NAME: A.B=V ...'")
    parser.add_argument("--against", help="the arm that the others are compared with; the first one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--val", action="store_true", help="ask the val split: for choices that test must not make")
    parser.add_argument("--px", type=int, default=0, help="ask with images of this size, whatever was trained with")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = [one.name for one in given.arms]
    found, seconds = {}, dict.fromkeys(names, 0.0)
    for name, seed, answers, took in runs(
        given.data, given.model, given.domain, given.sets, given.arms, given.seeds, val=given.val, px=given.px
    ):
        found[name, seed] = answers
        seconds[name] += took
        # as they come: a comparison that is stopped leaves what it has found
        got = ", ".join(f"{title} {drawn(of, {key: 1.0})[0]:.3f}" for title, of, key in figures_of(answers))
        print(f"{name}, seed {seed}: {took:.1f} s, {got}", file=sys.stderr, flush=True)
    rows = draws(found, names, given.seeds)
    against = names.index(given.against) if given.against else 0
    print("\n".join(table(rows, names, against)))
    print("seconds of a run: " + ", ".join(f"{name} {took / given.seeds:.1f}" for name, took in seconds.items()))
    if given.json:
        means = {figure_: {n: rows_[0, p].tolist() for p, n in enumerate(names)} for figure_, rows_ in rows.items()}
        given.json.write_text(json.dumps({"figures": means, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
