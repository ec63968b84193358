"""a or an: the article before a word that takes another's place. Imports no torch."""

from __future__ import annotations

import re

_ARTICLE = re.compile(r"(?<![^\W_])(an?)(\s+)$", re.IGNORECASE)
_SPELLED_VOWELS = "AEFHILMNORSX"  # letters whose names begin with a vowel: an MRI, an X-ray
_LIKE_YOU = ("eu", "uni", "use", "usu", "uti")  # vowels that sound like "you": a unit


def righted(before: str, word: str, short: bool) -> str:
    """The text before `word`, with the article at its end made right for it; the text itself where none is there.

    Args:
        before: all that stands before the word, its spaces included.
        word: not empty.
        short: the word is an abbreviation, which is spelled.
    """
    article = _ARTICLE.search(before)
    if article is None:
        return before
    right = "an" if _begins_with_vowel(word, short) else "a"
    right = right.upper() if article[1].isupper() and len(article[1]) > 1 else article[1][0] + right[1:]
    return before[: article.start()] + right + article[2]


def _begins_with_vowel(word: str, short: bool) -> bool:
    if short or word[:2].lower() == "x-":
        return word[0].upper() in _SPELLED_VOWELS
    return word[0].lower() in "aeiou" and not word.lower().startswith(_LIKE_YOU)
