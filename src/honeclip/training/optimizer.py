"""AdamW with groups: heads and bodies learn at their own rate, and norms, biases and scales do not decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from honeclip.config import Train
from honeclip.errors import ConfigError
from honeclip.model.adapt import heights, is_adapter
from honeclip.model.clip import Clip
from honeclip.model.towers import image_tower, text_tower

HEAD_RATE, LORA_RATE, BODY_RATE = 1e-3, 2e-4, 1e-5
"""Peak rates of `train.lr = "auto"`: for heads over frozen or fresh features, adapters, and whole pre-trained towers."""

BALANCE_RATE = 1e-2
"""Peak rate of the log variances of uncertainty weighting: numbers around 0 that begin at their place."""

BALANCE = "balance"
"""What a group, and a part of the gradients, is called that holds what the loss learns of its own."""

BETAS, EPSILON = (0.9, 0.98), 1e-6
"""Adam's constants as CLIP trains with them (Radford et al. 2021, table 19)."""


def build(
    clip: Clip, train: Train, frozen: frozenset[str], balance: nn.ParameterDict | None = None
) -> torch.optim.AdamW:
    """The optimizer over everything that may ever learn in this run; each group has its peak rate as `peak_lr`.

    With `layer_decay` below 1 the rate falls by that factor from the head, which has all of it, to the last block and on
    from block to block (Clark et al. 2020, arXiv 2003.10555; Bao et al. 2022, arXiv 2106.08254).

    Args:
        clip: the model, heads in their final form.
        train: rate and decay.
        frozen: towers ("image", "text") whose bodies never learn.
        balance: what the loss learns of its own, at `BALANCE_RATE`.

    Raises:
        ConfigError: rates shall decay by layers, and a tower that learns has no blocks that are known.
    """
    heads = {id(one) for tower in (image_tower(clip), text_tower(clip)) for one in tower.parameters_head()}
    fast_heads = clip.base.starts_unaligned or frozen == {"image", "text"}
    head_rate = (HEAD_RATE if fast_heads else BODY_RATE) if train.lr == "auto" else train.lr
    body_rate, lora_rate = (BODY_RATE, LORA_RATE) if train.lr == "auto" else (train.lr, train.lr)
    shares = _layer_shares(clip, train.layer_decay) if train.layer_decay < 1 else {}
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    roles: dict[int, str] = {id(one): BALANCE for one in (balance or {}).values()}
    for name, parameter in named_learning(clip):
        is_head = id(parameter) in heads or name in ("logit_scale", "logit_bias")
        decays = _decays(name, parameter)
        rate = head_rate if is_head else lora_rate if is_adapter(name) else body_rate
        roles[id(parameter)] = "heads" if is_head else "adapters" if is_adapter(name) else "towers"
        groups.setdefault((rate * shares.get(id(parameter), 1.0), decays, is_head), []).append(parameter)
    if balance is not None:
        groups[(BALANCE_RATE, False, False)] = [*groups.get((BALANCE_RATE, False, False), []), *balance.values()]
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "lr": rate,
                "peak_lr": rate,
                "weight_decay": train.weight_decay if decays else 0.0,
                "decays": decays,
                "head": head,
                "role": roles[id(members[0])],
            }
            for (rate, decays, head), members in groups.items()
        ],
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )


def named_learning(clip: Clip) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of everything that requires a gradient, in the model's order."""
    return ((name, one) for name, one in clip.model.named_parameters() if one.requires_grad)


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> frozenset[str]:
    """Names of the model's parameters that the optimizer holds: all that ever learn, whatever does now."""
    known = {id(one) for group in optimizer.param_groups for one in group["params"]}
    return frozenset(name for name, one in model.named_parameters() if id(one) in known)


def _layer_shares(clip: Clip, decay: float) -> dict[int, float]:
    """By a parameter's id, the share of its rate that its place leaves it."""
    shares: dict[int, float] = {}
    for tower in (image_tower(clip), text_tower(clip)):
        blocks, height = heights(tower)
        if not blocks and any(one.requires_grad for one in tower.parameters_body()):
            raise ConfigError(
                f"train.layer_decay = {decay}: the {tower.name} tower of {clip.source} has no blocks that are known; use "
                f"1.0, or model.freeze={tower.name}"
            )
        shares |= {key: decay ** (blocks + 1 - place) for key, place in height.items()}
    return shares


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; norms, biases, scales and single vectors do not (open_clip's rule, Radford et al. 2021)."""
    return parameter.ndim >= 2 and not name.endswith(("bias", "positional_embedding", "class_embedding"))


def set_rate(optimizer: torch.optim.Optimizer, factor: float, heads: float = 1.0) -> float:
    """Sets every group to `factor` of its peak rate, heads to `heads` times that; returns the highest rate set."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor * (heads if group["head"] else 1.0)
    return max(float(group["lr"]) for group in optimizer.param_groups)


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rates as they are now, by what a group holds: heads, adapters, towers, balance; {} where all are the same.

    With `layer_decay` those of a tower differ by layer; the highest stands for them.
    """
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        found[group["role"]] = max(float(group["lr"]), found.get(group["role"], 0.0))
    return found if len(set(found.values())) > 1 else {}


def set_decay(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Sets the weight decay of every group that decays at all."""
    for group in optimizer.param_groups:
        group["weight_decay"] = decay if group["decays"] else 0.0


def swap(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, moment: Callable[[Tensor], Tensor] | None
) -> None:
    """Puts a parameter of another shape into an old one's place; an optimizer without the old one stays as it is.

    Args:
        optimizer: Adam or a relative, changed in place.
        old: the parameter that it held.
        new: the one that it holds from now on.
        moment: from a moment of the old shape to one of the new shape; None lets Adam begin anew for this parameter, its
            step count included, so that its bias correction holds.
    """
    for group in optimizer.param_groups:
        group["params"] = [new if one is old else one for one in group["params"]]
    state = optimizer.state.pop(old, None)
    if not state:
        return
    optimizer.state[new] = {
        key: _moved(value, old, new, moment) if isinstance(value, Tensor) else value for key, value in state.items()
    }
    if moment is not None:
        # bicubic weights are negative in places, and of a mean of squares a root is taken
        optimizer.state[new]["exp_avg_sq"].clamp_(min=0)


def _moved(value: Tensor, old: nn.Parameter, new: nn.Parameter, moment: Callable[[Tensor], Tensor] | None) -> Tensor:
    if moment is None:
        return torch.zeros_like(value) if value.shape != old.shape else torch.zeros_like(new)
    return value if value.shape != old.shape else moment(value).to(new)


def parts_of(clip: Clip, optimizer: torch.optim.Optimizer) -> dict[str, list[nn.Parameter]]:
    """Everything that the optimizer holds by the part it belongs to: "image", "text", "scale" (the logit scale and bias), and
    "balance" for what the loss learns of its own. Parts without parameters are left out."""
    part: dict[int, str] = {}
    for tower in (image_tower(clip), text_tower(clip)):
        part |= {id(one): tower.name for of in (tower.parameters_body(), tower.parameters_head()) for one in of}
    part |= {id(one): "scale" for one in (clip.logit_scale, clip.model.logit_bias) if one is not None}
    out: dict[str, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        for one in group["params"]:
            out.setdefault(part.get(id(one), BALANCE), []).append(one)
    return out


def gradient_norms(parts: Mapping[str, Iterable[nn.Parameter]]) -> tuple[float, dict[str, float]]:
    """The global 2-norm of all gradients, and that of each part that has any.

    Every gradient is read once, and the norms of all of them come to the host together: one wait for the device, as for the
    global norm alone.
    """
    named = [
        (name, torch.linalg.vector_norm(one.grad))
        for name, members in parts.items()
        for one in members
        if one.grad is not None
    ]
    if not named:
        return 0.0, {}
    values: list[float] = torch.stack([norm for _, norm in named]).tolist()
    own: dict[str, list[float]] = {}
    for (name, _), value in zip(named, values, strict=True):
        own.setdefault(name, []).append(value)
    # hypot neither overflows on the way nor makes a finite number of one that is not
    return math.hypot(*values), {name: math.hypot(*norms) for name, norms in own.items()}


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The global 2-norm of all gradients."""
    return gradient_norms({"": parameters})[0]


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float, limit: float) -> None:
    """Scales all gradients so that their global norm is at most `limit`; a limit of 0 leaves them."""
    if limit and norm > limit and math.isfinite(norm):
        for one in parameters:
            if one.grad is not None:
                one.grad.mul_(limit / (norm + 1e-6))


def state_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `PARAMETER/KEY`, so that a file holds it without pickle."""
    tensors = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def load_state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    """Puts back what `state_tensors` gave: moments beside their parameter, step counts where the kernel wants them."""
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.to(parameter.device).clone()
