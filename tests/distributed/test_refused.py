"""What several processes cannot do is refused in words, before any of them begins."""

from __future__ import annotations

import pytest

from honeclip import config as configs
from honeclip.device.world import ALONE, World
from honeclip.errors import ConfigError
from honeclip.training import ranks

CASES = {
    "MPS": ({}, 32, "mps", "without torchrun, or with --device cpu"),
    "plain": ({"train": {"accumulation": "plain"}}, 32, "cpu", "use exact, which sees the whole batch"),
    "few": ({}, 3, "cpu", "train.batch = 3: it is the batch of all 4 processes together"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_shared_out_is_refused_and_one_process_is_asked_nothing(name):
    values, batch, backend, words = CASES[name]
    config = configs.load(values=values)
    with pytest.raises(ConfigError, match=words):
        ranks.check(config, batch, backend, World(rank=0, size=4))
    ranks.check(config, batch, backend, ALONE)
