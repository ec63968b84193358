"""A model between two others: theta(alpha) = (1 - alpha) theta_0 + alpha theta_1 (WiSE-FT).

Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903: on the way from the weights before
fine-tuning to those after it there are often models that keep most of what was won and forget little of what was known.
Fresh heads must be folded and adapters merged before (`load.from_json` does both): a product of two interpolated factors is
not the interpolated product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from honeclip.errors import ModelError
from honeclip.model.clip import Clip, copied


def between(start: Clip, end: Clip, alpha: float) -> Clip:
    """A model of its own, of which each weight lies between those of two models of the same form.

    Args:
        start: theta_0.
        end: theta_1; preprocessing, config and domain are taken from it.
        alpha: 0 to 1; at both ends the weights are those of that model, bit for bit. Tensors that are equal in both stay as
            they are, so that features of a body that did not learn are the same for every alpha.

    Raises:
        ModelError: the two have tensors of other names or shapes.
    """
    theta_0, theta_1 = start.model.state_dict(), end.model.state_dict()
    shapes_0, shapes_1 = ({name: one.shape for name, one in theta.items()} for theta in (theta_0, theta_1))
    if shapes_0 != shapes_1:
        names = [name for name in {**shapes_0, **shapes_1} if shapes_0.get(name) != shapes_1.get(name)]
        raise ModelError(
            f"there is nothing between {start.source} and {end.source}: they differ in {', '.join(names[:3])}"
        )
    found = copied(end)
    with found.device.lock, torch.no_grad():
        found.model.load_state_dict({name: _between(theta_0[name], theta_1[name], alpha) for name in theta_1})
    return found


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if alpha == 1 or not end.is_floating_point() or torch.equal(start, end):
        return end
    return start if alpha == 0 else torch.lerp(start, end, alpha)
