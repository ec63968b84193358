"""DICOM trees with tables of reports: pydicom's own tree, and made ones for what that lacks."""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter

import numpy as np
import pydicom
import pytest
from dicom_files import made, stored
from PIL import Image

from honeclip.data import pairs
from honeclip.data.prepare import prepare
from honeclip.data.reports import Join
from honeclip.domains.domain import Domain, ImageRules
from honeclip.errors import DataError
from honeclip.preprocess.images import decode

TREE = stored("CT_small").parent / "dicomdirtests"


def table(path, rows, header="AccessionNumber,caption"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def written(out):
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def slice_of(**elements):
    """A CT slice of 8 x 8, no two alike."""
    slice_of.count += 1
    values = np.random.default_rng(slice_of.count).integers(0, 2000, (8, 8)).astype(np.uint16)
    given = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "AccessionNumber": "A1", "PatientID": "P1"}
    return made(values, **{**given, **elements})


slice_of.count = 0


def test_pydicoms_own_tree(tmp_path):
    """Three patients' folders, 31 pictures, of which two have no report; 50 files without pixels and eight indexes."""
    reports = table(tmp_path / "r.csv", ["2,a head", "134,a spine", "999,nobody"])
    done = prepare(TREE, tmp_path / "out", reports=Join(reports))
    rows = written(tmp_path / "out")
    names = sorted(row["image"].split("/")[-1] for row in rows)
    # two series lie along an axis, scouts and a turning projection go by number, each radiograph is a series of its own
    parallel, numbered, alone = ["17166", "2693"], ["6924", "6605", "5011", "4467"], ["4919", "5641"]
    assert names == sorted([*parallel, *numbered, *alone, "6154", "6247", "6278"])
    assert Counter(row["modality"] for row in rows) == {"CR": 3, "CT": 3, "MR": 5}
    assert Counter(row["body_part"] for row in rows) == {"CSPINE": 3, "HEAD": 1, "": 7}
    assert len({row["group"] for row in rows}) == 2
    assert len({row["series"] for row in rows}) == 11
    said = " / ".join(done.notes)
    for words in (
        "1 of 3 reports have no picture",
        "2 DICOM files were left out: they have no report",
        "no pixel data",
        "of 6 series with",
        "1 keys belong to several patients",
    ):
        assert words in said, words
    found = pairs.load(tmp_path / "out", max_bad_fraction=0.0)
    assert len(found) == 11
    everything = prepare(TREE, tmp_path / "all", reports=Join(reports, slices="all"))
    assert everything.rows == 29
    two = prepare(TREE, tmp_path / "two", reports=Join(reports, slices="uniform:2"))
    assert two.rows == 3 + 2 * 6 + 2
    again = prepare(TREE, tmp_path / "out", reports=Join(reports), overwrite=True)
    assert written(tmp_path / "out") == rows
    assert again.notes == done.notes


def test_slices_are_ordered_in_space_else_by_number_else_by_name(tmp_path):
    def middle(out, elements):
        folder = tmp_path / out
        folder.mkdir()
        for at, more in enumerate(elements):
            (folder / f"{at}.dcm").write_bytes(slice_of(SeriesInstanceUID="1.2", **more))
        prepare(folder, folder / "out", reports=Join(table(folder / "r.csv", ["A1,a text"])))
        (row,) = written(folder / "out")
        return int(row["image"].removeprefix("../").removesuffix(".dcm"))

    turned = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}  # slices lie one behind the other along x
    places = [{"ImagePositionPatient": [x, 5 * x * x, x], **turned} for x in (40, -7, 9.5, 100, 3)]
    numbers = [{"InstanceNumber": number} for number in (5, 1, 30, 4, 2)]
    assert middle("space", [{**a, **b} for a, b in zip(places, numbers, strict=True)]) == 2
    assert middle("number", numbers) == 3
    assert middle("name", [{}] * 5) == 2
    assert middle("a number is missing", [*numbers[:4], {}]) == 2
    assert middle("four", numbers[:4]) == 0
    assert middle("a place is missing", [*({**a, **b} for a, b in zip(places, numbers, strict=True)), {}]) == 3


def test_views_of_a_radiograph_are_no_slices(tmp_path):
    for at in range(3):
        (tmp_path / f"{at}.dcm").write_bytes(slice_of(Modality="DX", SeriesInstanceUID="1.2", InstanceNumber=at))
    done = prepare(tmp_path, tmp_path / "out", reports=Join(table(tmp_path / "r.csv", ["A1,two views and a third"])))
    assert done.rows == 3
    assert len({row["series"] for row in written(tmp_path / "out")}) == 1


def test_bad_files_fail_alone_with_their_reasons(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    good = slice_of()
    files = {
        "good": good,
        "1.2.840.113": slice_of(AccessionNumber="A2"),
        "flat.dcm": slice_of(RescaleSlope=0),
        "cut.dcm": good[:-20],
        "text.dcm": b"no DICOM",
        "no key.dcm": slice_of(AccessionNumber=""),
        "report.dcm": stored("test-SR").read_bytes(),
        "unread.dcm": stored("JPEG2000").read_bytes().replace(b"1.2.840.10008.1.2.4.91", b"1.2.840.10008.1.2.4.99"),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    rows = ["A1,one", "A1,another of the same", "A1,one", "A2,two", ",no key", "A9,", "A3,nobody"]
    done = prepare(folder, tmp_path / "out", reports=Join(table(tmp_path / "r.csv", rows)))
    captions = sorted((row["image"].split("/")[-1], row["caption"]) for row in written(tmp_path / "out"))
    assert captions == [("1.2.840.113", "two"), ("good", "another of the same"), ("good", "one")]
    said = "\n".join(done.notes)
    for words in (
        r"Rescale Slope (0028,1053) of the DICOM file is 0",
        "no pixel data (a report, a plan, a structure set?) (report.dcm)",
        "transfer syntax",
        "cut off",
        "1 DICOM file was left out: they have no AccessionNumber (no key.dcm)",
        "this is no DICOM file",
        "1 reports have no AccessionNumber",
        "1 reports have no text",
        "1 of 3 reports have no picture",
        "1 keys have several reports",
    ):
        assert words in said, words


def test_keys_columns_and_labels(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for at in range(4):
        uid = f"1.2.{at}"
        content = slice_of(StudyID=f"S{at}", SeriesInstanceUID=uid, PatientID="", StudyInstanceUID=f"9.{at // 2}")
        (folder / f"{at}.dcm").write_bytes(content)
    (folder / "notes.txt").write_text("not a scan")
    rows = [f"S{at};x;finding {at % 2};{('train', 'val', 'test', 'train')[at]}" for at in range(4)]
    reports = table(tmp_path / "r.csv", rows, "study no;text;kind;part")
    domain = Domain(name="d", title="D", templates=("a scan with {label}",))
    for key in ("StudyID=study no", "0020,0010=study_no", "(0020,0010)=Study No"):
        done = prepare(
            folder,
            tmp_path / "out",
            domain=domain,
            columns={"label": "kind", "split": "part"},
            reports=Join(reports, key),
            overwrite=True,
        )
        assert done.splits == {"train": 2, "val": 1, "test": 1}
    rows = written(tmp_path / "out")
    assert [row["caption"] for row in rows] == [f"a scan with finding {at % 2}" for at in range(4)]
    groups = [row["group"] for row in rows]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert any("no PatientID" in note for note in done.notes)

    def refused(message, **options):
        given = {"columns": {"label": "kind"}, "reports": Join(reports, "StudyID=study no"), **options}
        with pytest.raises(DataError, match=message):
            prepare(folder, tmp_path / "no", **given)

    refused("there is no column StudyID; the columns found are: study no", reports=Join(reports, "StudyID"))
    refused("DICOM has no element of that name", reports=Join(reports, "StudyNumber"))
    refused("holds no text", reports=Join(reports, "PixelData"))
    refused("middle, all, or uniform:N", reports=Join(reports, "StudyID=study no", slices="uniform:0"))
    refused("there is no such file", reports=Join(tmp_path / "gone.csv"))
    refused("it names caption, label, split", columns={"group": "part"})
    refused("which column holds the text", columns={"split": "part"})
    with pytest.raises(DataError, match="there is none among"):
        (tmp_path / "empty").mkdir()
        prepare(tmp_path / "empty", tmp_path / "no", reports=Join(reports))
    assert not (tmp_path / "no").exists()


def test_lost_zeros_are_guessed_and_no_key_is_shown(tmp_path):
    (tmp_path / "a.dcm").write_bytes(slice_of(AccessionNumber="00SECRET1"))
    with pytest.raises(DataError, match="without leading zeros") as caught:
        prepare(tmp_path, tmp_path / "out", reports=Join(table(tmp_path / "r.csv", ["SECRET1,a text"])))
    assert "SECRET" not in str(caught.value)


def test_a_salt_changes_every_group_and_binds_the_same_rows(tmp_path):
    for at in range(4):
        (tmp_path / f"{at}.dcm").write_bytes(slice_of(PatientID=f"P{at % 2}", SeriesInstanceUID=f"1.{at}"))
    join = Join(table(tmp_path / "r.csv", ["A1,a text"]))
    groups = {}
    for salt in ("", "a", "b"):
        prepare(tmp_path, tmp_path / f"out{salt}", reports=Join(join.table, salt=salt))
        rows = written(tmp_path / f"out{salt}")
        groups[salt] = [row["group"] for row in rows]
        assert groups[salt][0] == groups[salt][2] != groups[salt][1] == groups[salt][3]
        assert not {row["series"] for row in rows} & {"1.0", "1.1"}
    assert len({group for some in groups.values() for group in some}) == 6


def test_png_holds_the_windowed_pixels_and_nothing_else(tmp_path):
    reports = table(tmp_path / "r.csv", ["2,a head"])
    domain = Domain(
        name="d", title="D", templates=("{label}",), image=ImageRules(windows=("brain", "bone", "soft tissue"))
    )
    prepare(TREE / "77654033", tmp_path / "out", domain=domain, reports=Join(reports), copied="png")
    rows = written(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "pairs.csv"]
    modes = Counter()
    sources = {"CT": TREE / "77654033/CT2/17166"}
    for row in rows:
        with Image.open(tmp_path / "out" / row["image"]) as image:
            modes[row["modality"], image.mode] += 1
            assert (image.info, image.format) == ({}, "PNG")
            if row["modality"] in sources:
                wanted = decode(sources[row["modality"]], windows=domain.image.windows)
                assert np.array_equal(np.asarray(image), np.asarray(wanted))
    assert modes == {("CT", "RGB"): 1, ("CR", "L"): 3}


def test_names_of_files_can_be_left_behind(tmp_path):
    folder = tmp_path / "scans"
    shutil.copytree(TREE / "77654033", folder / "JANE ROE")
    reports = table(tmp_path / "r.csv", ["2,a head"])
    (folder / "ROE bad.dcm").write_bytes(slice_of(AccessionNumber="2", RescaleSlope=0))
    plain = prepare(folder, tmp_path / "plain", reports=Join(reports))
    assert "ROE" in (tmp_path / "plain" / "pairs.csv").read_text()
    assert "ROE" in " ".join(plain.notes)
    done = prepare(folder, tmp_path / "out", reports=Join(reports, quiet=True), copied="hashed")
    files = sorted((tmp_path / "out" / "images").iterdir())
    assert "ROE" not in " ".join([*done.notes, (tmp_path / "out" / "pairs.csv").read_text(), *map(str, files)])
    assert "slope" in " ".join(done.notes).lower()
    assert len(files) == 4
    for file in files:
        ds = pydicom.dcmread(io.BytesIO(file.read_bytes()))
        assert not {"PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"} & {one.keyword for one in ds}
    old, new = (pairs.load(tmp_path / out, max_bad_fraction=0.0) for out in ("plain", "out"))
    assert sorted(old.image_sha) == sorted(new.image_sha)


def test_class_folders_of_dicom_need_no_reports(tmp_path):
    for at, label in enumerate(("normal", "stroke", "normal")):
        path = tmp_path / "scans" / label / f"1.2.{at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(slice_of())
    (tmp_path / "scans" / "normal" / "README").write_text("words")
    done = prepare(tmp_path / "scans", tmp_path / "out", copied="png")
    assert (done.form, done.rows) == ("class folders", 3)
    assert sorted(row["label"] for row in written(tmp_path / "out")) == ["normal", "normal", "stroke"]
