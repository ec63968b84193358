"""Saving beside the steps: what is written is what was there, one at a time, and nothing that goes wrong is lost."""

from __future__ import annotations

from pathlib import Path
from threading import RLock

import pytest
import torch

from honeclip.checkpoint import load
from honeclip.checkpoint.background import saver
from honeclip.checkpoint.save import RunState, named, save
from honeclip.device.fake import FakeMps
from honeclip.errors import HoneclipError


def state(step: int, value: float, numbers: int = 1_000_000) -> RunState:
    weights = {"w": torch.full((numbers,), value), "turned": torch.full((4, 6), value).T}
    groups = {"weights": weights, "optimizer": {"w/exp_avg": torch.full((numbers,), -value)}}
    return RunState(step, 10, 1.0, groups, {"value": value, "sizes": [1]}, step * 100)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def said() -> list[str]:
    return []


def test_what_changes_after_a_save_is_not_in_it(folder, said):
    with saver(folder, 9, RLock(), said.append) as one:
        for step in (1, 2, 3):
            given = state(step, float(step))
            assert one.save(given) is None, "it is being written"
            for group in given.tensors.values():
                for tensor in group.values():
                    tensor.fill_(torch.nan)
            given.json["sizes"].append(2)
            written = one.wait()
            assert (written.step, written.folder) == (step, folder / f"step-{step:06d}")
            assert written.bytes == sum(file.stat().st_size for file in written.folder.iterdir())
            assert one.wait() is None
            assert one.done() is None
    for step in (1, 2, 3):
        save(folder.parent.parent / "plain" / "checkpoints", state(step, float(step)), keep_last=9)
        beside, plain = (
            {file.name: file.read_bytes() for file in (of / "checkpoints" / f"step-{step:06d}").iterdir()}
            for of in (folder.parent, folder.parent.parent / "plain")
        )
        assert beside == plain, "the same bytes as without a thread"
    assert said == []


def test_the_buffers_stay_and_follow_other_shapes_and_names(folder, said):
    device = FakeMps()
    with saver(folder, 9, device.lock, said.append) as one:
        given = [state(step, float(step), numbers) for step, numbers in [(1, 1000), (2, 1000), (3, 2000), (4, 2000)]]
        del given[3].tensors["optimizer"]
        held = []
        with device.counting():
            for some in given:
                one.save(some)
                one.wait()
                held.append(device.held_bytes)
        small = 2 * 4 * 1000 + 4 * 24
        assert held == [small, small, small + 2 * 4 * 1000, 4 * 2000 + 4 * 24]
        assert device.peak_bytes() <= held[2] + 4 * 1000 + 4 * 24
    for some in given:
        found = load.read(folder / f"step-{some.step:06d}")
        assert found.tensors.keys() == some.tensors.keys()
        assert all(torch.equal(found.tensors["weights"][name], one) for name, one in some.tensors["weights"].items())


def test_a_checkpoint_that_is_not_written_beside_the_steps_is_there_at_once(folder, said):
    with saver(folder, 9, RLock(), said.append) as one:
        written = one.save(state(1, 1.0), best=True, within=True, beside=False)
        assert (written.step, written.best) == (1, True)
        assert written.paused_s >= written.writing_s > 0
        assert [named(folder, name) for name in ("LATEST", "BEST", "WITHIN")] == ["step-000001"] * 3


def test_leaving_waits_for_what_is_being_written(folder, said):
    with pytest.raises(ZeroDivisionError), saver(folder, 9, RLock(), said.append) as one:
        one.save(state(1, 1.0), best=True)
        raise ZeroDivisionError
    assert load.verify(folder / "step-000001") == []
    assert named(folder, "LATEST") == named(folder, "BEST") == "step-000001"
    assert said == []


def test_an_error_comes_out_in_the_words_that_it_has_without_a_thread(folder, said):
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder should be")
    with pytest.raises(HoneclipError) as plain:
        save(folder, state(1, 1.0), keep_last=1)
    with saver(folder, 9, RLock(), said.append) as one:
        for ask in (one.wait, one.done):
            one.save(state(1, 1.0))
            one.settle()
            with pytest.raises(HoneclipError) as caught:
                ask()
            assert (str(caught.value), caught.value.exit_code) == (str(plain.value), plain.value.exit_code)
            assert one.done() is None, "it is said once"
    assert said == []
    with pytest.raises(ZeroDivisionError), saver(folder, 9, RLock(), said.append) as one:
        one.save(state(1, 1.0))
        raise ZeroDivisionError
    assert said == [str(plain.value)], "another error ended the run, and this one is not lost"
