"""Fresh heads for two towers that have never met: standardise, drop out, project. Folded away when the model is handed over.

A projection that starts at random learns slowly from features whose dimensions differ a hundredfold in scale, and on a
thousand pairs it overfits. So while such a model is trained, each projection W is

    head(x) = W dropout((x - mean) / std) + b

with mean and std of the train split's features. `fold` turns that into what open_clip has, exactly but for rounding:

    image   W' = W / std, b' = b - W (mean / std)          the projection has a bias
    text    W' = W / std, and mean comes off the bias of the tower's last LayerNorm: mean pooling passes a shift through

Dropout on features is that of Srivastava et al. 2014; the shares were chosen on validation splits (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone reads
from torch import Tensor, nn

from honeclip.errors import ModelError
from honeclip.model.clip import Clip

DROPOUT = {"image": 0.7, "text": 0.3}
"""Share of standardised features that is dropped in training."""

STD_FLOOR = 0.1
"""Smallest std, as a share of the mean one: a feature that hardly moves in training may jump on other images."""


class FreshHead(nn.Module):
    """A projection of standardised features.

    Args:
        linear: the projection, F -> D; a bias is right.
        mean: (F,) subtracted first.
        std: (F,) divided by.
        dropout: share of features dropped in training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, linear: nn.Linear, mean: Tensor, std: Tensor, dropout: float) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.dropout = dropout

    def forward(self, features_BF: Tensor) -> Tensor:
        """float (B, F) -> (B, D)."""
        standard_BF = (features_BF - self.mean) / self.std
        projected: Tensor = self.linear(F.dropout(standard_BF, self.dropout, self.training))
        return projected


def takes_fresh_heads(clip: Clip) -> bool:
    """Whether the model can be given fresh heads: its towers were joined by linear projections that started at random."""
    return clip.base.starts_unaligned and _last_norm(clip) is not None


def install(clip: Clip, image_NF: Tensor, text_NF: Tensor, seed: int) -> None:
    """Puts a fresh head on each tower; the model is not used between this and training.

    A model that was fine-tuned before keeps what it knows: its projections are only rewritten for standardised features.

    Args:
        clip: `takes_fresh_heads(clip)`.
        image_NF: features of the train split's images, float32 (N, F) on the CPU.
        text_NF: features of its captions.
        seed: of new projections.
    """
    tuned = clip.domain is not None
    generator = torch.Generator().manual_seed(seed)
    mean, std = _statistics(image_NF)
    clip.model.visual.head.proj = _head(clip, clip.model.visual.head.proj, mean, std, "image", tuned, generator)
    mean, std = _statistics(text_NF)
    # without a bias a tuned text projection cannot take a mean off and stay the same function
    mean = torch.zeros_like(mean) if tuned else mean
    clip.model.text.proj = _head(clip, clip.model.text.proj, mean, std, "text", tuned, generator)


def install_empty(clip: Clip) -> None:
    """Puts fresh heads of the right shapes on the model, for weights that are loaded next."""
    for owner, name, tower in ((clip.model.visual.head, "proj", "image"), (clip.model.text, "proj", "text")):
        linear: nn.Linear = getattr(owner, name)
        zeros = torch.zeros(linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype)
        setattr(owner, name, FreshHead(linear, zeros, torch.ones_like(zeros), DROPOUT[tower]))


@torch.no_grad()
def fold(clip: Clip) -> None:
    """Turns fresh heads into plain projections of the same function; without fresh heads nothing happens."""
    head = getattr(clip.model.visual, "head", None)
    image = getattr(head, "proj", None)
    if head is not None and isinstance(image, FreshHead):
        linear = image.linear
        linear.weight.copy_(linear.weight / image.std)
        linear.bias.sub_(linear.weight @ image.mean)
        head.proj = linear
    text = getattr(getattr(clip.model, "text", None), "proj", None)
    if isinstance(text, FreshHead):
        norm = _last_norm(clip)
        if norm is None:
            raise ModelError(f"{clip.source}: the text tower does not end in a LayerNorm, so its head cannot be folded")
        norm.bias.sub_(text.mean)
        text.linear.weight.copy_(text.linear.weight / text.std)
        clip.model.text.proj = text.linear


def is_fresh(names: Iterable[str]) -> bool:
    """Whether a state_dict (or its names) is that of a model with fresh heads."""
    return any(name.endswith("proj.linear.weight") for name in names)


def _statistics(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and floored standard deviation (F,) of features."""
    wide = features_NF.double()
    std = wide.std(0, correction=0)
    return wide.mean(0).float(), std.clamp(min=max(float(std.mean()) * STD_FLOOR, 1e-6)).float()


def _head(
    clip: Clip, linear: nn.Linear, mean: Tensor, std: Tensor, tower: str, tuned: bool, generator: torch.Generator
) -> FreshHead:
    weight = linear.weight.detach().cpu()
    if tuned:
        new = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
        new.weight.data = weight * std
        if linear.bias is not None:
            new.bias.data = linear.bias.detach().cpu() + weight @ mean
    else:
        new = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
        bound = linear.in_features**-0.5  # torch's own start for a linear layer
        for parameter in new.parameters():
            parameter.data.uniform_(-bound, bound, generator=generator)
    return FreshHead(new, mean, std, DROPOUT[tower]).to(clip.device.handle, clip.logit_scale.dtype)


def _last_norm(clip: Clip) -> nn.LayerNorm | None:
    """The LayerNorm whose output a BERT-like text tower pools by its mean; None for other towers."""
    text = getattr(clip.model, "text", None)
    layers = getattr(getattr(getattr(text, "transformer", None), "encoder", None), "layer", None)
    if type(getattr(text, "pooler", None)).__name__ != "MeanPooler" or not layers:
        return None
    norm = getattr(getattr(layers[-1], "output", None), "LayerNorm", None)
    return norm if isinstance(norm, nn.LayerNorm) else None
