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


def near(rows, k, seed):
    """Neighbours at random; some are -1, some the row itself, some twice."""
    return np.random.default_rng(seed).integers(-1, rows, (rows, k))


def mined(rows, batch, seed, steps, start=0, **more):
    return [draw.indices for draw in itertools.islice(order(rows, batch, seed, start, **more), steps)]


def first_step_within(epoch, rows, batch):
    return -(-epoch * rows // batch)


@settings(deadline=None, max_examples=150)
@given(sizes(), st.integers(0, 2**32), st.integers(0, 4))
@example((10, 8), 0, 2)
@example((7, 7), 1, 3)
@example((12, 4), 1, 0)
def test_near_misses_leave_every_epoch_a_permutation(size, seed, k):
    rows, batch = size
    drawn = mined(rows, batch, seed, -(-rows * 6 // batch), neighbours=near(rows, k, seed))
    assert all(len(indices) == batch == len(set(indices.tolist())) for indices in drawn)
    flat = np.concatenate(drawn)
    assert flat.dtype == np.int64
    for epoch in range(6):
        assert sorted(flat[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@settings(deadline=None, max_examples=150)
@given(sizes(), st.integers(0, 5), st.integers(0, 40))
def test_a_start_in_the_middle_gives_the_same_draws_with_near_misses(size, seed, start):
    rows, batch = size
    neighbours = near(rows, 3, seed)
    whole = mined(rows, batch, seed, start + 8, neighbours=neighbours)
    resumed = mined(rows, batch, seed, 8, start, neighbours=neighbours)
    assert all(np.array_equal(one, there) for one, there in zip(resumed, whole[start:], strict=True))


@settings(deadline=None, max_examples=100)
@given(sizes(), st.integers(0, 5), st.data())
@example((10, 4), 0, None)
def test_near_misses_that_change_from_epoch_to_epoch(size, seed, data):
    """A caller that mines anew at each epoch and one that was resumed in the middle of it draw the same rows."""
    rows, batch = size
    starts = [first_step_within(epoch, rows, batch) for epoch in range(5)]
    arrays = [near(rows, 3, 100 * seed + epoch) for epoch in range(4)]
    drawn = [
        mined(rows, batch, seed, stop - start, start, neighbours=array)
        for start, stop, array in zip(starts, starts[1:], arrays, strict=False)
    ]
    flat = np.concatenate([indices for epoch in drawn for indices in epoch])
    for epoch in range(4):
        part = flat[epoch * rows : (epoch + 1) * rows]
        assert sorted(part) == list(range(rows))
    assert all(len(set(indices.tolist())) == batch for epoch in drawn for indices in epoch)
    for epoch, (start, stop) in enumerate(itertools.pairwise(starts)):
        at = start if data is None else data.draw(st.integers(start, stop - 1)) if stop > start else start
        again = mined(rows, batch, seed, stop - at, at, neighbours=arrays[epoch])
        assert np.array_equal(again, drawn[epoch][at - start :])


def grouped_by_hand(waiting, batch, neighbours):
    """One batch after another: the next row that waits, those of its neighbours that wait, the next row ..."""
    waiting, batches = list(waiting), []
    while waiting:
        made = []
        while len(made) < batch and waiting:
            anchor = waiting.pop(0)
            made.append(anchor)
            for other in neighbours[anchor]:
                if other in waiting and len(made) < batch:
                    waiting.remove(other)
                    made.append(other)
        batches.append(made)
    return batches


@settings(deadline=None, max_examples=60)
@given(sizes(), st.integers(0, 100))
@example((20, 5), 1)
@example((23, 5), 1)
def test_batches_within_an_epoch_are_grouped_and_those_that_cross_stay(size, seed):
    rows, batch = size
    neighbours = near(rows, 4, seed).tolist()
    steps = first_step_within(4, rows, batch)
    plain = stream(rows, batch, seed, steps)
    drawn = mined(rows, batch, seed, steps, neighbours=np.array(neighbours).reshape(rows, 4))
    for epoch in range(4):
        within = range(first_step_within(epoch, rows, batch), (epoch + 1) * rows // batch)
        waiting = [row for step in within for row in plain[step].tolist()]
        assert [drawn[step].tolist() for step in within] == grouped_by_hand(waiting, batch, neighbours)
    crossing = [step for step in range(steps) if step * batch // rows != ((step + 1) * batch - 1) // rows]
    assert all(np.array_equal(drawn[step], plain[step]) for step in crossing)


def test_near_misses_meet_in_a_batch():
    """Sixty rows in pairs: at random a pair meets in a batch of 6 one time in twelve."""
    partner = np.arange(60)[:, None] ^ 1
    drawn = mined(60, 6, 0, 10, neighbours=partner)
    assert all({row ^ 1 for row in indices.tolist()} == set(indices.tolist()) for indices in drawn)


def test_no_near_misses_change_nothing():
    for nobody in (np.full((23, 2), -1), np.empty((23, 0), dtype=np.int64)):
        assert np.array_equal(mined(23, 5, 3, 30, neighbours=nobody), stream(23, 5, 3, 30))


@pytest.mark.parametrize(
    "neighbours",
    [
        np.zeros((4, 2), dtype=np.int64),
        np.zeros(5, dtype=np.int64),
        np.zeros((5, 2)),
        np.full((5, 1), 5),
        np.full((5, 1), -2),
    ],
)
def test_neighbours_that_are_no_rows(neighbours):
    with pytest.raises(DataError, match="near misses are"):
        order(5, 2, 0, neighbours=neighbours)


# --- by blocks of shards ---------------------------------------------------------------------------------------------


def by_blocks(shards, batch, seed, steps, start=0):
    return [one.indices for one in itertools.islice(order(len(shards), batch, seed, start, shards=shards), steps)]


@settings(deadline=None, max_examples=100)
@given(sizes(), st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 40))
def test_by_blocks_too_each_row_comes_once_an_epoch_and_a_start_anywhere_is_the_same(size, shards, seed, start):
    rows, batch = size
    shard = np.random.default_rng(seed).integers(0, min(shards, rows), rows)
    shard[: min(shards, rows)] = np.arange(min(shards, rows))
    drawn = by_blocks(shard, batch, seed, max(-(-rows * 4 // batch), start + 5))
    assert all(len(indices) == batch == len(set(indices.tolist())) for indices in drawn)
    flat = np.concatenate(drawn)
    for epoch in range(4):
        assert sorted(flat[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    resumed = by_blocks(shard, batch, seed, 5, start)
    assert all(np.array_equal(one, there) for one, there in zip(resumed, drawn[start:], strict=False))


def test_blocks_are_of_a_few_shards_well_mixed_and_others_in_each_epoch():
    """A hundred shards of a hundred rows in batches of 16: a block is eight shards, fifty batches."""
    shard = np.repeat(np.arange(100), 100)
    epochs = np.concatenate(by_blocks(shard, 16, 0, 1250)).reshape(2, 10_000)
    blocks = [[frozenset(shard[part]) for part in one[:9600].reshape(12, 800)] for one in epochs]
    for one in blocks:
        assert [len(block) for block in one[1:11]] == [8] * 10
        assert not any(a & b for a, b in itertools.combinations(one[1:11], 2))
    assert len(set(blocks[0][1:11]) & set(blocks[1][1:11])) == 0, "other shards meet in another epoch"
    for batch in epochs[0][800:1600].reshape(50, 16):
        assert len(set(shard[batch])) >= 4, "a batch sees most shards of its block"
    assert not np.array_equal(epochs[0], epochs[1])
    assert len(set(shard[epochs[0][-400:]])) == 12, "the four shards that are left over are mixed with the last eight"
    large = np.concatenate(by_blocks(shard, 100, 0, 100))
    assert len(set(shard[large[1600:2400]])) == 16, "sixteen batches at least"


def test_few_shards_are_one_block():
    """What is mixed then is everything: row 0's place over 2000 seeds is equally likely."""
    shard = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    places = [by_blocks(shard, 10, seed, 1)[0].tolist().index(0) for seed in range(2000)]
    assert ((np.bincount(places, minlength=10) - 200) ** 2 / 200).sum() < 27.9


GOLDEN_BLOCKS = [29, 16, 24, 27, 7, 26, 6, 12, 30, 8, 31, 9]


def test_the_draws_by_blocks_of_this_version_are_those_of_every_version():
    assert np.concatenate(by_blocks(np.repeat(np.arange(20), 2), 1, 7, 12)).tolist() == GOLDEN_BLOCKS


def test_a_shard_for_each_row():
    with pytest.raises(DataError, match="a number from 0 for each of the 10 rows"):
        order(10, 2, 0, shards=np.zeros(9, dtype=np.int64))
