"""What image sizes and changed pictures do to a model's scores and answers, beside the model at its own size.

robustness     METRICS a size that was asked for, each with the paired difference from the model's own size on the same
               resampled queries, its consistency with it, how many answers changed, and what the size costs
perturbations  difference and consistency of the model's own size with itself on changed pictures
cost           of the model's own size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from honeclip.data.pairs import ImageRef, Pairs
from honeclip.embedding.batches import content
from honeclip.embedding.embed import Embeddings
from honeclip.errors import DataError
from honeclip.evaluation import retrieval
from honeclip.evaluation.answers import Answers, Metrics, answer, labels_of_files, metrics, paired_difference
from honeclip.evaluation.consistency import consistency, top
from honeclip.evaluation.perturb import PERTURBATIONS
from honeclip.evaluation.sizes import AtSizes, Looks, looks
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.clip import Clip
from honeclip.preprocess.images import decode


@dataclass(frozen=True)
class Said:
    """What the model answers to a picture at one size; `score` is the probability of a label or the cosine of a caption."""

    size_px: int
    text: str
    score: float
    right: bool


@dataclass(frozen=True)
class Changed:
    """A picture whose answer depends on the size: where it is, its right answers, the answer at every size."""

    image: ImageRef
    truth: tuple[str, ...]
    said: tuple[Said, ...]


@dataclass(frozen=True)
class Shot:
    """One picture as the model takes it: what was done, the square, cosine with the native embedding, rank of its best
    right caption."""

    words: str
    picture: Image.Image
    cosine: float
    rank: int


@dataclass(frozen=True)
class Sizes:
    """What sizes and perturbations change.

    Attributes:
        native_px: the model's own size.
        found: by size, ascending, the native one included: METRICS with `difference`, `consistency`, `changed`, `cost`
            and `enlarged`, the number of pictures with fewer pixels than the size.
        asked: sizes that METRICS list under `robustness`.
        perturbations: kind -> strength -> `difference` and `consistency`.
        changed: pictures with another answer at some size: those right at one and wrong at another first, among them
            those that change most often.
        answers_are: "label" or "caption".
        strip: one picture in every form.
        candidates: captions that an image is compared with.
    """

    native_px: int
    found: Mapping[int, Metrics]
    asked: tuple[int, ...]
    perturbations: Mapping[str, Mapping[str, Any]]
    changed: tuple[Changed, ...]
    answers_are: str
    strip: tuple[Shot, ...]
    candidates: int

    def metrics(self) -> Metrics:
        """The sections that METRICS of the native size get besides."""
        return {
            "robustness": {str(size): self.found[size] for size in self.asked},
            "perturbations": dict(self.perturbations),
            "cost": self.found[self.native_px]["cost"],
        }


def compare(
    sized: AtSizes,
    seen: Looks,
    pairs: Pairs,
    labels: Sequence[Sequence[str]],
    classes: Classes | None,
    native: Answers,
    *,
    data: str,
    split: str,
    seed: int = 0,
) -> Sizes:
    """Score every size and perturbation and set it beside the native size.

    Args:
        sized: the model.
        seen: what it made of the rows.
        pairs: the rows.
        labels: of the embedded rows, () where one has none.
        classes: what zero-shot chooses from; None leaves it out.
        native: answers at the native size.
        data: how METRICS name the data.
        split: how METRICS name the rows.
        seed: of the bootstrap and of the picture of the strip.
    """
    right, rows = retrieval.right_pairs(seen.native.image_id, seen.native.caption_of, seen.native.file_of)

    def beside(found: Embeddings, own: Answers) -> dict[str, Any]:
        return {
            "difference": paired_difference(native, own, seed),
            "consistency": consistency(seen.native, found, native, own, rows, seed),
        }

    answers = {
        size: native if size == sized.native_px else answer(one, labels, classes) for size, one in seen.sizes.items()
    }
    said = {size: _said(seen.sizes[size], rows, right, labels, classes, one, size) for size, one in answers.items()}
    found: dict[int, Metrics] = {}
    for size, own in answers.items():
        found[size] = {
            **metrics(own, data=data, split=split, size_px=size, seed=seed),
            **beside(seen.sizes[size], own),
            "changed": _counts(said[sized.native_px], said[size]),
            "cost": seen.costs[size],
            "enlarged": _enlarged(pairs, sized.at(size)),
        }

    perturbations: dict[str, dict[str, Any]] = {}
    perturbed = [answer(one, labels, classes) for one in seen.perturbed]
    for how, one, own in zip(PERTURBATIONS, seen.perturbed, perturbed, strict=True):
        perturbations.setdefault(how.kind, {})[how.strength] = beside(one, own)
    return Sizes(
        native_px=sized.native_px,
        found=found,
        asked=sized.asked,
        perturbations=perturbations,
        changed=_changed(pairs, seen.native, rows, right, labels, said, sized.native_px),
        answers_are="label" if native.predictions is not None else "caption",
        strip=_strip(sized, seen, pairs, rows, answers, perturbed, seed),
        candidates=len(seen.native.captions),
    )


def _said(
    found: Embeddings,
    rows: retrieval.Ids,
    right: retrieval.Right,
    labels: Sequence[Sequence[str]],
    classes: Classes | None,
    own: Answers,
    size_px: int,
) -> dict[int, Said]:
    """The answer to each image, by its place among the I images: its label where it has one, else the nearest caption."""
    guess = own.predictions
    if guess is not None and classes is not None:
        named = labels_of_files(found.file_of, labels)
        asked = [place for place, row in enumerate(rows) if named[int(found.file_of[row])]]
        hit = (guess.predicted == guess.truth).tolist()
        return {
            place: Said(size_px, classes.names[int(label)], float(confidence), right_)
            for place, label, confidence, right_ in zip(asked, guess.predicted, guess.confidence, hit, strict=True)
        }
    best = top(found.image[rows].numpy(), found.text.numpy(), 1)[:, 0]
    cosine = (found.image[rows].double() * found.text[best].double()).sum(1).tolist()
    partners = set(zip(right.image.tolist(), right.text.tolist(), strict=True))
    return {
        place: Said(size_px, found.captions[text], cosine[place], (place, text) in partners)
        for place, text in enumerate(best.tolist())
    }


def _counts(native: Mapping[int, Said], now: Mapping[int, Said]) -> dict[str, int]:
    """Answers that differ from those at the native size, and how many of these were right before (lost) or now (won)."""
    differ = [place for place, one in native.items() if one.text != now[place].text]
    return {
        "answers": len(differ),
        "of": len(native),
        "lost": sum(native[place].right and not now[place].right for place in differ),
        "won": sum(now[place].right and not native[place].right for place in differ),
    }


def _changed(
    pairs: Pairs,
    native: Embeddings,
    rows: retrieval.Ids,
    right: retrieval.Right,
    labels: Sequence[Sequence[str]],
    said: Mapping[int, Mapping[int, Said]],
    native_px: int,
) -> tuple[Changed, ...]:
    named = labels_of_files(native.file_of, labels)
    out: list[tuple[bool, int, int, Changed]] = []
    for place, own in said[native_px].items():
        each = tuple(said[size][place] for size in said)
        times = sum(one.text != own.text for one in each)
        if times:
            span = slice(*np.searchsorted(right.image, [place, place + 1]))
            truth = named[int(native.file_of[rows[place]])] or tuple(native.captions[j] for j in right.text[span])
            image = pairs.images[int(native.rows[rows[place]])]
            same_worth = len({one.right for one in each}) == 1
            out.append((same_worth, -times, place, Changed(image, truth, each)))
    return tuple(changed for *_, changed in sorted(out, key=lambda one: one[:3]))


def _strip(
    sized: AtSizes,
    seen: Looks,
    pairs: Pairs,
    rows: retrieval.Ids,
    answers: Mapping[int, Answers],
    perturbed: Sequence[Answers],
    seed: int,
) -> tuple[Shot, ...]:
    """One picture, drawn by the seed, in every form. () where it cannot be read any more."""
    place = int(np.random.default_rng(seed).integers(len(rows)))
    row = rows[place]
    try:
        squares = looks(sized)(decode(content(pairs.images[int(seen.native.rows[row])])))
    except (DataError, OSError):
        return ()
    names = [f"{size} px{' (its own)' if size == sized.native_px else ''}" for size in sized.all_px]
    forms = zip(
        [*names, *(how.words for how in PERTURBATIONS)],
        squares,
        [*seen.sizes.values(), *seen.perturbed],
        [*answers.values(), *perturbed],
        strict=True,
    )
    own = seen.native.image[row].double()
    return tuple(
        Shot(
            words,
            Image.fromarray(square.permute(1, 2, 0).numpy()),
            float(own @ found.image[row].double()),
            int(given.ranks.image_to_text[place]),
        )
        for words, square, found, given in forms
    )


def _enlarged(pairs: Pairs, clip: Clip) -> int:
    """Distinct pictures with fewer pixels than the size: what they show there was not in the file."""
    side = max if clip.preprocess.resize == "longest" else min
    known = dict(zip(pairs.image_id.tolist(), pairs.sizes, strict=True)) if pairs.sizes else {}
    return sum(side(size) < clip.preprocess.size_px for size in known.values())
