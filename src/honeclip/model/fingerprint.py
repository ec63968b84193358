"""Which weights a model has, in 64 letters: equal for equal weights, whatever folder or name they came from."""

from __future__ import annotations

import hashlib
import json

import torch

from honeclip.model.clip import Clip


def of_weights(clip: Clip) -> str:
    """SHA-256 in hex of the architecture and every weight. Reads all of them: a second for a gigabyte.

    The image size and the preprocessing are not in it where no weight depends on them: `clip.preprocess.fingerprint` is.
    """
    hashed = hashlib.sha256(json.dumps(clip.config, sort_keys=True, default=str).encode())
    for name, value in sorted(clip.model.state_dict().items()):
        hashed.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
