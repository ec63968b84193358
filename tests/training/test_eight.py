"""Eight pairs are stored with checkpoints, and `honeclip check RUN` embeds them again with the model that it builds from one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shutil import copytree

import pytest
import tiny_runs
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from honeclip import __main__
from honeclip.checkpoint import load
from honeclip.training.run import fit

QUIET = {"device": "cpu", "report": lambda text: None}

CASES = {
    "vit": {},
    # adapters are merged when a checkpoint is read
    "lora": {"model": {"lora_rank": 2}},
    # heads are folded, features of the bodies come from a cache, and batch norms and dropout are there
    "two_towers": {"model": {"freeze": "towers"}},
}


@pytest.fixture(scope="module")
def runs(vit, two_towers, tmp_path_factory) -> Path:
    """Runs of each case on data of their own; scored at steps 2 and 4, saved at each step."""
    here = tmp_path_factory.mktemp("eight")
    tiny_runs.draw(here / "data", 40, tiny_runs.ALL_SPLITS)
    for name, sections in CASES.items():
        config = tiny_runs.settings(
            **sections, train={"length": 4}, checkpoint={"every": 1, "keep_last": 9}, evaluate={"every": 2}
        )
        model = two_towers if name == "two_towers" else vit
        fit(data=here / "data", out=here / name, model=model, config=config, **QUIET)
    return here


@pytest.fixture
def place(runs, tmp_path) -> Path:
    """The run of a ViT, and its data, in a copy that checkpoints name."""
    here = copytree(runs, tmp_path / "place")
    for checkpoint in (here / "vit" / "checkpoints").glob("step-*"):
        state = checkpoint / "state.json"
        state.write_text(state.read_text().replace(str(runs), str(here)))
        sealed(checkpoint)
    return here


def sealed(checkpoint: Path) -> None:
    """Honest hashes for whatever lies in the folder now."""
    files = [path for path in sorted(checkpoint.iterdir()) if not path.name.startswith("manifest")]
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (checkpoint / "manifest.json").write_text(json.dumps(hashes))
    own = hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()
    (checkpoint / "manifest.sha256").write_text(f"{own}  manifest.json\n")
    assert load.verify(checkpoint) == []


def check(run: Path, capsys) -> tuple[int, dict[str, dict]]:
    code = __main__._run(["check", str(run), "--json"])
    return code, {one["name"]: one for one in json.loads(capsys.readouterr().out)["checkpoints"]}


@pytest.mark.parametrize("name", CASES)
def test_the_pairs_of_checkpoints_that_were_scored_come_out_again(runs, name, capsys):
    code, found = check(runs / name, capsys)
    assert code == 0
    assert list(found) == [f"step-{step:06d}" for step in (1, 2, 3, 4)]
    for step, one in enumerate(found.values(), start=1):
        scored = step % 2 == 0
        assert (one["faults"], one["pairs"]["done"], one["pairs"]["same"]) == ([], scored, True if scored else None)
        words = "8 pairs, " if scored else "it was saved without embeddings to compare with"
        assert one["pairs"]["words"].startswith(words)
    stored = [load.read(runs / name / "checkpoints" / f"step-00000{step}") for step in (2, 4)]
    for one in stored:
        assert {key: tuple(value.shape) for key, value in one.tensors["pairs"].items()} == {
            "image": (8, 16),
            "text": (8, 16),
        }
        assert all(torch.allclose(value.norm(dim=-1), torch.ones(8)) for value in one.tensors["pairs"].values())
        assert all("number" in caption for caption in one.json["pairs"]["captions"])
    assert not torch.equal(*(one.tensors["pairs"]["image"] for one in stored)), "the model has learned in between"


def test_weights_of_honest_hashes_that_give_other_embeddings_are_found(place, capsys):
    last = place / "vit" / "checkpoints" / "step-000004"
    weights = load_file(last / "weights.safetensors")
    weights["text_projection"] = weights["text_projection"].flip(0)
    save_file(weights, last / "weights.safetensors")
    sealed(last)
    code, found = check(place / "vit", capsys)
    assert code == 2
    (fault,) = found["step-000004"]["faults"]
    assert fault.startswith("embeddings do not come out again: 8 pairs, text embeddings at most ")
    assert not any(found[f"step-00000{step}"]["faults"] for step in (1, 2, 3))


@pytest.mark.parametrize(
    ("how", "said"), [("other", "is another picture now"), ("gone", "cannot be read: there is no such")]
)
def test_pictures_that_changed_or_went_are_said_and_are_no_fault(place, how, said, capsys):
    for picture in (place / "data" / "images").iterdir():
        Image.new("RGB", (9, 9), "yellow").save(picture) if how == "other" else picture.unlink()
    code, found = check(place / "vit", capsys)
    assert code == 0
    assert found["step-000004"]["pairs"] == {
        "done": False,
        "same": None,
        "words": found["step-000004"]["pairs"]["words"],
    }
    assert said in found["step-000004"]["pairs"]["words"]


def test_without_evaluations_the_last_checkpoint_has_them(data, vit, tmp_path):
    config = tiny_runs.settings(train={"length": 3}, checkpoint={"every": 1, "keep_last": 9}, evaluate={"every": 0})
    run = fit(data=data, out=tmp_path / "run", model=vit, config=config, **QUIET)
    found = [load.read(path).json["pairs"] is not None for path in sorted((run.folder / "checkpoints").glob("step-*"))]
    assert found == [False, False, True]


def older(checkpoint: Path) -> None:
    """As format 1 was written: the fields that it had, word for word, and no other file."""
    (checkpoint / "pairs.safetensors").unlink(missing_ok=True)
    state = json.loads((checkpoint / "state.json").read_text())
    fields = [
        "clip",
        "plan",
        "start_score",
        "best_score",
        "worse",
        "peak_bytes",
        "samples",
        "rewinds",
        "forgot",
        "stage",
    ]
    fields += ["sizes", "phase", "length", "memory", "scaler"]
    written = {
        "format": 1,
        "honeclip": "0.1.0",
        "step": state["step"],
        "total_steps": state["total_steps"],
        "elapsed_s": state["elapsed_s"],
        "events_offset": state["events_offset"],
        "json": {field: state["json"][field] for field in fields},
    }
    del written["json"]["plan"]["copy_bytes"]
    (checkpoint / "state.json").write_text(json.dumps(written, indent=2) + "\n")
    sealed(checkpoint)


def test_a_run_of_format_1_goes_on_as_the_run_that_was_never_stopped(data, vit, tmp_path, capsys):
    config = tiny_runs.settings(checkpoint={"every": 2, "keep_last": 9})
    whole = fit(data=data, out=tmp_path / "whole", model=vit, config=config, **QUIET).folder
    again = copytree(whole, tmp_path / "again")
    (again / "result.json").unlink()
    (again / "data.json").unlink()
    for path in sorted((again / "checkpoints").glob("step-*")):
        older(path)
    (again / "checkpoints" / "LATEST").write_text("step-000002\n")
    code, found = check(again, capsys)
    assert code == 0
    assert {one["pairs"]["words"] for one in found.values()} == {"it was saved without embeddings to compare with"}
    fit(out=again, resume=True, **QUIET)
    last = [run / "checkpoints" / "step-000006" for run in (whole, again)]
    for name in ("weights", "optimizer", "rng", "pairs"):
        one, other = ((path / f"{name}.safetensors").read_bytes() for path in last)
        assert one == other, name
