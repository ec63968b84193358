"""Pages as one self-contained HTML file: no network, no script, light and dark, readable on a phone and on paper.

Every value that a template is given is escaped, whatever it came from, but charts and data URIs made here (`trusted`).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **context: Any) -> str:
    """Fill a template of this folder.

    Args:
        template: "report.html" or "contact.html".
        context: what it names; text is escaped, `trusted` text is not.
    """
    return _environment().get_template(template).render(**context)


def alone(svg: str) -> str:
    """A chart as a file of its own: SVG with its namespace, white paper, letters, and the colours that a page has by day.

    Args:
        svg: what a function of `charts` gave.
    """
    by_day = re.findall(
        r"--([\w-]+): (#\w+);", (TEMPLATES / "base.html").read_text(encoding="utf-8").split("@media")[0]
    )
    for name, colour in by_day:
        svg = svg.replace(f"var(--{name})", colour)
    paper = dict(by_day)["paper"]
    return (
        svg.replace(
            "<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="background: {paper}; font-family: sans-serif" ', 1
        )
        + "\n"
    )


def trusted(markup: str) -> Markup:
    """Mark what this package drew itself (a chart, a data URI) as safe. Never for anything that a user gave."""
    return Markup(markup)
