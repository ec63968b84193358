"""What tests of whole runs share: drawn pictures with captions, and model folders so small that a step takes milliseconds."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from honeclip.device.detect import choose
from honeclip.model import build
from honeclip.model import folder as folders
from honeclip.model.clip import Base, Clip, place
from honeclip.model.starter import text_folder
from honeclip.preprocess.preprocess import Preprocess

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""A native CLIP of two layers a tower; 1.7 million weights, nearly all of them the table of tokens."""

TWO_TOWERS = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "test_efficientnet",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": True,
        "image_size": 32,
    },
    "text_cfg": {
        "context_length": 16,
        "hf_model_name": "./",
        "hf_tokenizer_name": "./",
        "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler",
    },
}
"""The parts of `starter`, small: an image tower with batch norms, a BERT pooled by its mean, fresh projections."""

BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30522,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}

COLOURS = ("red", "green", "blue", "black", "orange", "purple")
SHAPES = ("circle", "square", "cross", "bar")
SPLITS = (*("train",) * 3, "val")
"""Splits of consecutive rows, again and again, for runs that are not scored at the end."""

ALL_SPLITS = ("train", "train", "train", "val", "test")

FP32 = {"train": {"precision": "fp32"}}


def draw(folder: Path, rows: int, splits: Sequence[str] = SPLITS, *, labels: bool = False) -> Path:
    """Writes pairs.csv and `rows` pictures of a coloured shape, whose caption says what it is."""
    (folder / "images").mkdir(parents=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["image", "caption", "split", *(["label"] if labels else [])])
        for row in range(rows):
            colour, shape = COLOURS[row % len(COLOURS)], SHAPES[row // len(COLOURS) % len(SHAPES)]
            name = f"images/{row:03d}.png"
            _picture(colour, shape, row).save(folder / name)
            caption = f"a {colour} {shape}, number {row}"
            out.writerow([name, caption, splits[row % len(splits)], *([shape] if labels else [])])
    return folder


def _picture(colour: str, shape: str, row: int) -> Image.Image:
    image = Image.new("RGB", (40, 36), "white")
    pen = ImageDraw.Draw(image)
    left, top = 2 + row % 7, 2 + row % 5
    box = (left, top, left + 20, top + 20)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "bar":
        pen.rectangle((left, top + 7, left + 20, top + 13), fill=colour)
    else:
        pen.line(box, fill=colour, width=3)
    return image


def make_clip(config: dict[str, Any] = VIT, *, unaligned: bool = True, text: Path | None = None) -> Clip:
    """A Clip with random weights by seed 0."""
    model = build.build(config, text)
    preprocess = Preprocess.from_open_clip({}, config["vision_cfg"]["image_size"], build.tokenizer(config, text))
    base = Base("tiny", "none", starts_unaligned=unaligned)
    return place(model, preprocess, json.loads(json.dumps(config)), base, source="tiny", device=choose("cpu"))


def model_folder(folder: Path, *, unaligned: bool = True) -> Path:
    """A native CLIP as a model folder."""
    folders.save(make_clip(VIT, unaligned=unaligned), folder, "# tiny")
    return folder


def two_towers(folder: Path, text: Path) -> Path:
    """A model like `starter`, as a model folder; `text` becomes the folder of its text tower's files."""
    text.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (text_folder() / name).is_file():
            (text / name).write_bytes((text_folder() / name).read_bytes())
    (text / "config.json").write_text(json.dumps(BERT))
    folders.save(make_clip(TWO_TOWERS, text=text), folder, "# tiny")
    return folder


def settings(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A config of a run of milliseconds: float32, no pictures, each section with what is given besides."""
    base: dict[str, dict[str, Any]] = {
        "train": {"length": 6, "batch": 8, "precision": "fp32"},
        "checkpoint": {"every": 2},
        "evaluate": {"every": 2},
        "report": {"pictures": False},
    }
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}


def environment(home: Path) -> dict[str, str]:
    """The environment of a process that a test starts. Where Python may not keep bytecode beside its sources, it is kept
    in the session's home: to compile torch anew takes each process ten seconds."""
    env = {**os.environ, "HONECLIP_HOME": str(home), "OMP_NUM_THREADS": "1"}
    if env.pop("PYTHONDONTWRITEBYTECODE", None):
        env["PYTHONPYCACHEPREFIX"] = str(home / "bytecode")
    return env
