"""`honeclip export`: a model written in another layout, opened by the other library alone, compared, and only then kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from honeclip.errors import BadInput, HoneclipError
from honeclip.export import card, costs, to_coreml, to_huggingface, to_lora, to_onnx, to_open_clip
from honeclip.export.encoders import Difference, Encoders, differences
from honeclip.model import huggingface
from honeclip.model.clip import Clip

FACTS = "export.json"
"""Beside the exported files: what they are, and what was compared. Where it lies, the folder may be replaced."""

FORMAT = 1


@dataclass(frozen=True)
class Layout:
    """One way to write a model.

    Attributes:
        write: (model, empty folder, precision) to sentences on what is not as it was.
        opened: (model, folder) to what the other library alone makes of it.
        example: Python that uses the folder.
        library: which library that is.
        precisions: those that it can be written in, the first by default.
        tolerance: largest difference of unit embeddings by precision; where it has none, only figures on data judge.
    """

    write: Callable[[Clip, Path, str], list[str]]
    opened: Callable[[Clip, Path], Encoders]
    example: Callable[[Clip], str]
    library: str
    precisions: tuple[str, ...]
    tolerance: dict[str, float]


LAYOUTS = {
    "open_clip": Layout(
        to_open_clip.write,
        to_open_clip.opened,
        to_open_clip.example,
        to_open_clip.LIBRARY,
        ("fp32",),
        to_open_clip.TOLERANCE,
    ),
    "huggingface": Layout(
        to_huggingface.write,
        to_huggingface.opened,
        to_huggingface.example,
        to_huggingface.LIBRARY,
        ("fp32",),
        to_huggingface.TOLERANCE,
    ),
    "onnx": Layout(
        to_onnx.write, to_onnx.opened, to_onnx.example, to_onnx.LIBRARY, ("fp32", "fp16", "int8"), to_onnx.TOLERANCE
    ),
    "coreml": Layout(
        to_coreml.write, to_coreml.opened, to_coreml.example, to_coreml.LIBRARY, ("fp32", "fp16"), to_coreml.TOLERANCE
    ),
    "lora": Layout(to_lora.write, to_lora.opened, to_lora.example, to_lora.LIBRARY, ("fp32",), to_lora.TOLERANCE),
}


@dataclass(frozen=True)
class Exported:
    """An export that was written, or looked at again.

    Attributes:
        folder: where it lies.
        files: names in it and bytes of each.
        differences: of the embeddings of "image" and "text"; None where this machine cannot run it.
        cost: R@10 of the model and of the export on data, and their paired difference; None without data.
        notes: what is not as it was, in sentences.
    """

    folder: Path
    files: dict[str, int]
    differences: dict[str, Difference] | None
    cost: dict[str, Any] | None
    notes: tuple[str, ...]


def export(
    clip: Clip,
    to: str,
    out: Path,
    *,
    precision: str = "",
    data: str = "",
    split: str = "test",
    domain: str | None = None,
) -> Exported:
    """Writes a model in another layout, once the embeddings of the other library agree with the model's own.

    Args:
        clip: the model, on the CPU.
        to: one of `LAYOUTS`.
        out: the new folder; one that holds an earlier export is replaced.
        precision: of the weights; the layout's first without.
        data: a data set on which the loss in R@10 is measured; "" leaves it out.
        split: of the data.
        domain: in which the data is read; the model's own without.

    Raises:
        BadInput: a name that is unknown, a folder in the way, a library that is missing, a model that has no place there.
        HoneclipError: the embeddings differ by more than the layout allows, or the disk is full; nothing is left.
    """
    layout, chosen = layout_of(to, precision)
    _free(out)
    aside = out.with_name(f"{out.name}.partial-{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        notes = layout.write(clip, aside, chosen)
        if to in ("onnx", "coreml"):
            if clip.preprocess.tokenizer is not None:
                clip.preprocess.tokenizer.save_for_transformers(aside)
            content = json.dumps(to_huggingface.processor(clip)[0], indent=2)
            (aside / huggingface.PREPROCESSOR).write_text(content + "\n", encoding="utf-8")
        found, cost, said = _compared(clip, aside, to, layout, chosen, data, split, domain)
        notes = [*notes, *said]
        made = Exported(out, {}, found, cost, tuple(notes))
        (aside / FACTS).write_text(json.dumps(_facts(clip, to, chosen, made), indent=2) + "\n", encoding="utf-8")
        text = card.written(clip, to, chosen, layout.library, layout.example(clip), made.differences, cost, notes)
        (aside / "README.md").write_text(text, encoding="utf-8")
        sizes = _sizes(aside)
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    except OSError as error:
        raise HoneclipError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(out, sizes, found, cost, tuple(notes))


def check(
    clip: Clip, to: str, out: Path, *, data: str = "", split: str = "test", domain: str | None = None
) -> Exported:
    """Compares an export that is there already with the model; nothing is written.

    Raises:
        BadInput: there is no such export of this kind.
        HoneclipError: the embeddings differ by more than the layout allows.
    """
    layout, _ = layout_of(to, "")
    try:
        facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
        kind, precision, notes = facts["to"], facts["precision"], facts["notes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{out} holds no export: {FACTS}: {error}") from None
    if kind != to:
        raise BadInput(f"{out} holds an export to {kind}, not to {to}")
    found, cost, said = _compared(clip, out, to, layout, precision, data, split, domain)
    return Exported(out, _sizes(out), found, cost, (*notes, *(one for one in said if one not in notes)))


def layout_of(to: str, precision: str) -> tuple[Layout, str]:
    """The layout of a name, and the precision to write it in.

    Raises:
        BadInput: there is none of that name, or it cannot be written in that precision.
    """
    if to not in LAYOUTS:
        raise BadInput(f"--to {to}: it is one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[to]
    chosen = precision or layout.precisions[0]
    if chosen not in layout.precisions:
        raise BadInput(f"--precision {chosen}: {to} is written in {' or '.join(layout.precisions)}")
    return layout, chosen


def _free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out} is a file; give the name of a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS).is_file():
        raise BadInput(f"--out {out} is a folder with something in it that is no export; give another one")


def _compared(
    clip: Clip, folder: Path, to: str, layout: Layout, precision: str, data: str, split: str, domain: str | None
) -> tuple[dict[str, Difference] | None, dict[str, Any] | None, list[str]]:
    """How far the embeddings lie apart and what that costs on data, None where this machine cannot say or nobody asks, and
    what is to be said of it."""
    try:
        other = layout.opened(clip, folder)
    except to_coreml.NotHere as error:
        return None, None, [str(error)]
    found, allowed = differences(clip, other), layout.tolerance.get(precision)
    for name, one in found.items():
        if allowed is not None and not one.largest <= allowed:
            raise HoneclipError(
                f"the {name} embeddings of {layout.library} differ from the model's by {one.largest:.2g}, and {allowed:g} is "
                f"allowed in {precision}: this model cannot be exported to {to} rightly"
            )
    cost = costs.measured(clip, other, data, split, domain) if data else None
    said = [f"{precision} has no bound of its own: --data says what it costs in R@10"] if allowed is None else []
    return found, cost, said


def _facts(clip: Clip, to: str, precision: str, made: Exported) -> dict[str, Any]:
    """export.json; nothing of this machine."""
    try:
        ours = version("honeclip")
    except PackageNotFoundError:
        ours = ""
    bias = getattr(clip.model, "logit_bias", None)
    return {
        "format": FORMAT,
        "honeclip": ours,
        "to": to,
        "precision": precision,
        "base": asdict(clip.base),
        "domain": (clip.domain or {}).get("name"),
        "embed_dim": clip.embed_dim,
        "logit_scale": clip.logit_scale.exp().item(),
        "logit_bias": None if bias is None else bias.item(),
        "preprocess": clip.preprocess.to_json(),
        "calibration": clip.calibration.to_json() if clip.calibration else None,
        "differences": made.differences and {name: asdict(one) for name, one in made.differences.items()},
        "cost": made.cost,
        "notes": list(made.notes),
    }


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file, by its path in the folder."""
    files: Sequence[Path] = sorted(one for one in folder.rglob("*") if one.is_file())
    return {one.relative_to(folder).as_posix(): one.stat().st_size for one in files}
