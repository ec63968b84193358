"""What stands behind the live page: the runs of this process, read as they grow, and their pictures."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from fastapi import FastAPI, Response
from nicegui import app as nicegui
from nicegui import ui
from PIL import Image

from honeclip.errors import HoneclipError
from honeclip.monitoring import page, rules
from honeclip.monitoring.rules import Finding
from honeclip.monitoring.watched import Watched

log = logging.getLogger(__name__)

LOOK_S = 0.4
"""Seconds between two looks at the files."""

REST_S = 1.0
"""Seconds in which nothing is read after a page was asked for: its scripts come first."""

RULES_S = 5.0
"""Seconds between two looks of the rules at all that is kept."""

RECONNECT_S = 30.0
"""Seconds that a browser may be away before its page is built anew: a machine that trains answers late at times."""

PICTURE_PX = 320
MOST_PICTURES = 64


@dataclass(eq=False)
class Watching:
    """The runs, and what is made of them for every page.

    Attributes:
        runs: in the order of their colours.
        version: grows with whatever is new.
        findings: what looks sick, by the name of the run.
        rest_until: when the reading of long files goes on, on the monotonic clock.
    """

    runs: Sequence[Watched]
    version: int = 0
    rest_until: float = 0.0
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    _judged: dict[str, int] = field(default_factory=dict)

    async def keep(self) -> None:
        """Reads what is new for as long as the process lives; long files piece by piece, so that pages are served between."""
        judge_at = 0.0
        while True:
            for run in self.runs:
                while run.look():
                    self.version += 1
                    await asyncio.sleep(max(0.0, self.rest_until - time.monotonic()))
            if time.monotonic() >= judge_at:
                self._judge()
                judge_at = time.monotonic() + RULES_S
            await asyncio.sleep(LOOK_S)

    def _judge(self) -> None:
        """Asks the rules about the runs that have grown."""
        for run in self.runs:
            if self._judged.get(run.name) == run.reader.offset:
                continue
            self._judged[run.name] = run.reader.offset
            try:
                found = rules.findings(run.reader.seen.events())
            except (
                Exception
            ):  # events may be of another version, and a rule that stumbles is no reason to watch no more
                log.exception("the rules cannot judge %s", run.folder)
                continue
            if found != self.findings.get(run.name, []):
                self.findings[run.name] = found
                self.version += 1


def mount(app: FastAPI, runs: Sequence[Watched], decode: Callable[[Path], Image.Image]) -> None:
    """Adds page and pictures to an app; once a process, since NiceGUI has one set of pages.

    Args:
        app: of the server.
        runs: what is watched.
        decode: how an image file becomes a picture.
    """
    watching = Watching(runs)

    @lru_cache(MOST_PICTURES)
    def small(path: Path, _: float) -> bytes:
        return _jpeg(decode(path))

    @app.get("/pictures/{run}")
    def picture(run: int, file: str) -> Response:
        path = picture_file(runs[run], file) if 0 <= run < len(runs) else None
        if path is None:
            return Response("there is no such picture", 404)
        try:
            return Response(small(path, path.stat().st_mtime), media_type="image/jpeg")
        except (OSError, HoneclipError) as error:
            return Response(str(error), 404)

    @ui.page("/", title="honeclip: " + ", ".join(run.name for run in runs), dark=None)
    def _() -> None:
        watching.rest_until = time.monotonic() + REST_S
        page.Page(watching.runs, lambda: watching.version, watching.findings).build()

    ui.run_with(app, show_welcome_message=False, reconnect_timeout=RECONNECT_S)
    nicegui.on_startup(watching.keep)


def picture_file(run: Watched, file: str) -> Path | None:
    """The file of a picture, where it is there and lies in the data folder: events may come from anybody."""
    folder = run.data_folder
    if folder is None:
        return None
    try:
        path = (folder / file).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _jpeg(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    out = io.BytesIO()
    small.convert("RGB").save(out, "JPEG", quality=85)
    return out.getvalue()
