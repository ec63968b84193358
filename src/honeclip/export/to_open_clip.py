"""A folder in open_clip's layout, which is how honeclip keeps models itself."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from honeclip.export.encoders import Encoders
from honeclip.model import folder as model_folder
from honeclip.model.clip import Clip

LIBRARY = "open_clip"

TOLERANCE = {"fp32": 1e-5}
"""Largest difference of unit embeddings: the modules are the same."""


HERE = '\n# the text tower is one of transformers\', which open_clip finds in the working directory: there, as "local-dir:."'


def write(clip: Clip, folder: Path, precision: str) -> list[str]:
    """Writes the model as `model.folder` does it.

    Args:
        clip: on the CPU.
        folder: an empty one.
        precision: "fp32", the only one.
    """
    model_folder.save(clip, folder, "")
    return []


def opened(clip: Clip, folder: Path) -> Encoders:
    """What open_clip alone makes of the folder."""
    import open_clip

    # a text tower of transformers has the name "./" in such a folder, which open_clip looks for in the working directory
    with contextlib.chdir(folder):
        model: Any = open_clip.create_model_from_pretrained("local-dir:.")[0].eval()

    def run(encode: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = encode(x, normalize=True)
        return found

    return Encoders(lambda images: run(model.encode_image, images), lambda tokens: run(model.encode_text, tokens))


def example(clip: Clip) -> str:
    """Python that uses the folder, for its card."""
    return (
        "import open_clip\n\n"
        'model, preprocess = open_clip.create_model_from_pretrained("local-dir:FOLDER")\n'
        'tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")'
        + (HERE if clip.config["text_cfg"].get("hf_model_name") else "")
    )
