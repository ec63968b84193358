"""What autograd keeps between a forward and its backward: counted in bytes, or thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Kept:
    """Bytes that the graphs built inside `counting()` keep: each storage once, parameters and their views left out."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def add(self, tensor: Tensor) -> Tensor:
        """Counts one saved tensor and passes it on, detached: a node that holds its own output would never be freed
        where no backward comes, as after running out of memory or when only counting was wanted."""
        storage = tensor.untyped_storage()
        # the number of a storage, which fake tensors have too
        address = storage._cdata
        # a layer saves its weight as a transposed view of it
        root = tensor if tensor._base is None else tensor._base
        if not ((root.is_leaf and root.requires_grad) or isinstance(root, nn.Parameter)) and address not in self._seen:
            self._seen.add(address)
            self.bytes += storage.nbytes()
        return tensor.detach()


@contextmanager
def counting() -> Iterator[Kept]:
    """Counts what the forward inside keeps for its backward, on any device.

    Numbers stand for storages, which is right while every graph built inside is still alive.
    """
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        yield kept


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """A forward with gradients on, so that it takes the very kernels of training, of which nothing is kept.

    Under `no_grad` some backends take other kernels (fused attention on MPS, which besides refuses dropout), so a first
    pass without gradients could differ from the second by rounding. The graph built inside cannot be run backwards.
    """

    def refuse(_: None) -> Tensor:
        raise RuntimeError("this graph was built without its saved tensors and cannot be run backwards")

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, refuse):
        yield


def leaves(outputs: list[Tensor]) -> list[Tensor]:
    """The leaf tensors (parameters, mostly) that collect gradients in the graphs of `outputs`, each once."""
    found: dict[int, Tensor] = {}
    seen = set()
    waiting: list[Any] = [one.grad_fn for one in outputs if one.grad_fn is not None]
    for one in outputs:
        if one.requires_grad and one.grad_fn is None:
            found[id(one)] = one
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        waiting.extend(following for following, _ in node.next_functions)
    return list(found.values())
