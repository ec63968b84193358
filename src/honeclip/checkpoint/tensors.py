"""Named tensors to one safetensors file and back, bit for bit.

The file is written tensor by tensor and hashed on the way: safetensors' own `save_file` copies every tensor into memory
first and refuses tensors that share storage, and a second reading would be needed for the hash. Format:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from honeclip.errors import HoneclipError, RunError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

SUFFIX = ".safetensors"

CHUNK = 1 << 20
"""Numbers looked at in one go, so that a table of any size costs a few megabytes besides the file, which is mapped."""


def write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes the tensors, waits until they lie on the disk, and returns the file's SHA-256 in hex.

    The same tensors give the same bytes, in whatever order and on whatever device they come.

    Args:
        path: the new file.
        tensors: any shapes, also none and empty; copied to host memory one at a time.

    Raises:
        HoneclipError: a dtype that a checkpoint does not hold.
        OSError: the disk.
    """
    digest = hashlib.sha256()
    # Large elements first: every tensor is then aligned to its element size, as readers that map the file need it.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    pieces = itertools.chain(
        [_header(path, {name: tensors[name] for name in order})], (host_bytes(tensors[name]).data for name in order)
    )
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, on the CPU.

    Raises:
        RunError: the file is missing or no safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    return tensors


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a file that `faults` finds nothing in, from its header alone."""
    with safe_open(path, framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping


def faults(path: Path) -> list[str]:
    """A sentence for each tensor of floats that holds NaN or infinity, or for a file that cannot be read. One tensor at a
    time, as mapped.
    """
    found: list[str] = []
    try:
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - the file is no mapping and cannot be iterated
                one = opened.get_tensor(name)
                bad = _not_finite(one) if one.is_floating_point() else 0
                if bad:
                    found.append(f"{path.name}: {name} holds NaN or infinity ({bad} of {one.numel()} numbers)")
    except (OSError, SafetensorError) as error:
        found.append(f"{path.name} cannot be read: {error}")
    return found


def _not_finite(one: Tensor) -> int:
    """How many; they are counted only in pieces whose smallest or largest number is one, which a NaN always is."""
    pieces = one.reshape(-1).split(CHUNK) if one.numel() else ()
    return sum(
        int((~piece.isfinite()).sum()) for piece in pieces if not bool(torch.stack(piece.aminmax()).isfinite().all())
    )


def _header(path: Path, tensors: Mapping[str, Tensor]) -> memoryview:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, one in tensors.items():
        if one.dtype not in _NAMES:
            raise HoneclipError(f"{path.name}: {name} is {one.dtype}, which a checkpoint does not hold")
        begin, end = end, end + one.numel() * one.element_size()
        entries[name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def host_bytes(one: Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor in host memory, flat: its own where it lies there in order, otherwise a copy's."""
    found: NDArray[np.uint8] = one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found
