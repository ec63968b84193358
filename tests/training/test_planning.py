"""A plan follows from counted bytes and a budget alone, and leaves nothing behind."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import pytest
import torch

from honeclip.config import Memory
from honeclip.data import loader, pairs
from honeclip.data.order import order
from honeclip.errors import BadInput
from honeclip.model.load import load
from honeclip.training.feeds import ImageFeed, TextFeed
from honeclip.training.planning import PROBE_ROWS, Plan, make_plan

MANY = 10**9


@pytest.fixture(scope="module")
def clip(vit):
    found = load(str(vit), "cpu")
    found.model.train()
    return found


@pytest.fixture(scope="module")
def batch(data, clip):
    rows = pairs.load(data).split("train")
    return next(loader.batches(rows, clip.preprocess, islice(order(len(rows), 20, 0, size_px=32), 1)))


@pytest.fixture(scope="module")
def per_sample(clip, batch) -> int:
    """Bytes that the graphs of one sample keep, counted once more: every tensor that autograd saves."""
    kept: dict[int, int] = {}

    def note(tensor):
        if not (tensor.is_leaf and tensor.requires_grad):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    outputs = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for feed in feeds(clip):
            outputs.append(feed(feed.inputs(batch)[:PROBE_ROWS]))
    return -(-sum(kept.values()) // PROBE_ROWS)


def feeds(clip):
    return ImageFeed(clip, None, torch.float32), TextFeed(clip, None, torch.float32)


def plan(clip, batch, budget_bytes, **memory) -> Plan:
    return make_plan(feeds(clip), batch, Memory(**memory), budget_bytes, 1000, nullcontext)


def test_with_room_for_everything_it_is_a_plain_step(clip, batch):
    found = plan(clip, batch, MANY)
    assert (found.micro_batch, found.keep) == (20, (1, 1))
    assert "1 micro-batches of 20, 1 of them with their graphs kept" in found.reason


def test_less_room_means_smaller_pieces_and_fewer_graphs_and_never_more_than_the_room(clip, batch, per_sample):
    found = [plan(clip, batch, 1000 + share * per_sample) for share in (40, 20, 10, 5, 2, 1)]
    assert [one.micro_batch for one in found] == [20, 8, 4, 2, 1, 1]
    assert [one.keep[0] for one in found] == [1, 1, 1, 1, 1, 0]
    for one, share in zip(found, (40, 20, 10, 5, 2, 1), strict=True):
        # one graph is being built while the kept ones are there
        assert one.graph_bytes == pytest.approx(one.micro_batch * per_sample, rel=0.01)
        assert (one.keep[0] + (one.keep[0] < -(-20 // one.micro_batch))) * one.graph_bytes <= 1.01 * share * per_sample


def test_a_budget_that_holds_not_even_one_sample_says_what_would(clip, batch, per_sample):
    with pytest.raises(BadInput, match=r"is too little.*give at least .*or freeze towers \(model\.freeze=towers\)"):
        plan(clip, batch, 1000 + per_sample // 2)


def test_what_is_asked_for_is_taken(clip, batch, per_sample):
    assert plan(clip, batch, MANY, micro_batch=6).micro_batch == 6
    assert plan(clip, batch, MANY, micro_batch=6).keep == (4, 4)
    assert plan(clip, batch, MANY, micro_batch=6, keep=1).keep == (1, 1)
    assert plan(clip, batch, MANY, micro_batch=500, keep=500).keep == (1, 1)
    assert plan(clip, batch, 1000 + per_sample, micro_batch=6).micro_batch == 6


def test_planning_moves_no_generator_and_no_gradient_and_leaves_no_tensor(clip, batch):
    def living() -> int:
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    class Dropping(TextFeed):
        def __call__(self, piece):
            return torch.nn.functional.dropout(super().__call__(piece), 0.5)

    def planned() -> None:
        image, _ = feeds(clip)
        make_plan((image, Dropping(clip, None, torch.float32)), batch, Memory(), MANY, 1000, nullcontext)

    planned()
    state, before = torch.get_rng_state(), living()
    planned()
    assert living() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(one.grad is None for one in clip.model.parameters())


def test_a_few_rows_are_counted_and_a_batch_of_two_is_enough(clip, batch):
    two = replace(
        batch,
        draw=replace(batch.draw, indices=batch.draw.indices[:2]),
        images=batch.images[:2],
        tokens=batch.tokens[:2],
    )
    assert plan(clip, two, MANY).micro_batch == 2


def test_a_plan_becomes_json_and_back():
    one = Plan(8, (3, 2), 1234, "because")
    assert Plan.from_json(one.to_json()) == one
