"""Augmentation stays within its rules and depends on seed, step and row alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from honeclip.data.augment import augment, changes_nothing
from honeclip.domains.domain import AugmentRules

SEEDS = [(0, step, row) for step in range(6) for row in range(6)]


@pytest.fixture
def image():
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise, "RGB")


def pixels(image):
    return np.asarray(image)


def test_the_same_seed_the_same_image_and_another_another(image):
    rules = AugmentRules(crop_scale=(0.5, 1.0), flip=True, rotate_deg=20, brightness=0.3, contrast=0.3, saturation=0.3)
    first = [pixels(augment(image, rules, 1.0, seed)) for seed in SEEDS]
    again = [pixels(augment(image, rules, 1.0, seed)) for seed in SEEDS]
    assert all(map(np.array_equal, first, again))
    assert len({one.tobytes() for one in first}) == len(SEEDS)


def test_no_rules_or_no_strength_leave_the_image(image):
    strong = AugmentRules(crop_scale=(0.1, 0.2), flip=True, brightness=1.0)
    assert changes_nothing(AugmentRules())
    assert not changes_nothing(strong)
    for seed in SEEDS:
        assert np.array_equal(pixels(augment(image, AugmentRules(), 1.0, seed)), pixels(image))
        assert np.array_equal(pixels(augment(image, strong, 0.0, seed)), pixels(image))


def test_a_crop_keeps_the_share_of_the_area_and_the_proportions(image):
    sizes = [augment(image, AugmentRules(crop_scale=(0.5, 0.8)), 1.0, seed).size for seed in SEEDS]
    shares = [width * height / (60 * 90) for width, height in sizes]
    assert 0.48 <= min(shares) < 0.6 < max(shares) <= 0.82
    assert all(abs(width / height - 1.5) < 0.05 for width, height in sizes)


def test_a_crop_is_a_part_of_the_image(image):
    whole = pixels(image)
    part = pixels(augment(image, AugmentRules(crop_scale=(0.3, 0.3)), 1.0, (0, 1, 2)))
    height, width = part.shape[:2]
    places = [
        (top, left)
        for top in range(61 - height)
        for left in range(91 - width)
        if np.array_equal(whole[top : top + height, left : left + width], part)
    ]
    assert len(places) == 1


def test_flips_mirror_about_half_of_the_images(image):
    flipped = [pixels(augment(image, AugmentRules(flip=True), 1.0, (3, step, 0))) for step in range(80)]
    mirrored = sum(np.array_equal(one, pixels(image)[:, ::-1]) for one in flipped)
    untouched = sum(np.array_equal(one, pixels(image)) for one in flipped)
    assert mirrored + untouched == 80
    assert 20 <= mirrored <= 60


def test_rotated_corners_are_filled_with_the_grey_that_was_given(image):
    turned = [augment(image, AugmentRules(rotate_deg=40), 1.0, seed, fill=255) for seed in SEEDS]
    assert all(one.size == image.size for one in turned)
    assert any((pixels(one)[0, 0] == 255).all() for one in turned)


def test_brightness_stays_within_its_share(image):
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    values = [int(pixels(augment(grey, AugmentRules(brightness=0.2), 1.0, seed))[0, 0, 0]) for seed in SEEDS]
    assert 79 <= min(values) < 95
    assert 105 < max(values) <= 120
