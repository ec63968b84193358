"""The routes under /v1: from checked bodies through the engine to answers."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from torch import Tensor

from honeclip.errors import BadInput
from honeclip.model import classify
from honeclip.model.calibration import softmax
from honeclip.serving import inputs, openapi, schemas
from honeclip.serving.engine import Engine, Given
from honeclip.serving.fetch import Fetch
from honeclip.serving.metrics import Metrics
from honeclip.serving.refusals import Refused, public
from honeclip.serving.settings import Settings

MODE_OF = {kind: mode for mode, kind in classify.MODES.items()}


class Index(Protocol):
    """What `search` asks; `embedding.index.Index` is one."""

    def search(self, query_D: NDArray[np.float32], top: int = 10) -> Sequence[Any]:
        """The nearest hits (id, score, image, caption, matched), best first."""


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    fetch: Fetch
    index: Index | None = None


def router(service: Service) -> APIRouter:
    """The routes of a service."""
    made = APIRouter(prefix="/v1")
    engine, settings = service.engine, service.settings

    @made.post("/similarity", **openapi.describes(schemas.Similarity, schemas.SimilarityAnswer, files=("images",)))
    async def similarity(request: Request) -> schemas.SimilarityAnswer:
        """Cosine and probability of every image with every text."""
        given = await inputs.read(request, schemas.Similarity, forms=True)
        count = len(given.images)
        _cells(settings, count, len(given.texts))
        rows = await _all(service, {"images": given.images, "texts": given.texts})
        with _Post(service.metrics):
            cosine = rows[:count].double() @ rows[count:].double().T
            cosine_NM = cosine.clamp(-1, 1).numpy()
            probability_NM = softmax(engine.loaded.scale * cosine_NM)
            return schemas.SimilarityAnswer(
                cosine=cosine_NM.tolist(), probabilities=probability_NM.tolist(), model=engine.loaded.name
            )

    @made.post("/similarity/pairs", **openapi.describes(schemas.Pairs, schemas.PairsAnswer))
    async def pairs(request: Request) -> schemas.PairsAnswer:
        """Cosine of the image and the text of each pair; a bad pair fails alone."""
        given = await inputs.read(request, schemas.Pairs)
        images = await inputs.images([one.image for one in given.pairs], settings, service.fetch)
        texts = inputs.texts([one.text for one in given.pairs], settings)
        wanted: list[Given] = []
        for image, text in zip(images, texts, strict=True):
            if not isinstance(image, Refused) and not isinstance(text, Refused):
                wanted += [image, text]
        rows = iter(await engine.embed(wanted)) if wanted else iter(())
        scores = []
        for image, text in zip(images, texts, strict=True):
            sides: list[Any] = [image, text]
            if not isinstance(image, Refused) and not isinstance(text, Refused):
                sides = [next(rows), next(rows)]
            faults = [
                one.at(name) if isinstance(one, Refused) else one
                for name, one in zip(("image", "text"), sides, strict=True)
                if isinstance(one, Exception)
            ]
            for fault in faults:
                service.metrics.rejected(fault.reason if isinstance(fault, Refused) else "model")
            if faults:
                scores.append(schemas.Score(error="; ".join(str(fault) for fault in faults)))
            else:
                scores.append(schemas.Score(cosine=float(np.clip(np.dot(*sides), -1, 1))))
        return schemas.PairsAnswer(scores=scores, model=engine.loaded.name)

    @made.post("/classify", **openapi.describes(schemas.Classify, schemas.ClassifyAnswer, files=("images",)))
    async def classified(request: Request) -> schemas.ClassifyAnswer:
        """Labels with probabilities for each image, best first; the model's own domain and calibration apply."""
        given = await inputs.read(request, schemas.Classify, forms=True)
        labels = given.labels
        _cells(settings, len(given.images), len(labels))
        _none_of(inputs.texts(labels, settings), "labels")
        if len(set(labels)) < len(labels):
            twice = next(one for place, one in enumerate(labels) if one in labels[:place])
            raise Refused(400, "item", f"labels[{labels.index(twice)}] stands there twice; name each label once")
        loaded = engine.loaded
        calibration = loaded.clip.calibration
        try:
            kind = classify.kind_for(calibration, labels, given.mode)
            asked = await asyncio.to_thread(classify.wording, loaded.domain, labels, kind, given.template)
        except BadInput as error:
            raise Refused(400, "item", public(str(error))) from None
        prompts = asked.texts
        count = len(given.images)
        rows = await _all(service, {"images": given.images, "prompts": prompts})
        with _Post(service.metrics):
            scorer = await asyncio.to_thread(classify.scorer, asked, rows[count:], loaded.scale)
            found_NC = classify.probabilities(rows[:count], scorer, calibration)
            order_NC = np.argsort(-found_NC, axis=1, kind="stable")
            results = [
                schemas.Labels(
                    labels=[schemas.Label(label=labels[place], probability=float(row[place])) for place in order]
                )
                for row, order in zip(found_NC, order_NC, strict=True)
            ]
            return schemas.ClassifyAnswer(
                results=results,
                mode=MODE_OF[kind],
                calibrated=calibration is not None and calibration.fits(kind, labels),
                domain=loaded.domain.name,
                model=loaded.name,
            )

    @made.post("/search", **openapi.describes(schemas.Search, schemas.SearchAnswer, files=("image",), also=(404,)))
    async def search(request: Request) -> schemas.SearchAnswer:
        """The nearest of the index that the server was started with."""
        given = await inputs.read(request, schemas.Search, forms=True)
        if (given.text is None) == (given.image is None):
            raise Refused(422, "shape", "give either text or image, and not both")
        if service.index is None:
            raise Refused(
                404, "no_index", "this server has no index: start it with --index, a folder of `honeclip embed`"
            )
        if given.text is not None:
            rows = await _all(service, {"text": [given.text]}, places=False)
        else:
            rows = await _all(service, {"image": [given.image or ""]}, places=False)
        with _Post(service.metrics):
            hits = await asyncio.to_thread(service.index.search, rows[0].numpy(), given.top)
            found = [schemas.Hit(**{name: getattr(one, name) for name in schemas.Hit.model_fields}) for one in hits]
            return schemas.SearchAnswer(results=found, model=engine.loaded.name)

    @made.post("/embeddings", **openapi.describes(schemas.Embeddings, schemas.EmbeddingsAnswer))
    async def embeddings(request: Request) -> schemas.EmbeddingsAnswer:
        """Unit embeddings of texts and images, mixed, in OpenAI's shape."""
        given = await inputs.read(request, schemas.Embeddings)
        own = engine.loaded.clip.embed_dim
        if given.dimensions not in (None, own):
            raise Refused(
                400, "dimensions", f"dimensions: this model has {own}, and its embeddings cannot be cut short"
            )
        listed = [given.input] if isinstance(given.input, str) else given.input
        wanted: list[Given | Refused] = []
        for one in listed:
            if isinstance(one, schemas.ImageInput):
                wanted += await inputs.images([one.image], settings, service.fetch)
            else:
                wanted += inputs.texts([one if isinstance(one, str) else one.text], settings)
        good = _none_of(wanted, "input")
        tokens = asyncio.ensure_future(_tokens(engine, [one for one in good if isinstance(one, str)]))
        rows = _none_of(await engine.embed(good), "input")
        used = await tokens
        with _Post(service.metrics):
            coded = given.encoding_format == "base64"
            data = [
                schemas.Embedding(
                    index=place,
                    embedding=base64.b64encode(row.astype("<f4").tobytes()).decode() if coded else row.tolist(),
                )
                for place, row in enumerate(rows)
            ]
            usage = schemas.Usage(prompt_tokens=used, total_tokens=used)
            return schemas.EmbeddingsAnswer(data=data, model=engine.loaded.name, usage=usage)

    @made.get("/models", **openapi.answers(schemas.Models))
    async def models() -> schemas.Models:
        """The one model, in OpenAI's shape."""
        return schemas.Models(data=[schemas.Model(id=engine.loaded.name, created=int(engine.started))])

    return made


async def _all(service: Service, given: dict[str, Sequence[str]], *, places: bool = True) -> Tensor:
    """Unit embeddings (N, D) of everything, images first as given; the first fault is raised and names its item."""
    wanted: list[Given | Refused] = []
    names: list[str] = []
    for name, values in given.items():
        if name.startswith("image"):
            wanted += await inputs.images(values, service.settings, service.fetch)
        else:
            wanted += inputs.texts(values, service.settings)
        names += [f"{name}[{place}]" if places else name for place in range(len(values))]
    found = _named(await service.engine.embed(_named(wanted, names.__getitem__)), names.__getitem__)
    return torch.from_numpy(np.stack(found))


def _none_of(found: Sequence[Any], name: str) -> list[Any]:
    """`found`, or the first fault in it."""
    return _named(found, lambda place: f"{name}[{place}]")


def _named(found: Sequence[Any], name: Callable[[int], str]) -> list[Any]:
    for place, one in enumerate(found):
        if isinstance(one, Refused):
            raise one.at(name(place))
        if isinstance(one, Exception):
            raise one
    return list(found)


def _cells(settings: Settings, rows: int, columns: int) -> None:
    if rows * columns > settings.cells:
        raise Refused(
            413,
            "cells",
            f"{rows} x {columns} numbers are more than {settings.cells:,}: send fewer images or texts at once",
        )


async def _tokens(engine: Engine, texts: Sequence[str]) -> int:
    """Tokens of texts before they are cut."""
    how = engine.loaded.clip.preprocess
    if how.tokenizer is None or not texts:
        return 0
    counted = await asyncio.to_thread(lambda: how.tokenizer.count(how.words(texts)) if how.tokenizer else [])
    return sum(counted)


class _Post:
    """Measures what comes after the model."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._metrics.stage("post", "all", time.monotonic() - self._began)
