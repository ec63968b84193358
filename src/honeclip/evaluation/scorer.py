"""From embeddings to the probability of every label, in one of two ways.

"softmax": a picture has one label; the cosines with all classes, times the model's own scale, through a softmax. "pairs": a
picture may have several; for each label by itself, the cosine with the prompts that say that it is there less the one with the
prompts that say that it is not, times the scale, through the logistic function: a softmax over the pair (Tiu et al. 2022,
"Expert-level detection of pathologies from unannotated chest X-ray images", Nature Biomedical Engineering 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.domains.domain import Domain, label_text, prompts
from honeclip.embedding.embed import embed_texts
from honeclip.embedding.features import Features
from honeclip.errors import NonFiniteError
from honeclip.evaluation.calibration import logistic, softmax
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.calibration import Kind
from honeclip.model.clip import Clip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """Labels as directions in the space of the embeddings.

    Attributes:
        kind: see above.
        labels: C of them.
        text_CD: unit embeddings of the labels' prompts ("softmax"), or those less the ones of their absence ("pairs").
        scale: exp(logit scale).
    """

    kind: Kind
    labels: tuple[str, ...]
    text_CD: Tensor
    scale: float

    def logits(self, image_ND: Tensor) -> Floats:
        """(N, C) before any temperature.

        Raises:
            NonFiniteError: NaN or infinite embeddings: they have no order, so there is no figure to be given.
        """
        found = (self.scale * (image_ND.double() @ self.text_CD.double().T)).numpy()
        if not np.isfinite(found).all():
            raise NonFiniteError("scores of the labels are NaN or infinite, so no figure can be computed from them")
        return np.asarray(found)

    def probabilities(self, logits_NC: Floats, temperature: float = 1.0) -> Floats:
        """(N, C) of each label."""
        return softmax(logits_NC, temperature) if self.kind == "softmax" else logistic(logits_NC, temperature)


def of_classes(classes: Classes) -> Scorer:
    """The classes of zero-shot, one of which is right."""
    return Scorer("softmax", classes.names, classes.text, classes.scale)


def of_pairs(
    clip: Clip, domain: Domain, labels: Sequence[str], known: Sequence[str], features: Features | None = None
) -> Scorer | None:
    """Each label against its absence.

    Args:
        clip: the model.
        domain: its templates, and `negative_templates`; without those the prompts of a normal label stand for the absence.
        labels: at least one.
        known: all labels of the data: a normal label among them is taken before others of the domain.
        features: where the text tower's body is frozen, its cache.

    Returns:
        None where the domain says nothing of absence: neither negative templates nor a normal label.
    """
    groups = [prompts(domain, label) for label in labels]
    absent = [absence(domain, label, known) for label in labels]
    if not all(absent):
        return None
    text_CD = ensembles(clip, [*groups, *absent], features)
    return Scorer("pairs", tuple(labels), text_CD[: len(labels)] - text_CD[len(labels) :], scale_of(clip))


def absence(domain: Domain, label: str, known: Sequence[str]) -> list[str]:
    """Prompts that say that a label is not there; [] where the domain has no words for it."""
    if domain.negative_templates:
        words = dict.fromkeys((label_text(domain, label), *domain.label_synonyms.get(label, ())))
        return [template.format(label=text) for text in words for template in domain.negative_templates]
    normal = [one for one in known if is_normal(domain, one)] or list(domain.normal_labels[:1])
    return [prompt for one in normal for prompt in prompts(domain, one)]


def is_normal(domain: Domain, label: str) -> bool:
    """Whether a label means "nothing wrong"; upper and lower case are one."""
    return label.strip().casefold() in {one.strip().casefold() for one in domain.normal_labels}


def ensembles(clip: Clip, groups: Sequence[Sequence[str]], features: Features | None = None) -> Tensor:
    """(G, D) the normalised mean embedding of each group of prompts; a prompt that stands in several is embedded once."""
    flat = list(dict.fromkeys(prompt for group in groups for prompt in group))
    where = {prompt: index for index, prompt in enumerate(flat)}
    text_PD = embed_texts(clip, flat, features=features).double()
    means = [text_PD[[where[prompt] for prompt in group]].mean(0) for group in groups]
    return normalize(torch.stack(means), dim=-1).float()


def scale_of(clip: Clip) -> float:
    """exp(logit scale)."""
    return float(clip.logit_scale.detach().cpu().double().exp())
