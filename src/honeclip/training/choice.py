"""`resolution.stages = "auto"`: the size that images are worth, from memory, time, the images themselves and a short probe.

The model's own size is the answer unless there is a reason for another one: memory or time that it does not fit, or towers
that read clearly more out of the images at another size. A run whose image body learns climbs to the size that was chosen;
where the body is frozen, a stage would only cost another pass over the images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from honeclip import config as configs
from honeclip.errors import BadInput, ModelError
from honeclip.evaluation.intervals import Figure
from honeclip.model import resize
from honeclip.model.scales import sharing
from honeclip.monitoring.terminal import Progress
from honeclip.schedule import parse
from honeclip.sizes import SizeStage
from honeclip.training import candidates as looks
from honeclip.training import folder as folders
from honeclip.training import planning, stages
from honeclip.training.candidates import CLIMB, LEAST_ROWS, PROBE_ROWS, TIMED_ROWS, Candidate
from honeclip.training.frozen import Known
from honeclip.training.prepared import Prepared, Say, prepare

PROBE_S, PROBE_SHARE = 60.0, 0.1
"""Seconds that a probe may take, and the share of a run whose length is in minutes."""


@dataclass(frozen=True)
class Choice:
    """The sizes of a run and why.

    Attributes:
        rows: of `resolution.stages`.
        reasons: sentences.
        sizes: what was looked at, by size, as `Candidate.to_json` gives it.
        before_seconds: what evaluations take, which a length in minutes has to leave room for.
    """

    rows: tuple[SizeStage, ...]
    reasons: tuple[str, ...]
    sizes: tuple[dict[str, Any], ...]
    before_seconds: float

    def to_json(self) -> dict[str, Any]:
        """What is kept in the run folder and printed by `plan --json`."""
        return {
            "stages": [[row.at, row.size] for row in self.rows],
            "reasons": list(self.reasons),
            "sizes": list(self.sizes),
            "before_seconds": self.before_seconds,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Choice:
        """What `to_json` gave."""
        rows = tuple(SizeStage(at=at, size=size) for at, size in stored["stages"])
        return cls(rows, tuple(stored["reasons"]), tuple(stored["sizes"]), stored["before_seconds"])


def settled(found: Prepared, file: Path, say: Say, progress: Progress) -> Prepared:
    """What was prepared, with sizes where they were left to honeclip: as they were chosen before, or chosen and kept.

    Args:
        found: what was prepared; its model is left at the last size.
        file: of the run folder, where the choice is kept: a run that goes on does not choose again.
        say: told of the choice and of every size that was looked at.
        progress: of the probe.

    Raises:
        BadInput: no size fits the memory.
    """
    if found.config.resolution.stages != "auto":
        return found
    since = time.perf_counter()
    stored = folders.read_json(file)
    choice = Choice.from_json(stored) if stored else choose(found, progress)
    if not stored:
        for line in in_words(choice):
            say(line)
        folders.write_json(file, choice.to_json())
    resize.resize(found.clip, choice.rows[-1].size, found.origin)
    rows = choice.rows if len(choice.rows) > 1 else ()
    return replace(found, resolutions=rows, before_seconds=choice.before_seconds, since=since)


def advised(values: dict[str, dict[str, Any]], device: str, say: Say, progress: Progress) -> Choice:
    """What a run with these settings would choose, without a run.

    Args:
        values: sections and keys of a config.
        device: "auto", "cpu", "mps" or "cuda".
        say: told what else is to be known of data and model.
        progress: of looking at images, and of the probe.

    Raises:
        BadInput: something given is wrong, or no size fits the memory.
    """
    config = configs.load(None, ["resolution.stages=auto"], values)
    return choose(prepare(folders.absolute(config), device, say, progress), progress)


def choose(found: Prepared, progress: Progress) -> Choice:
    """Looks at sizes and takes one; the model stays as it is.

    Raises:
        BadInput: no size fits the memory.
    """
    seconds = _seconds(found)
    had = [looks.first_look(found, size) for size in looks.sizes(found)]
    allowed = PROBE_SHARE * seconds if seconds else PROBE_S
    count = min(PROBE_ROWS, len(found.train), int(allowed / sum(one.image_seconds for one in had)))
    asks = count >= LEAST_ROWS and sum(not one.out for one in had) > 1
    rows = found.train.select(looks.spread(len(found.train), count if asks else TIMED_ROWS))
    known = Known(progress)
    had = [looks.second_look(found, one, rows, known, asks) for one in had]
    if not any(one.peak_bytes for one in had):
        raise BadInput(f"resolution.stages=auto: no size can be taken: {had[0].out}")
    steps = planning.least_steps(stages.heads_alone(found.clip, found.config.model.freeze))
    climbs = looks.climbs(found)
    taken, had, reasons = decide(had, found.clip.preprocess.size_px, steps, climbs, seconds)
    if not asks:
        reasons.append(f"No probe: of {LEAST_ROWS} pairs that it needs, {count} can be looked at in {allowed:.0f} s.")
    wanted = _climb(found, taken.size_px) if climbs else (SizeStage(at=0.0, size=taken.size_px),)
    return Choice(wanted, tuple(reasons), tuple(one.to_json() for one in had), taken.before_seconds)


def decide(
    had: Sequence[Candidate], own_px: int, steps: int, climbs: bool, seconds: float | None
) -> tuple[Candidate, list[Candidate], list[str]]:
    """The size that is taken, all sizes with what rules them out, and the reasons.

    Args:
        had: sizes, ascending, at least one of which fits the memory.
        own_px: the model's own side.
        steps: least steps of a run.
        climbs: whether the run begins at smaller sizes.
        seconds: that the run may take; None where nobody said.
    """
    judged = [_in_time(one, steps, climbs, seconds) for one in had]
    left = [one for one in judged if not one.out]
    if not left:
        fastest = min((one for one in had if not one.out), key=lambda one: one.run_seconds(steps, climbs))
        return fastest, judged, [f"{fastest.size_px} px is the fastest; no size has time for {steps} steps."]
    own = max((one for one in left if one.size_px <= own_px), key=lambda one: one.size_px, default=left[0])
    reasons = [f"{own.size_px} px is the model's own size, and memory and time hold it."]
    if own.size_px != own_px:
        why = next((one.out for one in judged if one.size_px == own_px), "")
        reasons = [f"{own.size_px} px is the largest size up to the model's own {own_px} px that can be had ({why})."]
    taken = own
    for one in left:
        apart = one.beyond(own)
        if apart and apart["low"] > 0 and (taken is own or one.mean > taken.mean):
            taken = one
    if taken is not own and (apart := taken.beyond(own)):
        reasons.append(f"{taken.size_px} px is taken instead: the probe reads more at it, MRR {_signed(apart)}.")
    for one in left:
        apart = one.beyond(taken)
        if one.size_px < taken.size_px and apart and apart["high"] >= 0:
            share = one.image_seconds / taken.image_seconds
            reasons.append(
                f"{one.size_px} px would take {share:.0%} of the time an image, and the probe does not read clearly less at "
                f"it: MRR {_signed(apart)}."
            )
            break
    return taken, judged, reasons


def in_words(choice: Choice) -> list[str]:
    """A line a size, the sizes that were taken, and the reasons."""
    lines = ["sizes that were looked at:"]
    for one in choice.sizes:
        mrr = (
            f", probe {one['mrr']['value']:.3f} [{one['mrr']['low']:.3f}, {one['mrr']['high']:.3f}]"
            if one["mrr"]
            else ""
        )
        peak = f", peak {one['peak_bytes'] / 1e9:.2f} GB" if one["peak_bytes"] else ""
        out = f" - not taken: {one['out']}" if one["out"] else ""
        lines.append(
            f"{one['size_px']:>5} px: {1000 * one['image_seconds']:.0f} ms an image{peak}, {one['upscaled']:.0%} of the images "
            f"smaller{mrr}{out}"
        )
    taken = [[row.at, row.size] for row in choice.rows]
    return [*lines, f"resolution.stages = {taken if len(taken) > 1 else taken[0][1]}", *choice.reasons]


def _climb(found: Prepared, size_px: int) -> tuple[SizeStage, ...]:
    """The rows of a run that ends at a size, without sizes that the tower cannot have."""
    rows: list[SizeStage] = []
    for at, share in CLIMB[:-1]:
        try:
            side = resize.nearest_size(found.clip, round(share * size_px))
            sharing(found.clip, side)
        except ModelError:
            continue
        if side < size_px and side not in [row.size for row in rows]:
            rows.append(SizeStage(at=at if rows else 0.0, size=side))
    return (*rows, SizeStage(at=CLIMB[-1][0] if rows else 0.0, size=size_px))


def _in_time(one: Candidate, steps: int, climbs: bool, seconds: float | None) -> Candidate:
    needed = one.run_seconds(steps, climbs)
    if one.out or seconds is None or needed <= seconds:
        return one
    return replace(
        one, out=f"{steps} steps and all evaluations would take {needed / 60:.1f} of {seconds / 60:g} minutes"
    )


def _seconds(found: Prepared) -> float | None:
    """Seconds that the run may take, where its length is in minutes."""
    length = found.config.train.length
    if length == "auto" or (duration := parse(length)).unit != "minutes":
        return None
    return 60 * duration.value


def _signed(apart: Figure) -> str:
    return f"{apart['value']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
