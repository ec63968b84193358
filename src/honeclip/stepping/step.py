"""The cached step: gradients of one loss over the whole effective batch, with the memory of a micro-batch.

    first pass    every micro-batch goes through its encoder; the graphs of the first `keep` stay, the others are dropped
    loss          once, on all embeddings as leaves, in float32 or float64; its own parameters get their gradient here
    second pass   every micro-batch in ascending order: kept graphs run backwards, dropped ones are built again with the
                  randomness that they had

This is gradient caching (Gao et al. 2021, arXiv 2101.06983) with a dial: `keep` = 0 is GradCache and computes every
forward twice, `keep` = all is a plain step in pieces, and in between the cost is a straight line. The order of the second
pass does not depend on `keep`, so every `keep` gives the same bits. Because the loss is computed once, the gradient of a
logit scale or bias arrives exactly once.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from honeclip.device import rng
from honeclip.device.memory import available_bytes
from honeclip.device.oom import is_out_of_memory
from honeclip.errors import MemoryExhausted, StepError
from honeclip.stepping import inputs as tower_inputs
from honeclip.stepping.count import Kept, counting, keeping_nothing, leaves

Encoder = Callable[[Any], Tensor]
Loss = Callable[..., Tensor | tuple[Tensor, dict[str, Tensor]]]

REPLAY_TOLERANCE = 1e-3
"""Largest difference of a replayed embedding, as a share of the largest entry, before the replay counts as failed.
Rounding stays far below it, another dropout mask far above."""

AUTO_SHARE = 0.5
"""Share of the memory available after the first micro-batch that `keep="auto"` may fill with graphs."""


@dataclass(frozen=True)
class StepResult:
    """What one step did. Gradients are in `.grad`.

    Attributes:
        loss: the loss over the whole effective batch.
        micro_batch: samples of the first tower that went through its encoder at once.
        kept: micro-batches of the first tower whose graphs stayed from the first pass.
        retries: how often the step began again with half the micro-batch after running out of memory.
        parts: the loss by part, where the loss names its parts.
        finite: whether the loss is a finite number; if not, no gradient was computed.
        seconds: time by phase: first, loss, second.
    """

    loss: float
    micro_batch: int
    kept: int
    retries: int
    parts: dict[str, float] = field(default_factory=dict)
    finite: bool = True
    seconds: dict[str, float] = field(default_factory=dict)


def cached_step(
    encoders: Sequence[Encoder],
    inputs: Sequence[Any],
    loss: Loss,
    *,
    micro_batch: int | Sequence[int] = 32,
    keep: int | Sequence[int] | Literal["auto"] = "auto",
    scale_loss: Callable[[Tensor], Tensor] | None = None,
) -> StepResult:
    """Leaves in `.grad` what `loss(*[e(x) for e, x in zip(encoders, inputs)]).backward()` would, in micro-batches.

    Args:
        encoders: one callable a tower; each maps a micro-batch of its inputs to embeddings, first dimension the sample.
            They run under the autocast that surrounds the call, the same in both passes.
        inputs: one a tower: a tensor, or a dict, tuple or list of tensors with the same first dimension. They may stay
            on the host if the encoder moves them.
        loss: `loss(*embeddings)` -> scalar, or (scalar, parts by name). It sees all samples at once, as float32 or
            float64 with autocast off, and may have parameters of its own.
        micro_batch: samples through a tower at once, or one number a tower. A last smaller one is right.
        keep: micro-batches whose graphs stay from the first pass, or one number a tower; "auto" fills half of the
            memory that is available after the first micro-batch.
        scale_loss: applied to the loss before its backward, for a gradient scaler.

    Returns:
        A StepResult. On a loss that is not finite no gradient is added and `finite` is False.

    Raises:
        StepError: no towers, unequal first dimensions, batch statistics in training mode, a tower without gradients'
            way to the loss, or an encoder whose replay differs (randomness from outside torch).
        MemoryExhausted: out of memory at micro-batch 1.
    """
    if not encoders or len(encoders) != len(inputs):
        raise StepError(f"{len(encoders)} encoders for {len(inputs)} inputs: give one input a tower, at least one")
    for index, encoder in enumerate(encoders):
        refuse_batch_statistics(index, encoder)
    sizes = [tower_inputs.rows(index, value) for index, value in enumerate(inputs)]
    pieces = [min(size, one) for size, one in zip(sizes, _a_tower(micro_batch, len(sizes), "micro_batch"), strict=True)]
    if min(pieces) < 1:
        raise StepError(f"micro_batch={micro_batch}: at least one sample goes through a tower at once")
    before = rng.snapshot()
    retries = 0
    while True:
        attempt = _Attempt(encoders, inputs, loss, sizes, pieces, keep, scale_loss)
        try:
            return attempt.run(retries)
        except Exception as error:
            attempt.undo()
            if not is_out_of_memory(error):
                raise
            message = str(error)
        # outside the except block: the traceback would keep every tensor of the failed attempt alive
        if max(pieces) == 1:
            raise MemoryExhausted(f"out of memory with one sample at a time: {message}")
        del attempt
        _free()
        rng.restore(before)
        retries += 1
        pieces = [max(1, one // 2) for one in pieces]
        keep = 0


def refuse_batch_statistics(tower: int, encoder: Encoder) -> None:
    """Raises StepError where a module would normalise by the statistics of its micro-batch.

    Then the gradient would depend on the micro-batch, and no replay could make it that of the whole batch.
    """
    owner = encoder if isinstance(encoder, nn.Module) else getattr(encoder, "__self__", None)
    if not isinstance(owner, nn.Module):
        return
    for name, module in owner.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            raise StepError(
                f"tower {tower}: {name or 'the module'} ({type(module).__name__}) uses the statistics of each "
                "micro-batch, so the step could not be exact; freeze it with .eval() before the step"
            )


class _Attempt:
    """One try at the step with fixed micro-batches; `undo` leaves gradients as they were before it."""

    def __init__(
        self,
        encoders: Sequence[Encoder],
        inputs: Sequence[Any],
        loss: Loss,
        sizes: list[int],
        pieces: list[int],
        keep: int | Sequence[int] | Literal["auto"],
        scale_loss: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.encoders, self.inputs, self.loss, self.scale_loss = encoders, inputs, loss, scale_loss
        self.spans = [tower_inputs.spans(size, piece) for size, piece in zip(sizes, pieces, strict=True)]
        self.pieces = pieces
        self.keep = [-1] * len(sizes) if keep == "auto" else list(_a_tower(keep, len(sizes), "keep"))
        self.aside: dict[Tensor, Tensor | None] = {}
        self.graphs: list[dict[int, Tensor]] = []
        self.replay: list[list[dict[str, Tensor]]] = []
        self.learns: list[bool] = []

    def run(self, retries: int) -> StepResult:
        started = time.perf_counter()
        values = [self._first_pass(tower) for tower in range(len(self.encoders))]
        after = rng.snapshot()
        first = time.perf_counter()
        total, parts = self._loss(values)
        lost = time.perf_counter()
        kept = len(self.graphs[0])
        finite = math.isfinite(total)
        if finite:
            for tower, value in enumerate(values):
                if self.learns[tower]:
                    self._second_pass(tower, value)
            _wait_for(values[0].device)
            self._add_back()
        else:
            self.undo()
        rng.restore(after)
        seconds = {"first": first - started, "loss": lost - first, "second": time.perf_counter() - lost}
        return StepResult(total, self.pieces[0], kept, retries, parts, finite, seconds)

    def _first_pass(self, tower: int) -> Tensor:
        """Embeddings of all of a tower's samples as one leaf; graphs and randomness of its micro-batches are noted."""
        encoder, spans = self.encoders[tower], self.spans[tower]
        graphs: dict[int, Tensor] = {}
        states, outputs, count, learns = [], [], self.keep[tower], False
        for index, piece in enumerate(tower_inputs.chunks(self.inputs[tower], spans)):
            states.append(rng.snapshot())
            if index == 0:
                with counting() as bytes_kept:
                    output = self._checked(tower, encoder(piece), spans[index])
                learns = output.requires_grad
                self._set_aside(leaves([output]))
                count = self._how_many(count, bytes_kept, output)
            else:
                with counting() if index < count else keeping_nothing():
                    output = self._checked(tower, encoder(piece), spans[index])
            if index < count:
                graphs[index] = output
            outputs.append(output.detach())
            del output
        self.graphs.append(graphs)
        self.replay.append(states)
        self.learns.append(learns)
        return torch.cat(outputs).requires_grad_()

    def _loss(self, values: list[Tensor]) -> tuple[float, dict[str, float]]:
        """The loss once, and its gradients: those of the embeddings into `values`, those of its parameters into .grad."""
        leaf_values = [value if value.dtype is torch.float64 else value.float() for value in values]
        with torch.autocast(values[0].device.type, enabled=False):
            result = self.loss(*leaf_values)
        total, parts = result if isinstance(result, tuple) else (result, {})
        if total.ndim or not total.requires_grad:
            raise StepError(f"the loss is no scalar that depends on the embeddings: shape {tuple(total.shape)}")
        # the loss of a non-finite step is reported, not followed
        if math.isfinite(float(total.detach())):
            own = [one for one in leaves([total]) if not any(one is value for value in values)]
            self._set_aside(own)
            # a loss that computes its tiles again does so in the backward: it must not meet the towers' autocast there
            with torch.autocast(values[0].device.type, enabled=False):
                (self.scale_loss(total) if self.scale_loss else total).backward()
            ignored = [tower for tower, value in enumerate(values) if value.grad is None]
            if ignored:
                raise StepError(
                    f"the loss does not depend on tower {ignored[0]}; leave the tower out or use its embeddings"
                )
        return float(total.detach()), {name: float(part) for name, part in parts.items()}

    def _second_pass(self, tower: int, value: Tensor) -> None:
        """Runs every micro-batch backwards in ascending order, building again those that were not kept."""
        gradient = value.grad
        assert gradient is not None
        pieces = tower_inputs.chunks(self.inputs[tower], self.spans[tower])
        for index, (piece, (start, stop)) in enumerate(zip(pieces, self.spans[tower], strict=True)):
            output = self.graphs[tower].pop(index, None)
            if output is None:
                rng.restore(self.replay[tower][index])
                output = self.encoders[tower](piece)
                self._same(tower, output.detach(), value.detach()[start:stop])
            output.backward(gradient[start:stop].to(output.dtype))

    def _how_many(self, wanted: int, counted: Kept, output: Tensor) -> int:
        if wanted >= 0:
            return wanted
        free = AUTO_SHARE * available_bytes(output.device.type) / len(self.encoders)
        return 1 + int(free // max(1, counted.bytes))

    def _checked(self, tower: int, output: Any, span: tuple[int, int]) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim < 1 or len(output) != span[1] - span[0]:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise StepError(f"tower {tower}: {span[1] - span[0]} samples gave {shape}; give one embedding a sample")
        return output

    def _same(self, tower: int, again: Tensor, first: Tensor) -> None:
        difference = (again - first).abs().max()
        if not bool(difference <= REPLAY_TOLERANCE * first.abs().max()):
            raise StepError(
                f"tower {tower}: the second forward of a micro-batch differs from the first by {float(difference):.1e}; "
                "its randomness must come from torch's generators, which are replayed, and it must keep no state"
            )

    def _set_aside(self, found: list[Tensor]) -> None:
        """Takes gradients that were there before out of the way, so that a failed attempt never adds to half of itself."""
        for one in found:
            if one not in self.aside:
                self.aside[one] = one.grad
                one.grad = None

    def _add_back(self) -> None:
        for one, old in self.aside.items():
            if old is not None:
                one.grad = old if one.grad is None else old.add_(one.grad)
        self.aside = {}

    def undo(self) -> None:
        """Puts the gradients back that were there before the attempt and lets go of its graphs."""
        for one, old in self.aside.items():
            one.grad = old
        self.aside, self.graphs, self.replay = {}, [], []


def _a_tower(value: int | Sequence[int], towers: int, name: str) -> Sequence[int]:
    """One number for all towers, or one a tower."""
    numbers = [value] * towers if isinstance(value, int) else list(value)
    if len(numbers) != towers or min(numbers) < 0:
        raise StepError(f"{name}={value}: give one number, or one a tower, none below 0")
    return numbers


def _wait_for(device: torch.device) -> None:
    """Lets an accelerator finish, so that running out of memory late shows here, where the step can begin anew, and not
    after the weights moved (torch 2.15 reports it on MPS with the next wait).
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _free() -> None:
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        torch.accelerator.empty_cache()
