"""`honeclip predict`: the probability of every label for every image, as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Device, DomainOfModel, Pictures, Source


def predict(
    model: Source,
    data: Pictures,
    labels: Annotated[str, typer.Option("--labels", help="With commas between them.", metavar="A,B,C")],
    domain: DomainOfModel = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="softmax: one of the labels is right; independent: each by itself. As the model was calibrated, else softmax.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="CSV file; standard output without.", metavar="CSV")] = None,
    device: Device = "auto",
) -> None:
    """Write the probability of every label for every image: columns `image`, then one a label.

    A model that was fine-tuned on these labels uses the temperature fitted on its validation split; else it is said that the
    probabilities are not calibrated.

    Example: honeclip predict runs/a --data pairs.csv --labels pneumonia,normal --out found.csv
    """
    import csv
    import io

    from honeclip.cli.output import say, show
    from honeclip.errors import BadInput
    from honeclip.evaluation.predict import predict as work
    from honeclip.monitoring.terminal import Progress

    with Progress() as progress:
        found = work(
            model,
            data,
            labels.split(","),
            domain=domain,
            mode=mode,
            device=device,
            progress=progress.counter("embedding pictures"),
        )
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["image", *found.labels])
    for file, row in zip(found.files, found.probability.tolist(), strict=True):
        lines.writerow([file, *("" if value != value else f"{value:.6f}" for value in row)])
    if out is None:
        show(text.getvalue().rstrip("\n"))
    else:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text.getvalue(), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"--out {out}: cannot be written: {error.strerror or error}") from None
        say(f"probabilities: {out}")
    for note in found.notes:
        say(f"note: {note}")
