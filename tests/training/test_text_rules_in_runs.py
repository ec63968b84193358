"""A run reads its captions by the text rules of its domain, and its model keeps them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_runs
import torch

import honeclip
from honeclip.data import pairs
from honeclip.embedding.embed import embed
from honeclip.preprocess.rules import TextHow
from honeclip.training.setup import caption_lengths

OWN = """extends = "general"
[text]
rules = ["deidentification"]
replace = [["crimson", "red"]]
"""


@pytest.fixture
def domain(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    return str(tmp_path / "own.toml")


@pytest.fixture
def crimson(tmp_path):
    """The drawn pictures with one word of the captions replaced by one that the tiny tokenizer does not know."""
    folder = tiny_runs.draw(tmp_path / "crimson", 40, tiny_runs.ALL_SPLITS)
    manifest = folder / "pairs.csv"
    manifest.write_text(manifest.read_text().replace("a red", "a crimson"))
    return folder


def test_a_run_learns_from_the_text_after_the_rules_and_its_model_keeps_them(quick, data, crimson, domain, tmp_path):
    plain = quick(data=data, out=tmp_path / "plain")
    ruled = quick(data=crimson, domain=domain, out=tmp_path / "ruled")
    without = quick(data=crimson, out=tmp_path / "without")
    losses = [[one["loss"] for one in run_events(run) if one["event"] == "step"] for run in (plain, ruled, without)]
    assert losses[0] == losses[1], "the rules make the captions what they were"
    assert losses[0] != losses[2]

    loaded = honeclip.load(str(ruled.folder), device="cpu")
    assert loaded.preprocess.text == TextHow(("deidentification",), replace=(("crimson", "red"),))
    assert torch.equal(loaded.encode_text(["a crimson bar"]), loaded.encode_text(["a red bar"]))
    assert honeclip.load(str(without.folder), device="cpu").preprocess.text == TextHow()
    assert "text" not in json.loads((without.model_folder / "honeclip.json").read_text())["preprocess"]
    card = (ruled.model_folder / "README.md").read_text()
    assert "text rules (deidentification, own replacements)" in card
    assert "text rules" not in (without.model_folder / "README.md").read_text()


def run_events(run):
    return [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]


def test_evaluate_gives_a_model_without_a_domain_the_rules_and_leaves_ours_its_own(vit, crimson, domain, data):
    def scores(source, **more):
        return honeclip.evaluate(
            source, data=str(more.pop("data", crimson)), split="train", device="cpu", **more
        ).metrics

    asked = scores(str(vit), domain=domain)["retrieval"]
    assert asked == scores(str(vit), data=data)["retrieval"]
    assert asked != scores(str(vit))["retrieval"]


def test_lengths_of_captions_are_those_after_the_rules(vit, crimson):
    clip = honeclip.load(str(vit), device="cpu")
    rows = pairs.load(crimson).split("train")
    before = caption_lengths(clip, rows)
    clip.preprocess = replace(clip.preprocess, text=TextHow(replace=((", number", ""),)))
    assert np.array_equal(caption_lengths(clip, rows), before - 2)
    embeddings = embed(clip, rows)
    assert len(embeddings.text) == len(set(rows.captions))


def test_check_counts_tokens_after_the_rules_and_says_which_texts_stay(crimson, domain, capsys):
    from honeclip import __main__

    manifest = crimson / "pairs.csv"
    manifest.write_text(
        manifest.read_text().replace("a blue circle, number 2", "___").replace("a green", "a " + "___ " * 90)
    )

    def checked(*more):
        assert __main__._run(["check", str(crimson), "--json", *more]) == 0
        return json.loads(capsys.readouterr().out)

    plain, ruled = checked(), checked("--domain", domain)
    assert plain["tokens"]["cut"] > 0
    assert ruled["tokens"]["cut"] == 0
    said = "1 of 40 captions stay as they are: the domain's text rules would leave nothing of them"
    assert said in ruled["notes"]
    assert said not in plain["notes"]
    assert {one["kind"] for one in ruled["problems"]} == {one["kind"] for one in plain["problems"]} - {"long_caption"}
