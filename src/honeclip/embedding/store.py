"""Rows of float32 on disk by the hash of what they were computed from: the cache below `features`.

One folder holds the rows of one model body and preprocessing. A part is a safetensors file of a few hundred rows with
two tensors, `keys` (n, 32) uint8 and `rows` (n, F) float32; its name carries the SHA-256 of both. A part is written
aside and becomes real by one rename, so any number of processes may write into a folder at once, and a killed one
leaves nothing that is read. A part that cannot be read, or whose content does not give its name, is removed: its rows
are computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

KEY_BYTES = 32
log = logging.getLogger(__name__)


def write(folder: Path, keys: Sequence[bytes], rows_NF: Tensor) -> None:
    """Add one part. A disk that is full or read-only costs the cache, not the run: it is logged and forgotten.

    Args:
        folder: of one body; made where it is missing.
        keys: N hashes of 32 bytes.
        rows_NF: float32 on the CPU.
    """
    keys_N = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), KEY_BYTES)
    rows_NF = rows_NF.contiguous()
    final = folder / f"part-{_digest(keys_N, rows_NF)}.safetensors"
    aside = folder / f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(save({"keys": keys_N, "rows": rows_NF}))
        aside.replace(final)
    except OSError as error:
        log.warning("features are not kept: %s", error)
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def read(folder: Path, wanted: Mapping[bytes, int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Everything in `folder` that is wanted, one part at a time.

    Args:
        folder: of one body; it may be missing.
        wanted: hash to the number by which the caller knows it.

    Yields:
        The numbers found in a part (n,) and their rows (n, F).
    """
    for part in sorted(folder.glob("part-*.safetensors")):
        try:
            found = _read_part(part, wanted)
        except FileNotFoundError:
            continue  # another process found it damaged first
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            log.warning("a damaged part of the feature cache is removed: %s: %s", part.name, error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            continue
        if found is not None:
            yield found


def _read_part(part: Path, wanted: Mapping[bytes, int]) -> tuple[NDArray[np.int64], Tensor] | None:
    with safe_open(part, framework="pt") as file:
        keys_N = file.get_tensor("keys")
        if keys_N.dtype != torch.uint8 or keys_N.ndim != 2 or keys_N.shape[1] != KEY_BYTES:
            raise ValueError("its keys have another shape")
        raw = keys_N.numpy().tobytes()
        numbers = [wanted.get(raw[start : start + KEY_BYTES], -1) for start in range(0, len(raw), KEY_BYTES)]
        here = [row for row, number in enumerate(numbers) if number >= 0]
        if not here:
            return None  # of another data set: its rows are not even read
        rows_NF = file.get_tensor("rows")
    if _digest(keys_N, rows_NF) not in part.name:
        raise ValueError("its content does not match its name")
    return np.array(numbers, dtype=np.int64)[here], rows_NF[here]


def _digest(keys_N: Tensor, rows_NF: Tensor) -> str:
    hashed = hashlib.sha256(str((tuple(keys_N.shape), tuple(rows_NF.shape), rows_NF.dtype)).encode())
    hashed.update(keys_N.contiguous().numpy().data)
    hashed.update(rows_NF.contiguous().numpy().data)
    return hashed.hexdigest()[:32]
