"""Sentences of a caption: what a training step may see instead of the whole, and the windows of a text that is too long.

A long caption says several things, and any of its sentences may be all that a later query has. Training on sentences drawn
anew each epoch is text augmentation (Fan et al. 2023, LaCLIP, and Zheng et al. 2024, DreamLIP, draw among rewritten and
among split captions); averaging windows is what long documents get from short encoders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

MOST = 6
"""Sentences of a caption that are drawn from: later ones of a page-long caption seldom name what is seen."""

LEAST_WORDS = 3
"""A shorter sentence joins the one before it: "Fig. 2" and "Scale bar." say nothing alone."""

_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9À-ÖØ-ÞΑ-Ω]|\([a-z]\))")
_NO_END = re.compile(
    r"(?:\b(?:[A-Z]|e\.g|i\.e|cf|vs|ca|approx|et al|etc|Fig|Figs|fig|Eq|No|Nos|St|Dr|Mr|Mrs|Ms|Prof|Vol|pp?|spp?|subsp|var|"
    r"Ref|Refs|Sec|Ch|Inc|Ltd|Jr|Sr|U\.S|max|min|No)|\d)\.$"
)


def split(text: str) -> list[str]:
    """The sentences of a text, in order; joined by spaces they are the text.

    A full stop ends a sentence where a capital, a digit or a panel's letter follows, unless it stands behind an initial, a
    number or a usual abbreviation. Sentences of fewer than `LEAST_WORDS` words join their neighbour.
    """
    out: list[str] = []
    start = 0
    for gap in _END.finditer(text):
        if _NO_END.search(text[start : gap.start()].rstrip("\"'”’)]")):
            continue
        out.append(text[start : gap.end()].strip())
        start = gap.end()
    out.append(text[start:].strip())
    joined: list[str] = []
    for one in out:
        if joined and (len(one.split()) < LEAST_WORDS or len(joined[-1].split()) < LEAST_WORDS):
            joined[-1] = f"{joined[-1]} {one}"
        elif one:
            joined.append(one)
    return joined or [text]


def choices(text: str) -> tuple[str, ...]:
    """What a step may see of a caption: all of it first, then each of its first `MOST` sentences; alone where it has one."""
    found = split(text)
    return (text, *found[:MOST]) if len(found) > 1 else (text,)


def windows(text: str, count: Callable[[Sequence[str]], Sequence[int]], most: int) -> list[str]:
    """A text in pieces that fit a model: whole sentences as long as they fit, words where a sentence does not.

    Args:
        text: cleaned.
        count: tokens of each of some texts, special ones included.
        most: tokens that the model takes.

    Returns:
        The text itself where it fits.
    """
    if count([text])[0] <= most:
        return [text]
    out: list[str] = []
    for sentence in split(text):
        pieces = [sentence] if count([sentence])[0] <= most else _words(sentence, count, most)
        for piece in pieces:
            longer = f"{out[-1]} {piece}" if out else piece
            if out and count([longer])[0] <= most:
                out[-1] = longer
            else:
                out.append(piece)
    return out


def _words(sentence: str, count: Callable[[Sequence[str]], Sequence[int]], most: int) -> list[str]:
    """A sentence cut between words, each piece as long as it may be; a word that is too long stands alone."""
    words, out = sentence.split(" "), []
    while words:
        low, high = 1, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            if count([" ".join(words[:middle])])[0] <= most:
                low = middle
            else:
                high = middle - 1
        out.append(" ".join(words[:low]))
        words = words[low:]
    return out
