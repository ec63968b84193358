"""Terms: found as whole words under each of their names, and read strictly from files."""

from __future__ import annotations

import csv
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from honeclip.domains import domain as domains
from honeclip.domains.vocabulary import Term, Terms, plural, read
from honeclip.errors import DomainError

CHEST = Terms(
    (
        Term("lung", "organ", ("pulmonary",)),
        Term("oedema", "sign", ("edema",)),
        Term("pulmonary oedema", "finding", ("pulmonary edema",)),
        Term("pneumothorax", "finding", (), ("PTX",)),
        Term("cavity", "finding"),
        Term("rolled-in scale", "defect"),
        Term("acquired immunodeficiency syndrome", "disease", (), ("AIDS",)),
        Term("micrometre", "unit", (), ("µm",)),
        Term("Hansen's disease", "disease"),
        Term("mass", "sign"),
        Term("scratch", "defect"),
    )
)


def shipped(name):
    return domains.read_terms(domains.load(name), domains.term_folders(name))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Pulmonary edema of the left LUNG.", {"pulmonary oedema": 1, "lung": 1}),
        ("lungs, lung and pulmonary vessels", {"lung": 3}),
        ("a plunge, lunge", {}),
        ("two cavities and scratches; masses", {"cavity": 1, "scratch": 1, "mass": 1}),
        ("rolled in scale and rolled-in_scale", {"rolled-in scale": 2}),
        ("rolled-in, scale", {}),
        ("PTX but not ptx", {"pneumothorax": 1}),
        ("AIDS is not helped by aids", {"acquired immunodeficiency syndrome": 1}),
        ("3 µm, 3 \N{GREEK SMALL LETTER MU}m, 3 ΜM", {"micrometre": 2}),
        ("Hansen’s disease", {"Hansen's disease": 1}),
        ("", {}),
        ("no pneumothorax", {"no pneumothorax": 1}),
        ("Without any evidence of pneumothorax or pulmonary edema", {"no pneumothorax": 1, "no pulmonary oedema": 1}),
        ("no large cavity, pneumothorax, or mass", {"no cavity": 1, "no pneumothorax": 1, "no mass": 1}),
        ("without a cavity or a mass", {"no cavity": 1, "no mass": 1}),
        ("no change; pneumothorax with a cavity", {"pneumothorax": 1, "cavity": 1}),
        ("a piano with a mass", {"mass": 1}),
    ],
)
def test_find(text, found):
    assert CHEST.find(text) == found


def test_an_occurrence_says_where_and_how_it_is_written():
    text = "Two Cavities (PTX)"
    cavity, short = CHEST.occurrences(text)
    assert text[cavity.start : cavity.stop] == "Cavities"
    assert (cavity.term.name, cavity.plural, cavity.short) == ("cavity", True, False)
    assert (text[short.start : short.stop], short.plural, short.short) == ("PTX", False, True)


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("crack", "cracks"),
        ("mass", "masses"),
        ("cavity", "cavities"),
        ("X-ray", "X-rays"),
        ("patch", "patches"),
        ("box", "boxes"),
    ],
)
def test_plural(one, several):
    assert plural(one) == several


def test_an_abbreviation_in_the_plural():
    assert plural("RBC", short=True) == "RBCs"
    assert plural("AIDS", short=True) == "AIDSs"


words = st.sampled_from(
    ["lung", "Lungs", "pulmonary", "edema", "PTX", "no", "or", "mass", "a", "-", ",", "rolled", "in", "scale"]
)


@given(st.lists(words, max_size=12).map(" ".join))
def test_terms_never_overlap_and_stand_between_word_borders(text):
    found = CHEST.occurrences(text)
    assert sum(CHEST.find(text).values()) == len(found)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(found))
    for one in found:
        assert re.search(rf"(?<!\w){re.escape(text[one.start : one.stop])}(?!\w)", text)


def written(tmp_path, text, name="terms.toml"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_is_read(tmp_path):
    file = written(
        tmp_path,
        'swap = ["a"]\n[terms]\na = ["one", ["two", "double"]]\nb = ["three"]\n[abbreviations]\nII = "double"\n',
    )
    assert read([file]) == Terms((Term("one", "a"), Term("two", "a", ("double",), ("II",)), Term("three", "b")), ("a",))


def test_every_fault_of_every_file_is_reported_at_once(tmp_path):
    files = [
        written(tmp_path, '[terms]\na = ["one", ["two", "One"], "(three)"]\nswop = ["a"]\n', "1.toml"),
        written(tmp_path, 'swop = ["a"]\n[terms]\na = ["x"]\n', "2.toml"),
        written(tmp_path, 'swap = ["b"]\n[terms]\nc = ["x-ray", "X  Ray"]\n[abbreviations]\nXX = "xx"\n', "3.toml"),
        written(tmp_path, "[terms\n", "4.toml"),
        written(tmp_path, "[terms]\na = [7, []]\n", "5.toml"),
        tmp_path / "6.toml",
    ]
    with pytest.raises(DomainError) as caught:
        read(files)
    said = str(caught.value)
    for part in (
        "'One' stands for 'one' (a) and for 'two' (a)",
        "'(three)': a name begins and ends with a letter or a digit",
        "2.toml: swop: unknown key; nearest: swap",
        "3.toml: swap = 'b': there is no such kind",
        "'X  Ray' stands for 'x-ray' (c)",
        "abbreviations.XX = 'xx': there is no such term",
        "4.toml: ",
        "5.toml: terms.a.0",
        "5.toml: terms.a.1",
        "6.toml",
    ):
        assert part in said, part


@pytest.mark.parametrize(("name", "least"), [("medical", 150), ("industrial", 120), ("scientific", 150)])
def test_the_lists_find_each_of_their_names_as_that_term(name, least):
    terms = shipped(name)
    assert len(terms.entries) >= least
    assert len(terms.swap) >= 5
    for term in terms.entries:
        for other in (term.name, *term.synonyms, *term.abbreviations):
            assert terms.find(f"here: {other}, and so on") == {term.name: 1}, other
    kinds = [term.kind for term in terms.entries]
    assert all(kinds.count(kind) >= 2 for kind in terms.swap), "a kind of one term has nothing to swap"


@pytest.mark.parametrize(
    ("name", "data", "share"),
    [
        ("medical", "openstax_microbiology", 0.8),
        ("medical", "pneumoniamnist", 1.0),
        ("industrial", "neu_det", 1.0),
        ("industrial", "magnetic_tile", 1.0),
        ("scientific", "openstax_astronomy", 0.9),
    ],
)
def test_the_lists_know_something_of_most_real_captions(name, data, share, shared_data):
    with (shared_data / data / "pairs.csv").open(encoding="utf-8") as file:
        captions = {row["caption"] for row in csv.DictReader(file)}
    terms = shipped(name)
    assert sum(bool(terms.find(caption)) for caption in captions) >= share * len(captions)


def test_the_defects_of_real_labels_are_told_apart(shared_data):
    terms = shipped("industrial")
    for data in ("neu_det", "magnetic_tile"):
        with (shared_data / data / "pairs.csv").open(encoding="utf-8") as file:
            by_label = {row["label"]: terms.find(row["caption"]) for row in csv.DictReader(file)}
        assert len({tuple(found) for found in by_label.values()}) == len(by_label) == 6
