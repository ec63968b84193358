"""Elements of a DICOM header that join it with other tables and order its slices. The only place where they become text.

What comes out may name somebody. It is compared and hashed, never written and never shown; what goes into a manifest is a
word of the lists below, which the standard knows, or a hash.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from honeclip.errors import DataError
from honeclip.preprocess.dicom_file import DicomFile
from honeclip.preprocess.dicom_pixels import from_path
from honeclip.preprocess.images import LIMITS, Limits, is_dicom


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODALITIES = _words(
    "AR BI BMD CR CT CTPROTOCOL DG DX ECG EPS ES GM HC HD IO IVOCT IVUS KER LEN LS MG MR NM OAM OCT OP OPM OPT OPTENF "
    "OPTBSV OPV OSS OT POS PT PX RF RG RTIMAGE SC SM SMR SRF TG US VA XA XC"
)
"""Of pictures (PS3.3 C.7.3.1.1.1)."""

BODY_PARTS = _words(
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID "
    "CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY "
    "CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER HAND HEAD HEADNECK "
    "HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MAXILLA MEDIASTINUM MOUTH "
    "NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE "
    "RADIUS RADIUSULNA RECTUM RIB SACRUM SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE STERNUM STOMACH "
    "SUBMANDIBULAR TESTIS THIGH THUMB THYMUS THYROID TIBIAFIBULA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA URETER URETHRA "
    "UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA"
)
"""Terms of Body Part Examined (PS3.16 Annex L)."""

_TEXTS = _words("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT")
_HEX = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


@dataclass(frozen=True)
class Header:
    """Of one file.

    Attributes:
        texts: keyword -> its values joined by a backslash; missing where the file has none.
        has_pixels: whether there is a picture.
    """

    texts: dict[str, str]
    has_pixels: bool

    def text(self, keyword: str) -> str:
        """Without spaces around it; "" where there is none."""
        return self.texts.get(keyword, "")

    def known(self, keyword: str, words: Collection[str]) -> str:
        """The first value in capitals if it is among `words`, and else ""."""
        word = self.text(keyword).split("\\")[0].strip().upper()
        return word if word in words else ""

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        """Its `count` numbers; () where it has another number of them, or others than numbers."""
        parts = self.text(keyword).split("\\")
        good = len(parts) == count and all(_NUMBER.fullmatch(part) and len(part) <= 64 for part in parts)
        return tuple(map(float, parts)) if good else ()


def tag_of(name: str) -> tuple[int, str]:
    """(tag, keyword) of a name such as `AccessionNumber` or `0008,0050`; a private tag has its number for a keyword.

    Raises:
        DataError: there is no such element, or it holds no text.
    """
    numbers = _HEX.fullmatch(name.strip())
    tag = int(numbers[1] + numbers[2], 16) if numbers else tag_for_keyword(name.strip())
    if tag is None:
        raise DataError(
            f"--key {name}: DICOM has no element of that name; give a keyword such as AccessionNumber, StudyID, PatientID or "
            "SOPInstanceUID, or a tag such as 0008,0050"
        )
    keyword = keyword_for_tag(tag) or f"{tag >> 16:04X},{tag & 0xFFFF:04X}"
    if tag >> 16 == 2 or (keyword_for_tag(tag) and dictionary_VR(tag) not in _TEXTS):
        raise DataError(f"--key {name}: {keyword} holds no text that a table could hold too")
    return tag, keyword


def read(path: Path, tags: dict[int, str], limits: Limits = LIMITS) -> Header:
    """Some elements of a file's header, top level only.

    Args:
        path: a DICOM file.
        tags: tag -> keyword of what is wanted.
        limits: of a deflated file.

    Raises:
        DataError: no DICOM, damaged, cut off, or of a transfer syntax that is not read. No value stands in the message.
    """
    if not is_dicom(path):
        raise DataError("this is no DICOM file (no DICM at byte 128)")
    return from_path(path, limits.pixels, _texts, {0x00080005: "SpecificCharacterSet", **tags})


def _texts(found: DicomFile) -> Header:
    values = found.data.values
    coding = values.get("SpecificCharacterSet", b"").split(b"\\")[0].strip(b" \0").decode("ascii", "replace")
    codec = python_encoding.get(coding, "latin-1")
    texts = {name: value.decode(codec, "replace").strip(" \0\n\r\t") for name, value in values.items()}
    return Header({name: text for name, text in texts.items() if text}, found.pixel_tag is not None)
