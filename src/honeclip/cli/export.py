"""`honeclip export`: a model for programs that do not know honeclip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import DomainOfModel, Json, Source, Split


def export(
    model: Source,
    to: Annotated[str, typer.Option("--to", help="open_clip, huggingface, onnx, coreml or lora.", metavar="LAYOUT")],
    out: Annotated[Path, typer.Option("--out", help="The new folder; an earlier export is replaced.", metavar="DIR")],
    precision: Annotated[
        str,
        typer.Option("--precision", help="fp32; onnx also fp16 and int8, coreml also fp16.", metavar="P"),
    ] = "",
    data: Annotated[str, typer.Option("--data", help="Also measure the loss in R@10 on this data.", metavar="D")] = "",
    split: Split = "test",
    domain: DomainOfModel = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the export that lies in DIR with the model; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a model for other programs, and check that they compute what the model computes.

    The folder is written aside, opened by the other library alone, and compared with the model; where embeddings differ by
    more than rounding explains nothing is kept and the exit code is 1. Core ML is compared on a Mac: run the same command
    there with --check.

    Example: honeclip export runs/a --to onnx --out model-onnx
    """
    from dataclasses import asdict

    from honeclip.cli.output import emit, say
    from honeclip.export import export as work
    from honeclip.export.costs import WAYS
    from honeclip.model.load import load

    clip = load(model, device="cpu")
    if check:
        made = work.check(clip, to, out, data=data, split=split, domain=domain)
    else:
        made = work.export(clip, to, out, precision=precision, data=data, split=split, domain=domain)
    for name, one in (made.differences or {}).items():
        say(f"{name} embeddings: largest difference {one.largest:.1e}, smallest cosine {one.cosine:.7f}")
    cost = made.cost or {}
    for way in WAYS if cost else ():
        own, theirs, apart = (cost[way][key] for key in ("model", "export", "difference"))
        say(
            f"R@10 {way.replace('_', ' ')}: {own['value']:.3f}, exported {theirs['value']:.3f}, difference "
            f"{apart['value']:+.3f} [{apart['low']:+.3f}, {apart['high']:+.3f}]"
        )
    for note in made.notes:
        say(f"note: {note}")
    say(
        f"{'checked' if check else 'exported'}: {out}, {sum(made.files.values()) / 1e6:.1f} MB in {len(made.files)} files"
    )
    if as_json:
        emit(
            {
                "out": out,
                "to": to,
                "files": made.files,
                "differences": made.differences and {name: asdict(one) for name, one in made.differences.items()},
                "cost": made.cost,
                "notes": list(made.notes),
            }
        )
