"""A weight becomes NaN after the n-th update, as from a broken memory cell."""

from __future__ import annotations

import json
import re
from shutil import rmtree

import pytest


@pytest.mark.parametrize(("updates", "good"), [(1, 0), (4, 3), (5, 4), (6, 4)])
def test_nan_at_a_step_stops_in_words_and_the_run_goes_on(updates, good, warm, new, resumed, tmp_path):
    """Before the first checkpoint, before an evaluation, in a step, and saved before anybody has seen it."""
    out = tmp_path / "run"
    done = warm.start(*new(out), poison={"steps": updates}).done()
    said = done.failed_in_words(1)
    assert re.match(rf"step {updates if updates == 4 else updates + 1}: ", said), said
    assert "the last good checkpoint is" in said
    checked = json.loads(warm.start("check", out, "--json").done().out)
    for fault in checked["faults"]:
        if named := re.search(r"delete the folder (step-\d+)", fault):
            rmtree(out / "checkpoints" / named[1])
    went_on = re.search(r"going on after step (\d+)", resumed(out).err)
    assert int(went_on[1] if went_on else 0) == good
