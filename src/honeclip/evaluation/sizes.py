"""`evaluate --sizes`: one model at several image sizes and under changes of the picture, beside its own size.

Every picture is decoded once and seen in all forms; captions and prompts are embedded once, for no size changes a text.
The model at another size is a copy that shares every tensor but the resized tables, so the caller's model stays as it is.
What comes out:

robustness     METRICS a size that was asked for, each with the paired difference from the model's own size on the same
               resampled queries, its consistency with it, how many answers changed, and what the size costs
perturbations  difference and consistency of the model's own size with itself on changed pictures
cost           of the model's own size
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from honeclip.data.pairs import ImageRef, Pairs
from honeclip.embedding.embed import Embeddings
from honeclip.embedding.features import Progress
from honeclip.embedding.looks import embed_looks
from honeclip.errors import BadInput, ModelError
from honeclip.evaluation import retrieval
from honeclip.evaluation.answers import Answers, Metrics, answer, labels_of_files, metrics, paired_difference
from honeclip.evaluation.consistency import consistency, top
from honeclip.evaluation.cost import cost
from honeclip.evaluation.perturb import PERTURBATIONS
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.clip import Clip
from honeclip.model.resize import patch_px, resize

LARGEST_PX = 4096
"""Beyond it a single picture fills any memory; a longer number is a slip of the keyboard."""


@dataclass(frozen=True)
class AtSizes:
    """A model at several sizes.

    Attributes:
        native: the model as it was given.
        others: by size in pixels, ascending, without the native one: copies that share its weights.
        asked: the sizes that were asked for, after rounding, ascending.
        notes: a sentence for each size that had to be rounded.
    """

    native: Clip
    others: Mapping[int, Clip]
    asked: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def native_px(self) -> int:
        """The model's own size."""
        return self.native.preprocess.size_px

    @property
    def all_px(self) -> tuple[int, ...]:
        """The sizes asked for and the native one, ascending."""
        return tuple(sorted({*self.asked, self.native_px}))

    def at(self, size_px: int) -> Clip:
        """The model at one of these sizes."""
        return self.native if size_px == self.native_px else self.others[size_px]


@dataclass(frozen=True)
class Looks:
    """Embeddings of one split: at every size, native included, and at the native size under every perturbation."""

    sizes: Mapping[int, Embeddings]
    perturbed: tuple[Embeddings, ...]
    native: Embeddings


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
        changed: pictures with another answer at some size, those that change most often first.
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


# --- the model at several sizes ------------------------------------------------------------------------------------


def at_sizes(clip: Clip, sizes_px: Sequence[int]) -> AtSizes:
    """Make a copy a size, before anything is computed.

    Args:
        clip: stays as it is.
        sizes_px: in any order; one that is no multiple of the patch becomes the nearest that is, and a note says so.

    Raises:
        BadInput: a size that is no positive number of pixels, or beyond `LARGEST_PX`.
        ModelError: a size that this tower cannot have; the message says which it can.
    """
    patch = patch_px(clip)
    notes, taken = [], []
    for size in sizes_px:
        if not 1 <= size <= LARGEST_PX:
            raise BadInput(f"a size of {size} px: sizes go from 1 to {LARGEST_PX} pixels, such as 128,160,224")
        nearest = max(patch, (size + patch // 2) // patch * patch)
        if nearest != size:
            notes.append(f"{size} px is no multiple of the model's patch of {patch} px: {nearest} px was taken.")
        taken.append(nearest)
    asked = tuple(sorted(set(taken)))
    native_px = clip.preprocess.size_px
    others: dict[int, Clip] = {}
    for size in asked:
        if size != native_px:
            try:
                others[size] = _resized(clip, size)
            except ModelError as error:
                raise ModelError(f"--sizes {size}: {error}") from None
    return AtSizes(clip, others, asked, tuple(notes))


def _resized(clip: Clip, size_px: int) -> Clip:
    """The model at another size: new modules on the same tensors, but for those that `resize` puts in their place."""
    shared = {id(tensor): tensor for tensor in (*clip.model.parameters(), *clip.model.buffers())}
    other = replace(clip, model=copy.deepcopy(clip.model, shared), config=copy.deepcopy(clip.config))
    resize(other, size_px)
    return other


def embed(sized: AtSizes, pairs: Pairs, progress: Progress | None = None) -> Looks:
    """Embed the rows in every form, each picture decoded once.

    Raises:
        DataError: there are no rows, or no picture of them can be read.
        NonFiniteError: the model gives NaN or infinite embeddings at some size.
    """
    clips = [*(sized.at(size) for size in sized.all_px), *(sized.native for _ in PERTURBATIONS)]
    found = embed_looks(clips, looks(sized), pairs, progress=progress)
    sizes = dict(zip(sized.all_px, found, strict=False))
    return Looks(sizes, tuple(found[len(sizes) :]), sizes[sized.native_px])


def looks(sized: AtSizes) -> Callable[[Image.Image], list[Tensor]]:
    """From a decoded picture to its pixels at every size and, at the native one, under every perturbation."""
    others = [sized.at(size).preprocess for size in sized.all_px]
    native = sized.native.preprocess

    def look(picture: Image.Image) -> list[Tensor]:
        squares = [how.image(picture) for how in others]
        square = squares[sized.all_px.index(sized.native_px)]
        return [*squares, *(one.pixels(picture, square, native) for one in PERTURBATIONS)]

    return look


# --- what changes --------------------------------------------------------------------------------------------------


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
            "cost": cost(sized.at(size)),
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
    out: list[tuple[int, int, Changed]] = []
    for place, own in said[native_px].items():
        each = tuple(said[size][place] for size in said)
        times = sum(one.text != own.text for one in each)
        if times:
            span = slice(*np.searchsorted(right.image, [place, place + 1]))
            truth = named[int(native.file_of[rows[place]])] or tuple(native.captions[j] for j in right.text[span])
            image = pairs.images[int(native.rows[rows[place]])]
            out.append((-times, place, Changed(image, truth, each)))
    return tuple(one for _, _, one in sorted(out, key=lambda each: each[:2]))


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
    from honeclip.embedding.batches import content
    from honeclip.preprocess.images import decode

    place = int(np.random.default_rng(seed).integers(len(rows)))
    row = rows[place]
    try:
        squares = looks(sized)(decode(content(pairs.images[int(seen.native.rows[row])])))
    except (BadInput, OSError):
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
