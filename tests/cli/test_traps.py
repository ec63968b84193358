"""What differs between machines, provoked on one: locales, letters in names, newlines, packages that may not be written."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs

CAPTIONS = {"a red": "ein rötlicher", "circle": "Kreis (groß)", "blue": "青い", "square": "Ⅳ-eckig – ½"}
SETTINGS = ("train.length=4", "train.batch=8", "train.precision=fp32", "data.workers=2", "evaluate.every=2")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}
"""Python then takes files and terminals for ASCII wherever nobody says otherwise, as it takes them for cp1252 on Windows."""


def honeclip(
    *arguments: str | Path, home: Path, source: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, with next to nothing in its environment; `home` is also the user's."""
    keep = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SYSTEMROOT")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    env |= {"HOME": str(home), "HONECLIP_HOME": str(home / "honeclip"), "OMP_NUM_THREADS": "1", **environment}
    if source is not None:
        env["PYTHONPATH"] = str(source)
    return subprocess.run(
        [sys.executable, "-m", "honeclip", *map(str, arguments)], env=env, capture_output=True, timeout=600, check=False
    )


# --- terminals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [(ASCII, "ascii"), ({"PYTHONIOENCODING": "cp1252"}, "cp1252"), ({"PYTHONUTF8": "1"}, "utf-8")],
)
def test_letters_that_a_terminal_lacks_are_shown_by_their_numbers(environment, encoding, tmp_path):
    text = 'title = "Töpfe, 青い"\ntemplates = ["ein Bild von {label}"]'
    file = tmp_path / "pots.toml"
    file.write_text(text + "\n", encoding="utf-8")
    done = honeclip("domains", "show", file, home=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == text.encode(encoding, "backslashreplace")


def test_letters_that_were_lost_on_the_way_are_refused_in_words(tmp_path):
    done = honeclip("search", tmp_path, "--text", "ein rötlicher Kreis", home=tmp_path, **ASCII)
    assert done.returncode == 2
    assert b"LC_ALL=C.UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


# --- whole runs -----------------------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, tuple[str, int]]:
    """Each file of a folder with its hash and time."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in files
    }


def figures(run: Path) -> dict[str, object]:
    """What a run computed: its losses, and its figures at the end."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    return {
        "losses": [one["loss"] for one in lines if one["event"] == "step"],
        "retrieval": report["after"]["retrieval"],
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Data, a model that knows their words, and a run of both in a folder of plain letters, in UTF-8."""
    root = tmp_path_factory.mktemp("plain")
    data = tiny_runs.draw(root / "data", 40, tiny_runs.ALL_SPLITS, labels=True)
    text = (data / "pairs.csv").read_text(encoding="utf-8")
    for old, new in CAPTIONS.items():
        text = text.replace(old, new)
    (data / "pairs.csv").write_text(text, encoding="utf-8", newline="\n")
    with (data / "pairs.csv").open(encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    tiny_runs.model_of(root / "model", captions)
    done = fitted(root, root / "home", PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr.decode()
    return root


def fitted(
    root: Path, home: Path, source: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    home.mkdir(parents=True, exist_ok=True)
    sets = [word for one in SETTINGS for word in ("--set", one)]
    where = ("--data", root / "data", "--model", root / "model" / "model", "--out", root / "run")
    return honeclip("fit", *where, "--device", "cpu", *sets, home=home, source=source, **environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_ascii_locale_changes_nothing_about_a_run(plain, tmp_path):
    shutil.copytree(plain / "data", tmp_path / "data")
    shutil.copytree(plain / "model", tmp_path / "model")
    done = fitted(tmp_path, tmp_path / "home", **ASCII)
    assert done.returncode == 0, done.stderr.decode()
    assert figures(tmp_path / "run") == figures(plain / "run")
    page = (tmp_path / "run" / "report" / "index.html").read_bytes().decode("utf-8")
    assert "rötlicher" in page


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_names_with_blanks_and_umlauts_and_a_manifest_of_windows_change_nothing(plain, tmp_path):
    """In a C locale, where Python goes over to UTF-8 by itself; the home, the data, the model and the run all lie there."""
    root = tmp_path / "Töpfe und Öl, 100 %"
    shutil.copytree(plain / "data", root / "data")
    shutil.copytree(plain / "model", root / "model")
    manifest = root / "data" / "pairs.csv"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_bytes(
        b"\xef\xbb\xbf" + text.replace("image,caption,split", "Image,CAPTION,Split").replace("\n", "\r\n").encode()
    )
    home = root / "Heim ß"
    done = fitted(root, home, LC_ALL="C")
    assert done.returncode == 0, done.stderr.decode()
    assert figures(root / "run") == figures(plain / "run")
    done = honeclip(
        "embed",
        root / "run",
        "--data",
        root / "data",
        "--out",
        root / "Index ü",
        "--device",
        "cpu",
        home=home,
        LC_ALL="C",
    )
    assert done.returncode == 0, done.stderr.decode()
    asked = "ein rötlicher Kreis (groß), number 0"
    done = honeclip("search", root / "Index ü", "--text", asked, "--json", "--device", "cpu", home=home, LC_ALL="C")
    assert done.returncode == 0, done.stderr.decode()
    assert asked in str(json.loads(done.stdout))
    assert sorted(one.name for one in home.iterdir() if not one.name.startswith(".")) == ["honeclip"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_written_beside_the_installed_package(plain, tmp_path):
    """Where it is installed for all users, nobody may write there, and a shared one would be changed for the others."""
    site = tmp_path / "site packages"
    shutil.copytree(Path(tiny_runs.__file__).parents[1] / "src", site, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(plain / "data", tmp_path / "data")
    shutil.copytree(plain / "model", tmp_path / "model")
    before = content(site)
    for folder in [site, *(one for one in site.rglob("*") if one.is_dir())]:
        folder.chmod(0o555)
    try:
        done = fitted(tmp_path, tmp_path / "home", source=site, PYTHONDONTWRITEBYTECODE="1")
        assert done.returncode == 0, done.stderr.decode()
        assert figures(tmp_path / "run") == figures(plain / "run")
        assert content(site) == before
    finally:
        for folder in [site, *(one for one in site.rglob("*") if one.is_dir())]:
            folder.chmod(0o755)
