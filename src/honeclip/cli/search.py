"""`honeclip search`: the exact nearest images or captions of an embedded set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Device, Json, Model


def search(
    embedded: Annotated[Path, typer.Argument(help="A folder that honeclip embed wrote.", metavar="EMB")],
    text: Annotated[str | None, typer.Option("--text", help="What to look for, in words.", metavar="T")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="What to look for, as a picture.", metavar="F")] = None,
    top: Annotated[int, typer.Option("--top", help="Rows at most.", metavar="N")] = 10,
    among: Annotated[
        str, typer.Option("--among", help="both, image or caption: what the query is compared with.")
    ] = "both",
    model: Model = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find the nearest rows of an embedded set by a text or an image; every row is compared.

    A row is as near as the nearer of its image and its caption. The model is the one that embedded the set; where its folder
    has moved, name it with --model: one with other weights is refused.

    Example: honeclip search emb --text "a red circle" --top 5
    """
    from honeclip.cli.output import emit, print_figures
    from honeclip.embedding.index import Index
    from honeclip.errors import BadInput
    from honeclip.model.load import load

    if (text is None) == (image is None):
        raise BadInput("say what to look for: either --text T or --image F")
    if text is not None and not text.strip():
        raise BadInput("--text is empty: say what to look for")
    if among not in ("both", "image", "caption"):
        raise BadInput(f"--among {among}: it is both, image or caption")
    if top < 1:
        raise BadInput(f"--top {top}: it is at least 1")
    index = Index.open(embedded)
    clip = load(model or index.header.model, device=device)
    index.check(clip)
    query_1D = clip.encode_image(image) if image is not None else clip.encode_text(text or "")
    hits = index.search(query_1D[0].numpy(), top, among)  # type: ignore[arg-type]  # mypy narrows no tuple of literals
    if as_json:
        emit({"model": index.header.model, "rows": index.rows, "hits": [vars(hit) for hit in hits]})
        return
    print_figures(
        ("cosine", "nearest", "row", "caption"),
        [(hit.image, (f"{hit.score:.4f}", hit.matched, str(hit.id), hit.caption or "")) for hit in hits],
    )
