"""A folder that transformers alone loads as a CLIPModel, with its tokenizer and its image processor.

Only a model of CLIP's own architecture has a place there: two transformers, the text pooled at its end mark. Names of tensors
are those of `model.huggingface`, which reads such folders; what is here is the other direction of its configs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.checkpoint import tensors
from honeclip.errors import ModelError
from honeclip.export.encoders import Encoders
from honeclip.model import huggingface
from honeclip.model.clip import Clip

LIBRARY = "transformers"

TOLERANCE = {"fp32": 1e-5}
"""Largest difference of unit embeddings: both compute in float32 what is written in another order at most."""

BIAS = "logit_bias"
_RESAMPLE = {name: number for number, name in huggingface.RESAMPLE.items()}


def write(clip: Clip, folder: Path, precision: str) -> list[str]:
    """Writes model.safetensors, config.json, preprocessor_config.json and the tokenizer's files.

    Args:
        clip: on the CPU.
        folder: an empty one.
        precision: "fp32", the only one.

    Returns:
        What is not as it was, in sentences.

    Raises:
        ModelError: the architecture has no place in CLIPModel.
    """
    _check(clip)
    config = transformers_config(clip.config)
    state = {name: value for name, value in clip.model.state_dict().items() if name != BIAS}
    layers = config["text_config"]["num_hidden_layers"], config["vision_config"]["num_hidden_layers"]
    tensors.write(folder / huggingface.WEIGHTS_NAMES[0], huggingface.to_transformers(state, *layers))
    notes = []
    if BIAS in dict(clip.model.named_parameters()):
        notes.append(
            "CLIPModel has no bias of the logits: embeddings and their order are the same, probabilities of a sigmoid are not"
        )
    _dump(folder / huggingface.CONFIG, config)
    images, said = processor(clip)
    _dump(folder / huggingface.PREPROCESSOR, images)
    notes += said
    if clip.preprocess.tokenizer is None:
        notes.append("the model came without a tokenizer, so there is none in the folder")
    else:
        clip.preprocess.tokenizer.save_for_transformers(folder)
    return notes


def opened(clip: Clip, folder: Path) -> Encoders:
    """What transformers alone makes of the folder."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()

    def run(method: Any, **inputs: Tensor) -> Tensor:
        with torch.no_grad():
            found = method(**inputs)
        return normalize(getattr(found, "pooler_output", found), dim=-1)

    return Encoders(
        lambda images: run(model.get_image_features, pixel_values=images),
        lambda tokens: run(model.get_text_features, input_ids=tokens),
    )


def example(clip: Clip) -> str:
    """Python that uses the folder, for its card."""
    return (
        "from PIL import Image\nfrom transformers import AutoModel, AutoProcessor\n\n"
        'model, processor = AutoModel.from_pretrained("FOLDER"), AutoProcessor.from_pretrained("FOLDER")\n'
        'inputs = processor(text=["a red circle"], images=Image.open("a.png"), return_tensors="pt", padding=True)\n'
        "out = model(**inputs)  # out.image_embeds, out.text_embeds"
    )


def _check(clip: Clip) -> None:
    if not isinstance(clip.model, CLIP) or not isinstance(clip.model.visual, VisionTransformer):
        image, text = type(clip.model.visual).__name__, type(getattr(clip.model, "text", clip.model)).__name__
        raise ModelError(
            f"{clip.source} has the towers {image} and {text}, and transformers' CLIPModel has room for two transformers of "
            "CLIP's own kind only; use --to open_clip, or --to onnx, which runs without torch"
        )


def transformers_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """An open_clip `model_cfg` as CLIPConfig: the reverse of `huggingface.model_config`.

    Raises:
        ModelError: it says something that CLIPModel cannot compute.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not isinstance(vision["layers"], int):
        raise ModelError("the image tower is a ResNet, which transformers' CLIPModel does not have; use --to onnx")
    quick, approximate = config.get("quick_gelu", False), (vision.get("act_kwargs") or {}).get("approximate")
    if approximate != (text.get("act_kwargs") or {}).get("approximate"):
        raise ModelError("the towers have two activations (act_kwargs); use --to open_clip or --to onnx")
    shared = {"hidden_act": "quick_gelu" if quick else "gelu_pytorch_tanh" if approximate == "tanh" else "gelu"}
    vocabulary = text.get("vocab_size", huggingface.CLIP_VOCABULARY)
    end = text.get("eos_id", 2) if text.get("pool_type") == "eos" else vocabulary - 1
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "torch_dtype": "float32",
        "projection_dim": config["embed_dim"],
        "logit_scale_init_value": config.get("init_logit_scale", 2.6592),
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": _one(vision.get("image_size", 224)),
            "patch_size": _one(vision.get("patch_size", 16)),
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "projection_dim": config["embed_dim"],
            **shared,
            **_norm(vision),
        },
        "text_config": {
            "model_type": "clip_text_model",
            "max_position_embeddings": text.get("context_length", 77),
            "vocab_size": vocabulary,
            "hidden_size": text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
            "projection_dim": config["embed_dim"],
            "eos_token_id": end,
            "bos_token_id": vocabulary - 2,
            "pad_token_id": end,
            **shared,
            **_norm(text),
        },
    }


def _one(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _norm(part: Mapping[str, Any]) -> dict[str, Any]:
    eps = (part.get("norm_kwargs") or {}).get("eps")
    return {} if eps is None else {"layer_norm_eps": eps}


def processor(clip: Clip) -> tuple[dict[str, Any], list[str]]:
    """preprocessor_config.json, and what CLIPImageProcessor does otherwise than the model's own preprocessing."""
    how = clip.preprocess
    side, notes = {"height": how.size_px, "width": how.size_px}, []
    if how.resize == "longest":
        notes.append(
            "transformers' CLIPImageProcessor cannot fill a picture up to a square: it squashes it, where honeclip keeps the "
            f"sides' ratio and fills with grey {how.fill}; give it squares that are filled already"
        )
    if how.windows:
        notes.append("DICOM files are for honeclip to read: transformers takes pictures that were windowed already")
    content = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": how.size_px} if how.resize == "shortest" else side,
        "resample": _RESAMPLE[how.interpolation],
        "do_center_crop": how.resize == "shortest",
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "do_convert_rgb": True,
    }
    return content, notes


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
