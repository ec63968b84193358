"""Models to start from, and what fine-tuning each would need, without their weights and without a network.

The graphs of two samples are counted with torch's fake tensors: shapes without numbers, so that a model of a billion
parameters takes no memory and half a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from honeclip.errors import ModelError
from honeclip.model import build
from honeclip.stepping.cost import Lines, TowerCost, peak_bytes
from honeclip.stepping.count import counting
from honeclip.training.planning import LIBRARIES_BYTES, MOMENTS

ROWS = 2
FLOAT = 4


@dataclass(frozen=True)
class StartingPoint:
    """A model to start from.

    Attributes:
        source: as `--model` takes it.
        licence: of its weights, as their publisher states it.
        about: what it is good for, in a few words.
    """

    source: str
    licence: str
    about: str


STARTING_POINTS = (
    StartingPoint("MobileCLIP2-S0:dfndr2b", "Apple AMLR (research only)", "small and fast; ends up on phones"),
    StartingPoint("ViT-B-32:datacomp_xl_s13b_b90k", "MIT", "the first to try: quick steps, fair scores"),
    StartingPoint("ViT-B-32-256:datacomp_s34b_b86k", "MIT", "the same at 256 px"),
    StartingPoint("MobileCLIP2-S2:dfndr2b", "Apple AMLR (research only)", "between S0 and a ViT-B/16"),
    StartingPoint("ViT-B-16:datacomp_xl_s13b_b90k", "MIT", "finer patches: small things in images"),
    StartingPoint("EVA02-B-16:merged2b_s8b_b131k", "MIT", "strong for its size"),
    StartingPoint("ViT-B-16-SigLIP:webli", "Apache-2.0", "sigmoid loss; many kinds of text"),
    StartingPoint("ViT-B-16-SigLIP2:webli", "Apache-2.0", "many languages; a large vocabulary"),
    StartingPoint("ViT-L-14:datacomp_xl_s13b_b90k", "MIT", "better scores for eight times the work"),
    StartingPoint("ViT-L-14-336:openai", "MIT", "336 px: fine detail"),
    StartingPoint("ViT-H-14:laion2b_s32b_b79k", "MIT", "the largest that is worth it on one machine"),
)


@dataclass(frozen=True)
class Needs:
    """What fine-tuning a model needs in float32.

    Attributes:
        parameters: of the model.
        size_px: its own image size.
        smallest_bytes: the peak of a step with one sample at a time and nothing kept.
        sample_bytes: what the graphs of one pair keep.
    """

    parameters: int
    size_px: int
    smallest_bytes: int
    sample_bytes: int


def needs(source: str) -> Needs:
    """Counts a model's needs from its architecture alone.

    Args:
        source: `NAME:TAG` or `NAME` of an open_clip architecture.

    Raises:
        ModelError: there is no such architecture.
    """
    name = source.partition(":")[0]
    config = open_clip.get_model_config(name)
    if config is None:
        raise ModelError(f"{name}: open_clip knows no such architecture")
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model = _built(config, fake)
    size = _side(model)
    length = int(config["text_cfg"].get("context_length", 77))
    model.train()
    towers = []
    with fake:
        given = (
            (model.encode_image, torch.zeros(ROWS, 3, size, size)),
            (model.encode_text, torch.ones(ROWS, length, dtype=torch.long)),
        )
        for encode, inputs in given:
            with counting() as kept:
                output = encode(inputs)
            del output
            towers.append(kept.bytes // ROWS)
    parameters = sum(one.numel() for one in model.parameters())
    image = sum(one.numel() for key, one in model.named_parameters() if key.startswith("visual.")) * FLOAT
    gradients = (image, parameters * FLOAT - image)
    costs = [
        TowerCost(0, graph, Lines(((0, graph),)), Lines(((0, 0),)), Lines(((0, 0),)), learns, float(graph))
        for graph, learns in zip(towers, gradients, strict=True)
    ]
    held = parameters * FLOAT * (1 + MOMENTS) + LIBRARIES_BYTES
    return Needs(parameters, size, peak_bytes(costs, (2, 2), (1, 1), (0, 0), held, 0), sum(towers))


def _built(config: dict[str, Any], fake: FakeTensorMode) -> Any:
    """The architecture without numbers; one whose construction reads numbers is built with some."""
    ways: Iterator[AbstractContextManager[Any]] = iter((fake, nullcontext()))
    for way in ways:
        try:
            with way:
                return build.build(config, None)
        except ModelError:
            if isinstance(way, nullcontext):
                raise
    raise AssertionError


def _side(model: Any) -> int:
    size = model.visual.image_size
    return int(size[0] if isinstance(size, tuple | list) else size)
