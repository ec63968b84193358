"""Inputs of one tower: one tensor, or a dict, tuple or list of tensors with the same first dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from honeclip.errors import StepError


def rows(tower: int, value: Any) -> int:
    """The number of samples in a tower's inputs.

    Raises:
        StepError: no tensor, an empty one, or first dimensions that differ.
    """
    lengths = {len(one) if one.ndim else 0 for one in _tensors(tower, value)}
    if len(lengths) != 1 or 0 in lengths:
        raise StepError(
            f"inputs of tower {tower}: every tensor needs the same first dimension, at least 1; got {sorted(lengths)}"
        )
    return lengths.pop()


def chunks(value: Any, spans: list[tuple[int, int]]) -> Iterator[Any]:
    """The rows `start:stop` of a tower's inputs, in its own structure, one a span."""
    for start, stop in spans:
        yield _slice(value, start, stop)


def spans(size: int, micro_batch: int) -> list[tuple[int, int]]:
    """`size` rows in pieces of `micro_batch`; the last may be smaller."""
    return [(start, min(start + micro_batch, size)) for start in range(0, size, micro_batch)]


def _slice(value: Any, start: int, stop: int) -> Any:
    if isinstance(value, Tensor):
        return value[start:stop]
    if isinstance(value, Mapping):
        return {key: one[start:stop] for key, one in value.items()}
    return type(value)(one[start:stop] for one in value)


def _tensors(tower: int, value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    found = (
        list(value.values()) if isinstance(value, Mapping) else list(value) if isinstance(value, list | tuple) else []
    )
    if not found or not all(isinstance(one, Tensor) for one in found):
        raise StepError(
            f"inputs of tower {tower}: give a tensor, or a dict, tuple or list of tensors, not {type(value)}"
        )
    return found
