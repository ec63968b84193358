"""`honeclip serve`: a model over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Device, Source


def serve(
    model: Source,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; others than loopback need keys.", metavar="H")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0: any that is free.", metavar="P")] = 8117,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="A line name:key for each client.", metavar="F")
    ] = None,
    cache_url: Annotated[
        str | None, typer.Option("--cache-url", help="Redis that several servers share.", metavar="redis://...")
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="Folder of `honeclip embed`, for /v1/search.", metavar="EMB")
    ] = None,
    allow_url: Annotated[
        list[str] | None,
        typer.Option("--allow-url", help="Host whose https images may be fetched; may be repeated.", metavar="HOST"),
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, fp16 or bf16.")] = "auto",
    device: Device = "auto",
) -> None:
    """Serve a model over HTTP: similarity, classification, search, embeddings; /docs lists the routes.

    SIGTERM finishes what was admitted, and exits 0. Exits 75 where the device does not answer any more, so that launchd,
    systemd or compose start it again.

    Example: honeclip serve starter --port 8117
    """
    import os
    import sys

    # OpenMP's threads wait for their next piece of work in a loop, 10 ms and more, and so keep the cores from those that
    # decode pictures and answer. To wake them for every product can cost more than the product. So they wait about as long
    # as two operations of a model lie apart, some 40 us (docs/log.md has longer and shorter waits). Read when torch is
    # imported, by GNU's library (turns of the loop) and by LLVM's (milliseconds).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")

    from honeclip.serving.settings import EXIT_STUCK
    from honeclip.serving.start import Options, serve

    code = serve(
        Options(
            model=model,
            host=host,
            port=port,
            api_key_file=api_key_file,
            cache_url=cache_url,
            index=index,
            allow_url=tuple(allow_url or ()),
            precision=precision,
            device=device,
        )
    )
    if code == EXIT_STUCK:
        sys.stderr.flush()
        os._exit(code)  # the device's thread is inside a call that never returns: Python would wait for it
    if code:
        raise typer.Exit(code)
