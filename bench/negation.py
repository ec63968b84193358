"""Do hard captions teach a model to tell a finding from its denial, on findings that it has not seen?

    python bench/negation.py data ../shared/data/openstax_microbiology/pairs.csv negation-data
    honeclip fit --data negation-data --domain medical --out runs/plain0 --set train.seed=0
    honeclip fit --data negation-data --domain medical --out runs/hard0 --set train.seed=0 --set loss.hard_captions=true
    python bench/negation.py score runs/plain0 runs/plain1 runs/plain2 -- runs/hard0 runs/hard1 runs/hard2

`data` gives real figures captions that say what they show ("presence of virus") and what they do not ("prion is absent"), in
terms of the medical list of which none is named in the negation probe. `score` prints the accuracy of each model, of the means
over seeds, and their paired difference over the items of the probe.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from honeclip.domains import domain as domains
from honeclip.evaluation import probes
from honeclip.evaluation.evaluate import in_its_domain
from honeclip.evaluation.probes import Scored
from honeclip.model.load import load

SAY = (
    ("no {x} is seen", "{x} is seen"),
    ("{x} is absent", "{x} is present"),
    ("a figure without {x}", "a figure with {x}"),
    ("absence of {x}", "presence of {x}"),
)
KINDS = {
    "organism", "species", "cell", "leukocyte", "cell part", "cell shape", "stain", "organ", "region", "disease", "fluid",
    "technique", "microscopy", "sign",
}  # fmt: skip
MEDICAL = domains.load("medical")
FOLDERS = domains.term_folders("medical")
ITEMS = [item for file in domains.read_probes(MEDICAL, FOLDERS) for item in file.items if item.kind == "negation"]


def data(source: Path, out: Path) -> None:
    """Up to three terms that a figure's own text names, and as many of the same kinds that it does not."""
    terms = domains.read_terms(MEDICAL, FOLDERS)
    asked = " ".join(" ".join((item.anchor, *item.ordered)) for item in ITEMS)
    kinds = {
        term.name: term.kind for term in terms.entries
        if term.kind in KINDS and term.name not in asked and not any(one.term == term for one in terms.occurrences(asked))
    }  # fmt: skip
    draw, rows = random.Random(0), []
    with source.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found = terms.occurrences(row["caption"] + " " + row.get("alt", ""))
            there = {one.term.name for one in found if not one.negated}
            yes = sorted(name for name in there if name in kinds)
            if not yes:
                continue
            draw.shuffle(yes)
            yes = yes[:3]
            alike = {kinds[name] for name in yes}
            no = sorted(name for name, kind in kinds.items() if name not in there and kind in alike)
            no = draw.sample(no, min(len(yes), len(no)))
            said = [draw.choice(SAY)[1].format(x=name) for name in yes] + [
                draw.choice(SAY)[0].format(x=name) for name in no
            ]
            rows += [(str((source.parent / row["image"]).resolve()), caption, row["split"]) for caption in said]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])


def mean(models: Sequence[str]) -> list[Scored]:
    """The answers of several models, each item's share right averaged."""
    answers = []
    for model in models:
        clip, _ = in_its_domain(load(model), MEDICAL)
        answers.append(probes.score(clip, ITEMS))
        print(model, probes.metrics(answers[-1])["negation"]["accuracy"])
    return [replace(one[0], right=sum(each.right for each in one) / len(one)) for one in zip(*answers, strict=True)]


def main(arguments: Sequence[str]) -> None:
    """As in the module's docstring."""
    if arguments[0] == "data":
        data(Path(arguments[1]), Path(arguments[2]))
        return
    cut = arguments.index("--")
    plain, hard = mean(arguments[1:cut]), mean(arguments[cut + 1 :])
    for name, scored in (("plain", plain), ("hard captions", hard)):
        print(name, probes.metrics(scored)["negation"]["accuracy"])
    print("difference", probes.paired_difference(plain, hard)["negation"]["accuracy"])


if __name__ == "__main__":
    main(sys.argv[1:])
