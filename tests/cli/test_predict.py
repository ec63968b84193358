"""A run stores what validation gives, and `honeclip predict` uses it: probabilities of labels as CSV."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import tiny_runs
import torch

import honeclip
from honeclip.domains import domain as domains
from honeclip.model import folder as folders

LABELS = ("bar", "circle", "cross", "square")


@pytest.fixture(scope="module")
def run(shapes, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("predict") / "run"
    return honeclip.fit(shapes, out, str(tiny), "medical", tiny_runs.settings(), device="cpu", report=lambda text: None)


def read(text: str) -> tuple[list[str], list[str], np.ndarray]:
    header, *rows = csv.reader(io.StringIO(text))
    return header, [row[0] for row in rows], np.array([[float(one or "nan") for one in row[1:]] for row in rows])


def test_a_run_stores_the_temperature_and_the_thresholds_of_validation(run, shapes):
    stored = json.loads((run.model_folder / "honeclip.json").read_text())["calibration"]
    assert (stored["kind"], stored["labels"], stored["pictures"]) == ("softmax", list(LABELS), 8)
    clip = honeclip.load(run.model_folder, device="cpu")
    assert clip.calibration.to_json() == {**stored, "labels": LABELS}
    found = honeclip.evaluate(clip, shapes, domain="medical").metrics["medical"]
    assert found["temperature"] == pytest.approx(stored["temperature"], rel=1e-3), "evaluate fits the same on val"
    on_val = set(stored["thresholds"])
    assert on_val
    for name in on_val & set(found["thresholds"]):
        for how, threshold in stored["thresholds"][name].items():
            assert found["thresholds"][name][how]["probability"] == pytest.approx(threshold, rel=1e-3)


def test_without_validation_the_stored_calibration_is_used(run, shapes, tmp_path):
    lines = [line for line in (shapes / "pairs.csv").read_text().splitlines() if ",val," not in line]
    rows = [line.replace("images/", f"{shapes}/images/", 1).replace(",train,", ",test,") for line in lines]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    clip = honeclip.load(run.model_folder, device="cpu")
    found = honeclip.evaluate(clip, tmp_path, domain="medical").metrics["medical"]
    assert found["temperature"] == clip.calibration.temperature
    assert found["validation_pictures"] == 8


def test_probabilities_are_the_softmax_at_the_stored_temperature(command, run, shapes, tmp_path):
    out = tmp_path / "new" / "found.csv"
    code, said, err = command(
        "predict", run.folder, "--data", shapes, "--labels", "square,bar, circle,cross", "--out", out, "--device", "cpu"
    )
    assert (code, said) == (0, "")
    header, files, found = read(out.read_text())
    assert header == ["image", "square", "bar", "circle", "cross"]
    assert files == [f"images/{row:03d}.png" for row in range(40)]
    clip = honeclip.load(run.model_folder, device="cpu")
    medical = domains.load("medical")
    text = torch.stack([clip.encode_text(domains.prompts(medical, label)).mean(0) for label in header[1:]])
    text = torch.nn.functional.normalize(text, dim=-1)
    logits = clip.logit_scale.detach().exp() * clip.encode_image([shapes / file for file in files]) @ text.T
    assert found == pytest.approx((logits / clip.calibration.temperature).softmax(-1).numpy(), abs=1e-3)
    assert "note: Probabilities at the temperature" in err
    assert "8 pictures of shapes" in err


def test_other_labels_are_not_calibrated_and_that_is_said(command, run, shapes):
    code, out, err = command("predict", run.folder, "--data", shapes, "--labels", "bar,circle", "--device", "cpu")
    assert code == 0
    assert read(out)[2].sum(1) == pytest.approx(1, abs=1e-5)
    assert "not calibrated: the model's temperature was fitted for bar, circle, cross, square" in err


def test_a_model_without_a_calibration_says_so(command, tiny, shapes):
    code, out, err = command(
        "predict", tiny, "--data", shapes, "--labels", "bar", "--domain", "medical", "--device", "cpu"
    )
    assert code == 0
    header, _, found = read(out)
    assert header == ["image", "bar"]
    assert ((found > 0) & (found < 1)).all(), "each label by itself, against the words for its absence"
    assert "not calibrated: the model has no temperature" in err


def test_pictures_alone_are_enough_and_one_that_cannot_be_read_has_no_number(command, tiny, shapes, tmp_path):
    (tmp_path / "pairs.csv").write_text(f"image\n{shapes}/images/000.png\nnowhere.png\n{shapes}/images/001.png\n")
    code, out, err = command("predict", tiny, "--data", tmp_path, "--labels", "bar,cross", "--device", "cpu")
    assert code == 0
    _, files, found = read(out)
    assert files[1] == "nowhere.png"
    assert np.isnan(found).any(1).tolist() == [False, True, False]
    assert "No probabilities for nowhere.png" in err


@pytest.mark.parametrize(
    ("says", "labels", "more"),
    [
        ("--labels: name at least one label", " , ", []),
        ("--labels: bar stands twice", "bar,bar", []),
        ("a label cannot be called image", "image,bar", []),
        ("name at least two", "bar", ["--mode", "softmax"]),
        ("--mode both: it is softmax or independent", "bar,cross", ["--mode", "both"]),
        ("domain general has neither negative_templates nor normal_labels", "bar", []),
        ("there is no such file", "bar,cross", ["--data", "nowhere.csv"]),
    ],
)
def test_what_is_wrong_is_named(command, tiny, shapes, says, labels, more):
    data = [] if "--data" in more else ["--data", shapes]
    code, out, err = command("predict", tiny, *data, "--labels", labels, "--device", "cpu", *more)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_calibration_survives_saving_and_a_model_without_has_none(tiny, run, tmp_path):
    assert honeclip.load(tiny, device="cpu").calibration is None
    clip = honeclip.load(run.model_folder, device="cpu")
    folders.save(clip, tmp_path / "again", "a card")
    assert honeclip.load(tmp_path / "again", device="cpu").calibration == clip.calibration
