"""Checkpoints: what is read is what was written, damage is named, the right ones are kept."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from honeclip.checkpoint import load, tensors
from honeclip.checkpoint.save import RunState, mark_best, named, save, steps
from honeclip.errors import HoneclipError, RunError

FILES = [
    "manifest.json",
    "manifest.sha256",
    "optimizer.safetensors",
    "rng.safetensors",
    "state.json",
    "weights.safetensors",
]


def state(step: int, **more) -> RunState:
    groups = {
        "weights": {"w": torch.full((3, 5), float(step)), "scale": torch.tensor(4.6)},
        "optimizer": {"w/exp_avg": torch.ones(3, 5), "w/step": torch.tensor(step)},
        "rng": {"cpu": torch.get_rng_state()},
    }
    return RunState(step, 100, 1.5, more.pop("tensors", groups), {"best_score": 0.5}, step * 10)


def bits(one: torch.Tensor) -> bytes:
    return one.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run" / "checkpoints"


def flip(file: Path, where: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int((len(data) - 1) * where)] ^= 1
    file.write_bytes(data)


def test_a_checkpoint_has_the_files_of_the_contract(folder):
    written = save(folder, state(400), keep_last=2)
    assert written == folder / "step-000400"
    assert sorted(path.name for path in written.iterdir()) == FILES
    assert (folder / "LATEST").read_text().strip() == "step-000400"
    assert not (folder / "BEST").exists()
    assert json.loads((written / "state.json").read_text())["format"] == 2
    hashes = json.loads((written / "manifest.json").read_text())
    assert sorted(hashes) == [name for name in FILES if not name.startswith("manifest")]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_manifests_agree_with_sha256sum(folder):
    written = save(folder, state(1), keep_last=2)
    said = subprocess.run(["sha256sum", "--check", "manifest.sha256"], cwd=written, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    for name, expected in json.loads((written / "manifest.json").read_text()).items():
        found = subprocess.run(["sha256sum", name], cwd=written, capture_output=True, text=True, check=True).stdout
        assert found.split()[0] == expected


def test_state_comes_back_as_it_was(folder):
    before = state(7)
    after = load.read(save(folder, before, keep_last=2))
    assert (after.step, after.total_steps, after.elapsed_s, after.events_offset) == (7, 100, 1.5, 70)
    assert after.json == {"best_score": 0.5}
    assert after.tensors.keys() == before.tensors.keys()
    assert torch.equal(after.tensors["rng"]["cpu"], before.tensors["rng"]["cpu"])
    torch.set_rng_state(after.tensors["rng"]["cpu"])


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=6),
    st.integers(0, 99),
)
def test_tensors_come_back_bit_for_bit(tmp_path_factory, kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    named_tensors = {
        f"part/{number}.ä": torch.randint(-3, 100, shape, generator=generator).to(dtype)
        for number, (dtype, shape) in enumerate(kinds)
    }
    file = tmp_path_factory.mktemp("tensors") / "some.safetensors"
    tensors.write(file, named_tensors)
    for read in (tensors.read(file), load_file(file)):  # our reading, and the library's own
        assert read.keys() == named_tensors.keys()
        for name, one in named_tensors.items():
            assert (read[name].dtype, read[name].shape) == (one.dtype, one.shape)
            assert bits(read[name]) == bits(one)


def test_odd_numbers_views_and_shared_storage_come_back_bit_for_bit(tmp_path):
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324], dtype=torch.float64)
    whole = torch.arange(24.0).reshape(4, 6)
    group = {"odd": odd, "row": whole[1:3], "turned": whole.T, "tied": whole, "grad": torch.ones(2, requires_grad=True)}
    tensors.write(tmp_path / "x.safetensors", group)
    read = tensors.read(tmp_path / "x.safetensors")
    assert all(bits(read[name]) == bits(one.detach()) for name, one in group.items())


def test_the_same_tensors_in_another_order_give_the_same_bytes(tmp_path):
    group = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.int64), "c": torch.ones(1, dtype=torch.bool)}
    first = tensors.write(tmp_path / "1", group)
    assert first == tensors.write(tmp_path / "2", dict(reversed(group.items())))


def test_saving_needs_no_second_copy_of_the_weights(tmp_path):
    group = {str(number): torch.ones(1_000_000) for number in range(5)}
    tracemalloc.start()
    try:
        tensors.write(tmp_path / "big.safetensors", group)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, "20 MB of tensors"


def test_a_dtype_that_no_reader_knows_is_refused(folder):
    with pytest.raises(HoneclipError, match=r"w is torch\.complex64"):
        save(folder, state(1, tensors={"weights": {"w": torch.ones(2, dtype=torch.complex64)}}), keep_last=1)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_bit_names_the_file_and_the_one_before_is_used(folder, name, where):
    save(folder, state(1), keep_last=3)
    save(folder, state(2), keep_last=3)
    flip(folder / "step-000002" / name, where)
    said: list[str] = []
    assert load.latest_good(folder, said.append) == folder / "step-000001"
    assert "step-000002 is damaged" in said[0]
    assert name in said[0]
    assert "step-000001" in said[1]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_emptied_file_is_named(folder, name):
    written = save(folder, state(1), keep_last=1)
    (written / name).write_bytes(b"")
    assert name in load.verify(written)[0]
    (written / name).unlink()
    assert f"{name} is missing" in load.verify(written)
    (written / name).mkdir()
    assert f"{name} is missing" in load.verify(written)


def test_no_checkpoint_is_none_and_only_damaged_ones_are_an_error(folder):
    assert load.latest_good(folder, print) is None
    assert load.best_good(folder, print) is None
    for step in (1, 2):
        flip(save(folder, state(step), keep_last=3) / "weights.safetensors")
    said: list[str] = []
    with pytest.raises(RunError, match="every checkpoint is damaged"):
        load.latest_good(folder, said.append)
    assert len(said) == 2


@pytest.mark.parametrize("text", ["", "step-000009", "../elsewhere", "\udcff"])
def test_a_latest_that_names_nothing_whole_falls_back_to_the_newest(folder, text):
    for step in (1, 2):
        save(folder, state(step), keep_last=3)
    (folder / "LATEST").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert load.latest_good(folder, lambda _: None) == folder / "step-000002"


def test_keep_last_and_best(folder):
    for step in (1, 2, 3, 4, 5):
        save(folder, state(step), keep_last=2, best=step == 2)
    assert list(steps(folder)) == [2, 4, 5]
    assert (named(folder, "LATEST"), named(folder, "BEST")) == ("step-000005", "step-000002")
    assert load.best_good(folder, print) == folder / "step-000002"
    mark_best(folder, "step-000004")
    save(folder, state(6), keep_last=1)
    assert list(steps(folder)) == [4, 6]
    with pytest.raises(RunError, match="step-000099"):
        mark_best(folder, "step-000099")


def test_a_damaged_best_falls_back_to_the_latest(folder):
    save(folder, state(1), keep_last=2, best=True)
    save(folder, state(2), keep_last=2)
    flip(folder / "step-000001" / "weights.safetensors")
    said: list[str] = []
    assert load.best_good(folder, said.append) == folder / "step-000002"
    assert "step-000001 is damaged" in said[0]


def test_a_run_that_went_back_keeps_what_it_goes_on_from(folder):
    for step in (1, 2, 3):
        save(folder, state(step), keep_last=3)
    flip(folder / "step-000003" / "state.json")
    save(folder, state(2), keep_last=1)  # went on from step 1 after the damage, and is at step 2 again
    assert named(folder, "LATEST") == "step-000002"
    assert list(steps(folder)) == [2]
    assert load.verify(folder / "step-000002") == []


def test_saving_a_step_again_replaces_it(folder):
    save(folder, state(1), keep_last=1)
    save(folder, state(1, tensors={"weights": {"w": torch.zeros(1)}}), keep_last=1)
    assert load.read(folder / "step-000001").tensors["weights"]["w"].tolist() == [0.0]
    assert sorted(path.name for path in folder.iterdir()) == ["LATEST", "step-000001"]


def test_a_newer_format_and_what_is_no_checkpoint_are_refused(folder, tmp_path):
    written = save(folder, state(1), keep_last=1)
    content = json.loads((written / "state.json").read_text())
    (written / "state.json").write_text(json.dumps({**content, "format": 3}))
    with pytest.raises(RunError, match="format 3, and this honeclip reads format 2"):
        load.read(written)
    for broken in ("{", "[]", "{}"):
        (written / "state.json").write_text(broken)
        with pytest.raises(RunError, match="is no checkpoint"):
            load.read(written)
    with pytest.raises(RunError, match="is no checkpoint"):
        load.read(tmp_path)


def test_a_pickle_is_never_opened(folder):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was loaded",))

    written = save(folder, state(1), keep_last=1)
    (written / "weights.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RunError, match=r"weights\.safetensors cannot be read"):
        load.read(written)


def test_text_that_is_no_number_is_refused_before_anything_changes(folder):
    save(folder, state(1), keep_last=1)
    with pytest.raises(ValueError, match="JSON"):
        save(folder, RunState(2, 9, 0.0, {}, {"score": float("nan")}), keep_last=1)
    assert load.latest_good(folder, print) == folder / "step-000001"
