"""Sizes and perturbations for people: charts, tables, one picture in every form, and answers that depend on the size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from honeclip.evaluation import wording
from honeclip.evaluation.answers import Metrics
from honeclip.evaluation.perturb import PERTURBATIONS
from honeclip.evaluation.robustness import Changed, Sizes
from honeclip.pictures.charts import Dot, Series, dots, lines
from honeclip.pictures.contact import thumbnail
from honeclip.pictures.html import trusted
from honeclip.preprocess.images import decode

DASH = "–"
SHOWN = 12
"""Pictures with another answer that the page shows; all are counted."""

STRIP_PX = 288

Path_ = tuple[str, ...]

NOTE = (
    "Small: 95 % intervals, and the change from the model's own size on the same resampled queries. Cosine: of a picture's "
    "two embeddings. Same answers: the first k answers before and after, those in both over those in either (Jaccard). "
    "Pictures a second, the wait for one and the memory are of the image tower alone, decoding not counted."
)
PERTURBED = (
    "The same model at its own size on changed pictures. The changes are the same every time. Change: of the scores, on the "
    "same resampled queries."
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a figure, its interval, its change, and "good" or "bad" where the change is clear of zero."""

    value: str
    interval: str = ""
    change: str = ""
    kind: str = ""


def scores(found: Metrics) -> list[tuple[str, Path_]]:
    """Names and paths of the (at most three) scores that stand for the model: R@k both ways, zero-shot accuracy."""
    out: list[tuple[str, Path_]] = []
    for way, title, _ in wording.DIRECTIONS:
        known = [name for name in found["retrieval"][way] if name.startswith("R@")]
        if known:
            out.append((f"{title} {known[-1]}", ("retrieval", way, known[-1])))
    return [*out, ("Zero-shot accuracy", ("zeroshot", "accuracy"))] if "zeroshot" in found else out


def verdict(sizes: Sizes) -> str:
    """One sentence: which sizes are clearly worse than the model's own, and on what."""
    clear = []
    for size, found in sizes.found.items():
        worse = [
            name
            for name, path in scores(found)
            if (change := wording.at(found["difference"], path)) and change["high"] < 0
        ]
        if worse:
            clear.append(f"{size} px ({', '.join(worse)})")
    tried = ", ".join(str(size) for size in sizes.found if size != sizes.native_px)
    if not tried:
        return f"No other size than the model's own {sizes.native_px} px was asked for."
    if not clear:
        return (
            f"At {tried} px no score is below that of {sizes.native_px} px by an interval clear of zero; with this many "
            "pictures a small loss would not be seen."
        )
    return f"Clearly below the scores at {sizes.native_px} px: {'; '.join(clear)}. Tried: {tried} px."


def page(sizes: Sizes, *, pictures: bool = True) -> dict[str, Any]:
    """Everything that the template `sizes.html` names."""
    return {
        "verdict": verdict(sizes),
        "charts": [{**chart, "svg": trusted(chart["svg"])} for chart in _charts(sizes)],
        "columns": columns(sizes),
        "rows": rows(sizes),
        "note": NOTE,
        "perturbed_columns": _perturbed_columns(sizes),
        "perturbed": _perturbed_rows(sizes),
        "perturbed_note": PERTURBED,
        "strip": _strip(sizes) if pictures else [],
        "changed": [_card(one, sizes) for one in sizes.changed[:SHOWN]] if pictures else [],
        "changed_intro": _changed_intro(sizes),
    }


def columns(sizes: Sizes) -> list[str]:
    """Of the table over sizes."""
    found = sizes.found[sizes.native_px]
    names = [name for name, _ in scores(found)]
    return [*names, "cosine", *_overlaps(found), "other answers", "pictures a second", "one picture, ms", "memory, MB"]


def rows(sizes: Sizes) -> list[dict[str, Any]]:
    """One a size; its cells in the order of `columns`."""
    out = []
    for size, found in sizes.found.items():
        own, spent, changed = size == sizes.native_px, found["cost"], found["changed"]
        cells = [_score(found, path, own) for _, path in scores(found)]
        agreed = [found["consistency"]["cosine"], *_overlaps(found).values()]
        cells += [Cell(DASH) if own else _figure(one) for one in agreed]
        moved = Cell(f"{changed['answers']} of {changed['of']}", f"{changed['lost']} lost, {changed['won']} won")
        cells += [
            Cell(DASH) if own else moved,
            Cell(f"{spent['samples_per_second']:.3g}"),
            Cell(f"{spent['latency_ms']:.3g}"),
            Cell(f"{spent['peak_memory_bytes'] / 1e6:.0f}"),
        ]
        out.append({"name": f"{size} px{', its own' if own else ''}", "cells": cells})
    return out


def _perturbed_columns(sizes: Sizes) -> list[str]:
    found = sizes.found[sizes.native_px]
    same = ["same label"] if "zeroshot" in found["consistency"] else []
    return ["cosine", *_overlaps(found), *same, *(f"{name}, change" for name, _ in scores(found))]


def _perturbed_rows(sizes: Sizes) -> list[dict[str, Any]]:
    native = sizes.found[sizes.native_px]
    out = []
    for how in PERTURBATIONS:
        one = sizes.perturbations[how.kind][how.strength]
        agreed = [one["consistency"]["cosine"], *_overlaps(one).values()]
        agreed += [one["consistency"]["zeroshot"]["same_label"]] if "zeroshot" in one["consistency"] else []
        moved = [_change(one, path) for _, path in scores(native)]
        out.append({"name": how.words, "cells": [*map(_figure, agreed), *moved]})
    return out


def _overlaps(found: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Name in words -> figure, for both directions."""
    out = {}
    for way, title, _ in wording.DIRECTIONS:
        for name, figure in found["consistency"][way].items():
            k = name.removeprefix("overlap@")
            out[f"{title}, same first {k}" if k != "1" else f"{title}, same first"] = figure
    return out


def _charts(sizes: Sizes) -> list[dict[str, Any]]:
    """Scores over size, agreement under every change, speed over size."""
    px = [float(size) for size in sizes.found]
    native = sizes.found[sizes.native_px]
    out = []
    curves = []
    for colour, (name, path) in enumerate(scores(native)):
        known = [wording.at(found, path) for found in sizes.found.values()]
        spans = [(one["low"], one["high"]) for one in known]
        curves.append(Series(name, px, [one["value"] for one in known], colour, spans))
    if curves:
        svg = lines(
            curves, x_label="image size, px", y_label="share right", says=verdict(sizes), ticks=px, y_range=(0, None)
        )
        caption = f"Lines through the points: 95 % intervals. The model's own size is {sizes.native_px} px."
        out.append({"title": "Scores over size", "svg": svg, "caption": caption})
    forms = [f"{size} px" for size in sizes.found if size != sizes.native_px] + [how.words for how in PERTURBATIONS]
    found = [one["consistency"] for size, one in sizes.found.items() if size != sizes.native_px]
    found += [sizes.perturbations[how.kind][how.strength]["consistency"] for how in PERTURBATIONS]
    cosine = [_dot(one["cosine"]) for one in found]
    same = [_dot(next(iter(one["image_to_text"].values()))) for one in found]
    name = next(iter(_overlaps(native)))
    svg = dots(
        forms,
        [("embedding cosine", cosine), (name, same)],
        x_label="agreement (1: the same)",
        says="agreement of embeddings and answers with those at the model's own size",
    )
    caption = "With the model's own size: dots are the values, lines their 95 % intervals. It says nothing of right and wrong."
    out.append({"title": "What stays the same", "svg": svg, "caption": caption})
    speed = [one["cost"]["samples_per_second"] for one in sizes.found.values()]
    svg = lines(
        [Series("pictures a second", px, speed, 1)],
        x_label="image size, px",
        y_label="pictures a second",
        says=f"from {speed[0]:.3g} pictures a second at {px[0]:g} px to {speed[-1]:.3g} at {px[-1]:g} px",
        ticks=px,
        y_range=(0, None),
    )
    caption = f"The image tower on batches of {native['cost']['batch']}, on this machine, with whatever else it did."
    out.append({"title": "Speed over size", "svg": svg, "caption": caption})
    return out


def _strip(sizes: Sizes) -> list[dict[str, Any]]:
    return [
        {
            "source": thumbnail(shot.picture, STRIP_PX),
            "words": shot.words,
            "cosine": f"cosine {wording.cosine(shot.cosine)}",
            "rank": f"right caption: {shot.rank} of {sizes.candidates}",
        }
        for shot in sizes.strip
    ]


def _card(one: Changed, sizes: Sizes) -> dict[str, Any]:
    own = next(said.text for said in one.said if said.size_px == sizes.native_px)
    return {
        "source": thumbnail(one.image, decode=_decode),
        "truth": " / ".join(one.truth),
        "said": [
            {
                "size": said.size_px,
                "text": said.text,
                "score": f"{said.score:.2f}".replace("-", "−"),
                "mark": "right" if said.right else "wrong",
                "other": said.text != own,
            }
            for said in one.said
        ],
    }


def _changed_intro(sizes: Sizes) -> str:
    total = sizes.found[sizes.native_px]["changed"]["of"]
    what = "label" if sizes.answers_are == "label" else "nearest caption"
    if not sizes.changed:
        return f"The {what} of all {total} pictures is the same at every size."
    shown = min(SHOWN, len(sizes.changed))
    number = "its probability" if sizes.answers_are == "label" else "its cosine"
    return (
        f"The {what} of {len(sizes.changed)} of {total} pictures depends on the size; {shown} of them, those that are right "
        f"at one size and wrong at another first. Each line: the size in pixels, the answer, {number}; bold where the answer "
        "is another than at the model's own size."
    )


def _score(found: Metrics, path: Path_, own: bool) -> Cell:
    cell, change = _figure(wording.at(found, path)), _change(found, path)
    return cell if own else replace(cell, change=f"{change.value} ({change.interval})", kind=change.kind)


def _change(found: Mapping[str, Any], path: Path_) -> Cell:
    """The paired difference; coloured only where its interval leaves 0 out."""
    figure = wording.at(found["difference"], path)
    value, low, high = (f"{figure[name]:+.3f}".replace("-", "−") for name in ("value", "low", "high"))
    kind = "good" if figure["low"] > 0 else "bad" if figure["high"] < 0 else ""
    return Cell(value, f"{low} to {high}", kind=kind)


def _figure(figure: Mapping[str, float]) -> Cell:
    return Cell(f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}")


def _dot(figure: Mapping[str, float]) -> Dot:
    return Dot(figure["value"], figure["low"], figure["high"])


def _decode(image: Any) -> Any:
    return decode(image if isinstance(image, Path) else image.read())


def table(sizes: Sizes) -> tuple[Sequence[str], list[tuple[str, list[str]]]]:
    """Columns and rows of plain text, for a terminal."""
    names = columns(sizes)
    return names, [(row["name"], [cell.value for cell in row["cells"]]) for row in rows(sizes)]
