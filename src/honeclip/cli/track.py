"""`honeclip track`: the figures of a run for TensorBoard or Weights & Biases."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from honeclip.cli.options import Json

if TYPE_CHECKING:
    from honeclip.monitoring.trackers import Tracker

TRACKERS = ("tensorboard", "wandb")


def track(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    to: Annotated[str, typer.Option("--to", help="tensorboard or wandb (offline unless WANDB_MODE says otherwise).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write into; RUN/tensorboard or RUN/wandb.", metavar="DIR")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run has ended, or its process is gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the figures of a run for a tracker, from its events: while it goes on, or afterwards.

    Example: honeclip track runs/a --to tensorboard --follow
    """
    from honeclip.checkpoint.lock import is_locked
    from honeclip.cli.output import emit, say, show
    from honeclip.errors import BadInput, RunError
    from honeclip.monitoring.to_tensorboard import TensorBoard
    from honeclip.monitoring.to_wandb import WeightsAndBiases
    from honeclip.monitoring.trackers import track as work

    if to not in TRACKERS:
        raise BadInput(f"--to {to}: it is one of {', '.join(TRACKERS)}")
    file = run / "events.jsonl"
    if not file.is_file():
        raise RunError(f"{run} holds no run (no events.jsonl); name the folder that was given to fit --out")
    # wandb makes a folder of its own name itself
    folder = out or (run if to == "wandb" else run / to)
    made: list[Path] = []

    def opened() -> Tracker:
        if to == "tensorboard":
            made[:] = [folder]
            return TensorBoard(folder)
        tracker = WeightsAndBiases(folder, run.absolute().name, settings(run / "run.toml"))
        made.append(tracker.folder)
        return tracker

    found = work(file, opened, follow=follow, is_alive=lambda: is_locked(run))
    step = found.step
    if follow and not found.ended:
        say(f"{run} has not ended and no process is writing it: it was stopped or killed; fit --resume goes on")
    if as_json:
        emit({"run": run, "to": to, "out": made[-1], "step": step})
        return
    then = f"tensorboard --logdir {made[-1]}" if to == "tensorboard" else f"wandb sync {made[-1]}"
    show(f"figures up to step {step}: {made[-1]}\nto see them: {then}")


def settings(file: Path) -> Mapping[str, Any]:
    """The config of a run without what is nobody else's business: where its data lies, and who is told of it."""
    try:
        stored = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
    kept = {
        name: {key: _without_folder(value) for key, value in table.items()}
        for name, table in stored.items()
        if name not in ("data", "notify", "domain")
    }
    return {**kept, "domain": stored.get("domain", {}).get("name", "general")}


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
