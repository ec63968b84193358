"""Text rules as part of a model's preprocessing: its tokens, its fingerprint, what is stored of it."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from dataclasses import replace

import pytest
import torch
from golden_captions import preset

from honeclip.domains.schema import ImageRules
from honeclip.errors import ModelError
from honeclip.preprocess import preprocess as module
from honeclip.preprocess.preprocess import Preprocess
from honeclip.preprocess.rules import NOTHING, RULES, TextHow

UNITS = TextHow(("units",))
MARKS = TextHow(("deidentification",))
OWN = TextHow(("sections", "abbreviations"), ("findings",), (("CT", "computed tomography"),), ((r"(\d)x", r"\1 x"),))


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(module, "_warned", set())


def test_without_rules_everything_is_as_it_was_before_there_were_any(simple):
    ours = Preprocess(8, tokenizer=simple)
    facts = ("text", RULES, 77, simple.fingerprint)
    assert ours.text_fingerprint == hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    assert set(ours.to_json()) == {
        "size_px",
        "mean",
        "std",
        "resize",
        "fill",
        "interpolation",
        "context_length",
        "windows",
    }
    assert Preprocess.from_json(ours.to_json(), simple) == ours
    texts = ["5um  of $H_2O$", "___", ""]
    assert ours.words(texts) == ["5um of $H_2O$", "___", ""]
    assert torch.equal(ours.texts(texts), simple(["5um of $H_2O$", "___", ""]))


def test_tokens_are_those_of_the_text_after_the_rules(simple):
    ours = Preprocess(8, tokenizer=simple, text=UNITS)
    plain = Preprocess(8, tokenizer=simple)
    tokens = ours.texts(["a gap of 0,05mm", "a gap of 0.05\u202fmm"])
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[:1], plain.texts(["a gap of 0.05 mm"]))
    assert not torch.equal(tokens[:1], plain.texts(["a gap of 0,05mm"]))


def test_cuts_are_counted_after_the_rules(simple):
    text = "FINDINGS: clear. TECHNIQUE: " + "word " * 40
    ours = Preprocess(8, tokenizer=simple, context_length=12)
    assert ours.note_of_cuts([text]).startswith("1 of 1")
    assert replace(ours, text=TextHow(("sections",), ("findings",))).note_of_cuts([text]) == ""


@pytest.mark.parametrize("how", [UNITS, OWN, preset("medical"), preset("industrial"), preset("scientific")])
def test_rules_are_stored_and_come_back(how, simple):
    ours = Preprocess(8, tokenizer=simple, text=how)
    again = Preprocess.from_json(json.loads(json.dumps(ours.to_json())), simple)
    assert again == ours
    assert again.text_fingerprint == ours.text_fingerprint
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert ours.text_fingerprint != Preprocess(8, tokenizer=simple).text_fingerprint
    assert ours.image_fingerprint == Preprocess(8, tokenizer=simple).image_fingerprint


def test_every_part_of_the_rules_changes_the_fingerprint():
    others = [
        OWN,
        replace(OWN, rules=("sections",)),
        replace(OWN, sections=("impression",)),
        replace(OWN, expansions=(("CT", "computed"),)),
        replace(OWN, replace=()),
    ]
    assert len({Preprocess(8, text=one).text_fingerprint for one in others}) == len(others)


@pytest.mark.parametrize("wrong", [{"rules": ["unit"]}, {"rules": 1}, {"more": []}, {"replace": [["a"]]}])
def test_stored_rules_that_cannot_be(wrong):
    stored = Preprocess(8, text=UNITS).to_json()
    for broken in ({**stored["text"], **wrong}, [], None, {}):
        with pytest.raises(ModelError, match="stored preprocessing cannot be read"):
            Preprocess.from_json({**stored, "text": broken}, None)


def test_a_field_without_rules_leaves_the_models_own():
    ours = Preprocess(8, text=UNITS)
    assert ours.with_rules(ImageRules()) == ours
    assert ours.with_rules(ImageRules(), NOTHING) == ours
    assert ours.with_rules(ImageRules("longest", 3), MARKS) == Preprocess(8, resize="longest", fill=3, text=MARKS)


def test_texts_that_would_be_emptied_are_said_once(nothing_said, caplog):
    ours = Preprocess(8, text=MARKS)
    with caplog.at_level(logging.WARNING, "honeclip"):
        assert ours.words(["a rib ___", "a rib"]) == ["a rib", "a rib"]
        assert not caplog.records
        assert ours.words(["___", "[**1**] ___", "a rib"]) == ["___", "[**1**] ___", "a rib"]
        ours.words(["___"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 captions stay as they are: the domain's text rules would leave nothing of them (said once)"
    ]


def test_who_asks_for_the_note_hears_it_instead_of_the_log(nothing_said, caplog):
    ours = Preprocess(8, text=MARKS)
    with caplog.at_level(logging.WARNING, "honeclip"):
        assert ours.note_of_kept(["___", "___", "a rib"]) == (
            "1 of 2 captions stay as they are: the domain's text rules would leave nothing of them"
        )
        assert ours.note_of_kept(["a rib"]) == replace(ours, text=NOTHING).note_of_kept(["___"]) == ""
        ours.words(["___"])
    assert not caplog.records
