"""The run folder: who may write it, what it says of itself, and where its parts lie."""

from __future__ import annotations

import contextlib
import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from honeclip import config as configs
from honeclip.checkpoint.lock import LOCK
from honeclip.config import Config
from honeclip.errors import BadInput, HoneclipError, RunError
from honeclip.training import settings

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
    def start(self) -> Path:
        """What the run began with, where it looks at forgetting: the weights that learn, and the scores of the start."""
        return self.path / "start"

    @property
    def interpolated(self) -> Path:
        """A model between the start and RUN/model, where the run looks at forgetting."""
        return self.path / "interpolated"

    @property
    def choice_file(self) -> Path:
        """The sizes that `resolution.stages = "auto"` took, and why."""
        return self.path / "sizes.json"

    @property
    def data_file(self) -> Path:
        """The rows that the run began with, by hash, to be compared where it goes on."""
        return self.path / "data.json"

    @property
    def replaced(self) -> Path:
        """Where a run that is replaced waits until the new one has seen that nothing is wrong with its input."""
        return self.path / ".replaced"

    @property
    def parts(self) -> tuple[Path, ...]:
        """Everything that a run writes."""
        files = (
            self.config_file,
            self.events_file,
            self.result_file,
            self.before_file,
            self.choice_file,
            self.data_file,
        )
        return (self.checkpoints, self.model, self.interpolated, self.report, self.start, *files)

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
    values = {
        section: dict(table) if isinstance(table, Mapping) else table for section, table in (config or {}).items()
    }
    for section, key, value in (("data", "path", data), ("model", "source", model), ("data", "domain", domain)):
        # a section that is no table is a fault of the config, and said there
        if value is not None and isinstance(table := values.setdefault(section, {}), dict):
            table[key] = str(value)
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
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise RunError(f"{there} is a file; name a folder for the run")
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it: give one of the two")
    if resume:
        return Found(folder, _resumed(folder, values, sets, file), True)
    config = absolute(settings.load(file, sets, values))
    if not config.data.path:
        raise RunError("there is nothing to train on: give --data (or data.path in the config)")
    if folder.is_run and not overwrite:
        raise RunError(
            f"{path} already holds a run; go on with --resume, replace it with --overwrite, or name another folder"
        )
    strange = [part.name for part in folder.parts if part.exists()]
    if strange and not overwrite:
        raise RunError(
            f"{path} holds no run, but has {', '.join(strange)}, which a run would replace; name another folder, or say "
            "--overwrite"
        )
    return Found(folder, config, False)


@contextmanager
def claimed(found: Found) -> Iterator[None]:
    """The folder with the run's config in it, and a run that is to be replaced out of the way. The caller holds the lock.

    Where bad input comes out inside before the first checkpoint, everything is put back as it was.

    Raises:
        HoneclipError: the disk refuses.
    """
    folder = found.folder
    config_before = folder.config_file.read_text(encoding="utf-8") if found.going_on else ""
    try:
        if not found.going_on:
            shutil.rmtree(folder.replaced, ignore_errors=True)
            _move(folder.parts, folder.replaced)
        _write(folder.config_file, tomli_w.dumps(settings.record(found.config)))
    except OSError as error:
        raise HoneclipError(f"{folder.path} cannot be written: {error.strerror or error}") from error
    try:
        yield
    except BadInput:
        if found.going_on:
            _write(folder.config_file, config_before)
        elif not folder.checkpoints.exists():
            _put_back(folder)
        raise


def begun(folder: RunFolder) -> None:
    """Deletes the run that was replaced, or the result of the one that goes on: what is asked for can be computed."""
    shutil.rmtree(folder.replaced, ignore_errors=True)
    folder.result_file.unlink(missing_ok=True)


def _move(parts: tuple[Path, ...], to: Path) -> None:
    to.mkdir(parents=True)
    for part in parts:
        if part.exists():
            part.rename(to / part.name)


def _put_back(folder: RunFolder) -> None:
    """Takes away what a run that could not begin has written, and the folder where nothing else is in it."""
    for part in folder.parts:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    if folder.replaced.exists():
        for part in folder.replaced.iterdir():
            part.rename(folder.path / part.name)
        folder.replaced.rmdir()
    if [one.name for one in folder.path.iterdir()] == [LOCK]:
        with contextlib.suppress(OSError):  # some systems do not delete a file that is open: then an empty folder stays
            (folder.path / LOCK).unlink()
            folder.path.rmdir()


def absolute(config: Config) -> Config:
    """The config with every path absolute, so that a run goes on from whatever folder it is resumed in."""
    data, model, evaluate = config.data, config.model, config.evaluate
    source = Path(model.source).expanduser()
    return config.model_copy(
        update={
            "data": data.model_copy(update={"path": _absolute(data.path), "domain": _domain(data.domain)}),
            "evaluate": evaluate.model_copy(
                update={
                    "forgetting_data": _absolute(evaluate.forgetting_data),
                    "forgetting_domain": _domain(evaluate.forgetting_domain),
                }
            ),
            "model": model.model_copy(update={"source": str(source.absolute()) if source.is_dir() else model.source}),
        }
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""


def _domain(name: str) -> str:
    """A domain's name, or where it is a file its absolute path."""
    return _absolute(name) if name.endswith(".toml") else name


def _resumed(folder: RunFolder, values: dict[str, dict[str, Any]], sets: list[str], file: Path | None) -> Config:
    """The stored config with what may change changed."""
    if not folder.is_run:
        raise RunError(f"{folder.path} holds no run to resume (no run.toml); start one without --resume")
    try:
        stored = tomllib.loads(folder.config_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{folder.config_file} is damaged ({error}); start anew with --overwrite") from None
    domain = stored.pop("domain", None)
    old = configs.load(values=stored)
    settings.check_domain(domain, old, folder.path)
    given = configs.tables(file, sets, values)
    # a run that is older than a section has none of it
    sections = {**stored, **given}
    new = absolute(configs.load(values={name: {**stored.get(name, {}), **given.get(name, {})} for name in sections}))
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
