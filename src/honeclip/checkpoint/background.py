"""Saving beside the steps: tensors are copied into buffers that are kept, and a thread writes the copy while steps go on.

Fresh memory makes a copy slow (0.9 s for 316 MB, against 25 ms into memory that is there), so the buffers stay from one
save to the next. There is one copy and one thread, so a save waits for the one before. The thread touches no device.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from honeclip.checkpoint import tensors
from honeclip.checkpoint.save import RunState, save


@dataclass(frozen=True)
class Saved:
    """A checkpoint that lies on the disk.

    Attributes:
        folder: of the checkpoint.
        step: steps done.
        best: whether it was made BEST.
        paused_s: seconds for which the steps waited, for the save before as well.
        writing_s: seconds that hashing and the disk took.
        bytes: of all its files.
    """

    folder: Path
    step: int
    best: bool
    paused_s: float
    writing_s: float
    bytes: int


class Saver:
    """Writes the checkpoints of one run, one after the other. `saver` makes one.

    Args:
        folder: RUN/checkpoints.
        keep_last: see `save`.
        lock: held while tensors are read from their device.
    """

    def __init__(self, folder: Path, keep_last: int, lock: AbstractContextManager[Any]) -> None:
        self._folder, self._keep_last, self._lock = folder, keep_last, lock
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="honeclip-save")
        self._under_way: Future[Saved] | None = None

    def save(
        self,
        state: RunState,
        *,
        best: bool = False,
        within: bool = False,
        beside: bool = True,
        since: float | None = None,
    ) -> Saved | None:
        """Writes a checkpoint: see `checkpoint.save.save`, which has the errors as well.

        Args:
            state: with live tensors, which may change as soon as this returns.
            best: make it BEST.
            within: make it WITHIN.
            beside: whether steps go on while it is written; its errors then come out of `done` or `wait`. Call `wait` before.
            since: when the pause began, by `time.perf_counter`; None is now.

        Returns:
            what was written; None where it is being written.
        """
        assert self._under_way is None, "there is one copy, which the save before still reads"
        since = time.perf_counter() if since is None else since
        if not beside:
            written = self._write(state, best, within, 0.0)
            return replace(written, paused_s=time.perf_counter() - since)
        kept = self._copied(state)
        self._under_way = self._thread.submit(self._write, kept, best, within, time.perf_counter() - since)
        return None

    def done(self) -> Saved | None:
        """What was written since this or `wait` was asked last; None where nothing was, or it is still being written.

        Raises:
            HoneclipError: it could not be written.
        """
        return self.wait() if self._under_way is not None and self._under_way.done() else None

    def wait(self) -> Saved | None:
        """As `done`, after it has been written."""
        if self._under_way is None:
            return None
        wait([self._under_way])  # a signal that ends this ends no writing, and leaves it to be waited for
        under_way, self._under_way = self._under_way, None
        return under_way.result()

    def settle(self) -> None:
        """Waits; what came of it is left to `done`."""
        if self._under_way is not None:
            wait([self._under_way])

    def close(self, report: Callable[[str], None]) -> None:
        """Waits, ends the thread and lets the buffers go; an error that nobody asked for is told."""
        self._thread.shutdown(wait=True)
        self._buffers = {}
        if self._under_way is not None and (error := self._under_way.exception()) is not None:
            report(str(error))

    def _copied(self, state: RunState) -> RunState:
        """The state as nobody changes it any more."""
        before, self._buffers = self._buffers, {}
        with self._lock:
            for file, group in state.tensors.items():
                for name, one in group.items():
                    self._buffers[file, name] = _into(before.pop((file, name), None), one.detach())
        copies = {file: {name: self._buffers[file, name] for name in group} for file, group in state.tensors.items()}
        return replace(state, tensors=copies, json=copy.deepcopy(state.json))

    def _write(self, state: RunState, best: bool, within: bool, paused_s: float) -> Saved:
        started = time.perf_counter()
        path = save(self._folder, state, self._keep_last, best, within)
        size = sum(file.stat().st_size for file in path.iterdir())
        return Saved(path, state.step, best, paused_s, time.perf_counter() - started, size)


def _into(buffer: Tensor | None, one: Tensor) -> Tensor:
    """A copy of a tensor in host memory, in the buffer where that has its shape and kind. Blocking, as MPS needs it."""
    if buffer is None or (buffer.shape, buffer.dtype) != (one.shape, one.dtype):
        buffer = torch.empty(one.shape, dtype=one.dtype)
    if one.device.type != "cpu" or not one.numel():
        return buffer.copy_(one.contiguous())
    # torch would share each copy among all cores and wait for the slowest: where loaders keep these busy, a thousand tensors
    # took 3.6 s in place of 0.2 s
    np.copyto(tensors.host_bytes(buffer), tensors.host_bytes(one))
    return buffer


@contextmanager
def saver(
    folder: Path, keep_last: int, lock: AbstractContextManager[Any], report: Callable[[str], None]
) -> Iterator[Saver]:
    """A `Saver` for as long as a run steps. However that ends, nothing is being written when this is left.

    Args:
        folder: RUN/checkpoints.
        keep_last: see `save`.
        lock: of the device.
        report: told an error of the last writing where another one ended the run.
    """
    one = Saver(folder, keep_last, lock)
    try:
        yield one
    finally:
        one.close(report)
