"""`bench inference`: what a model can do at most on this machine: the yardstick of `bench serving`.

    images_per_second     the best of `images`: pixels to unit embeddings, nothing decoded
    texts_per_second      the best of `texts`: tokens to unit embeddings, texts of about one length in a batch
    image_batch           the batch size at which that was
    text_batch
    images                batch size -> images per second
    texts                 batch size -> texts per second
    image_seconds         one image alone
    text_seconds          one text alone, the median over texts
    decode_seconds        a JPEG of 640 x 480 to the model's pixels, on one thread
    tokenise_seconds      a text to tokens
    threads               of torch
    packed                whether linear layers had sorted weights, as in a server (model/packed.py)

Every figure is the median of rounds in which all batch sizes take turns, after one that does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.bench import material
from honeclip.errors import BadInput
from honeclip.model import towers
from honeclip.model.clip import Clip, measuring
from honeclip.model.load import load
from honeclip.model.packed import can_pack, packed
from honeclip.preprocess.preprocess import normalise

BATCHES, ROUNDS, ITEMS = (1, 2, 4, 8, 16, 32), 5, 32


@dataclass(frozen=True)
class Bound:
    """Items per second of one modality by batch size, the rounds' median, and the time of one alone."""

    per_second: Mapping[int, float]

    @property
    def best(self) -> tuple[int, float]:
        """The batch size of the most items per second, and those."""
        return max(self.per_second.items(), key=lambda one: one[1])


def run(
    model: str,
    data: str | None = None,
    batches: Sequence[int] = BATCHES,
    *,
    precision: str = "fp32",
    device: str = "auto",
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Measures a model; see the top of this file for the figures.

    Args:
        model: any model source.
        data: a manifest whose pictures and captions are taken; None makes some.
        batches: sizes.
        precision: of the autocast around the towers.
        device: where it computes.
        rounds: see there.

    Raises:
        BadInput: a number that cannot be, or data without pictures or captions.
    """
    if rounds < 1 or not batches or min(batches) < 1:
        raise BadInput("--rounds and every number of --batches: they are at least 1")
    clip = load(model, device=device)
    files, texts = material.jpegs(data, ITEMS), material.captions(data, ITEMS)
    images = image_bound(clip, files, batches, precision=precision, rounds=rounds)
    figures: dict[str, Any] = {
        "images_per_second": images.best[1],
        "image_batch": images.best[0],
        "images": images.per_second,
        "decode_seconds": timed(lambda: [clip.preprocess.image(file) for file in files], rounds) / len(files),
    }
    if 1 in batches:
        figures["image_seconds"] = 1 / images.per_second[1]
    if clip.preprocess.tokenizer is not None:
        found = text_bound(clip, texts, batches, precision=precision, rounds=rounds)
        figures |= {"texts_per_second": found.best[1], "text_batch": found.best[0], "texts": found.per_second}
        figures["tokenise_seconds"] = timed(lambda: [clip.preprocess.texts([text]) for text in texts], rounds) / len(
            texts
        )
        if 1 in batches:
            figures["text_seconds"] = text_alone(clip, texts, precision=precision, rounds=rounds)
    return {**figures, "threads": torch.get_num_threads(), "packed": can_pack(clip, precision)}


def image_bound(
    clip: Clip, files: Sequence[bytes], batches: Sequence[int], *, precision: str = "fp32", rounds: int = ROUNDS
) -> Bound:
    """Images per second through the image tower, from uint8 pixels to unit embeddings on the CPU."""
    pixels = torch.stack([clip.preprocess.image(file) for file in files])
    how, tower = clip.preprocess, towers.image_tower(clip)

    def forward(rows: Tensor) -> Tensor:
        return tower(normalise(clip.device.copy(rows), how.mean, how.std, clip.dtype))

    inputs = {size: [pixels.repeat(-(-size // len(pixels)), 1, 1, 1)[:size]] for size in batches}
    return _bound(clip, forward, inputs, precision, rounds)


def text_bound(
    clip: Clip, texts: Sequence[str], batches: Sequence[int], *, precision: str = "fp32", rounds: int = ROUNDS
) -> Bound:
    """Texts per second through the text tower, from tokens to unit embeddings on the CPU: all texts, those of about one
    length together, as a server could at best.
    """
    tower = towers.text_tower(clip)

    def forward(rows: Tensor) -> Tensor:
        return tower(clip.device.copy(rows))

    rows = _by_length(clip, texts)
    inputs = {}
    for size in batches:
        enough = rows.repeat_interleave(-(-size // len(rows)), 0) if size > len(rows) else rows
        inputs[size] = [towers.trim(tower, one) for one in torch.split(enough, size)]
    return _bound(clip, forward, inputs, precision, rounds)


def text_alone(clip: Clip, texts: Sequence[str], *, precision: str = "fp32", rounds: int = ROUNDS) -> float:
    """Seconds of one text through the text tower: the median over texts, which are of different lengths."""
    tower = towers.text_tower(clip)
    rows = [towers.trim(tower, one) for one in torch.split(_by_length(clip, texts), 1)]
    with measuring(clip), clip.device.autocast(precision), packed(clip, precision):
        return median(
            timed(lambda one=one: normalize(tower(clip.device.copy(one)).float(), dim=-1).cpu(), rounds)  # type: ignore[misc]
            for one in rows
        )


def _by_length(clip: Clip, texts: Sequence[str]) -> Tensor:
    tokens_NL = clip.preprocess.texts(texts)
    lengths = towers.text_tower(clip).lengths
    return tokens_NL if lengths is None else tokens_NL[lengths(tokens_NL).argsort()]


def timed(work: Callable[[], object], rounds: int) -> float:
    """Seconds of `work`: the median of rounds, after one that does not count."""
    work()
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


def _bound(
    clip: Clip, forward: Callable[[Tensor], Tensor], inputs: Mapping[int, Sequence[Tensor]], precision: str, rounds: int
) -> Bound:
    seconds: dict[int, list[float]] = {size: [] for size in inputs}
    with measuring(clip), clip.device.autocast(precision), packed(clip, precision):
        for number in range(1 + rounds):
            for size, parts in inputs.items():
                began = time.perf_counter()
                for rows in parts:
                    normalize(forward(rows).float(), dim=-1).cpu()  # on an accelerator the copy waits until it is done
                if number:
                    seconds[size].append(time.perf_counter() - began)
    return Bound({size: sum(map(len, inputs[size])) / median(some) for size, some in seconds.items()})
