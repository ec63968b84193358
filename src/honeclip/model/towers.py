"""The two towers of a CLIP, each as a body that gives features and a head that projects them.

body(x) -> features (B, F), head(features) -> embeddings (B, D), not normalised; head(body(x)) is the model's own
`encode_image` or `encode_text`. Features of a frozen body are computed once, so the cut lies where the last frozen
layer ends: before the projection. A tower without a projection has the identity as its head.

Text is cut to the longest caption at hand where the tower cannot see what is cut off (`trim`). All callables look their
modules up when they are called, so a head that is replaced later is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm

from honeclip.errors import StepError

if TYPE_CHECKING:
    from honeclip.model.clip import Clip

TRIM_MULTIPLE = 8
"""Trimmed text has a multiple of this many tokens, so that only few shapes occur."""

TRIM_TOLERANCE = 1e-5
"""Largest difference of unit embeddings, full against trimmed, with which a tower counts as blind to padding."""

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tower:
    """One tower, cut before its projection.

    Attributes:
        name: "image" or "text".
        body: normalised images float (B, 3, H, W), or tokens int64 (B, L), to features (B, F).
        head: features (B, F) to embeddings (B, D), not normalised.
        model: the whole model; parameters keep its names.
        prefixes: starts of the names of everything in the tower; () is the whole model's top level (native CLIP text).
        head_prefixes: starts of the names in the head.
        lengths: tokens int64 (B, L) to the number of leading tokens (B,) that decide the embedding; None where all do.
    """

    name: str
    body: Function
    head: Function
    model: nn.Module
    prefixes: tuple[str, ...]
    head_prefixes: tuple[str, ...]
    lengths: Function | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Images or tokens to embeddings (B, D), not normalised."""
        return self.head(self.body(x))

    def parameters_body(self) -> Iterator[nn.Parameter]:
        """The body's parameters, in the model's order."""
        return (one for name, one in self.model.named_parameters() if self._in_body(name))

    def parameters_head(self) -> Iterator[nn.Parameter]:
        """The head's parameters, in the model's order; none where the head is the identity."""
        return (one for name, one in self.model.named_parameters() if self._in_head(name))

    def state_body(self) -> dict[str, Tensor]:
        """Parameters and stored buffers of the body by the model's names: all that decides its features."""
        return {name: value for name, value in self.model.state_dict().items() if self._in_body(name)}

    def _in_head(self, name: str) -> bool:
        return name.startswith(self.head_prefixes) if self.head_prefixes else False

    def _in_body(self, name: str) -> bool:
        return name.startswith(self.prefixes) and not self._in_head(name)


# --- image --------------------------------------------------------------------------------------------------------


def image_tower(clip: Clip) -> Tower:
    """The image tower of any open_clip model."""
    model = clip.model
    visual = model.visual
    build = partial(Tower, name="image", model=model, prefixes=("visual.",))
    if isinstance(visual, VisionTransformer):
        return build(body=partial(_vit_body, model), head=partial(_vit_head, model), head_prefixes=("visual.proj",))
    if isinstance(visual, TimmModel):
        classifier = _trunk_projection(visual)
        if classifier:
            where = f"visual.trunk.{classifier}."
            return build(
                body=partial(_timm_pooled, model),
                head=partial(_timm_classifier, model, classifier),
                head_prefixes=(where, "visual.head."),
            )
        heads = tuple(f"visual.head.{name}." for name, _ in visual.head.named_children() if name != "pool")
        return build(body=partial(_timm_body, model), head=partial(_timm_head, model), head_prefixes=heads)
    return build(body=lambda x: model.visual(x), head=nn.Identity(), head_prefixes=())


def _vit_body(model: Any, images_BCHW: Tensor) -> Tensor:
    visual = model.visual
    pooled: Tensor = visual._pool(visual.transformer(visual._embeds(images_BCHW)))[0]
    return pooled


def _vit_head(model: Any, features_BF: Tensor) -> Tensor:
    projection = model.visual.proj
    return features_BF if projection is None else features_BF @ projection


def _timm_body(model: Any, images_BCHW: Tensor) -> Tensor:
    visual = model.visual
    features: Tensor = visual.trunk(images_BCHW)
    pool = getattr(visual.head, "pool", None)  # attention pooling of open_clip's adapter belongs to the body
    return features if pool is None else pool(features)


def _timm_head(model: Any, features_BF: Tensor) -> Tensor:
    for name, layer in model.visual.head.named_children():
        if name != "pool":
            features_BF = layer(features_BF)
    return features_BF


def _trunk_projection(visual: Any) -> str:
    """Name in the trunk of the classifier that serves as projection (timm_proj is null); "" where there is none."""
    if len(visual.head):
        return ""
    trunk = visual.trunk
    classifier = trunk.get_classifier() if hasattr(trunk, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        return ""
    return next((name for name, module in trunk.named_modules() if module is classifier), "")


def _timm_pooled(model: Any, images_BCHW: Tensor) -> Tensor:
    trunk = model.visual.trunk
    features: Tensor = trunk.forward_head(trunk.forward_features(images_BCHW), pre_logits=True)
    return features


def _timm_classifier(model: Any, name: str, features_BF: Tensor) -> Tensor:
    embeddings: Tensor = model.visual.trunk.get_submodule(name)(features_BF)
    return embeddings


# --- text ---------------------------------------------------------------------------------------------------------


def text_tower(clip: Clip) -> Tower:
    """The text tower of any open_clip model; its `lengths` is set where the clip's check at load allowed trimming."""
    model = clip.model
    lengths = _lengths(model) if clip.trims_text else None
    build = partial(Tower, name="text", model=model, lengths=lengths)
    if isinstance(model, CLIP):
        own = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
        body, head = partial(_native_body, model), partial(_native_head, model)
        return build(body=body, head=head, prefixes=own, head_prefixes=("text_projection",))
    if isinstance(model.text, TextTransformer):
        body, head = partial(_native_body, model), partial(_native_head, model)
        return build(body=body, head=head, prefixes=("text.",), head_prefixes=("text.text_projection",))
    if isinstance(model.text, HFTextEncoder):
        body, head = partial(_hf_body, model), partial(_hf_head, model)
        return build(body=body, head=head, prefixes=("text.",), head_prefixes=("text.proj.",))
    return build(body=lambda x: model.text(x), head=nn.Identity(), prefixes=("text.",), head_prefixes=())


def _native_body(model: Any, tokens_BL: Tensor) -> Tensor:
    """`CLIP.encode_text` and `TextTransformer.forward` up to the projection, for any number of tokens: open_clip adds
    the whole position table and mask, and both are cut here."""
    pooled: Tensor
    if isinstance(model, CLIP):
        length = tokens_BL.shape[1]
        dtype = model.transformer.get_cast_dtype()
        x = model.token_embedding(tokens_BL).to(dtype) + model.positional_embedding[:length].to(dtype)
        x = model.ln_final(model.transformer(x, attn_mask=_cut(model.attn_mask, length)))
        pooled = text_global_pool(x, tokens_BL, model.text_pool_type, eos_token_id=model.text_eos_id)
        return pooled
    text = model.text
    x, mask = text._embeds(tokens_BL)
    x = text.transformer(x, attn_mask=_cut(mask, x.shape[1]))
    pool = "last" if text.cls_emb is not None else text.pool_type  # CoCa's class token comes last
    pooled = text_global_pool(text.ln_final(x), tokens_BL, pool_type=pool, eos_token_id=text.eos_id)
    return pooled


def _cut(mask: Tensor | None, length: int) -> Tensor | None:
    return mask[:length, :length] if mask is not None and mask.ndim == 2 else mask


def _native_head(model: Any, features_BF: Tensor) -> Tensor:
    projection = (model if isinstance(model, CLIP) else model.text).text_projection
    if projection is None:
        return features_BF
    embeddings: Tensor = projection(features_BF) if isinstance(projection, nn.Linear) else features_BF @ projection
    return embeddings


def _hf_body(model: Any, tokens_BL: Tensor) -> Tensor:
    text = model.text
    mask = (tokens_BL != text.config.pad_token_id).long()
    features: Tensor = text.pooler(text.transformer(input_ids=tokens_BL, attention_mask=mask), mask)
    return features


def _hf_head(model: Any, features_BF: Tensor) -> Tensor:
    embeddings: Tensor = model.text.proj(features_BF)
    return embeddings


# --- trimming -----------------------------------------------------------------------------------------------------


def trim(tower: Tower, tokens_BL: Tensor) -> Tensor:
    """Cut to the longest caption, rounded up to a multiple of 8, where the tower cannot see what is cut off.

    Args:
        tower: the text tower; one that sees padding leaves the tokens as they are.
        tokens_BL: int64 (B, L), on the CPU: the longest length must be known here.

    Returns:
        int64 (B, L') with L' <= L, the same embeddings.
    """
    if tower.lengths is None or not len(tokens_BL):
        return tokens_BL
    needed = max(1, int(tower.lengths(tokens_BL).max()))
    return tokens_BL[:, : -(-needed // TRIM_MULTIPLE) * TRIM_MULTIPLE]


def share_of_longest(lengths: NDArray[np.int64], batch: int, micro_batch: int) -> float:
    """Tokens of an average micro-batch, as a share of the one with the longest captions, for batches in length order.

    Args:
        lengths: (rows,) tokens of each caption; a batch is taken to be spread like them.
        batch: the effective batch.
        micro_batch: captions of one micro-batch, which is cut to its own longest.
    """
    spread = np.quantile(lengths, np.linspace(0, 1, batch), method="higher")
    longest = np.array([part.max() for part in np.array_split(spread, -(-batch // micro_batch))])
    kept = -(-longest // TRIM_MULTIPLE)
    return float(kept.mean() / kept.max())


def _lengths(model: Any) -> Function | None:
    """How many leading tokens decide an embedding, by the way the tower is built; None where all of them do.

    A causal tower that is pooled at the end-of-text token cannot look past it; a masked one skips its padding. SigLIP's
    text tower pools its last token and MobileCLIP's attends both ways: both see padding.
    """
    if isinstance(model, CLIP):
        causal, pool, eos_id = model.attn_mask is not None, model.text_pool_type, model.text_eos_id
    elif isinstance(model.text, TextTransformer):
        text = model.text
        causal = text.attn_mask is not None and text.cls_emb is None
        pool, eos_id = text.pool_type, text.eos_id
    elif isinstance(model.text, HFTextEncoder):
        return partial(_until_padding, model.text.config.pad_token_id)
    else:
        return None
    if not causal or pool not in ("argmax", "eos"):
        return None
    return _until_highest if pool == "argmax" else partial(_until_token, eos_id)


def _until_highest(tokens_BL: Tensor) -> Tensor:
    return tokens_BL.argmax(dim=-1) + 1


def _until_token(token: int, tokens_BL: Tensor) -> Tensor:
    return (tokens_BL == token).int().argmax(dim=-1) + 1


def _until_padding(pad: int, tokens_BL: Tensor) -> Tensor:
    place = torch.arange(1, tokens_BL.shape[1] + 1, device=tokens_BL.device)
    return (place * (tokens_BL != pad)).amax(dim=-1)


@torch.no_grad()
def sees_no_padding(clip: Clip) -> bool:
    """Compares full with trimmed text once; True when the tower gives the same for both.

    The probe captions are random tokens with the end and the padding that the tower knows, so that no tokenizer is
    needed. The model must be in eval mode.
    """
    model, lengths = clip.model, _lengths(clip.model)
    if lengths is None:
        return False
    tokens_BL = clip.device.copy(probes(model, clip.preprocess.context_length))
    tower = text_tower(clip)
    short_BL = tokens_BL[:, : -(-int(lengths(tokens_BL).max()) // TRIM_MULTIPLE) * TRIM_MULTIPLE]
    full_BD, short_BD = (normalize(tower(tokens), dim=-1) for tokens in (tokens_BL, short_BL))
    return bool((full_BD - short_BD).abs().max() <= TRIM_TOLERANCE)


def probes(model: Any, context_length: int, rows: int = 4, lengths: Sequence[int] = (2, 5, 9, 14)) -> Tensor:
    """int64 (rows, L), on the CPU: captions of the given lengths in turn, ended and padded as the tower expects."""
    text = model if isinstance(model, CLIP) else model.text
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", ""))
    vocabulary = int(text.vocab_size)
    pad = int(text.config.pad_token_id) if isinstance(text, HFTextEncoder) else 0
    end = int(getattr(text, "text_eos_id", getattr(text, "eos_id", 0))) if pool == "eos" else vocabulary - 1
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.full((rows, context_length), pad)
    for row in range(rows):
        length = min(lengths[row % len(lengths)], context_length)
        words = torch.randint(min(5, vocabulary - 2), vocabulary - 1, (length,), generator=generator)
        tokens_BL[row, :length] = torch.where(words == end, end - 1, words)
        tokens_BL[row, length - 1] = end
    return tokens_BL


# --- batch statistics ---------------------------------------------------------------------------------------------


def freeze_batch_norm(model: nn.Module) -> None:
    """Every BatchNorm keeps its stored statistics from now on, whatever `model.train()` says.

    Statistics of a micro-batch would make the gradient depend on how the batch was cut.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            # in the instance's own dictionary it hides the class's method, and it is copied and pickled with the module
            module.__dict__["train"] = partial(_keep_evaluating, module)
            module.train()


def _keep_evaluating(module: nn.Module, mode: bool = True) -> nn.Module:
    module.training = False
    for child in module.children():  # timm's fused norms hold an activation
        child.train(mode)
    return module


def check_batch_statistics(model: nn.Module) -> None:
    """Refuse a model in which a BatchNorm would use the statistics of the batch.

    Raises:
        StepError: with the names of the first few.
    """
    at_fault = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]
    if at_fault:
        named = ", ".join(at_fault[:3]) + (f" and {len(at_fault) - 3} more" if len(at_fault) > 3 else "")
        raise StepError(
            f"batch normalisation would use the statistics of each micro-batch in {named}, so that the gradient would "
            "depend on the micro-batch: put them into eval mode (model.towers.freeze_batch_norm)"
        )
