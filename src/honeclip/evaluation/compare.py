"""`honeclip compare`: several models over several data sets, each against one of them on the same queries.

A data set has one score, that by which the domain of the reference model selects (or the domain that was asked for), so that
a column compares like with like. Prompts and preprocessing are each model's own. Every model is loaded and every data set
read before anything is computed; after that one model at a time is held and embeds each data set once.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from honeclip.data import pairs as manifests
from honeclip.data.pairs import Pairs
from honeclip.data.splits import SPLITS
from honeclip.device import facts
from honeclip.domains.domain import Domain
from honeclip.embedding import features
from honeclip.embedding.embed import Embeddings, embed
from honeclip.embedding.features import Progress
from honeclip.errors import BadInput
from honeclip.evaluation import evaluate as one_model
from honeclip.evaluation import retrieval, selection
from honeclip.evaluation.answers import Answers, Metrics, labels_of_files, sections
from honeclip.evaluation.comparison import Cell, Change, Comparison, DataSet
from honeclip.evaluation.intervals import figure
from honeclip.evaluation.paired import SWAPS, goes_with, holm, p_values
from honeclip.evaluation.selection import Weights
from honeclip.model.load import load

SWAPS_EACH = 100
"""Swaps of the test for each difference of the table, where that is more than `paired.SWAPS`: so the smallest p-value stays
below `comparison.ALPHA` after the correction, however large the table."""

CHUNK = 1024  # pictures whose nearest captions are looked for at once

ACCURACY: Weights = {"accuracy": 1.0}


def compare(
    models: Sequence[str],
    data: Sequence[str | Path],
    *,
    split: str = "test",
    domain: str | None = None,
    against: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[str], Progress] | None = None,
) -> Comparison:
    """Score every model on every data set, and each against one of them.

    Args:
        models: model sources, each once.
        data: manifests, or folders with one named pairs.csv.
        split: "train", "val" or "test", of every data set.
        domain: name or file, for all models; None: each one's own.
        against: the model that the others are compared with; None: the first one.
        device: "auto", "cpu", "mps" or "cuda".
        seed: of bootstrap, test and example pictures.
        progress: makes a function of (done, total) for a piece of work of that title.

    Raises:
        BadInput: a model that cannot be loaded or data that cannot be read, before anything is computed; something named
            twice; `against` is none of the models.
    """
    names = _checked(models, data, split, against)
    reference = against or models[0]
    looked_at = {model: _look(model, domain, device) for model in models}
    asking = looked_at[reference].domain  # captions of rows with labels only come from it, the same for all models
    everything = [manifests.load(one, domain=asking) for one in data]
    rows = [one_model.rows_of(one, split) for one in everything]
    labels = [one_model.all_labels(one) for one in everything]

    sets: dict[str, DataSet] = {}
    cells: dict[str, dict[str, Cell]] = {model: {} for model in models}
    for model in (reference, *(one for one in models if one != reference)):
        clip, own = one_model.in_its_domain(load(model, device=device), domain)
        known = features.kept(clip)
        for name, pairs, classes in zip(names, rows, labels, strict=True):
            told = progress(f"{model} on {name}") if progress else None
            seen = embed(clip, pairs, features=known, progress=told)
            answers, _, _ = one_model.ask(clip, seen, pairs, own, labels=classes, features=known)
            found = one_model.figures(answers, clip, own, data_name=name, split=split, seed=seed)
            if model == reference:
                sets[name] = _data_set(name, pairs, classes, seen, found, asking)
            cells[model][name] = _cell(model, answers, found, seen, sets[name].weights, seed)
        del clip

    swaps, unpaired = _compared(cells, reference, sets, seed)
    notes = [f"{model}: {note}" for model, one in looked_at.items() for note in one.notes]
    for name, one in zip(names, everything, strict=True):
        notes += [f"{name}: {note}" for note in one_model.notes_on_data(one)]
    options = [part for one in data for part in ("--data", str(one))]
    options += [
        "--split",
        split,
        *(["--domain", domain] if domain else []),
        *(["--against", against] if against else []),
    ]
    return Comparison(
        models=tuple(models),
        against=reference,
        data=tuple(sets[name] for name in names),
        split=split,
        cells=cells,
        swaps=swaps,
        seed=seed,
        environment={
            "device": looked_at[reference].device,
            "domain": asking.name,
            "machine": facts.machine(),
            "versions": facts.versions(),
        },
        notes=(*notes, *unpaired),
        repeat=shlex.join(["honeclip", "compare", *models, *options, "--seed", str(seed)]),
    )


@dataclass(frozen=True)
class _Looked:
    """What is known of a model once it was loaded: it is not held while others compute."""

    domain: Domain
    device: str
    notes: list[str]


def _look(model: str, domain: str | None, device: str) -> _Looked:
    clip = load(model, device=device)
    return _Looked(one_model.in_its_domain(clip, domain)[1], clip.device.name, one_model.notes_on_model(clip))


def _checked(models: Sequence[str], data: Sequence[str | Path], split: str, against: str | None) -> list[str]:
    """The names of the data sets: their folder's, or the path where two folders have one name."""
    if split not in SPLITS:
        raise BadInput(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    if not models or not data:
        raise BadInput("there is nothing to compare: name models, and data with --data")
    for what, given in (("model", [str(one) for one in models]), ("--data", [str(one) for one in data])):
        twice = next((one for one in given if given.count(one) > 1), None)
        if twice is not None:
            raise BadInput(f"{what} {twice} is named twice; each has one row or column")
    if against is not None and against not in models:
        raise BadInput(f"--against {against}: it is none of the models; name one of {', '.join(models)}")
    names = [one_model.data_name(one) for one in data]
    return [name if names.count(name) == 1 else str(one) for name, one in zip(names, data, strict=True)]


def _data_set(
    name: str, pairs: Pairs, labels: tuple[str, ...], seen: Embeddings, found: Metrics, domain: Domain
) -> DataSet:
    right, queries = retrieval.right_pairs(seen.image_id, seen.caption_of, seen.file_of)
    own = labels_of_files(seen.file_of, [pairs.labels[row] for row in seen.rows])
    weights = selection.used(found, domain.selection, domain.metrics)
    words = selection.in_words(weights, domain.metrics if domain.selection == "metrics" else None)
    goes = goes_with(right, [own[file] for file in seen.file_of[queries]])
    return DataSet(name, pairs, labels, weights, words, seen.captions, goes)


def _cell(model: str, answers: Answers, found: Metrics, seen: Embeddings, weights: Weights, seed: int) -> Cell:
    _, queries = retrieval.right_pairs(seen.image_id, seen.caption_of, seen.file_of)
    text_MD = seen.text.double()
    best = [(part.double() @ text_MD.T).max(1) for part in seen.image[queries].split(CHUNK)]
    cosine, nearest = torch.cat([one.values for one in best]), torch.cat([one.indices for one in best])
    score = figure(*selection.drawn(sections(answers), weights, seed))
    return Cell(model, found["data"], found, answers, nearest.numpy(), cosine.numpy(), score)


def _compared(
    cells: dict[str, dict[str, Cell]], reference: str, sets: dict[str, DataSet], seed: int
) -> tuple[int, list[str]]:
    """Fills in the differences; gives the number of swaps and a sentence for each cell that has none."""
    asked: list[tuple[Cell, Cell, dict[str, Weights]]] = []
    unpaired = []
    for model in (one for one in cells if one != reference):
        for name, cell in cells[model].items():
            first = cells[reference][name]
            if first.answers.queries != cell.answers.queries:
                unpaired.append(
                    f"{model} and {reference} were not asked the same of {name}, so no difference is given."
                )
                continue
            scores = {"score": sets[name].weights}
            if cell.answers.predictions is not None and sets[name].weights != ACCURACY:
                scores["accuracy"] = ACCURACY
            asked.append((first, cell, scores))
    swaps = max(SWAPS, SWAPS_EACH * sum(len(scores) for _, _, scores in asked) - 1)
    raw = [
        p_values(first.answers, cell.answers, list(scores.values()), sets[cell.data].goes, seed, swaps)
        for first, cell, scores in asked
    ]
    corrected = iter(holm([p for some in raw for p in some]))
    for (first, cell, scores), some in zip(asked, raw, strict=True):
        old, new = sections(first.answers), sections(cell.answers)
        for (name, weights), p in zip(scores.items(), some, strict=True):
            cell.changes[name] = Change(selection.difference(old, new, weights, seed), p, next(corrected))
    return swaps, unpaired
