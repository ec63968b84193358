"""The data set of which a run must not forget too much: `evaluate.forgetting_data`, loaded like the run's own."""

from __future__ import annotations

from dataclasses import dataclass

from honeclip.config import Config
from honeclip.data import pairs
from honeclip.data.pairs import Pairs
from honeclip.data.splits import SPLITS
from honeclip.domains import domain as domains
from honeclip.domains.domain import Domain
from honeclip.embedding.features import Progress
from honeclip.errors import ConfigError, DataError
from honeclip.evaluation.evaluate import all_labels, data_name
from honeclip.training.asked import Asked

NOTHING_TO_FORGET = (
    "The model began unaligned: it knew nothing of {name} either, and its score there was chance. What stands under "
    "forgetting is how far it moved from chance, not what it lost."
)


@dataclass(frozen=True)
class Guard:
    """A data set whose scores must not fall.

    Attributes:
        name: how METRICS call it.
        val: the rows that are asked between steps.
        test: the rows that are asked before and after.
        limit: by how much the selection score on `val` may fall.
        notes: what a reader must know of the rows.
    """

    name: str
    val: Asked
    test: Asked
    limit: float
    notes: tuple[str, ...] = ()


def check(config: Config) -> None:
    """Refuses what cannot be.

    Raises:
        ConfigError: a run over several image sizes shall go back.
    """
    sizes = config.resolution.stages
    several = sizes == "auto" or (isinstance(sizes, tuple) and len(sizes) > 1)
    if config.evaluate.forgetting_data and config.evaluate.on_forgetting == "rewind" and several:
        raise ConfigError(
            "evaluate.on_forgetting=rewind goes back within one image size, and resolution.stages asks for several: use "
            "stop, or one size"
        )


def load(config: Config, domain: Domain, progress: Progress | None = None) -> Guard | None:
    """The guard that a config names; None where it names none.

    Args:
        config: `evaluate.forgetting_data`; other column names (`data.columns`) are those of the run's own data only.
        domain: the run's, which holds unless `evaluate.forgetting_domain` names another. Pictures and texts become tensors
            by the rules of the run's domain in any case: those are part of the model.
        progress: told while images are looked at.

    Raises:
        BadInput: data or domain cannot be used.
    """
    asked = config.evaluate
    if not asked.forgetting_data:
        return None
    own = domains.load(asked.forgetting_domain) if asked.forgetting_domain else domain
    try:
        everything = pairs.load(
            asked.forgetting_data, max_bad_fraction=config.data.max_bad_fraction, domain=own, progress=progress
        )
    except DataError as error:
        raise DataError(f"evaluate.forgetting_data: {error}") from error
    name = data_name(asked.forgetting_data)
    val, test, notes = _splits(everything, name)
    split = {
        one: Asked(everything.split(one), one, own, all_labels(everything), name, config.train.seed) for one in SPLITS
    }
    return Guard(name, split[val], split[test], asked.max_forgetting, notes)


def _splits(everything: Pairs, name: str) -> tuple[str, str, tuple[str, ...]]:
    """Which split guards and which is reported, and a sentence where they are not val and test."""
    have = [one for one in ("val", "test") if one in everything.splits]
    if len(have) == 2:
        return "val", "test", ()
    # data with a train split always has all three: `splits.complete` carves them from it
    only = have[0] if have else "train"
    said = (
        f"{name} has {only} rows only: they both guard during the run and are reported, so its figures are not held out"
    )
    return only, only, (said,)
