"""`honeclip prepare`: a manifest from what people have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[str, typer.Argument(help="Folder of images, COCO annotations, or a table.", metavar="SRC")],
    out: Annotated[Path, typer.Option("--out", help="Folder for pairs.csv.", metavar="DIR")],
    domain: Annotated[str, typer.Option("--domain", help="Whose templates caption labels.", metavar="N")] = "general",
    columns: Annotated[
        str, typer.Option("--columns", help="Other column names of a table: image=photo,caption=description.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a pairs.csv that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Make a manifest from class folders, from NAME.jpg beside NAME.txt, from COCO, or from a table.

    The images stay where they are; DIR/pairs.csv names them relative to itself.

    Example: honeclip prepare photos --out data --domain industrial
    """
    from honeclip.cli.output import emit, say, show
    from honeclip.data import manifest
    from honeclip.data import prepare as preparing
    from honeclip.domains import domain as domains

    done = preparing.prepare(
        source, out, domain=domains.load(domain), columns=manifest.parse_columns(columns), overwrite=overwrite
    )
    for note in done.notes:
        say(f"note: {note}")
    if as_json:
        emit({"manifest": done.path, "form": done.form, "rows": done.rows, "splits": done.splits, "notes": done.notes})
        return
    splits = ", ".join(f"{count} {name}" for name, count in done.splits.items())
    show(f"taken for {done.form}: {done.rows} rows{f' ({splits})' if splits else ''} -> {done.path}")
    show(f"next: honeclip check {done.path}")
