"""`honeclip plan`: what fits into how much memory, and what it costs in time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from honeclip.cli.options import Device, Json

if TYPE_CHECKING:
    from honeclip.training.choice import Choice
    from honeclip.training.forecast import Forecast, Table

MEMORIES_GB = (8.0, 16.0, 32.0, 64.0, 128.0)
"""Where nothing else is asked: memories that machines on desks have."""

BAR = 20


def plan(
    model: Annotated[
        str | None, typer.Option("--model", help="Any model source; without it, models to start from.", metavar="M")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Pairs, for the hours of a run.", metavar="D")] = None,
    size: Annotated[
        list[int] | None, typer.Option("--size", help="Side of the images; may be repeated.", metavar="PX")
    ] = None,
    memory: Annotated[
        list[float] | None, typer.Option("--memory", help="GB that a run may use; may be repeated.", metavar="GB")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Effective batch in pairs.", metavar="B")] = 256,
    length: Annotated[
        str, typer.Option("--length", help="With --data: duration of the run, such as '15 min'.", metavar="T")
    ] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16, fp16 or fp64.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="A folder for the page with the picture.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say what fits: micro-batch, kept graphs, predicted peak and overhead for sizes and memories.

    The gradient is the same in every row: memory decides how fast, never what. With --data it also says what size the images
    are worth, as `fit --set resolution.stages=auto` would choose it with the first of the memories.

    Example: honeclip plan --model random:ViT-L-14-336 --memory 8 --memory 16 --memory 64
    """
    from honeclip.cli.output import emit, show
    from honeclip.device import detect
    from honeclip.device.memory import budget

    where = detect.choose(device)
    if model is None:
        found = _starting_points(memory or MEMORIES_GB)
        if as_json:
            emit({"models": found})
            return
        for line in _models_in_words(found, memory or MEMORIES_GB):
            show(line)
        return
    from honeclip.training.forecast import forecast

    memories = memory or [round(budget(where).bytes / 1e9, 1), *MEMORIES_GB]
    table = forecast(model, memories, where, sizes_px=size or (), batch=batch, data=data, precision=precision)
    if out is not None:
        from honeclip.training.forecast_page import write

        page = write(table, out)
    choice = None if data is None else _choice(model, data, memories[0], batch, precision, length, device)
    if as_json:
        emit({**table.to_json(), **({} if choice is None else {"resolution": choice.to_json()})})
        return
    for line in in_words(table):
        show(line)
    if choice is not None:
        from honeclip.training import choice as choices

        show("")
        for line in choices.in_words(choice):
            show(line)
    if out is not None:
        show(f"picture: {page}")


def _choice(model: str, data: str, memory_gb: float, batch: int, precision: str, length: str, device: str) -> Choice:
    from honeclip.monitoring.terminal import Progress
    from honeclip.training.choice import advised

    values: dict[str, dict[str, Any]] = {
        "data": {"path": data},
        "model": {"source": model},
        "train": {"batch": batch, "precision": precision, "length": length},
        "memory": {"budget_gb": memory_gb},
    }
    with Progress() as progress:
        return advised(values, device, progress.say, progress)


def in_words(table: Table) -> list[str]:
    """The table as lines of text, overheads as bars."""
    lines = [f"{table.model}, effective batch {table.batch}, {table.precision} on {table.device}", ""]
    lines.append(
        f"{'size':>6} {'memory':>8} {'micro-batch':>12} {'kept':>10} {'recompute':>10} {'slice':>6} {'peak':>9}  time a step"
    )
    lines += [_line(row, table.batch) for row in table.rows]
    lines.append("")
    for tower, times in table.faster_frozen.items():
        lines.append(
            f"model.freeze={tower} would make steps about {times:.1f} times faster: its features are stored once."
        )
    return lines


def _line(row: Forecast, batch: int) -> str:
    start = f"{row.size_px:>4}px {row.memory_gb:>6g}GB "
    if row.plan is None:
        return f"{start} {row.reason.partition(': ')[2].partition('. ')[0] or row.reason}"
    plan = row.plan
    pieces = -(-batch // plan.micro_batch[0])
    peak = f"{plan.predicted_peak_bytes / 1e9:.2f}GB"
    bar = "\u2588" * round(BAR * min(1.0, 1 / (1 + plan.predicted_overhead)))
    hours = "" if row.hours is None else f", {_duration(row.hours)}"
    return (
        f"{start}{plan.micro_batch[0]:>12} {f'{plan.keep[0]} of {pieces}':>10} {'yes' if plan.recompute else 'no':>10} "
        f"{plan.attention_slice or '-':>6} {peak:>9}  {bar} +{plan.predicted_overhead:.0%}{hours}"
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours a run" if hours >= 1 else f"{hours * 60:.0f} min a run"


def _starting_points(memories: Any) -> list[dict[str, Any]]:
    from honeclip.training.starting_points import STARTING_POINTS, needs

    found = []
    for point in STARTING_POINTS:
        need = needs(point.source)
        found.append(
            {
                "source": point.source,
                "licence": point.licence,
                "about": point.about,
                "parameters": need.parameters,
                "size_px": need.size_px,
                "smallest_bytes": need.smallest_bytes,
                "bytes_per_pair": need.sample_bytes,
                "fits": {f"{memory:g}": need.smallest_bytes <= memory * 1e9 for memory in memories},
            }
        )
    return found


def _models_in_words(found: list[dict[str, Any]], memories: Any) -> list[str]:
    lines = ["Models to start from, every tower learning in float32 (weights are fetched when they are used):", ""]
    lines.append(f"{'source':<34} {'size':>6} {'parameters':>11} {'at least':>9}  {'fits':<20} licence")
    for one in found:
        fits = " ".join(f"{memory}GB" for memory, is_so in one["fits"].items() if is_so) or "none of these"
        smallest = next((f"{memory}GB and up" for memory, is_so in one["fits"].items() if is_so), fits)
        lines.append(
            f"{one['source']:<34} {one['size_px']:>4}px {one['parameters'] / 1e6:>10.0f}M "
            f"{one['smallest_bytes'] / 1e9:>7.2f}GB  {smallest:<20} {one['licence']}"
        )
    lines += ["", "starter (embedded, Apache-2.0) needs no network: two frozen towers, new heads, any machine."]
    return lines
