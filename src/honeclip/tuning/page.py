"""The picture of a study: what each trial won, which settings mattered, and whether the best one held on test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from honeclip.evaluation import wording
from honeclip.pictures.charts import Axis, Series, bars, lines, parallel
from honeclip.pictures.html import render, trusted
from honeclip.tuning.study import Result, changes_in_words

FEWEST_TRIALS = 4
"""Complete trials with settings of their own below which importances say nothing."""

MOST_SETTINGS = 7
"""Settings that the charts show: those that mattered most."""


def write(result: Result) -> Path:
    """Writes OUT/index.html, one file that can be mailed, and gives its path."""
    path = result.out / "index.html"
    complete = _complete(result.study)
    importances = list(importance(complete).items())[:MOST_SETTINGS]
    path.write_text(
        render(
            "tune.html",
            title="Settings that were tried",
            verdict=verdict(result),
            facts_line=_facts(result),
            charts=_charts(result.study, importances),
            parallel=_parallel(complete, [name for name, _ in importances]),
            test=_test(result),
            test_note="Both with the weights that were best on val. The difference is on the same resampled queries, with its "
            "95 % interval; one that does not hold 0 can be told from chance by this test split.",
            rows=[_row(trial) for trial in result.study.trials],
            repeat=f"honeclip fit --config {result.config_file.name} --out NEW_FOLDER trains with the best settings.",
        ),
        encoding="utf-8",
    )
    return path


def verdict(result: Result) -> str:
    """One sentence: what the best settings won on val, and what of it was there on test."""
    given = next((one for one in result.study.trials if not one.params and one.value is not None), None)
    score = result.best.value or 0.0
    start = f"; as given it was {given.value:.3f}" if given is not None and given is not result.best else ""
    said = f"Trial {result.best.number} is the best with {score:.3f} on val{start}."
    if not result.overrides:
        return f"{said} It is the config as given: no other settings were better on val."
    figures = _differences(result)
    if not figures:
        return said
    name, figure = figures[0]
    words = "more" if figure["value"] >= 0 else "less"
    clear = "clear of chance" if figure["low"] > 0 or figure["high"] < 0 else "not clear of chance"
    interval = f"[{figure['low']:+.3f}, {figure['high']:+.3f}]"
    return f"{said} On test its {name} is {abs(figure['value']):.3f} {words} than as given {interval}, {clear}."


def importance(complete: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much of the scores' spread each setting explains (fANOVA, Hutter et al. 2014), largest first; {} with few trials.

    Settings that only some trials have are left out, and so is the trial that changes nothing.
    """
    own = [trial for trial in complete if trial.params]
    if len(own) < FEWEST_TRIALS or len({trial.value for trial in own}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(own)
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE and trial.value is not None]


def _facts(result: Result) -> str:
    states = [trial.state for trial in result.study.trials]
    counts = f"{states.count(TrialState.COMPLETE)} complete, {states.count(TrialState.PRUNED)} ended early"
    failed = states.count(TrialState.FAIL)
    return f"{len(states)} trials: {counts}" + (f", {failed} failed" if failed else "")


def _charts(study: optuna.Study, importances: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    complete = _complete(study)
    numbers = [float(trial.number) for trial in complete]
    values = [float(trial.value or 0.0) for trial in complete]
    best = [max(values[: place + 1]) for place in range(len(values))]
    history = lines(
        [Series("trial", numbers, values, 0), Series("best so far", numbers, best, None)],
        x_label="trial",
        y_label="score on val",
        says="the score of each complete trial, and the best so far",
    )
    charts = [
        {"title": "Scores", "svg": trusted(history), "caption": "Complete trials; trial 0 is the config as given."}
    ]
    if importances:
        names = [name.rpartition(".")[2] for name, _ in importances]
        svg = bars(
            names, [one for _, one in importances], x_label="share of the spread", says="importance of each setting"
        )
        charts.append({"title": "What mattered", "svg": trusted(svg), "caption": "fANOVA over the complete trials."})
    return charts


def _parallel(complete: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, Any] | None:
    own = [trial for trial in complete if trial.params]
    if not names:
        return None
    scores = [float(trial.value or 0.0) for trial in own]
    axes = [_axis(name, own) for name in names]
    axes.append(_numbers("score", scores, log=False))
    bound = sorted(scores)[-max(1, len(scores) // 4)]
    svg = parallel(
        axes, [score >= bound for score in scores], says="the settings of every trial; the best quarter in colour"
    )
    return {"title": "The way of each trial", "svg": trusted(svg), "caption": "The best quarter in colour."}


def _axis(name: str, trials: Sequence[FrozenTrial]) -> Axis:
    label = name.rpartition(".")[2]
    kind = trials[0].distributions[name]
    values = [trial.params.get(name) for trial in trials]
    if isinstance(kind, CategoricalDistribution):
        choices = list(kind.choices)
        span = max(1, len(choices) - 1)
        places = [None if one is None else choices.index(one) / span for one in values]
        return Axis(label, places, str(choices[0]), " / ".join(map(str, choices[1:])))
    return _numbers(label, values, log=bool(getattr(kind, "log", False)))


def _numbers(label: str, values: Sequence[Any], *, log: bool) -> Axis:
    there = [float(one) for one in values if one is not None]
    low, high = min(there), max(there)

    def place(value: float) -> float:
        a, b, v = (math.log(one) for one in (low, high, value)) if log else (low, high, value)
        return (v - a) / (b - a) if b > a else 0.5

    return Axis(label, [None if one is None else place(float(one)) for one in values], f"{low:.2g}", f"{high:.2g}")


def _differences(result: Result) -> list[tuple[str, dict[str, float]]]:
    """Name and paired difference of each share, the headline figure first."""
    found = result.difference
    if found is None or result.tuned is None:
        return []
    return [
        (name, figure) for name, path in wording.shares(result.tuned.metrics) if (figure := wording.at(found, path))
    ]


def _test(result: Result) -> list[dict[str, Any]]:
    if result.given is None or result.tuned is None:
        return []
    rows = []
    for name, path in wording.shares(result.tuned.metrics):
        old, new = wording.at(result.given.metrics, path), wording.at(result.tuned.metrics, path)
        change = wording.at(result.difference, path)
        rows.append({"name": name, "cells": [_cell(old), _cell(new), _cell(change, sign="+")]})
    return rows


def _cell(figure: Any, sign: str = "") -> str:
    return f"{figure['value']:{sign}.3f} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]" if figure else ""


def _row(trial: FrozenTrial) -> dict[str, Any]:
    score = f"{trial.value:.4f}" if trial.state == TrialState.COMPLETE else trial.state.name.lower()
    return {"name": trial.number, "score": score, "changes": changes_in_words(trial)}
