"""What an export computes, in the model itself as in any other library: normalised pixels or tokens to unit embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from honeclip.model import towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.towers import Tower

PROBES = 4

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Encoders:
    """Two towers, wherever they run.

    Attributes:
        image: normalised images float32 (B, 3, S, S) to unit embeddings float32 (B, D), on the CPU.
        text: tokens int64 (B, L), L the model's context length, to unit embeddings float32 (B, D).
    """

    image: Encode
    text: Encode


@dataclass(frozen=True)
class Difference:
    """How far an export's embeddings lie from the model's.

    Attributes:
        largest: of the numbers of the unit embeddings.
        cosine: the smallest of an embedding with its own.
    """

    largest: float
    cosine: float


class Encoder(nn.Module):
    """One tower as a module with a single input and unit embeddings as its output, as exporters want it."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.model = tower.model
        self.__dict__["tower"] = tower  # no child: its functions hold the same model

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) or tokens (B, L) to (B, D)."""
        tower: Tower = self.__dict__["tower"]
        return normalize(tower(x), dim=-1)


def modules(clip: Clip) -> tuple[Encoder, Encoder]:
    """The image and the text tower, in eval mode."""
    return Encoder(towers.image_tower(clip)).eval(), Encoder(towers.text_tower(clip)).eval()


def of_model(clip: Clip) -> Encoders:
    """The model itself, in float32; tokens are not trimmed."""
    image, text = modules(clip)

    def run(module: Encoder, x: Tensor) -> Tensor:
        with measuring(clip):
            found: Tensor = module(clip.device.copy(x))
        return found.float().cpu()

    return Encoders(lambda x: run(image, x), lambda x: run(text, x))


def probes(clip: Clip, rows: int = PROBES) -> tuple[Tensor, Tensor]:
    """Images float32 (rows, 3, S, S) and tokens int64 (rows, L) that every tower can be asked about; always the same.

    Nothing of them needs a picture or a tokenizer: pixels are noise about as large as normalised ones are, and texts differ
    in words and in length.
    """
    size = clip.preprocess.size_px
    images = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images, towers.probes(clip.model, clip.preprocess.context_length, rows=rows)


def differences(clip: Clip, other: Encoders) -> dict[str, Difference]:
    """How far the probes' embeddings lie from the model's: "image" and "text"."""
    images, tokens = probes(clip)
    own = of_model(clip)
    return {
        "image": difference(own.image(images), other.image(images)),
        "text": difference(own.text(tokens), other.text(tokens)),
    }


def difference(own_BD: Tensor, other_BD: Tensor) -> Difference:
    """Of unit embeddings (B, D) each with its own; NaN counts as infinitely far."""
    if own_BD.shape != other_BD.shape or not bool(torch.isfinite(other_BD).all()):
        return Difference(float("inf"), -1.0)
    cosine = (own_BD.double() * normalize(other_BD.double(), dim=-1)).sum(-1).min()
    return Difference(float((own_BD - other_BD).abs().max()), float(cosine))
