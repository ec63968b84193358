"""What goes through each tower in a step: pixels and tokens, or the features of a frozen body."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from honeclip.data.loader import Batch
from honeclip.data.samples import Samples
from honeclip.model import scales
from honeclip.model.clip import Clip
from honeclip.model.towers import image_tower, text_tower, trim
from honeclip.preprocess.preprocess import normalise


@dataclass(frozen=True)
class Features:
    """Features of frozen bodies for every row of the train split, on the host; None where the body learns.

    `scales_NF` are of the images at the further scales of the loss, `hard_NF` of the hard captions, `samples_MF` of all
    that steps may see of the captions where sentences are drawn.
    """

    image_NF: Tensor | None = None
    text_NF: Tensor | None = None
    scales_NF: tuple[Tensor, ...] = ()
    hard_NF: Tensor | None = None
    samples_MF: Tensor | None = None


@dataclass(frozen=True)
class ImageFeed:
    """The image tower's inputs of a step, and the way from them to embeddings.

    `size_px` is another side than the batch's images have: they are made smaller on the host.
    """

    clip: Clip
    features_NF: Tensor | None
    dtype: torch.dtype
    size_px: int | None = None

    def inputs(self, batch: Batch) -> Tensor:
        """uint8 pixels (B, 3, H, W) or features (B, F), on the host."""
        if self.features_NF is not None:
            return self.features_NF[torch.from_numpy(batch.draw.indices)]
        assert batch.images is not None
        if self.size_px is None:
            return batch.images
        smaller: Tensor = resize(batch.images, [self.size_px, self.size_px], antialias=True)
        return smaller

    def __call__(self, piece: Tensor) -> Tensor:
        """A micro-batch of inputs -> embeddings (m, D), not normalised. Pixels cross as uint8 and become floats there."""
        return self.forward(piece)

    def trimmed(self, piece: Tensor) -> Tensor:
        """The same inputs: nothing can be cut off an image."""
        return piece

    def forward(self, piece: Tensor) -> Tensor:
        """What a call does; it asks for no number, so that it runs on tensors that have none."""
        tower = image_tower(self.clip)
        here = self.clip.device.copy(piece)
        if self.features_NF is not None:
            return tower.head(here.to(self.dtype))
        preprocess = self.clip.preprocess
        pixels = normalise(here, preprocess.mean, preprocess.std, self.dtype)
        return tower(pixels) if self.size_px is None else scales.through(self.clip, tower, pixels)


@dataclass(frozen=True)
class TextFeed:
    """The text tower's inputs of a step, and the way from them to embeddings.

    `table_NL` are the tokens of another text than the caption for each row of the train split. Where sentences are drawn,
    `samples` says which text a row of a batch takes, and `features_NF` has a row for each of those texts.
    """

    clip: Clip
    features_NF: Tensor | None
    dtype: torch.dtype
    table_NL: Tensor | None = None
    samples: Samples | None = None

    def inputs(self, batch: Batch) -> Tensor:
        """int64 tokens (B, L) or features (B, F), on the host."""
        if self.features_NF is not None:
            rows = batch.draw.indices if self.samples is None else self.samples.at(batch.draw)
            return self.features_NF[torch.from_numpy(rows)]
        if self.table_NL is not None:
            return self.table_NL[torch.from_numpy(batch.draw.indices)]
        assert batch.tokens is not None
        return batch.tokens

    def __call__(self, piece: Tensor) -> Tensor:
        """A micro-batch of inputs -> embeddings (m, D), not normalised. Tokens are cut to the longest caption in it."""
        return self.forward(self.trimmed(piece))

    def trimmed(self, piece: Tensor) -> Tensor:
        """Tokens cut to the longest caption among them; features as they are."""
        return piece if self.features_NF is not None else trim(text_tower(self.clip), piece)

    def forward(self, piece: Tensor) -> Tensor:
        """What a call does after trimming; it asks for no number, so that it runs on tensors that have none."""
        tower = text_tower(self.clip)
        here = self.clip.device.copy(piece)
        return tower.head(here.to(self.dtype)) if self.features_NF is not None else tower(here)
