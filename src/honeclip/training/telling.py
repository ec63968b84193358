"""What events.jsonl says of a step, an evaluation and a checkpoint. Bytes, seconds and shares; what docs/watching.md lists.

A run says no more than a kilobyte a step, its evaluations included: figures that nobody computes with have six digits, and what
is empty, or says again what stands there already, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from honeclip.checkpoint.background import Saved
from honeclip.data.findings import SAME_GROUP, SAME_PIXELS
from honeclip.data.near import near_duplicates
from honeclip.data.pairs import Pairs
from honeclip.data.splits import SPLITS
from honeclip.training.loop import Learner, Step
from honeclip.training.validation import Score

DIGITS = 6


def of_data(everything: Pairs) -> dict[str, Any]:
    """The fields of the `data` event with which a run begins: rows by split, and those that stand in two splits, by what they
    share with a row of another one; `near` are nearly a picture of train, of the `near_of` that were compared."""
    leaks = [one.reason for one in everything.problems if one.kind == "split_leak"]
    shared = {"pixels": SAME_PIXELS, "group": SAME_GROUP}
    near = near_duplicates(everything)
    return {
        "rows": len(everything),
        "splits": {name: everything.splits.count(name) for name in SPLITS},
        "leaks": {
            **{name: sum(what in reason for reason in leaks) for name, what in shared.items()},
            **{"near": len(near.rows), "near_of": near.looked_at},
        },
    }


def of_step(learner: Learner, step: Step, seconds: float, held_bytes: int) -> dict[str, Any]:
    """The fields of a `step` event.

    Args:
        learner: after the step.
        step: what happened.
        seconds: the whole step took, the wait for data included.
        held_bytes: `memory_bytes` of the contract.
    """
    result = step.result
    fields: dict[str, Any] = {"step": step.number, "loss": result.loss, "lr": rounded(step.lr, 8)}
    if step.lrs:
        fields["lrs"] = rounded(step.lrs)
    fields |= rounded(logits(learner))
    fields |= {
        "pairs": step.pairs,
        "samples_per_second": rounded(step.pairs / seconds),
        "micro_batch": result.micro_batch,
        "kept": result.kept,
        "retries": result.retries,
        "memory_bytes": held_bytes,
        "memory": step.memory,
        "grad_norm": rounded(step.grad_norm),
        "grad_norms": rounded(step.grad_norms, 4),
        "skipped": step.skipped,
        "seconds": rounded(step.seconds, 4),
        "busy": rounded(step.busy, 3),
    }
    if len(result.parts) > 1 or rounded(result.loss) not in rounded(result.parts).values():
        fields["parts"] = rounded(result.parts)
    if learner.flops and learner.bound:
        speed = learner.flops * step.pairs / seconds
        fields |= {"flops_per_second": int(rounded(speed, 4)), "matmul_share": rounded(speed / learner.bound, 3)}
    return fields


@torch.no_grad()
def logits(learner: Learner) -> dict[str, float]:
    """The logit scale, and the bias where there is one; both in one copy, for each copy waits for the device."""
    clip = learner.clip
    bias = clip.model.logit_bias
    found = [clip.logit_scale.exp().reshape(()), *([] if bias is None else [bias.reshape(())])]
    return dict(zip(("logit_scale", "logit_bias"), torch.stack(found).tolist(), strict=False))


def of_evaluation(found: Score, size_px: int, seconds: float) -> dict[str, Any]:
    """The fields of an `evaluation` event that every evaluation has."""
    return {
        "score": found.value,
        "words": found.words,
        "size_px": size_px,
        "seconds": rounded(seconds),
        "metrics": told_metrics(found.metrics),
        "health": found.health,
        "examples": found.examples,
    }


def told_metrics(metrics: Any) -> Any:
    """METRICS whose intervals have six digits; the values stay as they are."""
    if not isinstance(metrics, Mapping):
        return metrics
    return {
        name: rounded(one) if name in ("low", "high") and isinstance(one, float) else told_metrics(one)
        for name, one in metrics.items()
    }


def of_checkpoint(saved: Saved) -> dict[str, Any]:
    """The fields of a `checkpoint` event: how long the steps waited for it, how long it was written, and how large it is."""
    return {
        "name": saved.folder.name,
        "seconds": rounded(saved.paused_s),
        "writing_seconds": rounded(saved.writing_s),
        "bytes": saved.bytes,
        "best": saved.best,
    }


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """A number, or the numbers of a mapping, to so many significant digits."""
    if isinstance(value, Mapping):
        return {name: rounded(one, digits) for name, one in value.items()}
    return float(f"{value:.{digits}g}")
