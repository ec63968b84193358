"""The whole way on sample data that is made here: draw molecules, fine-tune `starter`, say what was won and what next.

Nothing is fetched: the names come from the identifiers table that ships inside the `chemicals` package (MIT; the names
are PubChem's, public domain), the drawings from rdkit (BSD-3). Drawing is deterministic, and so are the splits: a
molecule's split follows from the SHA-1 of its InChIKey, so it never moves when the table grows.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from honeclip.errors import HoneclipError, RunError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from honeclip.training.run import Run

TABLE = "chemicals/Identifiers/chemical identifiers pubchem small.tsv"
"""In the `chemicals` package; columns CID, CAS, formula, mass, SMILES, InChI, InChIKey, IUPAC name, other names."""

SIZE_PX = 224
PER_GROUP = 130
"""Molecules of one functional group at most, so that no group fills the set."""

MAX_HEAVY_ATOMS = 40
"""Larger molecules are illegible at this size."""

GROUPS = {
    "carboxylic acid": "[CX3](=O)[OX2H1]",
    "ester": "[CX3](=O)[OX2][#6]",
    "amide": "[CX3](=O)[NX3]",
    "nitrile": "[CX2]#[NX1]",
    "aldehyde": "[CX3H1,CX3H2](=O)",
    "ketone": "[#6][CX3](=O)[#6]",
    "phenol": "c[OX2H1]",
    "alcohol": "[CX4][OX2H1]",
    "thiol or thioether": "[#6][SX2]",
    "nitro compound": "[$([NX3](=O)=O),$([NX3+](=O)[O-])]",
    "amine": "[NX3;!$(N~[!#6;!#1])][#6]",
    "ether": "[#6][OX2][#6]",
    "organohalide": "[#6][F,Cl,Br,I]",
    "aromatic heterocycle": "[n,o,s]",
    "aromatic hydrocarbon": "c",
    "alkyne": "C#C",
    "alkene": "C=C",
    "alkane": "[CX4]",
}
"""Label -> SMARTS. A molecule belongs to the first that it contains, in IUPAC's order of seniority or nearly so."""

HYDROCARBONS = {"aromatic hydrocarbon", "alkyne", "alkene", "alkane"}

UNALIGNED = (
    "`starter` begins unaligned: its image and text towers have never met, so the figures before are chance, not the\n"
    "zero-shot scores of a CLIP."
)

NEXT = """Next, with your own pictures:
  honeclip prepare FOLDER --out data              class folders, or NAME.jpg beside NAME.txt; not needed for a CSV
  honeclip check data                             what is wrong with the data, before training on it
  honeclip fit --data data --out runs/mine        fine-tunes, evaluates before and after, writes the report"""


@dataclass(frozen=True)
class Molecule:
    """One row of the table: a molecule with its names and the group that it belongs to."""

    cid: str
    key: str
    formula: str
    name: str
    iupac: str
    group: str
    structure: Mol

    @property
    def caption(self) -> str:
        """What the drawing shows, in words."""
        names = self.name if self.name == self.iupac else f"{self.name} ({self.iupac})"
        return f"the chemical structure of {names}, {self.formula}"

    @property
    def split(self) -> str:
        """train (70 %), val (15 %) or test (15 %)."""
        place = int(hashlib.sha1(self.key.encode(), usedforsecurity=False).hexdigest(), 16) % 100
        return "train" if place < 70 else "val" if place < 85 else "test"


def quickstart(
    out: Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    limit: int | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Draws the sample data into OUT/molecules, fine-tunes `starter` on it, and leaves a whole run folder.

    Args:
        out: the run folder.
        overwrite: whether a folder that is there may be used; a run in it is replaced.
        device: auto, cpu, mps or cuda.
        limit: this many molecules instead of all, for a quick look.
        config: sections and keys as in a config file.
        say: told what is going on.

    Raises:
        RunError: `out` is there already.
    """
    if out.exists() and not overwrite:
        raise RunError(f"{out} is there already; replace it with --overwrite, or name another folder with --out")
    from honeclip.training.run import fit

    data = out / "molecules"
    say(f"drawing molecules into {data}")
    counts = draw(data, limit)
    say(f"drew {sum(counts.values())} molecules: " + ", ".join(f"{count} {split}" for split, count in counts.items()))
    return fit(
        data=data,
        out=out,
        model="starter",
        domain="scientific",
        config=config,
        device=device,
        overwrite=overwrite,
        report=say,
    )


def gain(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What was won, in words: image-to-text recall before and after on the held-out molecules, with 95 % intervals.

    Args:
        before: METRICS of the model as it began.
        after: METRICS of the best checkpoint, on the same split.
    """
    lines = [f"Image to text on {after['pairs']} molecules that were held out, with 95 % intervals:"]
    for name, words in (("R@10", "the right name is among the first ten"), ("R@1", "the right name comes first")):
        was, now = (scores["retrieval"]["image_to_text"].get(name) for scores in (before, after))
        if was and now:  # R@10 is left out where there are fewer than fifty names to choose from
            lines.append(f"  {name:<5} {_figure(was)} -> {_figure(now)}   {words}")
    return "\n".join([*lines, UNALIGNED])


def _figure(one: Mapping[str, float]) -> str:
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def draw(folder: Path, limit: int | None = None) -> dict[str, int]:
    """Writes images/cid241.png and pairs.csv (image, caption, label, split); returns how many molecules a split has.

    Args:
        folder: made where it is missing; what is there is written over.
        limit: only this many, spread over the groups.

    Raises:
        HoneclipError: the disk refuses.
    """
    chosen = choose(limit)
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for one in chosen:
            (folder / "images" / f"cid{one.cid}.png").write_bytes(_png(one.structure))
        with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption", "label", "split"])
            rows.writerows([f"images/cid{one.cid}.png", one.caption, one.group, one.split] for one in chosen)
    except OSError as error:
        raise HoneclipError(f"the sample data could not be written to {folder}: {error.strerror or error}") from error
    counts = Counter(one.split for one in chosen)
    return {split: counts[split] for split in ("train", "val", "test")}


def choose(limit: int | None = None) -> list[Molecule]:
    """The molecules of the sample: the first of each group in the table's order, group by group in turn."""
    queues: dict[str, list[Molecule]] = {label: [] for label in GROUPS}
    captions: set[str] = set()
    for one in _table():
        if len(queues[one.group]) < PER_GROUP and one.caption not in captions:
            captions.add(one.caption)
            queues[one.group].append(one)
    turns = [queue[place] for place in range(PER_GROUP) for queue in queues.values() if place < len(queue)]
    return turns[:limit]


def _table() -> Iterator[Molecule]:
    """Every small organic molecule of the table that belongs to a group."""
    from rdkit import Chem, rdBase

    # Not imported: the package takes most of a second to load tables that are not needed here.
    file = Path(str(distribution("chemicals").locate_file(TABLE)))
    patterns = {label: Chem.MolFromSmarts(smarts) for label, smarts in GROUPS.items()}
    with rdBase.BlockLogs(), file.open(encoding="utf-8") as lines:
        for line in lines:
            cid, _, formula, _, smiles, _, key, iupac, *common = line.rstrip("\n").split("\t")
            structure = Chem.MolFromSmiles(smiles)
            if structure is None or "." in smiles or not 2 <= structure.GetNumHeavyAtoms() <= MAX_HEAVY_ATOMS:
                continue
            group = _group(structure, patterns)
            if group and iupac and common:
                yield Molecule(cid, key, formula, common[0], iupac, group, structure)


def _group(structure: Mol, patterns: Mapping[str, Mol]) -> str | None:
    group = next((label for label, pattern in patterns.items() if structure.HasSubstructMatch(pattern)), None)
    foreign = any(atom.GetSymbol() not in ("C", "H") for atom in structure.GetAtoms())
    return None if group in HYDROCARBONS and foreign else group


def _png(structure: Mol) -> bytes:
    from rdkit import rdBase
    from rdkit.Chem.Draw import rdMolDraw2D

    with rdBase.BlockLogs():
        drawing = rdMolDraw2D.MolDraw2DCairo(SIZE_PX, SIZE_PX)
        rdMolDraw2D.PrepareAndDrawMolecule(drawing, structure)
        drawing.FinishDrawing()
        data: bytes = drawing.GetDrawingText()
    return data
