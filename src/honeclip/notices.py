"""What `[notify]` asks for: when somebody is told of a run, and at which addresses.

An address is a secret as a whole: tokens stand in its host and path as often as in its password. So whatever is shown or
stored has its scheme alone, `mailtos://***`, and `env:NAME`, which takes the address from a variable of the environment.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MOMENTS = {
    "first": "the first evaluation after training has begun",
    "best": "an evaluation is the best so far",
    "plateau": "several evaluations in a row are not",
    "stalled": "nothing has come for far longer than a step takes",
    "memory": "a step ran out of memory and was done again in smaller pieces",
    "failed": "the run ended with an error, or its process was killed",
    "interrupted": "the run was stopped by a signal and saved",
    "done": "the run is finished",
}
"""Names that `notify.when` knows."""

BOTH = ("R@1", "R@5", "R@10", "median_rank")
"""Figures of retrieval: the mean of both directions, or one of them as `image_to_text.R@10`."""

ZERO_SHOT = ("accuracy", "balanced_accuracy", "macro_f1", "ece")

DIRECTIONS = ("image_to_text", "text_to_image")

FIGURES = ("score", *BOTH, *ZERO_SHOT, "forgetting", *(f"{way}.{name}" for way in DIRECTIONS for name in BOTH))
"""Figures of an evaluation on val that a comparison may name. `score` is what checkpoints are compared by; `forgetting` is by
how much the score on `evaluate.forgetting_data` fell."""

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

HIDDEN = "***"

_COMPARISON = re.compile(r"^\s*(?P<figure>[^<>=\s]+)\s*(?P<operator>>=|<=|>|<)\s*(?P<bound>\S+)\s*$")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*$")
_VARIABLE = re.compile(r"^env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)$")


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached, such as `R@10>0.6`."""

    figure: str
    operator: str
    bound: float

    def __str__(self) -> str:
        """As it is written in a config."""
        return f"{self.figure}{self.operator}{self.bound:g}"

    def reached(self, value: float) -> bool:
        """Whether the value is one that was asked for."""
        return OPERATORS[self.operator](value, self.bound)


def target(text: str) -> Target | None:
    """What one entry of `notify.when` compares; None where it is one of `MOMENTS`.

    Raises:
        ValueError: it is neither, or compares with what the figure can never be.
    """
    if text in MOMENTS:
        return None
    if "://" in text:
        raise ValueError(f"{masked(text)} is an address, and belongs into notify.urls")
    match = _COMPARISON.match(text)
    if match is None or match["figure"] not in FIGURES:
        written = match["figure"] if match else text
        near = difflib.get_close_matches(written, FIGURES if match else [*MOMENTS, *FIGURES], n=1)
        raise ValueError(
            f"{text!r} is neither one of {', '.join(MOMENTS)} nor a comparison such as R@10>0.6 of one of "
            f"{', '.join(FIGURES)}" + (f"; nearest: {near[0]}" if near else "")
        )
    try:
        bound = float(match["bound"])
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ValueError(f"{text!r} compares with {match['bound']!r}, which is no number; write it as R@10>0.6")
    is_rank = match["figure"].endswith("median_rank")
    if not is_rank and not 0 <= bound <= 1:
        raise ValueError(f"{text!r}: {match['figure']} lies between 0 and 1")
    return Target(match["figure"], match["operator"], bound)


def value(event: Mapping[str, object], figure: str) -> float | None:
    """A figure of an `evaluation` event; None where the event has none, as for R@10 of a split with few captions."""
    if figure in ("score", "forgetting"):
        return _number(event.get(figure))
    metrics = event.get("metrics")
    if figure in BOTH:
        both = [_number(_at(metrics, "retrieval", way, figure, "value")) for way in DIRECTIONS]
        found = [one for one in both if one is not None]
        return sum(found) / 2 if len(found) == 2 else None
    way, dot, name = figure.partition(".")
    path = ("retrieval", way, name) if dot else ("zeroshot", figure)
    return _number(_at(metrics, *path, "value"))


def masked(address: str) -> str:
    """An address as it may be shown and stored: `mailtos://***`. One that holds nothing beside its scheme stays as it is."""
    scheme, separator, rest = address.partition("://")
    if _VARIABLE.match(address) or (separator and not rest and _SCHEME.match(scheme)):
        return address
    return f"{scheme}://{HIDDEN}" if separator and _SCHEME.match(scheme) else HIDDEN


@dataclass(frozen=True)
class Addresses:
    """Those that can be told, and a sentence for each that cannot.

    Attributes:
        found: (name to show, address) of each.
        missing: sentences.
    """

    found: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]


def addresses(urls: Sequence[str], environ: Mapping[str, str]) -> Addresses:
    """The addresses of `notify.urls`, variables of the environment looked up.

    Args:
        urls: as in the config. One that is masked comes from a stored config and cannot be told anything.
        environ: for `env:NAME`; a variable may hold several addresses with blanks between them.
    """
    found, missing = [], []
    for number, url in enumerate(urls):
        name = f"notify.urls[{number}], {masked(url)}"
        variable = _VARIABLE.match(url)
        if variable and not environ.get(variable["name"], "").split():
            missing.append(f"{name}: this variable is not set, so nothing is sent there")
        elif variable:
            found += [(f"{name}, {masked(one)}", one) for one in environ[variable["name"]].split()]
        elif url.endswith(HIDDEN):
            missing.append(
                f"{name}: addresses are not stored with what they hide, so nothing is sent there; give --set notify.urls=... "
                "again, or name a variable that holds it, env:NAME"
            )
        else:
            found.append((name, url))
    return Addresses(tuple(found), tuple(missing))


def _at(found: object, *path: str) -> object:
    for key in path:
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    return found


def _number(found: object) -> float | None:
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
