"""The config of a run as its domain means it: what the domain says of the loss lies below all that the user says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from honeclip import config as configs
from honeclip.config import Config
from honeclip.domains import domain as domains
from honeclip.errors import RunError


def load(
    file: Path | None = None, sets: Iterable[str] = (), values: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """As `config.load`, with the loss that the chosen domain has as its default.

    Raises:
        BadInput: wrong keys or values, wherever they come from, or no such domain.
    """
    sets = list(sets)
    chosen = configs.load(file, sets, values).data.domain
    return configs.load(file, sets, values, below=_below(chosen), below_from=f"domain {chosen}")


def tables(
    file: Path | None, sets: Iterable[str], values: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """What `load` takes from the domain and from the same arguments, without the defaults.

    Raises:
        BadInput: as of `load`.
    """
    sets = list(sets)
    below = _below(configs.load(file, sets, values).data.domain)
    given = configs.tables(file, sets, values)
    return {**given, "loss": {**below["loss"], **given.get("loss", {})}} if below["loss"] else given


def record(config: Config) -> dict[str, Any]:
    """The content of RUN/run.toml: the config, and the domain as it was when the run began."""
    return {**config.model_dump(), "domain": domains.to_mapping(domains.load(config.data.domain))}


def check_domain(stored: Mapping[str, Any] | None, config: Config, where: Path) -> None:
    """Refuses to go on with a run whose domain has become another.

    Args:
        stored: the table [domain] of its run.toml; None in runs that are older than that.
        config: of the run.
        where: the run, for the message.

    Raises:
        RunError: naming the keys that differ.
    """
    if stored is None:
        return
    then, now = (
        domains.to_mapping(one) for one in (domains.from_mapping(stored, str(where)), domains.load(config.data.domain))
    )
    differing = [key for key in now if now[key] != then.get(key)]
    if differing:
        raise RunError(
            f"{where} was begun with another domain {config.data.domain}: {', '.join(differing)} changed since, so it cannot "
            "go on as the same run; put the domain back as it was (run.toml has it under [domain]), or start another run"
        )


def _below(domain: str) -> dict[str, dict[str, Any]]:
    return {"loss": dict(domains.load(domain).loss)}
