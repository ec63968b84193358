"""What a figure owes to the wording of its prompts: the same pictures asked through each template by itself, and through pairs
of prompts that say that a finding is there and that it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from honeclip.evaluation.multilabel import one_against_rest
from honeclip.evaluation.scorer import of_pairs, through
from honeclip.evaluation.suite import Asked
from honeclip.model.calibration import Kind
from honeclip.model.classify import Scorer, embedded, scale_of, wording

PAIRS = "pairs"


def per_template(
    asked: Asked, kind: Kind, rows: NDArray[np.int64], findings: Sequence[str], truth_PF: NDArray[np.bool_]
) -> dict[str, Any]:
    """AUROC of each finding through each template of the domain, and how far they lie apart.

    Args:
        asked: the model and its domain.
        kind: how labels are scored.
        rows: of the P pictures.
        findings: F of them.
        truth_PF: which picture has which.

    Returns:
        {"auroc": {template: {finding: figure}}, "spread": {finding: largest less smallest value}, "pairs": {finding: figure}
        of the prompt pairs, where labels are scored by a softmax and the domain has words for absence}.
    """
    image = asked.split.embeddings.image[rows]
    found: dict[str, Any] = {}
    for template in asked.domain.templates:
        scorer = _through(asked, template, kind, findings)
        if scorer is None:
            continue
        columns = [scorer.labels.index(name) for name in findings]
        scores = scorer.probabilities(scorer.logits(image))[:, columns]
        found[template] = one_against_rest(scores, truth_PF, findings, asked.seed)["auroc"]
    out: dict[str, Any] = {"auroc": found, "spread": _spread(found, findings)}
    pairs = of_pairs(asked.clip, asked.domain, findings, asked.labels, asked.features) if kind == "softmax" else None
    if pairs is not None:
        out[PAIRS] = one_against_rest(pairs.logits(image), truth_PF, findings, asked.seed)["auroc"]
    return out


def _through(asked: Asked, template: str, kind: Kind, findings: Sequence[str]) -> Scorer | None:
    """The labels in the words of one template; the prompts of absence stay as they are."""
    domain = replace(asked.domain, templates=(template,))
    if kind == "pairs":
        return of_pairs(asked.clip, domain, findings, asked.labels, asked.features)
    return embedded(wording(domain, asked.labels, kind), through(asked.clip, asked.features), scale_of(asked.clip))


def _spread(found: dict[str, dict[str, dict[str, float]]], findings: Sequence[str]) -> dict[str, float]:
    values = {name: [one[name]["value"] for one in found.values()] for name in findings}
    return {name: max(mine) - min(mine) for name, mine in values.items() if mine}
