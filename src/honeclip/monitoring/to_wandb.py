"""Figures as a run of Weights & Biases, offline; needs the extra `honeclip[wandb]`.

Nothing leaves the machine unless the user's own environment says so: `wandb sync FOLDER` sends what was written, and
WANDB_MODE=online sends it at once. What wandb finds out about the machine, the code and the console is left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from honeclip.errors import BadInput, HoneclipError
from honeclip.monitoring.trackers import Figures

PROJECT = "honeclip"
"""Where WANDB_PROJECT says nothing."""


class WeightsAndBiases:
    """A run of Weights & Biases.

    Args:
        folder: in which wandb makes its own folder, `wandb/offline-run-...`.
        name: of the run.
        config: its settings.

    Raises:
        BadInput: wandb is not installed.
        HoneclipError: wandb cannot begin a run, for example as nobody is logged in and the environment asks for that.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # crash reports would be sent, offline or not
        try:
            import wandb
        except ModuleNotFoundError:
            raise BadInput("wandb is not installed, which --to wandb needs: pip install 'honeclip[wandb]'") from None
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=name,
                dir=str(folder),
                mode=_mode(),
                config=dict(config),
                settings=settings,
            )
        except wandb.Error as error:
            raise HoneclipError(f"wandb cannot begin a run: {error}") from None
        self._histogram, self._teardown = wandb.Histogram, wandb.teardown
        # wandb's own step only ever rises; a run that went back does not
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @property
    def folder(self) -> Path:
        """What `wandb sync` takes."""
        return Path(self._run.dir).parent

    def write(self, figures: Figures) -> None:
        """One row, with the step and the time of its event."""
        drawn = {
            tag: self._histogram(np_histogram=(np.asarray(counts), np.asarray(edges)))
            for tag, (edges, counts) in figures.histograms.items()
        }
        self._run.log({"step": figures.step, "time": figures.time, **figures.values, **drawn})

    def back_to(self, step: int) -> None:
        """Rows stay: the steps that come again are further rows."""

    def flush(self) -> None:
        """wandb writes each row at once."""

    def close(self) -> None:
        """Ends the run; when this returns its file is whole."""
        self._run.finish()
        self._teardown()  # the end of a run alone does not wait for what is on its way to the disk


def _mode() -> Any:
    return os.environ.get("WANDB_MODE", "offline")
