"""Pages of the site that nobody writes twice: README.md and its like, a page a command, the tables of config keys.

mkdocs calls the functions `on_...` while it builds (mkdocs.yml, `hooks`). Nothing that is made here is kept in the repository.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import licences  # beside this file; mkdocs looks there while it imports a hook
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from honeclip import config as run_config
from honeclip.cli.app import app

ROOT = Path(__file__).resolve().parents[2]

COPIES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/peers/README.md": "peers.md",
    "bench/serving/README.md": "peers-serving.md",
    "bench/regressions/README.md": "regressions.md",
}
"""Files outside docs/ -> their pages."""

CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)

KEYS = "<!-- every key -->"
"""Where docs/config.md has its tables."""

PACKAGES = "<!-- every package -->"
"""Where docs/licences.md has its table."""

FORMS = {
    "str": "text",
    "bool": "`true`, `false`",
    "dict[str, str]": "a table of texts",
    "Share": "0 to 1",
    "NotNegative": "0 or more",
    "AboveZero": "above 0",
    "Decay": "above 0, to 1",
    "Positive": "1, 2, 3, ...",
    "Count": "0, 1, 2, ...",
    "tuple[Scale, Scale]": "two numbers from 1 to 100",
    "Steps": "a duration",
    "Length": "`auto`, a duration",
    "Batches": "1, 2, 3, ..., or a list of [share, pairs]",
    "Sizes": "`native`, `auto`, pixels, or a list of stages",
    "Scales": "a list of shares",
    "Weights": "a table of weights",
    "Moments": "a list of moments",
    "Addresses": "a list of addresses",
}
"""What each type of config.py takes, in words. A type that is missing here ends the build."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the commands in the order of `honeclip --help`."""
    section = _section(config.nav, "Commands")
    section += [{name: f"commands/{name}.md"} for name in _root().commands]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in COPIES.items()}
    pages["losses/index.md"] = _losses(ROOT / "docs", _section(_section(config.nav, "Training"), "Losses"))
    pages |= commands()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/ lead to the page of what they name; a `docs/x.md` in a sentence becomes a link."""
    source = next((one for one, at in COPIES.items() if at == page.file.src_uri), f"docs/{page.file.src_uri}")
    for mark, made in {KEYS: keys, PACKAGES: licences.table}.items():
        markdown = markdown.replace(mark, made()) if mark in markdown else markdown
    # every second part is code, which stays as it is
    parts = CODE.split(markdown)
    return "".join(part if number % 2 else _linked(part, source, files) for number, part in enumerate(parts))


def commands() -> dict[str, str]:
    """A page for each command of `honeclip --help`, and one that lists them."""
    root = _root()
    rows = [f"| [`honeclip {name}`]({name}.md) | {_first_sentence(one.help)} |" for name, one in root.commands.items()]
    index = [
        "# Commands",
        "Each has `--help` with an example; these pages are made from it. Exit codes: 0 done, 2 bad input, 1 failure, 130 and "
        "143 after SIGINT and SIGTERM. With `--json` there is one JSON object on standard output, and nothing else.",
        "\n".join(["| command | does |", "|---|---|", *rows]),
    ]
    pages = {"commands/index.md": "\n\n".join(index)}
    for name, command in root.commands.items():
        pages[f"commands/{name}.md"] = "\n\n".join(_command(f"honeclip {name}", command, 1))
    return pages


def keys() -> str:
    """A table a section: each key with its default, the values that it takes, and what it does."""
    parts = []
    for section, table in run_config.Config.model_fields.items():
        kind = type(table.default)
        parts.append(f"## `[{section}]`")
        parts.append(_sentence((kind.__doc__ or "").partition(": ")[2]))
        rows = [
            f"| `{section}.{name}` | `{run_config._toml_value(field.default)}` | {form(kind.__annotations__[name])} "
            f"| {_cell(field.description or '')} |"
            for name, field in kind.model_fields.items()
        ]
        parts.append("\n".join(["| key | default | values | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def form(annotation: str) -> str:
    """What a key takes, from its annotation: `Literal["auto"] | AboveZero` is "`auto`, above 0"."""
    parts = []
    for one in re.split(r" \| ", annotation):
        chosen = re.fullmatch(r"Literal\[(.*)\]", one)
        parts.append(", ".join(f"`{word}`" for word in re.findall(r"\w+", chosen[1])) if chosen else FORMS[one])
    return ", ".join(parts)


def _root() -> Any:
    return typer.main.get_command(app)


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    """The parts of a page: what the command does, its examples, usage, arguments and options, then the commands below it."""
    context = type(command).context_class(command, info_name=name)
    told, examples = _told(command.help or "")
    yield f"{'#' * level} {name}"
    yield told
    yield f"```\n{name} {' '.join(command.collect_usage_pieces(context))}\n```"
    if examples:
        yield "\n".join(["```bash", *examples, "```"])
    for kind, title in (("argument", "argument"), ("option", "option")):
        records = [one.get_help_record(context) for one in command.get_params(context) if one.param_type_name == kind]
        rows = [f"| `{names}` | {_cell(meaning)} |" for names, meaning in filter(None, records)]
        if rows:
            yield "\n".join([f"| {title} | meaning |", "|---|---|", *rows])
    if name == "honeclip fit":
        yield "Every key that `--set` and a config file take: [config](../config.md)."
    for below, one in getattr(command, "commands", {}).items():
        yield from _command(f"{name} {below}", one, level + 1)


def _told(text: str) -> tuple[str, list[str]]:
    """A command's help without its examples, and the examples."""
    told, examples = [], []
    for part in text.replace("\b\n", "").split("\n\n"):
        if part.startswith("Example: "):
            examples.append(" ".join(part.removeprefix("Example: ").split()))
        elif part.startswith("Examples:"):
            examples += [re.sub(r"  {2,}", "    # ", line.strip()) for line in part.splitlines()[1:]]
        else:
            told.append(part)
    return "\n\n".join(told), examples


def _section(nav: Any, title: str) -> list[Any]:
    return next(item[title] for item in nav if isinstance(item, dict) and title in item)


def _losses(docs: Path, order: list[Any]) -> str:
    """The pages of losses in the order of the navigation, each with when to use it."""
    rows = []
    for page in (one for one in order if isinstance(one, str)):
        text = (docs / page).read_text(encoding="utf-8")
        title = text.splitlines()[0].removeprefix("# ")
        when = text.partition("## When to use it\n\n")[2].partition("\n\n")[0]
        rows.append(f"| [{title}]({Path(page).name}) | {_cell(when)} |")
    told = "What each of them asks of a batch, and what it costs, stands on its page; what it won and lost in docs/results.md."
    return "\n\n".join(["# Losses", told, "\n".join(["| loss | when to use it |", "|---|---|", *rows])])


def _linked(text: str, source: str, files: Files) -> str:
    """Text outside code: links from `source`, a path in the repository, become links from its page to other pages."""
    here = posixpath.dirname(_page(source))

    def page(path: str) -> str | None:
        """The page of a file or folder of the repository, from here."""
        at = _page(path)
        found = (one for one in (at, f"{at}/index.md", f"{at}/README.md") if files.get_file_from_path(one))
        return next((posixpath.relpath(one, here or ".") for one in found), None)

    def link(found: re.Match[str]) -> str:
        target, hash_, anchor = found[1].partition("#")
        to = page(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        return f"]({to}{hash_}{anchor})" if to else found[0]

    def mention(found: re.Match[str]) -> str:
        to = page(found[0])
        return f"[{found[0]}]({to})" if to else found[0]

    text = re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", link, text)
    return re.sub(r"(?<!\]\()(?<![\w/\[-])docs/[\w/-]+\.md(?!\])", mention, text)


def _page(path: str) -> str:
    """Where a file of the repository stands on the site."""
    return COPIES.get(path) or path.removeprefix("docs/")


def _first_sentence(text: str | None) -> str:
    return _cell((text or "").split("\n\n")[0].split(". ")[0].rstrip(".") + ".")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
