"""Near misses: against the whole table of cosines and a plain sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from honeclip.errors import DataError
from honeclip.losses.near_misses import near_misses
from honeclip.losses.targets import Targets


def plain(image_ND, text_ND, mask_NN, k):
    """Every cosine, sorted by hand: larger first, then the earlier row."""
    image_ND, text_ND = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image_ND, text_ND))
    cosines_NN = image_ND @ text_ND.T
    lines = []
    for row, cosines_N in enumerate(cosines_NN):
        wrong = sorted((-cosine, column) for column, cosine in enumerate(cosines_N) if not mask_NN[row][column])
        lines.append([column for _, column in wrong[:k]] + [-1] * (k - len(wrong)))
    return np.array(lines)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 20), st.integers(0, 1000), st.integers(1, 20), st.integers(1, 5), st.data())
@example(9, 0, 4, 3, None)
def test_against_a_plain_sort(size, seed, tile, ids, data):
    k = min(3, size - 1) if data is None else data.draw(st.integers(1, size - 1))
    noise = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(size, 6, generator=noise, dtype=torch.float64) for _ in range(2))
    targets = Targets(torch.randint(ids, (size,), generator=noise), torch.randint(2 * ids, (size,), generator=noise))
    found = near_misses(image, text, lambda start, stop: targets.tile(start, stop, size), k, tile)
    assert found.dtype == np.int64
    mask = targets.tile(0, size, size).numpy()
    assert np.array_equal(found, plain(image.numpy(), text.numpy(), mask, k))


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 40), st.integers(0, 1000), st.integers(1, 6))
def test_ties_go_to_the_earlier_row(size, seed, k):
    """Axes as embeddings: each cosine is 0, 1 or -1 exactly, and nearly all are tied."""
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    noise = torch.Generator().manual_seed(seed)
    image, text = (axes[torch.randint(8, (size,), generator=noise)] for _ in range(2))
    pairs = Targets()
    k = min(k, size - 1)
    found = [
        near_misses(image, text, lambda start, stop: pairs.tile(start, stop, size), k, tile) for tile in (1, 7, "auto")
    ]
    expected = plain(image.numpy(), text.numpy(), np.eye(size, dtype=bool), k)
    assert all(np.array_equal(one, expected) for one in found)


def test_a_row_never_gets_itself_and_lengths_do_not_matter():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    text = image.detach() * torch.tensor([[100.0], [0.01], [7.0]])
    found = near_misses(image, text, lambda start, stop: Targets().tile(start, stop, 3), 2)
    assert found.tolist() == [[2, 1], [2, 0], [0, 1]]


def test_the_whole_table_is_never_held():
    seen = []

    def positive(start, stop):
        seen.append(stop - start)
        return Targets().tile(start, stop, 50)

    near_misses(torch.randn(50, 4), torch.randn(50, 4), positive, 5, 8)
    assert seen == [8] * 6 + [2]


def test_a_row_with_few_wrong_partners_is_filled_up():
    caption_id = torch.tensor([0, 0, 0, 1])
    targets = Targets(caption_id)
    found = near_misses(torch.eye(4), torch.eye(4), lambda start, stop: targets.tile(start, stop, 4), 2)
    assert found.tolist() == [[3, -1], [3, -1], [3, -1], [0, 1]]


@pytest.mark.parametrize(("size", "k"), [(3, 3), (5, 0), (0, 1)])
def test_sets_that_are_too_small(size, k):
    with pytest.raises(DataError, match=f"need at least {max(k, 1) + 1} rows"):
        near_misses(torch.zeros(size, 2), torch.zeros(size, 2), lambda start, stop: torch.ones(stop - start, size), k)
