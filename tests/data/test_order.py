"""The order of rows: permutations without end, resumable anywhere, no row twice in a batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from honeclip.data.order import order
from honeclip.errors import DataError

GOLDEN = [4, 3, 6, 2, 1, 0, 5, 7, 6, 7, 1, 4]


def stream(rows, batch, seed, steps, start=0):
    return [draw.indices for draw in itertools.islice(order(rows, batch, seed, start), steps)]


@st.composite
def sizes(draw):
    rows = draw(st.integers(1, 60))
    return rows, draw(st.integers(1, rows))


@settings(deadline=None, max_examples=150)
@given(sizes(), st.integers(0, 2**32))
@example((10, 8), 0)
@example((7, 7), 1)
@example((5, 4), 3)
def test_every_epoch_is_a_permutation_and_no_batch_holds_a_row_twice(size, seed):
    rows, batch = size
    steps = -(-rows * 6 // batch)
    drawn = stream(rows, batch, seed, steps)
    assert all(len(indices) == batch == len(set(indices.tolist())) for indices in drawn)
    flat = np.concatenate(drawn)
    for epoch in range(6):
        assert sorted(flat[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@settings(deadline=None, max_examples=150)
@given(sizes(), st.integers(0, 5), st.integers(0, 40))
def test_a_start_in_the_middle_gives_the_same_draws(size, seed, start):
    rows, batch = size
    whole = stream(rows, batch, seed, start + 8)
    resumed = list(itertools.islice(order(rows, batch, seed, start), 8))
    assert [draw.step for draw in resumed] == list(range(start, start + 8))
    assert all(np.array_equal(draw.indices, there) for draw, there in zip(resumed, whole[start:], strict=True))


def test_seeds_and_epochs_differ():
    first, second, other = (*stream(100, 100, 0, 2), stream(100, 100, 1, 1)[0])
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_draws_of_this_version_are_those_of_every_version():
    """A resumed run must meet the same rows after any package was upgraded."""
    assert np.concatenate(stream(8, 3, 7, 4)).tolist() == GOLDEN


def test_all_places_are_equally_likely():
    """Row 0's place over 2000 seeds: chi-squared with 9 degrees of freedom stays under its 0.1 % bound."""
    places = [stream(10, 10, seed, 1)[0].tolist().index(0) for seed in range(2000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def test_a_draw_carries_what_workers_need():
    draw = next(order(10, 4, 3, 6, size_px=160, strength=0.5))
    assert (draw.step, draw.size_px, draw.strength, draw.seed) == (6, 160, 0.5, 3)
    assert draw.indices.dtype == np.int64


@pytest.mark.parametrize(("rows", "batch"), [(0, 1), (4, 5), (4, 0)])
def test_impossible_batches(rows, batch):
    with pytest.raises(DataError):
        order(rows, batch, 0)
