"""The labels of a data set as `model.classify` scores them, with the caches of frozen text bodies that an evaluation has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from honeclip.domains.domain import Domain
from honeclip.embedding.embed import embed_texts
from honeclip.embedding.features import Features
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.classify import Embed, Scorer, absence, embedded, scale_of, wording
from honeclip.model.clip import Clip


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
    if not all(absence(domain, label, known) for label in labels):
        return None
    return embedded(wording(domain, labels, "pairs", known=known), through(clip, features), scale_of(clip))


def through(clip: Clip, features: Features | None = None) -> Embed:
    """From texts to embeddings, in halves where memory runs out and through the cache of a frozen body where there is one."""
    return partial(embed_texts, clip, features=features)
