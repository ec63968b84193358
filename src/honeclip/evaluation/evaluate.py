"""One model on one split: embed once, ask everything, and keep what a report needs.

`evaluate` is for people: any model, any data. `score` is for code that has both in its hands, as training has.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from honeclip.data import pairs as manifests
from honeclip.data.pairs import Pairs
from honeclip.data.splits import SPLITS
from honeclip.device import facts
from honeclip.domains import domain as domains
from honeclip.domains.domain import Domain
from honeclip.embedding.embed import Embeddings, embed
from honeclip.embedding.features import Features, Progress, kept
from honeclip.errors import BadInput, DataError, DomainError
from honeclip.evaluation import cases as case_studies
from honeclip.evaluation import folds as over_folds
from honeclip.evaluation import robustness, selection, suites, zeroshot
from honeclip.evaluation import sizes as over_sizes
from honeclip.evaluation.answers import Answers, Metrics, answer, metrics, sections
from honeclip.evaluation.before import asked_before, base_of
from honeclip.evaluation.examples import examples
from honeclip.evaluation.health import health
from honeclip.evaluation.pooling import pooled
from honeclip.evaluation.probes_page import with_probes
from honeclip.evaluation.report import Report
from honeclip.evaluation.requirements import Requirements, read
from honeclip.evaluation.sizes import AtSizes, at_sizes
from honeclip.evaluation.suite import Asked, Block, split_of
from honeclip.evaluation.zeroshot import Classes
from honeclip.model.classify import domain_of
from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.preprocess.rules import TextHow, text_how

MAX_BAD_FRACTION = 0.01

UNALIGNED = (
    "This model begins unaligned: its image tower and its text tower have never seen each other, so figures before "
    "fine-tuning are chance. They are not the zero-shot scores of a CLIP."
)


def evaluate(
    model: Clip | str | os.PathLike[str] | Any,
    data: str | Path,
    *,
    split: str = "test",
    domain: Domain | str | None = None,
    sizes: Sequence[int] = (),
    device: str = "auto",
    seed: int = 0,
    pool: str = "",
    folds: int = 0,
    cases: str = "",
    requirements: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    progress: Progress | None = None,
) -> Report:
    """`honeclip.evaluate`: any model on any data.

    Args:
        model: a loaded Clip, a Run, or any model source (a run or checkpoint folder, `starter`, `NAME:TAG`, ...).
        data: a manifest, or a folder with one named pairs.csv.
        split: "train", "val" or "test".
        domain: a domain, its name or file; None takes the model's own, else "general".
        sizes: image sizes in pixels at which the model is scored besides its own, with what it keeps of its answers there
            and on blurred, cropped and compressed pictures.
        device: "auto", "cpu", "mps" or "cuda"; for a model that is loaded here.
        seed: of the bootstrap and of the example pictures.
        pool: "group": the pictures of one `group` (a patient, a part) answer as one, see `evaluation.pooling`; "": each by
            itself.
        folds: into how many parts pictures are divided, each asked by what was fitted on the others, see `evaluation.folds`;
            0 leaves it out.
        cases: pictures that are shown one by one, see `evaluation.cases.rows_of`; "" for none.
        requirements: a file of what a part's inspection must reach, see `evaluation.requirements`; the domain's suite must be
            industrial, and `metrics["industrial"]["passed"]` says whether all of it is reached.
        columns: other names of the manifest's columns, such as {"image": "photo"}.
        max_bad_fraction: share of rows that cannot be used above which the data is refused.
        progress: called with (images done, distinct images).

    Returns:
        A report: `.metrics` is METRICS, `.save(folder)` writes the page.

    Raises:
        BadInput: the model, data, domain or split does not exist or cannot be used; the message names it.
    """
    if split not in SPLITS:
        raise BadInput(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    if pool not in ("", "group") or (pool and sizes):
        raise BadInput(
            f"--pool {pool} with --sizes: sizes are compared picture by picture; leave one of them out"
            if pool == "group"
            else f"--pool {pool}: it is group, or is left out"
        )
    parts = over_folds.checked(folds) if folds else 0
    wanted = read(Path(requirements)) if requirements is not None else None
    clip, chosen = in_its_domain(model if isinstance(model, Clip) else load(_source(model), device=device), domain)
    sized = at_sizes(clip, sizes) if sizes else None
    everything = manifests.load(data, domain=chosen, columns=columns, max_bad_fraction=max_bad_fraction)
    pairs = rows_of(everything, split)
    if pool and not any(pairs.groups):
        raise DataError(
            f"{everything.source}: --pool group needs a column `group` that says which rows are of one thing"
        )
    shown = case_studies.rows_of(cases, pairs, seed) if cases else ()
    base, no_base = _before(clip, chosen, device) if shown else (None, [])
    named = ["--domain", domain] if isinstance(domain, str) else []
    over = ["--sizes", ",".join(map(str, sized.asked))] if sized else []
    over += ["--pool", pool] if pool else []
    over += ["--folds", str(folds)] if folds else []
    over += ["--cases", cases] if cases else []
    over += ["--requirements", str(requirements)] if wanted else []
    over += [part for one in _sets(columns, max_bad_fraction) for part in ("--set", one)]
    if wanted and chosen.suite != "industrial":
        raise BadInput(f"--requirements: the domain {chosen.name} has no industrial suite; give --domain industrial")
    command = ["honeclip", "evaluate", clip.source, "--data", str(data), "--split", split, *named, *over]
    return score(
        clip,
        pairs,
        chosen,
        labels=all_labels(everything),
        data_name=data_name(data),
        split=split,
        seed=seed,
        features=kept(clip),
        repeat=shlex.join([*command, "--seed", str(seed)]),
        sized=sized,
        by_group=bool(pool),
        everything=everything,
        folds=parts,
        cases=shown,
        base=base,
        requirements=wanted,
        folders=_folders(chosen, domain),
        notes=[*notes_on_model(clip), *notes_on_data(everything), *no_base, *(sized.notes if sized else ())],
        progress=progress,
    )


def score(
    clip: Clip,
    pairs: Pairs,
    domain: Domain,
    *,
    labels: Sequence[str],
    data_name: str,
    split: str,
    seed: int = 0,
    features: Features | None = None,
    sized: AtSizes | None = None,
    by_group: bool = False,
    everything: Pairs | None = None,
    folds: int = 0,
    cases: tuple[int, ...] = (),
    base: Clip | None = None,
    requirements: Requirements | None = None,
    folders: Sequence[Path] = (Path(),),
    batch_size: int = 64,
    healthy: bool = False,
    repeat: str = "",
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Score a model on rows.

    Args:
        clip: the model; its modules keep their train or eval mode.
        pairs: the rows of one split.
        domain: for the prompts of its labels.
        labels: the distinct labels of the whole data set (`all_labels`), so that chance is 1 / their number.
        data_name: how METRICS name the data.
        split: how METRICS name the rows.
        seed: of the bootstrap and of the example pictures.
        features: caches of frozen tower bodies, `embedding.features.caches(clip)`; `kept(clip)` of a model that learns no
            more.
        sized: the model at other sizes, which are scored as well, from the files: nothing of other sizes is kept.
        by_group: the pictures of one group answer as one; not together with `sized`.
        everything: all rows of the data set: the suite of the domain runs, and may choose thresholds on another split; None
            leaves the suite out, as while a run goes on.
        folds: parts of `evaluation.folds`; needs `everything`.
        cases: rows of the manifest that are shown one by one; needs `everything`, for the nearest cases of train.
        base: what the model was tuned from, in the same domain; cases say what it said of them.
        requirements: for the industrial suite.
        folders: where files lie that the domain names, beside those that come with honeclip.
        batch_size: images through the model at once, where it is scored at one size.
        healthy: the report says where the embeddings lie, too.
        repeat: the command that gives the same figures, for the report.
        notes: sentences for the report.
        progress: called with (images done, distinct images).

    Raises:
        DataError: the split has no rows, or none of its pictures can be read.
        NonFiniteError: the model gives NaN or infinite embeddings.
    """
    if not len(pairs):
        raise DataError(f"{pairs.source}: the split {split!r} has no rows")

    def as_one(found: Embeddings, rows: Pairs) -> Embeddings:
        return pooled(found, [rows.groups[row] for row in found.rows]) if by_group else found

    def embedded(rows: Pairs, known: Embeddings | None = None) -> Embeddings:
        found = known or embed(clip, rows, batch_size=batch_size, features=features, progress=progress)
        return as_one(found, rows)

    seen = over_sizes.embed(sized, pairs, progress) if sized else None
    embeddings = embedded(pairs, seen.native if seen else None)
    if by_group:
        count = len(set(embeddings.file_of.tolist()))
        notes = [
            *notes,
            f"Scored by group: the pictures of {len(embeddings.rows)} rows are {count} groups, each one query.",
        ]
    answers, own, classes = ask(clip, embeddings, pairs, domain, labels=labels, features=features)
    found = figures(answers, clip, domain, data_name=data_name, split=split, seed=seed)
    compared = None
    if sized and seen:
        compared = robustness.compare(sized, seen, pairs, own, classes, answers, data=data_name, split=split, seed=seed)
        found |= compared.metrics()
    suite, studies, parted = None, tuple[Block, ...](), None
    if everything is not None:
        other = suites.others(everything, split, embedded, seed)
        of = split_of(split, pairs, embeddings)
        asked = Asked(clip, domain, of, other, classes, tuple(labels), seed, requirements, features)
        suite = suites.run(asked)
        suite = suite and with_probes(suite, asked, folders)
        before = None
        if base is not None and cases:
            known, old = kept(base), base
            before = asked_before(asked, old, cases, known, lambda rows: as_one(embed(old, rows, features=known), rows))
        studies = case_studies.blocks(asked, cases, before) if cases else ()
        parted = over_folds.over_folds(asked, folds) if folds else None
        found |= {one.name: dict(one.metrics) for one in (suite, parted) if one}
        if requirements and suite is None:
            raise DataError(
                f"{pairs.source}: --requirements needs labels: which parts are good, and which defects are there"
            )
    said = [*notes, *(f"Left out, for it could not be read: {failure}" for failure in embeddings.failed)]
    return Report(
        metrics=found,
        answers=answers,
        examples=examples(pairs, embeddings, answers, seed),
        environment=_environment(clip, pairs, domain, 0.0 if features and features.image else embeddings.seconds),
        repeat=repeat,
        notes=tuple(said),
        seed=seed,
        sizes=compared,
        suite=suite,
        folds=parted,
        cases=studies,
        health=health(embeddings, answers, pairs, seed) if healthy else None,
    )


def ask(
    clip: Clip,
    embeddings: Embeddings,
    pairs: Pairs,
    domain: Domain,
    *,
    labels: Sequence[str],
    features: Features | None = None,
) -> tuple[Answers, list[tuple[str, ...]], Classes | None]:
    """What a model answers, the labels of the rows that were embedded, and the classes where zero-shot applies."""
    own = [pairs.labels[row] for row in embeddings.rows]
    classes = zeroshot.classes(clip, domain, labels, features) if len(labels) >= 2 and any(own) else None
    return answer(embeddings, own, classes), own, classes


def figures(answers: Answers, clip: Clip, domain: Domain, *, data_name: str, split: str, seed: int = 0) -> Metrics:
    """METRICS of answers, with the score that the domain selects by where that is no figure of retrieval."""
    found = metrics(answers, data=data_name, split=split, size_px=clip.preprocess.size_px, seed=seed)
    chosen = selection.section(found, sections(answers), domain.selection, domain.metrics, seed)
    return {**found, "selection": chosen} if chosen else found


def in_its_domain(clip: Clip, given: Domain | str | None) -> tuple[Clip, Domain]:
    """A model as it is asked in a domain (None: its own, else "general"), and that domain."""
    chosen = _domain(clip, given)
    if clip.domain is None:  # a model of ours carries the preprocessing of its domain already
        clip = replace(clip, preprocess=clip.preprocess.with_rules(chosen.image, _text_how(chosen, given)))
    return clip, chosen


def rows_of(everything: Pairs, split: str) -> Pairs:
    """One split of a data set.

    Raises:
        DataError: it has no rows.
    """
    pairs = everything.split(split)
    if not len(pairs):
        counts = ", ".join(f"{everything.splits.count(name)} in {name}" for name in SPLITS)
        raise DataError(f"{everything.source}: the split {split!r} has no rows; there are {counts}")
    return pairs


def all_labels(pairs: Pairs) -> tuple[str, ...]:
    """The distinct labels of a data set, sorted."""
    return tuple(sorted({label for own in pairs.labels for label in own}))


def data_name(data: str | Path) -> str:
    """How a data set is called: its folder's name for a pairs.csv or a folder, else the file's name without suffix."""
    path = Path(data).expanduser().absolute()
    if path.is_dir():
        return path.resolve().name
    return path.parent.resolve().name if path.stem == "pairs" else path.stem


def _before(clip: Clip, domain: Domain, device: str) -> tuple[Clip | None, list[str]]:
    """What a run began with, as it is asked in the domain; or None and why there is none."""
    source = base_of(clip.source)
    if source is None:
        return None, []
    try:
        return in_its_domain(load(source, device=device), domain)[0], []
    except BadInput as error:
        return None, [f"Cases say nothing of the model before tuning, for {source} cannot be loaded: {error}"]


def _sets(columns: Mapping[str, str] | None, max_bad_fraction: float) -> list[str]:
    """What was not left as it is, as `--set` takes it."""
    renamed = ", ".join(f"{name} = {json.dumps(other)}" for name, other in (columns or {}).items())
    out = [f"data.columns={{{renamed}}}"] if renamed else []
    return [*out, *([f"data.max_bad_fraction={max_bad_fraction}"] if max_bad_fraction != MAX_BAD_FRACTION else [])]


def _source(model: str | os.PathLike[str] | Any) -> str:
    """Where a model is: a source as it is, the folder of a Run."""
    try:
        return os.fspath(getattr(model, "folder", model))
    except TypeError:
        raise BadInput(f"a {type(model).__name__} is no model: give a Clip, a Run, or a model source") from None


def _domain(clip: Clip, given: Domain | str | None) -> Domain:
    if isinstance(given, Domain):
        return given
    return domain_of(clip) if given is None else domains.load(given)


def _folders(chosen: Domain, given: Domain | str | None) -> tuple[Path, ...]:
    """Where its files may lie; those of a domain that was given as an object are in the working directory."""
    if isinstance(given, Domain):
        return (Path(),)
    try:
        return domains.term_folders(given or chosen.name)
    except DomainError:  # a domain that only the model carries: its file is with whoever tuned it
        return (Path(),)


def _text_how(chosen: Domain, given: Domain | str | None) -> TextHow:
    return text_how(chosen, domains.read_terms(chosen, _folders(chosen, given)))


def notes_on_model(clip: Clip) -> list[str]:
    """What a reader of figures must know of the model."""
    return [UNALIGNED] if clip.base.starts_unaligned and clip.domain is None else []


def notes_on_data(everything: Pairs) -> list[str]:
    """What a reader of figures must know of the data."""
    bad = everything.total_rows - len(everything)
    out = [f"{bad} of {everything.total_rows} rows cannot be used; `honeclip check {everything.source}` says why."]
    return [*(out if bad else []), *(f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in everything.notes)]


def _environment(clip: Clip, pairs: Pairs, domain: Domain, seconds: float) -> dict[str, Any]:
    """Data and machine in words, for report.json and the page; `seconds` 0 where the pictures were not embedded anew."""
    images = len(set(pairs.image_id.tolist()))
    found: Mapping[str, Any] = {
        "model": clip.source,
        "base": clip.base.name,
        "licence": clip.base.licence,
        "domain": domain.name,
        "device": clip.device.name,
        "precision": "fp32",
        "images": images,
        "captions": len(set(pairs.caption_id.tolist())),
        "images_per_second": round(images / seconds, 1) if seconds > 0 else None,
        "machine": facts.machine(),
        "versions": facts.versions(),
    }
    return {name: value for name, value in found.items() if value is not None}
