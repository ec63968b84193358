"""From the config's `[loss]` and a batch to a callable on embeddings, which is all that the step knows of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from honeclip.config import Loss
from honeclip.data.loader import Batch
from honeclip.errors import ConfigError
from honeclip.losses import balance as balances
from honeclip.losses import temperature
from honeclip.losses.infonce import infonce
from honeclip.losses.siglip import siglip
from honeclip.losses.supcon import supcon
from honeclip.losses.targets import Targets
from honeclip.model.clip import Clip
from honeclip.training.aims import Aims

SIGLIP_LOG_SCALE, SIGLIP_BIAS = math.log(10), -10.0
"""Where SigLIP starts (Zhai et al. 2023, arXiv 2303.15343, section 3.2), for a model that has no bias yet."""

EFFECTIVE = "effective_negatives"
"""Among the parts of a step: what the automatic temperature measured."""

Objective = Callable[..., tuple[Tensor, dict[str, Tensor]]]

Balance = nn.ParameterDict
"""The log variance of each part, learned; NaN before the first step has set it."""


def prepare(clip: Clip, loss: Loss) -> None:
    """Gives the model the parameters that the loss needs, sets the logit scale, and freezes it where it does not learn."""
    model = clip.model
    if loss.logit_scale != "native":
        model.logit_scale.data.fill_(math.log(loss.logit_scale))
    if "siglip" in parts_of(loss) and model.logit_bias is None:
        like = model.logit_scale
        model.logit_bias = nn.Parameter(torch.full_like(like, SIGLIP_BIAS))
        clip.config["init_logit_bias"] = SIGLIP_BIAS
        if clip.base.starts_unaligned and loss.logit_scale == "native":
            like.data.fill_(SIGLIP_LOG_SCALE)
    model.logit_scale.requires_grad_(loss.temperature == "learned")
    if model.logit_bias is not None:
        # the bias of a sigmoid follows the share of positives and learns whatever becomes of the temperature
        model.logit_bias.requires_grad_("siglip" in parts_of(loss) and loss.temperature != "fixed")


def parts_of(loss: Loss) -> dict[str, Any]:
    """The parts of the loss by name, each with its weight or its schedule of weights; the kind is always one."""
    return {loss.kind: 1.0, **{str(name): given for name, given in loss.weights.items()}}


def balance(loss: Loss, like: Tensor) -> Balance | None:
    """What uncertainty weighting learns; None for fixed weights."""
    if loss.balance == "fixed":
        return None
    return nn.ParameterDict({name: nn.Parameter(torch.full_like(like, torch.nan)) for name in parts_of(loss)})


def objective(
    clip: Clip,
    batch: Batch,
    loss: Loss,
    aims: Aims | None = None,
    learned: Balance | None = None,
    share: float = 0.0,
) -> Objective:
    """The loss of one batch as a function of its image and text embeddings (B, D).

    The logit scale, the bias and what the balance learns are parameters of the one graph that this builds.

    Args:
        clip: whose scale and bias count.
        batch: its identities, and its rows of the train split.
        loss: `[loss]`.
        aims: of the train split; None where the loss asks for nothing beyond the batch.
        learned: log variances of uncertainty weighting; None for fixed weights.
        share: of the run that is done, for weights that follow a schedule.
    """
    targets = (aims or Aims()).targets(batch, loss, clip.device.handle)
    weights = {name: weight(given, share) for name, given in parts_of(loss).items()}
    model = clip.model
    form, beta, tile = loss.positives, loss.hard_negatives, loss.tile

    def contrast(image_BD: Tensor, text_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        scale = model.logit_scale
        parts: dict[str, Tensor] = {}
        for name in weights:
            if name == "infonce":
                parts[name] = infonce(image_BD, text_BD, scale, targets, tile, positives=form, hard_negatives=beta)
            elif name == "siglip":
                parts[name] = siglip(
                    image_BD, text_BD, scale, model.logit_bias, targets, tile, positives=form, hard_negatives=beta
                )
            else:
                parts[name] = supcon(image_BD, scale, _hard(targets), tile)
        said = {name: part.detach() for name, part in parts.items()}
        if loss.temperature == "auto":
            with torch.no_grad():
                said[EFFECTIVE] = temperature.effective_negatives(image_BD, text_BD, scale, _hard(targets), loss.tile)
        if learned is None:
            return balances.combine(parts, weights), said
        _begin(learned, parts)
        return balances.uncertainty(parts, weights, dict(learned.items())), said

    return contrast


def weight(given: Any, share: float) -> float:
    """A weight, or what a schedule of weights says at a share of the run."""
    return float(given) if isinstance(given, int | float) else balances.weight_at(given, share)


@torch.no_grad()
def set_scale(clip: Clip, loss: Loss, share: float) -> None:
    """Before a step: a scheduled temperature stands where the share of the run that is done says."""
    if loss.temperature == "scheduled":
        start, end = (1 / scale for scale in loss.scheduled_scales)
        clip.model.logit_scale.fill_(temperature.scheduled(start, end, share, loss.temperature_shape))


@torch.no_grad()
def settle_scale(clip: Clip, loss: Loss, batch: Batch, aims: Aims, parts: Mapping[str, float]) -> None:
    """After an update: an automatic temperature follows what was measured, and a learned one stays in [1, 100]."""
    scale = clip.model.logit_scale
    if loss.temperature == "auto":
        targets = _hard(aims.targets(batch, loss, clip.device.handle))
        wanted = temperature.wanted(
            temperature.negatives_a_row(targets, len(batch.draw.indices)), loss.effective_negatives
        )
        state = temperature.update(temperature.State(float(scale)), parts[EFFECTIVE], wanted)
        scale.fill_(state.log_scale)
    elif loss.temperature == "learned":
        clamp_scale(clip)


@torch.no_grad()
def clamp_scale(clip: Clip) -> None:
    """Keeps the logit scale in [1, 100]."""
    clip.model.logit_scale.clamp_(math.log(temperature.MIN_SCALE), math.log(temperature.MAX_SCALE))


def _hard(targets: Targets) -> Targets:
    """The same positives without shares for others."""
    return Targets(targets.caption_id, targets.image_id, targets.label_BC)


@torch.no_grad()
def _begin(learned: Balance, parts: Mapping[str, Tensor]) -> None:
    """The first step sets each log variance where its part counts 1, whatever the part's unit."""
    first = balances.first_log_variance(parts)
    for name, value in learned.items():
        if bool(torch.isnan(value)):
            value.fill_(first[name])


def check(loss: Loss) -> None:
    """Raises ConfigError for options that have no meaning together."""
    if loss.positives == "sum" and "siglip" in parts_of(loss):
        raise ConfigError(
            "loss.positives=sum is no form of siglip, which judges each pair by itself: use mean or masked"
        )
    if loss.positives != "mean" and (loss.targets == "soft" or loss.label_smoothing > 0):
        raise ConfigError(
            f"loss.positives={loss.positives} has hard positives only: use mean with soft targets and label smoothing"
        )
    if "images" in parts_of(loss) and loss.targets == "pairs":
        raise ConfigError(
            "loss.weights.images compares images that belong together: use loss.targets=labels or captions"
        )
