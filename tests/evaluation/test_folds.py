"""K-fold on embeddings: who is asked, what it may have learned from, and that the figures are scikit-learn's."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import honeclip
from honeclip import __main__ as launcher
from honeclip.data import pairs as manifests
from honeclip.data.pairs import Pairs
from honeclip.domains import domain as domains
from honeclip.embedding.embed import embed
from honeclip.errors import BadInput, DataError
from honeclip.evaluation import folds, zeroshot
from honeclip.evaluation.suite import Asked, split_of
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.load import load


@pytest.fixture(scope="module")
def starter():
    return load("starter", device="cpu")


@pytest.fixture
def asked(starter, pairs, embeddings, classes):
    """Three labels in turn; `signal` moves pictures of a label apart, `groups` binds rows."""

    def make(
        rows: int = 60, signal: float = 0.0, groups: list[str] | None = None, seed: int = 0, others: int = 0
    ) -> Asked:
        found = embeddings(rows, 0, seed=seed)
        own = [("a", "b", "c")[row % 3] for row in range(rows)]
        for row, label in enumerate(own):
            found.image[row, "abc".index(label)] += signal
        found = replace(found, image=found.image / found.image.norm(dim=1, keepdim=True))
        of: Pairs = replace(pairs(found), labels=tuple((one,) for one in own))
        of = replace(of, groups=tuple(groups or [""] * rows), image_sha=tuple(f"{seed}-{row}" for row in range(rows)))
        split = split_of("test", of, found)

        def other(name: str):
            return (
                replace(make(others, signal, None, seed + 1).split, name=name) if others and name == "train" else None
            )

        return Asked(starter, domains.load("general"), split, other, classes(["a", "b", "c"]), ("a", "b", "c"))

    return make


@pytest.fixture
def classes():
    def make(names: list[str]) -> Classes:
        return Classes(tuple(names), torch.eye(24)[: len(names)], 20.0)

    return make


def test_a_probe_learns_what_is_there_and_nothing_where_nothing_is(asked):
    clear = folds.over_folds(asked(signal=0.5), 5).metrics["linear_probe"]["balanced_accuracy"]
    assert clear["low"] > 0.7
    noise = [
        folds.over_folds(asked(rows=90, seed=seed), 5).metrics["linear_probe"]["accuracy"]["value"] for seed in range(4)
    ]
    assert np.mean(noise) == pytest.approx(1 / 3, abs=0.09), (
        "a probe that was asked what it learned from would be near 1"
    )


def test_rows_of_one_group_never_learn_from_each_other(asked):
    """Every group has its own label and its own place: within a group the answer is known, across groups it is chance."""
    groups = [str(row // 6) for row in range(60)]
    made = asked(groups=groups)
    labels = tuple(("abc"[int(group) % 3],) for group in groups)
    draw = np.random.default_rng(5).normal(size=(10, 24))
    image = torch.tensor(draw[[int(group) for group in groups]] + 0.01, dtype=torch.float32)
    found = replace(made.split.embeddings, image=image / image.norm(dim=1, keepdim=True))
    split = split_of("test", replace(made.split.pairs, labels=labels), found)
    tied = folds.over_folds(replace(made, split=split), 5).metrics["linear_probe"]["accuracy"]["value"]
    loose = replace(split.pairs, groups=("",) * 60)
    free = folds.over_folds(replace(made, split=split_of("test", loose, found)), 5).metrics["linear_probe"]["accuracy"]
    assert free["value"] == 1.0
    assert tied < 0.8


def test_a_tuned_model_is_asked_of_its_split_alone(asked, starter):
    base = folds.over_folds(asked(rows=30, others=60), 3).metrics
    assert (base["splits"], base["pictures"]) == (["test", "train"], 90)
    made = asked(rows=30, others=60)
    tuned = replace(made, clip=replace(starter, domain={"name": "general"}))
    found = folds.over_folds(tuned, 3)
    assert (found.metrics["splits"], found.metrics["pictures"]) == (["test"], 30)
    assert "tuned" in found.notes[0]


@pytest.mark.parametrize("count", [0, 1, -3])
def test_too_few_folds(count, colours):
    if count:
        with pytest.raises(BadInput, match="at least 2"):
            honeclip.evaluate("starter", data=colours, folds=count, device="cpu")
    else:
        assert "folds" not in honeclip.evaluate("starter", data=colours, device="cpu").metrics


def test_too_few_pictures_or_labels(asked):
    with pytest.raises(DataError, match="2 parts"):
        folds.over_folds(asked(rows=60, groups=["x"] * 30 + ["y"] * 30), 3)
    with pytest.raises(DataError, match="column `label`"):
        folds.over_folds(replace(asked(), classes=None), 3)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """40 pictures of two colours without a split."""
    place: Path = tmp_path_factory.mktemp("two")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(40):
        name, colour = (("red", (200, 40, 40)), ("green", (40, 160, 60)))[number % 2]
        pixels = np.clip(np.array(colour) + draw.normal(0, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels, "RGB").save(place / f"{number}.png")
        rows.append((f"{number}.png", f"{name} {number}", name))
    with (place / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "label"), *rows])
    return place


def test_the_command(colours, capsys, monkeypatch, tmp_path):
    options = ["--data", str(colours), "--folds", "4", "--json", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["honeclip", "evaluate", "starter", *options])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(SystemExit) as done:
        launcher.main()
    assert done.value.code == 0
    found = json.loads(capsys.readouterr().out)["folds"]
    assert found["pictures"] == 40, "of all splits, for starter was tuned on none"
    assert found["linear_probe"]["accuracy"]["value"] == 1.0
    assert set(found["zeroshot"]) == {"accuracy", "balanced_accuracy", "macro_f1", "ece", "ece_scaled"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Over folds" in page
    assert "--folds 4" in page


def test_real_pictures_against_scikit_learn(starter, shared_data):
    """Out-of-fold answers of scikit-learn's own cross-validation, over other folds and with one penalty: alike."""
    everything = manifests.load(shared_data / "neu_det")
    chosen = np.flatnonzero(np.array(everything.splits) == "val")[:60]
    found = embed(starter, everything.select(chosen))
    split = split_of("val", everything.select(chosen), found)
    names = sorted({label for own in split.labels for label in own})
    domain = domains.load("general")
    asked = Asked(starter, domain, split, lambda _: None, zeroshot.classes(starter, domain, names), tuple(names))
    mine = folds.over_folds(asked, 5).metrics["linear_probe"]["balanced_accuracy"]
    own = [labels[0] for labels in split.labels]
    probe = LogisticRegression(C=100.0, class_weight="balanced", max_iter=300)
    said = cross_val_predict(probe, found.image.double().numpy(), own, cv=StratifiedKFold(5))
    assert mine["low"] <= balanced_accuracy_score(own, said) <= mine["high"]
