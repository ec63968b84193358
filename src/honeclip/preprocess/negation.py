"""What a negation governs in a text, after NegEx. Imports no torch.

Chapman et al. 2001, A simple algorithm for identifying negated findings and diseases in discharge summaries (Journal of
Biomedical Informatics 34, 301-310): phrases that negate what follows or what comes before, phrases that only look so,
and a scope of at most five words that ends with its sentence or at a word such as "but". Here a list goes on: each comma,
slash, "or" and "nor" is followed by five more words, for reports deny many findings in one sentence.
"""

from __future__ import annotations

import re

REACH = 5
"""Words that a negation governs, and each further item of a list."""

_ADJECTIVES = r"(?:(?:new|other|definite|clear|convincing|acute|radiographic|mammographic|significant|any)\s+)*"
_SIGN = r"(?:evidence|signs?|suggestion|indication|findings|history|complaints?|cause)"
_PARTICIPLE = (
    r"(?:seen|identified|present|visuali[sz]ed|evident|detected|demonstrated|appreciated|observed|noted|visible|found)"
)

_NOT_MEANT = (
    r"no\s+(?:(?:significant|definite|suspicious|interval|appreciable)\s+)*(?:change|increase|decrease)s?",
    r"not\s+(?:only|necessarily|certain\s+(?:if|whether)|extend|cause|drain)",
    r"without\s+(?:difficulty|further)",
    r"gram[\s-]negatives?",
)
_AFTER = (
    rf"(?:(?:is|are|was|were|be|been|being)\s+)?(?:not|never|no\s+longer)\s+{_PARTICIPLE}",
    r"(?:(?:is|are|was|were|has\s+been|have\s+been|can\s+be)\s+)?(?:ruled\s+out|excluded)",
    r"(?:(?:is|are|was|were)\s+)?(?:absent|unlikely|lacking)",
)
_BEFORE = (
    rf"(?:with\s+)?no\s+{_ADJECTIVES}{_SIGN}\s+(?:of|for|to\s+(?:suggest|indicate))",
    rf"without\s+{_ADJECTIVES}{_SIGN}\s+of",
    rf"(?:absence|lack)\s+of(?:\s+{_SIGN}\s+of)?",
    r"(?:negative|unremarkable)\s+for",
    r"free\s+of",
    r"fail(?:s|ed)?\s+to\s+(?:reveal|show|demonstrate)",
    r"den(?:y|ies|ied|ying)",
    r"rather\s+than",
    r"(?:do|does|did|has|have|had|is|are|was|were|can|could|will|would)\s+not",
    r"cannot(?:\s+see)?",
    r"lack(?:s|ed|ing)",
    r"never",
    r"neither",
    r"without",
    r"not",
    r"no",
)
_ENDS = (
    r"but", r"however", r"nevertheless", r"yet", r"though", r"although", r"except(?:\s+for)?", r"aside\s+from",
    r"apart\s+from", r"other\s+than", r"otherwise", r"secondary\s+to", r"due\s+to", r"as\s+the\s+cause\s+of", r"which",
    r"whereas", r"while",
)  # fmt: skip


def _any_of(phrases: tuple[str, ...]) -> str:
    return rf"(?<![\w-])(?:{'|'.join(phrases)})(?!\w)"


_PHRASE = re.compile(
    rf"(?P<seems>{_any_of(_NOT_MEANT)})|(?P<after>{_any_of(_AFTER)})|(?P<before>{_any_of(_BEFORE)})"
    rf"|(?P<ends>{_any_of(_ENDS)}|(?<!\b[A-Z])[.;!?](?=\s|$))",  # not the point of "E. coli"
    re.IGNORECASE,
)
_STEP = re.compile(r"(?P<list>,|/|(?<!\w)n?or(?!\w))|[^\s,/]+", re.IGNORECASE)


def negation_scopes(text: str) -> list[tuple[int, int]]:
    """Where a text is negated: `text[start:stop]` of each scope, without the negation itself, in the order of the text.

    "No pneumothorax or large effusion. Heart normal." gives the one span of "pneumothorax or large effusion".
    """
    phrases = list(_PHRASE.finditer(text))
    scopes = []
    for place, found in enumerate(phrases):
        if found["before"]:
            stop = phrases[place + 1].start() if place + 1 < len(phrases) else len(text)
            scopes.append(_ahead(text, found.end(), stop))
        elif found["after"]:
            scopes.append(_back(text, phrases[place - 1].end() if place else 0, found.start()))
    return sorted((start, stop) for start, stop in scopes if start < stop)


def _ahead(text: str, start: int, stop: int) -> tuple[int, int]:
    """The scope after a negation: `REACH` words, and as many after each sign of a list."""
    left, first, last = REACH, stop, start
    for step in _STEP.finditer(text, start, stop):
        if step["list"]:
            left = REACH
        elif left:
            left -= 1
            first, last = min(first, step.start()), step.end()
        else:
            break
    return first, last


def _back(text: str, start: int, stop: int) -> tuple[int, int]:
    """The scope before a negation, likewise: in "effusion or mass is not seen" both are denied."""
    steps = list(_STEP.finditer(text, start, stop))
    left, first, last = REACH, stop, start
    for step in reversed(steps):
        if step["list"]:
            left = REACH
        elif left:
            left -= 1
            first, last = step.start(), max(last, step.end())
        else:
            break
    return first, last
