"""`honeclip plan` and `bench train`: the keys of the contract, sense in the figures, words for people."""

from __future__ import annotations

import json

import open_clip
import pytest

ENTRY = {
    "size_px",
    "memory_gb",
    "micro_batch",
    "kept",
    "attention_slice",
    "recompute",
    "predicted_peak_bytes",
    "predicted_overhead",
}
TRAIN = {
    "samples_per_second",
    "seconds_per_step",
    "peak_memory_bytes",
    "predicted_peak_bytes",
    "micro_batch",
    "kept",
}


def test_one_entry_a_size_and_memory_that_fit_in_it_and_more_memory_is_never_slower(command, tiny):
    sizes = ("--size", "32", "--size", "64")
    memories = ("--memory", "0.2", "--memory", "0.3", "--memory", "8")
    code, printed, _ = command("plan", "--model", tiny, "--batch", "2048", *sizes, *memories, "--json")
    assert code == 0
    plans = json.loads(printed)["plans"]
    assert all(one.keys() >= ENTRY for one in plans)
    assert [(one["size_px"], one["memory_gb"]) for one in plans] == [(s, m) for s in (32, 64) for m in (0.2, 0.3, 8)]
    fitting = [one for one in plans if one["fits"]]
    assert fitting
    for one in fitting:
        assert one["predicted_peak_bytes"] <= one["memory_gb"] * 1e9 * 1.2, (
            "what is measured beside tensors may be more"
        )
    for size in (32, 64):
        overheads = [one["predicted_overhead"] for one in plans if one["size_px"] == size and one["fits"]]
        assert overheads == sorted(overheads, reverse=True)
    assert plans[2]["kept"] == -(-2048 // plans[2]["micro_batch"]), "8 GB keep everything"


def test_what_fits_nowhere_says_what_would(command, tiny):
    code, printed, _ = command("plan", "--model", tiny, "--memory", "0.01", "--json")
    (one,) = json.loads(printed)["plans"]
    assert (code, one["fits"], one["micro_batch"]) == (0, False, None)
    assert "--memory = 0.01 is too little: the smallest plan" in one["reason"]


@pytest.mark.slow
def test_with_data_it_says_how_long_a_run_takes(command, tiny, shapes):
    code, printed, _ = command("plan", "--model", tiny, "--data", shapes, "--memory", "4", "--json")
    found = json.loads(printed)
    assert code == 0
    assert found["batch"] == 24, "the rows of the train split"
    assert 0 < found["plans"][0]["hours"] < 1
    assert set(found["faster_with_frozen_tower"]) == {"image", "text"}


def test_in_words_and_as_a_picture(command, tiny, tmp_path):
    code, printed, _ = command("plan", "--model", tiny, "--memory", "1", "--memory", "2", "--out", tmp_path / "page")
    assert code == 0
    assert "micro-batch" in printed
    assert "model.freeze=image would make steps about" in printed
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "://" not in page


@pytest.mark.slow
def test_models_to_start_from(command):
    code, printed, _ = command("plan", "--memory", "4", "--memory", "16", "--json")
    models = json.loads(printed)["models"]
    assert code == 0
    assert len(models) >= 10
    for one in models:
        name, tag = one["source"].split(":")
        assert tag in open_clip.list_pretrained_tags_by_model(name)
        assert one["licence"]
        assert one["size_px"] == open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    by_name = {one["source"].split(":")[0]: one for one in models}
    assert by_name["ViT-B-32"]["parameters"] == 151_277_313
    assert by_name["ViT-B-32"]["fits"] == {"4": True, "16": True}
    assert by_name["ViT-L-14"]["fits"] == {"4": False, "16": True}


@pytest.mark.parametrize("arguments", [["--memory", "0"], ["--batch", "1"], ["--size", "31"]])
def test_what_cannot_be_planned_is_bad_input(arguments, command, tiny):
    code, _, said = command("plan", "--model", tiny, *arguments)
    assert (code, "Traceback" in said) == (2, False)


@pytest.mark.parametrize(("keep", "micro_batch"), [(0, 2), (2, 2), (4, 2), (1, 8)])
def test_a_benched_step_is_the_one_that_was_asked_for(keep, micro_batch, command, tiny):
    given = ("--batch", 8, "--micro-batch", micro_batch, "--keep", keep, "--steps", 1, "--precision", "fp32")
    code, printed, _ = command("bench", "train", "--model", tiny, *map(str, given), "--json")
    found = json.loads(printed)
    assert code == 0
    assert found.keys() >= TRAIN
    assert (found["micro_batch"], found["kept"]) == (micro_batch, keep)
    assert found["samples_per_second"] == pytest.approx(8 / found["seconds_per_step"])


def test_a_benched_step_on_data_with_every_lever(command, tiny, shapes):
    levers = ("--slice", "2", "--recompute", "--data", shapes)
    code, printed, _ = command("bench", "train", "--model", tiny, "--batch", "8", *levers, "--steps", "1", "--json")
    found = json.loads(printed)
    assert (code, found["attention_slice"], found["recompute"]) == (0, 2, True)


@pytest.mark.parametrize("arguments", [["--batch", "1"], ["--micro-batch", "0"], ["--keep", "-1"], ["--steps", "0"]])
def test_what_cannot_be_benched_is_bad_input(arguments, command, tiny):
    code, _, said = command("bench", "train", "--model", tiny, *arguments)
    assert (code, "Traceback" in said) == (2, False)


@pytest.mark.slow
def test_with_data_it_says_what_size_the_images_are_worth(command, tiny, shapes):
    given = ("plan", "--model", tiny, "--data", shapes, "--memory", "4", "--length", "1 min")
    code, printed, _ = command(*given, "--json")
    assert code == 0
    found = json.loads(printed)["resolution"]
    assert found["stages"] == [[0.0, 16], [0.8, 32]]
    assert [one["size_px"] for one in found["sizes"]] == [16, 32, 48, 64]
    code, printed, _ = command(*given)
    assert code == 0
    assert "resolution.stages = [[0.0, 16], [0.8, 32]]" in printed
