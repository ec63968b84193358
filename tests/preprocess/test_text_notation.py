"""Quantities, parts, formulas and panels: equal things are written one way, and nothing is lost."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from golden_captions import preset
from hypothesis import given, settings
from hypothesis import strategies as st

from honeclip.preprocess.rules import TextHow, apply

UNITS = TextHow(("units",))
INDUSTRIAL = TextHow(("units", "tolerances", "part_numbers"))
SCIENTIFIC = TextHow(("units", "formulas", "panels"))
FORMULAS = TextHow(("formulas",))
PANELS = TextHow(("panels",))
EVERY = TextHow(("deidentification", "units", "tolerances", "part_numbers", "formulas", "panels"))


@pytest.mark.parametrize(
    ("how", "written", "forms"),
    [
        (UNITS, "0.05 mm", ["0,05 mm", "0.05 mm", "0,05mm", "0.05\u202fmm", "0.05\u00a0mm", "0.05\u2009mm"]),
        (UNITS, "5 µm", ["5µm", "5 μm", "5um", "5 um", "5\u2009µm"]),
        (UNITS, "8 µg/mL", ["8 μg/mL", "8 ug/mL", "8µg/mL"]),
        (UNITS, "20 °C", ["20°C", "20 ° C", "20 º C", "20℃", "20 deg C"]),
        (UNITS, "-5 °C", ["−5 °C", "-5°C"]),
        (UNITS, "0.05-0.10 mm", ["0,05-0,10 mm", "0.05-0.10mm"]),
        (UNITS, "3 mm^2", ["3 mm²", "3mm2", "3 mm^2", "3 mm^{2}"]),
        (UNITS, "50%", ["50 %", "50%"]),
        (INDUSTRIAL, "10 ±0.1 mm", ["10 ± 0,1 mm", "10±0.1 mm", "10 +/- 0.1 mm", "10 +/-0,1mm", "10 +-0.1 mm"]),
        (INDUSTRIAL, "±0.1", ["± 0,1", "+/- 0.1", "±0.1"]),
        (INDUSTRIAL, "+0.1/-0.2", ["+0,1/-0,2", "+ 0.1 / − 0.2"]),
        (INDUSTRIAL, "M8x1.25", ["M8x1.25", "M8 × 1.25", "M8×1,25", "M8 X 1.25", "M8*1.25"]),
        (INDUSTRIAL, "M8x1.25x20 mm", ["M8x1,25x20mm", "M8 × 1.25 × 20 mm"]),
        (INDUSTRIAL, "ISO 2768-mK", ["ISO 2768-mK", "ISO2768-mK", "ISO 2768–mK", "ISO 2768 mK", "ISO2768 - mK"]),
        (INDUSTRIAL, "DIN 912", ["DIN912", "DIN-912", "DIN 912"]),
        (INDUSTRIAL, "part AB-12", ["part AB‐12", "part AB‑12", "part AB-12"]),
        (
            SCIENTIFIC,
            "H2O",
            ["$H_2O$", "H₂O", r"\mathrm{H_2O}", r"$\mathrm{H_{2}O}$", r"\ce{H2O}", "H_2O", r"\(H_2O\)"],
        ),
        (SCIENTIFIC, "C6H12O6", ["$C_6H_{12}O_6$", "C₆H₁₂O₆", r"\ce{C6H12O6}"]),
        (SCIENTIFIC, "10^-3", ["10^{-3}", "$10^{-3}$", "10⁻³", "$10^-3$"]),
        (SCIENTIFIC, "2 × 10^5", [r"$2 \times 10^5$", "2×10⁵", "2 × 10⁵", r"2\times10^{5}"]),
        (SCIENTIFIC, "5 µm", [r"$5\,\mu\mathrm{m}$", r"5 \mu m", "5μm", r"$5~\mu m$", r"5 \textmu m"]),
        (SCIENTIFIC, "20 °C", [r"$20^\circ$C", r"20$^{\circ}$C", r"$20\,^\circ\mathrm{C}$", "20℃"]),
        (SCIENTIFIC, "Ca2+", ["Ca²⁺", r"$\mathrm{Ca^{2+}}$", r"\ce{Ca^{2+}}", "Ca2+"]),
        (SCIENTIFIC, "SO4^2-", ["SO₄²⁻", r"$\mathrm{SO_4^{2-}}$", r"\ce{SO4^{2-}}"]),
        (SCIENTIFIC, "NH4+", ["NH₄⁺", r"$\mathrm{NH_4^+}$"]),
        (SCIENTIFIC, "^14C", ["¹⁴C", "$^{14}$C", r"${}^{14}\mathrm{C}$"]),
        (SCIENTIFIC, "E=mc^2", ["$E=mc^2$", "E=mc²"]),
        (SCIENTIFIC, "ΔT", [r"$\Delta T$", "ΔT"]),
        (SCIENTIFIC, "α particles", [r"$\alpha$ particles", r"\alpha particles", "α particles"]),
        (SCIENTIFIC, "m s^-1", [r"$\mathrm{m\,s^{-1}}$", "m s⁻¹"]),
        (SCIENTIFIC, "T_eff", [r"$T_\mathrm{eff}$", "$T_{eff}$"]),
        (SCIENTIFIC, "1/2", [r"$\frac{1}{2}$", r"\frac{1}{2}"]),
        (SCIENTIFIC, "(left) and (right)", ["[left] and [right]", "(Left) and (Right)", "(left) and (right)"]),
        (SCIENTIFIC, "(a) one (b) two", ["(a) one (b) two", "(A) one (B) two", "a) one b) two"]),
        (
            SCIENTIFIC,
            "(a, b) and (a-c): (a) (b) (c)",
            ["(a,b) and (a–c): (a) (b) (c)", "(A, B) and (A-C): (A) (B) (C)"],
        ),
    ],
)
def test_equal_forms_become_equal(how, written, forms):
    assert {form: apply(form, how) for form in forms} == dict.fromkeys(forms, written)


@pytest.mark.parametrize(
    "text",
    [
        "1,2-dichloroethane (1,2-bis(chloranyl)ethane), C2H4Cl2",
        "2,3-diacetyloxypropyl ethanoate",
        "10,000 cells", "1,234 mm", "150,000 km", "3, 5 mm", "tubes 1,2,3 mm", "Fig. 1,2",  # thousands and lists
        "5m", "3D", "2C group", "50S", "5ʹ end", "M31 and NGC 47", "10 A3 sheets", "4 K and 5 V", "5 mm-2 cm",
        "AB-12mm", "part AB-12-5mm", "X5um", "rev. A.12mm",  # names of parts, not quantities
        "um die Ecke", "F− cell", "Rh+ cells", "the [OH–] ions",
        "$5 and $10", "costs $5", "pad_1.png and file_2", "C_1 to C_9", "x {y} z", "C:\\images\\left",
        "E. coli, S. aureus and CO", "Co is cobalt, CO is not", "pH 7", "kV and KV",
        "temperature (C) and flux (K)", "(N and S)", "(1) (2)", "see (a)", ":) and :-)", "vitamin a) only",
        "left (left lung) and right", "without any defect", "~1 µm", "1 in 10^6", "Fe2O3", "H–R diagram",
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_stays(text):
    for how in (INDUSTRIAL, SCIENTIFIC, EVERY):
        assert apply(text, how) == text


@pytest.mark.parametrize("name", ["1,2-dichloroethane", "Escherichia coli", "NaCl", "mRNA", "M8x1.25", "ISO 2768-mK"])
def test_names_keep_their_case_within_a_sentence(name):
    text = f"a picture of {name} at 20° C, $H_2O$ and 0,05mm"
    assert name in apply(text, EVERY)


# --- what holds for every text ------------------------------------------------------------------------------------

NUMBERS = ["0,05", "0.05", "10,000", "1,234", "12,5", "3", "25", "100", "1.25", "1,2,3", "0,1", "007"]
UNIT_WORDS = [
    "mm",
    "µm",
    "μm",
    "um",
    "nm",
    "cm",
    "kg",
    "mg/dL",
    "°C",
    "° C",
    "K",
    "V",
    "kV",
    "%",
    "mm2",
    "mm²",
    "m²",
    "s",
    "Hz",
    "mL",
    "g",
]
WORDS = [
    "no", "not", "without", "absence of", "never", "left", "right", "Left", "(left)", "[right]", "upper", "lower", "bilateral",
    "effusion", "crack", "a", "an", "the", "of", "and", "CT", "PCR", "(PCR)", "CSF", "COPD", "E. coli", "H₂O", "$H_2O$",
    r"\mathrm{H_2O}", "H_2O", "10⁻³", "10^{-3}", r"\times", r"\mu m", r"\alpha", "Ca²⁺", "C6H5Br", "1,2-dichloroethane",
    "M8x1.25", "M8 × 1,25", "ISO2768-mK", "ISO 2768", "AB-12mm", "±", "+/-", "(a)", "(b)", "(A)", "(B)", "a)", "b)",
    "(a, b)", "$", "{", "}", "_", "^", "\\", ":", ".", ",", "(", ")", "-", "–", "x", "×", "⁻¹", "²", "3ʹ", "é", "🐝",
    "\u202f", "\u00a0", "½", "℃", "º", "deg C", "M", "ISO", "2768", "_{2}", "^{2+}", r"\left(", r"\frac{1}{2}", r"\,",
]  # fmt: skip
PIECES = st.one_of(st.sampled_from(WORDS), st.sampled_from(NUMBERS), st.sampled_from(UNIT_WORDS), st.text(max_size=3))
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from(["", " ", " "])), max_size=14).map(
    lambda parts: "".join(piece + gap for piece, gap in parts)
)
HOWS = {name: preset(name) for name in ("general", "medical", "industrial", "scientific")} | {
    "every": EVERY,
    **{rule: TextHow((rule,)) for rule in ("units", "tolerances", "part_numbers", "formulas", "panels")},
}

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SIDES = ("left", "right", "upper", "lower", "bilateral")
_NEGATIONS = ("no", "not", "without", "absence", "never")


def digits(text: str) -> Counter[str]:
    """The digits of a text, small ones included: no rule adds or drops one."""
    plain = unicodedata.normalize("NFC", text).translate(_SUPERSCRIPT)
    return Counter(unicodedata.normalize("NFKC", one) for one in plain if unicodedata.normalize("NFKC", one).isdigit())


def words(text: str, wanted: tuple[str, ...]) -> Counter[str]:
    found = re.findall(r"(?<![^\W\d_\\])(?<!\\)[^\W\d_]+", re.sub(r"\\(?:left|right)(?=[(\[])", " ", text).lower())
    return Counter(one for one in found if one in wanted)


@pytest.mark.parametrize("name", sorted(HOWS))
@given(text=TEXTS)
@settings(max_examples=250, deadline=None)
def test_the_rules_are_idempotent_never_empty_a_text_and_lose_nothing(name, text):
    how = HOWS[name]
    once = apply(text, how)
    assert apply(once, how) == once
    assert bool(once) == bool(apply(text, TextHow()))
    assert not digits(text) - digits(once), "a number was lost"
    # a formula or ℃ that was glued to a word is letters then, so that the word no longer stands free: left$H_2O$
    there = Counter({word: once.lower().count(word) for word in (*_NEGATIONS, *_SIDES)})
    assert not words(text, _NEGATIONS + _SIDES) - there


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_units_and_tolerances_change_no_letter(text):
    plain = unicodedata.normalize("NFC", text).replace("μ", "µ").replace("℃", "C").replace("º", "")
    once = apply(text, INDUSTRIAL).replace("μ", "µ")
    lost = Counter(filter(str.isalpha, plain)) - Counter(filter(str.isalpha, once))
    # um for µm, deg for °, X for the x of a thread
    assert set(lost) <= {"u", "d", "e", "g", "X"}


@pytest.mark.parametrize(
    "odd",
    ["$" * 3000, "\\(" * 3000, "_" * 3000 + "a", "[**a**]" * 500 + "x", "1," * 3000, "1-" * 3000 + "mm", "{" * 2000 + "}" * 2000,
     "(a) " * 2000, "M8x" * 1500, "H_2" * 1500, "COCOCOCO_2" * 300, "no " * 3000, "^{2}" * 1500, "X" * 5000, "+/-" * 2000,
     r"\frac{" * 800 + "}" * 800, "FINDINGS:" * 800, "° " * 3000],
)  # fmt: skip
def test_odd_texts_of_some_length_come_to_an_end(odd):
    for how in (*HOWS.values(), TextHow(("deidentification", "sections"), ("findings",))):
        assert apply(odd, how)
