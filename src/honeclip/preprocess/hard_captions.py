"""Hard captions: a caption with one word made wrong, by rule, as a text negative that is close to the truth.

A contrastive batch rarely holds two captions that differ only in "left" and "right", so a model need not learn the
difference (Yuksekgonul et al. 2023, When and why vision-language models behave like bags-of-words; they swap words for
such negatives). Here the words are data of the domain: groups of words that contradict each other (`hard_captions`) and
kinds of terms that exclude each other (`swap` of a term file). Imports no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from honeclip.domains.domain import Domain
from honeclip.domains.vocabulary import Found, Term, Terms, plural
from honeclip.preprocess.articles import righted


@dataclass(frozen=True)
class SwapRules:
    """What may be put in the place of what.

    Attributes:
        terms: of the field; those of a kind in `terms.swap` replace each other.
        groups: words that contradict each other, such as ("left", "right").
    """

    terms: Terms
    groups: tuple[tuple[str, ...], ...]

    @cached_property
    def others(self) -> dict[str, list[str]]:
        """Each word of the groups, in lower case -> the words that may replace it."""
        words: dict[str, dict[str, None]] = {}
        for group in self.groups:
            for word in group:
                others = {other: None for other in group if other.lower() != word.lower()}
                words.setdefault(word.lower(), {}).update(others)
        return {word: list(others) for word, others in words.items()}

    @cached_property
    def words(self) -> Terms:
        """The words of the groups, to be found as they stand."""
        return Terms(tuple(Term(word, "word") for word in self.others), plurals=False)

    @cached_property
    def kinds(self) -> dict[str, list[Term]]:
        """The terms of each kind that may be swapped."""
        of: dict[str, list[Term]] = {kind: [] for kind in self.terms.swap}
        for term in self.terms.entries:
            if term.kind in of:
                of[term.kind].append(term)
        return of


def swap_rules(domain: Domain, terms: Terms) -> SwapRules:
    """The rules of a domain; `terms` from `domains.read_terms`."""
    return SwapRules(terms, domain.hard_captions)


def hard_caption(text: str, rules: SwapRules, seed: int) -> str | None:
    """The text with one word or term replaced by one that contradicts it; None where no rule applies.

    A replacement never stands in the text already ("left and right lung" stays alone), a term that is said to be absent
    is left alone ("no pneumonia" and "no fracture" can both be true), and the result is never the text itself, case and
    spaces ignored. Case of the first letter, capitals throughout, plural, abbreviation and a or an are kept right.

    Args:
        text: a caption as `rules.clean` leaves it.
        rules: from `swap_rules`.
        seed: the same text and seed give the same result, on every machine.
    """
    options = [*_word_options(text, rules), *_term_options(text, rules)]
    if not options:
        return None
    digest = hashlib.blake2b(f"{seed}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rest, first = divmod(int.from_bytes(digest), len(options))
    for number in range(len(options)):
        found, replacements = options[(first + number) % len(options)]
        for other in range(len(replacements)):
            made = _replaced(text, found, *replacements[(rest + other) % len(replacements)])
            if _bare(made) != _bare(text):
                return made
    return None


Option = tuple[Found, list[tuple[str, bool]]]
"""A place in the text and what may stand there; True for an abbreviation."""


def _word_options(text: str, rules: SwapRules) -> list[Option]:
    found = rules.words.occurrences(text)
    there = {one.term.name for one in found}
    return [
        (one, options)
        for one in found
        if (options := [(word, False) for word in rules.others[one.term.name] if word.lower() not in there])
    ]


def _term_options(text: str, rules: SwapRules) -> list[Option]:
    found = rules.terms.occurrences(text)
    there = {one.term.name for one in found}
    options: list[Option] = []
    for one in found:
        others = [term for term in rules.kinds.get(one.term.kind, ()) if term.name not in there]
        if others and not one.negated:
            options.append((one, [_written(term, one) for term in others]))
    return options


def _written(term: Term, like: Found) -> tuple[str, bool]:
    """The term in the form of what it replaces: 3 mm becomes 3 cm, two scratches become two cracks."""
    short = like.short and bool(term.abbreviations)
    name = term.abbreviations[0] if short else _alike(term, like.name)
    return plural(name, short=short) if like.plural else name, short


def _alike(term: Term, name: str) -> str:
    """The term's name that ends as `name` does, for an ending tells a noun from an adjective: cracked, scratched."""
    best, longest = term.name, max(1, _common_ending(term.name, name))
    for other in term.synonyms:
        if (ending := _common_ending(other, name)) > longest:
            best, longest = other, ending
    return best


def _common_ending(first: str, second: str) -> int:
    pairs = zip(reversed(first.lower()), reversed(second.lower()), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _replaced(text: str, found: Found, word: str, short: bool) -> str:
    old = text[found.start : found.stop]
    if not short and not found.short:
        if len(old) > 1 and old.isupper():
            word = word.upper()
        else:
            word = (word[0].upper() if old[0].isupper() else word[0].lower()) + word[1:]
    return righted(text[: found.start], word, short) + word + text[found.stop :]


def _bare(text: str) -> str:
    return "".join(text.split()).casefold()
