"""Labels in words, words as directions in the space of the embeddings, and from there to the probability of every label.

A label is asked for by its prompts: every template of a domain with the words of the label, embedded and averaged to one unit
vector (Radford et al. 2021, section 3.1.4). There are two ways to a probability:

- "softmax" (mode "softmax"): a picture has one label; the cosines with all classes, times the model's own scale, through a
  softmax.
- "pairs" (mode "independent"): a picture may have several; for each label by itself, the cosine with the prompts that say that
  it is there less the one with the prompts that say that it is not, times the scale, through the logistic function: a softmax
  over the pair (Tiu et al. 2022, "Expert-level detection of pathologies from unannotated chest X-ray images", Nature
  Biomedical Engineering 6).

Evaluation, `predict` and serving all come here. Who has an own way from texts to embeddings (a cache, a queue, halving where
memory runs out) hands it in as `embed`, or takes `wording`, embeds its `texts`, and calls `scorer`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from honeclip.domains import domain as domains
from honeclip.domains.domain import Domain, label_text, prompts
from honeclip.errors import BadInput, NonFiniteError
from honeclip.model.calibration import Calibration, Kind, logistic, softmax
from honeclip.model.clip import Clip

Floats = NDArray[np.float64]
Mode = Literal["softmax", "independent"]
Embed: TypeAlias = Callable[[Sequence[str]], Tensor]
"""From P texts to their unit embeddings (P, D) on the CPU."""

MODES: Mapping[str, Kind] = {"softmax": "softmax", "independent": "pairs"}
"""What a person asks for -> how it is computed; "independent": each label by itself, for pictures with several."""


@dataclass(frozen=True)
class Wording:
    """The prompts by which C labels are asked for.

    Attributes:
        kind: see the top of this file.
        labels: C of them.
        there: for each label the prompts that say that it is there.
        absent: for each label those that say that it is not; () for "softmax".
    """

    kind: Kind
    labels: tuple[str, ...]
    there: tuple[tuple[str, ...], ...]
    absent: tuple[tuple[str, ...], ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The distinct prompts, in order: labels may share some."""
        return tuple(dict.fromkeys(prompt for group in (*self.there, *self.absent) for prompt in group))


@dataclass(frozen=True)
class Scorer:
    """Labels as directions in the space of the embeddings.

    Attributes:
        kind: see the top of this file.
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


def class_embeddings(
    clip: Clip,
    domain: Domain,
    labels: Sequence[str],
    template: str | None = None,
    *,
    mode: Mode | None = None,
    embed: Embed | None = None,
) -> Scorer:
    """Labels made ready to be compared with pictures.

    Args:
        clip: the model; its calibration says which mode is taken where none is given.
        domain: templates and words of the labels; `domain_of(clip)` is the model's own.
        labels: at least one, each once; words that the domain knows stand in its prompts.
        template: one prompt with `{label}` in place of the domain's templates; None takes those.
        mode: see `kind_for`.
        embed: from texts to unit embeddings; None: the model's own `encode_text`.

    Raises:
        BadInput: the labels, the template or the mode cannot be used.
    """
    kind = kind_for(clip.calibration, labels, mode)
    return embedded(wording(domain, labels, kind, template), embed or clip.encode_text, scale_of(clip))


def probabilities(image_ND: Tensor, scorer: Scorer, calibration: Calibration | None = None) -> Floats:
    """Probability of every label for every picture, (N, C).

    Args:
        image_ND: unit embeddings on the CPU.
        scorer: what `class_embeddings` gave; it knows the mode.
        calibration: the model's own; its temperature counts only where it `fits` these labels in this mode.

    Raises:
        NonFiniteError: NaN or infinite embeddings.
    """
    fitted = calibration is not None and calibration.fits(scorer.kind, scorer.labels)
    temperature = calibration.temperature if calibration is not None and fitted else 1.0
    return scorer.probabilities(scorer.logits(image_ND), temperature)


def domain_of(clip: Clip) -> Domain:
    """The domain that a model was fine-tuned for, else "general"."""
    return domains.load("general") if clip.domain is None else domains.from_mapping(clip.domain, origin=clip.source)


def kind_for(calibration: Calibration | None, labels: Sequence[str], mode: str | None) -> Kind:
    """How labels are scored.

    Args:
        calibration: the model's own.
        labels: at least one.
        mode: one of MODES; None: as the calibration was fitted where it is for these labels, else "softmax", and
            "independent" for a single label.

    Raises:
        BadInput: no label, one twice, one label in mode "softmax", or another mode.
    """
    twice = (
        sorted({label for label in labels if list(labels).count(label) > 1}) if len(set(labels)) < len(labels) else []
    )
    if not labels:
        raise BadInput("labels: name at least one")
    if twice:
        raise BadInput(f"labels: {', '.join(twice[:5])} stands twice; name each label once")
    if mode not in (None, *MODES):
        raise BadInput(f"mode {mode}: it is {' or '.join(MODES)}")
    if mode == "softmax" and len(labels) < 2:
        raise BadInput("mode softmax: one label of one is always certain; name at least two, or use independent")
    if mode is not None:
        return MODES[mode]
    if calibration is not None and calibration.fits(calibration.kind, labels):
        return calibration.kind
    return "softmax" if len(labels) > 1 else "pairs"


def wording(
    domain: Domain, labels: Sequence[str], kind: Kind, template: str | None = None, known: Sequence[str] | None = None
) -> Wording:
    """The prompts of labels.

    Args:
        domain: its templates, and for "pairs" its `negative_templates`; without those the prompts of a normal label stand for
            the absence.
        labels: at least one.
        kind: see the top of this file.
        template: in place of the domain's templates; the prompts of absence stay as they are.
        known: all labels of the data, where there are more than are asked for; see `absence`.

    Raises:
        BadInput: a template without `{label}`, or "pairs" in a domain that says nothing of absence.
    """
    own = domain if template is None else replace(domain, templates=(_checked(template),))
    there = tuple(tuple(prompts(own, label)) for label in labels)
    if kind == "softmax":
        return Wording(kind, tuple(labels), there)
    absent = tuple(tuple(absence(domain, label, known or labels)) for label in labels)
    if not all(absent):
        raise BadInput(
            f"each label by itself needs words for its absence, and domain {domain.name} has neither negative_templates nor "
            "normal_labels; name one that has (--domain medical), or at least two labels that exclude each other"
        )
    return Wording(kind, tuple(labels), there, absent)


def embedded(asked: Wording, embed: Embed, scale: float) -> Scorer:
    """Embeds the prompts of labels, each distinct one once."""
    return scorer(asked, embed(asked.texts), scale)


def scorer(asked: Wording, text_PD: Tensor, scale: float) -> Scorer:
    """From embedded prompts to directions.

    Args:
        asked: the prompts.
        text_PD: unit embeddings of `asked.texts`.
        scale: exp(logit scale).
    """
    number = {text: place for place, text in enumerate(asked.texts)}
    groups = (*asked.there, *asked.absent)
    means = [text_PD[[number[prompt] for prompt in group]].double().mean(0) for group in groups]
    mean_GD = normalize(torch.stack(means), dim=-1).float()
    count = len(asked.labels)
    return Scorer(asked.kind, asked.labels, mean_GD[:count] - mean_GD[count:] if asked.absent else mean_GD, scale)


def absence(domain: Domain, label: str, known: Sequence[str]) -> list[str]:
    """Prompts that say that a label is not there; [] where the domain has no words for it.

    Args:
        domain: `negative_templates`, else `normal_labels`.
        label: one.
        known: all labels: a normal label among them is taken before others of the domain.
    """
    if domain.negative_templates:
        words = dict.fromkeys((label_text(domain, label), *domain.label_synonyms.get(label, ())))
        return [template.format(label=text) for text in words for template in domain.negative_templates]
    normal = [one for one in known if is_normal(domain, one)] or list(domain.normal_labels[:1])
    return [prompt for one in normal for prompt in prompts(domain, one)]


def is_normal(domain: Domain, label: str) -> bool:
    """Whether a label means "nothing wrong"; upper and lower case are one."""
    return label.strip().casefold() in {one.strip().casefold() for one in domain.normal_labels}


def scale_of(clip: Clip) -> float:
    """exp(logit scale)."""
    return float(clip.logit_scale.detach().cpu().double().exp())


def _checked(template: str) -> str:
    """A template from outside: `{label}` and no other field, width or conversion, by which a text could grow without bound."""
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise BadInput(f"template {template[:80]!r}: {error}") from None
    if not fields or any(field[1:] != ("label", "", None) for field in fields):
        raise BadInput(f"template {template[:80]!r}: it must contain {{label}}, and nothing else in braces")
    return template
