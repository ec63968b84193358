"""The language of captions: real English is English, other languages and scripts are noticed, little text says nothing."""

from __future__ import annotations

import pytest

from honeclip.data import manifest
from honeclip.preprocess.language import warning

SAID = {
    "de": "Die Aufnahme zeigt das Herz und die Lunge des Patienten mit einer Verschattung im linken Unterlappen.",
    "fr": "La radiographie montre le coeur et les poumons du patient avec une opacité dans le lobe inférieur.",
    "es": "La radiografía muestra el corazón y los pulmones del paciente con una opacidad en el lóbulo inferior.",
    "nl": "De opname toont het hart en de longen van de patiënt met een verdichting in het linker onderveld.",
    "ru": "На снимке видны сердце и лёгкие пациента с затемнением в нижней доле слева.",
    "zh": "图 像 显 示 患 者 的 心 脏 和 肺 部",
}


@pytest.mark.parametrize("language", SAID)
def test_another_language_is_noticed_and_its_own_is_not(language):
    captions = [SAID[language]] * 10
    assert "do not look like the domain's language 'en'" in warning(captions, "en")
    assert warning(captions, language) == ""


def test_real_captions_in_english_are_english(shared_data):
    for folder in sorted(path.parent for path in shared_data.glob("*/pairs.csv")):
        captions = [row.caption for row in manifest.read(folder).rows]
        assert warning(captions, "en") == warning(captions, "en-GB") == "", folder.name
        if folder.name.startswith("openstax"):
            assert warning(captions, "de")


def test_too_little_text_says_nothing():
    assert warning([SAID["de"]], "en") == ""
    assert warning([], "en") == ""
    assert warning(["M8x1.25"] * 100, "en") == ""
