"""Gain and forgetting for people: a table, the curve of the models between start and end, and the guard over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from honeclip.evaluation.forgetting import RULE, Between, Forgetting
from honeclip.evaluation.gain import Score, apart
from honeclip.evaluation.intervals import Figure
from honeclip.pictures.charts import Series, lines
from honeclip.pictures.html import trusted

NOTE = (
    "In the score by which checkpoints are compared, on the test splits. Small: 95 % intervals. Changes are from the start, on "
    "the same resampled queries."
)
BETWEEN = (
    "weights between the start and the end of the run, (1 − alpha) start + alpha end (WiSE-FT, Wortsman et al. 2022). "
)

Cell = dict[str, str]


def page(found: Forgetting, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the template needs.

    Args:
        found: gain and loss.
        events: lines of events.jsonl: "evaluation" ones with `forgetting`.
    """
    return {
        "verdict": verdict(found),
        "columns": ["before", "after", "change", *(_columns(found.between))],
        "rows": _rows(found),
        "note": NOTE + (f" Alpha: {BETWEEN}{RULE}" if found.between else ""),
        "charts": [{**chart, "svg": trusted(chart["svg"])} for chart in [*_curves(found), *_course(found, events)]],
    }


def verdict(found: Forgetting) -> str:
    """One or two sentences: what was won, what was lost, and what the chosen model between keeps of both."""
    old, new = found.before, found.after
    said = f"{_moved(found.field, old[0], new[0])}; {_moved(found.other, old[1], new[1], name_score=False)}."
    between = found.between
    if between is None:
        return said
    alpha, chosen = between.alphas[between.chosen], between.sides[between.chosen]
    return (
        f"{said} The model at alpha {alpha:g}, in the folder interpolated of the run, has {chosen.test.value:.3f} and "
        f"{chosen.other_test.value:.3f}: {_share(between.gains('test'), between.chosen)} of the gain with "
        f"{_share(between.forgotten('test'), between.chosen)} of the forgetting."
    )


def _moved(name: str, old: Score, new: Score, name_score: bool = True) -> str:
    way = "rose" if new.value > old.value else "fell" if new.value < old.value else "stayed"
    values = f"at {new.value:.3f}" if way == "stayed" else f"from {old.value:.3f} to {new.value:.3f}"
    subject = f"On {name} the {new.words}" if name_score else f"on {name} it"
    change = apart(old, new)
    span = f", 95 % interval of the change {_span(change, signed=True)}" if change and way != "stayed" else ""
    return f"{subject} {way} {values}{span}"


def _share(values: Sequence[float], place: int) -> str:
    """What one alpha has of what the end has."""
    return (
        f"{values[place] / values[-1]:.0%}"
        if values[-1] > 0
        else f"{_signed(values[place])} beside {_signed(values[-1])}"
    )


def _columns(between: Between | None) -> list[str]:
    return [f"alpha {between.alphas[between.chosen]:g}", "change"] if between else []


def _rows(found: Forgetting) -> list[dict[str, Any]]:
    """The run's own data, then the other set."""
    out = []
    chosen = found.between.sides[found.between.chosen] if found.between else None
    known = ((found.field, chosen.test if chosen else None), (found.other, chosen.other_test if chosen else None))
    for (name, third), old, new in zip(known, found.before, found.after, strict=True):
        cells: list[Cell | None] = [_cell(old), _cell(new), _change(old, new)]
        if third is not None:
            cells += [_cell(third), _change(old, third)]
        out.append({"name": f"{name}: {new.words}", "cells": cells})
    return out


def _cell(score: Score) -> Cell:
    return {"value": f"{score.value:.3f}", "interval": _span(score.figure())}


def _change(old: Score, new: Score) -> Cell | None:
    change = apart(old, new)
    if change is None:
        return None
    out = {"value": _signed(change["value"]), "interval": _span(change, signed=True)}
    if change["low"] <= 0 <= change["high"]:
        return {**out, "word": "not clear"}
    better = change["value"] > 0
    return {**out, "kind": "good" if better else "bad", "word": "better" if better else "worse"}


def _curves(found: Forgetting) -> list[dict[str, Any]]:
    """Gain against forgetting for each alpha, on val, by which alpha is chosen, and on test."""
    between = found.between
    if between is None:
        return []
    out = []
    alpha = between.alphas[between.chosen]
    for split, use in (("val", "by which alpha was chosen"), ("test", "that decided nothing")):
        gains, lost = between.gains(split), between.forgotten(split)
        ends = [
            one or {"low": gain, "high": gain} for one, gain in zip(between.intervals(split)[0], gains, strict=True)
        ]
        spans = [(one["low"], one["high"]) for one in ends] if split == "test" else []
        labels = [f"{one:g}" for one in between.alphas]
        tops = [high for _, high in spans]
        room = (
            (min(0.0, *(low for low, _ in spans)), 1.3 * max(tops)) if spans and max(tops) > 0 else None
        )  # the legend's
        curve = Series("each alpha", lost, gains, 1, spans, labels)
        mark = Series(f"chosen: {alpha:g}", [lost[between.chosen]], [gains[between.chosen]], 2)
        kept, rest = _share(gains, between.chosen), _share(lost, between.chosen)
        says = f"On {split}, alpha {alpha:g} keeps {kept} of the gain with {rest} of the forgetting"
        out.append(
            {
                "title": f"Gain and forgetting between start and end, on {split}",
                "svg": lines(
                    [curve, mark],
                    x_label=f"forgetting on {found.other}",
                    y_label=f"gain on {found.field}",
                    says=says,
                    y_range=room,
                ),
                "caption": f"{says}. The split {use}."
                + (" Lines: 95 % intervals of the gain." if spans else " 0 is the start, 1 the end."),
            }
        )
    return out


def _course(found: Forgetting, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Forgetting over the steps of the run, below its bound."""
    seen = [(one["step"], one["forgetting"]) for one in events if isinstance(one.get("forgetting"), int | float)]
    if len(seen) < 2:
        return []
    steps = [float(step) for step, _ in seen]
    series = [Series("forgetting", steps, [lost for _, lost in seen], 1)]
    if found.limit < 1:
        series.append(Series("most that is allowed", steps, [found.limit] * len(steps), None))
    says = f"Forgetting on {found.other} came to {seen[-1][1]:.3f} after {seen[-1][0]} steps"
    chart = lines(series, x_label="step", y_label="forgetting (start − now)", says=says)
    return [{"title": "Forgetting over the run", "svg": chart, "caption": f"On the validation split of {found.other}."}]


def _span(figure: Figure, signed: bool = False) -> str:
    return " to ".join(_signed(figure[end]) if signed else f"{figure[end]:.3f}" for end in ("low", "high"))


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
