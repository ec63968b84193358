"""`honeclip tune`: tries settings of a run and keeps the best."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.fit import Command as Command
from honeclip.cli.options import Config, Device, Domain, Json, Model, TrainingData


def tune(
    out: Annotated[Path, typer.Option("--out", help="Folder of the study.", metavar="DIR")],
    data: TrainingData = None,
    model: Model = None,
    domain: Domain = None,
    config: Config = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="One key that stays as it is: train.batch=128.", metavar="A.B=V")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", help="Trials of the whole study.", metavar="N")] = 20,
    storage: Annotated[
        str | None, typer.Option("--storage", help="Database URL that several processes share.", metavar="URL")
    ] = None,
    pruner: Annotated[str, typer.Option("--pruner", help="median, hyperband or none.")] = "median",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Try losses, temperatures, rates and freezing by their score on val; what --set and --config fix stays.

    Trial 0 is the config as given. The same command goes on with a study that was stopped. DIR/best.toml is for
    fit --config, DIR/index.html shows what mattered.

    Example: honeclip tune --data pairs.csv --out runs/tune --trials 20
    """
    from honeclip.cli.output import emit, show
    from honeclip.tuning.page import verdict, write
    from honeclip.tuning.study import tune as work

    result = work(
        data,
        out,
        model,
        domain,
        config_file=config,
        sets=sets or (),
        trials=trials,
        storage=storage,
        pruner=pruner,
        device=device,
    )
    page = write(result)
    if as_json:
        emit(result.to_json())
        return
    show(verdict(result))
    show(f"report: {page}")
    show(f"best:   {result.config_file}")
