"""The end of a run: the BEST checkpoint becomes RUN/model, is scored on test, and the report says what was won."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from honeclip.checkpoint import load as checkpoints
from honeclip.config import Config
from honeclip.device.device import Device
from honeclip.embedding import features
from honeclip.evaluation import wording
from honeclip.evaluation.evaluate import UNALIGNED
from honeclip.evaluation.report import Report, write
from honeclip.model import folder as model_folder
from honeclip.model.clip import Clip
from honeclip.model.load import load
from honeclip.monitoring import events
from honeclip.preprocess.rules import NOTHING
from honeclip.training.asked import Asked
from honeclip.training.folder import RunFolder
from honeclip.training.state import stored_size

LIMITS = (
    "Scores are those of the test split named above and say nothing about other data. The model keeps the limits and "
    "biases of what it was made of. On medical images its answers are no clinical evidence."
)


def finish(
    folder: RunFolder,
    config: Config,
    asked: Asked,
    before: Report | None,
    device: Device,
    say: Callable[[str], None],
    began_unaligned: bool,
    frozen: frozenset[str],
) -> Report | None:
    """Writes RUN/model and RUN/report; gives what the model handed over got on test (None where test has no rows)."""
    best = _handed_over(folder, config, say)
    clip = load(str(best), device)
    clip.source = str(folder.path)
    after = None
    if len(asked.pairs):
        # the image body is as it was when the start was scored; folding a head moves a LayerNorm of the text body
        known = features.caches(clip, image="image" in frozen, text=False)
        repeat = shlex.join(["honeclip", "evaluate", str(folder.path), "--data", config.data.path])
        after = asked.report(clip, known, repeat)
    model_folder.save(clip, folder.model, card(clip, config, before, after, best.name))
    if after is not None:
        write(
            folder.report,
            after=after,
            before=before,
            events=events.read(folder.events_file),
            settings=config.model_dump(),
            environment={**after.environment, "checkpoint": best.name},
            repeat=command(config, folder),
            notes=[UNALIGNED] if began_unaligned else [],
            pictures=config.report.pictures,
        )
    return after


def _handed_over(folder: RunFolder, config: Config, say: Callable[[str], None]) -> Path:
    """The checkpoint that becomes RUN/model: BEST, which is the best of the last size of the images.

    Until a size has been scored BEST is still that of the size before, at which RUN/model would be too small: then LATEST.
    """
    best = checkpoints.best_good(folder.checkpoints, say)
    assert best is not None  # the last step is always saved
    if config.resolution.stages != "native":
        latest = checkpoints.latest_good(folder.checkpoints, lambda text: None)
        assert latest is not None
        sizes = [stored_size(checkpoints.read(one)) for one in (best, latest)]
        return best if sizes[0] == sizes[1] else latest
    return best


def command(config: Config, folder: RunFolder) -> str:
    """The command that does the run again: the stored config decides everything."""
    return shlex.join(["honeclip", "fit", "--config", str(folder.config_file), "--out", "NEW_FOLDER"])


def card(clip: Clip, config: Config, before: Report | None, after: Report | None, checkpoint: str) -> str:
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
        f"Fine-tuned with honeclip; checkpoint {checkpoint}. Images are seen at {clip.preprocess.size_px} px, texts are cut "
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


def _cell(figure: Mapping[str, float] | None) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" if figure else ""
