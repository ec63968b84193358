"""What `honeclip check RUN` finds in checkpoints whose hashes are right, and 200 changed bytes that hashes find."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from honeclip import __main__, __version__
from honeclip.checkpoint import load, manifest
from honeclip.checkpoint.examine import examine
from honeclip.checkpoint.save import RunState, save, steps
from honeclip.checkpoint.tensors import CHUNK


def groups(step: int, towers: int = 2, side: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of two towers, a table of positions, and moments of the towers that learn."""
    weights = {f"tower.{number}": torch.full((3, 5), float(step)) for number in range(2)}
    weights["positions"] = torch.ones(side, 2, dtype=torch.float16)
    moments = {f"tower.{number}/exp_avg": torch.ones(3, 5) for number in range(towers)}
    return {"weights": weights, "optimizer": moments, "rng": {"cpu": torch.get_rng_state()}}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    folder = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3):
        save(folder, RunState(step, 9, 1.5, groups(step), {"clip": {"size_px": 32}}), keep_last=9)
    return folder


def sealed(checkpoint: Path) -> None:
    """Honest hashes for whatever lies in the folder now."""
    files = [path for path in checkpoint.iterdir() if path.name not in (manifest.MANIFEST, manifest.SEAL)]
    manifest.seal(checkpoint, {path.name: manifest.sha256(path) for path in files})
    assert manifest.verify(checkpoint) == []


def change(checkpoint: Path, file: str, **tensors: torch.Tensor | None) -> None:
    """Other tensors in a file of a checkpoint (None: none of that name), with honest hashes."""
    stored = {**load_file(checkpoint / file), **tensors}
    save_file({name: one for name, one in stored.items() if one is not None}, checkpoint / file)
    sealed(checkpoint)


def rewrite(checkpoint: Path, **values: object) -> None:
    """Other values in state.json, with honest hashes."""
    file = checkpoint / manifest.STATE
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    sealed(checkpoint)


def faults(folder: Path, name: str) -> list[str]:
    """Of one checkpoint, where the others must have none."""
    found = examine(folder)
    assert {one for one, wrong in found.items() if wrong} <= {name}
    return found[name]


def test_whole_checkpoints_have_no_faults(folder):
    assert examine(folder) == {"step-000001": [], "step-000002": [], "step-000003": []}
    assert json.loads((folder / "step-000001" / "state.json").read_text())["honeclip"] == __version__
    assert examine(folder.parent / "none") == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("file", "name"), [("weights", "tower.1"), ("weights", "positions"), ("optimizer", "tower.0/exp_avg")]
)
def test_a_number_that_is_not_finite_is_named_with_file_and_tensor(folder, file, name, value):
    last = folder / "step-000003"
    one = load_file(last / f"{file}.safetensors")[name]
    one.view(-1)[-1] = value
    change(last, f"{file}.safetensors", **{name: one})
    assert faults(folder, "step-000003") == [
        f"{file}.safetensors: {name} holds NaN or infinity (1 of {one.numel()} numbers); --resume goes on from step-000002"
    ]
    said: list[str] = []
    assert load.latest_good(folder, said.append) == folder / "step-000002"  # as it says
    assert said == [
        f"checkpoint step-000003 is damaged: {file}.safetensors: {name} holds NaN or infinity (1 of {one.numel()} numbers)",
        "going on with checkpoint step-000002",
    ]


def test_every_number_of_a_large_tensor_is_looked_at_in_pieces(tmp_path):
    large = torch.zeros(3000, 3001)
    for place in (0, CHUNK - 1, CHUNK, 9_002_999):
        large.view(-1)[place] = torch.nan
    folder = tmp_path / "run" / "checkpoints"
    save(folder, RunState(1, 9, 1.5, {"weights": {"w": large}}), keep_last=9)
    (said,) = examine(folder)["step-000001"]
    assert "w holds NaN or infinity (4 of 9003000 numbers); begin anew with --overwrite" in said


@pytest.mark.parametrize("step", [1, 2])
def test_a_shape_that_the_model_does_not_have_is_named(folder, step):
    name = f"step-{step:06d}"
    change(folder / name, "weights.safetensors", **{"tower.0": torch.ones(5, 3)})
    assert faults(folder, name) == [
        f"weights.safetensors: tower.0 has shape [5, 3], and [3, 5] in step-000003; delete the folder {name}, then --resume "
        "goes on from step-000003"
    ]


def test_where_every_number_is_bad_three_tensors_are_said_and_the_best_one_is_passed_over_as_well(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step, value in [(1, 1.0), (2, torch.nan), (3, 1.0)]:
        weights = {f"w{number}": torch.full((2,), value) for number in range(9)}
        save(folder, RunState(step, 9, 1.5, {"weights": weights}), keep_last=9, best=step == 2)
    said: list[str] = []
    assert load.best_good(folder, said.append) == folder / "step-000003"
    assert said[0].startswith(
        "checkpoint step-000002 is damaged: weights.safetensors: w0 holds NaN or infinity (2 of 2"
    )
    assert said[0].endswith("w2 holds NaN or infinity (2 of 2 numbers); and 6 more")
    assert len(load.verify(folder / "step-000002")) == 9


def test_names_and_files_are_those_of_the_newest(folder):
    change(folder / "step-000002", "weights.safetensors", **{"tower.0": None, "tower.9": torch.ones(1)})
    (folder / "step-000002" / "rng.safetensors").unlink()
    sealed(folder / "step-000002")
    said = [one.split(";")[0] for one in faults(folder, "step-000002")]
    assert said == [
        "rng.safetensors is missing, and step-000003 has it",
        "weights.safetensors: tower.0 is missing, and step-000003 has it",
        "weights.safetensors: tower.9 is not in that of step-000003",
    ]


def test_a_tower_that_begins_to_learn_and_images_that_grow_are_no_faults(tmp_path):
    """The optimizer has more names from then on, and the table of positions another shape."""
    folder = tmp_path / "run" / "checkpoints"
    for step, towers, side in [(1, 1, 4), (2, 1, 4), (3, 2, 4), (4, 2, 9), (5, 2, 9)]:
        model = {"clip": {"size_px": side * 8}}
        save(folder, RunState(step, 9, 1.5, groups(step, towers, side), model), keep_last=9)
    assert not any(examine(folder).values())
    change(folder / "step-000002", "weights.safetensors", positions=torch.ones(9, 2))
    assert "positions has shape [9, 2], and [4, 2] in step-000003" in faults(folder, "step-000002")[0]
    change(folder / "step-000002", "weights.safetensors", positions=None)
    assert "positions is missing, and step-000003 has it" in faults(folder, "step-000002")[0]


def test_the_only_checkpoint_of_a_size_is_compared_by_the_names_of_its_weights(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step, side in [(1, 4), (2, 9), (3, 9)]:
        save(folder, RunState(step, 9, 1.5, groups(step, side=side), {"clip": {"size_px": side * 8}}), keep_last=9)
    assert not any(examine(folder).values())
    change(folder / "step-000001", "weights.safetensors", **{"tower.0": None})
    assert "tower.0 is missing, and step-000003 has it" in faults(folder, "step-000001")[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"honeclip": 3}, "state.json: honeclip is 3 and must be the version that wrote it"),
        ({"step": -1}, "state.json: step is -1 and must be a number that is not negative"),
        ({"step": True}, "state.json: step is True and must be"),
        ({"elapsed_s": "long"}, "state.json: elapsed_s is 'long' and must be"),
        ({"elapsed_s": float("nan")}, "state.json: elapsed_s is nan and must be"),
        ({"events_offset": 1.5}, "state.json: events_offset is 1.5 and must be"),
        ({"json": []}, "state.json: json is [] and must be an object"),
        ({"step": 2}, "state.json: step is 2, and the folder is step-000003"),
    ],
    ids=str,
)
def test_a_state_with_values_that_cannot_be_is_named(folder, values, said):
    rewrite(folder / "step-000003", **values)
    (fault,) = faults(folder, "step-000003")
    assert said in fault
    assert "--resume goes on from step-000002" in fault
    assert load.latest_good(folder, lambda _: None).name == ("step-000003" if values == {"step": 2} else "step-000002")


def test_a_state_that_was_written_before_versions_were_kept_is_whole(folder):
    file = folder / "step-000002" / "state.json"
    file.write_text(json.dumps({key: one for key, one in json.loads(file.read_text()).items() if key != "honeclip"}))
    sealed(folder / "step-000002")
    assert faults(folder, "step-000002") == []


@pytest.mark.parametrize(
    ("writer", "way_out"), [("7.1.0", "use honeclip 7.1.0, which wrote it"), (None, "use the version that wrote it")]
)
def test_a_newer_format_names_its_writer_and_nothing_is_to_be_deleted(folder, writer, way_out):
    rewrite(folder / "step-000003", format=9, honeclip=writer)
    (fault,) = faults(folder, "step-000003")
    assert fault.endswith(f"step-000003 has format 9, and this honeclip reads format 2; {way_out}")


def test_a_file_of_tensors_that_no_hash_vouches_for_is_never_read(folder):
    """As macOS leaves one beside each file on some drives, and what Finder leaves in every folder; or somebody's own."""
    (folder / "step-000002" / ".DS_Store").write_bytes(b"Bud1")
    (folder / "step-000002" / "._rng.safetensors").write_bytes(b"Mac OS X")
    save_file({"tower.0": torch.full((3, 5), torch.nan)}, folder / "step-000002" / "extra.safetensors")
    assert faults(folder, "step-000002") == []
    assert load.read(folder / "step-000002").tensors.keys() == {"weights", "optimizer", "rng"}


def test_nobody_is_told_to_begin_anew_while_a_checkpoint_can_be_used_by_another_version(folder):
    for step in (1, 2):
        (folder / f"step-{step:06d}" / "rng.safetensors").unlink()
    rewrite(folder / "step-000003", format=9)
    assert examine(folder)["step-000001"] == ["rng.safetensors is missing; --resume goes on from step-000003"]
    (folder / "step-000003" / "rng.safetensors").unlink()
    said = "rng.safetensors is missing; begin anew with --overwrite, for no other checkpoint is whole"
    assert examine(folder) == {f"step-{step:06d}": [said] for step in (1, 2, 3)}


def test_a_file_that_cannot_be_read_as_tensors_and_a_manifest_of_nothing_are_named(folder):
    (folder / "step-000002" / "weights.safetensors").write_bytes(b"\xff" * 100)
    sealed(folder / "step-000002")
    assert "weights.safetensors cannot be read" in faults(folder, "step-000002")[0]
    manifest.seal(folder / "step-000002", {})
    assert "manifest.json does not list state.json" in faults(folder, "step-000002")[0]


def test_two_hundred_changed_bytes_over_all_files_are_found(folder):
    """Each by the file's name, with the newest whole one to go on from, and nothing is found once it is put back."""
    last, chance = folder / "step-000003", random.Random(0)
    files = sorted(last.iterdir())
    assert [path.name for path in files if path.suffix == ".safetensors"] == [
        f"{name}.safetensors" for name in ("optimizer", "rng", "weights")
    ]
    for number in range(200):
        file = files[number % len(files)]
        before = file.read_bytes()
        changed = bytearray(before)
        changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
        file.write_bytes(changed)
        found = examine(folder)
        assert file.name in found["step-000003"][0], (number, file.name)
        assert "--resume goes on from step-000002" in found["step-000003"][0]
        assert not found["step-000001"] + found["step-000002"]
        assert load.latest_good(folder, lambda _: None) == folder / "step-000002", (number, file.name)
        file.write_bytes(before)
    assert not any(examine(folder).values())


def test_the_command_says_it_and_ends_with_2(folder, capsys):
    change(folder / "step-000003", "weights.safetensors", **{"tower.0": torch.full((3, 5), torch.nan)})
    assert __main__._run(["check", str(folder.parent), "--json"]) == 2
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [one["name"] for one in result["checkpoints"]] == [path.name for path in steps(folder).values()]
    (fault,) = result["checkpoints"][2]["faults"]
    assert fault == (
        "weights.safetensors: tower.0 holds NaN or infinity (15 of 15 numbers); --resume goes on from step-000002"
    )
    assert (result["passed"], result["faults"]) == (False, [f"step-000003: {fault}"])
    assert fault in err
    assert "Traceback" not in err
