"""One loss over several resolutions of the same images, with weights and temperatures that follow the scale.

With scales s in (0, 1] (1 is the full resolution), image embeddings z_s, text embeddings t and a = exp(log_scale),

    L = sum_s w_s L_it(z_s, t; a s^kappa) + mu mean_{s < s'} L_ii(z_s, z_s'; a s^kappa),      w_s = s / sum s

A smaller picture shows less, so its part weighs less (w_s) and its logits are softer (a s^kappa): it is not asked to tell
apart what only the larger one shows. L_it is the pair loss as given; L_ii is InfoNCE between two scales of the same images,
as soft as the smaller of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from honeclip.errors import BadInput
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets

PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`pair_loss(image_BD, text_BD, log_scale)`: a scalar. Targets, bias and options are bound in it."""


def multi_scale(
    images: Sequence[Tensor],
    text_BD: Tensor,
    log_scale: Tensor,
    scales: Sequence[float],
    targets: Targets,
    pair_loss: PairLoss | None = None,
    tile: int | str = "auto",
    *,
    kappa: float = 0.5,
    mu: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of B pairs whose images were embedded at several resolutions; each resolution is a tower of its own.

    Args:
        images: embeddings (B, D) of the same images, one tensor a scale.
        text_BD: embeddings of the captions.
        log_scale: scalar, the natural logarithm of the logit scale at full resolution.
        scales: share of the full resolution, one a tensor, each in (0, 1] and none twice.
        targets: the positives of `L_ii`, and of the pair loss where none is given.
        pair_loss: `L_it`; None is `infonce` with the targets.
        tile: rows of logits at once, or "auto".
        kappa: how much softer the logits of a smaller scale are; 0 is the same temperature for all.
        mu: weight of the loss between scales; 0 leaves it out.

    Returns:
        The loss, and its parts without weights and without gradients: `scale_1.0`, `scale_0.5`, ..., `between_scales`.

    Raises:
        BadInput: no scales, another number of them than of tensors, a scale outside (0, 1] or twice, a negative mu.
    """
    _check(images, scales, mu)
    if pair_loss is None:

        def pair_loss(image_BD: Tensor, text_BD: Tensor, softer: Tensor) -> Tensor:
            return infonce(image_BD, text_BD, softer, targets, tile)

    of_scale = [
        pair_loss(z_BD, text_BD, log_scale + kappa * math.log(s)) for z_BD, s in zip(images, scales, strict=True)
    ]
    parts = {f"scale_{float(s)}": value.detach() for value, s in zip(of_scale, scales, strict=True)}
    total = torch.stack([value * (s / sum(scales)) for value, s in zip(of_scale, scales, strict=True)]).sum()
    if mu == 0 or len(scales) == 1:
        return total, parts
    between = [
        infonce(images[i], images[j], log_scale + kappa * math.log(min(scales[i], scales[j])), targets, tile)
        for i, j in combinations(range(len(scales)), 2)
    ]
    mean = torch.stack(between).mean()
    return total + mu * mean, parts | {"between_scales": mean.detach()}


def _check(images: Sequence[Tensor], scales: Sequence[float], mu: float) -> None:
    if not scales or len(scales) != len(images):
        raise BadInput(
            f"{len(scales)} scales for {len(images)} tensors of image embeddings; give one a scale, at least one"
        )
    for s in scales:
        if not 0 < s <= 1:
            raise BadInput(f"scales = {list(scales)}: {s} is no share of the full resolution, which lies in (0, 1]")
    if len(set(scales)) != len(scales):
        raise BadInput(f"scales = {list(scales)}: one is there twice; name each once")
    if not mu >= 0:
        raise BadInput(f"mu = {mu}: the weight of the loss between scales is 0 or above")
