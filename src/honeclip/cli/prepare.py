"""`honeclip prepare`: a manifest from what people have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from honeclip.cli.options import Json

PATIENTS = "A tree of DICOM files"


def prepare(
    source: Annotated[str, typer.Argument(help="Folder of images, COCO annotations, or a table.", metavar="SRC")],
    out: Annotated[Path, typer.Option("--out", help="Folder for pairs.csv.", metavar="DIR")],
    domain: Annotated[str, typer.Option("--domain", help="Whose templates caption labels.", metavar="N")] = "general",
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            help="Other column names of a table: image=photo,caption=description; of --reports: caption=text.",
        ),
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a pairs.csv that is there.")] = False,
    as_json: Json = False,
    to: Annotated[
        Literal["as-is", "png"],
        typer.Option(
            "--to",
            help="png: write images to DIR/images as PNG of 8 bits without metadata, DICOM through the domain's windows.",
        ),
    ] = "as-is",
    hash_names: Annotated[
        bool,
        typer.Option(
            "--hash-names", help="Copy images to DIR/images under names that say nothing; DICOM without its header."
        ),
    ] = False,
    tiles: Annotated[
        int,
        typer.Option("--tiles", help="Cut images into tiles with this side in pixels, PNGs in DIR/images; 0: whole."),
    ] = 0,
    overlap: Annotated[float, typer.Option("--overlap", help="What neighbouring tiles share, of their side.")] = 0.2,
    panels: Annotated[
        Literal["keep", "split"],
        typer.Option("--panels", help="split: cut figures into panels (a), (b), each with its part of the caption."),
    ] = "keep",
    keep_splits: Annotated[
        bool, typer.Option("--keep-splits", help="Of MVTec folders: train (good parts alone) and test as they are.")
    ] = False,
    reports: Annotated[
        Path | None,
        typer.Option("--reports", help="Table of reports for a tree of DICOM files.", rich_help_panel=PATIENTS),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            help="DICOM keyword or tag that joins them; KEYWORD=COLUMN where the table has another name.",
            rich_help_panel=PATIENTS,
        ),
    ] = "AccessionNumber",
    slices: Annotated[
        str,
        typer.Option(
            "--slices", help="Of a series of CT, MR, PET: middle, uniform:N or all.", rich_help_panel=PATIENTS
        ),
    ] = "middle",
    salt: Annotated[
        str,
        typer.Option(
            "--salt", help="A secret that goes into the hash of a patient's identity.", rich_help_panel=PATIENTS
        ),
    ] = "",
) -> None:
    """Make a manifest from class folders, NAME.jpg beside NAME.txt, COCO, a table, MVTec folders, or DICOM and reports.

    Images stay where they are unless an option copies them; DIR/pairs.csv names them relative to itself.

    Example: honeclip prepare photos --out data --domain industrial

    Example: honeclip prepare mvtec_anomaly_detection --out data --domain industrial --tiles 448

    Example: honeclip prepare figures.csv --out data --domain scientific --panels split

    Example: honeclip prepare scans --out data --domain medical --reports reports.csv --columns caption=findings --to png
    """
    from honeclip.cli.output import emit, say, show
    from honeclip.data import manifest
    from honeclip.data import prepare as preparing
    from honeclip.data.reports import Join
    from honeclip.data.tiles import Tiles
    from honeclip.domains import domain as domains

    quiet = hash_names or to == "png"
    done = preparing.prepare(
        source,
        out,
        domain=domains.load(domain),
        columns=manifest.parse_columns(columns),
        reports=Join(reports, key, slices, salt, quiet) if reports else None,
        copied="png" if to == "png" else "hashed" if hash_names else "none",
        cut=Tiles(tiles, overlap, quiet) if tiles else None,
        split_panels=panels == "split",
        keep_splits=keep_splits,
        overwrite=overwrite,
    )
    for note in done.notes:
        say(f"note: {note}")
    if as_json:
        emit({"manifest": done.path, "form": done.form, "rows": done.rows, "splits": done.splits, "notes": done.notes})
        return
    splits = ", ".join(f"{count} {name}" for name, count in done.splits.items())
    show(f"taken for {done.form}: {done.rows} rows{f' ({splits})' if splits else ''} -> {done.path}")
    show(f"next: honeclip check {done.path}")
