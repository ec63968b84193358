"""The run folder: who may write it, what it says of itself, and where its parts lie."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from honeclip import config as configs
from honeclip.config import Config
from honeclip.errors import RunError

MAY_CHANGE = ("train.length", "memory.", "notify.")
"""Keys that a resumed run may be given anew; every other one would make it another run."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run; see the contract's run folder."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The effective config."""
        return self.path / "run.toml"

    @property
    def events_file(self) -> Path:
        """One JSON object a line."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folders step-000400, and the names LATEST and BEST."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The model that was handed over."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """index.html and report.json."""
        return self.path / "report"

    @property
    def result_file(self) -> Path:
        """What the finished run returned; its being there means that the run is finished."""
        return self.path / "result.json"

    @property
    def is_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.exists()


def begin(path: Path, config: Config, overwrite: bool) -> RunFolder:
    """Claims a folder for a new run and writes its config.

    Raises:
        RunError: a run is there already and `overwrite` is False, or the folder holds something else.
    """
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; name a folder for the run")
    if folder.is_run and not overwrite:
        raise RunError(
            f"{path} already holds a run; go on with --resume, replace it with --overwrite, or name another folder"
        )
    if folder.is_run:
        for part in (folder.checkpoints, folder.model, folder.report):
            shutil.rmtree(part, ignore_errors=True)
        for file in (folder.events_file, folder.result_file):
            file.unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)
    folder.config_file.write_text(tomli_w.dumps(config.model_dump()), encoding="utf-8")
    return folder


def resume(path: Path, sets: list[str], values: Mapping[str, Mapping[str, Any]]) -> tuple[RunFolder, Config]:
    """The folder and config of a run that goes on, with what may change changed.

    Raises:
        RunError: no run is there, its config is damaged, or something was given that would make it another run.
    """
    folder = RunFolder(path)
    if not folder.is_run:
        raise RunError(f"{path} holds no run to resume (no run.toml); start one without --resume")
    try:
        stored = tomllib.loads(folder.config_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{folder.config_file} is damaged ({error}); start anew with --overwrite") from None
    old = configs.load(values=stored)
    merged = {name: {**stored.get(name, {}), **values.get(name, {})} for name in stored}
    new = configs.load(values=merged, sets=sets)
    differing = {key: pair for key, pair in configs.differences(old, new).items() if not key.startswith(MAY_CHANGE)}
    if differing:
        lines = [f"{key}: the run has {was!r}, this call says {now!r}" for key, (was, now) in differing.items()]
        raise RunError(
            f"{path} was begun with other settings, so it cannot go on as the same run; leave these out or start another "
            "run:\n" + "\n".join(lines)
        )
    if old != new:
        folder.config_file.write_text(tomli_w.dumps(new.model_dump()), encoding="utf-8")
    return folder, new


def write_result(folder: RunFolder, result: dict[str, Any]) -> None:
    """Writes what the run returned, whole or not at all."""
    aside = folder.result_file.with_suffix(".partial")
    aside.write_text(json.dumps(result), encoding="utf-8")
    aside.replace(folder.result_file)
