"""`verify`: gradients of the cached step against those of a plain step, on the user's own model, data and device.

Every tower learns, dropout and augmentation are off, BatchNorm keeps its statistics. The reference is a plain step in
float64 on the CPU: the towers' own forward over the whole batch at once, texts at their full length, one backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import Tensor

from honeclip import config as configs
from honeclip.config import Loss
from honeclip.data import loader, pairs
from honeclip.data.loader import Batch
from honeclip.data.order import order
from honeclip.device import detect
from honeclip.domains import domain as domains
from honeclip.errors import DataError
from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.model.towers import image_tower, text_tower
from honeclip.preprocess.preprocess import normalise
from honeclip.stepping.inputs import spans
from honeclip.stepping.step import cached_step
from honeclip.training import objective as objectives
from honeclip.training.aims import Aims, aims
from honeclip.training.feeds import ImageFeed, TextFeed
from honeclip.training.frozen import further_feeds
from honeclip.training.objective import objective, prepare

LARGEST_FLOAT64 = 1e-9
FLOAT32_FACTOR, FLOAT32_SLACK = 2.0, 1e-7
SCALE_TOLERANCE = 1e-6
SMALL = 1e-6
"""A parameter whose gradients are all below this share of the largest one is compared with that share instead."""

Gradients = dict[str, Tensor]


def verify(
    data: str,
    model: str = "starter",
    *,
    batch: int = 32,
    micro_batch: int = 4,
    sets: Iterable[str] = (),
    device: str = "auto",
) -> dict[str, Any]:
    """Compares the two steps; see the contract for the keys.

    Args:
        data: a manifest, or a folder with one named pairs.csv.
        model: any model source.
        batch: effective batch in pairs; lowered to the rows where there are fewer.
        micro_batch: pairs through a tower at once in the cached step. Half of the micro-batches keep their graphs, so
            that both of its ways are taken.
        sets: `section.key=value` texts, as for a run; [loss] and [data] count.
        device: of the float32 steps.

    Raises:
        BadInput: the model, data or device cannot be used.
    """
    config = configs.load(sets=sets)
    where = detect.choose(device)
    domain = domains.load(config.data.domain)
    reference = load(model, "cpu")
    rows = pairs.load(
        data, columns=config.data.columns, max_bad_fraction=config.data.max_bad_fraction, domain=domain
    ).split("train")
    if len(rows) < 2:
        raise DataError(
            f"{rows.source}: the train split has {len(rows)} rows, and a step compares pairs: give two or more"
        )
    objectives.check(config.loss)
    known = aims(reference, rows, domain, config.data.domain, config.loss)
    size = min(batch, len(rows))
    draws = order(len(rows), size, config.train.seed, size_px=reference.preprocess.size_px, strength=0.0)
    drawn = next(loader.batches(rows, reference.preprocess, islice(draws, 1)))
    pieces = len(spans(size, micro_batch))
    keep = pieces // 2

    prepare(reference, _with_learned_scale(config.loss))
    reference.model.double()
    truth = _plain(reference, drawn, config.loss, known)
    cached64 = _cached(reference, drawn, config.loss, known, micro_batch, keep)
    worst, error64 = _largest(cached64, truth)
    # a gradient that did not arrive at all is a ratio of 0
    ratio = float(cached64["logit_scale"] / truth["logit_scale"]) if "logit_scale" in cached64 else 0.0
    del cached64, reference

    clip = load(model, where)
    prepare(clip, _with_learned_scale(config.loss))
    _, plain32 = _largest(_plain(clip, drawn, config.loss, known), truth)
    _, cached32 = _largest(_cached(clip, drawn, config.loss, known, micro_batch, keep), truth)
    passed = (
        error64 <= LARGEST_FLOAT64
        and abs(ratio - 1) <= SCALE_TOLERANCE
        and cached32 <= FLOAT32_FACTOR * plain32 + FLOAT32_SLACK
    )
    return {
        "passed": passed,
        "max_relative_error_float64": error64,
        "error_plain_float32": plain32,
        "error_cached_float32": cached32,
        "worst_parameter": worst,
        "logit_scale_ratio": ratio,
        "batch": size,
        "micro_batch": min(micro_batch, size),
        "kept": keep,
        "device": where.type,
        "model": model,
        "data": data,
    }


def _with_learned_scale(loss: Loss) -> Loss:
    """The loss with a scale that learns: its gradient is part of the proof."""
    return loss.model_copy(update={"temperature": "learned"})


def _plain(clip: Clip, batch: Batch, loss: Loss, known: Aims) -> Gradients:
    """One forward over everything, one backward."""
    _learn(clip)
    preprocess = clip.preprocess
    assert batch.images is not None
    assert batch.tokens is not None
    with clip.device.lock:
        pixels = normalise(clip.device.copy(batch.images), preprocess.mean, preprocess.std, clip.dtype)
        image_BD = image_tower(clip)(pixels)
        text_BD = text_tower(clip)(clip.device.copy(batch.tokens))
        more = [feed.forward(feed.inputs(batch)) for feed in further_feeds(clip, loss, known, clip.dtype)]
        objective(clip, batch, loss, known)(image_BD, text_BD, *more)[0].backward()
    return _taken(clip)


def _cached(clip: Clip, batch: Batch, loss: Loss, known: Aims, micro_batch: int, keep: int) -> Gradients:
    _learn(clip)
    feeds = (
        ImageFeed(clip, None, clip.dtype),
        TextFeed(clip, None, clip.dtype),
        *further_feeds(clip, loss, known, clip.dtype),
    )
    with clip.device.lock:
        cached_step(
            feeds,
            [feed.inputs(batch) for feed in feeds],
            objective(clip, batch, loss, known),
            micro_batch=micro_batch,
            keep=keep,
        )
    return _taken(clip)


def _learn(clip: Clip) -> None:
    clip.model.eval()
    clip.model.requires_grad_(True)


def _taken(clip: Clip) -> Gradients:
    """Every gradient as float64 on the CPU, taken off the model."""
    found = {name: one.grad.cpu().double() for name, one in clip.model.named_parameters() if one.grad is not None}
    clip.model.zero_grad(set_to_none=True)
    return found


def _largest(found: Gradients, truth: Gradients) -> tuple[str, float]:
    """The parameter with the largest relative error, and that error."""
    top = max(float(one.abs().max()) for one in truth.values())
    errors = {
        name: float((found[name] - one).abs().max()) / max(float(one.abs().max()), SMALL * top)
        if name in found
        else float("inf")
        for name, one in truth.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    return worst, errors[worst]
