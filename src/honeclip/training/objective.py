"""From the config's `[loss]` and a batch to a callable on embeddings, which is all that the step knows of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from honeclip.config import Loss
from honeclip.data.loader import Batch
from honeclip.errors import ConfigError
from honeclip.losses import balance as balances
from honeclip.losses import temperature
from honeclip.losses.infonce import infonce
from honeclip.losses.scales import multi_scale
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


def form_of(loss: Loss, part: str) -> Literal["mean", "sum", "masked"]:
    """What positives beside the own pair are in a part of the loss. "auto" is what won on val (docs/results.md); soft shares
    and smoothing are known to the mean form only."""
    if loss.positives != "auto":
        return loss.positives
    if loss.targets != "captions" or loss.label_smoothing > 0:
        return "mean"
    return "sum" if part == "infonce" else "masked"


def objective(
    clip: Clip,
    batch: Batch,
    loss: Loss,
    aims: Aims | None = None,
    learned: Balance | None = None,
    share: float = 0.0,
) -> Objective:
    """The loss of one batch as a function of its image and text embeddings (B, D), and where the loss wants them those of
    the images at its further scales, and then of the hard captions.

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
    beta, tile = loss.hard_negatives, loss.tile
    hard = _hard_of(batch, aims)

    def pair_loss(name: str, image_BD: Tensor, text_BD: Tensor, scale: Tensor, wrong: Wrong) -> Tensor:
        more = {"extra_text_KD": wrong[0], "extra_id_K": wrong[1], "row_id": wrong[2]}
        form = form_of(loss, name)
        if name == "infonce":
            return infonce(image_BD, text_BD, scale, targets, tile, positives=form, hard_negatives=beta, **more)
        bias = model.logit_bias
        return siglip(image_BD, text_BD, scale, bias, targets, tile, positives=form, hard_negatives=beta, **more)

    def contrast(image_BD: Tensor, text_BD: Tensor, *others: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        scale = model.logit_scale
        smaller = others[:-1] if hard is not None else others
        wrong_BD = others[-1] if hard is not None else None
        wrong = _wrong(wrong_BD, hard)
        parts: dict[str, Tensor] = {}
        said: dict[str, Tensor] = {}
        for name in weights:
            if name == "images":
                parts[name] = supcon(image_BD, scale, _hard(targets), tile)
            elif name == loss.kind and smaller:
                by = partial(_scaled, pair_loss, name, wrong)
                images = [image_BD, *smaller]
                parts[name], said = multi_scale(images, text_BD, scale, loss.scales, _hard(targets), by, tile)
            else:
                parts[name] = pair_loss(name, image_BD, text_BD, scale, wrong)
        said |= {name: part.detach() for name, part in parts.items()}
        if loss.temperature == "auto":
            with torch.no_grad():
                said[EFFECTIVE] = temperature.effective_negatives(image_BD, text_BD, scale, _hard(targets), loss.tile)
        if wrong_BD is not None and wrong[0] is None:
            # no sentence of this batch could be made wrong; the step wants every tower to be used
            parts[loss.kind] = parts[loss.kind] + 0.0 * wrong_BD.sum()
        if learned is None:
            return balances.combine(parts, weights), said
        _begin(learned, parts)
        return balances.uncertainty(parts, weights, dict(learned.items())), said

    return contrast


Wrong = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Embeddings of hard captions, their caption ids, and the caption id of each pair; all None where there are none."""


def _hard_of(batch: Batch, aims: Aims | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Which rows of a batch have a hard caption, its caption id, and the rows' own; on the CPU."""
    if aims is None or aims.hard is None:
        return None
    rows = torch.from_numpy(batch.draw.indices)
    return aims.hard.made_N[rows], aims.hard.caption_id_N[rows], batch.caption_id


def _wrong(wrong_BD: Tensor | None, hard: tuple[Tensor, Tensor, Tensor] | None) -> Wrong:
    if wrong_BD is None or hard is None or not bool(hard[0].any()):
        return None, None, None
    made_B, id_B, own_B = (one.to(wrong_BD.device) for one in hard)
    return wrong_BD[made_B], id_B[made_B], own_B


def _scaled(
    pair_loss: Callable[..., Tensor], name: str, wrong: Wrong, image_BD: Tensor, text_BD: Tensor, scale: Tensor
) -> Tensor:
    return pair_loss(name, image_BD, text_BD, scale, wrong)


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
    if loss.positives not in ("auto", "mean") and (loss.targets == "soft" or loss.label_smoothing > 0):
        raise ConfigError(
            f"loss.positives={loss.positives} has hard positives only: use mean with soft targets and label smoothing"
        )
    if "images" in parts_of(loss) and loss.targets == "pairs":
        raise ConfigError(
            "loss.weights.images compares images that belong together: use loss.targets=labels or captions"
        )
