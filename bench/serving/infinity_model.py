"""A random ViT-B/32 as Hugging Face's transformers have it. Runs in the environment of infinity, which lacks honeclip.

python infinity_model.py FOLDER path/to/bpe_simple_vocab_16e6.txt.gz
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

MERGES = 49152 - 256 - 2
"""Of OpenAI's CLIP (open_clip, tokenizer.py)."""


def main(folder: Path, merges_file: Path) -> None:
    """Writes config, weights, tokenizer and image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = gzip.decompress(merges_file.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    letters = list(_letters())
    words = [
        *letters,
        *(f"{one}</w>" for one in letters),
        *("".join(one.split()) for one in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(folder)
    config = CLIPConfig()  # its defaults are ViT-B/32, but for the special tokens
    config.text_config.bos_token_id, config.text_config.eos_token_id = len(words) - 2, len(words) - 1
    config.text_config.pad_token_id = len(words) - 1
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


def _letters() -> list[str]:
    """The byte letters of GPT-2's BPE: printable bytes as they are, the others moved beyond 255."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [one for one in range(256) if one not in printable]
    return [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
