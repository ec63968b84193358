"""A tree of DICOM files joined with a table of reports: one row a chosen slice, with the report's text as its caption.

Nothing of a header is written as it stands. The patient's identity becomes a hash that binds rows to one split, the series
a hash as well, modality and body part are taken only where they are words of the standard. The key that joins a file with
its report is compared and forgotten.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from honeclip.data import captions, inspect_images, reports
from honeclip.data.found import Found, shortened
from honeclip.data.inspect_images import Fault
from honeclip.data.reports import Join, Report
from honeclip.domains.domain import Domain
from honeclip.errors import DataError
from honeclip.preprocess import dicom_header
from honeclip.preprocess.dicom_header import BODY_PARTS, MODALITIES, Header

STACKED = ("CT", "MR", "PT", "NM")
"""Modalities whose series are stacks of slices. In others a series holds views, and each is a picture of its own."""

_WANTED = {
    0x00080060: "Modality",
    0x00100020: "PatientID",
    0x00180015: "BodyPartExamined",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200013: "InstanceNumber",
    0x00200032: "ImagePositionPatient",
    0x00200037: "ImageOrientationPatient",
    0x00280301: "BurnedInAnnotation",
}
_UNIFORM = re.compile(r"uniform:([1-9]\d{0,5})")


@dataclass(frozen=True)
class _File:
    """A picture with a key."""

    path: Path
    header: Header
    key: str


def read(
    source: Path, files: Sequence[Path], asked: Join, columns: Mapping[str, str], domain: Domain | None
) -> tuple[list[Found], list[str]]:
    """A row for each chosen slice and each text that its report has, and what was left out.

    Args:
        source: the tree.
        files: its images; what is no DICOM is counted.
        asked: how they find their reports.
        columns: "caption", "label", "split" -> column of the table.
        domain: gives captions to labels where the table has no text.

    Raises:
        DataError: the rule for slices, the key or the table cannot be used, or no file has a report.
    """
    count = _slice_count(asked.slices)
    name, _, column = asked.key.partition("=")
    tag, keyword = dicom_header.tag_of(name)
    found = reports.read(asked.table, keyword, column.strip(), columns)
    texts, notes = found.by_key, list(found.notes)
    headers, without_key, bad = _headers(files, tag, keyword)
    unmatched = [one for one in headers if one.key not in texts]
    series: dict[str, list[_File]] = defaultdict(list)
    for one in headers:
        if one.key in texts:
            series[_series(one, asked.salt)].append(one)
    if not series:
        raise DataError(_no_match(source, asked, headers, texts, without_key, bad))
    chosen = {name: _slices(members, count) for name, members in series.items()}
    facts = inspect_images.inspect([one.path for members in chosen.values() for one in members])
    rows: list[Found] = []
    used: set[str] = set()
    for name, members in chosen.items():
        for one in members:
            fact = facts[one.path]
            if isinstance(fact, Fault):
                bad[fact.reason].append(one.path)
                continue
            used.add(one.key)
            rows += [_found(one, report, name, asked.salt, domain) for report in texts[one.key]]
    notes += _said(texts, used, unmatched, without_key, keyword, asked)
    notes += _said_of_slices(series, chosen, asked.slices)
    notes += [f"{_files(len(paths))} left out: {why}{_names(paths, asked.quiet)}" for why, paths in bad.items()]
    patients: dict[str, set[str]] = defaultdict(set)
    for one in (one for some in chosen.values() for one in some):
        patients[one.key].add(_patient(one))
    shared = sum(len(some) > 1 for some in patients.values())
    if shared:
        notes.append(
            f"{shared} keys belong to several patients: one report was given to all of them; choose a --key that is unique"
        )
    burned = sum(one.header.text("BurnedInAnnotation").upper() == "YES" for some in chosen.values() for one in some)
    if burned:
        notes.append(f"{burned} of the pictures say that text is burned into them (0028,0301), which may name somebody")
    if not all(one.header.text("PatientID") for some in chosen.values() for one in some):
        notes.append("some files have no PatientID (0010,0020): their study, or else the file, is the group")
    return rows, notes


def hashed(kind: str, salt: str, text: str) -> str:
    """16 hex digits of SHA-256: the same for the same text and salt. See docs/prepare.md for what it keeps secret."""
    return hashlib.sha256(f"{kind}\0{salt}\0{text}".encode()).hexdigest()[:16]


def _slice_count(rule: str) -> int:
    """How many slices of a series are taken; 0: all."""
    uniform = _UNIFORM.fullmatch(rule)
    if rule not in ("middle", "all") and uniform is None:
        raise DataError(f"--slices {rule}: it is middle, all, or uniform:N for N slices at equal distances")
    return int(uniform[1]) if uniform else int(rule == "middle")


def _headers(files: Sequence[Path], tag: int, keyword: str) -> tuple[list[_File], list[Path], dict[str, list[Path]]]:
    """Pictures with a key, pictures without, and reason -> files that are none."""
    wanted = {**_WANTED, tag: keyword}
    good, without, bad = [], [], defaultdict(list)
    for path in files:
        try:
            header = dicom_header.read(path, wanted)
        except DataError as error:
            bad[str(error)].append(path)
            continue
        if not header.has_pixels:
            bad["no pixel data (a report, a plan, a structure set?)"].append(path)
        elif key := header.text(keyword):
            good.append(_File(path, header, key))
        else:
            without.append(path)
    return good, without, bad


def _patient(one: _File) -> str:
    """What binds rows to one split: the patient, else the study, else the file."""
    for name in ("PatientID", "StudyInstanceUID"):
        if one.header.text(name):
            return f"{name} {one.header.text(name)}"
    return f"file {one.path}"


def _series(one: _File, salt: str) -> str:
    uid = one.header.text("SeriesInstanceUID")
    return hashed("series", salt, f"{_patient(one)} {uid or one.path}")


def _slices(members: Sequence[_File], count: int) -> list[_File]:
    """The chosen files of a series, in their order in space; all of them where it is no stack."""
    ordered = _ordered(members)
    stack = all(one.header.text("Modality").upper() in STACKED for one in members)
    if not count or not stack or len(ordered) <= count:
        return ordered
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]


def _ordered(members: Sequence[_File]) -> list[_File]:
    """Along their normal (PS3.3 C.7.6.2.1.1) where all lie parallel, else by Instance Number, else by name."""
    by_name = sorted(members, key=lambda one: one.path.as_posix())
    numbers = [one.header.numbers("InstanceNumber", 1) for one in by_name]
    places = [one.header.numbers("ImagePositionPatient", 3) for one in by_name]
    turns = [one.header.numbers("ImageOrientationPatient", 6) for one in by_name]
    turned = turns[0]
    if turned and all(places) and all(_parallel(turned, other) for other in turns):
        (a, b, c), (d, e, f) = turned[:3], turned[3:]
        normal = (b * f - c * e, c * d - a * f, a * e - b * d)
        along = [(round(sum(x * n for x, n in zip(place, normal, strict=True)), 4),) for place in places]
    elif all(numbers):
        along = [(number[0],) for number in numbers]
    else:
        return by_name
    order = sorted(range(len(by_name)), key=lambda at: (along[at], numbers[at], at))
    return [by_name[at] for at in order]


def _parallel(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(abs(x - y) < 0.01 for x, y in zip(one, other, strict=True))


def _found(one: _File, report: Report, series: str, salt: str, domain: Domain | None) -> Found:
    more = {
        "modality": one.header.known("Modality", MODALITIES),
        "body_part": one.header.known("BodyPartExamined", BODY_PARTS),
        "series": series,
    }
    caption = report.caption or captions.from_template(domain, report.labels, series)
    return Found(one.path, caption, report.labels, report.split, hashed("patient", salt, _patient(one)), more)


def _said(
    texts: Mapping[str, list[Report]],
    used: set[str],
    unmatched: Sequence[_File],
    without_key: Sequence[Path],
    keyword: str,
    asked: Join,
) -> list[str]:
    notes = []
    alone = len(texts) - len(used)
    if alone:
        notes.append(f"{alone} of {len(texts)} reports have no picture in the tree")
    if unmatched:
        names = _names([one.path for one in unmatched], asked.quiet)
        notes.append(f"{_files(len(unmatched))} left out: they have no report{names}")
    if without_key:
        notes.append(f"{_files(len(without_key))} left out: they have no {keyword}{_names(without_key, asked.quiet)}")
    several = sum(len(texts[key]) > 1 for key in used)
    if several:
        notes.append(f"{several} keys have several reports: their pictures have a row for each")
    return notes


def _said_of_slices(
    series: Mapping[str, Sequence[_File]], chosen: Mapping[str, Sequence[_File]], rule: str
) -> list[str]:
    cut = [name for name, members in series.items() if len(chosen[name]) < len(members)]
    if not cut:
        return []
    have, taken = sum(len(series[name]) for name in cut), sum(len(chosen[name]) for name in cut)
    return [f"of {len(cut)} series with {have} slices {taken} were taken (--slices {rule})"]


def _files(count: int) -> str:
    return "1 DICOM file was" if count == 1 else f"{count} DICOM files were"


def _names(paths: Sequence[Path], quiet: bool) -> str:
    return "" if quiet else f" ({shortened(paths)})"


def _no_match(
    source: Path,
    asked: Join,
    headers: Sequence[_File],
    texts: Mapping[str, list[Report]],
    without_key: Sequence[Path],
    bad: Mapping[str, list[Path]],
) -> str:
    """No value is shown, for accession numbers lead to people."""
    why = [f"{len(headers)} DICOM pictures with a key, {len(texts)} reports with one and a text"]
    if without_key:
        why.append(f"{len(without_key)} pictures without a key")
    why += [f"{len(paths)} files: {reason}" for reason, paths in bad.items()]
    short = {key.lstrip("0").removesuffix(".0") for key in texts}
    if any(one.key.lstrip("0") in short for one in headers):
        why.append("they would agree without leading zeros, which a spreadsheet removes: save that column as text")
    return f"{source}: no picture has a report in {asked.table} by the key {asked.key}: {'; '.join(why)}"
