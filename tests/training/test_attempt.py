"""A run in memory: it is the run that `fit` would make, and runs that differ in what they ask of a tower share a bench."""

from __future__ import annotations

import pytest
import tiny_runs

from honeclip import config as configs
from honeclip.monitoring.terminal import Progress
from honeclip.training import folder, setup
from honeclip.training.attempt import Bench, attempt
from honeclip.training.frozen import Known

FURTHER = ({}, {"scales": [1.0, 0.5]}, {"scales": [1.0, 0.75]})


@pytest.fixture
def bench(data, two_towers):
    values = folder.options(tiny_runs.settings(), str(data), str(two_towers), "industrial")
    with Progress() as progress:
        config = folder.absolute(configs.load(values=values))
        yield Bench(setup.prepare(config, "cpu", lambda text: None, progress), Known(progress)), values


def scores(bench, values, loss, seed=0, stages="native"):
    sections = {"loss": loss, "train": {**values["train"], "seed": seed}, "resolution": {"stages": stages}}
    config = configs.load(values={**values, **sections})
    return [one.score for one in attempt(bench, folder.absolute(config)).scores()]


def test_runs_with_other_scales_share_a_bench(bench):
    """Whatever came before on the bench, an attempt is the same."""
    first = [scores(*bench, loss) for loss in FURTHER]
    again = [scores(*bench, loss) for loss in reversed(FURTHER)]
    assert first == again[::-1]
    assert all(len(one) == 3 for one in first)


def test_runs_of_other_sizes_share_a_bench(bench):
    sizes = ("native", 64, [[0.0, 32], [0.5, 48]])
    first = [scores(*bench, {}, stages=one) for one in sizes]
    again = [scores(*bench, {}, stages=one) for one in reversed(sizes)]
    assert first == again[::-1]
    assert first[0] != first[1]
