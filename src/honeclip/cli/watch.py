"""`honeclip watch`: a run in the browser, while it trains and afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are shown side by side.", metavar="RUN...")],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; 0.0.0.0: the local network, with a token.", metavar="H")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port; where it is in use the next free one.", metavar="P", min=0, max=65535)
    ] = 8118,
    wait: Annotated[
        float,
        typer.Option("--wait", help="Seconds to wait for a folder that is not there yet.", metavar="S", min=0),
    ] = 120,
) -> None:
    """Watch runs in the browser, while they train and afterwards: curves, memory, pictures, what looks sick.

    It reads the run folders only, so it can begin and end at any time, and a copied folder will do.

    Example: honeclip watch runs/a
    """
    from honeclip.monitoring.watch import watch as serve
    from honeclip.preprocess import images

    raise typer.Exit(serve(runs, host, port, images.decode, wait))
