"""What a run with adapters learned, without the base: a few megabytes that are added to weights which others have already.

adapter_model.safetensors and adapter_config.json are in peft's layout (https://huggingface.co/docs/peft). changed.safetensors
holds what else is not as in the base: heads, the scale, tables of positions at another size. To use them needs torch and
safetensors alone; `merged` is all that is to be done.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint import tensors
from honeclip.errors import BadInput, ModelError
from honeclip.export.encoders import Encoders, of_model
from honeclip.model import adapt, build
from honeclip.model import folder as model_folder
from honeclip.model.clip import Clip, copied
from honeclip.model.load import RUN_CHECKPOINTS, STATE, load

LIBRARY = "safetensors"

TOLERANCE = {"fp32": 1e-5}
"""Largest difference of unit embeddings: products of adapters are summed in another order at most."""

ADAPTER, ADAPTER_CONFIG, CHANGED = "adapter_model.safetensors", "adapter_config.json", "changed.safetensors"
PREFIX = "base_model.model."
"""Of peft's names."""


def write(clip: Clip, folder: Path, precision: str) -> list[str]:
    """Writes the adapters of the checkpoint that the model is of, and what else changed.

    Args:
        clip: loaded from a run or a checkpoint, on the CPU.
        folder: an empty one.
        precision: "fp32", the only one.

    Raises:
        BadInput: the model is not of a run that was trained with adapters, or the base of the run cannot be loaded any more.
    """
    run, checkpoint = _checkpoint(Path(clip.source))
    weights = checkpoints.read(checkpoint).tensors["weights"]
    if not adapt.is_adapted(weights):
        raise BadInput(
            f"{clip.source} was trained without adapters (model.lora_rank = 0), so there are none to export; use --to open_clip"
        )
    base = _base(clip, run)
    names = [name.removesuffix(adapt.FIRST) for name in weights if name.endswith(adapt.FIRST)]
    rank = len(weights[names[0] + adapt.FIRST])
    tensors.write(
        folder / ADAPTER,
        {
            f"{PREFIX}{name}.lora_{part}.weight": weights[f"{name}.lora_{part}.default.weight"]
            for name in names
            for part in "AB"
        },
    )
    adapted = {_weight(name, base) for name in names}
    tensors.write(
        folder / CHANGED,
        {
            name: one
            for name, one in clip.model.state_dict().items()
            if name not in adapted and not (name in base and torch.equal(one, base[name]))
        },
    )
    content = {
        "peft_type": "LORA",
        "base_model_name_or_path": clip.base.name,
        "r": rank,
        "lora_alpha": adapt.SCALE * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(names),
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    effective = {"model_cfg": clip.config, "preprocess_cfg": clip.preprocess.to_open_clip()}
    (folder / model_folder.CONFIG).write_text(json.dumps(effective, indent=2) + "\n", encoding="utf-8")
    return [
        f"the base is needed besides: {clip.base.name}",
        "adapters of `in_proj` belong to `in_proj_weight` of torch's MultiheadAttention, which peft would take apart otherwise",
    ]


def opened(clip: Clip, folder: Path) -> Encoders:
    """What the base and the folder make together."""
    run, _ = _checkpoint(Path(clip.source))
    other = copied(clip)
    build.fill(other.model, merged(_base(clip, run), folder), str(folder))
    return of_model(other)


def merged(base: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The state_dict of the base with the folder's adapters added and the rest replaced."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    adapters, scale = load_file(folder / ADAPTER), config["lora_alpha"] / config["r"]
    whole: dict[str, Tensor] = dict(base)
    for name in config["target_modules"]:
        a, b = (adapters[f"{PREFIX}{name}.lora_{part}.weight"].flatten(1) for part in "AB")
        weight = _weight(name, whole)
        whole[weight] = whole[weight] + (scale * b @ a).view_as(whole[weight])
    changed: dict[str, Tensor] = load_file(folder / CHANGED)
    return whole | changed


def example(clip: Clip) -> str:
    """Python that uses the folder, for its card."""
    return (
        "import json\nfrom safetensors.torch import load_file\n\n"
        f'config = json.load(open("FOLDER/{ADAPTER_CONFIG}"))\n'
        f'adapters, state = load_file("FOLDER/{ADAPTER}"), base_model.state_dict()\n'
        'for name in config["target_modules"]:\n'
        f'    a, b = (adapters[f"{PREFIX}{{name}}.lora_{{part}}.weight"].flatten(1) for part in "AB")\n'
        '    weight = f"{name}.weight" if f"{name}.weight" in state else f"{name}_weight"\n'
        '    state[weight] += (config["lora_alpha"] / config["r"] * b @ a).view_as(state[weight])\n'
        f'state |= load_file("FOLDER/{CHANGED}")\n'
        f"# {model_folder.CONFIG} is the architecture as it is now: base_model.load_state_dict(state)"
    )


def _weight(name: str, state: Mapping[str, Tensor]) -> str:
    return f"{name}.weight" if f"{name}.weight" in state else f"{name}_weight"


def _checkpoint(source: Path) -> tuple[Path, Path]:
    """The run and the checkpoint that a model was loaded from."""
    if (source / STATE).is_file():
        return source.parent.parent, source
    best = (
        checkpoints.best_good(source / RUN_CHECKPOINTS, lambda text: None)
        if (source / RUN_CHECKPOINTS).is_dir()
        else None
    )
    if best is None:
        raise BadInput(
            f"{source} is neither a run nor a checkpoint, and adapters are in those only: a model folder has them merged"
        )
    return source, best


def _base(clip: Clip, run: Path) -> dict[str, Tensor]:
    """The weights that the run began with, from where its config says."""
    try:
        source = tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))["model"]["source"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{run}/run.toml does not say which base the adapters belong to: {error}") from None
    try:
        state: dict[str, Any] = load(source, clip.device).model.state_dict()
    except ModelError as error:
        raise BadInput(
            f"the base of {clip.source} cannot be loaded, and what changed cannot be told: {error}"
        ) from None
    return state
