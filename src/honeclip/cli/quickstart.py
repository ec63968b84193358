"""`honeclip quickstart`: the whole way on sample data, with no network and no question asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Device


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="The run folder; data, model and report lie in it.")] = Path(
        "runs/quickstart"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    device: Device = "auto",
) -> None:
    """Fine-tune on molecules drawn here, and show what was won.

    Draws about 1,400 molecules with their names, fine-tunes the embedded model `starter`, evaluates before and after
    on molecules that were held out, and writes a report. No network is needed; two CPU cores take under three minutes.

    Example: honeclip quickstart --out runs/quickstart
    """
    from honeclip import quickstart as work
    from honeclip.cli.output import say, show

    run = work.quickstart(out, overwrite=overwrite, device=device, say=say)
    show(work.gain(run.before, run.after))
    show(f"\nReport: {run.folder / 'report' / 'index.html'}\nModel:  {run.model_folder}\n\n{work.NEXT}")
