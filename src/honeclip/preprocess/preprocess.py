"""`Preprocess`: all that stands between files and strings and the tensors that a model takes.

It is the only home of the effective image size and context length. Pixels are those of open_clip's own evaluation
transform (`open_clip.transform.image_transform_v2`), bit for bit, whose resize is called, not written again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from honeclip.domains.schema import ImageRules
from honeclip.errors import ModelError
from honeclip.preprocess import images, rules, sentences
from honeclip.preprocess.images import LIMITS, Limits
from honeclip.preprocess.rules import NOTHING, TextHow
from honeclip.preprocess.tokens import Tokenizer
from honeclip.preprocess.windows import Asked, resolve

Resize = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
Triple = tuple[float, float, float]

MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
STD: Triple = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP (open_clip.constants), which open_clip takes where nothing else is said."""

CONTEXT_LENGTH = 77

LONGEST_RATIO = 100
"""Of an image's sides. "shortest" keeps the middle of a longer one; see `_bounded`."""

log = logging.getLogger(__name__)

_warned: set[str] = set()


@dataclass(frozen=True)
class Preprocess:
    """How a model sees images and texts.

    Attributes:
        size_px: side of the square that the model takes.
        mean: of each channel, of pixels within 0..1; subtracted.
        std: of each channel; divided by.
        resize: "shortest" (shorter side to the size, the middle is kept), "longest" (longer side to the size, the rest
            filled) or "squash" (both sides to the size).
        fill: grey value 0 to 255 of what "longest" fills.
        interpolation: "bicubic" or "bilinear".
        tokenizer: None where texts are not needed, as in a process that decodes, or where its files are out of reach.
        context_length: tokens at which texts are cut.
        text: the field's text rules, besides `rules.clean`.
        windows: of DICOM, as in a domain; () takes the file's own, and is what ("file",) becomes.

    Raises:
        ModelError: a value that cannot be.
        DomainError: a window that is unknown.
    """

    size_px: int
    mean: Triple = MEAN
    std: Triple = STD
    resize: Resize = "shortest"
    fill: int = 0
    interpolation: Interpolation = "bicubic"
    tokenizer: Tokenizer | None = None
    context_length: int = CONTEXT_LENGTH
    text: TextHow = NOTHING
    windows: tuple[Asked, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # numbers of one kind: equal values have equal fingerprints
            object.__setattr__(self, name, _triple(getattr(self, name)))
        object.__setattr__(self, "windows", _windows(self.windows))
        faults = [
            (self.size_px < 1, f"the size is {self.size_px} pixels"),
            (self.context_length < 1, f"the context length is {self.context_length} tokens"),
            (not all(map(math.isfinite, (*self.mean, *self.std))), f"mean is {self.mean}, std is {self.std}"),
            (min(self.std) <= 0, f"std is {self.std}, and it is divided by"),
            (self.resize not in ("shortest", "longest", "squash"), f"resize is {self.resize!r}"),
            (self.interpolation not in ("bicubic", "bilinear"), f"interpolation is {self.interpolation!r}"),
            (not 0 <= self.fill <= 255, f"fill is {self.fill}, and grey values go from 0 to 255"),
        ]
        wrong = [words for is_wrong, words in faults if is_wrong]
        if wrong:
            raise ModelError(f"the preprocessing cannot be: {'; '.join(wrong)}")
        if self.tokenizer is not None and self.tokenizer.context_length != self.context_length:
            object.__setattr__(self, "tokenizer", self.tokenizer.at_length(self.context_length))

    def image(self, source: bytes | Path | Image.Image, limits: Limits = LIMITS) -> Tensor:
        """The pixels of one image: uint8 (3, size_px, size_px) on the CPU, not yet normalised.

        Args:
            source: the bytes of a file, its path, or a Pillow image.
            limits: of the file; see `images.decode`.

        Raises:
            DataError: it cannot be decoded.
        """
        from torchvision.transforms.functional import pil_to_tensor

        image = _bounded(images.decode(source, limits, self.windows), self)
        for transform in _transforms(self.size_px, self.resize, self.fill, self.interpolation):
            image = transform(image)
        pixels: Tensor = pil_to_tensor(image)
        return pixels.contiguous()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """The tokens of texts: int64 (N, context_length) on the CPU, after `words`.

        The first time that texts had to be cut in this process, the log says how many.

        Raises:
            ModelError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ModelError("there is no tokenizer: its files are missing, so that texts cannot be used")
        cleaned = self.words(texts)
        tokens_NL = self.tokenizer(cleaned)
        if self.tokenizer.fingerprint not in _warned:
            cut = self.tokenizer.count_cut(cleaned, tokens_NL)
            if cut:
                _warned.add(self.tokenizer.fingerprint)
                log.warning(
                    "%d of %d captions are longer than %d tokens and cut there (said once; `honeclip check` lists all)",
                    cut,
                    len(cleaned),
                    self.context_length,
                )
        return tokens_NL

    def words(self, texts: Sequence[str]) -> list[str]:
        """What the tokenizer sees of each text: cleaned, and after the field's text rules.

        The first time in this process that the rules would have left nothing of a text, the log says of how many.

        Raises:
            DomainError: an own replacement of the field takes too long.
        """
        after, kept = rules.applied(texts, self.text)
        if kept and "text rules" not in _warned:
            _warned.add("text rules")
            log.warning("%s (said once)", _kept_words(kept, len(texts)))
        return after

    def pieces(self, texts: Sequence[str]) -> list[list[str]]:
        """The pieces in which each text is embedded: itself, or its windows where it is too long and the field averages."""
        if self.text.long == "cut" or self.tokenizer is None:
            return [[text] for text in texts]
        words = self.words(texts)
        fits = [count <= self.context_length for count in self.tokenizer.count(words)]
        return [
            [text] if whole else sentences.windows(after, self.tokenizer.count, self.context_length)
            for text, after, whole in zip(texts, words, fits, strict=True)
        ]

    def note_of_kept(self, texts: Sequence[str]) -> str:
        """In words, how many distinct texts the rules would have emptied, so that they stay; "" where none is.

        Who has asked will tell: `words` then says nothing more of it in this process.

        Raises:
            DomainError: as `words`.
        """
        distinct = list(dict.fromkeys(texts))
        kept = rules.applied(distinct, self.text)[1]
        _warned.add("text rules")
        return _kept_words(kept, len(distinct)) if kept else ""

    def note_of_cuts(self, texts: Sequence[str]) -> str:
        """In words, how many distinct texts of a whole data set are cut; "" where none is, or there is no tokenizer.

        Who has asked will tell: `texts` then says nothing more of it in this process.
        """
        if self.tokenizer is None:
            return ""
        distinct = list(dict.fromkeys(self.words(texts)))
        cut = sum(count > self.context_length for count in self.tokenizer.count(distinct))
        _warned.add(self.tokenizer.fingerprint)
        then = "cut there" if self.text.long == "cut" else "averaged over windows; training sees their beginning"
        said = f"{cut} of {len(distinct)} distinct captions are longer than {self.context_length} tokens and {then}"
        return said if cut else ""

    @property
    def image_fingerprint(self) -> str:
        """SHA-256 in hex of all that decides what a model sees of an image."""
        filled = self.fill if self.resize == "longest" else None
        facts = ("image", images.RULES, self.size_px, self.mean, self.std, self.resize, filled, self.interpolation)
        # the numbers behind the names; left out where there are none, so that what is known of other images stays known
        windows = [window and (window.centre, window.width, window.modality) for window in resolve(self.windows)]
        return _digest((*facts, windows) if windows else facts)

    @property
    def text_fingerprint(self) -> str:
        """SHA-256 in hex of all that decides what a model sees of a text."""
        facts = ("text", rules.RULES, self.context_length, self.tokenizer and self.tokenizer.fingerprint)
        ruled = () if self.text == NOTHING else (rules.TEXT_RULES, self.text.to_json())
        return _digest((*facts, *ruled))

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of both."""
        return _digest((self.image_fingerprint, self.text_fingerprint))

    def with_size(self, size_px: int) -> Preprocess:
        """The same for a model that takes another size."""
        return replace(self, size_px=size_px)

    def with_rules(self, image: ImageRules, text: TextHow = NOTHING) -> Preprocess:
        """The same with a field's way to a square, its windows and its text rules.

        What the field leaves open (None, no windows, `rules.NOTHING`) stays the model's own.
        """
        return replace(
            self,
            resize=image.resize or self.resize,
            fill=self.fill if image.fill is None else image.fill,
            windows=image.windows or self.windows,
            text=self.text if text == NOTHING else text,
        )

    def with_context_length(self, context_length: int) -> Preprocess:
        """The same for a model that takes longer or shorter texts."""
        return replace(self, context_length=context_length)

    def to_json(self) -> dict[str, Any]:
        """Everything but the tokenizer, which has files; text rules only where there are some."""
        ruled = {} if self.text == NOTHING else {"text": self.text.to_json()}
        return {
            "size_px": self.size_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            "fill": self.fill,
            "interpolation": self.interpolation,
            "context_length": self.context_length,
            **ruled,
            "windows": [one if isinstance(one, str) else list(one) for one in self.windows],
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any], tokenizer: Tokenizer | None) -> Preprocess:
        """What `to_json` gave, with its tokenizer.

        Raises:
            ModelError: a key is missing, unknown or wrong.
        """
        stored = {"windows": [], **stored}  # models were stored before there were any
        wrong = {"text", *stored} ^ {one.name for one in fields(Preprocess) if one.name != "tokenizer"}
        if wrong:
            raise ModelError(f"the stored preprocessing cannot be read: missing or unknown are {sorted(wrong)}")
        try:
            text = TextHow.from_json(stored["text"]) if "text" in stored else NOTHING
            return Preprocess(**{**stored, "text": text}, tokenizer=tokenizer)
        except (TypeError, ValueError, KeyError) as error:
            raise ModelError(f"the stored preprocessing cannot be read: {error}") from None

    def to_open_clip(self) -> dict[str, Any]:
        """open_clip's `preprocess_cfg`; the size stands in its `model_cfg`."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize,
            "fill_color": self.fill,
        }

    @staticmethod
    def from_open_clip(
        config: Mapping[str, Any], size_px: int, tokenizer: Tokenizer | None, context_length: int | None = None
    ) -> Preprocess:
        """From open_clip's `preprocess_cfg` by its rules: what is missing or None has a default.

        Args:
            config: `preprocess_cfg`; other keys are passed over, as open_clip does it.
            size_px: from `model_cfg`.
            tokenizer: None where there is none.
            context_length: None takes the tokenizer's, or open_clip's default without one.

        Raises:
            ModelError: a value that open_clip does not know either.
        """
        known = {key: value for key, value in config.items() if value is not None}
        interpolation = known.get("interpolation", "bicubic")
        try:
            return Preprocess(
                size_px=size_px,
                mean=known.get("mean", MEAN),
                std=known.get("std", STD),
                resize=known.get("resize_mode", "shortest"),
                fill=int(known.get("fill_color", 0)),
                interpolation="bicubic" if interpolation == "random" else interpolation,
                tokenizer=tokenizer,
                context_length=context_length or (tokenizer.context_length if tokenizer else CONTEXT_LENGTH),
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"preprocess_cfg cannot be read: {error}") from None


def _kept_words(kept: int, texts: int) -> str:
    return f"{kept} of {texts} captions stay as they are: the domain's text rules would leave nothing of them"


def normalise(images_BCHW: Tensor, mean: Triple, std: Triple, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a model takes: (pixels / 255 - mean) / std, on the device where the pixels are.

    In float32 the very values of torchvision's ToTensor and Normalize. A narrower type is rounded to at the end.

    Args:
        images_BCHW: uint8 (B, 3, H, W).
        mean: of each channel.
        std: of each channel.
        dtype: of the result.
    """
    work = torch.float64 if dtype == torch.float64 else torch.float32
    # made on the CPU: then no list of numbers is copied piece by piece to an accelerator
    mean_C11, std_C11 = (torch.tensor(one, dtype=work).view(-1, 1, 1).to(images_BCHW.device) for one in (mean, std))
    return images_BCHW.to(work, copy=True).div_(255).sub_(mean_C11).div_(std_C11).to(dtype)


def _bounded(image: Image.Image, how: Preprocess) -> Image.Image:
    """An image so narrow that open_clip's resize would fail, or need gigabytes, made less narrow; others as they are.

    "shortest" makes the long side size_px * ratio pixels and then keeps the middle: here more than that is cut off before.
    "longest" rounds the short side to nothing: here it keeps one pixel.
    """
    short, long = sorted(image.size)
    if how.resize == "shortest" and long > LONGEST_RATIO * short:
        start = (long - 3 * short) // 2  # as much at both ends, so that the middle stays the middle
        kept = (start, 0, long - start, short)
        return image.crop(kept if image.width == long else (kept[1], kept[0], kept[3], kept[2]))
    if how.resize == "longest" and round(short * how.size_px / long) == 0:
        resampling = Image.Resampling.BILINEAR if how.interpolation == "bilinear" else Image.Resampling.BICUBIC
        return image.resize((how.size_px, 1) if image.width == long else (1, how.size_px), resampling)
    return image


@lru_cache(maxsize=32)
def _transforms(size_px: int, resize: Resize, fill: int, interpolation: Interpolation) -> tuple[Any, ...]:
    """The steps of open_clip's evaluation transform that come before ToTensor, from image to image."""
    from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2

    config = PreprocessCfg(size=size_px, interpolation=interpolation, resize_mode=resize, fill_color=fill)
    steps = image_transform_v2(config, is_train=False).transforms
    return tuple(steps[: next(place for place, step in enumerate(steps) if isinstance(step, MaybeToTensor))])


def _triple(numbers: Any) -> Triple:
    """One number a channel; a single one is meant for all, as in open_clip."""
    try:
        red, green, blue = [numbers] * 3 if isinstance(numbers, int | float) else numbers
        return float(red), float(green), float(blue)
    except (TypeError, ValueError):
        raise ModelError(f"mean and std are three numbers each, one a channel, and not {numbers!r}") from None


def _windows(asked: Any) -> tuple[Asked, ...]:
    """Names and pairs of numbers, checked; lists from JSON become tuples. Nothing but the file's own is ()."""
    try:
        windows = tuple(one if isinstance(one, str) else (float(one[0]), float(one[1])) for one in asked)
    except (TypeError, ValueError, IndexError):
        raise ModelError(f"windows are names or [centre, width], and not {asked!r}") from None
    return windows if resolve(windows) else ()


def _digest(facts: tuple[Any, ...]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
