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
    cannot be read is named and left out.

    Example: honeclip embed runs/a --data pairs.csv --out emb; honeclip search emb --text "a red circle"
    """
    from honeclip.cli.output import emit, say
    from honeclip.embedding.to_parts import embed_to_parts
    from honeclip.errors import BadInput
    from honeclip.model.load import load
    from honeclip.monitoring.terminal import Progress

    if part_rows < 1:
        raise BadInput(f"--part-rows {part_rows}: it is at least 1")
    clip = load(model, device=device)
    with Progress() as progress:
        found = embed_to_parts(clip, data, out, part_rows=part_rows, progress=progress.counter("embedding rows"))
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
