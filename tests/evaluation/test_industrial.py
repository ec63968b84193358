"""The industrial suite through `honeclip.evaluate`, against the model's own embeddings and scikit-learn."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from typer.testing import CliRunner

import honeclip
from honeclip.cli.app import app
from honeclip.domains import domain as domains
from honeclip.errors import BadInput
from honeclip.evaluation import fewshot
from honeclip.model.load import load

NAMES = ("bar", "circle", "cross", "square")
GOOD = "circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.model_folder(
        tmp_path_factory.mktemp("m") / "model", tiny_runs.text_files(tmp_path_factory.mktemp("t") / "text")
    )


@pytest.fixture(scope="module")
def clip(folder):
    return load(str(folder), device="cpu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_runs.draw(tmp_path_factory.mktemp("parts") / "data", 240, tiny_runs.ALL_SPLITS, labels=True)


@pytest.fixture(scope="module")
def plant():
    return replace(domains.load("industrial"), templates=("a {label}",), normal_labels=(GOOD,), label_names={})


@pytest.fixture(scope="module")
def report(clip, parts, plant):
    return honeclip.evaluate(clip, parts, domain=plant)


def seen(clip, folder, split):
    """Unit embeddings and labels of a split, and the probability of each label, in plain code."""
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    image = clip.encode_image([folder / row["image"] for row in rows]).double()
    text = torch.stack([clip.encode_text([f"a {name}"]).double().mean(0) for name in NAMES])
    logits = clip.logit_scale.detach().double().exp() * image @ torch.nn.functional.normalize(text, dim=-1).T
    return image.numpy(), np.array([row["label"] for row in rows]), logits.softmax(-1).numpy()


def test_separation_and_rates_are_those_of_the_models_own_probabilities(clip, parts, report):
    _, labels, probability = seen(clip, parts, "test")
    score, defective = 1 - probability[:, NAMES.index(GOOD)], labels != GOOD
    found = report.metrics["industrial"]
    assert (found["pictures"], found["defective"], found["normal"]) == (48, defective.sum(), (~defective).sum())
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(defective, score), abs=2e-3)
    assert found["average_precision"]["value"] == pytest.approx(average_precision_score(defective, score), abs=5e-3)
    _, val_labels, val = seen(clip, parts, "val")
    bad = np.sort(1 - val[val_labels != GOOD, NAMES.index(GOOD)])[::-1]
    threshold = bad[int(np.ceil(0.95 * len(bad))) - 1]
    assert found["threshold"] == pytest.approx(threshold, abs=1e-5)
    stopped = score >= found["threshold"] - 1e-9
    assert found["escape_rate"]["value"] == pytest.approx((defective & ~stopped).sum() / defective.sum(), abs=0.03)
    assert found["overkill_rate"]["value"] == pytest.approx((~defective & stopped).sum() / (~defective).sum(), abs=0.1)
    assert set(found["escape_rate_of"]) == {"bar", "cross", "square"}
    assert found["images_per_second"] > 0
    for key in ("auroc", "average_precision", "f1_max", "escape_rate", "overkill_rate", "control"):
        assert found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found["control"]["low"] <= 0.5 <= found["control"]["high"]


def test_few_shot_is_the_mean_over_draws_of_plain_classifiers(clip, parts, report):
    known, own, _ = seen(clip, parts, "train")
    asked, truth, _ = seen(clip, parts, "test")
    classes = np.array([NAMES.index(one) for one in own])
    scores = []
    for draw in range(fewshot.DRAWS):
        random = np.random.default_rng((0, 4, draw))
        rows = np.concatenate([random.permutation(np.flatnonzero(classes == one))[:4] for one in range(4)])
        guess = KNeighborsClassifier(1, metric="cosine").fit(known[rows], own[rows]).predict(asked)
        scores.append((f1_score(truth, guess, average="macro"), balanced_accuracy_score(truth, guess)))
    found = report.metrics["industrial"]["few_shot"]["4"]["nearest"]
    macro, balanced = np.mean(scores, axis=0)
    assert found["macro_f1"]["value"] == pytest.approx(macro, abs=0.03)
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced, abs=0.03)
    assert set(report.metrics["industrial"]["few_shot"]) == {"4", "8", "16"}


def test_without_a_good_class_each_is_one_against_the_rest(clip, parts, plant):
    found = honeclip.evaluate(clip, parts, domain=replace(plant, normal_labels=())).metrics["industrial"]
    _, labels, probability = seen(clip, parts, "test")
    assert set(found["auroc"]) == set(found["escape_rate"]) == set(found["overkill_rate"]) == set(NAMES)
    for place, name in enumerate(NAMES):
        assert found["auroc"][name]["value"] == pytest.approx(
            roc_auc_score(labels == name, probability[:, place]), abs=5e-3
        )


def test_only_good_parts_in_the_split_are_said(clip, parts, plant, tmp_path):
    lines = (parts / "pairs.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if ",test," not in line or line.endswith(GOOD)]
    (tmp_path / "images").symlink_to(parts / "images")
    (tmp_path / "pairs.csv").write_text("\n".join(kept), encoding="utf-8")
    report = honeclip.evaluate(clip, tmp_path, domain=plant)
    assert "auroc" not in report.metrics["industrial"]
    assert any("are good" in note for note in report.suite.notes)


def test_the_probes_of_the_domain_stand_in_its_section(clip, parts, plant, report):
    found = report.metrics["industrial"]["text"]
    assert set(found) == {"steps", "causes", "units", "fault_codes"}
    assert all(one["items"] >= 100 and one["chance"] == 0.5 for one in found.values())
    lost = honeclip.evaluate(clip, parts, domain=replace(plant, probes=("probes/of-the-plant.jsonl",)))
    assert "text" not in lost.metrics["industrial"]
    assert any(note.startswith("No probes: ") and "of-the-plant" in note for note in lost.suite.notes)


def test_the_page_shows_what_escapes(report, tmp_path):
    page = report.save(tmp_path).read_text(encoding="utf-8")
    for said in (
        "Inspection",
        "Escape against overkill",
        "What it costs",
        "With a few labelled pictures",
        "Confusion",
        "field&#39;s words",
    ):
        assert said in page


@pytest.mark.parametrize(
    ("text", "code", "failed"),
    [
        ('escape_rate = 1.0\noverkill_rate = 1.0\npart = "tile"', 0, []),
        ("escape_rate = 1.0\nimages_per_second = 1e9", 1, ["images_per_second"]),
        ("escape_rate = 0.0001", 1, ["escape_rate"]),
        ("cost_per_part = 100.0\n[costs]\nescape = 3.0\n[defects]\ncross = 1.0", 0, []),
    ],
)
def test_requirements_pass_or_fail_by_the_exit_code(folder, parts, tmp_path, text, code, failed):
    domain = tmp_path / "plant.toml"
    domain.write_text(
        f'extends = "industrial"\ntemplates = ["a {{label}}"]\nnormal_labels = ["{GOOD}"]\n', encoding="utf-8"
    )
    needs = tmp_path / "needs.toml"
    needs.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(
        app,
        [
            "evaluate",
            str(folder),
            "--data",
            str(parts),
            "--domain",
            str(domain),
            "--requirements",
            str(needs),
            "--json",
        ],
    )
    assert done.exit_code == code, done.output
    found = json.loads(done.stdout)["industrial"]
    assert [one["name"] for one in found["requirements"] if not one["passed"]] == failed
    assert found["passed"] is not bool(failed)


def test_requirements_that_the_data_cannot_answer(clip, parts, plant, tmp_path):
    needs = tmp_path / "needs.toml"
    needs.write_text("[defects]\nscratch = 0.1", encoding="utf-8")
    with pytest.raises(BadInput, match=r"defects\.scratch: no such defect"):
        honeclip.evaluate(clip, parts, domain=plant, requirements=needs)
    with pytest.raises(BadInput, match="no industrial suite"):
        honeclip.evaluate(clip, parts, domain="medical", requirements=needs)
    needs.write_text("escape_rate = 0.1", encoding="utf-8")
    with pytest.raises(BadInput, match="good and defective parts"):
        honeclip.evaluate(clip, parts, domain=replace(plant, normal_labels=()), requirements=needs)
