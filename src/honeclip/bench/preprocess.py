"""`bench preprocess`: files to pixels on one thread, against Pillow alone, and where the time goes.

    images_per_second     from files to the pixels that a model takes, by `Preprocess.image`
    bare_per_second       the same files opened, made RGB, resized and cropped by Pillow with nothing else around it
    ratio                 images_per_second / bare_per_second, the median of rounds in which the two take turns
    cpu_ratio             the same of CPU seconds
    decode_share          of the time of an image: to judge its header and decode it to RGB
    resize_share          to resize and crop it
    tensor_share          to make a tensor of it
    largest_difference    in grey values, between the two and open_clip's own evaluation transform

Pictures are a data set's, or photographs of noise at several scales, 640 x 480, JPEG of quality 85.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import open_clip
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from honeclip.bench.material import drawn
from honeclip.data import manifest
from honeclip.errors import BadInput
from honeclip.preprocess import images
from honeclip.preprocess.preprocess import Preprocess

SIZE_PX, IMAGES, ROUNDS = 224, 64, 7

Source = bytes | Path


def run(
    data: str | None = None, count: int = IMAGES, size_px: int = SIZE_PX, *, rounds: int = ROUNDS
) -> dict[str, float]:
    """Measures on one thread; see the top of this file for the figures.

    Args:
        data: a manifest whose pictures are taken; None makes some.
        count: pictures.
        size_px: side of the square.
        rounds: of which the median counts, after one that does not.

    Raises:
        BadInput: a number that cannot be, or data without pictures that are files.
    """
    for name, value in (("images", count), ("size", size_px), ("rounds", rounds)):
        if value < 1:
            raise BadInput(f"--{name} {value}: it is at least 1")
    sources: list[Source] = [drawn(seed) for seed in range(count)] if data is None else _files(data, count)
    how = Preprocess(size_px)

    def ours(source: Source) -> torch.Tensor:
        return how.image(source)

    def bare(source: Source) -> torch.Tensor:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            pixels: torch.Tensor = pil_to_tensor(_square(image.convert("RGB"), size_px))
            return pixels

    ratios, cpu, best = [], [], {"ours": float("inf"), "bare": float("inf")}
    for number in range(1 + rounds):
        timed = {"ours": _timed(ours, sources), "bare": _timed(bare, sources)}
        if number:
            ratios.append(timed["bare"][0] / timed["ours"][0])
            cpu.append(timed["bare"][1] / timed["ours"][1])
            best = {name: min(best[name], timed[name][0]) for name in best}
    return {
        "images_per_second": len(sources) / best["ours"],
        "bare_per_second": len(sources) / best["bare"],
        "ratio": median(ratios),
        "cpu_ratio": median(cpu),
        **_shares(how, sources),
        "largest_difference": max(_apart(how, source) for source in sources),
    }


def _timed(way: Callable[[Source], torch.Tensor], sources: Sequence[Source]) -> tuple[float, float]:
    """Wall and CPU seconds for all pictures."""
    wall, cpu = time.perf_counter(), time.process_time()
    for source in sources:
        way(source)
    return time.perf_counter() - wall, time.process_time() - cpu


def _shares(how: Preprocess, sources: Sequence[Source]) -> dict[str, float]:
    """Where the CPU time of an image goes."""
    spent = dict.fromkeys(("decode_share", "resize_share", "tensor_share"), 0.0)
    for source in sources:
        at = [time.process_time()]
        picture = images.decode(source)
        at.append(time.process_time())
        square = _square(picture, how.size_px)
        at.append(time.process_time())
        pil_to_tensor(square)
        at.append(time.process_time())
        for name, start, stop in zip(spent, at, at[1:], strict=False):
            spent[name] += stop - start
    total = sum(spent.values())
    return {name: value / total for name, value in spent.items()}


def _square(image: Image.Image, size_px: int) -> Image.Image:
    """Shorter side to the size, the middle kept: bicubic, by Pillow alone."""
    scale = size_px / min(image.size)
    width, height = (max(size_px, int(side * scale)) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size_px) / 2), round((height - size_px) / 2)
    return resized.crop((left, top, left + size_px, top + size_px))


def _apart(how: Preprocess, source: Source) -> float:
    """Grey values between ours and open_clip's evaluation transform."""
    config = open_clip.transform.PreprocessCfg(size=how.size_px)
    transform = open_clip.transform.image_transform_v2(config, is_train=False)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        theirs = transform(image)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (how.mean, how.std))
    return float(((theirs * std + mean) * 255 - how.image(source).float()).abs().max().round())


def _files(data: str, count: int) -> list[Source]:
    files = [row.image for row in manifest.read(data).rows if isinstance(row.image, Path)]
    if not files:
        raise BadInput(f"--data {data}: there are no pictures that are files")
    return list(files[:count])
