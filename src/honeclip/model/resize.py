"""Another image size or context length for a loaded model: tables are resized, config and preprocessing follow.

Everything that is done here can be said in open_clip's config, so that a saved folder loads there: what cannot be said
is refused. A parameter that is resized is another object afterwards: whoever holds the old one, as an optimizer does,
exchanges it (`training.resolution`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.layers import AttentionPool2d
from torch import Tensor, nn
from torch.nn.functional import interpolate

from honeclip.errors import ModelError
from honeclip.model.clip import Clip

SMALLEST_PX = 32
"""Below it a convolutional tower has nothing left to pool."""

RESNET_STRIDE = 32


@dataclass(frozen=True, eq=False)
class Origin:
    """Position tables as a model brought them: from them a table that has not learned gets every size, so that a way down
    and up again loses nothing.

    Attributes:
        size_px: side of the images that they are for.
        tables: by the parameter's name.
    """

    size_px: int
    tables: Mapping[str, Tensor] = field(default_factory=dict)


def origin(clip: Clip) -> Origin:
    """The position tables of the image tower as they are now."""
    named = dict(clip.model.named_parameters())
    return Origin(clip.preprocess.size_px, {name: named[name].detach().clone() for name in tables(clip)})


def tables(clip: Clip) -> dict[str, int]:
    """Name of each position table of the image tower -> rows before the grid (class token and the like); most have one."""
    visual = clip.model.visual
    if isinstance(visual, VisionTransformer):
        return {"visual.positional_embedding": 1}
    if isinstance(visual, ModifiedResNet):
        return {"visual.attnpool.positional_embedding": 1}
    trunk: Any = getattr(visual, "trunk", None)
    if isinstance(getattr(trunk, "pos_embed", None), nn.Parameter) and hasattr(trunk, "num_prefix_tokens"):
        return {"visual.trunk.pos_embed": 0 if trunk.no_embed_class else int(trunk.num_prefix_tokens)}
    return {}


def patch_px(clip: Clip) -> int:
    """Side of what the image size must be a multiple of, in pixels; 1 where the tower takes any size."""
    visual = clip.model.visual
    if isinstance(visual, VisionTransformer):
        return int(visual.patch_size[0])
    if isinstance(visual, ModifiedResNet):
        return RESNET_STRIDE
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "set_input_size"):
        return int(getattr(visual.trunk.patch_embed, "patch_size", (1, 1))[0])
    return 1


def nearest_size(clip: Clip, size_px: int) -> int:
    """The multiple of the tower's patch that is nearest, the larger of two.

    Raises:
        ModelError: the size is below one patch.
    """
    patch = patch_px(clip)
    if size_px < patch:
        raise ModelError(f"size {size_px} px is below the model's patch of {patch} px; the smallest size is {patch}")
    return (2 * size_px + patch) // (2 * patch) * patch


def resize(clip: Clip, size_px: int, origin: Origin | None = None) -> None:
    """Give the image tower another input size.

    Position tables are interpolated on the CPU in float32, bicubic with antialias, as open_clip does on loading
    (`resize_pos_embed`); MPS has no such kernel. Convolutional towers have no table and stay as they are.

    Args:
        clip: changed in place: model, config, preprocessing.
        size_px: side of the square input.
        origin: tables to begin from; None begins from those that the model has now.

    Raises:
        ModelError: no multiple of the patch size (the nearest are named), or a size that open_clip has no name for.
    """
    visual = clip.model.visual
    if size_px == clip.preprocess.size_px:
        return
    with clip.device.lock:
        if isinstance(visual, VisionTransformer):
            _check_multiple(size_px, int(visual.patch_size[0]))
            side = size_px // int(visual.patch_size[0])
            visual.positional_embedding = _table(clip, visual.positional_embedding, side, origin)
            visual.grid_size, visual.image_size = (side, side), (size_px, size_px)
        elif isinstance(visual, ModifiedResNet):
            _check_multiple(size_px, RESNET_STRIDE)
            pool = visual.attnpool
            pool.positional_embedding = _table(clip, pool.positional_embedding, size_px // RESNET_STRIDE, origin)
            visual.image_size = size_px
        elif isinstance(visual, TimmModel):
            _resize_timm(clip, visual, size_px, origin)
        else:
            raise ModelError(f"{clip.source}: an image tower of type {type(visual).__name__} keeps its size")
    clip.config["vision_cfg"]["image_size"] = size_px
    clip.preprocess = clip.preprocess.with_size(size_px)


def resampled(table: Tensor, side: int, prefix: int) -> Tensor:
    """A position table, or what belongs to its places one by one, for another grid.

    The same as open_clip's `resize_pos_embed` and timm's `resample_abs_pos_embed`, computed on the CPU in float32 (float64
    stays float64).

    Args:
        table: (..., prefix + old * old, C), of a square grid.
        side: of the new grid.
        prefix: rows before the grid, which stay.

    Returns:
        (..., prefix + side * side, C) of the same dtype, on the CPU.
    """
    here = table.detach().cpu()
    wide = here if here.dtype == torch.float64 else here.float()
    own, grid = wide[..., :prefix, :], wide[..., prefix:, :]
    old = round(grid.shape[-2] ** 0.5)
    grid_1CHW = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid_1CHW = interpolate(grid_1CHW, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    grid = grid_1CHW.permute(0, 2, 3, 1).reshape(*own.shape[:-2], side * side, -1)
    return torch.cat([own, grid], dim=-2).to(here.dtype)


def _check_multiple(size_px: int, patch: int) -> None:
    if size_px < patch or size_px % patch:
        below = max(patch, size_px // patch * patch)
        nearest = dict.fromkeys((below, below + patch))
        raise ModelError(
            f"size {size_px} px is no multiple of the model's patch of {patch} px; nearest: "
            f"{' and '.join(map(str, nearest))}"
        )


def _table(clip: Clip, old: nn.Parameter, side: int, origin: Origin | None) -> nn.Parameter:
    """The table of a native tower for a grid of `side` x `side`."""
    ((name, prefix),) = tables(clip).items()
    return _like(old, resampled(old if origin is None else origin.tables[name].to(old.dtype), side, prefix))


def _like(old: nn.Parameter, new: Tensor) -> nn.Parameter:
    return nn.Parameter(new.contiguous().to(old.device), requires_grad=old.requires_grad)


def _resize_timm(clip: Clip, visual: Any, size_px: int, origin: Origin | None) -> None:
    """timm resizes its own tables; open_clip knows the size of such a trunk by its name only (`..._224`, `..._384`)."""
    if any(isinstance(layer, AttentionPool2d) for layer in visual.head):
        raise ModelError(f"{clip.source}: a head with absolute attention pooling keeps its size")
    name = clip.config["vision_cfg"]["timm_model_name"]
    if not hasattr(visual.trunk, "set_input_size"):
        if size_px < SMALLEST_PX:
            raise ModelError(f"size {size_px} px is below {SMALLEST_PX}, the smallest for {name}")
        visual.set_input_size(size_px)
        return
    patch = getattr(visual.trunk.patch_embed, "patch_size", (1, 1))
    _check_multiple(size_px, int(patch[0]))
    sizes = _siblings(name)
    if size_px not in sizes:
        raise ModelError(
            f"{clip.source}: open_clip cannot say another size for timm's {name} than those that timm has a name for: "
            f"{', '.join(map(str, sorted(sizes))) or 'none'}"
        )
    home = clip.logit_scale.device
    visual.cpu()  # the interpolation is not there on every device
    if origin is not None:
        visual.set_input_size(origin.size_px)
        named_now = dict(clip.model.named_parameters())
        for table_name, table in origin.tables.items():
            named_now[table_name].data.copy_(table)
    visual.set_input_size(size_px)
    visual.to(home)
    with torch.device("meta"):
        named = timm.create_model(sizes[size_px], num_classes=0)
    shapes = {key: value.shape for key, value in named.state_dict().items()}
    ours = {key: value.shape for key, value in visual.trunk.state_dict().items() if key in shapes}
    if ours != shapes:
        raise ModelError(
            f"{clip.source}: timm's {sizes[size_px]} is another architecture than {name}; load it by its name"
        )
    clip.config["vision_cfg"]["timm_model_name"] = sizes[size_px]


def _siblings(name: str) -> dict[int, str]:
    """Size -> timm's name of the same trunk at that size."""
    stem = re.sub(r"_\d+$", "", name)
    found = (re.fullmatch(rf"{re.escape(stem)}_(\d+)", other) for other in timm.list_models(f"{stem}_*"))
    return {int(match[1]): match[0] for match in found if match}


# --- text ---------------------------------------------------------------------------------------------------------


def set_context_length(clip: Clip, tokens: int) -> None:
    """Give the text tower another context length.

    A shorter one cuts the position table, which changes no caption that fits. A longer one interpolates it linearly, as
    open_clip's `resize_text_pos_embed` does; a tower of transformers goes up to its own `max_position_embeddings`.

    Args:
        clip: changed in place: model, config, preprocessing.
        tokens: start and end marks included.

    Raises:
        ModelError: fewer than 4 tokens, or more than the tower can take.
    """
    if tokens == clip.preprocess.context_length:
        return
    if tokens < 4:
        raise ModelError(f"a context length of {tokens} leaves no room for words; at least 4")
    model = clip.model
    text = model if isinstance(model, CLIP) else model.text
    if isinstance(text, CLIP | TextTransformer):
        _set_native(text, tokens)
    elif isinstance(text, HFTextEncoder):
        most = _most_tokens(text)
        if most and tokens > most:
            raise ModelError(f"{clip.source}: its text tower takes at most {most} tokens, not {tokens}")
    else:
        raise ModelError(f"{clip.source}: a text tower of type {type(text).__name__} keeps its context length")
    if hasattr(model, "context_length") and not hasattr(model, "text_decoder"):
        model.context_length = tokens
    clip.config["text_cfg"]["context_length"] = tokens
    clip.preprocess = clip.preprocess.with_context_length(tokens)


def _set_native(text: Any, tokens: int) -> None:
    table_LC = text.positional_embedding
    own = 1 if getattr(text, "cls_emb", None) is not None else 0  # the class token comes last and keeps its place
    words, last = table_LC.detach()[: len(table_LC) - own], table_LC.detach()[len(table_LC) - own :]
    if tokens <= len(words):
        words = words[:tokens]
    else:
        words = interpolate(words.cpu().T[None], size=tokens, mode="linear", align_corners=False)[0].T
    text.positional_embedding = _like(table_LC, torch.cat([words.to(last.device), last]))
    text.context_length = tokens
    if isinstance(text, TextTransformer):
        text.num_pos = tokens + own
    if text.attn_mask is not None:
        length = tokens + own
        text.attn_mask = torch.full((length, length), float("-inf")).triu_(1).to(table_LC.device)


def _most_tokens(text: Any) -> int:
    """Tokens that the tower has positions for; 0 where it has no table (T5)."""
    most = int(getattr(text.config, "max_position_embeddings", 0) or 0)
    # RoBERTa's positions begin after its padding token's number
    return most - int(text.config.pad_token_id) - 1 if most and "roberta" in text.config.model_type else most
