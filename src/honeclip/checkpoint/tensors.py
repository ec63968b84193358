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

import torch
from safetensors import SafetensorError
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
        [_header(path, {name: tensors[name] for name in order})], (_host_bytes(tensors[name]) for name in order)
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


def _host_bytes(one: Tensor) -> memoryview:
    return one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
