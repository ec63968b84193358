"""The industrial suite for people: its sentences, tables, charts, and the parts that escape or are stopped for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.inspection import Costs, cheapest_threshold, cost, exact
from honeclip.evaluation.intervals import Figure
from honeclip.evaluation.requirements import Verdict
from honeclip.evaluation.suite import Block, Card, Cell, Chart, Picture, Said, Table, cell, table, told
from honeclip.pictures.charts import Field, Series, heat, lines

TITLE = "Inspection"
CARDS = 8
MOST_CLASSES = 12
"""Classes of a confusion matrix that can still be read."""

RATIOS = tuple(float(one) for one in np.geomspace(1, 100, 25))
"""What an escape costs, in units of a part that is stopped for nothing."""

NO_VALIDATION = (
    "There is no validation split with good and defective parts beside the one that is asked, so no threshold is given: chosen "
    "on what is measured it would promise too much."
)
NO_NORMAL = (
    "No label of the data is one of the domain's normal labels, so nothing can pass or be stopped: escape and overkill are "
    "those of each class against the rest (normal_labels in the domain names what a good part is called)."
)
LIMITS = (
    "Figures are of these pictures, from this line, with labels as somebody gave them: another camera, light or batch may give "
    "others.",
    "Intervals know the chance of drawing pictures, not several pictures of one part (evaluate with --pool group where there "
    "is a column of parts), nor the chance of the threshold.",
    "A line sees far fewer defective parts than a data set: how many stopped parts are good follows from how rare defects are.",
    "Pictures per second are those of this machine in this run, reading and decoding of files included.",
)


@dataclass(frozen=True)
class Found:
    """What the page draws.

    Attributes:
        metrics: the section of METRICS.
        classes: C names.
        normal: those that mean a good part; () where there are none.
        confusion: (C, C) pictures of each class, by what they were called.
        rows: `zeroshot.per_class`.
        verdicts: of the requirements; () without a file of them.
        part: its name in that file.
        score: (P,) of each labelled picture.
        defective: (P,) whether it is.
        held: both on validation; None without.
        labels: of the P pictures.
        pictures: P of them.
    """

    metrics: Mapping[str, Any]
    classes: tuple[str, ...]
    normal: tuple[str, ...]
    confusion: NDArray[np.int64]
    rows: tuple[Mapping[str, Any], ...]
    verdicts: tuple[Verdict, ...]
    part: str
    score: NDArray[np.float64]
    defective: NDArray[np.bool_]
    held: tuple[NDArray[np.float64], NDArray[np.bool_]] | None
    labels: tuple[tuple[str, ...], ...]
    pictures: Sequence[Picture]


def verdict(found: Found) -> str:
    """Escape and overkill at the threshold from validation, else the separation, else what there is."""
    metrics = found.metrics
    if "threshold" in metrics:
        return (
            f"At the threshold that let at most 5 % of validation's defective parts pass, {told(metrics['escape_rate'])} of "
            f"{metrics['defective']} defective parts pass and {told(metrics['overkill_rate'])} of {metrics['normal']} good "
            f"ones are stopped; AUROC {told(metrics['auroc'])}."
        )
    if found.normal and "auroc" in metrics:
        return f"Good and defective parts are told apart with AUROC {told(metrics['auroc'])}."
    if "auroc" in metrics:
        worst = min(metrics["auroc"], key=lambda name: metrics["auroc"][name]["value"])
        return f"The class that is hardest to tell from the rest is {worst}: AUROC {told(metrics['auroc'][worst])}."
    return "Good and defective parts cannot be compared here: all are one of them."


def control(figure: Figure, chance: bool) -> str:
    """Of shuffled labels."""
    said = f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
    if chance:
        return f"Control: with shuffled labels the same scores come out at chance, 0.5: AUROC {said}."
    return f"Control FAILED: with shuffled labels the AUROC is {said}, not 0.5, so these figures do not measure what they say."


def control_of(found: Mapping[str, Figure], chance: Mapping[str, bool]) -> str:
    """The same for each class."""
    away = [name for name in found if not chance[name]]
    if away:
        return f"Control FAILED: with shuffled labels the AUROC of {', '.join(away)} is not 0.5."
    return f"Control: with shuffled labels the AUROC of each of {len(found)} classes comes out at chance, 0.5."


def blocks(found: Found) -> tuple[Block, ...]:
    """All of the page."""
    first = _line(found) if found.normal else _classes(found)
    made = [*_required(found), first, *_costs(found), *_few(found), *_confusion(found), *_wrong(found)]
    return tuple(block for block in made if block.tables or block.charts or block.cards)


def _required(found: Found) -> list[Block]:
    if not found.verdicts:
        return []
    rows = {}
    for one in found.verdicts:
        measured = Cell("–") if one.value is None else Cell(f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}")
        if one.low == one.high:
            measured = Cell(measured.text)
        rows[one.name] = [
            Cell(f"{one.limit:g}"),
            measured,
            Cell("pass" if one.passed else "fail", kind="good" if one.passed else "bad"),
            Cell(one.why),
        ]
    failed = [one.name for one in found.verdicts if not one.passed]
    intro = f"{found.part or 'The part'}: " + (
        f"{len(failed)} of {len(found.verdicts)} requirements are not shown to be met: {', '.join(failed)}."
        if failed
        else f"all {len(found.verdicts)} requirements are met."
    )
    note = "Small: 95 % intervals, exact ones of rates."
    return [Block("Requirements", intro, (), (table(["limit", "measured", "", "because"], rows, note),))]


def _line(found: Found) -> Block:
    metrics = found.metrics
    if "auroc" not in metrics:
        return Block("Good and defective")
    ways = {"all labels": metrics, "two prompts: normal, defective": metrics["two_prompts"]}
    rows = {name: [cell(one[key]) for key in ("auroc", "average_precision", "f1_max")] for name, one in ways.items()}
    tables = [
        table(["AUROC", "average precision", "F1 at most"], rows, "Small: 95 % bootstrap intervals over pictures.")
    ]
    if "threshold" in metrics:
        tables += [_rates(metrics), _defects(found)]
    return Block("Good and defective", "", (_trade(found),), tuple(tables))


def _rates(metrics: Mapping[str, Any]) -> Table:
    cheap = metrics["cheapest"]
    price = f"an escape costs {cheap['cost_of_escape']:g} times what a needless stop costs"
    rows = {
        "at most 5 % of validation's defects escape": _pair(metrics),
        f"cheapest on validation, where {price}": _pair(cheap),
    }
    return table(["escape rate", "overkill rate"], rows, "Thresholds are chosen on validation and applied here.")


def _pair(figures: Mapping[str, Any]) -> list[Cell]:
    return [cell(figures["escape_rate"]), cell(figures["overkill_rate"])]


def _defects(found: Found) -> Table:
    """Escape of each defect, with the exact interval: few of a kind are the rule."""
    rows = {}
    for name, figure in found.metrics["escape_rate_of"].items():
        parts = sum(name in own for own in found.labels)
        low, high = exact(round(figure["value"] * parts), parts)
        rows[name] = [Cell(str(parts)), Cell(f"{figure['value']:.3f}", f"{low:.3f} to {high:.3f}")]
    note = "Escape at the first threshold. Small: the exact interval of a share, which has a width at 0 too."
    return table(["parts", "escape rate"], rows, note)


def _trade(found: Found) -> Chart:
    order = np.argsort(-found.score, kind="stable")
    bad = found.defective[order]
    last = np.flatnonzero(np.concatenate([np.diff(found.score[order]) != 0, [True]]))
    escape = 1 - bad.cumsum()[last] / max(1, bad.sum())
    overkill = (~bad).cumsum()[last] / max(1, (~bad).sum())
    series = [Series("these pictures", [0.0, *overkill.tolist()], [1.0, *escape.tolist()], 1)]
    metrics = found.metrics
    says = f"AUROC {metrics['auroc']['value']:.3f}"
    if "threshold" in metrics:
        x, y = metrics["overkill_rate"], metrics["escape_rate"]
        series.append(Series("threshold from validation", [x["value"]], [y["value"]], 0, [(y["low"], y["high"])]))
        says += (
            f"; at the threshold from validation {y['value']:.3f} escape and {x['value']:.3f} are stopped for nothing"
        )
    series.append(Series("chance", [0, 1], [1, 0], None))
    svg = lines(series, x_label="overkill rate", y_label="escape rate", says=says, y_range=(-0.02, 1.02))
    return Chart("Escape against overkill", svg, "What every threshold would give on these pictures.")


def _costs(found: Found) -> list[Block]:
    if "threshold" not in found.metrics or found.held is None:
        return []
    score, defective = found.held
    whole = np.arange(len(found.score), dtype=np.int64)[None]
    model = []
    for ratio in RATIOS:
        costs = Costs(ratio, 1.0)
        threshold = cheapest_threshold(score, defective, costs)
        model.append(float(cost(found.score, found.defective, threshold, costs)(whole)["cost_per_part"][0]))
    share = float(found.defective.mean())
    series = [
        Series("model", RATIOS, model, 1),
        Series("stop every part", RATIOS, [1 - share] * len(RATIOS), 0),
        Series("let every part pass", RATIOS, [share * ratio for ratio in RATIOS], None),
    ]
    says = f"cost of a part from {model[0]:.3f} to {model[-1]:.3f}, where stopping all costs {1 - share:.3f}"
    svg = lines(
        series,
        x_label="cost of an escape (a needless stop costs 1)",
        y_label="cost of a part",
        says=says,
        log_x=True,
        y_range=(0, 1.5 * max(1 - share, max(model))),
    )
    intro = (
        "For each cost of an escape the threshold that was cheapest on validation, applied here. A model is of use where it "
        "costs less than both stopping every part and letting every part pass."
    )
    caption = f"At the share of defective parts that these pictures have, {share:.3f}; a line has fewer."
    return [Block("What it costs", intro, (Chart("Cost of a part", svg, caption),))]


def _classes(found: Found) -> Block:
    metrics = found.metrics
    columns = ["AUROC", "average precision", "escape rate", "overkill rate"]
    keys = ["auroc", "average_precision", "escape_rate", "overkill_rate"]
    rows = {name: [cell(metrics.get(key, {}).get(name)) for key in keys] for name in metrics["auroc"]}
    note = (
        "Small: 95 % bootstrap intervals over pictures. Thresholds let at most 5 % of the class escape on validation."
    )
    return Block("Each class against the rest", "", (), (table(columns, rows, note),))


def _few(found: Found) -> list[Block]:
    shots = found.metrics.get("few_shot")
    if not shots:
        return []
    rows = {}
    for number, ways in shots.items():
        for way, words in (("linear_probe", "linear probe"), ("nearest", "nearest neighbour")):
            rows[f"{number} a class, {words}"] = [
                cell(ways[way][key]) for key in ("macro_f1", "balanced_accuracy", "accuracy")
            ]
    intro = (
        "A classifier on the embeddings, learned from a few pictures of each class of train; means over five draws of them. "
        "Beside it the prompts above need none."
    )
    return [
        Block("With a few labelled pictures", intro, (), (table(["macro F1", "balanced accuracy", "accuracy"], rows),))
    ]


def _confusion(found: Found) -> list[Block]:
    there = np.flatnonzero(found.confusion.sum(1) > 0)
    called = np.flatnonzero(found.confusion.sum(0) > 0)
    if not len(there) or max(len(there), len(called)) > MOST_CLASSES:
        return []
    fields = []
    for row in there:
        total = found.confusion[row].sum()
        fields.append(
            [
                Field(
                    (1 if row == column else -1) * found.confusion[row, column] / total,
                    str(found.confusion[row, column]),
                )
                if found.confusion[row, column]
                else None
                for column in called
            ]
        )
    right = int(np.trace(found.confusion))
    says = f"{right} of {found.confusion.sum()} pictures are called what they are"
    svg = heat(
        [found.classes[row] for row in there],
        [found.classes[column] for column in called],
        fields,
        says=says,
        column_inches=0.8,
    )
    return [
        Block(
            "Kinds of defect", "", (Chart("Confusion", svg, f"Rows: what it is; columns: what it is called. {says}."),)
        )
    ]


def _wrong(found: Found) -> list[Block]:
    """Parts that escape, and parts that are stopped for nothing, those that the model is most sure of."""
    threshold = found.metrics.get("threshold")
    if threshold is None:
        return []
    escaped = [
        int(one)
        for one in np.argsort(found.score, kind="stable")
        if found.defective[one] and found.score[one] < threshold
    ]
    stopped = [
        int(one)
        for one in np.argsort(-found.score, kind="stable")
        if not found.defective[one] and found.score[one] >= threshold
    ]
    cards = []
    for which, mark in ((escaped, "escapes"), (stopped, "stopped for nothing")):
        for one in which[: CARDS // 2]:
            said = Said(" / ".join(found.labels[one]), f"{found.score[one]:.2f}", "wrong")
            cards.append(Card(found.pictures[one].image, mark, (said,), f"row {found.pictures[one].row}"))
    intro = (
        f"At the threshold from validation {len(escaped)} escape and {len(stopped)} are stopped for nothing; the number is the "
        "score."
    )
    return [Block("Called wrong", intro, (), (), tuple(cards))]
