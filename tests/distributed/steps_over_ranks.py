"""Run by torchrun: exact steps of small towers over all processes, in each kind of trouble; rank 0 prints a JSON object.

Each rank has rows of its own, and not as many as another. Memory runs out where a case says so, as it does on a card.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from honeclip.device import world as worlds
from honeclip.device.world import World, joined
from honeclip.errors import DataError
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets
from honeclip.stepping.ranks import ranked_step
from honeclip.stepping.step import cached_step

NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB"
SAMPLES = 11


class Task:
    """Two towers, a scale and a batch, the same in every process."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.towers = [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype) for _ in range(2)]
        self.unused = nn.Parameter(torch.zeros(3, dtype=dtype))
        self.log_scale = nn.Parameter(torch.tensor(1.5, dtype=dtype))
        self.inputs = [torch.randn(SAMPLES, 6, dtype=dtype) for _ in range(2)]
        self.captions = torch.arange(SAMPLES) % 5

    @property
    def learns(self) -> list[Tensor]:
        return [self.unused, *(one for tower in self.towers for one in tower.parameters())]

    def loss(self, image_BD: Tensor, text_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found = infonce(image_BD, text_BD, self.log_scale, Targets(self.captions))
        return found, {"infonce": found.detach()}

    def gradients(self) -> list[Tensor | None]:
        return [one.grad for one in (*self.learns, self.log_scale)]


def rows_of(world: World) -> list[int]:
    """Unequal parts: the first rank has most."""
    rest = SAMPLES - 2 * (world.size - 1)
    return [rest, *(2,) * (world.size - 1)]


def failing(tower: nn.Module, at: dict[int, BaseException]) -> Callable[[Tensor], Tensor]:
    """The tower, which raises at some of its calls."""
    calls = 0

    def call(piece: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls in at:
            raise at[calls]
        return tower(piece)

    return call


def step(world: World, task: Task, at: dict[int, BaseException] | None = None, keep: int = 0, **more: Any) -> Any:
    rows = rows_of(world)
    start = sum(rows[: world.rank])
    loss = more.pop("loss", task.loss)
    return ranked_step(
        world,
        rows,
        [failing(task.towers[0], at or {}), task.towers[1]],
        [one[start : start + rows[world.rank]] for one in task.inputs],
        loss if world.leads else None,
        task.learns,
        micro_batch=more.pop("micro_batch", 2),
        keep=keep,
        of_loss=[task.log_scale],
        **more,
    )


def apart(found: list[Tensor | None], wanted: list[Tensor | None]) -> float:
    assert [one is None for one in found] == [one is None for one in wanted]
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True) if a is not None)


def exact(world: World, rank: int, at: dict[int, BaseException], keep: int = 0, **more: Any) -> dict[str, Any]:
    """A step that comes right, compared with that of one process."""
    whole, task = Task(), Task()
    plain = cached_step(whole.towers, whole.inputs, whole.loss, micro_batch=SAMPLES, keep=1)
    result = step(world, task, at if world.rank == rank else None, keep, **more)
    return {
        "loss": abs(result.loss - plain.loss),
        "gradients": apart(task.gradients(), whole.gradients()) if world.leads else 0.0,
        "retries": result.retries,
        "parts": sorted(result.parts),
    }


def ended(world: World, rank: int, at: dict[int, BaseException], **more: Any) -> dict[str, Any]:
    """A step that cannot be done: what each rank says, whether gradients are left, and whether the next step is right."""
    task = Task()
    try:
        step(world, task, at if world.rank == rank else None, **more)
        said = "nothing"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    left = sum(one is not None for one in task.gradients())
    after = exact(world, -1, {})
    every = worlds.collect(world, [said, left])
    return {"said": [one[0] for one in every], "left": sum(one[1] for one in every), "after": after}


def no_memory(*calls: int) -> dict[int, BaseException]:
    return {one: RuntimeError(NO_MEMORY) for one in calls}


def infinite(image_BD: Tensor, text_BD: Tensor) -> Tensor:
    return (image_BD.sum() + text_BD.sum()) * torch.inf


def broken(image_BD: Tensor, text_BD: Tensor) -> Tensor:
    raise DataError("the loss knows nothing of this")


def main() -> None:
    torch.set_num_threads(1)
    with joined("cpu") as world:
        last = world.size - 1
        always = no_memory(*range(1, 100))
        # ranks have 2 samples or more, and go through a tower two at a time
        found = {
            "in order": exact(world, 0, {}),
            "graphs kept": exact(world, 0, {}, keep=9),
            "no memory in the first pass of the last": exact(world, last, no_memory(1)),
            "no memory in the second pass of the last": exact(world, last, no_memory(2)),
            "no memory in the first pass of rank 0": exact(world, 0, no_memory(1)),
            "no memory in the second pass of rank 0": exact(world, 0, no_memory(rows_of(world)[0])),
            "never memory on the last": ended(world, last, always),
            "never memory on rank 0": ended(world, 0, always),
            "never memory again on the last": ended(world, last, no_memory(*range(2, 100))),
            "a fault on the last": ended(world, last, {1: DataError("no such picture")}),
            "a late fault on the last": ended(world, last, {2: KeyError("name")}),
            "a fault of the loss": ended(world, 0, {}, loss=broken),
        }
        task = Task()
        result = step(world, task, loss=infinite)
        left = sum(one is not None for one in task.gradients())
        every = worlds.collect(world, [result.finite, left])
        found["infinite"] = {"finite": [one[0] for one in every], "left": sum(one[1] for one in every)}
        # words and tensors of every kind, larger than a bucket is
        worlds.BUCKET_BYTES = 64
        tensors = [torch.full((5, 3), world.rank + 1.0), torch.tensor(world.rank), torch.ones(2, dtype=torch.float64)]
        worlds.add_up(world, tensors[:1])
        summed = tensors[0].unique().tolist()
        worlds.spread(world, tensors)
        every = worlds.collect(world, [tensors[0].unique().tolist(), int(tensors[1])])
        found["sums"] = {"rank 0": summed, "after": every, "agreed": worlds.agree(world, [world.rank, 7])}
    if world.leads:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
