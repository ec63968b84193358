"""The temperature's limits, schedule and controller."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from written_out import (
    CAPTIONS,
    IMAGES,
    SIZE,
    TILES,
    Sizes,
    domain_vectors,
    drawn,
    leaves,
    logits,
    positives,
    similarities,
)

from honeclip.errors import BadInput
from honeclip.losses import temperature
from honeclip.losses.targets import Targets


@pytest.mark.parametrize(
    ("shape", "share", "expected"),
    [
        ("linear", 0.0, 0.1),
        ("linear", 0.5, math.sqrt(0.1 * 0.02)),
        ("linear", 1.0, 0.02),
        ("cosine", 0.0, 0.1),
        ("cosine", 0.5, math.sqrt(0.1 * 0.02)),
        ("cosine", 1 / 3, 0.1 ** (3 / 4) * 0.02 ** (1 / 4)),
        ("cosine", 1.5, 0.02),
        ("linear", -1.0, 0.1),
    ],
)
def test_the_schedule_goes_through_the_logarithm_of_the_temperature(shape, share, expected):
    assert math.exp(-temperature.scheduled(0.1, 0.02, share, shape)) == pytest.approx(expected, rel=1e-12)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0, 1), st.sampled_from(["cosine", "linear"]))
def test_the_schedule_stays_between_its_ends(start, end, share, shape):
    low, high = sorted((start, end))
    assert low * (1 - 1e-12) <= math.exp(-temperature.scheduled(start, end, share, shape)) <= high * (1 + 1e-12)


@pytest.mark.parametrize(("value", "expected"), [(-1.0, 0.0), (2.0, 2.0), (9.0, math.log(100))])
def test_the_scale_stays_between_1_and_100(value, expected):
    assert temperature.clamped(value) == expected


def written(x, mask, log_scale):
    """exp of the entropy of the softmax over each row's negatives, by torch's distribution."""
    matrix = logits(x["image"], x["text"], log_scale)
    found = []
    for one in (matrix, matrix.T):
        for i in range(len(one)):
            others = one[i][mask[i]]
            if len(others):
                found.append(torch.distributions.Categorical(logits=others).entropy().exp())
    return torch.stack(found).mean()


@pytest.mark.parametrize("tile", TILES)
def test_effective_negatives_are_the_perplexity_of_the_negatives(tile):
    x = leaves()
    measured = temperature.effective_negatives(x["image"], x["text"], x["log_scale"], Targets(CAPTIONS, IMAGES), tile)
    assert not measured.requires_grad
    assert float(measured - written(x, ~positives(CAPTIONS, IMAGES), x["log_scale"]).detach()) == pytest.approx(
        0, abs=1e-12
    )
    vectors = domain_vectors()
    targets = Targets(CAPTIONS, vectors_BK=vectors, same=0.6)
    negative = ~positives(CAPTIONS) & ~(similarities(vectors) > 0.6)
    measured = temperature.effective_negatives(x["image"], x["text"], x["log_scale"], targets, tile)
    assert float(measured - written(x, negative, x["log_scale"]).detach()) == pytest.approx(0, abs=1e-12)


def test_effective_negatives_fall_from_all_to_one_as_the_scale_grows():
    x = leaves()
    found = [
        float(temperature.effective_negatives(x["image"], x["text"], torch.tensor(value), Targets()))
        for value in (-20.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(SIZE - 1, rel=1e-6)
    assert found[-1] == pytest.approx(1, abs=0.1)


def test_rows_without_negatives_are_left_out():
    x = leaves()
    everyone = Targets(torch.zeros(SIZE, dtype=torch.long))
    assert float(temperature.effective_negatives(x["image"], x["text"], x["log_scale"], everyone)) == 0
    assert temperature.negatives_a_row(everyone, SIZE) == 0
    assert temperature.negatives_a_row(Targets(), SIZE, 4) == SIZE - 1
    captions = temperature.negatives_a_row(Targets(CAPTIONS), SIZE, 4)
    assert captions == pytest.approx(float((~positives(CAPTIONS)).sum(1).double().mean()))


@pytest.mark.parametrize("start", [0.0, 2.66, math.log(100)])
@pytest.mark.parametrize("power", [0.3, 0.6, 0.9])
def test_the_controller_finds_the_scale_that_gives_the_wanted_negatives(start, power):
    image, text = drawn(96, 12, seed=1), drawn(96, 12, seed=2)
    aim = temperature.wanted(temperature.negatives_a_row(Targets(), 96), power)
    assert aim == pytest.approx(95**power)
    state, seen = temperature.State(start), []
    for _ in range(300):
        measured = temperature.effective_negatives(image, text, torch.tensor(state.log_scale), Targets())
        state = temperature.update(state, float(measured), aim)
        seen.append(state.log_scale)
    assert state.measured == pytest.approx(aim, rel=1e-3)
    # it goes there and stays, without swinging over
    moves = [b - a for a, b in zip([start, *seen], seen, strict=False)]
    assert all(move * moves[0] >= -1e-9 for move in moves)
    assert max(abs(move) for move in moves) <= temperature.STEP + 1e-12


@given(st.floats(0, math.log(100)), st.floats(1e-3, 1e5), st.floats(1, 1e5))
def test_an_update_moves_towards_what_is_wanted_and_stays_within_its_limits(log_scale, measured, wanted):
    state = temperature.update(temperature.State(log_scale), measured, wanted)
    assert 0 <= state.log_scale <= math.log(100)
    assert abs(state.log_scale - log_scale) <= temperature.STEP + 1e-12
    assert (state.log_scale - log_scale) * (measured - wanted) >= 0


@pytest.mark.parametrize("measured", [0.0, math.nan, math.inf])
def test_a_batch_without_negatives_changes_nothing(measured):
    state = temperature.State(2.0, 5.0, 6.0)
    assert temperature.update(state, measured, 4.0) == state


def test_a_state_survives_json():
    state = temperature.update(temperature.State(2.0), 8.0, 4.0)
    assert temperature.State(**json.loads(json.dumps(dataclasses.asdict(state)))) == state
    assert state.log_scale == pytest.approx(2.0 + temperature.GAIN * math.log(2))


def test_no_square_of_the_batch_is_held():
    with Sizes() as sizes:
        temperature.effective_negatives(drawn(2048, 16), drawn(2048, 16), torch.tensor(2.0), Targets(), 16)
    assert max(sizes.seen) == 2048 * 16


@pytest.mark.parametrize(("power", "expected"), [(0.0, 1), (0.5, 3), (1.0, 9)])
def test_the_power_goes_from_the_hardest_negative_to_all(power, expected):
    assert temperature.wanted(9, power) == pytest.approx(expected)
    assert temperature.wanted(0, power) == 1, "never fewer than one"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: temperature.scheduled(2.0, 0.1, 0.5), "start = 2"),
        (lambda: temperature.scheduled(0.1, 0.001, 0.5), "end = 0.001"),
        (lambda: temperature.scheduled(0.1, 0.1, 0.5, "step"), "cosine or linear"),
        (lambda: temperature.wanted(10, 1.5), "power = 1.5"),
        (lambda: temperature.update(temperature.State(0.0), 2.0, 0.5), "wanted = 0.5"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        wrong()
