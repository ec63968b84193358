"""transformers' CLIP layout, read as an open_clip model: one table of key names, used both ways.

Only `model_type: clip` (CLIPModel): https://huggingface.co/docs/transformers/model_doc/clip. Both compute the same; the
embeddings agree to rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from honeclip.errors import ModelError
from honeclip.model import build, folder
from honeclip.model.clip import Base, Clip, place
from honeclip.preprocess.preprocess import Preprocess

if TYPE_CHECKING:
    from honeclip.device.device import Device

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")

CLIP_VOCABULARY = 49408
"""A text tower of this vocabulary without tokenizer files has OpenAI's tokenizer, which open_clip carries."""

_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_ENDS = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
_BLOCKS = {
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
}
_TRANSPOSED = {"text_projection", "visual.proj"}
_PARTS = ("q", "k", "v")

_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "quick_gelu": {"quick_gelu": True},
    "gelu": {},
    "gelu_pytorch_tanh": {"act_kwargs": {"approximate": "tanh"}},
}
RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, by which preprocessor_config.json names a filter."""


# --- names --------------------------------------------------------------------------------------------------------


def table(text_layers: int, vision_layers: int) -> dict[str, str]:
    """transformers' name -> open_clip's name of every tensor that both have whole.

    The three of attention's q, k and v are not here: open_clip stacks them to one (`attn.in_proj_*`).
    """
    names = dict(_ENDS)
    for (theirs, ours), layers in zip(_BLOCKS.items(), (text_layers, vision_layers), strict=True):
        for layer in range(layers):
            for module, our_module in _BLOCK.items():
                for kind in ("weight", "bias"):
                    names[f"{theirs}.{layer}.{module}.{kind}"] = f"{ours}.{layer}.{our_module}.{kind}"
    return names


def _stacks(text_layers: int, vision_layers: int) -> dict[str, tuple[str, ...]]:
    """open_clip's stacked tensor -> transformers' names of its three parts."""
    return {
        f"{ours}.{layer}.attn.in_proj_{kind}": tuple(
            f"{theirs}.{layer}.self_attn.{part}_proj.{kind}" for part in _PARTS
        )
        for (theirs, ours), layers in zip(_BLOCKS.items(), (text_layers, vision_layers), strict=True)
        for layer in range(layers)
        for kind in ("weight", "bias")
    }


def from_transformers(state: Mapping[str, Tensor], text_layers: int, vision_layers: int) -> dict[str, Tensor]:
    """CLIPModel's state_dict under open_clip's names.

    Raises:
        ModelError: a tensor is missing or unknown; the first few are named.
    """
    names, stacks = table(text_layers, vision_layers), _stacks(text_layers, vision_layers)
    wanted = {*names, *(name for parts in stacks.values() for name in parts)}
    given = {name: value for name, value in state.items() if not name.endswith(".position_ids")}
    if faults := sorted(wanted ^ set(given)):
        missing = [name for name in faults if name in wanted][:3]
        unknown = [name for name in faults if name not in wanted][:3]
        raise ModelError(f"no CLIP of transformers: missing tensors {missing}, unknown tensors {unknown}")
    whole = {ours: given[theirs].T if ours in _TRANSPOSED else given[theirs] for theirs, ours in names.items()}
    return whole | {ours: torch.cat([given[name] for name in parts]) for ours, parts in stacks.items()}


def to_transformers(state: Mapping[str, Tensor], text_layers: int, vision_layers: int) -> dict[str, Tensor]:
    """The reverse of `from_transformers`: an open_clip CLIP's state_dict under CLIPModel's names, contiguous.

    Raises:
        ModelError: CLIPModel has no place for a tensor (a bias of the logits, another kind of tower).
    """
    names, stacks = table(text_layers, vision_layers), _stacks(text_layers, vision_layers)
    if faults := sorted({*names.values(), *stacks} ^ set(state)):
        raise ModelError(f"transformers' CLIP has other tensors than this model: {', '.join(faults[:5])}")
    out = {theirs: state[ours].T if ours in _TRANSPOSED else state[ours] for theirs, ours in names.items()}
    for ours, parts in stacks.items():
        out |= dict(zip(parts, state[ours].chunk(len(_PARTS)), strict=True))
    return {name: value.contiguous() for name, value in out.items()}


# --- config -------------------------------------------------------------------------------------------------------


def model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """CLIPConfig as open_clip's `model_cfg`. Values that are missing have the defaults of CLIPConfig.

    Raises:
        ModelError: the config says something that open_clip's CLIP cannot compute.
    """
    text, vision = dict(config.get("text_config") or {}), dict(config.get("vision_config") or {})
    activations = {part.get("hidden_act", "quick_gelu") for part in (text, vision)}
    if len(activations) != 1 or not activations <= set(_ACTIVATIONS):
        raise ModelError(
            f"config.json: hidden_act is {' and '.join(sorted(activations))}; open_clip has one for both towers, of "
            f"{', '.join(_ACTIVATIONS)}"
        )
    activation = dict(_ACTIVATIONS[activations.pop()])
    towers_share = {name: activation.pop(name) for name in list(activation) if name != "quick_gelu"}
    vision_width, text_width = vision.get("hidden_size", 768), text.get("hidden_size", 512)
    vocabulary, end = text.get("vocab_size", CLIP_VOCABULARY), text.get("eos_token_id", CLIP_VOCABULARY - 1)
    # 2 is what old configs say: transformers then pools at the highest token, as open_clip does
    pooling = {} if end in (2, vocabulary - 1) else {"pool_type": "eos", "eos_id": end}
    return {
        "embed_dim": config.get("projection_dim", 512),
        "init_logit_scale": config.get("logit_scale_init_value", 2.6592),
        **activation,
        "vision_cfg": {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 32),
            "width": vision_width,
            "layers": vision.get("num_hidden_layers", 12),
            "head_width": vision_width // vision.get("num_attention_heads", 12),
            "mlp_ratio": vision.get("intermediate_size", 3072) / vision_width,
            **towers_share,
            **_norm(vision),
        },
        "text_cfg": {
            "context_length": text.get("max_position_embeddings", 77),
            "vocab_size": vocabulary,
            "width": text_width,
            "layers": text.get("num_hidden_layers", 12),
            "heads": text.get("num_attention_heads", 8),
            "mlp_ratio": text.get("intermediate_size", 2048) / text_width,
            **pooling,
            **towers_share,
            **_norm(text),
        },
    }


def _norm(part: Mapping[str, Any]) -> dict[str, Any]:
    eps = part.get("layer_norm_eps", 1e-5)
    return {} if eps == 1e-5 else {"norm_kwargs": {"eps": eps}}


def preprocess_config(stored: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json (CLIPImageProcessor) as open_clip's `preprocess_cfg`.

    A `size` of {"shortest_edge"} with a centre crop is open_clip's "shortest", {"height", "width"} is "squash".
    """
    config: dict[str, Any] = {}
    for theirs, ours in (("image_mean", "mean"), ("image_std", "std")):
        if stored.get(theirs):
            config[ours] = list(stored[theirs])
    if stored.get("resample") in RESAMPLE:
        config["interpolation"] = RESAMPLE[stored["resample"]]
    size = stored.get("size")
    if isinstance(size, dict) and "height" in size:
        config["resize_mode"] = "squash"
    return config


# --- folder -------------------------------------------------------------------------------------------------------


def read(path: Path, *, device: Device, source: str = "", network: bool = False) -> Clip:
    """A folder as CLIPModel.save_pretrained and CLIPProcessor.save_pretrained write it.

    Args:
        path: with config.json (`model_type` clip) and model.safetensors.
        device: where to put the model.
        source: what the user asked for; the folder where it is empty.
        network: not used: everything must be in the folder.

    Raises:
        ModelError: a file is missing or damaged, or it is another kind of model.
    """
    source = source or str(path)
    stored = folder.read_json(path / CONFIG)
    if stored.get("model_type") != "clip":
        raise ModelError(
            f"{path / CONFIG} is of a model of type {stored.get('model_type')!r}; of transformers' models honeclip "
            f"reads `clip`, and of open_clip's folders ({folder.CONFIG}) all"
        )
    config = model_config(stored)
    if any((path / name).is_file() for name in build.TOKENIZER_FILES):
        config["text_cfg"]["hf_tokenizer_name"] = build.HERE
    elif config["text_cfg"]["vocab_size"] != CLIP_VOCABULARY:
        raise ModelError(f"{path} lacks its tokenizer: none of {', '.join(build.TOKENIZER_FILES)} is there")
    model = build.build(config)
    layers = config["text_cfg"]["layers"], config["vision_cfg"]["layers"]
    build.fill(model, from_transformers(_weights(path), *layers), str(path))
    preprocessor = folder.read_json(path / PREPROCESSOR) if (path / PREPROCESSOR).is_file() else {}
    preprocess = Preprocess.from_open_clip(
        preprocess_config(preprocessor), folder.square(config), build.tokenizer(config, path)
    )
    base = Base(source, folder.licence(path), starts_unaligned=False)
    return place(model, preprocess, config, base, source=source, device=device)


def _weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the folder: safetensors, one file or several, or a .bin that holds tensors only."""
    index = path / f"{WEIGHTS_NAMES[0]}.index.json"
    names = [name for name in WEIGHTS_NAMES if (path / name).is_file()][:1]
    if not names and index.is_file():
        names = sorted(set(folder.read_json(index).get("weight_map", {}).values()))
    if not names:
        raise ModelError(f"{path} has {CONFIG} but no weights: none of {', '.join(WEIGHTS_NAMES)} is there")
    state: dict[str, Tensor] = {}
    for name in names:
        try:
            if name.endswith(".safetensors"):
                state |= load_file(path / name)
            else:
                state |= torch.load(path / name, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise ModelError(f"{path} has no {name}, which {index.name} names") from None
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise ModelError(f"{path / name} cannot be loaded: {error}") from None
        except Exception as error:  # torch.load raises pickle's own errors for a file with code in it
            raise ModelError(
                f"{path / name} is refused: {type(error).__name__}; safe weights are a .safetensors file"
            ) from None
    return state
