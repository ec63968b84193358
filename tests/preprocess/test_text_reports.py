"""Reports: marks of de-identification, sections, abbreviations, own replacements, and what a negation governs."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from golden_captions import preset
from hypothesis import given, settings
from hypothesis import strategies as st

from honeclip.domains import domain as domains
from honeclip.domains.vocabulary import Terms
from honeclip.errors import DomainError
from honeclip.preprocess.negation import negation_scopes
from honeclip.preprocess.rules import NOTHING, TextHow, applied, apply, text_how

MARKS = TextHow(("deidentification",))
SECTIONS = TextHow(("sections",), sections=("findings", "impression"))
MEDICAL = preset("medical")

# the style of MIMIC-CXR, with the marks that stand there for names and dates
REPORT = """FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation, pleural effusion or pneumothorax. A 5mm nodule in the left
 upper lobe is unchanged since ___.

 IMPRESSION:

 No acute cardiopulmonary process.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("___ year old with cough", "year old with cough"),
        ("XXXX-year-old male", "year-old male"),
        ("unchanged since ___.", "unchanged since."),
        ("seen by Dr. [**Last Name 123**] on [**2103-1-5**], stable", "seen by Dr. on, stable"),
        ("the nodule (___) is 5 mm", "the nodule is 5 mm"),
        ("the nodule (since ___) is 5 mm", "the nodule (since) is 5 mm"),
        ("___ ___ and ______", "and"),
        ("[REDACTED] chest", "chest"),
        ("a_b__c and snake_case stay, XXX too, XXXXL as well", "a_b__c and snake_case stay, XXX too, XXXXL as well"),
        ("____", "____"),
        ("[**12**].", "[**12**]."),
    ],
)
def test_marks_of_what_was_taken_out(text, expected):
    assert apply(text, MARKS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: No effusion. IMPRESSION: Normal.", "No effusion. Normal."),
        ("IMPRESSION: Normal. FINDINGS: No effusion.", "No effusion. Normal."),
        ("Indication: cough. Findings: clear lungs. Comparison: none.", "clear lungs."),
        ("FINDINGS AND IMPRESSION: Clear. TECHNIQUE: AP.", "Clear."),
        ("FINDINGS/IMPRESSION: Clear.", "Clear."),
        ("FINDINGS: a. ADDENDUM: b. FINDINGS: c.", "a. c."),
        ("Chest X-ray with the following findings: clear.", "Chest X-ray with the following findings: clear."),
        ("TECHNIQUE: AP. COMPARISON: none.", "TECHNIQUE: AP. COMPARISON: none."),
        ("FINDINGS: IMPRESSION:", "FINDINGS: IMPRESSION:"),
        ("FINDINGS: LUNGS: clear. HEART: normal.", "LUNGS: clear. HEART: normal."),
        ("Clear lungs at 12:30", "Clear lungs at 12:30"),
    ],
)
def test_sections(text, expected):
    assert apply(text, SECTIONS) == expected


def test_sections_have_the_names_and_the_order_that_the_domain_gives():
    how = replace(SECTIONS, sections=("Impression", "Befund"))
    assert apply("Befund: klar. IMPRESSION: normal. TECHNIQUE: AP.", how) == "normal. klar."


def test_a_whole_report_by_the_preset():
    assert apply(REPORT, MEDICAL) == (
        "There is no focal consolidation, pleural effusion or pneumothorax. A 5 mm nodule in the left upper lobe is "
        "unchanged since. No acute cardiopulmonary process."
    )


# --- abbreviations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COPD with an ETT", "Chronic obstructive pulmonary disease with an endotracheal tube"),
        ("an MRI of the brain", "a magnetic resonance imaging of the brain"),
        ("clear CSF. CT shows", "clear cerebrospinal fluid. Computed tomography shows"),
        ("(b) CT (left) and MRI (right)", "(b) Computed tomography (left) and magnetic resonance imaging (right)"),
        ("many RBCs and WBCs", "many red blood cells and white blood cells"),
        ("cerebrospinal fluid (CSF); the CSF is clear", "cerebrospinal fluid (CSF); the CSF is clear"),
        ("CSF, that is cerebrospinal fluid", "CSF, that is cerebrospinal fluid"),
        ("a charge separated film (CSF); the CSF is thin", "a charge separated film (CSF); the CSF is thin"),
        ("CT-guided, TB/HIV, RT-PCR, PCR-based, U.CT, CTs", "CT-guided, TB/HIV, RT-PCR, PCR-based, U.CT, CTs"),
        ("ct, Mri, copd, ACT and CTX", "ct, Mri, copd, ACT and CTX"),
        ("DNA, HIV, a TEM, SEM, the AP view at 5 mm", "DNA, HIV, a TEM, SEM, the AP view at 5 mm"),
    ],
)
def test_abbreviations_are_written_out_where_they_mean_one_thing(text, expected):
    assert apply(text, MEDICAL) == expected


@pytest.mark.parametrize(("name", "least"), [("medical", 40), ("industrial", 15), ("scientific", 25)])
def test_the_lists_have_expansions_and_none_holds_another(name, least):
    terms = domains.read_terms(domains.load(name), domains.term_folders(name))
    expansions = terms.expansions
    written = {short for term in terms.entries for short in term.abbreviations}
    assert len(written & set(expansions)) >= least
    assert not set(terms.as_written) & set(expansions)
    assert set(terms.as_written) <= written
    for long in expansions.values():
        assert not set(re.split(r"\W+", long)) & set(expansions)
    how = TextHow(("abbreviations",), expansions=tuple(expansions.items()))
    for short, long in expansions.items():
        assert apply(f"the {short} here", how) == f"the {long} here"
        assert apply(f"the {long} here", how) == f"the {long} here"


def test_units_are_never_written_out():
    for name in ("medical", "industrial", "scientific"):
        terms = domains.read_terms(domains.load(name), domains.term_folders(name))
        units = {short for term in terms.entries if term.kind.endswith("unit") for short in term.abbreviations}
        assert units
        assert not units & set(terms.expansions)


def test_an_abbreviation_that_its_own_term_holds_is_left_out(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('[terms]\na = ["TB disease", "river"]\n[abbreviations]\nTB = "TB disease"\nRR = "river"\n')
    domain = domains.from_mapping({"name": "x", "title": "x", "templates": ["{label}"], "terms": ["own.toml"]}, "x")
    assert domains.read_terms(domain, (tmp_path,)).expansions == {"RRs": "rivers", "RR": "river"}


def test_an_abbreviation_to_be_kept_must_be_one(tmp_path):
    (tmp_path / "own.toml").write_text('as_written = ["XY"]\n[terms]\na = ["river"]\n')
    domain = domains.from_mapping({"name": "x", "title": "x", "templates": ["{label}"], "terms": ["own.toml"]}, "x")
    with pytest.raises(DomainError, match=r"as_written = 'XY': there is no such entry"):
        domains.read_terms(domain, (tmp_path,))


# --- own replacements ---------------------------------------------------------------------------------------------


def test_own_replacements_come_last_and_in_their_order():
    how = TextHow(("units",), replace=((r"\b5 µm\b", "five micrometres"), ("five", "5"), (r"(\w+) rib", r"rib \1")))
    assert apply("a 5um left rib", how) == "a 5 micrometres rib left"


def test_a_pattern_that_explodes_is_named():
    how = TextHow(replace=(("a", "a"), (r"(x|xx)+$", "")))
    assert apply("x" * 60, how) == "x" * 60
    with pytest.raises(DomainError, match=r"text\.replace: '\(x\|xx\)\+\$' does not come to an end within 1 s"):
        apply("x" * 60 + "!", how)


def test_a_text_that_would_be_emptied_stays_and_is_counted():
    how = TextHow(("deidentification",), replace=((r"(?i)no findings?", ""),))
    texts = ["___", "No finding.", "", "a rib ___", "..."]
    assert applied(texts, how) == (["___", "No finding.", "", "a rib", "..."], 2)
    assert applied(texts, NOTHING) == (texts, 0)


def test_a_domain_says_what_is_done_whatever_the_order_in_its_file():
    mapping = {"name": "x", "title": "x", "templates": ["{label}"]}
    given = {"rules": ["units", "deidentification"], "replace": [["a", "b"]]}
    domain = domains.from_mapping({**mapping, "text": given}, "x")
    assert text_how(domain, Terms()) == TextHow(("deidentification", "units"), replace=(("a", "b"),))
    assert text_how(domains.from_mapping(mapping, "x"), Terms()) == NOTHING
    assert preset("general") == NOTHING


# --- what holds for every report ----------------------------------------------------------------------------------

_PARTS = [
    "FINDINGS:", "IMPRESSION:", "Findings:", "findings:", "TECHNIQUE:", "FINDINGS AND IMPRESSION:", "History:", "HEART:", "___",
    "[**12-3**]", "[**", "**]", "XXXX", "XXXX-year-old", "(___)", "no", "without", "left", "right", "5mm", "3", "0,5 cm", "CT",
    "(CSF)", "CSF", "COPD.", "MRI", "an", "effusion", ".", ",", ":", "and", "/", "-", "Reason for exam", "Exam:", "_", "X",
]  # fmt: skip
_REPORTS = st.lists(
    st.tuples(st.sampled_from(_PARTS) | st.text(max_size=2), st.sampled_from(["", " ", " "])), max_size=14
).map(lambda parts: "".join(piece + gap for piece, gap in parts))


@pytest.mark.parametrize("how", [MARKS, SECTIONS, TextHow(("abbreviations",), expansions=MEDICAL.expansions), MEDICAL])
@given(text=_REPORTS)
@settings(max_examples=250, deadline=None)
def test_the_rules_of_reports_are_idempotent_and_never_empty_a_text(how, text):
    once = apply(text, how)
    assert apply(once, how) == once
    assert bool(once) == bool(apply(text, NOTHING))


@given(text=_REPORTS.filter(lambda text: ":" not in text and "[**" not in text))
@settings(max_examples=250, deadline=None)
def test_only_sections_and_marks_lose_numbers_negations_and_sides(text):
    kept = re.compile(r"\d|(?<![^\W\d_])(?:no|without|left|right)(?![^\W\d_])")
    assert not Counter(kept.findall(apply(text, NOTHING))) - Counter(kept.findall(apply(text, MEDICAL)))


# --- negation -----------------------------------------------------------------------------------------------------


_NEAR_NEGATIONS = [
    "no",
    "not",
    "without",
    "but",
    ".",
    ",",
    "or",
    "effusion",
    "mass",
    "is",
    "seen",
    "excluded",
    "/",
    "é",
]


@pytest.mark.parametrize(
    ("text", "governed"),
    [
        ("No pneumothorax or large effusion. Heart normal.", ["pneumothorax or large effusion"]),
        ("There is no evidence of fracture, dislocation, or effusion.", ["fracture, dislocation, or effusion"]),
        ("The patient denies chest pain but has a cough.", ["chest pain"]),
        ("Without pleural effusion; small nodule.", ["pleural effusion"]),
        ("Effusion is not seen.", ["Effusion"]),
        ("Mass or effusion has been excluded, the heart is large.", ["Mass or effusion"]),
        ("Pneumonia is unlikely.", ["Pneumonia"]),
        ("Lungs are free of infiltrates.", ["infiltrates"]),
        ("Neither effusion nor pneumothorax.", ["effusion nor pneumothorax"]),
        ("Negative for fracture. No E. coli in the urine.", ["fracture", "E. coli in the urine"]),
        ("No change in the mass.", []),
        ("Not only effusion but also a mass.", []),
        ("Gram-negative rods without flagella", ["flagella"]),
        ("No focal opacity although the left base is hazy", ["focal opacity"]),
        ("no one two three four five six seven", ["one two three four five"]),
        ("Knot, nothing and another word", []),
        ("", []),
    ],
)
def test_what_a_negation_governs(text, governed):
    assert [text[start:stop] for start, stop in negation_scopes(text)] == governed


@given(text=st.lists(st.sampled_from(_NEAR_NEGATIONS)).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_scopes_stand_in_order_within_the_text_and_hold_words(text):
    scopes = negation_scopes(text)
    assert scopes == sorted(scopes)
    for start, stop in scopes:
        assert 0 <= start < stop <= len(text)
        assert text[start:stop] == text[start:stop].strip()
