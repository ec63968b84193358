"""A file of what a part's inspection must reach, and whether a model reaches it: pass or fail for each requirement.

    part = "magnetic tile"
    escape_rate = 0.05            # largest share of the defective parts that may pass
    overkill_rate = 0.2           # largest share of the good parts that may be stopped
    cost_per_part = 0.4           # in the unit of [costs]
    images_per_second = 20.0      # reading and decoding of files included, on this machine
    proof = "interval"            # or "value"

    [defects]                     # largest escape rate of each kind, by its label
    crack = 0.02

    [costs]
    escape = 50.0                 # of one defective part that passes
    overkill = 1.0                # of one good part that is stopped

With [costs] the threshold is the one that was cheapest on validation, without it the one that let at most 5 % of validation's
defective parts pass. A rate passes where the upper end of its exact 95 % interval keeps the limit (proof = "interval"): no
escape among ten parts does not show that fewer than 5 % escape. With proof = "value" the value itself decides.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from honeclip.errors import BadInput
from honeclip.evaluation.inspection import Costs, exact

Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_STRICT = ConfigDict(extra="forbid")


@checked(frozen=True, config=_STRICT)
class CostRules:
    """See `inspection.Costs`."""

    escape: Positive
    overkill: Positive = 1.0


@checked(frozen=True, config=_STRICT)
class Requirements:
    """The file above; what is left out is not asked for."""

    part: str = ""
    escape_rate: Rate | None = None
    overkill_rate: Rate | None = None
    cost_per_part: Positive | None = None
    images_per_second: Positive | None = None
    proof: Literal["interval", "value"] = "interval"
    defects: Mapping[str, Rate] = field(default_factory=dict)
    costs: CostRules | None = None


@dataclass(frozen=True)
class Verdict:
    """One requirement.

    Attributes:
        name: as in the file, such as "escape_rate" or "defects.crack".
        limit: what is allowed, or needed.
        value: what was measured; None where it could not be.
        low: lower end of its 95 % interval; the value itself for pictures per second.
        high: upper end.
        passed: whether it is reached.
        why: one sentence.
    """

    name: str
    limit: float
    value: float | None
    low: float
    high: float
    passed: bool
    why: str


def read(file: Path) -> Requirements:
    """A requirements file.

    Raises:
        BadInput: it cannot be read; an unknown key, with the nearest; a value that cannot be; nothing is asked for.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"requirements {file}: {error}") from None
    try:
        found = TypeAdapter(Requirements).validate_python(table)
    except ValidationError as error:
        raise BadInput(f"requirements {file}:\n" + "\n".join(_fault(one) for one in error.errors())) from None
    if not found.defects and all(getattr(found, name) is None for name in LIMITS):
        raise BadInput(f"requirements {file}: nothing is asked for; it can have {', '.join(LIMITS)} and [defects]")
    if found.cost_per_part is not None and found.costs is None:
        raise BadInput(f"requirements {file}: cost_per_part needs [costs] with escape = what one escaped part costs")
    return found


LIMITS = ("escape_rate", "overkill_rate", "cost_per_part", "images_per_second")
_KEYS = [one.name for one in fields(Requirements)] + ["costs.escape", "costs.overkill"]


def _fault(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(name, _KEYS, n=1, cutoff=0.5)
        return f"{name}: unknown key; " + (f"nearest: {near[0]}" if near else f"known: {', '.join(_KEYS)}")
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"


def costs_of(asked: Requirements | None) -> Costs:
    """Those of the file, else those of `Costs`."""
    given = asked.costs if asked else None
    return Costs(given.escape, given.overkill) if given else Costs()


def share(asked: Requirements, name: str, limit: float, count: int, of: int) -> Verdict:
    """A rate, `count` of `of` parts, against the most that is allowed."""
    if not of:
        return Verdict(name, limit, None, 0.0, 1.0, False, "no such part among the pictures, so nothing is shown")
    value, (low, high) = count / of, exact(count, of)
    if value > limit:
        return Verdict(name, limit, value, low, high, False, f"{count} of {of} parts, more than is allowed")
    if asked.proof == "value" or high <= limit:
        return Verdict(name, limit, value, low, high, True, f"{count} of {of} parts")
    why = f"{count} of {of} parts keep the limit, but so few do not show it: the rate may be up to {high:.3f}"
    if count == 0 and limit > 0:
        why += f"; {_needed(limit)} parts without one would"
    return Verdict(name, limit, value, low, high, False, why)


def _needed(limit: float) -> int:
    """How many parts without an escape show that fewer than `limit` escape: (1 - limit)^n <= 0.025."""
    return math.ceil(math.log(0.025) / math.log1p(-limit)) if limit < 1 else 1


def at_most(asked: Requirements, name: str, limit: float, figure: Mapping[str, float]) -> Verdict:
    """A figure with an interval against the most that is allowed."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    decides = value if asked.proof == "value" else high
    why = "" if decides <= limit else ("more than is allowed" if value > limit else "the interval reaches beyond it")
    return Verdict(name, limit, value, low, high, decides <= limit, why)


def at_least(name: str, limit: float, value: float | None) -> Verdict:
    """A speed of this machine against what is needed; it has no interval."""
    if value is None:
        return Verdict(name, limit, None, 0.0, 0.0, False, "it was not measured")
    why = "on this machine, reading and decoding of files included"
    return Verdict(name, limit, value, value, value, value >= limit, why)
