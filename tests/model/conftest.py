"""Tiny models of every kind that open_clip builds: two layers, random weights, nothing fetched."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from tiny_models import CONFIGS, REVISION

from honeclip.device.detect import choose
from honeclip.model import build
from honeclip.model.clip import Base, Clip, place
from honeclip.model.load import load
from honeclip.preprocess.preprocess import Preprocess


@pytest.fixture(scope="session")
def cpu():
    return choose("cpu")


@pytest.fixture(scope="session")
def configs(tmp_path_factory) -> dict[str, dict]:
    """The tiny configs, known to open_clip under honeclip-test-NAME."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"honeclip-test-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return CONFIGS


@pytest.fixture(scope="session")
def make(cpu):
    """make(config or name) -> a new Clip with random weights and OpenAI's preprocessing."""

    def made(config: str | dict, **options) -> Clip:
        config = copy.deepcopy(CONFIGS[config] if isinstance(config, str) else config)
        tokenizer = build.tokenizer(config)
        preprocess = Preprocess.from_open_clip(
            options.pop("preprocess", {}), config["vision_cfg"]["image_size"], tokenizer
        )
        base = Base("tiny", "none", starts_unaligned=True)
        return place(build.build(config), preprocess, config, base, source="tiny", device=cpu, **options)

    return made


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[Path]:
    """Seven picture files of different shapes and modes."""
    folder = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0)
    paths = []
    for place_, (width, height) in enumerate([(80, 60), (64, 64), (33, 90), (200, 120), (16, 16), (65, 64), (120, 40)]):
        coarse = numbers.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        paths.append(folder / f"{place_}.png")
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


PLAIN_OPEN_CLIP = """
import json, os, sys, torch, open_clip
from PIL import Image
folders, pictures, captions, out = map(json.loads, sys.argv[1:])
found = []
for folder in folders:
    os.chdir(folder)
    model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
    tokens = open_clip.get_tokenizer("local-dir:.")(captions)
    images = torch.stack([preprocess(Image.open(path)) for path in pictures])
    model.eval()
    with torch.no_grad():
        image, text = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
    found.append({"image": image, "text": text})
assert not any(name.startswith("honeclip") for name in sys.modules)
torch.save(found, out)
"""


@pytest.fixture
def with_open_clip_alone(tmp_path, pictures):
    """with_open_clip_alone(folders, captions) -> {"image", "text"} of each, from one process without honeclip."""

    def loaded(folders: list[Path], captions: list[str]) -> list[dict[str, torch.Tensor]]:
        out = tmp_path / "embeddings.pt"
        given = [[str(folder) for folder in folders], [str(path) for path in pictures], captions, str(out)]
        command = [sys.executable, "-c", PLAIN_OPEN_CLIP, *map(json.dumps, given)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return torch.load(out, weights_only=True)

    return loaded


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and a function that puts a folder into it as a repository."""
    home = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))

    def add(repo: str, files) -> None:
        owner = home / f"models--{repo.replace('/', '--')}"
        snapshot = owner / "snapshots" / REVISION
        (owner / "refs").mkdir(parents=True)
        (owner / "blobs").mkdir()
        (owner / "refs" / "main").write_text(REVISION)
        snapshot.mkdir(parents=True)
        for path in files.iterdir():
            blob = owner / "blobs" / path.name
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))

    add.snapshot = lambda repo: home / f"models--{repo.replace('/', '--')}" / "snapshots" / REVISION
    return add


@pytest.fixture(scope="session")
def starter(cpu):
    return load("starter", cpu)
