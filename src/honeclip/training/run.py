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

from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint.lock import locked
from honeclip.checkpoint.save import LATEST, RunState, named, save, tidy
from honeclip.device.memory import PeakMeter
from honeclip.embedding.features import Features as Caches
from honeclip.errors import Interrupted, NonFiniteError
from honeclip.model import heads
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.terminal import Progress
from honeclip.schedule import parse, to_steps
from honeclip.training import folder as folders
from honeclip.training import frozen as features
from honeclip.training import mining, planning, resolution, setup, stages
from honeclip.training.asked import Asked
from honeclip.training.finish import finish
from honeclip.training.folder import Found, RunFolder
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, Step, train
from honeclip.training.resolution import Resolution
from honeclip.training.setup import Prepared, Say
from honeclip.training.signals import Stop, stopping
from honeclip.training.stages import Stage
from honeclip.training.state import Position, capture, restore, sizes_begun, stored_plan, stored_size
from honeclip.training.validation import judge, measure

SAVE_SHARE_S = 60.0
"""A `checkpoint.every` that is a share of the run saves not oftener than this many seconds."""


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
    report: Callable[[str], None] | None = None,
) -> Run:
    """`honeclip.fit`: fine-tunes a model on pairs and measures it before and after.

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
        report: told what is going on, a sentence at a time; None prints it on standard error, above the progress.

    Raises:
        BadInput: something given is wrong; no run was begun and none was changed.
        NonFiniteError: a loss or gradient became NaN or infinite.
        Interrupted: SIGINT or SIGTERM; the run was saved.
    """
    values = folders.options(config, data, model, domain)
    with Progress() as progress, stopping() as stop:
        say = report or progress.say
        found = folders.find(Path(out), values, list(sets), config_file, resume=resume, overwrite=overwrite)
        done = _finished(found) if resume else None
        if done is not None:
            say(f"{found.folder.path} is finished: {done.steps} steps; a larger train.length would go on")
            return done
        prepared = setup.prepare(found.config, device, say, progress)
        with locked(found.folder.path), folders.claimed(found):
            return _run(found.folder, prepared, stop, say, progress)


def _finished(found: Found) -> Run | None:
    """What a finished run of the same length returned; None where there is something left to do."""
    stored = folders.read_json(found.folder.result_file)
    if stored is None or stored["length"] != found.config.train.length:
        return None
    run = stored["result"]
    return Run(found.folder.path, *(run[key] for key in list(Run.__dataclass_fields__)[1:]))


def _run(folder: RunFolder, prepared: Prepared, stop: Stop, say: Say, progress: Progress) -> Run:
    """The run itself, in a folder that is its own."""
    config, clip = prepared.config, prepared.clip
    # 1. where it stands, and what the model got before its first step
    newest = checkpoints.latest_good(folder.checkpoints, say)
    state = checkpoints.read(newest) if newest else None
    before = setup.score_before(prepared, folder, progress)
    # 2. features of bodies that are frozen for a while or for good
    frozen = stages.frozen_towers(clip, config.model.freeze)
    known = Known(progress)
    known.of(prepared, stages.ever_frozen(clip, config.model.freeze))
    learner = setup.build(prepared, frozen, known)
    # 3. how long, in which stages
    total, seconds = length(prepared, learner, known, state)
    schedule = partial(setup.table, prepared, total, seconds, state.json["phase"] if state else 0)
    learner = replace(learner, steps=total)
    table = schedule()
    if state is None and len(prepared.resolutions) > 1:
        # what the largest size needs and memory does not have comes out now and not after hours
        setup.enter(prepared, learner, max(table, key=lambda one: (one.size_px, one.start)), known, None)
    if first := table[0].resolution:
        size_px = stored_size(state) if state else first.size_px
        resolution.to_size(clip, learner.optimizer, size_px, prepared.origin)
    # 4. the steps
    with closing(EventLog(folder.events_file)) as log:
        log.truncate(state.events_offset if state else 0)
        position = restore(state, learner, total) if state else Position(0, total)
        session = _Session(
            folder,
            prepared,
            known,
            prepared.asked("val"),
            schedule,
            log,
            stop,
            say,
            progress,
            seconds,
        )
        if state is None:
            position = session.first_score(learner, position)
        else:
            tidy(folder.checkpoints, position.step, config.checkpoint.keep_last)
            say(f"going on after step {position.step} of {total}")
        position = session.train(learner, position, state)
    # 5. the model that is handed over, and what it won
    asked = prepared.asked("test")
    after = finish(folder, config, asked, before, prepared.device, say, prepared.begins_unaligned, frozen)
    run = Run(
        folder=folder.path,
        steps=position.step,
        samples_per_second=position.samples / position.elapsed_s if position.elapsed_s else 0.0,
        peak_memory_bytes=position.peak_bytes,
        before=before.metrics if before else {},
        after=after.metrics if after else {},
    )
    folders.write_json(folder.result_file, {"length": config.train.length, "result": run.to_json()})
    return run


def length(prepared: Prepared, learner: Learner, known: Known, state: RunState | None) -> tuple[int, float | None]:
    """Steps of the run, and seconds a step where a duration is in minutes.

    A run that goes on with the same `train.length` keeps its number of steps, however long a step takes today.
    """
    config = prepared.config
    frozen = stages.frozen_towers(prepared.clip, config.model.freeze)
    seconds = None
    if setup.needs_timing(config):
        seconds = setup.mean_seconds(prepared, learner, frozen, known)
    if state is not None and state.json["length"] == config.train.length:
        return state.total_steps, seconds
    alone = frozen == stages.TOWERS or heads.takes_fresh_heads(prepared.clip)
    total = planning.total_steps(config.train, len(prepared.train), prepared.mean_batch, seconds, alone)
    if alone and frozen != stages.TOWERS and config.train.length == "auto":
        # the heads have all the steps that they would have alone, and the towers' come on top
        total = math.ceil(total / stages.HEADS_FIRST)
    return total, seconds


@dataclass(frozen=True)
class _Session:
    """What stays the same while a run goes on."""

    folder: RunFolder
    prepared: Prepared
    known: Known
    val: Asked
    schedule: Callable[[Sequence[int], int], tuple[Stage, ...]]
    log: EventLog
    stop: Stop
    say: Say
    progress: Progress
    seconds: float | None

    def every(self, duration: str | int, total: int) -> int:
        """A duration of the config in steps."""
        return to_steps(parse(duration), self.prepared.steps_per_epoch, total, self.seconds)

    def first_score(self, learner: Learner, position: Position) -> Position:
        """The score on val before the first step, where the run looks at val at all."""
        every = self.every(self.prepared.config.evaluate.every, position.total_steps)
        if not len(self.val.pairs) or not 0 < every <= position.total_steps:
            return position
        found = measure(learner.clip, self.val, self.caches())
        size_px = learner.clip.preprocess.size_px
        said = {"score": found.value, "words": found.words, "size_px": size_px, "metrics": found.metrics}
        self.log.append("evaluation", step=0, split="val", **said)
        return replace(position, start_score=found.value)

    def train(self, learner: Learner, position: Position, state: RunState | None) -> Position:
        """Every step that is left, stage by stage."""
        begun = sizes_begun(state)
        table = self.schedule(begun, position.step)
        while position.step < position.total_steps:
            stage = stages.at(table, position.step)
            seen = stage.resolution
            if seen is not None and seen.row + 1 == len(begun) and _plateau(position, stage):
                table = self.schedule((*begun, position.step), position.step)
                stage = stages.at(table, position.step)
                seen = stage.resolution
            if seen is not None:
                position = self._changed(learner, position, seen, begun)
                begun = seen.starts
            if self._gives_up(position, stage):
                break
            config = self.prepared.config
            plan = stored_plan(state, stage.start, config.memory) if state else None
            learner = setup.enter(self.prepared, learner, stage, self.known, plan)
            factor = stages.rate(table, config.train, position.total_steps, self.prepared.steps_per_epoch, self.seconds)
            learner = replace(learner, factor=factor)
            folders.begun(self.folder)
            size = f" at {seen.size_px} px" if seen else ""
            self.say(f"steps {position.step + 1} to {stage.stop}{size}: {learner.plan.reason}")
            phase, _ = stages.phase(table, stage)
            position, go_on = self._stage(learner, position, stage, phase)
            if not go_on:
                break
        self.stop.waits = False
        self._leave_if_asked(position)
        return position

    def caches(self) -> Caches:
        """Of the bodies that never learn, at the size that the model has now."""
        return features.caches(
            self.prepared, stages.frozen_towers(self.prepared.clip, self.prepared.config.model.freeze)
        )

    def _changed(self, learner: Learner, position: Position, seen: Resolution, begun: Sequence[int]) -> Position:
        """The position at a size of the images that begins or goes on; says so where it begins after another.

        Scores at two sizes are not of the same pictures. So with each size the best score is looked for anew: BEST is the
        best of the last size that was reached, which is the size of RUN/model, and patience counts in the last size only.
        """
        if not begun or seen.row + 1 == len(begun):
            return position
        before_px = learner.clip.preprocess.size_px
        reason = f"{position.step} of {position.total_steps} steps are done"
        if seen.patience_before and position.worse >= seen.patience_before:
            reason = f"{position.worse} evaluations without a better score"
        self.log.append(
            "stage",
            step=position.step,
            size_px=seen.size_px,
            before_px=before_px,
            lr_scale=seen.lr_scale,
            strength=seen.strength,
            patch_dropout=seen.patch_dropout,
            moments=resolution.MOMENTS,
            reason=reason,
        )
        self.say(f"after step {position.step}: images at {seen.size_px} px instead of {before_px} px: {reason}")
        same = seen.size_px == before_px
        return replace(
            position,
            worse=0,
            best_score=position.best_score if same else None,
            start_score=position.start_score if same else None,
        )

    def _stage(self, learner: Learner, position: Position, stage: Stage, phase: int) -> tuple[Position, bool]:
        """The steps of one stage, or up to a plateau; False at the end where the run is to end early."""
        config = self.prepared.config
        caches = self.caches()
        evaluate_every = self.every(config.evaluate.every, position.total_steps)
        save_every = self.every(config.checkpoint.every, position.total_steps)
        save_after_s = SAVE_SHARE_S if parse(config.checkpoint.every).unit == "percent" else 0.0
        looks = len(self.val.pairs) > 0 and 0 < evaluate_every <= position.total_steps
        batches = mining.batches(self.prepared, learner, stage, position.step)
        saved = time.monotonic()
        self.stop.waits = True
        with PeakMeter(self.prepared.device) as meter:
            started = time.perf_counter()
            for step in train(learner, batches, self._last_good):
                seconds = time.perf_counter() - started
                learner = replace(learner, plan=step.plan)
                position = self._stepped(learner, step, position, seconds, meter)
                last = step.number == position.total_steps
                best = False
                if looks and (step.number % evaluate_every == 0 or last):
                    position, best = self._evaluated(learner, position, caches)
                end = last or self._gives_up(position, stage)
                due = save_every and step.number % save_every == 0 and time.monotonic() - saved >= save_after_s
                if due or best or end or self.stop.wanted:
                    position = replace(position, peak_bytes=max(position.peak_bytes, self._peak(meter)))
                    kept = capture(learner, position, self.log.offset, stage, phase)
                    save(
                        self.folder.checkpoints, kept, config.checkpoint.keep_last, best and config.checkpoint.keep_best
                    )
                    saved = time.monotonic()
                self._leave_if_asked(position)
                if end and not last:
                    self.say(f"ended after step {step.number}: {position.worse} evaluations without a better score")
                    return position, False
                if _plateau(position, stage):
                    break
                started = time.perf_counter()
        return replace(position, peak_bytes=max(position.peak_bytes, self._peak(meter))), True

    def _leave_if_asked(self, position: Position) -> None:
        """Ends the process where a signal asked for it; the position was saved."""
        if self.stop.wanted:
            raise Interrupted(self.stop.wanted, f"stopped and saved after step {position.step}; go on with --resume")

    def _stepped(self, learner: Learner, step: Step, position: Position, seconds: float, meter: PeakMeter) -> Position:
        """Writes down one step."""
        position = replace(
            position, step=step.number, elapsed_s=position.elapsed_s + seconds, samples=position.samples + step.pairs
        )
        held = meter.now_bytes + max(0, meter.baseline - self.prepared.imports_bytes)
        speed = step.pairs / seconds
        result = step.result
        self.log.append(
            "step",
            step=step.number,
            loss=result.loss,
            lr=step.lr,
            logit_scale=float(learner.clip.logit_scale.detach().exp()),
            samples_per_second=speed,
            micro_batch=result.micro_batch,
            kept=result.kept,
            retries=result.retries,
            memory_bytes=held,
            grad_norm=step.grad_norm,
            skipped=step.skipped,
            parts=result.parts,
            seconds=result.seconds,
        )
        if step.change:
            plan = step.plan
            self.log.append(
                "memory",
                step=step.number,
                reason=step.change,
                micro_batch=plan.micro_batch[0],
                kept=plan.keep[0],
                recompute=plan.recompute,
                attention_slice=plan.attention_slice,
            )
            self.say(f"after step {step.number}: {step.change}")
        for lost in step.lost:
            self.log.append("lost_image", step=step.number, reason=lost)
            self.say(f"step {step.number} went on without an image: {lost}")
        self.progress.step(
            step.number, position.total_steps, loss=result.loss, samples_per_second=speed, memory_bytes=held
        )
        return position

    def _evaluated(self, learner: Learner, position: Position, caches: Caches) -> tuple[Position, bool]:
        try:
            found = measure(learner.clip, self.val, caches)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"step {position.step}: {error}; the last good checkpoint is {self._last_good()}. Lower train.lr, or use "
                "train.precision=fp32"
            ) from None
        if self.prepared.device.backend != "cpu":
            self.prepared.device.empty_cache()  # the shapes of an evaluation do not come again (docs/mps.md, rule 18)
        position, best, said = judge(position, found)
        self.log.append(
            "evaluation",
            step=position.step,
            split="val",
            score=found.value,
            words=found.words,
            best=best,
            size_px=learner.clip.preprocess.size_px,
            metrics=found.metrics,
        )
        if said:
            self.say(said)
        return position, best

    def _gives_up(self, position: Position, stage: Stage) -> bool:
        patience = self.prepared.config.train.patience
        last = stage.resolution is None or stage.resolution.last
        return bool(patience) and last and position.worse >= patience

    def _peak(self, meter: PeakMeter) -> int:
        return meter.peak_bytes + max(0, meter.baseline - self.prepared.imports_bytes)

    def _last_good(self) -> str:
        return named(self.folder.checkpoints, LATEST) or "none yet"


def _plateau(position: Position, stage: Stage) -> bool:
    """Whether the next size is due because the score does not rise any more at this one."""
    seen = stage.resolution
    return seen is not None and 0 < seen.patience <= position.worse
