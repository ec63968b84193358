"""A run from its options to its report: `fit` and `_run` read as the order in which things happen."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from honeclip.checkpoint import background
from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint.lock import locked
from honeclip.checkpoint.save import RunState, tidy
from honeclip.data import reading
from honeclip.data.reading import Waiting
from honeclip.device import world
from honeclip.errors import RunError
from honeclip.evaluation import wording
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.terminal import Progress
from honeclip.training import choice, planning, ranks, resolution, same_data, setup, stages, telling
from honeclip.training import folder as folders
from honeclip.training import start as starts
from honeclip.training.finish import finish
from honeclip.training.folder import Found, RunFolder
from honeclip.training.following import follow
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, Mined
from honeclip.training.notified import finished, notified
from honeclip.training.prepared import Prepared, Say, prepare
from honeclip.training.ranks import Build, Ranks
from honeclip.training.same_data import Change
from honeclip.training.session import Session
from honeclip.training.signals import Stop, stopping
from honeclip.training.state import Position, moved, restore, stored_size
from honeclip.training.validation import Score


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder.
        steps: steps done.
        samples_per_second: over all steps, evaluation and saving left out.
        peak_memory_bytes: see the contract: on a CPU the resident memory above what the process held after its imports.
        before: METRICS of the model as it began, on test; {} where there is no test split.
        after: METRICS of RUN/model.
    """

    folder: Path
    steps: int
    samples_per_second: float
    peak_memory_bytes: int
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def model_folder(self) -> Path:
        """RUN/model, which open_clip loads."""
        return RunFolder(self.folder).model

    def to_json(self) -> dict[str, Any]:
        """What `fit --json` prints."""
        return {
            "run": str(self.folder),
            "model": str(self.model_folder),
            "steps": self.steps,
            "samples_per_second": self.samples_per_second,
            "peak_memory_bytes": self.peak_memory_bytes,
            "before": self.before,
            "after": self.after,
        }


def fit(
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs/fit",
    model: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    config_file: Path | None = None,
    sets: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    force: bool = False,
    report: Callable[[str], None] | None = None,
) -> Run:
    """`honeclip.fit`: fine-tunes a model on pairs and measures it before and after.

    Under torchrun every process calls it; rank 0 leads and writes, and all return the same (docs/scale.md).

    Args:
        data: a manifest, or a folder with one named pairs.csv.
        out: the run folder.
        model: any model source; None: as the config says, else `starter`.
        domain: a domain's name or file; None: as the config says, else "general".
        config: sections and keys as in a config file; `honeclip fit --help` lists them.
        config_file: a TOML file below `config`.
        sets: `section.key=value` texts above everything.
        device: "auto", "cpu", "mps" or "cuda".
        resume: goes on with the run in `out`, for which nothing else need be given.
        overwrite: replaces a run that is in `out`.
        force: goes on with `resume` although the data have changed since the run began.
        report: told what is going on, a sentence at a time; None prints it on standard error, above the progress.

    Raises:
        BadInput: something given is wrong; no run was begun and none was changed.
        NonFiniteError: a loss or gradient became NaN or infinite.
        Interrupted: SIGINT or SIGTERM; the run was saved.
        RanksError: under torchrun, another process is gone, or the run ended on rank 0.
    """
    values = folders.options(config, data, model, domain)
    with stopping() as stop, world.joined(device) as ours:
        if not ours.leads:
            followed: Run = follow(ours, device, stop)
            return followed
        among = Ranks(ours, stop)
        with ranks.led(among) as told, Progress() as progress:
            say = report or progress.say
            found = folders.find(Path(out), values, list(sets), config_file, resume=resume, overwrite=overwrite)
            run = _led(found, among, device, stop, say, progress, resume=resume, force=force)
            told.append(run)
            return run


def _led(
    found: Found, among: Ranks, device: str, stop: Stop, say: Say, progress: Progress, *, resume: bool, force: bool
) -> Run:
    """The run on rank 0, which is all of it where there is one process."""
    if found.note:
        say(found.note)
    done = _finished(found, say) if resume else None
    if done is not None:
        if found.note:
            with folders.on_disk(found.folder), locked(found.folder.path):
                folders.write_settings(found)
        say(f"{found.folder.path} is finished: {done.steps} steps; a larger train.length would go on")
        return done
    if force and not resume:
        raise RunError("--force goes on although the data changed: give it with --resume")
    with reading.waits(Waiting(say, stop.ask)), folders.on_disk(found.folder):
        prepared = prepare(found.config, device, say, progress)
        change = same_data.check(found, prepared.everything, force=force)
        among.begin(prepared.config, min(size for _, size in prepared.sizes), prepared.device)
        with locked(found.folder.path), folders.claimed(found), notified(found.folder, found.config, say):
            return _run(found.folder, prepared, change, among, stop, say, progress)


def _finished(found: Found, say: Say) -> Run | None:
    """What a finished run of the same length returned; None where there is something left to do."""
    stored = folders.read_json(found.folder.result_file)
    if stored is None or stored["length"] != found.config.train.length:
        return None
    if faults := folders.damaged(found.folder, stored.get("files", {})):
        say(f"the end of the run is written again: {'; '.join(faults)}")
        return None
    run = stored["result"]
    return Run(found.folder.path, *(run[key] for key in list(Run.__dataclass_fields__)[1:]))


def _run(
    folder: RunFolder, prepared: Prepared, change: Change, among: Ranks, stop: Stop, say: Say, progress: Progress
) -> Run:
    """The run itself, in a folder that is its own."""
    if change:
        say(f"going on with other data: {'; '.join(change.words)}")
        starts.forget_scores(folder.start, folder.before_file)
    prepared = replace(choice.settled(prepared, folder.choice_file, say, progress), ranks=among)
    config, clip = prepared.config, prepared.clip
    # 1. where it stands, and what the model got before its first step
    newest = checkpoints.latest_good(folder.checkpoints, say)
    state = checkpoints.read(newest) if newest else None
    before = setup.score_before(prepared, prepared.asked("test"), folder.before_file, progress)
    guard = prepared.guard
    known_before = None
    if guard is not None:
        file = folder.start / starts.BEFORE
        known_before = setup.score_before(prepared, guard.test, file, progress)
    # 2. features of bodies that are frozen for a while or for good
    frozen = stages.frozen_towers(clip, config.model.freeze)
    known = Known(progress)
    known.of(prepared, stages.ever_frozen(clip, config.model.freeze))
    among.tell(Build(prepared.precision, prepared.resolutions, clip.preprocess.size_px))
    learner = setup.build(prepared, frozen, known)
    # 3. how long, in which stages
    total, seconds = length(prepared, learner, known, state)
    schedule = partial(setup.table, prepared, total, seconds, state.json["phase"] if state else 0)
    learner = replace(learner, steps=total)
    table = schedule()
    for stage in table if state is None and prepared.resolutions else ():
        # a size that does not fit the memory, or the loss, comes out now and not after hours; plans are measured once
        setup.enter(prepared, learner, stage, known, None)
    begun: dict[int, Score] = {}
    if guard is not None:
        if state is None:
            starts.keep(folder.start, clip, learner.optimizer)
        begun = starts.scores(folder.start, prepared, guard, learner.optimizer, table)
    if first := table[0].resolution:
        size_px = stored_size(state) if state else first.size_px
        resolution.to_size(clip, learner.optimizer, size_px, prepared.origin)
    # 4. the steps
    saving = background.saver(folder.checkpoints, config.checkpoint.keep_last, prepared.device.lock, say)
    with closing(EventLog(folder.events_file)) as log, saving as saver:
        log.truncate(state.events_offset if state else 0)
        position = restore(state, learner, total) if state else Position(0, total)
        data = same_data.fingerprint(prepared.everything)
        if state is not None and state.json["data"] not in (None, data):  # scores and near misses are of other rows
            position = replace(position, start_score=None, best_score=None, worse=0)
            learner = replace(learner, mined=Mined())
        session = Session(
            folder,
            prepared,
            known,
            prepared.asked("val"),
            schedule,
            log,
            saver,
            stop,
            say,
            progress,
            seconds,
            data,
            begun,
        )
        if guard is not None and not session.looks(total):
            say(f"nothing is scored between steps, so evaluate.max_forgetting = {guard.limit:g} cannot end this run")
        if state is None:
            log.append("data", step=0, **telling.of_data(prepared.everything))
            position = session.first_score(learner, position)
        else:
            tidy(folder.checkpoints, position.step, config.checkpoint.keep_last)
            say(f"going on after step {position.step} of {total}")
            if other := moved(state, prepared.device.backend):
                say(
                    f"the run comes from {other} and goes on on {prepared.device.backend}: order of the data, steps and rates "
                    "are the same, sums are rounded otherwise, and dropout draws other numbers by the same seeds"
                )
        same_data.keep(folder.data_file, prepared.everything)
        position = session.train(learner, position, state)
        log.append("finishing", step=position.step)
    # 5. the model that is handed over, and what it won
    before, after = finish(folder, prepared, before, known_before, position, frozen, say, progress)
    run = Run(
        folder=folder.path,
        steps=position.step,
        samples_per_second=position.samples / position.elapsed_s if position.elapsed_s else 0.0,
        peak_memory_bytes=position.peak_bytes,
        before=before.metrics if before else {},
        after=after.metrics if after else {},
    )
    end = {"length": config.train.length, "result": run.to_json(), "files": folders.hashes(folder)}
    folders.write_json(folder.result_file, end)
    finished(folder, wording.verdict(run.before or None, run.after, None) if run.after else "")
    return run


def length(prepared: Prepared, learner: Learner, known: Known, state: RunState | None) -> tuple[int, float | None]:
    """Steps of the run, and seconds a step where a duration is in minutes.

    A run that goes on with the same `train.length` keeps its number of steps, however long a step takes today.
    """
    config = prepared.config
    frozen = stages.frozen_towers(prepared.clip, config.model.freeze)
    seconds = None
    if setup.needs_timing(config):
        seconds = setup.mean_seconds(prepared, learner, known)
    if state is not None and state.json["length"] == config.train.length:
        return state.total_steps, seconds
    alone = stages.heads_alone(prepared.clip, config.model.freeze)
    rows, batch = len(prepared.train), prepared.mean_batch
    # the search for a size, the start's score and the timing itself have taken of the minutes already
    spent = time.perf_counter() - prepared.since if prepared.since is not None else 0.0
    total = planning.total_steps(config.train, rows, batch, seconds, alone, prepared.before_seconds + spent)
    if alone and frozen != stages.TOWERS and config.train.length == "auto":
        # the heads have all the steps that they would have alone, and the towers' come on top
        total = math.ceil(total / stages.HEADS_FIRST)
    return total, seconds
