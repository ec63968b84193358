"""`honeclip check`: what is wrong with data before training on it, or with a run: its checkpoints, and what looks sick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from honeclip.cli.options import Json

if TYPE_CHECKING:
    from honeclip.data.pairs import Pairs
    from honeclip.model.clip import Clip
    from honeclip.training.eight import Again

WORST = 24
"""Pairs on the contact sheet."""

SHOWN = 5
"""Rows of each kind in the table; --json lists all."""


def check(
    data: Annotated[
        str, typer.Argument(help="Manifest, folder with a pairs.csv, shards, or a run folder.", metavar="DATA|RUN")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Also list the pairs that this model finds worst.", metavar="M")
    ] = None,
    domain: Annotated[str, typer.Option("--domain", help="Whose templates caption labels.", metavar="N")] = "general",
    columns: Annotated[
        str, typer.Option("--columns", help="Other column names: image=photo,caption=description.", metavar="MAP")
    ] = "",
    max_bad_fraction: Annotated[
        float, typer.Option("--max-bad-fraction", help="Share of unusable rows that is accepted.", min=0, max=1)
    ] = 0.01,
    workers: Annotated[int, typer.Option("--workers", help="Decoding threads; 0: as many as cores.", min=0)] = 0,
    out: Annotated[
        Path, typer.Option("--out", help="Contact sheet of the worst pairs (with --model).", metavar="FILE")
    ] = Path("check.html"),
    device: Annotated[str, typer.Option("--device", help="auto, cpu, mps or cuda (with --model).")] = "auto",
    as_json: Json = False,
) -> None:
    """Look for broken and odd images, duplicates, split leaks and cut captions; or verify a run's checkpoints
    (hashes, shapes, finite numbers, versions, eight pairs embedded again), and say what looks sick in how it learned
    (docs/watching.md).

    Exits 2 where more than --max-bad-fraction of the rows cannot be used, or a checkpoint is damaged.

    Example: honeclip check pairs.csv --model starter --out worst.html
    """
    if is_run(Path(data)):
        _check_run(Path(data), as_json)
    else:
        _check_data(data, model, domain, columns, max_bad_fraction, workers, out, device, as_json)


def is_run(path: Path) -> bool:
    """Whether `path` is a run folder: it has checkpoints or a run.toml."""
    return path.is_dir() and ((path / "checkpoints").is_dir() or (path / "run.toml").is_file())


def _check_run(run: Path, as_json: bool) -> None:
    from honeclip.checkpoint.examine import examine
    from honeclip.checkpoint.save import BEST, LATEST, named
    from honeclip.cli.output import emit, show
    from honeclip.errors import RunError
    from honeclip.monitoring import events, rules
    from honeclip.training import eight

    folder = run / "checkpoints"
    found = examine(folder)
    pairs = {name: eight.again(folder / name) for name, wrong in found.items() if not wrong}
    for name, seen in pairs.items():
        if seen.done and not seen.same:
            way_out = f"delete the folder {name}, then --resume goes on without it"
            found[name] = [f"embeddings do not come out again: {seen.words}; {way_out}"]
    checkpoints = [{"name": name, "faults": wrong, "pairs": _told(pairs.get(name))} for name, wrong in found.items()]
    faults = [f"{name}: {fault}" for name, wrong in found.items() for fault in wrong]
    for pointer in (LATEST, BEST):
        at = named(folder, pointer)
        if (folder / pointer).exists() and (at is None or not (folder / at).is_dir()):
            faults.append(f"{pointer} names {at or 'nothing'}, and there is no such checkpoint")
    if not found:
        faults.append("there is no checkpoint")
    faults += _faults_beside(run) if (run / "run.toml").exists() or (run / "run.json").exists() else []
    told = events.read(run / "events.jsonl")
    sick = rules.findings(told)
    if as_json:
        content = {"run": run, "passed": not faults, "checkpoints": checkpoints, "faults": faults}
        emit({**content, "sick": [one.to_json() for one in sick]})
    else:
        for name, wrong in found.items():
            show(f"{name}: {'; '.join(wrong) or f'whole; {_said(pairs[name])}'}")
        for finding in sick:
            show(f"{finding.rule}: {finding.says}\n  try: {finding.advice}")
        if told and not sick:
            show("nothing looks sick")
    if faults:
        raise RunError(f"{run} is damaged: " + "; ".join(faults))


def _faults_beside(run: Path) -> list[str]:
    """What is wrong with a run beside its checkpoints: its settings, and what it handed over where it is finished."""
    from honeclip.errors import BadInput
    from honeclip.training import folder as folders

    folder = folders.RunFolder(run)
    faults = []
    try:
        if note := folders.find(run, {}, [], None, resume=True, overwrite=False).note:
            faults.append(f"{note}; --resume writes it again")
    except BadInput as error:
        faults.append(str(error))
    if folder.result_file.exists():
        end = folders.read_json(folder.result_file)
        wrong = ["result.json was changed or damaged"] if end is None else folders.damaged(folder, end.get("files", {}))
        faults += [f"{fault}; --resume writes it again" for fault in wrong]
    return faults


def _said(seen: Again) -> str:
    return f"{'the same embeddings again' if seen.done else 'nothing embedded again'}: {seen.words}"


def _told(seen: Again | None) -> dict[str, object] | None:
    """What --json says of the pairs that were embedded again; null for a damaged checkpoint."""
    return None if seen is None else {"done": seen.done, "same": seen.same if seen.done else None, "words": seen.words}


def _check_data(
    data: str,
    model: str | None,
    domain: str,
    columns: str,
    max_bad_fraction: float,
    workers: int,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from honeclip.cli.output import emit
    from honeclip.data import manifest, pairs, preflight
    from honeclip.domains import domain as domains
    from honeclip.monitoring.terminal import Progress
    from honeclip.preprocess.preprocess import Preprocess
    from honeclip.preprocess.rules import text_how
    from honeclip.preprocess.tokens import Tokenizer

    chosen = domains.load(domain)
    with Progress() as progress:
        found = pairs.read(
            data,
            columns=manifest.parse_columns(columns),
            domain=chosen,
            workers=workers,
            progress=progress.counter("looking at images"),
        )
    clip = _load(model, device) if model and len(found) else None
    tokenizer = (clip.preprocess.tokenizer if clip else None) or Tokenizer("simple")
    how = text_how(chosen, domains.read_terms(chosen, domains.term_folders(domain)))
    if clip is not None and clip.domain is None:  # a model of ours carries the rules of its domain already
        clip = replace(clip, preprocess=clip.preprocess.with_rules(chosen.image, how))
    preprocess = clip.preprocess if clip else Preprocess(1, tokenizer=tokenizer, text=how)
    result = preflight.check(
        found,
        max_bad_fraction=max_bad_fraction,
        count_tokens=lambda texts: tokenizer.count(preprocess.words(texts)),
        context_length=clip.preprocess.context_length if clip else tokenizer.context_length,
        size_px=clip.preprocess.size_px if clip else None,
    )
    if kept := preprocess.note_of_kept(found.captions):
        result["notes"].append(kept)
    if clip is not None:
        result["worst"] = _worst(clip, found, out)
        result["contact_sheet"] = str(out)
    if as_json:
        emit(result)
    else:
        _print(result)
    found.check_fraction(max_bad_fraction)


def _load(model: str, device: str) -> Clip:
    from honeclip.cli.output import say
    from honeclip.model.load import load

    clip = load(model, device=device)
    if clip.base.starts_unaligned and clip.domain is None:
        say(f"{clip.base.name} begins unaligned: until it is fine-tuned, its worst pairs are no worse than others")
    return clip


def _worst(clip: Clip, pairs: Pairs, out: Path) -> list[dict[str, Any]]:
    """The pairs of lowest cosine, also as a contact sheet."""
    import numpy as np

    from honeclip.embedding.embed import embed
    from honeclip.errors import DataError
    from honeclip.monitoring.terminal import Progress
    from honeclip.pictures.contact import contact_sheet
    from honeclip.preprocess import images

    with Progress() as progress:
        embeddings = embed(clip, pairs, progress=progress.counter("embedding"))
    cosines = (embeddings.image * embeddings.text[embeddings.caption_of]).sum(dim=-1).numpy()
    chosen = np.argsort(cosines, kind="stable")[:WORST]
    rows = [int(embeddings.rows[place]) for place in chosen]
    worst = [
        {
            "row": pairs.rows[row],
            "file": pairs.files[row],
            "caption": pairs.captions[row],
            "cosine": float(cosines[place]),
        }
        for place, row in zip(chosen, rows, strict=True)
    ]
    page = contact_sheet(
        [
            (pairs.images[row], [str(one["caption"]), f"row {one['row']} · {one['file']} · cosine {one['cosine']:.3f}"])
            for row, one in zip(rows, worst, strict=True)
        ],
        f"Worst-matching pairs of {pairs.source.name}",
        intro=f"The {len(worst)} pairs whose image and caption lie farthest apart for {clip.source}, the worst first.",
        decode=lambda ref: images.decode(ref if isinstance(ref, Path) else ref.read()),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    return worst


def _print(result: dict[str, Any]) -> None:
    """The counts, the problems by kind, and the worst pairs, on standard output."""
    from rich.table import Table

    from honeclip.cli import output

    console = output.console(soft_wrap=True)
    splits = ", ".join(f"{count} {name}" for name, count in result["splits"].items())
    console.print(f"{result['data']}: {result['usable']} of {result['rows']} rows can be used ({splits})")
    console.print(f"{result['distinct_images']} distinct images, {result['distinct_captions']} distinct captions")
    if result["labels"]:
        console.print(f"{len(result['labels'])} labels, most often: {_counts(result['labels'])}")
    if "tokens" in result:
        tokens = result["tokens"]
        console.print(
            f"captions: {tokens['median']} tokens at the median, {tokens['longest']} at most; "
            f"{tokens['cut']} are cut at {tokens['context_length']}"
        )
    if "images_below_model_size" in result:
        below = result["images_below_model_size"]
        console.print(f"{below['images']} images are smaller than the model's {below['size_px']} pixels")
    widths = {name: width for name, width in result["expected_intervals"].items() if isinstance(width, float)}
    for name, width in widths.items():
        console.print(
            f"test {name}: expect a 95 % interval {width:.2f} wide ({result['expected_intervals']['pairs']} pairs)"
        )
    for note in result["notes"]:
        console.print(f"note: {note}")
    _print_problems(console, result)
    if "worst" in result:
        table = Table("cosine", "row", "file", "caption", box=None, pad_edge=False, title_justify="left")
        for one in result["worst"]:
            table.add_row(f"{one['cosine']:.3f}", str(one["row"]), one["file"], one["caption"][:80])
        console.print(f"\nworst-matching pairs (pictures: {result['contact_sheet']})")
        console.print(table)


def _print_problems(console: Any, result: dict[str, Any]) -> None:
    from rich.table import Table

    from honeclip.data.rows import KINDS, UNUSABLE

    if not result["problems"]:
        console.print("no problems found")
        return
    table = Table("kind", "rows", "row", "file", "reason", box=None, pad_edge=False)
    for kind in KINDS:
        rows = [one for one in result["problems"] if one["kind"] == kind]
        for number, one in enumerate(rows[:SHOWN]):
            name = f"{kind}{' (unusable)' if kind in UNUSABLE else ''}" if number == 0 else ""
            table.add_row(
                name, str(len(rows)) if number == 0 else "", str(one["row"] or ""), one["file"], one["reason"]
            )
        if len(rows) > SHOWN:
            table.add_row("", "", "...", f"and {len(rows) - SHOWN} more", "--json lists all")
    console.print()
    console.print(table)


def _counts(labels: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in list(labels.items())[:6])
    return shown + (", ..." if len(labels) > 6 else "")
