"""`resolution.stages`: the sizes of the images over a run, as a config says them.

"native"                          the model's own size
"auto"                            the size that memory, time and a short probe speak for (`training.choice`)
224                               one size in pixels
[[0.0, 160], [0.6, 224]]          from which share of the run on each size holds
[{at = 0.0, size = 160}, {at = 0.6, size = 224, lr_scale = 0.5, warmup = 20}]
[{at = 0.0, size = 160}, {at = "plateau", size = 224, plateau = 3}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from honeclip import schedule


class SizeStage(BaseModel):
    """One row: a size of the images, from when on, and what goes with it.

    Attributes:
        at: share of the run at which it begins, or "plateau": when the score on val has not risen for `plateau`
            evaluations, at the latest where equal shares for all rows would put it.
        size: side of the images in pixels.
        lr_scale: factor on the learning rate.
        weight_decay: "same" is that of [train].
        warmup: duration of a linear ramp of the learning rate after the change.
        strength: of augmentation, 0 none, 1 as the domain says.
        patch_dropout: share of image patches that a step does not look at (FLIP: Li et al. 2022, arXiv 2212.00794).
        table_first: duration for which only the position table of the image body learns after the change.
        plateau: evaluations without a better score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at: float | Literal["plateau"]
    size: int = Field(ge=1)
    lr_scale: float = Field(1.0, gt=0, le=100)
    weight_decay: float | Literal["same"] = "same"
    warmup: str | int = 0
    strength: float = Field(1.0, ge=0, le=1)
    patch_dropout: float = Field(0.0, ge=0, lt=1)
    table_first: str | int = 0
    plateau: int = Field(0, ge=0)

    @field_validator("warmup", "table_first")
    @classmethod
    def _duration(cls, value: str | int) -> str | int:
        schedule.parse(value)
        return value

    @field_validator("weight_decay")
    @classmethod
    def _not_negative(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value < float("inf"):
            raise ValueError(f"{value} is no weight decay: 0 or above")
        return value


def read(value: Any) -> Any:
    """What stands in a config, as "native", "auto", a number of pixels or a tuple of `SizeStage`.

    Raises:
        ValueError: it is none of them, or the rows are not in order.
    """
    if value in ("native", "auto"):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(
            f"{value!r} is no size: give native, auto, one size in pixels, or a list of [share of the run, pixels]"
        )
    rows = tuple(_row(number, one) for number, one in enumerate(value, 1))
    _check_order(rows)
    if rows[-1].patch_dropout:
        raise ValueError(
            f"patch_dropout = {rows[-1].patch_dropout} in the last row: a run ends on whole images; give it to earlier rows, "
            "or add a last one without it"
        )
    return rows


def _row(number: int, one: Any) -> SizeStage:
    if isinstance(one, SizeStage):
        return one
    given = {"at": one[0], "size": one[1]} if isinstance(one, list | tuple) and len(one) == 2 else one
    if not isinstance(given, Mapping):
        raise ValueError(f"row {number}, {one!r}: write [share of the run, pixels] or {{at = 0.6, size = 224}}")
    try:
        row = SizeStage.model_validate(given)
    except ValidationError as error:
        # of a union every member reports, the last one under the same key
        faults = {str(fault["loc"][0]): fault for fault in error.errors()}
        words = (f"{key} = {fault['input']!r}: {_words(fault)}" for key, fault in faults.items())
        raise ValueError(f"row {number}: {'; '.join(words)}") from None
    if row.at != "plateau" and row.plateau:
        raise ValueError(f'row {number}: plateau = {row.plateau} goes with at = "plateau"; this row begins at {row.at}')
    return row if row.at != "plateau" or row.plateau else row.model_copy(update={"plateau": 2})


def _words(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return f"no such key; a row has {', '.join(SizeStage.model_fields)}"
    if fault["type"] == "missing":
        return "missing; a row has at least `at` and `size`"
    if fault["loc"][0] == "at":
        return 'a share of the run, or "plateau"'
    return str(fault["msg"]).removeprefix("Value error, ")


def _check_order(rows: Sequence[SizeStage]) -> None:
    first, *others = [row.at for row in rows]
    if "plateau" in others and first == 0 and all(at == "plateau" for at in others):
        return
    if first == "plateau" or "plateau" in others:
        raise ValueError(
            f"the rows begin at {[first, *others]}: the first at 0.0, and all others either at a share of the run or by "
            "plateau"
        )
    if first != 0 or not all(a < b for a, b in pairwise([first, *others, 1])):  # type: ignore[operator]
        raise ValueError(f"the shares {[first, *others]} must begin at 0.0, rise, and stay below 1")
