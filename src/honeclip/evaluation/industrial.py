"""The industrial suite: what would escape and what would be stopped for nothing, at a threshold that a line could have chosen.

A part is defective where it has a label that is not one of the domain's normal labels. Its score is 1 less the probability of
the normal labels, over all labels by their prompts. A second score asks two ensembles only, prompts of the normal labels
against prompts of all defects (as in Jeong et al. 2023, "WinCLIP", CVPR). Thresholds come from validation. Where the data has
no normal label there is nothing to pass or stop, and each class is one against the rest. `industrial_page` draws what is
computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from honeclip.errors import BadInput
from honeclip.evaluation import cost, industrial_page, leaks
from honeclip.evaluation.calibrated import labelled
from honeclip.evaluation.controls import at_chance, shuffled_auroc
from honeclip.evaluation.fewshot import few_shot
from honeclip.evaluation.industrial_page import Found
from honeclip.evaluation.inspection import cheapest_threshold, rates
from honeclip.evaluation.inspection import cost as cost_of_part
from honeclip.evaluation.intervals import Figure, known
from honeclip.evaluation.multilabel import one_against_rest, separation, truth_of
from honeclip.evaluation.operating import threshold_of_sensitivity
from honeclip.evaluation.requirements import LIMITS, Requirements, Verdict, at_least, at_most, costs_of, share
from honeclip.evaluation.scorer import of_classes
from honeclip.evaluation.suite import Asked, Picture, Split, Suite
from honeclip.evaluation.zeroshot import Predictions, per_class, predict
from honeclip.model.calibration import logistic, softmax
from honeclip.model.classify import Scorer, is_normal

NAME = "industrial"

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """The labelled pictures of a split.

    Attributes:
        rows: (P,) of each in the split's pairs.
        truth: (P, C) its classes.
        probability: (P, C) of each class.
        defective: (P,) whether it has a label that is not normal.
        score: (P,) 1 less the probability of the normal classes.
        two: (P,) the score of the two ensembles.
    """

    rows: NDArray[np.int64]
    truth: Truth
    probability: Floats
    defective: Truth
    score: Floats
    two: Floats


def industrial(asked: Asked) -> Suite | None:
    """Every figure of the suite; None where zero-shot does not apply: fewer than two labels, or no labelled picture."""
    if asked.classes is None or not len(labelled(asked.split)):
        return None
    scorer = of_classes(asked.classes)
    val = asked.other("val")
    mine = _scored(asked.split, scorer, asked)
    held = _scored(val, scorer, asked) if val and len(labelled(val)) else None
    train = asked.other("train")
    answers = predict(asked.split.embeddings.image[mine.rows], _labels(asked.split), asked.classes)
    metrics: dict[str, Any] = {
        "pictures": len(mine.rows),
        "defective": int(mine.defective.sum()),
        "normal": int((~mine.defective).sum()),
    }
    normal = [name for name in scorer.labels if is_normal(asked.domain, name)]
    if normal:
        figures, notes = _inspected(mine, held, asked)
    else:
        figures, notes = _each_class(mine, held, scorer.labels, asked)
    metrics |= figures
    if train:
        metrics["few_shot"] = few_shot(asked.split, train, val, scorer.labels, asked.seed)
        notes += leaks.told(leaks.leaks(asked.split, train))
    speed = cost.images_per_second(asked.clip, asked.split.pairs, asked.split.embeddings, asked.features)
    metrics["images_per_second"] = speed
    verdicts = _judged(asked.requirements, mine, held, speed, asked) if asked.requirements else ()
    if verdicts:
        metrics["requirements"] = [asdict(one) for one in verdicts]
        metrics["passed"] = all(one.passed for one in verdicts)
    metrics = {name: value for name, value in metrics.items() if value not in (None, {})}
    found = Found(
        metrics=metrics,
        classes=scorer.labels,
        normal=tuple(normal),
        confusion=_confusion(answers),
        rows=tuple(per_class(answers)) if answers else (),
        verdicts=verdicts,
        part=asked.requirements.part if asked.requirements else "",
        score=mine.score,
        defective=mine.defective,
        held=(held.score, held.defective) if held else None,
        labels=tuple(_labels(asked.split)),
        pictures=[Picture(asked.split.pairs.images[row], asked.split.pairs.rows[row]) for row in mine.rows],
    )
    return Suite(
        name=NAME,
        title=industrial_page.TITLE,
        verdict=industrial_page.verdict(found),
        metrics=metrics,
        blocks=industrial_page.blocks(found),
        notes=tuple(notes),
        limits=industrial_page.LIMITS,
    )


def _labels(split: Split) -> list[tuple[str, ...]]:
    return [split.labels[place] for place in labelled(split)]


def _scored(split: Split, scorer: Scorer, asked: Asked) -> Scored:
    places = labelled(split)
    rows = split.rows[places]
    logits = scorer.logits(split.embeddings.image[rows])
    probability = softmax(logits)
    normal = np.array([is_normal(asked.domain, name) for name in scorer.labels])
    truth = truth_of([split.labels[place] for place in places], scorer.labels)
    two = np.zeros(len(rows))
    if normal.any() and not normal.all():
        both = [normalize(scorer.text_CD[torch.from_numpy(which)].mean(0), dim=0) for which in (~normal, normal)]
        pair = Scorer("pairs", ("defective",), (both[0] - both[1])[None], scorer.scale)
        two = logistic(pair.logits(split.embeddings.image[rows])[:, 0])
    return Scored(
        rows=rows,
        truth=truth,
        probability=probability,
        defective=np.asarray(truth[:, ~normal].any(1)),
        score=probability[:, ~normal].sum(1) if normal.any() else np.zeros(len(rows)),
        two=two,
    )


def _inspected(mine: Scored, held: Scored | None, asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """Data with a normal class: separation of good and defective, and both rates at thresholds from validation."""
    seed, parts, notes = asked.seed, len(mine.rows), []
    out: dict[str, Any] = known(separation(mine.score, mine.defective), parts, seed)
    if not out:
        which = "defective" if mine.defective.all() else "good"
        return {}, [f"Not computable: all {parts} labelled parts of {asked.split.name} are {which}."]
    out["two_prompts"] = known(separation(mine.two, mine.defective), parts, seed)
    control = shuffled_auroc(mine.score, mine.defective, seed)
    if control is not None:
        out["control"] = control
        notes.append(industrial_page.control(control, at_chance(control)))
    if held is None or not held.defective.any() or held.defective.all():
        return out, [*notes, industrial_page.NO_VALIDATION]
    threshold = threshold_of_sensitivity(held.score, held.defective)
    out |= known(rates(mine.score, mine.defective, threshold), parts, seed)
    out["threshold"] = threshold
    costs = costs_of(asked.requirements)
    cheap = cheapest_threshold(held.score, held.defective, costs)
    out["cheapest"] = {
        "cost_of_escape": costs.escape,
        "cost_of_overkill": costs.overkill,
        "threshold": cheap if np.isfinite(cheap) else None,
        **known(rates(mine.score, mine.defective, cheap), parts, seed),
        **known(cost_of_part(mine.score, mine.defective, cheap, costs), parts, seed),
    }
    out["escape_rate_of"] = {
        name: _escape(mine.score[has], threshold, seed)
        for place, name in enumerate(asked.classes.names if asked.classes else ())
        if not is_normal(asked.domain, name) and (has := mine.truth[:, place]).any()
    }
    return out, notes


def _escape(scores: Floats, threshold: float, seed: int) -> Figure:
    """Escape rate of the parts of one defect."""
    return known(rates(scores, np.ones(len(scores), dtype=bool), threshold), len(scores), seed)["escape_rate"]


def _each_class(
    mine: Scored, held: Scored | None, names: Sequence[str], asked: Asked
) -> tuple[dict[str, Any], list[str]]:
    """Data without a normal class: each class against the rest."""
    out: dict[str, Any] = dict(one_against_rest(mine.probability, mine.truth, names, asked.seed))
    notes = [industrial_page.NO_NORMAL]
    control: dict[str, Figure] = {}
    for place, name in enumerate(names):
        found = shuffled_auroc(mine.probability[:, place], mine.truth[:, place], asked.seed)
        if found is None:
            notes.append(f"{name}: not computable, for all or none of the pictures of {asked.split.name} have it.")
        else:
            control[name] = found
    if control:
        out["control"] = control
        notes.append(industrial_page.control_of(control, {name: at_chance(one) for name, one in control.items()}))
    if held is None:
        return out, [*notes, industrial_page.NO_VALIDATION]
    escape: dict[str, Figure] = {}
    overkill: dict[str, Figure] = {}
    for place, name in enumerate(names):
        threshold = threshold_of_sensitivity(held.probability[:, place], held.truth[:, place])
        if np.isnan(threshold) or name not in control:
            continue
        of = rates(mine.probability[:, place], mine.truth[:, place], threshold)
        figures = known(of, len(mine.rows), asked.seed)
        escape[name], overkill[name] = figures["escape_rate"], figures["overkill_rate"]
    return {**out, "escape_rate": escape, "overkill_rate": overkill}, notes


def _judged(
    wanted: Requirements, mine: Scored, held: Scored | None, speed: float | None, asked: Asked
) -> tuple[Verdict, ...]:
    """Every requirement against what was measured.

    Raises:
        BadInput: the data cannot answer it: no good parts, no validation to choose a threshold on, a defect that is no label.
    """
    names = asked.classes.names if asked.classes else ()
    unknown = [name for name in wanted.defects if name not in names or is_normal(asked.domain, name)]
    if unknown:
        raise BadInput(f"requirements: defects.{unknown[0]}: no such defect among the labels {', '.join(names)}")
    if held is None or not held.defective.any() or held.defective.all():
        raise BadInput(
            "requirements need good and defective parts in the validation split, to choose the threshold on; good parts have a "
            f"label of the domain's normal_labels ({', '.join(asked.domain.normal_labels) or 'none'})"
        )
    costs = costs_of(wanted)
    threshold = threshold_of_sensitivity(held.score, held.defective)
    if wanted.costs:
        threshold = cheapest_threshold(held.score, held.defective, costs)
    stopped = mine.score >= threshold
    out = []
    for name in LIMITS:
        limit = getattr(wanted, name)
        if limit is None:
            continue
        if name == "images_per_second":
            out.append(at_least(name, limit, speed))
        elif name == "cost_per_part":
            of = cost_of_part(mine.score, mine.defective, threshold, costs)
            out.append(at_most(wanted, name, limit, known(of, len(mine.rows), asked.seed)[name]))
        else:
            parts, wrong = (mine.defective, ~stopped) if name == "escape_rate" else (~mine.defective, stopped)
            out.append(share(wanted, name, limit, int((parts & wrong).sum()), int(parts.sum())))
    for name, limit in wanted.defects.items():
        has = mine.truth[:, names.index(name)]
        out.append(share(wanted, f"defects.{name}", limit, int((has & ~stopped).sum()), int(has.sum())))
    return tuple(out)


def _confusion(answers: Predictions | None) -> NDArray[np.int64]:
    """(C, C) pictures of each class, by what they were called."""
    if answers is None:
        return np.zeros((0, 0), dtype=np.int64)
    number = len(answers.classes)
    counts = np.bincount(answers.truth * number + answers.predicted, minlength=number * number)
    return np.asarray(counts.reshape(number, number), dtype=np.int64)
