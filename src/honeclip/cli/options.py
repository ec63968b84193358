"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[str, typer.Option("--data", help="Manifest, or a folder with a pairs.csv.", metavar="D")]
Pictures = Annotated[
    str, typer.Option("--data", help="Manifest, or a folder with a pairs.csv; a column image is enough.", metavar="D")
]
TrainingData = Annotated[
    str | None, typer.Option("--data", help="Manifest, folder with a pairs.csv, or shards.", metavar="D")
]
Model = Annotated[
    str | None, typer.Option("--model", help="starter, NAME:TAG, hf-hub:ORG/REPO, a folder, random:NAME.", metavar="M")
]
Domain = Annotated[str | None, typer.Option("--domain", help="Domain name or file.", metavar="N")]
Source = Annotated[str, typer.Argument(help="A run, a checkpoint, or any model source.", metavar="MODEL")]
DomainOfModel = Annotated[
    str | None, typer.Option("--domain", help="Domain name or file; the model's own, else general.", metavar="N")
]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with any of the keys below.")]
Split = Annotated[str, typer.Option("--split", help="train, val or test.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, mps or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
