"""Ratios of two ways to compute the same, of this very run: what a change to honeclip may spoil without any test failing.

Each function gives one number a round. Time is CPU time of one thread, in rounds in which both ways take turns, so that other
work on the machine falls on both. Memory is counted allocation by allocation and is the same in every round. All are small:
what is looked for is a ratio that moves, not the ratio of a real model (docs/benchmarks.md has those).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from honeclip.bench import attention, loss, material, preprocess
from honeclip.bench.attention import Block
from honeclip.device.allocated import allocated
from honeclip.device.detect import choose
from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets
from honeclip.model import build, towers
from honeclip.model import folder as folders
from honeclip.model.clip import Base, Clip, measuring, place
from honeclip.model.packed import can_pack, packed
from honeclip.preprocess.preprocess import Preprocess
from honeclip.stepping.step import cached_step
from honeclip.training.feeds import ImageFeed, TextFeed

CONFIG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 4, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 4},
}
"""A ViT with 197 tokens and a text tower as wide as that of ViT-B/32, both of four layers."""

BATCH, MICRO_BATCH, PAIRS, DIM, IMAGES = 16, 4, 2048, 256, 8


@dataclass(frozen=True)
class Ratio:
    """One ratio: less is better.

    Attributes:
        words: what is divided by what.
        rounds: (how many) -> one number a round; an empty list where this machine has no such thing.
    """

    words: str
    rounds: Callable[[int], list[float]]


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def in_turns(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> list[float]:
    """CPU time of the first over that of the second, round by round, every second round in the other order."""
    ours()
    other()
    found = []
    for number in range(rounds):
        if number % 2 == 0:
            first, second = cpu_seconds(ours), cpu_seconds(other)
        else:
            second, first = cpu_seconds(other), cpu_seconds(ours)
        found.append(first / second)
    return found


@cache
def clip() -> Clip:
    """The model of all but the step."""
    return _made(CONFIG, build.tokenizer(CONFIG))


@cache
def small_vocabulary() -> Clip:
    """The model of the step: the gradient of fifty thousand tokens would be most of what it allocates."""
    return _made({**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": 512}}, None)


def _made(config: dict[str, Any], tokenizer: Any) -> Clip:
    torch.manual_seed(0)
    how = Preprocess.from_open_clip({}, config["vision_cfg"]["image_size"], tokenizer)
    how = how if tokenizer else how.with_context_length(config["text_cfg"]["context_length"])
    base = Base("small", "none", starts_unaligned=True)
    made = place(build.build(config), how, config, base, source="small", device=choose("cpu"))
    made.model.requires_grad_(True)
    return made


# --- the step -----------------------------------------------------------------------------------------------------


def step(keep: int, micro_batch: int) -> Callable[[], None]:
    """A forward and backward of the whole batch."""
    model = small_vocabulary()
    generator = torch.Generator().manual_seed(0)
    side = model.preprocess.size_px
    images = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8, generator=generator)
    tokens = towers.probes(model.model, model.preprocess.context_length, BATCH)
    feeds = (ImageFeed(model, None, torch.float32), TextFeed(model, None, torch.float32))

    def work() -> None:
        cached_step(
            feeds,
            (images, tokens),
            lambda image, text: infonce(image, text, model.logit_scale, Targets()),
            micro_batch=micro_batch,
            keep=keep,
        )
        model.model.zero_grad(set_to_none=True)

    return work


def step_seconds(rounds: int) -> list[float]:
    """A step that keeps no graphs over one that is not divided."""
    return in_turns(step(0, MICRO_BATCH), step(1, BATCH), rounds)


def step_memory(rounds: int) -> list[float]:
    """The same, of memory; both with the gradients of all weights."""
    cached, plain = (allocated(step(*how), choose("cpu"))[0] for how in ((0, MICRO_BATCH), (1, BATCH)))
    return [cached / plain] * rounds


# --- the loss -----------------------------------------------------------------------------------------------------


def _loss(plain: bool) -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(PAIRS, DIM, generator=generator).requires_grad_() for _ in range(2))
    scale = torch.tensor(loss.LOG_SCALE).requires_grad_()

    def work() -> tuple[Tensor, ...]:
        value = loss.plain(image, text, scale) if plain else infonce(image, text, scale, Targets())
        return torch.autograd.grad(value, (image, text, scale))

    return work


def loss_seconds(rounds: int) -> list[float]:
    """The loss in tiles over the loss as it is usually written."""
    return in_turns(_loss(False), _loss(True), rounds)


def loss_memory(rounds: int) -> list[float]:
    """The same, of memory, with more pairs."""
    tiled, plain = (
        loss.run(2 * PAIRS, DIM // 4, tile, device="cpu", rounds=1)["extra_memory_bytes"] for tile in (None, 0)
    )
    return [tiled / plain] * rounds


# --- attention ----------------------------------------------------------------------------------------------------


@cache
def _block() -> tuple[Block, int]:
    with tempfile.TemporaryDirectory() as name:
        folders.save(clip(), Path(name) / "model", "# random weights\n")
        block = attention.first_block(str(Path(name) / "model"), None, batch=8, device=choose("cpu"))
    return block, attention.chosen(block, choose("cpu"))


def attention_seconds(rounds: int) -> list[float]:
    """A block with attention in slices over one by the math path, which is what a device without a kernel trains with."""
    block, queries = _block()
    return in_turns(lambda: attention.once(block, queries), lambda: attention.once(block, 0), rounds)


def attention_memory(rounds: int) -> list[float]:
    """The same, of memory: of the attention alone."""
    block, queries = _block()
    sliced, plain = (attention.extra_bytes(block, one, choose("cpu")) for one in (queries, 0))
    return [sliced / plain] * rounds


# --- texts and pictures -------------------------------------------------------------------------------------------


def packed_text_seconds(rounds: int) -> list[float]:
    """One caption with sorted weights, as a server has them, over the same without."""
    model = clip()
    if not can_pack(model, "fp32"):
        return []
    tower = towers.text_tower(model)
    tokens = [towers.trim(tower, model.preprocess.texts([text])) for text in material.CAPTIONS]

    def plain() -> None:
        with measuring(model):
            for _ in range(3):
                for one in tokens:
                    tower(one)

    def sorted_once() -> None:
        with packed(model, "fp32"):
            plain()

    return in_turns(sorted_once, plain, rounds)


def trimmed_text_seconds(rounds: int) -> list[float]:
    """Captions by length and trimmed, as a step has them, over all of them padded, forward and backward."""
    model = clip()
    tower = towers.text_tower(model)
    tokens = model.preprocess.texts(material.captions(None, 2 * len(material.CAPTIONS)))
    assert tower.lengths is not None
    ordered = tokens[tower.lengths(tokens).argsort()]

    def work(pieces: list[Tensor]) -> Callable[[], None]:
        def once() -> None:
            for one in pieces:
                tower(one).square().sum().backward()
            model.model.zero_grad(set_to_none=True)

        return once

    trimmed = [towers.trim(tower, one) for one in ordered.split(MICRO_BATCH)]
    return in_turns(work(trimmed), work(list(tokens.split(MICRO_BATCH))), rounds)


def picture_seconds(rounds: int) -> list[float]:
    """A JPEG to pixels over the same by Pillow with nothing else around it."""
    return [1 / preprocess.run(None, IMAGES, rounds=1)["cpu_ratio"] for _ in range(rounds)]


RATIOS: dict[str, Ratio] = {
    "step_seconds": Ratio("a step that keeps nothing / an undivided step", step_seconds),
    "step_memory": Ratio("a step that keeps nothing / an undivided step", step_memory),
    "loss_seconds": Ratio("the loss in tiles / the plain loss", loss_seconds),
    "loss_memory": Ratio("the loss in tiles / the plain loss", loss_memory),
    "attention_seconds": Ratio("a block with sliced attention / with the math path", attention_seconds),
    "attention_memory": Ratio("sliced attention / the math path", attention_memory),
    "packed_text_seconds": Ratio("a caption with sorted weights / without", packed_text_seconds),
    "trimmed_text_seconds": Ratio("captions trimmed / padded", trimmed_text_seconds),
    "picture_seconds": Ratio("a picture by honeclip / by Pillow alone", picture_seconds),
}


def measured(names: list[str], rounds: int) -> dict[str, list[float]]:
    """Every round of the ratios of those names; those that this machine does not have are left out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {}
        for name in names:
            print(name, file=sys.stderr, flush=True)
            found[name] = RATIOS[name].rounds(rounds)
        return {name: some for name, some in found.items() if some}
    finally:
        torch.set_num_threads(threads)
