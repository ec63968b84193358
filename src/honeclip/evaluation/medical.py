"""The medical suite: what a model says of each finding, at operating points that mean something in a clinic.

A finding is a label that is not one of the domain's normal labels. Separation (AUROC, average precision) is that of the model's
own probabilities; what depends on their size (thresholds, Brier score, net benefit) is that of the probabilities at the
temperature fitted on validation. A finding that no picture of the split has, or all have, is named and has no figure: neither
0 nor 1 would be true. `medical_page` draws what is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation import calibrated, calibration, leaks, medical_page, operating, prompting
from honeclip.evaluation.controls import at_chance, shuffled_auroc
from honeclip.evaluation.intervals import Figure, Statistic, known
from honeclip.evaluation.medical_page import Found
from honeclip.evaluation.multilabel import one_against_rest, truth_of
from honeclip.evaluation.subgroups import Group, by_column
from honeclip.evaluation.suite import Asked, Picture, Split, Suite
from honeclip.model.calibration import Calibration
from honeclip.model.classify import Scorer, is_normal

NAME = "medical"

FEW = 10
"""Positives under which an interval is a rough one."""

RISKS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Threshold probabilities of the decision curve that METRICS keep."""

PerFinding = dict[str, Figure]


@dataclass(frozen=True)
class Scored:
    """The labelled pictures of a split as the suite sees them.

    Attributes:
        rows: (P,) of each picture in the split's pairs.
        findings: F names, those that some of the pictures have and some have not.
        truth: (P, F).
        own: (P, F) probabilities as the model gives them.
        probability: (P, F) at the temperature; the same as `own` where there is none.
        right: (P,) whether the most probable class is right, and its probability before and after the temperature; None where
            pictures may have several labels.
    """

    rows: NDArray[np.int64]
    findings: tuple[str, ...]
    truth: NDArray[np.bool_]
    own: NDArray[np.float64]
    probability: NDArray[np.float64]
    right: tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]] | None


def medical(asked: Asked) -> Suite | None:
    """Every figure of the suite; None where the data has no finding to be told from others, or no labelled picture."""
    val = asked.other("val")
    splits = [asked.split, *([val] if val else [])]
    scorer = calibrated.scorer_for(asked.clip, asked.domain, asked.labels, splits, asked.classes, asked.features)
    if scorer is None or not len(calibrated.labelled(asked.split)):
        return None
    fitted = calibrated.fit(scorer, asked.domain, val, "val") if val else None
    if fitted is None and asked.clip.calibration and asked.clip.calibration.fits(scorer.kind, scorer.labels):
        fitted = asked.clip.calibration
    scored, notes = _scored(asked.split, scorer, fitted, asked)
    if not scored.findings:
        return Suite(NAME, medical_page.TITLE, medical_page.NOTHING, _about(scorer, scored, fitted), (), tuple(notes))
    figures = _separation(scored, asked.seed) | _at_thresholds(scored, fitted, asked.seed)
    figures |= _probabilities(scored, fitted, asked.seed)
    notes += _missed(figures["thresholds"])
    figures["net_benefit"] = _net_benefit(scored, asked.seed)
    figures["prompts"] = prompting.per_template(asked, scorer.kind, scored.rows, scored.findings, scored.truth)
    figures["subgroups"], said = _subgroups(scored, asked, fitted)
    notes += said
    figures["control"], said = _control(scored, asked.seed)
    notes += said
    train = asked.other("train")
    if train:
        notes += leaks.told(leaks.leaks(asked.split, train))
    found = Found(
        findings=scored.findings,
        truth=scored.truth,
        own=scored.own,
        probability=scored.probability,
        pictures=[Picture(asked.split.pairs.images[row], asked.split.pairs.rows[row]) for row in scored.rows],
        thresholds={name: (fitted.thresholds if fitted else {}).get(name, {}) for name in scored.findings},
        metrics={**_about(scorer, scored, fitted), **figures},
        fitted=fitted,
        kind=scorer.kind,
    )
    return Suite(
        name=NAME,
        title=medical_page.TITLE,
        verdict=medical_page.verdict(found),
        metrics={name: value for name, value in found.metrics.items() if value not in (None, {})},
        blocks=medical_page.blocks(found),
        notes=tuple(notes),
        limits=medical_page.LIMITS,
    )


def _about(scorer: Scorer, scored: Scored, fitted: Calibration | None) -> dict[str, Any]:
    """What was asked, beside the figures."""
    return {
        "pictures": len(scored.rows),
        "positives": {name: int(scored.truth[:, place].sum()) for place, name in enumerate(scored.findings)},
        "probabilities": scorer.kind,
        "temperature": fitted.temperature if fitted else None,
        "validation_pictures": fitted.pictures if fitted else None,
    }


def _scored(split: Split, scorer: Scorer, fitted: Calibration | None, asked: Asked) -> tuple[Scored, list[str]]:
    places = calibrated.labelled(split)
    rows = split.rows[places]
    logits = scorer.logits(split.embeddings.image[rows])
    truth = truth_of([split.labels[place] for place in places], scorer.labels)
    own = scorer.probabilities(logits)
    scaled = scorer.probabilities(logits, fitted.temperature) if fitted else own
    notes, kept = [], []
    if scorer.kind == "pairs":
        notes.append(medical_page.PAIRS)
    if fitted is None:
        notes.append(medical_page.NO_VALIDATION)
    for place, name in enumerate(scorer.labels):
        if is_normal(asked.domain, name):
            continue
        positives = int(truth[:, place].sum())
        if 0 < positives < len(rows):
            kept.append(place)
            if positives < FEW:
                notes.append(f"{name}: {positives} positives in {split.name}, so its interval is a rough one.")
        else:
            how = "no picture" if not positives else "every picture"
            notes.append(f"{name}: not computable, for {how} of the {len(rows)} in {split.name} has it.")
    best = own.argmax(1)
    right = None
    if scorer.kind == "softmax":
        right = (truth[np.arange(len(rows)), best], own.max(1), scaled.max(1))
    names = tuple(scorer.labels[place] for place in kept)
    return Scored(rows, names, truth[:, kept], own[:, kept], scaled[:, kept], right), notes


def _separation(scored: Scored, seed: int) -> dict[str, Any]:
    found = one_against_rest(scored.own, scored.truth, scored.findings, seed)
    return {"auroc": found["auroc"], "average_precision": found["average_precision"]}


def _at_thresholds(scored: Scored, fitted: Calibration | None, seed: int) -> dict[str, Any]:
    """Sensitivity and specificity at the thresholds from validation; beside each the one that it was chosen for."""
    out: dict[str, dict[str, Any]] = {
        "sensitivity_at_95_specificity": {},
        "specificity_at_95_sensitivity": {},
        "thresholds": {},
    }
    for place, name in enumerate(scored.findings):
        chosen = (fitted.thresholds if fitted else {}).get(name)
        if not chosen:
            continue
        wanted = {
            calibrated.SPECIFICITY: ("sensitivity_at_95_specificity", "sensitivity", "specificity"),
            calibrated.SENSITIVITY: ("specificity_at_95_sensitivity", "specificity", "sensitivity"),
        }
        for how, (key, value, reached) in wanted.items():
            of = operating.at_threshold(scored.probability[:, place], scored.truth[:, place], chosen[how])
            figures = known(of, len(scored.rows), seed)
            out[key][name] = figures[value]
            out["thresholds"].setdefault(name, {})[how] = {"probability": chosen[how], reached: figures[reached]}
    return out


def _missed(thresholds: Mapping[str, Any]) -> list[str]:
    """A sentence for each threshold that clearly does not keep here what it was chosen for."""
    out = []
    for name, chosen in thresholds.items():
        for how, what in ((calibrated.SPECIFICITY, "specificity"), (calibrated.SENSITIVITY, "sensitivity")):
            reached = chosen[how][what]
            if reached["high"] < operating.WANTED:
                out.append(medical_page.missed(name, how, what, reached))
    return out


def _probabilities(scored: Scored, fitted: Calibration | None, seed: int) -> dict[str, Any]:
    """Brier score and calibration error, as the model says it and at the temperature."""
    both = [("", scored.own), *([("_scaled", scored.probability)] if fitted else [])]
    out: dict[str, Any] = {}
    for ending, probability in both:
        briers = {
            name: calibration.brier(probability[:, place], scored.truth[:, place])
            for place, name in enumerate(scored.findings)
        }
        out[f"brier{ending}"] = _each(briers, len(scored.rows), seed)
        out[f"ece_of_finding{ending}"] = {
            name: calibration.calibration_figure(probability[:, place], scored.truth[:, place], seed)
            for place, name in enumerate(scored.findings)
        }
        if scored.right is not None:
            right, before, after = scored.right
            out[f"ece{ending}"] = calibration.calibration_figure(after if ending else before, right, seed)
        else:
            out[f"ece{ending}"] = calibration.calibration_figure(probability, scored.truth, seed)
    return out


def _each(statistics: Mapping[str, Statistic], pictures: int, seed: int) -> PerFinding:
    """The one figure of each finding's statistic."""
    return {name: next(iter(known(of, pictures, seed).values())) for name, of in statistics.items()}


def _net_benefit(scored: Scored, seed: int) -> dict[str, dict[str, dict[str, Figure]]]:
    """Finding -> threshold probability -> of the model, and of calling everybody."""
    return {
        name: {
            f"{risk:g}": known(
                operating.net_benefit(scored.probability[:, place], scored.truth[:, place], risk),
                len(scored.rows),
                seed,
            )
            for risk in RISKS
        }
        for place, name in enumerate(scored.findings)
    }


def _subgroups(scored: Scored, asked: Asked, fitted: Calibration | None) -> tuple[dict[str, Any], list[str]]:
    columns, many = by_column(asked.split.pairs.more, scored.rows)
    out: dict[str, Any] = {}
    notes = [medical_page.too_many(many)] if many else []
    for column, groups in columns.items():
        out[column] = {group.value: _group(scored, group, fitted, asked.seed) for group in groups}
        small = [f"{group.value} ({len(group.places)})" for group in groups if not group.scored]
        if small:
            notes.append(medical_page.too_small(column, small))
    return out, notes


def _group(scored: Scored, group: Group, fitted: Calibration | None, seed: int) -> dict[str, Any]:
    """Pictures of a group, positives of each finding, and the figures of those that it can tell apart."""
    places = group.places
    truth, own = scored.truth[places], scored.own[places]
    out: dict[str, Any] = {
        "pictures": len(places),
        "positives": {name: int(truth[:, at].sum()) for at, name in enumerate(scored.findings)},
    }
    if not group.scored:
        return out
    out["auroc"] = one_against_rest(own, truth, scored.findings, seed).get("auroc", {})
    for at, name in enumerate(scored.findings):
        chosen = (fitted.thresholds if fitted else {}).get(name)
        if chosen:
            of = operating.at_threshold(scored.probability[places, at], truth[:, at], chosen[calibrated.SPECIFICITY])
            for what, figure in known(of, len(places), seed).items():
                out.setdefault(what, {})[name] = figure
    return out


def _control(scored: Scored, seed: int) -> tuple[PerFinding, list[str]]:
    found: PerFinding = {}
    for place, name in enumerate(scored.findings):
        figure = shuffled_auroc(scored.own[:, place], scored.truth[:, place], seed)
        if figure is not None:
            found[name] = figure
    return found, [medical_page.control(found, at_chance)]
