"""Generators are put back by each backend's own functions; what is not here is left out."""

from __future__ import annotations

import torch
from machines import Generator

from honeclip.device import rng


def test_the_cpu_draws_the_same_numbers_again():
    torch.manual_seed(3)
    torch.rand(5)
    state = rng.snapshot()
    first = torch.rand(100), torch.nn.functional.dropout(torch.ones(50), 0.5)
    rng.restore(state)
    again = torch.rand(100), torch.nn.functional.dropout(torch.ones(50), 0.5)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


def test_a_snapshot_does_not_move_the_generator_and_is_no_view_of_it():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    state = rng.snapshot()
    before = state["cpu"].clone()
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(state["cpu"], before)
    assert state["cpu"].device.type == "cpu"
    assert state["cpu"].dtype is torch.uint8


def test_every_generator_that_is_in_use_is_kept_and_put_back():
    cuda, mps = Generator(), Generator()
    state = rng.snapshot(cuda, mps)
    assert set(state) == {"cpu", "cuda", "mps"}
    for one in (cuda, mps):
        one.state = torch.zeros(16, dtype=torch.uint8)
    rng.restore(state, cuda, mps)
    assert torch.equal(cuda.state, torch.arange(16, dtype=torch.uint8))
    assert torch.equal(mps.state, torch.arange(16, dtype=torch.uint8))


def test_a_generator_that_is_not_here_is_left_out():
    here, elsewhere = Generator(), Generator(here=False)
    assert set(rng.snapshot(elsewhere, elsewhere)) == {"cpu"}
    torch.manual_seed(5)
    state = rng.snapshot(here, here)
    expected = torch.rand(3)
    rng.restore(state, elsewhere, elsewhere)
    assert torch.equal(torch.rand(3), expected)
    rng.restore({}, elsewhere, elsewhere)
