"""A model as a folder in open_clip's hub layout, which open_clip loads without honeclip, and back.

open_clip_config.json         {"model_cfg", "preprocess_cfg"}: the EFFECTIVE size, activation, context length
open_clip_model.safetensors   float32 weights
README.md                     the model card
honeclip.json                 what open_clip has no place for: preprocessing in full, base, domain, calibration if there is one
tokenizer.json, ...           where the tokenizer has files
config.json                   where the text tower is one of transformers; its `hf_model_name` is "./" for `starter`
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from safetensors import SafetensorError
from torch import nn

from honeclip.checkpoint import tensors
from honeclip.errors import HoneclipError, ModelError
from honeclip.model import build
from honeclip.model.calibration import Calibration
from honeclip.model.clip import FORMAT, Base, Clip, check_format, place
from honeclip.preprocess.preprocess import Preprocess

if TYPE_CHECKING:
    from honeclip.device.device import Device

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
OURS = "honeclip.json"
CARD = "README.md"

WEIGHTS_NAMES = (
    WEIGHTS,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
"""In the order in which open_clip prefers them."""


def save(clip: Clip, folder: Path, card: str) -> None:
    """Write the model; what was in `folder` is replaced.

    Everything is written aside, into `NAME.partial-PID`, and the folder gets its name by a rename when it is whole: a
    crash leaves the old folder, the new one, or none, never half of one.

    Args:
        clip: its heads must be those of open_clip (`heads.fold`).
        folder: the new folder; its parent is made where it is missing.
        card: README.md's text.

    Raises:
        HoneclipError: the disk is full or refuses.
    """
    aside = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f"{folder.name}.old")
    try:
        for left_over in (*folder.parent.glob(f"{folder.name}.partial-*"), old):
            shutil.rmtree(left_over, ignore_errors=True)
        aside.mkdir(parents=True)
        _write(clip, aside, card)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise HoneclipError(f"the model could not be written to {folder}: {error.strerror or error}") from error


def _write(clip: Clip, folder: Path, card: str) -> None:
    for name, text in build.text_files(clip.model, clip.preprocess.tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")
    content = {"model_cfg": clip.config, "preprocess_cfg": clip.preprocess.to_open_clip()}
    ours = {
        "format": FORMAT,
        "preprocess": clip.preprocess.to_json(),
        "base": asdict(clip.base),
        "domain": clip.domain,
        **({"calibration": clip.calibration.to_json()} if clip.calibration else {}),
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / OURS).write_text(json.dumps(ours, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")
    tensors.write(folder / WEIGHTS, clip.model.state_dict())


def read(folder: Path, *, device: Device, source: str = "", network: bool = False) -> Clip:
    """A folder in open_clip's layout, ours or anyone's.

    Args:
        folder: with open_clip_config.json and weights.
        device: where to put the model.
        source: what the user asked for; the folder where it is empty.
        network: a tokenizer or text config that the folder does not have may be fetched from the hub.

    Raises:
        ModelError: a file is missing, damaged or does not fit the others; it is named.
    """
    source = source or str(folder)
    content = read_json(folder / CONFIG)
    if not isinstance(content.get("model_cfg"), dict):
        raise ModelError(f"{folder / CONFIG} has no `model_cfg`")
    config = content["model_cfg"]
    weights = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
    if weights is None:
        raise ModelError(f"{folder} has {CONFIG} but no weights: none of {', '.join(WEIGHTS_NAMES)} is there")
    model = build.build(config, folder, network=network)
    load_weights(model, weights)
    tokenizer = build.tokenizer(config, folder, network=network)
    calibration = None
    if (folder / OURS).is_file():
        ours = read_json(folder / OURS)
        check_format(ours, str(folder / OURS))
        preprocess, base, domain = (
            Preprocess.from_json(ours["preprocess"], tokenizer),
            Base(**ours["base"]),
            ours["domain"],
        )
        calibration = Calibration.from_json(ours["calibration"]) if ours.get("calibration") else None
    else:
        preprocess = Preprocess.from_open_clip(content.get("preprocess_cfg", {}), square(config), tokenizer)
        base, domain = Base(source, licence(folder), False), None
    clip = place(model, preprocess, config, base, source=source, device=device, domain=domain)
    clip.calibration = calibration
    return clip


def load_weights(model: nn.Module, path: Path) -> None:
    """Weights in any of open_clip's formats into a model: tables are resized to its config, as open_clip does it.

    No pickle is run: safetensors, or `torch.load` with `weights_only=True`.

    Raises:
        ModelError: the file is damaged, holds code, or the weights are those of another model.
    """
    try:
        with torch.no_grad():
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True, device="cpu")
    except (
        OSError,
        SafetensorError,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,
        AssertionError,
        StopIteration,
    ) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"{path} cannot be loaded: {' '.join(lines)[:300] or type(error).__name__}") from None
    except Exception as error:  # torch.load raises pickle's own errors for a file with code in it
        raise ModelError(f"{path} is refused: {type(error).__name__}; safe weights are a .safetensors file") from None


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        ModelError: the file is missing or no such object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


def square(config: Mapping[str, Any]) -> int:
    """The image size of a `model_cfg` in pixels.

    Raises:
        ModelError: height and width differ.
    """
    size = config["vision_cfg"].get("image_size", 224)
    sides = {int(side) for side in (size if isinstance(size, list | tuple) else [size])}
    if len(sides) != 1:
        raise ModelError(f"the model takes images of {size} pixels; honeclip feeds square ones only")
    return sides.pop()


def licence(folder: Path) -> str:
    """What the front matter of README.md says, in words that are honest where it says nothing."""
    card = folder / CARD
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    stated = (line.partition(":")[2].strip() for line in lines[:40] if line.startswith("license:"))
    return next(stated, "") or "not stated with the weights: see their model card"
