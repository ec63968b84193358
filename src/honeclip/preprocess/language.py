"""Whether captions are in the language that a domain's rules are written for. A look at function words and scripts.

It decides nothing. It is there for a warning: templates, terms and hard captions in English do nothing for captions in
German, and nobody sees it. Short captions have no function words, so only data in which some other language is plainly
more frequent is spoken of.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_FUNCTION_WORDS = {
    "en": "a the of and is are with in on at to for from this that by an as it which",
    "de": "der die das und ist sind mit ein eine einer eines im auf von für zu den dem des aus bei nicht",
    "fr": "le la les des et est sont avec une un dans sur du de pour au aux par ce cette pas",
    "es": "el la los las y es son con una un en del de por para al se su que no",
    "it": "il lo la gli le e è sono con una un nel della del di per al si che non",
    "pt": "o a os as e é são com uma um no na do da de por para ao se que não",
    "nl": "de het een en is zijn met van in op voor aan uit bij niet dat die te",
}
"""Of each language its commonest words (articles, prepositions, conjunctions, forms of to be)."""

_SCRIPTS = {
    "CYRILLIC": ("ru", "uk", "bg", "sr"),
    "CJK": ("zh", "ja"),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "HANGUL": ("ko",),
    "ARABIC": ("ar", "fa", "ur"),
    "HEBREW": ("he",),
    "DEVANAGARI": ("hi", "mr", "ne"),
    "THAI": ("th",),
}
"""First word of a letter's Unicode name -> languages that are written so. Greek letters stand in formulas everywhere."""

LEAST_WORDS, LEAST_SHARE, TIMES = 50, 0.1, 1.5

_WORD = re.compile(r"[^\W\d_]+")


def warning(captions: Sequence[str], language: str) -> str:
    """A sentence where captions look like another language than `language`; "" where they do not, or nothing can be said.

    Args:
        captions: of a data set.
        language: its code, as in "en" or "en-GB".
    """
    own = language.partition("-")[0].lower()
    words = Counter(word.lower() for caption in captions for word in _WORD.findall(caption))
    total = words.total()
    if total < LEAST_WORDS:
        return ""
    written = Counter[str]()
    for word, count in words.items():
        script = unicodedata.name(word[0], "").partition(" ")[0].partition("-")[0]
        written[script] += count
    for script, languages in _SCRIPTS.items():
        if written[script] > total / 2 and own not in languages:
            return _said(own, f"more than half of their words are written in {script.capitalize()} letters")
    if own not in _FUNCTION_WORDS:
        return ""
    shares = {name: sum(words[one] for one in text.split()) / total for name, text in _FUNCTION_WORDS.items()}
    best = max(shares, key=lambda name: shares[name])
    if best != own and shares[best] > LEAST_SHARE and shares[best] > TIMES * shares[own]:
        return _said(
            own, f"{shares[best]:.0%} of their words are common ones of {best!r}, {shares[own]:.0%} of {own!r}"
        )
    return ""


def _said(own: str, why: str) -> str:
    return (
        f"the captions do not look like the domain's language {own!r}: {why}. Templates, terms and text rules of the domain "
        "may do nothing for them; copy the domain (honeclip domains show NAME), set language, and translate its words"
    )
