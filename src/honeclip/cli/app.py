"""The `honeclip` command: its verbs in the order in which a newcomer meets them."""

from __future__ import annotations

import importlib
import os
from typing import Annotated

import typer

import honeclip

# rich_markup_mode: typer's rich help alone costs 0.4 s, more than everything else that --help does.
# pretty_exceptions_enable: an unforeseen error keeps Python's own traceback, which can be searched for and pasted.
app = typer.Typer(
    name="honeclip",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"honeclip {honeclip.__version__}")
        raise typer.Exit


@app.callback()
def _honeclip(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune CLIP on the image-text pairs of one field, on this machine, and see what was won.

    \b
    Examples:
      honeclip quickstart                              the whole way on sample data, no network
      honeclip check pairs.csv                         what is wrong with your own data
      honeclip fit --data pairs.csv --out runs/a       fine-tune; the report lies in runs/a/report
      honeclip evaluate runs/a --data pairs.csv        scores with 95 % intervals
    """
    if "WORLD_SIZE" in os.environ:  # asked before torch is imported, which takes longer than any help
        from honeclip.cli import several

        several.check(context.invoked_subcommand or "")


for _verb in (
    "quickstart",
    "doctor",
    "prepare",
    "check",
    "fit",
    "verify",
    "plan",
    "evaluate",
    "compare",
    "tune",
    "watch",
    "track",
    "predict",
    "embed",
    "search",
    "export",
    "serve",
):
    _module = importlib.import_module(f"honeclip.cli.{_verb}")
    app.command(_verb, cls=getattr(_module, "Command", None))(getattr(_module, _verb))
for _group in ("domains", "bench"):
    app.add_typer(importlib.import_module(f"honeclip.cli.{_group}").app, name=_group)
