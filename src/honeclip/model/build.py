"""open_clip modules from a `model_cfg`, their tokenizers, and the files that the text side needs beside the weights.

open_clip's own `create_model` is not used: it reads a relative `hf_model_name` from the working directory, may download
weights of single towers, and does not give back the config after its overrides. The module is the same.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from honeclip.errors import ModelError
from honeclip.model import hub
from honeclip.preprocess.tokens import Tokenizer

HERE = "./"
"""In a config: the text tower's or the tokenizer's files lie beside the weights."""

TEXT_CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
"""One of them is there where a tokenizer is."""

TOKENIZER_EXTRAS = ("merges.txt", "special_tokens_map.json", "added_tokens.json", TEXT_CONFIG)
"""What some tokenizers need besides; the config says of which kind an old one is."""


def build(config: Mapping[str, Any], folder: Path | None = None, *, network: bool = False) -> nn.Module:
    """The module of a `model_cfg` on the CPU, float32, with random weights by seed 0, the same in every process.

    Args:
        config: open_clip's `model_cfg`; it is left as it is.
        folder: where a text tower of transformers has its config.json; without one the hub's cache is asked.
        network: the hub itself may be asked as well.

    Raises:
        ModelError: the config is wrong, or the text tower's config is out of reach.
    """
    given = copy.deepcopy(dict(config))
    try:
        text, vision = given["text_cfg"], given["vision_cfg"]
        custom = given.pop("custom_text", False)
        if vision.get("timm_model_name"):
            vision["timm_model_pretrained"] = False
        if text.get("hf_model_name"):
            text.update(
                hf_model_name=str(_text_config(text["hf_model_name"], folder, network)), hf_model_pretrained=False
            )
            custom = True
        kind = CoCa if custom and "multimodal_cfg" in given else CustomTextCLIP if custom else CLIP
        # torch.manual_seed would reset the accelerator's generator as well, which fork_rng does not bring back here
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            model: nn.Module = kind(**given)
            return model
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise ModelError(f"the model's config cannot be built: {type(error).__name__}: {error}") from error


def _text_config(name: str, folder: Path | None, network: bool) -> Path:
    """The folder that has the text tower's config.json."""
    if folder is not None and (folder / TEXT_CONFIG).is_file():
        return folder
    if name == HERE or Path(name).is_absolute():
        raise ModelError(f"{folder or name} lacks {TEXT_CONFIG}, the config of its text tower")
    return hub.file(name, TEXT_CONFIG, network=network).parent


def tokenizer(config: Mapping[str, Any], folder: Path | None = None, *, network: bool = False) -> Tokenizer:
    """The tokenizer of a `model_cfg`, as `open_clip.get_tokenizer` chooses it.

    Args:
        config: open_clip's `model_cfg`.
        folder: where the tokenizer's files may lie; without them the hub's cache is asked.
        network: the hub itself may be asked as well.

    Raises:
        ModelError: the files are missing or damaged.
    """
    text = config["text_cfg"]
    length = context_length(config)
    options = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        return Tokenizer(open_clip.SimpleTokenizer(context_length=length, **options))
    here = folder if folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES) else None
    if here is None and name == HERE:
        raise ModelError(f"{folder} lacks its tokenizer: none of {', '.join(TOKENIZER_FILES)} is there")
    if here is None:
        here = hub.collect(name, (*TOKENIZER_FILES, *TOKENIZER_EXTRAS), network=network)
    if here is None:
        raise ModelError(hub.unreachable(name, f"the tokenizer's files ({TOKENIZER_FILES[0]})", network=network))
    try:
        made = open_clip.tokenizer.HFTokenizer(
            str(here), length, tokenizer_mode=text.get("tokenizer_mode"), local_files_only=True, **options
        )
    except Exception as error:  # tokenizers raises bare ones for a broken file
        raise ModelError(f"the tokenizer in {here} cannot be read: {str(error).splitlines()[0]}") from None
    return Tokenizer(made)


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens of a text for a `model_cfg`, start and end marks included."""
    return int(config["text_cfg"].get("context_length") or open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)


def text_files(model: Any, tokenizer: Tokenizer | None) -> dict[str, str]:
    """File name -> content of what the text side needs beside config and weights.

    That is the tokenizer's files where it has any, and config.json of a text tower from transformers. Nothing of this
    machine is in them.
    """
    files = {} if tokenizer is None else dict(_tokenizer_files(tokenizer))
    if isinstance(getattr(model, "text", None), HFTextEncoder):
        content = {key: value for key, value in model.text.config.to_dict().items() if key != "_name_or_path"}
        files[TEXT_CONFIG] = json.dumps(content, indent=2, sort_keys=True, default=str) + "\n"
    return files


@lru_cache(maxsize=4)
def _tokenizer_files(tokenizer: Tokenizer) -> dict[str, str]:
    """Kept, for to write them takes a quarter of a second, and every checkpoint of a run asks for the same."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save(Path(name))
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(name).iterdir()) if path.is_file()}


def fill(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Load a state_dict that must fit exactly.

    Raises:
        ModelError: names or shapes differ; the first few are named.
    """
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
        raise ModelError(f"{where}: the weights do not fit the config: {' '.join(faults)[:300]}") from None
