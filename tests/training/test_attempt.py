"""A run in memory: it is the run that `fit` would make, and runs that differ in what they ask of a tower share a bench."""

from __future__ import annotations

import pytest
import tiny_runs

from honeclip import config as configs
from honeclip.monitoring.terminal import Progress
from honeclip.training import folder
from honeclip.training.attempt import Bench, attempt
from honeclip.training.frozen import Known
from honeclip.training.prepared import prepare

FURTHER = ({}, {"scales": [1.0, 0.5]}, {"scales": [1.0, 0.75]})


@pytest.fixture
def bench(data, two_towers):
    values = folder.options(tiny_runs.settings(), str(data), str(two_towers), "industrial")
    with Progress() as progress:
        config = folder.absolute(configs.load(values=values))
        yield Bench(prepare(config, "cpu", lambda text: None, progress), Known(progress)), values


def tried(bench, values, loss, stages="native"):
    """The scores of an attempt, and its best weights."""
    sections = {"loss": loss, "resolution": {"stages": stages}}
    made = attempt(bench, folder.absolute(configs.load(values={**values, **sections})))
    scores = [one.score for one in made.scores()]
    return scores, {name: one.sum().item() for name, one in made.weights.items()}


def test_runs_with_other_scales_share_a_bench(bench):
    """Whatever came before on the bench, an attempt is the same."""
    first = [tried(*bench, loss) for loss in FURTHER]
    again = [tried(*bench, loss) for loss in reversed(FURTHER)]
    assert first == again[::-1]
    assert all(len(scores) == 3 for scores, _ in first)


def test_runs_of_other_sizes_share_a_bench(bench):
    sizes = ("native", 64, [[0.0, 32], [0.5, 48]])
    first = [tried(*bench, {}, one) for one in sizes]
    again = [tried(*bench, {}, one) for one in reversed(sizes)]
    assert first == again[::-1]
    assert first[0][1] != first[1][1], "they did see other images"
