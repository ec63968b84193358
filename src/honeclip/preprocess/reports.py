"""Text rules of reports: marks of de-identification, sections, abbreviations. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from honeclip.preprocess.articles import righted

# [**Hospital 12**] of MIMIC-III, ___ of MIMIC-IV and MIMIC-CXR, XXXX of the chest X-rays of Indiana University (OpenI).
_MARK = r"(?>\[\*\*.*?\*\*\]|_{3,}+|(?<![^\W_])X{4,}+(?![^\W_])|\[(?:REDACTED|redacted)\])"
_MARKS = rf"{_MARK}(?:[\s-]?{_MARK})*"
_BRACKETED = re.compile(rf"\s?\(\s?{_MARKS}\s?\)")
_BEFORE_A_STOP = re.compile(rf"(?:\s|(?<=\())?-?{_MARKS}-?\s?(?=[.,;:)\]])")
_ELSEWHERE = re.compile(rf"(?:(?P<opened>(?<=\())|\s)?-?{_MARKS}-?\s?")

# Of radiology: what the section parser of MIMIC-CXR's authors (github.com/MIT-LCP/mimic-cxr, txt/section_parser.py) knows
# by its own or another name, and their plain variants.
_HEADINGS = (
    "addendum", "clinical history", "clinical indication", "clinical information", "comparison", "comparisons",
    "conclusion", "conclusions", "diagnosis", "exam", "examination", "final report", "findings", "history", "impression",
    "indication", "indications", "interpretation", "notification", "opinion", "procedure", "reason for exam",
    "reason for examination", "recommendation", "recommendations", "study", "technique", "wet read",
)  # fmt: skip

_STANDS_ALONE = r"(?:{})(?!\w)(?![-/&+]\w)(?!\.[^\W\d_])"
_SENTENCE_BEGINS = re.compile(r"(?:^|[^\W\d_]{3}[.!?][\"'”’)]? )(?:\(\w\) )?$")
_PART_OF_A_NAME = re.compile(r"\w[-/.&+]?$")
"""Behind and before a word that is a part of a longer name: the TB of TB/HIV, the CT of CT-guided, the PA of U.PA."""


def without_marks(text: str) -> str:
    """The text without the marks that stand for what was taken out of it, tidied where they stood."""
    if not any(mark in text for mark in ("[**", "___", "XXXX", "[REDACTED]", "[redacted]")):
        return text
    text = _BEFORE_A_STOP.sub("", _BRACKETED.sub("", text))
    return _ELSEWHERE.sub(lambda found: "" if found["opened"] is not None else " ", text).strip(" ")


def chosen_sections(text: str, names: Sequence[str]) -> str:
    """The text of the sections of these names, in that order; the whole text where none of them is there.

    A heading is a known one, or one of `names`, with a capital first and a colon behind: "FINDINGS: ...". What follows
    belongs to it until the next known heading. "FINDINGS AND IMPRESSION:" counts as the first of `names` that it holds.
    """
    if ":" not in text:
        return text
    known = tuple(dict.fromkeys(" ".join(name.lower().split()) for name in names))
    headings = [found for found in _heading(known).finditer(text) if found[0][0].isupper()]
    parts: dict[str, list[str]] = {name: [] for name in known}
    for place, found in enumerate(headings):
        stop = headings[place + 1].start() if place + 1 < len(headings) else len(text)
        own = {found["first"].lower(), (found["second"] or "").lower()}
        name = next((name for name in known if name in own), None)
        if name is not None:
            parts[name].append(text[found.end() : stop].strip(" "))
    kept = " ".join(part for name in known for part in parts[name] if part)
    return kept or text


@lru_cache(maxsize=32)
def _heading(names: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(re.escape(name) for name in sorted({*names, *_HEADINGS}, key=len, reverse=True))
    return re.compile(rf"(?<!\S)(?P<first>{either})(?:\s?(?:and|&|/)\s?(?P<second>{either}))?:(?=\s|$)", re.IGNORECASE)


def expanded(text: str, expansions: Mapping[str, str]) -> str:
    """The text with abbreviations written out, where they stand as words of their own and exactly so.

    One that the text itself explains stays everywhere in it: "cerebrospinal fluid (CSF) ... CSF", "CSF, the cerebrospinal
    fluid", and "a thing of another name (CSF)", which may well mean something else. An article before it is made right,
    and a capital begins a sentence.

    Args:
        text: cleaned.
        expansions: abbreviation -> what it stands for, which holds none of the abbreviations.
    """
    if not expansions:
        return text
    out, done = "", 0
    for found in _abbreviation(tuple(expansions)).finditer(text):
        short, long, start = found[0], expansions[found[0]], found.start()
        if _PART_OF_A_NAME.search(text, max(0, start - 2), start) or _explained(text, short, long):
            continue
        if _SENTENCE_BEGINS.search(text, max(0, start - 12), start):
            long = long[0].upper() + long[1:]
        out += righted(text[done:start], long, short=False) + long
        done = found.end()
    return out + text[done:]


def _explained(text: str, short: str, long: str) -> bool:
    if f"({short})" in text or long.lower() in text.lower():
        return True
    begins = re.split(r"[\s-]", long.lower(), maxsplit=1)[0]
    start = text.find(f"{short} (")
    while start >= 0:
        if text[start + len(short) + 2 :].lower().startswith(begins):
            return True
        start = text.find(f"{short} (", start + 1)
    return False


@lru_cache(maxsize=32)
def _abbreviation(shorts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(_STANDS_ALONE.format("|".join(re.escape(one) for one in sorted(shorts, key=len, reverse=True))))
