"""The steps of a run, stage by stage: what is evaluated, saved and written down between them, and when they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint.background import Saved, Saver
from honeclip.checkpoint.save import LATEST, WITHIN, RunState, named
from honeclip.data.pairs import Pairs
from honeclip.device import matmul
from honeclip.device.memory import PeakMeter, budget
from honeclip.embedding.features import Features as Caches
from honeclip.errors import Interrupted, NonFiniteError, RunError
from honeclip.evaluation.answers import Metrics
from honeclip.monitoring.events import EventLog
from honeclip.monitoring.terminal import Progress
from honeclip.schedule import parse, to_steps
from honeclip.training import eight, forgetting, mining, resolution, setup, stages, telling
from honeclip.training import folder as folders
from honeclip.training import frozen as features
from honeclip.training.asked import Asked
from honeclip.training.eight import Eight
from honeclip.training.folder import RunFolder
from honeclip.training.forgetting import Seen, Starts
from honeclip.training.frozen import Known
from honeclip.training.loop import Learner, Step, train
from honeclip.training.prepared import Prepared, Say
from honeclip.training.resolution import Resolution
from honeclip.training.signals import Stop
from honeclip.training.stages import Stage
from honeclip.training.state import Position, capture, restore, sizes_begun, stored_plan
from honeclip.training.validation import judge, measure

SAVE_SHARE_S = 60.0
"""A `checkpoint.every` that is a share of the run saves not oftener than this many seconds."""

MOST_REWINDS = 3
"""How often a run goes back because it forgets too much; each time at half the rate, so the last at an eighth."""

RATE_AFTER_REWIND = 0.5
"""Factor on the learning rate with each time that a run goes back."""


@dataclass(frozen=True)
class Session:
    """What stays the same while a run goes on."""

    folder: RunFolder
    prepared: Prepared
    known: Known
    val: Asked
    schedule: Callable[[Sequence[int], int], tuple[Stage, ...]]
    log: EventLog
    saver: Saver
    stop: Stop
    say: Say
    progress: Progress
    seconds: float | None
    data: str
    starts: Starts = field(default_factory=dict)

    def every(self, duration: str | int, total: int) -> int:
        """A duration of the config in steps."""
        return to_steps(parse(duration), self.prepared.steps_per_epoch, total, self.seconds)

    def first_score(self, learner: Learner, position: Position) -> Position:
        """The score on val before the first step, where the run looks at val at all."""
        if not self.looks(position.total_steps):
            return position
        started = time.perf_counter()
        found = measure(learner.clip, self.val, self.caches(), healthy=True)
        size_px = learner.clip.preprocess.size_px
        guard = self.prepared.guard
        start = forgetting.judged(guard, self.starts[size_px], self.starts[size_px]) if guard else None
        said = telling.of_evaluation(found, size_px, time.perf_counter() - started)
        self.log.append("evaluation", step=0, split="val", **{**said, **self._guarded(found.metrics, start)})
        return replace(position, start_score=found.value)

    def looks(self, total: int) -> bool:
        """Whether the run looks at val between its steps."""
        return len(self.val.pairs) > 0 and 0 < self.every(self.prepared.config.evaluate.every, total) <= total

    def train(self, learner: Learner, position: Position, state: RunState | None) -> Position:
        """Every step that is left, stage by stage."""
        self._says_what_is_ahead(position)
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
            backend, processes = learner.clip.device.backend, self.prepared.ranks.world.size
            plan = stored_plan(state, stage.start, config.memory, backend, processes) if state else None
            learner = setup.enter(self.prepared, learner, stage, self.known, plan)
            # before the stage, for what is measured here is not part of a step's memory
            bound = matmul.flops_per_second(self.prepared.device, self.prepared.precision.name)
            bound *= self.prepared.ranks.world.size
            learner = replace(learner, flops=setup.flops(self.prepared, learner, stage.batch), bound=bound)
            factor = stages.rate(table, config.train, position.total_steps, self.prepared.steps_per_epoch, self.seconds)
            learner = replace(learner, factor=_slower(factor, position.rewinds))
            folders.begun(self.folder)
            size = f" at {seen.size_px} px" if seen else ""
            self.say(f"steps {position.step + 1} to {stage.stop}{size}: {learner.plan.reason}")
            phase, _ = stages.phase(table, stage)
            if position.step == 0 and self._may_go_back(position):
                self._save(learner, position, stage, phase, within=True)
            position, then = self._stage(learner, position, stage, phase)
            if then == "end":
                break
            if then == "back":
                position, state = self._back(learner, position)
                self._leave_if_asked(position)
        self._tell(self.saver.wait())
        self.stop.waits = False
        self._leave_if_asked(position)
        return position

    @cached_property
    def budget_bytes(self) -> int:
        """What the run may use, as it was when it was first asked for: of a card it is a share of what is free."""
        return budget(self.prepared.device, self.prepared.config.memory.budget_gb).bytes

    @cached_property
    def eight(self) -> Pairs:
        """The pairs by which checkpoints are known."""
        return eight.choose(self.val.pairs, self.prepared.train)

    def _says_what_is_ahead(self, position: Position) -> None:
        """Writes down what whoever watches cannot know from the steps: how many there will be, and what memory there is."""
        found = self.prepared
        self.log.append(
            "begin",
            step=position.step,
            steps=position.total_steps,
            batch=round(found.mean_batch),
            device=found.device.name,
            precision=found.precision.name,
            budget_bytes=self.budget_bytes,
            imports_bytes=found.imports_bytes if found.device.backend == "cpu" else 0,
            **({"processes": found.ranks.world.size} if found.ranks.several else {}),
        )

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

    def _stage(
        self, learner: Learner, position: Position, stage: Stage, phase: int
    ) -> tuple[Position, Literal["on", "end", "back"]]:
        """The steps of one stage, or up to a plateau, and what is next: the stage after it, the run's end before its time,
        or the last checkpoint that had not forgotten too much."""
        config = self.prepared.config
        caches = self.caches()
        evaluate_every = self.every(config.evaluate.every, position.total_steps)
        save_every = self.every(config.checkpoint.every, position.total_steps)
        save_after_s = SAVE_SHARE_S if parse(config.checkpoint.every).unit == "percent" else 0.0
        looks = self.looks(position.total_steps)
        keep_best = config.checkpoint.keep_best or self.prepared.guard is not None  # LATEST may have forgotten too much
        batches = mining.batches(self.prepared, learner, stage, position.step)
        saved = time.monotonic()
        self.stop.waits = True
        with PeakMeter(self.prepared.device) as meter:
            started = time.perf_counter()
            for step in train(learner, batches, self._last_good):
                seconds = time.perf_counter() - started
                self._tell(self.saver.done())
                learner = replace(learner, plan=step.plan)
                position = self._stepped(learner, step, position, seconds, meter)
                last = step.number == position.total_steps
                best, within, pairs = False, False, None
                if looks and (step.number % evaluate_every == 0 or last):
                    position, best, seen, pairs = self._evaluated(learner, position, caches)
                    if seen is not None and not seen.within and self._may_go_back(position):
                        return replace(position, peak_bytes=max(position.peak_bytes, self._peak(meter))), "back"
                    position = replace(position, forgot=seen is not None and not seen.within)
                    within = seen is not None and seen.within and self._may_go_back(position)
                end = last or self._gives_up(position, stage)
                due = save_every and step.number % save_every == 0 and time.monotonic() - saved >= save_after_s
                if due or best or within or end or self.stop.wanted:
                    position = replace(position, peak_bytes=max(position.peak_bytes, self._peak(meter)))
                    # what would be waited for at once needs no copy
                    beside = learner.plan.copy_bytes > 0 and not end and not self.stop.wanted
                    if end and pairs is None:
                        pairs = eight.of(learner.clip, self.eight, caches)
                    self._save(learner, position, stage, phase, best and keep_best, within, beside, pairs)
                    saved = time.monotonic()
                self._leave_if_asked(position)
                if end and not last:
                    worse = f"{position.worse} evaluations without a better score"
                    self.say(f"ended after step {step.number}: {'too much is forgotten' if position.forgot else worse}")
                    return position, "end"
                if _plateau(position, stage):
                    break
                started = time.perf_counter()
        return replace(position, peak_bytes=max(position.peak_bytes, self._peak(meter))), "on"

    def _may_go_back(self, position: Position) -> bool:
        rewinds = self.prepared.guard is not None and self.prepared.config.evaluate.on_forgetting == "rewind"
        return rewinds and self.looks(position.total_steps) and position.rewinds < MOST_REWINDS

    def _back(self, learner: Learner, position: Position) -> tuple[Position, RunState]:
        """The last checkpoint that had not forgotten too much, written anew as one from which the rate is half as high.

        A process that is killed before that goes on from an older checkpoint and comes to this point again.
        """
        self._tell(self.saver.wait())
        name = named(self.folder.checkpoints, WITHIN)
        assert name is not None  # one is written before the first step
        path = self.folder.checkpoints / name
        if faults := checkpoints.verify(path):
            raise RunError(f"the run forgets too much and would go back, but checkpoint {name} is damaged: {faults[0]}")
        state = checkpoints.read(path)
        rewinds = position.rewinds + 1
        before = restore(state, learner, position.total_steps)
        self.log.append("rewind", step=before.step, from_step=position.step, rewinds=rewinds)
        share = RATE_AFTER_REWIND**rewinds
        self.say(
            f"back from step {position.step} to step {before.step}, with {share:g} of the learning rate "
            f"({rewinds} of {MOST_REWINDS} times)"
        )
        # what was spent stays spent
        position = replace(
            before,
            rewinds=rewinds,
            elapsed_s=position.elapsed_s,
            samples=position.samples,
            peak_bytes=position.peak_bytes,
        )
        spent = {"samples": position.samples, "peak_bytes": position.peak_bytes, "rewinds": rewinds}
        state = replace(
            state, json={**state.json, **spent}, elapsed_s=position.elapsed_s, events_offset=self.log.offset
        )
        self._tell(self.saver.save(state, beside=False))
        return position, state

    def _save(
        self,
        learner: Learner,
        position: Position,
        stage: Stage,
        phase: int,
        best: bool = False,
        within: bool = False,
        beside: bool = False,
        pairs: Eight | None = None,
    ) -> None:
        """Writes a checkpoint of the run as it is now, `beside` the steps that follow where that is asked for."""
        since = time.perf_counter()
        self._tell(self.saver.wait())  # first, for that event belongs to the steps done
        state = capture(learner, position, self.log.offset, stage, phase, self.data, pairs)
        self._tell(self.saver.save(state, best=best, within=within, beside=beside, since=since))

    def _tell(self, saved: Saved | None) -> None:
        """Writes down what a checkpoint cost, once it is there; a run that goes on from it writes that event no more."""
        if saved is not None:
            self.log.append("checkpoint", step=saved.step, **telling.of_checkpoint(saved))
            self.progress.saved(saved.step, saved.bytes, saved.writing_s)

    def _leave_if_asked(self, position: Position) -> None:
        """Ends the process where a signal asked for it; the position was saved."""
        if self.stop.wanted:
            self._tell(self.saver.wait())
            raise Interrupted(self.stop.wanted, f"stopped and saved after step {position.step}; go on with --resume")

    def _stepped(self, learner: Learner, step: Step, position: Position, seconds: float, meter: PeakMeter) -> Position:
        """Writes down one step."""
        position = replace(
            position, step=step.number, elapsed_s=position.elapsed_s + seconds, samples=position.samples + step.pairs
        )
        held = meter.now_bytes + max(0, meter.baseline - self.prepared.imports_bytes)
        self.log.append("step", **telling.of_step(learner, step, seconds, held))
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
            step.number,
            position.total_steps,
            loss=step.result.loss,
            samples_per_second=step.pairs / seconds,
            memory_bytes=held,
            budget_bytes=self.budget_bytes,
            best=position.best_score,
        )
        return position

    def _evaluated(
        self, learner: Learner, position: Position, caches: Caches
    ) -> tuple[Position, bool, Seen | None, Eight | None]:
        """The position after an evaluation, whether it is the best so far, what was forgotten where that is asked, and the
        eight pairs that a checkpoint of this step keeps, so that no save has to wait for them."""
        guard = self.prepared.guard
        started = time.perf_counter()
        try:
            found = measure(learner.clip, self.val, caches, healthy=True)
            seen = forgetting.look(guard, learner.clip, caches, self.starts) if guard else None
            pairs = eight.of(learner.clip, self.eight, caches)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"step {position.step}: {error}; the last good checkpoint is {self._last_good()}. Lower train.lr, or use "
                "train.precision=fp32"
            ) from None
        if self.prepared.device.backend != "cpu":
            self.prepared.device.empty_cache()  # the shapes of an evaluation do not come again (docs/mps.md, rule 18)
        position, best, said = judge(position, found, seen is None or seen.within)
        size_px = learner.clip.preprocess.size_px
        what = {**telling.of_evaluation(found, size_px, time.perf_counter() - started), "best": best}
        self.log.append("evaluation", step=position.step, split="val", **{**what, **self._guarded(found.metrics, seen)})
        if said:
            self.say(said)
        if guard and seen and not seen.within:
            self.say(f"step {position.step}: {seen.words}: more than evaluate.max_forgetting = {guard.limit:g} is lost")
        return position, best, seen, pairs

    def _guarded(self, metrics: Metrics, seen: Seen | None) -> dict[str, Any]:
        """What an evaluation event says of the guard."""
        guard = self.prepared.guard
        if guard is None or seen is None:
            return {}
        told = telling.told_metrics(forgetting.told(metrics, guard, seen.metrics))
        return {"forgetting": seen.forgotten, "within": seen.within, "metrics": told}

    def _gives_up(self, position: Position, stage: Stage) -> bool:
        if position.forgot:
            return True
        patience = self.prepared.config.train.patience
        last = stage.resolution is None or stage.resolution.last
        return bool(patience) and last and position.worse >= patience

    def _peak(self, meter: PeakMeter) -> int:
        return meter.peak_bytes + max(0, meter.baseline - self.prepared.imports_bytes)

    def _last_good(self) -> str:
        self.saver.settle()
        return named(self.folder.checkpoints, LATEST) or "none yet"


def _slower(factor: Callable[[int], float], rewinds: int) -> Callable[[int], float]:
    """The rate of a run that went back so often."""
    return (lambda step: RATE_AFTER_REWIND**rewinds * factor(step)) if rewinds else factor


def _plateau(position: Position, stage: Stage) -> bool:
    """Whether the next size is due because the score does not rise any more at this one."""
    seen = stage.resolution
    return seen is not None and 0 < seen.patience <= position.worse
