"""What a domain file may say: its tables and keys, each with its meaning, and what cannot be.

Read strictly: every fault of a file is reported at once. `domain` finds the files and reads them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import regex
from pydantic import AfterValidator, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid")


def _template(text: str) -> str:
    try:
        named = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}") from None
    if "label" not in named or set(named) != {"label"}:
        raise ValueError(f"{text!r} must contain {{label}}, and nothing else in braces")
    return text


def _some(templates: tuple[str, ...]) -> tuple[str, ...]:
    if not templates:
        raise ValueError('at least one template is needed, for example "a photo of {label}"')
    return templates


def _rising(scale: tuple[float, float]) -> tuple[float, float]:
    if scale[0] > scale[1]:
        raise ValueError("the smaller share comes first, for example [0.9, 1.0]")
    return scale


def _several(group: tuple[str, ...]) -> tuple[str, ...]:
    if len(group) < 2:
        raise ValueError('at least two words are needed, for example ["left", "right"]')
    for word in group:
        if not (word[0].isalnum() and word[-1].isalnum()):
            raise ValueError(f"{word!r}: a word begins and ends with a letter or a digit")
    return group


def _pattern(pair: tuple[str, str]) -> tuple[str, str]:
    try:
        regex.compile(pair[0])
        regex.sub(f"(?:{pair[0]})|", pair[1], "")  # which also reads the replacement, for it matches
    except (regex.error, IndexError) as error:
        raise ValueError(f"{pair[0]!r} -> {pair[1]!r} is no regular expression with its replacement: {error}") from None
    if regex.search(pair[0], ""):
        raise ValueError(
            f"{pair[0]!r} matches nothing at all, that is everywhere; make it match at least one character"
        )
    return pair


def _one_or_three(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    if len(windows) not in (0, 1, 3):
        raise ValueError(f"{len(windows)} windows: one for a grey picture, or three, one a colour channel")
    return windows


def _wide(window: str | tuple[float, float]) -> str | tuple[float, float]:
    if not isinstance(window, str) and not window[1] > 0:
        raise ValueError(f"a window is [centre, width], and its width is {window[1]:g}: it must be above 0")
    return window


Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
Words = Annotated[str, Field(min_length=1)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Window = Annotated[Words | tuple[float, float], AfterValidator(_wide)]
"""The name of a preset (`preprocess.windows`), or [centre, width] in the units of the file after its rescale slope."""

TextRule = Literal[
    "deidentification", "sections", "abbreviations", "units", "tolerances", "part_numbers", "formulas", "panels"
]
"""`preprocess.rules` has what each does; they are applied in this order, whatever their order in a file."""


Metric = Literal["R@1", "R@5", "R@10", "median_rank", "accuracy", "balanced_accuracy", "macro_f1"]
"""Of METRICS: of retrieval the mean over both directions, of zero-shot as it is; a median rank counts as 1 / rank."""


@dataclass(frozen=True)
class ImageRules:
    """How an image becomes a square. None: as the model was trained, which is right unless the field says otherwise.

    Attributes:
        resize: "shortest" (side to the size, what sticks out cut off), "longest" (side to the size, the rest filled) or
            "squash".
        fill: grey value 0 to 255 of what "longest" fills.
        windows: of DICOM: one, or three that become the colour channels; () leaves the model's own, and "file" is the
            file's own. See `Window`.
    """

    __pydantic_config__ = _STRICT

    resize: Literal["shortest", "longest", "squash"] | None = None
    fill: Annotated[int, Field(ge=0, le=255)] | None = None
    windows: Annotated[tuple[Window, ...], AfterValidator(_one_or_three)] = ()


@dataclass(frozen=True)
class AugmentRules:
    """What may be done to a training image without making its caption untrue.

    Attributes:
        crop_scale: smallest and largest share of the image's area that a random crop keeps; (1, 1): no crop.
        flip: mirror left and right, in half of the cases.
        rotate_deg: largest rotation either way, in degrees.
        brightness: largest change, as a share: 0.1 multiplies by 0.9 to 1.1.
        contrast: the same for contrast.
        saturation: the same for saturation.
        flip_vertical: mirror top and bottom, in half of the cases.
        quarter_turns: turn by 0, 90, 180 or 270 degrees: for parts without an up and a down.
        gamma: largest change of the exponent, as a share: 0.2 takes exponents of 0.8 to 1.25. Intensity of a detector.
        window: largest shift and stretch of the grey scale, as a share of it: another window of the same slice.
        glare: largest brightness that a soft spot of light adds, as a share of white.
        noise: largest standard deviation of added noise, as a share of white: that of a scanner.
        jpeg: lowest quality of a JPEG the picture is saved as and read back; 100 does not.
        grey: in this share of cases the picture is printed in grey.
    """

    __pydantic_config__ = _STRICT

    crop_scale: Annotated[tuple[Area, Area], AfterValidator(_rising)] = (1.0, 1.0)
    flip: bool = False
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    flip_vertical: bool = False
    quarter_turns: bool = False
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    window: Annotated[float, Field(ge=0, lt=1)] = 0.0
    glare: Share = 0.0
    noise: Share = 0.0
    jpeg: Annotated[int, Field(ge=10, le=100)] = 100
    grey: Share = 0.0


@dataclass(frozen=True)
class TextRules:
    """What is done to every caption, prompt and query of the field before the tokenizer sees it.

    Attributes:
        rules: which of honeclip's own rules hold; `preprocess.rules` has what each does.
        sections: for the rule "sections": headings of a report whose text is kept, in that order.
        replace: own rules: pairs of a regular expression and what takes the place of what it matches.
        long: texts of more tokens than the model takes: "cut" keeps their beginning, "windows" averages the embeddings of
            as many windows as they need.
        sample: what a training step sees of a caption: "whole", or "sentences": now and then only some of its sentences,
            drawn anew each epoch, the first most often.
    """

    __pydantic_config__ = _STRICT

    rules: tuple[TextRule, ...] = ()
    sections: tuple[Words, ...] = ("findings", "impression")
    replace: tuple[Annotated[tuple[Words, str], AfterValidator(_pattern)], ...] = ()
    long: Literal["cut", "windows"] = "cut"
    sample: Literal["whole", "sentences"] = "whole"


@dataclass(frozen=True)
class SimilarityRules:
    """What makes two captions of the field alike. `domains.similarity` turns it into vectors.

    Attributes:
        metric: "terms" (terms of the term files that both hold), "labels" (the common path of their labels) or "text"
            (the cosine of a text tower).
        separator: between the levels of a label that is a path, as in "animals/mammals".
        tree: label -> the label above it, where that is not the path; for "labels".
    """

    __pydantic_config__ = _STRICT

    metric: Literal["terms", "labels", "text"] = "text"
    separator: Words = "/"
    tree: Mapping[str, Words] = field(default_factory=dict)


@dataclass(frozen=True)
class Domain:
    """A field. See the presets beside this file for what each value means in practice.

    Attributes:
        name: as in `--domain`.
        title: for reports.
        language: of the captions and templates, as in "en".
        notes: why the rules are as they are.
        templates: prompts with `{label}`; for zero-shot, and for captions of rows that have only a label.
        label_names: label as in the data -> words that stand in prompts; `label_text` says what a missing one is.
        label_synonyms: label -> further words for it; prompts for zero-shot are made of them too.
        normal_labels: labels that mean "nothing wrong"; empty where the field knows no such thing.
        negative_templates: prompts with `{label}` that say that it is not there, as in "no {label}"; () lets the prompts of the
            normal label stand in.
        suite: the evaluation suite of the field, "" for none.
        selection: how the best checkpoint is found on val. "retrieval": mean of both R@10, and balanced accuracy where
            R@10 is left out; "balanced_accuracy": that, and retrieval where there are no labels; "metrics": the mean of
            `metrics` by their weights; "auto": "retrieval".
        metrics: what counts in the field, with weights: figures of METRICS such as "R@10" and "balanced_accuracy".
        loss: defaults of the section `loss` of a run's config.
        terms: term files, beside the domain's own file or as they come with honeclip; `read_terms` finds and reads them.
        hard_captions: groups of words that make a caption wrong when one is put in another's place.
        probes: files of items that test what a model understands of the field's texts, found as term files are.
        similarity: what makes two captions alike.
        image: how an image becomes a square.
        augment: what may be done to a training image.
        text: what is done to every text.
        sources: key of this file -> where its value comes from.
    """

    __pydantic_config__ = _STRICT

    name: Words
    title: Words
    templates: Annotated[tuple[Annotated[str, AfterValidator(_template)], ...], AfterValidator(_some)]
    language: Words = "en"
    notes: str = ""
    label_names: Mapping[str, Words] = field(default_factory=dict)
    label_synonyms: Mapping[str, tuple[Words, ...]] = field(default_factory=dict)
    normal_labels: tuple[Words, ...] = ()
    negative_templates: tuple[Annotated[str, AfterValidator(_template)], ...] = ()
    suite: Literal["", "medical", "industrial", "scientific"] = ""
    selection: Literal["auto", "retrieval", "balanced_accuracy", "metrics"] = "auto"
    metrics: Mapping[Metric, Weight] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[Words, ...] = ()
    hard_captions: tuple[Annotated[tuple[Words, ...], AfterValidator(_several)], ...] = ()
    probes: tuple[Words, ...] = ()
    similarity: SimilarityRules = field(default_factory=SimilarityRules)
    image: ImageRules = ImageRules()
    augment: AugmentRules = AugmentRules()
    text: TextRules = TextRules()
    sources: Mapping[str, Words] = field(default_factory=dict)
