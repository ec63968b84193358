"""The processes of one run: who this one is, and how they speak with each other.

`torchrun` starts them and says in the environment who is who. Rank 0 leads; the others do what it says. Tensors go through
torch.distributed: gloo on a CPU, nccl between cards. Words (small Python objects) go through gloo always, in a group of
their own, whose members may wait for each other for as long as a long evaluation takes. A process on its own makes no call
at all.

MPS is not part of this: gloo takes no tensors of it (docs/mps.md, rule 22).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from honeclip.errors import BadInput, RanksError

STEP_S = 30 * 60
"""Seconds that processes wait for each other within a step before the others count as gone. A process that dies shows at
once, for its connections close; this is for one that hangs, or a network that says nothing any more."""

WAIT_S = 24 * 3600
"""Seconds that they wait for what rank 0 does alone: looking at images, evaluating, saving."""

BUCKET_BYTES = 64 * 2**20
"""Tensors that go together as one: a message has a cost of its own, and a copy of all gradients at once has another."""


@dataclass(frozen=True)
class World:
    """Who this process is.

    Attributes:
        rank: its number; 0 leads.
        size: how many there are.
        local_rank: its number on this machine, which is the number of its card.
        local_size: how many there are on this machine.
        group: the one in which words go; None for a process on its own.
        store: small values that all of them see (`device.claims`); None for a process on its own.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    group: Any = field(default=None, repr=False, compare=False)
    store: Any = field(default=None, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, as a process on its own is."""
        return self.rank == 0


ALONE = World()

_joined = count()
"""How often the processes have met; the same in all of them."""


def of_environment(environ: Mapping[str, str] = os.environ) -> World:
    """Who this process is, as torchrun says; `ALONE` where it says nothing.

    Raises:
        BadInput: what it says is no numbers, or does not fit together.
    """
    if "WORLD_SIZE" not in environ or "RANK" not in environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = {name: environ.get(name, environ["RANK"] if "RANK" in name else environ["WORLD_SIZE"]) for name in names}
    try:
        found = World(*(int(given[name]) for name in names))
    except ValueError:
        raise BadInput(f"{given}: these are whole numbers; torchrun sets them, or none of them is set") from None
    if not (0 <= found.rank < found.size and 0 <= found.local_rank < found.local_size):
        raise BadInput(f"{given}: a rank is at least 0 and below the size; torchrun sets them, or none of them is set")
    return found


@contextmanager
def joined(device: str = "auto", environ: Mapping[str, str] = os.environ) -> Iterator[World]:
    """Inside, this process speaks with the others that torchrun started with it.

    Args:
        device: as asked for with `--device`. Unless it is "cpu", each process takes the card of its local rank.
        environ: where torchrun says who is who.

    Raises:
        BadInput: the environment is wrong, or there are fewer cards than processes.
        RanksError: the others cannot be reached.
    """
    found = of_environment(environ)
    if found.size == 1:
        yield found
        return
    cards = torch.cuda.device_count() if device in ("auto", "cuda") and torch.cuda.is_available() else 0
    if cards:
        if found.local_rank >= cards:
            raise BadInput(
                f"{found.local_size} processes on a machine with {cards} CUDA cards: each needs one of its own; start "
                f"torchrun with --nproc-per-node {cards}, or use --device cpu"
            )
        torch.cuda.set_device(found.local_rank)
    if dist.is_initialized():
        raise BadInput(
            "torch.distributed is in use in this process already; honeclip joins its processes itself: call "
            "torch.distributed.destroy_process_group() first"
        )
    with in_words("meeting the other processes"):
        from torch._C._distributed_c10d import PrefixStore  # not there in a torch that was built without it
        from torch.distributed.rendezvous import rendezvous

        common, _, _ = next(rendezvous("env://", found.rank, found.size, timeout=timedelta(seconds=STEP_S)))
        # torchrun's store still holds the addresses of a run before this one in the same processes
        store = PrefixStore(f"honeclip/{next(_joined)}", common)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cards else "gloo",
            timeout=timedelta(seconds=STEP_S),
            store=store,
            rank=found.rank,
            world_size=found.size,
        )
    try:
        with in_words("meeting the other processes"):
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_S))
        yield replace(found, group=group, store=store)
    finally:
        dist.destroy_process_group()


def tell(world: World, words: Any) -> None:
    """From rank 0 to all others, which `hear` it."""
    if world.size > 1:
        with in_words("telling the other processes what is next"):
            dist.broadcast_object_list([words], 0, group=world.group)


def hear(world: World) -> Any:
    """What rank 0 tells; waits for it."""
    box = [None]
    with in_words("waiting for rank 0"):
        dist.broadcast_object_list(box, 0, group=world.group)
    return box[0]


def collect(world: World, words: Any) -> list[Any]:
    """What every process says, in the order of ranks; on rank 0 only, elsewhere nothing."""
    if world.size == 1:
        return [words]
    said: list[Any] | None = [None] * world.size if world.leads else None
    with in_words("collecting what the processes say"):
        dist.gather_object(words, said, 0, group=world.group)
    return said or []


def agree(world: World, numbers: Sequence[int]) -> list[list[int]]:
    """The numbers of every process, in the order of ranks, on each of them. All come to this point or none goes on."""
    if world.size == 1:
        return [list(numbers)]
    own = torch.tensor(list(numbers), dtype=torch.int64)
    found = [torch.empty_like(own) for _ in range(world.size)]
    with in_words("agreeing with the other processes"):
        dist.all_gather(found, own)
    return [one.tolist() for one in found]


def announced(world: World, numbers: Sequence[float]) -> list[float]:
    """Rank 0's numbers, on every process; the others give as many of their own, which do not matter."""
    box = torch.tensor(list(numbers), dtype=torch.float64)
    with in_words("hearing from rank 0"):
        dist.broadcast(box, 0)
    return [float(one) for one in box.tolist()]


def gather(world: World, own_RD: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """The rows of every process, on rank 0 only; elsewhere nothing.

    Args:
        world: who this process is.
        own_RD: rows of this process, the same width and type on all.
        rows: how many each process has.
    """
    padded = _padded(own_RD.detach(), max(rows))
    into = [torch.empty_like(padded) for _ in rows] if world.leads else None
    with in_words("gathering embeddings"):
        dist.gather(padded, into, 0)
    return [] if into is None else [one[:count] for one, count in zip(into, rows, strict=True)]


def scatter(world: World, parts: Sequence[Tensor], rows: Sequence[int], like_RD: Tensor) -> Tensor:
    """The reverse of `gather`: to every process the rows that are its own.

    Args:
        world: who this process is.
        parts: rows of each process, on rank 0; elsewhere nothing.
        rows: how many each process has.
        like_RD: shape, type and device of this process's rows.
    """
    box = _padded(torch.zeros_like(like_RD), max(rows))
    given = [_padded(one, max(rows)) for one in parts] if world.leads else None
    with in_words("handing out the gradients of embeddings"):
        dist.scatter(box, given, 0)
    return box[: rows[world.rank]]


def add_up(world: World, tensors: Sequence[Tensor]) -> None:
    """Puts the sum over all processes into the tensors of rank 0; those of the others are theirs afterwards no more."""
    for bucket in _buckets(tensors):
        flat = torch.cat([one.reshape(-1) for one in bucket])
        with in_words("adding up gradients"):
            dist.reduce(flat, 0)
        if world.leads:
            _put_back(flat, bucket)


def spread(world: World, tensors: Sequence[Tensor]) -> None:
    """Puts the numbers of rank 0 into the tensors of all processes."""
    for bucket in _buckets(tensors):
        flat = torch.cat([one.reshape(-1) for one in bucket])
        with in_words("handing out weights"):
            dist.broadcast(flat, 0)
        if not world.leads:
            _put_back(flat, bucket)


def outlive_leader(world: World) -> None:
    """Returns when rank 0 has left. torchrun ends all processes as soon as one fails, so the others fail after it."""
    try:
        dist.recv(torch.empty(1), 0, group=world.group)
    except RuntimeError:
        return


def _padded(own_RD: Tensor, rows: int) -> Tensor:
    own_RD = own_RD.contiguous()
    if len(own_RD) == rows:
        return own_RD
    return torch.cat([own_RD, own_RD.new_zeros(rows - len(own_RD), *own_RD.shape[1:])])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one type and at most `BUCKET_BYTES`, a larger one alone; the same on every process."""
    for dtype in dict.fromkeys(one.dtype for one in tensors):
        bucket: list[Tensor] = []
        held = 0
        for one in tensors:
            if one.dtype is not dtype:
                continue
            if bucket and held + one.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, held = [], 0
            bucket.append(one)
            held += one.nbytes
        yield bucket


@torch.no_grad()
def _put_back(flat: Tensor, bucket: Sequence[Tensor]) -> None:
    for one, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
        one.copy_(part.view_as(one))


@contextmanager
def in_words(doing: str) -> Iterator[None]:
    """An error of torch.distributed as one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split("] ")[-1].split(". ")[0]
        raise RanksError(
            f"{doing}: another process of this run is gone, or said nothing for too long ({reason}). What it said itself "
            "stands above, if it could. What was saved goes on with --resume (embed: with the same command), with as many "
            "processes or another number"
        ) from None
