"""A model of two tiny towers, a few pictures, and a count of what went through the model."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from honeclip.data.pairs import Pairs
from honeclip.model.clip import Clip
from honeclip.model.load import load

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own for every test: nothing in it that another one computed."""
    monkeypatch.setenv("HONECLIP_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Clip:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "honeclip-embedding.json").write_text(json.dumps(TINY), encoding="utf-8")
    open_clip.add_model_config(folder)
    return load("random:honeclip-embedding", device="cpu")


@pytest.fixture
def clip(tiny: Clip) -> Clip:
    """A copy that a test may change."""
    changed = copy.copy(tiny)
    changed.model = copy.deepcopy(tiny.model)
    changed.config = copy.deepcopy(tiny.config)
    return changed


@pytest.fixture
def photo(tmp_path: Path) -> Callable[[str, int], Path]:
    """Writes a small picture; equal seeds give equal pixels."""

    def make(name: str, seed: int) -> Path:
        noise = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(noise, "RGB").save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def pairs(photo) -> Callable[..., Pairs]:
    """Rows by picture: `seeds` says which pixels each row has, every row in a file of its own unless `files` says."""

    def make(seeds: Sequence[int], captions: Sequence[str] | None = None, files: Sequence[int] | None = None) -> Pairs:
        count = len(seeds)
        captions = tuple(captions or (f"a picture of number {seed}" for seed in seeds))
        names = [f"{file}.png" for file in (files or range(count))]
        distinct = list(dict.fromkeys(captions))
        return Pairs(
            source=Path("pairs.csv"),
            images=tuple(photo(name, seed) for name, seed in zip(names, seeds, strict=True)),
            captions=captions,
            labels=((),) * count,
            splits=("test",) * count,
            groups=("",) * count,
            rows=tuple(range(1, count + 1)),
            caption_id=np.array([distinct.index(one) for one in captions]),
            image_id=np.array(seeds),
            image_sha=tuple(f"{seed:064x}" for seed in seeds),
            problems=(),
            total_rows=count,
        )

    return make


class Count:
    """Rows and calls that reached the bodies of a model's towers, and the most rows at once."""

    def __init__(self) -> None:
        self.images: list[int] = []
        self.texts: list[int] = []


@pytest.fixture
def counting() -> Callable[[Clip], contextlib.AbstractContextManager[Count]]:
    """Watches what enters the first layer of each tower."""

    @contextlib.contextmanager
    def watch(clip: Clip) -> Iterator[Count]:
        seen = Count()
        handles = [
            clip.model.visual.conv1.register_forward_pre_hook(lambda _, given: seen.images.append(len(given[0]))),
            clip.model.token_embedding.register_forward_pre_hook(lambda _, given: seen.texts.append(len(given[0]))),
        ]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    return watch


@pytest.fixture
def crowded() -> Callable[[torch.nn.Module, int, Exception], None]:
    """From now on a layer has room for so many rows at once, and says what a device says when there are more."""

    def make(layer: torch.nn.Module, room: int, error: Exception) -> None:
        def refuse(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if len(given[0]) > room:
                raise error

        layer.register_forward_pre_hook(refuse)

    return make
