"""Windows of a field on DICOM files: pydicom's own files by the formula of PS3.3 C.11.2.1.2 as pydicom computes it."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import group, made, stored
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_windowing, pixel_array

from honeclip.data import pairs
from honeclip.domains.schema import ImageRules
from honeclip.errors import DomainError, ModelError
from honeclip.preprocess import windows
from honeclip.preprocess.images import decode, probe
from honeclip.preprocess.preprocess import Preprocess

CT = ("CT_small", "693_J2KI", "dicomdirtests/77654033/CT2/17136", "dicomdirtests/98892001/CT5N/2392")
OTHERS = ("MR_small", "dicomdirtests/77654033/CR1/6154", "dicomdirtests/98892003/MR2/15970")


def file(name):
    return stored(name) if "/" not in name else stored("CT_small").parent / name


def by_pydicom(path, centre, width):
    """uint8-like floats (rows, columns) by pydicom, told that the file's window is this one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path)
        values = apply_modality_lut(pixel_array(ds), ds)
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = centre, width, "LINEAR"
        shown = apply_windowing(values, ds)
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    sign, bits = ds.PixelRepresentation, ds.BitsStored
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if sign else (0.0, 2.0**bits - 1)
    low, high = low * slope + intercept, high * slope + intercept
    grey = (shown - low) / (high - low) * 255
    return 255 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey


def pixels(source, *asked):
    return np.asarray(decode(source, windows=asked)).astype(float)


@pytest.mark.parametrize("name", CT)
@pytest.mark.parametrize("preset", windows.PRESETS)
def test_presets_are_what_pydicom_makes_of_them(name, preset):
    window = windows.PRESETS[preset]
    got = pixels(file(name), preset)
    assert np.abs(got[..., 0] - by_pydicom(file(name), window.centre, window.width)).max() <= 1
    assert np.array_equal(got[..., 0], got[..., 2])
    assert np.array_equal(got, pixels(file(name), preset.upper().replace(" ", "_")))


@pytest.mark.parametrize("name", CT)
def test_three_windows_are_the_channels(name):
    got = pixels(file(name), "lung", (40.0, 400.0), "file")
    own = pixels(file(name))
    for channel, wanted in enumerate(
        (by_pydicom(file(name), -600, 1500), by_pydicom(file(name), 40, 400), own[..., 0])
    ):
        assert np.abs(got[..., channel] - wanted).max() <= 1
    assert not np.array_equal(got[..., 0], got[..., 1])


@pytest.mark.parametrize("name", OTHERS)
def test_presets_of_ct_leave_other_modalities_as_they_are(name):
    own = pixels(file(name))
    assert np.array_equal(pixels(file(name), "lung"), own)
    assert np.array_equal(pixels(file(name), "lung", "bone", "brain"), own)
    got = pixels(file(name), (500.0, 700.0))
    assert np.abs(got[..., 0] - by_pydicom(file(name), 500, 700)).max() <= 1
    assert not np.array_equal(got, own)


def test_presets_need_hounsfield_units():
    ramp = np.arange(-1000, 1000, 5, dtype=np.int16).reshape(20, 20)
    rescale = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 0, "WindowWidth": 2000}
    wanted = np.clip(((ramp - (40 - 0.5)) / (80 - 1) + 0.5) * 255, 0, 255)
    for elements in (rescale, {**rescale, "RescaleType": "HU"}):
        assert np.abs(pixels(made(ramp, **elements), "brain")[..., 0] - wanted).max() <= 0.5
    turned = made(ramp, **rescale, PhotometricInterpretation="MONOCHROME1")
    assert np.abs(pixels(turned, "brain")[..., 0] - (255 - wanted)).max() <= 0.5
    # An enhanced CT has its rescale in a macro
    macro = group(PixelValueTransformationSequence=[group(RescaleSlope=1, RescaleIntercept=0, RescaleType="HU")])
    enhanced = made(ramp, Modality="CT", SharedFunctionalGroupsSequence=[macro])
    assert np.abs(pixels(enhanced, "brain")[..., 0] - wanted).max() <= 0.5
    window = {"Modality": "CT", "WindowCenter": 0, "WindowWidth": 2000}
    for elements in (window, {**rescale, "RescaleType": "US"}, {**rescale, "Modality": "PT"}):
        source = made(ramp, **elements)
        assert np.array_equal(pixels(source, "brain"), pixels(source))


def test_a_narrow_window_is_exact_and_a_look_up_table_makes_way():
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    source = made(ramp, RescaleSlope=0.001, RescaleIntercept=0)
    wanted = np.clip(((ramp * 0.001 - 0.2) / 0.1 + 0.5) * 255, 0, 255)
    assert np.abs(pixels(source, (0.2, 0.1))[..., 0] - wanted).max() <= 0.5
    table = group(LUTDescriptor=[256, 0, 8], LUTData=bytes(range(255, -1, -1)))
    source = made(ramp, VOILUTSequence=[table])
    wanted = np.clip(((ramp - 99.5) / 99 + 0.5) * 255, 0, 255)
    assert np.abs(pixels(source, (100.0, 100.0))[..., 0] - wanted).max() <= 0.5


def test_what_has_no_grey_values_of_its_own_stays(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    assert np.array_equal(pixels(made(colour, Modality="CT"), "lung", "bone", "brain"), colour)
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(0, 60000, 150, dtype=np.uint16).reshape(20, 20)).save(path)
    assert np.array_equal(pixels(path, "lung"), pixels(path))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("mediastinal",), "nearest: 'mediastinum'"),
        (("Lungs",), "nearest: 'lung'"),
        (("xyz",), "known are file, brain"),
        (((40.0, 0.0),), "must be above 0"),
        (((40.0, -1.0),), "must be above 0"),
        (("lung", "bone"), "2 are given"),
    ],
)
def test_what_cannot_be_a_window(asked, message):
    with pytest.raises(DomainError, match=message):
        Preprocess(32, windows=asked)
    with pytest.raises(DomainError, match=message):
        decode(stored("CT_small"), windows=asked)


def test_windows_are_part_of_a_stored_preprocessing_and_of_its_fingerprint_only_where_there_are_any():
    plain = Preprocess(32)
    # As it was before there were windows: features and embeddings computed then stay known
    assert plain.image_fingerprint == "a7a13ca0cd1fa11643d16cf4ab64130c876449d6fbed0eb6a9418adc360b6db1"
    assert replace(plain, windows=("file",)) == plain
    seen = {plain.image_fingerprint}
    for asked in (("lung",), ("bone",), ((-600.0, 1500.0),), ("lung", "bone", "file"), ("bone", "lung", "file")):
        ours = replace(plain, windows=asked)
        seen.add(ours.image_fingerprint)
        assert ours.text_fingerprint == plain.text_fingerprint
        assert Preprocess.from_json(json.loads(json.dumps(ours.to_json())), None) == ours
        assert pickle.loads(pickle.dumps(ours)) == ours
    assert len(seen) == 6
    assert replace(plain, windows=("lung",)).image_fingerprint == replace(plain, windows=("LUNG",)).image_fingerprint
    before = {key: value for key, value in plain.to_json().items() if key != "windows"}
    assert Preprocess.from_json(before, None) == plain
    with pytest.raises(ModelError, match="windows are names"):
        Preprocess.from_json({**before, "windows": [[1]]}, None)


def test_a_field_gives_windows_and_file_takes_them_back():
    plain = Preprocess(32)
    lung = plain.with_rules(ImageRules(windows=("lung",)))
    assert lung.windows == ("lung",)
    assert lung.with_rules(ImageRules("squash", 3)).windows == ("lung",)
    assert lung.with_rules(ImageRules(windows=("file",))) == plain


def test_a_model_sees_the_windowed_pixels():
    path = stored("CT_small")
    how = Preprocess(64, windows=("lung", "soft tissue", "bone"))
    by_hand = Preprocess(64).image(decode(path, windows=how.windows))
    assert bool((how.image(path) == by_hand).all())
    assert bool((how.image(path) == how.image(path.read_bytes())).all())
    assert not bool((how.image(path) == Preprocess(64).image(path)).all())


def test_files_that_differ_through_any_window_are_different_images(tmp_path):
    """Through their own window, which leaves out the lung, both are the same black and white."""
    thorax = np.where(np.arange(400).reshape(20, 20) % 3, -700, 900).astype(np.int16)
    other = np.where(thorax < 0, -850, 900).astype(np.int16)
    window = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 40, "WindowWidth": 400}
    one, two = made(thorax, **window), made(other, **window)
    assert np.array_equal(pixels(one), pixels(two))
    assert not np.array_equal(pixels(one, "lung"), pixels(two, "lung"))
    assert probe(one).pixels_sha256 != probe(two).pixels_sha256
    # values in other units are no Hounsfield units, so that presets pass one of them by
    radiograph = made(thorax, **{**window, "Modality": "CR"})
    assert probe(one).pixels_sha256 != probe(radiograph).pixels_sha256
    assert probe(one).pixels_sha256 == probe(made(thorax, **window, StudyDescription="another header")).pixels_sha256
    for name, source in (("a.dcm", one), ("b.dcm", two), ("c.dcm", one)):
        Path(tmp_path / name).write_bytes(source)
    (tmp_path / "pairs.csv").write_text("image,caption\na.dcm,a lung\nb.dcm,an inflated lung\nc.dcm,the first again\n")
    found = pairs.load(tmp_path)
    assert found.image_id[0] != found.image_id[1]
    assert found.image_id[0] == found.image_id[2]


def test_a_window_takes_no_word_of_the_header_into_an_error():
    source = made(np.zeros((4, 4), np.int16), Modality="CT", RescaleType="HU", StationName="PLANTED")
    ds = pydicom.dcmread(io.BytesIO(source))
    assert ds.StationName == "PLANTED"
    with pytest.raises(DomainError) as caught:
        decode(source, windows=("PLANTD",))
    assert "PLANTED" not in str(caught.value)
