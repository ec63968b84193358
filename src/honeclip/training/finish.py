"""The end of a run: the BEST checkpoint becomes RUN/model, is scored on test, and the report says what was won."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from honeclip.checkpoint import load as checkpoints
from honeclip.checkpoint.save import BEST, named
from honeclip.config import Config
from honeclip.embedding import features
from honeclip.evaluation import calibrated, gain, wording
from honeclip.evaluation.answers import paired_difference
from honeclip.evaluation.evaluate import UNALIGNED
from honeclip.evaluation.forgetting import Between, Forgetting
from honeclip.evaluation.report import Report, write
from honeclip.model import folder as model_folder
from honeclip.model import resize
from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.monitoring import events, rules
from honeclip.monitoring.terminal import Progress
from honeclip.preprocess.rules import NOTHING
from honeclip.training import folder as folders
from honeclip.training import interpolation, start
from honeclip.training.asked import Asked
from honeclip.training.folder import RunFolder
from honeclip.training.forgetting import told
from honeclip.training.guard import NOTHING_TO_FORGET, Guard
from honeclip.training.prepared import Prepared, Say
from honeclip.training.state import Position, stored_size

LIMITS = (
    "Scores are those of the test split named above and say nothing about other data. The model keeps the limits and "
    "biases of what it was made of. On medical images its answers are no clinical evidence."
)


def finish(
    folder: RunFolder,
    prepared: Prepared,
    before: Report | None,
    known_before: Report | None,
    position: Position,
    frozen: frozenset[str],
    say: Say,
    progress: Progress,
) -> tuple[Report | None, Report | None]:
    """Writes RUN/model, RUN/report, and where there is a guard RUN/interpolated; gives what the start and the model that is
    handed over got on test, the guard's METRICS among it.

    Args:
        folder: of the run.
        prepared: what was prepared.
        before: what the start got on test.
        known_before: what it got on the guard's test split.
        position: where the run ended.
        frozen: towers whose bodies never learned.
        say: told what is handed over where that is not BEST.
        progress: of the models between start and end.
    """
    config, guard, asked = prepared.config, prepared.guard, prepared.asked("test")
    clip, checkpoint, is_start = _handed_over(folder, prepared, position, say)
    name = "start" if is_start else checkpoint.name
    clip.source = str(folder.path)
    after, elsewhere, found = None, None, None
    # the image body is as it was when the start was scored; folding a head moves a LayerNorm of the text body
    known = features.caches(clip, image="image" in frozen, text=False)
    if len(asked.pairs):
        repeat = shlex.join(["honeclip", "evaluate", str(folder.path), "--data", config.data.path])
        after = asked.report(clip, known, repeat)
    if guard is not None and before and after and known_before:
        elsewhere = guard.test.report(clip, known)
        between = None if is_start else _between(folder, prepared, clip, checkpoint, frozen, say, progress)
        found = _forgetting(guard, asked, (before, after), (known_before, elsewhere), between)
        before = replace(before, metrics=told(before.metrics, guard, known_before.metrics))
        after = replace(after, metrics=told(after.metrics, guard, elsewhere.metrics))
    val = prepared.asked("val").pairs
    clip.calibration = calibrated.of_validation(clip, asked.domain, asked.labels, val, asked.data_name, known)
    of = "the model as the run began" if is_start else f"checkpoint {name}"
    model_folder.save(clip, folder.model, card(clip, config, before, after, of, found))
    if after is not None:
        told_events = events.read(folder.events_file)
        paired = (
            paired_difference(known_before.answers, elsewhere.answers, elsewhere.seed)
            if known_before and elsewhere
            else None
        )
        write(
            folder.report,
            after=after,
            before=before,
            events=events.course(told_events),
            sick=rules.findings(told_events),
            settings=config.model_dump(),
            environment={**after.environment, "checkpoint": name},
            repeat=command(config, folder),
            notes=_notes(prepared),
            pictures=config.report.pictures,
            forgetting=found,
            differences={"forgetting": {guard.name: paired}} if guard and paired else None,
        )
    return before, after


def _handed_over(folder: RunFolder, prepared: Prepared, position: Position, say: Say) -> tuple[Clip, Path, bool]:
    """The model that becomes RUN/model, its checkpoint, and whether it is the start itself.

    BEST, which is the best of the last size of the images. Until a size has been scored BEST is still that of the size
    before, at which RUN/model would be too small: then LATEST. Where the run ended because too much was forgotten, LATEST is
    no choice: then BEST of whatever size, or else the start.
    """
    config = prepared.config
    best = checkpoints.best_good(folder.checkpoints, say)
    assert best is not None  # the last step is always saved
    if position.forgot and named(folder.checkpoints, BEST) is None:
        say(
            "no evaluation kept within evaluate.max_forgetting, so RUN/model is the model as the run began; a lower train.lr "
            "or a shorter evaluate.every finds one in between"
        )
        weights = checkpoints.read(best).tensors["weights"]
        return start.model(folder.start, weights, prepared.device), best, True
    if config.resolution.stages != "native" and not position.forgot:
        latest = checkpoints.latest_good(folder.checkpoints, lambda text: None)
        assert latest is not None
        sizes = [stored_size(checkpoints.read(one)) for one in (best, latest)]
        best = best if sizes[0] == sizes[1] else latest
    return load(str(best), prepared.device), best, False


def _between(
    folder: RunFolder,
    prepared: Prepared,
    end: Clip,
    checkpoint: Path,
    frozen: frozenset[str],
    say: Say,
    progress: Progress,
) -> Between | None:
    """Sweeps over the models between start and end, and writes the chosen one and the figures; None without a val split."""
    config, guard, val, test = prepared.config, prepared.guard, prepared.asked("val"), prepared.asked("test")
    if guard is None or not len(val.pairs):
        say("there is no val split to choose an alpha on, so no model between start and end was made")
        return None
    begun = start.model(folder.start, checkpoints.read(checkpoint).tensors["weights"], prepared.device)
    if begun.preprocess.size_px != end.preprocess.size_px:
        resize.resize(begun, end.preprocess.size_px)
    begun.source = f"{folder.path} (start)"
    counter = progress.counter("models between start and end")
    swept = interpolation.sweep(begun, end, val, test, guard, frozen, counter)
    chosen = swept.between.alphas[swept.between.chosen]
    gains, lost = swept.between.gains("val"), swept.between.forgotten("val")
    say(
        f"between start and end: alpha {chosen:g} has {gains[swept.between.chosen]:+.3f} of {gains[-1]:+.3f} gained and "
        f"{lost[swept.between.chosen]:.3f} of {lost[-1]:.3f} forgotten on val"
    )
    words = f"weights at alpha {chosen:g} between the start (0) and the end (1) of the run (WiSE-FT)"
    swept.clip.source = str(folder.interpolated)
    after = replace(swept.field, metrics=told(swept.field.metrics, guard, swept.elsewhere.metrics))
    model_folder.save(swept.clip, folder.interpolated, card(swept.clip, config, None, after, words))
    folders.write_json(folder.report / "interpolation.json", swept.between.to_json())
    return swept.between


def _forgetting(
    guard: Guard, asked: Asked, field: tuple[Report, Report], other: tuple[Report, Report], between: Between | None
) -> Forgetting:
    """Gain and loss, before and after each."""
    old, new = (gain.scored(one.metrics, one.answers, asked.domain, one.seed) for one in field)
    known, now = (gain.scored(one.metrics, one.answers, guard.test.domain, one.seed) for one in other)
    return Forgetting(asked.data_name, guard.name, (old, known), (new, now), guard.limit, between)


def _notes(prepared: Prepared) -> list[str]:
    notes = [UNALIGNED] if prepared.begins_unaligned else []
    if guard := prepared.guard:
        notes += [f"{note[:1].upper()}{note[1:]}." for note in guard.notes]
        notes += [NOTHING_TO_FORGET.format(name=guard.name)] if prepared.begins_unaligned else []
    return notes


def command(config: Config, folder: RunFolder) -> str:
    """The command that does the run again: the stored config decides everything."""
    return shlex.join(["honeclip", "fit", "--config", str(folder.config_file), "--out", "NEW_FOLDER"])


def card(
    clip: Clip,
    config: Config,
    before: Report | None,
    after: Report | None,
    of: str,
    forgetting: Forgetting | None = None,
) -> str:
    """The model card (README.md of the model folder): base, data, settings, scores with intervals, limits, licence."""
    licence = "apache-2.0" if clip.base.licence.startswith("Apache-2.0") else "other"
    lines = [
        "---",
        "library_name: open_clip",
        "pipeline_tag: zero-shot-image-classification",
        f"license: {licence}",
        "tags: [clip, honeclip]",
        "---",
        "",
        f"# {clip.base.name}, fine-tuned on {after.metrics['data'] if after else 'own data'}",
        "",
        f"Fine-tuned with honeclip; {of}. Images are seen at {clip.preprocess.size_px} px, texts are cut "
        f"at {clip.preprocess.context_length} tokens.",
        *_text_rules_note(clip),
        "",
        "## Use",
        "",
        "```python",
        "import open_clip",
        'model, preprocess = open_clip.create_model_from_pretrained("local-dir:FOLDER")',
        'tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")',
        "```",
        *_text_tower_note(clip),
        "",
        "## Scores",
        "",
        *_scores(before, after),
        *_elsewhere(after, forgetting),
        "",
        "## Settings",
        "",
        f"Domain {(clip.domain or {}).get('name', 'general')}. What differs from the defaults stands in the run's run.toml.",
        "",
        "| key | value |",
        "|---|---|",
        *(f"| {section}.{key} | {value} |" for section, key, value in _settings(config)),
        "",
        "## Limits",
        "",
        LIMITS,
        "",
        "## Licence",
        "",
        f"The base, {clip.base.name}: {clip.base.licence}. The fine-tuned weights are derived from it.",
        "",
    ]
    return "\n".join(lines)


def _text_tower_note(clip: Clip) -> list[str]:
    if clip.config["text_cfg"].get("hf_model_name") != "./":
        return []
    return [
        "",
        "The text tower is one of transformers' and is found in the working directory: run this in the folder and",
        'name it `"local-dir:."`.',
    ]


def _text_rules_note(clip: Clip) -> list[str]:
    if clip.preprocess.text == NOTHING:
        return []
    names = ", ".join([*clip.preprocess.text.rules, *(["own replacements"] if clip.preprocess.text.replace else [])])
    return [
        "",
        f"It was trained on texts after the domain's text rules ({names}). honeclip applies them by itself; open_clip alone",
        "does not, and sees the few texts that they change as they were written.",
    ]


def _settings(config: Config) -> list[tuple[str, str, Any]]:
    # of the data its name is enough: where it lies on somebody's machine is no business of a model card
    return [
        (section, key, value)
        for section, table in config.model_dump().items()
        if section in ("model", "train", "loss", "resolution")
        for key, value in table.items()
    ]


def _scores(before: Report | None, after: Report | None) -> list[str]:
    """A table of figures with their 95 % intervals."""
    if after is None:
        return ["The data has no test split, so nothing was scored."]
    lines = [
        f"On {after.metrics['pairs']} held-out pairs of {after.metrics['data']}, with 95 % bootstrap intervals:",
        "",
    ]
    lines += ["| figure | before | after |", "|---|---|---|"]
    figures: list[tuple[str, tuple[str, ...]]] = wording.shares(after.metrics)
    for name, path in figures:
        cells = [_cell(wording.at(one.metrics if one else None, path)) for one in (before, after)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return lines


def _elsewhere(after: Report | None, forgetting: Forgetting | None) -> list[str]:
    """What is known of data that the model was not trained on."""
    known: Mapping[str, Any] = after.metrics.get("forgetting", {}) if after else {}
    lines: list[str] = []
    for name, metrics in known.items():
        lines += ["", f"On {metrics['pairs']} pairs of {name}, which it was not fine-tuned on:", ""]
        if forgetting is not None:
            old, new = (one[1] for one in (forgetting.before, forgetting.after))
            lines += ["| figure | before | after |", "|---|---|---|"]
            lines.append(f"| {new.words} | {_cell(old.figure())} | {_cell(new.figure())} |")
        else:
            lines += ["| figure | after |", "|---|---|"]
            lines += [f"| {one} | {_cell(wording.at(metrics, path))} |" for one, path in wording.shares(metrics)]
    return lines


def _cell(figure: Mapping[str, float] | None) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" if figure else ""
