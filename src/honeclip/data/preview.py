"""What a domain does to pictures, to look at: each as it is, as a model sees it, and as training may change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from honeclip.data import manifest
from honeclip.data.augment import augment, changes_nothing
from honeclip.domains.domain import Domain
from honeclip.errors import DataError
from honeclip.pictures.contact import thumbnail
from honeclip.pictures.html import render
from honeclip.preprocess import images
from honeclip.preprocess.preprocess import Preprocess

AUGMENTED, SHOWN, SIZE_PX = 8, 6, 224


def preview(domain: Domain, data: str | Path, *, seed: int = 0, size_px: int = SIZE_PX) -> str:
    """A page of some pictures of a data set: raw, as evaluation sees them, and eight that training might see.

    Args:
        domain: its image rules and augmentation.
        data: a manifest, or a folder with one named pairs.csv; pictures are taken at even distances from it.
        seed: of the augmentation.
        size_px: side of the square that the model takes.

    Raises:
        DataError: no manifest, or none of the chosen pictures can be read.
    """
    rows = [row for row in manifest.read(data).rows if row.image is not None and not row.fault]
    chosen = [rows[place] for place in np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int)]
    how = Preprocess(size_px).with_rules(domain.image)
    strips, unread = [], ""
    for number, row in enumerate(chosen):
        assert row.image is not None
        try:
            source = row.image if isinstance(row.image, Path) else row.image.read()
            raw = images.decode(source, images.LIMITS, how.windows)
        except (DataError, OSError) as error:
            unread = f"{row.file} (row {row.row}): {error}"
            continue
        drawn = [augment(raw, domain.augment, 1.0, (seed, step, number), how.fill) for step in range(AUGMENTED)]
        shown = [("as it is", raw), ("evaluation", _seen(raw, how))]
        shown += [(f"training {step + 1}", _seen(one, how)) for step, one in enumerate(drawn)]
        strips.append(
            {
                "name": f"{row.file}, {raw.width} x {raw.height}",
                "cells": [{"words": words, "source": thumbnail(one, 2 * size_px)} for words, one in shown],
            }
        )
    if not strips:
        raise DataError(f"{data}: none of the chosen pictures can be read" + (f": {unread}" if unread else ""))
    plain = changes_nothing(domain.augment)
    return render(
        "preview.html",
        title=f"What {domain.name} does to pictures",
        intro=f"Each picture as it is, as the model sees it ({size_px} px, resize {how.resize!r}), and "
        + ("unchanged: this domain changes no training picture." if plain else "as eight training steps might see it."),
        rules=_words(domain),
        notes=domain.notes,
        strips=strips,
    )


def _seen(picture: Image.Image, how: Preprocess) -> Image.Image:
    return Image.fromarray(how.image(picture).permute(1, 2, 0).numpy())


def _words(domain: Domain) -> str:
    """The rules that are on, in words."""
    rules = domain.augment
    said = [
        (rules.crop_scale != (1.0, 1.0), f"crops of {rules.crop_scale[0]:g} to {rules.crop_scale[1]:g} of the area"),
        (rules.flip, "mirrored left and right"),
        (rules.flip_vertical, "mirrored top and bottom"),
        (rules.quarter_turns, "quarter turns"),
        (rules.rotate_deg, f"rotations up to {rules.rotate_deg:g} degrees"),
        (rules.brightness, f"brightness ±{rules.brightness:.0%}"),
        (rules.contrast, f"contrast ±{rules.contrast:.0%}"),
        (rules.saturation, f"saturation ±{rules.saturation:.0%}"),
        (rules.gamma, f"gamma ±{rules.gamma:.0%}"),
        (rules.window, f"grey window ±{rules.window:.0%}"),
        (rules.glare, f"glare up to {rules.glare:.0%}"),
        (rules.noise, f"noise up to {rules.noise:.0%}"),
        (rules.jpeg < 100, f"JPEG quality down to {rules.jpeg}"),
        (rules.grey, f"grey in {rules.grey:.0%} of cases"),
    ]
    return "; ".join(words for on, words in said if on)
