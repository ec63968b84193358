"""The operations that a CLIP's training consists of, one by one, in the shapes of a ViT-B/32, for `bench device`.

Their shapes do not follow the model, so that the tables of two machines have the same rows. Inputs are drawn in float32 on
the CPU from a fixed seed; the same numbers go everywhere, in float64 too. In half precision activations are rounded to it
before the clock runs and weights stay float32, as the towers have them under autocast. What training computes in float32 in
any precision (pixels, loss, optimizer, resizing) is computed in float32 here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everyone reads
from torch import Tensor, nn

from honeclip.losses.infonce import infonce
from honeclip.losses.targets import Targets
from honeclip.model.slices import attention
from honeclip.preprocess.preprocess import normalise

TOKENS, WIDTH, HEADS, SIDE, PATCH, SEED = 50, 768, 12, 224, 32, 0
LENGTH, TEXT_WIDTH, TEXT_HEADS, VOCABULARY, EMBED_DIM = 77, 512, 8, 49408, 512
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SLICE = 16
"""Queries of a slice of attention."""

PAIRS = 32
"""Pairs in a loss for each image of the batch: a loss sees many more rows than a tower at once."""

LOG_SCALE = 2.66
"""The logarithm of 1 / 0.07, where CLIP starts (Radford et al. 2021)."""


@dataclass(frozen=True)
class Given:
    """An input of an operation.

    Attributes:
        tensor: float32, int64 or uint8, on the CPU.
        learns: whether its gradient is computed.
        halves: whether it is in half precision where the towers are: an activation.
    """

    tensor: Tensor
    learns: bool = True
    halves: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: in words.
        shape: of its inputs, in words.
        draw: its inputs for a batch of images, from a generator.
        compute: from those tensors to its result, where the tensors are.
        full: computed in float32 in any precision.
    """

    name: str
    shape: str
    draw: Callable[[torch.Generator], Sequence[Given]]
    compute: Callable[..., Tensor]
    full: bool = False


def operations(images: int) -> list[Operation]:
    """All of them for a batch of `images`, in the order in which a step meets them."""
    rows, pairs = images * TOKENS, images * PAIRS
    grid = SIDE // PATCH

    def normal(*shape: int, at: float = 1.0) -> Callable[[torch.Generator], Tensor]:
        return lambda generator: at * torch.randn(shape, generator=generator)

    def integers(below: int, *shape: int, dtype: torch.dtype = torch.int64) -> Callable[[torch.Generator], Tensor]:
        return lambda generator: torch.randint(below, shape, generator=generator, dtype=dtype)

    def heads(count: int, tokens: int, width: int) -> list[tuple[str, Callable[[torch.Generator], Tensor]]]:
        return [("activation", normal(images, count, tokens, width // count))] * 3

    def given(*kinds: tuple[str, Callable[[torch.Generator], Tensor]]) -> Callable[[torch.Generator], list[Given]]:
        return lambda generator: [
            Given(draw(generator), learns=kind in ("activation", "weight"), halves=kind == "activation")
            for kind, draw in kinds
        ]

    picture, text = heads(HEADS, TOKENS, WIDTH), heads(TEXT_HEADS, LENGTH, TEXT_WIDTH)
    return [
        Operation(
            "pixels",
            f"uint8 {images} x 3 x {SIDE} x {SIDE}",
            given(
                ("fixed", integers(256, images, 3, SIDE, SIDE, dtype=torch.uint8)), ("fixed", lambda _: torch.zeros(()))
            ),
            lambda pixels, like: normalise(pixels, MEAN, STD, like.dtype),
            full=True,
        ),
        Operation(
            "resize, bicubic",
            f"position table of {WIDTH} x {grid} x {grid} to {2 * grid} x {2 * grid}",
            given(("fixed", normal(1, WIDTH, grid, grid))),
            lambda table: F.interpolate(table, scale_factor=2, mode="bicubic", antialias=True),
            full=True,
        ),
        Operation(
            "patch embedding",
            f"{images} x 3 x {SIDE} x {SIDE}, {WIDTH} filters of {PATCH} x {PATCH}",
            given(
                ("activation", normal(images, 3, SIDE, SIDE)), ("weight", normal(WIDTH, 3, PATCH, PATCH, at=PATCH**-1))
            ),
            lambda pixels, filters: F.conv2d(pixels, filters, stride=PATCH),
        ),
        Operation(
            "depthwise convolution",
            f"{images} x 96 x 56 x 56, 3 x 3",
            given(("activation", normal(images, 96, 56, 56)), ("weight", normal(96, 1, 3, 3, at=1 / 3))),
            lambda pixels, filters: F.conv2d(pixels, filters, padding=1, groups=96),
        ),
        Operation(
            "token embedding",
            f"{images} x {LENGTH} of {VOCABULARY} x {TEXT_WIDTH}",
            given(("fixed", integers(VOCABULARY, images, LENGTH)), ("weight", normal(VOCABULARY, TEXT_WIDTH, at=0.02))),
            F.embedding,
        ),
        Operation(
            "layer norm",
            f"{rows} x {WIDTH}",
            given(("activation", normal(rows, WIDTH)), ("weight", normal(WIDTH)), ("weight", normal(WIDTH))),
            lambda x, weight, bias: F.layer_norm(x, (WIDTH,), weight, bias).to(x.dtype),  # as open_clip's LayerNorm
        ),
        Operation(
            "linear",
            f"{rows} x {WIDTH} to {4 * WIDTH}",
            given(
                ("activation", normal(rows, WIDTH)),
                ("weight", normal(4 * WIDTH, WIDTH, at=WIDTH**-0.5)),
                ("weight", normal(4 * WIDTH)),
            ),
            F.linear,
        ),
        Operation("gelu", f"{rows} x {4 * WIDTH}", given(("activation", normal(rows, 4 * WIDTH))), F.gelu),
        Operation(
            "softmax",
            f"{images} x {HEADS} x {TOKENS} x {TOKENS}",
            given(("activation", normal(images, HEADS, TOKENS, TOKENS))),
            lambda scores: scores.softmax(-1),
        ),
        Operation(
            "attention core",
            f"{images} x {HEADS} x {TOKENS} x {WIDTH // HEADS}",
            given(*picture),
            F.scaled_dot_product_attention,
        ),
        Operation(
            "attention core, in slices",
            f"the same, {SLICE} queries at once",
            given(*picture),
            lambda q, k, v: attention(q, k, v, queries=SLICE),
        ),
        Operation(
            "attention core, causal",
            f"{images} x {TEXT_HEADS} x {LENGTH} x {TEXT_WIDTH // TEXT_HEADS}",
            given(*text),
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, causal_mask(q)),
        ),
        Operation(
            "unit length",
            f"{pairs} x {EMBED_DIM}",
            given(("weight", normal(pairs, EMBED_DIM))),
            lambda x: F.normalize(x, dim=-1),
            full=True,
        ),
        Operation(
            "cross entropy",
            f"logits {pairs} x {pairs}",
            given(("weight", normal(pairs, pairs, at=10.0))),
            lambda logits: F.cross_entropy(logits, torch.arange(len(logits), device=logits.device)),
            full=True,
        ),
        Operation(
            "InfoNCE in tiles",
            f"{pairs} pairs of {EMBED_DIM}",
            given(
                ("weight", normal(pairs, EMBED_DIM)),
                ("weight", normal(pairs, EMBED_DIM)),
                ("weight", lambda _: torch.tensor(LOG_SCALE)),
            ),
            lambda image, text, scale: infonce(image, text, scale, Targets()),
            full=True,
        ),
        Operation(
            "gradient norm",
            f"{4 * WIDTH} x {WIDTH}",
            given(("fixed", normal(4 * WIDTH, WIDTH, at=0.01))),
            torch.linalg.vector_norm,
            full=True,
        ),
        Operation(
            "AdamW",
            f"{4 * WIDTH} x {WIDTH}, 2 updates",
            given(
                ("fixed", normal(4 * WIDTH, WIDTH, at=WIDTH**-0.5)),
                ("fixed", normal(4 * WIDTH, WIDTH, at=0.01)),
                ("fixed", normal(4 * WIDTH, WIDTH, at=0.01)),
            ),
            updated,
            full=True,
        ),
    ]


def causal_mask(q: Tensor) -> Tensor:
    """open_clip's mask (L, L): minus infinity above the diagonal, in the precision of q (docs/mps.md, rule 14)."""
    length = q.shape[-2]
    return torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1)


def updated(weight: Tensor, *gradients: Tensor) -> Tensor:
    """How far fused AdamW has moved a weight after an update along each gradient, as a multiple of the learning rate."""
    rate = 2.0**-10
    learned = nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([learned], lr=rate, fused=True)
    for gradient in gradients:
        learned.grad = gradient
        optimizer.step()
    return (learned.detach() - weight) / rate
