"""What a step costs in memory: of each tower measured on a few samples, for a whole step by arithmetic.

Everything here is counted tensor by tensor and nothing is guessed: at every moment of a tower's forward and backward
the bytes are a straight line in the samples, so two runs over a few samples give those of any micro-batch. From them the
peak of a step with any number of kept graphs follows by walking through it as `step.cached_step` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.utils._pytree import tree_map

from honeclip.device import rng
from honeclip.device.ledger import levels
from honeclip.stepping import inputs as tower_inputs
from honeclip.stepping.count import counting, keeping_nothing, leaves

NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
"""What an encoder raises on tensors without numbers where it asks for some."""

ROWS = (2, 4)
"""Samples of the two measurements."""


@dataclass(frozen=True)
class Lines:
    """Bytes of a micro-batch as the highest of some straight lines (fixed bytes, bytes a sample).

    The most at once is here a moment with all activations, there one with all gradients of a vocabulary: each moment has
    a line of its own, and which of them is highest depends on the samples.
    """

    lines: tuple[tuple[int, int], ...]

    def __call__(self, samples: int) -> int:
        """Bytes for so many samples."""
        return max(fixed + each * samples for fixed, each in self.lines)


@dataclass(frozen=True)
class TowerCost:
    """What one tower needs in a step, weights left out.

    Attributes:
        fixed: bytes that are there from the first forward to the end of the step (weights that autocast casts).
        graph: bytes a sample that stay of a forward until its backward.
        forward: the most at once while a forward builds its graph, the graph included.
        passing: the same for a forward that keeps nothing.
        backward: the most at once during a backward above what was there at its start, gradients existing already.
        gradients: bytes of the gradients that the tower's backward leaves, 0 for a tower that does not learn.
        work: of a sample's forward, in any unit that is the same for all towers: the bytes that its graph keeps where
            nothing is recomputed.
        share: what an average micro-batch keeps, as a share of one with the longest captions; `graph` and all else is of
            the longest.
    """

    fixed: int
    graph: int
    forward: Lines
    passing: Lines
    backward: Lines
    gradients: int
    work: float
    share: float = 1.0


def measure(
    encoder: Callable[[Any], Tensor], inputs: Any, around: Callable[[], AbstractContextManager[Any]]
) -> TowerCost:
    """Runs a few samples forwards and backwards, if possible without computing, and counts the bytes of all tensors.

    Where an encoder asks for numbers (`item()`), it computes. Generators are put back and gradients removed; parameters
    must have none before.

    Args:
        encoder: a tower, as for `cached_step`.
        inputs: its inputs, at least one sample; the first few are used.
        around: context of a step: autocast and attention slices. A whole step lies within one, so each is entered once.
    """
    try:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        return _measured(encoder, faked(inputs, fake), around, fake)
    except NEEDS_NUMBERS:
        return _measured(encoder, inputs, around, None)


def passing(encoder: Callable[[Any], Tensor], inputs: Any) -> Lines:
    """Bytes of a forward that keeps nothing, as when a data set is embedded; measured as `measure` does it.

    Args:
        encoder: a tower.
        inputs: at least four samples.
    """

    def levels_of(rows: int, fake: FakeTensorMode | None) -> list[int]:
        piece = _first(inputs, rows)
        piece = piece if fake is None else faked(piece, fake)
        with torch.no_grad(), levels(fake) as found:
            output = encoder(piece)
        del output
        return list(found)

    try:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        low, high = (levels_of(rows, fake) for rows in ROWS)
    except NEEDS_NUMBERS:
        low, high = (levels_of(rows, None) for rows in ROWS)
    return _envelope(ROWS[0], low, ROWS[1], high)


def _measured(
    encoder: Callable[[Any], Tensor],
    inputs: Any,
    around: Callable[[], AbstractContextManager[Any]],
    fake: FakeTensorMode | None,
) -> TowerCost:
    rows = tower_inputs.rows(0, inputs)
    small, large = (min(wanted, rows) for wanted in ROWS)
    if small == large:
        small = max(1, large // 2)
    state = rng.snapshot()
    found: list[Tensor] = []
    try:
        with around():
            with levels(fake) as warm:
                found.extend(_warm_up(encoder, _first(inputs, large)))
            gradients = sum(one.grad.nbytes for one in found if one.grad is not None)
            low = _traces(encoder, _first(inputs, small), fake)
            high = _traces(encoder, _first(inputs, large), fake) if large > small else low
    finally:
        for one in found:
            one.grad = None
        rng.restore(state)
    forward, passing, backward = (_envelope(small, a, large, b) for a, b in zip(low[1:], high[1:], strict=True))
    # what is there once, such as casted weights, is in both
    graph = -(-(high[0] - low[0]) // (large - small)) if large > small else -(-high[0] // large)
    return TowerCost(max(0, warm[-1] - gradients), graph, forward, passing, backward, gradients, float(graph))


def peak_bytes(
    towers: Sequence[TowerCost],
    samples: Sequence[int],
    micro_batch: Sequence[int],
    keep: Sequence[int],
    held: int,
    loss_bytes: int,
) -> int:
    """The most bytes at once in a step, walking through it as `cached_step` does.

    Args:
        towers: what each costs.
        samples: of the effective batch, one number a tower.
        micro_batch: samples through each tower at once.
        keep: micro-batches of each tower whose graphs stay.
        held: weights, optimizer state, inputs: what is there throughout.
        loss_bytes: embeddings, their gradients and the loss's tiles.
    """
    held += sum(cost.fixed for cost in towers)
    levels = [held]
    pieces = [len(tower_inputs.spans(size, one)) for size, one in zip(samples, micro_batch, strict=True)]
    kept = [min(wanted, most) for wanted, most in zip(keep, pieces, strict=True)]
    sizes = [min(one, size) for one, size in zip(micro_batch, samples, strict=True)]
    walk = list(zip(towers, pieces, kept, sizes, strict=True))
    for cost, many, stay, rows in walk:
        if stay:
            # a device that does not show its own peaks has only the bytes of the graph
            levels.append(held + _graphs(cost, rows, stay - 1) + max(cost.forward(rows), cost.graph * rows))
        held += _graphs(cost, rows, stay)
        if many > stay:
            levels.append(held + cost.passing(rows))
    held += loss_bytes
    levels.append(held)
    for cost, many, stay, rows in walk:
        if not cost.gradients:
            continue
        graph = cost.graph * rows
        if stay:
            levels.append(held + cost.backward(rows))
            if stay > 1:
                levels.append(held - _graphs(cost, rows, 1) + cost.gradients + cost.backward(rows))
        held += cost.gradients - _graphs(cost, rows, stay)
        levels.append(held)
        if many > stay:
            # the first of them may come before there are gradients, the others come after
            there = held if many > 1 else held - cost.gradients
            levels.append(there + max(cost.forward(rows), graph + cost.backward(rows)))
    return max(levels)


def _graphs(cost: TowerCost, rows: int, many: int) -> int:
    return int(cost.graph * rows * many * cost.share)


def _first(inputs: Any, rows: int) -> Any:
    return next(tower_inputs.chunks(inputs, [(0, rows)]))


def _warm_up(encoder: Callable[[Any], Tensor], piece: Any) -> list[Tensor]:
    """A forward and backward that leave gradients, as every micro-batch but the first finds them."""
    output = encoder(piece)
    found = leaves([output])
    if output.requires_grad:
        output.backward(torch.ones_like(output))
    return found


def _traces(
    encoder: Callable[[Any], Tensor], piece: Any, fake: FakeTensorMode | None
) -> tuple[int, list[int], list[int], list[int]]:
    """(bytes that the hooks count, levels of its forward, of a forward that keeps nothing, of its backward)."""
    with levels(fake) as found:
        with counting() as kept:
            output = encoder(piece)
        built = len(found) - 1
        if output.requires_grad:
            output.backward(torch.ones_like(output))
        gone = len(found) - 1
        del output
        start = len(found) - 1
        with keeping_nothing():
            again = encoder(piece).detach()
        passed = len(found) - 1
    del again
    return kept.bytes, found[: built + 1], _from(found, start, passed), _from(found, built, gone)


def _from(levels_: list[int], start: int, stop: int) -> list[int]:
    """The levels between two moments, above the first."""
    return [one - levels_[start] for one in levels_[start : stop + 1]]


def faked(inputs: Any, fake: FakeTensorMode) -> Any:
    """The same inputs as tensors that have a shape and no numbers."""
    return tree_map(lambda one: fake.from_tensor(one) if isinstance(one, Tensor) else one, inputs)


def _envelope(small: int, low: list[int], large: int, high: list[int]) -> Lines:
    """The lines of all moments of two runs with the same operations, those that are highest somewhere."""
    if len(low) != len(high) or small == large:
        # other operations at another size: the line through the two highest moments
        each = max(0, -(-(max(high) - max(low)) // max(1, large - small))) if large > small else -(-max(high) // large)
        return Lines(((max(0, max(low), max(high)) - each * large, each),))
    found = set()
    for a, b in zip(low, high, strict=True):
        each = -(-(b - a) // (large - small))
        found.add((b - each * large, each))
    best: dict[int, int] = {}
    for fixed, each in found:
        best[each] = max(fixed, best.get(each, fixed))
    # from the steepest on, a line counts where it is higher at one sample than all steeper ones
    kept: list[tuple[int, int]] = []
    for each in sorted(best, reverse=True):
        if not kept or best[each] + each > max(fixed + steep for fixed, steep in kept):
            kept.append((best[each], each))
    return Lines(tuple(kept))
