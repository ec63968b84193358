"""DICOM files without their headers have the same picture, and none of the texts that pydicom finds in the original."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import made, stored
from test_dicom import FILES

from honeclip.errors import DataError
from honeclip.preprocess.dicom_bare import bare
from honeclip.preprocess.images import decode, probe

ALLOWED = {
    "Modality",
    "PhotometricInterpretation",
    "VOILUTFunction",
    "RescaleType",
    "ModalityLUTType",
    "NumberOfFrames",
}
NUMBERS = {"WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope"}


@pytest.mark.parametrize("name", FILES)
def test_pydicoms_own_files_keep_their_pixels_alone(name, tmp_path):
    source = bare(stored(name))
    assert probe(source) == probe(stored(name))
    assert np.array_equal(np.asarray(decode(source)), np.asarray(decode(stored(name))))
    (tmp_path / "again.dcm").write_bytes(source)
    assert bare(tmp_path / "again.dcm") == source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(io.BytesIO(source))
        texts = {
            one.keyword for one in ds.iterall() if isinstance(one.value, str | pydicom.multival.MultiValue | float)
        }
        assert {one.keyword for one in ds.file_meta} == {"FileMetaInformationGroupLength", "TransferSyntaxUID"}
        assert not any(one.tag.is_private for one in ds)
    texts -= {one for one in texts if "LookupTable" in one or one == "LUTDescriptor"}
    assert texts <= ALLOWED | NUMBERS


def test_what_is_no_word_or_number_is_dropped(tmp_path):
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    path = tmp_path / "a.dcm"
    path.write_bytes(
        made(ramp, Modality="CT", RescaleSlope=1, RescaleIntercept=0, RescaleType="PLANTED", PatientID="PLANTED")
    )
    assert b"PLANTED" in path.read_bytes()
    assert b"PLANTED" not in bare(path)
    assert np.array_equal(np.asarray(decode(bare(path))), np.asarray(decode(path)))


def test_what_has_no_pixels_is_refused(tmp_path):
    with pytest.raises(DataError, match="no pixel data"):
        bare(stored("test-SR"))
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(stored("MR_small").read_bytes()[:-500])
    with pytest.raises(DataError, match="cut off"):
        bare(cut)
