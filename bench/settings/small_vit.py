"""Writes a CLIP with random weights and a ViT-Ti/16: an image tower with a position table that two cores can train."""

from __future__ import annotations

import sys
from pathlib import Path

from honeclip.device.detect import choose
from honeclip.model import build
from honeclip.model import folder as folders
from honeclip.model.clip import Base, place
from honeclip.preprocess.preprocess import Preprocess

CONFIG = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4},
}


def main(out: Path) -> None:
    """Writes the folder."""
    preprocess = Preprocess.from_open_clip({}, CONFIG["vision_cfg"]["image_size"], build.tokenizer(CONFIG))
    base = Base("ViT-Ti-16", "none", starts_unaligned=True)
    clip = place(build.build(CONFIG), preprocess, CONFIG, base, source="ViT-Ti-16", device=choose("cpu"))
    folders.save(clip, out, "# A ViT-Ti/16 and a text tower of 4 layers, random weights\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
