"""The exact step over three processes: the gradients of one, also where memory runs out in one of them, and where a step
cannot be done every process says so and the next one is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from honeclip.device.world import ALONE, World, agree, collect, joined, of_environment, tell
from honeclip.errors import BadInput

PROCESSES = 3


@pytest.fixture(scope="module")
def found(started_torchrun) -> dict[str, Any]:
    process = started_torchrun(PROCESSES, Path(__file__).with_name("steps_over_ranks.py"))
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return json.loads(said)


@pytest.mark.parametrize(
    ("name", "retries"),
    [
        ("in order", 0),
        ("graphs kept", 0),
        ("no memory in the first pass of the last", 1),
        ("no memory in the second pass of the last", 1),
        ("no memory in the first pass of rank 0", 1),
        ("no memory in the second pass of rank 0", 1),
    ],
)
def test_the_gradients_are_those_of_one_process(name, retries, found):
    case = found[name]
    assert case["loss"] <= 1e-14
    assert case["gradients"] <= 1e-14
    assert case["retries"] == retries, "every rank knows that one tried again"
    assert case["parts"] == ["infonce"]


@pytest.mark.parametrize(
    ("name", "rank", "kind", "words"),
    [
        ("never memory on the last", 2, "MemoryExhausted", "out of memory with one sample at a time"),
        ("never memory again on the last", 2, "MemoryExhausted", "out of memory with one sample at a time"),
        ("never memory on rank 0", 0, "MemoryExhausted", "out of memory with one sample at a time"),
        ("a fault on the last", 2, "DataError", "no such picture"),
        ("a late fault on the last", 2, "KeyError", "name"),
        ("a fault of the loss", 0, "DataError", "the loss knows nothing of this"),
    ],
)
def test_where_one_cannot_go_on_all_end_the_step_and_the_next_is_right(name, rank, kind, words, found):
    case = found[name]
    for number, said in enumerate(case["said"]):
        if kind == "MemoryExhausted":
            assert said.startswith(f"{kind}: rank {rank}: "), "rank 0 can lower the plan of all"
        elif number == rank:
            assert said.startswith(kind), "its own error, with its own traceback"
        else:
            assert f"rank {rank}: " in said
    assert words in case["said"][0]
    assert case["left"] == 0, "gradients of half a step"
    assert case["after"]["gradients"] <= 1e-14
    assert case["after"]["retries"] == 0


def test_a_loss_that_is_not_finite_is_so_on_every_process(found):
    assert found["infinite"] == {"finite": [False] * PROCESSES, "left": 0}


def test_sums_come_to_rank_0_and_weights_go_to_all(found):
    assert found["sums"]["rank 0"] == [6.0]
    assert found["sums"]["after"] == [[[6.0], 0]] * PROCESSES
    assert found["sums"]["agreed"] == [[0, 7], [1, 7], [2, 7]]


def test_a_process_on_its_own_makes_no_call():
    assert of_environment({}) == ALONE == World(0, 1)
    assert of_environment({"RANK": "0", "WORLD_SIZE": "1"}) == ALONE
    with joined("cpu", {"RANK": "0", "WORLD_SIZE": "1"}) as world:
        tell(world, "anything")
        assert collect(world, 3) == [3]
        assert agree(world, [1, 2]) == [[1, 2]]
    assert ALONE.leads


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "2"},
    ],
)
def test_an_environment_that_makes_no_sense_is_bad_input(environment):
    with pytest.raises(BadInput, match="torchrun sets them"):
        of_environment(environment)


def test_who_is_who_on_two_machines():
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert of_environment(given) == World(5, 8, 1, 4)
    assert not of_environment(given).leads
