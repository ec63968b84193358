"""What a loss knows of the train split beside the batch: the labels of its rows, and how alike its captions are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from honeclip.config import Loss
from honeclip.data.loader import Batch
from honeclip.data.pairs import Pairs
from honeclip.domains import domain as domains
from honeclip.domains.domain import Domain
from honeclip.domains.similarity import metric
from honeclip.embedding import features
from honeclip.errors import ConfigError
from honeclip.losses.targets import Targets
from honeclip.model.clip import Clip
from honeclip.preprocess.hard_captions import hard_caption, swap_rules


@dataclass(frozen=True, eq=False)
class HardCaptions:
    """Of N rows: the caption with one word made wrong, and whether the data has that sentence.

    Attributes:
        texts: the wrong sentence, or the caption itself where no rule applies.
        caption_id_N: int64 (N,), of the sentence in the data; -1 where no row has it.
        made_N: bool (N,), whether a rule applied.
    """

    texts: tuple[str, ...]
    caption_id_N: Tensor
    made_N: Tensor


@dataclass(frozen=True, eq=False)
class Aims:
    """Of N rows of the train split, on the CPU.

    Attributes:
        label_NC: float32 0/1 (N, C), the labels of each row; None where the loss does not ask.
        vectors_NK: float32 (N, K), unit vectors whose dot product says how alike two captions are; None likewise.
        hard: each row's caption made wrong; None likewise.
    """

    label_NC: Tensor | None = None
    vectors_NK: Tensor | None = None
    hard: HardCaptions | None = None

    def targets(self, batch: Batch, loss: Loss, device: torch.device) -> Targets:
        """The positives of a batch, as the loss asks for them.

        Equal captions and equal images are positives under all targets but `pairs`: the identities come with the batch.
        """
        smoothing = loss.label_smoothing
        if loss.targets == "pairs":
            return Targets(smoothing=smoothing)
        rows = torch.from_numpy(batch.draw.indices)
        labels = None if self.label_NC is None else self.label_NC[rows].to(device)
        vectors = None if self.vectors_NK is None else self.vectors_NK[rows].to(device)
        return Targets(
            caption_id=batch.caption_id.to(device),
            image_id=batch.image_id.to(device),
            label_BC=labels,
            vectors_BK=vectors,
            blend=0.0 if vectors is None else loss.blend,
            smoothing=smoothing,
        )


def aims(clip: Clip, rows: Pairs, domain: Domain, domain_name: str, loss: Loss) -> Aims:
    """What the loss asks for of the rows of the train split.

    Args:
        clip: the model as it begins; its text body compares captions where the domain says so.
        rows: the train split.
        domain: its similarity.
        domain_name: as in `data.domain`: term files lie beside it.
        loss: `[loss]`.

    Raises:
        ConfigError: `labels` targets, or similarity by labels, on rows without any; hard captions without a rule.
        DomainError: a term file is not there.
    """
    labels = _multi_hot(rows) if loss.targets == "labels" else None
    vectors = torch.from_numpy(_vectors(clip, rows, domain, domain_name)) if loss.targets == "soft" else None
    return Aims(labels, vectors, hard_captions(rows, domain, domain_name) if loss.hard_captions else None)


def hard_captions(rows: Pairs, domain: Domain, domain_name: str, seed: int = 0) -> HardCaptions:
    """Each caption made wrong by the rules of the domain.

    Raises:
        ConfigError: no rule applies to any caption.
        DomainError: a term file is not there.
    """
    rules = swap_rules(domain, domains.read_terms(domain, domains.term_folders(domain_name)))
    made = [hard_caption(caption, rules, seed) for caption in rows.captions]
    if not any(made):
        raise ConfigError(
            f"loss.hard_captions: domain {domain.name} has no word to make wrong in any caption of {rows.source}; give it "
            "`hard_captions` groups or terms (honeclip domains show), or leave this off"
        )
    known = dict(zip(rows.captions, rows.caption_id.tolist(), strict=True))
    texts = tuple(wrong or caption for wrong, caption in zip(made, rows.captions, strict=True))
    ids = torch.tensor([known.get(text, -1) for text in texts], dtype=torch.int64)
    return HardCaptions(texts, ids, torch.tensor([one is not None for one in made]))


def _vectors(clip: Clip, rows: Pairs, domain: Domain, domain_name: str) -> NDArray[np.float32]:
    terms = domains.read_terms(domain, domains.term_folders(domain_name))
    how = metric(domain, terms, lambda texts: features.text_features(clip, texts).numpy())
    if domain.similarity.metric == "labels":
        _need_labels(rows, f"loss.targets=soft, and domain {domain.name} compares captions by their labels")
        return how([";".join(own) for own in rows.labels])
    return how(list(rows.captions))


def _multi_hot(rows: Pairs) -> Tensor:
    _need_labels(rows, "loss.targets=labels")
    names = sorted({name for own in rows.labels for name in own})
    column = {name: number for number, name in enumerate(names)}
    label_NC = torch.zeros(len(rows), len(names))
    for row, own in enumerate(rows.labels):
        label_NC[row, [column[name] for name in own]] = 1.0
    return label_NC


def _need_labels(rows: Pairs, wanted: str) -> None:
    if not any(rows.labels):
        raise ConfigError(
            f"{wanted}, but {rows.source} has no labels: give it a column `label` (data.columns), or use "
            "loss.targets=captions"
        )
