"""`bench text`: a text tower over real captions, trimmed and grouped by length as training does, against all padded.

    seconds_trimmed       forward and backward over all captions in length order, each micro-batch cut to its longest
    seconds_padded        the same captions in the order they are drawn, all of the context length, by open_clip's encode_text
    cpu_trimmed           CPU seconds of all threads; with OMP_NUM_THREADS=1 they do not depend on other work beside
    cpu_padded
    ratio                 seconds_padded / seconds_trimmed
    cpu_ratio             cpu_padded / cpu_trimmed
    tokens_trimmed        tokens that went through the tower
    tokens_padded
    largest_difference    of the two ways' unit embeddings of a caption

Seconds are the fastest of several rounds, in which the two ways take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.data import loader, pairs
from honeclip.data.order import by_length, order
from honeclip.device import detect
from honeclip.device.device import Device
from honeclip.errors import BadInput
from honeclip.model.load import load
from honeclip.model.towers import text_tower, trim

CAPTIONS, MICRO_BATCH, ROUNDS = 256, 8, 3

Tower = Callable[[Tensor], Tensor]


def run(
    model: str,
    data: str,
    captions: int = CAPTIONS,
    micro_batch: int = MICRO_BATCH,
    *,
    device: str = "auto",
    rounds: int = ROUNDS,
) -> dict[str, float | int]:
    """Measures the text tower in float32; see the top of this file for the figures.

    Args:
        model: any model source whose text tower cannot see padding.
        data: a manifest; captions are drawn from its train split.
        captions: how many, one effective batch.
        micro_batch: captions through the tower at once.
        device: where it computes.
        rounds: of which the fastest counts, after one micro-batch that does not.

    Raises:
        BadInput: a number that cannot be, a tower that sees padding, or data with fewer captions.
    """
    for name, value in (("captions", captions), ("micro-batch", micro_batch), ("rounds", rounds)):
        if value < 1:
            raise BadInput(f"--{name} {value}: it is at least 1")
    where = detect.choose(device)
    clip = load(model, where)
    tokenizer = clip.preprocess.tokenizer
    if not clip.trims_text or tokenizer is None:
        raise BadInput(
            f"the text tower of {model} sees padding, so its captions are never trimmed: there is nothing to compare"
        )
    rows = pairs.load(data).split("train")
    lengths = np.asarray(tokenizer.count(list(rows.captions)), dtype=np.int64)
    drawn = next(order(len(rows), captions, 0))
    grouped = next(by_length(iter([drawn]), lengths))
    padded_BL, ordered_BL = (
        _tokens(next(loader.batches(rows, clip.preprocess, [one], with_images=False)).tokens)
        for one in (drawn, grouped)
    )
    tower = text_tower(clip)
    cut = [trim(tower, piece) for piece in ordered_BL.split(micro_batch)]
    whole = list(padded_BL.split(micro_batch))
    ways: dict[str, tuple[Tower, list[Tensor]]] = {
        "trimmed": (tower, cut),
        "padded": (clip.model.encode_text, whole),
    }
    clip.model.requires_grad_(True)
    with where.lock:
        seconds, cpu = _fastest(ways, where, rounds, clip.model)
        trimmed_BD, padded_BD = (_embeddings(*way, where) for way in ways.values())
    place = {int(row): number for number, row in enumerate(grouped.indices)}
    back = torch.tensor([place[int(row)] for row in drawn.indices])
    return {
        **{f"seconds_{name}": value for name, value in seconds.items()},
        **{f"cpu_{name}": value for name, value in cpu.items()},
        "ratio": seconds["padded"] / seconds["trimmed"],
        "cpu_ratio": cpu["padded"] / cpu["trimmed"],
        "tokens_trimmed": sum(piece.numel() for piece in cut),
        "tokens_padded": sum(piece.numel() for piece in whole),
        "largest_difference": float((trimmed_BD[back] - padded_BD).abs().max()),
    }


def _fastest(
    ways: dict[str, tuple[Tower, list[Tensor]]], device: Device, rounds: int, model: torch.nn.Module
) -> tuple[dict[str, float], dict[str, float]]:
    """Wall and CPU seconds of each way's forward and backward over all its micro-batches."""
    seconds = dict.fromkeys(ways, float("inf"))
    cpu = dict(seconds)
    for number in range(1 + rounds):
        for name, (tower, pieces) in ways.items():
            with device.timer() as elapsed:
                started = time.process_time()
                for piece in pieces if number else pieces[:1]:
                    # not `sum`: the gradient of each entry differs, as a loss's does
                    tower(device.copy(piece)).square().sum().backward()
                spent = time.process_time() - started
            model.zero_grad(set_to_none=True)
            if number:
                seconds[name] = min(seconds[name], elapsed.seconds)
                cpu[name] = min(cpu[name], spent)
    return seconds, cpu


@torch.no_grad()
def _embeddings(tower: Tower, pieces: list[Tensor], device: Device) -> Tensor:
    return torch.cat([normalize(tower(device.copy(piece)), dim=-1).cpu() for piece in pieces])


def _tokens(tokens_BL: Tensor | None) -> Tensor:
    assert tokens_BL is not None
    return tokens_BL
