"""`bench device`: an accelerator beside the CPU, operation by operation and step by step: speed, memory, right numbers.

Where there is no accelerator, the CPU's own precisions are compared. Each way is a device and a precision, such as "cpu fp32".
`rows` has the operations of `operations.py`, then the two towers' forwards and a whole training step of the model, each with

    seconds               forward and backward (of a tower: the forward alone; of a step: the update as well), the median of
                          rounds in which all ways take turns, every second one in the other order
    seconds_low, seconds_high     the fastest and the slowest round
    times_as_fast         the first way's seconds over this one's, the median of the rounds' own ratios; and their range
    memory_bytes          the most bytes that torch's allocator had given out at once, beyond what was there before
    error                 of the result (of a step: the loss), relative to float64 on the CPU: |found - truth| / |truth|, both
                          Euclidean norms
    gradient_error        the same of the gradients: of an operation the largest over its inputs, of a step over all weights;
                          left out where there is none
    fault                 what the device said instead, where it could not

What training computes in float32 in any precision has only the ways in float32.

Dropout is off where numbers are compared, and on where time is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.bench.operations import SEED, Given, Operation, operations
from honeclip.data.loader import Batch
from honeclip.device import detect, precision
from honeclip.device.allocated import allocated
from honeclip.device.device import Device
from honeclip.device.facts import machine, versions
from honeclip.errors import BadInput
from honeclip.model.clip import measuring
from honeclip.model.selfcheck import HALF_SCALE
from honeclip.training import trial
from honeclip.training.loop import Learner, exact_step, gradient_scaler
from honeclip.training.planning import whole
from honeclip.training.trial import Trial

log = logging.getLogger(__name__)

BATCH, ROUNDS, LEAST_ROUNDS = 16, 5, 5
OF_MODEL = ("image forward", "text forward", "training step")
LEAST_S, MOST_CALLS = 0.02, 200
"""A round repeats what is quick until about so many seconds are full, at most so often."""

CANNOT = (RuntimeError, NotImplementedError, TypeError)
"""What torch raises where a device lacks an operation, a type or the memory."""

Work = Callable[[], Any]


@dataclass(frozen=True)
class Way:
    """A device and a precision."""

    device: Device
    precision: str

    @property
    def name(self) -> str:
        """ "cpu fp32"."""
        return f"{self.device.backend} {self.precision}"


def run(
    model: str, batch: int = BATCH, *, device: str | Device = "auto", rounds: int = ROUNDS, only: Collection[str] = ()
) -> dict[str, Any]:
    """Measures; see the top of this file for the figures.

    Args:
        model: any model source, whose towers and steps are measured; the operations are the same for all.
        batch: images of an operation, pairs of a forward and of a step.
        device: beside the CPU.
        rounds: at least `LEAST_ROUNDS`, after one that does not count.
        only: names of rows; () is all.

    Raises:
        BadInput: a number or name that cannot be, or a model or device that cannot be used.
    """
    every = operations(max(2, batch))
    known = [*(one.name for one in every), *OF_MODEL]
    if unknown := [name for name in only if name not in known]:
        raise BadInput(f"--only {unknown[0]}: give some of {'; '.join(known)}")
    wanted = only or known
    if batch < 2:
        raise BadInput(f"--batch {batch}: it is at least 2, for a loss compares pairs")
    if rounds < LEAST_ROUNDS:
        raise BadInput(f"--rounds {rounds}: it is at least {LEAST_ROUNDS}; with fewer there is no spread")
    where = detect.choose(device)
    ways, note = compared(where)
    rows = []
    with where.lock:
        for operation in every:
            if operation.name in wanted:
                log.info("%s", operation.name)
                rows.append(_operation(operation, ways, rounds))
        if set(OF_MODEL) & set(wanted):
            log.info("forwards and a step of %s", model)
            rows += [row for row in _model(model, batch, ways, rounds) if row["name"] in wanted]
    return {
        "device": where.type,
        "device_name": where.name,
        "note": note,
        "ways": [way.name for way in ways],
        "model": model,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "machine": machine(),
        "versions": versions(),
    }


def compared(where: Device) -> tuple[list[Way], str]:
    """What is compared on this machine, the CPU in float32 first, and why in words."""
    cpu = detect.choose("cpu")
    if where.backend == cpu.backend:
        said = precision.choose(cpu, "bf16").reason.removeprefix("asked for; ")
        emulated = f" ({said})" if said != "asked for" else ""
        reason = "the CPU was asked for" if where.reason == "asked for" else where.reason
        return (
            [Way(where, "fp32"), Way(where, "bf16")],
            f"{reason}: so the precisions of the CPU are compared with float64, which is the truth{emulated}",
        )
    ways = [Way(cpu, "fp32"), Way(where, "fp32")]
    own = precision.choose(where)
    if own.name != "fp32":
        ways.append(Way(where, own.name))
    return ways, f"{where.name} beside {cpu.name}; {own.reason}"


# --- operations ---------------------------------------------------------------------------------------------------


def _operation(operation: Operation, ways: Sequence[Way], rounds: int) -> dict[str, Any]:
    if operation.full:  # the same in every precision of a device
        ways = [way for way in ways if way.precision == "fp32"]
    given = operation.draw(torch.Generator().manual_seed(SEED))
    exact = [one.tensor.double() if one.tensor.is_floating_point() else one.tensor for one in given]
    exact = _ready(exact, given)
    output = operation.compute(*exact)
    pull = torch.randn(output.shape, generator=torch.Generator().manual_seed(SEED + 1))
    truth = _results(output, exact, pull.double())
    figures: dict[str, dict[str, Any]] = {}
    works: dict[str, tuple[Work, Device]] = {}
    for way in ways:
        try:
            work = _prepared(operation, given, pull, way)
            figures[way.name] = {**_errors(work(), truth), "memory_bytes": _memory(work, way.device)}
        except CANNOT as error:
            figures[way.name] = {"fault": _first_line(error)}
            continue
        works[way.name] = (work, way.device)
    _time(works, figures, ways, rounds)
    return {"name": operation.name, "shape": operation.shape, "ways": figures}


def _prepared(operation: Operation, given: Sequence[Given], pull: Tensor, way: Way) -> Callable[[], list[Tensor]]:
    """One call computes the operation forward and backward in this way: its result, and the gradients that it has."""
    lower = None if operation.full else precision.autocast_dtype(way.precision)
    inputs = []
    for one in given:
        tensor = one.tensor.to(lower) if lower and one.halves else one.tensor
        inputs.append(way.device.copy(tensor))
    inputs, pull = _ready(inputs, given), way.device.copy(pull)

    def work() -> list[Tensor]:
        with way.device.autocast("fp32" if operation.full else way.precision):
            output = operation.compute(*inputs)
        return _results(output, inputs, pull)

    return work


def _ready(tensors: Sequence[Tensor], given: Sequence[Given]) -> list[Tensor]:
    return [tensor.detach().requires_grad_(one.learns) for tensor, one in zip(tensors, given, strict=True)]


def _results(output: Tensor, inputs: Sequence[Tensor], pull: Tensor) -> list[Tensor]:
    learning = [one for one in inputs if one.requires_grad]
    gradients = torch.autograd.grad(output, learning, pull.to(output.dtype)) if learning else ()
    return [output.detach(), *gradients]


def _errors(found: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, float | None]:
    output, *gradients = (relative_error([one], [other]) for one, other in zip(found, truth, strict=True))
    of_gradients = {"gradient_error": _finite(max(gradients))} if gradients else {}
    return {"error": _finite(output), **of_gradients}


def relative_error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """|found - truth| / |truth| over all tensors together, in float64 on the CPU, Euclidean norms.

    Args:
        found: on any device, in any precision.
        truth: float64, on the CPU.
    """
    off = math.sqrt(
        sum(float((one.cpu().double() - other).square().sum()) for one, other in zip(found, truth, strict=True))
    )
    return off / math.sqrt(sum(float(other.square().sum()) for other in truth))


# --- the model ----------------------------------------------------------------------------------------------------


def _model(model: str, batch: int, ways: Sequence[Way], rounds: int) -> list[dict[str, Any]]:
    """Both forwards and the step of each way, against float64."""
    figures: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in OF_MODEL}
    exact = _towers(trial.make(model, detect.choose("cpu"), precision="fp64"), "fp64", batch)
    truth = exact.numbers()
    shapes = (*(" x ".join(map(str, one.shape)) for one in (exact.images, exact.tokens)), f"{batch} pairs, undivided")
    del exact
    made = {way.device.backend: trial.make(model, way.device, precision="fp32") for way in ways[::-1]}
    tried = {way.name: _towers(made[way.device.backend], way.precision, batch) for way in ways}
    works: dict[str, dict[str, tuple[Work, Device]]] = {name: {} for name in OF_MODEL}
    for way in ways:  # all of them before the first update
        try:
            errors = _model_errors(tried[way.name].numbers(), truth)
        except CANNOT as error:
            errors = [{"fault": _first_line(error)} for _ in OF_MODEL]
        for name, found in zip(OF_MODEL, errors, strict=True):
            figures[name][way.name] = found
    del truth
    for way in ways:
        one = tried[way.name]
        for name, work in zip(OF_MODEL, (one.image, one.text, one.step), strict=True):
            if "fault" not in figures[name][way.name]:
                work()  # moments of the optimizer and caches stay from here on
                figures[name][way.name]["memory_bytes"] = _memory(work, way.device)
                works[name][way.name] = (work, way.device)
    for name in OF_MODEL:
        _time(works[name], figures[name], ways, rounds)
    return [
        {"name": name, "shape": f"{model}, {shape}", "ways": figures[name]}
        for name, shape in zip(OF_MODEL, shapes, strict=True)
    ]


@dataclass(frozen=True)
class _Numbers:
    """Unit embeddings, the loss and every gradient, on the CPU in float64."""

    image: Tensor
    text: Tensor
    loss: float
    gradients: list[Tensor]


@dataclass(frozen=True)
class _Towers:
    """A model in one precision, with one batch."""

    learner: Learner
    trial: Trial
    batch: Batch
    images: Tensor
    tokens: Tensor

    def image(self) -> Tensor:
        """Unit embeddings of the images."""
        return self._forward(self.learner.image_feed, self.images)

    def text(self) -> Tensor:
        """Unit embeddings of the captions."""
        return self._forward(self.learner.text_feed, self.tokens)

    def _forward(self, feed: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        clip = self.learner.clip
        with measuring(clip), clip.device.autocast(self.learner.precision.name):
            embeddings = feed(inputs)
            return normalize(embeddings if embeddings.dtype == clip.dtype else embeddings.float(), dim=-1)

    def step(self) -> None:
        """A whole training step, undivided."""
        trial.step(self.trial, self.batch, self.learner.plan)

    def numbers(self) -> _Numbers:
        """What the ways are compared by."""
        model = self.learner.clip.model
        image, text = (one.cpu().double() for one in (self.image(), self.text()))
        training = [module for module in model.modules() if module.training]
        model.eval()  # dropout draws other numbers on each device
        result = exact_step(self.learner, self.batch)
        scale = self.learner.scaler.get_scale()
        gradients = [one.grad.cpu().double() / scale for one in model.parameters() if one.grad is not None]
        model.zero_grad(set_to_none=True)
        for module in training:
            module.training = True
        return _Numbers(image, text, result.loss, gradients)


def _towers(made: Trial, precision_name: str, batch: int) -> _Towers:
    clip = made.learner.clip
    chosen = precision.Precision(precision_name, "compared")
    # the largest scale that a scaler begins with overflows in a step or two: one that does not is compared
    scaler = gradient_scaler(clip, chosen)
    if scaler.is_enabled():
        scaler = torch.amp.GradScaler(clip.device.type, init_scale=HALF_SCALE)
    learner = replace(made.learner, precision=chosen, scaler=scaler, plan=whole(batch))
    own = replace(made, learner=learner)
    one = own.batch(batch)
    assert one.images is not None
    assert one.tokens is not None
    return _Towers(learner, own, one, one.images, one.tokens)


def _model_errors(found: _Numbers, truth: _Numbers) -> list[dict[str, Any]]:
    loss = abs(found.loss - truth.loss) / abs(truth.loss)
    return [
        {"error": _finite(relative_error([found.image], [truth.image]))},
        {"error": _finite(relative_error([found.text], [truth.text]))},
        {"error": _finite(loss), "gradient_error": _finite(relative_error(found.gradients, truth.gradients))},
    ]


# --- time and memory ----------------------------------------------------------------------------------------------


def alternated(works: Mapping[str, tuple[Work, Device]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call by name, round by round. In each round all take turns, every second one in the other order.

    Each was called before, so that buffers have grown and kernels are compiled.
    """
    calls = {}
    for name, (work, device) in works.items():
        with device.timer() as elapsed:
            work()
        calls[name] = max(1, min(MOST_CALLS, math.ceil(LEAST_S / max(elapsed.seconds, 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works) if number % 2 == 0 else list(works)[::-1]:
            work, device = works[name]
            with device.timer() as elapsed:
                for _ in range(calls[name]):
                    work()
            seconds[name].append(elapsed.seconds / calls[name])
    return seconds


def _time(
    works: Mapping[str, tuple[Work, Device]], figures: dict[str, dict[str, Any]], ways: Sequence[Way], rounds: int
) -> None:
    """Adds the times of every way that computed to its figures."""
    seconds = alternated(works, rounds)
    first = seconds.get(ways[0].name)
    for name, some in seconds.items():
        figures[name] |= {"seconds": median(some), "seconds_low": min(some), "seconds_high": max(some)}
        if first is not None:
            ratios = [one / other for one, other in zip(first, some, strict=True)]
            figures[name] |= {
                "times_as_fast": median(ratios),
                "times_as_fast_low": min(ratios),
                "times_as_fast_high": max(ratios),
            }


def _memory(work: Work, device: Device) -> int | None:
    """See the top of this file; None where the device does not count its peak."""
    if device.backend != "cpu" and device.peak_bytes() is None:
        return None
    most, _ = allocated(work, device)
    return most


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
