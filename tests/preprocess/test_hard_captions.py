"""Hard captions: one word made wrong, the same way every time, and never the caption itself."""

from __future__ import annotations

import csv
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from honeclip.domains import domain as domains
from honeclip.domains.vocabulary import Term, Terms
from honeclip.preprocess.hard_captions import SwapRules, hard_caption, swap_rules

TERMS = Terms(
    (
        Term("pneumonia", "finding"),
        Term("fracture", "finding", ("fractured",)),
        Term("ulcer", "finding", ("ulcerated",)),
        Term("millimetre", "unit", (), ("mm",)),
        Term("centimetre", "unit", (), ("cm",)),
        Term("magnetic resonance imaging", "imaging", (), ("MRI",)),
        Term("ultrasound", "imaging"),
        Term("lung", "organ"),
        Term("heart", "organ"),
    ),
    swap=("finding", "unit", "imaging"),
)
GROUPS = (
    ("left", "right"),
    ("with", "without"),
    ("upper", "lower"),
    ("red", "green", "blue"),
    ("nice", "ice"),
    ("odd", "ODD"),
)
RULES = SwapRules(TERMS, GROUPS)
SIDES = SwapRules(Terms(), (("left", "right"), ("upper lobe", "lower lobe"), ("a", "b")))


def bare(text):
    return "".join(text.split()).casefold()


def all_of(text, rules=RULES):
    """What the seeds give: every choice, for texts with few."""
    return {hard_caption(text, rules, seed) for seed in range(60)}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a left lung", {"a right lung"}),
        ("Left lung", {"Right lung"}),
        ("LEFT LUNG", {"RIGHT LUNG"}),
        ("the leftmost, upright lung", {None}),
        ("left and right lung", {None}),
        ("without a fracture", {"with a fracture"}),
        ("a red circle", {"a green circle", "a blue circle"}),
        ("a fracture", {"a pneumonia", "an ulcer"}),
        ("An ulcer", {"A pneumonia", "A fracture"}),
        ("two fractures", {"two pneumonias", "two ulcers"}),
        ("a fractured bone", {"a pneumonia bone", "an ulcerated bone"}),
        ("no pneumonia", {None}),
        ("3 mm wide", {"3 cm wide"}),
        ("a millimetre", {"a centimetre"}),
        ("an ultrasound image", {"a magnetic resonance imaging image"}),
        ("an MRI", {"an ultrasound"}),
        ("a heart", {None}),
        ("an odd one", {None}),
        ("", {None}),
    ],
)
def test_what_comes_out(text, wrong):
    assert all_of(text) == wrong


def test_words_of_several_words_and_the_longest_one_first():
    assert all_of("in the lower lobe", SIDES) == {"in the upper lobe"}


def test_the_result_is_another_text_even_with_spaces_left_out():
    """ "a nice" and "an ice" are the same letters."""
    assert all_of("a nice day") == {None}


def test_a_seed_decides_and_nothing_else():
    text = "a red fracture of the left upper lung with blood"
    made = [hard_caption(text, RULES, seed) for seed in range(50)]
    assert made == [hard_caption(text, RULES, seed) for seed in range(50)]
    assert len(set(made)) >= 5, "seeds choose among places and words"
    assert made[:3] == GOLDEN, "a resumed run meets the same captions after any package was upgraded"


GOLDEN = [
    "a red fracture of the right upper lung with blood",
    "a blue fracture of the left upper lung with blood",
    "a red fracture of the left upper lung without blood",
]

words = st.sampled_from(
    [
        "left",
        "Right",
        "WITH",
        "without",
        "red",
        "green",
        "a",
        "an",
        "An",
        "nice",
        "ice",
        "odd",
        "fracture",
        "fractures",
        "ulcer",
        "mm",
        "no",
        "MRI",
        "lung",
        ",",
        "-",
        "x",
    ]
)


@given(st.lists(words, max_size=10).map(" ".join) | st.text(max_size=30), st.integers(0, 2**40))
@example("a nice", 0)
@example("an ice", 0)
def test_never_the_text_itself(text, seed):
    made = hard_caption(text, RULES, seed)
    assert made == hard_caption(text, RULES, seed)
    if made is not None:
        assert bare(made) != bare(text)


@given(st.lists(words, max_size=10).map(" ".join), st.integers(0, 1000))
def test_one_place_changes_and_an_article_before_it(text, seed):
    made = hard_caption(text, RULES, seed)
    if made is None:
        return
    before, after = text.split(" "), made.split(" ")
    after = (
        " ".join(after)
        .replace("magnetic resonance imaging", "ultrasound")
        .replace("Magnetic resonance imaging", "Ultrasound")
        .split(" ")
    )
    differ = [index for index, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
    assert len(differ) in (1, 2)
    if len(differ) == 2:
        assert differ[1] == differ[0] + 1
        assert re.fullmatch("an?", before[differ[0]], re.IGNORECASE)


def rules_of(name):
    domain = domains.load(name)
    return swap_rules(domain, domains.read_terms(domain, domains.term_folders(name)))


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("medical", "opacity in the left lung", "opacity in the right lung"),
        ("medical", "a benign lesion", "a malignant lesion"),
        ("industrial", "a magnetic tile surface without any defect", "a magnetic tile surface with any defect"),
        ("scientific", "the curve decreases", "the curve increases"),
        ("general", "A man.", "A woman."),
    ],
)
def test_the_presets_make_what_their_fields_know_as_opposites(name, text, wrong):
    assert wrong in all_of(text, rules_of(name))


@pytest.mark.parametrize(
    ("name", "data", "share"),
    [
        ("medical", "openstax_microbiology", 0.6),
        ("medical", "pneumoniamnist", 1.0),
        ("industrial", "neu_det", 1.0),
        ("industrial", "magnetic_tile", 0.8),
        ("scientific", "openstax_astronomy", 0.7),
        ("general", "tuxpaint_stamps", 0.1),
    ],
)
def test_real_captions(name, data, share, shared_data):
    with (shared_data / data / "pairs.csv").open(encoding="utf-8") as file:
        captions = {row["caption"] for row in csv.DictReader(file)}
    rules = rules_of(name)
    made = {caption: hard_caption(caption, rules, 0) for caption in captions}
    assert sum(one is not None for one in made.values()) >= share * len(captions)
    assert all(one is None or bare(one) != bare(caption) for caption, one in made.items())
