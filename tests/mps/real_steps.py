"""Real training steps for the op audit: honeclip's own loop on one batch, with every lever that a step has."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import tiny_runs
import torch

from honeclip.config import Config, Loss, Train
from honeclip.data.loader import Batch
from honeclip.data.order import Draw
from honeclip.device import precision
from honeclip.device.fake import FakeMps
from honeclip.model import build, heads, recompute, towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.load import load
from honeclip.preprocess.preprocess import normalise
from honeclip.stepping.plan import NO_PLAN
from honeclip.training import objective, optimizer, stages
from honeclip.training.feeds import Features, ImageFeed, TextFeed
from honeclip.training.loop import Learner, Step, gradient_scaler, train
from honeclip.training.stages import Stage

BATCH = 3
"""Samples of a step: with micro-batches of two the last one is uneven."""


INFONCE = Loss()


@dataclass(frozen=True)
class Mode:
    """How a step is computed: the levers that a run has.

    Attributes:
        micro_batch: samples through a tower at once.
        keep: micro-batches whose graphs stay.
        queries: of an attention slice; 0 leaves attention whole.
        recompute: whether blocks are recomputed.
        precision: "fp32" or "fp16".
        loss: the `[loss]` section.
        frozen: bodies whose features stand in for pixels or tokens.
    """

    micro_batch: int = 2
    keep: int = 2
    queries: int = 0
    recompute: bool = False
    precision: str = "fp32"
    loss: Loss = INFONCE
    frozen: frozenset[str] = frozenset()


def cut(name: str, folder: Path, size_px: int | None = None) -> str:
    """A source with two narrow blocks a tower: their operations are those of all the others.

    Args:
        name: of an open_clip architecture.
        folder: takes the config, for open_clip to find.
        size_px: a smaller input; None keeps it.
    """
    config: dict[str, Any] = open_clip.get_model_config(name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    text |= {"layers": 2, "width": 128, "heads": 2, "vocab_size": len(tiny_runs.WORDS), "hf_tokenizer_name": "./"}
    text.pop("tokenizer_kwargs", None)
    if "layers" in vision:
        vision |= {"layers": 2, "width": 128}
    vision["image_size"] = size_px or vision["image_size"]
    (folder / f"honeclip-cut-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return f"random:honeclip-cut-{name}"


def model(source: str, text: Path) -> Clip:
    """The model on the fake device; of a timm transformer that was cut two blocks and 4 x 4 patches stay.

    Args:
        source: of `load`.
        text: a folder with a small tokenizer, for a model whose own is on the hub.
    """
    clip = load(source, FakeMps())
    trunk = getattr(clip.model.visual, "trunk", None)
    if "-cut-" in source and hasattr(trunk, "blocks"):
        del trunk.blocks[2:]
        trunk.set_input_size(4 * trunk.patch_embed.patch_size[0])
        clip.preprocess = clip.preprocess.with_size(trunk.patch_embed.img_size[0])
    if clip.preprocess.tokenizer is None:
        config = {"text_cfg": {"hf_tokenizer_name": "./", "context_length": clip.preprocess.context_length}}
        clip.preprocess = replace(clip.preprocess, tokenizer=build.tokenizer(config, text))
    return clip


def step(learner: Learner, batch: Batch) -> Step:
    """One whole step of `honeclip.training.loop.train`, from pixels to the clamped logit scale."""
    (done,) = train(learner, iter([batch]), lambda: "none")
    recompute.recompute(learner.clip, False)
    return done


def learner_for(clip: Clip, mode: Mode) -> Learner:
    """As `training.setup` builds it; fresh heads where the model takes them."""
    features = known(clip)
    if heads.takes_fresh_heads(clip) and not isinstance(clip.model.text.proj, heads.FreshHead):
        heads.install(clip, features.image_NF, features.text_NF, 0)
    config = Config(loss=mode.loss, train=Train(grad_clip=0.5, lr=1e-6))
    objective.prepare(clip, config.loss)
    for parameter in clip.model.parameters():
        parameter.requires_grad_()
    stages.enter(clip, Stage(0, 1, mode.frozen), frozenset(name for name, _ in clip.model.named_parameters()))
    return Learner(
        clip=clip,
        config=config,
        precision=precision.choose(clip.device, mode.precision),
        optimizer=optimizer.build(clip, config.train, mode.frozen),
        scaler=gradient_scaler(clip, precision.choose(clip.device, mode.precision)),
        image_feed=ImageFeed(clip, features.image_NF if "image" in mode.frozen else None, torch.float32),
        text_feed=TextFeed(clip, features.text_NF if "text" in mode.frozen else None, torch.float32),
        plan=replace(
            NO_PLAN,
            micro_batch=(mode.micro_batch,) * 2,
            keep=(mode.keep,) * 2,
            recompute=mode.recompute,
            attention_slice=mode.queries,
        ),
        factor=lambda step: 1.0,
    )


def a_batch(clip: Clip) -> Batch:
    """Random pictures with captions of several lengths; two pairs have equal captions."""
    draw = Draw(step=0, indices=np.arange(BATCH), seed=0, strength=1.0, size_px=clip.preprocess.size_px)
    return Batch(draw, pixels(clip), tokens(clip), torch.tensor([0, 1, 0]), torch.arange(BATCH))


def pixels(clip: Clip) -> torch.Tensor:
    size = clip.preprocess.size_px
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=generator)


def tokens(clip: Clip) -> torch.Tensor:
    return towers.probes(clip.model, clip.preprocess.context_length, BATCH)


def known(clip: Clip) -> Features:
    """Features of both bodies, as the cache of a frozen tower gives them."""
    preprocess = clip.preprocess
    with measuring(clip):
        image = towers.image_tower(clip).body(normalise(pixels(clip), preprocess.mean, preprocess.std))
        return Features(image, towers.text_tower(clip).body(tokens(clip)))
