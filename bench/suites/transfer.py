"""What is learned of one field in another: one model tuned on each data set, all asked the test split of all; see README.md."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import honeclip
from honeclip.evaluation import compare_page
from honeclip.evaluation.compare import compare
from honeclip.evaluation.comparison import Comparison
from honeclip.evaluation.evaluate import data_name

QUICK = {"report": {"pictures": False}, "evaluate": {"every": "50%"}}


def tuned(data: str, out: Path, model: str, domain: str, length: str, seed: int) -> str:
    """The folder of a run on one data set; one that is there already is taken as it is."""
    folder = out / data_name(data)
    if not (folder / "result.json").is_file():
        train = {"length": int(length) if length.isdigit() else length, "seed": seed}
        honeclip.fit(data=data, out=folder, model=model, domain=domain, config={**QUICK, "train": train})
    return str(folder)


def table(found: Comparison, names: Sequence[str]) -> list[str]:
    """Markdown: the model of a data set a row, the data set that is asked a column."""
    lines = ["| tuned on | " + " | ".join(f"{one.name}, {one.words}" for one in found.data) + " |"]
    lines.append("|" + "---|" * (len(found.data) + 1))
    for model, name in zip(found.models, names, strict=True):
        scores = [found.cells[model][one.name].score for one in found.data]
        cells = [f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" for score in scores]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Tunes, asks, prints the matrix and writes its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of the page")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--domain", default="scientific")
    parser.add_argument("--length", default="80", help="steps of each run, or another duration")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    runs = [tuned(one, given.out, given.model, given.domain, given.length, given.seed) for one in given.data]
    found = compare([given.model, *runs], given.data, domain=given.domain, seed=given.seed)
    print("\n".join(table(found, [f"nothing ({given.model})", *map(data_name, given.data)])))
    print(f"page: {compare_page.write(found, given.out / 'matrix', pictures=False)}")


if __name__ == "__main__":
    main()
