"""What tests of whole runs share: drawn pictures with captions, and model folders so small that a step takes milliseconds."""

from __future__ import annotations

import copy
import csv
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from honeclip.device.detect import choose
from honeclip.model import build
from honeclip.model import folder as folders
from honeclip.model.clip import Base, Clip, place
from honeclip.preprocess.preprocess import Preprocess


def tiers(cases: Iterable[Any], *always: Any) -> list[ParameterSet]:
    """Cases for `parametrize`: those named run always, the others in the slow tier. A case is a value, or a tuple of them."""
    every = list(cases)
    assert set(always) <= set(every), "a case that runs always is none of the cases"
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in always else pytest.mark.slow)
        for case in every
    ]


COLOURS = ("red", "green", "blue", "black", "orange", "purple")
SHAPES = ("circle", "square", "cross", "bar")
WORDS = ("[PAD]", "[UNK]", "a", *COLOURS, *SHAPES, "number", ",", *map(str, range(60)), "[START]", "[END]")
"""The vocabulary: a table of fifty thousand tokens would be all that these models consist of. The end is the highest
number, by which a native CLIP finds it."""

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": len(WORDS),
        "width": 32,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "./",
    },
}
"""A native CLIP of two layers a tower."""

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
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}

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


def text_files(folder: Path, words: Sequence[str] = WORDS) -> Path:
    """The files of the text side: a tokenizer of whole words, and the config of a BERT, for who has one."""
    folder.mkdir(parents=True)
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(name, words.index(name)) for name in ("[START]", "[END]")]
    made.post_processor = processors.TemplateProcessing(single="[START] $A [END]", special_tokens=marks)
    made.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[START]", "eos_token": "[END]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1000, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(BERT))
    return folder


def make_clip(text: Path, config: dict[str, Any] = VIT, *, unaligned: bool = True) -> Clip:
    """A Clip with random weights by seed 0; `text` is what `text_files` made."""
    model = build.build(config, text)
    preprocess = Preprocess.from_open_clip({}, config["vision_cfg"]["image_size"], build.tokenizer(config, text))
    base = Base("tiny", "none", starts_unaligned=unaligned)
    return place(model, preprocess, copy.deepcopy(config), base, source="tiny", device=choose("cpu"))


def model_folder(folder: Path, text: Path, config: dict[str, Any] = VIT, *, unaligned: bool = True) -> Path:
    """A model as a folder; with TWO_TOWERS it is one like `starter`."""
    folders.save(make_clip(text, config, unaligned=unaligned), folder, "# tiny")
    return folder


def model_of(folder: Path, captions: Iterable[str]) -> Path:
    """A native CLIP as a model folder that knows each word of the captions."""
    split = pre_tokenizers.Whitespace()
    found = sorted({word for caption in captions for word, _ in split.pre_tokenize_str(caption)})
    words = ("[PAD]", "[UNK]", *found, "[START]", "[END]")
    config = {**VIT, "text_cfg": {**VIT["text_cfg"], "vocab_size": len(words)}}
    return model_folder(folder / "model", text_files(folder / "text", words), config)


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
