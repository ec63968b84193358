"""`honeclip bench device`: a table of what an accelerator is worth, and whether its numbers are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from honeclip.cli.options import Device, Json

COLUMNS = ("operation", "where", "ms", "lowest, highest", "times as fast", "MB", "error", "error of gradients")


def device(
    model: Annotated[
        str, typer.Option("--model", help="Any model source, of the last three rows.", metavar="M")
    ] = "random:ViT-B-32",
    batch: Annotated[int, typer.Option("--batch", help="Images of an operation, pairs of a step.", metavar="B")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", help="Of which the median counts; at least 5.", metavar="N")] = 5,
    only: Annotated[
        str, typer.Option("--only", help="Some rows by name, with semicolons between; all.", metavar="NAME;...")
    ] = "",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Compare MPS or CUDA with the CPU: speed, memory and right numbers, of each operation and of a training step.

    Errors are relative to float64 on the CPU, those of float32 on the CPU beside them. Without an accelerator the precisions of
    the CPU are compared. It takes a few minutes; the table is Markdown, to be posted as it is.

    Example: honeclip bench device --model starter
    """
    from honeclip.bench import device as work
    from honeclip.cli.output import emit, say, show

    say(f"operations of a ViT-B/32, then forwards and a training step of {model}: this takes minutes")
    names = [name.strip() for name in only.split(";") if name.strip()]
    figures = work.run(model, batch, device=device, rounds=rounds, only=names)
    if as_json:
        emit(figures)
        return
    machine = ", ".join(f"{name} {value}" for name, value in figures["machine"].items())
    show(f"{figures['note']}\n\n{machine}; {figures['threads']} threads; batch {figures['batch']}\n")
    show(markdown(figures["rows"]))
    show("\n" + ", ".join(f"{name} {version}" for name, version in figures["versions"].items()))


def markdown(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a row an operation and way, its columns wide enough to be read as text."""
    cells = [COLUMNS, *(line for row in rows for line in _lines(row))]
    widths = [max(len(line[place]) for line in cells) for place in range(len(COLUMNS))]

    def joined(line: tuple[str, ...]) -> str:
        padded = (
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if place < 2 else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join([joined(cells[0]), f"| {' | '.join(rule)} |", *map(joined, cells[1:])])


def _lines(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for number, (way, one) in enumerate(row["ways"].items()):
        name = f"{row['name']} ({row['shape']})" if number == 0 else ""
        if "fault" in one:
            yield (name, way, "", "", "", "", f"failed: {one['fault']}"[:60], "")
            continue
        memory = one["memory_bytes"]
        yield (
            name,
            way,
            f"{one['seconds'] * 1e3:.3g}",
            f"{one['seconds_low'] * 1e3:.3g}, {one['seconds_high'] * 1e3:.3g}",
            f"{one['times_as_fast']:.2f}" if number and "times_as_fast" in one else "",
            "" if memory is None else f"{memory / 1e6:.1f}",
            _error(one["error"]),
            _error(one["gradient_error"]) if "gradient_error" in one else "",
        )


def _error(value: float | None) -> str:
    """A relative error; one that is not finite says so."""
    return "not finite" if value is None else f"{value:.1e}"
