"""Pixels and tokens as open_clip makes them, and everything that must survive a JSON file or another process."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from honeclip.domains.schema import ImageRules
from honeclip.errors import DataError, ModelError
from honeclip.preprocess.images import Limits
from honeclip.preprocess.preprocess import Preprocess, normalise
from honeclip.preprocess.tokens import Tokenizer

WAYS = [
    *product(("shortest", "squash"), ("bicubic", "bilinear"), (0,)),
    *product(("longest",), ("bicubic", "bilinear"), (0, 114, 255)),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def noise(width, height):
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def of_open_clip(config, size):
    return image_transform_v2(PreprocessCfg(size=size, **config), is_train=False)


def equal(preprocess, source, reference):
    """Whether the pixels, normalised, are those that open_clip's whole transform gives."""
    return torch.equal(normalise(preprocess.image(source)[None], preprocess.mean, preprocess.std)[0], reference)


@pytest.mark.parametrize(("resize", "interpolation", "fill"), WAYS)
def test_pixels_are_those_of_open_clip_bit_for_bit(resize, interpolation, fill):
    """Wide, tall, square, of the size already, smaller than it, and larger by a little and by much."""
    for size, shape in product(
        (32, 99), ((64, 64), (32, 32), (200, 41), (41, 200), (7, 5), (1, 1), (33, 31), (700, 650))
    ):
        ours = Preprocess(size, resize=resize, interpolation=interpolation, fill=fill)
        image = noise(*shape)
        assert equal(ours, image, of_open_clip(ours.to_open_clip(), size)(image)), (size, shape)


def test_pixels_of_real_images(shared_data):
    paths = [path for folder in sorted(shared_data.glob("*/images")) for path in sorted(folder.iterdir())[::400]]
    assert len(paths) > 12
    for resize, interpolation, fill in WAYS:
        ours = Preprocess(224, resize=resize, interpolation=interpolation, fill=fill)
        theirs = of_open_clip(ours.to_open_clip(), 224)
        for path in paths:
            with Image.open(path) as image:
                assert equal(ours, path, theirs(image.convert("RGB"))), (path, resize, interpolation)


def test_sources_of_all_kinds_give_the_same_uint8(files, tmp_path):
    ours = Preprocess(24, resize="longest", fill=255)
    (tmp_path / "a.png").write_bytes(files["png"])
    with Image.open(tmp_path / "a.png") as image:
        found = [ours.image(files["png"]), ours.image(tmp_path / "a.png"), ours.image(image)]
    assert all(torch.equal(one, found[0]) for one in found)
    assert (found[0].dtype, found[0].shape, found[0].is_contiguous()) == (torch.uint8, (3, 24, 24), True)


def test_limits_are_the_callers(files):
    with pytest.raises(DataError, match="37x23"):
        Preprocess(8).image(files["png"], Limits(100))


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_images_so_narrow_that_open_clip_fails(resize):
    """It rounds a side to nothing, or makes an image of gigabytes."""
    for shape in ((1, 5_000), (5_000, 1), (1, 60_000), (3, 10_000)):
        pixels = Preprocess(224, resize=resize, fill=255).image(Image.new("RGB", shape, (10, 20, 30)))
        seen = int((pixels == torch.tensor([10, 20, 30]).view(3, 1, 1)).all(dim=0).sum())
        filled = int((pixels == 255).all(dim=0).sum())
        assert seen + filled == 224 * 224, shape
        assert seen == (224 if resize == "longest" else 224 * 224), shape


def test_narrow_images_keep_their_middle():
    """Just over the ratio from which the middle is cut out first, it hardly differs from open_clip's own way."""
    stripes = np.zeros((4, 404, 3), np.uint8)
    stripes[:, 190:214] = np.random.default_rng(0).integers(0, 256, (4, 24, 3))
    for image in (Image.fromarray(stripes), Image.fromarray(stripes.swapaxes(0, 1))):
        ours = Preprocess(32)
        theirs = of_open_clip(ours.to_open_clip(), 32)(image)
        difference = normalise(ours.image(image)[None], ours.mean, ours.std)[0] - theirs
        assert difference.abs().max() < 0.05  # a pixel value of 1 is 0.015
        assert ours.image(image).float().std() > 10


def test_normalise(files):
    ours = Preprocess(24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    pixels = torch.stack([ours.image(files[name]) for name in ("png", "jpeg")])
    before = pixels.clone()
    mean, std = (np.array(one).reshape(3, 1, 1) for one in (ours.mean, ours.std))
    expected = (pixels.numpy() / 255 - mean) / std
    double = normalise(pixels, ours.mean, ours.std, torch.float64)
    assert double.dtype == torch.float64
    assert np.allclose(double.numpy(), expected, rtol=0, atol=1e-14)
    single = normalise(pixels, ours.mean, ours.std)
    assert single.is_contiguous()
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(normalise(pixels, ours.mean, ours.std, dtype), single.to(dtype))
    assert torch.equal(pixels, before)


# --- texts --------------------------------------------------------------------------------------------------------


def test_texts_are_cleaned_first(simple):
    ours = Preprocess(8, tokenizer=simple)
    assert torch.equal(ours.texts(["  e\u0301te\u0301\0 in \x07 Paris "]), ours.texts(["été in Paris"]))
    assert ours.texts(["half \ud83d of a pair"]).shape == (1, 77)


def test_cuts_are_said_once(simple, caplog):
    ours = Preprocess(8, tokenizer=simple, context_length=11)
    with caplog.at_level(logging.WARNING, "honeclip"):
        ours.texts(["short enough", "exactly nine words are what fits in here now"])
        assert not caplog.records
        ours.texts(["short enough", "word " * 10, "word " * 300])
        ours.texts(["word " * 10])
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "2 of 3 captions are longer than 11 tokens and cut there"
    ]


def test_a_note_of_cuts_is_of_distinct_captions_and_said_instead(simple, caplog):
    ours = Preprocess(8, tokenizer=simple, context_length=12)
    texts = ["short", "word " * 11, " word" * 11, "word " * 12]
    with caplog.at_level(logging.WARNING, "honeclip"):
        assert ours.note_of_cuts(texts) == "2 of 3 distinct captions are longer than 12 tokens and cut there"
        ours.texts(texts)
        assert ours.note_of_cuts(["short"]) == replace(ours, tokenizer=None).note_of_cuts(texts) == ""
    assert not caplog.records


def test_without_a_tokenizer():
    with pytest.raises(ModelError, match="no tokenizer"):
        Preprocess(8).texts(["a"])


def test_the_context_length_is_the_tokenizers_too(simple, bert):
    for tokenizer in (simple, bert):
        ours = Preprocess(8, tokenizer=tokenizer, context_length=21)
        assert ours.tokenizer.context_length == 21
        assert ours.texts(["a"]).shape == (1, 21)
        assert ours.with_context_length(9).texts(["a"]).shape == (1, 9)


# --- what is stored -----------------------------------------------------------------------------------------------


def test_json_and_back(simple, bert):
    for ours in (
        Preprocess(224, tokenizer=simple),
        Preprocess(99, (0.1, 1 / 3, 0.7), (0.2, 1e-7, 3.0), "longest", 255, "bilinear", bert, 33),
        Preprocess(8, resize="squash"),
    ):
        again = Preprocess.from_json(json.loads(json.dumps(ours.to_json())), ours.tokenizer)
        assert again == ours
        assert again.fingerprint == ours.fingerprint


def test_open_clips_config_and_back(simple):
    assert Preprocess.from_open_clip({}, 224, None) == Preprocess(224, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    ours = Preprocess(99, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "longest", 17, "bilinear", simple, 40)
    stored = json.loads(json.dumps(ours.to_open_clip()))
    assert set(stored) == {"mean", "std", "interpolation", "resize_mode", "fill_color"}
    assert Preprocess.from_open_clip(stored, 99, simple.at_length(40)) == ours
    loose = {
        "size": 7,
        "mode": "RGB",
        "mean": 0.5,
        "std": [0.5, 0.5, 0.5],
        "interpolation": "random",
        "resize_mode": None,
    }
    assert Preprocess.from_open_clip(loose, 16, None, 64) == Preprocess(16, (0.5,) * 3, (0.5,) * 3, context_length=64)
    image = noise(50, 30)
    defaults = Preprocess.from_open_clip({}, 24, None)
    assert equal(defaults, image, image_transform_v2(PreprocessCfg(size=24), is_train=False)(image))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"resize_mode": "shorter"}, "shorter"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"fill_color": 300}, "300"),
        ({"std": [0.1, 0.0, 0.1]}, "divided by"),
        ({"std": [0.1, -0.5, 0.1]}, "divided by"),
        ({"mean": [0.1, float("nan"), 0.1]}, "mean"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"mean": ["a", "b", "c"]}, "three numbers"),
        ({"fill_color": [0, 0]}, "preprocess_cfg"),
    ],
)
def test_configs_that_cannot_be(config, words):
    with pytest.raises(ModelError, match=words):
        Preprocess.from_open_clip(config, 224, None)


def test_values_that_cannot_be(simple):
    for changes in ({"size_px": 0}, {"context_length": 0}, {"resize": "crop"}, {"mean": (0.1, 0.2)}, {"std": None}):
        with pytest.raises(ModelError, match=r"cannot be|three numbers"):
            replace(Preprocess(8), **changes)
    stored = Preprocess(8).to_json()
    for wrong in ({**stored, "more": 1}, {**stored, "mean": None}, {**stored, "size_px": "8"}, {"size_px": 8}, {}):
        with pytest.raises(ModelError, match=r"cannot be read|three numbers"):
            Preprocess.from_json(wrong, simple)


def test_fingerprints_follow_what_decides_the_output(simple, bert):
    ours = Preprocess(32, resize="longest", tokenizer=simple)
    image = {
        "size_px": 33,
        "resize": "squash",
        "fill": 1,
        "interpolation": "bilinear",
        "mean": (0.0,) * 3,
        "std": (1.0,) * 3,
    }
    text = {"tokenizer": bert, "context_length": 76}
    assert ours.with_size(33) == replace(ours, size_px=33)
    for name, value in {**image, **text}.items():
        other = replace(ours, **{name: value})
        assert (other.image_fingerprint != ours.image_fingerprint) == (name in image), name
        assert (other.text_fingerprint != ours.text_fingerprint) == (name in text), name
        assert other.fingerprint != ours.fingerprint
    # what is never filled has no fill
    plain = replace(ours, resize="shortest")
    assert replace(plain, fill=9).image_fingerprint == plain.image_fingerprint
    same = Preprocess(32, resize="longest", tokenizer=Tokenizer("simple"))
    assert (same.fingerprint, len(same.fingerprint)) == (ours.fingerprint, 64)


CHILD = """
import pathlib, pickle, sys
preprocess = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(preprocess.image(pathlib.Path(sys.argv[1])).numpy().tobytes())
"""


@pytest.mark.slow
def test_another_process_makes_the_same_pixels(files, tmp_path, simple):
    """As a process that was spawned to decode: it gets the object pickled, without the tokenizer, and nothing else."""
    whole = Preprocess(24, resize="longest", fill=255, tokenizer=simple)
    ours = replace(whole, tokenizer=None)
    path = tmp_path / "a.tiff"
    path.write_bytes(files["tiff-lzw"])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path], input=pickle.dumps(ours), capture_output=True, check=True
    )
    assert done.stdout == ours.image(path).numpy().tobytes()
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_a_field_may_say_how_an_image_becomes_a_square():
    own = Preprocess(size_px=32, resize="shortest", fill=7)
    assert own.with_rules(ImageRules()) == own
    assert own.with_rules(ImageRules("longest", 255)) == Preprocess(size_px=32, resize="longest", fill=255)
    assert own.with_rules(ImageRules("squash")).fill == 7
