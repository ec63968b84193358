"""`honeclip evaluate`: a model's scores on one split of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from honeclip.cli.options import Data, Device, DomainOfModel, Json, Source, Split

READ = ("data.columns", "data.max_bad_fraction", "report.pictures")
"""Keys of the config that mean something without a run."""

if TYPE_CHECKING:
    from honeclip.config import Config
    from honeclip.evaluation.report import Report
    from honeclip.evaluation.robustness import Sizes
    from honeclip.evaluation.suite import Suite


def evaluate(
    model: Source,
    data: Data,
    split: Split = "test",
    domain: DomainOfModel = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            "--sizes",
            help="Image sizes in pixels, such as 160,224,288: scores, agreement with the model's own size, and cost at each.",
            metavar="PX,PX",
        ),
    ] = None,
    pool: Annotated[
        str,
        typer.Option("--pool", help="group: the pictures of one group (patient, part) answer as one.", metavar="group"),
    ] = "",
    folds: Annotated[
        int,
        typer.Option(
            "--folds",
            help="For small sets: pictures in so many parts, each asked by a linear probe that learned from the others.",
            metavar="K",
        ),
    ] = 0,
    cases: Annotated[
        str,
        typer.Option(
            "--cases",
            help="Pictures shown one by one: rows or image names with commas between them, or random:N.",
            metavar="ID,ID|random:N",
        ),
    ] = "",
    requirements: Annotated[
        Path | None,
        typer.Option(
            "--requirements",
            help="What a part's inspection must reach (TOML): pass or fail for each, exit code 1 where one fails.",
            metavar="F.toml",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="One key of the config: data.columns, data.max_bad_fraction or report.pictures, as in fit.",
            metavar="A.B=V",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for index.html and report.json.", metavar="DIR")
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap and the example pictures.", min=0)] = 0,
) -> None:
    """Score a model on one split: retrieval both ways and zero-shot, with 95 % intervals; over image sizes with --sizes.

    Example: honeclip evaluate runs/a --data pairs.csv --sizes 160,224,288 --out report
    """
    from honeclip.cli.output import emit, say
    from honeclip.evaluation import evaluate as work
    from honeclip.monitoring.terminal import Progress

    config = _settings(sets or [])
    with Progress() as progress:
        report = work.evaluate(
            model,
            data,
            split=split,
            domain=domain,
            sizes=_sizes(sizes),
            device=device,
            seed=seed,
            pool=pool,
            folds=folds,
            cases=cases,
            requirements=requirements,
            columns=config.data.columns,
            max_bad_fraction=config.data.max_bad_fraction,
            progress=progress.counter("embedding pictures"),
        )
    if out is not None:
        say(f"report: {report.save(out, pictures=config.report.pictures)}")
    if as_json:
        emit(report.metrics)
    else:
        _print(report)
    for note in report.notes:
        say(f"note: {note}")
    if requirements is not None and not report.metrics["industrial"]["passed"]:
        raise typer.Exit(1)


def _settings(sets: list[str]) -> Config:
    """The config that `--set` makes.

    Raises:
        ConfigError: an unknown key or a wrong value, or a key that only a run reads.
    """
    from honeclip import config
    from honeclip.errors import ConfigError

    made = config.load(sets=sets)
    given = [f"{section}.{key}" for section, table in config.tables(None, sets, None).items() for key in table]
    if unread := [key for key in given if key not in READ]:
        raise ConfigError(
            f"--set {unread[0]}: evaluate reads {', '.join(READ)} alone; the other keys are those of a run"
        )
    return made


def _sizes(text: str | None) -> list[int]:
    """ "128,160" as numbers.

    Raises:
        BadInput: something in it is no whole number.
    """
    from honeclip.errors import BadInput

    if text is None:
        return []
    parts = [part.strip().removesuffix("px").strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise BadInput(f"--sizes {text!r}: whole pixels with commas between them, such as 128,160,224")
    return [int(part) for part in parts]


def _print(report: Report) -> None:
    """The table of scores on standard output, and the verdict above it."""
    from rich.table import Table

    from honeclip.cli import output
    from honeclip.evaluation import wording

    output.show(wording.verdict(None, report.metrics, None, report.answers))
    scores: dict[str, Any] = wording.table(None, report.metrics, None, report.answers)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in ("value", "95 % interval", "chance"):
        table.add_column(name, justify="right")
    for group in scores["groups"]:
        table.add_row(group["title"], style="bold")
        for row in group["rows"]:
            value, chance = row["cells"]
            table.add_row(f"  {row['name']}", value["value"], value["interval"], chance["value"] if chance else "")
    output.console().print(table)
    for suite in (report.suite, report.folds):
        if suite is not None:
            _print_suite(suite)
    if report.sizes is not None:
        _print_sizes(report.sizes)


def _print_suite(suite: Suite) -> None:
    """Its sentence and its first table; the page has the rest."""
    from honeclip.cli.output import print_figures, show
    from honeclip.evaluation import suite_page

    show(f"\n{suite.title}: {suite.verdict}")
    found = suite_page.text_table(suite)
    if found is not None:
        rows = [(name, [f"{one.text}  {one.small}".rstrip() for one in cells]) for name, cells in found.rows]
        print_figures(found.columns, rows)
    for note in suite.notes:
        show(f"- {note}")


def _print_sizes(sizes: Sizes) -> None:
    """A row a size under the verdict; the page has the intervals and the changed pictures."""
    from honeclip.cli.output import print_figures, show
    from honeclip.evaluation import sizes_page

    show(f"\n{sizes_page.verdict(sizes)}")
    print_figures(*sizes_page.table(sizes), wraps_names=False)
