"""What every caption, prompt and query goes through before any tokenizer's own cleaning: `clean`, and the text rules of a
field. Imports no torch.

The rules by name, in the order in which they are applied (`TextRule`):

    deidentification   `reports.without_marks`    ___, [**...**] and XXXX taken out
    sections           `reports.chosen_sections`  of a report only some sections
    abbreviations      `reports.expanded`         written out, from the term lists
    units              `notation.units`           0,05 mm, 5 um, 20° C
    tolerances         `notation.tolerances`      ± 0,1 and +/-0.1
    part_numbers       `notation.part_numbers`    M8 × 1,25 and ISO2768-mK
    formulas           `formulas.plain_formulas`  $H_2O$, H₂O, 10⁻³
    panels             `panels.one_way`           (A), [left], b)

Then the field's own replacements. A text that would be left without a letter or digit stays as `clean` leaves it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import regex

from honeclip.domains.domain import Domain
from honeclip.domains.schema import TextRule
from honeclip.domains.vocabulary import Terms
from honeclip.errors import DomainError
from honeclip.preprocess import formulas, notation, panels, reports

RULES = 2
"""Raised when `clean` would give another text."""

TEXT_RULES = 1
"""Raised when a text rule would give another text."""

REPLACE_SECONDS = 1.0
"""That one own replacement may take on one text; an honest one takes microseconds."""

_ROUNDS = 4  # one rule may make work for another: $20^\circ C$ is a formula, then a temperature

_GAPS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TextHow:
    """All that decides what becomes of a text: it goes with a model, which needs no domain or term file for it.

    Attributes:
        rules: in the order in which they are applied.
        sections: for "sections": headings of a report, in lower case or not.
        expansions: for "abbreviations": pairs of one and what it stands for.
        replace: own rules: pairs of a regular expression and what takes the place of what it matches.
        long: what becomes of a text that is longer than the model takes: "cut" or "windows".
    """

    rules: tuple[TextRule, ...] = ()
    sections: tuple[str, ...] = ()
    expansions: tuple[tuple[str, str], ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    long: Literal["cut", "windows"] = "cut"

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives it back."""
        return {
            "rules": list(self.rules),
            "sections": list(self.sections),
            "expansions": [list(pair) for pair in self.expansions],
            "replace": [list(pair) for pair in self.replace],
            "long": self.long,
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> TextHow:
        """What `to_json` gave.

        Raises:
            TypeError, ValueError: a key is missing, unknown or wrong.
        """
        unknown = [rule for rule in stored["rules"] if rule not in get_args(TextRule)]
        if unknown or set(stored) != {"rules", "sections", "expansions", "replace", "long"}:
            raise ValueError(f"text rules {unknown or sorted(stored)} are not known here")
        return TextHow(
            rules=tuple(stored["rules"]),
            sections=tuple(stored["sections"]),
            expansions=tuple((short, long) for short, long in stored["expansions"]),
            replace=tuple((pattern, by) for pattern, by in stored["replace"]),
            long=stored["long"],
        )


NOTHING = TextHow()
"""`clean` alone, as without a domain."""


def text_how(domain: Domain, terms: Terms) -> TextHow:
    """What a domain does to texts; `terms` from `domains.read_terms`, whose abbreviations are taken along."""
    wanted = set(domain.text.rules)
    return TextHow(
        rules=tuple(rule for rule in get_args(TextRule) if rule in wanted),
        sections=domain.text.sections if "sections" in wanted else (),
        expansions=tuple(terms.expansions.items()) if "abbreviations" in wanted else (),
        replace=domain.text.replace,
        long=domain.text.long,
    )


def clean(text: str) -> str:
    """One line of text in Unicode's composed form (NFC); a cleaned text stays as it is.

    Runs of white space and control characters become one space, and none stands at the ends. Half of a surrogate pair,
    which no encoding can write and every tokenizer stumbles over, becomes U+FFFD; two halves become their character.
    Case, symbols, units, formulas and the joiners inside emoji stay: µm is not um, and CO is not Co.
    """
    if _HALVES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _GAPS.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")


def apply(text: str, how: TextHow) -> str:
    """The text cleaned and after the rules; never empty where the cleaned text is not.

    Raises:
        DomainError: an own replacement takes too long.
    """
    return applied([text], how)[0][0]


def applied(texts: Sequence[str], how: TextHow) -> tuple[list[str], int]:
    """Each text after the rules, and how many the rules would have emptied: these are only cleaned.

    Raises:
        DomainError: an own replacement takes too long.
    """
    cleaned = [clean(text) for text in texts]
    if how == NOTHING:
        return cleaned, 0
    steps = _steps(how)
    kept, out = 0, []
    for text in cleaned:
        ruled = _replaced(_ruled(text, steps), how.replace)
        emptied = ruled != text and not any(sign.isalnum() for sign in ruled)
        kept += emptied
        out.append(text if emptied else ruled)
    return out, kept


@lru_cache(maxsize=16)
def _steps(how: TextHow) -> tuple[Callable[[str], str], ...]:
    by_name: dict[TextRule, Callable[[str], str]] = {
        "deidentification": reports.without_marks,
        "sections": partial(reports.chosen_sections, names=how.sections),
        "abbreviations": partial(reports.expanded, expansions=dict(how.expansions)),
        "units": notation.units,
        "tolerances": notation.tolerances,
        "part_numbers": notation.part_numbers,
        "formulas": formulas.plain_formulas,
        "panels": panels.one_way,
    }
    return tuple(by_name[rule] for rule in how.rules)


def _ruled(text: str, steps: Sequence[Callable[[str], str]]) -> str:
    """The rules one after the other, until they change nothing any more."""
    for _ in range(_ROUNDS):
        before = text
        for step in steps:
            text = step(text)
        if text == before:
            return text
        text = clean(text)
    return text


def _replaced(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return text
    for pattern, by in pairs:
        try:
            text = regex.sub(pattern, by, text, timeout=REPLACE_SECONDS)
        except TimeoutError:
            raise DomainError(
                f"text.replace: {pattern!r} does not come to an end within {REPLACE_SECONDS:g} s on a text of {len(text)} "
                "characters: write it without a repetition inside a repetition, such as (a+)+"
            ) from None
    return clean(text)
