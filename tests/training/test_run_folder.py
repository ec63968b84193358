"""What a run leaves: the folder of the contract, and nothing where the input was bad."""

from __future__ import annotations

import json
import tomllib
from shutil import copytree

import numpy as np
import open_clip
import pytest
import tiny_runs
import torch
from PIL import Image

import honeclip
from honeclip import config as configs
from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint.save import named
from honeclip.domains import domain as domains
from honeclip.errors import BadInput, ConfigError, DataError, HoneclipError, ModelError, RunError
from honeclip.monitoring import events
from honeclip.training.run import Run


@pytest.fixture(scope="module")
def whole(data, vit, tmp_path_factory) -> Run:
    """One run as the contract's Python example asks for it, with everything on."""
    return honeclip.fit(
        data=str(data / "pairs.csv"),
        out=tmp_path_factory.mktemp("whole") / "run",
        model=str(vit),
        domain="scientific",
        config={"train": {"length": "2 epochs", "batch": 8, "precision": "fp32"}, "checkpoint": {"every": 2}},
        device="cpu",
        report=lambda text: None,
    )


def test_the_folder_holds_what_the_contract_lists(whole):
    assert whole.steps == 6  # two epochs of 24 rows in batches of 8
    assert {path.name for path in whole.folder.iterdir()} >= {
        "run.toml",
        "events.jsonl",
        "checkpoints",
        "model",
        "report",
    }
    last = whole.folder / "checkpoints" / named(whole.folder / "checkpoints", "LATEST")
    assert last.name == "step-000006"
    names = {path.name for path in last.iterdir()}
    assert names >= {"weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json", "manifest.sha256"}
    assert checkpoints.verify(last) == []
    assert named(whole.folder / "checkpoints", "BEST") in {path.name for path in last.parent.iterdir()}
    assert (whole.folder / "report" / "index.html").stat().st_size > 10_000
    names = {path.name for path in whole.model_folder.iterdir()}
    assert names >= {"open_clip_config.json", "open_clip_model.safetensors", "README.md", "honeclip.json"}


def test_run_toml_is_the_effective_config(whole, data, vit):
    stored = tomllib.loads((whole.folder / "run.toml").read_text())
    assert domains.from_mapping(stored.pop("domain"), "run.toml") == domains.load("scientific")
    assert {f"{section}.{key}" for section, table in stored.items() for key in table} == set(configs.keys())
    assert stored["data"]["path"] == str(data / "pairs.csv")
    assert stored["data"]["domain"] == "scientific"
    assert stored["model"]["source"] == str(vit)
    assert stored["train"]["length"] == "2 epochs"
    assert stored["train"]["weight_decay"] == 0.1
    assert configs.load(whole.folder / "run.toml") == configs.load(values=stored)


def test_events_have_the_keys_of_the_contract_and_plain_numbers(whole):
    lines = [json.loads(line) for line in (whole.folder / "events.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    wanted = {"step", "time", "loss", "lr", "logit_scale", "samples_per_second", "micro_batch", "memory_bytes"}
    for line in steps:
        assert list(line)[:3] == ["event", "step", "time"]
        assert all(isinstance(line[key], int | float) for key in wanted)
    assert steps[0]["loss"] < 10
    assert steps[0]["logit_scale"] == pytest.approx(1 / 0.07, rel=0.01)
    scores = [line for line in lines if line["event"] == "evaluation"]
    assert [line["step"] for line in scores] == [0, 1, 2, 3, 4, 5, 6]  # 10 % of six steps is at least one
    assert all(line["split"] == "val" and line["metrics"]["pairs"] == 8 for line in scores)
    best = [line["step"] for line in scores if line.get("best")][-1]
    assert named(whole.folder / "checkpoints", "BEST") == f"step-{best:06d}"


def test_the_report_says_before_after_and_where(whole):
    stored = json.loads((whole.folder / "report" / "report.json").read_text())
    assert {"before", "after", "environment"} <= stored.keys()
    assert (stored["before"], stored["after"]) == (whole.before, whole.after)
    assert stored["after"]["split"] == "test"
    assert stored["after"]["pairs"] == 8
    assert stored["after"]["data"] == "shapes"
    assert stored["after"]["zeroshot"]["classes"] == 4
    assert stored["environment"]["checkpoint"] == named(whole.folder / "checkpoints", "BEST")
    assert {"device", "machine", "versions"} <= stored["environment"].keys()
    page = (whole.folder / "report" / "index.html").read_text()
    assert "begins unaligned" in page
    assert "honeclip fit --config" in page


def test_the_result_is_what_json_prints(whole):
    result = whole.to_json()
    assert list(result) == ["run", "model", "steps", "samples_per_second", "peak_memory_bytes", "before", "after"]
    assert result["run"] == str(whole.folder)
    assert result["model"] == str(whole.folder / "model")
    assert result["samples_per_second"] > 0
    assert 1_000_000 < result["peak_memory_bytes"] < 2_000_000_000
    assert json.loads((whole.folder / "result.json").read_text())["result"] == result


def test_the_model_is_the_best_checkpoint_and_open_clip_loads_it(whole, data):
    best = whole.folder / "checkpoints" / named(whole.folder / "checkpoints", "BEST")
    pictures = sorted((data / "images").iterdir())[:5]
    captions = ["a red circle", "a blue cross, number 3"]
    ours, same = honeclip.load(whole.folder, device="cpu"), honeclip.load(str(best), device="cpu")
    assert torch.equal(ours.encode_image(pictures), same.encode_image(pictures))
    assert ours.domain["name"] == "scientific"
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{whole.model_folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{whole.model_folder}")(captions)
    images = torch.stack([preprocess(Image.open(path)) for path in pictures])
    with torch.no_grad():
        theirs = model.eval().encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(theirs[0], ours.encode_image(pictures), rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs[1], ours.encode_text(captions), rtol=0, atol=1e-5)


def test_evaluating_the_run_gives_what_the_run_says(whole, data, tmp_path):
    report = honeclip.evaluate(whole, data=data, split="test", device="cpu")
    assert report.suite is not None
    assert {name: value for name, value in report.metrics.items() if name != report.suite.name} == whole.after
    report.save(tmp_path)
    assert (tmp_path / "index.html").is_file()


def test_the_card_says_data_settings_scores_and_licence_and_no_path(whole, data):
    card = (whole.model_folder / "README.md").read_text()
    for words in ("license: other", "fine-tuned on shapes", "local-dir:FOLDER", "| train.batch | 8 |", "## Limits"):
        assert words in card
    assert "8 held-out pairs of shapes" in card
    row = next(line for line in card.splitlines() if line.startswith("| ") and "image to text" in line.lower())
    assert row.count("[") == 2, "before and after with their intervals"
    assert str(data) not in card


def test_a_run_that_is_there_is_refused_and_overwrite_replaces_it(quick, tmp_path):
    out = tmp_path / "run"
    first = quick(train={"seed": 1}, out=out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"already holds a run; go on with --resume, replace it with --overwrite"):
        quick(out=out)
    second = quick(train={"seed": 2, "length": 3}, out=out, overwrite=True)
    assert (first.steps, second.steps) == (6, 3)
    seen = events.read(out / "events.jsonl")
    assert [one["step"] for one in seen if one["event"] == "step"] == [1, 2, 3]
    assert checkpoints.latest_good(out / "checkpoints", print).name == "step-000003"
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / ".replaced").exists()


def test_folders_that_no_run_has_made_are_not_deleted(quick, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="holds no run, but has model, which a run would replace"):
        quick()
    assert (tmp_path / "run" / "model" / "mine.txt").read_text() == "precious"


BAD = {
    "no data": ({"data": "nowhere"}, DataError, "nowhere"),
    "no data at all": ({"data": None}, RunError, "give --data"),
    "unknown key": ({"train": {"lenght": 5}}, ConfigError, "nearest: train.length"),
    "unknown model": ({"model": "ViT-B-23:openai"}, ModelError, "nearest"),
    "unknown domain": ({"domain": "medcal"}, BadInput, "nearest: medical"),
    "unknown device": ({"device": "gpu"}, BadInput, "one of auto, cpu, mps, cuda"),
    "no such precision": ({"train": {"precision": "fp7"}}, ConfigError, "fp64"),
    "size below the patch": ({"resolution": {"stages": 12}}, BadInput, "12 px is below the model's patch of 16 px"),
    "a later size below the patch": ({"resolution": {"stages": [[0, 32], [0.5, 12]]}}, BadInput, "12 px is below the"),
    "too little memory later": (
        {"resolution": {"stages": [[0, 32], [0.5, 1600]]}, "memory": {"budget_gb": 0.19}},
        BadInput,
        "is too little: the smallest plan",
    ),
    "columns that are not there": ({"data": {"columns": {"image": "photo"}}}, DataError, "photo"),
    "too little memory": ({"memory": {"budget_gb": 1e-4}}, BadInput, r"is too little: the smallest plan .* needs 0\."),
    "section that is no table": ({"data": 3}, ConfigError, "train"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("there", [False, True], ids=["fresh", "over another run"])
def test_bad_input_leaves_nothing_behind_and_changes_nothing(name, there, quick, whole, tmp_path):
    given, error, words = BAD[name]
    out = tmp_path / "runs" / "a"
    before = {}
    if there:
        copytree(whole.folder, out)
        before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if name == "section that is no table":
        with pytest.raises(ConfigError, match="train: no such section"):
            honeclip.fit(data="d", out=out, config={"train": 3, "data": 3}, overwrite=there)
    else:
        with pytest.raises(error, match=words) as caught:
            quick(out=out, overwrite=there, **given)
        assert caught.value.exit_code == 2
    if there:
        assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    else:
        assert not out.exists()


def test_a_file_where_the_folder_belongs(quick, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="file is a file; name a folder for the run"):
            quick(out=out)


def test_a_folder_that_cannot_be_written_is_an_error_in_words(quick, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".replaced").write_text("in the way")
    with pytest.raises(HoneclipError, match="run cannot be written: File exists") as caught:
        quick()
    assert caught.value.exit_code == 1


def test_fewer_than_two_rows_cannot_be_told_apart(quick, tmp_path):
    tiny_runs.draw(tmp_path / "one", 2, ("train", "test"))
    with pytest.raises(DataError, match="the train split has 1 rows"):
        quick(data=tmp_path / "one")
    assert not (tmp_path / "run").exists()


def test_broken_rows_are_left_out_up_to_the_share(quick, tmp_path):
    data = tiny_runs.draw(tmp_path / "data", 30, tiny_runs.ALL_SPLITS)
    (data / "images" / "000.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"000\.png: broken"):
        quick(data=data)
    quick(data=data, sets=["data.max_bad_fraction=0.1"], train={"length": 1})
    assert any("29 of 30 rows can be used (17 train, 6 val, 6 test)" in text for text in quick.said)


def test_what_is_said_names_device_precision_data_and_the_start(quick, data, vit):
    quick(train={"length": 1})
    said = "\n".join(quick.said)
    assert "device: CPU" in said
    assert "precision fp32: asked for" in said
    assert "data: 40 of 40 rows can be used (24 train, 8 val, 8 test)" in said
    assert f"{vit} begins unaligned" in said
    assert "--model ViT-B-32:datacomp_xl_s13b_b90k" in said
    assert "1 micro-batches of 8" in said


def test_how_rows_were_divided_is_said_where_the_data_does_not_say(quick, tmp_path):
    data = tiny_runs.draw(tmp_path / "data", 30)
    lines = [line.rpartition(",")[0] for line in (data / "pairs.csv").read_text().splitlines()]
    (data / "pairs.csv").write_text("\n".join(lines))
    quick(data=data, train={"length": 1})
    assert "note: there is no split column: rows were divided 70/15/15 by content" in quick.said


def test_an_aligned_model_is_not_called_unaligned_nor_is_one_that_was_tuned_before(quick, whole, text, tmp_path):
    aligned = tiny_runs.model_folder(tmp_path / "aligned", text, unaligned=False)
    for number, model in enumerate((aligned, whole.folder)):
        out = tmp_path / f"run-{number}"
        quick(model=model, out=out, train={"length": 1}, page=True)
        assert "begins unaligned" not in (out / "report" / "index.html").read_text()
    assert not any("unaligned" in text for text in quick.said)


def test_captions_over_the_context_length_are_counted(quick, tmp_path):
    data = tiny_runs.draw(tmp_path / "data", 20, tiny_runs.ALL_SPLITS)
    text = (data / "pairs.csv").read_text()
    (data / "pairs.csv").write_text(text.replace("number 3", "number 3 " + "and so on " * 20))
    quick(data=data, train={"length": 1})
    assert any("1 of 20 distinct captions are longer than 16 tokens" in one for one in quick.said)


def test_size_and_text_length_reach_the_model_that_is_handed_over(quick):
    run = quick(resolution={"stages": 48}, sets=["model.context_length=12"], train={"length": 2})
    stored = json.loads((run.model_folder / "open_clip_config.json").read_text())["model_cfg"]
    assert stored["vision_cfg"]["image_size"] == 48
    assert stored["text_cfg"]["context_length"] == 12
    assert run.after["size_px"] == 48
    assert honeclip.load(run.folder, device="cpu").encode_text("a red circle").shape == (1, 16)


def test_the_same_command_gives_the_same_run_and_another_seed_another(quick, two_towers, tmp_path):
    """With dropout, and whatever was drawn in this process before."""
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.rand(seed + len(runs))
        runs.append(quick(model=two_towers, out=tmp_path / name, train={"seed": seed}, sets=["model.freeze=none"]))
    losses = [
        [one["loss"] for one in events.read(run.folder / "events.jsonl") if one["event"] == "step"] for run in runs
    ]
    assert losses[0] == losses[1] != losses[2]
    weights = [(run.model_folder / "open_clip_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]
    assert np.isfinite(losses).all()
