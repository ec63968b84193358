"""Figures as TensorBoard reads them, by TensorBoard's own writer; needs the extra `honeclip[tensorboard]`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from honeclip.errors import BadInput
from honeclip.monitoring.trackers import Figures, Histogram

SUFFIX = ".honeclip"
"""Of the files written here: those of an earlier call are replaced, and no other."""


class TensorBoard:
    """A folder of one run for `tensorboard --logdir`.

    Args:
        folder: made where it is missing.

    Raises:
        BadInput: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError:
            raise BadInput(
                "tensorboard is not installed, which --to tensorboard needs: pip install 'honeclip[tensorboard]'"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            file.unlink()
        self._writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)

    def write(self, figures: Figures) -> None:
        """Each value and histogram under its name, at the time of its event."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.values.items()]
        for tag, histogram in figures.histograms.items():
            values.append(Summary.Value(tag=tag, histo=_proto(histogram)))
        self._writer.add_event(Event(wall_time=figures.time, step=figures.step, summary=Summary(value=values)))

    def back_to(self, step: int) -> None:
        """TensorBoard drops what it has read of the steps after this one."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._writer.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def flush(self) -> None:
        """To the file."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _proto(histogram: Histogram) -> object:
    """With the middle of each bin for the values in it."""
    from tensorboard.compat.proto.histogram_pb2 import HistogramProto

    edges, counts = histogram
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=sum(counts),
        sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(count * middle**2 for count, middle in zip(counts, middles, strict=True)),
        # the first bucket of TensorBoard goes from minus infinity to its limit
        bucket_limit=edges,
        bucket=[0.0, *counts],
    )
