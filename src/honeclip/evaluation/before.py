"""The model that a run began with, asked the same cases as the one that it became."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from honeclip.data.pairs import Pairs
from honeclip.embedding.embed import Embeddings, embed_texts
from honeclip.embedding.features import Features
from honeclip.evaluation import zeroshot
from honeclip.evaluation.suite import Asked
from honeclip.model.clip import Clip

RECORD = "run.toml"


def base_of(source: str) -> str | None:
    """What the run that a model comes from began with; None where the model is no run, checkpoint or model of one.

    Args:
        source: as `Clip.source` says it: RUN, RUN/model or RUN/checkpoints/NAME.
    """
    place = Path(source)
    for folder in (place, place.parent, place.parent.parent):
        try:
            table = tomllib.loads((folder / RECORD).read_text(encoding="utf-8"))["model"]
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError):
            continue
        return str(table.get("source", "")) or None
    return None


def asked_before(
    asked: Asked, base: Clip, rows: tuple[int, ...], features: Features, embedded: Callable[[Pairs], Embeddings]
) -> Asked:
    """The same question to the base; of the pictures it knows those of the given rows of the manifest, the others are zero.

    Args:
        asked: what the tuned model is asked.
        base: in the same domain.
        rows: of the manifest.
        features: caches of the base.
        embedded: rows through the base, as the split went through the tuned model.
    """
    split, seen = asked.split, asked.split.embeddings
    wanted = [place for place, row in enumerate(split.pairs.rows) if row in rows]
    # with them all rows of the same picture or group, for a group answers as one
    near = [place for place, file in enumerate(seen.file_of.tolist()) if file in set(seen.file_of[wanted].tolist())]
    found = embedded(split.pairs.select(near))
    image = torch.zeros(len(seen.image), base.embed_dim)
    image[[near[row] for row in found.rows]] = found.image
    text = embed_texts(base, seen.captions, features=features)
    classes = zeroshot.classes(base, asked.domain, asked.classes.names, features) if asked.classes else None
    return replace(
        asked,
        clip=base,
        split=replace(split, embeddings=replace(seen, image=image, text=text)),
        classes=classes,
        features=features,
    )
