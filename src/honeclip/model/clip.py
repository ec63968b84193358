"""`Clip`: a model with all that is needed to use it: preprocessing, effective config, device, where it came from.

Nothing here trains. `clip_json` is what a checkpoint keeps beside the weights; `load` reads it.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from honeclip.errors import DataError, ModelError
from honeclip.model import build, towers
from honeclip.model.calibration import Calibration
from honeclip.model.windows import over_windows
from honeclip.preprocess.preprocess import Preprocess, normalise

if TYPE_CHECKING:
    from PIL.Image import Image

    from honeclip.device.device import Device

FORMAT = 1
"""Of what `clip_json` gives and of honeclip.json; a reader refuses a newer one."""

OneImage: TypeAlias = "str | os.PathLike[str] | bytes | Image"


@dataclass(frozen=True)
class Base:
    """What a model was before honeclip touched it.

    Attributes:
        name: for people: the source or the parts that it was made of.
        licence: of the weights, in words.
        starts_unaligned: True where the towers have never seen each other, so that scores begin at chance.
    """

    name: str
    licence: str
    starts_unaligned: bool


@dataclass(eq=False)
class Clip:
    """A model that is ready to use; made by `load.load`.

    Attributes:
        model: the open_clip module, on `device`, float32, in eval mode.
        preprocess: from files and strings to tensors.
        config: the EFFECTIVE open_clip `model_cfg`: size, context length, activation, bias as they are now.
        device: where the model lives.
        source: what `load` was asked for.
        base: what it was made of.
        domain: the domain it was fine-tuned for, as a mapping; None for a model that was not.
        trims_text: True where cutting padding off changes no embedding (checked when it was loaded).
        calibration: temperature and thresholds that were fitted on validation; None for a model without.
        room_bytes: what a forward may take beside what is there already; None where nobody set a bound.
    """

    model: Any  # an nn.Module; mypy takes the attributes of one for tensors
    preprocess: Preprocess
    config: dict[str, Any]
    device: Device
    source: str
    base: Base
    domain: dict[str, Any] | None = None
    trims_text: bool = False
    room_bytes: int | None = None
    calibration: Calibration | None = None

    @property
    def embed_dim(self) -> int:
        """D, the dimensions of an embedding."""
        return int(self.config["embed_dim"])

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of what cosines are multiplied with before the softmax."""
        scale: nn.Parameter = self.model.logit_scale
        return scale

    @property
    def dtype(self) -> torch.dtype:
        """Of the master weights: float32, or float64 while a proof runs."""
        return self.logit_scale.dtype

    def encode_image(self, images: OneImage | Sequence[OneImage] | Tensor, batch_size: int = 64) -> Tensor:
        """Unit-norm embeddings of images.

        Args:
            images: paths, PIL images or encoded bytes (one, or a sequence of them); or a tensor images_BCHW of the
                model's size: uint8, or floating and then already normalised.
            batch_size: images through the model at once.

        Returns:
            float32 (N, D) on the CPU.

        Raises:
            DataError: an image that cannot be decoded, which is named, or a tensor of another shape.
        """
        tower = towers.image_tower(self)
        if isinstance(images, Tensor):
            parts = iter(torch.split(self._checked(images), batch_size))
        else:
            items = [images] if isinstance(images, str | os.PathLike | bytes) or hasattr(images, "convert") else images
            parts = self._decoded(list(items), batch_size)

        def run(part: Tensor) -> Tensor:
            on_device = self.device.copy(part)
            if not part.is_floating_point():
                on_device = normalise(on_device, self.preprocess.mean, self.preprocess.std)
            return tower(on_device.to(self.dtype))

        return self._embedded(run, parts)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit-norm embeddings of texts, which are cleaned; longer ones are cut, or averaged over windows by their domain.

        Args:
            texts: one text or a sequence of them.
            batch_size: texts through the model at once.

        Returns:
            float32 (N, D) on the CPU.

        Raises:
            ModelError: the model came without a tokenizer.
        """
        strings = [texts] if isinstance(texts, str) else list(texts)
        if self.preprocess.tokenizer is None:
            raise ModelError(
                f"{self.source} came without a tokenizer (its files are on the hub, out of reach): no text"
            )
        tower = towers.text_tower(self)

        def embed(texts: Sequence[str]) -> Tensor:
            parts = (
                towers.trim(tower, self.preprocess.texts(texts[start : start + batch_size]))
                for start in range(0, len(texts), batch_size)
            )
            return self._embedded(lambda part: tower(self.device.copy(part)), parts)

        return over_windows(self.preprocess, strings, embed)

    def similarity(self, images: OneImage | Sequence[OneImage] | Tensor, texts: str | Sequence[str]) -> Tensor:
        """Cosine of every image with every text: float32 (N, M) on the CPU, between -1 and 1."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def _embedded(self, run: Callable[[Tensor], Tensor], parts: Iterator[Tensor]) -> Tensor:
        with measuring(self), torch.autocast(self.device.type, enabled=False):
            done = [normalize(run(part).float(), dim=-1).cpu() for part in parts]
        return torch.cat(done) if done else torch.empty(0, self.embed_dim)

    def _decoded(self, items: list[Any], batch_size: int) -> Iterator[Tensor]:
        for start in range(0, len(items), batch_size):
            chosen = enumerate(items[start : start + batch_size], start)
            yield torch.stack([self._decode(number, item) for number, item in chosen])

    def _decode(self, number: int, item: Any) -> Tensor:
        """Pixels uint8 (3, S, S) of the image at place `number`."""
        named = isinstance(item, str | os.PathLike)
        if not named and not isinstance(item, bytes) and not hasattr(item, "convert"):
            raise DataError(f"image {number} is a {type(item).__name__}; an image is a path, bytes or a PIL image")
        try:
            return self.preprocess.image(Path(item) if named else item)
        except (DataError, OSError) as error:
            reason = str(error) if isinstance(error, DataError) else error.strerror or str(error)
            unnamed = named and os.fspath(item) not in reason
            raise DataError(f"image {number}{f' ({os.fspath(item)})' if unnamed else ''}: {reason}") from error

    def _checked(self, images_BCHW: Tensor) -> Tensor:
        size = self.preprocess.size_px
        fits = images_BCHW.ndim == 4 and tuple(images_BCHW.shape[1:]) == (3, size, size)
        if not fits or not (images_BCHW.is_floating_point() or images_BCHW.dtype == torch.uint8):
            raise DataError(
                f"images are {images_BCHW.dtype} {tuple(images_BCHW.shape)}; this model takes (N, 3, {size}, {size}) "
                "of uint8 or normalised floats: give paths or PIL images to have them resized"
            )
        return images_BCHW


@contextlib.contextmanager
def measuring(clip: Clip) -> Iterator[None]:
    """Eval mode, no gradient, the device to this thread; afterwards each module has the mode that it had.

    `model.train()` at the end would wake BatchNorms that training keeps frozen.
    """
    training = [module for module in clip.model.modules() if module.training]
    with clip.device.lock, torch.no_grad():
        if training:  # a server asks for every batch, and its model never trains
            clip.model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def copied(clip: Clip) -> Clip:
    """A model of its own with the same weights: whatever is done to it, the first one stays as it is."""
    return replace(clip, model=copy.deepcopy(clip.model), config=copy.deepcopy(clip.config))


def place(
    model: nn.Module,
    preprocess: Preprocess,
    config: dict[str, Any],
    base: Base,
    *,
    source: str,
    device: Device,
    domain: Mapping[str, Any] | None = None,
) -> Clip:
    """Put a model that was built on the CPU onto its device: float32, contiguous, in eval mode, BatchNorm frozen.

    `nn.MultiheadAttention`'s fast path is switched off for the process: in eval mode without gradient it rounds
    otherwise than in training, and it goes around attention that is computed in slices.
    """
    torch.backends.mha.set_fastpath_enabled(False)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
        tensor.data = tensor.data.contiguous()
    with device.lock:
        model.to(device.handle)
    towers.freeze_batch_norm(model)
    clip = Clip(model.eval(), preprocess, config, device, source, base, dict(domain) if domain else None)
    with device.lock:
        clip.trims_text = towers.sees_no_padding(clip)
    return clip


def clip_json(clip: Clip) -> dict[str, Any]:
    """Everything but the weights that is needed to build the model again, the tokenizer's files included.

    The tokenizer's and the text tower's files go in as text, so that a checkpoint needs no other folder and no network.
    """
    return {
        "format": FORMAT,
        "source": clip.source,
        "base": asdict(clip.base),
        "domain": clip.domain,
        "config": clip.config,
        "preprocess": clip.preprocess.to_json(),
        "files": build.text_files(clip.model, clip.preprocess.tokenizer),
    }


def check_format(stored: Mapping[str, Any], where: str) -> None:
    """Raises ModelError where a newer honeclip wrote what `stored` is."""
    if stored.get("format") != FORMAT:
        raise ModelError(
            f"{where} has format {stored.get('format')}, and this honeclip reads format {FORMAT}: use the version that "
            "wrote it"
        )
