"""Features of frozen bodies in a run, and what the loss wants through the towers beside images and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from honeclip.config import Loss
from honeclip.data import samples
from honeclip.data.samples import Samples
from honeclip.embedding import features
from honeclip.embedding.features import Features as Caches
from honeclip.errors import ConfigError
from honeclip.model import resize
from honeclip.model.clip import Clip, measuring
from honeclip.model.scales import smaller
from honeclip.monitoring.terminal import Progress
from honeclip.training.aims import Aims, hard_captions
from honeclip.training.feeds import Features, ImageFeed, TextFeed
from honeclip.training.prepared import Prepared


@dataclass(frozen=True, eq=False)
class Known:
    """Features of the train split by bodies that have not learned: of the images once a size, of the texts once.

    Attributes:
        progress: told while features are computed.
        images: by size in pixels and further scales of the loss, which are part of them.
        texts: with and without hard captions.
    """

    progress: Progress
    images: dict[tuple[int, tuple[float, ...]], Features] = field(default_factory=dict)
    texts: dict[bool, Features] = field(default_factory=dict)

    def of(self, prepared: Prepared, towers: frozenset[str]) -> Features:
        """Features by the given towers' bodies, of images at the size that the model has now."""
        loss = prepared.config.loss
        look = (prepared.clip.preprocess.size_px, loss.scales)
        had = {"image": look in self.images, "text": loss.hard_captions in self.texts}
        if wanted := frozenset(name for name in towers if not had[name]):
            fresh = train_features(prepared, wanted, self.progress)
            if "image" in wanted:
                self.images[look] = fresh
            if "text" in wanted:
                self.texts[loss.hard_captions] = fresh
        image = self.images[look] if "image" in towers else Features()
        text = self.texts[loss.hard_captions] if "text" in towers else Features()
        return Features(image.image_NF, text.text_NF, image.scales_NF, text.hard_NF, text.samples_MF)


def caches(found: Prepared, frozen: frozenset[str]) -> Caches:
    """The names of the feature caches of the bodies that are frozen."""
    return features.caches(found.clip, image="image" in frozen, text="text" in frozen)


def train_features(found: Prepared, towers: frozenset[str], progress: Progress) -> Features:
    """Features of the given towers' bodies for the train split, from disk or computed once."""
    known = caches(found, towers)
    image_NF = text_NF = samples_MF = None
    if known.image:
        counter = progress.counter("image features")
        image_NF = features.image_features(found.clip, found.train, cache=known.image, progress=counter)
    if known.text:
        counter = progress.counter("text features")
        drawn = samples_of(found)
        if drawn is None:
            text_NF = features.text_features(found.clip, found.train.captions, cache=known.text, progress=counter)
        else:
            samples_MF = features.text_features(found.clip, drawn.texts, cache=known.text, progress=counter)
            text_NF = samples_MF[torch.from_numpy(drawn.starts[:-1])]
    return Features(image_NF, text_NF, *_further_features(found, known, progress), samples_MF)


def samples_of(found: Prepared) -> Samples | None:
    """What steps may see of the captions where the domain draws sentences; None where they see all of each."""
    if found.domain.text.sample == "whole":
        return None
    # after the rules, which may look at more of a text than a sentence: the sections of a report
    return samples.of(found.clip.preprocess.words(found.train.captions))


def _further_features(found: Prepared, known: Caches, progress: Progress) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Features of the images at the further scales of the loss, and of the hard captions."""
    clip, loss = found.clip, found.config.loss
    scales: list[Tensor] = []
    for size_px in smaller_sizes(clip, loss.scales) if known.image else ():
        small = smaller(clip, size_px)
        scales.append(
            features.image_features(small, found.train, progress=progress.counter(f"features at {size_px} px"))
        )
    if not (known.text and loss.hard_captions):
        return tuple(scales), None
    hard = hard_captions(found.train, found.domain, found.config.data.domain)
    counter = progress.counter("features of hard captions")
    return tuple(scales), features.text_features(clip, hard.texts, cache=known.text, progress=counter)


def further_feeds(clip: Clip, loss: Loss, aims: Aims, dtype: torch.dtype) -> tuple[ImageFeed | TextFeed, ...]:
    """What the loss wants through the towers beside images and captions; nothing of it from features yet."""
    images = [ImageFeed(clip, None, dtype, size_px) for size_px in smaller_sizes(clip, loss.scales)]
    texts = [] if aims.hard is None else [TextFeed(clip, None, dtype, clip.preprocess.texts(list(aims.hard.texts)))]
    return (*images, *texts)


def smaller_sizes(clip: Clip, scales: Sequence[float]) -> list[int]:
    """Side in pixels of the images at each further scale, a multiple of the patch.

    Raises:
        ConfigError: the image tower takes images of one size only, or a scale leaves nothing of it.
    """
    sizes = [_nearest(clip, scale) for scale in scales[1:]]
    for size_px in sizes:
        feed = ImageFeed(clip, None, clip.dtype, size_px)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake, measuring(clip):
            probe = torch.empty(1, 3, size_px, size_px, dtype=torch.uint8)
            try:
                feed.forward(probe)
            except (RuntimeError, AssertionError, ValueError) as error:
                raise ConfigError(
                    f"loss.scales: the image tower of {clip.source} takes no images of {size_px} px beside its own "
                    f"{clip.preprocess.size_px} px ({error}); starter takes any size"
                ) from None
    return sizes


def _nearest(clip: Clip, scale: float) -> int:
    own = clip.preprocess.size_px
    size_px = max(1, round(own * scale))
    patch = resize.patch_px(clip)
    nearest = resize.nearest_size(clip, size_px) if size_px >= patch else 0
    if not 0 < nearest < own:
        raise ConfigError(
            f"loss.scales: {scale:g} of {own} px is {size_px} px, and with patches of {patch} px the image tower of "
            f"{clip.source} has no smaller size near it; leave it out, or train at a larger size (resolution.stages)"
        )
    return nearest
