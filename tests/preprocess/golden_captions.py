"""Chooses the real captions that are kept with what the text rules make of them, and writes the files.

`python tests/preprocess/golden_captions.py`, with the real data in place, writes `golden/` anew; read the difference.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

from honeclip.domains import domain as domains
from honeclip.preprocess.rules import TextHow, apply, text_how

GOLDEN = Path(__file__).parent / "golden"
COUNT, LONGEST = 60, 400

FIELDS = {
    "openstax_microbiology": "medical",
    "pneumoniamnist": "medical",
    "neu_det": "industrial",
    "magnetic_tile": "industrial",
    "openstax_astronomy": "scientific",
    "molecules": "scientific",
    "tuxpaint_stamps": "general",
}
ORIGINS = {
    "openstax_microbiology": "OpenStax Microbiology, github.com/openstax/osbooks-microbiology at ecf34da; CC BY 4.0",
    "pneumoniamnist": "captions made by template for PneumoniaMNIST; CC BY 4.0",
    "neu_det": "captions made by template for NEU-DET; no text of the data set",
    "magnetic_tile": "captions made by template for the magnetic tile set; no text of the data set",
    "openstax_astronomy": "OpenStax Astronomy 2e, github.com/openstax/osbooks-astronomy at 63157f3; CC BY 4.0",
    "molecules": "names from PubChem (public domain) as the Python package chemicals has them; MIT",
    "tuxpaint_stamps": "Debian package tuxpaint-stamps-default, GPL-2: hashes only",
}
HASHED = {"tuxpaint_stamps"}

_TELLING = (
    re.compile(r"[²³°ºμµ±×−λΔ]|\d ?[munk]?[mLgs]\b|\b[A-Z]{2,}s?\b|(?<!\()\b[a-d]\) |\d,\d"),
    re.compile(r"[^\x00-\x7f’“”—]|\d|\(\w\)"),
)


def preset(field: str) -> TextHow:
    domain = domains.load(field)
    return text_how(domain, domains.read_terms(domain, domains.term_folders(field)))


def chosen(manifest: Path) -> list[str]:
    """Short distinct captions in the order of their hashes, those first that hold something a rule could look at."""
    with manifest.open(encoding="utf-8-sig", newline="") as rows:
        captions = {row["caption"] for row in csv.DictReader(rows)}
    short = [caption for caption in captions if len(caption) <= LONGEST]
    return sorted(short, key=lambda caption: (*(not one.search(caption) for one in _TELLING), sha256(caption)))[:COUNT]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(name: str) -> list[dict[str, str]]:
    """The rows of a golden file; `text` is missing where the rules change nothing."""
    lines = (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


def row(name: str, caption: str, text: str) -> dict[str, str]:
    if name in HASHED:
        return {"caption_sha256": sha256(caption), "text_sha256": sha256(text)}
    return {"caption": caption} | ({} if caption == text else {"text": text})


if __name__ == "__main__":
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    GOLDEN.mkdir(exist_ok=True)
    for name, field in FIELDS.items():
        how = preset(field)
        rows = [row(name, caption, apply(caption, how)) for caption in chosen(data / name / "pairs.csv")]
        head = {"data": name, "domain": field, "origin": ORIGINS[name]}
        text = "\n".join(json.dumps(one, ensure_ascii=False) for one in [head, *rows])
        (GOLDEN / f"{name}.jsonl").write_text(text + "\n", encoding="utf-8")
