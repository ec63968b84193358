"""The run folder: who may write it, what it says of itself, and where its parts lie."""

from __future__ import annotations

import contextlib
import hashlib
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
from honeclip.checkpoint.manifest import sha256
from honeclip.config import Config
from honeclip.data.remote import is_address
from honeclip.errors import BadInput, ConfigError, HoneclipError, RunError
from honeclip.training import settings

HASH = "sha256"
"""The key under which a JSON file beside the run has the hash of its other content."""

MAY_CHANGE = ("train.length", "memory.", "notify.")
"""Keys that a resumed run may be given anew; every other one would make it another run. Where its rows are known (data.json),
its data may lie elsewhere as well, as on another machine: `same_data` compares what they are."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run; see the contract's run folder."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The effective config."""
        return self.path / "run.toml"

    @property
    def config_copy(self) -> Path:
        """The same with a hash, for a run.toml that is damaged, or that somebody has changed."""
        return self.path / "run.json"

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
            self.config_copy,
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
        return self.config_file.exists() or self.config_copy.exists()


@dataclass(frozen=True)
class Found:
    """A run folder that may be written, and the config of the run in it; nothing was written yet.

    Attributes:
        folder: where the run is or will be.
        config: the effective one.
        going_on: whether a run that is there goes on; otherwise whatever run is there is replaced.
        note: what was wrong with it and was set right; "" where nothing was.
    """

    folder: RunFolder
    config: Config
    going_on: bool
    note: str = ""


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
        return _resumed(folder, values, sets, file)
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


def write_settings(found: Found) -> None:
    """Writes run.toml and its copy. The caller holds the lock."""
    record = settings.record(found.config)
    _write(found.folder.config_file, tomli_w.dumps(record))
    write_json(found.folder.config_copy, record)


@contextmanager
def claimed(found: Found) -> Iterator[None]:
    """The folder with the run's config in it, and a run that is to be replaced out of the way. The caller holds the lock.

    Where bad input comes out inside before the first checkpoint, everything is put back as it was.

    Raises:
        HoneclipError: the disk refuses.
    """
    folder = found.folder
    files = (folder.config_file, folder.config_copy)
    before = {file: file.read_bytes() for file in files if found.going_on and file.exists()}
    try:
        if not found.going_on:
            shutil.rmtree(folder.replaced, ignore_errors=True)
            _move(folder.parts, folder.replaced)
        write_settings(found)
    except OSError as error:
        raise HoneclipError(f"{folder.path} cannot be written: {error.strerror or error}") from error
    try:
        yield
    except BadInput:
        if found.going_on:
            for file in files:
                file.write_bytes(before[file]) if file in before else file.unlink(missing_ok=True)
        elif not folder.checkpoints.exists():
            _put_back(folder)
        raise


@contextmanager
def on_disk(folder: RunFolder) -> Iterator[None]:
    """Inside is a run. What the disk refuses ends it in words that name the file; nothing that was saved is lost.

    Raises:
        HoneclipError: the disk is full, read-only or gone.
    """
    try:
        yield
    except ConnectionError:  # whoever read the output has gone, for one; that is no disk
        raise
    except OSError as error:
        raise HoneclipError(
            f"{error.filename or folder.path}: {error.strerror or error}. Make room, or allow it to be written, then go on "
            "with --resume"
        ) from error


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
    return str(Path(path).expanduser().absolute()) if path and not is_address(path) else path


def _domain(name: str) -> str:
    """A domain's name, or where it is a file its absolute path."""
    return _absolute(name) if name.endswith(".toml") else name


def _stored(folder: RunFolder) -> tuple[dict[str, Any], str]:
    """What run.toml says; where it is damaged or gone what its copy says, and a sentence on that.

    Raises:
        BadInput: there is none, or it is damaged and has no copy, or it was changed since the run went on last.
    """
    kept = read_json(folder.config_copy)
    try:
        stored = tomllib.loads(folder.config_file.read_text(encoding="utf-8"))
        config = configs.load(values={name: table for name, table in stored.items() if name != "domain"})
    except FileNotFoundError:
        if kept is None:
            raise RunError(f"{folder.path} holds no run to resume (no run.toml); start one without --resume") from None
        return kept, f"{folder.config_file} is gone, so its copy {folder.config_copy.name} was taken"
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ConfigError) as error:
        if kept is None:
            if isinstance(error, ConfigError):
                raise
            raise RunError(f"{folder.config_file} is damaged ({error}); start anew with --overwrite") from None
        return kept, f"{folder.config_file} is damaged ({error}), so its copy {folder.config_copy.name} was taken"
    if kept is None:
        return stored, ""
    was = configs.load(values={name: table for name, table in kept.items() if name != "domain"})
    changed = _matters(folder, was, config)
    if changed:
        lines = [f"{key}: the run has {was!r}, the file says {now!r}" for key, (was, now) in changed.items()]
        raise RunError(
            f"{folder.config_file} was changed or damaged since the run went on last, and with other settings it would be "
            "another run. Delete that file, and --resume goes on with the settings that the run has:\n"
            + "\n".join(lines)
        )
    return {**stored, "domain": kept.get("domain")}, ""


def _resumed(folder: RunFolder, values: dict[str, dict[str, Any]], sets: list[str], file: Path | None) -> Found:
    """The run with its stored config, in which what may change is changed."""
    stored, note = _stored(folder)
    domain = stored.pop("domain", None)
    old = configs.load(values=stored)
    settings.check_domain(domain, old, folder.path)
    given = configs.tables(file, sets, values)
    # a run that is older than a section has none of it
    sections = {**stored, **given}
    new = absolute(configs.load(values={name: {**stored.get(name, {}), **given.get(name, {})} for name in sections}))
    differing = _matters(folder, old, new)
    if differing:
        lines = [f"{key}: the run has {was!r}, this call says {now!r}" for key, (was, now) in differing.items()]
        raise RunError(
            f"{folder.path} was begun with other settings, so it cannot go on as the same run; leave these out or start "
            "another run:\n" + "\n".join(lines)
        )
    return Found(folder, new, True, note)


def _matters(folder: RunFolder, was: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """The differences between two configs that make another run."""
    may = (*MAY_CHANGE, *(["data.path"] if folder.data_file.exists() else []))
    return {key: pair for key, pair in configs.differences(was, now).items() if not key.startswith(may)}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON object, whole or not at all, with a hash by which a damaged one is known."""
    _write(file, json.dumps({**content, HASH: _hash(content)}))


def read_json(file: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is nothing that can be read, or it is not what was written."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    written = content.pop(HASH, None)  # a run that is older than this has none
    return content if written in (None, _hash(content)) else None


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def hashes(folder: RunFolder) -> dict[str, str]:
    """SHA-256 of every file that a finished run hands over, by its path in the folder. Not of the model's card: it is there
    to be edited."""
    found = sorted(path for part in (folder.model, folder.report) for path in part.rglob("*") if path.is_file())
    found = [path for path in found if path != folder.model / "README.md" and path.name != ".DS_Store"]
    return {path.relative_to(folder.path).as_posix(): sha256(path) for path in found}


def damaged(folder: RunFolder, written: Mapping[str, str]) -> list[str]:
    """A sentence for each file of a finished run that is not what was written, or is missing.

    Args:
        folder: of the run.
        written: what `hashes` gave when the run ended.
    """
    now = hashes(folder)
    return [
        f"{name} {'was changed or damaged' if name in now else 'is missing'}"
        for name, one in written.items()
        if now.get(name) != one
    ]


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
