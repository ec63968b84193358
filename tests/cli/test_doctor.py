"""`honeclip doctor`: the keys of the contract, words for people, and exit 1 where the device computes wrongly."""

from __future__ import annotations

import json
import re
import sys

import pytest

from honeclip import places
from honeclip.device import detect, precision
from honeclip.model import selfcheck

FIGURES = {"image_cosine": 0.5, "text_cosine": 1.0, "loss_difference": 0.3, "gradient_difference": 0.1}


def test_json_has_the_keys_of_the_contract(command):
    code, printed, said = command("doctor", "--device", "cpu", "--json")
    assert (code, said) == (0, "")
    found = json.loads(printed)
    assert found.keys() >= {"device", "reason", "precision", "precision_reason", "memory_budget_bytes", "memory_reason"}
    assert (found["device"], found["reason"]) == ("cpu", "asked for")
    assert found["precision"] in ("fp32", "bf16")
    assert found["memory_budget_bytes"] > 1e8
    check = found["self_check"]
    assert check.keys() >= {"image_cosine", "text_cosine", "loss_difference", "passed"}
    assert check["passed"] is True
    assert check["image_cosine"] > 0.999
    assert found["versions"].keys() >= {"torch", "open_clip_torch"}
    assert {name: place["path"] for name, place in found["places"].items()} == {
        "home": str(places.home()),
        "features": str(places.features()),
        "inspections": str(places.inspections()),
        "shards": str(places.shards()),
        "own domains": str(places.domains()),
        "hub cache": str(places.models()),
    }


def test_in_words(command):
    code, printed, _ = command("doctor", "--device", "cpu")
    assert code == 0
    starts = [line.split()[0] for line in printed.splitlines()]
    assert starts[:5] == ["device", "precision", "memory", "self-check", "versions"]
    assert re.search(r"^self-check +passed against the CPU in float32: image cosine (1|0\.999)", printed, re.MULTILINE)
    assert re.search(rf"^own domains +{re.escape(str(places.domains()))} \(0\.0 MB\)$", printed, re.MULTILINE)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("figures", [FIGURES, dict.fromkeys(FIGURES)], ids=["wrong", "not finite"])
def test_a_device_that_computes_something_else_exits_1(figures, as_json, command, monkeypatch):
    monkeypatch.setattr(selfcheck, "device_check", lambda device, precision: {**figures, "passed": False})
    code, printed, said = command("doctor", "--device", "cpu", *(["--json"] if as_json else []))
    assert (code, said) == (1, "")
    if as_json:
        found = json.loads(printed)
        assert found["self_check"] == {**figures, "passed": False}
        assert found["precision"] == "fp32", "whatever was chosen first, float32 was tried"
    else:
        assert "self-check  FAILED" in printed
        assert ("image cosine not finite" in printed) == (figures["image_cosine"] is None)


def test_a_precision_that_differs_is_stepped_down_to_float32(command, monkeypatch):
    monkeypatch.setattr(precision, "choose", lambda device: precision.Precision("bf16", "for this test"))
    monkeypatch.setattr(selfcheck, "device_check", lambda device, precision: {**FIGURES, "passed": precision == "fp32"})
    code, printed, _ = command("doctor", "--device", "cpu", "--json")
    found = json.loads(printed)
    assert (code, found["precision"], found["self_check"]["passed"]) == (0, "fp32", True)
    assert found["precision_reason"].startswith("stepped down from bf16")


@pytest.mark.skipif(sys.platform == "darwin", reason="there it may be")
def test_a_device_that_is_not_there_exits_2_and_says_why(command):
    code, printed, said = command("doctor", "--device", "mps")
    assert (code, printed) == (2, "")
    assert "MPS is Apple's GPU, and this is" in said
    with pytest.raises(Exception, match="MPS is Apple's GPU"):
        detect.choose("mps")
