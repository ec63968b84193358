"""Tokenizers as open_clip has them: the same tokens, and besides a count before the cut, a fingerprint, files.

Nothing is done to a text here that open_clip does not do: its tokenizers clean texts themselves (`SimpleTokenizer` in
lower case, `HFTokenizer` by its `clean`), and a model that open_clip loads alone must see the same tokens.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from honeclip.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

REASON_CHARACTERS = 200

_OF_THIS_MACHINE = ("name_or_path", "is_local", "local_files_only", "cache_dir", "token")
"""What transformers writes into tokenizer_config.json about where a tokenizer came from."""


class Tokenizer:
    """From texts to tokens; threads may share it, processes may be sent it.

    Attributes:
        context_length: tokens at which a text is cut, and to which it is padded.
    """

    def __init__(self, source: Any = "simple", context_length: int | None = None) -> None:
        """Wrap a tokenizer.

        Args:
            source: "simple" (OpenAI's byte-pair encoding, which open_clip carries), or what `open_clip.get_tokenizer`
                gives: SimpleTokenizer, HFTokenizer or SigLipTokenizer.
            context_length: None takes the tokenizer's own.

        Raises:
            ModelError: another name, or another kind of tokenizer.
        """
        if isinstance(source, str) and source == "simple":
            from open_clip.tokenizer import SimpleTokenizer

            source = SimpleTokenizer()
        if not hasattr(source, "bpe_ranks") and not hasattr(source, "tokenizer"):
            named = source if isinstance(source, str) else type(source).__name__
            raise ModelError(
                f'{named} is no tokenizer: give "simple", or what open_clip.get_tokenizer gives, or use '
                "Tokenizer.from_folder"
            )
        self._made = source
        self._lock = threading.Lock()
        self.context_length = int(context_length or source.context_length)

    @classmethod
    def from_folder(cls, folder: Path, context_length: int) -> Tokenizer:
        """The Hugging Face tokenizer whose files (tokenizer.json, ...) lie in `folder`; the network is never asked.

        Raises:
            ModelError: a file is missing or damaged.
        """
        from open_clip.tokenizer import HFTokenizer

        if not folder.is_dir():
            raise ModelError(f"there is no folder {folder}, where tokenizer.json should be")
        try:
            return cls(HFTokenizer(str(folder), context_length=context_length, local_files_only=True))
        except Exception as error:  # transformers and its Rust parts raise nearly anything for files they do not expect
            reason = " ".join(str(error).split())[:REASON_CHARACTERS]
            raise ModelError(f"{folder} has no tokenizer that can be read: {reason}") from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Tokens of `texts`: int64 (N, context_length), cut and padded as open_clip does it."""
        import torch

        if not texts:
            return torch.empty(0, self.context_length, dtype=torch.int64)
        with self._lock:
            tokens: Tensor = self._made(list(texts), context_length=self.context_length)
        return tokens.to(torch.int64)

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has before it is cut, its marks of start and end included."""
        if not texts:
            return []
        if self._is_simple:
            return [len(self._made.encode(text)) + 2 for text in texts]
        # its marks are those of open_clip's own "clips" mode: start, end and class
        own_marks = getattr(self._made, "tokenizer_mode", "") == "clips"
        with self._lock:
            # not verbose: that a text is longer than the model's context is what is asked here, no reason to warn
            ids = self._made.tokenizer(
                [self._clean(text) for text in texts],
                padding=False,
                truncation=False,
                add_special_tokens=not own_marks,
                verbose=False,
            )["input_ids"]
        return [len(one) + 3 * own_marks for one in ids]

    def count_cut(self, texts: Sequence[str], tokens_NL: Tensor) -> int:
        """How many of `texts` lost tokens, where `tokens_NL` is what calling the tokenizer gave for them.

        Only texts that fill their row are counted again, which costs next to nothing where captions are short.
        """
        pad = 0 if self._is_simple else self._made.tokenizer.pad_token_id
        left = not self._is_simple and self._made.tokenizer.padding_side != "right"
        # the last two: the end mark of some tokenizers is their padding, and the padding of others is a word
        full = [pad is None or left or any(token != pad for token in row) for row in tokens_NL[:, -2:].tolist()]
        lengths = self.count([text for text, fills in zip(texts, full, strict=True) if fills])
        return sum(length > self.context_length for length in lengths)

    def at_length(self, context_length: int) -> Tokenizer:
        """The same tokenizer with another context length."""
        other = Tokenizer(self._made, context_length)
        other._lock, other._content = self._lock, self._content
        return other

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of all that decides the tokens; the same after `save` and reading back."""
        return hashlib.sha256(f"{self._content} {self.context_length}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the files that `open_clip.get_tokenizer("local-dir:FOLDER")` reads; "simple" has none and writes none.

        They say nothing of this machine, and nothing of what was tokenised before.
        """
        if not self._is_simple:
            with self._lock:
                _save(self._made.tokenizer, folder)

    def save_for_transformers(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` gives the same words; "simple" has such files as well.

        transformers does not do what open_clip does to a text first (it unescapes HTML, and mends broken Unicode), and pads
        "simple" with the end mark in place of 0, which decides nothing behind the first end mark.
        """
        if not self._is_simple:
            self.save(folder)
            return
        from transformers import CLIPTokenizer

        words = [*list(self._made.encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
        vocabulary = {word: number for number, word in enumerate(words)}
        length = self.context_length
        merges = [tuple(pair) for pair in self._made.bpe_ranks]
        _save(CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length), folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def _is_simple(self) -> bool:
        return hasattr(self._made, "bpe_ranks")

    def _clean(self, text: str) -> str:
        """What open_clip does to a text before it asks the Hugging Face tokenizer."""
        from open_clip.tokenizer import get_clean_fn

        cleaned: str = getattr(self._made, "clean_fn", get_clean_fn("canonicalize"))(text)
        return cleaned

    @cached_property
    def _content(self) -> str:
        """SHA-256 in hex of everything but the context length."""
        made = self._made
        facts: dict[str, Any] = {"kind": type(made).__name__, "clean": getattr(made, "clean_fn", self._clean).__name__}
        if self._is_simple:
            reduce = made.reduction_fn and repr(made.reduction_fn).partition(" at ")[0]
            facts |= {"vocabulary": made.encoder, "merges": list(made.bpe_ranks), "reduce": reduce}
        else:
            inner = made.tokenizer
            facts |= {"mode": getattr(made, "tokenizer_mode", ""), "no_sep": getattr(made, "strip_sep_token", False)}
            facts |= {"sides": (inner.padding_side, inner.truncation_side), "special": inner.special_tokens_map}
            backend = getattr(inner, "backend_tokenizer", None)
            facts["inner"] = (
                _at_rest(json.loads(backend.to_str())) if backend else (type(inner).__name__, inner.get_vocab())
            )
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _save(made: Any, folder: Path) -> None:
    """transformers' own files, without what they say of this machine and of the last call."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(str(folder))
    for name, drop in (("tokenizer.json", {}), ("tokenizer_config.json", _OF_THIS_MACHINE)):
        path = folder / name
        if path.is_file():
            stored = _at_rest(json.loads(path.read_text(encoding="utf-8")))
            kept = {key: value for key, value in stored.items() if key not in drop}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _at_rest(stored: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without what the last call left in it; each call sets both anew."""
    return {key: None if key in ("truncation", "padding") else value for key, value in stored.items()}
