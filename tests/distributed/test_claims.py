"""Pieces of work go to one process each, to whoever asks next."""

from __future__ import annotations

from itertools import islice

from torch.distributed import HashStore

from honeclip.device.claims import claimed, give_up, given_up
from honeclip.device.world import ALONE, World


def worlds(size: int) -> list[World]:
    store = HashStore()
    return [World(rank=rank, size=size, store=store) for rank in range(size)]


def test_each_piece_goes_to_one_process():
    one, two, three = worlds(3)
    slow = claimed(one, 10)
    first = [next(slow)]  # and is busy with it while the others do the rest
    rest = [*islice(claimed(two, 10), 4), *claimed(three, 10)]
    assert first == [0]
    assert rest == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert list(slow) == []
    assert list(claimed(ALONE, 3)) == [0, 1, 2]


def test_when_one_gives_up_nobody_claims_any_more():
    one, two = worlds(2)
    asked = claimed(two, 10)
    assert next(asked) == 0
    assert not given_up(two)
    give_up(one)
    assert given_up(two)
    assert list(asked) == []
    give_up(ALONE)
    assert not given_up(ALONE)
