"""From a model source to a model that is ready to serve: precision by the self-check, batch sizes by measuring."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from honeclip.device.detect import choose
from honeclip.device.device import Device
from honeclip.device.oom import is_out_of_memory
from honeclip.device.precision import Precision
from honeclip.device.precision import choose as choose_precision
from honeclip.domains.domain import Domain
from honeclip.model import towers
from honeclip.model.classify import domain_of, scale_of
from honeclip.model.clip import Clip
from honeclip.model.fingerprint import of_weights
from honeclip.model.load import load
from honeclip.model.selfcheck import checked, device_check
from honeclip.serving.forward import Forward
from honeclip.serving.queue import MODALITIES, Modality

SIZES = (1, 4, 8, 16, 32, 64)
"""Batches that are tried. On two cores of a CPU images are fastest at about 8; a GPU wants more."""

WORTH = 1.03
"""A larger batch is taken where it is this much faster: it makes those wait that come next."""

FEW, MANY = 1, 4
"""Rows by which the number of threads is chosen, of a batch of one and of larger ones."""

THREADS_SHARE = 0.25
"""Of the time for measuring: no number of threads is tried that would take longer, for the fewer the slower."""

TEXT_TOKENS = 16
"""Of the texts of the warm-up, about those of a caption."""

Said = Callable[[str, float], None]
"""Told of each stage of the start, with its seconds."""


@dataclass(frozen=True)
class Loaded:
    """A model with what is read from it once, on the device's thread.

    Attributes:
        clip: the model.
        name: what clients see: the source, of a folder only its name.
        fingerprint: SHA-256 in hex of architecture and weights.
        precision: of the towers.
        self_check: against the CPU in float32.
        domain: the model's own, else general.
        scale: exp(logit scale).
        seconds: of each stage of the start.
    """

    clip: Clip
    name: str
    fingerprint: str
    precision: Precision
    self_check: dict[str, float | bool | None]
    domain: Domain
    scale: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """Of one modality: rows of a batch, seconds a row at that size, seconds of the slowest call, threads of a CPU for a batch
    of one row and for a larger one (0: leave them).
    """

    largest: int
    seconds_a_row: float
    slowest_s: float
    threads: tuple[int, int] = (0, 0)

    def threads_for(self, rows: int) -> int:
        """Threads for a batch of `rows`."""
        return self.threads[rows > FEW]


def loaded(source: str, device: str | Device = "auto", wanted: str = "auto", say: Said | None = None) -> Loaded:
    """Load a model and check its device. To be called on the thread that will own the device.

    Args:
        source: any model source.
        device: "auto", "cpu", "mps" or "cuda", or a Device.
        wanted: precision; "auto" is float32 on a CPU, and half precision elsewhere where the self-check allows it.
        say: told of each stage.

    Raises:
        BadInput: the model or the device is not there.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        made = work()
        seconds[name] = time.perf_counter() - started
        if say:
            say(name, seconds[name])
        return made

    where = choose(device)
    clip: Clip = timed("model", lambda: load(source, where))
    precision, check = timed("self-check", lambda: _precision(clip, wanted))
    fingerprint = timed("fingerprint", lambda: of_weights(clip))
    return Loaded(
        clip=clip,
        name=public_name(source),
        fingerprint=fingerprint,
        precision=precision,
        self_check=check,
        domain=domain_of(clip),
        scale=scale_of(clip),
        seconds=seconds,
    )


def public_name(source: str) -> str:
    """What clients see of a source: of a folder its name, and of RUN/model the run's."""
    path = Path(source).expanduser()
    if not path.is_dir():
        return source
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def measured(found: Loaded, forward: Forward, within_s: float) -> dict[Modality, Measured]:
    """The batch size of the best throughput, by modality, from a few calls of each size; on a CPU after the numbers of
    threads, which a caller sets before each batch.

    Args:
        found: the model.
        forward: the model call.
        within_s: seconds for all of it; the sizes that were tried until then decide.
    """
    started = time.perf_counter()
    out: dict[Modality, Measured] = {}
    most = torch.get_num_threads()
    for share, modality in enumerate(MODALITIES):
        begun, until = (started + within_s * (share + some) / len(MODALITIES) for some in (THREADS_SHARE, 1.0))
        threads = (0, 0)
        if found.clip.device.backend == "cpu":
            torch.set_num_threads(most)
            one, several = (_threads(found, forward, modality, rows, begun) for rows in (FEW, MANY))
            threads = one, several
        out[modality] = _measured(found, forward, modality, until, threads)
    found.seconds["warm-up"] = time.perf_counter() - started
    return out


def sample(clip: Clip, modality: Modality, rows: int) -> Tensor | None:
    """Rows of a modality as the queue has them; None for texts of a model without a tokenizer."""
    if modality == "image":
        size = clip.preprocess.size_px
        return torch.randint(
            0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
    if clip.preprocess.tokenizer is None:
        return None
    length = min(TEXT_TOKENS, clip.preprocess.context_length)
    return towers.probes(clip.model, clip.preprocess.context_length, rows, (length,))


def _threads(found: Loaded, forward: Forward, modality: Modality, count_rows: int, until: float) -> int:
    """The fewest threads of a CPU with which a batch is as fast as with any number.

    Every operation ends with all threads waiting for the last one. With a small model, or on a machine whose cores have
    other work, that takes longer than the operation; and what the model leaves alone decodes pictures.
    """
    most, rows = torch.get_num_threads(), sample(found.clip, modality, count_rows)
    if most == 1 or rows is None:
        return most
    seconds: dict[int, float] = {}
    for count in sorted({most, most // 2, 1} - {0}, reverse=True):
        if seconds and time.perf_counter() + 3 * min(seconds.values()) * most / count > until:
            break
        torch.set_num_threads(count)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            forward(found.clip, found.precision.name, modality, rows)
            times.append(time.perf_counter() - began)
        seconds[count] = min(times[1:])  # the first one makes threads and plans
    torch.set_num_threads(most)
    return min(count for count, took in seconds.items() if took <= WORTH * min(seconds.values()))


def _measured(found: Loaded, forward: Forward, modality: Modality, until: float, threads: tuple[int, int]) -> Measured:
    best = Measured(1, 0.05, 0.0, threads)
    slowest = 0.0
    for size in SIZES:
        rows = sample(found.clip, modality, size)
        if rows is None:
            break
        try:
            times = []
            set_threads(best.threads_for(size))
            for _ in range(3):
                began = time.perf_counter()
                forward(found.clip, found.precision.name, modality, rows)
                times.append(time.perf_counter() - began)
        except Exception as error:
            if is_out_of_memory(error) and size > 1:
                break
            raise
        slowest = max(slowest, *times)
        a_row = min(times[1:]) / size
        if size == 1 or a_row * WORTH < best.seconds_a_row:
            best = Measured(size, a_row, slowest, threads)
        if time.perf_counter() + 6 * max(times) > until:  # the next size takes about twice as long, three times
            break
    return Measured(best.largest, best.seconds_a_row, slowest, threads)


def set_threads(count: int) -> None:
    """So many threads compute what this thread calls from now on; 0 leaves them as they are."""
    if count and count != torch.get_num_threads():
        torch.set_num_threads(count)


def _precision(clip: Clip, wanted: str) -> tuple[Precision, dict[str, float | bool | None]]:
    device = clip.device
    if wanted == "auto":
        full = device.backend == "cpu" or choose_precision(device).name == "fp32"
        wanted = "fp32" if full else "fp16"  # three bits more than bf16, and without a gradient nothing overflows
    chosen = choose_precision(device, wanted)
    if device.backend == "cpu" and chosen.name == "fp32":
        return chosen, device_check(device, precision="fp32")
    return checked(device, chosen)
