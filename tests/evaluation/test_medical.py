"""The medical suite through `honeclip.evaluate`, against the model's own embeddings and scikit-learn; and its bad input."""

from __future__ import annotations

import copy
import csv
import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

import honeclip
from honeclip.domains import domain as domains
from honeclip.errors import BadInput, NonFiniteError
from honeclip.evaluation.calibration import softmax_temperature
from honeclip.evaluation.medical_page import LIMITS
from honeclip.model.load import load

SOURCE = "random:honeclip-medical"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SHADES = {"normal": 60, "opacity": 110, "nodule": 150}
SPLITS = ("train", "val", "val", "test", "test", "test")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    place = tmp_path_factory.mktemp("configs")
    (place / f"{SOURCE.partition(':')[2]}.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(place)
    return load(SOURCE, device="cpu")


@pytest.fixture(scope="module")
def medical():
    """The preset with two templates: the prompts of a test take a second otherwise."""
    return replace(domains.load("medical"), templates=("a scan showing {label}", "{label}"))


def scan(number: int, label: str) -> Image.Image:
    shades = np.random.default_rng(number).normal(SHADES.get(label, 90), 60, (24, 24))
    return Image.fromarray(np.clip(shades, 0, 255).astype(np.uint8), "L")


def write(folder, rows: int = 180, label=lambda number: list(SHADES)[number % 3], more=lambda number: {}):
    """pairs.csv with pictures of grey noise; `label` and `more` say what stands in a row."""
    written = []
    for number in range(rows):
        scan(number, label(number).partition(";")[0]).save(folder / f"{number}.png")
        split = SPLITS[number // 3 % len(SPLITS)]
        said = {"image": f"{number}.png", "caption": f"scan {number}", "label": label(number), "split": split}
        written.append({**said, **more(number)})
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(written[0]))
        out.writeheader()
        out.writerows(written)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """90 test pictures; by device in two halves and one picture of a third, and every picture with its own age in days."""
    return write(
        tmp_path_factory.mktemp("scans"),
        more=lambda number: {
            "device": "old" if number == 9 else "AB"[number // 18 % 2],
            "age_days": 9000 + number,
            "site": "one",
        },
    )


@pytest.fixture(scope="module")
def report(clip, medical, scans):
    return honeclip.evaluate(clip, scans, domain=medical)


def logits_of(clip, medical, folder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale times cosine with each label's ensemble, and the place of each picture's label, in plain code."""
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    names = sorted(SHADES)
    words = {**{name: name for name in names}, "normal": "normal findings"}
    text = [
        clip.encode_text([template.format(label=words[name]) for template in medical.templates]).double().mean(0)
        for name in names
    ]
    text_CD = torch.nn.functional.normalize(torch.stack(text), dim=-1)
    image = clip.encode_image([folder / row["image"] for row in rows]).double()
    logits = clip.logit_scale.detach().double().exp() * image @ text_CD.T
    return logits.numpy(), np.array([names.index(row["label"]) for row in rows])


def softmax(logits):
    return torch.tensor(logits).softmax(-1).numpy()


def test_figures_are_scikit_learns_of_the_models_own_probabilities(clip, medical, scans, report):
    logits, truth = logits_of(clip, medical, scans, "test")
    probability = softmax(logits)
    found = report.metrics["medical"]
    assert set(found["auroc"]) == {"opacity", "nodule"}
    for name in found["auroc"]:
        place = sorted(SHADES).index(name)
        mine, has = probability[:, place], truth == place
        assert found["auroc"][name]["value"] == pytest.approx(roc_auc_score(has, mine), abs=1e-3)
        assert found["average_precision"][name]["value"] == pytest.approx(average_precision_score(has, mine), abs=5e-3)
        assert found["brier"][name]["value"] == pytest.approx(brier_score_loss(has, mine), abs=1e-4)
        for key in ("auroc", "average_precision", "brier", "ece_of_finding", "brier_scaled"):
            one = found[key][name]
            assert one["low"] <= one["value"] <= one["high"]
    assert found["ece"]["value"] == pytest.approx(report.metrics["zeroshot"]["ece"]["value"]), "the same figure"
    assert found["positives"] == {"opacity": 30, "nodule": 30}
    assert (found["pictures"], found["validation_pictures"]) == (90, 60)


def test_temperature_and_thresholds_are_those_of_validation(clip, medical, scans, report):
    found = report.metrics["medical"]
    logits, truth = logits_of(clip, medical, scans, "val")
    assert found["temperature"] == pytest.approx(softmax_temperature(logits, truth), rel=0.02)
    test, has = logits_of(clip, medical, scans, "test")
    for name in found["auroc"]:
        place = sorted(SHADES).index(name)
        on_val, on_test = (softmax(one / found["temperature"])[:, place] for one in (logits, test))
        threshold = found["thresholds"][name]["specificity_95"]["probability"]
        below = (on_val[truth != place] < threshold + 1e-6).mean()
        assert 0.95 <= below <= 0.95 + 2 / 40, "the lowest that reaches it"
        sensitivity = (on_test[has == place] >= threshold - 1e-6).mean()
        assert found["sensitivity_at_95_specificity"][name]["value"] == pytest.approx(sensitivity, abs=1 / 30)
        specificity = (on_test[has != place] < threshold).mean()
        reached = found["thresholds"][name]["specificity_95"]["specificity"]
        assert reached["value"] == pytest.approx(specificity, abs=1 / 60)


def test_a_threshold_that_does_not_keep_its_promise_is_named(report):
    for name, chosen in report.metrics["medical"]["thresholds"].items():
        for how, what in (("specificity_95", "specificity"), ("sensitivity_95", "sensitivity")):
            said = any(note.startswith(f"{name}: the threshold {how} was chosen") for note in report.suite.notes)
            assert said == (chosen[how][what]["high"] < 0.95)
    assert "and specificity" in report.suite.verdict


def test_nothing_is_chosen_on_what_is_measured(clip, medical, scans):
    found = honeclip.evaluate(clip, scans, domain=medical, split="val")
    assert not {"temperature", "sensitivity_at_95_specificity", "thresholds", "ece_scaled"} & set(
        found.metrics["medical"]
    )
    assert any("no threshold and no temperature is given" in note for note in found.suite.notes)
    assert set(found.metrics["medical"]["auroc"]) == {"opacity", "nodule"}


def test_subgroups(report):
    groups = report.metrics["medical"]["subgroups"]
    assert list(groups) == ["device"], "site has one value, and an age in days is no group"
    assert {name: one["pictures"] for name, one in groups["device"].items()} == {"A": 44, "B": 45, "old": 1}
    assert "auroc" in groups["device"]["A"]
    assert set(groups["device"]["old"]) == {"pictures", "positives"}
    notes = " ".join(report.suite.notes)
    assert "device: not scored, for they have fewer than 20 pictures: old (1)." in notes
    assert "No subgroups by age_days" in notes


def test_the_control_is_at_chance(report):
    for one in report.metrics["medical"]["control"].values():
        assert one["low"] < 0.5 < one["high"]
        assert one["value"] == pytest.approx(0.5, abs=0.02)
    assert any(
        note.startswith("Control: with shuffled labels the same scores come out at chance")
        for note in report.suite.notes
    )


def test_a_model_that_sees_nothing_does_not_score(clip, medical, scans):
    """Every picture has the same embedding: all scores are equal, and ties count half."""
    blind = honeclip.Clip(**{**vars(clip), "model": copy.deepcopy(clip.model)})
    with torch.no_grad():
        blind.model.visual.conv1.weight.zero_()
    found = honeclip.evaluate(blind, scans, domain=medical).metrics["medical"]
    for name in found["auroc"]:
        assert found["auroc"][name] == {"value": 0.5, "low": 0.5, "high": 0.5}
        assert found["average_precision"][name]["value"] == pytest.approx(1 / 3)
        assert found["sensitivity_at_95_specificity"][name]["value"] == 0
        assert found["control"][name] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["prompts"]["spread"] == {"opacity": 0, "nodule": 0}


def test_embeddings_that_are_no_numbers_are_refused(clip, medical, scans):
    broken = honeclip.Clip(**{**vars(clip), "model": copy.deepcopy(clip.model)})
    with torch.no_grad():
        broken.model.visual.proj.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        honeclip.evaluate(broken, scans, domain=medical)


def test_a_finding_that_test_does_not_have_is_named_and_has_no_figure(clip, medical, tmp_path):
    """`fibrosis` stands in train and val alone; `opacity` has two positives in test."""

    def label(number: int) -> str:
        held = SPLITS[number // 3 % len(SPLITS)] == "test"
        return "opacity" if number in (9, 10) else "normal" if held else ("normal", "opacity", "fibrosis")[number % 3]

    found = honeclip.evaluate(clip, write(tmp_path, 90, label), domain=medical)
    assert set(found.metrics["medical"]["auroc"]) == {"opacity"}
    assert not any("fibrosis" in found.metrics["medical"][key] for key in ("brier", "thresholds", "control"))
    assert "fibrosis: not computable, for no picture of the 45 in test has it." in found.suite.notes
    assert "opacity: 2 positives in test, so its interval is a rough one." in found.suite.notes


def test_where_nothing_can_be_measured_that_is_said(clip, medical, tmp_path):
    def label(number: int) -> str:
        return "normal" if SPLITS[number // 3 % len(SPLITS)] == "test" else ("normal", "opacity")[number % 2]

    found = honeclip.evaluate(clip, write(tmp_path, 36, label), domain=medical)
    assert "No finding can be measured here" in found.suite.verdict
    assert "auroc" not in found.metrics["medical"]
    assert found.save(tmp_path / "r").is_file()


@pytest.mark.parametrize("label", ["normal", ""], ids=["one class", "no labels"])
def test_without_findings_there_is_no_suite(clip, medical, tmp_path, label):
    found = honeclip.evaluate(clip, write(tmp_path, 36, lambda number: label), domain=medical)
    assert found.suite is None
    assert "medical" not in found.metrics


def test_several_findings_a_picture_are_scored_each_by_itself(clip, medical, tmp_path):
    """The prompts that say it is there against those that it is not, for the labels of a `;` list."""
    kinds = ("normal", "opacity", "opacity;nodule", "nodule")
    data = write(tmp_path, 144, lambda number: kinds[number % 4])
    found = honeclip.evaluate(clip, data, domain=medical)
    metrics = found.metrics["medical"]
    assert metrics["probabilities"] == "pairs"
    with (data / "pairs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    image = clip.encode_image([data / row["image"] for row in rows]).double()
    for name in ("opacity", "nodule"):
        sides = [
            torch.nn.functional.normalize(
                clip.encode_text([one.format(label=name) for one in templates]).double().mean(0), dim=-1
            )
            for templates in (medical.templates, medical.negative_templates)
        ]
        scores = (image @ (sides[0] - sides[1])).numpy()
        truth = [name in row["label"].split(";") for row in rows]
        assert metrics["auroc"][name]["value"] == pytest.approx(roc_auc_score(truth, scores), abs=2e-3)
    assert any("each finding is scored by itself" in note for note in found.suite.notes)


def test_near_duplicates_in_train_are_named_by_row(clip, medical, tmp_path):
    data = write(tmp_path, 36)
    smooth = Image.open(data / "0.png").resize((6, 6)).resize((96, 96), Image.Resampling.BICUBIC)
    smooth.save(data / "0.png")
    smooth.resize((60, 60)).save(
        data / "9.jpg", quality=60
    )  # row 10, of test, is row 1, of train, smaller and saved anew
    text = (data / "pairs.csv").read_text(encoding="utf-8")
    (data / "pairs.csv").write_text(text.replace("9.png,scan 9,", "9.jpg,scan 9,", 1), encoding="utf-8")
    found = honeclip.evaluate(clip, data, domain=medical)
    note = next(note for note in found.suite.notes if note.startswith("Possible leak, by a hash"))
    assert "1 of 18 pictures" in note
    assert "row 10 and row 1." in note


def test_the_page_and_report_json(report, tmp_path):
    page = report.save(tmp_path).read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["after"]["medical"] == json.loads(json.dumps(report.metrics["medical"]))
    for part in (
        "ROC curve",
        "Calibration curve",
        "Decision curve",
        "Subgroups",
        "Wording of the prompts",
        "Called wrong",
    ):
        assert part in page
    for limit in LIMITS:
        assert limit in page
    assert "sensitivity at 95 % specificity" in page


def test_cases_show_truth_answers_and_the_nearest_of_train(clip, medical, scans, tmp_path):
    found = honeclip.evaluate(clip, scans, domain=medical, cases="10, 11.png")
    assert [block.title for block in found.cases] == ["Row 10: 9.png", "Row 12: 11.png"]
    case, labels, *nearest = found.cases[0].cards
    assert case.title == "Truth: normal. scan 9"
    cosine = clip.similarity([scans / "9.png"], [one.text for one in case.said])[0]
    assert [float(one.score) for one in case.said] == pytest.approx(cosine.tolist(), abs=0.006)
    assert [one.mark == "right" for one in case.said] == [one.text == "scan 9" for one in case.said]
    assert sum(float(one.score) for one in labels.said) == pytest.approx(1, abs=0.02)
    assert {one.text for one in labels.said} == set(SHADES)
    train = [number for number in range(180) if SPLITS[number // 3 % len(SPLITS)] == "train"]
    near = clip.encode_image([scans / "9.png"]) @ clip.encode_image([scans / f"{number}.png" for number in train]).T
    assert float(nearest[0].note.rpartition(" ")[2]) == pytest.approx(float(near.max()), abs=2e-3)
    page = found.save(tmp_path).read_text(encoding="utf-8")
    assert "Nearest in train, 1" in page
    assert '<li><span class="mark"></span><small>' in page, "a line without a mark keeps its columns"


def test_random_cases_are_those_of_the_seed(clip, medical, scans):
    first, again, other = (
        [block.title for block in honeclip.evaluate(clip, scans, domain=medical, cases="random:4", seed=seed).cases]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(first) == 4


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        ("4000", "the split has no such case; an id is a row of the manifest"),
        ("1", "no such case"),  # a row of train
        ("9.pmg", "such as 9.png"),
        ("random:0", "random: is followed by how many"),
        (",", "--cases: give ids"),
    ],
)
def test_a_case_that_is_not_there_is_named(clip, medical, scans, cases, says):
    with pytest.raises(BadInput, match=says):
        honeclip.evaluate(clip, scans, domain=medical, cases=cases)
