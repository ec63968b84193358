"""A domain: one TOML file that says how a field's images may be changed, how its labels become prompts, and what makes
two of its captions alike.

A domain is data, never code. It is read strictly: every fault of a file is reported at once, an unknown key with the
nearest known one. Names are looked up among the user's own files first (`places.domains()`), then among the presets
beside this file; anything that ends in .toml is a path.
"""

from __future__ import annotations

import difflib
import json
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from honeclip import places
from honeclip.domains.tree import ancestors
from honeclip.domains.vocabulary import Terms, read
from honeclip.errors import DomainError

_STRICT = ConfigDict(extra="forbid")
_PRESETS = Path(__file__).parent


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


Share = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]
Words = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class ImageRules:
    """How an image becomes a square. None: as the model was trained, which is right unless the field says otherwise.

    Attributes:
        resize: "shortest" (side to the size, what sticks out cut off), "longest" (side to the size, the rest filled) or
            "squash".
        fill: grey value 0 to 255 of what "longest" fills.
    """

    __pydantic_config__ = _STRICT

    resize: Literal["shortest", "longest", "squash"] | None = None
    fill: Annotated[int, Field(ge=0, le=255)] | None = None


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
    """

    __pydantic_config__ = _STRICT

    crop_scale: Annotated[tuple[Area, Area], AfterValidator(_rising)] = (1.0, 1.0)
    flip: bool = False
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0


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
        normal_labels: labels that mean "nothing wrong"; empty where the field knows no such thing.
        selection: how the best checkpoint is found on val. "retrieval": mean of both R@10, and balanced accuracy where
            R@10 is left out; "balanced_accuracy": that, and retrieval where there are no labels; "auto": "retrieval".
        terms: term files, beside the domain's own file or as they come with honeclip; `read_terms` finds and reads them.
        hard_captions: groups of words that make a caption wrong when one is put in another's place.
        similarity: what makes two captions alike.
        image: how an image becomes a square.
        augment: what may be done to a training image.
    """

    __pydantic_config__ = _STRICT

    name: Words
    title: Words
    templates: Annotated[tuple[Annotated[str, AfterValidator(_template)], ...], AfterValidator(_some)]
    language: Words = "en"
    notes: str = ""
    label_names: Mapping[str, Words] = field(default_factory=dict)
    normal_labels: tuple[Words, ...] = ()
    selection: Literal["auto", "retrieval", "balanced_accuracy"] = "auto"
    terms: tuple[Words, ...] = ()
    hard_captions: tuple[Annotated[tuple[Words, ...], AfterValidator(_several)], ...] = ()
    similarity: SimilarityRules = field(default_factory=SimilarityRules)
    image: ImageRules = ImageRules()
    augment: AugmentRules = AugmentRules()


def load(name_or_path: str) -> Domain:
    """The domain of that name, or in that file.

    Args:
        name_or_path: a preset's name, the name of a file in `places.domains()`, or a path that ends in .toml. A file
            without a `name` is named after itself.

    Raises:
        DomainError: no such domain (the nearest names are shown), or every fault of its file or of its term files.
    """
    file = find(name_or_path)
    try:
        mapping = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DomainError(f"domain file {file}: {error}") from None
    loaded = from_mapping({"name": file.stem, **mapping}, str(file))
    read_terms(loaded, file.parent)  # a fault of a term file shows before any work is done
    return loaded


def read_terms(domain: Domain, folder: Path) -> Terms:
    """The terms of a domain.

    Args:
        domain: `terms` names the files: "terms/medical.toml" is first looked for beside the domain's own file and then
            among those that come with honeclip, so that a copied domain finds them too.
        folder: where the domain's own file lies; `find(name_or_path).parent`.

    Raises:
        DomainError: a file is not there, or every fault of the files.
    """
    files: list[Path] = []
    for name in domain.terms:
        places_of_it = [folder / name, _PRESETS / "terms" / name.removeprefix("terms/")]
        there = [file for file in places_of_it if file.is_file()]
        if not there:
            shipped = ", ".join(f'"terms/{file.name}"' for file in sorted((_PRESETS / "terms").glob("*.toml")))
            raise DomainError(
                f"domain {domain.name}: terms = {name!r}: there is no such file in {folder}; put it there, or take one that "
                f"comes with honeclip: {shipped}"
            )
        files.append(there[0])
    return read(files)


def names() -> list[str]:
    """Every domain that `load` knows by name: the presets and the user's own, sorted."""
    own = places.domains()
    found = {file.stem for folder in (_PRESETS, own) if folder.is_dir() for file in folder.glob("*.toml")}
    return sorted(found)


def find(name_or_path: str) -> Path:
    """The file that `load` would read.

    Raises:
        DomainError: there is none.
    """
    if name_or_path.endswith(".toml"):
        file = Path(name_or_path)
        if not file.is_file():
            raise DomainError(f"domain file {file}: there is no such file; `honeclip domains` lists the known names")
        return file
    known = names()
    if name_or_path not in known:
        near = difflib.get_close_matches(name_or_path, known, n=3, cutoff=0.5) or known
        raise DomainError(
            f"unknown domain {name_or_path!r}; nearest: {', '.join(near)}. An own domain is a path ending in .toml, "
            f"or a file in {places.domains()}"
        )
    own = places.domains() / f"{name_or_path}.toml"
    return own if own.is_file() else _PRESETS / f"{name_or_path}.toml"


def from_mapping(mapping: Mapping[str, Any], origin: str) -> Domain:
    """The domain that a mapping describes, as read from TOML or JSON.

    Args:
        mapping: keys of `Domain`; a missing key has its default, `name`, `title` and `templates` have none.
        origin: where it came from, for the message.

    Raises:
        DomainError: every fault at once; an unknown key with the nearest known one.
    """
    try:
        # Strict JSON knows text from numbers and true from 1, and takes a list for a tuple.
        domain = TypeAdapter(Domain).validate_json(json.dumps(dict(mapping), default=str), strict=True)
    except ValidationError as error:
        faults = "\n".join(_fault(one["loc"], one["type"], one["msg"], one["input"]) for one in error.errors())
        raise DomainError(f"domain {origin}:\n{faults}") from None
    _check_similarity(domain, origin)
    return domain


def to_mapping(domain: Domain) -> dict[str, Any]:
    """The domain as plain values that JSON and TOML can say; `from_mapping` gives it back."""
    values: dict[str, Any] = TypeAdapter(Domain).dump_python(domain, mode="json", exclude_none=True)
    return values


def to_toml(domain: Domain) -> str:
    """The domain as a TOML file that `load` reads back."""
    return tomli_w.dumps(to_mapping(domain), multiline_strings=True)


def label_text(domain: Domain, label: str) -> str:
    """The words for a label: the domain's own, else the label itself with `_` and `/` read as spaces."""
    own = domain.label_names.get(label)
    return own if own is not None else " ".join(label.replace("_", " ").replace("/", " ").split())


def prompts(domain: Domain, label: str) -> list[str]:
    """One text a template, for one label."""
    text = label_text(domain, label)
    return [template.format(label=text) for template in domain.templates]


def _check_similarity(domain: Domain, origin: str) -> None:
    rules = domain.similarity
    if rules.metric == "terms" and not domain.terms:
        raise DomainError(
            f'domain {origin}:\nsimilarity.metric = "terms": the domain has no terms; name a list of them, for example '
            'terms = ["terms/medical.toml"], or choose "labels" or "text"'
        )
    try:
        for label in rules.tree:
            ancestors(label, rules.tree, rules.separator)
    except DomainError as error:
        raise DomainError(f"domain {origin}:\n{error}") from None


def _fault(loc: tuple[int | str, ...], kind: str, message: str, given: Any) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if kind == "unexpected_keyword_argument":
        near = difflib.get_close_matches(name, _keys(), n=1, cutoff=0.5)
        return f"{name}: unknown key; " + (f"nearest: {near[0]}" if near else f"known: {', '.join(_keys())}")
    if kind == "missing":
        return f"{name}: missing"
    return f"{name} = {given!r}: {message.removeprefix('Value error, ')}"


def _keys() -> list[str]:
    inner = {"similarity": SimilarityRules, "image": ImageRules, "augment": AugmentRules}
    return [
        f"{one.name}.{part.name}" if part else one.name
        for one in fields(Domain)
        for part in (fields(inner[one.name]) if one.name in inner else [None])
    ]
