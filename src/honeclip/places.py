"""Where things live on this machine. The only file that reads HONECLIP_HOME or names a cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder for everything that honeclip keeps: `HONECLIP_HOME`, else `~/.cache/honeclip`. Not created here."""
    chosen = os.environ.get("HONECLIP_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "honeclip"


def features() -> Path:
    """Features of frozen tower bodies, one folder a body and preprocessing."""
    return home() / "features"


def inspections() -> Path:
    """What is known of each image file (size, mode, hash of its pixels), so that it is decoded for that once."""
    return home() / "inspections"


def shards() -> Path:
    """What is in each WebDataset shard, and where, so that no start goes through the shards again."""
    return home() / "shards"


def domains() -> Path:
    """The user's own domain files, found by name."""
    return home() / "domains"


def models() -> Path:
    """The Hugging Face hub's cache, which open_clip and transformers fill: theirs, not honeclip's, so that files are shared."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def size_bytes(folder: Path) -> int:
    """Bytes of all regular files below `folder`; 0 where it does not exist. Links are not followed."""
    if not folder.is_dir():
        return 0
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
