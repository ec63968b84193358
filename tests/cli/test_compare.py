"""`honeclip compare`: two tiny runs and what they began with, over two data sets."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import tiny_runs
import torch

from honeclip.training.run import fit


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Ninety drawn pictures with labels: the 54 of the train split are enough for R@10."""
    return tiny_runs.draw(tmp_path_factory.mktemp("compare-data") / "shapes", 90, tiny_runs.ALL_SPLITS, labels=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Thirty pictures without labels."""
    return tiny_runs.draw(tmp_path_factory.mktemp("compare-data") / "words", 30, tiny_runs.ALL_SPLITS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny, shapes):
    """One run that learns and one that hardly does; on one thread: two would wait for each other."""
    out = tmp_path_factory.mktemp("runs")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, length, lr in (("learns", 60, 3e-3), ("sleeps", 1, 1e-9)):
        train, rarely = {"length": length, "lr": lr, "batch": 18}, {"every": length}
        config = tiny_runs.settings(train=train, evaluate={"every": 0}, checkpoint=rarely)
        fit(data=shapes, out=out / name, model=tiny, config=config, device="cpu", report=lambda text: None)
    torch.set_num_threads(before)
    return out / "learns", out / "sleeps"


@pytest.fixture(scope="module")
def asked(tiny, runs, shapes, words):
    """Three models and two data sets, as arguments."""
    return ("compare", tiny, *runs, "--data", shapes, "--data", words, "--device", "cpu", "--split", "train")


@pytest.fixture
def compared(command, asked, tmp_path):
    code, out, err = command(*asked, "--json", "--out", tmp_path / "cmp")
    assert code == 0, err
    return json.loads(out), tmp_path / "cmp", err


def by_place(found: dict) -> dict[tuple[str, str], dict]:
    return {(one["model"], one["data"]): one for one in found["matrix"]}


def test_the_matrix_has_every_model_on_every_data_set(compared, tiny, runs):
    found, _, _ = compared
    models = [str(tiny), *map(str, runs)]
    assert (found["models"], found["data"], found["split"]) == (models, ["shapes", "words"], "train")
    assert [(one["model"], one["data"]) for one in found["matrix"]] == [
        (model, data) for model in models for data in ("shapes", "words")
    ]
    assert "zeroshot" in found["matrix"][0]["metrics"]
    assert "zeroshot" not in found["matrix"][1]["metrics"]
    for one in found["matrix"]:
        assert ("difference" in one) == (one["model"] != str(tiny))
        assert one["score"]["low"] <= one["score"]["value"] <= one["score"]["high"]


def test_metrics_are_those_of_evaluate(compared, command, runs, shapes):
    found, _, _ = compared
    code, out, _ = command("evaluate", runs[0], "--data", shapes, "--split", "train", "--device", "cpu", "--json")
    assert code == 0
    assert by_place(found)[str(runs[0]), "shapes"]["metrics"] == json.loads(out)


def test_differences_are_of_the_scores_and_corrected_over_the_whole_table(compared, tiny, runs):
    found, _, _ = compared
    at = by_place(found)
    names = {"shapes": ("score", "accuracy"), "words": ("score",)}
    tested = [at[str(run), data]["difference"][name] for run in runs for data in names for name in names[data]]
    assert found["test"]["differences"] == len(tested) == 6
    for run in runs:
        for data in names:
            one, first = at[str(run), data], at[str(tiny), data]
            assert one["difference"]["against"] == str(tiny)
            gain = one["score"]["value"] - first["score"]["value"]
            assert one["difference"]["score"]["value"] == pytest.approx(gain, abs=1e-12)
    assert min(one["p_holm"] for one in tested) == min(1, min(one["p"] for one in tested) * 6)
    learns, sleeps = (at[str(run), "shapes"]["difference"]["score"] for run in runs)
    assert learns["clear"], learns
    assert learns["low"] > 0.2
    assert not sleeps["clear"]


class Text(HTMLParser):
    """The words of a page, and its pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.pictures = "", 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.pictures += tag == "img" and dict(attrs)["src"].startswith("data:image/")

    def handle_data(self, data):
        self.words += data


def test_the_page_shows_what_the_json_says(compared, tiny, runs):
    found, folder, err = compared
    assert json.loads((folder / "compare.json").read_text()) == found
    page = Text((folder / "index.html").read_text())
    learns = by_place(found)[str(runs[0]), "shapes"]["difference"]["score"]
    assert f"Clearly better than {tiny}: {runs[0]} on shapes ({learns['value']:+.3f})" in page.words
    for one in found["matrix"]:
        assert f"{one['score']['value']:.3f}{one['score']['low']:.3f} to {one['score']['high']:.3f}" in page.words
    assert "Zero-shot accuracy" in page.words
    assert page.words.count("the reference") == 3, "two scores, one accuracy"
    assert page.pictures == 16, "of each data set eight that the models answer apart"
    assert "shapes: answered apart" in page.words
    assert f"report: {folder / 'index.html'}" in err


def test_another_reference_turns_the_difference_around(compared, command, asked, tiny, runs):
    found, _, _ = compared
    code, out, _ = command(*asked, "--against", runs[0], "--json")
    assert code == 0
    forth, back = by_place(found)[str(runs[0]), "shapes"], by_place(json.loads(out))[str(tiny), "shapes"]
    assert back["difference"]["score"]["value"] == pytest.approx(-forth["difference"]["score"]["value"])
    assert back["difference"]["score"]["p"] == forth["difference"]["score"]["p"]


def test_a_table_for_people(command, asked, runs):
    code, out, _ = command(*asked)
    assert code == 0
    assert out.startswith("Clearly better than")
    assert "mean of both R@" in out
    assert "not clear" in out


def test_one_model_alone_is_a_row(command, tiny, words):
    code, out, _ = command("compare", tiny, "--data", words, "--device", "cpu", "--json")
    assert code == 0
    (one,) = json.loads(out)["matrix"]
    assert "difference" not in one


def test_models_of_other_sizes_see_their_own(command, tiny, words, tmp_path):
    wide = {**tiny_runs.VIT, "vision_cfg": {**tiny_runs.VIT["vision_cfg"], "image_size": 48}}
    tiny_runs.model_folder(tmp_path / "wide", tiny_runs.text_files(tmp_path / "text"), wide)
    code, out, _ = command("compare", tiny, tmp_path / "wide", "--data", words, "--device", "cpu", "--json")
    assert code == 0
    assert [one["metrics"]["size_px"] for one in json.loads(out)["matrix"]] == [32, 48]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("MODEL", "nowhere", "--data", "WORDS"), "nowhere is neither a folder nor a model"),
        (("MODEL", "--data", "WORDS", "--data", "missing.csv"), "missing.csv"),
        (("MODEL", "--data", "WORDS", "--split", "tset"), "unknown split 'tset'"),
        (("MODEL", "--data", "WORDS", "--against", "starter"), "--against starter: it is none of the models"),
        (("MODEL", "MODEL", "--data", "WORDS"), "is named twice"),
        (("MODEL", "--data", "WORDS", "--data", "WORDS"), "is named twice"),
        (("MODEL", "--data", "WORDS", "--domain", "medcal"), "nearest: medical"),
    ],
)
def test_bad_input_exits_2_before_anything_is_embedded(command, tiny, words, wrong, says):
    given = [{"MODEL": tiny, "WORDS": words}.get(one, one) for one in wrong]
    code, out, err = command("compare", *given, "--device", "cpu", "--json")
    assert (code, out) == (2, "")
    assert says in err
    assert " on words " not in err, "the title of the progress of embedding"
    assert "Traceback" not in err


def test_a_field_that_selects_by_labels_compares_and_shows_labels(command, tiny, runs, shapes, tmp_path):
    arguments = ("--data", shapes, "--device", "cpu", "--split", "train", "--domain", "industrial")
    code, out, _ = command("compare", tiny, runs[0], *arguments, "--out", tmp_path, "--json")
    assert code == 0
    found = json.loads(out)
    for one in found["matrix"]:
        assert one["score"]["words"] == "zero-shot balanced accuracy"
        assert one["score"]["value"] == pytest.approx(one["metrics"]["zeroshot"]["balanced_accuracy"]["value"])
    page = Text((tmp_path / "index.html").read_text())
    assert "one model's label is right and another's wrong" in page.words
    assert "54 pictures, 4 classes, chance 0.250" in page.words
    assert "a red circle" not in page.words, "labels are what was asked for"
