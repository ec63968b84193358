"""`honeclip fit`: fine-tunes a model on pairs, measures it before and after, hands it over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Config, Device, Domain, Json, Model, TrainingData


class Command(typer.core.TyperCommand):
    """Adds every config key to the help, from the config itself, and only when the help is asked for."""

    def format_epilog(self, ctx: object, formatter: object) -> None:
        """Writes the keys below the options."""
        from honeclip import config

        with formatter.section("Config keys, with their defaults (--set section.key=value)"):  # type: ignore[attr-defined]
            for line in config.describe().splitlines():
                formatter.write(f"  {line}\n")  # type: ignore[attr-defined]


def fit(
    out: Annotated[Path, typer.Option("--out", help="The run folder.", metavar="RUN")],
    data: TrainingData = None,
    model: Model = None,
    domain: Domain = None,
    config: Config = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="One key, above the file: train.batch=128.", metavar="A.B=V")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in RUN; nothing else is needed.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in RUN.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --resume: go on although the data changed since the run began.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fine-tune a model on image-text pairs, measure it before and after on held-out ones, and write a report.

    The loss sees the whole effective batch, whatever fits into memory at once. A killed run goes on with --resume.
    torchrun --nproc-per-node N -m honeclip fit ... shares a batch out among N processes (docs/scale.md).

    Example: honeclip fit --data pairs.csv --out runs/a --set train.length="5 epochs"
    """
    from honeclip.cli.output import emit, show
    from honeclip.device import world
    from honeclip.training.run import fit as work

    run = work(
        data,
        out,
        model,
        domain,
        config_file=config,
        sets=sets or (),
        device=device,
        resume=resume,
        overwrite=overwrite,
        force=force,
    )
    if not world.of_environment().leads:
        return
    if as_json:
        emit(run.to_json())
        return
    if run.after:
        from honeclip.evaluation import wording

        show(wording.verdict(run.before or None, run.after, None))
        show(f"report: {run.folder / 'report' / 'index.html'}")
    show(f"model:  {run.model_folder}")
