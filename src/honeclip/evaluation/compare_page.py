"""A comparison for people: the matrix of scores, what stays clear of chance, and pictures that the models answer apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation import wording
from honeclip.evaluation.comparison import ALPHA, METHOD, Cell, Change, Comparison, DataSet
from honeclip.evaluation.selection import METRIC_WORDS, ZERO_SHOT
from honeclip.pictures.charts import Field, heat
from honeclip.pictures.contact import thumbnail
from honeclip.pictures.html import render, trusted
from honeclip.preprocess.images import decode

SHOWN = 8
"""Pictures of a data set that the page shows of those that one model answers right and another wrong."""

NAME_LENGTH = 28
"""Letters of a name in a picture; its end says more than its beginning where it is a path."""


@dataclass(frozen=True)
class Shown:
    """A cell of a matrix, in words: value and interval, and the difference with its mark ("" for the reference)."""

    value: str
    interval: str
    change: str = ""
    p: str = ""
    word: str = ""
    kind: str = ""


def write(found: Comparison, folder: Path, *, pictures: bool = True) -> Path:
    """Write `folder`/index.html (one self-contained file) and `folder`/compare.json; gives the path of the page."""
    labelled = [one for one in found.data if _has_labels(found, one)]
    matrices = [matrix(found, "score", found.data)]
    if labelled and any(set(one.weights) != {"accuracy"} for one in labelled):
        matrices.append(matrix(found, "accuracy", tuple(labelled)))
    page = render(
        "compare.html",
        title=f"{_count(len(found.models), 'model')} on {_count(len(found.data), 'data set')}",
        verdict=verdict(found),
        facts_line=f"against {found.against} · the {found.split} splits · {found.environment['device']}",
        notes=found.notes,
        matrices=[{**one, "chart": {**one["chart"], "svg": trusted(one["chart"]["svg"])}} for one in matrices],
        tested=tested(found),
        examples=[_examples(found, one) for one in found.data] if pictures and len(found.models) > 1 else [],
        environment=wording.told(found.environment),
        repeat=found.repeat,
        method=wording.METHOD,
    )
    folder.mkdir(parents=True, exist_ok=True)
    stored = json.dumps(found.to_json(), indent=1, allow_nan=False)
    (folder / "compare.json").write_text(stored + "\n", encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def verdict(found: Comparison) -> str:
    """One sentence: where a model is clearly better or worse than the reference, by the scores of the data sets."""
    changes = [(cell, change) for cell, name, change in found.changes if name == "score"]
    if not changes:
        got = found.cells[found.against]
        return "; ".join(f"{one.name}: {one.words} {got[one.name].score['value']:.3f}" for one in found.data) + "."
    parts = []
    for word, sign in (("better", 1), ("worse", -1)):
        clear = [(cell, change) for cell, change in changes if change.clear and change.figure["value"] * sign > 0]
        named = [f"{cell.model} on {cell.data} ({_signed(change.figure['value'])})" for cell, change in clear]
        parts += [f"Clearly {word} than {found.against}: {', '.join(named)}."] if named else []
    chance = sum(not change.clear for _, change in changes)
    if not parts:
        return f"No model is clearly better or worse than {found.against}: each difference could be chance."
    return " ".join([*parts, *([f"{chance} of {len(changes)} differences could be chance."] if chance else [])])


def matrix(found: Comparison, what: str, data: tuple[DataSet, ...]) -> dict[str, Any]:
    """One matrix for the page: "score" or "accuracy", models down, data sets across."""
    rows = [[shown(found.cells[model][one.name], what) for one in data] for model in found.models]
    columns = [{"name": one.name, "small": _asked(found, one, what)} for one in data]
    title = "Zero-shot accuracy" if what == "accuracy" else "Scores"
    return {
        "title": title,
        "columns": columns,
        "rows": [{"name": model, "cells": row} for model, row in zip(found.models, rows, strict=True)],
        "chart": {
            "title": f"{title}, coloured by the difference to {found.against}",
            "svg": _heat(found, what, data),
            "caption": "Blue: above; orange: below; the strongest colour is the largest difference of the matrix. Bold: clear "
            "of chance after the correction. Small: 95 % intervals.",
        },
    }


def shown(cell: Cell, what: str) -> Shown:
    """A cell in words; "score" or "accuracy"."""
    figure = cell.score if what == "score" else cell.metrics["zeroshot"]["accuracy"]
    value, interval = f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}"
    change = _change(cell, what)
    if change is None:
        return Shown(value, interval)
    one = change.figure
    apart = f"{_signed(one['value'])} ({_signed(one['low'])} to {_signed(one['high'])})"
    p = f"p {_p(change.p)}, corrected {_p(change.p_holm)}"
    if not change.clear:
        return Shown(value, interval, apart, p, "not clear")
    better = one["value"] > 0
    return Shown(value, interval, apart, p, "better" if better else "worse", "good" if better else "bad")


def tested(found: Comparison) -> str:
    """How the differences were tested, for the page."""
    count = len(found.changes)
    return (
        f"Under each value: its 95 % interval; the difference to {found.against} with the interval of the paired bootstrap, "
        f"which is corrected for nothing; and p-values. {METHOD} With {found.swaps} swaps p comes in steps of "
        f"{_p(1 / (found.swaps + 1))}. Corrected: for all {count} differences of this page together (Holm 1979); better and "
        f"worse are those below {ALPHA:g} after that."
    )


def _asked(found: Comparison, data: DataSet, what: str) -> str:
    """What a column is of: the figure, how many were asked, what guessing gives."""
    cell = found.cells[found.against][data.name]
    shot = cell.metrics.get("zeroshot")
    named = set(data.weights) if what == "score" else {"accuracy"}
    if shot and named <= {"accuracy", "balanced_accuracy"}:
        words = data.words if what == "score" else METRIC_WORDS["accuracy"]
        images = len(cell.answers.predictions.truth) if cell.answers.predictions else 0
        return f"{words}; {images} pictures, {shot['classes']} classes, chance {shot['chance']:.3f}"
    pictures, captions = len(cell.answers.ranks.image_to_text), len(cell.answers.ranks.text_to_image)
    return f"{data.words}; {pictures} pictures, {captions} captions"


def _heat(found: Comparison, what: str, data: tuple[DataSet, ...]) -> str:
    cells = [[found.cells[model][one.name] for one in data] for model in found.models]
    known = [change for row in cells for cell in row if (change := _change(cell, what))]
    most = max((abs(change.figure["value"]) for change in known), default=0.0) or 1.0
    fields = [[_field(cell, what, most) for cell in row] for row in cells]
    names = [_short(model) for model in found.models]
    return heat(names, [_short(one.name, 22) for one in data], fields, says=verdict(found))


def _field(cell: Cell, what: str, most: float) -> Field:
    change = _change(cell, what)
    shade = change.figure["value"] / most if change else 0.0
    said = shown(cell, what)
    return Field(shade, said.value, change is not None and change.clear, said.interval)


def _examples(found: Comparison, data: DataSet) -> dict[str, Any]:
    """Of one data set a fair sample of the pictures that one model answers right and another wrong."""
    by_label = set(data.weights) <= set(ZERO_SHOT)
    asked = found.cells[found.against][data.name].answers.queries
    cells = [cell for model in found.models if (cell := found.cells[model][data.name]).answers.queries == asked]
    right = np.stack([_right(cell, by_label) for cell in cells])  # (models, queries)
    apart = np.flatnonzero(right.any(0) & ~right.all(0))
    chosen = np.random.default_rng(found.seed).permutation(apart)[:SHOWN]
    what = "label" if by_label else "nearest caption"
    first = right[[cell.model for cell in cells].index(found.against)]
    counts = [
        f"{cell.model} is right on {int((own & ~first).sum())} that {found.against} gets wrong, and wrong on "
        f"{int((first & ~own).sum())} that it gets right"
        for cell, own in zip(cells, right, strict=True)
        if cell.model != found.against
    ]
    intro = (
        f"On {len(apart)} of {right.shape[1]} pictures one model's {what} is right and another's wrong"
        + (f"; {len(chosen)} of them, drawn at random, are shown. " if len(apart) else ". ")
        + "; ".join(counts)
        + ("." if counts else "")
    )
    return {
        "title": data.name,
        "intro": intro,
        "cards": [_card(int(one), cells, right, data, by_label) for one in chosen],
    }


def _right(cell: Cell, by_label: bool) -> NDArray[np.bool_]:
    """Of each labelled picture whether its label, of each picture whether its nearest caption is right."""
    found = cell.answers.predictions
    outcome: NDArray[np.bool_] = cell.answers.ranks.image_to_text == 1
    if by_label and found is not None:
        outcome = found.truth == found.predicted
    return outcome


def _card(query: int, cells: list[Cell], right: Any, data: DataSet, by_label: bool) -> dict[str, Any]:
    picture = int(data.goes.labelled[query]) if by_label else query
    row = int(cells[0].answers.image_rows[picture])
    said = []
    for cell, own in zip(cells, right[:, query], strict=True):
        found = cell.answers.predictions
        if by_label and found is not None:
            text, number = found.classes[int(found.predicted[query])], f"{found.confidence[query]:.2f}"
        else:
            text, number = data.captions[int(cell.nearest[picture])], wording.cosine(float(cell.cosine[picture]))
        said.append({"model": _short(cell.model), "mark": "right" if own else "wrong", "text": text, "number": number})
    truth = " / ".join(data.pairs.labels[row]) if by_label else data.pairs.captions[row]
    return {"source": thumbnail(data.pairs.images[row], decode=_decode), "truth": truth, "said": said}


def _change(cell: Cell, what: str) -> Change | None:
    """The difference of a matrix; the accuracy of a data set that is scored by it is its score."""
    if what in cell.changes or what == "score":
        return cell.changes.get(what)
    return cell.changes.get("score")


def _has_labels(found: Comparison, data: DataSet) -> bool:
    return all("zeroshot" in found.cells[model][data.name].metrics for model in found.models)


def _short(name: str, length: int = NAME_LENGTH) -> str:
    return name if len(name) <= length else "…" + name[-length + 1 :]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def _decode(image: Any) -> Any:
    return decode(image if isinstance(image, Path) else image.read())


def table(found: Comparison) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """For a terminal: the data sets, and for each model its cells: value and interval, and below them the difference."""
    rows = []
    for model in found.models:
        cells = [shown(found.cells[model][one.name], "score") for one in found.data]
        rows.append(
            (
                model,
                [f"{one.value} [{one.interval}]\n{f'{one.word} {one.change}' if one.change else ''}" for one in cells],
            )
        )
    return [f"{one.name}\n{one.words}" for one in found.data], rows
