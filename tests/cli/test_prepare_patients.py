"""No text of a DICOM header reaches anything that `prepare`, `check` and `fit` write, whichever element it stood in."""

from __future__ import annotations

import logging
import struct

import numpy as np
import pytest
from dicom_files import GOOD, NAME, number, planted, written

from honeclip.model.load import load

ROWS = 10


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A file a patient, the name in every text element; only the key that joins is another word."""
    folder = tmp_path_factory.mktemp("patients") / "scans"
    folder.mkdir()
    texts = planted()
    assert len(texts) > 1500
    for at in range(ROWS):
        values = np.random.default_rng(at).integers(0, 4096, (24, 24)).astype("<u2")
        elements = {
            **texts,
            **GOOD,
            0x00080050: ("SH", b"ACC%d " % at),
            0x00100020: ("LO", NAME + b"%d" % at),
            0x00280010: ("US", number(24)),
            0x00280011: ("US", number(24)),
            0x7FE00010: ("OW", values.tobytes()),
        }
        (folder / f"{at}.dcm").write_bytes(
            written(elements, after=struct.pack("<HH", 0xFFFC, 0xFFFC) + b"OB\0\0\x10\0\0\0" + NAME)
        )
    (folder / "broken.dcm").write_bytes((folder / "0.dcm").read_bytes()[:-1000])
    colours = ("red", "green", "blue", "black", "orange")
    lines = [f'ACC{at},"a {colours[at % 5]} circle, number {at}",circle {at % 2}' for at in range(ROWS)]
    (folder.parent / "reports.csv").write_text(
        "\n".join(["AccessionNumber,text,label", *lines, "ACC0,a cross,circle 0"])
    )
    return folder


def nowhere(said, *folders):
    wanted = NAME.strip()
    assert wanted.decode() not in said
    seen = 0
    for folder in folders:
        for path in folder.rglob("*"):
            assert wanted.decode() not in path.name
            if path.is_file():
                seen += 1
                assert wanted not in path.read_bytes(), path
    return seen


@pytest.mark.parametrize("way", [(), ("--to", "png"), ("--hash-names",)])
def test_a_planted_name_goes_nowhere(scans, tiny, command, tmp_path, session_home, caplog, way):
    caplog.set_level(logging.DEBUG)
    data, run = tmp_path / "data", tmp_path / "run"
    reports = ("--reports", scans.parent / "reports.csv", "--columns", "caption=text")
    code, out, err = command("prepare", scans, "--out", data, *reports, "--json", *way)
    assert code == 0
    assert '"rows": 11' in out
    assert "cut off" in err
    assert nowhere(out + err + caplog.text, data) == (11 if way else 1)
    code, out, err = command("check", data, "--json")
    assert code == 0
    nowhere(out + err + caplog.text, data)
    code, out, err = command(
        "fit", "--data", data, "--model", tiny, "--domain", "medical", "--out", run, "--device", "cpu",
        "--set", "train.length=2", "--set", "train.batch=4", "--set", "train.precision=fp32", "--json",
    )  # fmt: skip
    assert code == 0
    assert nowhere(out + err + caplog.text, run, session_home) > 10


def test_a_domain_with_windows_is_learnt_with_and_goes_with_the_model(scans, tiny, command, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    reports = ("--reports", scans.parent / "reports.csv", "--columns", "caption=text")
    assert command("prepare", scans, "--out", data, *reports)[0] == 0
    domain = tmp_path / "own.toml"
    how = ("--data", data, "--model", tiny, "--domain", domain, "--out", run, "--device", "cpu", "--json")
    short = ("--set", "train.length=2", "--set", "train.batch=4", "--set", "train.precision=fp32")
    domain.write_text('title = "T"\ntemplates = ["{label}"]\n[image]\nwindows = ["lungs"]\n')
    code, _, err = command("fit", *how, *short)
    assert code == 2
    assert "nearest: 'lung'" in err
    assert not run.exists()
    domain.write_text('title = "T"\ntemplates = ["{label}"]\n[image]\nwindows = [[900, 200], "bone", "file"]\n')
    assert command("fit", *how, *short)[0] == 0
    learnt = load(str(run), device="cpu").preprocess
    assert learnt.windows == ((900.0, 200.0), "bone", "file")
    channels = learnt.image(scans / "0.dcm")
    assert not bool((channels[0] == channels[1]).all())
    assert bool((channels[1] == channels[2]).all())  # no CT: the preset passes it by
    assert command("evaluate", run, "--data", data, "--split", "train", "--out", tmp_path / "report", "--json")[0] == 0
