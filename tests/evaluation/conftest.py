"""Embeddings, answers and reports made by hand, so that what they should give is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from honeclip.data.pairs import Pairs
from honeclip.embedding.embed import Embeddings
from honeclip.evaluation.answers import Answers, answer, metrics
from honeclip.evaluation.examples import examples
from honeclip.evaluation.report import Report
from honeclip.evaluation.zeroshot import Classes

Labels = Sequence[Sequence[str]]


def unit(values: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=-1)


@pytest.fixture
def embeddings() -> Callable[..., Embeddings]:
    """Of N rows, the first `good` of which are easy: image and caption have nearly the same direction."""

    def make(
        rows: int = 60,
        good: int = 30,
        seed: int = 0,
        captions: Sequence[str] | None = None,
        file_of: Sequence[int] | None = None,
        image_id: Sequence[int] | None = None,
    ) -> Embeddings:
        captions = tuple(captions or (f"caption {row}" for row in range(rows)))
        texts = tuple(dict.fromkeys(captions))
        caption_of = np.array([texts.index(one) for one in captions])
        files = np.array(range(rows) if file_of is None else file_of)
        contents = np.array(files if image_id is None else image_id)
        draw = np.random.default_rng(seed)
        text = draw.normal(size=(len(texts), 24))
        content = draw.normal(size=(int(contents.max()) + 1, 24))
        for row in range(good):
            content[contents[row]] = text[caption_of[row]] + 0.1 * draw.normal(size=24)
        return Embeddings(
            image=unit(content)[contents],
            text=unit(text),
            caption_of=caption_of,
            image_id=contents,
            captions=texts,
            seconds=1.0,
            rows=np.arange(rows),
            file_of=files,
        )

    return make


@pytest.fixture
def classes() -> Classes:
    return Classes(("bird", "cat", "dog"), unit(np.random.default_rng(9).normal(size=(3, 24))), 20.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[int], tuple[Path, ...]]:
    """N small pictures, all different."""

    def make(count: int) -> tuple[Path, ...]:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(noise, "RGB").save(folder / f"{number}.png")
        return tuple(folder / f"{number}.png" for number in range(count))

    return make


@pytest.fixture
def pairs(pictures) -> Callable[[Embeddings], Pairs]:
    """Rows that fit embeddings made by hand."""

    def make(of: Embeddings) -> Pairs:
        files = pictures(int(of.file_of.max()) + 1)
        count = len(of.rows)
        return Pairs(
            source=Path("pairs.csv"),
            images=tuple(files[file] for file in of.file_of),
            captions=tuple(of.captions[text] for text in of.caption_of),
            labels=((),) * count,
            splits=("test",) * count,
            groups=("",) * count,
            rows=tuple(range(1, count + 1)),
            caption_id=of.caption_of,
            image_id=of.image_id,
            image_sha=tuple(f"{content:064x}" for content in of.image_id),
            problems=(),
            total_rows=count,
        )

    return make


@pytest.fixture
def labels() -> Callable[[int], list[tuple[str, ...]]]:
    """One label a row in turn, every seventh row without one."""

    def make(count: int) -> list[tuple[str, ...]]:
        return [() if row % 7 == 6 else (("bird", "cat", "dog")[row % 3],) for row in range(count)]

    return make


@pytest.fixture
def report(pairs, classes, labels) -> Callable[..., Report]:
    """What a hand-made model got; `with_classes` gives it a zero-shot section."""

    def make(of: Embeddings, with_classes: bool = True, **more) -> Report:
        own = labels(len(of.rows)) if with_classes else [()] * len(of.rows)
        found: Answers = answer(of, own, classes if with_classes else None)
        given = {
            "environment": {"model": "a model", "device": "a CPU", "machine": {"cores": 2}},
            "repeat": "honeclip evaluate m --data stamps",
            **more,
        }
        return Report(
            metrics=metrics(found, data="stamps", split="test", size_px=32),
            answers=found,
            examples=examples(pairs(of), of, found),
            **given,
        )

    return make
