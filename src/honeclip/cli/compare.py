"""`honeclip compare`: models side by side over data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from honeclip.cli.options import Device, Json

if TYPE_CHECKING:
    from honeclip.evaluation.comparison import Comparison


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Runs, checkpoints, or any model sources; the first one is the reference.", metavar="MODEL..."
        ),
    ],
    data: Annotated[
        list[str], typer.Option("--data", help="Manifest, or a folder with a pairs.csv; may be repeated.", metavar="D")
    ],
    split: Annotated[str, typer.Option("--split", help="train, val or test, of every data set.")] = "test",
    domain: Annotated[
        str | None,
        typer.Option(
            "--domain", help="Domain name or file for all models; each model's own, else general.", metavar="N"
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="The model that the others are compared with.", metavar="MODEL")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for index.html and compare.json.", metavar="DIR")
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of bootstrap, paired test and example pictures.", min=0)] = 0,
) -> None:
    """Score models over data sets on the same queries: differences with 95 % intervals, and which stay clear of chance.

    Differences are to the first model (--against names another). Their p-values are those of a paired randomisation test,
    corrected over the whole table by Holm's procedure.

    Example: honeclip compare starter runs/a runs/b --data stamps --data plants.csv --out runs/cmp
    """
    from honeclip.cli.output import emit, say
    from honeclip.evaluation import compare as work
    from honeclip.evaluation import compare_page
    from honeclip.monitoring.terminal import Progress

    with Progress() as progress:
        found = work.compare(
            models,
            data,
            split=split,
            domain=domain,
            against=against,
            device=device,
            seed=seed,
            progress=progress.counter,
        )
    if out is not None:
        say(f"report: {compare_page.write(found, out)}")
    if as_json:
        emit(found.to_json())
    else:
        _print(found)
    for note in found.notes:
        say(f"note: {note}")


def _print(found: Comparison) -> None:
    """The verdict, and the matrix of scores under it."""
    from honeclip.cli.output import print_figures, show
    from honeclip.evaluation import compare_page

    show(compare_page.verdict(found))
    print_figures(*compare_page.table(found))
