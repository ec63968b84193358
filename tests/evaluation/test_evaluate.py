"""`honeclip.evaluate` and its command: any model on any data, with the figures that follow from its embeddings."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score

import honeclip
from honeclip import __main__ as launcher
from honeclip.data import pairs as manifests
from honeclip.domains import domain as domains
from honeclip.embedding.features import caches, image_features
from honeclip.errors import BadInput, DataError, DomainError, ModelError
from honeclip.evaluation.evaluate import UNALIGNED, all_labels, data_name, in_its_domain, score
from honeclip.model import folder
from honeclip.model.load import load

SOURCE = "random:honeclip-evaluation"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    place = tmp_path_factory.mktemp("configs")
    (place / f"{SOURCE.partition(':')[2]}.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    open_clip.add_model_config(place)
    return load(SOURCE, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """90 pictures of coloured noise, two thirds of them to test on; two with one caption, two with equal pixels."""
    place = tmp_path_factory.mktemp("colours")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(90):
        name = list(COLOURS)[number % 3]
        pixels = np.clip(np.array(COLOURS[name]) + draw.normal(0, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels, "RGB").save(place / f"{number}.png")
        caption = f"{name} noise, number {number}" if number != 61 else "red noise, number 60"
        rows.append((f"{number}.png", caption, name, "train" if number < 24 else "val" if number < 30 else "test"))
    shutil.copy(place / "70.png", place / "71.png")
    with (place / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "label", "split"), *rows])
    return place


@pytest.fixture(scope="module")
def report(clip, data):
    return honeclip.evaluate(clip, data=data / "pairs.csv")


def test_the_figures_follow_from_the_models_embeddings(clip, data, report):
    """Everything again from `encode_image` and `encode_text`, in plain code."""
    with (data / "pairs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    captions = list(dict.fromkeys(row["caption"] for row in rows))
    cosine = clip.similarity([data / row["image"] for row in rows], captions).double().numpy()
    right = np.array([[row["caption"] == caption for caption in captions] for row in rows])
    twins = [index for index, row in enumerate(rows) if row["image"] in ("70.png", "71.png")]
    right[twins] = right[twins].any(0)
    for way, scores, partners in (("image_to_text", cosine, right), ("text_to_image", cosine.T, right.T)):
        best = np.where(partners, scores, -2).max(1, keepdims=True)
        ranks = 1 + (~partners & (scores >= best - 1e-6)).sum(1)
        found = report.metrics["retrieval"][way]
        for k in (1, 5, 10):
            assert found[f"R@{k}"]["value"] == pytest.approx((ranks <= k).mean(), abs=0.02)
        assert found["median_rank"]["value"] == pytest.approx(np.median(ranks), abs=1)

    general = domains.load("general")
    classes = [clip.encode_text(domains.prompts(general, name)).mean(0) for name in sorted(COLOURS)]
    text = torch.nn.functional.normalize(torch.stack(classes), dim=-1)
    guess = (clip.encode_image([data / row["image"] for row in rows]) @ text.T).argmax(1)
    truth = [sorted(COLOURS).index(row["label"]) for row in rows]
    assert report.metrics["zeroshot"]["accuracy"]["value"] == pytest.approx(accuracy_score(truth, guess), abs=0.02)
    assert report.metrics["zeroshot"]["classes"] == 3


def test_the_report_says_what_was_scored(clip, data, report, tmp_path):
    metrics = report.metrics
    assert (metrics["data"], metrics["split"], metrics["pairs"], metrics["size_px"]) == (data.name, "test", 60, 32)
    assert len(report.answers.ranks.text_to_image) == 59, "one caption stands twice"
    assert report.environment["model"] == SOURCE
    assert report.environment["images"] == 59, "one picture stands twice"
    assert {"machine", "versions", "device", "domain"} <= set(report.environment)
    page = report.save(tmp_path / "r").read_text(encoding="utf-8")
    assert "never seen each other" in page
    assert f"honeclip evaluate {SOURCE} --data {data / 'pairs.csv'} --split test --seed 0" in page
    assert json.loads((tmp_path / "r" / "report.json").read_text())["after"] == metrics


def test_the_same_again_gives_the_same(clip, data, report):
    again = honeclip.evaluate(SOURCE, data, split="test", device="cpu")
    assert again.metrics == report.metrics
    assert again.examples == report.examples
    other = honeclip.evaluate(clip, data, seed=1)
    first, second = (one.metrics["retrieval"]["image_to_text"]["median_rank"] for one in (report, other))
    assert first["value"] == second["value"]


def test_any_form_of_a_model_is_the_same_model(clip, data, report, tmp_path):
    folder.save(clip, tmp_path / "run" / "model", "a card")
    forms = [tmp_path / "run", str(tmp_path / "run" / "model"), SimpleNamespace(folder=tmp_path / "run")]
    found = [honeclip.evaluate(form, data=data, device="cpu").metrics for form in forms]
    assert found == [report.metrics] * 3


def test_splits(clip, data):
    found = honeclip.evaluate(clip, data, split="val")
    assert (found.metrics["split"], found.metrics["pairs"]) == ("val", 6)
    assert list(found.metrics["retrieval"]["image_to_text"]) == ["R@1", "median_rank"]


def test_the_classes_are_those_of_the_whole_data_set(clip, data, tmp_path):
    rows = ["0.png,one,red,val", "1.png,two,green,val", "2.png,three,blue,train"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption,label,split", *(f"{data}/{row}" for row in rows)]))
    found = honeclip.evaluate(clip, tmp_path, split="val").metrics["zeroshot"]
    assert (found["classes"], found["chance"]) == (3, pytest.approx(1 / 3))


def test_the_domain_is_the_models_own_unless_another_is_asked_for(clip, data):
    medical = domains.to_mapping(domains.load("medical"))
    tuned = honeclip.Clip(**{**vars(clip), "domain": medical})
    assert honeclip.evaluate(tuned, data, split="val").environment["domain"] == "medical"
    assert UNALIGNED not in honeclip.evaluate(tuned, data, split="val").notes
    other = honeclip.evaluate(tuned, data, split="val", domain="industrial")
    assert other.environment["domain"] == "industrial"
    assert "--domain industrial" in other.repeat
    assert honeclip.evaluate(clip, data, split="val", domain=domains.load("scientific")).environment["domain"] == (
        "scientific"
    )


def test_score_with_cached_bodies_gives_the_same_figures(clip, data, report):
    everything = manifests.load(data)
    pairs, general = everything.split("test"), domains.load("general")
    clip.model.train()
    found = score(
        clip,
        pairs,
        general,
        labels=all_labels(everything),
        data_name="colours",
        split="test",
        features=caches(clip),
        batch_size=7,
        repeat="again",
        notes=["mind this"],
    )
    assert clip.model.training
    clip.model.eval()
    assert found.metrics == {**report.metrics, "data": "colours"}
    assert (found.repeat, found.notes) == ("again", ("mind this",))


def test_without_labels_there_is_no_zero_shot(clip, data, tmp_path):
    lines = (data / "pairs.csv").read_text().splitlines()
    (tmp_path / "plain.csv").write_text(
        "image,caption,split\n" + "\n".join(f'{data}/{a},"{b}",test' for a, b, *_ in csv.reader(lines[1:11]))
    )
    found = honeclip.evaluate(clip, tmp_path / "plain.csv")
    assert "zeroshot" not in found.metrics
    assert found.metrics["data"] == "plain"


def test_rows_that_cannot_be_used_are_said(clip, data, tmp_path):
    lines = (data / "pairs.csv").read_text().splitlines()
    broken = shutil.copytree(data, tmp_path / "broken")
    (broken / "pairs.csv").write_text("\n".join([*lines, *lines[1:20], "missing.png,a caption,red,test"]))
    found = honeclip.evaluate(clip, broken)
    assert any("1 of 110 rows cannot be used" in note for note in found.notes)


def test_a_picture_that_breaks_after_the_data_was_read_is_said(clip, data, tmp_path):
    place = shutil.copytree(data, tmp_path / "place")
    everything = manifests.load(place)
    (place / "40.png").write_bytes(b"")
    found = score(
        clip,
        everything.split("test"),
        domains.load("general"),
        labels=("red", "blue", "green"),
        data_name="d",
        split="test",
    )
    assert found.metrics["pairs"] == 59
    assert any(note.startswith("Left out, for it could not be read: 40.png (row 41") for note in found.notes)


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (BadInput, "unknown split 'tset': one of train, val, test", {"split": "tset"}),
        (DomainError, "unknown domain 'medcal'; nearest: medical", {"domain": "medcal"}),
        (ModelError, "neither a folder nor a model", {"model": "ViT-B-23"}),
        (BadInput, "a int is no model: give a Clip, a Run, or a model source", {"model": 3}),
        (DataError, "nowhere", {"data": "nowhere.csv"}),
    ],
)
def test_what_is_wrong_is_named(clip, data, error, says, arguments):
    with pytest.raises(error, match=says):
        honeclip.evaluate(**{"model": clip, "data": data, **arguments})


def test_a_split_without_rows_is_an_error(clip, data, tmp_path):
    (tmp_path / "pairs.csv").write_text(f"image,caption,split\n{data}/1.png,one,train\n{data}/2.png,two,val\n")
    with pytest.raises(DataError, match="the split 'test' has no rows; there are 1 in train, 1 in val, 0 in test"):
        honeclip.evaluate(clip, tmp_path)


def test_data_is_named_after_its_folder_or_file(data, tmp_path):
    assert data_name(data) == data_name(data / "pairs.csv") == data.name
    assert data_name(str(tmp_path / "stamps.tsv")) == "stamps"


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, clip):
    """Runs `honeclip evaluate ARGUMENTS` in this process; returns exit code, standard output, standard error."""
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["honeclip", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            launcher.main()
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return run


def test_json_is_metrics_and_nothing_else(command, data, report, tmp_path):
    code, out, err = command(SOURCE, "--data", data, "--json", "--device", "cpu", "--out", tmp_path / "r")
    assert code == 0
    assert json.loads(out) == report.metrics
    assert f"report: {tmp_path / 'r' / 'index.html'}" in err
    assert "embedding pictures" in err
    assert UNALIGNED in err
    assert (tmp_path / "r" / "index.html").is_file()
    assert json.loads((tmp_path / "r" / "report.json").read_text())["after"] == report.metrics


def test_the_table_for_people(command, data, report):
    code, out, err = command(SOURCE, "--data", data, "--device", "cpu", "--split", "test", "--domain", "general")
    assert code == 0
    assert out.startswith("Image-to-text R@10 is 0.")
    figure = report.metrics["retrieval"]["text_to_image"]["R@5"]
    row = next(line for line in out.partition("Text to image")[2].splitlines() if "R@5" in line)
    assert row.split() == [
        "R@5",
        f"{figure['value']:.3f}",
        f"{figure['low']:.3f}",
        "to",
        f"{figure['high']:.3f}",
        f"{5 / 60:.3f}",
    ]
    assert "balanced accuracy" in out
    assert UNALIGNED in err


@pytest.mark.parametrize(
    ("says", "more"),
    [
        ("unknown split 'tset'", ["--split", "tset"]),
        ("unknown domain 'medcal'", ["--domain", "medcal"]),
        ("--device mps", ["--device", "mps"]),
    ],
)
def test_bad_input_exits_2(command, data, says, more):
    if more[-1] == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    code, out, err = command(SOURCE, "--data", data, "--json", *more)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_missing_option_exits_2(command):
    code, out, err = command(SOURCE)
    assert (code, out) == (2, "")
    assert "--data" in err


@pytest.fixture
def entering(clip, tmp_path, monkeypatch):
    """What goes into the first layer of each tower: pictures in number, texts as their tokens. Nothing is on disk yet."""
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path))
    seen = SimpleNamespace(images=0, texts=[])

    def picture(_, given):
        seen.images += len(given[0])

    def text(_, given):
        seen.texts += [tuple(token for token in row if token) for row in given[0].tolist()]

    handles = [
        clip.model.visual.conv1.register_forward_pre_hook(picture),
        clip.model.token_embedding.register_forward_pre_hook(text),
    ]
    yield seen
    for handle in handles:
        handle.remove()


def test_a_suite_embeds_each_picture_and_each_text_once(clip, data, entering):
    domain = replace(
        domains.load("medical"), probes=()
    )  # of whose texts some differ in case alone, and tokens have none
    found = honeclip.evaluate(clip, data=data, domain=domain, cases="random:2").metrics["medical"]
    assert {"prompts", "thresholds"} <= set(found), "prompts are asked one by one, in pairs and together"
    assert entering.images == 89, "90 pictures of three splits, two of them alike"
    assert len(entering.texts) == len(set(entering.texts)) > 100


def test_what_a_run_kept_of_the_bodies_is_read(clip, data, entering):
    anew = honeclip.evaluate(clip, data=data, domain="industrial")
    assert entering.images == 89
    asked, _ = in_its_domain(clip, "industrial")
    image_features(asked, manifests.load(data, domain=domains.load("industrial")))  # as the run does
    entering.images = 0
    found = honeclip.evaluate(clip, data=data, domain="industrial")
    assert entering.images == 59, "the pictures of test, to time them"
    speeds = [one.metrics["industrial"].pop("images_per_second") for one in (anew, found)]
    assert min(speeds) > 0
    assert list(flat(found.metrics)) == [(name, pytest.approx(value, abs=1e-4)) for name, value in flat(anew.metrics)]
    assert "images_per_second" in anew.environment
    assert "images_per_second" not in found.environment, "nothing was timed there"


def flat(of, before=""):
    for name, value in of.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def test_cases_say_what_the_model_said_before_it_was_tuned(clip, data, tmp_path):
    tuned = load(SOURCE, device="cpu")
    with torch.no_grad():
        tuned.model.visual.proj += 0.2 * torch.randn(tuned.model.visual.proj.shape, generator=torch.manual_seed(0))
    folder.save(tuned, tmp_path / "run" / "model", "card")
    (tmp_path / "run" / "run.toml").write_text(f'[model]\nsource = "{SOURCE}"\n', encoding="utf-8")
    found = honeclip.evaluate(tmp_path / "run", data=data, domain="medical", cases="random:3", device="cpu")
    base = honeclip.evaluate(clip, data=data, domain="medical", cases="random:3")
    ranks = [dict(zip(one.answers.image_rows, one.answers.ranks.image_to_text, strict=True)) for one in (found, base)]
    test = [row for row, split in enumerate(manifests.load(data).splits, 1) if split == "test"]
    for now, then in zip(found.cases, base.cases, strict=True):
        assert [card.title for card in now.cards[1:4:2]] == ["Before tuning", "Labels before tuning"]
        assert now.cards[1].said == then.cards[0].said != now.cards[0].said
        assert now.cards[3].said == then.cards[1].said
        place = test.index(int(now.title.split(":")[0].removeprefix("Row ")))
        new, old = (one[place] for one in ranks)
        assert f"number {new} of 59, and was number {old} before" in now.intro
        assert not then.intro


def test_a_base_that_is_gone_is_said(clip, data, tmp_path):
    folder.save(clip, tmp_path / "run" / "model", "card")
    (tmp_path / "run" / "run.toml").write_text('[model]\nsource = "/nowhere/at/all"\n', encoding="utf-8")
    found = honeclip.evaluate(tmp_path / "run", data=data, cases="random:1", device="cpu")
    assert any("/nowhere/at/all cannot be loaded" in note for note in found.notes)
    assert "Before tuning" not in [card.title for card in found.cases[0].cards]


def test_keys_of_the_config_that_an_evaluation_reads(command, data, report, tmp_path):
    rows = (data / "pairs.csv").read_text(encoding="utf-8").replace("image,caption", "photo,says", 1)
    other = data / "other.csv"
    other.write_text(rows, encoding="utf-8")
    sets = ["--set", 'data.columns={image = "photo", caption = "says"}', "--set", "report.pictures=false"]
    code, out, err = command(SOURCE, "--data", other, *sets, "--json", "--device", "cpu", "--out", tmp_path)
    assert (code, json.loads(out)["retrieval"]) == (0, report.metrics["retrieval"]), err
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "data.columns=" in page
    assert "data:image" not in page
    other.write_text(rows.replace("60.png", "gone.png"), encoding="utf-8")
    assert (
        command(SOURCE, "--data", other, *sets[:2], "--set", "data.max_bad_fraction=0.001", "--device", "cpu")[0] == 2
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [("train.lr=1", "evaluate reads data.columns"), ("data.colums={}", "data.columns"), ("x", "section.key")],
)
def test_other_keys_are_refused(command, data, given, says):
    code, out, err = command(SOURCE, "--data", data, "--set", given, "--device", "cpu")
    assert (code, out) == (2, "")
    assert says in err
