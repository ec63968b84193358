"""A domain: one TOML file that says how a field's images may be changed, how its labels become prompts, and what makes
two of its captions alike.

A domain is data, never code. It is read strictly: every fault of a file is reported at once, an unknown key with the
nearest known one. Names are looked up among the user's own files first (`places.domains()`), then among the presets
beside this file; anything that ends in .toml is a path.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from honeclip import places
from honeclip.domains import probe_files
from honeclip.domains.probe_files import ProbeFile
from honeclip.domains.schema import AugmentRules, Domain, ImageRules, SimilarityRules, TextRules
from honeclip.domains.tree import ancestors
from honeclip.domains.vocabulary import Terms, read
from honeclip.errors import DomainError

_PRESETS = Path(__file__).parent

__all__ = [
    "AugmentRules",
    "Domain",
    "ImageRules",
    "SimilarityRules",
    "TextRules",
    "find",
    "from_mapping",
    "label_text",
    "load",
    "names",
    "prompts",
    "read_probes",
    "read_terms",
    "term_folders",
    "to_mapping",
    "to_toml",
]


def load(name_or_path: str) -> Domain:
    """The domain of that name, or in that file.

    Args:
        name_or_path: a preset's name, the name of a file in `places.domains()`, or a path that ends in .toml. A file
            without a `name` is named after itself. One with `extends` says only what differs from that domain: a table
            such as [augment] key by key, everything else as a whole.

    Raises:
        DomainError: no such domain (the nearest names are shown), `extends` of a domain that itself extends one, or every
            fault of the file or of its term and probe files.
    """
    file = find(name_or_path)
    mapping = _toml(file)
    parent = mapping.pop("extends", None)
    if parent is not None:
        below = _parent(parent, file)
        above = _toml(below)
        if mapping.get("selection", "metrics") != "metrics":
            above.pop("metrics", None)  # weights of a selection that this domain does not have
        mapping = _over(above, mapping)
    loaded = from_mapping({**mapping, "name": mapping.get("name", file.stem)}, str(file))
    folders = term_folders(name_or_path)  # a fault of a file that it names shows before any work is done
    read_terms(loaded, folders)
    read_probes(loaded, folders)
    return loaded


def term_folders(name_or_path: str) -> tuple[Path, ...]:
    """Where the term and probe files of a domain may lie, besides those of honeclip: beside it, beside what it extends."""
    file = find(name_or_path)
    parent = _toml(file).get("extends")
    return (file.parent,) if parent is None else (file.parent, _parent(parent, file).parent)


def read_terms(domain: Domain, folders: Sequence[Path]) -> Terms:
    """The terms of a domain.

    Args:
        domain: `terms` names the files: "terms/medical.toml" is first looked for beside the domain's own file and then
            among those that come with honeclip, so that a copied domain finds them too.
        folders: where the domain's own file lies, and that of the domain it extends: `term_folders(name_or_path)`.

    Raises:
        DomainError: a file is not there, or every fault of the files.
    """
    return read([_beside(domain, "terms", name, folders) for name in domain.terms])


def read_probes(domain: Domain, folders: Sequence[Path]) -> tuple[ProbeFile, ...]:
    """The probes of a domain, a file each.

    Args:
        domain: `probes` names the files: "probes/negation.jsonl" is looked for as a term file is.
        folders: as for `read_terms`.

    Raises:
        DomainError: a file is not there, or every fault of the files.
    """
    return probe_files.read(_beside(domain, "probes", name, folders) for name in domain.probes)


def _beside(domain: Domain, key: str, name: str, folders: Sequence[Path]) -> Path:
    """A file that `terms` or `probes` names: beside the domain's own file, or one that comes with honeclip.

    Raises:
        DomainError: there is none; the message lists those that come with honeclip.
    """
    shipped = _PRESETS / key
    for file in (*(folder / name for folder in folders), shipped / name.removeprefix(f"{key}/")):
        if file.is_file():
            return file
    known = ", ".join(f'"{key}/{file.name}"' for file in sorted(shipped.iterdir()))
    raise DomainError(
        f"domain {domain.name}: {key} = {name!r}: there is no such file in {folders[0]}; put it there, or take one that "
        f"comes with honeclip: {known}"
    )


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
    _check_selection(domain, origin)
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
    """One text a template and word, for one label: first every template with its own words, then with each synonym."""
    words = dict.fromkeys((label_text(domain, label), *domain.label_synonyms.get(label, ())))
    return [template.format(label=text) for text in words for template in domain.templates]


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DomainError(f"domain file {file}: {error}") from None


def _parent(extends: object, file: Path) -> Path:
    """The file of the domain that `file` extends: one level, so that a reader has two files to look at and no more."""
    if not isinstance(extends, str):
        raise DomainError(f'domain {file}:\nextends = {extends!r}: it names one domain, as in extends = "medical"')
    beside = file.parent / extends
    own = extends.endswith(".toml") and not Path(extends).is_absolute() and beside.is_file()
    parent = beside if own else find(extends)
    if parent.resolve() == file.resolve():
        # a user's own medical.toml may extend the preset of that name; any other file would extend itself
        preset = _PRESETS / file.name
        if not preset.is_file() or preset.resolve() == file.resolve():
            raise DomainError(f"domain {file}:\nextends = {extends!r}: a domain cannot extend itself")
        parent = preset
    above = _toml(parent).get("extends")
    if above is not None:
        raise DomainError(
            f"domain {file}:\nextends = {extends!r}: that domain extends {above!r} itself, and there is one level; extend "
            f"{above!r} instead, or copy what `honeclip domains show {extends}` prints"
        )
    return parent


def _over(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a domain says over what the extended one says, without the latter's name."""
    merged = {key: value for key, value in below.items() if key != "name"}
    for key, value in own.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


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


def _check_selection(domain: Domain, origin: str) -> None:
    if domain.selection == "metrics" and not domain.metrics:
        raise DomainError(
            f'domain {origin}:\nselection = "metrics": the domain has no metrics; name some with their weights, for example '
            '[metrics] "R@10" = 1.0 balanced_accuracy = 2.0, a key a line, or choose "retrieval" or "balanced_accuracy"'
        )
    if domain.metrics and domain.selection != "metrics":
        raise DomainError(
            f'domain {origin}:\nselection = "{domain.selection}": the domain has metrics, and that selection does not look at '
            'them; say selection = "metrics", or take the table [metrics] out'
        )


def _fault(loc: tuple[int | str, ...], kind: str, message: str, given: Any) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if kind == "unexpected_keyword_argument":
        near = difflib.get_close_matches(name, _keys(), n=1, cutoff=0.5)
        return f"{name}: unknown key; " + (f"nearest: {near[0]}" if near else f"known: {', '.join(_keys())}")
    if kind == "missing":
        return f"{name}: missing"
    return f"{name} = {given!r}: {message.removeprefix('Value error, ')}"


def _keys() -> list[str]:
    inner = {"similarity": SimilarityRules, "image": ImageRules, "augment": AugmentRules, "text": TextRules}
    return ["extends"] + [
        f"{one.name}.{part.name}" if part else one.name
        for one in fields(Domain)
        for part in (fields(inner[one.name]) if one.name in inner else [None])
    ]
