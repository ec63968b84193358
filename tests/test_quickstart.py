"""quickstart: the same molecules every time, no network, and a gain that is said in words."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from honeclip import quickstart as work
from honeclip.errors import HoneclipError, RunError

GUARD = """
import socket

def refuse(*arguments, **more):
    raise AssertionError(f"somebody asks for the network: {arguments!r}")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
"""


@pytest.fixture(scope="module")
def molecules() -> list[work.Molecule]:
    return work.choose()


@pytest.fixture
def no_network(monkeypatch) -> None:
    def refuse(*arguments, **more):
        raise AssertionError(f"somebody asks for the network: {arguments!r}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_sample_is_large_varied_and_split(molecules):
    assert 1200 <= len(molecules) <= 1500
    groups, splits = Counter(one.group for one in molecules), Counter(one.split for one in molecules)
    assert len(groups) >= 15
    assert max(groups.values()) <= work.PER_GROUP
    assert splits["test"] >= 150
    assert splits["val"] >= 150
    assert 0.65 < splits["train"] / len(molecules) < 0.75
    captions = [one.caption for one in molecules]
    assert len(set(captions)) == len(captions)
    assert len({one.cid for one in molecules}) == len(molecules)


@pytest.mark.parametrize(
    ("cid", "group", "caption"),
    [
        ("241", "aromatic hydrocarbon", "the chemical structure of benzene, C6H6"),
        ("176", "carboxylic acid", "the chemical structure of acetic acid (ethanoic acid), C2H4O2"),
        ("702", "alcohol", "the chemical structure of ethanol, C2H6O"),
        ("180", "ketone", "the chemical structure of acetone (propan-2-one), C3H6O"),
        ("7961", "organohalide", "the chemical structure of bromobenzene (bromanylbenzene), C6H5Br"),
    ],
)
def test_well_known_molecules_have_their_names_and_groups(molecules, cid, group, caption):
    one = next(one for one in molecules if one.cid == cid)
    assert (one.group, one.caption) == (group, caption)


def test_a_molecules_split_follows_from_its_key_alone(molecules):
    for one in molecules[:200]:
        place = int.from_bytes(hashlib.sha1(one.key.encode(), usedforsecurity=False).digest(), "big") % 100
        assert one.split == ("train" if place < 70 else "val" if place < 85 else "test")


def test_drawing_is_deterministic_and_says_nothing(tmp_path, capfd):
    counts = work.draw(tmp_path / "a", limit=40)
    assert counts == work.draw(tmp_path / "b", limit=40)
    assert capfd.readouterr() == ("", "")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 41
    assert all((tmp_path / "a" / one).read_bytes() == (tmp_path / "b" / one).read_bytes() for one in files)


def test_a_drawing_is_what_the_manifest_says(tmp_path):
    counts = work.draw(tmp_path, limit=18)
    listed = rows(tmp_path)
    assert list(listed[0]) == ["image", "caption", "label", "split"]
    assert Counter(one["split"] for one in listed) == Counter({key: count for key, count in counts.items() if count})
    assert len({one["label"] for one in listed}) == 18, "a small sample takes turns over the groups"
    for one in listed:
        with Image.open(tmp_path / one["image"]) as image:
            assert (image.format, image.size) == ("PNG", (224, 224))
            assert image.convert("L").getextrema()[0] < 200 < image.convert("L").getpixel((0, 0)), "dark on white"


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="is there already; replace it with --overwrite"):
        work.quickstart(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HoneclipError, match="could not be written"):
        work.draw(tmp_path / "file" / "data", limit=1)


def test_the_gain_in_words():
    def scores(**recall: float) -> dict:
        figures = {name: {"value": value, "low": value - 0.03, "high": value + 0.03} for name, value in recall.items()}
        return {"pairs": 200, "retrieval": {"image_to_text": figures}}

    said = work.gain(scores(**{"R@1": 0.005, "R@10": 0.05}), scores(**{"R@1": 0.5, "R@10": 0.9}))
    assert said.splitlines()[0] == "Image to text on 200 molecules that were held out, with 95 % intervals:"
    assert "R@10  0.050 [0.020, 0.080] -> 0.900 [0.870, 0.930]" in said
    assert "R@1   0.005 [-0.025, 0.035] -> 0.500" in said
    assert "unaligned" in said
    assert "R@10" not in work.gain(scores(**{"R@1": 0.1}), scores(**{"R@1": 0.2})), "left out for few names"


def test_a_small_quickstart_without_a_network_leaves_a_whole_run(tmp_path, no_network):
    said: list[str] = []
    config = {"train": {"length": 3, "batch": 16}, "evaluate": {"every": 2}}
    run = work.quickstart(tmp_path / "q", limit=60, config=config, device="cpu", say=said.append)
    assert run.folder == tmp_path / "q"
    assert len(rows(run.folder / "molecules")) == 60
    assert (run.folder / "report" / "index.html").stat().st_size > 10_000
    report = json.loads((run.folder / "report" / "report.json").read_text())
    assert report["before"]["pairs"] == report["after"]["pairs"] == run.after["pairs"]
    assert (run.model_folder / "open_clip_config.json").is_file()
    assert any("drew 60 molecules" in one for one in said)
    assert "unaligned" in work.gain(run.before, run.after)


@pytest.mark.slow
def test_quickstart_as_a_stranger_runs_it(tmp_path):
    """The command itself, every process of it without a network, and nothing that says so to the libraries."""
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    offline = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    env = {**{key: value for key, value in os.environ.items() if key not in offline}, "PYTHONPATH": str(tmp_path)}
    attempt = [sys.executable, "-c", "import socket; socket.create_connection(('localhost', 9))"]
    assert b"asks for the network" in subprocess.run(attempt, env=env, capture_output=True, timeout=60).stderr

    command = [sys.executable, "-m", "honeclip", "quickstart", "--out", str(tmp_path / "q"), "--device", "cpu"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for word in ("R@10", "R@1", "unaligned", "index.html", "honeclip prepare", "honeclip check", "honeclip fit"):
        assert word in done.stdout, word
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    report = json.loads((tmp_path / "q" / "report" / "report.json").read_text())
    before, after = (report[key]["retrieval"]["image_to_text"] for key in ("before", "after"))
    assert after["R@10"]["value"] >= 0.80
    assert after["R@1"]["value"] >= 0.35
    assert before["R@10"]["high"] < after["R@10"]["low"]
    assert report["after"]["pairs"] >= 150
    assert "unaligned" in (tmp_path / "q" / "report" / "index.html").read_text(encoding="utf-8")
