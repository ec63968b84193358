"""What is done to pictures, against Pillow alone; the same every time, for any picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from honeclip.evaluation.perturb import PERTURBATIONS, blurred, compressed, cropped, reduced
from honeclip.preprocess.preprocess import Preprocess


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((300, 200), Image.Resampling.BICUBIC)


def looked_at(one, picture, preprocess):
    return one.pixels(picture, preprocess.image(picture), preprocess)


@pytest.mark.parametrize("how", PERTURBATIONS, ids=lambda one: f"{one.kind}-{one.strength}")
@pytest.mark.parametrize("size", [(300, 200), (1, 1), (2, 90), (31, 500)])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_any_picture_gives_the_square_that_the_model_takes_the_same_every_time(how, picture, size, resize):
    preprocess = Preprocess(64, resize=resize)
    shown = picture.resize(size)
    before = shown.tobytes()
    pixels = looked_at(how, shown, preprocess)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 64, 64))
    assert torch.equal(pixels, looked_at(how, shown, preprocess))
    assert shown.tobytes() == before, "the picture itself stays as it is"


@pytest.mark.parametrize("how", PERTURBATIONS, ids=lambda one: f"{one.kind}-{one.strength}")
def test_every_one_changes_a_picture(how, picture):
    preprocess = Preprocess(64)
    assert not torch.equal(looked_at(how, picture, preprocess), preprocess.image(picture))


def test_kinds_have_a_mild_and_a_strong_one_of_different_names():
    assert [one.kind for one in PERTURBATIONS] == [
        kind for kind in ("scale", "blur", "crop", "compression") for _ in range(2)
    ]
    assert len({(one.kind, one.strength) for one in PERTURBATIONS}) == len({one.words for one in PERTURBATIONS}) == 8


def test_jpeg_is_that_of_pillow(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=15, subsampling=2)
    assert np.array_equal(np.asarray(compressed(picture, 15)), np.asarray(Image.open(file)))


def test_blur_is_in_pixels_of_224():
    dot = np.zeros((448, 448, 3), dtype=np.uint8)
    dot[224, 224] = 255
    picture = Image.fromarray(dot)
    expected = picture.filter(ImageFilter.GaussianBlur(6))
    assert np.array_equal(np.asarray(blurred(picture, 3.0)), np.asarray(expected))


def test_a_reduced_picture_keeps_its_size_and_loses_what_is_fine():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(reduced(Image.fromarray(stripes), 0.25)).astype(int)
    assert small.shape == (64, 64, 3)
    assert small[:, 8:-8].std() < 10, "stripes of a pixel are grey now"
    flat = Image.new("RGB", (33, 17), (10, 200, 30))
    assert np.array_equal(np.asarray(reduced(flat, 0.5)), np.asarray(flat))


def test_a_crop_is_the_middle(picture):
    whole, middle = np.asarray(picture), np.asarray(cropped(picture, 0.7))
    assert np.array_equal(middle, whole[30:170, 45:255])
