"""The medical suite for people: its sentences, tables, charts, and the pictures that it calls wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from honeclip.evaluation import calibration, operating
from honeclip.evaluation.calibrated import SENSITIVITY, SPECIFICITY
from honeclip.evaluation.intervals import Figure
from honeclip.evaluation.subgroups import SMALLEST
from honeclip.evaluation.suite import DASH, Block, Card, Cell, Chart, Picture, Said, Table, cell, table, told
from honeclip.model.calibration import Calibration, Kind
from honeclip.pictures.charts import Series, lines

TITLE = "Findings"
CURVES = 3
"""Findings that one chart shows, those with most positives."""

CARDS = 8
RISKS = np.round(np.arange(0.01, 0.96, 0.01), 2)

NOTHING = "No finding can be measured here: all pictures have it, or none has."
PAIRS = (
    "Pictures may have several labels, so each finding is scored by itself: its prompts against those that say that it is not "
    "there."
)
NO_VALIDATION = (
    "There is no labelled validation split beside the one that is asked, and the model carries no calibration for these "
    "labels: no threshold and no temperature is given, for chosen on what is measured they would promise too much."
)
LIMITS = (
    "Figures are of these pictures, from where they come, with labels as somebody gave them: another hospital, device or age "
    "group may give others.",
    "Intervals know the chance of drawing pictures, not wrong labels, nor several pictures of one patient (evaluate with "
    "--pool group where there is a column of patients). Thresholds and temperature are taken as given: their own chance is "
    "left out.",
    "Predictive values follow from how frequent a finding is, and a data set is seldom as frequent as a clinic.",
    "None of this is clinical evidence; it does not replace a study for the use that is meant.",
)
SPLIT_NOTE = (
    "Small: 95 % bootstrap intervals over pictures. Positives: pictures that have the finding. Thresholds are chosen on "
    "validation so that 95 % of its negatives lie below (or 95 % of its positives above), and applied here; beside each figure "
    "what the threshold was chosen for, as it came out here."
)


@dataclass(frozen=True)
class Found:
    """What the page draws.

    Attributes:
        findings: F names.
        truth: (P, F) which picture has which.
        own: (P, F) probabilities as the model gives them.
        probability: (P, F) at the temperature.
        pictures: P of them.
        thresholds: finding -> name -> probability.
        metrics: the section of METRICS.
        fitted: temperature and thresholds; None where there is no validation.
        kind: how probabilities are made.
    """

    findings: tuple[str, ...]
    truth: NDArray[np.bool_]
    own: NDArray[np.float64]
    probability: NDArray[np.float64]
    pictures: Sequence[Picture]
    thresholds: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, Any]
    fitted: Calibration | None
    kind: Kind


def verdict(found: Found) -> str:
    """The AUROC of the finding with most positives, and its sensitivity at the threshold from validation."""
    name = _by_positives(found)[0]
    positives = found.metrics["positives"][name]
    auroc = told(found.metrics["auroc"][name])
    said = f"{name}: AUROC {auroc} over {len(found.pictures)} pictures, {positives} of which have it"
    sensitivity = found.metrics["sensitivity_at_95_specificity"].get(name)
    if sensitivity:
        reached = told(found.metrics["thresholds"][name][SPECIFICITY]["specificity"])
        said += f"; at the threshold that had 95 % specificity on validation, sensitivity {told(sensitivity)} and specificity "
        said += reached
    more = len(found.findings) - 1
    return said + (f". {more} further findings are in the table." if more else ".")


def missed(name: str, how: str, what: str, reached: Figure) -> str:
    """Of a threshold that does not keep here what it was chosen for."""
    return (
        f"{name}: the threshold {how} was chosen for a {what} of {operating.WANTED:g} on validation, and has {told(reached)} "
        "here: the two splits differ, so a threshold for use must be chosen on pictures like those of the use."
    )


def too_many(columns: Sequence[str]) -> str:
    """Of columns that make no subgroups."""
    return f"No subgroups by {', '.join(columns)}: too many values; cut numbers into bands, such as 40-59, in the manifest."


def too_small(column: str, groups: Sequence[str]) -> str:
    """Of groups that are not scored."""
    return f"{column}: not scored, for they have fewer than {SMALLEST} pictures: {', '.join(groups)}."


def control(found: Mapping[str, Figure], at_chance: Callable[[Figure], bool]) -> str:
    """Of shuffled labels."""
    away = [name for name, figure in found.items() if not at_chance(figure)]
    if away:
        return (
            f"Control FAILED: with shuffled labels the AUROC of {', '.join(away)} is not 0.5, so these figures do not measure "
            "what they say."
        )
    spans = "; ".join(
        f"{name} {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for name, one in found.items()
    )
    return f"Control: with shuffled labels the same scores come out at chance, 0.5: {spans}."


def blocks(found: Found) -> tuple[Block, ...]:
    """All of the page."""
    made = [_findings(found), _probabilities(found), _decisions(found), *_subgroups(found), _prompts(found)]
    return (*made, *_wrong(found))


def _by_positives(found: Found) -> list[str]:
    return sorted(found.findings, key=lambda name: (-found.metrics["positives"][name], name))


def _column(found: Found, name: str) -> int:
    return found.findings.index(name)


def _findings(found: Found) -> Block:
    metrics, rows = found.metrics, {}
    for name in found.findings:
        thresholds = metrics["thresholds"].get(name, {})
        rows[name] = [
            Cell(str(metrics["positives"][name])),
            cell(metrics["auroc"][name]),
            cell(metrics["average_precision"][name]),
            cell(metrics["sensitivity_at_95_specificity"].get(name)),
            cell(thresholds.get(SPECIFICITY, {}).get("specificity")),
            cell(metrics["specificity_at_95_sensitivity"].get(name)),
            cell(thresholds.get(SENSITIVITY, {}).get("sensitivity")),
        ]
    columns = ["positives", "AUROC", "average precision", "sensitivity at 95 % specificity", "specificity there"]
    columns += ["specificity at 95 % sensitivity", "sensitivity there"]
    return Block("Each finding against the rest", "", (_roc(found),), (table(columns, rows, SPLIT_NOTE),))


def _roc(found: Found) -> Chart:
    shown = _by_positives(found)[:CURVES]
    series = []
    for colour, name in enumerate(shown, 1 if len(shown) < CURVES else 0):
        x, y = _curve(found.own[:, _column(found, name)], found.truth[:, _column(found, name)])
        series.append(Series(name, x, y, colour))
    says = "; ".join(f"{name}: AUROC {found.metrics['auroc'][name]['value']:.3f}" for name in shown)
    series.append(Series("chance", [0, 1], [0, 1], None))
    svg = lines(series, x_label="1 − specificity", y_label="sensitivity", says=says, y_range=(0, 1.02))
    rest = len(found.findings) - len(shown)
    more = f" The {len(shown)} findings with most positives; {rest} are not drawn." if rest else ""
    return Chart("ROC curve", svg, f"What every threshold would give on these pictures. {says}.{more}")


def _curve(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """False and true positive rate at every distinct score, from (0, 0) to (1, 1)."""
    false, true, _ = roc_curve(truth, scores)
    return [float(x) for x in false], [float(y) for y in true]


def _probabilities(found: Found) -> Block:
    metrics, fitted = found.metrics, found.fitted
    names = [("brier", "Brier score"), ("ece_of_finding", "calibration error")]
    columns = [word for _, word in names]
    columns += [f"{word}, scaled" for _, word in names] if fitted else []
    keys = [key for key, _ in names] + ([f"{key}_scaled" for key, _ in names] if fitted else [])
    rows = {name: [cell(metrics[key].get(name)) for key in keys] for name in found.findings}
    what = "of the most probable label" if found.kind == "softmax" else "mean over findings"
    rows[f"all: {what}"] = [cell(metrics[key]) if key in metrics else DASH for key in _overall(keys)]
    intro = "How a probability compares with how often it is right. "
    intro += (
        f"Scaled: the logits are divided by a temperature of {fitted.temperature:.3g}, fitted on {fitted.pictures} pictures of "
        "validation."
        if fitted
        else "Without validation there is no temperature."
    )
    note = (
        f"Less is better. Calibration error: expected calibration error over {calibration.BINS} bins. Brier score: mean "
        "squared distance of probability and truth."
    )
    return Block("Probabilities", intro, (_calibration(found),), (table(columns, rows, note),))


def _overall(keys: Sequence[str]) -> list[str]:
    """Keys of the figures over all findings; a Brier score has none."""
    return [key.replace("ece_of_finding", "ece") if key.startswith("ece") else "" for key in keys]


def _calibration(found: Found) -> Chart:
    truth = found.truth.ravel()
    both = [("as the model says", found.own, 0)]
    both += [("scaled", found.probability, 1)] if found.fitted else []
    series = []
    for name, probability, colour in both:
        one = calibration.curve(probability.ravel(), truth)
        series.append(Series(name, one.said.tolist(), one.true.tolist(), colour))
    series.append(Series("right", [0, 1], [0, 1], None))
    ece = found.metrics["ece"]["value"]
    says = f"calibration error {ece:.3f}"
    says += f", scaled {found.metrics['ece_scaled']['value']:.3f}" if found.fitted else ""
    svg = lines(series, x_label="probability of a finding", y_label="share that has it", says=says, y_range=(0, 1.02))
    return Chart("Calibration curve", svg, "Ten equally wide bins of the probability, all findings together.")


def _decisions(found: Found) -> Block:
    charts = []
    whole = np.arange(len(found.pictures), dtype=np.int64)[None]
    for name in _by_positives(found)[:CURVES]:
        place = _column(found, name)
        probability, truth = found.probability[:, place], found.truth[:, place]
        at = [operating.net_benefit(probability, truth, float(risk))(whole) for risk in RISKS]
        model, everybody = ([float(one[key][0]) for one in at] for key in ("model", "all"))
        share = float(truth.mean())
        series = [
            Series("model", RISKS.tolist(), model, 1),
            Series("call everybody", RISKS.tolist(), everybody, 0),
            Series("call nobody", RISKS.tolist(), [0.0] * len(RISKS), None),
        ]
        low = min(-0.05 * share, min(model))
        svg = lines(
            series,
            x_label="probability at which one would act",
            y_label="net benefit, of a picture",
            says=f"net benefit for {name}",
            y_range=(max(low, -share), share * 1.05),
        )
        charts.append(Chart(name, svg, f"{truth.sum()} of {len(truth)} pictures have it."))
    intro = (
        "Net benefit: positives found, less what was called needlessly at the odds of the probability at which one would act "
        "(Vickers and Elkin 2006). A model is of use there where it lies above both calling everybody and calling nobody."
    )
    return Block("Decision curve", intro, tuple(charts))


def _subgroups(found: Found) -> list[Block]:
    tables: list[Table] = []
    for column, groups in found.metrics["subgroups"].items():
        for name in _by_positives(found)[:CURVES]:
            rows = {}
            for value, one in groups.items():
                figures = [cell(one.get(what, {}).get(name)) for what in ("auroc", "sensitivity", "specificity")]
                rows[value] = [Cell(str(one["pictures"])), Cell(str(one["positives"][name])), *figures]
            smallest = min(one["pictures"] for one in groups.values())
            note = f"{name} by {column}. The smallest group has {smallest} pictures."
            tables.append(table(["pictures", "positives", "AUROC", "sensitivity", "specificity"], rows, note))
    if not tables:
        return []
    intro = (
        "Sensitivity and specificity at the one threshold from validation that had 95 % specificity. Many groups make some "
        "look different by chance: see whether intervals part."
    )
    return [Block("Subgroups", intro, (), tuple(tables))]


def _prompts(found: Found) -> Block:
    asked, shown = found.metrics["prompts"], _by_positives(found)[:CURVES]
    rows = {
        "all templates together": [cell(found.metrics["auroc"][name]) for name in shown],
        **{template: [cell(one[name]) for name in shown] for template, one in asked["auroc"].items()},
    }
    if "pairs" in asked:
        rows["a pair of prompts: there, and not there"] = [cell(asked["pairs"][name]) for name in shown]
    rows["largest less smallest template"] = [Cell(f"{asked['spread'][name]:.3f}") for name in shown]
    intro = "The same pictures through each template by itself. A figure that moves with the wording is owed to the wording."
    return Block("Wording of the prompts", intro, (), (table([f"AUROC, {name}" for name in shown], rows),))


def _wrong(found: Found) -> list[Block]:
    """The pictures that are called wrong at the threshold of 95 % specificity, the most sure first."""
    name = _by_positives(found)[0]
    place, threshold = _column(found, name), found.thresholds[name].get(SPECIFICITY)
    if threshold is None:
        return []
    probability, truth = found.probability[:, place], found.truth[:, place]
    missed = [int(one) for one in np.argsort(probability, kind="stable") if truth[one] and probability[one] < threshold]
    called = [
        int(one) for one in np.argsort(-probability, kind="stable") if not truth[one] and probability[one] >= threshold
    ]
    cards = []
    for which, mark in ((missed, "missed"), (called, "called needlessly")):
        for one in which[: CARDS // 2]:
            picture = found.pictures[one]
            said = Said(f"probability of {name}", f"{probability[one]:.2f}", "wrong")
            cards.append(Card(picture.image, mark, (said,), f"row {picture.row}"))
    intro = (
        f"{name} at a threshold of {threshold:.3g}: {len(missed)} missed, {len(called)} called needlessly; those that the "
        "model was most sure of."
    )
    return [Block("Called wrong", intro, (), (), tuple(cards))]
