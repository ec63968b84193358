"""Does this device compute what the CPU computes? One small batch there, in its precision, against float32 here.

The answer of `doctor`: wrong results without an error are the usual way in which a young backend fails.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from honeclip.device import detect
from honeclip.device.precision import Precision, choose
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets
from honeclip.model import build, towers
from honeclip.model.clip import Base, Clip, measuring, place
from honeclip.preprocess.preprocess import Preprocess, normalise

if TYPE_CHECKING:
    from honeclip.device.device import Device

PAIRS = 8
SMALLEST_COSINE = 0.999
LARGEST_DIFFERENCE = 0.01
"""Of loss and gradient norm, relative to the CPU's."""

HALF_SCALE = 1024.0
"""What the loss is multiplied with before the gradient, and the gradient divided by: fp16 loses small ones."""


TINY: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 192, "head_width": 64, "layers": 3},
    "text_cfg": {"context_length": 16, "vocab_size": 512, "width": 192, "heads": 3, "layers": 3},
}
"""What `device_check` computes: every kind of layer of a CLIP in half a second."""


@dataclass(frozen=True)
class _Result:
    image: Tensor
    text: Tensor
    loss: float
    gradient_norm: float


def device_check(device: Device, *, precision: str = "auto") -> dict[str, float | bool | None]:
    """`self_check` of a tiny model with random weights: whether the device computes rightly, whatever the model.

    Args:
        device: what `detect.choose` gave.
        precision: as in `device.precision.choose`.
    """
    preprocess = Preprocess.from_open_clip({}, TINY["vision_cfg"]["image_size"], None)
    preprocess = preprocess.with_context_length(TINY["text_cfg"]["context_length"])
    base = Base("tiny model with random weights", "none", starts_unaligned=True)
    clip = place(build.build(TINY), preprocess, TINY, base, source="self-check", device=device)
    return self_check(clip, precision=precision)


def checked(device: Device, wanted: Precision) -> tuple[Precision, dict[str, float | bool | None]]:
    """The precision that the device computes rightly in, and the check of it: float32 where the wanted one differs.

    A check that is not passed even in float32 is returned as it is.
    """
    check = device_check(device, precision=wanted.name)
    if check["passed"] or wanted.name == "fp32":
        return wanted, check
    lower = Precision("fp32", f"stepped down from {wanted.name}, which differs from the CPU here: {check}")
    return lower, device_check(device, precision=lower.name)


def self_check(clip: Clip, reference: Clip | None = None, *, precision: str = "auto") -> dict[str, float | bool | None]:
    """Compare a model on its device with the same model on the CPU in float32.

    Args:
        clip: the model to check. Its parameters and their `.grad` stay as they are.
        reference: the same model on the CPU; None copies `clip`.
        precision: as in `device.precision.choose`.

    Returns:
        image_cosine, text_cosine: the smallest cosine of the pairs of embeddings; loss_difference and
        gradient_difference: relative to the CPU's; passed. A figure that is not finite is None, and then it is not
        passed.

    Raises:
        ConfigError: the device does not have that precision.
    """
    images_BCHW, tokens_BL = _batch(clip)
    here_BCHW, here_BL = clip.device.copy(images_BCHW), clip.device.copy(tokens_BL)
    tested = _compute(clip, here_BCHW, here_BL, choose(clip.device, precision).name)
    with _on_cpu(clip, reference) as plain:
        truth = _compute(plain, images_BCHW, tokens_BL, "fp32")
    image = _cosine(tested.image, truth.image)
    text = _cosine(tested.text, truth.text)
    loss = abs(tested.loss - truth.loss) / max(abs(truth.loss), 1e-6)
    gradient = abs(tested.gradient_norm - truth.gradient_norm) / max(truth.gradient_norm, 1e-12)
    # written so that NaN fails
    passed = min(image, text) > SMALLEST_COSINE and loss <= LARGEST_DIFFERENCE and gradient <= LARGEST_DIFFERENCE
    figures = {"image_cosine": image, "text_cosine": text, "loss_difference": loss, "gradient_difference": gradient}
    return {
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        "passed": passed and all(map(math.isfinite, figures.values())),
    }


def _batch(clip: Clip) -> tuple[Tensor, Tensor]:
    """Smooth random pictures, normalised (B, 3, S, S), and random captions (B, L): the same every time."""
    generator = torch.Generator().manual_seed(0)
    coarse_BCHW = 255 * torch.rand(PAIRS, 3, 8, 8, generator=generator)
    size = clip.preprocess.size_px
    smooth_BCHW = nn.functional.interpolate(coarse_BCHW, size=(size, size), mode="bilinear", align_corners=False)
    images_BCHW = normalise(smooth_BCHW, clip.preprocess.mean, clip.preprocess.std)
    return images_BCHW, towers.probes(clip.model, clip.preprocess.context_length, PAIRS)


def _compute(clip: Clip, images_BCHW: Tensor, tokens_BL: Tensor, precision: str) -> _Result:
    device = clip.device
    image, text = towers.image_tower(clip), towers.text_tower(clip)
    learning = [one for one in clip.model.parameters() if one.requires_grad]
    scale = HALF_SCALE if precision == "fp16" else 1.0
    with measuring(clip), torch.enable_grad():
        with device.autocast(precision):
            raw_image, raw_text = image(images_BCHW), text(tokens_BL)
        image_BD, text_BD = (normalize(raw.float(), dim=-1) for raw in (raw_image, raw_text))
        loss = infonce(image_BD, text_BD, clip.logit_scale, Targets())
        found = torch.autograd.grad(loss * scale, learning, allow_unused=True) if learning else ()
        norms = [torch.linalg.vector_norm(one.float()) for one in found if one is not None]
        norm = torch.linalg.vector_norm(torch.stack(norms)).item() / scale if norms else 0.0
        return _Result(image_BD.detach().cpu(), text_BD.detach().cpu(), loss.item(), norm)


@contextmanager
def _on_cpu(clip: Clip, reference: Clip | None) -> Iterator[Clip]:
    if reference is not None:
        yield reference
        return
    model = copy.deepcopy(clip.model).cpu().float()
    yield Clip(
        model, clip.preprocess, clip.config, detect.choose("cpu"), clip.source, clip.base, clip.domain, clip.trims_text
    )


def _cosine(a_BD: Tensor, b_BD: Tensor) -> float:
    return float((a_BD * b_BD).sum(dim=-1).min())
