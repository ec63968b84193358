"""`honeclip embed`: a data set through a model into Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Device, Json, Pictures, Source


def embed(
    model: Source,
    data: Pictures,
    out: Annotated[Path, typer.Option("--out", help="Folder of the Parquet parts.", metavar="DIR")],
    part_rows: Annotated[int, typer.Option("--part-rows", help="Rows of the data a part.", metavar="N")] = 4096,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write the embeddings of every image and caption: columns id, image, caption, image_embedding, text_embedding.

    Killed and started again it computes only the parts that are missing; each row is there exactly once. A row whose image
    cannot be read is named and left out. torchrun --nproc-per-node N -m honeclip embed ... shares the parts out among N
    processes (docs/scale.md).

    Example: honeclip embed runs/a --data pairs.csv --out emb; honeclip search emb --text "a red circle"
    """
    from rich.console import Console

    from honeclip.cli.output import emit, say
    from honeclip.device import world
    from honeclip.embedding.ranks import embed_over_ranks
    from honeclip.errors import BadInput
    from honeclip.monitoring.terminal import Progress

    if part_rows < 1:
        raise BadInput(f"--part-rows {part_rows}: it is at least 1")
    with world.joined(device) as ours, Progress(None if ours.leads else Console(quiet=True)) as progress:
        found = embed_over_ranks(
            ours, model, data, out, device=device, part_rows=part_rows, progress=progress.counter("embedding rows")
        )
    if found is None:
        return
    for sentence in found.failed:
        say(f"left out: {sentence}")
    header = found.header
    say(f"embeddings: {out}, {found.rows} of {header.rows} rows, {found.computed} of {header.parts} parts computed now")
    if as_json:
        facts = {
            "out": out,
            "model": header.model,
            "dim": header.dim,
            "parts": header.parts,
            "computed": found.computed,
        }
        emit({**facts, "rows": found.rows, "left_out": list(found.failed)})
