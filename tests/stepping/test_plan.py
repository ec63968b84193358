"""Plans as arithmetic: what is fastest within a budget, on costs made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise, product

import pytest

from honeclip.stepping.cost import Lines, TowerCost, peak_bytes
from honeclip.stepping.plan import Levers, Plan, Task, at, best, smallest

BATCH, HELD, LOSS = 64, 10_000, 500
PLAIN, AGAIN = Levers(), Levers(recompute=True)


def cost(each: int, *, gradients: int = 200, work: float | None = None, share: float = 1.0) -> TowerCost:
    """A tower whose graph keeps `each` bytes a sample."""
    return TowerCost(
        fixed=100,
        graph=each,
        forward=Lines(((0, each + each // 5),)),
        passing=Lines(((0, each // 4),)),
        backward=Lines(((gradients, each // 10), (0, each // 4))),
        gradients=gradients,
        work=float(each) if work is None else work,
        share=share,
    )


IMAGE, TEXT = cost(1000), cost(200)
COSTS = [IMAGE, TEXT]


def recomputed(one: TowerCost) -> TowerCost:
    """Keeps a tenth, and has a block's activations, another tenth, again in its backward."""
    each = one.graph
    less = cost(each // 10, gradients=one.gradients, work=one.work)
    return replace(less, backward=Lines(((one.gradients, each // 10),)))


def task(budget: int, **other) -> Task:
    given = {"samples": (BATCH, BATCH), "held": HELD, "loss_bytes": LOSS, "budget_bytes": budget}
    return Task(**{**given, **other})


EVERYTHING = at(task(0), COSTS, PLAIN, (BATCH, BATCH), (1, 1)).predicted_peak_bytes
LEAST = smallest(task(0), COSTS, PLAIN)


def test_a_tower_that_does_not_learn_has_no_backward_in_the_overhead():
    """With samples one by one and all graphs kept each forward and backward takes 1.4 times a large one's."""
    frozen = replace(TEXT, gradients=0)
    found = at(task(0), [IMAGE, frozen], PLAIN, (1, 1), (BATCH, BATCH))
    assert found.predicted_overhead == pytest.approx(1.4 / (1 + 0.4 / BATCH) - 1)


def test_with_all_room_it_is_the_undivided_step():
    found = best(task(EVERYTHING), COSTS, PLAIN)
    assert found is not None
    assert (found.micro_batch, found.keep, found.predicted_overhead) == ((64, 64), (1, 1), 0.0)
    assert found.predicted_peak_bytes == EVERYTHING
    assert found.step_bytes == EVERYTHING - HELD
    assert found.graph_bytes == BATCH * 1200
    # held, casted weights, both graphs, embeddings and loss, then the images' backward with its gradients
    assert HELD + 200 + BATCH * 1200 + LOSS + max(200 + 100 * BATCH, 250 * BATCH) == EVERYTHING


def test_less_room_never_means_less_time_and_never_more_than_the_room():
    budgets = [EVERYTHING - number * (EVERYTHING - LEAST) // 60 for number in range(61)]
    found = [best(task(budget), COSTS, PLAIN) for budget in budgets]
    for budget, plan in zip(budgets, found, strict=True):
        assert plan is not None
        assert plan.predicted_peak_bytes <= budget
        assert plan.predicted_peak_bytes == peak_bytes(COSTS, (BATCH, BATCH), plan.micro_batch, plan.keep, HELD, LOSS)
    overheads = [plan.predicted_overhead for plan in found if plan]
    assert overheads == sorted(overheads)
    assert overheads[0] == 0.0
    assert overheads[-1] > 0.33, "every forward twice is a third more, and single samples take longer"
    assert len(set(overheads)) > 15


def test_it_is_the_best_of_all_that_have_such_pieces():
    """Against every plan of the same micro-batches for both towers, one number of kept graphs after another."""
    for share in (0.2, 0.4, 0.6, 0.8):
        budget = int(LEAST + share * (EVERYTHING - LEAST))
        found = best(task(budget), [IMAGE, IMAGE], PLAIN)
        others = [
            at(task(budget), [IMAGE, IMAGE], PLAIN, (size, size), (keep, keep))
            for size, keep in product((1, 2, 4, 8, 16, 32, 64), range(65))
        ]
        fitting = [one.predicted_overhead for one in others if one.predicted_peak_bytes <= budget]
        assert (found is None) == (not fitting)
        assert found is None or found.predicted_overhead == pytest.approx(min(fitting))


def test_nothing_fits_below_the_smallest_plan():
    assert best(task(LEAST - 1), COSTS, PLAIN) is None
    found = best(task(LEAST), COSTS, PLAIN)
    assert found is not None
    assert (found.micro_batch[0], found.predicted_peak_bytes) == (1, LEAST)


@pytest.mark.parametrize("keep", [None, 0, 1])
def test_where_only_the_smallest_plan_fits_it_is_found(keep):
    """Here the texts' own larger micro-batch, beside the gradients, is what does not fit."""
    towers = [cost(1000, gradients=2000), cost(200, gradients=2000)]
    least = smallest(task(0), towers, PLAIN)
    found = best(task(least, keep=keep), towers, PLAIN)
    assert found is not None
    assert (found.micro_batch, found.predicted_peak_bytes) == ((1, 1), least)
    assert best(task(least - 1, keep=keep), towers, PLAIN) is None


def test_the_smallest_plan_is_no_larger_than_any():
    sizes, keeps = (1, 3, 16, 64), (0, 1, 5, 64)
    for size, keep in product(sizes, keeps):
        assert at(task(0), COSTS, PLAIN, (size, size), (keep, keep)).predicted_peak_bytes >= LEAST
    assert at(task(0), COSTS, PLAIN, (1, 1), (0, 0)).predicted_peak_bytes == LEAST
    assert smallest(task(0), [recomputed(IMAGE), recomputed(TEXT)], AGAIN) < LEAST


def faster(budget: int) -> Plan:
    """Of the best plans with and without recomputation the faster one, as a run chooses."""
    plain, again = best(task(budget), COSTS, PLAIN), best(task(budget), [recomputed(one) for one in COSTS], AGAIN)
    return min((one for one in (plain, again) if one is not None), key=lambda one: one.predicted_overhead)


def test_recomputation_is_faster_only_where_much_would_be_dropped():
    """It costs a forward of all samples, as dropping all graphs does, but with it larger pieces fit."""
    budgets = [EVERYTHING - number * (EVERYTHING - LEAST) // 20 for number in range(21)]
    chosen = [faster(budget).recompute for budget in budgets]
    assert not any(chosen[:16]), "a part of the graphs dropped costs less than all blocks again"
    assert chosen[-1]
    assert faster(LEAST).micro_batch[0] > 1
    assert faster(EVERYTHING).predicted_overhead == 0
    again = best(task(EVERYTHING), [recomputed(one) for one in COSTS], AGAIN)
    assert again is not None
    assert again.predicted_overhead == pytest.approx(1 / 3), "one forward beside a forward and a backward of two"


def test_a_tower_whose_samples_need_less_takes_more_of_them():
    """The texts' micro-batch doubles for as long as it takes no more than the images'."""
    for small, wanted in ((1000, 8), (500, 16), (251, 16), (250, 32), (100, 64), (1, 64)):
        found = best(task(HELD + 30_000, keep=0), [IMAGE, cost(small)], PLAIN)
        assert found is not None
        assert found.micro_batch[1] // found.micro_batch[0] * 8 >= wanted or found.micro_batch[1] == BATCH
        assert found.micro_batch[1] >= found.micro_batch[0]
        if found.micro_batch[1] < BATCH:
            assert small * found.micro_batch[1] <= 1000 * found.micro_batch[0]
    assert best(task(HELD + 30_000, micro_batch=4), [IMAGE, cost(1)], PLAIN).micro_batch == (4, 4), "as wished for"


def test_every_tower_keeps_the_same_share_of_its_pieces():
    found = best(task((EVERYTHING + LEAST) // 2), COSTS, PLAIN)
    assert found is not None
    shares = [kept * size / BATCH for kept, size in zip(found.keep, found.micro_batch, strict=True)]
    assert 0.2 < shares[0] < 1
    assert shares[1] == pytest.approx(shares[0], abs=0.5 * found.micro_batch[1] / BATCH)


def test_what_is_wished_for_is_taken_whether_it_fits_or_not():
    assert best(task(0, micro_batch=8), COSTS, PLAIN).micro_batch == (8, 8)
    assert best(task(0, micro_batch=8), COSTS, PLAIN).keep == (0, 0)
    assert best(task(0, micro_batch=8, keep=3), COSTS, PLAIN).keep == (3, 3)
    assert best(task(0, micro_batch=500, keep=500), COSTS, PLAIN).keep == (1, 1)
    assert best(task(LEAST, keep=1), COSTS, PLAIN) is not None
    assert best(task(LEAST - 1, keep=1), COSTS, PLAIN) is None, "pieces may still be chosen, and none fits"


@pytest.mark.parametrize("batch", [1, 2, 7, 63, 65, 1000])
def test_any_batch_has_a_plan_of_all_its_samples(batch):
    for budget in (10**9, HELD + 20_000):
        found = best(task(budget, samples=(batch, batch)), COSTS, PLAIN)
        assert found is not None
        assert 1 <= found.micro_batch[0] <= min(batch, 64)
        assert 0 <= found.keep[0] <= -(-batch // found.micro_batch[0])


def test_each_kept_graph_buys_the_same_time():
    found = [at(task(0), COSTS, PLAIN, (4, 4), (keep, keep)).predicted_overhead for keep in range(17)]
    steps = [a - b for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * 16)
    assert found[0] - found[-1] == pytest.approx(1 / 3 * (1 + 0.4 / 4) / (1 + 0.4 / 64))


def test_a_tower_that_does_not_learn_has_no_second_pass():
    """Its time does not depend on what is kept, and neither do its bytes."""
    still = replace(cost(0), gradients=0, work=0.0, passing=Lines(((0, 50),)))
    some = at(task(0), [still, TEXT], PLAIN, (8, 8), (0, 8))
    none = at(task(0), [still, TEXT], PLAIN, (8, 8), (8, 8))
    assert some.predicted_overhead == none.predicted_overhead
    assert some.predicted_peak_bytes == none.predicted_peak_bytes


def test_shorter_captions_keep_their_share():
    whole = at(task(0), COSTS, PLAIN, (4, 4), (16, 16))
    half = at(task(0), [IMAGE, replace(TEXT, share=0.5)], PLAIN, (4, 4), (16, 16))
    assert whole.graph_bytes - half.graph_bytes == 4 * 200 // 2
    assert whole.predicted_peak_bytes - half.predicted_peak_bytes == 16 * 4 * 200 // 2


def test_the_words_say_pieces_graphs_levers_and_bytes():
    found = at(task(2 * 10**9), COSTS, Levers(True, 32), (16, 32), (3, 1))
    assert found.reason.startswith("4 micro-batches of 16 and 32, 3 of them with their graphs kept, blocks recomputed")
    assert "kept, blocks recomputed, attention in slices of 32: 0.00 of 2.00 GB" in found.reason
    assert found.copy_bytes == 0, "whoever counts the room for a second copy says so"
    assert found.levers == Levers(True, 32)


def test_a_plan_becomes_json_and_back():
    found = best(task(EVERYTHING // 2), COSTS, PLAIN)
    assert found is not None
    assert Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
