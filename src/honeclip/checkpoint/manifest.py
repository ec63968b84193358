"""What makes a checkpoint whole: manifest.json holds the SHA-256 of every file, manifest.sha256 that of the manifest.

`sha256sum -c manifest.sha256` understands the second one as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

MANIFEST, SEAL, STATE = "manifest.json", "manifest.sha256", "state.json"


def write_text(path: Path, text: str) -> str:
    """Writes a small file, waits until it lies on the disk, and returns its SHA-256 in hex."""
    data = text.encode()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def seal(folder: Path, hashes: Mapping[str, str]) -> None:
    """Writes both manifest files for `hashes`, file name -> SHA-256 in hex."""
    own = write_text(folder / MANIFEST, json.dumps(dict(sorted(hashes.items())), indent=2) + "\n")
    write_text(folder / SEAL, f"{own}  {MANIFEST}\n")


def verify(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, one sentence a file; an empty list where it is whole."""
    if not folder.is_dir():
        return [f"{folder.name}: there is no such folder"]
    missing = [name for name in (SEAL, MANIFEST) if not (folder / name).is_file()]
    if missing:
        return [f"{name} is missing" for name in missing]
    try:
        if (folder / SEAL).read_bytes() != f"{sha256(folder / MANIFEST)}  {MANIFEST}\n".encode():
            return [f"{MANIFEST} is not what {SEAL} says: one of the two was changed or damaged"]
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    if not isinstance(hashes, dict) or STATE not in hashes:
        return [f"{MANIFEST} does not list {STATE}, so honeclip did not write it"]
    return [fault for name, expected in hashes.items() if (fault := _file_fault(folder / name, expected))]


def listed(folder: Path) -> list[Path]:
    """The files of a checkpoint that `verify` found whole, manifests left out, by name. What else a system or a person has
    put beside them (`._weights.safetensors`, .DS_Store) is no part of it and is never read.

    Raises:
        OSError, ValueError: there is no manifest, or it is no JSON object.
    """
    return [folder / name for name in sorted(dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))))]


def _file_fault(file: Path, expected: str) -> str:
    if not file.is_file():
        return f"{file.name} is missing"
    try:
        found = sha256(file)
    except OSError as error:
        return f"{file.name} cannot be read: {error}"
    return "" if found == expected else f"{file.name} was changed or damaged: its SHA-256 is not the one in {MANIFEST}"


def sha256(file: Path) -> str:
    """Of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
