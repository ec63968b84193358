"""Pages as one self-contained HTML file: no network, no script, light and dark, readable on a phone and on paper.

Every value that a template is given is escaped, whatever it came from, but charts and data URIs made here (`trusted`).
"""

from __future__ import annotations

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


def trusted(markup: str) -> Markup:
    """Mark what this package drew itself (a chart, a data URI) as safe. Never for anything that a user gave."""
    return Markup(markup)
