"""clip_benchmark's own evaluation of one model on given rows. Runs in the environment of clip_benchmark, which lacks honeclip.

python clip_benchmark_side.py TASK.json

TASK has "model" (a folder of open_clip), "images", "captions", "labels" (class numbers), "prompts" (of each class), "batch",
"workers" and "threads". Prints one JSON object: seconds of both tasks, and their scores.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from torch.utils.data import DataLoader, Dataset

KS = [1, 5, 10]


class Rows(Dataset[tuple[Any, Any]]):
    """Pictures, each with its captions or its class."""

    def __init__(self, files: list[str], transform: Any, beside: list[Any], classes: list[str]) -> None:
        self.files, self.transform, self.beside, self.classes = files, transform, beside, classes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        return self.transform(Image.open(self.files[row])), self.beside[row]


def together(rows: list[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """A batch for retrieval, as clip_benchmark wants it: captions stay lists."""
    return torch.stack([image for image, _ in rows]), [captions for _, captions in rows]


def main(task: SimpleNamespace) -> None:
    """Retrieval, then zero-shot classification, as two runs of clip_benchmark's command would."""
    torch.set_num_threads(task.threads)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{task.model}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{task.model}")
    how = {"batch_size": task.batch, "num_workers": task.workers}
    names = [str(number) for number in range(len(task.prompts))]
    with torch.no_grad():  # what is done once, and not by the evaluation
        size = model.visual.image_size
        side = size[0] if isinstance(size, tuple | list) else size
        model.encode_image(torch.zeros(1, 3, side, side))
        model.encode_text(tokenizer(["a"]))

    wall, cpu = time.perf_counter(), time.process_time()
    pictures = Rows(task.images, transform, [[caption] for caption in task.captions], names)
    found = zeroshot_retrieval.evaluate(
        model, DataLoader(pictures, collate_fn=together, **how), tokenizer, "cpu", amp=False, recall_k_list=KS
    )
    middle, middle_cpu = time.perf_counter(), time.process_time()
    prompts = dict(zip(names, task.prompts, strict=True))
    labelled = Rows(task.images, transform, task.labels, names)
    classified = zeroshot_classification.evaluate(
        model, DataLoader(labelled, **how), tokenizer, names, prompts, "cpu", amp=False
    )
    end, end_cpu = time.perf_counter(), time.process_time()

    scores = {f"image_to_text R@{k}": found[f"text_retrieval_recall@{k}"] for k in KS}
    scores |= {f"text_to_image R@{k}": found[f"image_retrieval_recall@{k}"] for k in KS}
    scores |= {"accuracy": classified["acc1"], "balanced_accuracy": float(classified["mean_per_class_recall"])}
    seconds = {"retrieval": middle - wall, "both": end - wall}
    cpu_seconds = {"retrieval": middle_cpu - cpu, "both": end_cpu - cpu}
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "scores": scores}))


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text())))
