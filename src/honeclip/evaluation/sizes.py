"""`evaluate --sizes`: one model at several image sizes, and its embeddings of a split at each and on changed pictures.

Every picture is decoded once and seen in all forms; captions and prompts are embedded once, for no size changes a text.
The model at another size is a copy that shares every tensor but the resized tables, so the caller's model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from honeclip.data.pairs import Pairs
from honeclip.embedding.embed import Embeddings
from honeclip.embedding.features import Progress
from honeclip.embedding.looks import embed_looks
from honeclip.errors import BadInput, ModelError
from honeclip.evaluation.cost import cost
from honeclip.evaluation.perturb import PERTURBATIONS
from honeclip.model.clip import Clip
from honeclip.model.resize import nearest_size, patch_px
from honeclip.model.scales import sharing

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
    """Embeddings of one split: at every size, native included, and at the native size under every perturbation; and what
    each size costs."""

    sizes: Mapping[int, Embeddings]
    perturbed: tuple[Embeddings, ...]
    native: Embeddings
    costs: Mapping[int, dict[str, Any]]


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
        nearest = nearest_size(clip, max(size, patch))
        if nearest != size:
            notes.append(f"{size} px is no multiple of the model's patch of {patch} px: {nearest} px was taken.")
        taken.append(nearest)
    asked = tuple(sorted(set(taken)))
    native_px = clip.preprocess.size_px
    others: dict[int, Clip] = {}
    for size in asked:
        if size != native_px:
            try:
                others[size] = sharing(clip, size)
            except ModelError as error:
                raise ModelError(f"--sizes {size}: {error}") from None
    return AtSizes(clip, others, asked, tuple(notes))


def embed(sized: AtSizes, pairs: Pairs, progress: Progress | None = None) -> Looks:
    """Embed the rows in every form, each picture decoded once, and measure what each size costs.

    Raises:
        DataError: there are no rows, or no picture of them can be read.
        NonFiniteError: the model gives NaN or infinite embeddings at some size.
    """
    clips = [*(sized.at(size) for size in sized.all_px), *(sized.native for _ in PERTURBATIONS)]
    # before the pictures: a heap with holes in it would count as memory of the model
    costs = dict(zip(sized.all_px, cost([sized.at(size) for size in sized.all_px]), strict=True))
    found = embed_looks(clips, looks(sized), pairs, progress=progress)
    sizes = dict(zip(sized.all_px, found, strict=False))
    return Looks(sizes, tuple(found[len(sizes) :]), sizes[sized.native_px], costs)


def looks(sized: AtSizes) -> Callable[[Image.Image], list[Tensor]]:
    """From a decoded picture to its pixels at every size and, at the native one, under every perturbation."""
    others = [sized.at(size).preprocess for size in sized.all_px]
    native = sized.native.preprocess

    def look(picture: Image.Image) -> list[Tensor]:
        squares = [how.image(picture) for how in others]
        square = squares[sized.all_px.index(sized.native_px)]
        return [*squares, *(one.pixels(picture, square, native) for one in PERTURBATIONS)]

    return look
