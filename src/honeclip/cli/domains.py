"""`honeclip domains`: the known domains, and one of them as TOML to copy and edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from honeclip.cli.options import Json

# A group of its own: `honeclip domains` lists, `honeclip domains show NAME` prints.
app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def domains(
    context: typer.Context,
    as_json: Json = False,
) -> None:
    """List the domains: how images of a field may change, how its labels become prompts.

    Example: honeclip domains show medical > hospital.toml, edit it, honeclip fit --domain hospital.toml ...
    """
    if context.invoked_subcommand is not None:
        return
    from honeclip import places
    from honeclip.cli.output import emit, say, show
    from honeclip.domains import domain

    loaded = [(domain.load(name), domain.find(name)) for name in domain.names()]
    if as_json:
        emit({"domains": [{"name": one.name, "title": one.title, "file": file} for one, file in loaded]})
        return
    for one, file in loaded:
        best = "retrieval" if one.selection == "auto" else one.selection.replace("_", " ")
        own = f" ({file})" if file.is_relative_to(places.domains()) else ""
        show(f"{one.name:<12}{one.title}; {len(one.templates)} templates, best checkpoint by {best}{own}")
    say(f"`honeclip domains show NAME` prints one to copy; own files found by name go to {places.domains()}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name or file of a domain.", metavar="NAME")],
    preview: Annotated[
        str, typer.Option(help="Write a page of what the domain does to pictures of this data set.", metavar="DATA")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder of that page.", metavar="DIR")] = Path("preview"),
) -> None:
    """Print a domain as TOML, comments included, and nothing else: a file to copy and edit.

    \b
    Examples:
      honeclip domains show industrial > mine.toml
      honeclip domains show mine.toml --preview pairs.csv --out look    pictures: as they are, evaluated, augmented
    """
    from honeclip.cli.output import say
    from honeclip.cli.output import show as print_result
    from honeclip.domains import domain

    loaded = domain.load(name)  # only what loads is worth copying
    if preview:
        from honeclip.data import preview as previews
        from honeclip.errors import DataError

        page = out / f"{loaded.name}.html"
        html = previews.preview(loaded, preview)
        try:
            out.mkdir(parents=True, exist_ok=True)
            page.write_text(html, encoding="utf-8")
        except OSError as error:
            raise DataError(f"--out {out}: cannot be written: {error.strerror or error}") from None
        say(f"{page} shows what {loaded.name} does to pictures of {preview}")
    print_result(domain.find(name).read_text(encoding="utf-8-sig").rstrip("\n"))
