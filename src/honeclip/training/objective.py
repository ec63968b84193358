"""From the config's `[loss]` and a batch to a callable on embeddings, which is all that the step knows of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from honeclip.config import Loss
from honeclip.data.loader import Batch
from honeclip.losses.infonce import infonce
from honeclip.losses.siglip import siglip
from honeclip.losses.targets import Targets
from honeclip.model.clip import Clip

MAX_LOG_SCALE = math.log(100)
"""The logit scale never exceeds 100 (Radford et al. 2021, arXiv 2103.00020, section 2.5)."""

SIGLIP_LOG_SCALE, SIGLIP_BIAS = math.log(10), -10.0
"""Where SigLIP starts (Zhai et al. 2023, arXiv 2303.15343, section 3.2), for a model that has no bias yet."""

Objective = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def prepare(clip: Clip, loss: Loss) -> None:
    """Gives the model the parameters that the loss needs, and freezes the temperature where it is fixed."""
    model = clip.model
    if loss.kind == "siglip" and model.logit_bias is None:
        like = model.logit_scale
        model.logit_bias = nn.Parameter(torch.full_like(like, SIGLIP_BIAS))
        clip.config["init_logit_bias"] = SIGLIP_BIAS
        if clip.base.starts_unaligned:
            like.data.fill_(SIGLIP_LOG_SCALE)
    for parameter in (model.logit_scale, model.logit_bias):
        if parameter is not None:
            parameter.requires_grad_(loss.temperature == "learned")


def objective(clip: Clip, batch: Batch, loss: Loss) -> Objective:
    """The loss of one batch as a function of its image and text embeddings (B, D).

    Equal captions and equal images are positives of each other under `captions` targets; the identities come with the
    batch. The logit scale and bias are parameters of the one graph that this builds.
    """
    targets = Targets()
    if loss.targets == "captions":
        handle = clip.device.handle
        targets = Targets(batch.caption_id.to(handle), batch.image_id.to(handle))

    def contrastive(image_BD: Tensor, text_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        scale = clip.model.logit_scale
        if loss.kind == "siglip":
            value = siglip(image_BD, text_BD, scale, clip.model.logit_bias, targets, loss.tile)
        else:
            value = infonce(image_BD, text_BD, scale, targets, loss.tile)
        return value, {loss.kind: value.detach()}

    return contrastive


@torch.no_grad()
def clamp_scale(clip: Clip) -> None:
    """Keeps the logit scale in [1, 100] after an update."""
    clip.model.logit_scale.clamp_(0.0, MAX_LOG_SCALE)
