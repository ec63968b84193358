"""What looks sick in how a run learns: rules over its losses, scores and embeddings. docs/watching.md has the reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from honeclip.monitoring.finding import Event, Finding, Told, is_number

# --- the embeddings ------------------------------------------------------------------------------------------------

ONE_PLACE = -0.2
"""Uniformity above which the points of a tower are nearly one: 0 is one point, -4 is evenly spread."""

APART = 0.05
"""Mean cosine of right pairs less that of the others, below which the model tells nothing apart."""


def collapse(told: Told) -> Finding | None:
    """A tower puts everything in nearly one place, and right pairs are no nearer than others, at two looks in a row.

    The look before the first step does not count: random weights begin in a narrow cone.
    """
    last = [_in_one_place(one) for one in told.looks[-2:] if one["step"] > 0]
    if len(last) < 2 or not all(last):
        return None
    return Finding(
        "collapse",
        f"nearly all {last[-1]} lie in one place, and right pairs are no nearer to each other than the rest: the model tells "
        "nothing apart",
        "a tenth of train.lr, train.warmup=10% and train.grad_clip=1; start anew, for a collapsed model does not come back",
        told.looks[-1]["step"],
    )


def _in_one_place(look: Event) -> str:
    """The towers whose embeddings are in one place at a look, in words; "" where none are."""
    health = look.get("health")
    if not isinstance(health, Mapping):
        return ""
    close = {
        name: health[f"uniformity_{name}"]
        for name in ("image", "text")
        if is_number(health.get(f"uniformity_{name}")) and health[f"uniformity_{name}"] > ONE_PLACE
    }
    apart = _apart(health.get("similarity"))
    if apart is None or apart >= APART:
        return ""
    return " and ".join(f"{name} embeddings (uniformity {abs(value):.2f} below 0)" for name, value in close.items())


def _apart(similarity: Any) -> float | None:
    """Mean cosine of right pairs less that of the others, from the middles of the histogram's bins."""
    try:
        middles = [(low + high) / 2 for low, high in pairwise(similarity["edges"])]
        means = [
            sum(middle * count for middle, count in zip(middles, counts, strict=True)) / sum(counts)
            for counts in (similarity["positive"], similarity["negative"])
        ]
    except (TypeError, KeyError, ValueError, ZeroDivisionError):
        return None
    return float(means[0] - means[1])


LIMITS = (1.0, 100.0)
"""Within which a learned logit scale is kept (Radford et al. 2021, section 2.5, for the upper one)."""

PINNED_SHARE, PINNED_STEPS = 0.2, 20
"""The last share of the steps, and how many at least, that the scale lies at a limit."""


def scale_pinned(told: Told) -> Finding | None:
    """The logit scale was elsewhere, came to a limit, and stays there: the loss wants a temperature that it may not have."""
    scales = [(one["step"], one["logit_scale"]) for one in told.steps if is_number(one.get("logit_scale"))]
    if not scales:
        return None
    low, high = LIMITS
    limit = high if scales[-1][1] > math.sqrt(low * high) else low

    def at_limit(scale: float) -> bool:
        return abs(math.log(scale / limit)) < 1e-3

    pinned = 0
    while pinned < len(scales) and at_limit(scales[-1 - pinned][1]):
        pinned += 1
    if pinned == len(scales) or pinned < max(PINNED_STEPS, PINNED_SHARE * len(scales)):
        return None
    since = scales[-pinned][0]
    if limit == high:
        says = f"the logit scale is at its upper limit of {high:g} since step {since}: it would go on without it"
        advice = (
            "loss.temperature=fixed with loss.logit_scale=50, a shorter train.length, or a larger "
            "loss.effective_negatives where the temperature is auto"
        )
    else:
        says = f"the logit scale is at its lower limit of {low:g} since step {since}: the loss has given up telling pairs apart"
        advice = "a tenth of train.lr; if it comes back, `honeclip check DATA --model M` for pairs that do not belong together"
    return Finding("scale pinned", says, advice, since)


# --- the loss and the score ----------------------------------------------------------------------------------------

WINDOWS, WINDOW_STEPS = 10, 8
"""Stretches of equal length whose median losses are compared, and the steps that each has at least."""

COME_BACK = 0.25
"""Share of what the loss had fallen by, by which it rose again."""

SKIPPED = 0.1
"""Share of the last hundred updates that half precision could not hold."""


def diverging(told: Told) -> Finding | None:
    """The training loss rises again, or updates are left out because gradients overflow."""
    last = told.steps[-100:]
    skipped = sum(bool(one.get("skipped")) for one in last)
    if len(last) >= WINDOWS * WINDOW_STEPS and skipped > SKIPPED * len(last):
        return Finding(
            "diverging",
            f"{skipped} of the last {len(last)} updates were left out: their gradients are too large for half precision",
            "train.precision=bf16 or fp32, or a lower train.lr",
            last[0]["step"],
        )
    steps = list(_of_one_size(told))
    length = len(steps) // WINDOWS
    if length < WINDOW_STEPS:
        return None
    medians = [
        median(one["loss"] for one in steps[start : start + length])
        for start in range(len(steps) - WINDOWS * length, len(steps), length)
    ]
    lowest = min(medians)
    place = medians.index(lowest)
    risen = medians[-1] - lowest
    noise = median(abs(one["loss"] - medians[-1]) for one in steps[-length:])
    if risen <= COME_BACK * max(medians[0] - lowest, 0.5 * lowest) or risen <= 2 * noise:
        return None
    since = steps[len(steps) - (WINDOWS - place) * length]["step"]
    return Finding(
        "diverging",
        f"the loss was {lowest:.3g} around step {since} and is {medians[-1]:.3g} now: it rises instead of falling",
        "a third of train.lr, train.grad_clip=1 and train.warmup=10%; go on from BEST, not from the end",
        since,
    )


def _of_one_size(told: Told) -> Iterator[Event]:
    """The last steps that all had the same effective batch and the same size of images: at another the loss is another."""
    begun = [one["step"] for one in told.events if one.get("event") == "stage" and is_number(one.get("step"))]
    since = begun[-1] if begun else 0
    pairs = told.steps[-1].get("pairs") if told.steps else None
    for one in reversed(told.steps):
        if one["step"] <= since or not _same(one.get("pairs"), pairs):
            since = one["step"]
            break
    return (one for one in told.steps if one["step"] > since)


def _same(pairs: Any, other: Any) -> bool:
    """Whether two batches have the same size, but for the odd picture that could not be read."""
    return not (is_number(pairs) and is_number(other)) or 0.8 < pairs / other < 1.25


LOOKS_SINCE, MEAN_OF = 5, 3
"""Evaluations after the best one, and the last of them whose mean is the score now: scores swing, and a best one is a swing."""

LOST_LEAST, FALLEN = 0.03, 0.9
"""Score that must be lost at least, and the share to which the training loss must have fallen since: else it only jitters."""


def overfitting(told: Told) -> Finding | None:
    """The score on val falls by more than it can be trusted while the training loss falls further."""
    if not told.looks:
        return None
    best = max(told.looks, key=lambda one: one["score"])
    since = [one for one in told.looks if one["step"] > best["step"]]
    if len(since) < LOOKS_SINCE:
        return None
    now = fmean(one["score"] for one in since[-MEAN_OF:])
    lost = best["score"] - now
    if lost <= max(LOST_LEAST, _error(best)):
        return None
    then, end = (
        _loss_around(told.steps, best["step"]),
        _loss_around(told.steps, told.steps[-1]["step"] if told.steps else 0),
    )
    if then is None or end is None or end > FALLEN * then:
        return None
    return Finding(
        "overfitting",
        f"the score on val was {best['score']:.3f} at step {best['step']} and is {now:.3f}, while the training loss fell from "
        f"{then:.3g} to {end:.3g}: it learns the train pairs by heart",
        "train.patience=3 or a shorter train.length; model.freeze=towers or model.lora_rank=8 where towers learn; more data",
        best["step"],
    )


def _loss_around(steps: Sequence[Event], step: int) -> float | None:
    """The median loss of the last ten steps up to a step, of those that there are: of a long run a dashboard keeps a few."""
    before = [one["loss"] for one in steps if one["step"] <= step][-10:]
    return median(before) if before else None


PLATEAU_SHARE, PLATEAU_LOOKS, PLATEAU_STEPS = 1 / 3, 5, 200
"""The score got there in the first share of the run, and so many evaluations and steps since brought nothing."""


def plateau(told: Told) -> Finding | None:
    """Most of the run came after the score had stopped rising."""
    if len(told.looks) < PLATEAU_LOOKS + 2:
        return None
    best = max(told.looks, key=lambda one: one["score"])
    reached = next(one for one in told.looks if one["score"] >= best["score"] - _error(best) / 2)
    last = told.looks[-1]
    since = sum(one["step"] > reached["step"] for one in told.looks)
    begun = told.looks[0]["step"]
    if since < PLATEAU_LOOKS or last["step"] - reached["step"] < PLATEAU_STEPS:
        return None
    if reached["step"] - begun > PLATEAU_SHARE * (last["step"] - begun):
        return None
    minutes = (
        (last["time"] - reached["time"]) / 60 if is_number(last.get("time")) and is_number(reached.get("time")) else 0
    )
    return Finding(
        "plateau",
        f"the score was {reached['score']:.3f} at step {reached['step']} and {best['score']:.3f} at best since: the "
        f"{last['step'] - reached['step']} steps after it ({minutes:.1f} min) brought nothing that can be told from chance",
        f"train.length={max(1, round(1.5 * (reached['step'] - begun)))}, or train.patience=3, which ends a run by itself",
        reached["step"],
    )


def _error(look: Event) -> float:
    """One standard error of a score, taken as a share of the val pairs; a tenth where their number is not told."""
    metrics = look.get("metrics")
    pairs = metrics.get("pairs") if isinstance(metrics, Mapping) else None
    if pairs is None or not is_number(pairs) or pairs <= 0:
        return 0.1
    share = min(max(float(look["score"]), 0.0), 1.0)
    return math.sqrt(max(share * (1 - share), 0.01) / pairs)


def forgetting(told: Told) -> Finding | None:
    """More was lost on `evaluate.forgetting_data` than `evaluate.max_forgetting` allows."""
    over = [one for one in told.events if one.get("event") == "evaluation" and one.get("within") is False]
    if not over:
        return None
    most = max(over, key=lambda one: one["forgetting"] if is_number(one.get("forgetting")) else 0.0)
    back = sum(one.get("event") == "rewind" for one in told.events)
    went = f", and the run went back {back} time{'s' if back > 1 else ''}" if back else ""
    return Finding(
        "forgetting",
        f"at step {most['step']} {most.get('forgetting') or 0.0:.3f} of the score on evaluate.forgetting_data was lost, more "
        f"than evaluate.max_forgetting allows{went}",
        "model.lora_rank=8, model.freeze=towers or a third of train.lr; RUN/interpolated lies between the start and the end",
        over[0]["step"],
    )
