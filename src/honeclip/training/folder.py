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
from honeclip.errors import HoneclipError, RunError

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
    def before_file(self) -> Path:
        """What the model got before the first step, for the report at the end."""
        return self.path / "before.json"

    @property
    def is_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.exists()


@dataclass(frozen=True)
class Found:
    """A run folder that may be written, and the config of the run in it; nothing was written yet.

    Attributes:
        folder: where the run is or will be.
        config: the effective one.
        going_on: whether a run that is there goes on; otherwise whatever run is there is replaced.
    """

    folder: RunFolder
    config: Config
    going_on: bool


def options(
    config: Mapping[str, Mapping[str, Any]] | None, data: object, model: object, domain: str | None
) -> dict[str, dict[str, Any]]:
    """What a caller gave, as sections and keys of a config."""
    values = {section: dict(table) if isinstance(table, Mapping) else table for section, table in (config or {}).items()}
    for section, key, value in (("data", "path", data), ("model", "source", model), ("data", "domain", domain)):
        if value is not None:
            values.setdefault(section, {})[key] = str(value)
    return values


def find(
    path: Path, values: dict[str, dict[str, Any]], sets: list[str], file: Path | None, *, resume: bool, overwrite: bool
) -> Found:
    """Whether and as what a run may be written into a folder. Nothing is written.

    Raises:
        ConfigError: wrong keys or values.
        RunError: a run is there and it is to be neither resumed nor replaced, or there is none to resume, or something
            was given that would make it another run.
    """
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; name a folder for the run")
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it: give one of the two")
    if resume:
        return Found(folder, _resumed(folder, values, sets, file), True)
    config = absolute(configs.load(file, sets, values))
    if not config.data.path:
        raise RunError("there is nothing to train on: give --data (or data.path in the config)")
    if folder.is_run and not overwrite:
        raise RunError(
            f"{path} already holds a run; go on with --resume, replace it with --overwrite, or name another folder"
        )
    return Found(folder, config, False)


def claim(found: Found) -> None:
    """Makes the folder, clears away a run that is to be replaced, and writes the config. The caller holds the lock.

    Raises:
        HoneclipError: the disk refuses.
    """
    folder = found.folder
    try:
        if not found.going_on:
            for part in (folder.checkpoints, folder.model, folder.report):
                shutil.rmtree(part, ignore_errors=True)
            for file in (folder.events_file, folder.result_file, folder.before_file):
                file.unlink(missing_ok=True)
        _write(folder.config_file, tomli_w.dumps(found.config.model_dump()))
    except OSError as error:
        raise HoneclipError(f"{folder.path} cannot be written: {error.strerror or error}") from error


def absolute(config: Config) -> Config:
    """The config with every path absolute, so that a run goes on from whatever folder it is resumed in."""
    data, model = config.data, config.model
    domain = str(Path(data.domain).expanduser().absolute()) if data.domain.endswith(".toml") else data.domain
    source = Path(model.source).expanduser()
    return config.model_copy(
        update={
            "data": data.model_copy(
                update={"path": str(Path(data.path).expanduser().absolute()) if data.path else "", "domain": domain}
            ),
            "model": model.model_copy(update={"source": str(source.absolute()) if source.is_dir() else model.source}),
        }
    )


def _resumed(folder: RunFolder, values: dict[str, dict[str, Any]], sets: list[str], file: Path | None) -> Config:
    """The stored config with what may change changed."""
    if not folder.is_run:
        raise RunError(f"{folder.path} holds no run to resume (no run.toml); start one without --resume")
    try:
        stored = tomllib.loads(folder.config_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{folder.config_file} is damaged ({error}); start anew with --overwrite") from None
    old = configs.load(values=stored)
    given = configs.tables(file, sets, values)
    new = absolute(configs.load(values={name: {**stored.get(name, {}), **given.get(name, {})} for name in stored}))
    differing = {key: pair for key, pair in configs.differences(old, new).items() if not key.startswith(MAY_CHANGE)}
    if differing:
        lines = [f"{key}: the run has {was!r}, this call says {now!r}" for key, (was, now) in differing.items()]
        raise RunError(
            f"{folder.path} was begun with other settings, so it cannot go on as the same run; leave these out or start "
            "another run:\n" + "\n".join(lines)
        )
    return new


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON object, whole or not at all."""
    _write(file, json.dumps(content))


def read_json(file: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is nothing that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
