"""The picture of a forecast: one page with a chart of time against memory and one of what fills the memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from honeclip.pictures.charts import Series, lines
from honeclip.pictures.html import render, trusted
from honeclip.training.forecast import Forecast, Table

MOST_SIZES = 3
"""Coloured lines that a chart has."""


def write(table: Table, folder: Path) -> Path:
    """Writes FOLDER/index.html, one file that can be mailed, and gives its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(
        render(
            "plan.html",
            title=f"What {table.model} needs",
            verdict=_verdict(table),
            facts_line=f"effective batch {table.batch}, {table.precision}, {table.device}",
            charts=_charts(table),
            columns=("micro-batch", "graphs kept", "recomputed", "slice", "predicted peak", "more time", "hours a run"),
            rows=[_row(row, table.batch) for row in table.rows],
            note="The gradient is the same in every row: memory decides how fast, never what. More time is beyond a step "
            "that keeps everything. The peak counts the training process, above what it holds after its imports.",
        ),
        encoding="utf-8",
    )
    return path


def _verdict(table: Table) -> str:
    fits = [row for row in table.rows if row.plan]
    if not fits:
        return "It fits none of these memories."
    least = min(fits, key=lambda row: row.memory_gb)
    assert least.plan is not None
    return (
        f"From {least.memory_gb:g} GB on it trains at {least.size_px} px, there with {least.plan.predicted_overhead:.0%} more "
        "time a step than with all the memory it could use."
    )


def _charts(table: Table) -> list[dict[str, Any]]:
    sizes = sorted({row.size_px for row in table.rows})[:MOST_SIZES]
    by_size = {size: [row for row in table.rows if row.size_px == size and row.plan] for size in sizes}
    by_size = {size: rows for size, rows in by_size.items() if rows}
    if not by_size:
        return []
    time = [
        Series(f"{size} px", [row.memory_gb for row in rows], [_overhead(row) for row in rows], number)
        for number, (size, rows) in enumerate(by_size.items())
    ]
    peak = [
        Series(f"{size} px", [row.memory_gb for row in rows], [_peak(row) for row in rows], number)
        for number, (size, rows) in enumerate(by_size.items())
    ]
    given = sorted({row.memory_gb for row in table.rows})
    limit = Series("all of it", given, given, None)
    return [
        {
            "title": "Time",
            "svg": trusted(_chart(time, "more time a step, %", f"more time a step against memory, for {table.model}")),
            "caption": "Beyond a step that keeps every graph.",
        },
        {
            "title": "Memory",
            "svg": trusted(
                _chart([*peak, limit], "predicted peak, GB", f"predicted peak against memory, for {table.model}")
            ),
            "caption": "What of the memory the fastest plan uses.",
        },
    ]


def _chart(series: Sequence[Series], label: str, says: str) -> str:
    return lines(series, x_label="memory, GB", y_label=label, says=says, log_x=True)


def _overhead(row: Forecast) -> float:
    return 100 * row.plan.predicted_overhead if row.plan else 0.0


def _peak(row: Forecast) -> float:
    return row.plan.predicted_peak_bytes / 1e9 if row.plan else 0.0


def _row(row: Forecast, batch: int) -> dict[str, Any]:
    plan = row.plan
    cells = None
    if plan is not None:
        pieces = -(-batch // plan.micro_batch[0])
        cells = (
            plan.micro_batch[0],
            f"{plan.keep[0]} of {pieces}",
            "yes" if plan.recompute else "no",
            plan.attention_slice or "–",
            f"{plan.predicted_peak_bytes / 1e9:.2f} GB",
            f"{plan.predicted_overhead:.0%}",
            "–" if row.hours is None else f"{row.hours:.1f}",
        )
    return {"name": f"{row.size_px} px, {row.memory_gb:g} GB", "cells": cells, "reason": row.reason}
