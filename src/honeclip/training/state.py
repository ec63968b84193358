"""What a checkpoint holds of a run, and the way back: weights, optimizer, generators, position, plan, best score.

A resumed run is the same run: the order of the data and the dropout of a step are pure functions of the seed and the
step, so the position is one number.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from honeclip.checkpoint.save import RunState
from honeclip.config import Memory
from honeclip.device import rng
from honeclip.errors import RunError
from honeclip.model.clip import clip_json
from honeclip.stepping.plan import Plan
from honeclip.training import mining
from honeclip.training.eight import Eight
from honeclip.training.loop import Learner
from honeclip.training.optimizer import load_state_tensors, state_tensors
from honeclip.training.stages import Stage


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
        step: steps done.
        total_steps: steps of the whole run.
        elapsed_s: seconds of training before this process.
        start_score: the selection score on val before the first step; None where nothing is evaluated.
        best_score: the best since; None before the first evaluation.
        worse: evaluations since the best one.
        peak_bytes: the largest peak of memory seen.
        samples: pairs that went through a step.
        rewinds: how often the run went back because it forgot too much.
        forgot: whether the model has forgotten more than it may, and the run ends.
    """

    step: int
    total_steps: int
    elapsed_s: float = 0.0
    start_score: float | None = None
    best_score: float | None = None
    worse: int = 0
    peak_bytes: int = 0
    samples: int = 0
    rewinds: int = 0
    forgot: bool = False


def capture(
    learner: Learner,
    position: Position,
    events_offset: int,
    stage: Stage,
    phase: int,
    data: str | None = None,
    pairs: Eight | None = None,
) -> RunState:
    """The run as tensors and JSON. The tensors are the live ones: write them before the next step.

    Args:
        learner: model, optimizer and plan as they are now.
        position: where the run stands.
        events_offset: bytes of events.jsonl that belong to it.
        stage: the one that the plan is for.
        phase: the first step from which the same towers learn as now.
        data: see `same_data.fingerprint`.
        pairs: embeddings by the model as it is now, where there are some.
    """
    clip = learner.clip
    weights = {name: value.detach() for name, value in clip.model.state_dict().items()}
    return RunState(
        step=position.step,
        total_steps=position.total_steps,
        elapsed_s=position.elapsed_s,
        tensors={
            "weights": weights,
            "optimizer": state_tensors(learner.optimizer, _parameters(learner)),
            "rng": rng.snapshot(),
            **({"mined": mining.to_tensors(learner.mined)} if learner.config.loss.mining else {}),
            **({} if learner.balance is None else {"balance": learner.balance.state_dict()}),
            **({} if pairs is None else {"pairs": pairs.tensors}),
        },
        json={
            "clip": clip_json(clip),
            "plan": learner.plan.to_json(),
            "start_score": position.start_score,
            "best_score": position.best_score,
            "worse": position.worse,
            "peak_bytes": position.peak_bytes,
            "samples": position.samples,
            "rewinds": position.rewinds,
            "forgot": position.forgot,
            "stage": stage.start,
            "sizes": list(stage.resolution.starts) if stage.resolution else [],
            "phase": phase,
            "length": learner.config.train.length,
            "processes": learner.ranks.world.size,
            "memory": learner.config.memory.model_dump(),
            "scaler": learner.scaler.state_dict(),
            "device": clip.device.backend,
            "data": data,
            "pairs": None if pairs is None else pairs.about,
        },
        events_offset=events_offset,
    )


def restore(state: RunState, learner: Learner, total_steps: int) -> Position:
    """Puts a checkpoint's state into a learner that was built from the same config; gives the position.

    Raises:
        RunError: the weights are those of another model.
    """
    try:
        learner.clip.model.load_state_dict(state.tensors["weights"])
        if "mined" in state.tensors:
            mining.from_tensors(learner.mined, state.tensors["mined"])
        if learner.balance is not None:
            learner.balance.load_state_dict(state.tensors["balance"])
        load_state_tensors(learner.optimizer, _parameters(learner), state.tensors.get("optimizer", {}))
    except (RuntimeError, KeyError) as error:
        raise RunError(f"the checkpoint of step {state.step} does not fit the model of this run: {error}") from None
    rng.restore(state.tensors.get("rng", {}))
    stored = state.json
    if stored["scaler"]:
        learner.scaler.load_state_dict(stored["scaler"])
    return Position(
        step=state.step,
        total_steps=total_steps,
        elapsed_s=state.elapsed_s,
        start_score=stored["start_score"],
        best_score=stored["best_score"],
        worse=stored["worse"],
        peak_bytes=stored["peak_bytes"],
        samples=stored["samples"],
        rewinds=stored.get("rewinds", 0),
        forgot=stored.get("forgot", False),
    )


def _parameters(learner: Learner) -> dict[str, nn.Parameter]:
    """By name: the model's, and what the loss learns of its own."""
    own = {} if learner.balance is None else {f"balance.{name}": one for name, one in learner.balance.items()}
    return {**dict(learner.clip.model.named_parameters()), **own}


def sizes_begun(state: RunState | None) -> tuple[int, ...]:
    """First step of each size of the images that the run has entered; none before the first step, or for one size."""
    return tuple(state.json.get("sizes", ())) if state else ()


def stored_size(state: RunState) -> int:
    """Side in pixels of the images that the checkpoint's model takes."""
    return int(state.json["clip"]["preprocess"]["size_px"])


def stored_plan(state: RunState, stage: int, memory: Memory, backend: str, processes: int = 1) -> Plan | None:
    """The plan that the run had, where it was made for the stage that begins at that step, for the same wishes, on the same
    kind of device and for as many processes."""
    same = state.json["stage"] == stage and state.json["memory"] == memory.model_dump()
    same &= state.json.get("processes", 1) == processes
    return Plan.from_json(state.json["plan"]) if same and not moved(state, backend) else None


def moved(state: RunState, backend: str) -> str:
    """The kind of device that the checkpoint comes from, where it is another one; "" otherwise, or where it does not say."""
    stored = state.json["device"]
    return str(stored) if stored not in (None, backend) else ""
