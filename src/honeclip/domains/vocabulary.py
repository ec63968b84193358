"""The terms of a field: lists as TOML files, and where they stand in a text.

A file names kinds, the terms of each kind, and abbreviations:

    swap = ["finding"]                  # kinds whose terms `hard_captions` may put in each other's place

    [terms]
    finding = [
      "pneumonia",
      ["fracture", "fractured"],        # the term's own name, then other names of the same thing
    ]

    [abbreviations]                     # written exactly so: case counts
    PNA = "pneumonia"

`as_written = ["PNA"]` beside `swap` names abbreviations that the text rule "abbreviations" leaves as they are: units, those
with a second meaning, and those that are better known than what they stand for.

Names are matched as whole words without regard to case, a space for a hyphen and the other way round, and with the plain
English plural. What such rules cannot see (a changed word order, an ending of another kind) is another name in the list.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from honeclip.errors import DomainError

_WORD = re.compile(r"[^\W_]+")
_GAPS = re.compile(r"[\s_\-‐‑–]+")
_GAP = r"[\s_\-‐‑–]+"
_END = r"(?![^\W_])"

# NegEx (Chapman et al. 2001, A simple algorithm for identifying negated findings) in small: a few words straight before.
_NEGATION = re.compile(
    r"(?<![^\W_])(?:no|not|without|absence of|free of|negative for)\s+"
    r"(?:(?:an?|the|any|acute|definite|focal|large|significant|visible|evidence of|signs? of)\s+)*$",
    re.IGNORECASE,
)
_LISTED = re.compile(r"\s*(?:(?:,\s*)?n?or\s+(?:(?:an?|any)\s+)?|,\s*|/\s*)", re.IGNORECASE)
_NEGATION_REACH = 60  # characters before a term in which its negation begins


@dataclass(frozen=True)
class Term:
    """One thing with all its names.

    Attributes:
        name: the id and what reports show.
        kind: such as "finding"; terms of one kind exclude each other as far as they can.
        synonyms: other names, case ignored.
        abbreviations: short names, case counts.
    """

    name: str
    kind: str
    synonyms: tuple[str, ...] = ()
    abbreviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A term in a text: `text[start:stop]`.

    Attributes:
        start: first character.
        stop: one past the last character.
        term: whose name it is.
        name: which of its names, as in the list.
        plural: written in the plural.
        short: written as an abbreviation.
        negated: said to be absent: "no pneumothorax", "without effusion or pneumothorax".
    """

    start: int
    stop: int
    term: Term
    name: str
    plural: bool
    short: bool
    negated: bool


@dataclass(frozen=True)
class _Form:
    """One way to write a term: the pattern begins at a word's first letter."""

    pattern: re.Pattern[str]
    term: Term
    name: str
    plural: bool
    short: bool


@dataclass(frozen=True)
class Terms:
    """All terms of a field.

    Attributes:
        entries: no two share a name.
        swap: kinds whose terms may stand for each other in a hard caption.
        plurals: whether names are found in the plural too.
        as_written: abbreviations that are found as their term, but never written out.
    """

    entries: tuple[Term, ...] = ()
    swap: tuple[str, ...] = ()
    plurals: bool = True
    as_written: tuple[str, ...] = ()

    def find(self, text: str) -> dict[str, int]:
        """How often each term stands in the text, by name, in the order of the text.

        A term that is said to be absent counts as another one, "no NAME": "no pneumothorax" is not like "pneumothorax".
        """
        return dict(Counter(f"no {one.term.name}" if one.negated else one.term.name for one in self.occurrences(text)))

    def occurrences(self, text: str) -> list[Found]:
        """Every term from left to right; where several begin at one word the longest, and none within another."""
        text = text.replace("μ", "µ")  # the Greek letter is written for the micro sign; one character each
        found: list[Found] = []
        for word in _WORD.finditer(text):
            start = word.start()
            if found and start < found[-1].stop:
                continue
            for form in self._starts.get(word.group().lower(), ()):
                if match := form.pattern.match(text, start):
                    negated = _negated(text, start, found[-1] if found else None)
                    found.append(Found(start, match.end(), form.term, form.name, form.plural, form.short, negated))
                    break
        return found

    @cached_property
    def expansions(self) -> dict[str, str]:
        """Each abbreviation that may be written out, and its plural -> the term's name, and that in the plural.

        One whose term holds an abbreviation itself is left out, for nothing would be gained. Names of methods, which end
        in -ing, -is or -y, have no plural: "MRIs" stays.
        """
        short_names = {one for term in self.entries for one in term.abbreviations}
        kept = {*self.as_written} | {
            one
            for term in self.entries
            if short_names & set(re.split(r"[\s-]", term.name))
            for one in term.abbreviations
        }
        found = {one: term.name for term in self.entries for one in term.abbreviations if one not in kept}
        several = {
            plural(one, short=True): plural(name)
            for one, name in found.items()
            if one[-1].isupper() and not name.endswith(("ing", "y"))
        }
        return {**{one: name for one, name in several.items() if one not in short_names}, **found}

    @cached_property
    def _starts(self) -> dict[str, list[_Form]]:
        """Forms by their first word in lower case, longest first. A name goes before another term's plural."""
        written: dict[str, tuple[str, _Form]] = {}
        for plural_too in (False, True) if self.plurals else (False,):
            for term in self.entries:
                for name, short in _names(term):
                    form = plural(name, short=short) if plural_too else name
                    key = _key(form, short)
                    if key not in written:
                        written[key] = form, _Form(_pattern(form, short), term, name, plural_too, short)
        starts: dict[str, list[_Form]] = {}
        for text, one in sorted(written.values(), key=lambda pair: (-len(pair[0]), not pair[1].short, pair[0])):
            first = _WORD.match(text)
            assert first is not None  # `read` refuses names that do not begin with a letter or digit
            starts.setdefault(first.group().lower(), []).append(one)
        return starts


def plural(name: str, *, short: bool = False) -> str:
    """The plain English plural of a name's last word: s, es after a hissing sound, ies for a y after a consonant."""
    if not short and re.search(r"[^aeiou\W\d_]y$", name, re.IGNORECASE):
        return name[:-1] + "ies"
    return name + ("es" if not short and re.search(r"(?:s|x|z|ch|sh)$", name, re.IGNORECASE) else "s")


def read(files: Sequence[Path]) -> Terms:
    """The terms of several files together.

    Raises:
        DomainError: every fault at once, each with its file: no TOML, an unknown key, a name that two terms share or that
            does not begin and end with a letter or a digit, an abbreviation of an unknown name, an unknown kind in `swap`.
    """
    faults: list[str] = []
    entries: list[Term] = []
    swap: list[str] = []
    as_written: list[str] = []
    for file in files:
        content = _content(file, faults)
        if content is None:
            continue
        short = _short_names(file, content, faults)
        for kind, rows in content.terms.items():
            entries += [Term(names[0], kind, names[1:], tuple(short.get(names[0], ()))) for names in rows]
        unknown = [kind for kind in content.swap if kind not in content.terms]
        faults += [f"{file}: swap = {kind!r}: there is no such kind under [terms]" for kind in unknown]
        swap += content.swap
        unknown = [one for one in content.as_written if one not in content.abbreviations]
        faults += [f"{file}: as_written = {one!r}: there is no such entry under [abbreviations]" for one in unknown]
        as_written += content.as_written
    terms = Terms(tuple(entries), tuple(dict.fromkeys(swap)), as_written=tuple(as_written))
    faults += _name_faults(terms)
    if faults:
        raise DomainError("terms:\n" + "\n".join(faults))
    return terms


def _as_tuple(given: object) -> object:
    """One name stands for a list of one."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


_Words = Annotated[str, Field(min_length=1)]
_Names = Annotated[tuple[_Words, ...], BeforeValidator(_as_tuple), Field(min_length=1)]


@dataclass(frozen=True)
class _Content:
    """A term file as it is written."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    terms: Mapping[str, tuple[_Names, ...]]
    abbreviations: Mapping[str, _Words] = field(default_factory=dict)
    swap: tuple[_Words, ...] = ()
    as_written: tuple[_Words, ...] = ()


def _content(file: Path, faults: list[str]) -> _Content | None:
    try:
        mapping = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        return TypeAdapter(_Content).validate_json(json.dumps(mapping, default=str), strict=True)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        faults.append(f"{file}: {error}")
    except ValidationError as error:
        known = [one.name for one in fields(_Content)]
        for one in error.errors():
            key = ".".join(str(part) for part in one["loc"])
            if one["type"] == "unexpected_keyword_argument":
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                faults.append(
                    f"{file}: {key}: unknown key; " + (f"nearest: {near[0]}" if near else f"known: {', '.join(known)}")
                )
            elif one["type"] == "missing":
                faults.append(f"{file}: {key}: missing")
            else:
                faults.append(f"{file}: {key} = {one['input']!r}: {one['msg']}")
    return None


def _short_names(file: Path, content: _Content, faults: list[str]) -> dict[str, list[str]]:
    """A term's own name -> its abbreviations."""
    own = {_key(name): names[0] for rows in content.terms.values() for names in rows for name in names}
    short: dict[str, list[str]] = {}
    for abbreviation, name in content.abbreviations.items():
        if _key(name) in own:
            short.setdefault(own[_key(name)], []).append(abbreviation)
        else:
            faults.append(f"{file}: abbreviations.{abbreviation} = {name!r}: there is no such term in this file")
    return short


def _name_faults(terms: Terms) -> list[str]:
    faults: list[str] = []
    owner: dict[str, Term] = {}
    for term in terms.entries:
        for name, short in _names(term):
            key = _key(name, short)
            if not (name[0].isalnum() and name[-1].isalnum()):
                faults.append(f"{name!r}: a name begins and ends with a letter or a digit")
            elif key in owner:
                other = owner[key]
                faults.append(
                    f"{name!r} stands for {other.name!r} ({other.kind}) and for {term.name!r} ({term.kind}): keep one"
                )
            owner.setdefault(key, term)
    return faults


def _names(term: Term) -> Iterator[tuple[str, bool]]:
    """Each name of a term, and whether it is an abbreviation."""
    yield from ((name, False) for name in (term.name, *term.synonyms))
    yield from ((name, True) for name in term.abbreviations)


def _key(name: str, short: bool = False) -> str:
    return f"={name}" if short else _GAPS.sub(" ", name).lower()


def _pattern(name: str, short: bool) -> re.Pattern[str]:
    words = [re.escape(part).replace("’", "'").replace("'", "['’]") for part in _GAPS.split(name)]
    return re.compile(_GAP.join(words) + _END, 0 if short else re.IGNORECASE)


def _negated(text: str, start: int, before: Found | None) -> bool:
    if _NEGATION.search(text[max(0, start - _NEGATION_REACH) : start]):
        return True
    return before is not None and before.negated and _LISTED.fullmatch(text[before.stop : start]) is not None
