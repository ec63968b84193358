"""The same folder of embeddings by several processes that torchrun started (`device.world`).

Rank 0 begins the folder, holds its lock and says which parts are missing; each process takes the next of them as soon as it
is free. What is in a part follows from its number alone, so the number of processes decides how fast, never what. A process
that is killed leaves nothing that is read, and the next start, with any number of processes, writes what is missing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from honeclip.checkpoint.lock import locked
from honeclip.device import claims
from honeclip.device import world as worlds
from honeclip.device.world import World
from honeclip.embedding import parts
from honeclip.embedding.features import Progress
from honeclip.embedding.parts import Header
from honeclip.embedding.to_parts import PART_ROWS, Embedded, begin, described, embed_to_parts, finished, write_parts
from honeclip.errors import HoneclipError, Interrupted, RanksError, RunError
from honeclip.model.load import load
from honeclip.stepping.ranks import Said, ended_by_leader, failure, said_of

FINE: Said = (0, "")


@dataclass(frozen=True)
class Begun:
    """What rank 0 tells: the folder is begun, and these parts of it are missing."""

    header: Header
    missing: tuple[int, ...]


class _GivenUp(Exception):
    """Another process failed: what is at hand here need not be finished."""


def embed_over_ranks(
    world: World,
    model: str,
    data: str | Path,
    out: Path,
    *,
    device: str = "auto",
    part_rows: int = PART_ROWS,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Embedded | None:
    """`to_parts.embed_to_parts` by all processes of a world; in one process it is that. Called in each of them.

    Args:
        world: who this process is.
        model: a source.
        data: a manifest, or a folder with one named pairs.csv; each process reads it.
        out: a folder that all processes see.
        device: as asked for with `--device`.
        part_rows: rows of the manifest a part.
        batch_size: images through the model at once.
        progress: called with (rows done, rows); of all processes, as far as this one knows.

    Returns:
        What is in the folder, on rank 0; None elsewhere.

    Raises:
        BadInput: what `embed_to_parts` refuses; also a process that sees another model, other data or another folder.
        RanksError: another process is gone, or this one ends with rank 0.
        Interrupted: torchrun ends all, as it does when one process was killed.
    """
    if world.size == 1:
        return embed_to_parts(
            load(model, device=device), data, out, part_rows=part_rows, batch_size=batch_size, progress=progress
        )
    with _ended_in_words(world):
        if not world.leads:
            _follow(world, model, data, out, device, part_rows, batch_size)
            return None
        return _lead(world, model, data, out, device, part_rows, batch_size, progress)


def _lead(
    world: World,
    model: str,
    data: str | Path,
    out: Path,
    device: str,
    part_rows: int,
    batch_size: int,
    progress: Progress | None,
) -> Embedded:
    with ExitStack() as held:
        try:  # before the others, for whom then lies ready what was loaded and looked up
            clip = load(model, device=device)
            rows, header = described(clip, data, part_rows)
            held.enter_context(locked(out))
            missing = begin(out, header)
        except Exception as error:
            with suppress(RanksError):  # who is gone needs not be told
                worlds.tell(world, said_of(error))
            raise
        worlds.tell(world, Begun(header, tuple(missing)))

        def work(look: Progress) -> None:
            places = claims.claimed(world, len(missing))
            write_parts(clip, rows, out, header, missing, places, batch_size=batch_size, progress=look)

        failed = _worked(world, work, progress)
        every: list[Said] = worlds.collect(world, said_of(failed) if failed else FINE)
        first = next((rank for rank, said in enumerate(every) if said[0]), None)
        worlds.tell(world, FINE if first is None else every[first])
        if failed is not None and first == world.rank:
            raise failed
        if first is not None:
            raise failure(first, *every[first])
        return finished(out, header, rows, len(missing))


def _follow(
    world: World, model: str, data: str | Path, out: Path, device: str, part_rows: int, batch_size: int
) -> None:
    begun: Begun | Said = worlds.hear(world)
    if not isinstance(begun, Begun):
        raise ended_by_leader(world, begun)
    header, missing = begun.header, begun.missing

    def work(look: Progress) -> None:
        if not missing:
            return
        clip = load(model, device=device)
        rows, own = described(clip, data, part_rows)
        _check(out, header, own)
        places = claims.claimed(world, len(missing))
        write_parts(clip, rows, out, header, missing, places, batch_size=batch_size, progress=look)

    failed = _worked(world, work, None)
    worlds.collect(world, said_of(failed) if failed else FINE)
    said: Said = worlds.hear(world)
    if said[0]:
        ended = ended_by_leader(world, said)
        if failed is not None and not isinstance(failed, HoneclipError):
            raise failed  # a fault of honeclip: its traceback is wanted
        raise ended


def _check(out: Path, header: Header, own: Header) -> None:
    """Sees that this process writes into the folder of rank 0 what rank 0 would.

    Raises:
        RunError: it has another model or other data, or does not see the folder.
    """
    if own.sha256 != header.sha256:
        raise RunError(
            f"this process has other rows or another model than rank 0 ({own.data} with {own.rows} rows and {own.model} here, "
            f"{header.data} with {header.rows} rows and {header.model} there): data and model have to be the same everywhere"
        )
    there = parts.read_header(out)
    if there is None or there.sha256 != header.sha256:
        raise RunError(
            f"{out / parts.INDEX}, which rank 0 has written, is not there for this process: --out has to be a folder that all "
            "machines share"
        )


def _worked(world: World, work: Callable[[Progress], None], progress: Progress | None) -> Exception | None:
    """Why this process could not do its work; None where it did, or where it stopped for another's sake."""

    def look(done: int, total: int) -> None:
        if claims.given_up(world):
            raise _GivenUp
        if progress:
            progress(done, total)

    try:
        work(look)
    except _GivenUp:
        return None
    except (RanksError, Interrupted):
        raise
    except Exception as error:
        claims.give_up(world)
        return error
    return None


@contextmanager
def _ended_in_words(world: World) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end this process with a line that says what that means. torchrun sends SIGTERM to all
    processes as soon as one has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # what is being written is taken away in peace
        raise Interrupted(
            number,
            f"rank {world.rank} was stopped by {signal.Signals(number).name}: by you, or by torchrun because another process "
            "has ended or was killed, and then torchrun says below which. Parts that are whole stay, and the same command goes "
            "on, with as many processes or another number",
        )

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
