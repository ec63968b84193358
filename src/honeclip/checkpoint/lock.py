"""One writer a run: a lock that the operating system drops when its holder dies, however it dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from honeclip.errors import RunError

LOCK = ".lock"


def is_locked(run: Path) -> bool:
    """Whether a process holds a run folder; asked without taking it, but for the moment of asking. A folder that may not be
    written, as a copy on another disk, is held by nobody here."""
    if not (run / LOCK).is_file():
        return False
    lock = FileLock(run / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds a run folder for this process. Within one process it may be taken again, so a run takes it for its whole
    length and every save takes it once more.

    Args:
        run: made where it is missing. The empty lock file stays in it: deleting it would let a second writer in.

    Raises:
        RunError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK, timeout=0, is_singleton=True, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"another process is writing the run {run}; wait until it has ended, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
