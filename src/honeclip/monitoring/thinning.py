"""The steps of a run in bounded memory: every step is looked at, and a thousand neighbourhoods of them are kept.

A neighbourhood is a number of consecutive steps, 1 at first; whenever there are too many of them two become one. Of each the
mean loss of all its steps is known, and three steps are kept whole: the first, and those of the smallest and the largest
loss, so that no spike is lost. Largest-Triangle-Three-Buckets (Steinarsson 2013) keeps one point of each, chosen for the look
of a single curve; here every figure of a kept step has to belong to that step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MOST = 1024
"""Neighbourhoods that are kept; a run with so many steps is kept whole."""


@dataclass(eq=False, slots=True)
class Kept:
    """A step that is kept: its line of the file, which is parsed when somebody asks for it."""

    step: int
    loss: float | None
    line: bytes | None
    parsed: dict[str, Any] | None = None

    @property
    def event(self) -> dict[str, Any]:
        """The whole event."""
        if self.parsed is None:
            self.parsed = json.loads(self.line or b"{}")
            self.line = None
        return self.parsed


@dataclass(eq=False, slots=True)
class Neighbourhood:
    """Consecutive steps.

    Attributes:
        first: the first of them.
        last_step: the number of the last of them.
        lowest: that of the smallest loss; None where no loss was finite.
        highest: that of the largest loss.
        count: how many had a finite loss.
        total: the sum of these losses.
    """

    first: Kept
    last_step: int
    lowest: Kept | None = None
    highest: Kept | None = None
    count: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """The mean of the finite losses."""
        return self.total / self.count if self.count else None

    @property
    def kept(self) -> list[Kept]:
        """One to three steps, in their order."""
        three = {one.step: one for one in (self.first, self.lowest, self.highest) if one is not None}
        return [three[step] for step in sorted(three)]


@dataclass(eq=False)
class Steps:
    """Steps as they arrive, thinned.

    Attributes:
        most: neighbourhoods that are kept at most.
        width: steps of a neighbourhood.
        all: the neighbourhoods, oldest first.
        count: steps that were seen and not taken back.
    """

    most: int = MOST
    width: int = 1
    all: list[Neighbourhood] = field(default_factory=list)
    count: int = 0
    _end: int = 0

    @property
    def last_step(self) -> int:
        """The number of the newest step; 0 where there is none."""
        return self.all[-1].last_step if self.all else 0

    def add(self, step: int, loss: float | None, data: bytes, begin: int, end: int) -> None:
        """Takes the step whose line is `data[begin:end]`; a step that goes back takes the later ones back."""
        if self.all and step <= self.all[-1].last_step:
            self.back_to(step - 1)
        self.count += 1
        if step >= self._end or not self.all:
            if len(self.all) >= self.most:
                self._widen()
            self._end = ((step - 1) // self.width + 1) * self.width + 1
            kept = Kept(step, loss, data[begin:end])
            self.all.append(
                Neighbourhood(kept, step) if loss is None else Neighbourhood(kept, step, kept, kept, 1, loss)
            )
            return
        here = self.all[-1]
        here.last_step = step
        if loss is None:
            return
        here.count += 1
        here.total += loss
        if here.lowest is None or here.highest is None:
            here.lowest = here.highest = Kept(step, loss, data[begin:end])
        elif loss < here.lowest.loss:  # type: ignore[operator]  # those two have one
            here.lowest = Kept(step, loss, data[begin:end])
        elif loss > here.highest.loss:  # type: ignore[operator]
            here.highest = Kept(step, loss, data[begin:end])

    def back_to(self, step: int) -> None:
        """Forgets the steps after `step`, as a run does that goes back.

        Of a neighbourhood that is cut in two only what is kept of it is known still, so its mean is that of those steps.
        """
        while self.all and self.all[-1].first.step > step:
            gone = self.all.pop()
            self.count -= gone.last_step - gone.first.step + 1
        if self.all and self.all[-1].last_step > step:
            cut = self.all.pop()
            self.count -= cut.last_step - step
            kept = [one for one in cut.kept if one.step <= step]
            finite = [one for one in kept if one.loss is not None]
            low, high = (pick(finite, key=_loss, default=None) for pick in (min, max))
            total = sum(map(_loss, finite))
            self.all.append(Neighbourhood(cut.first, step, low, high, len(finite), total))
        self.count = max(0, self.count)
        self._end = ((self.last_step - 1) // self.width + 1) * self.width + 1 if self.all else 0

    def kept(self) -> Iterator[Kept]:
        """Every step that is kept, in their order, and the newest neighbourhood's among them."""
        for one in self.all:
            yield from one.kept

    def _widen(self) -> None:
        """Makes two neighbourhoods one, until half as many are left."""
        self.width *= 2
        merged: list[Neighbourhood] = []
        for one in self.all:
            if merged and (merged[-1].first.step - 1) // self.width == (one.first.step - 1) // self.width:
                _merge(merged[-1], one)
            else:
                merged.append(one)
        self.all = merged


def _loss(one: Kept) -> float:
    return one.loss or 0.0


def _merge(here: Neighbourhood, other: Neighbourhood) -> None:
    """Adds the steps of the one that follows."""
    low = [one for one in (here.lowest, other.lowest) if one is not None]
    high = [one for one in (here.highest, other.highest) if one is not None]
    here.lowest, here.highest = min(low, key=_loss, default=None), max(high, key=_loss, default=None)
    here.last_step = other.last_step
    here.count += other.count
    here.total += other.total
