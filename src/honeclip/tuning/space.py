"""What a study varies: the keys of the config that nobody has set, each with its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna

HEAD_RATES, LORA_RATES, BODY_RATES = (3e-4, 1e-2), (3e-5, 2e-3), (1e-6, 1e-4)
"""Ranges of the peak learning rate by what learns; the defaults lie inside."""

LORA_RANKS = (4, 8, 16)

SMOOTHINGS, BETAS = (0.0, 0.05, 0.1), (0.0, 0.25, 0.5)
"""Label smoothing and the weight of hard negatives: with none among the choices, which a range would hardly ever meet."""

Overrides = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Space:
    """What there is to choose from.

    Attributes:
        fixed: `section.key` that the user set; they stay.
        labels: whether the rows have labels.
        fresh_heads: whether the model begins with heads that know nothing (then its bodies stay frozen).
    """

    fixed: frozenset[str]
    labels: bool
    fresh_heads: bool


def suggest(trial: optuna.Trial, space: Space) -> Overrides:
    """One choice, as sections and keys of a config. Optuna knows each parameter by its `section.key`."""
    found: Overrides = {}

    def ask(key: str, choose: Callable[[str], Any]) -> Any:
        """The value of a key that is open; None for one that the user set."""
        if key in space.fixed:
            return None
        section, _, name = key.partition(".")
        value = choose(key)
        found.setdefault(section, {})[name] = value
        return value

    ask("loss.kind", lambda key: trial.suggest_categorical(key, ["infonce", "siglip"]))
    temperature = ask("loss.temperature", lambda key: trial.suggest_categorical(key, ["learned", "fixed", "auto"]))
    if temperature == "auto":
        ask("loss.effective_negatives", lambda key: trial.suggest_float(key, 0.2, 0.9))
    if temperature == "fixed":
        ask("loss.logit_scale", lambda key: trial.suggest_float(key, 5.0, 60.0, log=True))
    kinds = ["captions", "soft", *(["labels"] if space.labels else [])]
    targets = ask("loss.targets", lambda key: trial.suggest_categorical(key, kinds))
    if targets == "soft":
        ask("loss.blend", lambda key: trial.suggest_float(key, 0.05, 0.6))
    ask("loss.label_smoothing", lambda key: trial.suggest_categorical(key, SMOOTHINGS))
    ask("loss.hard_negatives", lambda key: trial.suggest_categorical(key, BETAS))
    rates = HEAD_RATES
    if not space.fresh_heads and not {"model.freeze", "model.lora_rank", "model.last_blocks"} & space.fixed:
        learns = trial.suggest_categorical("learns", ["heads", "lora", "all"])
        if learns == "heads":
            found.setdefault("model", {})["freeze"] = "towers"
        elif learns == "lora":
            ask("model.lora_rank", lambda key: trial.suggest_categorical(key, LORA_RANKS))
        rates = {"heads": HEAD_RATES, "lora": LORA_RATES, "all": BODY_RATES}[learns]
    elif not space.fresh_heads:
        rates = (BODY_RATES[0], LORA_RATES[1])
    ask("train.lr", lambda key: trial.suggest_float(key, *rates, log=True))
    ask("train.weight_decay", lambda key: trial.suggest_float(key, 1e-3, 1.0, log=True))
    return found
