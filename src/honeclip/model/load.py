"""`load`: from a model source to a `Clip`. Every source of the contract is resolved here, and nowhere else.

`starter`, `random:NAME`, `NAME:TAG`, `hf-hub:ORG/REPO`, and folders: open_clip's layout, transformers' CLIP layout, a
run, a checkpoint.
"""

from __future__ import annotations

import difflib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
from torch import Tensor

from honeclip.checkpoint import load as checkpoints
from honeclip.device.detect import choose
from honeclip.errors import ModelError
from honeclip.model import adapt, build, folder, heads, hub, huggingface, starter
from honeclip.model.clip import Base, Clip, check_format, place
from honeclip.preprocess.preprocess import Preprocess

if TYPE_CHECKING:
    from honeclip.device.device import Device

log = logging.getLogger(__name__)

RUN_MODEL, RUN_CHECKPOINTS, STATE = "model", "checkpoints", "state.json"


def load(source: str | os.PathLike[str], device: str | Device = "auto") -> Clip:
    """`honeclip.load`: a model on a device, ready to encode.

    Args:
        source: `starter`, `NAME:TAG` of open_clip, `hf-hub:ORG/REPO`, `random:NAME`, or a folder: a run, a checkpoint,
            open_clip's layout or transformers' CLIP layout.
        device: "auto", "cpu", "mps", "cuda", or a Device.

    Raises:
        ModelError: the source is unknown (the nearest names are shown), incomplete, or out of reach.
        BadInput: the device is not there.
    """
    name = os.fspath(source)
    where = choose(device) if isinstance(device, str) else device
    if name == "starter":
        model, preprocess, config, base = starter.build()
        return place(model, preprocess, config, base, source=name, device=where)
    if name.startswith("random:"):
        return _random(name, where)
    if name.startswith("hf-hub:"):
        return _hub(name, where)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _folder(path, name, where)
    if name and path.exists():
        raise ModelError(f"{name} is a file; a model is a folder: give {path.parent}")
    return _tagged(name, where)


# --- names --------------------------------------------------------------------------------------------------------


def _random(source: str, device: Device) -> Clip:
    """Any of open_clip's architectures with weights by seed 0; the network is never asked."""
    name = source.partition(":")[2]
    config = _config(name, source)
    try:
        model = build.build(config, network=False)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None
    try:
        tokenizer = build.tokenizer(config, network=False)
    except ModelError:  # images can be used all the same; a text says what is missing
        tokenizer = None
    preprocess = Preprocess.from_open_clip({}, folder.square(config), tokenizer)
    preprocess = preprocess.with_context_length(build.context_length(config))
    base = Base(f"{name} with random weights", "none: the weights are random", starts_unaligned=True)
    return place(model, preprocess, config, base, source=source, device=device)


def _tagged(source: str, device: Device) -> Clip:
    """NAME:TAG of open_clip, from the hub's cache or the hub."""
    name, colon, tag = source.partition(":")
    config = _config(name, source)
    stored = open_clip.get_pretrained_cfg(name, tag)
    if not stored:
        raise ModelError(_no_tag(name, tag if colon else None))
    repo, _, file = stored["hf_hub"].rpartition("/")
    names = (f"{Path(file).stem}.safetensors", file) if file else folder.WEIGHTS_NAMES
    weights = hub.first(repo, names)
    if weights is None:
        raise ModelError(f"{source}: {hub.unreachable(repo, names[0])}")
    if stored.get("quick_gelu"):
        # open_clip only warns, and computes another activation than the weights were trained with
        config["quick_gelu"] = True
    model = build.build(config, network=True)
    folder.load_weights(model, weights)
    preprocess = Preprocess.from_open_clip(stored, folder.square(config), build.tokenizer(config, network=True))
    base = Base(source, f"{folder.licence(weights.parent)} (https://huggingface.co/{repo})", starts_unaligned=False)
    return place(model, preprocess, config, base, source=source, device=device)


def _no_tag(name: str, tag: str | None) -> str:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        return f"open_clip has no weights for {name}; `random:{name}` gives random ones"
    if tag is None:
        return f"{name}: say which weights, {name}:TAG; its tags: {', '.join(tags)}"
    near = difflib.get_close_matches(tag, tags, n=3, cutoff=0.4)
    return f"{name} has no tag {tag!r}; nearest: {', '.join(near or tags)}"


def _config(name: str, source: str) -> dict[str, object]:
    """A copy of open_clip's config of that name, or ModelError with the nearest ones."""
    config: dict[str, object] | None = None if "/" in name or os.sep in name else open_clip.get_model_config(name)
    if config is not None:
        return config
    near = difflib.get_close_matches(name, [*open_clip.list_models(), "starter"], n=3, cutoff=0.5)
    also = f" (a hub repository is hf-hub:{name})" if name.count("/") == 1 and ":" not in source else ""
    raise ModelError(
        f"{source or 'an empty name'} is neither a folder nor a model that open_clip knows{also}; "
        f"nearest: {', '.join(near) or 'none'}. "
        "Sources: starter, NAME:TAG, hf-hub:ORG/REPO, a folder, a run, random:NAME"
    )


def _hub(source: str, device: Device) -> Clip:
    """A repository of the hub in either layout, from its cache or the hub."""
    repo = source.partition(":")[2]
    config = hub.first(repo, [folder.CONFIG, huggingface.CONFIG])
    if config is None:
        raise ModelError(hub.unreachable(repo, f"{folder.CONFIG} (nor {huggingface.CONFIG})"))
    ours = config.name == folder.CONFIG
    names = folder.WEIGHTS_NAMES if ours else huggingface.WEIGHTS_NAMES
    revision = config.parent.name
    if hub.first(repo, names, revision=revision) is None:
        raise ModelError(hub.unreachable(repo, f"its weights ({' or '.join(names)})"))
    optional = (folder.CARD, folder.OURS, huggingface.PREPROCESSOR, *build.TOKENIZER_FILES, *build.TOKENIZER_EXTRAS)
    hub.collect(repo, optional, revision=revision)
    read = folder.read if ours else huggingface.read
    return read(config.parent, device=device, source=source, network=True)


# --- folders ------------------------------------------------------------------------------------------------------


def _folder(path: Path, source: str, device: Device) -> Clip:
    if (path / folder.CONFIG).is_file():
        return folder.read(path, device=device, source=source)
    if (path / huggingface.CONFIG).is_file():
        return huggingface.read(path, device=device, source=source)
    if (path / STATE).is_file():
        return _checkpoint(path, source, device)
    if (path / RUN_MODEL / folder.CONFIG).is_file():
        return folder.read(path / RUN_MODEL, device=device, source=source)
    if (path / RUN_CHECKPOINTS).is_dir():
        best = checkpoints.best_good(path / RUN_CHECKPOINTS, log.warning)
        if best is None:
            raise ModelError(f"{path} is a run that has no checkpoint yet")
        return _checkpoint(best, source, device)
    raise ModelError(
        f"{path} is no model: looked for {folder.CONFIG} (open_clip), {huggingface.CONFIG} (transformers' CLIP), "
        f"{STATE} (a checkpoint), {RUN_MODEL}/{folder.CONFIG} and {RUN_CHECKPOINTS}/ (a run)"
    )


def _checkpoint(path: Path, source: str, device: Device) -> Clip:
    faults = checkpoints.verify(path)
    if faults:
        raise ModelError(f"checkpoint {path} is damaged: {'; '.join(faults)}")
    state = checkpoints.read(path)
    return from_json(state.json["clip"], state.tensors["weights"], source=source, device=device)


def from_json(stored: Mapping[str, Any], weights: Mapping[str, Tensor], *, source: str, device: Device) -> Clip:
    """A Clip from what `clip.clip_json` gave and the model's state_dict; fresh heads are folded, adapters merged.

    Raises:
        ModelError: a newer honeclip wrote it, or the weights are those of another model.
    """
    check_format(stored, source)
    config = dict(stored["config"])
    with tempfile.TemporaryDirectory() as name:
        for file, text in stored["files"].items():
            (Path(name) / Path(file).name).write_text(text, encoding="utf-8")
        model = build.build(config, Path(name))
        preprocess = Preprocess.from_json(stored["preprocess"], build.tokenizer(config, Path(name)))
    base = Base(**stored["base"])
    clip = Clip(model, preprocess, config, device, source, base, stored["domain"])
    if heads.is_fresh(weights):
        heads.install_empty(clip)
    if adapt.is_adapted(weights):
        adapt.install_empty(clip, weights)
    build.fill(model, weights, source)
    adapt.merge_lora(clip)
    heads.fold(clip)
    return place(model, preprocess, config, base, source=source, device=device, domain=clip.domain)
