"""The exact step over several processes: each has rows of its own, the loss sees those of all.

    first pass    every process, its own rows; embeddings are gathered on rank 0
    loss          on rank 0 alone, on all embeddings as leaves; what only the loss learns gets its gradient there, once
    second pass   every process, with the gradients of its own embeddings
    sum           gradients of the towers are added up into those of rank 0

So the loss, of whatever kind and parts, is the code of a step in one process on the same numbers, and the result is the same
up to the order of sums. What a rank needs of the loss is B/N rows out and back.

How often a rank halves its micro-batch is its own affair: it tries again by itself, with what it was handed. Where one ends
for good all do: they meet before embeddings are gathered, when rank 0 has answered, and before gradients are added up, and a
rank that failed says so at the next of these points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from honeclip.device import world as worlds
from honeclip.device.world import World
from honeclip.errors import BadInput, HoneclipError, MemoryExhausted, RanksError
from honeclip.stepping.step import Encoder, Loss, StepResult, cached_step

FINE, EXHAUSTED, FAILED = 0, 1, 2
"""How a rank is when ranks meet."""

Said = tuple[int, str]
"""What a rank that failed says: its exit code, and why in words."""


def ranked_step(
    world: World,
    rows: Sequence[int],
    encoders: Sequence[Encoder],
    inputs: Sequence[Any],
    loss: Loss | None,
    learns: Sequence[Tensor],
    *,
    micro_batch: int | Sequence[int],
    keep: int | Sequence[int] | Literal["auto"],
    scale_loss: Callable[[Tensor], Tensor] | None = None,
    of_loss: Sequence[Tensor] = (),
) -> StepResult:
    """`cached_step` over the rows of all processes; on rank 0 `.grad` is then that of all of them.

    Called on every rank at once. No gradients may be there before. On ranks other than 0 `.grad` is only part of the sum.

    Args:
        world: who this process is, one of several.
        rows: samples of each process, at least one; a tower's embeddings come in the order of ranks.
        encoders: as for `cached_step`, the same on every rank.
        inputs: of this process's samples.
        loss: of the embeddings of all; on rank 0 only, elsewhere None.
        learns: parameters of the encoders, in the same order on every rank.
        micro_batch, keep: of this process.
        scale_loss: on rank 0 only.
        of_loss: what only the loss learns, on rank 0.

    Returns:
        On every rank the loss of all samples and the most retries of any rank; parts on rank 0 only.

    Raises:
        MemoryExhausted: on every rank, where one has no memory for a single sample; no gradients are left.
        HoneclipError: on every rank, where one failed otherwise; the rank itself raises what happened.
        RanksError: another process is gone.
    """
    exchange = _Exchange(world, rows)
    result, error = None, None
    status, said = FINE, (0, "")
    try:
        try:
            seen = exchange.followed if loss is None else exchange.led(loss)
            result = cached_step(encoders, inputs, seen, micro_batch=micro_batch, keep=keep, scale_loss=scale_loss)
        except (_Ended, RanksError):
            raise
        except MemoryExhausted as fault:
            status, said = EXHAUSTED, (fault.exit_code, str(fault))
        except Exception as fault:
            status, said, error = FAILED, said_of(fault), fault
        given = [one.grad for one in learns if one.grad is not None]
        exchange.close(status, said, result)
        found = exchange.meet(status, said, result.retries if result else 0, sum(one.numel() for one in given))
    except (_Ended, RanksError) as fault:
        for one in (*learns, *of_loss):
            one.grad = None
        # what happened here has a place in the code, which matters where it is a fault of honeclip
        raise error or (fault.why if isinstance(fault, _Ended) else fault) from None
    assert result is not None
    if result.finite:
        if len({numbers[1] for numbers in found}) > 1:
            raise HoneclipError(
                f"the processes have gradients of {[numbers[1] for numbers in found]} numbers: a tower does not use the "
                "same parameters on every one, so their sum would be wrong"
            )
        worlds.add_up(world, given)
    return replace(result, retries=max(numbers[0] for numbers in found))


class _Ended(Exception):
    """The step ended on every rank: what each raises that did not fail itself."""

    def __init__(self, why: HoneclipError) -> None:
        super().__init__(str(why))
        self.why = why


class _Exchange:
    """One step's embeddings to rank 0 and their gradients back, once, however often a rank tries the step again."""

    def __init__(self, world: World, rows: Sequence[int]) -> None:
        self.world, self.rows = world, rows
        self.gathered = self.answered = False
        self.others: list[list[Tensor]] = []
        self.loss = math.nan
        self.gradients: list[Tensor] = []

    def led(self, loss: Loss) -> Loss:
        """The loss of rank 0 as a function of its own embeddings."""

        def of_all(*own: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
            self._gather(own)
            found = loss(*_All.apply(self, *own))
            self.loss = float((found[0] if isinstance(found, tuple) else found).detach())
            return found

        return of_all

    def followed(self, *own: Tensor) -> Tensor:
        """The loss on another rank: a number that is known, whose gradients are those that rank 0 hands out."""
        self._gather(own)
        self._receive(own)
        value: Tensor = _Handed.apply(self, *own)
        return value

    def answer(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> None:
        """On rank 0: what the loss says, and to each rank the gradients of its embeddings."""
        if self.answered:
            return
        self.answered = True
        worlds.announced(self.world, [FINE, 1.0, self.loss])
        for one, own in zip(gradients, like, strict=True):
            whole = one if one is not None else own.new_zeros(sum(self.rows), *own.shape[1:])
            worlds.scatter(self.world, whole.split(list(self.rows)), self.rows, own)

    def close(self, status: int, said: Said, result: StepResult | None) -> None:
        """Comes to the point where rank 0 has answered, whatever happened before."""
        if not self.gathered:
            self.meet(status, said)
        if self.world.leads and not self.answered:
            self.answered = True
            worlds.announced(self.world, [status, 0.0, result.loss if result else math.nan])

    def meet(self, status: int, said: Said, retries: int = 0, numbers: int = 0) -> list[tuple[int, int]]:
        """Retries, and how many numbers have a gradient, of every rank, where all are fine.

        Raises:
            _Ended: one is not.
        """
        found = worlds.agree(self.world, [status, retries, numbers])
        worst = max(one[0] for one in found)
        if worst == FINE:
            return [(one[1], one[2]) for one in found]
        every = worlds.collect(self.world, said)
        rank = next(number for number, one in enumerate(found) if one[0] == worst)
        exit_code, words = every[rank] if every else (1, "ended in this step")
        if worst == EXHAUSTED:
            raise _Ended(MemoryExhausted(f"rank {rank}: {words}"))
        raise _Ended(failure(rank, exit_code, words))

    def _gather(self, own: Sequence[Tensor]) -> None:
        if self.gathered:
            return
        self.meet(FINE, (0, ""))
        self.gathered = True
        found = [worlds.gather(self.world, one, self.rows) for one in own]
        self.others = [parts[1:] for parts in found]

    def _receive(self, own: Sequence[Tensor]) -> None:
        if self.answered:
            return
        self.answered = True
        status, finite, self.loss = worlds.announced(self.world, [0.0, 0.0, 0.0])
        if status:
            self.meet(FINE, (0, ""))
        if finite:
            self.gradients = [worlds.scatter(self.world, (), self.rows, one) for one in own]


class _All(torch.autograd.Function):
    """On rank 0: own embeddings -> those of all, and back to each rank what is its."""

    @staticmethod
    def forward(ctx: Any, exchange: _Exchange, *own: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange = exchange
        ctx.set_materialize_grads(False)
        ctx.own = [one.detach() for one in own]
        return tuple(torch.cat([one, *others]) for one, others in zip(own, exchange.others, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.exchange.answer(gradients, ctx.own)
        count = ctx.exchange.rows[0]
        return (None, *(None if one is None else one[:count] for one in gradients))


class _Handed(torch.autograd.Function):
    """On another rank: own embeddings -> the loss that rank 0 said, and back the gradients that it handed out."""

    @staticmethod
    def forward(ctx: Any, exchange: _Exchange, *own: Tensor) -> Tensor:
        ctx.exchange = exchange
        return own[0].new_tensor(exchange.loss)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.exchange.gradients)


def failure(rank: int, exit_code: int, words: str) -> HoneclipError:
    """What another rank failed with, as an error of this one."""
    text = f"rank {rank}: {words}"
    return BadInput(text) if exit_code == BadInput.exit_code else HoneclipError(text)


def said_of(fault: Exception) -> Said:
    """What a rank says of what it failed with."""
    if isinstance(fault, HoneclipError):
        return fault.exit_code, str(fault)
    return 1, f"{type(fault).__name__}: {fault}"


def ended_by_leader(world: World, said: Said) -> RanksError:
    """The error of a process whose rank 0 ends with one, after that has had its time to say it.

    Args:
        world: who this process is.
        said: exit code and words of rank 0.
    """
    exit_code, words = said
    worlds.outlive_leader(world)
    ended = RanksError(f"rank {world.rank} ends with rank 0: {words}")
    ended.exit_code = exit_code
    return ended
