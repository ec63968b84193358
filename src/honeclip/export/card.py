"""README.md of an export: what it is, how to use it, how far it lies from the model, and the model's own card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from honeclip.export.encoders import Difference
from honeclip.model import folder as model_folder
from honeclip.model.clip import Clip
from honeclip.model.load import RUN_MODEL

SCORES = "## Scores"
"""From where on the model's own card is taken over."""


def written(
    clip: Clip,
    to: str,
    precision: str,
    library: str,
    example: str,
    found: Mapping[str, Difference] | None,
    cost: Mapping[str, Any] | None,
    notes: Sequence[str],
) -> str:
    """The card's text.

    Args:
        clip: the model.
        to: name of the layout.
        precision: of its weights.
        library: that reads it.
        example: Python that uses it.
        found: how far its embeddings lie from the model's; None where they were not compared.
        cost: what `costs.measured` gave.
        notes: what is not as it was.
    """
    licence = "apache-2.0" if clip.base.licence.startswith("Apache-2.0") else "other"
    how = clip.preprocess
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: zero-shot-image-classification",
        f"license: {licence}",
        "tags: [clip, honeclip]",
        "---",
        "",
        f"# {clip.base.name}: {to}, {precision}",
        "",
        f"Written by `honeclip export`; {library} uses it without honeclip. Images are seen at {how.size_px} px, texts are "
        f"cut at {how.context_length} tokens; embeddings have {clip.embed_dim} dimensions. `export.json` has the "
        "preprocessing in full, the scale of the logits and the calibration.",
        "",
        "## Use",
        "",
        "```python",
        *example.splitlines(),
        "```",
        "",
        "## Against the model",
        "",
        *_compared(found, library),
        *_cost(cost),
        *(f"- {note}." for note in notes),
        "",
        *_own(clip),
    ]
    return "\n".join(lines)


def _compared(found: Mapping[str, Difference] | None, library: str) -> list[str]:
    if found is None:
        return ["Not compared yet.", ""]
    rows = [f"| {name} | {one.largest:.1e} | {one.cosine:.7f} |" for name, one in found.items()]
    return [
        f"Unit embeddings of {library} alone against the model's own, of the same normalised pixels and tokens:",
        "",
        "| tower | largest difference | smallest cosine |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _cost(cost: Mapping[str, Any] | None) -> list[str]:
    if cost is None:
        return []
    rows = [
        f"| {way.replace('_', ' ')} | {_figure(one['model'])} | {_figure(one['export'])} | {_figure(one['difference'])} |"
        for way, one in cost.items()
        if isinstance(one, Mapping)
    ]
    return [
        f"R@10 on {cost['data']}, {cost['split']} split, {cost['pairs']} pairs, with 95 % intervals:",
        "",
        "| | model | export | difference |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _figure(one: Mapping[str, Any]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _own(clip: Clip) -> list[str]:
    """The model's own card from its scores on; without one, what it was made of."""
    for path in (Path(clip.source) / RUN_MODEL / model_folder.CARD, Path(clip.source) / model_folder.CARD):
        if path.is_file():
            _, found, rest = path.read_text(encoding="utf-8", errors="replace").partition(SCORES)
            if found:
                return (found + rest).splitlines()
    return ["## Licence", "", f"The base, {clip.base.name}: {clip.base.licence}.", ""]
