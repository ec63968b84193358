"""Pieces of work for several processes, each done by whoever is free next, and none twice.

torchrun's store counts what was claimed, so a fast card does more than a slow one and nobody waits before the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from honeclip.device.world import World, in_words

_CLAIMED, _GIVEN_UP = "work/claimed", "work/given up"


def claimed(world: World, pieces: int) -> Iterator[int]:
    """Numbers from 0 below `pieces`, in rising order, each of them in one process alone. Once within `world.joined`.

    Args:
        world: who this process is; one on its own gets all of them.
        pieces: how many there are, the same in every process.
    """
    if world.size == 1:
        yield from range(pieces)
        return
    while not given_up(world):
        with in_words("asking for work"):
            piece = world.store.add(_CLAIMED, 1) - 1
        if piece >= pieces:
            return
        yield piece


def give_up(world: World) -> None:
    """Lets nobody claim any more, for the work cannot be finished."""
    if world.size > 1:
        with in_words("ending the work"):
            world.store.set(_GIVEN_UP, "1")


def given_up(world: World) -> bool:
    """Whether some process gave up."""
    if world.size == 1:
        return False
    with in_words("asking how the others are"):
        return bool(world.store.check([_GIVEN_UP]))
