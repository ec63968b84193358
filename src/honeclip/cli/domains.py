"""`honeclip domains`: the known domains, and one of them as TOML to copy and edit."""

from __future__ import annotations

from typing import Annotated

import typer

# A group of its own: `honeclip domains` lists, `honeclip domains show NAME` prints.
app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def domains(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as one JSON object.")] = False,
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
) -> None:
    """Print a domain as TOML, comments included, and nothing else: a file to copy and edit.

    Example: honeclip domains show industrial > mine.toml
    """
    from honeclip.cli.output import show as print_result
    from honeclip.domains import domain

    domain.load(name)  # only what loads is worth copying
    print_result(domain.find(name).read_text(encoding="utf-8-sig").rstrip("\n"))
