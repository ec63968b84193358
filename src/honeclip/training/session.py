"""The steps of a run, stage by stage: what is evaluated, saved and written down between them, and when they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from honeclip.checkpoint.save import LATEST, RunState, named, save
from honeclip.device.memory import PeakMeter
from honeclip.embedding.features import Features as Caches
from honeclip.errors import Interrupted, NonFiniteError
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.terminal import Progress
from honeclip.schedule import parse, to_steps
from honeclip.training import folder as folders
from honeclip.training import frozen as features
from honeclip.training import mining, resolution, setup, stages
from honeclip.training.asked import Asked
from honeclip.training.folder import RunFolder
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, Step, train
from honeclip.training.prepared import Prepared, Say
from honeclip.training.resolution import Resolution
from honeclip.training.signals import Stop
from honeclip.training.stages import Stage
from honeclip.training.state import Position, capture, sizes_begun, stored_plan
from honeclip.training.validation import judge, measure

SAVE_SHARE_S = 60.0
"""A `checkpoint.every` that is a share of the run saves not oftener than this many seconds."""


@dataclass(frozen=True)
class Session:
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
