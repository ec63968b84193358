"""The page that a person reads after a run or an evaluation, and report.json beside it for programs.

`Report` is what one model got on one split. `write` draws one of them, or two (before and after a run) with the paired
difference. The words of the page are in `wording`, the page itself in the templates of `honeclip.pictures`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from honeclip.evaluation import forgetting_page, sizes_page, suite_page, wording
from honeclip.evaluation.answers import Answers, Metrics, paired_difference
from honeclip.evaluation.examples import Example
from honeclip.evaluation.forgetting import Forgetting
from honeclip.evaluation.robustness import Sizes
from honeclip.evaluation.suite import Block, Suite
from honeclip.evaluation.zeroshot import per_class
from honeclip.monitoring.finding import Finding
from honeclip.pictures.charts import Dot, Series, dots, lines
from honeclip.pictures.contact import thumbnail
from honeclip.pictures.html import render, trusted
from honeclip.preprocess.images import decode


@dataclass(frozen=True)
class Report:
    """What one model got on one split of one data set.

    Attributes:
        metrics: METRICS of the contract.
        answers: the outcome of every query, for a paired difference with another model.
        examples: test pictures and what the model said of them; () in a report restored from JSON.
        environment: model, machine and versions.
        repeat: the command that gives the same figures.
        notes: what a reader must know, one sentence each.
        seed: of the bootstrap.
        sizes: what other sizes and changed pictures do to the scores; None where nobody asked, and in a report restored
            from JSON.
        suite: what the suite of the domain found, whose figures are in `metrics` too; None where there is none, and in a report
            restored from JSON.
        folds: figures over folds, in the same shape; None where nobody asked, and in a report restored from JSON.
        cases: blocks of the pictures that were asked for by name.
        health: where the embeddings lie, see `evaluation.health`; None where nobody asked, and in a report restored from JSON.
    """

    metrics: Metrics
    answers: Answers
    examples: tuple[Example, ...]
    environment: dict[str, Any]
    repeat: str
    notes: tuple[str, ...] = ()
    seed: int = 0
    sizes: Sizes | None = None
    suite: Suite | None = None
    folds: Suite | None = None
    cases: tuple[Block, ...] = ()
    health: Mapping[str, Any] | None = None

    def save(self, folder: str | Path, *, pictures: bool = True) -> Path:
        """Write index.html and report.json into `folder`; gives the path of index.html. False leaves out example pictures."""
        return write(
            Path(folder),
            after=self,
            repeat=self.repeat,
            environment=self.environment,
            notes=self.notes,
            pictures=pictures,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the example pictures, for a run folder."""
        return {
            "metrics": self.metrics,
            "answers": self.answers.to_json(),
            "environment": self.environment,
            "repeat": self.repeat,
            "notes": list(self.notes),
            "seed": self.seed,
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Report:
        """A report from `to_json`: exact, without examples."""
        return Report(
            metrics=dict(stored["metrics"]),
            answers=Answers.from_json(stored["answers"]),
            examples=(),
            environment=dict(stored["environment"]),
            repeat=stored["repeat"],
            notes=tuple(stored["notes"]),
            seed=stored["seed"],
        )


def write(
    folder: Path,
    *,
    after: Report,
    before: Report | None = None,
    title: str = "",
    events: Sequence[Mapping[str, Any]] = (),
    settings: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    repeat: str = "",
    notes: Sequence[str] = (),
    pictures: bool = True,
    forgetting: Forgetting | None = None,
    differences: Mapping[str, Any] | None = None,
    sick: Sequence[Finding] = (),
) -> Path:
    """Write `folder`/index.html (one self-contained file) and `folder`/report.json.

    Args:
        folder: made where it is missing; the two files are replaced.
        after: what the model got.
        before: what it got before the run, on the same split.
        title: of the page; "" makes one from the data's name.
        events: lines of events.jsonl: "step" ones with loss, lr and logit_scale, and any that have step and score.
        settings: the effective config, nested or flat.
        environment: model, data, machine, versions, nested or flat; None takes that of `after`.
        repeat: the command; "" takes that of `after`.
        notes: what a reader must know, one sentence each.
        pictures: False leaves the example pictures out.
        forgetting: what was won here and lost on another set.
        differences: further sections of the paired difference.
        sick: what looks sick in the run.

    Returns:
        The path of index.html.
    """
    environment = dict(after.environment if environment is None else environment)
    weights = wording.at(after.metrics, ("selection", "weights"))
    difference = paired_difference(before.answers, after.answers, after.seed, weights) if before else None
    old = before.metrics if before else None
    if difference is not None and differences:
        difference = {**difference, **differences}
    found: dict[str, Any] = {"before": old, "after": after.metrics, "difference": difference}
    found["selection"] = forgetting.to_json() if forgetting else None
    found["sick"] = [one.to_json() for one in sick] or None
    stored = {**{name: value for name, value in found.items() if value is not None}, "environment": environment}
    data = str(after.metrics["data"])
    sections = [
        {"title": "Data and machine", "rows": wording.told(environment)},
        *([{"title": "Settings", "rows": wording.flat(settings)}] if settings else []),
    ]
    page = render(
        "report.html",
        title=title or (f"{data}: before and after" if before else f"{data}: evaluation"),
        verdict=wording.verdict(old, after.metrics, difference, after.answers),
        facts_line=wording.facts(after.metrics, environment),
        split=after.metrics["split"],
        **wording.table(old, after.metrics, difference, after.answers),
        charts=_charts(before, after, events),
        sick=sick,
        notes=[*notes, *(wording.UNPAIRED if before and difference is None else ())],
        examples=_examples(before, after) if pictures else [],
        **_classes(before, after),
        sizes=sizes_page.page(after.sizes, pictures=pictures) if after.sizes else None,
        suite=suite_page.page(after.suite, pictures=pictures) if after.suite else None,
        folds=suite_page.page(after.folds, pictures=pictures) if after.folds else None,
        cases=suite_page.blocks(after.cases, pictures=pictures),
        forgetting=forgetting_page.page(forgetting, events) if forgetting else None,
        sections=sections,
        repeat=repeat or after.repeat,
        method=wording.METHOD,
        cosine=wording.cosine,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(page, encoding="utf-8")
    return folder / "index.html"


def _charts(before: Report | None, after: Report, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures of the page, those that there is data for."""
    both = [("before", before, 0), ("after", after, 1)] if before else [("model", after, 1)]
    known = [(name, one, colour) for name, one, colour in both if one is not None]
    says = wording.verdict(before.metrics if before else None, after.metrics, None)
    out = []
    rows = wording.shares(after.metrics)
    if rows:  # data too small for any R@k, and without labels, has none
        series = [(name, [_dot(wording.at(one.metrics, path)) for _, path in rows]) for name, one, _ in known]
        x_label = "share right (0 to 1, more is better)"
        out.append(
            {
                "title": "Scores with their intervals",
                "svg": dots([name for name, _ in rows], series, x_label=x_label, says=says),
                "caption": "Dots are the values, lines their 95 % intervals.",
            }
        )
    candidates = len(after.answers.ranks.text_to_image)
    curves = [Series(name, *_cumulative(one), colour=colour) for name, one, colour in known]
    ks = curves[-1].x
    curves.append(Series("chance", ks, [k / candidates for k in ks], None))
    out.append(
        {
            "title": "How far down the right caption is",
            "svg": lines(
                curves,
                x_label="first k captions",
                y_label="share of pictures",
                says=says,
                log_x=True,
                y_range=(0, 1.02),
            ),
            "caption": f"Share of pictures with a right caption among the first k of {candidates}.",
        }
    )
    return [_drawn(chart) for chart in [*out, *_training(events)]]


def _training(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Loss, validation score, and learning rate over the steps of a run."""
    steps = [event for event in events if event.get("event") == "step"]
    scored = [event for event in events if "score" in event and "step" in event]
    out = []
    for title, name, found, y_label, caption in (
        ("Loss", "loss", steps, "training loss", "Of each step's whole effective batch."),
        ("Validation", "score", scored, "score", wording.score_words(scored)),
        ("Learning rate", "lr", steps, "learning rate", "Warm-up and decay as they were applied."),
    ):
        points = [(event["step"], event[name]) for event in found if isinstance(event.get(name), int | float)]
        if len(points) >= 2:
            one = Series(name, [x for x, _ in points], [y for _, y in points], 1)
            says = f"{title} from {points[0][1]:.4g} to {points[-1][1]:.4g} over {points[-1][0]} steps"
            out.append(
                {"title": title, "svg": lines([one], x_label="step", y_label=y_label, says=says), "caption": caption}
            )
    return out


def _examples(before: Report | None, after: Report) -> list[dict[str, Any]]:
    """A fair sample of pictures and the worst others, each with the best captions that the model proposed."""
    out = []
    total = len(after.answers.ranks.text_to_image)
    for why, title, intro in wording.EXAMPLES:
        cards = []
        for one in (example for example in after.examples if example.why == why):
            paired = before is not None and before.answers.queries == after.answers.queries
            old = int(before.answers.ranks.image_to_text[one.query]) if before and paired else None
            cards.append(
                {
                    "source": thumbnail(one.image, decode=_decode),
                    "caption": " / ".join(one.captions),
                    "rank": wording.rank(one.rank, old, total),
                    "found": one.found,
                }
            )
        if cards:
            out.append({"title": title, "intro": intro, "cards": cards})
    return out


def _classes(before: Report | None, after: Report) -> dict[str, Any]:
    """The table of classes; empty where there is no zero-shot."""
    found, old = after.answers.predictions, before.answers.predictions if before else None
    rows = per_class(found) if found else []
    known = {row["label"]: row for row in per_class(old)} if old else {}
    columns = [*(["recall before"] if old else []), "recall after" if old else "recall", "precision"]
    shown = []
    for row in rows:
        earlier = [wording.share(known.get(row["label"], {}).get("recall"))] if old else []
        shown.append({**row, "figures": [*earlier, wording.share(row["recall"]), wording.share(row["precision"])]})
    return {"classes": shown, "class_columns": columns, "classes_intro": wording.CLASSES}


def _cumulative(report: Report) -> tuple[list[float], list[float]]:
    """k and the share of image queries of rank k or better, at about 60 values of k spread evenly over log k."""
    ranks = report.answers.ranks.image_to_text
    candidates = len(report.answers.ranks.text_to_image)
    ks = sorted({min(candidates, max(1, round(candidates ** (step / 60)))) for step in range(61)})
    return [float(k) for k in ks], [float((ranks <= k).mean()) for k in ks]


def _dot(figure: Mapping[str, float] | None) -> Dot | None:
    return Dot(figure["value"], figure["low"], figure["high"]) if figure else None


def _drawn(chart: dict[str, Any]) -> dict[str, Any]:
    return {**chart, "svg": trusted(chart["svg"])}


def _decode(image: Any) -> Any:
    """Decode as the model saw it: the same modes, orientation and limits."""
    return decode(image if isinstance(image, Path) else image.read())
