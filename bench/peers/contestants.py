"""The contestants: whole training steps of one model on one batch, each by the code of the project that it is named after.

Each function takes a `Work` and gives a call that does one optimizer step: forward, loss, backward, clipping, update. All
have the same model, rows, precision and AdamW; what they do not share is what is compared.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from honeclip.data.loader import Batch
from honeclip.model.clip import Clip
from honeclip.model.towers import text_tower
from honeclip.preprocess.preprocess import normalise
from honeclip.stepping.plan import Plan
from honeclip.training import trial
from honeclip.training.trial import Trial

Step = Callable[[], None]

SYMMETRIC = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
"""Options of sentence-transformers' losses with which they are CLIP's loss: both ways, each with a softmax of its own."""

IMPORTS = {
    "honeclip": (),
    "open_clip": ("open_clip_train.train",),
    "cached": ("sentence_transformers.sentence_transformer.losses",),
    "cached_padded": ("sentence_transformers.sentence_transformer.losses",),
    "plain": ("sentence_transformers.sentence_transformer.losses",),
}
"""What a contestant imports beside honeclip; imported before memory is counted."""


@dataclass(frozen=True)
class Work:
    """What every contestant gets.

    Attributes:
        trial: model, optimizer and data.
        batch: the effective batch in pairs.
        micro_batch: pairs through a tower at once.
    """

    trial: Trial
    batch: int
    micro_batch: int

    @property
    def clip(self) -> Clip:
        """The model."""
        return self.trial.learner.clip

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW with honeclip's groups, the same for all."""
        return self.trial.learner.optimizer

    @property
    def grad_clip(self) -> float:
        """Largest global norm of the gradients; 0 for none."""
        return self.trial.learner.config.train.grad_clip


def bring_in(name: str) -> None:
    """Imports what a contestant needs, so that it does not count as memory of its steps."""
    for module in IMPORTS[name]:
        importlib.import_module(module)


def honeclip(work: Work, plan: Plan) -> Step:
    """honeclip's exact step: rows by the length of their captions, pixels as uint8, the plan's graphs kept."""
    one = work.trial.batch(work.batch)
    return lambda: _ignore(trial.step(work.trial, one, plan))


def open_clip(work: Work) -> Step:
    """open_clip's `--accum-freq`: its own `train_one_epoch` over an epoch of one step, with its own `ClipLoss`.

    Captions have the model's whole context length. The gradient of the logit scale is accum_freq times too large, since
    the whole loss is computed and followed once a micro-batch; it is left so.
    """
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    model = work.clip.model
    model.output_dict = True  # as its own training builds it
    images_BCHW, tokens_BL = inputs(work)
    pieces = list(zip(images_BCHW.split(work.micro_batch), tokens_BL.split(work.micro_batch), strict=True))
    data = {"train": SimpleNamespace(set_epoch=_ignore, dataloader=_Epoch(pieces, work.batch))}
    args = argparse.Namespace(
        accum_freq=len(pieces),
        batch_size=work.micro_batch,
        device=str(work.clip.device.handle),
        distill=False,
        grad_clip_norm=work.grad_clip or None,
        horovod=False,
        log_every_n_steps=1,
        precision="fp32",
        rank=0,
        skip_scheduler=True,
        wandb=False,
        world_size=1,
    )
    loss = ClipLoss()

    def step() -> None:
        train_one_epoch(model, data, loss, 0, work.optimizer, None, None, None, args)

    return step


def cached(work: Work) -> Step:
    """sentence-transformers' CachedMultipleNegativesRankingLoss: GradCache; its scale does not learn.

    Each mini-batch of captions is cut to its own longest by the library itself.
    """
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model, scale = _sentence_transformer(work.clip), _scale(work.clip)
    loss = CachedMultipleNegativesRankingLoss(model, scale, mini_batch_size=work.micro_batch, **SYMMETRIC)
    return _of_loss(work, loss)


def cached_padded(work: Work) -> Step:
    """`cached` as it is for features without an attention mask: every mini-batch has the width of the whole batch."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model, scale = _sentence_transformer(work.clip), _scale(work.clip)
    loss = CachedMultipleNegativesRankingLoss(model, scale, mini_batch_size=work.micro_batch, **SYMMETRIC)
    return _of_loss(work, loss, masked=False)


def plain(work: Work) -> Step:
    """sentence-transformers' MultipleNegativesRankingLoss: the whole batch at once, cut to its longest caption."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return _of_loss(
        work, MultipleNegativesRankingLoss(_sentence_transformer(work.clip), _scale(work.clip), **SYMMETRIC)
    )


PEERS: dict[str, Callable[[Work], Step]] = {
    "open_clip": open_clip,
    "cached": cached,
    "cached_padded": cached_padded,
    "plain": plain,
}


def inputs(work: Work) -> tuple[Tensor, Tensor]:
    """Images as floats (B, 3, S, S), normalised before the clock runs, and tokens (B, L) of the whole context length,
    rows as they are drawn."""
    one = as_drawn(work)
    assert one.images is not None
    assert one.tokens is not None
    preprocess = work.clip.preprocess
    device, dtype = work.clip.device, work.trial.learner.image_feed.dtype
    images_BCHW = normalise(device.copy(one.images), preprocess.mean, preprocess.std, dtype)
    return images_BCHW, device.copy(one.tokens)


def as_drawn(work: Work) -> Batch:
    """The rows that honeclip has, in the order in which they are drawn."""
    return replace(work.trial, learner=replace(work.trial.learner, lengths=None)).batch(work.batch)


class _Epoch:
    """One optimizer step as a data loader, as far as `train_one_epoch` asks."""

    def __init__(self, pieces: list[tuple[Tensor, Tensor]], samples: int) -> None:
        self._pieces = pieces
        self.num_batches = len(pieces)
        self.num_samples = samples

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self._pieces)


class _Towers(nn.Module):
    """An open_clip model as a module of sentence-transformers: one dict of features in, the embeddings added to it."""

    def __init__(self, clip: Clip) -> None:
        super().__init__()
        self.clip_model = clip.model
        self._text = text_tower(clip)  # open_clip's own encode_text takes no fewer tokens than the context length

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """pixel_values (m, 3, S, S), or input_ids (m, L'), to sentence_embedding (m, D)."""
        if "pixel_values" in features:
            embeddings = self.clip_model.encode_image(features["pixel_values"])
        else:
            embeddings = self._text(features["input_ids"])
        features["sentence_embedding"] = embeddings
        return features


def _sentence_transformer(clip: Clip) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(modules=[_Towers(clip)], device=str(clip.device.handle))
    return model.train()


def _scale(clip: Clip) -> float:
    return float(clip.model.logit_scale.detach().exp())


def _of_loss(work: Work, loss: nn.Module, *, masked: bool = True) -> Step:
    """A step as Hugging Face's trainer does it: loss, backward, clipping, update."""
    images_BCHW, tokens_BL = inputs(work)
    lengths = text_tower(work.clip).lengths
    long_B = lengths(tokens_BL) if lengths else torch.full((len(tokens_BL),), tokens_BL.shape[1])
    tokens_BL = tokens_BL[:, : int(long_B.max())]
    mask_BL = (torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < long_B[:, None]).long()
    learning = [one for group in work.optimizer.param_groups for one in group["params"]]

    mask = {"attention_mask": mask_BL} if masked else {}

    def step() -> None:
        loss([{"pixel_values": images_BCHW}, {"input_ids": tokens_BL, **mask}], None).backward()
        if work.grad_clip:
            nn.utils.clip_grad_norm_(learning, work.grad_clip)
        work.optimizer.step()
        work.optimizer.zero_grad()

    return step


def _ignore(*_: object) -> None:
    return None
