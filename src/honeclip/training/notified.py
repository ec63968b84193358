"""A run, or a study, under the eyes of others: people are told of it, a Mac stays awake for it, and its events say how it
ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from honeclip import notices
from honeclip.config import Config
from honeclip.errors import BadInput, HoneclipError
from honeclip.monitoring.awake import awake
from honeclip.monitoring.events import EventLog, ending
from honeclip.monitoring.notify import telling
from honeclip.training.folder import RunFolder
from honeclip.training.prepared import Say


@contextmanager
def told(file: Path, name: str, config: Config, say: Say) -> Iterator[None]:
    """Inside is work of hours. The caller holds its folder's lock.

    Args:
        file: of its events, which say what there is to tell.
        name: of the work, for titles.
        config: `notify` of it says who is told of what.
        say: told who is, and what is wrong with the addresses.
    """
    urls = [one.get_secret_value() for one in config.notify.urls]
    addresses = notices.addresses(urls, os.environ)
    for sentence in addresses.missing:
        say(sentence)
    if addresses.found and config.notify.when:
        names = "; ".join(name for name, _ in addresses.found)
        say(f"told of {', '.join(config.notify.when)}: {names}")
    with awake(say), telling(file, name, addresses.found, config.notify.when, say):
        yield


@contextmanager
def notified(folder: RunFolder, config: Config, say: Say) -> Iterator[None]:
    """Inside is a run, see `told`."""
    with told(folder.events_file, folder.path.absolute().name, config, say), _last_event(folder):
        yield


@contextmanager
def _last_event(folder: RunFolder) -> Iterator[None]:
    """An error that ends the run is its last event. Bad input is none: it changes nothing."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, BadInput):
            with (
                suppress(OSError, HoneclipError),
                closing(EventLog(folder.events_file)) as log,
            ):  # the disk may be what is wrong
                log.append("end", **ending(error))
        raise


def finished(folder: RunFolder, words: str) -> None:
    """Writes down that the run is done, as its last event."""
    with closing(EventLog(folder.events_file)) as log:
        log.append("end", status="done", words=words)
