"""A run goes on with the data that it began with, and otherwise says what changed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import tiny_runs
from PIL import Image

from honeclip.checkpoint.save import named
from honeclip.errors import RunError
from honeclip.monitoring import events
from honeclip.training.run import fit

QUIET = {"device": "cpu", "report": lambda text: None}


@pytest.fixture(scope="module")
def begun(vit, tmp_path_factory) -> Path:
    """A folder with data, and a run of six steps on them that was ended at its last checkpoint."""
    here = tmp_path_factory.mktemp("begun")
    tiny_runs.draw(here / "data", 40, tiny_runs.ALL_SPLITS, labels=True)
    fit(data=here / "data", out=here / "run", model=vit, config=tiny_runs.settings(loss={"mining": 2}), **QUIET)
    return here


@pytest.fixture
def place(begun, tmp_path) -> Path:
    """A copy of both, where the run names the copy's data."""
    here = copytree(begun, tmp_path / "place")
    config = here / "run" / "run.toml"  # where data lie may be said in the file; what they are is compared
    config.write_text(config.read_text().replace(str(begun), str(here)))
    return here


def change(place: Path, how: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    file = place / "data" / "pairs.csv"
    with file.open(newline="") as opened:
        rows = how(list(csv.DictReader(opened)))
    with file.open("w", newline="") as opened:
        out = csv.DictWriter(opened, rows[0].keys())
        out.writeheader()
        out.writerows(rows)


def other(key: str, value: str, *places: int) -> Callable[[list[dict[str, str]]], list[dict[str, str]]]:
    return lambda rows: [{**row, key: value} if place in places else row for place, row in enumerate(rows)]


def paint(place: Path) -> None:
    Image.new("RGB", (40, 36), "yellow").save(place / "data" / "images" / "007.png")


CHANGES = {
    "went": (
        lambda place: change(place, lambda rows: rows[:-5]),
        "5 rows went (images/035.png, images/036.png, images/037.png, ...)",
    ),
    "came": (
        lambda place: change(place, lambda rows: [*rows, {**rows[0], "caption": "a bar"}]),
        "1 row came (images/000.png)",
    ),
    "caption": (
        lambda place: change(place, other("caption", "a red bar", 3, 4)),
        "2 rows have another caption (images/003.png, images/004.png)",
    ),
    "label": (lambda place: change(place, other("label", "bar", 1)), "1 row has another label (images/001.png)"),
    "split": (lambda place: change(place, other("split", "test", 0)), "1 row has another split (images/000.png)"),
    "picture": (paint, "1 row has another picture (images/007.png)"),
    "order": (lambda place: change(place, lambda rows: rows[::-1]), "the rows stand in another order"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_data_are_refused_with_what_changed(name, place):
    how, said = CHANGES[name]
    how(place)
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(RunError) as caught:
        fit(out=place / "run", resume=True, sets=["train.length=9"], **QUIET)
    assert caught.value.exit_code == 2
    assert f"changed since it began: {said} (" in str(caught.value)
    assert "--force" in str(caught.value)
    assert {path: path.read_bytes() for path in before} == before, "nothing was touched"


def test_every_change_is_told_at_once(place):
    change(place, lambda rows: other("caption", "a red bar", 3)(rows[:-1]))
    with pytest.raises(
        RunError, match=r"1 row went \(images/039\.png\); 1 row has another caption \(images/003\.png\)"
    ):
        fit(out=place / "run", resume=True, sets=["train.length=9"], **QUIET)


def test_the_same_data_written_otherwise_are_the_same(place):
    """Line ends, quotes and a column that means nothing to honeclip."""
    change(place, lambda rows: [{**row, "remark": "x"} for row in rows])
    assert fit(out=place / "run", resume=True, sets=["train.length=7"], **QUIET).steps == 7


def test_forced_it_goes_on_with_these_and_compares_anew(place):
    """Fewer rows than its near misses name; its best score and the start's are of pictures that are there no more."""
    best = json.loads((place / "run" / "checkpoints" / "step-000006" / "state.json").read_text())["json"]["best_score"]
    scored = (place / "run" / "before.json").read_text()
    change(place, lambda rows: rows[:-10])
    said: list[str] = []
    run = fit(out=place / "run", resume=True, force=True, sets=["train.length=9"], device="cpu", report=said.append)
    assert run.steps == 9
    assert any(text.startswith("going on with other data: 10 rows went (") for text in said)
    seen = [one for one in events.read(run.folder / "events.jsonl") if one["event"] == "evaluation" and one["step"] > 6]
    assert seen[0]["best"], "the first evaluation on these data is the best of them, whatever was before"
    assert named(run.folder / "checkpoints", "BEST") == f"step-{max(one['step'] for one in seen if one['best']):06d}"
    assert run.before["pairs"] == 6
    assert (run.folder / "before.json").read_text() != scored
    assert best is not None
    assert fit(out=place / "run", resume=True, sets=["train.length=10"], **QUIET).steps == 10, "they are its data now"


def test_a_run_from_before_rows_were_kept_goes_on(place):
    for name in ("data.json", "run.json"):
        (place / "run" / name).unlink()
    change(place, lambda rows: rows[:-5])
    assert fit(out=place / "run", resume=True, sets=["train.length=7"], **QUIET).steps == 7
    assert len(json.loads((place / "run" / "data.json").read_text())["file"]) == 35


def test_force_is_for_resume(data, vit, tmp_path):
    with pytest.raises(RunError, match="give it with --resume"):
        fit(data=data, out=tmp_path / "run", model=vit, force=True, **QUIET)
    assert not (tmp_path / "run").exists()
