"""Tiny models of every kind that open_clip builds: two layers, random weights, nothing fetched."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tiny_models import CONFIGS

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
import json, sys, torch, open_clip
from pathlib import Path
from PIL import Image
folder, pictures, captions, out = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
name = f"local-dir:{folder}"
model, preprocess = open_clip.create_model_from_pretrained(name)
tokens = open_clip.get_tokenizer(name)(captions)
images = torch.stack([preprocess(Image.open(path)) for path in pictures])
model.eval()
with torch.no_grad():
    image, text = model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)
assert not any(name.startswith("honeclip") for name in sys.modules)
torch.save({"image": image, "text": text}, out)
"""


@pytest.fixture
def with_open_clip_alone(tmp_path):
    """with_open_clip_alone(folder, pictures, captions, cwd) -> {"image", "text"}, from a process without honeclip."""

    def loaded(folder: str | Path, pictures: list[Path], captions: list[str], cwd: Path | None = None):
        out = tmp_path / "embeddings.pt"
        command = [
            sys.executable,
            "-c",
            PLAIN_OPEN_CLIP,
            str(folder),
            json.dumps([str(p) for p in pictures]),
            json.dumps(captions),
            str(out),
        ]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return torch.load(out, weights_only=True)

    return loaded


@pytest.fixture(scope="session")
def starter(cpu):
    return load("starter", cpu)
