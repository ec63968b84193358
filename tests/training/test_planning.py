"""A plan follows from counted bytes and a budget alone, and leaves nothing behind."""

from __future__ import annotations

import gc
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch

from honeclip.config import Memory
from honeclip.data import loader, pairs
from honeclip.data.order import order
from honeclip.device.detect import choose
from honeclip.errors import BadInput
from honeclip.model.load import load
from honeclip.stepping.plan import Plan
from honeclip.training.feeds import ImageFeed, TextFeed
from honeclip.training.planning import LIBRARIES_BYTES, Subject, make_plan

MANY = 10**12
BATCH, ROWS = 20, 4


@pytest.fixture(scope="module")
def clip(vit):
    found = load(str(vit), "cpu")
    found.model.train()
    return found


@pytest.fixture(scope="module")
def batch(data, clip):
    rows = pairs.load(data).split("train")
    return next(loader.batches(rows, clip.preprocess, islice(order(len(rows), ROWS, 0, size_px=32), 1)))


def feeds(clip):
    return ImageFeed(clip, None, torch.float32), TextFeed(clip, None, torch.float32)


def subject(clip, batch, **other) -> Subject:
    towers = other.pop("feeds", feeds(clip))
    given = {
        "clip": clip,
        "feeds": towers,
        "inputs": [feed.trimmed(feed.inputs(batch)) for feed in towers],
        "batch": other.pop("size", BATCH),
        "input_bytes": 0,
        "precision": "fp32",
        "device": choose("cpu"),
        "learning_bytes": 0,
    }
    return Subject(**{**given, **other})


@pytest.fixture(scope="module")
def per_sample(clip, batch) -> int:
    """Bytes that the graphs of one sample keep, counted once more: every tensor that autograd saves."""
    kept: dict[int, int] = {}
    weights = {one.untyped_storage().data_ptr() for one in clip.model.parameters()}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    outputs = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for feed in feeds(clip):
            outputs.append(feed(feed.inputs(batch)))
    return -(-sum(kept.values()) // ROWS)


@pytest.fixture(scope="module")
def held(clip) -> int:
    """Bytes of a plan that are there throughout."""
    weights = sum(one.nbytes for one in (*clip.model.parameters(), *clip.model.buffers()))
    return weights + LIBRARIES_BYTES


def plan(clip, batch, budget_bytes, **memory) -> Plan:
    return make_plan(subject(clip, batch), Memory(**memory), budget_bytes)


def test_with_room_for_everything_it_is_a_plain_step(clip, batch):
    found = plan(clip, batch, MANY)
    assert (found.micro_batch, found.keep) == ((20, 20), (1, 1))
    assert (found.recompute, found.attention_slice, found.predicted_overhead) == (False, 0, 0.0)
    assert "1 micro-batches of 20, 1 of them with their graphs kept" in found.reason


def test_what_a_graph_keeps_is_what_autograd_saves(clip, batch, per_sample):
    found = plan(clip, batch, MANY, micro_batch=1)
    assert found.graph_bytes == pytest.approx(per_sample, rel=0.05)


def test_less_room_means_fewer_graphs_then_smaller_pieces_and_never_more_than_the_room(clip, batch, held):
    least = plan(clip, batch, MANY, micro_batch=1, keep=0).predicted_peak_bytes
    most = plan(clip, batch, MANY).predicted_peak_bytes
    found = [
        plan(clip, batch, int(least + share * (most - least)), recompute=False) for share in (1, 0.7, 0.4, 0.2, 0.1, 0)
    ]
    for one, share in zip(found, (1, 0.7, 0.4, 0.2, 0.1, 0), strict=True):
        assert one.predicted_peak_bytes <= least + share * (most - least)
    overheads = [one.predicted_overhead for one in found]
    assert overheads == sorted(overheads)
    assert overheads[-1] > 0.3, "nothing kept and one sample at a time"
    assert found[-1].micro_batch[0] == 1


def test_each_kept_graph_costs_its_bytes_and_buys_the_same_time(clip, batch):
    found = [plan(clip, batch, MANY, micro_batch=2, keep=keep) for keep in range(11)]
    assert [one.keep for one in found] == [(keep, keep) for keep in range(11)]
    peaks = [one.predicted_peak_bytes for one in found]
    # the last ones come to the peak; the first fit beside the gradients
    assert peaks == sorted(peaks)
    assert peaks[10] - peaks[9] == pytest.approx(found[0].graph_bytes, rel=0.05)
    steps = [a.predicted_overhead - b.predicted_overhead for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * 10)


def test_recomputation_keeps_less(clip, batch):
    assert plan(clip, batch, MANY, recompute=True).recompute
    assert not plan(clip, batch, MANY).recompute
    assert plan(clip, batch, MANY, recompute=True).graph_bytes < 0.7 * plan(clip, batch, MANY).graph_bytes


def test_a_budget_that_holds_not_even_one_sample_says_what_would(clip, batch):
    with pytest.raises(BadInput) as caught:
        plan(clip, batch, LIBRARIES_BYTES)
    words = str(caught.value)
    assert "the smallest plan (micro-batch 1, no graphs kept, blocks recomputed) needs" in words
    assert "model.lora_rank=8 or model.freeze=towers" in words
    enough = float(words.split(" needs ")[1].split(" GB")[0])
    assert plan(clip, batch, int(enough * 1e9)).micro_batch == (1, 1) or enough < 0.2


def test_what_is_asked_for_is_taken(clip, batch):
    assert plan(clip, batch, MANY, micro_batch=6).micro_batch == (6, 6)
    assert plan(clip, batch, MANY, micro_batch=6).keep == (4, 4)
    assert plan(clip, batch, MANY, micro_batch=6, keep=1).keep == (1, 1)
    assert plan(clip, batch, MANY, micro_batch=500, keep=500).keep == (1, 1)
    assert plan(clip, batch, MANY, attention_slice=8).attention_slice == 8
    least = plan(clip, batch, MANY, micro_batch=1, keep=0).predicted_peak_bytes
    assert plan(clip, batch, least, micro_batch=6).micro_batch == (6, 6)


def test_planning_moves_no_generator_and_no_gradient_and_leaves_no_tensor(clip, batch):
    def living() -> int:
        gc.collect()
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    class Dropping(TextFeed):
        def __call__(self, piece):
            return torch.nn.functional.dropout(super().__call__(piece), 0.5)

    def planned() -> None:
        image, _ = feeds(clip)
        make_plan(subject(clip, batch, feeds=(image, Dropping(clip, None, torch.float32))), Memory(), MANY)

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
    assert make_plan(subject(clip, two, size=2), Memory(), MANY).micro_batch == (2, 2)


def test_a_second_copy_of_what_is_saved_is_planned_where_it_costs_next_to_no_time(clip, batch, held):
    """With the moments of a model that learns as a whole; a tenth of a percent less room than it needs is too little."""
    learning = held - LIBRARIES_BYTES
    copy = 3 * learning

    def planned(budget_bytes: int, saves: bool = True, **other) -> Plan:
        return make_plan(subject(clip, batch, learning_bytes=learning, saves=saves, **other), Memory(), budget_bytes)

    without = planned(MANY, saves=False)
    ample = planned(MANY)
    assert (without.copy_bytes, ample.copy_bytes) == (0, copy)
    assert ample.predicted_peak_bytes == without.predicted_peak_bytes + copy
    assert (ample.micro_batch, ample.keep) == (without.micro_batch, without.keep)
    assert planned(ample.predicted_peak_bytes).copy_bytes == copy
    # what it saves is not worth graphs that would have to be built twice
    tight = planned(without.predicted_peak_bytes)
    assert (tight.copy_bytes, tight.micro_batch, tight.keep) == (0, without.micro_batch, without.keep)
    assert tight.reason.endswith("saving holds up the steps, for a copy of 0.00096 GB has no room")


@pytest.mark.parametrize(("backend", "counts"), [("mps", True), ("cuda", False)])
def test_the_copy_lies_in_the_hosts_memory_which_on_a_mac_is_the_same(clip, batch, backend, counts):
    learning = sum(one.nbytes for one in clip.model.parameters())

    class Elsewhere:
        """The CPU under another backend's name: what is planned for follows from that alone."""

        def __init__(self, name: str) -> None:
            self.backend = name

        def __getattr__(self, name: str):
            return getattr(choose("cpu"), name)

    def planned(budget_bytes: int, saves: bool) -> Plan:
        one = subject(clip, batch, learning_bytes=learning, saves=saves, device=Elsewhere(backend))
        return make_plan(one, Memory(), budget_bytes)

    without = planned(MANY, False)
    assert planned(MANY, True).predicted_peak_bytes == without.predicted_peak_bytes
    assert (planned(without.predicted_peak_bytes, True).copy_bytes == 0) is counts
    copy = planned(MANY, True).copy_bytes
    assert copy >= 3 * learning
    assert planned(without.predicted_peak_bytes + copy, True).copy_bytes == copy


def test_a_plan_becomes_json_and_back():
    one = Plan((8, 16), (3, 2), True, 64, 1234, 5678, 9012, 0.25, "because")
    assert Plan.from_json(one.to_json()) == one
    older = {name: value for name, value in one.to_json().items() if name != "copy_bytes"}
    assert Plan.from_json(older) == one, "as versions wrote it that held up the steps"
